//! All pools and connections: which of them an exchange or an event belongs to.

use super::balance;
use super::breaker::Permit;
use super::connection::{AfterResponse, Arrival, CloseReason, Connection};
use super::exchange::{Asker, Exchange};
use super::fault::{Fault, Phase};
use super::options::{PoolOptions, Target};
use super::pool::{Lent, Orphans, Pool};
use super::reach::{CheckResult, Reach};
use super::resolver::Resolver;
use super::retry::Facts;
use super::tls::{Handshake, TlsConnector};
use crate::arena::{Arena, Key};
use crate::io::{Action, Address, Peer, Turn};
use crate::metrics::BackendMetrics;
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
}

/// All pools and connections, and the names of the backends.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pools: Vec<Pool>,
    connections: Arena<Connection>,
    resolver: Resolver,
}

/// The pool with a number, and what it is lent.
macro_rules! lend {
    ($self:ident, $at:expr, $turn:expr) => {
        (&mut $self.pools[$at], &mut Lent { connections: &mut $self.connections, turn: $turn })
    };
}

impl Pools {
    pub fn add(&mut self, label: &str, target: Target, options: PoolOptions, connector: Option<TlsConnector>) -> usize {
        let known = self.pools.iter().position(|pool| pool.is_same(&target, &options, connector.as_ref()));
        known.unwrap_or_else(|| {
            self.pools.push(Pool::new(label, target, options, connector, &mut self.resolver));
            self.pools.len() - 1
        })
    }

    /// The pool with a number.
    pub fn pool(&mut self, at: usize) -> &mut Pool {
        &mut self.pools[at]
    }

    pub fn label(&self, at: usize) -> &str {
        self.pools[at].label()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter()
    }

    pub fn set_connector(&mut self, at: usize, connector: TlsConnector, turn: &mut Turn) {
        let (pool, lent) = lend!(self, at, turn);
        pool.set_connector(connector, at, lent);
    }

    // --- exchanges

    /// The best of some routes of an exchange; `None` if all of their backends are down.
    pub fn pick(&self, exchange: &Exchange, mut routes: impl Iterator<Item = u8>, now: Instant) -> Option<u8> {
        let pool = |route| &self.pools[exchange.pool_of(route)];
        if exchange.request.routes.len() == 1 {
            return routes.find(|route| pool(*route).permit(now) != Permit::Deny);
        }
        balance::pick(exchange.is_safe(), routes.map(|route| (route, pool(route).candidate(now))))
    }

    /// What is known of an exchange whose attempt has ended.
    pub fn facts(&self, exchange: &Exchange, now: Instant) -> Facts {
        let replicas = exchange.request.routes.len() > 1;
        Facts {
            safe: exchange.is_safe(),
            resent: exchange.is_resent(),
            other_route: replicas && self.pick(exchange, exchange.other_routes(), now).is_some(),
        }
    }

    /// Sends an exchange to the backend of its route. Gives it back if too many wait there.
    pub fn submit(&mut self, exchange: Exchange, turn: &mut Turn) -> Option<Exchange> {
        let (pool, lent) = lend!(self, exchange.pool(), turn);
        pool.submit(exchange, lent)
    }

    pub fn requeue(&mut self, exchange: Exchange, turn: &mut Turn) {
        let (pool, lent) = lend!(self, exchange.pool(), turn);
        pool.requeue(exchange, lent);
    }

    /// A fault that speaks against a backend. If that is down now, what waits for it has to go elsewhere.
    pub fn record_failure(
        &mut self,
        at: usize,
        address: Option<&Address>,
        cause: &impl ToString,
        slow: bool,
        turn: &mut Turn,
    ) -> Vec<Exchange> {
        let (pool, lent) = lend!(self, at, turn);
        if pool.record_failure(address, cause, slow, lent) { pool.drain(true) } else { Vec::new() }
    }

    pub fn sweep(&mut self, mut is_live: impl FnMut(Asker) -> bool) {
        self.pools.iter_mut().for_each(|pool| pool.sweep(|exchange| is_live(exchange.asker)));
    }

    // --- connections

    /// The next thing that has happened on a connection, as far as it has arrived.
    pub fn next_arrival<'a>(&mut self, arrived: &mut Arrived<'a>, turn: &mut Turn) -> Option<(Key, Arrival<'a>)> {
        let key = arrived.key?;
        let Some(connection) = self.connections.get_mut(key) else {
            arrived.key = None;
            return None;
        };
        let arrival = connection.receive(&mut arrived.bytes, turn.now);
        if connection.is_tls() && !connection.output().is_empty() {
            turn.push(Action::Flush(Peer::Backend(key)));
        }
        if matches!(arrival, Arrival::Nothing) {
            arrived.key = None;
            return None;
        }
        Some((key, arrival))
    }

    /// The stream of a connection has ended.
    pub fn ended(&mut self, key: Key, error: Option<ErrorKind>) -> Arrival<'static> {
        self.connections.get_mut(key).map_or(Arrival::Nothing, |connection| connection.end(error))
    }

    /// A backend has accepted a connection.
    pub fn accepted(&mut self, key: Key, turn: &mut Turn) -> Result<(), Fault> {
        let Some(at) = self.connections.get(key).map(Connection::pool) else { return Ok(()) };
        let (pool, lent) = lend!(self, at, turn);
        pool.on_accepted(key, lent)
    }

    pub fn on_handshake(&mut self, key: Key, handshake: Handshake, turn: &mut Turn) {
        let Some(at) = self.connections.get(key).map(Connection::pool) else { return };
        let (pool, lent) = lend!(self, at, turn);
        pool.on_handshake(key, handshake, lent);
    }

    /// Takes a response to its exchange.
    pub fn on_response(
        &mut self,
        key: Key,
        response: &Response<'_>,
        surplus: bool,
        now: Instant,
    ) -> Option<(usize, Option<Exchange>, AfterResponse)> {
        let connection = self.connections.get_mut(key)?;
        let at = connection.pool();
        let (exchange, after) = self.pools[at].on_response(connection, response, surplus, now);
        Some((at, exchange, after))
    }

    pub fn connection(&self, key: Key) -> Option<&Connection> {
        self.connections.get(key)
    }

    pub fn serve_next(&mut self, at: usize, key: Key, turn: &mut Turn) {
        let (pool, lent) = lend!(self, at, turn);
        pool.serve_next(key, lent);
    }

    /// Closes a connection; returns the number of its pool, and the exchanges that were in flight.
    pub fn close(&mut self, key: Key, reason: &CloseReason, turn: &mut Turn) -> Option<(usize, Orphans)> {
        let at = self.connections.get(key)?.pool();
        let (pool, lent) = lend!(self, at, turn);
        pool.close(key, reason, lent).map(|orphans| (at, orphans))
    }

    /// A connection could not be made. The number of its pool, if no address of the backend is left.
    pub fn on_connect_failed(&mut self, key: Key, fault: &Fault, turn: &mut Turn) -> Option<usize> {
        let at = self.connections.get(key)?.pool();
        let (pool, lent) = lend!(self, at, turn);
        if !pool.on_connect_failed(key, fault, lent) {
            return None;
        }
        pool.name().into_iter().for_each(|name| self.resolver.doubt(name));
        Some(at)
    }

    pub fn output(&mut self, key: Key) -> &[u8] {
        self.connections.get_mut(key).map_or(&[], Connection::output)
    }

    pub fn sent(&mut self, key: Key, count: usize) {
        self.connections.get_mut(key).into_iter().for_each(|connection| connection.sent(count));
    }

    pub fn needs_check(&self, key: Key) -> bool {
        self.connections.get(key).is_some_and(Connection::needs_check)
    }

    // --- names

    pub fn resolved(&mut self, name: usize, answer: Result<Vec<SocketAddr>, String>, now: Instant) {
        self.resolver.answer(name, answer, now);
    }

    pub fn resolve_all(&mut self, turn: &mut Turn) {
        let asked = self.resolver.ask_all(turn.now).into_iter();
        asked.for_each(|(name, host, port)| turn.push(Action::Resolve { name, host, port }));
    }

    pub fn reload(&mut self) {
        self.resolver.doubt_all();
        self.pools.iter_mut().for_each(Pool::allow_pipelining);
    }

    // --- time

    pub fn len(&self) -> usize {
        self.pools.len()
    }

    pub fn close_idle(&mut self, at: usize, turn: &mut Turn) {
        let (pool, lent) = lend!(self, at, turn);
        pool.close_idle(lent);
    }

    /// A connection of a pool whose time to be made has passed.
    pub fn overdue(&mut self, at: usize, now: Instant) -> Option<(Key, Fault)> {
        let key = self.pools[at].overdue(now)?;
        self.connections.get(key).map(|connection| (key, connection.connect_timeout()))
    }

    /// Opens the connections that a pool lacks. Fails if its backend has no address.
    pub fn grow(&mut self, at: usize, turn: &mut Turn) -> Result<(), Fault> {
        let (pool, lent) = lend!(self, at, turn);
        pool.grow(at, &mut self.resolver, lent)
    }

    /// Takes out a waiting exchange whose deadline has passed, with what it was waiting for.
    pub fn pop_expired(&mut self, now: Instant) -> Option<(Exchange, Phase)> {
        self.pools.iter_mut().find_map(|pool| pool.pop_expired(now))
    }

    /// The connections that have exchanges in flight whose deadlines have passed.
    pub fn expired_connections(&self, now: Instant) -> Vec<Key> {
        let late = |connection: &Connection| connection.deadline().is_some_and(|deadline| deadline <= now);
        self.connections.iter().filter(|(_, one)| late(one)).map(|(key, _)| key).collect()
    }

    /// Takes out the exchanges in flight on a connection whose deadlines have passed, with whether the backend may have
    /// seen them, and what they were waiting for.
    pub fn take_expired(&mut self, key: Key, now: Instant) -> Option<(Vec<(Exchange, bool)>, Phase)> {
        let connection = self.connections.get_mut(key)?;
        let (expired, phase) = (connection.take_expired(now), connection.phase());
        self.pools[connection.pool()].on_expired(expired.len());
        Some((expired, phase))
    }

    /// True if no exchange is in flight or waiting.
    pub fn is_quiet(&self) -> bool {
        self.pools.iter().all(|pool| pool.load() == 0)
    }

    /// The earliest deadline of an exchange.
    pub fn exchange_deadline(&self) -> Option<Instant> {
        let in_flight = self.connections.iter().filter_map(|(_, connection)| connection.deadline());
        in_flight.chain(self.pools.iter().filter_map(Pool::queue_deadline)).min()
    }

    /// When there is something to do for the connections of any pool.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.pools.iter().filter_map(|pool| pool.deadline(&self.resolver, now)).min()
    }

    /// Has a connection to each backend made, to see whether it can be reached.
    pub fn check(&mut self) {
        self.pools.iter_mut().for_each(|pool| *pool.reach() = Reach::Pending);
    }

    /// What was found of each backend; `None` until all of it is known.
    pub fn check_results(&mut self, now: Instant) -> Option<Vec<CheckResult>> {
        let result = |pool: &mut Pool| {
            let result = pool.reach().result(now)?;
            Some(CheckResult { label: pool.label().to_owned(), result })
        };
        self.pools.iter_mut().map(result).collect()
    }

    pub fn metrics(&self) -> impl Iterator<Item = (&str, BackendMetrics)> {
        self.pools.iter().map(|pool| (pool.label(), pool.metrics()))
    }
}
