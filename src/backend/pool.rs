//! The connections of one backend, and the exchanges that wait for them.

use super::addresses::Addresses;
use super::arrival::{AfterResponse, CloseReason};
use super::balance::Candidate;
use super::breaker::Permit;
use super::connection::Connection;
use super::connections::Lacking;
use super::exchange::Exchange;
use super::fault::{Fault, Phase};
use super::growth;
use super::health::Health;
use super::lent::{Lent, Orphans};
use super::options::{BackendSpec, CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT};
use super::queue::Queue;
use super::reach::Reach;
use super::report::BackendReport;
use super::resolver::Resolver;
use super::roster::Roster;
use super::tls::{Handshake, TlsConnector};
use crate::arena::Key;
use crate::io::{Action, Address, Peer};
use crate::log;
use crate::metrics::BackendMetrics;
use crate::wire::http::Response;
use std::time::{Duration, Instant};

/// The connections of one backend, and the exchanges that wait for them.
#[derive(Debug)]
pub(super) struct Pool {
    spec: BackendSpec,
    addresses: Addresses,
    queue: Queue,
    roster: Roster,
    /// Number of exchanges in flight.
    in_flight: usize,
    /// The connection that was given an exchange last, with which others may be pipelined.
    batch: Option<Key>,
    health: Health,
    reach: Reach,
    metrics: BackendMetrics,
}

impl Pool {
    pub(super) fn new(spec: BackendSpec, resolver: &mut Resolver) -> Self {
        Self {
            addresses: Addresses::new(&spec.target, resolver),
            queue: Queue::default(),
            roster: Roster::default(),
            in_flight: 0,
            batch: None,
            health: Health::new(&spec.label),
            reach: Reach::default(),
            metrics: BackendMetrics::default(),
            spec,
        }
    }

    pub(super) fn spec(&self) -> &BackendSpec {
        &self.spec
    }

    pub(super) fn reach(&mut self) -> &mut Reach {
        &mut self.reach
    }

    pub(super) fn addresses(&mut self) -> &mut Addresses {
        &mut self.addresses
    }

    pub(super) fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    pub(super) fn health(&mut self) -> &mut Health {
        &mut self.health
    }

    pub(super) fn count(&mut self, count: impl FnOnce(&mut BackendMetrics)) {
        count(&mut self.metrics);
    }

    pub(super) fn permit(&self, exchange: &Exchange, now: Instant) -> Permit {
        self.health.permit(exchange, now)
    }

    pub(super) fn candidate(&self, exchange: &Exchange, now: Instant) -> Candidate {
        let (ejected, unresolved) = (self.addresses.is_unavailable(now), self.addresses.is_empty());
        let (permit, avoided) = (self.health.permit(exchange, now), self.health.is_avoided(now));
        Candidate { permit, avoided, ejected, unresolved, load: self.load() }
    }

    /// Exchanges in flight and waiting.
    pub(super) fn load(&self) -> usize {
        self.in_flight + self.queue.len()
    }

    /// How many exchanges wait for which no connection may be opened. `full` means that no descriptor is left.
    pub(super) fn lacking(&self, full: bool) -> Lacking {
        let at_limit = self.roster.open() >= self.spec.options.connections;
        Lacking { count: if full || at_limit { self.queue.len() } else { 0 }, anywhere: !at_limit }
    }

    /// Sends an exchange as soon as there is a connection. Returns it if the queue is full.
    pub(super) fn submit(&mut self, exchange: Box<Exchange>, lent: &mut Lent<'_>) -> Option<Box<Exchange>> {
        self.health.on_submit(&exchange, lent.turn.now);
        let exchange = self.dispatch(exchange, lent)?;
        self.queue.push(exchange, lent.turn.now)
    }

    /// Puts an exchange back that was not sent, in front of what came later.
    pub(super) fn requeue(&mut self, exchange: Box<Exchange>, lent: &mut Lent<'_>) {
        if let Some(exchange) = self.dispatch(exchange, lent) {
            self.queue.put_back(exchange, lent.turn.now);
        }
    }

    /// Sends an exchange once more, on a new connection.
    pub(super) fn resend(&mut self, mut exchange: Box<Exchange>, now: Instant) {
        exchange.set_resent();
        self.queue.push_new_only(exchange, now);
    }

    /// Puts an exchange on a connection that is free for it, or returns it if there is none.
    fn dispatch(&mut self, exchange: Box<Exchange>, lent: &mut Lent<'_>) -> Option<Box<Exchange>> {
        if let Some(key) = self.batch.filter(|_| self.spec.options.pipeline > 1)
            && lent.connections.get(key).is_some_and(|connection| connection.can_pipeline(&exchange))
        {
            self.send(key, exchange, lent);
            return None;
        }
        while let Some((key, until)) = self.roster.pop_idle() {
            // The timer closes idle connections only once a turn, and this one may have become too old since.
            if lent.turn.now < until {
                self.send(key, exchange, lent);
                return None;
            }
            self.close(key, &CloseReason::Unused, lent);
        }
        Some(exchange)
    }

    fn send(&mut self, key: Key, exchange: Box<Exchange>, lent: &mut Lent<'_>) {
        let connection = lent.connections.get_mut(key).expect("connections leave the pool when they close");
        self.in_flight += 1;
        self.batch = Some(key);
        let waited = lent.turn.now > exchange.since;
        if connection.push(exchange, lent.turn.now) {
            lent.turn.push(Action::Flush(Peer::Backend(key)));
        }
        if waited {
            connection.record_wait(self.addresses.resolved(), lent.turn.now);
        }
    }

    /// Gives a free connection its next exchanges, or makes it idle.
    pub(super) fn serve_next(&mut self, key: Key, lent: &mut Lent<'_>) {
        let is_full = self.roster.open() >= self.spec.options.connections || !lent.has_room(self.roster.open());
        let Some(connection) = lent.connections.get_mut(key) else { return };
        let now = lent.turn.now;
        if growth::needs_room(&self.roster, &self.queue, is_full) && !connection.is_new() {
            self.close(key, &CloseReason::Unused, lent);
            return;
        }
        let Some(exchange) = self.queue.pop(connection.is_new(), now, |_| true) else {
            connection.set_idle();
            let until = now + connection.idle_time(self.spec.options.keepalive);
            return self.roster.set_idle(key, until);
        };
        let more = connection.pipeline() - 1;
        self.send(key, exchange, lent);
        for _ in 0..more {
            let connection = lent.connections.get(key);
            let fits = |next: &Exchange| connection.is_some_and(|connection| connection.can_pipeline(next));
            let Some(exchange) = self.queue.pop(false, now, fits) else { return };
            self.send(key, exchange, lent);
        }
    }

    // --- connections

    /// A connection was accepted. If it is to be secured, its handshake begins.
    pub(super) fn on_accepted(&mut self, key: Key, lent: &mut Lent<'_>) -> Result<(), Fault> {
        let Some(connection) = lent.connections.get_mut(key) else { return Ok(()) };
        let Some(connector) = &self.spec.connector else {
            connection.open(lent.turn.now);
            self.on_open(key, None, lent);
            return Ok(());
        };
        self.roster.begin_handshake(key, lent.turn.now + HANDSHAKE_TIMEOUT);
        connection.begin_handshake(connector, lent.turn.now).map_err(Fault::Handshake)?;
        lent.turn.push(Action::Flush(Peer::Backend(key)));
        Ok(())
    }

    /// The TLS handshake of a connection is complete.
    pub(super) fn on_handshake(&mut self, key: Key, handshake: Handshake, lent: &mut Lent<'_>) {
        let Some(connection) = lent.connections.get(key) else { return };
        let Handshake { resumed, version, .. } = handshake;
        self.metrics.handshake(resumed, connection.handshake_time());
        let (label, resumed) = (&self.spec.label, if resumed { "yes" } else { "no" });
        log::debug(format_args!("tls-established backend={label} tls={version} resumed={resumed}"));
        self.on_open(key, Some(handshake), lent);
    }

    fn on_open(&mut self, key: Key, handshake: Option<Handshake>, lent: &mut Lent<'_>) {
        let Some(connection) = lent.connections.get(key) else { return };
        self.roster.set_open(key, handshake.is_some());
        self.reach.on_open(connection.address(), handshake, lent.turn.now);
        self.addresses.on_reached(connection.address());
        self.health.on_reached();
        self.serve_next(key, lent);
    }

    /// Takes out the exchange of a response, which is `None` if its deadline has passed.
    pub(super) fn on_response(
        &mut self,
        connection: &mut Connection,
        response: &Response<'_>,
        surplus: bool,
        now: Instant,
    ) -> (Option<Box<Exchange>>, AfterResponse) {
        let front = connection.front().map(|(table, since)| (table, now.saturating_duration_since(since)));
        self.metrics.count_response(response.status, front.map(|(_, took)| took));
        self.health.on_reached();
        // Nearly always nothing waits and no table had a timeout: then its time does not matter.
        if (self.queue.len() > 0 || self.health.has_timeouts())
            && let Some((table, took)) = front
        {
            if !connection.is_streamed() {
                self.queue.on_response(took);
            }
            self.health.on_answer(table);
        }
        let exchange = connection.complete(response, now);
        if connection.has_pipelined() {
            self.addresses.pipelining_ok(connection.address());
        }
        self.in_flight -= usize::from(exchange.is_some());
        (exchange, connection.after_response(response.keep_alive, surplus))
    }

    /// An exchange in flight has expired.
    pub(super) fn on_expired(&mut self, owed: Duration) {
        self.in_flight -= 1;
        self.queue.on_expired(owed);
    }

    /// Closes a connection of any state, and returns the exchanges that were in flight on it.
    pub(super) fn close(&mut self, key: Key, reason: &CloseReason, lent: &mut Lent<'_>) -> Option<Orphans> {
        let mut connection = lent.connections.remove(key)?;
        let notify = connection.close_notify();
        if !notify.is_empty() {
            lent.turn.push(Action::CloseNotify(key, notify));
        }
        lent.turn.push(Action::Close(Peer::Backend(key)));
        self.roster.remove(key, connection.is_open(), connection.is_handshaking());
        self.addresses.on_close(connection.address());
        if connection.owes_ahead() {
            let announced = *reason == CloseReason::Announced;
            lent.on_pipelining_failed(&connection, announced, &mut self.addresses, &self.spec.label);
        }
        let fault = if let CloseReason::Fault(fault) = reason { Some(fault) } else { None };
        fault.into_iter().for_each(|fault| self.reach.on_fault(fault));
        if fault == Some(&Fault::Unsolicited) {
            log::info(format_args!("unsolicited-response backend={}", self.spec.label));
        }
        let exchanges = connection.take_orphans(fault.is_some_and(Fault::is_invalid_response));
        self.in_flight -= exchanges.len();
        Some(Orphans { exchanges, reused: !connection.is_new(), address: connection.address().clone() })
    }

    /// Closes connections that carry nothing.
    fn close_all(&mut self, keys: Vec<Key>, lent: &mut Lent<'_>) {
        keys.into_iter().for_each(|key| drop(self.close(key, &CloseReason::Unused, lent)));
    }

    /// A connection could not be made. True if all addresses have been tried, and no attempt is in progress.
    pub(super) fn on_connect_failed(&mut self, key: Key, fault: &Fault, lent: &mut Lent<'_>) -> bool {
        let now = lent.turn.now;
        let Some(Orphans { address, .. }) = self.close(key, &CloseReason::Unused, lent) else { return false };
        self.metrics.handshakes_failed += u64::from(matches!(fault, Fault::Handshake(_) | Fault::HandshakeTimeout));
        let (connecting, open) = (self.roster.connecting(), self.roster.open());
        if !self.addresses.on_connect_failed(&address, fault, connecting, open, now) {
            return false;
        }
        self.health.log_unreachable(fault, now);
        true
    }

    /// Uses another TLS configuration from now on.
    pub(super) fn set_connector(&mut self, connector: TlsConnector, at: usize, lent: &mut Lent<'_>) {
        self.spec.connector = Some(connector);
        let all = lent.of_pool(at).map(|(key, _)| key).collect();
        self.retire(all, lent);
    }

    /// Has the backend's name resolved again when that is due, and retires connections to addresses that it has lost.
    // Under steady load no new connection is ever needed: after a switch, lookups went to the old backend, with old
    // data, for as long as it was up.
    pub(super) fn refresh(&mut self, at: usize, resolver: &mut Resolver, lent: &mut Lent<'_>) {
        if self.roster.open() == 0 || !self.addresses.is_outdated(resolver, lent.turn.now) {
            return;
        }
        // After a failure the last good addresses stay in use.
        let _ = self.addresses.next(resolver, lent.turn);
        let gone = lent.of_pool(at).filter(|(_, connection)| !self.addresses.contains(connection.address()));
        let gone = gone.map(|(key, _)| key).collect();
        self.retire(gone, lent);
    }

    /// Lets connections carry no further requests.
    fn retire(&mut self, keys: Vec<Key>, lent: &mut Lent<'_>) {
        keys.iter().for_each(|key| lent.connections.get_mut(*key).into_iter().for_each(Connection::retire));
        let unused = self.roster.unused_keys().into_iter().filter(|key| keys.contains(key)).collect();
        self.close_all(unused, lent);
    }

    // --- time

    /// Closes connections that have been idle for long enough.
    pub(super) fn close_idle(&mut self, lent: &mut Lent<'_>) {
        while let Some((key, until)) = self.roster.oldest_idle()
            && until <= lent.turn.now
        {
            self.close(key, &CloseReason::Unused, lent);
        }
    }

    /// A connection that was not established in time.
    pub(super) fn overdue(&self, now: Instant) -> Option<Key> {
        self.roster.oldest_connecting().filter(|(_, until)| *until <= now).map(|(key, _)| key)
    }

    /// Takes out an exchange whose deadline has passed before it was sent, with what it was waiting for.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<(Box<Exchange>, Phase)> {
        let exchange = self.queue.pop_expired(now)?;
        Some((exchange, self.roster.phase(self.addresses.is_empty())))
    }

    /// Opens as many connections as are missing, if waiting for a used one would take too long. True if there is no
    /// descriptor for one. Fails if the backend has no address.
    pub(super) fn grow(&mut self, at: usize, resolver: &mut Resolver, lent: &mut Lent<'_>) -> Result<bool, Fault> {
        let now = lent.turn.now;
        while growth::is_due(&self.roster, &self.queue, &self.addresses, &self.reach, &self.spec.options, now) {
            if self.roster.open() == self.spec.options.connections || !lent.has_room(self.roster.open()) {
                // Only an exchange that needs a new connection gets here; an idle one makes room for it.
                let Some((key, _)) = self.roster.oldest_idle() else { return Ok(!lent.has_room(self.roster.open())) };
                self.close(key, &CloseReason::Unused, lent);
                continue;
            }
            let Some(address) = self.addresses.next(resolver, lent.turn)? else { return Ok(false) };
            let pipeline = if self.addresses.may_pipeline(&address) { self.spec.options.pipeline } else { 1 };
            let key = lent.connections.insert(Connection::new(at, address.clone(), pipeline, lent.turn.now));
            self.metrics.connections_opened += 1;
            self.addresses.on_open(&address);
            self.roster.add(key, lent.turn.now + CONNECT_TIMEOUT);
            lent.turn.push(Action::Connect(key, address));
        }
        Ok(false)
    }

    /// When there is something to do for its connections.
    pub(super) fn deadline(&self, resolver: &Resolver, now: Instant) -> Option<Instant> {
        let growth = growth::due_at(&self.roster, &self.queue, &self.spec.options, now);
        let growth = growth.map(|at| self.addresses.earliest(at, resolver));
        // Everything that was possible at once was done in this turn; the rest waits for an event.
        let refresh = self.addresses.outdated_at(resolver).filter(|_| self.roster.open() > 0);
        let later = [growth, refresh, self.reach.deadline()].into_iter().flatten().filter(|at| *at > now);
        later.chain(self.roster.deadline()).min()
    }

    // --- faults and reports

    /// Closes the unused connections to an address.
    pub(super) fn close_idle_to(&mut self, address: &Address, lent: &mut Lent<'_>) {
        let same = |key: &Key| lent.connections.get(*key).is_some_and(|one| one.address() == address);
        let idle = self.roster.idle_keys().into_iter().filter(same).collect();
        self.close_all(idle, lent);
    }

    /// Takes out what cannot be sent, as no connection can be made: with any open, only what needs a new one.
    pub(super) fn drain_unreachable(&mut self, fault: &Fault, now: Instant) -> Vec<Box<Exchange>> {
        let is_gone = self.roster.open() == 0;
        is_gone.then(|| self.health.on_unreachable(fault, now));
        self.queue.drain(is_gone)
    }

    pub(super) fn report(&self, now: Instant) -> BackendReport<'_> {
        let metrics = BackendMetrics {
            tls: self.spec.connector.is_some(),
            waiting: self.queue.len() as u64,
            down: u64::from(self.health.is_down(now)),
            ..self.roster.metrics(&self.metrics)
        };
        self.health.report(metrics, now)
    }
}
