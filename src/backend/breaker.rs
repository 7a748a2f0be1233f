//! Whether a backend answers one table in time: a circuit breaker. Pure: time and keys come in as numbers.

use super::report::Trouble;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Timeouts in a row that open a breaker.
const TIMEOUTS: usize = 5;

/// Different keys among them.
// One key that hangs, however often it is requested, is no evidence about the others.
const KEYS: usize = 3;

/// Time from the opening to the first probe.
const FIRST_PROBE: Duration = Duration::from_millis(250);

/// Shortest time between two probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// The time for which a key that has hung is not used as a probe.
// Not for longer, as it may be the only key in use: a Dovecot with a single user left its backend down for good.
const HUNG: Duration = Duration::from_secs(2);

/// Maximum number of hung keys that are remembered.
const MAX_HUNG: usize = 64;

/// The breaker of one table at one backend. It counts timeouts only.
// A fault that comes at once costs as little as a denied request, and is no evidence about other keys: with faults
// counted, one key that a backend could not answer failed the lookups of all others.
///
/// Closed ── [`TIMEOUTS`] in a row, of [`KEYS`] keys ──▶ Open ── any response ──▶ Closed
#[derive(Debug)]
pub(super) enum CircuitBreaker {
    Closed {
        /// Timeouts in a row so far.
        timeouts: usize,
        /// Their different keys.
        // Timeouts are counted apart from keys, so that a row of one key cannot push the others out. Bounded, because
        // the breaker opens with five timeouts of three keys.
        keys: Vec<u64>,
    },
    Open {
        /// The next request from then on is a probe.
        next_probe: Instant,
        /// The deadline of the last probe, which may hang until then.
        // Each further probe of a hung backend would cost another lookup.
        probed_until: Instant,
        /// Keys that have hung, and when.
        hung: VecDeque<(u64, Instant)>,
        trouble: Trouble,
    },
}

/// Whether a request may be sent to a backend now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Permit {
    Allow,
    /// It may, as a probe of a backend that is down.
    Probe,
    /// The same, but an earlier probe may still be hanging: only if no other backend can answer.
    SpareProbe,
    Deny,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self::Closed { timeouts: 0, keys: Vec::new() }
    }
}

impl CircuitBreaker {
    pub(super) fn permit(&self, key: u64, now: Instant) -> Permit {
        match self {
            Self::Closed { .. } => Permit::Allow,
            Self::Open { next_probe, .. } if now < *next_probe => Permit::Deny,
            Self::Open { hung, .. } if hung.iter().any(|(one, since)| *one == key && now < *since + HUNG) => {
                Permit::Deny
            }
            Self::Open { probed_until, .. } if now < *probed_until => Permit::SpareProbe,
            Self::Open { .. } => Permit::Probe,
        }
    }

    /// A request with this deadline is sent; if the breaker is open, it is a probe.
    pub(super) fn on_submit(&mut self, deadline: Instant, now: Instant) {
        if let Self::Open { next_probe, probed_until, .. } = self {
            *next_probe = now + PROBE_INTERVAL;
            *probed_until = deadline;
        }
    }

    /// The backend had a request for `key` for long enough, and has not answered it in time. True if that opens the
    /// breaker.
    pub(super) fn on_timeout(&mut self, key: u64, cause: &impl ToString, now: Instant) -> bool {
        match self {
            Self::Open { hung, .. } => {
                hung.push_back((key, now));
                if hung.len() > MAX_HUNG {
                    hung.pop_front();
                }
                false
            }
            Self::Closed { timeouts, keys } => {
                *timeouts += 1;
                if !keys.contains(&key) {
                    keys.push(key);
                }
                if *timeouts < TIMEOUTS || keys.len() < KEYS {
                    return false;
                }
                let hung = keys.iter().map(|key| (*key, now)).collect();
                let trouble = Trouble { cause: cause.to_string(), since: now };
                *self = Self::Open { next_probe: now + FIRST_PROBE, probed_until: now, hung, trouble };
                true
            }
        }
    }

    /// The backend has answered, with any status. True if the breaker was open.
    pub(super) fn on_answer(&mut self) -> bool {
        let was_open = self.is_open();
        *self = Self::default();
        was_open
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// Why it is open, and since when.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Closed { .. } => None,
            Self::Open { trouble, .. } => Some(trouble),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn five_timeouts_in_a_row_of_three_keys_open_it() {
        // The keys of timeouts, 0 for a response in between; whether it is open at the end.
        let cases: &[(&[u64], bool)] = &[
            (&[1, 2, 3, 4], false),
            (&[1, 2, 3, 4, 5], true),
            (&[1, 2, 3, 0, 4, 5], false),
            (&[1, 1, 1, 1, 1, 1, 1], false),
            (&[1, 2, 1, 2, 1, 2], false),
            (&[1, 2, 1, 2, 3], true),
            (&[1, 1, 1, 1, 1, 1, 2, 3], true),
            (&[[1; 100].as_slice(), &[2, 3]].concat(), true),
        ];
        for (keys, open) in cases {
            let (mut breaker, now) = (CircuitBreaker::default(), Instant::now());
            for key in *keys {
                match key {
                    0 => drop(breaker.on_answer()),
                    key => drop(breaker.on_timeout(*key, &"did not answer in time", now)),
                }
            }
            assert_eq!(breaker.is_open(), *open, "{keys:?}");
        }
    }

    #[test]
    fn one_request_per_interval_probes_an_open_breaker() {
        let (mut breaker, mut now) = (CircuitBreaker::default(), Instant::now());
        let opened = (1..=5).map(|key| breaker.on_timeout(key, &"slow", now)).filter(|opened| *opened).count();
        assert_eq!(opened, 1);
        assert_eq!(breaker.trouble(), Some(&Trouble { cause: "slow".to_owned(), since: now }));
        assert_eq!(breaker.permit(9, now + FIRST_PROBE - MS), Permit::Deny);
        now += FIRST_PROBE;
        assert_eq!(breaker.permit(3, now), Permit::Deny, "it has just hung");
        assert_eq!(breaker.permit(9, now), Permit::Probe);
        breaker.on_submit(now + 5 * PROBE_INTERVAL, now);
        assert_eq!(breaker.permit(8, now + PROBE_INTERVAL - MS), Permit::Deny);
        assert_eq!(breaker.permit(8, now + PROBE_INTERVAL), Permit::SpareProbe, "the first one may hang");
        assert_eq!(breaker.permit(8, now + 5 * PROBE_INTERVAL), Permit::Probe);
        breaker.on_timeout(9, &"slow", now);
        assert_eq!(breaker.permit(9, now + PROBE_INTERVAL), Permit::Deny);
        assert_eq!(breaker.permit(9, now + HUNG), Permit::Probe, "it may be the only key that is asked for");
        assert!(breaker.on_answer() && !breaker.on_answer());
        assert_eq!(breaker.permit(9, now), Permit::Allow);
    }
}
