//! The stages of a shutdown.

use std::time::{Duration, Instant};

/// How long connected clients may still send requests after a shutdown was requested: one that has just connected has
/// not sent anything yet, and `postmap` dies of SIGPIPE if it writes to a closed connection.
const GRACE: Duration = Duration::from_millis(100);

/// Running ── signal ──▶ Grace ── grace over ──▶ Draining ── drained or deadline ──▶ end
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Shutdown {
    #[default]
    Running,
    /// Listeners are closed; connected clients may still send requests until then.
    Grace { drain_from: Instant, deadline: Instant },
    /// No more requests are read; what is in flight is answered until then.
    Draining { deadline: Instant },
}

impl Shutdown {
    /// A shutdown was requested, while clients are connected or not; what is in flight has until `deadline`. The second
    /// request ends all at once.
    pub(super) fn request(&mut self, clients: bool, deadline: Instant, now: Instant) {
        *self = match self {
            Shutdown::Running => {
                Shutdown::Grace { drain_from: now + if clients { GRACE } else { Duration::ZERO }, deadline }
            }
            Shutdown::Grace { .. } | Shutdown::Draining { .. } => Shutdown::Draining { deadline: now },
        };
    }

    pub(super) fn is_running(self) -> bool {
        self == Shutdown::Running
    }

    /// Goes on to the next stage when its time has come. True if draining begins with that.
    pub(super) fn begins_to_drain(&mut self, now: Instant) -> bool {
        match *self {
            Shutdown::Grace { drain_from, deadline } if drain_from <= now => {
                *self = Shutdown::Draining { deadline };
                true
            }
            Shutdown::Running | Shutdown::Grace { .. } | Shutdown::Draining { .. } => false,
        }
    }

    /// True if it is over: nothing is in flight any more, or its deadline has passed.
    pub(super) fn is_over(self, drained: impl FnOnce() -> bool, now: Instant) -> bool {
        match self {
            Shutdown::Running => false,
            Shutdown::Grace { deadline, .. } => deadline <= now,
            Shutdown::Draining { deadline } => deadline <= now || drained(),
        }
    }

    /// When the next stage begins.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Shutdown::Running => None,
            Shutdown::Grace { drain_from, deadline } => Some(drain_from.min(deadline)),
            Shutdown::Draining { deadline } => Some(deadline),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_a_grace_and_what_is_in_flight_the_rest() {
        let (mut shutdown, now) = (Shutdown::default(), Instant::now());
        let deadline = now + Duration::from_secs(20);
        shutdown.request(true, deadline, now);
        assert!(!shutdown.begins_to_drain(now) && !shutdown.is_over(|| true, now));
        assert_eq!(shutdown.deadline(), Some(now + GRACE));
        assert!(shutdown.begins_to_drain(now + GRACE) && !shutdown.begins_to_drain(now + GRACE));
        assert!(!shutdown.is_over(|| false, now + GRACE) && shutdown.is_over(|| true, now + GRACE));
        assert!(shutdown.is_over(|| false, deadline));
    }

    #[test]
    fn the_second_request_ends_all_at_once() {
        let (mut shutdown, now) = (Shutdown::default(), Instant::now());
        let deadline = now + Duration::from_secs(20);
        (0..2).for_each(|_| shutdown.request(true, deadline, now));
        assert!(shutdown.is_over(|| false, now));
    }
}
