//! Whether a backend is worth asking: a circuit breaker for each.

use std::time::{Duration, Instant};

/// So many faults in a row, without an answer in between, set a backend down.
const FAULTS: u32 = 5;

/// For how long at first; twice as long each time that the probe afterwards fails, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// What a backend asks for with `Retry-After` is granted up to here: mail should not wait longer for one that has recovered.
const MAX_ASKED: Duration = Duration::from_secs(60);

/// Healthy ── [`FAULTS`] in a row ──▶ down ── pause over, one probe ──▶ healthy | down for longer
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    /// Faults since the last answer.
    failures: u32,
    /// How often in a row it was set down.
    pauses: u32,
    /// It is set down; not asked before then, and after that only by one probe at a time.
    down: Option<Instant>,
    /// A probe is on its way; after this it is over in any case.
    probe: Option<Instant>,
    /// What went wrong last.
    cause: String,
}

/// Whether a request may go to a backend now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Permit {
    Allow,
    /// One may, to see how it does.
    Probe,
    Deny,
}

impl CircuitBreaker {
    pub(super) fn permit(&self, now: Instant) -> Permit {
        match self.down {
            None => Permit::Allow,
            Some(until) if now < until || self.probe.is_some_and(|probe| now < probe) => Permit::Deny,
            Some(_) => Permit::Probe,
        }
    }

    /// A probe is sent, which will have ended by `deadline`.
    pub(super) fn probe(&mut self, deadline: Instant) {
        self.probe = Some(deadline);
    }

    /// A probe may have been given up before it was sent, so that another one may go.
    pub(super) fn release(&mut self) {
        self.probe = None;
    }

    /// An answer has come, whatever it says. True if it had been set down.
    pub(super) fn answered(&mut self) -> bool {
        self.failures = 0;
        // The common case, which should cost nothing.
        if self.down.is_none() {
            return false;
        }
        *self = Self::default();
        true
    }

    /// A fault that speaks against the backend as a whole. True if that sets it down.
    pub(super) fn fault(&mut self, cause: impl ToString, now: Instant) -> bool {
        self.failures += 1;
        // Only the probe speaks of the backend as it is now.
        let probed = self.probe.take().is_some();
        match self.down {
            Some(_) if !probed => return false, // from before it was set down
            None if self.failures < FAULTS => return false,
            Some(_) | None => {}
        }
        let pause = LAST_PAUSE.min(FIRST_PAUSE * 2u32.pow(self.pauses.min(8)));
        self.pauses += 1;
        self.cause = cause.to_string();
        let news = self.down.is_none();
        self.down = Some(now + pause);
        news
    }

    /// The backend wants to be left alone for so long (`Retry-After`). True if that sets it down.
    pub(super) fn asked(&mut self, pause: Duration, cause: impl ToString, now: Instant) -> bool {
        let news = self.down.is_none();
        self.cause = cause.to_string();
        self.probe = None;
        self.down = Some(now + pause.min(MAX_ASKED));
        news
    }

    /// What went wrong last.
    pub(super) fn cause(&self) -> &str {
        &self.cause
    }

    /// True if there were faults since the last answer.
    pub(super) fn has_faults(&self) -> bool {
        self.failures > 0 || self.down.is_some()
    }

    pub(super) fn is_down(&self) -> bool {
        self.down.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_faults_in_a_row_set_a_backend_aside_and_one_probe_decides() {
        let (mut breaker, mut now) = (CircuitBreaker::default(), Instant::now());
        assert!(!breaker.fault("a", now) && !breaker.fault("b", now));
        assert!(!breaker.answered());
        assert_eq!(["c", "d", "x", "y"].map(|cause| breaker.fault(cause, now)), [false; 4]);
        assert_eq!(breaker.permit(now), Permit::Allow);
        assert!(breaker.fault("e", now));
        for pause in [250, 500, 1000, 2000, 2000] {
            assert!(!breaker.fault("late", now), "from before");
            now += Duration::from_millis(pause - 1);
            assert_eq!(breaker.permit(now), Permit::Deny);
            now += Duration::from_millis(1);
            assert_eq!(breaker.permit(now), Permit::Probe);
            breaker.probe(now + Duration::from_secs(5));
            assert_eq!(breaker.permit(now), Permit::Deny, "one probe at a time");
            assert!(!breaker.fault("f", now));
            assert_eq!(breaker.cause(), "f");
        }
        now += LAST_PAUSE;
        breaker.probe(now + Duration::from_secs(5));
        assert!(breaker.answered());
        assert_eq!(breaker.permit(now), Permit::Allow);
    }

    #[test]
    fn a_probe_that_is_lost_does_not_close_it_for_ever() {
        let (mut breaker, mut now) = (CircuitBreaker::default(), Instant::now());
        assert_eq!([(); 5].map(|()| breaker.fault("x", now)), [false, false, false, false, true]);
        now += FIRST_PAUSE;
        breaker.probe(now + Duration::from_secs(5));
        now += Duration::from_secs(5);
        assert_eq!(breaker.permit(now), Permit::Probe);
    }

    #[test]
    fn a_backend_that_asks_for_a_pause_gets_it_within_limits() {
        let (mut breaker, now) = (CircuitBreaker::default(), Instant::now());
        assert!(breaker.asked(Duration::from_secs(7), "answered 503", now));
        assert_eq!(breaker.permit(now + Duration::from_secs(6)), Permit::Deny);
        assert_eq!(breaker.permit(now + Duration::from_secs(7)), Permit::Probe);
        breaker.asked(Duration::from_secs(86_400), "answered 503", now);
        assert_eq!(breaker.permit(now + MAX_ASKED), Permit::Probe);
    }
}
