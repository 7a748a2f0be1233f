//! One HTTP/1.1 connection to a backend, over TLS or not.

use super::arrival::{AfterResponse, Arrival, CloseReason};
use super::exchange::Exchange;
use super::fault::{Fault, Phase};
use super::in_flight::{Expired, InFlight};
use super::retry::Progress;
use super::state::{History, State};
use super::tls::{SessionEnd, TlsConnector, Transport};
use crate::io::Address;
use crate::wire::http::{self, Decoder, Response};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// A connection, with the exchanges in flight on it.
#[derive(Debug)]
pub(super) struct Connection {
    pool: usize,
    address: Address,
    opened: Instant,
    state: State,
    transport: Transport,
    /// Its TLS configuration is out of date: it carries no further requests.
    retired: bool,
    /// A response began before all of a write had left. The connection is closed after it.
    refused_early: bool,
    /// The asker of the response that is streamed has enough for now.
    paused: bool,
    /// GETs that may be in flight at once.
    pipeline: usize,
    in_flight: InFlight,
    decoder: Decoder,
    /// When the head of the response was complete that is arriving.
    head: Option<Instant>,
    /// The idle timeout of the backend, if a response had one (`Keep-Alive: timeout=`).
    keep_alive_timeout: Option<Duration>,
}

impl Connection {
    pub(super) fn new(pool: usize, address: Address, pipeline: usize, now: Instant) -> Self {
        Self {
            pool,
            address,
            opened: now,
            state: State::Connecting,
            transport: Transport::default(),
            retired: false,
            refused_early: false,
            paused: false,
            pipeline,
            in_flight: InFlight::default(),
            decoder: Decoder::default(),
            head: None,
            keep_alive_timeout: None,
        }
    }

    /// The number of its pool.
    pub(super) fn pool(&self) -> usize {
        self.pool
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Whether bytes of the backend are read.
    pub(super) fn wants_input(&self) -> bool {
        !self.paused
    }

    pub(super) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub(super) fn is_tls(&self) -> bool {
        self.transport.is_tls()
    }

    pub(super) fn is_handshaking(&self) -> bool {
        matches!(self.state, State::Handshaking { .. })
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    fn history(&self) -> Option<History> {
        match self.state {
            State::Connecting | State::Handshaking { .. } => None,
            State::Open { history, .. } => Some(history),
        }
    }

    /// It becomes idle.
    pub(super) fn set_idle(&mut self) {
        if let State::Open { history, .. } = &mut self.state {
            *history = (*history).max(History::Idled);
        }
    }

    /// True if it has neither carried a response nor been idle: then it was not closed for having been idle.
    pub(super) fn is_new(&self) -> bool {
        self.history().is_none_or(|history| history == History::New)
    }

    /// True if it has answered a pipelined request.
    pub(super) fn has_pipelined(&self) -> bool {
        self.history() == Some(History::Pipelined)
    }

    /// The idle timeout: half of that of the backend, so that the backend never closes it while a request is being sent,
    /// and at most `keepalive`.
    pub(super) fn idle_time(&self, keepalive: Duration) -> Duration {
        self.keep_alive_timeout.map_or(keepalive, |granted| keepalive.min(granted / 2))
    }

    pub(super) fn pipeline(&self) -> usize {
        self.pipeline
    }

    /// Has one request at a time from now on.
    pub(super) fn stop_pipelining(&mut self) {
        self.pipeline = 1;
    }

    /// Has no further requests: its TLS configuration is out of date.
    pub(super) fn retire(&mut self) {
        self.retired = true;
    }

    /// The backend has accepted it, and it does not use TLS.
    pub(super) fn open(&mut self, now: Instant) {
        self.state = State::Open { accepted: now, since: now, history: History::New };
    }

    /// The backend has accepted it, and TLS begins: there is output.
    pub(super) fn begin_handshake(&mut self, connector: &TlsConnector, now: Instant) -> Result<(), String> {
        self.state = State::Handshaking { accepted: now };
        self.transport.begin_handshake(connector)
    }

    /// The duration of the completed handshake.
    pub(super) fn handshake_time(&self) -> Duration {
        match self.state {
            State::Connecting | State::Handshaking { .. } => Duration::ZERO,
            State::Open { accepted, since, .. } => since.saturating_duration_since(accepted),
        }
    }

    /// What it is waiting for that is not open yet.
    pub(super) fn connect_timeout(&self) -> Fault {
        match self.state {
            State::Connecting => Fault::ConnectTimeout,
            State::Handshaking { .. } | State::Open { .. } => Fault::HandshakeTimeout,
        }
    }

    /// Puts a request on the wire. True if there was no output before.
    pub(super) fn push(&mut self, exchange: Box<Exchange>, now: Instant) -> bool {
        let before = self.transport.unsent();
        // Written at once, encrypted only when it leaves: the requests of one turn share a record and a system call.
        if exchange.has_body() {
            self.transport.set_secret();
        }
        exchange.write_to(self.transport.requests());
        let size = self.transport.unsent() - before;
        self.in_flight.push(exchange, size, now);
        before == 0
    }

    /// Records in the exchange that was pushed last how long it had waited. `resolve` is the span in which the host's
    /// name was resolved.
    pub(super) fn record_wait(&mut self, resolve: Option<(Instant, Instant)>, now: Instant) {
        let State::Open { accepted, since, .. } = self.state else { return };
        let connect = (self.opened, accepted);
        let handshake = self.is_tls().then_some((accepted, since));
        if let Some(exchange) = self.in_flight.last_mut() {
            exchange.record_wait(connect, handshake, resolve, now);
        }
    }

    /// True if this exchange may be sent together with those that were pushed in the same turn. What has left is not
    /// added to: all that a backend reads at once it also answers in order, even one that answers what came in two
    /// pieces in two threads. A connection that has not carried a response yet takes one request (RFC 9112, 9.3.2: what
    /// is sent again must not be pipelined at once).
    pub(super) fn can_pipeline(&self, exchange: &Exchange) -> bool {
        self.in_flight.begins_with_unsent_get(self.transport.unsent())
            && self.in_flight.len() < self.pipeline
            && self.history() >= Some(History::Answered)
            && !self.is_retired()
            && exchange.is_safe()
            && !exchange.may_stream()
    }

    fn is_retired(&self) -> bool {
        self.retired || self.transport.key_limit_reached()
    }

    /// The bytes to be written to the socket.
    pub(super) fn output(&mut self) -> &[u8] {
        self.transport.output()
    }

    /// Notes that the kernel took `count` bytes of the output.
    pub(super) fn sent(&mut self, count: usize) {
        let awaited = self.in_flight.awaits_response();
        let left = self.transport.sent(count, awaited);
        self.in_flight.advance(left);
    }

    /// True if it must be read from before it is written to: a write is never sent twice, and a connection that was
    /// idle may have been closed in the meantime.
    pub(super) fn needs_check(&self) -> bool {
        !self.is_new() && self.in_flight.begins_with_unsent_write()
    }

    /// Reads `input` up to the next event. To be called until that is [`Arrival::Nothing`].
    pub(super) fn receive<'a>(&mut self, input: &mut &'a [u8], now: Instant) -> Arrival<'a> {
        if self.transport.is_tls() { self.receive_tls(input, now) } else { self.decode(input, now) }
    }

    fn receive_tls(&mut self, input: &mut &[u8], now: Instant) -> Arrival<'static> {
        self.transport.decrypt(std::mem::take(input));
        // A server may complete its handshake and close in one read. Nothing is taken for HTTP before the connection can
        // be used, and no request is given to one that has ended.
        let handshake = self.transport.handshake().filter(|_| self.transport.end().is_none());
        if let (State::Handshaking { accepted }, Some(handshake)) = (&self.state, handshake) {
            self.state = State::Open { accepted: *accepted, since: now, history: History::New };
            return Arrival::Open(handshake);
        }
        if self.is_open() && !self.transport.plaintext().is_empty() {
            // A copy, as the decoder lends from its input and the connection holds it; next to decryption its cost cannot
            // be measured.
            let plain = self.transport.plaintext().to_vec();
            let mut rest = &plain[..];
            let arrival = self.decode(&mut rest, now).into_owned();
            self.transport.advance(plain.len() - rest.len());
            if !matches!(arrival, Arrival::Nothing) {
                return arrival;
            }
        }
        match self.transport.end().cloned() {
            None => Arrival::Nothing,
            Some(SessionEnd::Closed) => self.end(None),
            Some(SessionEnd::Unsolicited) => Arrival::Closed(CloseReason::Fault(Fault::Unsolicited)),
            Some(SessionEnd::Broken(error)) if self.is_open() => Arrival::Closed(CloseReason::Fault(Fault::Tls(error))),
            Some(SessionEnd::Broken(error)) => Arrival::ConnectFailed(Fault::Handshake(error)),
        }
    }

    fn decode<'a>(&mut self, input: &mut &'a [u8], now: Instant) -> Arrival<'a> {
        let awaits_response = self.in_flight.awaits_response();
        self.refused_early |= !awaits_response && !input.is_empty() && self.in_flight.may_be_refused_early();
        if self.refused_early {
            return self.decode_refusal(input);
        }
        // What arrives before the request has left, or while none is in flight, belongs to something else.
        if !awaits_response {
            let any = !std::mem::take(input).is_empty();
            return if any { Arrival::Closed(CloseReason::Fault(Fault::Unsolicited)) } else { Arrival::Nothing };
        }
        let front = self.in_flight.front_mut().filter(|exchange| exchange.may_stream());
        self.decoder.set_streams(front.is_some());
        match self.decoder.push(input) {
            Ok(None) => {
                if self.head.is_none() && !self.decoder.in_head() {
                    self.head = Some(now);
                }
                let (Some(exchange), Some(part)) = (front, self.decoder.take_part()) else { return Arrival::Nothing };
                exchange.begin_stream();
                Arrival::Part(exchange.asker, part)
            }
            Ok(Some(response)) => Arrival::Response { response, surplus: !input.is_empty() },
            Err(error) => Arrival::Closed(CloseReason::Fault(Fault::Malformed(error))),
        }
    }

    /// Reads the response to a write of which a part has not left. The connection is closed after it.
    fn decode_refusal<'a>(&mut self, input: &mut &'a [u8]) -> Arrival<'a> {
        self.decoder.set_streams(false);
        match self.decoder.push(input) {
            Ok(None) => Arrival::Nothing,
            Ok(Some(response)) if self.in_flight.can_be_refused_with(response.status) => {
                Arrival::Response { response, surplus: true }
            }
            Ok(Some(_)) => Arrival::Closed(CloseReason::Fault(Fault::Unsolicited)),
            Err(error) => Arrival::Closed(CloseReason::Fault(Fault::Malformed(error))),
        }
    }

    /// The stream has ended, with an error or not, which may complete a response.
    pub(super) fn end(&mut self, error: Option<ErrorKind>) -> Arrival<'static> {
        match self.state {
            State::Connecting => {
                return Arrival::ConnectFailed(Fault::Unreachable(error.unwrap_or(ErrorKind::ConnectionAborted)));
            }
            State::Handshaking { .. } => {
                let why = error.map_or_else(|| "it closed the connection".to_owned(), |kind| kind.to_string());
                return Arrival::ConnectFailed(Fault::Handshake(why));
            }
            State::Open { .. } => {}
        }
        let fault = match error {
            Some(kind) => Fault::Broken(kind),
            None if !self.in_flight.awaits_response() && !self.refused_early => Fault::Closed,
            // A body without length lasts until the end of the stream, which any party on the path could cause; with TLS
            // only close_notify is the end.
            None => match self.decoder.end() {
                Ok(Some(_)) if self.is_truncated() => Fault::Truncated,
                Ok(Some(response)) if self.refused_early && !self.in_flight.can_be_refused_with(response.status) => {
                    Fault::Unsolicited
                }
                Ok(Some(response)) => return Arrival::Response { response, surplus: self.refused_early },
                Ok(None) => Fault::Closed,
                Err(http::Error::Cut) => Fault::Cut,
                Err(error) => Fault::Malformed(error),
            },
        };
        Arrival::Closed(CloseReason::Fault(fault))
    }

    /// True if another party than the backend may have cut off the stream.
    fn is_truncated(&self) -> bool {
        self.transport.is_tls() && self.transport.end() != Some(&SessionEnd::Closed)
    }

    /// Takes out the exchange that a response belongs to; `None` if its deadline has passed.
    pub(super) fn complete(&mut self, response: &Response<'_>, now: Instant) -> Option<Box<Exchange>> {
        (self.keep_alive_timeout, self.paused) = (response.keep_alive_timeout, false);
        let (mut exchange, ahead) = self.in_flight.pop()?;
        if let State::Open { history, .. } = &mut self.state {
            *history = (*history).max(if ahead { History::Pipelined } else { History::Answered });
        }
        if let (Some(head), Some(exchange)) = (self.head.take(), &mut exchange) {
            exchange.record_head(head, now);
        }
        exchange
    }

    /// What follows a response.
    pub(super) fn after_response(&self, keep_alive: bool, surplus: bool) -> AfterResponse {
        match self.in_flight.is_empty() {
            false if keep_alive => AfterResponse::Busy,
            false => AfterResponse::CloseAnnounced,
            true if keep_alive && !surplus && !self.is_retired() => AfterResponse::Free,
            true => AfterResponse::Close,
        }
    }

    /// True if a response may be about the client certificate and not about the request.
    pub(super) fn is_certificate_status(&self, response: &Response<'_>) -> bool {
        self.transport.is_certificate_status(response.status, response.keep_alive)
    }

    /// True if a pipelined request is in flight.
    pub(super) fn owes_ahead(&self) -> bool {
        self.in_flight.owes_ahead()
    }

    /// Takes out all exchanges in flight, in order. `invalid` means that an invalid response has arrived.
    pub(super) fn take_orphans(&mut self, invalid: bool) -> Vec<(Box<Exchange>, Progress)> {
        self.in_flight.take(invalid || self.refused_early || !self.decoder.is_clean())
    }

    /// The table of the exchange whose response is the next one, and when it was sent.
    pub(super) fn front(&self) -> Option<(usize, Instant)> {
        self.in_flight.front()
    }

    /// True if its asker gets the response in parts: it may take as long as the asker does.
    pub(super) fn is_streamed(&self) -> bool {
        self.in_flight.is_streamed()
    }

    /// Takes out an exchange whose deadline has passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Expired> {
        self.in_flight.take_expired(now)
    }

    /// True if the exchange has expired whose response is the next one.
    pub(super) fn is_stuck(&self) -> bool {
        self.in_flight.is_stuck()
    }

    /// The earliest deadline of an exchange in flight.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.in_flight.deadline()
    }

    /// What the exchange at the front is waiting for.
    pub(super) fn phase(&self) -> Phase {
        if self.decoder.in_head() { Phase::Head } else { Phase::Body }
    }

    /// The last bytes for the backend before the connection is closed.
    pub(super) fn close_notify(&mut self) -> Vec<u8> {
        self.transport.close_notify()
    }
}
