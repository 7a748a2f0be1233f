//! Iterations of dict clients: each advances as its client reads rows and answers arrive.

use super::clients::Clients;
use super::shared::Shared;
use super::tables::log_answer;
use crate::arena::{Arena, Key};
use crate::backend::{Asker, BodyPart, Finished, TimeLimit};
use crate::client::{Reply, ReplyTo};
use crate::io::Peer;
use crate::job::iteration::{Iteration, Step};
use crate::query::{Failure, Iterate};
use crate::table::{Plan, Question};
use crate::timers::Timers;
use std::collections::HashMap;
use std::time::Instant;

/// Maximum number of rows that are written in one turn, after which others get theirs.
const MAX_ROWS: usize = 1_000;

/// Maximum number of bytes of the lists of all iterations that wait for their clients. Beyond it, a list fails when one
/// grows that has more than [`SMALL_LIST`] bytes.
const MAX_BUFFERED: usize = 64 << 20;
const SMALL_LIST: usize = 1 << 20;

/// The iterations in progress.
#[derive(Default)]
pub(super) struct Iterations {
    running: Arena<RunningIteration>,
    /// Those of each client. A search of all would be done with each of its replies.
    of_client: HashMap<Key, Vec<Key>>,
    timers: Timers<Key>,
}

struct RunningIteration {
    to: ReplyTo,
    table: usize,
    deadline: Instant,
    iteration: Iteration,
    /// The connection on which the list arrives.
    source: Option<Peer>,
}

impl Iterations {
    pub(super) fn start(&mut self, to: ReplyTo, table: usize, iterate: Iterate, shared: &mut Shared) {
        let (now, timeout) = (shared.turn.now, shared.tables.timeout(table));
        let running =
            RunningIteration { to, table, deadline: now + timeout, iteration: Iteration::new(iterate), source: None };
        let key = self.running.insert(running);
        self.of_client.entry(to.client).or_default().push(key);
        // Its exchanges expire by themselves, but it may also wait for a client that does not read its rows.
        self.timers.add(now, timeout, key);
        shared.clients.count_iteration(to.client, true);
        self.advance(key, shared);
    }

    /// Advances the iterations of a client that has room again.
    pub(super) fn resume(&mut self, client: Key, shared: &mut Shared) {
        if self.running.is_empty() {
            return;
        }
        let keys = self.of_client.get(&client).cloned().unwrap_or_default();
        keys.into_iter().for_each(|key| self.advance(key, shared));
    }

    /// Advances an iteration until it waits or ends, and reads its list as far as there is room.
    fn advance(&mut self, key: Key, shared: &mut Shared) {
        self.step(key, shared);
        if let Some(RunningIteration { iteration, source: Some(source), .. }) = self.running.get_mut(key) {
            shared.carriers.set_paused(*source, iteration.is_full(), &mut shared.turn);
        }
    }

    fn step(&mut self, key: Key, shared: &mut Shared) {
        let mut rows = 0;
        while let Some(RunningIteration { to, table, deadline, iteration, .. }) = self.running.get_mut(key) {
            let (to, table, deadline, now) = (*to, *table, *deadline, shared.turn.now);
            // An iteration ends with its client, as nothing would read the values that it requests.
            let Some(room) = shared.clients.may_stream(to) else {
                self.remove(key, shared);
                return;
            };
            if rows == MAX_ROWS {
                return; // each row has listed the client for the next turn
            }
            let (number, lookup_key, plan) = match iteration.next(room) {
                Step::Wait => return,
                Step::End => return self.finish(key, Reply::End, shared),
                Step::Fail(why) => {
                    let failure = Failure::temporary(format_args!("{}: {why}", shared.tables.name(table)));
                    return self.finish(key, Reply::Failed(failure), shared);
                }
                Step::Row { name, value } => {
                    let row = Reply::Row { name: &name, value: &value };
                    shared.clients.reply(to, shared.tables.name(table), row, &mut shared.turn);
                    rows += 1;
                    continue;
                }
                Step::List(path) => (0, path.key(b""), shared.tables.plan(table, Question::List(&path), now).plan),
                Step::Get(number, name) => {
                    let plan = shared.tables.plan(table, Question::Get(&name), now).plan;
                    (number, name, plan)
                }
            };
            match plan {
                Plan::Request(request) => {
                    let asker = Asker::Iteration(key, number);
                    let limit = TimeLimit { deadline, timeout: shared.tables.timeout(table) };
                    let mut exchange = shared.spare.take(asker, table, limit, request, &lookup_key, now);
                    if number == 0 && iteration.may_stream() {
                        exchange.allow_stream();
                    }
                    shared.submit(exchange);
                }
                // Tables without a backend answer at once, and the loop continues.
                Plan::Answer(answer) => {
                    if let Err(failure) = iteration.on_answer(number, answer) {
                        return self.finish(key, Reply::Failed(failure), shared);
                    }
                }
            }
        }
    }

    /// Handles a part of a list that has arrived. That of an iteration that has ended is dropped.
    pub(super) fn on_part(&mut self, part: BodyPart, shared: &mut Shared) {
        let BodyPart { asker, connection, bytes } = part;
        let Asker::Iteration(key, _) = asker else { return };
        let Some(running) = self.running.get_mut(key) else { return };
        running.source = Some(connection);
        running.iteration.on_part(&bytes);
        if running.iteration.buffered() > SMALL_LIST && self.buffered() > MAX_BUFFERED {
            self.fail_largest(shared);
        }
        self.advance(key, shared);
    }

    /// Bytes of the lists of all iterations that were not used.
    fn buffered(&self) -> usize {
        self.running.iter().map(|(_, running)| running.iteration.buffered()).sum()
    }

    /// Fails the largest list of the client whose lists take the most: not that of another one, which may read.
    fn fail_largest(&mut self, shared: &mut Shared) {
        let buffered = |key: &Key| self.running.get(*key).map_or(0, |running| running.iteration.buffered());
        let of_client = self.of_client.values().max_by_key(|keys| keys.iter().map(buffered).sum::<usize>());
        let largest = of_client.and_then(|keys| keys.iter().copied().max_by_key(buffered));
        if let Some((key, running)) = largest.and_then(|key| Some((key, self.running.get_mut(key)?))) {
            running.iteration.fail_for_memory();
            self.advance(key, shared);
        }
    }

    /// Handles the end of a list that came in parts.
    fn complete_stream(&mut self, key: Key, finished: Finished<'_>, shared: &mut Shared) {
        // Some of its own may have arrived with its end.
        while let Some(part) = shared.carriers.next_part() {
            self.on_part(part, shared);
        }
        let Finished { exchange, result, .. } = finished;
        let Some(RunningIteration { table, iteration, source, .. }) = self.running.get_mut(key) else { return };
        release(source.take(), shared);
        match result {
            Ok(response) => {
                shared.check_slow(*table, &exchange, shared.took(&exchange));
                iteration.on_part(&response.body);
                iteration.on_end();
                self.advance(key, shared);
            }
            Err(fault) => {
                let failure = shared.fault(*table, &exchange, &fault);
                self.finish(key, Reply::Failed(failure), shared);
            }
        }
        shared.spare.put(exchange);
    }

    /// Handles the result of an exchange of an iteration.
    pub(super) fn complete(&mut self, key: Key, number: u32, finished: Finished<'_>, shared: &mut Shared) {
        if finished.exchange.is_streamed() {
            return self.complete_stream(key, finished, shared);
        }
        let Finished { exchange, result, .. } = finished;
        let Some(RunningIteration { table, iteration, .. }) = self.running.get_mut(key) else { return };
        let answer = shared.parse_value(*table, iteration.is_listing(), &exchange, shared.took(&exchange), result);
        // Logged but not counted as a lookup: podop_iterations_total counts the iteration as a whole.
        log_answer(shared.tables.name(*table), &exchange.key, &answer, exchange.trace());
        shared.spare.put(exchange);
        // One failure fails the whole iteration: a list with missing rows would pass for a complete one.
        match iteration.on_answer(number, answer) {
            Ok(()) => self.advance(key, shared),
            Err(failure) => self.finish(key, Reply::Failed(failure), shared),
        }
    }

    fn finish(&mut self, key: Key, reply: Reply<'_>, shared: &mut Shared) {
        let Some(RunningIteration { to, table, .. }) = self.remove(key, shared) else { return };
        let metrics = shared.tables.metrics(table);
        *(if matches!(reply, Reply::End) { &mut metrics.iterated } else { &mut metrics.iterations_failed }) += 1;
        shared.clients.count_iteration(to.client, false);
        shared.clients.reply(to, shared.tables.name(table), reply, &mut shared.turn);
    }

    fn remove(&mut self, key: Key, shared: &mut Shared) -> Option<RunningIteration> {
        let running = self.running.remove(key)?;
        release(running.source, shared); // the rest of the list is read and dropped
        let client = running.to.client;
        if let Some(keys) = self.of_client.get_mut(&client) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.of_client.remove(&client);
            }
        }
        Some(running)
    }

    /// Ends iterations whose deadlines have passed.
    pub(super) fn expire(&mut self, shared: &mut Shared) {
        while let Some(key) = self.timers.due(shared.turn.now, |key| self.running.contains(*key)) {
            let Some(table) = self.running.get(key).map(|running| running.table) else { continue };
            let failure = shared.timed_out(table);
            self.finish(key, Reply::Failed(failure), shared);
        }
    }

    /// When [`Iterations::expire`] must be called.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        self.timers.next(|key| self.running.contains(*key))
    }

    /// Removes the iterations of disconnected clients.
    pub(super) fn sweep(&mut self, shared: &mut Shared) {
        let is_connected = |client| shared.clients.is_connected(client);
        let abandoned = |(key, running): (Key, &RunningIteration)| (!is_connected(running.to.client)).then_some(key);
        let keys: Vec<Key> = self.running.iter().filter_map(abandoned).collect();
        keys.into_iter().for_each(|key| drop(self.remove(key, shared)));
    }

    pub(super) fn is_live(&self, key: Key) -> bool {
        self.running.contains(key)
    }

    /// True if no connected client waits for rows.
    pub(super) fn is_drained(&self, clients: &Clients) -> bool {
        !self.running.iter().any(|(_, running)| clients.is_connected(running.to.client))
    }
}

/// Lets the connection of a list be read, which may have been paused.
fn release(source: Option<Peer>, shared: &mut Shared) {
    if let Some(source) = source {
        shared.carriers.set_paused(source, false, &mut shared.turn);
    }
}
