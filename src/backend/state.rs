//! The state of a connection.

use std::time::Instant;

/// Connecting ── accepted, no TLS ──▶ Open ── keep-alive ends, fault ──▶ removed
///      └── accepted ──▶ Handshaking ── complete ──▶ Open
#[derive(Debug)]
pub(super) enum State {
    Connecting,
    Handshaking { accepted: Instant },
    Open { accepted: Instant, since: Instant, history: History },
}

/// What an open connection has carried so far.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum History {
    /// No response, and it has not been idle.
    New,
    /// No response, but it has been idle, so that the backend may have closed it since: a GET may be sent once more.
    Idled,
    /// At least one response.
    Answered,
    /// The response to a request that was sent before the response to another one had arrived.
    Pipelined,
}
