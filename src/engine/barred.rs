//! Keys of which nothing is cached for a time.

use crate::cache::CacheKey;
use crate::timers::Timers;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Keys of tables of which nothing is cached for a time: a write may still be applied, or not, and what is read in
/// between would be served for as long as the cache holds it.
#[derive(Default)]
pub(super) struct Barred {
    until: HashMap<(usize, Vec<u8>), Instant>,
    timers: Timers<(usize, Vec<u8>)>,
}

impl Barred {
    /// Bars a key from `now` on for the time `after`.
    pub(super) fn bar(&mut self, table: usize, key: &[u8], now: Instant, after: Duration) {
        self.expire(now);
        self.until.insert((table, key.to_vec()), now + after);
        self.timers.add(now, after, (table, key.to_vec()));
    }

    pub(super) fn contains(&mut self, key: CacheKey<'_>, now: Instant) -> bool {
        if self.until.is_empty() {
            return false; // as nearly always
        }
        self.expire(now);
        self.until.contains_key(&(key.table, key.key.to_vec()))
    }

    fn expire(&mut self, now: Instant) {
        while let Some(key) = self.timers.due(now, |_| true) {
            // A later write may have barred it for longer.
            if self.until.get(&key).is_some_and(|until| *until <= now) {
                self.until.remove(&key);
            }
        }
    }
}
