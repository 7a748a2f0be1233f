//! A request on its way to a backend and back.

use super::redirect::RedirectError;
use super::request::{Carrier, Method, Request};
use super::trace::TraceId;
use crate::arena::Key;
use std::time::{Duration, Instant};

/// Maximum number of redirects that are followed for one request.
const MAX_HOPS: u8 = 5;

/// The shortest phase that is recorded.
// Most exchanges have none that long, and need no memory for phases.
const MIN_PHASE: Duration = Duration::from_millis(10);

/// The request of the engine that an exchange belongs to. Backends return it unread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asker {
    /// A lookup of one client.
    Lookup(Key),
    /// A lookup on behalf of the cache.
    Fetch(Key),
    /// A request of an iteration, by its number.
    Iteration(Key, u32),
    Commit(Key),
    /// A request for a decision.
    Ask(Key),
    /// A lookup of a check, by its number.
    Probe(u32),
}

/// The time limit of a request.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimit {
    pub deadline: Instant,
    /// The timeout of the table.
    pub timeout: Duration,
}

/// One request with its key.
// It has one owner: the queue of a pool, a connection, or the list of exchanges to be placed. So it can neither be lost
// nor be sent twice at once.
#[derive(Debug)]
pub struct Exchange {
    pub asker: Asker,
    /// The number of the table that it is for.
    pub table: usize,
    pub deadline: Instant,
    /// The timeout of its table.
    // Not derived from the deadline, which an exchange shares with the others of its iteration or commit: a late one
    // would be taken for one that the backend had for long enough.
    timeout: Duration,
    pub request: Request,
    pub key: Vec<u8>,
    /// When it was submitted.
    pub since: Instant,
    /// The chosen one of the request's routes.
    route: u8,
    /// Sent again because a used connection broke.
    resent: bool,
    stream: Stream,
    rare: Option<Box<Rare>>,
}

/// Whether the asker is given the response in parts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stream {
    Never,
    /// It may be, unless all of the response arrives at once.
    Allowed,
    /// It was given some.
    Begun,
}

/// What few exchanges need.
// Apart and boxed, because an exchange changes hands a dozen times.
#[derive(Debug, Default)]
struct Rare {
    /// Routes that are excluded from further attempts, as bits.
    excluded: u64,
    /// The target that a redirect has led to.
    redirected: Option<Box<[u8]>>,
    hops: u8,
    phases: Phases,
    trace: Option<TraceId>,
}

impl Rare {
    /// What the request needs: nearly always nothing.
    fn of(request: &Request) -> Option<Box<Self>> {
        request.is_traced().then(|| Box::new(Self { trace: Some(TraceId::random()), ..Self::default() }))
    }
}

/// Where the time of an exchange went, in milliseconds since it was submitted.
#[derive(Clone, Copy, Debug, Default)]
struct Phases {
    /// Until it was put on a connection, the last time; with resolving, connecting and TLS, if they fell in.
    sent: u32,
    resolve: u32,
    connect: u32,
    handshake: u32,
    /// Until the head of the response was complete, if the rest came later.
    head: u32,
}

impl Exchange {
    fn new(asker: Asker, table: usize, limit: TimeLimit, request: Request, key: Vec<u8>, now: Instant) -> Self {
        let TimeLimit { deadline, timeout } = limit;
        let rare = Rare::of(&request);
        Self {
            asker,
            table,
            deadline,
            timeout,
            request,
            key,
            since: now,
            route: 0,
            resent: false,
            stream: Stream::Never,
            rare,
        }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// The number of the pool that it is meant for.
    pub(super) fn pool(&self) -> usize {
        self.pool_of(self.route)
    }

    pub(super) fn pool_of(&self, route: u8) -> usize {
        self.request.routes[usize::from(route)].pool
    }

    pub(super) fn set_route(&mut self, route: u8) {
        self.route = route;
    }

    /// What carries it.
    pub fn carrier(&self) -> &Carrier {
        self.request.carrier()
    }

    /// True if sending it twice does no more than sending it once.
    pub fn is_safe(&self) -> bool {
        self.request.method == Method::Get
    }

    /// True if it was sent again.
    pub fn is_resent(&self) -> bool {
        self.resent
    }

    /// Notes that it is sent again.
    pub fn set_resent(&mut self) {
        self.resent = true;
    }

    /// Has the asker given the body of a response in parts, see [`super::BodyPart`], unless it arrives at once.
    pub fn allow_stream(&mut self) {
        self.stream = Stream::Allowed;
    }

    /// True if its asker takes the body in parts.
    pub fn may_stream(&self) -> bool {
        self.stream != Stream::Never
    }

    /// Notes that a part of the body was given to the asker.
    pub fn begin_stream(&mut self) {
        self.stream = Stream::Begun;
    }

    /// True if a part of the body was given to the asker: the response has the rest.
    pub fn is_streamed(&self) -> bool {
        self.stream == Stream::Begun
    }

    /// True if a redirect was followed.
    pub fn is_redirected(&self) -> bool {
        self.redirected().is_some()
    }

    fn redirected(&self) -> Option<&[u8]> {
        self.rare.as_ref()?.redirected.as_deref()
    }

    /// The routes that are not excluded, in their order.
    pub(super) fn open_routes(&self) -> impl Iterator<Item = u8> {
        let excluded = self.rare.as_ref().map_or(0, |rare| rare.excluded);
        (0..self.request.routes.len() as u8).filter(move |route| excluded & 1 << route == 0)
    }

    /// The open routes besides the chosen one.
    pub(super) fn other_routes(&self) -> impl Iterator<Item = u8> {
        let chosen = self.route;
        self.open_routes().filter(move |route| *route != chosen)
    }

    /// Excludes the chosen route from further attempts, and with it a redirect of its backend.
    pub(super) fn exclude_route(&mut self) {
        let route = self.route;
        let rare = self.rare();
        rare.excluded |= 1 << route;
        rare.redirected = None;
    }

    /// Follows a redirect, if it leads to the same origin.
    pub(super) fn redirect(&mut self, location: Option<&[u8]>) -> Result<(), RedirectError> {
        let target = self.request.redirect(self.route, &self.key, self.redirected(), location)?;
        let rare = self.rare();
        rare.hops += 1;
        if rare.hops > MAX_HOPS {
            return Err(RedirectError::TooManyHops);
        }
        rare.redirected = Some(target.into());
        Ok(())
    }

    /// Appends the request as it goes on the wire.
    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        self.request.write_to(self.route, &self.key, self.redirected(), self.trace(), out);
    }

    /// True if it has a body, which may hold a password.
    pub(super) fn has_body(&self) -> bool {
        self.request.body.is_some()
    }

    /// The id under which the backend can find the request in its own log.
    pub fn trace(&self) -> Option<TraceId> {
        self.rare.as_ref()?.trace
    }

    /// Records that it is put on a connection, and which of these spans fell into its waiting: the connection was
    /// being made, its TLS handshake, the resolution of the host's name.
    pub fn record_wait(
        &mut self,
        connect: (Instant, Instant),
        handshake: Option<(Instant, Instant)>,
        resolve: Option<(Instant, Instant)>,
        now: Instant,
    ) {
        if now.saturating_duration_since(self.since) < MIN_PHASE {
            return;
        }
        let since = self.since;
        let overlap = |(start, end): (Instant, Instant)| ms(end.min(now).saturating_duration_since(start.max(since)));
        let phases = &mut self.rare().phases;
        phases.sent = ms(now - since);
        phases.connect = overlap(connect);
        phases.handshake = handshake.map_or(0, overlap);
        phases.resolve = resolve.map_or(0, overlap);
    }

    /// True if the backend had it from `sent` to `now` for at least half of its table's timeout.
    // One that has waited in our own queue for most of its time is no evidence against the backend.
    pub(super) fn had_time(&self, sent: Instant, now: Instant) -> bool {
        now.saturating_duration_since(sent) >= self.timeout / 2
    }

    /// Records that the head of its response was complete at `head`, and the rest at `now`.
    pub(super) fn record_head(&mut self, head: Instant, now: Instant) {
        if now.saturating_duration_since(head) >= MIN_PHASE {
            let until_head = ms(head.saturating_duration_since(self.since));
            self.rare().phases.head = until_head;
        }
    }

    /// `queue=… resolve=… connect=… handshake=… wait=… body=…` in seconds, for a response that was complete at `now`.
    pub fn phases(&self, now: Instant) -> String {
        let phases = self.rare.as_ref().map(|rare| rare.phases).unwrap_or_default();
        let Phases { sent, resolve, connect, handshake, head } = phases;
        let end = ms(now.saturating_duration_since(self.since));
        let head = if head > sent { head } else { end };
        let queue = sent.saturating_sub(resolve.saturating_add(connect).saturating_add(handshake));
        let wait = head.saturating_sub(sent);
        let before = [("queue", queue), ("resolve", resolve), ("connect", connect), ("handshake", handshake)];
        let all = before.into_iter().chain([("wait", wait), ("body", end.saturating_sub(head))]);
        let seconds = |(name, ms): (&str, u32)| format!("{name}={:.3}", f64::from(ms) / 1000.0);
        all.map(seconds).collect::<Vec<_>>().join(" ")
    }
}

/// Memory of exchanges that have ended, for the next ones.
// Allocating exchange and key would cost each lookup 5 % of its instructions.
#[derive(Debug, Default)]
pub struct SpareExchanges(Vec<Box<Exchange>>);

impl SpareExchanges {
    /// Maximum number of exchanges that are held.
    const MAX_COUNT: usize = 1_024;

    /// Maximum capacity of the key of an exchange that is held.
    const MAX_KEY: usize = 256; // bytes

    /// An exchange for a key, to be submitted to [`super::Backends`].
    pub fn take(
        &mut self,
        asker: Asker,
        table: usize,
        limit: TimeLimit,
        request: Request,
        key: &[u8],
        now: Instant,
    ) -> Box<Exchange> {
        // Each field is set in place: building a new exchange and moving it here would cost twice as much.
        let Some(mut exchange) = self.0.pop() else {
            return Box::new(Exchange::new(asker, table, limit, request, key.to_vec(), now));
        };
        let Exchange {
            asker: by,
            table: of,
            deadline,
            timeout,
            request: old,
            key: memory,
            since,
            route,
            resent,
            stream,
            rare,
        } = &mut *exchange;
        *rare = Rare::of(&request);
        (*by, *of, *old) = (asker, table, request);
        (*deadline, *timeout) = (limit.deadline, limit.timeout);
        (*since, *route, *resent, *stream) = (now, 0, false, Stream::Never);
        memory.clear();
        memory.extend_from_slice(key);
        exchange
    }

    /// Takes back an exchange that has ended and is not needed any more.
    #[inline]
    pub fn put(&mut self, mut exchange: Box<Exchange>) {
        if exchange.request.body.is_some() {
            exchange.request.body = None; // which may hold a password
        }
        if self.0.len() < Self::MAX_COUNT && exchange.key.capacity() <= Self::MAX_KEY {
            self.0.push(exchange);
        }
    }
}

fn ms(time: Duration) -> u32 {
    time.as_millis().try_into().unwrap_or(u32::MAX)
}
