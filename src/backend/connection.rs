//! One HTTP/1.1 connection to a backend.

use super::request::Exchange;
use super::tls::{SessionEnd, TlsSession};
use crate::buffer::Output;
use crate::io::Address;
use crate::wire::http::{Decoder, Error, Response};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Memory for output that is kept for the next requests: as much as sixteen lookups need that are sent at once.
const KEPT: usize = 8 * 1024; // bytes

/// A connection, with the requests that it owes answers to.
///
/// Connecting ── reached, with TLS also secured ──▶ idle ⇄ asked ── keep-alive ends, fault ──▶ removed
#[derive(Debug)]
pub(super) struct Connection {
    pub origin: usize,
    pub address: Address,
    /// When it began to be made, when the peer took it, and when it could be used.
    pub opened: Instant,
    pub reached: Option<Instant>,
    pub connected: Option<Instant>,
    /// Between its output and the socket, from the moment on that it is reached.
    tls: Option<TlsSession>,
    /// It was made in terms that do not hold any more, or has had its time, and carries no further requests.
    pub retired: bool,
    /// When what it owes answers to was asked.
    pub asked_at: Instant,
    /// When the head of the response was there that is not complete.
    head: Option<Instant>,
    /// GETs that may stand in its line at once.
    pub ahead: usize,
    /// Exchanges that were asked here, in the order of their answers.
    line: VecDeque<InFlight>,
    output: Output,
    /// Bytes of requests that were rendered, and that the kernel took, since the connection was made: with TLS, those
    /// of whole records.
    rendered: u64,
    taken: u64,
    /// How long the backend keeps it idle, if it said so.
    pub idle: Option<Duration>,
    decoder: Decoder,
    answered: bool,
    /// It has answered a request that was sent before the answer to another one was there.
    pub pipelines: bool,
}

/// An exchange in line.
#[derive(Debug)]
struct InFlight {
    /// `None` if its time was over: its answer is dropped when it comes.
    exchange: Option<Exchange>,
    /// Where its request begins and ends, counted from the first byte on this connection.
    begins: u64,
    ends: u64,
    /// It was sent together with one in front of it.
    behind: bool,
}

/// What the bytes of a backend mean.
#[derive(Debug)]
pub(super) enum Arrival<'a> {
    /// Nothing yet.
    Nothing,
    /// The answer to the exchange at the front of the line, see [`Connection::answered`].
    Answer(Response<'a>),
    /// Bytes that nobody asked for: whatever they are, they are no answer.
    Unsolicited,
    /// Not HTTP as it should be.
    Malformed(Error),
}

/// What becomes of an exchange whose connection has ended before its answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Left {
    /// No byte of it was given to the kernel.
    Unsent,
    /// The backend may have seen it, and has not begun to answer it.
    Unanswered,
    /// A part of its answer had arrived.
    Begun,
}

impl Connection {
    pub fn new(origin: usize, address: Address, ahead: usize, now: Instant) -> Self {
        Self {
            origin,
            address,
            opened: now,
            reached: None,
            connected: None,
            tls: None,
            retired: false,
            asked_at: now,
            head: None,
            ahead,
            line: VecDeque::new(),
            output: Output::keeping(KEPT),
            rendered: 0,
            taken: 0,
            idle: None,
            decoder: Decoder::default(),
            answered: false,
            pipelines: false,
        }
    }

    /// Puts a request on the wire and its exchange in the line. True if output was empty before.
    pub fn ask(&mut self, exchange: Exchange, now: Instant) -> bool {
        let (begins, behind) = (self.rendered, !self.line.is_empty());
        let (quiet, before) = (self.output.is_empty(), self.output.unsent().len());
        if !behind {
            self.asked_at = now;
        }
        exchange.render(self.output.end());
        self.rendered += (self.output.unsent().len() - before) as u64;
        self.line.push_back(InFlight { exchange: Some(exchange), begins, ends: self.rendered, behind });
        quiet
    }

    /// Notes in the exchange that was asked last how long it had waited, for a connection and for a name that was asked
    /// for and known at those times.
    pub fn note_wait(&mut self, resolved: Option<(Instant, Instant)>, now: Instant) {
        let reached = self.reached.unwrap_or(now);
        let made = (self.opened, reached);
        let secured = self.tls.is_some().then(|| (reached, self.connected.unwrap_or(now)));
        if let Some(exchange) = self.line.back_mut().and_then(|asked| asked.exchange.as_mut()) {
            exchange.waited(made, secured, resolved, now);
        }
    }

    /// Begins the handshake of a connection that was reached.
    pub fn secure(&mut self, session: TlsSession) {
        self.tls = Some(session);
    }

    pub fn tls(&mut self) -> Option<&mut TlsSession> {
        self.tls.as_mut()
    }

    /// True if an answer with this status, after which the connection is kept or not, speaks of a client certificate.
    pub fn is_uncertified(&self, status: u16, keep: bool) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_uncertified(status, keep))
    }

    /// True if the stream may have been cut off by anybody, and not by the backend.
    pub fn is_truncated(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.end() != Some(&SessionEnd::Closed))
    }

    /// True if this exchange may be sent together with those that were asked in the same turn. What has left is
    /// not added to: all that a backend reads at once it also answers in order, even one that answers what
    /// came in two pieces in two threads. A connection that has not carried an answer yet can_pipeline one request
    /// (RFC 9112, 9.3.2: what is asked again must not be pipelined at once).
    pub fn can_pipeline(&self, exchange: &Exchange) -> bool {
        let left = self.rendered - self.output.unsent().len() as u64;
        let unsent = self.line.front().is_some_and(|first| {
            left == first.begins && first.exchange.as_ref().is_some_and(|first| first.request.method.is_safe())
        });
        unsent && self.line.len() < self.ahead && self.answered && !self.retired && exchange.request.method.is_safe()
    }

    /// What is to be written.
    pub fn output(&mut self) -> &[u8] {
        let Some(tls) = &mut self.tls else { return self.output.unsent() };
        // As late as this, so that requests that leave together share a record.
        if !self.output.is_empty() {
            tls.encrypt(self.output.unsent());
            self.output.advance(self.output.unsent().len());
            self.retired |= tls.key_limit_reached();
        }
        tls.output()
    }

    /// Notes that `count` bytes were written.
    pub fn sent(&mut self, count: usize) {
        let due = self.expects();
        let plain = match &mut self.tls {
            Some(tls) => {
                let plain = tls.sent(count);
                // What had begun to arrive is no answer to what was not all there.
                if plain > 0 && !due {
                    tls.distrust();
                }
                plain
            }
            None => {
                self.output.advance(count);
                count
            }
        };
        self.taken += plain as u64;
    }

    /// Reads what has arrived. Bytes after an answer stay in `input`.
    pub fn receive<'a>(&mut self, input: &mut &'a [u8], now: Instant) -> Arrival<'a> {
        // Before the request has left, whatever comes belongs to something else. So does what comes
        // while nothing is asked.
        if !self.expects() {
            return if input.is_empty() { Arrival::Nothing } else { Arrival::Unsolicited };
        }
        match self.decoder.push(input) {
            Ok(None) => {
                if self.head.is_none() && !self.decoder.in_head() {
                    self.head = Some(now);
                }
                Arrival::Nothing
            }
            Ok(Some(response)) => Arrival::Answer(response),
            Err(error) => Arrival::Malformed(error),
        }
    }

    /// The stream has ended, which may complete a response.
    pub fn end(&mut self) -> Arrival<'static> {
        if !self.expects() {
            return Arrival::Nothing;
        }
        match self.decoder.end() {
            Ok(None) => Arrival::Nothing,
            Ok(Some(response)) => Arrival::Answer(response),
            Err(error) => Arrival::Malformed(error),
        }
    }

    /// True if the request at the front of the line has left as a whole.
    fn expects(&self) -> bool {
        self.line.front().is_some_and(|first| first.ends <= self.taken)
    }

    /// Takes the exchange out that was answered by [`Arrival::Answer`]; `None` if its time was over. `idle` is how long
    /// the backend keeps the connection, if it said so.
    pub fn answered(&mut self, idle: Option<Duration>, now: Instant) -> Option<Exchange> {
        self.answered = true;
        self.idle = idle;
        let mut asked = self.line.pop_front()?;
        self.pipelines |= asked.behind;
        if let (Some(head), Some(exchange)) = (self.head.take(), &mut asked.exchange) {
            exchange.lingered(head, now);
        }
        asked.exchange
    }

    /// Takes out all that was asked and not answered, in order. `broken` means that what came was no answer.
    pub fn leave(&mut self, broken: bool) -> impl Iterator<Item = (Exchange, Left)> {
        let (taken, silent) = (self.taken, self.decoder.is_clean() && !broken);
        std::mem::take(&mut self.line).into_iter().enumerate().filter_map(move |(at, asked)| {
            let left = match at {
                _ if taken <= asked.begins => Left::Unsent,
                0 if !silent => Left::Begun,
                _ => Left::Unanswered,
            };
            asked.exchange.map(|exchange| (exchange, left))
        })
    }

    /// Takes out those whose time is over, and tells whether the backend may have seen them. The places of those
    /// behind the front stay.
    pub fn expire(&mut self, now: Instant) -> Vec<(Exchange, bool)> {
        let taken = self.taken;
        let late = |asked: &mut InFlight| {
            let exchange = asked.exchange.take_if(|exchange| exchange.deadline <= now)?;
            Some((exchange, taken > asked.begins))
        };
        self.line.iter_mut().filter_map(late).collect()
    }

    /// True if the time of the exchange whose answer is due was over.
    pub fn is_late(&self) -> bool {
        self.line.front().is_some_and(|first| first.exchange.is_none())
    }

    /// When the first of the exchanges in line is due.
    pub fn soonest(&self) -> Option<Instant> {
        self.line.iter().flat_map(|asked| &asked.exchange).map(|exchange| exchange.deadline).min()
    }

    /// True if it owes an answer to a request that was sent behind another one.
    pub fn owes_behind(&self) -> bool {
        self.line.iter().any(|asked| asked.behind)
    }

    /// How many answers it owes.
    pub fn owes(&self) -> usize {
        self.line.len()
    }

    /// True if it has not carried an answer yet.
    pub fn is_fresh(&self) -> bool {
        !self.answered
    }

    pub fn in_head(&self) -> bool {
        self.decoder.in_head()
    }

    /// True if it must be known to be open before anything is sent: a write is never sent twice, and a
    /// connection that was idle may have been closed meanwhile.
    pub fn needs_check(&self) -> bool {
        self.answered
            && self.line.front().is_some_and(|first| {
                let exchange = first.exchange.as_ref();
                self.taken <= first.begins && exchange.is_some_and(|front| !front.request.method.is_safe())
            })
    }
}
