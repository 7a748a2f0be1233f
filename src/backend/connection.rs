//! One HTTP/1.1 connection to a backend.

use super::Address;
use super::request::{Exchange, Method};
use crate::buffer::Output;
use crate::wire::http::{Decoder, Error, Response};
use std::collections::VecDeque;
use std::time::Duration;

/// A connection, with the requests that it owes answers to.
///
/// Connecting ── connected ──▶ idle ⇄ asked ── keep-alive ends, fault ──▶ removed
#[derive(Debug)]
pub(super) struct Connection {
    pub origin: usize,
    pub address: Address,
    pub connected: bool,
    /// Exchanges that were asked here, in the order of their answers.
    pub line: VecDeque<Exchange>,
    pub output: Output,
    /// How long the backend keeps it idle, if it said so.
    pub idle: Option<Duration>,
    decoder: Decoder,
    answered: bool,
}

/// What the bytes of a backend mean.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is returned; a box would cost an allocation")]
pub(super) enum Arrival<'a> {
    /// Nothing yet.
    Nothing,
    /// The answer to the exchange at the front of the line.
    Answer(Exchange, Response<'a>),
    /// Bytes that nobody asked for: whatever they are, they are no answer.
    Unsolicited,
    /// Not HTTP as it should be.
    Malformed(Error),
}

impl Connection {
    pub fn new(origin: usize, address: Address) -> Self {
        Self {
            origin,
            address,
            connected: false,
            line: VecDeque::new(),
            output: Output::default(),
            idle: None,
            decoder: Decoder::default(),
            answered: false,
        }
    }

    /// Puts a request on the wire and its exchange in the line. True if output was empty before.
    pub fn ask(&mut self, exchange: Exchange) -> bool {
        let begins = self.output.is_empty();
        exchange.render(self.output.end());
        self.line.push_back(exchange);
        begins
    }

    /// Reads what has arrived. Bytes after an answer stay in `input`.
    pub fn receive<'a>(&mut self, input: &mut &'a [u8]) -> Arrival<'a> {
        // Before the request has left, whatever comes belongs to something else. So does what comes
        // while nothing is asked.
        if self.line.is_empty() || !self.output.is_empty() {
            return if input.is_empty() { Arrival::Nothing } else { Arrival::Unsolicited };
        }
        match self.decoder.push(input) {
            Ok(None) => Arrival::Nothing,
            Ok(Some(response)) => self.answer(response),
            Err(error) => Arrival::Malformed(error),
        }
    }

    /// The stream has ended, which may complete a response.
    pub fn end(&mut self) -> Arrival<'static> {
        if self.line.is_empty() || !self.output.is_empty() {
            return Arrival::Nothing;
        }
        match self.decoder.end() {
            Ok(None) => Arrival::Nothing,
            Ok(Some(response)) => self.answer(response),
            Err(error) => Arrival::Malformed(error),
        }
    }

    fn answer<'a>(&mut self, response: Response<'a>) -> Arrival<'a> {
        self.answered = true;
        self.idle = response.idle;
        match self.line.pop_front() {
            Some(exchange) => Arrival::Answer(exchange, response),
            None => Arrival::Unsolicited,
        }
    }

    /// True if it has not carried an answer yet.
    pub fn is_fresh(&self) -> bool {
        !self.answered
    }

    /// True if no byte of the response that is due has arrived.
    pub fn is_silent(&self) -> bool {
        self.decoder.is_clean()
    }

    pub fn in_head(&self) -> bool {
        self.decoder.in_head()
    }

    /// True if nothing of the last exchange in line was given to the kernel.
    pub fn is_unsent(&self) -> bool {
        self.output.sent() == 0 && !self.output.is_empty()
    }

    /// True if it must be known to be open before anything is sent: a write is never sent twice, and a
    /// connection that was idle may have been closed meanwhile.
    pub fn needs_check(&self) -> bool {
        self.answered && self.is_unsent() && self.line.front().is_some_and(|front| front.request.method != Method::Get)
    }
}
