//! Timers. Most deadlines are never reached, so that adding one is cheap and none is ever cancelled.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The length of a queue from which on entries that no longer matter are removed from all of it.
const TIDY: usize = 64;

/// Keys with deadlines. All timers of the same duration are in one queue, which is sorted by itself, as time only goes
/// forward.
#[derive(Debug)]
pub struct Timers<K> {
    // There are only as many durations as timeouts in the configuration; a heap would cost a comparison per level for
    // each lookup.
    queues: Vec<Queue<K>>,
}

/// The earliest of some times, of which any may be none.
// Once per turn and owner: a chain of iterators takes three times as many instructions.
#[inline]
pub fn earliest<const N: usize>(times: [Option<Instant>; N]) -> Option<Instant> {
    let mut first = None;
    for time in times {
        if first.is_none() || time.is_some() && time < first {
            first = time;
        }
    }
    first
}

/// In place of a duration: the queue of keys with deadlines of their own.
const OWN_DEADLINE: Duration = Duration::MAX;

#[derive(Debug)]
struct Queue<K> {
    after: Duration,
    due: VecDeque<(Instant, K)>,
    tidy: usize,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { queues: Vec::new() }
    }
}

impl<K> Timers<K> {
    /// Makes `key` due at `now + after`. `now` must not decrease from call to call.
    pub fn add(&mut self, now: Instant, after: Duration, key: K) {
        self.queue(after).due.push_back((now + after, key));
    }

    fn queue(&mut self, after: Duration) -> &mut Queue<K> {
        let index = self.queues.iter().position(|queue| queue.after == after);
        let index = index.unwrap_or_else(|| {
            self.queues.push(Queue { after, due: VecDeque::new(), tidy: TIDY });
            self.queues.len() - 1
        });
        &mut self.queues[index]
    }

    /// Makes `key` due at `at`, which nearly always is `now + after`.
    pub fn add_by(&mut self, now: Instant, after: Duration, at: Instant, key: K) {
        if at == now + after { self.add(now, after, key) } else { self.add_at(at, key) }
    }

    /// Makes `key` due at `at`.
    // This costs a search, where [`Timers::add`] needs none. A queue for each duration that occurs once would never be
    // removed.
    pub fn add_at(&mut self, at: Instant, key: K) {
        let due = &mut self.queue(OWN_DEADLINE).due;
        due.insert(due.partition_point(|(other, _)| *other <= at), (at, key));
    }

    /// The next deadline of a key that is `alive`. Entries in front of it are removed.
    pub fn next(&mut self, alive: impl Fn(&K) -> bool) -> Option<Instant> {
        self.queues.iter_mut().filter_map(|queue| queue.next(&alive)).min()
    }

    /// Removes and returns a key that is due at `now` and `alive`.
    pub fn due(&mut self, now: Instant, alive: impl Fn(&K) -> bool) -> Option<K> {
        for queue in &mut self.queues {
            if queue.next(&alive).is_some_and(|at| at <= now) {
                return queue.due.pop_front().map(|(_, key)| key);
            }
        }
        None
    }
}

impl<K> Queue<K> {
    fn next(&mut self, alive: &impl Fn(&K) -> bool) -> Option<Instant> {
        while self.due.front().is_some_and(|(_, key)| !alive(key)) {
            self.due.pop_front();
        }
        // A single long-lived entry in front must not keep all the dead ones behind it in memory. Doubling the
        // threshold makes the search amortised constant time per entry.
        if self.due.len() > self.tidy {
            self.due.retain(|(_, key)| alive(key));
            self.due.shrink_to(2 * self.due.len());
            self.tidy = TIDY.max(2 * self.due.len());
        }
        self.due.front().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_due_comes_out_in_order_and_the_dead_do_not() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.add(start, 3 * SECOND, 'c');
        timers.add(start, SECOND, 'a');
        timers.add(start + SECOND, SECOND, 'b');
        timers.add(start + SECOND, SECOND, 'x');
        let alive = |key: &char| *key != 'x';
        assert_eq!(timers.next(alive), Some(start + SECOND));
        assert_eq!(timers.due(start, alive), None);
        assert_eq!(timers.due(start + SECOND, alive), Some('a'));
        assert_eq!(timers.due(start + SECOND, alive), None);
        assert_eq!(timers.due(start + 2 * SECOND, alive), Some('b'));
        assert_eq!(timers.next(alive), Some(start + 3 * SECOND));
    }

    #[test]
    fn dead_entries_behind_a_living_one_are_removed() {
        let now = Instant::now();
        let mut timers = Timers::default();
        for key in 0..10_000 {
            timers.add(now, SECOND, key);
            timers.next(|key| *key == 0);
        }
        assert!(timers.queues[0].due.len() <= TIDY + 1);
        assert_eq!(timers.due(now + SECOND, |key| *key == 0), Some(0));
    }
}
