//! The engine, without I/O: bytes and time in, bytes and actions out.

mod asks;
mod barred;
mod carriers;
mod clients;
mod commit;
mod fetches;
mod iterate;
mod lookup;
mod minutes;
mod probes;
mod report;
mod requests;
mod search;
mod shared;
mod tables;

use crate::arena::Key;
use crate::backend::{Arrived, CheckResult};
use crate::client::{AdminRequest, Event, ReplyTo};
use crate::config::Mode;
use crate::io::{Action, End, Peer};
use crate::query::{Query, Tokens};
use crate::table::TableEntry;
use crate::timers::earliest;
pub use carriers::Carriers;
use minutes::Minutes;
pub use probes::ProbeResult;
use requests::Requests;
pub use search::EXPLAIN;
use shared::Shared;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Default size limit of the answer cache in bytes.
const CACHE_SIZE: usize = 64 << 20;

/// Everything between the sockets: routes bytes, time and answers between clients, requests and backends.
pub struct Engine {
    requests: Requests,
    shared: Shared,
    minutes: Minutes,
    /// Requests to tables that do not exist.
    unknown_table: u64,
    /// Something has happened since the last [`Engine::process`].
    pending: bool,
}

impl Engine {
    /// `timeout` is the time limit of requests to tables without a limit of their own.
    pub fn new(tables: Vec<TableEntry>, carriers: Carriers, timeout: Duration) -> Self {
        let shared = Shared::new(tables, carriers, timeout);
        let minutes = Minutes::new(shared.turn.now);
        Self { requests: Requests::new(CACHE_SIZE), shared, minutes, unknown_table: 0, pending: false }
    }

    /// Sets the duration from which on exchanges are logged as slow; one second otherwise.
    pub fn set_slow_threshold(&mut self, slow: Duration) {
        self.shared.slow = slow;
    }

    /// Sets the size limit of the answer cache in bytes, before anything is served; 64 MiB otherwise.
    pub fn set_cache_limit(&mut self, bytes: usize) {
        self.requests.set_cache_limit(bytes);
    }

    /// Divides this many descriptors among the connections to all backends.
    pub fn set_backend_descriptors(&mut self, count: usize) {
        self.shared.carriers.backends.set_descriptors(count);
    }

    /// The most descriptors that processes need.
    pub fn process_descriptors(&self) -> usize {
        self.shared.carriers.programs.descriptors()
    }

    /// Starts all processes, and to resolve the names of all backends.
    pub fn start(&mut self, now: Instant) {
        self.begin(now);
        let Shared { carriers, turn, .. } = &mut self.shared;
        carriers.programs.start();
        for (name, host, port) in carriers.backends.resolver().resolve_all(now) {
            turn.push(Action::Resolve { name, host, port });
        }
    }

    // --- events

    /// A client has connected to a listener of this mode.
    pub fn accepted(&mut self, mode: Mode, now: Instant) -> Peer {
        self.begin(now);
        let Shared { clients, tables, turn, .. } = &mut self.shared;
        let tokens = if let Mode::Sasl(table) = mode { tables.tokens(table) } else { Tokens::default() };
        Peer::Client(clients.accept(mode, tokens, turn))
    }

    /// Connections to the metrics listener.
    pub fn admins(&self) -> usize {
        self.shared.clients.admins()
    }

    /// Closes the oldest connections to the metrics listener, so that `most` are left.
    pub fn limit_admins(&mut self, most: usize) {
        self.shared.clients.limit_admins(most, &mut self.shared.turn);
    }

    /// A connection is made that the engine has requested.
    pub fn connected(&mut self, peer: Peer, now: Instant) {
        self.begin(now);
        self.shared.carriers.connected(peer, &mut self.shared.turn);
    }

    /// A process of [`Action::Start`] has ended, or could not be started, as `status` says.
    pub fn exited(&mut self, key: Key, status: &str, now: Instant) {
        self.begin(now);
        let Shared { carriers, faults, turn, .. } = &mut self.shared;
        carriers.exited(key, status, faults, turn);
    }

    /// The result of [`Action::Resolve`] has arrived.
    pub fn resolved(&mut self, name: usize, answer: Result<Vec<SocketAddr>, String>, now: Instant) {
        self.begin(now);
        self.shared.carriers.backends.resolved(name, answer, now);
    }

    /// True if bytes of this peer may be read.
    pub fn wants_input(&mut self, peer: Peer) -> bool {
        match peer {
            Peer::Client(key) => self.shared.clients.wants_input(key),
            Peer::Backend(_) | Peer::Dns(_) | Peer::Program(_) | Peer::Stderr(_) => {
                self.shared.carriers.wants_input(peer)
            }
        }
    }

    /// Bytes have arrived. True if they may hold a password, so that their memory should be overwritten.
    pub fn received(&mut self, peer: Peer, bytes: &[u8], now: Instant) -> bool {
        self.begin(now);
        match peer {
            Peer::Client(key) => {
                let is_secret = self.shared.clients.is_secret(key); // it may be closed then
                self.serve(key, bytes);
                is_secret
            }
            Peer::Backend(key) => {
                self.complete(Arrived::new(key, bytes));
                false
            }
            Peer::Dns(_) | Peer::Program(_) | Peer::Stderr(_) => {
                let Shared { carriers, faults, turn, .. } = &mut self.shared;
                carriers.received(peer, bytes, faults, turn);
                false
            }
        }
    }

    /// A connection has been closed, in both directions or on the peer's side.
    pub fn ended(&mut self, peer: Peer, end: End, now: Instant) {
        self.begin(now);
        let Shared { clients, carriers, turn, .. } = &mut self.shared;
        match (peer, end) {
            (Peer::Client(key), End::Closed(_)) => clients.remove(key, turn),
            (Peer::Client(key), End::HalfClosed) => {
                clients.begin_close(key);
                self.serve(key, &[]); // whole requests may still be buffered
                self.shared.clients.close_if_served(key, &mut self.shared.turn);
            }
            (Peer::Backend(_) | Peer::Dns(_) | Peer::Program(_) | Peer::Stderr(_), _) => {
                carriers.ended(peer, end, turn)
            }
        }
    }

    /// True if a connection must be read before it is written to.
    pub fn needs_check(&mut self, peer: Peer) -> bool {
        matches!(peer, Peer::Backend(key) if self.shared.carriers.backends.connections().needs_check(key))
    }

    /// The bytes to write to a peer.
    pub fn output(&mut self, peer: Peer) -> &[u8] {
        match peer {
            Peer::Client(key) => self.shared.clients.output(key),
            Peer::Backend(_) | Peer::Dns(_) | Peer::Program(_) | Peer::Stderr(_) => self.shared.carriers.output(peer),
        }
    }

    /// The socket has accepted `count` bytes of [`Engine::output`].
    #[inline]
    pub fn sent(&mut self, peer: Peer, count: usize, now: Instant) {
        // Not pending: a client that has room again is resumed in the next turn.
        self.shared.turn.now = now;
        match peer {
            Peer::Client(key) => self.shared.clients.sent(key, count, &mut self.shared.turn),
            Peer::Backend(_) | Peer::Dns(_) | Peer::Program(_) | Peer::Stderr(_) => {
                self.shared.carriers.sent(peer, count, &mut self.shared.turn);
            }
        }
    }

    fn begin(&mut self, now: Instant) {
        self.shared.turn.now = now;
        self.pending = true;
        self.minutes.tick(&self.shared);
    }

    // --- turns

    /// True if [`Engine::process`] must be called before the reactor waits.
    pub fn has_pending(&self) -> bool {
        self.pending
    }

    /// Processes events and expired deadlines: in each turn, and again after its actions while [`Engine::has_pending`].
    pub fn process(&mut self, now: Instant) {
        self.shared.turn.now = now;
        self.pending = false;
        self.shared.tables.tick(now);
        // First: what was written for a client in this turn is sent before it is closed for what expires in it.
        self.shared.clients.expire(&mut self.shared.faults, &mut self.shared.turn);
        if self.shared.clients.take_abandoned() {
            self.requests.sweep(&mut self.shared);
        }
        // A result may lead to another exchange (the next write or row), which may fail at once.
        loop {
            self.shared.carriers.tick(&mut self.shared.turn);
            let done = !self.complete(Arrived::default());
            // After the backends, whose reasons say what a request was waiting for.
            self.requests.expire(&mut self.shared);
            if done {
                break;
            }
        }
        self.shared.faults.expire(now);
    }

    /// True if [`Engine::resume`] must be called.
    pub fn has_resumable(&self) -> bool {
        self.shared.clients.has_resumable()
    }

    /// Continues with clients that have room again. To be called once per turn.
    pub fn resume(&mut self, now: Instant) {
        // Not more often: a client that reads as fast as it is served would keep deadlines, signals and others waiting.
        self.begin(now);
        self.shared.clients.take_resumable().into_iter().for_each(|key| self.resume_client(key));
    }

    /// The next action for the reactor, after [`Engine::process`].
    pub fn next_action(&mut self) -> Option<Action> {
        self.shared.turn.pop()
    }

    /// When [`Engine::process`] must be called even without events.
    pub fn deadline(&mut self) -> Option<Instant> {
        let Shared { tables, clients, carriers, faults, .. } = &mut self.shared;
        let requests = self.requests.deadline();
        earliest([tables.deadline(), carriers.deadline(), clients.deadline(), faults.deadline(), requests])
    }

    // --- requests

    /// Serves the complete requests in the input of a client.
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
                Event::LongKey { seq, table } => self.answer_long_key(ReplyTo { client: key, seq }, &table),
                Event::Request { seq, table, query } => {
                    let is_socketmap = table.is_some();
                    let name = table.unwrap_or(self.shared.clients.table(key));
                    let to = ReplyTo { client: key, seq };
                    match (self.shared.tables.find(name), query) {
                        // Only socketmap clients name the table with each request.
                        (Some(table), Query::Get(key))
                            if is_socketmap && !self.shared.tables.keys(table).is_plain() =>
                        {
                            self.requests.start_search(to, table, &key, false, &mut self.shared);
                        }
                        (Some(table), query) => self.requests.start(to, table, query, &mut self.shared),
                        (None, query) => {
                            let name = name.to_vec();
                            self.refuse(to, &name, query, is_socketmap);
                        }
                    }
                }
            }
        }
        self.shared.clients.end_input(key, input, used, self.shared.turn.now);
    }

    /// Answers a request to a table that does not exist, or whose name has `explain:` in front.
    fn refuse(&mut self, to: ReplyTo, table: &[u8], query: Query<'_>, is_socketmap: bool) {
        let explained = table.strip_prefix(EXPLAIN).filter(|_| is_socketmap);
        let found = explained.and_then(|name| self.shared.tables.find(name));
        if let (Some(table), Query::Get(key)) = (found, &query) {
            return self.requests.start_search(to, table, key, true, &mut self.shared);
        }
        self.unknown_table += 1;
        self.shared.refuse(to, explained.unwrap_or(table), query);
    }

    /// Answers a lookup whose key is too long.
    fn answer_long_key(&mut self, to: ReplyTo, table: &[u8]) {
        match self.shared.tables.find(table.strip_prefix(EXPLAIN).unwrap_or(table)) {
            Some(table) => self.shared.answer_long_key(to, table),
            None => self.refuse(to, table, Query::Get(b"".into()), false),
        }
    }

    /// Gives the results of exchanges to the requests that they belong to. True if there were any.
    fn complete(&mut self, mut arrived: Arrived<'_>) -> bool {
        let Self { requests, shared, .. } = self;
        let mut any = false;
        while let Some(finished) = shared.carriers.next_finished(&mut arrived, &mut shared.turn) {
            any = true;
            requests.complete(finished, shared);
        }
        while let Some(part) = shared.carriers.next_part() {
            any = true;
            requests.on_part(part, shared);
        }
        any
    }

    /// Continues with a client that has room again.
    fn resume_client(&mut self, key: Key) {
        self.requests.resume(key, &mut self.shared);
        if !self.shared.clients.resume(key) {
            return;
        }
        self.serve(key, &[]);
        // One that is paused again has more requests buffered, which come before any new input.
        if !self.shared.clients.is_paused(key) {
            self.shared.turn.push(Action::Resume(Peer::Client(key)));
        }
        self.shared.clients.close_if_served(key, &mut self.shared.turn);
    }

    // --- operation

    /// Rereads files, and resolves names again.
    pub fn reload(&mut self) {
        self.pending = true;
        let Shared { tables, carriers, turn, .. } = &mut self.shared;
        tables.reload(carriers, turn);
        carriers.backends.reload();
        carriers.programs.reload();
        self.requests.forget_all();
    }

    /// Stops reading requests of mail servers; those in flight are answered.
    pub fn drain(&mut self) {
        self.shared.clients.drain();
    }

    /// True if nothing is in flight and all replies are sent.
    pub fn is_drained(&self) -> bool {
        self.requests.is_drained(&self.shared) && self.shared.clients.is_drained()
    }

    /// Answers a request on the metrics listener.
    fn respond(&mut self, key: Key, page: AdminRequest) {
        let body = report::page(page, || self.metrics(), || report::status(&self.shared, &self.minutes));
        self.shared.clients.respond(key, page, &body, &mut self.shared.turn);
    }

    /// Starts to connect to each backend, for `--check`, and to look up a key in each table.
    pub fn check(&mut self, key: Option<&[u8]>, now: Instant) {
        self.begin(now);
        self.shared.carriers.backends.check();
        self.requests.probe(key, &mut self.shared);
    }

    /// The results of [`Engine::check`]; `None` until all are known.
    pub fn check_results(&mut self, now: Instant) -> Option<(Vec<CheckResult>, Vec<ProbeResult>)> {
        Some((self.shared.carriers.backends.check_results(now)?, self.requests.probe_results()?))
    }

    /// All metrics in the Prometheus text format.
    pub fn metrics(&self) -> String {
        report::metrics(&self.shared, self.requests.cache_metrics(), self.unknown_table)
    }

    /// Logs the metrics, without the buckets of histograms.
    pub fn dump(&self) {
        report::dump(&self.metrics());
    }

    /// A status line for systemd: tables, backends and clients.
    pub fn summary(&self, now: Instant) -> String {
        report::summary(&self.shared, now)
    }
}
