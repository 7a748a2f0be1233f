//! The backends: origins with their pools of connections, queues, and the rules of asking again.

mod connection;
mod request;
mod resolver;

pub use request::{Astray, Exchange, MAX_ROUTES, Method, Piece, Request, Route};

use crate::arena::{Arena, Key};
use crate::log;
use crate::wire::http::{self, Response};
use connection::{Arrival, Connection};
use resolver::{Known, Resolver};
use std::collections::VecDeque;
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Exchanges that may wait for one origin.
pub const MAX_WAITING: usize = 10_000;

/// A TCP connection that is not there after so long will not come.
const CONNECT: Duration = Duration::from_secs(3);

/// An address that could not be reached is not tried for so long if there is another one.
const ASIDE: Duration = Duration::from_secs(10);

/// Up to so many connections, every exchange that finds none free gets a new one. Fewer make a fast backend
/// wait for us; many more cost it and us more than they bring (512 instead of 64: 37 % more CPU).
const EAGER: usize = 64;

/// Beyond that an exchange waits so long for a connection that others use before it gets one of its own:
/// a fast backend has answered several others by then, and a slow one does not notice.
const PATIENCE: Duration = Duration::from_millis(10);

/// No new connection for so long after one failed while others work.
const RETRY: Duration = Duration::from_millis(100);

/// Whom to connect to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A host name or address, and a port.
    Tcp(String, u16),
    Unix(PathBuf),
}

/// An address that a connection can be made to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// How many connections an origin gets, and how long they stay unused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pool {
    pub connections: usize,
    pub keepalive: Duration,
}

/// What the reactor has to do.
#[derive(Debug, Eq, PartialEq)]
pub enum Action {
    Connect(Key, Address),
    Flush(Key),
    Close(Key),
    /// Resolve a host and tell the answer under this number.
    Resolve {
        name: usize,
        host: String,
        port: u16,
    },
}

/// Why an exchange has no answer. `Display` completes a sentence that begins with the origin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    Unresolved(String),
    Unreachable(ErrorKind),
    ConnectTimeout,
    /// Closed before the first byte of the response.
    Closed,
    Broken(ErrorKind),
    Malformed(http::Error),
    /// Bytes came before the request had left.
    Early,
    Astray(u16, Astray),
    Overloaded,
    Timeout(Phase),
}

/// What an exchange was waiting for when its time was over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    Resolve,
    Connect,
    Queue,
    Head,
    Body,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unresolved(error) => write!(f, "has no address: {error}"),
            Fault::Unreachable(ErrorKind::ConnectionRefused) => f.write_str("refused the connection"),
            Fault::Unreachable(kind) => write!(f, "is unreachable: {kind}"),
            Fault::ConnectTimeout => f.write_str("did not accept the connection in time"),
            Fault::Closed => f.write_str("closed the connection without an answer"),
            Fault::Broken(kind) => write!(f, "broke the connection: {kind}"),
            Fault::Malformed(error) => write!(f, "sent nonsense: {error}"),
            Fault::Early => f.write_str("answered before it was asked"),
            Fault::Astray(status, Astray::NoLocation) => write!(f, "answered {status} without a usable location"),
            Fault::Astray(status, Astray::OtherOrigin) => write!(f, "answered {status} to another origin"),
            Fault::Astray(status, Astray::TooFar) => write!(f, "answered {status} too often"),
            Fault::Overloaded => write!(f, "is overloaded: {MAX_WAITING} requests are waiting"),
            Fault::Timeout(phase) => f.write_str(match phase {
                Phase::Resolve => "was not resolved in time",
                Phase::Connect => "did not accept a connection in time",
                Phase::Queue => "had no connection free in time",
                Phase::Head => "did not answer in time",
                Phase::Body => "did not complete its answer in time",
            }),
        }
    }
}

/// The end of an exchange.
#[derive(Debug)]
pub struct Done<'a> {
    pub exchange: Exchange,
    pub result: Result<Response<'a>, Fault>,
    /// Whether the backend may have seen the request.
    pub sent: bool,
}

/// All origins and their connections.
#[derive(Debug, Default)]
pub struct Backend {
    origins: Vec<Origin>,
    connections: Arena<Connection>,
    resolver: Resolver,
    /// Exchanges that ended without a response.
    failed: VecDeque<Done<'static>>,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Origin {
    label: String,
    target: Target,
    pool: Pool,
    /// The number of its name, unless it needs none.
    name: Option<usize>,
    addresses: Vec<Place>,
    /// The address that worked last.
    preferred: usize,
    /// All connections, of every state.
    open: usize,
    /// Unused connections, and when each is closed. The last one that was used comes first; what is
    /// left over ages at the front.
    idle: VecDeque<(Key, Instant)>,
    /// Connections in the making, and when each is given up.
    connecting: VecDeque<(Key, Instant)>,
    /// Exchanges that wait for a connection, and since when.
    queue: VecDeque<(Instant, Exchange)>,
    /// Exchanges that wait for a new connection, because a used one broke.
    fresh: VecDeque<Exchange>,
    /// No connection is made before.
    pause: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    address: Address,
    /// Until when others are preferred, because it could not be reached.
    aside: Option<Instant>,
    /// It could not be reached since the last time that any address could, or that all could not.
    failed: bool,
}

impl Backend {
    /// Adds an origin, or finds it. The label names it in reasons and log lines.
    pub fn origin(&mut self, label: &str, target: Target, pool: Pool) -> usize {
        let known = self.origins.iter().position(|origin| origin.target == target && origin.pool == pool);
        known.unwrap_or_else(|| {
            self.origins.push(Origin::new(label.to_owned(), target, pool, &mut self.resolver));
            self.origins.len() - 1
        })
    }

    /// The origin that an exchange was last meant for.
    pub fn label(&self, exchange: &Exchange) -> &str {
        &self.origins[exchange.origin()].label
    }

    /// The names of all origins with their targets, for reports.
    pub fn targets(&self) -> impl Iterator<Item = (&str, &Target)> {
        self.origins.iter().map(|origin| (origin.label.as_str(), &origin.target))
    }

    /// Asks, now or as soon as there is a connection.
    pub fn submit(&mut self, mut exchange: Exchange, now: Instant) {
        if !exchange.is_redirected() {
            exchange.route = self.choose(&exchange, now);
        }
        let at = exchange.origin();
        while let Some((key, until)) = self.origins[at].idle.pop_back() {
            if now < until {
                return self.ask(key, exchange);
            }
            self.lost(key, Fault::Closed, now);
        }
        let origin = &mut self.origins[at];
        if origin.queue.len() + origin.fresh.len() >= MAX_WAITING {
            return self.fail(exchange, Fault::Overloaded, false);
        }
        origin.queue.push_back((now, exchange));
    }

    /// The best of the routes that were not found unreachable: one with working addresses, and the
    /// fewest exchanges on their way.
    fn choose(&self, exchange: &Exchange, now: Instant) -> usize {
        let routes = &exchange.request.routes;
        if routes.len() == 1 {
            return 0;
        }
        let left = (0..routes.len()).filter(|at| exchange.unreachable & 1 << at == 0);
        left.min_by_key(|at| {
            let origin = &self.origins[routes[*at].origin];
            (origin.is_aside(now), origin.load())
        })
        .unwrap_or(exchange.route)
    }

    fn ask(&mut self, key: Key, exchange: Exchange) {
        let connection = self.connections.get_mut(key).expect("connections leave the pool when they close");
        if connection.ask(exchange) {
            self.actions.push_back(Action::Flush(key));
        }
    }

    /// A connection was made.
    pub fn connected(&mut self, key: Key, now: Instant) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.connected = true;
        let origin = &mut self.origins[connection.origin];
        origin.connecting.retain(|(other, _)| *other != key);
        if let Some(at) = origin.addresses.iter().position(|place| place.address == connection.address) {
            origin.preferred = at;
            origin.addresses[at].aside = None;
            origin.addresses.iter_mut().for_each(|place| place.failed = false);
        }
        self.feed(key, now);
    }

    /// Gives a free connection its next exchange, or makes it idle.
    fn feed(&mut self, key: Key, now: Instant) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let origin = &mut self.origins[connection.origin];
        let first = if connection.is_fresh() { origin.fresh.pop_front() } else { None };
        match first.or_else(|| origin.queue.pop_front().map(|(_, exchange)| exchange)) {
            Some(exchange) => self.ask(key, exchange),
            None => {
                // Half of what the backend grants, so that it never closes while we ask.
                let granted = connection.idle.map_or(origin.pool.keepalive, |idle| idle / 2);
                origin.idle.push_back((key, now + granted.min(origin.pool.keepalive)));
            }
        }
    }

    /// What is to be written to a connection.
    pub fn output(&self, key: Key) -> &[u8] {
        self.connections.get(key).map_or(&[], |connection| connection.output.unsent())
    }

    /// Notes that `count` bytes were written.
    pub fn sent(&mut self, key: Key, count: usize) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.output.advance(count);
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
        match connection.receive(input) {
            Arrival::Nothing => None,
            Arrival::Answer(exchange, response) => {
                let surplus = connection.line.is_empty() && !input.is_empty();
                self.answered(key, exchange, response, surplus, now)
            }
            Arrival::Unsolicited => {
                *input = &[];
                let label = &self.origins[connection.origin].label;
                log::info(format_args!("unsolicited origin={label}"));
                self.lost(key, Fault::Early, now);
                None
            }
            Arrival::Malformed(error) => {
                *input = &[];
                self.lost(key, Fault::Malformed(error), now);
                None
            }
        }
    }

    fn answered<'a>(
        &mut self,
        key: Key,
        mut exchange: Exchange,
        response: Response<'a>,
        surplus: bool,
        now: Instant,
    ) -> Option<Done<'a>> {
        if !response.keep || surplus {
            self.lost(key, Fault::Closed, now);
        } else if self.connections.get(key).is_some_and(|connection| connection.line.is_empty()) {
            self.feed(key, now);
        }
        if exchange.request.method.is_safe() && matches!(response.status, 301..=303 | 307 | 308) {
            match exchange.redirect(response.location.as_deref()) {
                Ok(()) => self.submit(exchange, now),
                Err(astray) => self.fail(exchange, Fault::Astray(response.status, astray), true),
            }
            return None;
        }
        Some(Done { exchange, result: Ok(response), sent: true })
    }

    /// The backend has closed a connection, or it broke, or it could not be made.
    pub fn ended(&mut self, key: Key, cause: Option<ErrorKind>, now: Instant) -> Option<Done<'static>> {
        let connection = self.connections.get_mut(key)?;
        if !connection.connected {
            self.unreachable(key, Fault::Unreachable(cause.unwrap_or(ErrorKind::ConnectionAborted)), now);
            return None;
        }
        let fault = match cause {
            Some(kind) => Fault::Broken(kind),
            None => match connection.end() {
                Arrival::Answer(exchange, response) => return self.answered(key, exchange, response, false, now),
                Arrival::Malformed(error) => Fault::Malformed(error),
                Arrival::Nothing | Arrival::Unsolicited => Fault::Closed,
            },
        };
        self.lost(key, fault, now);
        None
    }

    /// Removes a connection. Of the exchanges in its line, those that may be asked again are.
    fn lost(&mut self, key: Key, fault: Fault, now: Instant) {
        let Some(mut connection) = self.connections.remove(key) else { return };
        self.actions.push_back(Action::Close(key));
        let origin = &mut self.origins[connection.origin];
        origin.open -= 1;
        origin.idle.retain(|(other, _)| *other != key);
        let (unsent, reused) = (connection.is_unsent(), !connection.is_fresh());
        let silent = connection.is_silent() && !matches!(fault, Fault::Malformed(_) | Fault::Timeout(_));
        let mut again = Vec::new();
        for (at, mut exchange) in std::mem::take(&mut connection.line).into_iter().enumerate() {
            let unanswered = at > 0 || silent;
            if unsent {
                again.push(exchange); // it has not cost the backend anything
            } else if unanswered && reused && exchange.request.method.is_safe() && !exchange.resent {
                exchange.resent = true;
                log::info(format_args!("resend origin={} cause=\"{fault}\"", origin.label));
                origin.fresh.push_back(exchange);
            } else {
                self.failed.push_back(Done { exchange, result: Err(fault.clone()), sent: true });
            }
        }
        again.into_iter().for_each(|exchange| self.submit(exchange, now));
    }

    /// A connection could not be made: tries the next address, or gives up those who wait for it.
    fn unreachable(&mut self, key: Key, fault: Fault, now: Instant) {
        let Some(connection) = self.connections.remove(key) else { return };
        self.actions.push_back(Action::Close(key));
        let origin = &mut self.origins[connection.origin];
        origin.open -= 1;
        origin.connecting.retain(|(other, _)| *other != key);
        if let Some(place) = origin.addresses.iter_mut().find(|place| place.address == connection.address) {
            place.aside = Some(now + ASIDE);
            place.failed = true;
        }
        if !origin.is_exhausted() || !origin.connecting.is_empty() {
            return; // another address is next, or on its way
        }
        origin.addresses.iter_mut().for_each(|place| place.failed = false);
        log::info(format_args!("unreachable origin={} cause=\"{fault}\"", origin.label));
        if let Some(name) = origin.name {
            self.resolver.doubt(name);
        }
        origin.pause = (origin.open > 0).then_some(now + RETRY);
        self.give_up(connection.origin, fault, now);
    }

    /// Ends what waits for an origin that cannot be reached; replicas are tried first. What only waits
    /// for any connection goes on waiting while some are open.
    fn give_up(&mut self, origin: usize, fault: Fault, now: Instant) {
        let origin = &mut self.origins[origin];
        let mut waiting: Vec<Exchange> = origin.fresh.drain(..).collect();
        if origin.open == 0 {
            waiting.extend(origin.queue.drain(..).map(|(_, exchange)| exchange));
        }
        for mut exchange in waiting {
            exchange.give_up_route();
            let routes = exchange.request.routes.len();
            // Nothing of it has left, or it is a lookup: another replica may be asked.
            if exchange.unreachable.count_ones() < routes as u32 {
                self.submit(exchange, now);
            } else {
                self.fail(exchange, fault.clone(), false);
            }
        }
    }

    fn fail(&mut self, exchange: Exchange, fault: Fault, sent: bool) {
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

    /// Names have to be resolved again before the next connection.
    pub fn reload(&mut self) {
        self.resolver.doubt_all();
    }

    /// Opens the connections that are needed, gives up and closes those whose time is over.
    pub fn tick(&mut self, now: Instant) {
        for origin in 0..self.origins.len() {
            while let Some(key) = overdue(&self.origins[origin].idle, now) {
                self.lost(key, Fault::Closed, now);
            }
            while let Some(key) = overdue(&self.origins[origin].connecting, now) {
                self.unreachable(key, Fault::ConnectTimeout, now);
            }
            self.grow(origin, now);
        }
    }

    /// Opens as many connections as are missing, if waiting for a used one would take too long.
    fn grow(&mut self, at: usize, now: Instant) {
        while self.origins[at].lacks_connection(now) {
            let origin = &mut self.origins[at];
            if origin.open == origin.pool.connections {
                // Only who needs a new connection gets here; an idle one makes room for it.
                let Some((key, _)) = origin.idle.front().copied() else { return };
                self.lost(key, Fault::Closed, now);
                continue;
            }
            if let Some(name) = origin.name {
                match self.resolver.look_up(name, now) {
                    Known::Addresses(addresses) => origin.learn(addresses),
                    Known::Wait => return,
                    Known::Ask { host, port } => {
                        self.actions.push_back(Action::Resolve { name, host: host.to_owned(), port });
                        return;
                    }
                    Known::Failed(error) => {
                        let fault = Fault::Unresolved(error.to_owned());
                        return self.give_up(at, fault, now);
                    }
                }
            }
            let address = origin.next_address(now);
            let key = self.connections.insert(Connection::new(at, address.clone()));
            origin.open += 1;
            origin.connecting.push_back((key, now + CONNECT));
            self.actions.push_back(Action::Connect(key, address));
        }
    }

    /// When [`Backend::tick`] has something to do.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.origins.iter().filter_map(|origin| origin.deadline(&self.resolver, now)).min()
    }

    /// Ends every exchange whose deadline has passed. A connection that still owes it an answer is
    /// closed, as nothing can be told from a late answer.
    pub fn expire(&mut self, now: Instant) {
        for origin in &mut self.origins {
            let phase = origin.phase();
            let (late, rest) = origin.queue.drain(..).partition(|(_, exchange)| exchange.deadline <= now);
            origin.queue = rest;
            let late: VecDeque<(Instant, Exchange)> = late;
            let (late_fresh, rest) = origin.fresh.drain(..).partition(|exchange| exchange.deadline <= now);
            origin.fresh = rest;
            let late_fresh: VecDeque<Exchange> = late_fresh;
            for exchange in late.into_iter().map(|(_, exchange)| exchange).chain(late_fresh) {
                self.failed.push_back(Done { exchange, result: Err(Fault::Timeout(phase)), sent: false });
            }
        }
        let late = |connection: &Connection| connection.line.iter().any(|exchange| exchange.deadline <= now);
        let keys: Vec<Key> = self.connections.iter().filter(|(_, one)| late(one)).map(|(key, _)| key).collect();
        for key in keys {
            self.expire_connection(key, now);
        }
    }

    fn expire_connection(&mut self, key: Key, now: Instant) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let phase = if connection.in_head() { Phase::Head } else { Phase::Body };
        let sent = !connection.is_unsent();
        let (late, rest) = connection.line.drain(..).partition(|exchange| exchange.deadline <= now);
        connection.line = rest;
        let late: VecDeque<Exchange> = late;
        for exchange in late {
            self.failed.push_back(Done { exchange, result: Err(Fault::Timeout(phase)), sent });
        }
        self.lost(key, Fault::Closed, now);
    }

    /// Drops the waiting exchanges of jobs that nobody wants any more.
    pub fn sweep(&mut self, mut wanted: impl FnMut(Key) -> bool) {
        for origin in &mut self.origins {
            origin.queue.retain(|(_, exchange)| wanted(exchange.job));
            origin.fresh.retain(|exchange| wanted(exchange.job));
        }
    }

    /// Writes the state of each origin to the log.
    pub fn dump(&self) {
        for origin in &self.origins {
            let Origin { label, open, idle, connecting, queue, fresh, .. } = origin;
            log::warn(format_args!(
                "state origin={label} connections={open} idle={} connecting={} waiting={}",
                idle.len(),
                connecting.len(),
                queue.len() + fresh.len()
            ));
        }
    }
}

impl Origin {
    fn new(label: String, target: Target, pool: Pool, resolver: &mut Resolver) -> Self {
        let (name, address) = match &target {
            Target::Unix(path) => (None, Some(Address::Unix(path.clone()))),
            Target::Tcp(host, port) => match host.parse() {
                Ok(ip) => (None, Some(Address::Tcp(SocketAddr::new(ip, *port)))),
                Err(_) => (Some(resolver.add(host, *port)), None),
            },
        };
        Self {
            label,
            target,
            pool,
            name,
            addresses: address.map(|address| Place { address, aside: None, failed: false }).into_iter().collect(),
            preferred: 0,
            open: 0,
            idle: VecDeque::new(),
            connecting: VecDeque::new(),
            queue: VecDeque::new(),
            fresh: VecDeque::new(),
            pause: None,
        }
    }

    /// Exchanges on their way.
    fn load(&self) -> usize {
        self.open - self.idle.len() - self.connecting.len() + self.queue.len() + self.fresh.len()
    }

    /// True if one more connection should be opened now.
    fn lacks_connection(&self, now: Instant) -> bool {
        let most = self.pool.connections;
        if self.pause.is_some_and(|until| now < until) || self.is_exhausted() {
            return false;
        }
        if self.connecting.len() < self.fresh.len() {
            return self.open < most || !self.idle.is_empty();
        }
        let patient = || self.queue.iter().take_while(|(since, _)| *since + PATIENCE <= now).take(most).count();
        let used = self.open - self.connecting.len();
        let wanted = if self.open < EAGER { self.queue.len().min(EAGER - used) } else { patient() };
        self.open < most && self.connecting.len() < self.fresh.len() + wanted
    }

    /// Takes over a list of addresses, with what is known of those that stay.
    fn learn(&mut self, addresses: &[SocketAddr]) {
        let same = self.addresses.len() == addresses.len()
            && self.addresses.iter().zip(addresses).all(|(place, new)| place.address == Address::Tcp(*new));
        if same {
            return;
        }
        let old = std::mem::take(&mut self.addresses);
        let aside = |address: &Address| old.iter().find(|place| place.address == *address)?.aside;
        self.addresses = addresses
            .iter()
            .map(|address| Address::Tcp(*address))
            .map(|address| Place { aside: aside(&address), address, failed: false })
            .collect();
        self.preferred = 0;
    }

    /// The address to try now, of those that did not just fail: the one that worked last, else the first
    /// in order that is not set aside, else the one that has been set aside for longest.
    fn next_address(&self, now: Instant) -> Address {
        let works = |place: &&Place| !place.failed && place.aside.is_none_or(|until| until <= now);
        let preferred = self.addresses.get(self.preferred).filter(works);
        let place = preferred.or_else(|| self.addresses.iter().find(works));
        let longest = || self.addresses.iter().filter(|place| !place.failed).min_by_key(|place| place.aside);
        place.or_else(longest).unwrap_or(&self.addresses[0]).address.clone()
    }

    /// True if all addresses just failed: what is still connecting decides.
    fn is_exhausted(&self) -> bool {
        !self.addresses.is_empty() && self.addresses.iter().all(|place| place.failed)
    }

    /// True if all addresses are set aside.
    fn is_aside(&self, now: Instant) -> bool {
        let aside = |place: &Place| place.aside.is_some_and(|until| now < until);
        !self.addresses.is_empty() && self.addresses.iter().all(aside)
    }

    /// What those in the queue are waiting for.
    fn phase(&self) -> Phase {
        if self.open > self.connecting.len() {
            Phase::Queue
        } else if self.connecting.is_empty() {
            Phase::Resolve
        } else {
            Phase::Connect
        }
    }

    fn deadline(&self, resolver: &Resolver, now: Instant) -> Option<Instant> {
        let idle = self.idle.front().map(|(_, until)| *until);
        let connecting = self.connecting.front().map(|(_, until)| *until);
        let waiting = self.queue.get(self.connecting.len()).map(|(since, _)| *since + PATIENCE);
        let waiting = if self.fresh.is_empty() { waiting } else { Some(now) };
        let growth = waiting.filter(|_| self.open < self.pool.connections).map(|at| {
            let resolved = self.name.and_then(|name| resolver.patience_ends(name));
            at.max(self.pause.unwrap_or(at)).max(resolved.unwrap_or(at))
        });
        // What could be done at once was done by `tick`; what is left waits for an event.
        let growth = growth.filter(|at| *at > now);
        [idle, connecting, growth].into_iter().flatten().min()
    }
}

/// The first of a sorted list whose time is over.
fn overdue(list: &VecDeque<(Key, Instant)>, now: Instant) -> Option<Key> {
    list.front().filter(|(_, until)| *until <= now).map(|(key, _)| *key)
}
