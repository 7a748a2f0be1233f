//! What follows from the outcome of an exchange. Pure: no clock, no pool, no log.

/// What the decision depends on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Facts {
    /// Sending the request twice does no more than sending it once (a GET).
    pub safe: bool,
    /// A request for a decision, which changes nothing if it is sent twice because a connection was closed.
    pub repeatable: bool,
    /// It was sent again once before.
    pub resent: bool,
    /// Another backend may be used in place of the current one.
    pub other_route: bool,
}

/// How an attempt has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// A whole response.
    Response {
        status: u16,
        /// The status is about the client certificate, and not about the request.
        certificate: bool,
        /// The backend has another address, which may be used in place of this one.
        other_address: bool,
    },
    /// The connection has closed before a whole response.
    Closed {
        progress: Progress,
        /// It had answered a request before.
        reused: bool,
        /// The response before had `Connection: close`.
        announced: bool,
    },
    /// No connection could be made.
    Unreachable,
    /// Too many wait for the backend.
    Overloaded,
}

/// The progress of a request when its connection closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Progress {
    /// The kernel has taken no byte of it.
    Unsent,
    /// The backend may have seen it; no byte of the response has arrived.
    Sent,
    /// A part of the response has arrived.
    Begun,
    /// A part of it was used.
    Streamed,
}

/// What to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// The response is the result.
    Deliver,
    /// Send the request to where the response points.
    Redirect,
    /// Send it again as if it had not been sent, in front of what came later.
    Requeue,
    /// Send it once more, on a new connection.
    Resend,
    /// Send it to another backend.
    FailOver,
    /// There is no result. `sent` is whether the backend may have seen the request.
    Fail { sent: bool },
}

/// Decides what follows.
// A request that is not safe is never sent twice, unless no byte of it has left or the backend has announced that it
// ignores it: the backend may have carried it out.
pub(super) fn next(facts: Facts, outcome: Outcome) -> Next {
    let Facts { safe, repeatable, resent, other_route } = facts;
    match outcome {
        Outcome::Response { status: 301 | 302 | 303 | 307 | 308, .. } if safe => Next::Redirect,
        Outcome::Response { status, certificate, other_address } => match status {
            // A gateway that cannot reach the backend behind it: another one may.
            502..=504 if safe && other_route => Next::FailOver,
            // The rate that it limits may be that of one replica.
            429 if safe && other_route => Next::FailOver,
            502..=504 if safe && other_address && !resent => Next::Resend,
            // A replica may accept the certificate. Without one it is a fault and no miss: an expired certificate would
            // bounce all mail.
            _ if safe && certificate && other_route => Next::FailOver,
            _ if (safe || repeatable) && certificate => Next::Fail { sent: true },
            _ => Next::Deliver,
        },
        Outcome::Closed { progress, reused, announced } => match progress {
            // A used connection may be closed at any time, and the backend has seen nothing of the request.
            Progress::Unsent if reused => Next::Requeue,
            Progress::Unsent if other_route => Next::FailOver,
            // A server ignores what follows its announced end (RFC 9112, 9.6).
            Progress::Sent if announced => Next::Requeue,
            // The close may have crossed with the request: a server may close an idle connection at any time.
            Progress::Sent if (safe || repeatable) && reused && !resent => Next::Resend,
            Progress::Sent | Progress::Begun if safe && other_route => Next::FailOver,
            // What was used would come again.
            Progress::Streamed => Next::Fail { sent: true },
            // A new connection would be no better the next time.
            Progress::Unsent => Next::Fail { sent: false },
            Progress::Sent | Progress::Begun => Next::Fail { sent: true },
        },
        Outcome::Unreachable | Outcome::Overloaded if other_route => Next::FailOver,
        Outcome::Unreachable | Outcome::Overloaded => Next::Fail { sent: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Facts = Facts { safe: true, repeatable: false, resent: false, other_route: false };
    const RESENT: Facts = Facts { resent: true, ..GET };
    const REPLICATED: Facts = Facts { other_route: true, ..GET };
    const WRITE: Facts = Facts { safe: false, ..GET };
    const REPLICATED_WRITE: Facts = Facts { safe: false, ..REPLICATED };

    fn response(status: u16) -> Outcome {
        Outcome::Response { status, certificate: false, other_address: false }
    }

    fn closed(progress: Progress, reused: bool) -> Outcome {
        Outcome::Closed { progress, reused, announced: false }
    }

    #[test]
    fn every_outcome_has_its_consequence() {
        use Progress::{Begun, Sent, Unsent};
        let rejected = Outcome::Response { status: 403, certificate: true, other_address: false };
        let two_addresses = |status| Outcome::Response { status, certificate: false, other_address: true };
        let announced = |progress| Outcome::Closed { progress, reused: true, announced: true };
        let (sent, unsent) = (Next::Fail { sent: true }, Next::Fail { sent: false });
        // The outcome, and what follows for each of GET, RESENT, REPLICATED, WRITE, REPLICATED_WRITE.
        use Next::{Deliver, FailOver, Redirect, Requeue, Resend};
        let cases = [
            (response(200), [Deliver; 5]),
            (response(204), [Deliver; 5]),
            (response(404), [Deliver; 5]),
            (response(500), [Deliver; 5]),
            (response(304), [Deliver; 5]),
            (response(301), [Redirect, Redirect, Redirect, Deliver, Deliver]),
            (response(302), [Redirect, Redirect, Redirect, Deliver, Deliver]),
            (response(303), [Redirect, Redirect, Redirect, Deliver, Deliver]),
            (response(307), [Redirect, Redirect, Redirect, Deliver, Deliver]),
            (response(308), [Redirect, Redirect, Redirect, Deliver, Deliver]),
            (response(502), [Deliver, Deliver, FailOver, Deliver, Deliver]),
            (response(503), [Deliver, Deliver, FailOver, Deliver, Deliver]),
            (response(504), [Deliver, Deliver, FailOver, Deliver, Deliver]),
            (response(429), [Deliver, Deliver, FailOver, Deliver, Deliver]),
            (two_addresses(200), [Deliver; 5]),
            (two_addresses(503), [Resend, Deliver, FailOver, Deliver, Deliver]),
            (rejected, [sent, sent, FailOver, Deliver, Deliver]),
            (closed(Unsent, false), [unsent, unsent, FailOver, unsent, FailOver]),
            (closed(Unsent, true), [Requeue; 5]),
            (closed(Sent, false), [sent, sent, FailOver, sent, sent]),
            (closed(Sent, true), [Resend, sent, Resend, sent, sent]),
            (closed(Begun, false), [sent, sent, FailOver, sent, sent]),
            (closed(Begun, true), [sent, sent, FailOver, sent, sent]),
            (announced(Unsent), [Requeue; 5]),
            (announced(Sent), [Requeue; 5]),
            (announced(Begun), [sent, sent, FailOver, sent, sent]),
            (Outcome::Unreachable, [unsent, unsent, FailOver, unsent, FailOver]),
            (Outcome::Overloaded, [unsent, unsent, FailOver, unsent, FailOver]),
        ];
        // A request for a decision is a write that may be sent again once, and whose 403 would be one.
        let again = Facts { repeatable: true, ..WRITE };
        let resent = Facts { resent: true, ..again };
        for (outcome, asked, asked_again) in [
            (closed(Sent, true), Resend, sent),
            (closed(Sent, false), sent, sent),
            (closed(Begun, true), sent, sent),
            (closed(Unsent, true), Requeue, Requeue),
            (response(503), Deliver, Deliver),
            (response(302), Deliver, Deliver),
            (two_addresses(503), Deliver, Deliver),
            (rejected, sent, sent),
        ] {
            assert_eq!([next(again, outcome), next(resent, outcome)], [asked, asked_again], "{outcome:?}");
        }
        for (outcome, expected) in cases {
            let got = [GET, RESENT, REPLICATED, WRITE, REPLICATED_WRITE].map(|facts| next(facts, outcome));
            assert_eq!(got, expected, "{outcome:?}");
        }
    }
}
