//! The engine, without I/O: bytes and time in, bytes and actions out.

mod clients;
mod lookup;
mod report;

use crate::arena::{Arena, Key};
use crate::backend::{Backends, Done, Exchange, Fault};
use crate::cache::{Cache, CachedAnswer};
use crate::client::{Client, Event, Reply};
use crate::config::Mode;
use crate::io::{Action, End, Peer};
use crate::job::{Commitment, Iteration, Job, Step, Work};
use crate::log::{self, Escaped, Repeats};
use crate::metrics::TableMetrics;
use crate::query::{Answer, Failure, FailureKind, Outcome, Query};
use crate::table::{Plan, Question, TableEntry};
use crate::timers::Timers;
use report::{count, log_answer};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What answers that are kept may take, where nothing else is said.
const CACHE_SIZE: usize = 64 << 20; // bytes

/// What may become due.
#[derive(Debug)]
enum Timer {
    Job(Key),
    /// A lookup that could have a stale answer has waited for long enough.
    ServeStale(Key),
    /// A client is looked at that seemed stuck, with how much it had sent and read by then.
    Stuck(Key),
}

/// Everything between the sockets.
pub struct Engine {
    clients: Arena<Client>,
    jobs: Arena<Job>,
    /// Iterations, which have to be driven when their clients have room again.
    iterations: Vec<Key>,
    /// Sorted by name.
    tables: Vec<TableEntry>,
    backend: Backends,
    cache: Cache,
    /// The fetches on their way, by the table and the key that they ask for, of which others may have the answer.
    in_flight: Vec<HashMap<Vec<u8>, Key>>,
    timers: Timers<Timer>,
    actions: VecDeque<Action>,
    /// Clients that may be read from again.
    resumed: Vec<Key>,
    faults: Repeats,
    /// Of each table.
    metrics: Vec<TableMetrics>,
    /// Clients that came, that were let go for their own fault, and requests to no table.
    accepted: u64,
    dropped: u64,
    unknown_table: u64,
    timeout: Duration,
    /// An exchange that takes longer is worth a warning.
    slow: Duration,
    /// Some client left that had lookups on their way.
    abandoned: bool,
    /// Something has happened since [`Engine::process`].
    pending: bool,
    /// No more requests are taken.
    stopping: bool,
}

impl Engine {
    /// `timeout` is the life of a request to a table that has none of its own.
    pub fn new(mut tables: Vec<TableEntry>, backend: Backends, timeout: Duration) -> Self {
        tables.sort_by(|one, other| one.name.cmp(&other.name));
        Self {
            clients: Arena::default(),
            jobs: Arena::default(),
            iterations: Vec::new(),
            metrics: vec![TableMetrics::default(); tables.len()],
            cache: Cache::new(CACHE_SIZE, tables.len()),
            in_flight: vec![HashMap::new(); tables.len()],
            accepted: 0,
            dropped: 0,
            unknown_table: 0,
            tables,
            backend,
            timers: Timers::default(),
            actions: VecDeque::new(),
            resumed: Vec::new(),
            faults: Repeats::default(),
            timeout,
            slow: Duration::from_secs(1),
            abandoned: false,
            pending: false,
            stopping: false,
        }
    }

    /// Warns of exchanges that take longer than this, instead of one second.
    pub fn set_slow_threshold(&mut self, slow: Duration) {
        self.slow = slow;
    }

    /// Lets the answers that are kept take so many bytes, instead of 64 MiB.
    pub fn set_cache_limit(&mut self, bytes: usize) {
        self.cache = Cache::new(bytes, self.tables.len());
    }

    /// Begins to resolve the names of all backends.
    pub fn resolve_all(&mut self, now: Instant) {
        self.backend.resolve_all(now);
    }

    /// A mail server has connected, or who watches.
    pub fn accepted(&mut self, mode: Mode) -> Peer {
        self.accepted += u64::from(mode != Mode::Admin);
        Peer::Client(self.clients.insert(Client::new(mode)))
    }

    /// A connection to a backend is there.
    pub fn connected(&mut self, key: Key, now: Instant) {
        self.pending = true;
        self.backend.connected(key, now);
    }

    /// Takes the answer to [`Action::Resolve`].
    pub fn resolved(&mut self, name: usize, answer: Result<Vec<SocketAddr>, String>, now: Instant) {
        self.pending = true;
        self.backend.resolved(name, answer, now);
    }

    /// True if bytes of this peer may be read.
    pub fn wants_input(&self, peer: Peer) -> bool {
        match peer {
            Peer::Client(key) => {
                let open = |client: &&Client| !self.stopping || client.is_admin();
                self.clients.get(key).filter(open).is_some_and(|client| client.may_ask() && !client.ended)
            }
            Peer::Backend(_) => true,
        }
    }

    /// Bytes have arrived.
    pub fn received(&mut self, peer: Peer, bytes: &[u8], now: Instant) {
        self.pending = true;
        match peer {
            Peer::Client(key) => self.client_sent(key, bytes, now),
            Peer::Backend(key) => {
                let plain = self.backend.decrypt(key, bytes, now);
                let mut input = plain.as_deref().unwrap_or(bytes);
                while !input.is_empty() {
                    if let Some(done) = self.backend.received(key, &mut input, now) {
                        self.finish(done, now);
                    }
                }
                if let Some(done) = plain.and_then(|plain| self.backend.conclude(key, plain, now)) {
                    self.finish(done, now);
                }
            }
        }
    }

    /// A connection has ended, on the whole or on the peer's side.
    pub fn ended(&mut self, peer: Peer, end: End, now: Instant) {
        self.pending = true;
        match (peer, end) {
            (Peer::Client(key), End::HalfClosed) => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.ended = true;
                }
                // Whole requests may still be held.
                self.client_sent(key, &[], now);
                self.dismiss(key);
            }
            (Peer::Client(key), End::Closed(_)) => self.remove(key),
            (Peer::Backend(key), end) => {
                let cause = if let End::Closed(cause) = end { cause } else { None };
                if let Some(done) = self.backend.ended(key, cause, now) {
                    self.finish(done, now);
                }
            }
        }
    }

    /// True if a connection must be read from before it is written to.
    pub fn needs_check(&self, peer: Peer) -> bool {
        matches!(peer, Peer::Backend(key) if self.backend.needs_check(key))
    }

    /// What is to be written to a peer.
    pub fn output(&mut self, peer: Peer) -> &[u8] {
        match peer {
            Peer::Client(key) => self.clients.get(key).map_or(&[], |client| client.output.unsent()),
            Peer::Backend(key) => self.backend.output(key),
        }
    }

    /// The kernel took `count` bytes of [`Engine::output`]; fewer than all means that it is full.
    pub fn sent(&mut self, peer: Peer, count: usize, now: Instant) {
        match peer {
            Peer::Backend(key) => self.backend.sent(key, count),
            Peer::Client(key) => {
                let Some(client) = self.clients.get_mut(key) else { return };
                client.output.advance(count);
                client.moved += count as u64;
                let (waits, ended) = (!client.output.is_empty(), client.ended);
                if client.paused && client.may_ask() || !self.iterations.is_empty() {
                    self.pending = true;
                    self.resumed.push(key);
                }
                if waits {
                    self.watch(key, now);
                } else if ended {
                    self.dismiss(key);
                }
            }
        }
    }

    /// True if [`Engine::process`] has to be called before anything is waited for.
    pub fn has_pending(&self) -> bool {
        self.pending
    }

    /// Lets due deadlines fire, and decides what follows from what has happened. Call it once a turn before
    /// [`Engine::next_action`], and again after the actions while [`Engine::has_pending`].
    pub fn process(&mut self, now: Instant) {
        self.pending = false;
        if std::mem::take(&mut self.abandoned) {
            self.sweep();
        }
        loop {
            self.backend.tick(now);
            let mut quiet = true;
            while let Some(done) = self.backend.next_failed() {
                self.finish(done, now);
                quiet = false;
            }
            // After the backend, which can tell what a request was waiting for.
            self.fire(now);
            while let Some(key) = self.resumed.pop() {
                self.resume(key, now);
                quiet = false;
            }
            if quiet {
                break;
            }
        }
        self.faults.expire(now);
    }

    /// Forgets the lookups of clients that left, as far as no backend was asked yet.
    fn sweep(&mut self) {
        let (jobs, clients, mut gone) = (&self.jobs, &self.clients, Vec::new());
        self.backend.sweep(|key| {
            let job = jobs.get(key);
            let wanted = job.is_some_and(|job| job.outlives_its_client() || clients.contains(job.client));
            if !wanted {
                gone.push(key);
            }
            wanted
        });
        for key in gone {
            self.jobs.remove(key);
        }
    }

    /// The next thing to do; call [`Engine::process`] first.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front().or_else(|| self.backend.next_action())
    }

    /// When [`Engine::process`] has something to do though nothing happens.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let (jobs, clients) = (&self.jobs, &self.clients);
        let timers = self.timers.next(|due| is_alive(due, jobs, clients));
        [timers, self.backend.deadline(now), self.faults.deadline()].into_iter().flatten().min()
    }

    /// Reads files again, and resolves names again.
    pub fn reload(&mut self) {
        self.pending = true;
        self.backend.forget_tls_configs();
        self.tables.iter_mut().for_each(|opened| opened.table.reload(&mut self.backend));
        self.forget_all();
        self.backend.reload();
    }

    /// Takes no more requests. What is in flight is answered.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// True if nothing is in flight and every reply was taken.
    pub fn is_drained(&self) -> bool {
        let wanted = |job: &Job| job.is_commit() || self.clients.contains(job.client);
        !self.jobs.iter().any(|(_, job)| wanted(job)) && self.clients.iter().all(|(_, client)| client.output.is_empty())
    }

    fn client_sent(&mut self, key: Key, bytes: &[u8], now: Instant) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.moved += bytes.len() as u64;
        let coalesced = client.input.join(bytes);
        let mut used = 0;
        while let rest @ [_, ..] = &coalesced.bytes()[used..]
            && let Some(client) = self.clients.get_mut(key).filter(|client| client.may_ask())
        {
            let quiet = client.output.is_empty();
            match client.next(rest) {
                Ok(None) => break,
                Ok(Some((event, count))) => {
                    used += count;
                    if quiet && !client.output.is_empty() {
                        self.actions.push_back(Action::Flush(Peer::Client(key)));
                    }
                    if let Event::Admin(page) = event {
                        self.respond(key, page);
                    } else if let Event::Ask { place, table, query } = event {
                        let name = table.unwrap_or(client.table());
                        match self.tables.binary_search_by(|opened| opened.name.as_bytes().cmp(name)) {
                            Ok(table) => self.start(key, place, table, query, now),
                            Err(_) => {
                                let name = name.to_vec();
                                self.refuse(key, place, &name, query, now);
                            }
                        }
                    }
                }
                Err(error) => {
                    self.faults.warn(&format!("client-error cause=\"{error}\""), now);
                    return self.drop_client(key);
                }
            }
        }
        let Some(client) = self.clients.get_mut(key) else { return };
        client.input.keep(coalesced, used);
        if client.is_stuck() {
            self.watch(key, now);
        }
    }

    /// Answers a request to a table that is not there.
    fn refuse(&mut self, client: Key, place: u64, table: &[u8], query: Query<'_>, now: Instant) {
        let failure = Failure::temporary(format_args!("no such table: {}", String::from_utf8_lossy(table)));
        self.unknown_table += 1;
        self.faults.warn(&format!("unknown-table name={}", Escaped(table)), now);
        let reply = match query {
            Query::Get(_) => Reply::Answer(Answer::Failed(failure)),
            Query::Iterate(_) => Reply::Failed(failure),
            Query::Commit(commit) => Reply::Committed(commit.id, Outcome::Failed(failure)),
        };
        self.reply(client, place, None, reply);
    }

    /// Begins a request.
    fn start(&mut self, client: Key, place: u64, at: usize, query: Query<'_>, now: Instant) {
        if let (Query::Get(key), true) = (&query, self.tables[at].caching.is_some()) {
            return self.get_kept(client, place, at, key, now);
        }
        let TableEntry { name, timeout, table, .. } = &mut self.tables[at];
        let timeout = timeout.unwrap_or(self.timeout);
        let deadline = now + timeout;
        let job = |work| Job { client, place, table: at, deadline, work };
        match query {
            Query::Get(asked) => match table.plan(Question::Get(&asked), now) {
                Plan::Request(request) => {
                    // Its only exchange has the same deadline, so it needs no timer of its own.
                    let key = self.jobs.insert(job(Work::Get));
                    let asked = self.backend.key(&asked);
                    self.backend.submit(Exchange::new(key, 0, deadline, request, asked, now), now);
                }
                Plan::Answer(answer) => {
                    log_answer(name, &answer, &asked);
                    count(&mut self.metrics[at], &answer, Duration::ZERO);
                    respond(&mut self.clients, &mut self.actions, client, place, name, Reply::Answer(answer));
                }
            },
            Query::Iterate(iterate) => {
                let key = self.jobs.insert(job(Work::Iterate(Box::new(Iteration::new(*iterate)))));
                self.timers.add(now, timeout, Timer::Job(key));
                self.iterations.push(key);
                self.iterate(key, now);
            }
            Query::Commit(commit) => {
                let key = self.jobs.insert(job(Work::Commit(Box::new(Commitment::new(*commit)))));
                self.timers.add(now, timeout, Timer::Job(key));
                self.commit(key, now);
            }
        }
    }

    /// Takes an iteration as far as it goes.
    fn iterate(&mut self, key: Key, now: Instant) {
        while let Some(Job { client, place, table: at, deadline, work: Work::Iterate(iteration) }) =
            self.jobs.get_mut(key)
        {
            let (client, place, at, deadline) = (*client, *place, *at, *deadline);
            let Some(room) = self.clients.get(client).map(|client| client.may_stream(place)) else {
                self.jobs.remove(key);
                return;
            };
            let opened = &mut self.tables[at];
            let (part, asked, need) = match iteration.next(room) {
                Step::Wait => return,
                Step::End => return self.end(key, Reply::End),
                Step::Fail(why) => {
                    let failure = Failure::temporary(format_args!("{}: {why}", opened.name));
                    return self.end(key, Reply::Failed(failure));
                }
                Step::Row { name, value } => {
                    let reply = Reply::Row { name: &name, value: &value };
                    respond(&mut self.clients, &mut self.actions, client, place, &opened.name, reply);
                    continue;
                }
                Step::List(path) => (0, path.key(b""), opened.table.plan(Question::List(&path), now)),
                Step::Get(part, name) => {
                    let need = opened.table.plan(Question::Get(&name), now);
                    (part, name, need)
                }
            };
            match need {
                Plan::Request(request) => {
                    self.backend.submit(Exchange::new(key, part, deadline, request, asked, now), now)
                }
                Plan::Answer(answer) => {
                    if let Err(failure) = iteration.answered(part, answer) {
                        return self.end(key, Reply::Failed(failure));
                    }
                }
            }
        }
    }

    /// Carries out the next write of a commit.
    fn commit(&mut self, key: Key, now: Instant) {
        let Some(Job { table, work: Work::Commit(commitment), .. }) = self.jobs.get(key) else { return };
        let (table, Some(write)) = (*table, commitment.next()) else {
            let id = commitment.id();
            return self.end(key, Reply::Committed(id, Outcome::Done));
        };
        let written = write.key.clone();
        self.forget(table, &written);
        let Some(Job { table, deadline, work: Work::Commit(commitment), .. }) = self.jobs.get_mut(key) else { return };
        let Some(write) = commitment.next() else { return };
        match self.tables[*table].table.plan(Question::Write(write), now) {
            Plan::Request(request) => {
                self.backend.submit(Exchange::new(key, 0, *deadline, request, written, now), now);
            }
            Plan::Answer(answer) => {
                let failure = match answer {
                    Answer::Failed(failure) => failure,
                    Answer::Found(_) | Answer::Miss => Failure::temporary(format_args!("table cannot be written")),
                };
                let id = commitment.id();
                if let Some(outcome) = commitment.answered(Err(failure), true) {
                    self.end(key, Reply::Committed(id, outcome));
                }
            }
        }
    }

    /// Takes the end of an exchange to the job that asked.
    fn finish(&mut self, done: Done<'_>, now: Instant) {
        let Done { exchange, result, sent } = done;
        let Some(job) = self.jobs.get_mut(exchange.job) else { return };
        let (opened, metrics) = (&self.tables[job.table], &mut self.metrics[job.table]);
        let took = now.saturating_duration_since(exchange.since);
        let label = self.backend.label(&exchange);
        let failed = |kind, cause: &dyn std::fmt::Display, faults: &mut Repeats| {
            faults.warn(&format!("fault table={} backend={label} cause=\"{cause}\"", opened.name), now);
            Failure::new(kind, format_args!("{}: {label} {cause}", opened.name))
        };
        if took >= self.slow && result.is_ok() {
            metrics.slow += 1;
            let details = format!("took={:.3} {}", took.as_secs_f64(), exchange.phases(now));
            self.faults.warn_of(&format!("slow table={} backend={label}", opened.name), &details, now);
        }
        let response = result.map_err(|fault| {
            let late = matches!(fault, Fault::Timeout(_));
            failed(if late { FailureKind::Timeout } else { FailureKind::Temporary }, &fault, &mut self.faults)
        });
        if let Work::Commit(commitment) = &mut job.work {
            let (told, certain) = match (response, commitment.next()) {
                (Ok(response), Some(write)) => {
                    // A gateway that gave up does not know whether the write was carried out.
                    let certain = !matches!(response.status, 408 | 502 | 504);
                    let told = opened.table.parse_write(write, &response);
                    (told.map_err(|why| failed(FailureKind::Temporary, &why, &mut self.faults)), certain)
                }
                (Ok(_), None) => return,
                (Err(failure), _) => (Err(failure), !sent),
            };
            let (id, table) = (commitment.id(), job.table);
            let outcome = commitment.answered(told, certain);
            // What was asked for meanwhile may be the old value.
            self.forget(table, &exchange.key);
            return match outcome {
                Some(outcome) => self.end(exchange.job, Reply::Committed(id, outcome)),
                None => self.commit(exchange.job, now),
            };
        }
        let cache_control = response.as_ref().map(|response| response.cache_control()).unwrap_or_default();
        let list = matches!(&job.work, Work::Iterate(iteration) if iteration.is_listing());
        let answer = match response.map(|response| opened.table.parse_value(list, response)) {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => Answer::Failed(failed(FailureKind::Temporary, &why, &mut self.faults)),
            Err(failure) => Answer::Failed(failure),
        };
        log_answer(&opened.name, &answer, &exchange.key);
        match &job.work {
            Work::Get => count(metrics, &answer, took),
            Work::Fetch(_) => return self.fetched(exchange.job, CachedAnswer::of(answer), cache_control, now),
            Work::Iterate(_) | Work::Commit(_) | Work::Wait { .. } => {}
        }
        if let Work::Iterate(iteration) = &mut job.work {
            return match iteration.answered(exchange.part, answer) {
                Ok(()) => self.iterate(exchange.job, now),
                Err(failure) => self.end(exchange.job, Reply::Failed(failure)),
            };
        }
        self.end(exchange.job, Reply::Answer(answer));
        self.backend.reuse(exchange.key);
    }

    /// Ends a job with its last reply.
    fn end(&mut self, key: Key, reply: Reply<'_>) {
        let Some(job) = self.jobs.remove(key) else { return };
        if matches!(job.work, Work::Iterate(_)) {
            self.iterations.retain(|other| *other != key);
        }
        let metrics = &mut self.metrics[job.table];
        match &reply {
            Reply::Answer(_) | Reply::Row { .. } => {}
            Reply::End => metrics.iterated += 1,
            Reply::Failed(_) => metrics.iterations_failed += 1,
            Reply::Committed(_, Outcome::Done) => metrics.committed += 1,
            Reply::Committed(_, Outcome::NotFound) => metrics.commits_not_found += 1,
            Reply::Committed(_, Outcome::Failed(_)) => metrics.commits_failed += 1,
            Reply::Committed(_, Outcome::Uncertain(_)) => metrics.commits_uncertain += 1,
        }
        self.reply(job.client, job.place, Some(job.table), reply);
    }

    fn reply(&mut self, key: Key, place: u64, table: Option<usize>, reply: Reply<'_>) {
        let name = table.map_or("", |at| &self.tables[at].name);
        let client = respond(&mut self.clients, &mut self.actions, key, place, name, reply);
        let Some(client) = client else { return };
        if client.is_hopeless() {
            log::warn(format_args!("client-timeout cause=\"far too many unread replies\""));
            return self.drop_client(key);
        }
        let turn = client.paused && client.may_ask();
        // An iteration may be next in line now; what was not read goes on being read.
        if turn || !self.iterations.is_empty() {
            self.resumed.push(key);
        }
    }

    /// Ends what is due: requests whose time is over, and clients that make no progress.
    fn fire(&mut self, now: Instant) {
        loop {
            let (jobs, clients) = (&self.jobs, &self.clients);
            match self.timers.due(now, |due| is_alive(due, jobs, clients)) {
                None => return,
                Some(Timer::Job(key)) => self.time_out(key),
                Some(Timer::ServeStale(key)) => self.serve_stale(key, now),
                Some(Timer::Stuck(key)) => self.check_stuck(key, now),
            }
        }
    }

    /// Ends a request that was late without waiting for a backend.
    fn time_out(&mut self, key: Key) {
        let Some(job) = self.jobs.get(key) else { return };
        let reason = format_args!("{}: not done in time", self.tables[job.table].name);
        let failure = Failure::new(FailureKind::Timeout, reason);
        let reply = match &job.work {
            Work::Get | Work::Wait { .. } => Reply::Answer(Answer::Failed(failure)),
            Work::Fetch(_) => return, // it ends with its exchange
            Work::Iterate(_) => Reply::Failed(failure),
            Work::Commit(commitment) => Reply::Committed(commitment.id(), Outcome::Uncertain(failure)),
        };
        self.end(key, reply);
    }
}

/// Puts a reply into a client's output, and has it flushed if nothing was waiting there.
fn respond<'a>(
    clients: &'a mut Arena<Client>,
    actions: &mut VecDeque<Action>,
    key: Key,
    place: u64,
    table: &str,
    reply: Reply<'_>,
) -> Option<&'a Client> {
    let client = clients.get_mut(key)?;
    let quiet = client.output.is_empty();
    client.reply(place, table, reply);
    if quiet && !client.output.is_empty() {
        actions.push_back(Action::Flush(Peer::Client(key)));
    }
    Some(client)
}

fn is_alive(due: &Timer, jobs: &Arena<Job>, clients: &Arena<Client>) -> bool {
    match due {
        Timer::Job(key) | Timer::ServeStale(key) => jobs.contains(*key),
        Timer::Stuck(key) => clients.contains(*key),
    }
}
