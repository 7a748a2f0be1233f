//! Exchanges that wait for a connection.

use super::exchange::Exchange;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Maximum number of exchanges that wait for one backend.
pub const MAX_WAITING: usize = 10_000;

/// The exchanges of one pool that wait, in the order in which they are sent: those that need a new connection first,
/// then by deadline, then as they came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    /// Number of exchanges at the front that need a new connection.
    new_only: usize,
    /// A moving average of the latency of responses while exchanges wait, plus a quarter.
    latency: Duration,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// It needs a new connection, because a used one broke.
    // A flag and not a second queue, in which it could starve.
    new_only: bool,
    exchange: Box<Exchange>,
}

impl Waiting {
    fn is_too_late(&self, latency: Duration, now: Instant) -> bool {
        let Exchange { since, deadline, .. } = *self.exchange;
        let has_waited_most = now.saturating_duration_since(since) >= deadline.saturating_duration_since(since) / 2;
        deadline < now + latency && has_waited_most
    }

    /// What the queue is sorted by.
    fn rank(&self) -> (bool, Instant) {
        (!self.new_only, self.exchange.deadline)
    }
}

impl Queue {
    /// Adds an exchange behind those with the same deadline. Returns it if the queue is full.
    pub(super) fn push(&mut self, exchange: Box<Exchange>, now: Instant) -> Option<Box<Exchange>> {
        if self.waiting.len() >= MAX_WAITING {
            return Some(exchange);
        }
        // The latency under a load that is over would leave exchanges waiting beside a free connection.
        if self.waiting.is_empty() {
            self.latency = Duration::ZERO;
        }
        let waiting = Waiting { since: now, new_only: false, exchange };
        // Tables with equal timeouts come in the order of their deadlines, so that the end is nearly always right. Only
        // a queue that tables with different timeouts share is searched.
        let at = match self.waiting.back() {
            Some(last) if waiting.rank() < last.rank() => {
                self.waiting.partition_point(|other| other.rank() <= waiting.rank())
            }
            _ => self.waiting.len(),
        };
        self.waiting.insert(at, waiting);
        None
    }

    /// Puts an exchange back that has waited before, in front of those with the same deadline.
    pub(super) fn put_back(&mut self, exchange: Box<Exchange>, now: Instant) {
        let waiting = Waiting { since: now, new_only: false, exchange };
        let at = self.waiting.partition_point(|other| other.rank() < waiting.rank());
        self.waiting.insert(at, waiting);
    }

    /// Adds an exchange that needs a new connection.
    pub(super) fn push_new_only(&mut self, exchange: Box<Exchange>, now: Instant) {
        let waiting = Waiting { since: now, new_only: true, exchange };
        let at = self.waiting.partition_point(|other| other.rank() <= waiting.rank());
        self.waiting.insert(at, waiting);
        self.new_only += 1;
    }

    /// A response took this long while exchanges were waiting.
    pub(super) fn on_response(&mut self, took: Duration) {
        self.latency = (self.latency * 7 + took * 5 / 4) / 8;
    }

    /// An exchange has expired this long after it was sent.
    // If only responses counted, a backend that has become slower would be sent whatever has the old latency left,
    // would answer none of it in time, and the estimate would never change.
    pub(super) fn on_expired(&mut self, took: Duration) {
        if !self.waiting.is_empty() {
            self.on_response(2 * took);
        }
    }

    /// The next exchange for a connection, which is new or not. One that has waited for most of its time, and has less
    /// left than the current latency, is passed over until it expires. `None` also if the next one does not fit.
    // Its response would come too late, and delay another that could be in time: at twice its capacity, a backend that
    // could answer 400 requests in ten seconds answered 68 in time, and above 320 since.
    pub(super) fn pop(
        &mut self,
        new_connection: bool,
        now: Instant,
        fits: impl Fn(&Exchange) -> bool,
    ) -> Option<Box<Exchange>> {
        // An exchange that needs a new connection must not go on a used one: the last one has just shown that the
        // backend closes them.
        let first = if new_connection { 0 } else { self.new_only };
        // Such an exchange is never passed over: thousands of connections were opened for it, and none used.
        let in_time = |at: &usize| *at < self.new_only || !self.waiting[*at].is_too_late(self.latency, now);
        // If all are too late, the estimate may be wrong: a connection that is free costs nothing.
        let any = (first < self.waiting.len()).then_some(first);
        let at = (first..self.waiting.len()).find(in_time).or(any).filter(|at| fits(&self.waiting[*at].exchange))?;
        let waiting = self.waiting.remove(at)?;
        self.new_only -= usize::from(waiting.new_only);
        Some(waiting.exchange)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Number of exchanges that wait for a new connection.
    pub(super) fn new_only(&self) -> usize {
        self.new_only
    }

    /// Number of exchanges that wait for any connection.
    pub(super) fn any(&self) -> usize {
        self.waiting.len() - self.new_only
    }

    /// Number of those waiting for any connection, up to `most`, that have waited at least for `wait`.
    pub(super) fn long_waiting(&self, wait: Duration, most: usize, now: Instant) -> usize {
        let waiting = self.waiting.range(self.new_only..);
        waiting.take_while(|waiting| waiting.since + wait <= now).take(most).count()
    }

    /// Since when the exchange number `at` of those that wait for any connection has waited.
    pub(super) fn since(&self, at: usize) -> Option<Instant> {
        self.waiting.get(self.new_only + at).map(|waiting| waiting.since)
    }

    /// The earliest deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let fronts = [self.waiting.front(), self.waiting.get(self.new_only)];
        fronts.into_iter().flatten().map(|waiting| waiting.exchange.deadline).min()
    }

    /// Takes out an exchange whose deadline has passed.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Box<Exchange>> {
        // Both parts are sorted by deadline, so that only their fronts can be due. With 10 000 waiting 1 ms apart, a
        // look at all of them at each deadline took a quarter of a core.
        let is_due = |at: &usize| self.waiting.get(*at).is_some_and(|waiting| waiting.exchange.deadline <= now);
        let at = [0, self.new_only].into_iter().find(is_due)?;
        let waiting = self.waiting.remove(at)?;
        self.new_only -= usize::from(waiting.new_only);
        Some(waiting.exchange)
    }

    /// Takes out all that wait for a new connection; with `all` also the others.
    pub(super) fn drain(&mut self, all: bool) -> Vec<Box<Exchange>> {
        let count = if all { self.waiting.len() } else { self.new_only };
        self.new_only = 0;
        self.waiting.drain(..count).map(|waiting| waiting.exchange).collect()
    }

    /// Takes out all of one table.
    pub(super) fn drain_table(&mut self, table: usize) -> Vec<Box<Exchange>> {
        let (drained, left) =
            std::mem::take(&mut self.waiting).into_iter().partition(|one| one.exchange.table == table);
        self.waiting = left;
        self.new_only = self.waiting.iter().take_while(|waiting| waiting.new_only).count();
        let drained: VecDeque<Waiting> = drained;
        drained.into_iter().map(|waiting| waiting.exchange).collect()
    }

    /// Drops what `is_live` does not hold for; true if there was any.
    pub(super) fn retain(&mut self, mut is_live: impl FnMut(&Exchange) -> bool) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| is_live(&waiting.exchange));
        self.new_only = self.waiting.iter().take_while(|waiting| waiting.new_only).count();
        self.waiting.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::super::exchange::{Asker, SpareExchanges, TimeLimit};
    use super::super::request::{Method, Request};
    use super::*;
    use crate::arena::Key;
    use std::rc::Rc;

    const SECOND: Duration = Duration::from_secs(1);

    fn exchange(name: &str, deadline: Instant, now: Instant) -> Box<Exchange> {
        let request = Request { method: Method::Get, routes: Rc::new([]), body: None };
        let asker = Asker::Lookup(Key { index: 0, age: 0 });
        let limit = TimeLimit { deadline, timeout: deadline - now };
        SpareExchanges::default().take(asker, 0, limit, request, name.as_bytes(), now)
    }

    /// Exchanges a to e: c and e need a new connection, b has the shortest deadline.
    fn queue(now: Instant) -> Queue {
        let mut queue = Queue::default();
        assert!(queue.push(exchange("a", now + 2 * SECOND, now), now).is_none());
        assert!(queue.push(exchange("b", now + SECOND, now), now).is_none());
        queue.push_new_only(exchange("c", now + 3 * SECOND, now), now);
        queue.put_back(exchange("d", now + 2 * SECOND, now), now);
        queue.push_new_only(exchange("e", now + 3 * SECOND, now), now);
        queue
    }

    fn names(exchanges: Vec<Box<Exchange>>) -> String {
        exchanges.iter().map(|exchange| String::from_utf8_lossy(&exchange.key).into_owned()).collect()
    }

    #[test]
    fn exchanges_leave_by_need_of_a_new_connection_then_deadline() {
        let now = Instant::now();
        assert_eq!(names(queue(now).drain(true)), "cebda");
        assert_eq!(names(queue(now).drain(false)), "ce");
        let mut used = queue(now);
        let all: Vec<Box<Exchange>> = std::iter::from_fn(|| used.pop(false, now, |_| true)).collect();
        assert_eq!((&names(all)[..], used.new_only(), used.any()), ("bda", 2, 0));
        let mut new = queue(now);
        let all: Vec<Box<Exchange>> = std::iter::from_fn(|| new.pop(true, now, |_| true)).collect();
        assert_eq!((&names(all)[..], new.new_only(), new.any()), ("cebda", 0, 0));
    }

    #[test]
    fn what_is_due_is_found_among_both_kinds() {
        let now = Instant::now();
        let mut queue = queue(now);
        assert_eq!(queue.deadline(), Some(now + SECOND));
        assert!(queue.pop_expired(now).is_none());
        let due: Vec<Box<Exchange>> = std::iter::from_fn(|| queue.pop_expired(now + 3 * SECOND)).collect();
        assert_eq!((names(due).len(), queue.len(), queue.new_only(), queue.deadline()), (5, 0, 0, None));
    }

    #[test]
    fn what_is_abandoned_leaves_and_the_order_stays() {
        let now = Instant::now();
        let mut queue = queue(now);
        assert!(queue.retain(|exchange| exchange.key != b"c"));
        assert!(!queue.retain(|_| true));
        assert_eq!((queue.new_only(), &names(queue.drain(true))[..]), (1, "ebda"));
    }

    #[test]
    fn beyond_the_limit_an_exchange_is_returned() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        (0..MAX_WAITING).for_each(|_| assert!(queue.push(exchange("x", now, now), now).is_none()));
        assert!(queue.push(exchange("y", now, now), now).is_some());
    }

    #[test]
    fn what_cannot_be_answered_in_time_any_more_is_not_sent() {
        let (mut queue, start) = (queue(Instant::now()), Instant::now());
        // b has 0.4 s left of its second, the others much more.
        let now = start + SECOND * 6 / 10;
        queue.latency = SECOND / 2;
        let next = queue.pop(false, now, |_| true).map(|exchange| names(vec![exchange]));
        assert_eq!(next.as_deref(), Some("d"));
        queue.latency = SECOND / 4;
        let next = queue.pop(false, now, |_| true).map(|exchange| names(vec![exchange]));
        assert_eq!(next.as_deref(), Some("b"));
        // A new exchange is sent, however slow the backend is: else nothing would show when it is fast again.
        queue.latency = 10 * SECOND;
        assert!(queue.pop(false, start, |_| true).is_some());
    }
}
