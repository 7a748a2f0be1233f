//! A connection of a mail server: its protocol, the order of its replies, and its limits.

mod admin;
mod dict;
mod replies;
mod socketmap;

use crate::arena::Key;
use crate::buffer::{Input, Output};
use crate::config::Mode;
use crate::query::{Answer, Failure, Outcome, Query};
use crate::wire;
use replies::Replies;
use std::fmt;

/// Maximum length of a request in bytes: the payload of a netstring, or a dict line.
// Dovecot's own dict server has the same limit for a line (dict-client.h); Postfix bounds its queries by 10 000
// bytes since 3.12 and not at all before.
pub const MAX_REQUEST: usize = 65_536;

/// Maximum number of unanswered requests of one client. No more is read from it at this number.
pub const MAX_OPEN: usize = 1_000;

/// Maximum number of unread bytes of replies. Above it nothing is read from a client and no rows are added.
pub const MAX_UNSENT: usize = 256 * 1024;

/// Bytes of output memory that a dict client retains while it has nothing to send.
// Dovecot sends dozens of lookups at once, and there are few of these clients; Postfix waits for each reply.
const RETAINED_FOR_DICT: usize = 4 * 1024;

/// Maximum number of unread bytes of replies, above which the client is closed.
// `MAX_UNSENT` stops reading, but a client may have sent a thousand requests for large values before that.
const MAX_UNREAD: usize = 64 * 1024 * 1024;

/// A connection of a mail server.
#[derive(Debug)]
pub struct Client {
    protocol: Protocol,
    replies: Replies,
    pub input: Input,
    pub output: Output,
    /// The client has closed its sending side. It is closed once it has received all replies.
    pub ended: bool,
    /// Requests may be left in `input`, because a limit was reached.
    pub paused: bool,
    /// Iterations in progress, whose rows are written as space allows.
    pub iterations: u32,
    /// The client is on the list of clients that may have room again.
    pub resumed: bool,
    /// The value of `moved` when the client was last found stuck.
    // Only a request that is half sent or a reply that is not read is bounded in time. An idle client is never closed:
    // after a failed SMTP delivery, Postfix reports a closed map connection as an error and defers the message
    // (dict_sockmap.c).
    pub watched: Option<u64>,
    /// Bytes read from and written to the client: any change is progress.
    pub moved: u64,
}

#[derive(Debug)]
enum Protocol {
    Unknown,
    Socketmap,
    /// Boxed, because most clients are Postfix processes, of which there may be ten thousand.
    Dict(Box<dict::DictSession>),
    Admin,
}

/// What a client has sent.
#[derive(Debug)]
pub enum Event<'a> {
    /// Needs no reply, or its reply has been written.
    Nothing,
    Ask {
        place: u64,
        /// `None` stands for [`Client::table`].
        table: Option<&'a [u8]>,
        query: Query<'a>,
    },
    /// A request to the metrics listener.
    Admin(AdminPage),
}

/// A page of the metrics listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AdminPage {
    Metrics,
    Health,
    Readiness,
    /// Answered 404.
    Unknown,
    /// A method other than GET, answered 405.
    Refused,
}

/// The destination of a reply: the client, and the place in the order of its replies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReplyTo {
    pub client: Key,
    pub place: u64,
}

/// A reply to a request, or a part of one.
#[derive(Debug)]
pub enum Reply<'a> {
    Answer(Answer<'a>),
    /// A row of an iteration; more follow.
    Row {
        name: &'a [u8],
        value: &'a str,
    },
    /// The end of an iteration.
    End,
    /// The end of an iteration or lookup that failed.
    Failed(Failure),
    /// The result of the transaction with this id.
    Committed(u32, Outcome),
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
    Page,
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
            ProtocolError::Page => f.write_str("no HTTP request to the figures"),
        }
    }
}

impl Client {
    /// A connection that was accepted by a listener with this mode.
    pub fn new(mode: Mode) -> Self {
        let (replies, input, output) = (Replies::default(), Input::default(), Output::default());
        let protocol = Protocol::Unknown;
        let mut client = Self {
            protocol,
            replies,
            input,
            output,
            ended: false,
            paused: false,
            iterations: 0,
            resumed: false,
            watched: None,
            moved: 0,
        };
        match mode {
            Mode::Auto => {}
            Mode::Postfix => client.protocol = Protocol::Socketmap,
            Mode::Admin => client.protocol = Protocol::Admin,
            Mode::Dovecot => client.protocol = client.begin_dict(),
        }
        client
    }

    fn begin_dict(&mut self) -> Protocol {
        self.output.keep(RETAINED_FOR_DICT);
        Protocol::Dict(Box::default())
    }

    /// The table that a dict client has named in HELLO.
    pub fn table(&self) -> &[u8] {
        match &self.protocol {
            Protocol::Dict(session) => session.table(),
            Protocol::Unknown | Protocol::Socketmap | Protocol::Admin => &[],
        }
    }

    /// Parses the request at the front of `input` and returns it with its length in bytes; `None` if it is incomplete.
    ///
    /// # Errors
    /// The client violates the protocol and must be closed.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<Option<(Event<'a>, usize)>, ProtocolError> {
        let Some(first) = input.first() else { return Ok(None) };
        if matches!(self.protocol, Protocol::Unknown) {
            // A netstring begins with a digit, and the first command of a dict connection is always HELLO.
            self.protocol = match first {
                b'0'..=b'9' => Protocol::Socketmap,
                b'H' => self.begin_dict(),
                _ => return Err(ProtocolError::Protocol),
            };
        }
        let next = match &mut self.protocol {
            Protocol::Unknown => Ok(None),
            Protocol::Socketmap => socketmap::next(input, &mut self.replies, &mut self.output),
            Protocol::Dict(session) => session.next(input, &mut self.replies, &mut self.output),
            Protocol::Admin => admin::next(input),
        };
        self.paused |= !self.may_ask();
        next
    }

    /// Writes a reply in its place. `table` is named in reasons.
    pub fn reply(&mut self, place: u64, table: &str, reply: Reply<'_>) {
        let out = self.output.end();
        match &self.protocol {
            Protocol::Unknown | Protocol::Admin => {}
            Protocol::Socketmap => socketmap::reply(place, table, reply, &mut self.replies, out),
            Protocol::Dict(_) => dict::reply(place, reply, &mut self.replies, out),
        }
        self.paused |= !self.may_ask();
    }

    /// Whether this is a connection to the metrics listener.
    pub fn is_admin(&self) -> bool {
        matches!(self.protocol, Protocol::Admin)
    }

    /// Writes the response to the only request of a connection to the metrics listener.
    pub fn respond(&mut self, status: &str, body: &str) {
        admin::respond(status, body, self.output.end());
        self.ended = true;
    }

    /// Whether more requests may be read from the client.
    pub fn may_ask(&self) -> bool {
        self.replies.open() < MAX_OPEN && !self.is_full()
    }

    /// True, once, if the client has to be put on the list of clients that may have room again.
    pub fn has_work(&mut self) -> bool {
        let has_work = self.paused && self.may_ask() || self.iterations > 0;
        has_work && !std::mem::replace(&mut self.resumed, true)
    }

    /// Whether rows of the iteration at `place` can be written now, without being stored.
    pub fn may_stream(&self, place: u64) -> bool {
        !self.is_full() && self.replies.may_stream(place)
    }

    fn is_full(&self) -> bool {
        self.unread() >= MAX_UNSENT
    }

    /// Whether the client leaves so much unread that it must be closed.
    pub fn is_overflowing(&self) -> bool {
        self.unread() > MAX_UNREAD
    }

    /// Bytes of replies that the client has not read.
    fn unread(&self) -> usize {
        self.output.unsent().len() + self.replies.early_bytes()
    }

    /// The number of requests without a complete reply.
    pub fn open(&self) -> usize {
        self.replies.open()
    }

    /// Whether the client has received all replies to what it has sent.
    pub fn is_served(&self) -> bool {
        self.replies.open() == 0 && self.output.is_empty() && !self.paused
    }

    /// Whether the client has sent only a part of a request, or has not read a reply.
    pub fn is_stuck(&self) -> bool {
        !self.output.is_empty() || (!self.input.is_empty() && self.may_ask())
    }
}
