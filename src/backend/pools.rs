//! All pools and connections: which of them an exchange or an event belongs to.

use super::arrival::{AfterResponse, Arrival, CloseReason};
use super::balance;
use super::breaker::Permit;
use super::connection::Connection;
use super::connections::Connections;
use super::exchange::{Asker, Exchange};
use super::fault::{Fault, Phase};
use super::in_flight::Expired;
use super::lent::{Lent, Orphans};
use super::options::BackendSpec;
use super::pool::Pool;
use super::reach::{CheckResult, Reach};
use super::report::BackendReport;
use super::resolver::Resolver;
use super::retry::Facts;
use super::schedule::Schedule;
use super::tls::{Handshake, TlsConnector};
use crate::arena::Key;
use crate::io::{Action, Address, Peer, Turn};
use crate::timers::earliest;
use crate::wire::http::Response;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Instant;

/// Bytes that have arrived on a connection, and are still to be read.
#[derive(Debug, Default)]
pub struct Arrived<'a> {
    bytes: &'a [u8],
    /// `None` once all was read.
    key: Option<Key>,
}

impl<'a> Arrived<'a> {
    pub fn new(key: Key, bytes: &'a [u8]) -> Self {
        Self { bytes, key: Some(key) }
    }

    /// The connection; `None` once all was read.
    pub(super) fn key(&self) -> Option<Key> {
        self.key
    }
}

/// All pools and connections, and the names of the backends.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pools: Vec<Pool>,
    connections: Connections,
    /// Maximum number of connections of all pools together, besides one that each may have.
    limit: Option<usize>,
    resolver: Resolver,
    schedule: Schedule,
}

/// The pool with a number, in which something happens, and what it borrows.
macro_rules! lend {
    ($self:ident, $at:expr, $turn:expr) => {{
        let (at, limit) = ($at, $self.limit.unwrap_or(usize::MAX));
        $self.schedule.mark(at);
        (&mut $self.pools[at], &mut Lent { connections: &mut $self.connections.arena, limit, turn: $turn })
    }};
}

impl Pools {
    pub(super) fn add(&mut self, spec: BackendSpec, replica: bool) -> usize {
        // Tables that name the same backend with the same options share its connections and its health.
        let known = self.pools.iter().position(|pool| *pool.spec() == spec);
        let at = known.unwrap_or_else(|| {
            self.pools.push(Pool::new(spec, &mut self.resolver));
            self.schedule.add();
            self.pools.len() - 1
        });
        if replica {
            self.pools[at].health().set_replica();
        }
        at
    }

    /// Divides this many descriptors among all connections.
    // Without a limit for all, a backend that hangs could take the descriptors of those that work.
    pub(super) fn set_descriptors(&mut self, count: usize) {
        self.limit = Some(count.saturating_sub(self.pools.len()));
    }

    /// The pool with a number, in which something happens.
    pub(super) fn pool(&mut self, at: usize) -> &mut Pool {
        self.schedule.mark(at);
        &mut self.pools[at]
    }

    pub(super) fn label(&self, at: usize) -> &str {
        &self.pools[at].spec().label
    }

    pub(super) fn set_connector(&mut self, at: usize, connector: TlsConnector, turn: &mut Turn) {
        let (pool, lent) = lend!(self, at, turn);
        pool.set_connector(connector, at, lent);
    }

    // --- exchanges

    /// The best of some routes of an exchange; `None` if all of their backends are down.
    pub(super) fn pick(&self, exchange: &Exchange, mut routes: impl Iterator<Item = u8>, now: Instant) -> Option<u8> {
        let pool = |route| &self.pools[exchange.pool_of(route)];
        // Nearly all tables have one backend, and need no comparison.
        if exchange.request.routes.len() == 1 {
            return routes.find(|route| pool(*route).permit(exchange, now) != Permit::Deny);
        }
        balance::pick(exchange.is_safe(), routes.map(|route| (route, pool(route).candidate(exchange, now))))
    }

    /// The facts about an exchange whose attempt has ended.
    pub(super) fn facts(&self, exchange: &Exchange, now: Instant) -> Facts {
        let replicas = exchange.request.routes.len() > 1;
        Facts {
            safe: exchange.is_safe(),
            repeatable: matches!(exchange.asker, Asker::Ask(_)),
            resent: exchange.is_resent(),
            other_route: replicas && self.pick(exchange, exchange.other_routes(), now).is_some(),
        }
    }

    /// Sends an exchange to the backend of its route. Returns it if the queue there is full.
    pub(super) fn submit(&mut self, exchange: Box<Exchange>, turn: &mut Turn) -> Option<Box<Exchange>> {
        let (pool, lent) = lend!(self, exchange.pool(), turn);
        pool.submit(exchange, lent)
    }

    pub(super) fn requeue(&mut self, exchange: Box<Exchange>, turn: &mut Turn) {
        let (pool, lent) = lend!(self, exchange.pool(), turn);
        pool.requeue(exchange, lent);
    }

    /// Records a status in the health of the backend that sent it.
    pub(super) fn record_status(&mut self, at: usize, key: Key, response: &Response<'_>, turn: &mut Turn) {
        let health = self.pools[at].health();
        match (response.status, response.retry_after()) {
            (status @ (429 | 503), Some(seconds)) => health.on_retry_after(seconds, status, turn.now),
            (status @ 502..=504, _) => {
                let address = self.connections.arena.get(key).map(|connection| connection.address().clone());
                self.on_fault(at, address.as_ref(), &format_args!("answered {status}"), turn);
            }
            // These are about one key, or about the rate.
            (429 | 500.., _) => {}
            _ => health.on_success(),
        }
    }

    /// Records a fault of a backend, and of one of its addresses, which is ejected if there are others.
    pub(super) fn on_fault(&mut self, at: usize, address: Option<&Address>, cause: &impl ToString, turn: &mut Turn) {
        let (pool, lent) = lend!(self, at, turn);
        if let Some(address) = address
            && pool.addresses().eject(address, lent.turn.now)
        {
            pool.close_idle_to(address, lent);
        }
        pool.health().on_fault(cause, lent.turn.now);
    }

    /// A backend has not answered an exchange in time. If it is down for the table now, returns the exchanges of that
    /// table that wait, which have to be placed again.
    pub(super) fn on_timeout(&mut self, exchange: &Exchange, cause: &Fault, now: Instant) -> Vec<Box<Exchange>> {
        self.schedule.mark(exchange.pool());
        let pool = &mut self.pools[exchange.pool()];
        let opened = pool.health().on_timeout(exchange, cause, now);
        if opened { pool.queue().drain_table(exchange.table) } else { Vec::new() }
    }

    /// Drops the waiting exchanges that `is_live` does not hold for.
    pub(super) fn sweep(&mut self, mut is_live: impl FnMut(Asker) -> bool) {
        for (at, pool) in self.pools.iter_mut().enumerate() {
            if pool.queue().retain(|exchange| is_live(exchange.asker)) {
                self.schedule.mark(at);
            }
        }
    }

    // --- connections

    /// The next thing that has happened on a connection, as far as it has arrived.
    pub(super) fn next_arrival<'a>(&mut self, key: Key, arrived: &mut Arrived<'a>, turn: &mut Turn) -> Arrival<'a> {
        let Some(connection) = self.connections.arena.get_mut(key) else {
            arrived.key = None;
            return Arrival::Nothing;
        };
        let arrival = connection.receive(&mut arrived.bytes, turn.now);
        // TLS has something to send for itself: a handshake, an alert, a key update.
        if connection.is_tls() && !connection.output().is_empty() {
            turn.push(Action::Flush(Peer::Backend(key)));
        }
        // Nearly always nothing follows the first response. What TLS still holds is not visible here.
        if matches!(arrival, Arrival::Nothing) || arrived.bytes.is_empty() && !connection.is_tls() {
            arrived.key = None;
        }
        arrival
    }

    /// The stream of a connection has ended.
    pub(super) fn ended(&mut self, key: Key, error: Option<ErrorKind>) -> Arrival<'static> {
        self.connections.arena.get_mut(key).map_or(Arrival::Nothing, |connection| connection.end(error))
    }

    /// A backend has accepted a connection.
    pub(super) fn accepted(&mut self, key: Key, turn: &mut Turn) -> Result<(), Fault> {
        let Some(at) = self.connections.arena.get(key).map(Connection::pool) else { return Ok(()) };
        let (pool, lent) = lend!(self, at, turn);
        pool.on_accepted(key, lent)
    }

    pub(super) fn on_handshake(&mut self, key: Key, handshake: Handshake, turn: &mut Turn) {
        let Some(at) = self.connections.arena.get(key).map(Connection::pool) else { return };
        let (pool, lent) = lend!(self, at, turn);
        pool.on_handshake(key, handshake, lent);
    }

    /// Takes out the exchange of a response.
    pub(super) fn on_response(
        &mut self,
        key: Key,
        response: &Response<'_>,
        surplus: bool,
        now: Instant,
    ) -> Option<(usize, Option<Box<Exchange>>, AfterResponse)> {
        let connection = self.connections.arena.get_mut(key)?;
        let at = connection.pool();
        let (exchange, after) = self.pools[at].on_response(connection, response, surplus, now);
        Some((at, exchange, after))
    }

    /// True if the next response of a connection is for an exchange that has expired.
    pub(super) fn is_stuck(&self, key: Key) -> bool {
        self.connections.arena.get(key).is_some_and(Connection::is_stuck)
    }

    pub(super) fn connection(&self, key: Key) -> Option<&Connection> {
        self.connections.arena.get(key)
    }

    pub(super) fn serve_next(&mut self, at: usize, key: Key, turn: &mut Turn) {
        let (pool, lent) = lend!(self, at, turn);
        pool.serve_next(key, lent);
    }

    /// Closes a connection; returns the number of its pool, and the exchanges that were in flight.
    pub(super) fn close(&mut self, key: Key, reason: &CloseReason, turn: &mut Turn) -> Option<(usize, Orphans)> {
        let at = self.connections.arena.get(key)?.pool();
        let (pool, lent) = lend!(self, at, turn);
        pool.close(key, reason, lent).map(|orphans| (at, orphans))
    }

    /// A connection could not be made. The number of its pool, if no address of the backend is left.
    pub(super) fn on_connect_failed(&mut self, key: Key, fault: &Fault, turn: &mut Turn) -> Option<usize> {
        let at = self.connections.arena.get(key)?.pool();
        let (pool, lent) = lend!(self, at, turn);
        if !pool.on_connect_failed(key, fault, lent) {
            return None;
        }
        pool.addresses().name().into_iter().for_each(|name| self.resolver.expire(name));
        Some(at)
    }

    pub(super) fn connections(&mut self) -> &mut Connections {
        &mut self.connections
    }

    // --- names

    pub(super) fn resolver(&mut self) -> &mut Resolver {
        &mut self.resolver
    }

    pub(super) fn reload(&mut self) {
        self.schedule.mark_all();
        self.resolver.expire_all();
        self.pools.iter_mut().for_each(|pool| pool.addresses().allow_pipelining());
    }

    // --- time

    /// A name was resolved, or could not be.
    pub(super) fn resolved(&mut self, name: usize, answer: Result<Vec<SocketAddr>, String>, now: Instant) {
        self.resolver.answer(name, answer, now);
        for (at, pool) in self.pools.iter_mut().enumerate() {
            if pool.addresses().name() == Some(name) {
                self.schedule.mark(at);
            }
        }
    }

    /// Marks the pools that have something to do now.
    pub(super) fn begin_tick(&mut self, turn: &mut Turn) {
        self.schedule.mark_due(turn.now);
        self.connections.tick(turn);
    }

    /// The next pool that has something to do. [`Pools::end_tick`] follows.
    pub(super) fn next_tick(&mut self) -> Option<usize> {
        let next = self.schedule.next();
        if next.is_none() && self.limit.is_none_or(|limit| self.connections.arena.len() < limit) {
            self.schedule.on_room(); // a tick of another pool may have closed a connection
            return self.schedule.next();
        }
        next
    }

    /// Notes when a pool that has done what there was has something to do again.
    pub(super) fn end_tick(&mut self, at: usize, turn: &mut Turn) {
        let (pool, limit) = (&self.pools[at], self.limit.unwrap_or(usize::MAX));
        self.schedule.set(at, pool.load(), pool.deadline(&self.resolver, turn.now));
        let lacking = pool.lacking(self.connections.arena.len() >= limit);
        self.connections.set_lacking(at, lacking, turn);
    }

    /// Closes connections that have been idle for long enough, and has the name resolved again when that is due.
    pub(super) fn maintain(&mut self, at: usize, turn: &mut Turn) {
        let (pool, lent) = lend!(self, at, turn);
        pool.close_idle(lent);
        pool.refresh(at, &mut self.resolver, lent);
    }

    /// A connection of a pool that was not established in time.
    pub(super) fn overdue(&mut self, at: usize, now: Instant) -> Option<(Key, Fault)> {
        let key = self.pools[at].overdue(now)?;
        self.connections.arena.get(key).map(|connection| (key, connection.connect_timeout()))
    }

    /// Opens the connections that a pool lacks. Fails if its backend has no address.
    pub(super) fn grow(&mut self, at: usize, turn: &mut Turn) -> Result<(), Fault> {
        let (pool, lent) = lend!(self, at, turn);
        if pool.grow(at, &mut self.resolver, lent)? {
            self.schedule.wait_for_room(at);
        }
        Ok(())
    }

    /// Takes out a waiting exchange whose deadline has passed, with what it was waiting for.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<(Box<Exchange>, Phase)> {
        self.pools.iter_mut().find_map(|pool| pool.pop_expired(now))
    }

    /// The connections that have exchanges in flight whose deadlines have passed.
    pub(super) fn expired_connections(&self, now: Instant) -> Vec<Key> {
        let late = |connection: &Connection| connection.deadline().is_some_and(|deadline| deadline <= now);
        self.connections.arena.iter().filter(|(_, one)| late(one)).map(|(key, _)| key).collect()
    }

    /// Takes out an exchange in flight on a connection whose deadline has passed.
    pub(super) fn take_expired(&mut self, key: Key, now: Instant) -> Option<Expired> {
        let connection = self.connections.arena.get_mut(key)?;
        let expired = connection.take_expired(now)?;
        self.pools[connection.pool()].on_expired(expired.owed);
        Some(expired)
    }

    /// True if no exchange is in flight or waiting.
    pub(super) fn is_quiet(&self) -> bool {
        self.schedule.is_quiet()
    }

    /// The earliest deadline of an exchange.
    pub(super) fn exchange_deadline(&mut self) -> Option<Instant> {
        let in_flight = self.connections.arena.iter().filter_map(|(_, connection)| connection.deadline());
        in_flight.chain(self.pools.iter_mut().filter_map(|pool| pool.queue().deadline())).min()
    }

    /// When there is something to do for the connections of any pool.
    pub(super) fn deadline(&self) -> Option<Instant> {
        earliest([self.schedule.deadline(), self.connections.deadline()])
    }

    /// Opens a connection to each backend, to see whether it can be reached.
    pub(super) fn check(&mut self) {
        self.schedule.mark_all();
        self.pools.iter_mut().for_each(|pool| *pool.reach() = Reach::Pending);
    }

    /// The result for each backend; `None` until all are known.
    pub(super) fn check_results(&mut self, now: Instant) -> Option<Vec<CheckResult>> {
        let result = |pool: &mut Pool| {
            let result = pool.reach().result(now)?;
            Some(CheckResult { label: pool.spec().label.clone(), result })
        };
        self.pools.iter_mut().map(result).collect()
    }

    /// The number of pools, and of those that cannot be reached or are down.
    pub(super) fn reports(&self, now: Instant) -> impl Iterator<Item = BackendReport<'_>> {
        self.pools.iter().map(move |pool| pool.report(now))
    }
}
