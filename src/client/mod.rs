//! A mail server's connection: which protocol it speaks, the order of its replies, and its bounds.

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

/// The longest request: a netstring's payload or a dict line.
pub const MAX_REQUEST: usize = 65_536; // bytes

/// Requests of one client that may be unanswered. Nothing is read from it while it has more.
pub const MAX_OPEN: usize = 1_000;

/// Nothing is read from a client, and no rows are added, while it leaves more than this unread.
pub const MAX_UNSENT: usize = 256 * 1024; // bytes

/// Memory for replies that a Dovecot keeps: it asks for dozens of keys at once, and there are few of it.
const KEPT_FOR_DICT: usize = 4 * 1024; // bytes

/// A client is closed that leaves more than this unread of what it asked for at once.
const MAX_HEAP: usize = 64 * 1024 * 1024; // bytes

/// A connection of a mail server.
#[derive(Debug)]
pub struct Client {
    protocol: Protocol,
    replies: Replies,
    pub input: Input,
    pub output: Output,
    /// It has closed its sending side, and is closed once it has what it is owed.
    pub ended: bool,
    /// Something of it may wait to be read, because it had too much open or unread.
    pub paused: bool,
    /// Iterations in progress, which have rows to send when there is room.
    pub iterations: u32,
    /// It seemed stuck, and this was its progress then.
    pub watched: Option<u64>,
    /// Bytes that were read from it and written to it: any change is progress.
    pub moved: u64,
}

#[derive(Debug)]
enum Protocol {
    Unknown,
    Socketmap,
    /// Boxed, as most clients are Postfix and ten thousand of them should cost little.
    Dict(Box<dict::DictSession>),
    Admin,
}

/// One request, or a command that is none.
#[derive(Debug)]
pub enum Event<'a> {
    /// Needs no answer, or was answered.
    Nothing,
    Ask {
        place: u64,
        /// `None` is the one that [`Client::table`] names.
        table: Option<&'a [u8]>,
        query: Query<'a>,
    },
    /// Who watches wants to see something.
    Admin(AdminPage),
}

/// What can be seen over HTTP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AdminPage {
    Metrics,
    Health,
    Readiness,
    /// There is no such page.
    Unknown,
    /// Something else than GET.
    Refused,
}

/// Where a reply belongs: its client, and the place in that client's order of replies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReplyTo {
    pub client: Key,
    pub place: u64,
}

/// An answer to a request, or a part of one.
#[derive(Debug)]
pub enum Reply<'a> {
    Answer(Answer<'a>),
    /// A row of an iteration; more follow.
    Row {
        name: &'a [u8],
        value: &'a str,
    },
    /// All rows were sent.
    End,
    /// There will be no more rows.
    Failed(Failure),
    Committed(u32, Outcome),
}

/// What a client did wrong. Its connection is closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProtocolError {
    /// The first byte belongs to no protocol.
    Protocol,
    Netstring(wire::netstring::Error),
    Dict(wire::dict::Error),
    /// A dict command before HELLO, or a second HELLO.
    Hello,
    /// A version of the dict protocol that is not spoken.
    Version,
    /// An id of no transaction, or of one that is open already.
    Transaction,
    /// What came to a listener for figures is no HTTP request, or far too long.
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
        self.output.keep(KEPT_FOR_DICT);
        Protocol::Dict(Box::default())
    }

    /// The name of the table that a dict client has chosen once for all.
    pub fn table(&self) -> &[u8] {
        match &self.protocol {
            Protocol::Dict(session) => session.table(),
            Protocol::Unknown | Protocol::Socketmap | Protocol::Admin => &[],
        }
    }

    /// Takes one request off the front of `input`, with the bytes that it took; `None` until it is whole.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<Option<(Event<'a>, usize)>, ProtocolError> {
        let Some(first) = input.first() else { return Ok(None) };
        if matches!(self.protocol, Protocol::Unknown) {
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

    /// Puts a reply in its place. `table` is for reasons.
    pub fn reply(&mut self, place: u64, table: &str, reply: Reply<'_>) {
        let out = self.output.end();
        match &self.protocol {
            Protocol::Unknown | Protocol::Admin => {}
            Protocol::Socketmap => socketmap::reply(place, table, reply, &mut self.replies, out),
            Protocol::Dict(_) => dict::reply(place, reply, &mut self.replies, out),
        }
        self.paused |= !self.may_ask();
    }

    pub fn is_admin(&self) -> bool {
        matches!(self.protocol, Protocol::Admin)
    }

    /// Puts a page into its output, the only one that it gets.
    pub fn respond(&mut self, status: &str, body: &str) {
        admin::respond(status, body, self.output.end());
        self.ended = true;
    }

    /// True if more requests may be read from it.
    pub fn may_ask(&self) -> bool {
        self.replies.open() < MAX_OPEN && !self.is_full()
    }

    /// True if rows of an iteration in this place would be written, and not heaped up.
    pub fn may_stream(&self, place: u64) -> bool {
        !self.is_full() && self.replies.may_stream(place)
    }

    fn is_full(&self) -> bool {
        self.heap() >= MAX_UNSENT
    }

    /// True if it leaves so much unread that it cannot be kept.
    pub fn is_overflowing(&self) -> bool {
        self.heap() > MAX_HEAP
    }

    /// Bytes of replies that were not taken yet.
    fn heap(&self) -> usize {
        self.output.unsent().len() + self.replies.early_bytes()
    }

    /// How many requests wait for their answers.
    pub fn open(&self) -> usize {
        self.replies.open()
    }

    /// True if it has got all that it is owed.
    pub fn is_served(&self) -> bool {
        self.replies.open() == 0 && self.output.is_empty() && !self.paused
    }

    /// True if it has sent a part of a request, or has not read a reply.
    pub fn is_stuck(&self) -> bool {
        !self.output.is_empty() || (!self.input.is_empty() && self.may_ask())
    }
}
