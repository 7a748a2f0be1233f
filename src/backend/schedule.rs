//! Which pools have something to do.

use std::collections::BTreeSet;
use std::time::Instant;

/// The pools that have to be looked at in this turn, and when the others have to be.
// A turn costs as much as has happened in it: with 1 000 backends of which one is used, a look at all of them took more
// time than the lookup itself.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// Pools in which something has happened, each once.
    marked: Vec<usize>,
    /// Pools that lack a connection, and may make none while all descriptors are in use.
    without_room: Vec<usize>,
    entries: Vec<Entry>,
    /// The pools by `due`.
    order: BTreeSet<(Instant, usize)>,
    /// Exchanges in flight or waiting, of all pools.
    load: usize,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    is_marked: bool,
    /// It has nothing to do before. A bound: under load its deadline moves with every exchange, and only becomes later.
    due: Option<Instant>,
    load: usize,
}

impl Schedule {
    /// Adds a pool, which has to be looked at.
    pub(super) fn add(&mut self) {
        self.entries.push(Entry::default());
        self.mark(self.entries.len() - 1);
    }

    /// Something happens in a pool.
    #[inline]
    pub(super) fn mark(&mut self, at: usize) {
        if !std::mem::replace(&mut self.entries[at].is_marked, true) {
            self.marked.push(at);
        }
    }

    pub(super) fn mark_all(&mut self) {
        (0..self.entries.len()).for_each(|at| self.mark(at));
    }

    /// A pool needs a descriptor, of which none is left.
    pub(super) fn wait_for_room(&mut self, at: usize) {
        if !self.without_room.contains(&at) {
            self.without_room.push(at);
        }
    }

    /// There may be descriptors again.
    pub(super) fn on_room(&mut self) {
        if self.without_room.is_empty() {
            return; // as nearly always
        }
        std::mem::take(&mut self.without_room).into_iter().for_each(|at| self.mark(at));
    }

    /// Marks the pools that are due.
    pub(super) fn mark_due(&mut self, now: Instant) {
        while let Some((due, at)) = self.order.first().copied()
            && due <= now
        {
            self.order.pop_first();
            self.entries[at].due = None;
            self.mark(at);
        }
    }

    /// The next pool to look at. It stays marked until [`Schedule::set`].
    pub(super) fn next(&mut self) -> Option<usize> {
        self.marked.pop()
    }

    /// Notes the load of a pool that was looked at, and when it has something to do again.
    pub(super) fn set(&mut self, at: usize, load: usize, due: Option<Instant>) {
        let entry = &mut self.entries[at];
        entry.is_marked = false;
        self.load = self.load + load - std::mem::replace(&mut entry.load, load);
        let Some(due) = due else { return };
        if entry.due.is_none_or(|known| due < known) {
            if let Some(known) = entry.due.replace(due) {
                self.order.remove(&(known, at));
            }
            self.order.insert((due, at));
        }
    }

    /// When the first pool has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.order.first().map(|(due, _)| *due)
    }

    /// True if no exchange was in flight or waiting when the pools were last looked at.
    pub(super) fn is_quiet(&self) -> bool {
        self.load == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn pools_are_looked_at_when_marked_or_due() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        // Looks at all that are marked, and sets what is given.
        let look = |schedule: &mut Schedule, set: &[(usize, usize, Option<Instant>)]| {
            let mut all: Vec<usize> = std::iter::from_fn(|| schedule.next()).collect();
            all.iter().for_each(|one| {
                let (load, due) =
                    set.iter().find(|(of, ..)| of == one).map_or((0, None), |(_, load, due)| (*load, *due));
                schedule.mark(*one); // it is being looked at, so that this changes nothing
                schedule.set(*one, load, due);
            });
            all.sort();
            all
        };
        (0..3).for_each(|_| schedule.add());
        assert_eq!(look(&mut schedule, &[(0, 2, at(5)), (1, 1, at(3))]), [0, 1, 2]);
        assert_eq!((schedule.deadline(), schedule.is_quiet()), (at(3), false));
        schedule.mark(0);
        schedule.mark(1);
        schedule.mark(1);
        assert_eq!(look(&mut schedule, &[(0, 1, at(9)), (1, 0, at(2))]), [0, 1]);
        assert_eq!(schedule.deadline(), at(2));
        schedule.mark(2);
        schedule.mark_due(now + Duration::from_secs(4));
        assert_eq!(look(&mut schedule, &[]), [1, 2]);
        assert_eq!((schedule.deadline(), schedule.is_quiet()), (at(5), false), "the earlier bound has stayed");
        schedule.wait_for_room(1);
        schedule.wait_for_room(1);
        assert!(look(&mut schedule, &[]).is_empty());
        schedule.on_room();
        assert_eq!(look(&mut schedule, &[]), [1]);
        schedule.mark_all();
        assert_eq!(look(&mut schedule, &[]), [0, 1, 2]);
        assert!(schedule.is_quiet());
    }
}
