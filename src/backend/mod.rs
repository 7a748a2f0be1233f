//! The backends: pools with their pools of connections, queues, and the rules of asking again.

mod breaker;
mod connection;
mod fault;
mod limit;
mod pool;
mod replicas;
mod request;
mod resolver;
mod secure;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
pub mod tls;

pub use fault::{Fault, Phase};
pub use pool::{PoolOptions, Target};
pub use request::{Exchange, MAX_ROUTES, Method, Piece, RedirectError, Request, Route};

use crate::arena::{Arena, Key};
use crate::io::{Action, Peer};
use crate::log;
use crate::metrics::BackendMetrics;
use crate::wire::http::Response;
use breaker::Permit;
use connection::{Arrival, Connection, Left};
use pool::Pool;
use resolver::{Resolution, Resolver};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Exchanges that may wait for one origin.
pub const MAX_WAITING: usize = 10_000;

/// Keys whose memory is kept, and how much of it each: what many lookups at once need.
const MAX_SPARE: usize = 1_024;
const MAX_SPARE_KEY: usize = 256; // bytes

/// A TCP connection that is not there after so long will not come.
pub const CONNECT: Duration = Duration::from_secs(3);

/// That an origin cannot be reached is logged so often at most: each lookup may find it out anew.
const TELLING: Duration = Duration::from_secs(1);

/// So long a TLS handshake may take after that; the same, as both wait in one line.
pub const HANDSHAKE: Duration = CONNECT;

/// The end of an exchange.
#[derive(Debug)]
pub struct Done<'a> {
    pub exchange: Exchange,
    pub result: Result<Response<'a>, Fault>,
    /// Whether the backend may have seen the request.
    pub sent: bool,
}

/// All pools and their connections.
#[derive(Debug, Default)]
pub struct Backends {
    pools: Vec<Pool>,
    connections: Arena<Connection>,
    tls_configs: Vec<tls::TlsConfig>,
    resolver: Resolver,
    /// Exchanges that ended without a response.
    failed: VecDeque<Done<'static>>,
    actions: VecDeque<Action>,
    /// Memory for what was under TLS.
    plain: Vec<u8>,
    /// Memory of keys that were used, for the next ones.
    spare: Vec<Vec<u8>>,
    /// No exchange on its way is due before: a bound, so that deadlines cost nothing while none is reached.
    soonest: Option<Instant>,
}

impl Backends {
    /// Adds an origin, or finds it. The label names it in reasons and log lines.
    pub fn origin(&mut self, label: &str, target: Target, pool: PoolOptions, tls: Option<tls::TlsConnector>) -> usize {
        let same = |origin: &Pool| origin.target == target && origin.options == pool && origin.tls == tls;
        let known = self.pools.iter().position(same);
        known.unwrap_or_else(|| {
            self.pools.push(Pool::new(label.to_owned(), target, pool, tls, &mut self.resolver));
            self.pools.len() - 1
        })
    }

    /// Notes that an origin is one of several that a table may ask.
    pub fn is_replica(&mut self, origin: usize) {
        self.pools[origin].replica = true;
    }

    /// The origin that an exchange was last meant for.
    pub fn label(&self, exchange: &Exchange) -> &str {
        &self.pools[exchange.origin()].label
    }

    /// The names of all pools with their targets, and how they are secured, for reports.
    pub fn targets(&self) -> impl Iterator<Item = (&str, &Target, Option<&tls::TlsConnector>)> {
        self.pools.iter().map(|origin| (origin.label.as_str(), &origin.target, origin.tls.as_ref()))
    }

    /// The memory of a key that was done with, or new memory, filled with `key`.
    pub fn key(&mut self, key: &[u8]) -> Vec<u8> {
        let mut memory = self.spare.pop().unwrap_or_default();
        memory.extend_from_slice(key);
        memory
    }

    /// Takes back the memory of a key that is done with: allocating one per lookup would cost 3 % of its instructions.
    pub fn reuse(&mut self, mut key: Vec<u8>) {
        if self.spare.len() < MAX_SPARE && key.capacity() <= MAX_SPARE_KEY {
            key.clear();
            self.spare.push(key);
        }
    }

    /// Asks, now or as soon as there is a connection.
    pub fn submit(&mut self, mut exchange: Exchange, now: Instant) {
        if self.soonest.is_none_or(|soonest| exchange.deadline < soonest) {
            self.soonest = Some(exchange.deadline);
        }
        if !exchange.is_redirected() {
            match self.pick(&exchange, now) {
                Some(route) => exchange.route = route,
                None => {
                    let cause = self.pools[exchange.origin()].breaker.cause().to_owned();
                    return self.fail(exchange, Fault::Down(cause), false);
                }
            }
        }
        let deadline = exchange.deadline;
        let breaker = &mut self.pools[exchange.origin()].breaker;
        if breaker.is_down() && breaker.permit(now) == Permit::Probe {
            breaker.probe(deadline);
        }
        let Some(exchange) = self.try_dispatch(exchange, now) else { return };
        let origin = &mut self.pools[exchange.origin()];
        if origin.queue.len() + origin.fresh.len() >= MAX_WAITING {
            return self.fail(exchange, Fault::Overloaded, false);
        }
        origin.wait(exchange, now);
    }

    /// Puts an exchange on a connection that is free for it, or gives it back if there is none.
    fn try_dispatch(&mut self, exchange: Exchange, now: Instant) -> Option<Exchange> {
        let at = exchange.origin();
        let origin = &self.pools[at];
        if origin.is_saturated() {
            return Some(exchange);
        }
        if let Some(key) = origin.batch.filter(|_| origin.options.pipeline > 1)
            && self.connections.get(key).is_some_and(|connection| connection.can_pipeline(&exchange))
        {
            self.ask(key, exchange, now);
            return None;
        }
        while let Some((key, until)) = self.pools[at].idle.pop_back() {
            if now < until {
                self.ask(key, exchange, now);
                return None;
            }
            self.on_closed(key, Fault::Closed, now);
        }
        Some(exchange)
    }

    fn ask(&mut self, key: Key, exchange: Exchange, now: Instant) {
        let connection = self.connections.get_mut(key).expect("connections leave the pool when they close");
        let origin = &mut self.pools[connection.origin];
        let waited = now > exchange.since;
        origin.asked += 1;
        origin.batch = Some(key);
        if connection.ask(exchange, now) {
            self.actions.push_back(Action::Flush(Peer::Backend(key)));
        }
        if waited {
            connection.note_wait(origin.name.and_then(|name| self.resolver.took(name)), now);
        }
    }

    /// Gives a free connection its next exchanges, or makes it idle.
    fn dispatch_next(&mut self, key: Key, now: Instant) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let (at, ahead) = (connection.origin, connection.ahead);
        let origin = &mut self.pools[at];
        let first = if connection.is_fresh() { origin.fresh.pop_front() } else { None };
        let next = |origin: &mut Pool| if origin.is_saturated() { None } else { origin.queue.pop_front() };
        let Some(exchange) = first.or_else(|| next(origin).map(|(_, exchange)| exchange)) else {
            // Half of what the backend grants, so that it never closes while we ask.
            let keepalive = origin.options.keepalive;
            let granted = connection.idle.map_or(keepalive, |idle| keepalive.min(idle / 2));
            return origin.idle.push_back((key, now + granted));
        };
        self.ask(key, exchange, now);
        for _ in 1..ahead {
            if self.pools[at].is_saturated() {
                return;
            }
            let (connections, queue) = (&self.connections, &mut self.pools[at].queue);
            let can_pipeline =
                |next: &Exchange| connections.get(key).is_some_and(|connection| connection.can_pipeline(next));
            if !queue.front().is_some_and(|(_, next)| can_pipeline(next)) {
                return;
            }
            let next = queue.pop_front().map(|(_, exchange)| exchange);
            next.into_iter().for_each(|exchange| self.ask(key, exchange, now));
        }
    }

    /// What is to be written to a connection.
    pub fn output(&mut self, key: Key) -> &[u8] {
        self.connections.get_mut(key).map_or(&[], Connection::output)
    }

    /// Notes that `count` bytes were written.
    pub fn sent(&mut self, key: Key, count: usize) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.sent(count);
        }
    }

    /// True if the connection must be read from before it is written to.
    pub fn needs_check(&self, key: Key) -> bool {
        self.connections.get(key).is_some_and(Connection::needs_check)
    }

    /// Reads what has arrived on a connection up to the next answer. Call it again until `input` is empty.
    pub fn received<'a>(&mut self, key: Key, input: &mut &'a [u8], now: Instant) -> Option<Done<'a>> {
        let Some(connection) = self.connections.get_mut(key) else {
            *input = &[];
            return None;
        };
        if connection.connected.is_none() {
            *input = &[]; // TLS ended with its handshake, as `conclude` will say
            return None;
        }
        match connection.receive(input, now) {
            Arrival::Nothing => None,
            Arrival::Answer(response) => self.answered(key, response, !input.is_empty(), now),
            Arrival::Unsolicited => {
                *input = &[];
                self.on_unsolicited(key, now);
                None
            }
            Arrival::Malformed(error) => {
                *input = &[];
                self.on_closed(key, Fault::Malformed(error), now);
                None
            }
        }
    }

    /// Something came on a connection that nobody had asked for by then.
    fn on_unsolicited(&mut self, key: Key, now: Instant) {
        let Some(connection) = self.connections.get(key) else { return };
        log::info(format_args!("unsolicited-response backend={}", self.pools[connection.origin].label));
        self.on_closed(key, Fault::Early, now);
    }

    /// Takes an answer to its exchange. `more` means that other bytes came behind it.
    fn answered<'a>(&mut self, key: Key, response: Response<'a>, more: bool, now: Instant) -> Option<Done<'a>> {
        let connection = self.connections.get_mut(key)?;
        let exchange = connection.answered(response.keep_alive_timeout, now);
        let (owes, origin) = (connection.owes(), &mut self.pools[connection.origin]);
        if connection.pipelines {
            origin.pipelining_ok(&connection.address);
        }
        origin.asked -= usize::from(exchange.is_some());
        origin.metrics.answer(response.status);
        if let Some(limit) = &mut origin.limit {
            limit.answered(now.saturating_duration_since(connection.asked_at), origin.asked + 1, now);
        }
        let (surplus, at) = (more && owes == 0, connection.origin);
        let retired = connection.retired && owes == 0;
        let uncertified = connection.is_uncertified(response.status, response.keep);
        if origin.is_unwell(response.status) {
            let address = connection.address.clone();
            self.record_status(at, &address, response.status, response.retry_after(), now);
        }
        if !response.keep || surplus || retired {
            self.on_closed(key, if owes > 0 { Fault::Last } else { Fault::Closed }, now);
        } else if owes == 0 {
            self.dispatch_next(key, now);
        }
        let mut exchange = exchange?; // else its time was over
        if response.status == 200 {
            return Some(Done { exchange, result: Ok(response), sent: true }); // as nearly always
        }
        if exchange.request.method.is_safe() && matches!(response.status, 301..=303 | 307 | 308) {
            match exchange.redirect(response.location()) {
                Ok(()) => self.submit(exchange, now),
                Err(astray) => self.fail(exchange, Fault::RedirectError(response.status, astray), true),
            }
            return None;
        }
        let refused = uncertified && exchange.request.method.is_safe();
        if exchange.request.method.is_safe()
            && (refused || matches!(response.status, 502..=504))
            && exchange.request.routes.len() > 1
        {
            let left = exchange.origin();
            exchange.give_up_route();
            if !exchange.is_lost() && self.pick(&exchange, now).is_some() {
                self.pools[left].metrics.retried += 1;
                self.submit(exchange, now);
                return None;
            }
        } else if exchange.request.method.is_safe() && matches!(response.status, 502..=504) && !exchange.resent {
            let origin = &mut self.pools[exchange.origin()];
            if origin.has_choice(now) {
                exchange.resent = true;
                origin.metrics.retried += 1;
                origin.fresh.push_back(exchange);
                return None;
            }
        }
        if refused {
            self.fail(exchange, Fault::Uncertified(response.status), true);
            return None;
        }
        Some(Done { exchange, result: Ok(response), sent: true })
    }

    /// The backend has closed a connection, or it broke, or it could not be made.
    pub fn ended(&mut self, key: Key, cause: Option<ErrorKind>, now: Instant) -> Option<Done<'static>> {
        let connection = self.connections.get_mut(key)?;
        if connection.connected.is_none() {
            let fault = match cause {
                _ if connection.reached.is_none() => Fault::Unreachable(cause.unwrap_or(ErrorKind::ConnectionAborted)),
                None => Fault::Handshake("it closed the connection".to_owned()),
                Some(kind) => Fault::Handshake(kind.to_string()),
            };
            self.unreachable(key, fault, now);
            return None;
        }
        let cut = connection.is_truncated();
        let fault = match cause {
            Some(kind) => Fault::Broken(kind),
            None => match connection.end() {
                Arrival::Answer(_) if cut => Fault::Truncated,
                Arrival::Answer(response) => return self.answered(key, response, false, now),
                Arrival::Malformed(error) => Fault::Malformed(error),
                Arrival::Nothing | Arrival::Unsolicited => Fault::Closed,
            },
        };
        self.on_closed(key, fault, now);
        None
    }

    /// Removes a connection. Of the exchanges in its line, those that may be asked again are.
    fn on_closed(&mut self, key: Key, fault: Fault, now: Instant) {
        let Some(mut connection) = self.remove(key) else { return };
        if connection.owes_behind() {
            self.pipelining_failed(&connection, fault == Fault::Last);
        }
        let origin = &mut self.pools[connection.origin];
        let reused = !connection.is_fresh();
        let (mut again, mut given_up, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new());
        for (mut exchange, left) in connection.leave(fault.is_nonsense()) {
            origin.asked -= 1;
            match left {
                Left::Unsent if reused => again.push(exchange), // it has not cost the backend anything
                Left::Unsent if exchange.has_other_route() => elsewhere.push(exchange),
                // What follows an announced end was not looked at (RFC 9112, 9.6).
                Left::Unanswered if fault == Fault::Last => again.push(exchange),
                Left::Unanswered if reused && exchange.request.method.is_safe() && !exchange.resent => {
                    exchange.resent = true;
                    origin.metrics.resent += 1;
                    log::info(format_args!("resend backend={} cause=\"{fault}\"", origin.label));
                    origin.fresh.push_back(exchange);
                }
                Left::Unanswered if exchange.request.method.is_safe() && exchange.has_other_route() => {
                    elsewhere.push(exchange);
                }
                // A new connection is no better the next time.
                Left::Unsent | Left::Unanswered | Left::Begun => {
                    let sent = left != Left::Unsent;
                    given_up.push((exchange, sent));
                }
            }
        }
        if !given_up.is_empty() || !elsewhere.is_empty() {
            self.record_failure(connection.origin, Some(&connection.address), &fault, false, now);
        }
        for mut exchange in elsewhere {
            self.pools[connection.origin].metrics.retried += 1;
            exchange.give_up_route();
            self.submit(exchange, now);
        }
        given_up.into_iter().for_each(|(exchange, sent)| self.fail(exchange, fault.clone(), sent));
        // In their old order, in front of what came later.
        for exchange in again.into_iter().rev() {
            if let Some(exchange) = self.try_dispatch(exchange, now) {
                self.pools[exchange.origin()].wait_first(exchange, now);
            }
        }
    }

    /// A connection has ended that owed answers to requests sent ahead. A backend that says so with the answer to
    /// the first of them, or breaks off twice in a row, and has answered none so far, is asked one at a time from
    /// now on.
    fn pipelining_failed(&mut self, connection: &Connection, announced: bool) {
        let origin = &mut self.pools[connection.origin];
        if connection.pipelines || !origin.pipelining_failed(&connection.address, announced) {
            return;
        }
        log::warn(format_args!("pipelining-disabled backend={} cause=\"it closes connections\"", origin.label));
        let same = |other: &&mut Connection| other.origin == connection.origin && other.address == connection.address;
        self.connections.iter_mut().map(|(_, other)| other).filter(same).for_each(|other| other.ahead = 1);
    }

    /// Takes a connection of any state out of everywhere, has it closed, and tells its peer so.
    fn remove(&mut self, key: Key) -> Option<Connection> {
        let mut connection = self.connections.remove(key)?;
        let last = connection.tls().map(tls::TlsSession::close_notify).filter(|last| !last.is_empty());
        self.actions.extend(last.map(|last| Action::CloseNotify(key, last)));
        self.actions.push_back(Action::Close(Peer::Backend(key)));
        let origin = &mut self.pools[connection.origin];
        origin.closed(&connection.address);
        if connection.connected.is_some() {
            origin.idle.retain(|(other, _)| *other != key);
        } else {
            origin.connecting.retain(|(other, _)| *other != key);
            origin.handshaking -= usize::from(connection.tls().is_some());
        }
        Some(connection)
    }

    /// A connection could not be made: tries the next address, or gives up those who wait for it.
    fn unreachable(&mut self, key: Key, fault: Fault, now: Instant) {
        let Some(connection) = self.remove(key) else { return };
        let origin = &mut self.pools[connection.origin];
        let shaking = matches!(fault, Fault::Handshake(_) | Fault::HandshakeTimeout);
        origin.metrics.handshakes_failed += u64::from(shaking);
        if !origin.on_connect_failed(&connection.address, now) {
            return; // another address is next, or on its way
        }
        if origin.logged.is_none_or(|logged| logged + TELLING <= now) {
            origin.logged = Some(now);
            log::info(format_args!("unreachable backend={} cause=\"{fault}\"", origin.label));
        }
        if let Some(name) = origin.name {
            self.resolver.doubt(name);
        }
        self.reroute_waiting(connection.origin, fault.clone(), now);
        let slow = matches!(fault, Fault::ConnectTimeout | Fault::HandshakeTimeout);
        self.record_failure(connection.origin, None, &fault, slow, now);
    }

    /// Ends what waits for an origin that cannot be reached; replicas are tried first. What only waits
    /// for any connection goes on waiting while some are open.
    fn reroute_waiting(&mut self, origin: usize, fault: Fault, now: Instant) {
        let origin = &mut self.pools[origin];
        let mut waiting: Vec<Exchange> = origin.fresh.drain(..).collect();
        if origin.open == 0 {
            waiting.extend(origin.queue.drain(..).map(|(_, exchange)| exchange));
        }
        for mut exchange in waiting {
            let left = exchange.origin();
            exchange.give_up_route();
            // Nothing of it has left, or it is a lookup: another replica may be asked.
            if !exchange.is_lost() {
                self.pools[left].metrics.retried += 1;
                self.submit(exchange, now);
            } else {
                self.fail(exchange, fault.clone(), false);
            }
        }
    }

    fn fail(&mut self, exchange: Exchange, fault: Fault, sent: bool) {
        let metrics = &mut self.pools[exchange.origin()].metrics;
        match fault {
            Fault::Timeout(_) => metrics.timed_out += 1,
            _ => metrics.failed += 1,
        }
        self.failed.push_back(Done { exchange, result: Err(fault), sent });
    }

    /// The next exchange that ended without a response.
    pub fn next_failed(&mut self) -> Option<Done<'static>> {
        self.failed.pop_front()
    }

    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes the answer to [`Action::Resolve`].
    pub fn resolved(&mut self, name: usize, answer: Result<Vec<SocketAddr>, String>, now: Instant) {
        self.resolver.answer(name, answer, now);
    }

    /// Names have to be resolved again before the next connection, and who could not pipeline may try again.
    pub fn reload(&mut self) {
        self.resolver.doubt_all();
        self.pools.iter_mut().for_each(Pool::allow_pipelining);
    }

    /// Opens the connections that are needed, gives up and closes those whose time is over, and ends the
    /// exchanges whose deadline has passed.
    pub fn tick(&mut self, now: Instant) {
        if self.soonest.is_some_and(|soonest| soonest <= now) {
            self.expire(now);
        }
        for origin in 0..self.pools.len() {
            while let Some(key) = overdue(&mut self.pools[origin].idle, now) {
                self.on_closed(key, Fault::Closed, now);
            }
            while let Some(key) = overdue(&mut self.pools[origin].connecting, now) {
                let reached = self.connections.get(key).is_some_and(|connection| connection.reached.is_some());
                let fault = if reached { Fault::HandshakeTimeout } else { Fault::ConnectTimeout };
                self.unreachable(key, fault, now);
            }
            self.dispatch_idle(origin, now);
            self.grow(origin, now);
        }
        if self.pools.iter().all(|origin| origin.load() == 0) {
            self.soonest = None;
        }
    }

    /// Asks on idle connections what has waited for the backend to have fewer requests, or to be able to serve more.
    fn dispatch_idle(&mut self, at: usize, now: Instant) {
        while let origin = &mut self.pools[at]
            && !origin.queue.is_empty()
            && !origin.is_saturated()
            && let Some((key, _)) = origin.idle.pop_back()
        {
            self.dispatch_next(key, now);
        }
    }

    /// Opens as many connections as are missing, if waiting for a used one would take too long.
    fn grow(&mut self, at: usize, now: Instant) {
        while self.pools[at].lacks_connection(now) {
            let origin = &mut self.pools[at];
            if origin.open == origin.options.connections {
                // Only who needs a new connection gets here; an idle one makes room for it.
                let Some((key, _)) = origin.idle.front().copied() else { return };
                self.on_closed(key, Fault::Closed, now);
                continue;
            }
            if let Some(name) = origin.name {
                match self.resolver.look_up(name, now) {
                    Resolution::Addresses(addresses) => origin.learn(addresses),
                    Resolution::Wait => return,
                    Resolution::Ask { host, port } => {
                        self.actions.push_back(Action::Resolve { name, host: host.to_owned(), port });
                        return;
                    }
                    Resolution::Failed(error) => {
                        let fault = Fault::Unresolved(error.to_owned());
                        self.reroute_waiting(at, fault.clone(), now);
                        return self.record_failure(at, None, &fault, false, now);
                    }
                }
            }
            let address = origin.next_address(now);
            origin.metrics.opened += 1;
            let key = self.connections.insert(Connection::new(at, address.clone(), origin.ahead(&address), now));
            origin.opened(&address);
            origin.connecting.push_back((key, now + CONNECT));
            self.actions.push_back(Action::Connect(key, address));
        }
    }

    /// When [`Backends::tick`] has something to do.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let pools = self.pools.iter().filter_map(|origin| origin.deadline(&self.resolver, now));
        pools.chain(self.soonest).min()
    }

    /// Ends every exchange whose deadline has passed, whether anybody still waits for it or not. A connection
    /// whose next answer would be for one of them is closed: it may be stuck, and others wait behind.
    fn expire(&mut self, now: Instant) {
        for at in 0..self.pools.len() {
            let phase = self.pools[at].phase();
            for exchange in self.pools[at].expire(now) {
                self.fail(exchange, Fault::Timeout(phase), false);
            }
        }
        let late = |connection: &Connection| connection.soonest().is_some_and(|soonest| soonest <= now);
        let keys: Vec<Key> = self.connections.iter().filter(|(_, one)| late(one)).map(|(key, _)| key).collect();
        for key in keys {
            self.expire_connection(key, now);
        }
        let asked = self.connections.iter().filter_map(|(_, connection)| connection.soonest());
        let waiting = self.pools.iter().filter_map(Pool::soonest);
        self.soonest = asked.chain(waiting).min();
    }

    fn expire_connection(&mut self, key: Key, now: Instant) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let phase = if connection.in_head() { Phase::Head } else { Phase::Body };
        let (late, is_late, origin) = (connection.expire(now), connection.is_late(), connection.origin);
        let address = connection.address.clone();
        for (exchange, sent) in late {
            self.pools[origin].asked -= 1;
            self.fail(exchange, Fault::Timeout(phase), sent);
        }
        if is_late {
            self.record_failure(origin, Some(&address), &Fault::Timeout(phase), true, now);
            self.on_closed(key, Fault::Closed, now);
        }
    }

    /// Drops the waiting exchanges of jobs that nobody wants any more.
    pub fn sweep(&mut self, mut is_live: impl FnMut(Key) -> bool) {
        for origin in &mut self.pools {
            let before = origin.queue.len() + origin.fresh.len();
            origin.queue.retain(|(_, exchange)| is_live(exchange.job));
            origin.fresh.retain(|exchange| is_live(exchange.job));
            if origin.queue.len() + origin.fresh.len() < before {
                origin.breaker.release();
            }
        }
    }

    /// Resolves all names, so that the first lookups need not wait for it.
    pub fn resolve_all(&mut self, now: Instant) {
        let asked = self.resolver.ask_all(now).into_iter();
        self.actions.extend(asked.map(|(name, host, port)| Action::Resolve { name, host, port }));
    }

    /// The metrics of each origin, by its label; several go by the same if their pools differ.
    pub fn metrics(&self) -> impl Iterator<Item = (&str, BackendMetrics)> {
        self.pools.iter().map(|origin| {
            let (idle, connecting) = (origin.idle.len(), origin.connecting.len());
            let metrics = BackendMetrics {
                busy: (origin.open - idle - connecting) as u64,
                idle: idle as u64,
                connecting: (connecting - origin.handshaking) as u64,
                handshaking: origin.handshaking as u64,
                tls: origin.tls.is_some(),
                waiting: (origin.queue.len() + origin.fresh.len()) as u64,
                down: u64::from(origin.breaker.is_down()),
                ..origin.metrics.clone()
            };
            (&origin.label[..], metrics)
        })
    }

    /// How many pools there are, and how many of them cannot be reached at the moment.
    pub fn health(&self, now: Instant) -> (usize, usize) {
        let gone = |origin: &&Pool| origin.is_ejected(now) || origin.breaker.is_down();
        (self.pools.len(), self.pools.iter().filter(gone).count())
    }
}

/// Takes the first out of a sorted list if its time is over.
fn overdue(list: &mut VecDeque<(Key, Instant)>, now: Instant) -> Option<Key> {
    list.front().filter(|(_, until)| *until <= now)?;
    list.pop_front().map(|(key, _)| key)
}
