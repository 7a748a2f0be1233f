//! The engine, without I/O: bytes and time in, bytes and actions out.

mod clients;
mod commit;
mod iterate;
mod lookup;
mod report;
mod shared;
mod tables;

use crate::arena::Key;
use crate::backend::{Arrived, Asker, Backends, CheckResult};
use crate::client::{AdminPage, Event, Reply, ReplyTo};
use crate::config::Mode;
use crate::io::{Action, End, Peer};
use crate::log::{self, Escaped};
use crate::query::{Answer, Failure, Outcome, Query};
use crate::table::TableEntry;
use commit::Commits;
use iterate::Iterations;
use lookup::Lookups;
use shared::Shared;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tables::record;

/// Memory of the answer cache, where nothing else is set.
const CACHE_SIZE: usize = 64 << 20; // bytes

/// Everything between the sockets: routes bytes, time and answers between clients, requests and backends.
pub struct Engine {
    lookups: Lookups,
    iterations: Iterations,
    commits: Commits,
    shared: Shared,
    /// Requests to tables that do not exist.
    unknown_table: u64,
    /// Something has happened since [`Engine::process`].
    pending: bool,
}

impl Engine {
    /// `timeout` is the life of a request to a table that has none of its own.
    pub fn new(tables: Vec<TableEntry>, backends: Backends, timeout: Duration) -> Self {
        let shared = Shared::new(tables, backends, timeout);
        Self {
            lookups: Lookups::new(CACHE_SIZE, shared.tables.len()),
            iterations: Iterations::default(),
            commits: Commits::default(),
            shared,
            unknown_table: 0,
            pending: false,
        }
    }

    /// Warns of exchanges that take longer than this, instead of one second.
    pub fn set_slow_threshold(&mut self, slow: Duration) {
        self.shared.slow = slow;
    }

    /// Limits the answer cache to this many bytes, instead of 64 MiB.
    pub fn set_cache_limit(&mut self, bytes: usize) {
        self.lookups = Lookups::new(bytes, self.shared.tables.len());
    }

    /// Begins to resolve the names of all backends.
    pub fn resolve_all(&mut self, now: Instant) {
        self.shared.turn.now = now;
        for (name, host, port) in self.shared.backends.resolver().ask_all(now) {
            self.shared.turn.push(Action::Resolve { name, host, port });
        }
    }

    // --- events

    /// A mail server, or a reader of metrics, has connected.
    pub fn accepted(&mut self, mode: Mode) -> Peer {
        Peer::Client(self.shared.clients.accept(mode))
    }

    /// A backend has accepted a connection.
    pub fn connected(&mut self, key: Key, now: Instant) {
        self.begin(now);
        self.shared.backends.connected(key, &mut self.shared.turn);
    }

    /// Takes the answer to [`Action::Resolve`].
    pub fn resolved(&mut self, name: usize, answer: Result<Vec<SocketAddr>, String>, now: Instant) {
        self.begin(now);
        self.shared.backends.resolver().answer(name, answer, now);
    }

    /// True if bytes of this peer may be read.
    pub fn wants_input(&self, peer: Peer) -> bool {
        match peer {
            Peer::Client(key) => self.shared.clients.wants_input(key),
            Peer::Backend(_) => true,
        }
    }

    /// Bytes have arrived.
    pub fn received(&mut self, peer: Peer, bytes: &[u8], now: Instant) {
        self.begin(now);
        match peer {
            Peer::Client(key) => self.serve(key, bytes),
            Peer::Backend(key) => drop(self.complete(Arrived::new(key, bytes))),
        }
    }

    /// A connection has ended, as a whole or on the peer's side.
    pub fn ended(&mut self, peer: Peer, end: End, now: Instant) {
        self.begin(now);
        let Shared { clients, backends, turn, .. } = &mut self.shared;
        match (peer, end) {
            (Peer::Client(key), End::Closed(_)) => clients.remove(key, turn),
            (Peer::Client(key), End::HalfClosed) => {
                clients.set_ended(key);
                self.serve(key, &[]); // whole requests may still be held
                self.shared.clients.dismiss(key, &mut self.shared.turn);
            }
            (Peer::Backend(key), End::HalfClosed) => backends.ended(key, None, turn),
            (Peer::Backend(key), End::Closed(error)) => backends.ended(key, error, turn),
        }
    }

    /// True if a connection must be read from before it is written to.
    pub fn needs_check(&self, peer: Peer) -> bool {
        matches!(peer, Peer::Backend(key) if self.shared.backends.needs_check(key))
    }

    /// What is to be written to a peer.
    pub fn output(&mut self, peer: Peer) -> &[u8] {
        match peer {
            Peer::Client(key) => self.shared.clients.output(key),
            Peer::Backend(key) => self.shared.backends.output(key),
        }
    }

    /// The kernel took `count` bytes of [`Engine::output`]; fewer than all mean that it is full.
    pub fn sent(&mut self, peer: Peer, count: usize, now: Instant) {
        self.shared.turn.now = now;
        match peer {
            Peer::Backend(key) => self.shared.backends.sent(key, count),
            Peer::Client(key) => self.shared.clients.sent(key, count, &mut self.shared.turn),
        }
    }

    fn begin(&mut self, now: Instant) {
        self.shared.turn.now = now;
        self.pending = true;
    }

    // --- turns

    /// True if [`Engine::process`] has to be called before anything is waited for.
    pub fn has_pending(&self) -> bool {
        self.pending
    }

    /// Lets due deadlines fire, and decides what follows from what has happened. Call it once a turn before
    /// [`Engine::next_action`], and again after the actions while [`Engine::has_pending`].
    pub fn process(&mut self, now: Instant) {
        self.shared.turn.now = now;
        self.pending = false;
        if self.shared.clients.take_abandoned() {
            self.sweep();
        }
        loop {
            self.shared.backends.tick(&mut self.shared.turn);
            let quiet = !self.complete(Arrived::default());
            // After the backends, which know what a request was waiting for.
            self.lookups.expire(&mut self.shared);
            self.iterations.expire(&mut self.shared);
            self.shared.clients.expire(&mut self.shared.faults, &mut self.shared.turn);
            if quiet {
                break;
            }
        }
        self.shared.faults.expire(now);
    }

    /// True if [`Engine::resume`] has something to do.
    pub fn has_resumed(&self) -> bool {
        self.shared.clients.has_resumed()
    }

    /// Goes on with clients that have room again. To be called once a turn and no more: a client that takes its replies as
    /// fast as they are made would keep the loop to itself otherwise, and neither deadlines nor signals nor other clients
    /// would get their turn.
    pub fn resume(&mut self, now: Instant) {
        self.begin(now);
        self.shared.clients.take_resumed().into_iter().for_each(|key| self.resume_client(key));
    }

    /// The next thing to do; call [`Engine::process`] first.
    pub fn next_action(&mut self) -> Option<Action> {
        self.shared.turn.pop()
    }

    /// When [`Engine::process`] has something to do though nothing happens.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let Shared { clients, backends, faults, .. } = &mut self.shared;
        let backends = backends.deadline(now);
        let requests = [self.lookups.deadline(), self.iterations.deadline()];
        requests.into_iter().chain([backends, clients.deadline(), faults.deadline()]).flatten().min()
    }

    // --- requests

    /// Serves the whole requests in what a client has sent.
    fn serve(&mut self, key: Key, bytes: &[u8]) {
        let Some(input) = self.shared.clients.begin_input(key, bytes) else { return };
        let mut used = 0;
        while let rest @ [_, ..] = &input.bytes()[used..] {
            let Shared { clients, faults, turn, .. } = &mut self.shared;
            let Some((event, count)) = clients.next(key, rest, faults, turn) else { break };
            used += count;
            match event {
                Event::Nothing => {}
                Event::Admin(page) => self.respond(key, page),
                Event::LongKey { place, table } => self.answer_long_key(ReplyTo { client: key, place }, &table),
                Event::Ask { place, table, query } => {
                    let name = table.unwrap_or(self.shared.clients.table(key));
                    let to = ReplyTo { client: key, place };
                    match self.shared.tables.find(name) {
                        Some(table) => self.start(to, table, query),
                        None => {
                            let name = name.to_vec();
                            self.refuse(to, &name, query);
                        }
                    }
                }
            }
        }
        self.shared.clients.end_input(key, input, used, self.shared.turn.now);
    }

    fn start(&mut self, to: ReplyTo, table: usize, query: Query<'_>) {
        match query {
            Query::Get(key) => self.lookups.start(to, table, &key, &mut self.shared),
            Query::Iterate(iterate) => self.iterations.start(to, table, *iterate, &mut self.shared),
            Query::Commit(commit) => self.commits.start(to, table, *commit, &mut self.lookups, &mut self.shared),
        }
    }

    /// Answers a request to a table that does not exist.
    fn refuse(&mut self, to: ReplyTo, table: &[u8], query: Query<'_>) {
        self.unknown_table += 1;
        let Shared { clients, faults, turn, .. } = &mut self.shared;
        faults.warn(&format!("unknown-table name={}", Escaped(table)), turn.now);
        let failure = Failure::temporary(format_args!("no such table: {}", String::from_utf8_lossy(table)));
        let reply = match query {
            Query::Get(_) => Reply::Answer(Answer::Failed(failure)),
            Query::Iterate(_) => Reply::Failed(failure),
            Query::Commit(commit) => Reply::Committed(commit.id, Outcome::Failed(failure)),
        };
        clients.reply(to, "", reply, turn);
    }

    /// Answers a lookup whose key is too long. No table can hold it, and a failure would have Postfix defer the mail for ever.
    fn answer_long_key(&mut self, to: ReplyTo, table: &[u8]) {
        let Some(at) = self.shared.tables.find(table) else { return self.refuse(to, table, Query::Get(b"".into())) };
        let Shared { tables, clients, faults, turn, .. } = &mut self.shared;
        faults.warn(&format!("key-too-long table={}", tables.name(at)), turn.now);
        record(tables.metrics(at), &Answer::Miss, Duration::ZERO);
        clients.reply(to, tables.name(at), Reply::Answer(Answer::Miss), turn);
    }

    /// Takes exchanges that have ended to the requests that they belong to. True if there were any.
    fn complete(&mut self, mut arrived: Arrived<'_>) -> bool {
        let Self { lookups, iterations, commits, shared, .. } = self;
        let mut any = false;
        while let Some(finished) = shared.backends.next_finished(&mut arrived, &mut shared.turn) {
            any = true;
            match finished.exchange.asker {
                Asker::Lookup(key) => lookups.complete(key, finished, shared),
                Asker::Fetch(key) => lookups.complete_fetch(key, finished, shared),
                Asker::Iteration(key, number) => iterations.complete(key, number, finished, shared),
                Asker::Commit(key) => commits.complete(key, finished, lookups, shared),
            }
        }
        any
    }

    /// Goes on with a client that has room again: with rows, with what was read already, with reading.
    fn resume_client(&mut self, key: Key) {
        self.iterations.resume(key, &mut self.shared);
        if !self.shared.clients.resume(key) {
            return;
        }
        self.serve(key, &[]);
        if !self.shared.clients.is_paused(key) {
            self.shared.turn.push(Action::Resume(Peer::Client(key)));
        }
        self.shared.clients.dismiss(key, &mut self.shared.turn);
    }

    /// Forgets the requests of clients that have left, as far as no backend has got them yet.
    fn sweep(&mut self) {
        let Self { lookups, iterations, shared: Shared { clients, backends, .. }, .. } = self;
        iterations.sweep(clients);
        let mut abandoned = Vec::new();
        backends.sweep(|asker| match asker {
            Asker::Fetch(_) | Asker::Commit(_) => true,
            Asker::Iteration(key, _) => iterations.is_live(key),
            Asker::Lookup(key) => {
                let is_live = lookups.is_live(key, clients);
                abandoned.extend((!is_live).then_some(key));
                is_live
            }
        });
        abandoned.into_iter().for_each(|key| lookups.remove(key));
    }

    // --- operation

    /// Reads files again, and resolves names again.
    pub fn reload(&mut self) {
        self.pending = true;
        let Shared { tables, backends, turn, .. } = &mut self.shared;
        tables.reload(backends, turn);
        backends.reload();
        self.lookups.forget_all();
    }

    /// Reads no more requests. What is in flight is answered.
    pub fn stop(&mut self) {
        self.shared.clients.stop();
    }

    /// True if nothing is in flight and every reply was taken.
    pub fn is_drained(&self) -> bool {
        let clients = &self.shared.clients;
        let waiting = !self.lookups.is_drained(clients) || !self.iterations.is_drained(clients);
        !waiting && self.commits.is_drained() && clients.is_drained()
    }

    /// Answers a request on the metrics listener.
    fn respond(&mut self, key: Key, page: AdminPage) {
        let (status, body) = match page {
            AdminPage::Metrics => ("200 OK", self.metrics()),
            AdminPage::Health | AdminPage::Readiness => ("200 OK", "ok\n".to_owned()),
            AdminPage::Unknown => ("404 Not Found", "/metrics, /healthz, /readyz\n".to_owned()),
            AdminPage::Refused => ("405 Method Not Allowed", "GET only\n".to_owned()),
        };
        self.shared.clients.respond(key, status, &body, &mut self.shared.turn);
    }

    /// Has a connection to each backend made, to see whether it can be reached.
    pub fn check(&mut self) {
        self.shared.backends.check();
    }

    /// What was found of each backend; `None` until all of it is known.
    pub fn check_results(&mut self, now: Instant) -> Option<Vec<CheckResult>> {
        self.shared.backends.check_results(now)
    }

    /// All metrics, as Prometheus reads them.
    pub fn metrics(&self) -> String {
        report::metrics(&self.shared, self.lookups.cache_metrics(), self.unknown_table)
    }

    /// Writes the metrics to the log, without the buckets of histograms.
    pub fn dump(&self) {
        for line in self.metrics().lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{")) {
            log::notice(format_args!("state {line}"));
        }
    }

    /// One line for a person: tables and backends.
    pub fn summary(&self, now: Instant) -> String {
        report::summary(&self.shared, now)
    }
}
