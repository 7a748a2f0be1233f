//! A connection of a mail server: its protocol, the order of its replies, and its limits.

mod admin;
mod dict;
mod message;
mod policy;
mod replies;
mod sasl;
mod socketmap;

pub use message::{AdminRequest, Event, MAX_REQUEST, ProtocolError, Reply, ReplyTo};

use crate::buffer::{Input, Output};
use crate::config::Mode;
use crate::query::Tokens;
use replies::Replies;

/// Maximum number of unanswered requests of one client; at this number reading stops.
pub const MAX_OPEN: usize = 1_000;

/// Maximum size of unread replies in bytes; above it reading stops and no rows are added.
pub const MAX_UNSENT: usize = 256 * 1024;

/// Maximum number of bytes of open requests for decisions of one client; at this number reading stops.
const MAX_ASKED: usize = 4 << 20;

/// Bytes of output memory that a dict client retains while it has nothing to send.
// Dovecot sends dozens of lookups at once, and there are few of these clients; Postfix waits for each reply.
const RETAINED_FOR_DICT: usize = 4 * 1024;

/// Maximum size of unread replies in bytes, above which the client is closed.
// `MAX_UNSENT` stops reading, but a client may have sent a thousand requests for large values before that.
const MAX_UNREAD: usize = 64 * 1024 * 1024;

/// A connection of a mail server.
#[derive(Debug)]
pub struct Client {
    protocol: Protocol,
    replies: Replies,
    pub input: Input,
    pub output: Output,
    /// The client has closed its sending side, or gets only one response: it is closed after the last reply.
    pub closing: bool,
    /// Its connection is closed in place of a reply: what it sends after that is not started, as it gets none either.
    pub refuses: bool,
    /// Requests may be left in `input`, because a limit was reached.
    pub paused: bool,
    /// Commits without a reply take all memory for writes.
    is_committing: bool,
    /// Iterations in progress, whose rows are written as space allows.
    pub iterations: u32,
    /// The client is on the list of clients that may have room again.
    pub resumable: bool,
    /// The value of `transferred` when the client was last found stuck.
    // Only a request that is half sent or a reply that is not read is bounded in time. An idle client is never closed:
    // after a failed SMTP delivery, Postfix reports a closed map connection as an error and defers the message
    // (dict_sockmap.c).
    pub watched: Option<u64>,
    /// Bytes read from and written to the client: any change is progress.
    pub transferred: u64,
}

#[derive(Debug)]
enum Protocol {
    Unknown,
    Socketmap(socketmap::SocketmapSession),
    /// Boxed, because most clients are Postfix processes, of which there may be ten thousand.
    Dict(Box<dict::DictSession>),
    Admin(Box<admin::AdminSession>),
    Policy(Box<policy::PolicySession>),
    Sasl(Box<sasl::SaslSession>),
}

impl Client {
    /// A connection that was accepted by a listener with this mode.
    pub fn new(mode: Mode, tokens: Tokens) -> Self {
        let (replies, input, output) = (Replies::default(), Input::default(), Output::default());
        let protocol = Protocol::Unknown;
        let mut client = Self {
            protocol,
            replies,
            input,
            output,
            closing: false,
            refuses: false,
            paused: false,
            is_committing: false,
            iterations: 0,
            resumable: false,
            watched: None,
            transferred: 0,
        };
        match mode {
            Mode::Auto => {}
            Mode::Postfix => client.protocol = Protocol::Socketmap(Default::default()),
            Mode::Admin => client.protocol = Protocol::Admin(Box::default()),
            Mode::Dovecot => client.protocol = client.begin_dict(),
            Mode::Sasl(table) => {
                client.input.set_secret();
                let Self { output, replies, .. } = &mut client;
                let session = sasl::SaslSession::new(table, tokens, output, replies);
                client.protocol = Protocol::Sasl(Box::new(session));
            }
            Mode::Policy(table) => client.protocol = Protocol::Policy(Box::new(policy::PolicySession::new(table))),
        }
        client
    }

    fn begin_dict(&mut self) -> Protocol {
        self.output.set_retained(RETAINED_FOR_DICT);
        Protocol::Dict(Box::default())
    }

    /// The table that a dict client has named in HELLO.
    pub fn table(&self) -> &[u8] {
        match &self.protocol {
            Protocol::Dict(session) => session.table(),
            Protocol::Unknown
            | Protocol::Socketmap(_)
            | Protocol::Admin(_)
            | Protocol::Policy(_)
            | Protocol::Sasl(_) => &[],
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
                b'0'..=b'9' => Protocol::Socketmap(Default::default()),
                b'H' => self.begin_dict(),
                _ => return Err(ProtocolError::Protocol),
            };
        }
        let next = match &mut self.protocol {
            Protocol::Unknown => Ok(None),
            Protocol::Socketmap(session) => session.next(input, &mut self.replies, &mut self.output),
            Protocol::Dict(session) => {
                let next = session.next(input, &mut self.replies, &mut self.output);
                self.is_committing = session.is_full();
                next
            }
            Protocol::Admin(session) => session.next(input),
            Protocol::Policy(session) => session.next(input, &mut self.replies),
            Protocol::Sasl(session) => session.next(input, &mut self.replies, &mut self.output),
        };
        self.paused |= !self.accepts_requests();
        next
    }

    /// Writes a reply in the order of the requests. `table` is named in reasons. True if the connection is to be closed in
    /// its place.
    pub fn reply(&mut self, seq: u64, table: &str, reply: Reply<'_>) -> bool {
        let (out, mut closes) = (self.output.writer(), false);
        match &mut self.protocol {
            Protocol::Unknown | Protocol::Admin(_) => {}
            Protocol::Socketmap(_) => socketmap::reply(seq, table, reply, &mut self.replies, out),
            Protocol::Sasl(session) => closes = session.reply(seq, reply, &mut self.replies, out),
            Protocol::Policy(session) => closes = session.reply(seq, &reply, &mut self.replies, out),
            Protocol::Dict(session) => {
                if let Reply::Committed(..) = reply {
                    session.committed(seq);
                    self.is_committing = session.is_full();
                }
                dict::reply(seq, table, reply, &mut self.replies, out);
            }
        }
        self.closing |= closes;
        self.refuses |= closes;
        self.paused |= !self.accepts_requests();
        closes
    }

    /// Whether what the client sends may hold a password.
    pub fn is_secret(&self) -> bool {
        matches!(self.protocol, Protocol::Sasl(_))
    }

    /// Whether this is a connection to the metrics listener.
    pub fn is_admin(&self) -> bool {
        matches!(self.protocol, Protocol::Admin(_))
    }

    /// Writes the response to the only request of a connection to the metrics listener.
    pub fn respond(&mut self, page: AdminRequest, body: &str) {
        if let Protocol::Admin(session) = &self.protocol {
            session.respond(page, body, self.output.writer());
        }
        self.closing = true;
    }

    /// Whether more requests may be read from the client.
    pub fn accepts_requests(&self) -> bool {
        !self.refuses
            && self.replies.open() < MAX_OPEN
            && !self.is_full()
            && !self.is_committing
            && self.asked() < MAX_ASKED
    }

    /// Marks the client if it may have room again. True if it was not marked before: the caller lists it then.
    pub fn mark_resumable(&mut self) -> bool {
        let has_work = self.paused && self.accepts_requests() || self.iterations > 0;
        has_work && !std::mem::replace(&mut self.resumable, true)
    }

    /// Whether rows of the iteration at `seq` can be written now, without being stored.
    pub fn may_stream(&self, seq: u64) -> bool {
        // Replies that wait for the end of this iteration must not keep it from its rows.
        self.output.unsent().len() < MAX_UNSENT && self.replies.may_stream(seq)
    }

    /// Bytes of the requests for decisions that are open.
    fn asked(&self) -> usize {
        match &self.protocol {
            Protocol::Policy(session) => session.asked(),
            Protocol::Sasl(session) => session.asked(),
            Protocol::Unknown | Protocol::Socketmap(_) | Protocol::Dict(_) | Protocol::Admin(_) => 0,
        }
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
        // While it is paused, `input` may hold whole requests that have not been started.
        self.replies.is_complete() && self.output.is_empty() && (self.refuses || !self.paused)
    }

    /// Whether the client has sent only a part of a request, or has not read a reply.
    pub fn is_stuck(&self) -> bool {
        !self.output.is_empty() || (self.has_partial_request() && self.accepts_requests())
    }

    fn has_partial_request(&self) -> bool {
        !self.input.is_empty() || matches!(&self.protocol, Protocol::Socketmap(session) if session.is_skipping())
    }
}
