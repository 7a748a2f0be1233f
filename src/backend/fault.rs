//! Why an exchange has no response, in the words of the mail log.

use super::queue::MAX_WAITING;
use super::redirect::RedirectError;
use crate::wire::http;
use std::fmt;
use std::io::ErrorKind;

/// Why an exchange has no response. `Display` completes a sentence that begins with the backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    Unresolved(String),
    Unreachable(ErrorKind),
    ConnectTimeout,
    /// The TLS handshake failed, for this reason.
    Handshake(String),
    HandshakeTimeout,
    /// TLS broke after the handshake, for this reason.
    Tls(String),
    /// The stream ended without `close_notify` within a body that lasts until the end: any party may have cut it off.
    Truncated,
    /// This status came from a server that had requested a client certificate.
    CertificateRejected(u16),
    /// Closed before the first byte of the response.
    Closed,
    /// Closed within the response.
    Cut,
    Broken(ErrorKind),
    Malformed(http::Error),
    /// Bytes arrived before the request had left.
    Unsolicited,
    /// A redirect with this status that is not followed.
    Redirect(u16, RedirectError),
    /// The circuit breaker denies requests, for this reason.
    Down(String),
    Overloaded,
    Timeout(Phase),
    /// A program has answered with this text, which may have anything in it.
    Reported(String),
    /// What else has failed, in words that complete the sentence.
    Failed(String),
}

/// The phase in which an exchange was when its deadline passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    Resolve,
    Connect,
    Handshake,
    Queue,
    /// Waiting for a process.
    Process,
    Head,
    Body,
}

impl Fault {
    /// What the backend itself says about it.
    pub fn detail(&self) -> Option<&str> {
        if let Fault::Reported(text) = self { Some(text) } else { None }
    }

    /// True if an invalid response has arrived.
    pub(super) fn is_invalid_response(&self) -> bool {
        matches!(self, Fault::Malformed(_) | Fault::Truncated | Fault::Cut)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unresolved(error) => write!(f, "has no address: {error}"),
            Fault::Unreachable(ErrorKind::ConnectionRefused) => f.write_str("refused the connection"),
            Fault::Unreachable(kind) => write!(f, "is unreachable: {kind}"),
            Fault::ConnectTimeout => f.write_str("did not accept the connection in time"),
            Fault::Handshake(error) => write!(f, "failed the TLS handshake: {error}"),
            Fault::HandshakeTimeout => f.write_str("did not complete the TLS handshake in time"),
            Fault::Tls(error) => write!(f, "broke TLS: {error}"),
            Fault::Truncated => f.write_str("closed without close_notify"),
            Fault::CertificateRejected(status) => write!(f, "rejected the client certificate: answered {status}"),
            Fault::Closed => f.write_str("closed the connection without an answer"),
            Fault::Cut => f.write_str("closed the connection within its answer"),
            Fault::Broken(kind) => write!(f, "broke the connection: {kind}"),
            Fault::Malformed(error) => write!(f, "sent an invalid response: {error}"),
            Fault::Unsolicited => f.write_str("sent an unsolicited response"),
            Fault::Redirect(status, RedirectError::NoLocation) => {
                write!(f, "answered {status} without a usable location")
            }
            Fault::Redirect(status, RedirectError::OtherOrigin) => write!(f, "answered {status} to another origin"),
            Fault::Redirect(status, RedirectError::ToTls) => {
                write!(f, "answered {status} to https:// on the same host, which the table should name itself")
            }
            Fault::Redirect(status, RedirectError::TooManyHops) => write!(f, "answered {status} too often"),
            Fault::Down(cause) => write!(f, "is marked down: {cause}"),
            Fault::Reported(_) => f.write_str("reported an error"),
            Fault::Failed(cause) => f.write_str(cause),
            Fault::Overloaded => write!(f, "is overloaded: {MAX_WAITING} requests are waiting"),
            Fault::Timeout(phase) => f.write_str(match phase {
                Phase::Resolve => "was not resolved in time",
                Phase::Connect => "did not accept a connection in time",
                Phase::Handshake => "did not complete a TLS handshake in time",
                Phase::Queue => "had no connection free in time",
                Phase::Process => "had no process free in time",
                Phase::Head => "did not answer in time",
                Phase::Body => "did not complete its answer in time",
            }),
        }
    }
}
