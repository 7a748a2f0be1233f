//! Requests of clients and the replies to them.

use crate::arena::Key;
use crate::query::{Answer, Decision, Failure, Outcome, Query};
use crate::wire;
use std::fmt;
use std::time::Instant;

/// Maximum length in bytes of a request that is buffered: the payload of a netstring, or a dict line.
// Dovecot's own dict server has the same limit for a line (dict-client.h).
pub const MAX_REQUEST: usize = 65_536;

/// Maximum length of a key in bytes.
pub(super) const MAX_KEY: usize = 65_000;

/// A command of a client.
#[derive(Debug)]
pub enum Event<'a> {
    /// Needs no reply, or its reply has been written.
    Nothing,
    Request {
        seq: u64,
        /// `None` stands for the table that the client has named in HELLO.
        table: Option<&'a [u8]>,
        query: Query<'a>,
    },
    /// A lookup whose key is longer than `MAX_KEY`, in the table with this name.
    LongKey { seq: u64, table: Vec<u8> },
    /// A request to the metrics listener.
    Admin(AdminRequest),
}

/// A request to the metrics listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AdminRequest {
    Metrics,
    /// The status page, and the same as text.
    Page,
    Status,
    Health,
    Readiness,
    /// Answered 404.
    UnknownPath,
    /// A method other than GET and HEAD, answered 405.
    OtherMethod,
}

/// The destination of a reply: the client, and the sequence number of its request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReplyTo {
    pub client: Key,
    pub seq: u64,
}

/// A reply to a request, or a part of one.
#[derive(Debug)]
pub enum Reply<'a> {
    Answer(Answer<'a>),
    /// An answer, with a line for each key that was asked for.
    Explained {
        steps: &'a str,
        answer: Answer<'a>,
    },
    /// A row of an iteration; more follow.
    Row {
        name: &'a [u8],
        value: &'a [u8],
    },
    /// The end of an iteration.
    End,
    /// The end of an iteration or lookup that failed.
    Failed(Failure),
    /// The result of the transaction with this id.
    Committed(u32, Outcome),
    /// A decision; `None` is a fault.
    Decided(Option<Decision>),
    /// None: the connection is closed after the replies that are owed, until this time.
    Close(Instant),
}

/// A violation of the protocol by the client. Its connection is closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProtocolError {
    /// The first byte belongs to neither protocol.
    Protocol,
    Netstring(wire::netstring::Error),
    Dict(wire::dict::Error),
    /// A dict command before HELLO, or a second HELLO.
    Hello,
    /// An unsupported major version of the dict protocol.
    Version,
    /// An id of an unknown transaction, or one that is already in use.
    Transaction,
    /// Not an HTTP request, or too long, at the metrics listener.
    Http,
    /// Not a policy request, too long, or with too many attributes.
    Policy,
    /// Not a command of an authentication client, too long, or with an id that is in use.
    Sasl,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolError::Protocol => f.write_str("neither socketmap nor dict"),
            ProtocolError::Netstring(error) => error.fmt(f),
            ProtocolError::Dict(error) => error.fmt(f),
            ProtocolError::Hello => f.write_str("dict command before HELLO, or a second HELLO"),
            ProtocolError::Version => f.write_str("unknown major version of the dict protocol"),
            ProtocolError::Transaction => f.write_str("unknown or reused transaction id"),
            ProtocolError::Http => f.write_str("invalid HTTP request to the metrics listener"),
            ProtocolError::Policy => f.write_str("not a policy request of smtpd"),
            ProtocolError::Sasl => f.write_str("not a command of an authentication client"),
        }
    }
}
