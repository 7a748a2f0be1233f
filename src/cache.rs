//! The answer cache: answers by table and key, bounded in bytes, with neither a clock nor a thread of its own.
//!
//! Eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): a new entry waits
//! in a small queue, and moves to the main queue only if it was used again before it reached the end of the small one.
//! A scan of keys that are requested once passes through the small queue and leaves the hot keys in the main queue
//! alone. A hit only increments a counter and moves nothing, which LRU cannot do. Expired entries stay until they reach
//! the end of a queue, so that no operation ever has many of them to drop.

use crate::arena::{Arena, Key};
use crate::metrics::CacheMetrics;
use crate::query::{Answer, Failure};
use crate::value::Value;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes of an entry besides its key and value: the entry, its slots in the map and the queues, and allocator overhead.
// Measured with a counting allocator, so that maps that grow stay within a tenth of the limit.
const OVERHEAD: usize = 384;

/// The share of the small queue: a tenth of the limit, as in the paper.
// As a divisor, because a product of sizes may not fit into 32 bits.
const SMALL: usize = 10;

/// The maximum of the hit counter, which is the number of times that an entry is passed over in the main queue.
// Two bits suffice according to the paper: more would only make eviction search longer.
const MOST_HITS: u8 = 3;

/// Hits from which on an entry is refreshed before it expires.
// An answer that is not used again is not worth a request to the backend.
const HOT: u8 = 1;

/// The last fraction of the lifetime in which hot entries are refreshed: a tenth.
const EARLY: u32 = 10;

/// A cached answer. Failures are not cached.
#[derive(Clone, Debug)]
pub enum CachedAnswer {
    Found(Value<'static>),
    Miss,
}

/// The lifetime of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lifetime {
    /// The time for which the answer is served without a request.
    pub fresh: Duration,
    /// The time after that for which the answer is served if the backend fails (`stale-if-error`, RFC 5861, section 4).
    pub stale: Duration,
}

/// The result of a cache lookup.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// The answer. `early` suggests to refresh it now.
    Fresh {
        answer: &'a CachedAnswer,
        early: bool,
    },
    /// An expired answer that may be used if the backend fails.
    Stale(&'a CachedAnswer),
    Miss,
}

#[derive(Debug)]
struct Entry {
    table: usize,
    key: Rc<[u8]>,
    answer: CachedAnswer,
    since: Instant,
    lifetime: Lifetime,
    hits: u8,
    main: bool,
    size: usize,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    /// Maximum size in bytes.
    limit: usize,
    bytes: usize,
    small_bytes: usize,
    maps: Vec<HashMap<Rc<[u8]>, Key>>,
    entries: Arena<Entry>,
    small: VecDeque<Key>,
    main: VecDeque<Key>,
    /// Hashes of entries that were evicted from the small queue. If they return soon, they enter the main queue.
    // Hashes instead of keys: 8 bytes each, and a collision only promotes one entry too early.
    ghosts: VecDeque<u64>,
    ghost_set: HashSet<u64>,
    // Seeded, as the keys come from mail senders, who could otherwise choose keys that collide.
    hasher: RandomState,
    evicted: u64,
}

impl Cache {
    /// A cache of at most `limit` bytes for tables 0 to `tables` - 1.
    pub fn new(limit: usize, tables: usize) -> Self {
        Self {
            limit,
            bytes: 0,
            small_bytes: 0,
            maps: (0..tables).map(|_| HashMap::new()).collect(),
            entries: Arena::default(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghost_set: HashSet::new(),
            hasher: RandomState::new(),
            evicted: 0,
        }
    }

    /// Looks up a key at time `now`. A fresh entry counts a hit.
    pub fn look(&mut self, table: usize, key: &[u8], now: Instant) -> Lookup<'_> {
        let found = self.maps[table].get(key).copied();
        let Some(entry) = found.and_then(|at| self.entries.get_mut(at)) else { return Lookup::Miss };
        let age = now.saturating_duration_since(entry.since);
        let Lifetime { fresh, stale } = entry.lifetime;
        if age < fresh {
            let early = entry.hits >= HOT && fresh - age < fresh / EARLY;
            entry.hits = MOST_HITS.min(entry.hits + 1);
            Lookup::Fresh { answer: &entry.answer, early }
        } else if age < fresh + stale {
            Lookup::Stale(&entry.answer)
        } else {
            Lookup::Miss
        }
    }

    /// Stores an answer, and replaces the previous one. An answer larger than the small queue is not stored.
    pub fn insert(&mut self, table: usize, key: &[u8], answer: CachedAnswer, lifetime: Lifetime, now: Instant) {
        let hits = self.forget(table, key);
        let size = OVERHEAD + key.len() + answer.size();
        // A value that fills the small queue would evict everything that is new.
        if size > self.limit / SMALL || lifetime.fresh + lifetime.stale == Duration::ZERO {
            return;
        }
        let hash = self.hasher.hash_one((table, key));
        // An entry that is replaced after several hits, or was evicted a short time ago, is not new.
        let main = hits.is_some_and(|hits| hits > 1) || self.ghost_set.remove(&hash);
        let key: Rc<[u8]> = key.into();
        let hits = hits.unwrap_or(0);
        let entry = Entry { table, key: key.clone(), answer, since: now, lifetime, hits, main, size };
        let at = self.entries.insert(entry);
        self.maps[table].insert(key, at);
        self.bytes += size;
        if main {
            self.main.push_back(at);
        } else {
            self.small_bytes += size;
            self.small.push_back(at);
        }
        // This ends, because each pass over the main queue lowers the counters of its entries.
        while self.bytes > self.limit {
            self.evict();
        }
    }

    /// Removes the entry of a key and returns its hits, or `None` if there was none.
    pub fn forget(&mut self, table: usize, key: &[u8]) -> Option<u8> {
        let at = self.maps[table].remove(key)?;
        let entry = self.take(at)?;
        // Its slot in the queue stays until it reaches the end, because finding it would be a linear search. They are
        // only cleaned up if a stream of writes makes most of them empty.
        if self.small.len() + self.main.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.small.retain(|at| entries.contains(*at));
            self.main.retain(|at| entries.contains(*at));
        }
        Some(entry.hits)
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        let evicted = self.evicted;
        *self = Self { evicted, ..Self::new(self.limit, self.maps.len()) };
    }

    /// Entries, bytes and evictions.
    pub fn metrics(&self) -> CacheMetrics {
        CacheMetrics { entries: self.entries.len(), bytes: self.bytes, evicted: self.evicted }
    }

    fn take(&mut self, at: Key) -> Option<Entry> {
        let entry = self.entries.remove(at)?;
        self.bytes -= entry.size;
        if !entry.main {
            self.small_bytes -= entry.size;
        }
        Some(entry)
    }

    /// Takes one step of eviction: evicts an entry, promotes it to the main queue, or passes it over.
    fn evict(&mut self) {
        let small = self.small_bytes > self.limit / SMALL || self.main.is_empty();
        let next = if small { self.small.pop_front() } else { self.main.pop_front() };
        let Some(at) = next else { return };
        // Removed before: an empty slot.
        let Some(entry) = self.entries.get_mut(at) else { return };
        // More than one hit, as in the paper.
        if small && entry.hits > 1 {
            entry.main = true;
            entry.hits = 0;
            self.small_bytes -= entry.size;
            self.main.push_back(at);
        } else if !small && entry.hits > 0 {
            entry.hits -= 1;
            self.main.push_back(at);
        } else if let Some(entry) = self.take(at) {
            self.maps[entry.table].remove(&entry.key);
            self.evicted += 1;
            if small {
                self.remember(self.hasher.hash_one((entry.table, &entry.key[..])));
            }
        }
    }

    /// Records an evicted key. As many are recorded as there are entries.
    fn remember(&mut self, hash: u64) {
        if self.ghost_set.insert(hash) {
            self.ghosts.push_back(hash);
        }
        while self.ghosts.len() > self.entries.len().max(64) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(&oldest);
            }
        }
    }
}

impl CachedAnswer {
    /// Converts an answer.
    ///
    /// # Errors
    /// A failure, which is never cached.
    pub fn of(answer: Answer<'_>) -> Result<CachedAnswer, Failure> {
        match answer {
            Answer::Found(value) => Ok(CachedAnswer::Found(value.into_owned())),
            Answer::Miss => Ok(CachedAnswer::Miss),
            Answer::Failed(failure) => Err(failure),
        }
    }

    /// The answer, borrowed.
    pub fn answer(&self) -> Answer<'_> {
        match self {
            CachedAnswer::Found(value) => Answer::Found(value.borrowed()),
            CachedAnswer::Miss => Answer::Miss,
        }
    }

    fn size(&self) -> usize {
        match self {
            CachedAnswer::Miss | CachedAnswer::Found(Value::Null) => 0,
            CachedAnswer::Found(Value::Text(text)) => text.len(),
            CachedAnswer::Found(Value::Scalar(raw) | Value::Array(raw) | Value::Object(raw)) => raw.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Lifetime = Lifetime { fresh: Duration::from_secs(60), stale: Duration::from_secs(600) };

    fn text(text: &str) -> CachedAnswer {
        CachedAnswer::Found(Value::Text(text.as_bytes().to_owned().into()))
    }

    fn shown(value: &Value<'_>) -> String {
        String::from_utf8(value.for_postfix().unwrap().unwrap().into_owned()).unwrap()
    }

    fn known(cache: &mut Cache, key: &str, now: Instant) -> String {
        match cache.look(0, key.as_bytes(), now) {
            Lookup::Fresh { answer: CachedAnswer::Found(value), early } => {
                format!("{}{}", shown(value), if early { " early" } else { "" })
            }
            Lookup::Fresh { answer: CachedAnswer::Miss, .. } => "miss".to_owned(),
            Lookup::Stale(CachedAnswer::Found(value)) => format!("stale {}", shown(value)),
            Lookup::Stale(CachedAnswer::Miss) => "stale miss".to_owned(),
            Lookup::Miss => "-".to_owned(),
        }
    }

    #[test]
    fn an_answer_is_fresh_then_stale_then_nothing() {
        let (mut cache, start) = (Cache::new(1 << 20, 2), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        cache.insert(0, b"a", text("1"), MINUTE, start);
        cache.insert(0, b"m", CachedAnswer::Miss, MINUTE, start);
        assert!(matches!(cache.look(1, b"a", start), Lookup::Miss), "another table");
        assert_eq!([known(&mut cache, "a", start), known(&mut cache, "m", start)], ["1", "miss"]);
        assert_eq!(known(&mut cache, "a", at(53)), "1");
        assert_eq!(known(&mut cache, "a", at(55)), "1 early");
        assert_eq!([known(&mut cache, "a", at(60)), known(&mut cache, "m", at(60))], ["stale 1", "stale miss"]);
        assert_eq!(known(&mut cache, "a", at(659)), "stale 1");
        assert_eq!(known(&mut cache, "a", at(660)), "-");
        cache.insert(0, b"a", text("2"), MINUTE, at(660));
        assert_eq!((known(&mut cache, "a", at(660)), cache.metrics().entries), ("2".to_owned(), 2));
        cache.forget(0, b"a");
        assert_eq!(known(&mut cache, "a", at(660)), "-");
        cache.clear();
        assert_eq!((known(&mut cache, "m", start), cache.metrics().bytes), ("-".to_owned(), 0));
    }

    #[test]
    fn sizes_of_any_magnitude_do_not_overflow() {
        let (mut cache, now) = (Cache::new(usize::MAX, 1), Instant::now());
        cache.insert(0, b"a", text("1"), MINUTE, now);
        assert_eq!(known(&mut cache, "a", now), "1");
        (cache.limit, cache.small_bytes) = (1, usize::MAX);
        cache.evict();
    }

    #[test]
    fn hot_keys_survive_a_scan_of_cold_ones() {
        let (mut cache, now) = (Cache::new(200_000, 1), Instant::now());
        let hot: Vec<String> = (0..100).map(|n| format!("hot{n}")).collect();
        for key in &hot {
            cache.insert(0, key.as_bytes(), text(key), MINUTE, now);
        }
        for round in 0..20_000 {
            let key = &hot[round % hot.len()];
            if round % 10 == 0 {
                cache.look(0, key.as_bytes(), now);
            }
            let cold = format!("cold{round}");
            assert_eq!(known(&mut cache, &cold, now), "-");
            cache.insert(0, cold.as_bytes(), text("x"), MINUTE, now);
            assert!(cache.metrics().bytes <= 200_000);
        }
        // Every tenth of the hot keys is requested, on the whole as often as one cold key in a hundred.
        let left = hot.iter().filter(|key| known(&mut cache, key, now) != "-").count();
        assert!(left >= 10, "{left} of 100 hot keys are left");
        let used: Vec<&String> = hot.iter().step_by(10).collect();
        assert!(used.iter().all(|key| known(&mut cache, key, now) == ***key), "keys in use stay");
    }

    #[test]
    fn the_bound_holds_for_values_of_all_sizes_and_writes_leave_nothing_behind() {
        let (mut cache, now) = (Cache::new(1 << 20, 1), Instant::now());
        for round in 0..30_000_usize {
            let key = format!("{}", round * 7919 % 5_000);
            let value = "x".repeat(round * 31 % 3_000 * (round % 7));
            cache.insert(0, key.as_bytes(), text(&value), MINUTE, now);
            if round % 3 == 0 {
                cache.forget(0, format!("{}", round * 104_729 % 5_000).as_bytes());
            }
            if round % 5 == 0 {
                cache.look(0, key.as_bytes(), now);
            }
            let CacheMetrics { bytes, entries, .. } = cache.metrics();
            assert!(bytes <= 1 << 20);
            assert!(cache.small.len() + cache.main.len() <= 2 * entries + 66);
            assert!(cache.ghosts.len() <= entries.max(64) + 1 && cache.ghost_set.len() <= cache.ghosts.len());
        }
        let sum: usize = cache.entries.iter().map(|(_, entry)| entry.size).sum();
        assert_eq!((sum, cache.maps[0].len()), (cache.bytes, cache.entries.len()));
        cache.insert(0, b"huge", text(&"x".repeat(1 << 17)), MINUTE, now);
        assert_eq!(known(&mut cache, "huge", now), "-", "more than a tenth is not stored");
    }
}
