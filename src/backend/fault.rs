//! Why a backend has no answer, in the words of the mail log.

use super::MAX_WAITING;
use super::request::Astray;
use crate::wire::http;
use std::fmt;
use std::io::ErrorKind;

/// Why an exchange has no answer. `Display` completes a sentence that begins with the origin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    Unresolved(String),
    Unreachable(ErrorKind),
    ConnectTimeout,
    /// Closed before the first byte of the response.
    Closed,
    /// The answer to an earlier request said that it was the last one of its connection.
    Last,
    Broken(ErrorKind),
    Malformed(http::Error),
    /// Bytes came before the request had left.
    Early,
    Astray(u16, Astray),
    /// It was set aside, for this reason.
    Aside(String),
    Overloaded,
    Timeout(Phase),
}

/// What an exchange was waiting for when its time was over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    Resolve,
    Connect,
    Queue,
    Head,
    Body,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unresolved(error) => write!(f, "has no address: {error}"),
            Fault::Unreachable(ErrorKind::ConnectionRefused) => f.write_str("refused the connection"),
            Fault::Unreachable(kind) => write!(f, "is unreachable: {kind}"),
            Fault::ConnectTimeout => f.write_str("did not accept the connection in time"),
            Fault::Closed | Fault::Last => f.write_str("closed the connection without an answer"),
            Fault::Broken(kind) => write!(f, "broke the connection: {kind}"),
            Fault::Malformed(error) => write!(f, "sent nonsense: {error}"),
            Fault::Early => f.write_str("answered before it was asked"),
            Fault::Astray(status, Astray::NoLocation) => write!(f, "answered {status} without a usable location"),
            Fault::Astray(status, Astray::OtherOrigin) => write!(f, "answered {status} to another origin"),
            Fault::Astray(status, Astray::TooFar) => write!(f, "answered {status} too often"),
            Fault::Aside(cause) => write!(f, "is set aside: {cause}"),
            Fault::Overloaded => write!(f, "is overloaded: {MAX_WAITING} requests are waiting"),
            Fault::Timeout(phase) => f.write_str(match phase {
                Phase::Resolve => "was not resolved in time",
                Phase::Connect => "did not accept a connection in time",
                Phase::Queue => "had no connection free in time",
                Phase::Head => "did not answer in time",
                Phase::Body => "did not complete its answer in time",
            }),
        }
    }
}
