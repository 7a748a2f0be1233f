//! Deadlines. Most of them are never reached, so adding one has to be cheap and nothing is ever cancelled.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A queue is looked through for the dead when it has grown beyond this, then beyond twice what was left.
const TIDY: usize = 64;

/// Keys that become due. Everything that waits equally long stands in one queue, which is sorted by
/// itself because time only goes forward.
#[derive(Debug)]
pub struct Timers<K> {
    queues: Vec<Queue<K>>,
}

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
    /// Makes `key` due `after` from `now`. `now` must not go backwards from call to call.
    pub fn add(&mut self, now: Instant, after: Duration, key: K) {
        let place = self.queues.iter().position(|queue| queue.after == after);
        let place = place.unwrap_or_else(|| {
            self.queues.push(Queue { after, due: VecDeque::new(), tidy: TIDY });
            self.queues.len() - 1
        });
        self.queues[place].due.push_back((now + after, key));
    }

    /// When to wake up, after forgetting the entries that no longer matter.
    pub fn next(&mut self, alive: impl Fn(&K) -> bool) -> Option<Instant> {
        self.queues.iter_mut().filter_map(|queue| queue.next(&alive)).min()
    }

    /// A key that is due at `now` and still matters.
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
        // One entry that lives long must not keep all the dead behind it in memory.
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
    fn the_dead_behind_a_living_entry_are_forgotten() {
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
