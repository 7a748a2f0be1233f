//! The backends: pools of connections to each, and the fate of the requests that are submitted to them.

mod addresses;
mod arrival;
mod balance;
mod breaker;
mod connection;
mod connections;
mod exchange;
mod fault;
mod growth;
mod health;
mod in_flight;
mod lent;
mod options;
mod pool;
mod pools;
mod preference;
mod queue;
mod reach;
mod redirect;
mod report;
mod request;
mod resolver;
mod retry;
mod roster;
mod schedule;
mod state;
pub mod tls;
mod trace;

pub use arrival::{BodyPart, Finished};
pub use connections::Connections;
pub use exchange::{Asker, Exchange, SpareExchanges, TimeLimit};
pub use fault::{Fault, Phase};
pub use options::{BackendSpec, PoolOptions, Target};
pub use pools::Arrived;
pub use queue::MAX_WAITING;
pub use reach::CheckResult;
pub use redirect::RedirectError;
pub use report::{BackendReport, Trouble};
pub use request::{Body, Carrier, DnsQuery, MAX_ROUTES, Method, Piece, Request, Route};
pub use resolver::Resolver;
pub use trace::TraceId;

use crate::arena::Key;
use crate::io::{Peer, Turn};
use crate::log;
use crate::timers::earliest;
use crate::wire::http::Response;
use arrival::{AfterResponse, Arrival, CloseReason};
use connection::Connection;
use in_flight::Expired;
use options::CONNECT_TIMEOUT;
use pools::Pools;
use retry::{Next, Outcome};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Instant;
use tls::TlsConnector;

/// All backends, and the exchanges with them.
#[derive(Debug, Default)]
pub struct Backends {
    pools: Pools,
    /// Exchanges that have to be placed again, because the route that they had was excluded.
    pending: VecDeque<Box<Exchange>>,
    /// Exchanges that have ended, except for one whose response is still in [`Arrived`].
    finished: VecDeque<Finished<'static>>,
    parts: VecDeque<BodyPart>,
    /// No exchange expires before: a bound, so that deadlines cost nothing while none is reached.
    soonest: Option<Instant>,
}

impl Backends {
    /// Adds a backend, or finds it, and returns its number. `replica` is whether a table may use others in its place.
    pub fn add(&mut self, spec: BackendSpec, replica: bool) -> usize {
        self.pools.add(spec, replica)
    }

    /// Divides this many descriptors among the connections to all backends.
    pub fn set_descriptors(&mut self, count: usize) {
        self.pools.set_descriptors(count);
    }

    /// Uses another TLS configuration for a backend.
    pub fn set_connector(&mut self, backend: usize, connector: TlsConnector, turn: &mut Turn) {
        self.pools.set_connector(backend, connector, turn);
    }

    // --- exchanges

    /// Sends a request, at once or as soon as there is a connection. [`Backends::next_finished`] returns it in the end.
    pub fn submit(&mut self, mut exchange: Box<Exchange>, turn: &mut Turn) {
        let deadline = exchange.deadline;
        self.soonest = Some(self.soonest.map_or(deadline, |soonest| soonest.min(deadline)));
        if !exchange.is_redirected() {
            match self.pools.pick(&exchange, exchange.open_routes(), turn.now) {
                Some(route) => exchange.set_route(route),
                None => {
                    // The reason names a backend that is down, and not the one whose route was excluded.
                    let open = exchange.open_routes().next();
                    open.into_iter().for_each(|route| exchange.set_route(route));
                    let fault = self.pools.pool(exchange.pool()).health().down_cause(exchange.table);
                    return self.fail(exchange, fault, false);
                }
            }
        }
        if let Some(exchange) = self.pools.submit(exchange, turn) {
            let next = retry::next(self.pools.facts(&exchange, turn.now), Outcome::Overloaded);
            if next == Next::FailOver {
                self.fail_over(exchange)
            } else {
                self.fail(exchange, Fault::Overloaded, false)
            }
        }
    }

    /// Sends an exchange to another backend.
    fn fail_over(&mut self, mut exchange: Box<Exchange>) {
        self.pools.pool(exchange.pool()).count(|metrics| metrics.retried += 1);
        exchange.exclude_route();
        self.pending.push_back(exchange);
    }

    fn fail(&mut self, exchange: Box<Exchange>, fault: Fault, sent: bool) {
        self.pools.pool(exchange.pool()).count(|metrics| metrics.count_failure(matches!(fault, Fault::Timeout(_))));
        self.finished.push_back(Finished { exchange, result: Err(fault), sent });
    }

    /// The next exchange that has ended. Reads from `arrived` as far as that needs. Before the end of one that was
    /// streamed, and after the last, [`Backends::next_part`] returns what has arrived.
    pub fn next_finished<'a>(&mut self, arrived: &mut Arrived<'a>, turn: &mut Turn) -> Option<Finished<'a>> {
        loop {
            if let Some(finished) = self.finished.pop_front() {
                return Some(finished);
            }
            let key = arrived.key()?;
            let arrival = self.pools.next_arrival(key, arrived, turn);
            if let Some(finished) = self.on_arrival(key, arrival, turn) {
                return Some(finished);
            }
        }
    }

    /// The next part of a response that is streamed.
    // Apart from what has ended, which is nearly everything: one type for both costs each lookup 2 % of its instructions.
    #[inline]
    pub fn next_part(&mut self) -> Option<BodyPart> {
        if self.parts.is_empty() { None } else { self.parts.pop_front() }
    }

    fn on_arrival<'a>(&mut self, key: Key, arrival: Arrival<'a>, turn: &mut Turn) -> Option<Finished<'a>> {
        match arrival {
            Arrival::Response { response, surplus } => return self.on_response(key, response, surplus, turn),
            Arrival::Nothing => {}
            Arrival::Part(asker, bytes) => self.parts.push_back(BodyPart::new(asker, Peer::Backend(key), bytes)),
            Arrival::Open(handshake) => self.pools.on_handshake(key, handshake, turn),
            Arrival::ConnectFailed(fault) => self.on_connect_failed(key, &fault, turn),
            Arrival::Closed(reason) => self.on_closed(key, reason, turn),
        }
        None
    }

    fn on_response<'a>(
        &mut self,
        key: Key,
        response: Response<'a>,
        surplus: bool,
        turn: &mut Turn,
    ) -> Option<Finished<'a>> {
        let status = response.status;
        let (at, exchange, after) = self.pools.on_response(key, &response, surplus, turn.now)?;
        let connection = self.pools.connection(key).filter(|_| status != 200);
        let seen = connection.map(|one| (one.address().clone(), one.is_certificate_status(&response)));
        if self.pools.pool(at).health().may_change(status) {
            self.pools.record_status(at, key, &response, turn);
        }
        match after {
            // The next response is for an exchange that has expired: unless it has arrived too, the connection is
            // closed before this turn ends.
            AfterResponse::Busy if self.pools.is_stuck(key) => self.soonest = Some(turn.now),
            AfterResponse::Busy => {}
            AfterResponse::Free => self.pools.serve_next(at, key, turn),
            AfterResponse::CloseAnnounced => self.on_closed(key, CloseReason::Announced, turn),
            AfterResponse::Close => self.on_closed(key, CloseReason::Unused, turn),
        }
        let mut exchange = exchange?; // else its deadline has passed
        if status == 200 {
            return Some(Finished { exchange, result: Ok(response), sent: true }); // as nearly always
        }
        let (address, certificate) = seen?;
        let other_address = self.pools.pool(at).addresses().has_other(&address, turn.now);
        let outcome = Outcome::Response { status, certificate, other_address };
        match retry::next(self.pools.facts(&exchange, turn.now), outcome) {
            Next::Deliver | Next::Requeue => return Some(Finished { exchange, result: Ok(response), sent: true }),
            Next::Fail { sent } => self.fail(exchange, Fault::CertificateRejected(status), sent),
            Next::FailOver => self.fail_over(exchange),
            Next::Resend => {
                self.pools.pool(at).count(|metrics| metrics.retried += 1);
                self.pools.pool(at).resend(exchange, turn.now);
            }
            Next::Redirect => match exchange.redirect(response.location()) {
                Ok(()) => self.pending.push_back(exchange),
                Err(error) => self.fail(exchange, Fault::Redirect(status, error), true),
            },
        }
        None
    }

    /// Closes a connection, and sends those of its exchanges again that may be.
    fn on_closed(&mut self, key: Key, reason: CloseReason, turn: &mut Turn) {
        let Some((at, orphans)) = self.pools.close(key, &reason, turn) else { return };
        let announced = reason == CloseReason::Announced;
        let (fault, mut requeue, mut failed) = (reason.into_fault(), Vec::new(), Vec::new());
        for (exchange, progress) in orphans.exchanges {
            let outcome = Outcome::Closed { progress, reused: orphans.reused, announced };
            match retry::next(self.pools.facts(&exchange, turn.now), outcome) {
                Next::Requeue | Next::Deliver | Next::Redirect => requeue.push(exchange),
                Next::Resend => {
                    let pool = self.pools.pool(at);
                    log::info(format_args!("resend backend={} cause=\"{fault}\"", pool.spec().label));
                    pool.count(|metrics| metrics.resent += 1);
                    pool.resend(exchange, turn.now);
                }
                Next::FailOver => failed.push((exchange, None)),
                Next::Fail { sent } => failed.push((exchange, Some(sent))),
            }
        }
        if !failed.is_empty() {
            self.pools.on_fault(at, Some(&orphans.address), &fault, turn);
        }
        for (exchange, sent) in failed {
            match sent {
                None => self.fail_over(exchange),
                Some(sent) => self.fail(exchange, fault.clone(), sent),
            }
        }
        // In their old order, in front of what came later.
        requeue.into_iter().rev().for_each(|exchange| self.pools.requeue(exchange, turn));
    }

    /// A connection could not be made: the next address is tried, or the backend is unreachable.
    fn on_connect_failed(&mut self, key: Key, fault: &Fault, turn: &mut Turn) {
        if let Some(at) = self.pools.on_connect_failed(key, fault, turn) {
            let slow = matches!(fault, Fault::ConnectTimeout | Fault::HandshakeTimeout);
            self.on_unreachable(at, fault, slow, turn);
        }
    }

    /// A backend cannot be reached: exchanges that wait for it are sent elsewhere, or fail.
    fn on_unreachable(&mut self, at: usize, fault: &Fault, slow: bool, turn: &mut Turn) {
        self.pools.pool(at).reach().on_unreachable(fault);
        for exchange in self.pools.pool(at).drain_unreachable(fault, turn.now) {
            // Waiting for the accept counts as waiting for the backend, but not for a lookup that came just before.
            if slow && turn.now.saturating_duration_since(exchange.since) >= CONNECT_TIMEOUT {
                self.pending.extend(self.pools.on_timeout(&exchange, fault, turn.now));
            }
            let next = retry::next(self.pools.facts(&exchange, turn.now), Outcome::Unreachable);
            if next == Next::FailOver { self.fail_over(exchange) } else { self.fail(exchange, fault.clone(), false) }
        }
        self.pools.on_fault(at, None, fault, turn);
    }

    /// Drops the waiting exchanges that `is_live` does not hold for.
    pub fn sweep(&mut self, is_live: impl FnMut(Asker) -> bool) {
        self.pools.sweep(is_live);
    }

    // --- connections

    /// A backend has accepted a connection.
    pub fn connected(&mut self, key: Key, turn: &mut Turn) {
        if let Err(fault) = self.pools.accepted(key, turn) {
            self.on_connect_failed(key, &fault, turn);
        }
    }

    /// A connection was closed, or broke, or could not be made. It may have completed an exchange.
    pub fn ended(&mut self, key: Key, error: Option<ErrorKind>, turn: &mut Turn) {
        let arrival = self.pools.ended(key, error);
        let finished = self.on_arrival(key, arrival, turn);
        self.finished.extend(finished);
    }

    /// All connections.
    pub fn connections(&mut self) -> &mut Connections {
        self.pools.connections()
    }

    /// A name was resolved, or could not be.
    pub fn resolved(&mut self, name: usize, answer: Result<Vec<SocketAddr>, String>, now: Instant) {
        self.pools.resolved(name, answer, now);
    }

    /// The names of the backends.
    pub fn resolver(&mut self) -> &mut Resolver {
        self.pools.resolver()
    }

    /// Resolves names again before the next connection, and allows pipelining again.
    pub fn reload(&mut self) {
        self.pools.reload();
    }

    // --- time

    /// Places exchanges again, opens missing connections, and ends exchanges and connections whose time has passed.
    pub fn tick(&mut self, turn: &mut Turn) {
        if self.soonest.is_some_and(|soonest| soonest <= turn.now) {
            self.expire(turn);
        }
        self.pools.begin_tick(turn);
        loop {
            // This ends: what comes here has used up a route or a redirect, or its backend has just gone down.
            if let Some(exchange) = self.pending.pop_front() {
                self.submit(exchange, turn);
            } else if let Some(at) = self.pools.next_tick() {
                self.tick_pool(at, turn);
            } else {
                break;
            }
        }
        if self.pools.is_quiet() {
            self.soonest = None;
        }
    }

    fn tick_pool(&mut self, at: usize, turn: &mut Turn) {
        self.pools.maintain(at, turn);
        while let Some((key, fault)) = self.pools.overdue(at, turn.now) {
            self.on_connect_failed(key, &fault, turn);
        }
        if let Err(fault) = self.pools.grow(at, turn) {
            self.on_unreachable(at, &fault, false, turn);
        }
        self.pools.end_tick(at, turn);
    }

    /// When [`Backends::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        earliest([self.pools.deadline(), self.soonest])
    }

    /// Ends every exchange whose deadline has passed, and closes connections whose next response would be for one.
    // Such a connection may hang, while others wait behind.
    fn expire(&mut self, turn: &mut Turn) {
        while let Some((exchange, phase)) = self.pools.pop_expired(turn.now) {
            self.fail(exchange, Fault::Timeout(phase), false);
        }
        for key in self.pools.expired_connections(turn.now) {
            self.expire_connection(key, turn);
        }
        self.soonest = self.pools.exchange_deadline();
    }

    fn expire_connection(&mut self, key: Key, turn: &mut Turn) {
        let Some(phase) = self.pools.connection(key).map(Connection::phase) else { return };
        let mut is_fault = false;
        while let Some(Expired { exchange, sent, had_time, .. }) = self.pools.take_expired(key, turn.now) {
            if had_time {
                is_fault = true;
                self.pending.extend(self.pools.on_timeout(&exchange, &Fault::Timeout(phase), turn.now));
            }
            self.fail(exchange, Fault::Timeout(phase), sent);
        }
        let Some(connection) = self.pools.connection(key).filter(|connection| connection.is_stuck()) else { return };
        let (at, address) = (connection.pool(), connection.address().clone());
        if is_fault {
            self.pools.on_fault(at, Some(&address), &Fault::Timeout(phase), turn);
        }
        self.on_closed(key, CloseReason::Fault(Fault::Closed), turn);
    }

    // --- reports

    /// Opens a connection to each backend, to see whether it can be reached.
    pub fn check(&mut self) {
        self.pools.check();
    }

    /// The result for each backend; `None` until all are known.
    pub fn check_results(&mut self, now: Instant) -> Option<Vec<CheckResult>> {
        self.pools.check_results(now)
    }

    /// The backend that an exchange was last assigned to.
    pub fn label(&self, exchange: &Exchange) -> &str {
        self.pools.label(exchange.pool())
    }

    /// The state of each backend.
    pub fn reports(&self, now: Instant) -> impl Iterator<Item = BackendReport<'_>> {
        self.pools.reports(now)
    }
}
