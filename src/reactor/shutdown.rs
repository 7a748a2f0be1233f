//! The stages of a shutdown.

use std::time::{Duration, Instant};

/// Time for which connected clients may still send requests after a shutdown was requested.
// A client that has just connected has not sent its request yet, and postmap dies of SIGPIPE if the connection is
// closed before it does.
const GRACE: Duration = Duration::from_millis(100);

/// Running ── signal ──▶ Grace ── grace over ──▶ Draining ── drained or deadline ──▶ end
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Shutdown {
    #[default]
    Running,
    /// Listeners are closed; connected clients may send requests until `drain_from`.
    Grace { drain_from: Instant, deadline: Instant },
    /// No more requests are read; those in flight are answered until `deadline`.
    Draining { deadline: Instant },
}

impl Shutdown {
    /// Begins a shutdown that ends at `deadline` at the latest; a second request ends it immediately. `clients` is true
    /// if any are connected.
    pub(super) fn request(&mut self, clients: bool, deadline: Instant, now: Instant) {
        *self = match self {
            // Without clients nothing can arrive, and the exit need not be delayed.
            Shutdown::Running => {
                Shutdown::Grace { drain_from: now + if clients { GRACE } else { Duration::ZERO }, deadline }
            }
            Shutdown::Grace { .. } | Shutdown::Draining { .. } => Shutdown::Draining { deadline: now },
        };
    }

    pub(super) fn is_running(self) -> bool {
        self == Shutdown::Running
    }

    /// Enters the next stage when it is due. True if that is draining.
    pub(super) fn begins_to_drain(&mut self, now: Instant) -> bool {
        match *self {
            Shutdown::Grace { drain_from, deadline } if drain_from <= now => {
                *self = Shutdown::Draining { deadline };
                true
            }
            Shutdown::Running | Shutdown::Grace { .. } | Shutdown::Draining { .. } => false,
        }
    }

    /// True if no request is in flight any more, or the deadline has passed.
    pub(super) fn is_over(self, drained: impl FnOnce() -> bool, now: Instant) -> bool {
        match self {
            Shutdown::Running => false,
            // Idle now, but a request may still arrive.
            Shutdown::Grace { deadline, .. } => deadline <= now,
            Shutdown::Draining { deadline } => deadline <= now || drained(),
        }
    }

    /// When the next stage is due.
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
    fn clients_may_send_requests_during_the_grace() {
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
    fn a_second_request_ends_a_shutdown_immediately() {
        let (mut shutdown, now) = (Shutdown::default(), Instant::now());
        let deadline = now + Duration::from_secs(20);
        (0..2).for_each(|_| shutdown.request(true, deadline, now));
        assert!(shutdown.is_over(|| false, now));
    }
}
