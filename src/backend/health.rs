//! Whether a backend is worth asking: a circuit breaker for each.

use std::time::{Duration, Instant};

/// So many faults in a row, without an answer in between, set a backend aside.
const FAULTS: u32 = 5;

/// For how long at first; twice as long each time that the probe afterwards fails, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// What a backend asks for with `Retry-After` is granted up to here: mail should not wait longer for one that has recovered.
const MAX_ASKED: Duration = Duration::from_secs(60);

/// Healthy ── [`FAULTS`] in a row ──▶ aside ── pause over, one probe ──▶ healthy | aside for longer
#[derive(Debug, Default)]
pub struct Health {
    /// Faults since the last answer.
    faults: u32,
    /// How often in a row it was set aside.
    pauses: u32,
    /// It is set aside; not asked before then, and after that only by one probe at a time.
    aside: Option<Instant>,
    /// A probe is on its way; after this it is over in any case.
    probe: Option<Instant>,
    /// What went wrong last.
    cause: String,
}

/// Whether a request may go to a backend now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    Open,
    /// One may, to see how it does.
    Probe,
    Closed,
}

impl Health {
    pub fn admission(&self, now: Instant) -> Admission {
        match self.aside {
            None => Admission::Open,
            Some(until) if now < until || self.probe.is_some_and(|probe| now < probe) => Admission::Closed,
            Some(_) => Admission::Probe,
        }
    }

    /// A probe is sent, which will have ended by `deadline`.
    pub fn probe(&mut self, deadline: Instant) {
        self.probe = Some(deadline);
    }

    /// A probe may have been given up before it was sent, so that another one may go.
    pub fn release(&mut self) {
        self.probe = None;
    }

    /// An answer has come, whatever it says. True if it had been set aside.
    pub fn answered(&mut self) -> bool {
        self.faults = 0;
        if self.aside.is_none() {
            return false;
        }
        *self = Self::default();
        true
    }

    /// A fault that speaks against the backend as a whole. True if that sets it aside.
    pub fn fault(&mut self, cause: impl ToString, now: Instant) -> bool {
        self.faults += 1;
        let probed = self.probe.take().is_some();
        match self.aside {
            Some(_) if !probed => return false, // from before it was set aside
            None if self.faults < FAULTS => return false,
            Some(_) | None => {}
        }
        let pause = LAST_PAUSE.min(FIRST_PAUSE * 2u32.pow(self.pauses.min(8)));
        self.pauses += 1;
        self.cause = cause.to_string();
        let news = self.aside.is_none();
        self.aside = Some(now + pause);
        news
    }

    /// The backend wants to be left alone for so long (`Retry-After`). True if that sets it aside.
    pub fn asked(&mut self, pause: Duration, cause: impl ToString, now: Instant) -> bool {
        let news = self.aside.is_none();
        self.cause = cause.to_string();
        self.probe = None;
        self.aside = Some(now + pause.min(MAX_ASKED));
        news
    }

    /// What went wrong last.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// True if there were faults since the last answer.
    pub fn is_doubted(&self) -> bool {
        self.faults > 0 || self.aside.is_some()
    }

    pub fn is_aside(&self) -> bool {
        self.aside.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_faults_in_a_row_set_a_backend_aside_and_one_probe_decides() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        assert!(!health.fault("a", now) && !health.fault("b", now));
        assert!(!health.answered());
        assert_eq!(["c", "d", "x", "y"].map(|cause| health.fault(cause, now)), [false; 4]);
        assert_eq!(health.admission(now), Admission::Open);
        assert!(health.fault("e", now));
        for pause in [250, 500, 1000, 2000, 2000] {
            assert!(!health.fault("late", now), "from before");
            now += Duration::from_millis(pause - 1);
            assert_eq!(health.admission(now), Admission::Closed);
            now += Duration::from_millis(1);
            assert_eq!(health.admission(now), Admission::Probe);
            health.probe(now + Duration::from_secs(5));
            assert_eq!(health.admission(now), Admission::Closed, "one probe at a time");
            assert!(!health.fault("f", now));
            assert_eq!(health.cause(), "f");
        }
        now += LAST_PAUSE;
        health.probe(now + Duration::from_secs(5));
        assert!(health.answered());
        assert_eq!(health.admission(now), Admission::Open);
    }

    #[test]
    fn a_probe_that_is_lost_does_not_close_it_for_ever() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        assert_eq!([(); 5].map(|()| health.fault("x", now)), [false, false, false, false, true]);
        now += FIRST_PAUSE;
        health.probe(now + Duration::from_secs(5));
        now += Duration::from_secs(5);
        assert_eq!(health.admission(now), Admission::Probe);
    }

    #[test]
    fn a_backend_that_asks_for_a_pause_gets_it_within_limits() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert!(health.asked(Duration::from_secs(7), "answered 503", now));
        assert_eq!(health.admission(now + Duration::from_secs(6)), Admission::Closed);
        assert_eq!(health.admission(now + Duration::from_secs(7)), Admission::Probe);
        health.asked(Duration::from_secs(86_400), "answered 503", now);
        assert_eq!(health.admission(now + MAX_ASKED), Admission::Probe);
    }
}
