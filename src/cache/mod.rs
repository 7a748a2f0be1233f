//! The answer cache: answers by table and key, bounded in bytes, with neither a clock nor a thread of its own.
//!
//! Eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): a new entry waits
//! in a small queue, and moves to the main queue only if it was used again before it reached the end of the small one.
//! A scan of keys that are requested once passes through the small queue and leaves the hot keys in the main queue
//! alone. A hit only increments a counter and moves nothing, which LRU cannot do. Expired entries stay until they reach
//! the end of a queue, so that no operation ever has many of them to drop.

mod entries;
mod index;

pub use entries::Lifetime;
pub use index::{CacheKey, Index, KeyHash};

use crate::metrics::CacheMetrics;
use crate::query::Answer;
use entries::{Entries, Entry, List};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Instant;

/// Bytes of an entry besides its key and value: the entry, its slots in the index, and allocator overhead.
// Measured with a counting allocator, so that maps that grow stay within a tenth of the limit.
const OVERHEAD: usize = 104;

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

/// Minimum number of ghosts.
const MIN_GHOSTS: usize = 64;

/// The result of a cache lookup.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// The answer. `early` suggests to refresh it now.
    Fresh {
        answer: Answer<'a>,
        early: bool,
    },
    /// An expired answer that may be used if the backend fails.
    Stale(Answer<'a>),
    Miss,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    /// Maximum size in bytes.
    limit: usize,
    bytes: usize,
    small_bytes: usize,
    /// What times are counted from: the first insertion.
    origin: Option<Instant>,
    index: Index<u32>,
    entries: Entries,
    small: List,
    main: List,
    /// Hashes of entries that were evicted from the small queue, each at its own place, or 0. If they return soon, they
    /// enter the main queue.
    // Hashes instead of keys: 4 bytes each, and a collision only promotes one entry too early. About as many as there
    // are entries, of which newer ones replace older ones.
    ghosts: Vec<u32>,
    // Seeded, as the keys come from mail senders, who could otherwise choose keys that collide.
    hasher: RandomState,
    evicted: u64,
}

impl Cache {
    /// A cache of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: 0,
            small_bytes: 0,
            origin: None,
            index: Index::default(),
            entries: Entries::default(),
            small: List::default(),
            main: List::default(),
            ghosts: vec![0; MIN_GHOSTS],
            hasher: RandomState::new(),
            evicted: 0,
        }
    }

    /// A key with its hash.
    pub fn key<'a>(&self, table: usize, key: &'a [u8]) -> CacheKey<'a> {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key); // without its length, as only one part has none that is fixed
        hasher.write_usize(table);
        CacheKey { table, key, hash: KeyHash::new(hasher.finish()) }
    }

    /// Looks up a key at time `now`. A fresh entry counts a hit.
    pub fn look(&mut self, key: CacheKey<'_>, now: Instant) -> Lookup<'_> {
        let now = self.millis(now);
        let Some(at) = self.find(key) else { return Lookup::Miss };
        let entry = self.entries.get_mut(at);
        let age = now.saturating_sub(entry.since);
        let (fresh, stale) = (u64::from(entry.fresh), u64::from(entry.stale));
        if age < fresh {
            let early = entry.hits >= HOT && fresh - age < fresh / u64::from(EARLY);
            entry.hits = MOST_HITS.min(entry.hits + 1);
            Lookup::Fresh { answer: entry.answer(), early }
        } else if age < fresh + stale {
            Lookup::Stale(entry.answer())
        } else {
            Lookup::Miss
        }
    }

    /// Stores an answer, and replaces the previous one. A failure, and an answer larger than the small queue, is not
    /// stored.
    pub fn insert(&mut self, key: CacheKey<'_>, answer: &Answer<'_>, lifetime: Lifetime, now: Instant) {
        let hits = self.forget(key);
        self.origin.get_or_insert(now);
        let Some(mut entry) = Entry::new(key, answer, lifetime, self.millis(now)) else { return };
        let size = size_of_entry(&entry);
        // A value that fills the small queue would evict everything that is new.
        if size > self.limit / SMALL || (entry.fresh, entry.stale) == (0, 0) {
            return;
        }
        // An entry that is replaced after several hits, or was evicted a short time ago, is not new.
        entry.main = hits.is_some_and(|hits| hits > 1) || self.take_ghost(key.hash);
        entry.hits = hits.unwrap_or(0);
        self.bytes += size;
        self.small_bytes += if entry.main { 0 } else { size };
        let queue = if entry.main { &mut self.main } else { &mut self.small };
        let at = self.entries.insert(entry);
        queue.push_back(at, &mut self.entries);
        self.index.insert(key.hash, at);
        // This ends, because each pass over the main queue lowers the counters of its entries.
        while self.bytes > self.limit {
            self.evict();
        }
    }

    /// Removes the entry of a key and returns its hits, or `None` if there was none.
    pub fn forget(&mut self, key: CacheKey<'_>) -> Option<u8> {
        let at = self.find(key)?;
        let hits = self.entries.get(at).hits;
        self.remove(at);
        Some(hits)
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        // With the same hasher, as fetches in flight have hashes of their keys.
        *self = Self { evicted: self.evicted, hasher: self.hasher.clone(), ..Self::new(self.limit) };
    }

    /// Entries, bytes and evictions.
    pub fn metrics(&self) -> CacheMetrics {
        CacheMetrics { entries: self.entries.len(), bytes: self.bytes, evicted: self.evicted }
    }

    fn millis(&self, now: Instant) -> u64 {
        self.origin.map_or(0, |origin| now.saturating_duration_since(origin).as_millis() as u64)
    }

    fn find(&self, key: CacheKey<'_>) -> Option<u32> {
        self.index.find(key.hash, |at| self.entries.get(at).is(key))
    }

    fn remove(&mut self, at: u32) {
        let entry = self.entries.get(at);
        let (size, hash, main) = (size_of_entry(entry), entry.hash, entry.main);
        self.bytes -= size;
        self.small_bytes -= if main { 0 } else { size };
        let queue = if main { &mut self.main } else { &mut self.small };
        queue.remove(at, &mut self.entries);
        self.index.remove(hash, |other| other == at);
        self.entries.remove(at);
    }

    /// Takes one step of eviction: evicts an entry, promotes it to the main queue, or passes it over.
    fn evict(&mut self) {
        let small = self.small_bytes > self.limit / SMALL || self.main.first().is_none();
        let queue = if small { &self.small } else { &self.main };
        let Some(at) = queue.first() else { return };
        let entry = self.entries.get_mut(at);
        // More than one hit, as in the paper.
        if small && entry.hits > 1 {
            (entry.main, entry.hits) = (true, 0);
            self.small_bytes -= size_of_entry(entry);
            self.small.remove(at, &mut self.entries);
            self.main.push_back(at, &mut self.entries);
        } else if !small && entry.hits > 0 {
            entry.hits -= 1;
            self.main.remove(at, &mut self.entries);
            self.main.push_back(at, &mut self.entries);
        } else {
            let hash = entry.hash;
            self.remove(at);
            self.evicted += 1;
            if small {
                self.add_ghost(hash);
            }
        }
    }

    fn add_ghost(&mut self, hash: KeyHash) {
        if self.ghosts.len() < self.entries.len() {
            let ghosts = vec![0; self.ghosts.len() * 2];
            let old = std::mem::replace(&mut self.ghosts, ghosts);
            old.into_iter().filter(|hash| *hash != 0).for_each(|hash| self.place_ghost(hash));
        }
        self.place_ghost(hash.bits());
    }

    fn place_ghost(&mut self, hash: u32) {
        let mask = self.ghosts.len() - 1;
        self.ghosts[hash as usize & mask] = hash;
    }

    /// Whether a key was evicted a short time ago, which is forgotten with that.
    fn take_ghost(&mut self, hash: KeyHash) -> bool {
        let mask = self.ghosts.len() - 1;
        let ghost = &mut self.ghosts[hash.bits() as usize & mask];
        *ghost == hash.bits() && std::mem::take(ghost) != 0
    }
}

fn size_of_entry(entry: &Entry) -> usize {
    OVERHEAD + entry.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;
    use std::time::Duration;

    const MINUTE: Lifetime = Lifetime { fresh: Duration::from_secs(60), stale: Duration::from_secs(600) };

    fn text(text: &str) -> Answer<'static> {
        Answer::Found(Value::Text(text.as_bytes().to_owned().into()))
    }

    fn put(cache: &mut Cache, key: &[u8], answer: &Answer<'_>, now: Instant) {
        cache.insert(cache.key(0, key), answer, MINUTE, now);
    }

    fn shown(value: &Value<'_>) -> String {
        String::from_utf8(value.for_postfix().unwrap().unwrap().into_owned()).unwrap()
    }

    fn known(cache: &mut Cache, key: &str, now: Instant) -> String {
        match cache.look(cache.key(0, key.as_bytes()), now) {
            Lookup::Fresh { answer: Answer::Found(value), early } => {
                format!("{}{}", shown(&value), if early { " early" } else { "" })
            }
            Lookup::Fresh { answer: Answer::Miss, .. } => "miss".to_owned(),
            Lookup::Stale(Answer::Found(value)) => format!("stale {}", shown(&value)),
            Lookup::Stale(Answer::Miss) => "stale miss".to_owned(),
            Lookup::Miss => "-".to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_is_fresh_then_stale_then_nothing() {
        let (mut cache, start) = (Cache::new(1 << 20), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        put(&mut cache, b"a", &text("1"), start);
        put(&mut cache, b"m", &Answer::Miss, start);
        assert!(matches!(cache.look(cache.key(1, b"a"), start), Lookup::Miss), "another table");
        assert_eq!([known(&mut cache, "a", start), known(&mut cache, "m", start)], ["1", "miss"]);
        assert_eq!(known(&mut cache, "a", at(53)), "1");
        assert_eq!(known(&mut cache, "a", at(55)), "1 early");
        assert_eq!([known(&mut cache, "a", at(60)), known(&mut cache, "m", at(60))], ["stale 1", "stale miss"]);
        assert_eq!(known(&mut cache, "a", at(659)), "stale 1");
        assert_eq!(known(&mut cache, "a", at(660)), "-");
        put(&mut cache, b"a", &text("2"), at(660));
        assert_eq!((known(&mut cache, "a", at(660)), cache.metrics().entries), ("2".to_owned(), 2));
        cache.forget(cache.key(0, b"a"));
        assert_eq!(known(&mut cache, "a", at(660)), "-");
        cache.clear();
        assert_eq!((known(&mut cache, "m", start), cache.metrics().bytes), ("-".to_owned(), 0));
    }

    #[test]
    fn sizes_of_any_magnitude_do_not_overflow() {
        let (mut cache, now) = (Cache::new(usize::MAX), Instant::now());
        put(&mut cache, b"a", &text("1"), now);
        assert_eq!(known(&mut cache, "a", now), "1");
        (cache.limit, cache.small_bytes) = (1, usize::MAX);
        cache.evict();
    }

    #[test]
    fn hot_keys_survive_a_scan_of_cold_ones() {
        let (mut cache, now) = (Cache::new(200_000), Instant::now());
        let hot: Vec<String> = (0..100).map(|n| format!("hot{n}")).collect();
        for key in &hot {
            put(&mut cache, key.as_bytes(), &text(key), now);
        }
        for round in 0..20_000 {
            let key = &hot[round % hot.len()];
            if round % 10 == 0 {
                let _ = known(&mut cache, key, now);
            }
            let cold = format!("cold{round}");
            assert_eq!(known(&mut cache, &cold, now), "-");
            put(&mut cache, cold.as_bytes(), &text("x"), now);
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
        let (mut cache, now) = (Cache::new(1 << 20), Instant::now());
        for round in 0..30_000_usize {
            let key = format!("{}", round * 7919 % 5_000);
            let value = "x".repeat(round * 31 % 3_000 * (round % 7));
            put(&mut cache, key.as_bytes(), &text(&value), now);
            if round % 3 == 0 {
                let key = format!("{}", round * 104_729 % 5_000);
                cache.forget(cache.key(0, key.as_bytes()));
            }
            if round % 5 == 0 {
                let _ = known(&mut cache, &key, now);
            }
            let CacheMetrics { bytes, entries, .. } = cache.metrics();
            assert!(bytes <= 1 << 20);
            assert!(cache.ghosts.len() <= 2 * (entries + 1).max(MIN_GHOSTS));
        }
        let (mut sum, mut count) = (0, 0);
        for queue in [&cache.small, &cache.main] {
            let mut next = queue.first();
            while let Some(at) = next {
                (sum, count, next) = (sum + size_of_entry(cache.entries.get(at)), count + 1, cache.entries.next(at));
            }
        }
        assert_eq!((sum, count), (cache.bytes, cache.entries.len()));
        put(&mut cache, b"huge", &text(&"x".repeat(1 << 17)), now);
        assert_eq!(known(&mut cache, "huge", now), "-", "more than a tenth is not stored");
    }
}
