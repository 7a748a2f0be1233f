//! Whether a backend is sent requests, and what its responses, faults and silence mean for that.

use super::breaker::{CircuitBreaker, Permit};
use super::exchange::Exchange;
use super::fault::Fault;
use super::preference::Preference;
use super::report::{BackendReport, Trouble};
use crate::log;
use crate::metrics::BackendMetrics;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// The minimum interval between two log lines about a backend that is unreachable.
// Each lookup may find it unreachable again.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The time after which nothing is known any more of a backend that could not be reached, and was not tried since.
const KNOWN: Duration = Duration::from_secs(60);

/// The health of one backend.
#[derive(Debug)]
pub(super) struct Health {
    label: String,
    /// Tables may use another backend in its place.
    replica: bool,
    preference: Preference,
    /// The breakers of tables that had timeouts since their last response, by the table's number.
    // One per table, as a slow table must not take the others of the same backend with it: Mailu's
    // `dane` takes 10 s per key when a name server is silent.
    breakers: Vec<(usize, CircuitBreaker)>,
    /// The time of the last log line about it being unreachable.
    logged: Option<Instant>,
    /// No connection could be made since the last response or connection, and when that was last seen.
    unreachable: Option<(Trouble, Instant)>,
    /// It could be reached at the last attempt.
    is_reached: bool,
    /// Why other replicas are preferred, or were.
    avoided: Option<Trouble>,
}

impl Health {
    pub(super) fn new(label: &str) -> Self {
        let (label, preference) = (label.to_owned(), Preference::default());
        Self {
            label,
            replica: false,
            preference,
            breakers: Vec::new(),
            logged: None,
            unreachable: None,
            is_reached: false,
            avoided: None,
        }
    }

    pub(super) fn set_replica(&mut self) {
        self.replica = true;
    }

    /// True if other replicas should be preferred.
    pub(super) fn is_avoided(&self, now: Instant) -> bool {
        self.preference.is_avoided(now)
    }

    /// True if it does not answer some table in time, or others are preferred to it.
    pub(super) fn is_down(&self, now: Instant) -> bool {
        self.breakers.iter().any(|(_, breaker)| breaker.is_open()) || self.replica && self.is_avoided(now)
    }

    fn breaker(&self, table: usize) -> Option<&CircuitBreaker> {
        self.breakers.iter().find(|(of, _)| *of == table).map(|(_, breaker)| breaker)
    }

    pub(super) fn permit(&self, exchange: &Exchange, now: Instant) -> Permit {
        // As nearly always: no table had a timeout.
        if self.breakers.is_empty() {
            return Permit::Allow;
        }
        self.breaker(exchange.table).map_or(Permit::Allow, |breaker| breaker.permit(hash(&exchange.key), now))
    }

    /// True if a table had timeouts since its last response.
    pub(super) fn has_timeouts(&self) -> bool {
        !self.breakers.is_empty()
    }

    /// Why requests of a table are denied.
    pub(super) fn down_cause(&self, table: usize) -> Fault {
        let trouble = self.breaker(table).and_then(CircuitBreaker::trouble);
        Fault::Down(trouble.map(|trouble| trouble.cause.clone()).unwrap_or_default())
    }

    /// A request is sent, or waits to be.
    pub(super) fn on_submit(&mut self, exchange: &Exchange, now: Instant) {
        let breaker = self.breakers.iter_mut().find(|(of, _)| *of == exchange.table);
        breaker.into_iter().for_each(|(_, breaker)| breaker.on_submit(exchange.deadline, now));
    }

    /// The backend has not answered an exchange in time. True if it is down for the table now, and was not before.
    pub(super) fn on_timeout(&mut self, exchange: &Exchange, cause: &Fault, now: Instant) -> bool {
        let table = exchange.table;
        if self.breaker(table).is_none() {
            self.breakers.push((table, CircuitBreaker::default()));
        }
        let breaker = self.breakers.iter_mut().find(|(of, _)| *of == table);
        let opened = breaker.is_some_and(|(_, breaker)| breaker.on_timeout(hash(&exchange.key), cause, now));
        if opened {
            log::warn(format_args!("backend-down backend={} cause=\"{cause}\"", self.label));
        }
        opened
    }

    /// The backend has answered a table, with any status.
    pub(super) fn on_answer(&mut self, table: usize) {
        let Some(at) = self.breakers.iter().position(|(of, _)| *of == table) else { return };
        if self.breakers.swap_remove(at).1.on_answer() {
            log::warn(format_args!("backend-up backend={}", self.label));
        }
    }

    /// A fault: other replicas are preferred for a while if there are too many.
    // It never denies a request: a fault that comes at once costs no time, and a key that the backend cannot answer
    // must not fail the lookups of others.
    pub(super) fn on_fault(&mut self, cause: &impl ToString, now: Instant) {
        if self.preference.on_fault(now) && self.replica {
            self.avoided = Some(Trouble { cause: cause.to_string(), since: now });
            log::warn(format_args!("backend-down backend={} cause=\"{}\"", self.label, cause.to_string()));
        }
    }

    /// The backend has requested a pause (`Retry-After`).
    // A lone backend is sent requests all the same: the status may be about one key.
    pub(super) fn on_retry_after(&mut self, seconds: u32, status: u16, now: Instant) {
        if self.preference.on_retry_after(Duration::from_secs(seconds.into()), now) && self.replica {
            let cause = format!("answered {status}");
            log::warn(format_args!("backend-down backend={} cause=\"{cause}\" seconds={seconds}", self.label));
            self.avoided = Some(Trouble { cause, since: now });
        }
    }

    /// True if a response with this status may change the state.
    pub(super) fn may_change(&self, status: u16) -> bool {
        matches!(status, 429 | 502..=504) || self.preference.has_faults()
    }

    /// A response that is no fault.
    pub(super) fn on_success(&mut self) {
        if self.preference.on_success() && self.replica {
            log::warn(format_args!("backend-up backend={}", self.label));
        }
    }

    /// A connection was made, or a response has arrived.
    #[inline]
    pub(super) fn on_reached(&mut self) {
        // As nearly always; it is called for each response.
        if !self.is_reached {
            (self.is_reached, self.unreachable) = (true, None);
        }
    }

    /// No connection can be made.
    pub(super) fn on_unreachable(&mut self, fault: &Fault, now: Instant) {
        let since = self.unreachable.as_ref().map_or(now, |(trouble, _)| trouble.since);
        self.unreachable = Some((Trouble { cause: fault.to_string(), since }, now));
        self.is_reached = false;
    }

    pub(super) fn report(&self, metrics: BackendMetrics, now: Instant) -> BackendReport<'_> {
        BackendReport { label: &self.label, metrics, trouble: self.trouble(now), is_reached: self.is_reached }
    }

    /// Why requests are not sent to it as usual: it cannot be reached, does not answer some table in time, or others are
    /// preferred to it.
    fn trouble(&self, now: Instant) -> Option<&Trouble> {
        let slow = self.breakers.iter().find_map(|(_, breaker)| breaker.trouble());
        let avoided = self.avoided.as_ref().filter(|_| self.replica && self.is_avoided(now));
        let unreachable = self.unreachable.as_ref().filter(|(_, last)| now < *last + KNOWN);
        slow.or(unreachable.map(|(trouble, _)| trouble)).or(avoided)
    }

    /// Logs that it cannot be reached, unless that was logged just now.
    pub(super) fn log_unreachable(&mut self, fault: &Fault, now: Instant) {
        if self.logged.is_none_or(|logged| logged + LOG_INTERVAL <= now) {
            self.logged = Some(now);
            log::info(format_args!("unreachable backend={} cause=\"{fault}\"", self.label));
        }
    }
}

/// The number by which breakers distinguish keys.
fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
