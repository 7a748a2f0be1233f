//! An arena with generational keys: an event that arrives late for a removed value cannot reach the next one in its
//! slot.

/// The key of a value in an [`Arena`]. `age` is the number of times that its slot was emptied before.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    pub index: u32,
    pub age: u32,
}

/// Ages wrap at this number: 31 bits, so that a key and a flag fit into an event token of 64 bits.
pub const AGES: u32 = 1 << 31;

/// Values in slots, which are reused under another key.
#[derive(Debug)]
pub struct Arena<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Arena<T> {
    /// Stores a value and returns its key.
    #[inline]
    pub fn insert(&mut self, value: T) -> Key {
        match self.free.pop() {
            Some(index) => {
                let slot = &mut self.slots[index as usize];
                slot.1 = Some(value);
                Key { index, age: slot.0 }
            }
            None => {
                let index = u32::try_from(self.slots.len()).expect("fewer than 2^32 values");
                self.slots.push((0, Some(value)));
                Key { index, age: 0 }
            }
        }
    }

    /// The value of a key, if it has not been removed.
    pub fn get(&self, key: Key) -> Option<&T> {
        let (age, value) = self.slots.get(key.index as usize)?;
        if *age == key.age { value.as_ref() } else { None }
    }

    /// The value of a key, mutable.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (age, value) = self.slots.get_mut(key.index as usize)?;
        if *age == key.age { value.as_mut() } else { None }
    }

    /// Removes and returns a value. Its key is invalid afterwards.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let (age, slot) = self.slots.get_mut(key.index as usize).filter(|(age, _)| *age == key.age)?;
        let value = slot.take()?;
        // A key is mistaken for a later one only after 2^31 reuses of its slot, and no event is that late.
        *age = (*age + 1) % AGES;
        self.free.push(key.index);
        Some(value)
    }

    /// Whether the value of a key is present.
    pub fn contains(&self, key: Key) -> bool {
        self.get(key).is_some()
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values with their keys, in the order of the slots.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, (age, value))| {
            value.as_ref().map(|value| (Key { index: index as u32, age: *age }, value))
        })
    }

    /// The same, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, (age, value))| {
            value.as_mut().map(|value| (Key { index: index as u32, age: *age }, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_removed_value_finds_nothing_even_when_its_slot_is_used_again() {
        let mut arena = Arena::default();
        let old = arena.insert("old");
        assert_eq!(arena.remove(old), Some("old"));
        let new = arena.insert("new");
        assert_eq!(new.index, old.index);
        assert_eq!(arena.get(old), None);
        assert_eq!(arena.get_mut(old), None);
        assert_eq!(arena.remove(old), None);
        assert_eq!(arena.get(new), Some(&"new"));
    }

    #[test]
    fn ages_wrap_within_31_bits() {
        let mut arena = Arena { slots: vec![(AGES - 1, Some(1))], free: vec![] };
        arena.remove(Key { index: 0, age: AGES - 1 });
        assert_eq!(arena.insert(2), Key { index: 0, age: 0 });
    }

    #[test]
    fn length_counts_what_is_stored() {
        let mut arena = Arena::default();
        let keys: Vec<_> = (0..3).map(|n| arena.insert(n)).collect();
        arena.remove(keys[1]);
        assert_eq!(arena.len(), 2);
        assert_eq!(arena.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 2]);
    }
}
