//! One process of a program: what it was asked, and what it has answered.

use super::line::{self, Line, Reply};
use super::rows::Rows;
use crate::arena::Key;
use crate::backend::{BodyPart, Exchange, Fault};
use crate::buffer::{Input, Output};
use crate::io::Peer;
use crate::wire::http::Response;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

/// Maximum length of a line in bytes, as of the body of a response.
const MAX_LINE: usize = 4 << 20;

/// The time after which a process is replaced that owes an answer which was given up: it may finish it.
const MAX_GIVEN_UP: Duration = Duration::from_secs(5);

/// The time after which a process is known to work that has not ended and got no request.
const PROOF: Duration = Duration::from_secs(1);

/// The time that a process may take until its first answer.
const MAX_START: Duration = Duration::from_secs(30);

/// Why a process is replaced that does not answer.
const HANGS: &str = "did not answer in time";

/// The same for one that may still carry out a write.
pub(super) const LATE_WRITE: &str = "did not answer a write in time";

/// Maximum number of lines of stderr that are logged of what is read at once.
const MAX_LINES: usize = 20;

/// Maximum length of a line of stderr that is logged, in bytes.
const MAX_LOGGED: usize = 500;

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    /// The number of its program.
    pub program: usize,
    pub state: State,
    input: Input,
    /// How much of it is known to have no line break.
    searched: usize,
    output: Output,
    /// Bytes that were put into the output, and of these, that were written.
    queued: u64,
    written: u64,
    next_id: u64,
    in_flight: VecDeque<InFlight>,
    /// How many of these were not given up.
    live: usize,
    pub has_answered: bool,
    /// Another one is to take its place, or has, and nothing is wrong with it.
    pub is_outdated: bool,
    started: Instant,
    last_answer: Instant,
    /// Since when it owes the oldest of the answers that were given up.
    abandoned_since: Option<Instant>,
    /// It is not read, as the client of a list has enough.
    pub is_paused: bool,
    stderr: Vec<u8>,
}

/// Serving ── it hangs, or the program is replaced ──▶ Retiring ── nothing in flight ──▶ Ending ──▶ the process has ended
#[derive(Debug, Eq, PartialEq)]
pub(super) enum State {
    Serving,
    /// It gets no further requests, and is ended when all were answered or given up, for this reason.
    Retiring(Option<&'static str>),
    /// It was requested to end, for this reason if there is one besides its exit status, and is killed then.
    Ending(Option<String>, Option<Instant>),
}

/// A request that was sent.
#[derive(Debug)]
struct InFlight {
    id: u64,
    /// `None` if it was given up.
    exchange: Option<Box<Exchange>>,
    abandoned: Option<Instant>,
    sent: Instant,
    /// Where its line begins in the output.
    begins: u64,
    rows: Rows,
}

/// The end of a request, or a part of its answer.
#[derive(Debug)]
pub(super) enum Event {
    Answered(Box<Exchange>, Result<Response<'static>, Fault>),
    Part(BodyPart),
}

impl Process {
    pub(super) fn new(program: usize, now: Instant) -> Self {
        Self {
            program,
            state: State::Serving,
            input: Input::default(),
            searched: 0,
            output: Output::default(),
            queued: 0,
            written: 0,
            next_id: 1,
            in_flight: VecDeque::new(),
            live: 0,
            has_answered: false,
            is_outdated: false,
            started: now,
            last_answer: now,
            abandoned_since: None,
            is_paused: false,
            stderr: Vec::new(),
        }
    }

    pub(super) fn is_serving(&self) -> bool {
        self.state == State::Serving
    }

    /// The requests that it has not answered, also if they were given up.
    pub(super) fn load(&self) -> usize {
        self.in_flight.len()
    }

    /// True if it may have seen a request.
    pub(super) fn has_got_requests(&self) -> bool {
        self.written > 0
    }

    /// Those of them that were not given up.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// True if a request is among them that may have ended another process.
    pub(super) fn has_resent(&self) -> bool {
        self.in_flight.iter().any(|one| one.exchange.as_ref().is_some_and(|exchange| exchange.is_resent()))
    }

    /// Sends a request.
    pub(super) fn push(&mut self, mut exchange: Box<Exchange>, now: Instant) {
        exchange.record_wait((now, now), None, None, now);
        let (id, begins) = (self.next_id, self.queued);
        let writer = self.output.writer();
        let before = writer.len();
        // Writing to memory does not fail.
        let _ = write!(writer, "{{\"id\":{id},");
        writer.extend_from_slice(exchange.request.body.as_ref().map_or(b"", |body| &body.json));
        writer.extend_from_slice(b"}\n");
        self.queued += (writer.len() - before) as u64;
        self.next_id += 1;
        self.live += 1;
        self.in_flight.push_back(InFlight {
            id,
            exchange: Some(exchange),
            abandoned: None,
            sent: now,
            begins,
            rows: Rows::default(),
        });
    }

    /// The bytes to be written to its stdin.
    pub(super) fn output(&self) -> &[u8] {
        if matches!(self.state, State::Ending(..)) { &[] } else { self.output.unsent() }
    }

    /// Notes that `count` bytes were written.
    pub(super) fn sent(&mut self, count: usize) {
        self.output.advance(count);
        self.written += count as u64;
    }

    /// Handles bytes of its stdout.
    ///
    /// # Errors
    /// A line that answers no request: from then on it cannot be trusted to know what it answers.
    pub(super) fn receive(
        &mut self,
        key: Key,
        bytes: &[u8],
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<(), &'static str> {
        let joined = self.input.join(bytes);
        let (mut used, mut from) = (0, std::mem::take(&mut self.searched));
        while let Some(length) = joined.bytes()[from..].iter().position(|byte| *byte == b'\n') {
            let line = &joined.bytes()[used..from + length];
            let length = line.len();
            used += length + 1;
            from = used;
            if length > MAX_LINE {
                return Err("sent a line longer than 4 MiB");
            }
            let Line { id, reply } = line::parse(line)?;
            self.on_reply(key, id, reply, now, events)?;
        }
        let rest = joined.bytes().len() - used;
        self.input.put_back(joined, used);
        self.searched = rest;
        if rest > MAX_LINE { Err("sent a line longer than 4 MiB") } else { Ok(()) }
    }

    fn on_reply(
        &mut self,
        key: Key,
        id: u64,
        reply: Reply<'_>,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<(), &'static str> {
        let Some(at) = self.in_flight.iter().position(|one| one.id == id) else {
            return Err("answered a request that it does not have");
        };
        let one = &mut self.in_flight[at];
        // Before the request has left, nothing can be its answer.
        if one.begins >= self.written {
            return Err("answered a request that it does not have");
        }
        if one.exchange.is_some() {
            (self.has_answered, self.last_answer) = (true, now);
        }
        if let (Reply::Rows(raw), exchange) = (&reply, &mut one.exchange) {
            let Some(exchange) = exchange else { return Ok(()) };
            if !is_list(exchange) {
                return Err("answered with rows where it was asked for no list");
            }
            match one.rows.push(raw, exchange.may_stream()) {
                Ok(part) if part.is_empty() => return Ok(()),
                Ok(bytes) => {
                    exchange.begin_stream();
                    let (asker, connection) = (exchange.asker, Peer::Program(key));
                    events.push(Event::Part(BodyPart::new(asker, connection, bytes)));
                    return Ok(());
                }
                // The list is no use, but others are not concerned. What follows of it is dropped.
                Err(why) => {
                    let failed = one.exchange.take().map(|exchange| Event::Answered(exchange, Err(fault(why))));
                    events.extend(failed);
                    self.abandon(at, now);
                    return Ok(());
                }
            }
        }
        let Some(InFlight { exchange, rows, .. }) = self.in_flight.remove(at) else { return Ok(()) };
        let Some(exchange) = exchange else {
            self.abandoned_since = self.in_flight.iter().filter_map(|one| one.abandoned).min();
            return Ok(());
        };
        self.live -= 1;
        let result = match reply {
            Reply::Value(_) if rows.has_any() => Err(fault("answered with rows and with a value")),
            Reply::Value(raw) => Ok(response(200, raw.as_bytes().to_vec())),
            Reply::Done(true) if is_list(&exchange) => Ok(response(200, rows.into_end())),
            Reply::Done(done) => Ok(response(if done { 204 } else { 404 }, Vec::new())),
            Reply::Error(text) => Err(Fault::Reported(text)),
            Reply::Rows(_) => return Ok(()), // above
        };
        events.push(Event::Answered(exchange, result));
        Ok(())
    }

    /// Takes out a request whose deadline has passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Box<Exchange>> {
        let is_due = |one: &InFlight| one.exchange.as_ref().is_some_and(|exchange| exchange.deadline <= now);
        let at = self.in_flight.iter().position(is_due)?;
        let one = &mut self.in_flight[at];
        let (exchange, sent) = (one.exchange.take(), one.sent);
        self.abandon(at, now);
        // A write that is carried out later would be older than what is written, or cached, in the meantime.
        if self.is_serving() && exchange.as_ref().is_some_and(|exchange| !exchange.is_safe()) {
            self.state = State::Retiring(Some(LATE_WRITE));
        }
        // One that has answered nothing since hangs; one that answers others may only be slow with this one, and one that
        // has just been started may not be ready.
        if self.is_serving() && self.last_answer < sent && (self.has_answered || now >= self.started + MAX_START) {
            self.state = State::Retiring(Some(HANGS));
        }
        exchange
    }

    /// Notes that the answer to one request is not waited for any more.
    fn abandon(&mut self, at: usize, now: Instant) {
        self.live -= 1;
        self.in_flight[at].abandoned = Some(now);
        self.abandoned_since.get_or_insert(now);
    }

    /// When it is known to work: at once if it has answered.
    pub(super) fn works_at(&self) -> Instant {
        if self.has_answered { self.started } else { self.started + PROOF }
    }

    /// Retires it if it has owed an answer that was given up for too long. Returns when that will be.
    pub(super) fn check_abandoned(&mut self, now: Instant) -> Option<Instant> {
        let starts = if self.has_answered { self.started } else { self.started + MAX_START };
        let until = (self.abandoned_since.filter(|_| self.is_serving())? + MAX_GIVEN_UP).max(starts);
        if until > now {
            return Some(until);
        }
        self.state = State::Retiring(Some(HANGS));
        None
    }

    /// The earliest deadline of a request.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.in_flight.iter().filter_map(|one| one.exchange.as_ref()).map(|exchange| exchange.deadline).min()
    }

    /// Takes out all requests, with whether the process may have seen them.
    pub(super) fn take_all(&mut self) -> Vec<(Box<Exchange>, bool)> {
        let written = self.written;
        let all = std::mem::take(&mut self.in_flight).into_iter();
        self.live = 0;
        all.filter_map(|one| Some((one.exchange?, one.begins < written))).collect()
    }

    /// Handles bytes of its stderr: returns the lines that are complete, or too long to wait for.
    pub(super) fn on_stderr(&mut self, bytes: &[u8]) -> Vec<String> {
        let (mut lines, mut more) = (Vec::new(), 0);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = MAX_LOGGED.saturating_sub(self.stderr.len());
            self.stderr.extend_from_slice(&text[..text.len().min(room)]);
            if !is_whole {
                break;
            }
            if lines.len() == MAX_LINES {
                more += 1;
                self.stderr.clear();
            } else {
                lines.extend(self.last_stderr());
            }
        }
        if more > 0 {
            lines.push(format!("... and {more} more lines"));
        }
        lines
    }

    /// The line of its stderr that is not complete, if there is one.
    pub(super) fn last_stderr(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.stderr);
        (!line.is_empty()).then(|| line.escape_ascii().to_string())
    }
}

/// True for a request that is answered with rows.
fn is_list(exchange: &Exchange) -> bool {
    exchange.request.body.as_ref().is_some_and(|body| body.json.starts_with(b"\"list\""))
}

fn fault(why: &str) -> Fault {
    Fault::Failed(why.to_owned())
}

/// An answer as the response of a backend.
fn response(status: u16, body: Vec<u8>) -> Response<'static> {
    Response {
        status,
        keep_alive: true,
        keep_alive_timeout: None,
        extra_headers: None,
        until_end: false,
        body: Cow::Owned(body),
    }
}
