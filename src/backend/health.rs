//! Whether a backend is sent requests, and what its responses and faults mean for that.

use super::breaker::{CircuitBreaker, Permit};
use super::fault::Fault;
use crate::log;
use std::time::{Duration, Instant};

/// Shortest time between two log lines that say that a backend is unreachable: each lookup may find it out again.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The circuit breaker of one backend, with the rules of what counts.
#[derive(Debug)]
pub(super) struct Health {
    label: String,
    breaker: CircuitBreaker,
    /// Tables may ask another backend in its place.
    replica: bool,
    /// When it was logged last that it is unreachable.
    logged: Option<Instant>,
}

impl Health {
    pub(super) fn new(label: &str) -> Self {
        Self { label: label.to_owned(), breaker: CircuitBreaker::default(), replica: false, logged: None }
    }

    pub(super) fn set_replica(&mut self) {
        self.replica = true;
    }

    pub(super) fn permit(&self, now: Instant) -> Permit {
        self.breaker.permit(now)
    }

    pub(super) fn is_down(&self) -> bool {
        self.breaker.is_down()
    }

    /// Why requests are denied.
    pub(super) fn down_cause(&self) -> Fault {
        Fault::Down(self.breaker.cause().to_owned())
    }

    /// A request that ends by `deadline` is sent; it is the probe if there has to be one.
    pub(super) fn on_submit(&mut self, deadline: Instant, now: Instant) {
        if self.breaker.is_down() && self.breaker.permit(now) == Permit::Probe {
            self.breaker.probe(deadline);
        }
    }

    /// Requests were dropped that were not sent; a probe may have been among them.
    pub(super) fn release_probe(&mut self) {
        self.breaker.release();
    }

    /// True if a response with this status may change the state of the breaker.
    pub(super) fn may_change(&self, status: u16) -> bool {
        matches!(status, 429 | 502..=504) || self.breaker.has_faults()
    }

    /// A fault that speaks against the backend as a whole. True if it is down now, and was not before. A backend without
    /// replicas, and without `several` addresses, is only held responsible for what costs time (`slow`): otherwise
    /// sending a request costs as little as knowing the result, and one key that it cannot answer must not keep it from
    /// answering others.
    pub(super) fn record_failure(&mut self, cause: &impl ToString, slow: bool, several: bool, now: Instant) -> bool {
        // Once it is down, whatever happens to the probe decides.
        let counts = slow || self.replica || several || self.breaker.is_down();
        if !counts || !self.breaker.fault(cause.to_string(), now) {
            return false;
        }
        log::warn(format_args!("backend-down backend={} cause=\"{}\"", self.label, self.breaker.cause()));
        true
    }

    /// The backend wants no requests for a while (`Retry-After`). True if it is down now, and was not before.
    pub(super) fn record_retry_after(&mut self, seconds: u32, status: u16, now: Instant) -> bool {
        let (pause, cause) = (Duration::from_secs(seconds.into()), format!("answered {status}"));
        if !self.breaker.asked(pause, &cause, now) {
            return false;
        }
        log::warn(format_args!("backend-down backend={} cause=\"{cause}\" seconds={seconds}", self.label));
        true
    }

    /// Logs that it cannot be reached, unless that was logged just now.
    pub(super) fn log_unreachable(&mut self, fault: &Fault, now: Instant) {
        if self.logged.is_none_or(|logged| logged + LOG_INTERVAL <= now) {
            self.logged = Some(now);
            log::info(format_args!("unreachable backend={} cause=\"{fault}\"", self.label));
        }
    }

    /// A response that is no fault.
    pub(super) fn record_success(&mut self) {
        if self.breaker.answered() {
            log::warn(format_args!("backend-up backend={}", self.label));
        }
    }
}
