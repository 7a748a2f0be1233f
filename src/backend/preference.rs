//! Which replicas are less preferred than others: after faults in a row, or when it requests a pause, a replica is so
//! for a while. Pure. It never denies a request.

use std::time::{Duration, Instant};

/// Number of faults in a row that make a replica less preferred.
const FAULTS: u32 = 5;

/// The time for which it is less preferred: doubled with each further fault in a row, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// The longest pause that `Retry-After` can set.
// Mail should not avoid a backend for longer that has recovered meanwhile.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Preference {
    /// Faults since the last response that was none.
    faults: u32,
    /// It is less preferred until then.
    avoided: Option<Instant>,
}

impl Preference {
    pub(super) fn is_avoided(&self, now: Instant) -> bool {
        self.avoided.is_some_and(|until| now < until)
    }

    /// True if there were faults since the last response that was none.
    pub(super) fn has_faults(&self) -> bool {
        self.faults > 0 || self.avoided.is_some()
    }

    /// A fault. True if it is avoided now, and was not since the last success.
    pub(super) fn on_fault(&mut self, now: Instant) -> bool {
        self.faults = self.faults.saturating_add(1);
        let Some(further) = self.faults.checked_sub(FAULTS) else { return false };
        self.avoid(LAST_PAUSE.min(FIRST_PAUSE * 2u32.pow(further.min(8))), now)
    }

    /// The replica has requested this pause with `Retry-After` (RFC 9110, 10.2.3). True as above.
    pub(super) fn on_retry_after(&mut self, pause: Duration, now: Instant) -> bool {
        self.avoid(pause.min(MAX_RETRY_AFTER), now)
    }

    fn avoid(&mut self, pause: Duration, now: Instant) -> bool {
        let is_new = self.avoided.is_none();
        self.avoided = Some(now + pause);
        is_new
    }

    /// A response that is no fault. True if it had been avoided.
    pub(super) fn on_success(&mut self) -> bool {
        let was_avoided = self.avoided.is_some();
        *self = Self::default();
        was_avoided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_faults_in_a_row_make_a_replica_less_preferred_for_longer_and_longer() {
        let (mut preference, now) = (Preference::default(), Instant::now());
        assert!((0..4).all(|_| !preference.on_fault(now)) && !preference.is_avoided(now));
        assert!(preference.on_fault(now));
        for pause in [250, 500, 1000, 2000, 2000] {
            let pause = Duration::from_millis(pause);
            assert!(
                preference.is_avoided(now + pause - Duration::from_millis(1)) && !preference.is_avoided(now + pause)
            );
            assert!(!preference.on_fault(now), "no is_new");
        }
        assert!(preference.on_success() && !preference.has_faults() && !preference.on_success());
    }

    #[test]
    fn a_requested_pause_has_a_limit() {
        let (mut preference, now) = (Preference::default(), Instant::now());
        assert!(preference.on_retry_after(Duration::from_secs(7), now));
        assert!(
            preference.is_avoided(now + Duration::from_secs(6)) && !preference.is_avoided(now + Duration::from_secs(7))
        );
        preference.on_retry_after(Duration::from_secs(86_400), now);
        assert!(!preference.is_avoided(now + MAX_RETRY_AFTER));
    }
}
