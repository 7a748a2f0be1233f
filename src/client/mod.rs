//! A mail server's connection: which protocol it speaks, its line of replies, and its bounds.

mod admin;
mod dict;
mod socketmap;

use crate::arena::Key;
use crate::buffer::{Input, Output};
use crate::config::Mode;
use crate::query::{Answer, Failure, Outcome, Query};
use crate::wire;
use std::collections::BTreeMap;
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
    line: Line,
    pub input: Input,
    pub output: Output,
    /// It has closed its sending side, and is closed once it has what it is owed.
    pub ended: bool,
    /// Something of it may wait to be read, because it had too much open or unread.
    pub paused: bool,
    /// Iterations in progress, which have rows to send when there is room.
    pub iterations: u32,
    /// It is on the list of clients that may have room again.
    pub resumed: bool,
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
        let (line, input, output) = (Line::default(), Input::default(), Output::default());
        let protocol = Protocol::Unknown;
        let mut client = Self {
            protocol,
            line,
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
            Protocol::Socketmap => socketmap::next(input, &mut self.line, &mut self.output),
            Protocol::Dict(session) => session.next(input, &mut self.line, &mut self.output),
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
            Protocol::Socketmap => socketmap::reply(place, table, reply, &mut self.line, out),
            Protocol::Dict(_) => dict::reply(place, reply, &mut self.line, out),
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
        self.line.open < MAX_OPEN && !self.is_full()
    }

    /// True, once, if it has to be put on the list of clients that may have room again.
    pub fn has_work(&mut self) -> bool {
        let has_work = self.paused && self.may_ask() || self.iterations > 0;
        has_work && !std::mem::replace(&mut self.resumed, true)
    }

    /// True if rows of an iteration in this place would be written, and not heaped up.
    pub fn may_stream(&self, place: u64) -> bool {
        !self.is_full() && (self.line.ids || self.line.first == place)
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
        self.output.unsent().len() + self.line.early_bytes
    }

    /// How many requests wait for their answers.
    pub fn open(&self) -> usize {
        self.line.open
    }

    /// True if it has got all that it is owed.
    pub fn is_served(&self) -> bool {
        self.line.open == 0 && self.output.is_empty() && !self.paused
    }

    /// True if it has sent a part of a request, or has not read a reply.
    pub fn is_stuck(&self) -> bool {
        !self.output.is_empty() || (!self.input.is_empty() && self.may_ask())
    }
}

/// Keeps replies in the order of the requests, or marks those that overtake others with async ids.
#[derive(Debug, Default)]
struct Line {
    /// The place of the next request.
    next: u64,
    /// The oldest place whose reply was not begun in order. With ids: all before it have one.
    first: u64,
    /// Requests that wait for an answer.
    open: usize,
    /// Replies that must wait for others, without ids.
    early: BTreeMap<u64, Vec<u8>>,
    early_bytes: usize,
    /// Async ids may be used (dict protocol 2.1 and later).
    ids: bool,
    /// Open requests that have an async id.
    identified: usize,
}

/// Whether a reply is followed by more for the same request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ReplyPart {
    More,
    Last,
}

impl Line {
    /// A place for the reply to a new request.
    fn enter(&mut self) -> u64 {
        self.next += 1;
        self.open += 1;
        self.next - 1
    }

    /// Writes a reply, at once or when its turn comes.
    fn write(&mut self, place: u64, part: ReplyPart, out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
        if part == ReplyPart::Last {
            self.open -= 1;
        }
        if self.ids {
            self.identify(place, part, out);
            encode(out);
        } else if place == self.first {
            encode(out);
            if part == ReplyPart::Last {
                self.first += 1;
                if !self.early.is_empty() {
                    self.catch_up(out);
                }
            }
        } else {
            debug_assert_eq!(part, ReplyPart::Last, "rows are streamed only when it is their turn");
            let mut bytes = Vec::new();
            encode(&mut bytes);
            self.early_bytes += bytes.len();
            self.early.insert(place, bytes);
        }
    }

    fn catch_up(&mut self, out: &mut Vec<u8>) {
        while let Some(bytes) = self.early.remove(&self.first) {
            self.early_bytes -= bytes.len();
            out.extend_from_slice(&bytes);
            self.first += 1;
        }
    }

    /// A reply to the oldest of all open requests needs no id: that is what the client takes a bare reply
    /// for, whether it has an id or not (`dict_conn_input_line` in dict-client.c). Before any other reply,
    /// every request up to its own gets an id, as the client counts them off in the order of its commands.
    fn identify(&mut self, place: u64, part: ReplyPart, out: &mut Vec<u8>) {
        if place == self.first && self.identified == 0 {
            self.first += u64::from(part == ReplyPart::Last);
            return;
        }
        while self.first <= place {
            out.extend_from_slice(format!("*{}\n", id(self.first)).as_bytes());
            self.first += 1;
            self.identified += 1;
        }
        out.extend_from_slice(format!("+{}\t", id(place)).as_bytes());
        if part == ReplyPart::Last {
            self.identified -= 1;
        }
    }
}

/// The async id of a place: a 32-bit number, and never zero.
fn id(place: u64) -> u64 {
    place % u64::from(u32::MAX) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ids: bool) -> Line {
        let mut line = Line { ids, ..Line::default() };
        (0..4).for_each(|place| assert_eq!(line.enter(), place));
        line
    }

    fn written(line: &mut Line, replies: &[(u64, &str)]) -> String {
        let mut out = Vec::new();
        for (place, text) in replies {
            let part = if text.ends_with('…') { ReplyPart::More } else { ReplyPart::Last };
            line.write(*place, part, &mut out, |out| out.extend_from_slice(format!("{text}\n").as_bytes()));
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replies_keep_the_order_of_the_requests() {
        let mut line = line(false);
        assert_eq!(written(&mut line, &[(2, "c"), (1, "b")]), "");
        assert_eq!(line.early_bytes, 4);
        assert_eq!(written(&mut line, &[(0, "a…"), (0, "a")]), "a…\na\nb\nc\n");
        assert_eq!(written(&mut line, &[(3, "d")]), "d\n");
        assert_eq!((line.open, line.early_bytes), (0, 0));
    }

    #[test]
    fn replies_that_overtake_others_carry_ids_and_the_rest_does_not() {
        let mut line = line(true);
        assert_eq!(written(&mut line, &[(0, "a"), (2, "c"), (1, "b"), (3, "d")]), "a\n*2\n*3\n+3\tc\n+2\tb\nd\n");
    }

    #[test]
    fn a_bare_reply_is_taken_for_the_oldest_open_request_even_if_that_has_an_id() {
        let mut line = line(true);
        assert_eq!(
            written(&mut line, &[(1, "b"), (2, "c"), (0, "a"), (3, "d")]),
            "*1\n*2\n+2\tb\n*3\n+3\tc\n+1\ta\nd\n"
        );
    }

    #[test]
    fn rows_carry_ids_as_soon_as_others_come_between() {
        let mut line = line(true);
        let replies = [(0, "r1…"), (1, "b"), (0, "r2…"), (0, "")];
        assert_eq!(written(&mut line, &replies), "r1…\n*1\n*2\n+2\tb\n+1\tr2…\n+1\t\n");
    }

    #[test]
    fn ids_are_never_zero() {
        assert_eq!((id(0), id(u64::from(u32::MAX) - 1), id(u64::from(u32::MAX))), (1, u64::from(u32::MAX), 1));
    }
}
