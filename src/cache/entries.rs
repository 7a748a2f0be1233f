//! The entries of the cache, and the queues that they are in.

use super::index::{CacheKey, KeyHash};
use crate::query::Answer;
use crate::value::Value;
use std::borrow::Cow;
use std::time::Duration;

/// In place of a position: none.
const NONE: u32 = u32::MAX;

/// The lifetime of an answer. Milliseconds are counted, up to 49 days.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lifetime {
    /// The time for which the answer is served without a request.
    pub fresh: Duration,
    /// The time after that for which the answer is served if the backend fails (`stale-if-error`, RFC 5861, section 4).
    pub stale: Duration,
}

/// An answer of which the cache holds a copy.
#[derive(Debug)]
pub(super) struct Entry {
    /// The key, and behind it the value as it was written.
    // One allocation for both, and 56 bytes for the rest: a cache of a million small answers takes a third of what it
    // takes with a map of keys to answers.
    text: Box<[u8]>,
    /// When it was stored, in milliseconds.
    pub since: u64,
    pub hash: KeyHash,
    /// Milliseconds for which it is fresh, and after that stale.
    pub fresh: u32,
    pub stale: u32,
    table: u32,
    key_len: u32,
    /// The neighbours in its queue.
    previous: u32,
    next: u32,
    kind: Kind,
    pub hits: u8,
    /// It is in the main queue, not in the small one.
    pub main: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Miss,
    Null,
    Text,
    Scalar,
    Array,
    Object,
}

impl Entry {
    /// A copy of an answer; `None` if that is a failure, or has a size that cannot be stored.
    pub(super) fn new(key: CacheKey<'_>, answer: &Answer<'_>, lifetime: Lifetime, since: u64) -> Option<Self> {
        let (kind, value) = match answer {
            Answer::Failed(_) => return None,
            Answer::Miss => (Kind::Miss, &[][..]),
            Answer::Found(Value::Null) => (Kind::Null, &[][..]),
            Answer::Found(Value::Text(text)) => (Kind::Text, &text[..]),
            Answer::Found(Value::Scalar(raw)) => (Kind::Scalar, raw.as_bytes()),
            Answer::Found(Value::Array(raw)) => (Kind::Array, raw.as_bytes()),
            Answer::Found(Value::Object(raw)) => (Kind::Object, raw.as_bytes()),
        };
        let mut text = Vec::with_capacity(key.key.len() + value.len());
        text.extend_from_slice(key.key);
        text.extend_from_slice(value);
        Some(Self {
            text: text.into_boxed_slice(),
            since,
            hash: key.hash,
            fresh: millis(lifetime.fresh),
            stale: millis(lifetime.stale),
            table: key.table.try_into().ok()?,
            key_len: key.key.len().try_into().ok()?,
            previous: NONE,
            next: NONE,
            kind,
            hits: 0,
            main: false,
        })
    }

    pub(super) fn is(&self, key: CacheKey<'_>) -> bool {
        self.table as usize == key.table && self.key() == key.key
    }

    fn key(&self) -> &[u8] {
        &self.text[..self.key_len as usize]
    }

    pub(super) fn answer(&self) -> Answer<'_> {
        let value = &self.text[self.key_len as usize..];
        let raw = || Cow::Borrowed(std::str::from_utf8(value).expect("it was UTF-8 when it was stored"));
        Answer::Found(match self.kind {
            Kind::Miss => return Answer::Miss,
            Kind::Null => Value::Null,
            Kind::Text => Value::Text(value.into()),
            Kind::Scalar => Value::Scalar(raw()),
            Kind::Array => Value::Array(raw()),
            Kind::Object => Value::Object(raw()),
        })
    }

    /// The size of key and value.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}

fn millis(duration: Duration) -> u32 {
    duration.as_millis().try_into().unwrap_or(u32::MAX)
}

/// All entries, by positions that stay the same.
#[derive(Debug)]
pub(super) struct Entries {
    entries: Vec<Entry>,
    /// The first of the unused places, each of which has the next one.
    free: u32,
    unused: usize,
}

impl Default for Entries {
    fn default() -> Self {
        Self { entries: Vec::new(), free: NONE, unused: 0 }
    }
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.unused
    }

    pub(super) fn get(&self, at: u32) -> &Entry {
        &self.entries[at as usize]
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Entry {
        &mut self.entries[at as usize]
    }

    /// The one behind an entry in its queue.
    #[cfg(test)]
    pub(super) fn next(&self, at: u32) -> Option<u32> {
        let next = self.get(at).next;
        (next != NONE).then_some(next)
    }

    pub(super) fn insert(&mut self, entry: Entry) -> u32 {
        let at = self.free;
        if at != NONE {
            self.unused -= 1;
            self.free = std::mem::replace(&mut self.entries[at as usize], entry).next;
            return at;
        }
        // By a quarter and not twice: most of that memory would never be used.
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(self.entries.len() / 4 + 16);
        }
        self.entries.push(entry);
        u32::try_from(self.entries.len() - 1).expect("as many entries do not fit into memory")
    }

    pub(super) fn remove(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        (entry.text, entry.next) = (Box::default(), self.free);
        (self.free, self.unused) = (at, self.unused + 1);
    }
}

/// A queue of entries. Any can be removed.
#[derive(Debug)]
pub(super) struct List {
    first: u32,
    last: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

impl List {
    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    pub(super) fn push_back(&mut self, at: u32, entries: &mut Entries) {
        let entry = entries.get_mut(at);
        (entry.previous, entry.next) = (self.last, NONE);
        if self.last == NONE {
            self.first = at;
        } else {
            entries.get_mut(self.last).next = at;
        }
        self.last = at;
    }

    pub(super) fn remove(&mut self, at: u32, entries: &mut Entries) {
        let (previous, next) = (entries.get(at).previous, entries.get(at).next);
        *(if previous == NONE { &mut self.first } else { &mut entries.get_mut(previous).next }) = next;
        *(if next == NONE { &mut self.last } else { &mut entries.get_mut(next).previous }) = previous;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Cache, Lookup};
    use std::time::Instant;

    #[test]
    fn every_kind_of_answer_is_what_it_was() {
        let (mut cache, now) = (Cache::new(1 << 20), Instant::now());
        let lifetime = Lifetime { fresh: Duration::from_secs(1), stale: Duration::ZERO };
        for json in ["null", "\"\"", "\"a\"", "\"\\ud83d\\ude00\"", "1e3", "true", "[]", "[\"é\"]", "{\"a\":null}"] {
            let value = Value::parse(json.as_bytes()).expect("JSON");
            for key in [&b""[..], b"a", b"\"a", &[0xff; 300]] {
                let key = cache.key(7, key);
                cache.insert(key, &Answer::Found(value.borrowed()), lifetime, now);
                let Lookup::Fresh { answer: Answer::Found(found), .. } = cache.look(key, now) else { panic!("{json}") };
                assert_eq!(found, value);
            }
        }
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 56, "{}", size_of::<Entry>());
    }
}
