//! An origin: its addresses, and when it needs one more connection.

use super::Phase;
use super::breaker::CircuitBreaker;
use super::limit::Limit;
use super::request::Exchange;
use super::resolver::Resolver;
use super::tls;
use crate::arena::Key;
use crate::io::Address;
use crate::metrics::BackendMetrics;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// No new connection for so long after all addresses failed while older connections work.
const RETRY: Duration = Duration::from_millis(100);

/// An address that could not be reached is not tried for so long if there is another one.
const UNREACHABLE: Duration = Duration::from_secs(10);

/// An address that was reached and had a fault is avoided for so long if there is another one.
const EJECTED: Duration = Duration::from_secs(1);

/// Up to so many connections, every exchange that finds none free gets a new one. Fewer make a fast backend
/// wait for us; many more cost it and us more than they bring (512 instead of 64: 37 % more CPU).
const EAGER: usize = 64;

/// Beyond that an exchange waits so long for a connection that others use before it gets one of its own:
/// a fast backend has answered several others by then, and a slow one does not notice.
const PATIENCE: Duration = Duration::from_millis(20);

/// Whom to connect to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A host name or address, and a port.
    Tcp(String, u16),
    Unix(PathBuf),
}

/// How many connections an origin gets, and how long they stay unused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolOptions {
    pub connections: usize,
    pub keepalive: Duration,
    /// GETs that one connection may owe answers to.
    pub pipeline: usize,
    /// How many requests it gets at once is found out from its latency.
    pub adapts: bool,
}

/// One host and port, or one unix socket, with its connections and what waits for them.
#[derive(Debug)]
pub(super) struct Pool {
    pub label: String,
    pub target: Target,
    pub options: PoolOptions,
    /// How its connections are secured, if they are.
    pub tls: Option<tls::TlsConnector>,
    /// The number of its name, unless it needs none.
    pub name: Option<usize>,
    addresses: Vec<AddressState>,
    /// The address that worked last.
    preferred: usize,
    /// All connections, of every state.
    pub open: usize,
    /// Exchanges that connections owe answers to.
    pub asked: usize,
    pub metrics: BackendMetrics,
    pub breaker: CircuitBreaker,
    /// How many requests it can serve at once, where that is to be found out.
    pub limit: Option<Limit>,
    /// A table may ask others in its place.
    pub replica: bool,
    /// Some address broke off requests that were sent ahead.
    doubted: bool,
    /// The connection that was asked last: others may be asked together with it.
    pub batch: Option<Key>,
    /// Unused connections, and when each is closed. The last one that was used comes first; what is
    /// left over ages at the front.
    pub idle: VecDeque<(Key, Instant)>,
    /// Connections in the making, and when each is given up; so many of them are in their handshakes.
    pub connecting: VecDeque<(Key, Instant)>,
    pub handshaking: usize,
    /// Exchanges that wait for a connection, and since when, in the order of their deadlines.
    pub queue: VecDeque<(Instant, Exchange)>,
    /// Exchanges that wait for a new connection, because a used one broke.
    pub fresh: VecDeque<Exchange>,
    /// No connection is made before.
    pause: Option<Instant>,
    /// When it was logged last that it cannot be reached.
    pub logged: Option<Instant>,
}

/// One of an origin's addresses.
#[derive(Debug)]
struct AddressState {
    address: Address,
    /// Until when others are preferred, because it could not be reached.
    down: Option<Instant>,
    /// It could not be reached since the last time that any address could, or that all could not.
    failed: bool,
    /// Connections to it.
    open: usize,
    /// How often in a row it broke off requests that were sent ahead, up to [`AddressState::STRIKES`].
    strikes: u8,
}

impl AddressState {
    fn is_ejected(&self, now: Instant) -> bool {
        self.down.is_some_and(|until| now < until)
    }

    /// So often a backend may break off before it is asked one at a time.
    const STRIKES: u8 = 2;

    fn new(address: Address) -> Self {
        Self { address, down: None, failed: false, open: 0, strikes: 0 }
    }
}

impl Pool {
    pub fn new(
        label: String,
        target: Target,
        pool: PoolOptions,
        tls: Option<tls::TlsConnector>,
        resolver: &mut Resolver,
    ) -> Self {
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
            options: pool,
            tls,
            name,
            addresses: address.map(AddressState::new).into_iter().collect(),
            preferred: 0,
            open: 0,
            asked: 0,
            metrics: BackendMetrics::default(),
            breaker: CircuitBreaker::default(),
            limit: pool.adapts.then(|| Limit::new(pool.connections)),
            replica: false,
            doubted: false,
            batch: None,
            idle: VecDeque::new(),
            connecting: VecDeque::new(),
            handshaking: 0,
            queue: VecDeque::new(),
            fresh: VecDeque::new(),
            pause: None,
            logged: None,
        }
    }

    /// Puts an exchange into the queue: who has the least time left comes first, and of several who came first.
    pub fn wait(&mut self, exchange: Exchange, now: Instant) {
        let at = match self.queue.back() {
            Some((_, last)) if exchange.deadline < last.deadline => {
                self.queue.partition_point(|(_, other)| other.deadline <= exchange.deadline)
            }
            _ => self.queue.len(),
        };
        self.queue.insert(at, (now, exchange));
    }

    /// Puts an exchange back that has waited before, in front of those with the same deadline.
    pub fn wait_first(&mut self, exchange: Exchange, now: Instant) {
        let at = self.queue.partition_point(|(_, other)| other.deadline < exchange.deadline);
        self.queue.insert(at, (now, exchange));
    }

    /// Takes out what waits and is due.
    pub fn expire(&mut self, now: Instant) -> Vec<Exchange> {
        let due = |exchange: &Exchange| exchange.deadline <= now;
        let mut late = Vec::new();
        while self.queue.front().is_some_and(|(_, exchange)| due(exchange)) {
            late.extend(self.queue.pop_front().map(|(_, exchange)| exchange));
        }
        for _ in 0..self.fresh.len() {
            match self.fresh.pop_front() {
                Some(exchange) if due(&exchange) => late.push(exchange),
                other => self.fresh.extend(other),
            }
        }
        late
    }

    /// When the first of those that wait is due.
    pub fn soonest(&self) -> Option<Instant> {
        let first = self.queue.front().map(|(_, exchange)| exchange);
        first.into_iter().chain(&self.fresh).map(|exchange| exchange.deadline).min()
    }

    /// True if it has as many requests as it can serve at once.
    pub fn is_saturated(&self) -> bool {
        self.limit.as_ref().is_some_and(|limit| self.asked >= limit.get())
    }

    /// So many connections it may have.
    fn most(&self) -> usize {
        self.limit.as_ref().map_or(self.options.connections, |limit| self.options.connections.min(limit.get()))
    }

    /// Exchanges on their way.
    pub fn load(&self) -> usize {
        self.asked + self.queue.len() + self.fresh.len()
    }

    /// How many GETs may be sent ahead on a connection to this address.
    pub fn ahead(&self, address: &Address) -> usize {
        let place = self.addresses.iter().find(|place| place.address == *address);
        if place.is_some_and(|place| place.strikes >= AddressState::STRIKES) { 1 } else { self.options.pipeline }
    }

    /// A connection to this address ended before it had answered anything that was sent ahead, which was
    /// `announced` or not. True if that has become too much.
    pub fn pipelining_failed(&mut self, address: &Address, announced: bool) -> bool {
        let Some(place) = self.addresses.iter_mut().find(|place| place.address == *address) else { return false };
        let before = place.strikes;
        self.doubted = true;
        place.strikes = if announced { AddressState::STRIKES } else { AddressState::STRIKES.min(before + 1) };
        before < AddressState::STRIKES && place.strikes == AddressState::STRIKES
    }

    /// Requests sent ahead were answered by this address.
    pub fn pipelining_ok(&mut self, address: &Address) {
        if std::mem::take(&mut self.doubted) {
            self.addresses.iter_mut().filter(|place| place.address == *address).for_each(|place| place.strikes = 0);
        }
    }

    pub fn allow_pipelining(&mut self) {
        self.addresses.iter_mut().for_each(|place| place.strikes = 0);
    }

    /// True if one more connection should be opened now.
    pub fn lacks_connection(&self, now: Instant) -> bool {
        let most = self.most();
        if self.pause.is_some_and(|until| now < until) {
            return false;
        }
        if self.is_exhausted() && !self.connecting.is_empty() {
            return false; // what is still connecting decides
        }
        if self.connecting.len() < self.fresh.len() {
            return self.open < most || !self.idle.is_empty();
        }
        let patient = || self.queue.iter().take_while(|(since, _)| *since + PATIENCE <= now).take(most).count();
        let (used, eager) = (self.open - self.connecting.len(), EAGER.div_ceil(self.options.pipeline));
        let wanted = if self.open < eager { self.queue.len().min(eager - used) } else { patient() };
        self.open < most && self.connecting.len() < self.fresh.len() + wanted
    }

    /// A connection to this address was made.
    pub fn reached(&mut self, address: &Address) {
        self.addresses.iter_mut().for_each(|place| place.failed = false);
        if let Some(at) = self.addresses.iter().position(|place| place.address == *address) {
            self.preferred = at;
            self.addresses[at].down = None;
        }
    }

    /// A connection to this address could not be made. True if that was the last hope: all addresses have
    /// been tried, and no attempt is left.
    pub fn on_connect_failed(&mut self, address: &Address, now: Instant) -> bool {
        if let Some(place) = self.addresses.iter_mut().find(|place| place.address == *address) {
            place.down = Some(now + UNREACHABLE);
            place.failed = true;
        }
        if !self.is_exhausted() || !self.connecting.is_empty() {
            return false;
        }
        self.addresses.iter_mut().for_each(|place| place.failed = false);
        self.pause = (self.open > 0).then_some(now + RETRY);
        true
    }

    /// Takes over a list of addresses, with what is known of those that stay.
    pub fn learn(&mut self, addresses: &[SocketAddr]) {
        let same = self.addresses.len() == addresses.len()
            && self.addresses.iter().zip(addresses).all(|(place, new)| place.address == Address::Tcp(*new));
        if same {
            return;
        }
        let old = std::mem::take(&mut self.addresses);
        let known = |address: &Address| old.iter().find(|place| place.address == *address);
        self.addresses = addresses
            .iter()
            .map(|address| Address::Tcp(*address))
            .map(|address| match known(&address) {
                Some(AddressState { down, open, strikes, .. }) => {
                    AddressState { down: *down, open: *open, strikes: *strikes, ..AddressState::new(address) }
                }
                None => AddressState::new(address),
            })
            .collect();
        self.preferred = 0;
    }

    /// The address to try now, of those that did not just fail: of those that are not set down the one with the fewest
    /// connections, and of several the one that worked last; else the one that has been set down for longest.
    pub fn next_address(&self, now: Instant) -> Address {
        let left = || self.addresses.iter().enumerate().filter(|(_, place)| !place.failed);
        let works = left().filter(|(_, place)| !place.is_ejected(now));
        let best = works.min_by_key(|(at, place)| (place.open, *at != self.preferred));
        let longest = || left().min_by_key(|(_, place)| place.down);
        best.or_else(longest).map_or(&self.addresses[0], |(_, place)| place).address.clone()
    }

    /// A connection to an address is to be made.
    pub fn opened(&mut self, address: &Address) {
        self.open += 1;
        self.addresses.iter_mut().filter(|place| place.address == *address).for_each(|place| place.open += 1);
    }

    /// A connection to an address is no more.
    pub fn closed(&mut self, address: &Address) {
        self.open -= 1;
        let same = self.addresses.iter_mut().filter(|place| place.address == *address);
        same.for_each(|place| place.open = place.open.saturating_sub(1)); // it may have been learned anew
    }

    /// Prefers other addresses for a while, if there are any; says whether.
    pub fn eject(&mut self, address: &Address, now: Instant) -> bool {
        let others = self.addresses.iter().any(|place| place.address != *address && !place.is_ejected(now));
        let place = self.addresses.iter_mut().find(|place| place.address == *address);
        place.filter(|_| others).map(|place| place.down = Some(now + EJECTED)).is_some()
    }

    /// True if others can be asked in its place, or other addresses of it.
    pub fn has_replicas(&self) -> bool {
        self.replica || self.addresses.len() > 1
    }

    /// True if there are several addresses, and not all are set down.
    pub fn has_choice(&self, now: Instant) -> bool {
        self.addresses.len() > 1 && !self.is_ejected(now)
    }

    /// True if an answer with this status may change what is thought of the origin.
    pub fn is_unwell(&self, status: u16) -> bool {
        matches!(status, 429 | 502..=504) || self.breaker.has_faults()
    }

    /// True if all addresses just failed: what is still connecting decides.
    fn is_exhausted(&self) -> bool {
        !self.addresses.is_empty() && self.addresses.iter().all(|place| place.failed)
    }

    /// True if all addresses are set down.
    pub fn is_ejected(&self, now: Instant) -> bool {
        !self.addresses.is_empty() && self.addresses.iter().all(|place| place.is_ejected(now))
    }

    /// True if none of its addresses is known.
    pub fn is_unresolved(&self) -> bool {
        self.addresses.is_empty()
    }

    /// What those in the queue are waiting for.
    pub fn phase(&self) -> Phase {
        if self.open > self.connecting.len() {
            Phase::Queue
        } else if self.connecting.is_empty() {
            Phase::Resolve
        } else if self.handshaking == self.connecting.len() {
            Phase::Handshake
        } else {
            Phase::Connect
        }
    }

    pub fn deadline(&self, resolver: &Resolver, now: Instant) -> Option<Instant> {
        let idle = self.idle.front().map(|(_, until)| *until);
        let connecting = self.connecting.front().map(|(_, until)| *until);
        let waiting = self.queue.get(self.connecting.len()).map(|(since, _)| *since + PATIENCE);
        let waiting = if self.fresh.is_empty() { waiting } else { Some(now) };
        let growth = waiting.filter(|_| self.open < self.options.connections).map(|at| {
            let resolved = self.name.and_then(|name| resolver.patience_ends(name));
            at.max(self.pause.unwrap_or(at)).max(resolved.unwrap_or(at))
        });
        // What could be done at once was done by `tick`; what is left waits for an event.
        let growth = growth.filter(|at| *at > now);
        [idle, connecting, growth].into_iter().flatten().min()
    }
}
