//! The exchanges for lookups of cached tables, which several lookups share.

use crate::arena::{Arena, Key};
use crate::cache::{CacheKey, Index, KeyHash};

/// An exchange for all lookups of a key and for the cache. It continues when its clients disconnect.
pub(super) struct Fetch {
    pub table: usize,
    pub key: Vec<u8>,
    hash: KeyHash,
    pub waiters: Waiters,
    /// False once the key was written: the answer may be older, so that no later lookup and no cache may use it.
    pub current: bool,
}

/// The lookups that wait for an answer.
// Nearly always one, which needs no memory of its own.
#[derive(Default)]
pub(super) struct Waiters {
    first: Option<Key>,
    more: Vec<Key>,
}

impl Waiters {
    pub(super) fn push(&mut self, waiter: Key) {
        if self.first.is_none() { self.first = Some(waiter) } else { self.more.push(waiter) }
    }

    /// Takes out all, in the order in which they came.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Key> + use<> {
        self.first.take().into_iter().chain(std::mem::take(&mut self.more))
    }
}

impl Fetch {
    pub(super) fn key(&self) -> CacheKey<'_> {
        CacheKey { table: self.table, key: &self.key, hash: self.hash }
    }
}

/// All fetches.
#[derive(Default)]
pub(super) struct Fetches {
    fetches: Arena<Fetch>,
    /// Those that are current, of which each key has one at most.
    index: Index<Key>,
}

impl Fetches {
    /// The fetch of a key that further lookups may join.
    pub(super) fn find(&self, key: CacheKey<'_>) -> Option<Key> {
        let is = |fetch: &Fetch| fetch.table == key.table && fetch.key == key.key;
        self.index.find(key.hash, |at| self.fetches.get(at).is_some_and(is))
    }

    /// Starts a fetch of a key that has none.
    pub(super) fn insert(&mut self, key: CacheKey<'_>) -> Key {
        let CacheKey { table, key, hash } = key;
        let fetch = Fetch { table, key: key.to_vec(), hash, waiters: Waiters::default(), current: true };
        let at = self.fetches.insert(fetch);
        self.index.insert(hash, at);
        at
    }

    pub(super) fn get(&self, at: Key) -> Option<&Fetch> {
        self.fetches.get(at)
    }

    /// Adds a lookup to those that wait for the answer.
    pub(super) fn add_waiter(&mut self, at: Key, waiter: Key) {
        self.fetches.get_mut(at).into_iter().for_each(|fetch| fetch.waiters.push(waiter));
    }

    /// Takes out a fetch that has ended.
    pub(super) fn remove(&mut self, at: Key) -> Option<Fetch> {
        let fetch = self.fetches.remove(at)?;
        if fetch.current {
            self.index.remove(fetch.hash, |other| other == at);
        }
        Some(fetch)
    }

    /// The key is written: no later lookup joins its fetch.
    pub(super) fn forget(&mut self, key: CacheKey<'_>) {
        let Some(at) = self.find(key) else { return };
        self.index.remove(key.hash, |other| other == at);
        self.fetches.get_mut(at).into_iter().for_each(|fetch| fetch.current = false);
    }

    /// No later lookup joins any.
    pub(super) fn forget_all(&mut self) {
        self.index = Index::default();
        self.fetches.iter_mut().for_each(|(_, fetch)| fetch.current = false);
    }
}
