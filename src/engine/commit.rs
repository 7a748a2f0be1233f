//! Commits of dict transactions: their writes are sent one after another, also after the client has disconnected.

use super::clients::Clients;
use super::lookup::{HeldLookup, Lookups};
use super::shared::Shared;
use crate::arena::{Arena, Key};
use crate::backend::{Asker, Finished, TimeLimit};
use crate::client::{Reply, ReplyTo};
use crate::job::commit::Commitment;
use crate::query::{Answer, Commit, Failure, FailureKind, Outcome};
use crate::table::{Plan, Question};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// Maximum size in bytes of the writes of clients that have disconnected.
// Each client has a bound of its own for what it has not been answered, but it may leave and come back: 25 that did held
// 75 MB while a backend hung.
const MAX_LEFT: usize = 16 << 20;

/// The commits in progress.
#[derive(Default)]
pub(super) struct Commits {
    running: Arena<RunningCommit>,
    /// The last commit in progress that writes a key, by client and key. A client has one table.
    last: HashMap<Key, HashMap<Vec<u8>, Key>>,
}

/// A commit in progress, or one that waits for others.
struct RunningCommit {
    to: ReplyTo,
    table: usize,
    deadline: Instant,
    commitment: Commitment,
    /// How many earlier commits it waits for. They have the timeout of the same table and end by their own deadlines, so
    /// that the wait needs no timer.
    blockers: usize,
    /// What waits for it.
    followers: Vec<Follower>,
}

/// What a client has sent after a commit that writes the same key.
enum Follower {
    Commit(Key),
    Lookup(HeldLookup),
}

impl Commits {
    /// Begins a commit as soon as no earlier one of its client writes a key of it: otherwise two writes could arrive in
    /// the other order, and the older value would stay.
    pub(super) fn start(
        &mut self,
        to: ReplyTo,
        table: usize,
        commit: Commit,
        lookups: &mut Lookups,
        shared: &mut Shared,
    ) {
        let deadline = shared.turn.now + shared.tables.timeout(table);
        let commitment = Commitment::new(commit);
        let running = RunningCommit { to, table, deadline, commitment, blockers: 0, followers: Vec::new() };
        let key = self.running.insert(running);
        if self.block(key, to.client) == 0 {
            self.advance(key, lookups, shared);
        }
    }

    /// Puts a commit behind those of its client that write the same keys, and returns their number.
    fn block(&mut self, key: Key, client: Key) -> usize {
        let Some(RunningCommit { commitment, .. }) = self.running.get(key) else { return 0 };
        let mut blockers: Vec<Key> = Vec::new();
        let last = self.last.entry(client).or_default();
        for write in commitment.writes() {
            match last.insert(write.key.clone(), key) {
                Some(blocker) if blocker != key && !blockers.contains(&blocker) => blockers.push(blocker),
                Some(_) | None => {}
            }
        }
        for blocker in &blockers {
            let blocker = self.running.get_mut(*blocker);
            blocker.into_iter().for_each(|blocker| blocker.followers.push(Follower::Commit(key)));
        }
        self.running.get_mut(key).into_iter().for_each(|running| running.blockers = blockers.len());
        blockers.len()
    }

    /// Holds a lookup whose key a commit of the same client is about to write; true if there is one.
    pub(super) fn hold(&mut self, to: ReplyTo, table: usize, key: &[u8], now: Instant) -> bool {
        // Nearly always there is no commit at all.
        if self.running.is_empty() {
            return false;
        }
        let last = self.last.get(&to.client).and_then(|last| last.get(key));
        let Some(running) = last.and_then(|last| self.running.get_mut(*last)) else { return false };
        running.followers.push(Follower::Lookup(HeldLookup { to, table, key: key.to_vec(), since: now }));
        true
    }

    fn advance(&mut self, key: Key, lookups: &mut Lookups, shared: &mut Shared) {
        if let Some(outcome) = self.write(key, lookups, shared) {
            self.finish(key, outcome, lookups, shared);
        }
    }

    /// Carries out the next write; returns the outcome if there is none, or it is refused. Its exchange has the deadline of
    /// the commit, which needs no timer of its own.
    fn write(&mut self, key: Key, lookups: &mut Lookups, shared: &mut Shared) -> Option<Outcome> {
        let RunningCommit { table, deadline, commitment, .. } = self.running.get_mut(key)?;
        let (table, now) = (*table, shared.turn.now);
        let Some(write) = commitment.next() else { return Some(Outcome::Done) };
        // It has waited for another commit until its own deadline. A connection that it were sent on would be closed.
        if *deadline <= now {
            let reason = format_args!("{}: timed out behind another commit", shared.tables.name(table));
            return commitment.on_result(Err(Failure::new(FailureKind::Timeout, reason)), true);
        }
        // Before the write leaves, and once more after it was answered: a lookup in between may bring the old value or the new one.
        lookups.forget(table, &write.key, &shared.tables);
        match shared.tables.plan(table, Question::Write(write), now).plan {
            Plan::Request(request) => {
                // The exchange expires at the deadline of the commit, which therefore needs no timer.
                let limit = TimeLimit { deadline: *deadline, timeout: shared.tables.timeout(table) };
                let exchange = shared.spare.take(Asker::Commit(key), table, limit, request, &write.key, now);
                shared.submit(exchange);
                None
            }
            Plan::Answer(answer) => {
                let failure = match answer {
                    Answer::Failed(failure) => failure,
                    Answer::Found(_) | Answer::Miss => Failure::temporary(format_args!("table cannot be written")),
                };
                commitment.on_result(Err(failure), true)
            }
        }
    }

    /// Handles the result of a write.
    pub(super) fn complete(&mut self, key: Key, finished: Finished<'_>, lookups: &mut Lookups, shared: &mut Shared) {
        let Finished { exchange, result, sent } = finished;
        let Some(RunningCommit { table, commitment, .. }) = self.running.get_mut(key) else { return };
        let Some(write) = commitment.next() else { return };
        let (result, certain) = match result {
            // A request of which no byte was sent cannot have been applied.
            Err(fault) => (Err(shared.fault(*table, &exchange, &fault)), !sent),
            Ok(response) => {
                shared.check_slow(*table, &exchange, shared.took(&exchange));
                let certain = is_certain(response.status);
                let written = shared.tables.parse_write(*table, write, &response);
                (written.map_err(|error| shared.response_failure(*table, &exchange, &error)), certain)
            }
        };
        let is_uncertain = result.is_err() && !certain;
        let outcome = commitment.on_result(result, certain);
        // What was asked for in the meantime may be the old value.
        lookups.forget(*table, &exchange.key, &shared.tables);
        if is_uncertain {
            lookups.bar(*table, &exchange.key, shared);
        }
        match outcome {
            Some(outcome) => self.finish(key, outcome, lookups, shared),
            None => self.advance(key, lookups, shared),
        }
    }

    /// Replies to a commit that has ended, and begins what has waited for it.
    fn finish(&mut self, key: Key, outcome: Outcome, lookups: &mut Lookups, shared: &mut Shared) {
        let mut ended = vec![(key, outcome)];
        while let Some((key, outcome)) = ended.pop() {
            for follower in self.remove(key, outcome, shared) {
                match follower {
                    Follower::Lookup(held) => lookups.start_held(held, shared),
                    Follower::Commit(follower) => {
                        let Some(running) = self.running.get_mut(follower) else { continue };
                        running.blockers -= 1;
                        if running.blockers == 0 {
                            ended.extend(self.write(follower, lookups, shared).map(|outcome| (follower, outcome)));
                        }
                    }
                }
            }
        }
    }

    fn remove(&mut self, key: Key, outcome: Outcome, shared: &mut Shared) -> Vec<Follower> {
        let Some(RunningCommit { to, table, commitment, followers, .. }) = self.running.remove(key) else {
            return Vec::new();
        };
        if let Some(last) = self.last.get_mut(&to.client) {
            for write in commitment.writes() {
                if last.get(&write.key) == Some(&key) {
                    last.remove(&write.key);
                }
            }
            if last.is_empty() {
                self.last.remove(&to.client);
            }
        }
        let metrics = shared.tables.metrics(table);
        *(match outcome {
            Outcome::Done => &mut metrics.committed,
            Outcome::NotFound => &mut metrics.commits_not_found,
            Outcome::Failed(_) => &mut metrics.commits_failed,
            Outcome::Uncertain(_) => &mut metrics.commits_uncertain,
        }) += 1;
        let reply = Reply::Committed(commitment.id(), outcome);
        shared.clients.reply(to, shared.tables.name(table), reply, &mut shared.turn);
        followers
    }

    /// The commits of disconnected clients that do not fit into the memory for them, the latest deadlines first to go.
    pub(super) fn excess(&self, clients: &Clients) -> HashSet<Key> {
        let left = self.running.iter().filter(|(_, running)| !clients.is_connected(running.to.client));
        let mut left: Vec<(Instant, Key, usize)> =
            left.map(|(key, running)| (running.deadline, key, running.commitment.size())).collect();
        left.sort();
        let mut held = 0;
        let is_beyond = |(_, key, size): (Instant, Key, usize)| {
            held += size;
            (held > MAX_LEFT).then_some(key)
        };
        left.into_iter().filter_map(is_beyond).collect()
    }

    /// True if a commit waits for an earlier one.
    pub(super) fn is_blocked(&self, key: Key) -> bool {
        self.running.get(key).is_some_and(|running| running.blockers > 0)
    }

    /// Ends commits of disconnected clients, no write of which is in flight.
    pub(super) fn abandon(&mut self, keys: &HashSet<Key>, lookups: &mut Lookups, shared: &mut Shared) {
        // The end of one must not begin another of them that has waited for it.
        keys.iter().for_each(|key| self.running.get_mut(*key).into_iter().for_each(|running| running.blockers += 1));
        for key in keys {
            let Some(RunningCommit { table, commitment, .. }) = self.running.get_mut(*key) else { continue };
            let (name, now) = (shared.tables.name(*table), shared.turn.now);
            let cause = "disconnected clients have written too much";
            shared.faults.warn(&format!("commit-dropped table={name} cause=\"{cause}\""), now);
            let failure = Failure::temporary(format_args!("the client has disconnected"));
            if let Some(outcome) = commitment.on_result(Err(failure), true) {
                self.finish(*key, outcome, lookups, shared);
            }
        }
    }

    /// True if no commit is in progress.
    pub(super) fn is_drained(&self) -> bool {
        self.running.is_empty()
    }
}

/// True if a write with this status was surely not applied. A gateway that gave up (502, 504) does not know, a server that
/// failed (500) may have done so behind the write, and a redirect (303) is what many send after it.
fn is_certain(status: u16) -> bool {
    match status {
        408 => false,
        501 | 503 => true,
        _ => (400..500).contains(&status),
    }
}

#[cfg(test)]
mod tests {
    use super::is_certain;

    #[test]
    fn only_refusals_are_certain() {
        let certain: Vec<u16> = (0..=999).filter(|status| is_certain(*status)).collect();
        let expected: Vec<u16> = (400..500).filter(|status| *status != 408).chain([501, 503]).collect();
        assert_eq!(certain, expected);
    }
}
