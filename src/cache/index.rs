//! Keys with their hashes, and a hash index of entries that are stored elsewhere.

use std::num::NonZeroU32;

/// A hash of a table and a key.
// Half of what SipHash returns: enough for any number of entries that fit into memory, and it is stored with each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyHash(NonZeroU32);

impl KeyHash {
    pub(super) fn new(hash: u64) -> Self {
        Self(NonZeroU32::new(hash as u32).unwrap_or(NonZeroU32::MIN))
    }

    pub(super) fn bits(self) -> u32 {
        self.0.get()
    }
}

/// A key of a table, with its hash, which is computed once for all that is done with it.
#[derive(Clone, Copy, Debug)]
pub struct CacheKey<'a> {
    pub table: usize,
    pub key: &'a [u8],
    pub hash: KeyHash,
}

/// Positions of entries by their hashes, of which several may have the same.
// Linear probing, and 8 bytes per slot for positions of 32 bits: half of what a HashMap takes that holds its keys, and
// the hash is computed once for all that is done with a key.
#[derive(Debug)]
pub struct Index<V> {
    /// A power of two, or none. At most three quarters are in use.
    slots: Vec<Option<(KeyHash, V)>>,
    len: usize,
}

impl<V> Default for Index<V> {
    fn default() -> Self {
        Self { slots: Vec::new(), len: 0 }
    }
}

impl<V: Copy> Index<V> {
    /// The position with this hash for which `is` holds.
    pub fn find(&self, hash: KeyHash, is: impl Fn(V) -> bool) -> Option<V> {
        self.slot(hash, is).map(|(_, value)| value)
    }

    /// Adds a position.
    pub fn insert(&mut self, hash: KeyHash, value: V) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            let slots = vec![None; (self.slots.len() * 2).max(8)];
            let old = std::mem::replace(&mut self.slots, slots);
            old.into_iter().flatten().for_each(|(hash, value)| self.place(hash, value));
        }
        self.place(hash, value);
        self.len += 1;
    }

    /// Removes the position with this hash for which `is` holds.
    pub fn remove(&mut self, hash: KeyHash, is: impl Fn(V) -> bool) -> Option<V> {
        let (mut free, value) = self.slot(hash, is)?;
        self.slots[free] = None;
        self.len -= 1;
        // What follows moves up, unless it would be in front of where its search begins: no search ends too early.
        let mask = self.slots.len() - 1;
        let mut at = free;
        loop {
            at = (at + 1) & mask;
            let Some((hash, _)) = self.slots[at] else { return Some(value) };
            let home = hash.bits() as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(free) & mask {
                self.slots[free] = self.slots[at].take();
                free = at;
            }
        }
    }

    fn slot(&self, hash: KeyHash, is: impl Fn(V) -> bool) -> Option<(usize, V)> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = hash.bits() as usize & mask;
        loop {
            let (other, value) = self.slots[at]?;
            if other == hash && is(value) {
                return Some((at, value));
            }
            at = (at + 1) & mask;
        }
    }

    fn place(&mut self, hash: KeyHash, value: V) {
        let mask = self.slots.len() - 1;
        let mut at = hash.bits() as usize & mask;
        while self.slots[at].is_some() {
            at = (at + 1) & mask;
        }
        self.slots[at] = Some((hash, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn it_finds_what_a_map_finds() {
        // Few hashes, so that they collide, and the last slots, so that searches wrap around.
        let hashes = [1, 7, 8, 15, 16, 23, u32::MAX, u32::MAX - 8, 31, 63, 127];
        let (mut index, mut model, mut state) = (Index::default(), BTreeMap::new(), 1_u64);
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for round in 0..20_000_u32 {
            let hash = KeyHash::new(hashes[next(hashes.len())].into());
            // It grows and shrinks by turns.
            if next(100) < if round % 4_000 < 2_000 { 60 } else { 30 } {
                index.insert(hash, round);
                model.insert(round, hash);
            } else if let Some((value, hash)) = model.iter().nth(next(model.len().max(1))).map(|(k, v)| (*k, *v)) {
                assert_eq!(index.remove(hash, |other| other == value), Some(value));
                model.remove(&value);
                assert_eq!(index.remove(hash, |other| other == value), None);
            }
            assert_eq!(index.len, model.len());
            if round % 50 == 0 {
                assert!(model.iter().all(|(value, hash)| index.find(*hash, |other| other == *value) == Some(*value)));
            }
        }
    }

    #[test]
    fn hashes_are_never_zero() {
        assert_eq!((KeyHash::new(0).bits(), KeyHash::new(1 << 32).bits(), KeyHash::new(7).bits()), (1, 1, 7));
    }
}
