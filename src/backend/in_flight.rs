//! The exchanges in flight on one connection.

use super::exchange::{Asker, Exchange};
use super::retry::Progress;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The exchanges in flight on one connection, in the order in which their responses arrive.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    slots: VecDeque<Slot>,
    /// Bytes of requests that were written, and that have left for the backend, since the connection was made.
    written: u64,
    left: u64,
}

#[derive(Debug)]
struct Slot {
    /// `None` if its deadline has passed: its response is dropped when it arrives.
    exchange: Option<Box<Exchange>>,
    /// The deadline of the exchange, which stays when that has expired.
    // The response is still to come, and those behind cannot arrive before. When such a slot became the front and had
    // no deadline, nothing watched the connection any more: with connections=1 the table was down for good.
    deadline: Instant,
    /// The table that it is for, and when it was added.
    table: usize,
    since: Instant,
    /// Where its request begins and ends, counted from the first byte on the connection.
    begins: u64,
    ends: u64,
    /// It was pipelined: sent together with one in front of it.
    ahead: bool,
}

/// An exchange whose deadline has passed.
pub(super) struct Expired {
    pub exchange: Box<Exchange>,
    /// The backend may have seen it.
    pub sent: bool,
    /// It had been sent for long enough, and was the next to be answered.
    // Only then the backend has caused the timeout, and not our queue or a request in front of it.
    pub had_time: bool,
    /// The time for which the next response of the connection is outstanding.
    pub owed: Duration,
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds an exchange whose request has `size` bytes.
    pub(super) fn push(&mut self, exchange: Box<Exchange>, size: usize, now: Instant) {
        let begins = self.written;
        self.written += size as u64;
        let ahead = !self.slots.is_empty();
        let (deadline, table, ends) = (exchange.deadline, exchange.table, self.written);
        let slot = Slot { exchange: Some(exchange), deadline, table, since: now, begins, ends, ahead };
        self.slots.push_back(slot);
    }

    /// The exchange that was added last.
    pub(super) fn last_mut(&mut self) -> Option<&mut Exchange> {
        self.slots.back_mut()?.exchange.as_deref_mut()
    }

    /// The exchange whose response is the next one, unless it has expired.
    pub(super) fn front_mut(&mut self) -> Option<&mut Exchange> {
        self.slots.front_mut()?.exchange.as_deref_mut()
    }

    /// Notes that `count` bytes of requests have left.
    pub(super) fn advance(&mut self, count: usize) {
        self.left += count as u64;
    }

    /// True if the request at the front has left as a whole: a response to it may arrive.
    pub(super) fn awaits_response(&self) -> bool {
        self.slots.front().is_some_and(|first| first.ends <= self.left)
    }

    /// True if the request at the front is a write of which only a part has left.
    pub(super) fn may_be_refused_early(&self) -> bool {
        let is_write = |first: &Slot| first.exchange.as_ref().is_some_and(|exchange| !exchange.is_safe());
        self.slots.front().is_some_and(|first| first.begins < self.left && self.left < first.ends && is_write(first))
    }

    /// True if a status can be about the request at the front before all of it has left. A backend may refuse a large
    /// body early (RFC 9112, section 9.5), but not decide about what it does not have.
    pub(super) fn can_be_refused_with(&self, status: u16) -> bool {
        let is_ask = |exchange: &Exchange| matches!(exchange.asker, Asker::Ask(_));
        status >= 400 && !self.slots.front().and_then(|first| first.exchange.as_deref()).is_some_and(is_ask)
    }

    /// True if the request at the front may not be sent twice, and none of it has left.
    pub(super) fn begins_with_unsent_write(&self) -> bool {
        let unsafe_exchange = |first: &Slot| first.exchange.as_ref().is_some_and(|exchange| !exchange.is_safe());
        self.slots.front().is_some_and(|first| self.left <= first.begins && unsafe_exchange(first))
    }

    /// True if nothing of the requests has left for the kernel, of which `unsent` bytes were not taken, and the first
    /// is safe to send again and is answered at once: others would wait for the asker of a response that is streamed.
    pub(super) fn begins_with_unsent_get(&self, unsent: usize) -> bool {
        let taken = self.written - unsent as u64;
        let fits = |exchange: &Exchange| exchange.is_safe() && !exchange.may_stream();
        let is_fit = |first: &Slot| first.exchange.as_deref().is_some_and(fits);
        self.slots.front().is_some_and(|first| taken == first.begins && is_fit(first))
    }

    /// The table of the exchange whose response is the next one, and when it was added.
    pub(super) fn front(&self) -> Option<(usize, Instant)> {
        self.slots.front().map(|slot| (slot.table, slot.since))
    }

    /// True if the response at the front is given to its asker in parts.
    pub(super) fn is_streamed(&self) -> bool {
        self.slots.front().and_then(|slot| slot.exchange.as_deref()).is_some_and(Exchange::is_streamed)
    }

    /// Takes out the slot whose response has arrived: its exchange, unless that has expired, and whether it was
    /// pipelined.
    pub(super) fn pop(&mut self) -> Option<(Option<Box<Exchange>>, bool)> {
        self.slots.pop_front().map(|slot| (slot.exchange, slot.ahead))
    }

    /// True if a pipelined request is in flight.
    pub(super) fn owes_ahead(&self) -> bool {
        self.slots.iter().any(|slot| slot.ahead)
    }

    /// Takes out all exchanges, in order. `begun` is whether a part of the first response has arrived.
    pub(super) fn take(&mut self, begun: bool) -> Vec<(Box<Exchange>, Progress)> {
        let left = self.left;
        let progress = |at: usize, begins: u64, exchange: &Exchange| match at {
            _ if exchange.is_streamed() => Progress::Streamed,
            // With TLS, only whole records count as having left: no part of a record can be read.
            _ if left <= begins => Progress::Unsent,
            // Responses arrive in order, so that only the first can have begun.
            0 if begun => Progress::Begun,
            _ => Progress::Sent,
        };
        let slots = std::mem::take(&mut self.slots).into_iter().enumerate();
        slots
            .filter_map(|(at, slot)| {
                slot.exchange.map(|exchange| {
                    let progress = progress(at, slot.begins, &exchange);
                    (exchange, progress)
                })
            })
            .collect()
    }

    /// Takes out an exchange whose deadline has passed. Its slot stays, because the response still has to be read and
    /// dropped.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Expired> {
        let left = self.left;
        let owing = self.slots.front().filter(|_| !self.is_streamed());
        let owed = owing.map_or(Duration::ZERO, |slot| now.saturating_duration_since(slot.since));
        self.slots.iter_mut().enumerate().find_map(|(at, slot)| {
            let exchange = slot.exchange.take_if(|exchange| exchange.deadline <= now)?;
            let (sent, had_time) =
                (left > slot.begins, at == 0 && !exchange.is_streamed() && exchange.had_time(slot.since, now));
            Some(Expired { exchange, sent, had_time, owed })
        })
    }

    /// True if the exchange has expired whose response is the next one.
    pub(super) fn is_stuck(&self) -> bool {
        self.slots.front().is_some_and(|first| first.exchange.is_none())
    }

    /// The earliest deadline of an exchange, or of the slot at the front if its exchange has expired.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let counts = |(at, slot): &(usize, &Slot)| *at == 0 || slot.exchange.is_some();
        self.slots.iter().enumerate().filter(counts).map(|(_, slot)| slot.deadline).min()
    }
}
