//! A stub resolver without I/O: questions in, datagrams and bytes of TCP connections out, and back.
//!
//! A question goes to one server after another until one of them answers. Nothing is believed that does not come from
//! the address that was asked, to the port that asked, with the id and the question in exactly the case of its letters
//! (RFC 5452). Truncated responses are asked for again over TCP.

mod answer;
mod channel;
mod query;
mod random;
mod server;

use crate::arena::{Arena, Key};
use crate::backend::{Carrier, Exchange, Fault, Finished, MAX_WAITING, Phase};
use crate::io::Turn;
use crate::metrics::NameServerMetrics;
use crate::timers::Timers;
use crate::wire::dns::{Message, Name, TYPE_MX};
use crate::wire::punycode::LabelError;
use answer::{Verdict, interpret};
use channel::{Channels, Received};
use query::{Attempts, Open, Query};
use random::Random;
use server::Servers;
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// All questions to the DNS, and the sockets to name servers.
#[derive(Debug, Default)]
pub struct Dns {
    queries: Arena<Query>,
    /// How many there are of each table.
    // One whose servers do not answer must not take the places of others.
    counts: BTreeMap<usize, usize>,
    channels: Channels,
    servers: Servers,
    /// When a question is repeated, with the number of the timer.
    timers: Timers<(Key, u32)>,
    /// Questions for which a server has too many TCP connections.
    waiting: VecDeque<(Key, usize)>,
    random: Random,
    finished: VecDeque<Finished<'static>>,
    /// Which server is the first, for `options rotate`.
    rotation: usize,
}

impl Dns {
    /// Asks for the records of a domain, the key of the exchange. [`Dns::next_finished`] returns it in the end.
    pub fn submit(&mut self, exchange: Box<Exchange>, turn: &mut Turn) {
        let Carrier::Dns(request) = exchange.carrier() else { return };
        let name = match str::from_utf8(&exchange.key).map(Name::parse) {
            Ok(Ok(name)) => name,
            // Nothing else has records, least of all an address literal.
            Err(_) | Ok(Err(LabelError::Invalid)) => {
                let result = Ok(query::response(String::new(), 0));
                return self.finished.push_back(Finished { exchange, result, sent: false });
            }
            Ok(Err(LabelError::NotNormalized)) => {
                let cause = "cannot be asked for a name with characters that may be written otherwise";
                return self.fail(exchange, Fault::Failed(cause.to_owned()), false);
            }
        };
        let count = self.counts.entry(exchange.table).or_default();
        if *count >= MAX_WAITING {
            return self.fail(exchange, Fault::Overloaded, false);
        }
        *count += 1;
        let request = request.clone();
        let attempts = self.attempts(&request.conf.servers, request.conf.rotate, turn.now);
        let key = self.queries.insert(Query::new(exchange, request, name, self.random.u64(), attempts));
        self.ask(key, turn);
    }

    fn attempts(&mut self, servers: &[SocketAddr], rotate: bool, now: Instant) -> Attempts {
        self.rotation = self.rotation.wrapping_add(usize::from(rotate));
        Attempts::new(self.servers.order(servers, if rotate { self.rotation } else { 0 }), now)
    }

    /// The next request that has ended.
    #[inline]
    pub fn next_finished(&mut self) -> Option<Finished<'static>> {
        if self.finished.is_empty() { None } else { self.finished.pop_front() }
    }

    fn fail(&mut self, exchange: Box<Exchange>, fault: Fault, sent: bool) {
        self.finished.push_back(Finished { exchange, result: Err(fault), sent });
    }

    // --- questions

    /// Asks the question of a request for the first time.
    fn ask(&mut self, key: Key, turn: &mut Turn) {
        let Some(query) = self.queries.get(key) else { return };
        let silent = query.attempts.others().iter().copied().filter(|server| self.servers.get(*server).is_silent());
        let silent: Vec<usize> = silent.collect();
        self.send_next(key, turn);
        // Beside the one that will answer, so that finding out costs no time.
        for server in silent {
            if self.servers.get(server).take_probe(turn.now) {
                self.send(key, server, turn);
            }
        }
    }

    /// Sends the question to the next server, or ends the request if none is left.
    fn send_next(&mut self, key: Key, turn: &mut Turn) {
        let Some(query) = self.queries.get_mut(key) else { return };
        let Some(server) = query.attempts.next_server() else {
            // One that was asked may still answer, unless all have said that they do not.
            if query.attempts.open.is_empty() {
                let cause = query.attempts.cause.take().unwrap_or_default();
                self.end(key, Err(Fault::Failed(cause)), turn);
            }
            return;
        };
        self.attempt(key, server, turn);
    }

    /// Sends the question to a server, and sets the timer for the next attempt.
    fn attempt(&mut self, key: Key, server: usize, turn: &mut Turn) {
        let (was_sent, address) = (self.send(key, server, turn), self.servers.get(server).address);
        let Some(query) = self.queries.get_mut(key) else { return };
        query.attempts.count += 1;
        query.attempts.last = was_sent.then_some((server, turn.now));
        if !was_sent {
            query.attempts.cause = Some(query.request.cause(address, "has too many questions"));
            if !std::mem::replace(&mut query.attempts.waits, true) {
                self.waiting.push_back((key, server));
            }
        }
        let wait = query.attempts.wait(query.request.conf.timeout);
        let at = (turn.now + wait).min(query.exchange.deadline).min(query.attempts.end(&query.request));
        query.timers += 1;
        self.timers.add_by(turn.now, wait, at, (key, query.timers));
    }

    /// Sends the question to one server. False if that has too many.
    fn send(&mut self, key: Key, server: usize, turn: &mut Turn) -> bool {
        let Some(Query { question, attempts, .. }) = self.queries.get_mut(key) else { return true };
        let to = (server, self.servers.get(server).address);
        let message = |id| question.message(id, attempts.edns);
        let sent = if attempts.tcp {
            self.channels.send_tcp(to, key, &mut self.random, message, turn)
        } else {
            self.channels.send_udp(to, key, &mut self.random, message, turn)
        };
        let Some((channel, id)) = sent else { return false };
        attempts.open.push(Open { channel, id, server });
        true
    }

    /// A server has no answer to the question: the next one is asked.
    fn on_failure(&mut self, key: Key, server: usize, cause: &str, turn: &mut Turn) {
        let of = self.servers.get(server);
        of.metrics.failed += 1;
        let Some(query) = self.queries.get_mut(key) else { return };
        let of_host = if query.question.kind == TYPE_MX { "" } else { " for the address of an MX host" };
        query.attempts.exclude(server, query.request.cause(of.address, &format!("{cause}{of_host}")));
        // It would say the same once more, if at all.
        query.attempts.last = query.attempts.last.filter(|(last, _)| *last != server);
        let (same, open) = std::mem::take(&mut query.attempts.open).into_iter().partition(|open| open.server == server);
        query.attempts.open = open;
        Vec::into_iter(same).for_each(|open: Open| self.channels.release(open.channel, turn));
        self.send_next(key, turn);
    }

    fn on_verdict(&mut self, key: Key, server: usize, verdict: Verdict, turn: &mut Turn) {
        let Some(query) = self.queries.get_mut(key) else { return };
        match verdict {
            Verdict::Failed(why) => return self.on_failure(key, server, &why, turn),
            Verdict::Truncated if query.attempts.tcp => {
                return self.on_failure(key, server, "truncated its response over TCP", turn);
            }
            Verdict::Truncated => query.attempts.tcp = true,
            Verdict::WithoutEdns => query.attempts.edns = false,
            Verdict::Alias(name, ttl) => {
                self.servers.get(server).metrics.answered += 1;
                if !query.follow(&name, ttl, self.random.u64()) {
                    let cause = "followed too many aliases".to_owned();
                    return self.end(key, Err(Fault::Failed(cause)), turn);
                }
                return self.ask_next_question(key, turn);
            }
            Verdict::Records(records, ttl) => {
                self.servers.get(server).metrics.answered += 1;
                if !query.add(records, ttl) {
                    let cause = "has too many hosts of the lowest preference".to_owned();
                    return self.end(key, Err(Fault::Failed(cause)), turn);
                }
                if query.advance(&mut self.random) {
                    return self.ask_next_question(key, turn);
                }
                return self.end(key, Ok(()), turn);
            }
        }
        // The same server again, otherwise than before.
        self.release(key, turn);
        self.attempt(key, server, turn);
    }

    /// Asks a question that follows from the answer to the last one.
    fn ask_next_question(&mut self, key: Key, turn: &mut Turn) {
        self.release(key, turn);
        let Some(query) = self.queries.get(key) else { return };
        let request = query.request.clone();
        let attempts = self.attempts(&request.conf.servers, false, turn.now);
        if let Some(query) = self.queries.get_mut(key) {
            query.attempts = attempts;
        }
        self.ask(key, turn);
    }

    /// Waits for no answer any more.
    fn release(&mut self, key: Key, turn: &mut Turn) {
        let Some(query) = self.queries.get_mut(key) else { return };
        for open in std::mem::take(&mut query.attempts.open) {
            self.channels.release(open.channel, turn);
        }
    }

    /// Ends a request.
    fn end(&mut self, key: Key, result: Result<(), Fault>, turn: &mut Turn) {
        self.release(key, turn);
        let Some(query) = self.queries.remove(key) else { return };
        self.counts.entry(query.exchange.table).and_modify(|count| *count -= 1);
        let (exchange, response) = query.into_response();
        let result = result.map(|()| response);
        self.finished.push_back(Finished { exchange, result, sent: true });
    }

    // --- events

    /// A TCP connection is made.
    pub fn connected(&mut self, key: Key, turn: &mut Turn) {
        self.channels.connected(key, turn);
    }

    /// A datagram, or bytes of a TCP connection, have arrived.
    pub fn received(&mut self, key: Key, bytes: &[u8], turn: &mut Turn) {
        let Some((server, received)) = self.channels.receive(key, bytes) else { return };
        let Some(Received { query: at, id, message, is_only }) = received else {
            self.servers.get(server).metrics.ignored += 1;
            return;
        };
        let Some(query) = self.queries.get_mut(at) else {
            // Another server was faster, or the time was over.
            self.channels.answered(key, id);
            self.servers.get(server).on_response();
            return;
        };
        let is_open = query.attempts.open.iter().position(|open| open.channel == key && open.id == id);
        let Some(position) = is_open.filter(|_| query.question.is_of(&message)) else {
            let of = self.servers.get(server);
            of.metrics.ignored += 1;
            if is_only {
                self.channels.close(key, turn);
                query.attempts.open.retain(|open| open.channel != key);
                return self.on_failure(at, server, "sent an invalid response", turn);
            }
            if is_open.is_some() {
                // The right one may follow. If not, this is why: some servers do not repeat the case of letters.
                query.attempts.cause = Some(query.request.cause(of.address, "answered another question"));
            } else {
                of.on_response(); // to the question before, late
            }
            return;
        };
        query.attempts.open.swap_remove(position);
        let verdict = interpret(&query.question, Message::parse(&message), query.attempts.edns);
        self.channels.answered(key, id);
        self.channels.release(key, turn);
        self.servers.get(server).on_response();
        self.on_verdict(at, server, verdict, turn);
    }

    /// A socket has failed, or its server has closed it.
    pub fn ended(&mut self, key: Key, error: Option<ErrorKind>, turn: &mut Turn) {
        let Some((server, queries)) = self.channels.ended(key, turn) else { return };
        let (cause, is_fault) = answer::describe_end(error);
        for at in queries {
            let Some(query) = self.queries.get_mut(at) else { continue };
            let before = query.attempts.open.len();
            query.attempts.open.retain(|open| open.channel != key);
            if query.attempts.open.len() == before {
                continue;
            }
            if !is_fault {
                query.attempts.cause = Some(query.request.cause(self.servers.get(server).address, &cause));
            } else {
                self.servers.get(server).on_miss(turn.now, &cause, turn.now);
                self.on_failure(at, server, &cause, turn);
            }
        }
    }

    /// The bytes to be written to a socket: of UDP, one datagram.
    pub fn output(&self, key: Key) -> &[u8] {
        self.channels.output(key)
    }

    /// Notes that `count` bytes of the output were written.
    pub fn sent(&mut self, key: Key, count: usize, turn: &mut Turn) {
        self.channels.sent(key, count, turn);
    }

    // --- time

    /// Repeats questions, and ends requests whose time has passed.
    #[inline]
    pub fn tick(&mut self, turn: &mut Turn) {
        if !self.queries.is_empty() {
            self.expire(turn);
        }
    }

    fn expire(&mut self, turn: &mut Turn) {
        let is_live = |(key, number): &(Key, u32)| Self::awaits(&self.queries, *key, *number);
        let mut due = Vec::new();
        while let Some((key, _)) = self.timers.due(turn.now, is_live) {
            due.push(key);
        }
        due.into_iter().for_each(|key| self.on_timer(key, turn));
        self.serve_waiting(turn);
    }

    /// Sends the questions that have waited for a TCP connection, as far as there is room.
    fn serve_waiting(&mut self, turn: &mut Turn) {
        if self.waiting.is_empty() || !self.channels.take_closed() {
            return;
        }
        for _ in 0..self.waiting.len() {
            let Some((key, server)) = self.waiting.pop_front() else { return };
            let Some(query) = self.queries.get_mut(key).filter(|query| query.attempts.waits) else { continue };
            if self.channels.has_room(server) {
                query.attempts.waits = false;
                self.attempt(key, server, turn);
            } else {
                self.waiting.push_back((key, server));
            }
        }
    }

    /// True if a timer is the last one of its request.
    fn awaits(queries: &Arena<Query>, key: Key, number: u32) -> bool {
        queries.get(key).is_some_and(|query| query.timers == number)
    }

    /// When [`Dns::tick`] has something to do.
    #[inline]
    pub fn deadline(&mut self) -> Option<Instant> {
        if self.queries.is_empty() { None } else { self.next_timer() }
    }

    fn next_timer(&mut self) -> Option<Instant> {
        self.timers.next(|(key, number)| Self::awaits(&self.queries, *key, *number))
    }

    fn on_timer(&mut self, key: Key, turn: &mut Turn) {
        let Some(query) = self.queries.get_mut(key) else { return };
        let (now, end) = (turn.now, query.attempts.end(&query.request));
        if let Some((server, sent)) = query.attempts.last.take() {
            let of = self.servers.get(server);
            of.metrics.timed_out += 1;
            // Once for each question: a name may take longer than its repetitions.
            if !query.attempts.missed.contains(&server) {
                query.attempts.missed.push(server);
                of.on_miss(sent, "did not answer", now);
            }
            query.attempts.cause.get_or_insert(query.request.cause(of.address, "did not answer in time"));
        }
        if query.exchange.deadline <= now {
            return self.end(key, Err(Fault::Timeout(Phase::Head)), turn);
        }
        if end <= now {
            let cause = query.attempts.cause.take().unwrap_or_default();
            return self.end(key, Err(Fault::Failed(cause)), turn);
        }
        if query.attempts.next_server().is_some() {
            return self.send_next(key, turn);
        }
        // All but those that are silent have failed.
        query.timers += 1;
        self.timers.add_at(query.exchange.deadline.min(end), (key, query.timers));
    }

    // --- reports

    /// Each name server, and for how long it has not answered, if it is asked last because of that.
    pub fn silent(&self, now: Instant) -> impl Iterator<Item = (SocketAddr, Option<Duration>)> {
        self.servers.iter().map(move |server| (server.address, server.silent_for(now)))
    }

    /// The address and the metrics of each server that was asked.
    pub fn metrics(&self) -> impl Iterator<Item = (SocketAddr, NameServerMetrics)> {
        self.servers.iter().map(|server| (server.address, server.metrics))
    }
}
