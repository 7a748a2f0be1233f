//! Commits of dict transactions: their writes are sent one after another, also after the client has disconnected.

use super::lookup::Lookups;
use super::shared::Shared;
use crate::arena::{Arena, Key};
use crate::backend::{Asker, Finished};
use crate::client::{Reply, ReplyTo};
use crate::job::commit::Commitment;
use crate::query::{Answer, Commit, Failure, FailureKind, Outcome};
use crate::table::{Plan, Question};
use std::time::Instant;

/// The commits in progress.
#[derive(Default)]
pub(super) struct Commits {
    running: Arena<RunningCommit>,
}

struct RunningCommit {
    to: ReplyTo,
    table: usize,
    deadline: Instant,
    commitment: Commitment,
}

impl Commits {
    pub(super) fn start(
        &mut self,
        to: ReplyTo,
        table: usize,
        commit: Commit,
        lookups: &mut Lookups,
        shared: &mut Shared,
    ) {
        let deadline = shared.turn.now + shared.tables.timeout(table);
        let running = RunningCommit { to, table, deadline, commitment: Commitment::new(commit) };
        let key = self.running.insert(running);
        self.advance(key, lookups, shared);
    }

    /// Sends the next write.
    fn advance(&mut self, key: Key, lookups: &mut Lookups, shared: &mut Shared) {
        let Some(RunningCommit { table, deadline, commitment, .. }) = self.running.get_mut(key) else { return };
        let (table, now) = (*table, shared.turn.now);
        let Some(write) = commitment.next() else { return self.finish(key, Outcome::Done, shared) };
        // Now and again after the response: a lookup in between may return the old value or the new one.
        lookups.forget(table, &write.key, &shared.tables);
        match shared.tables.plan(table, Question::Write(write), now).plan {
            Plan::Request(request) => {
                // The exchange expires at the deadline of the commit, which therefore needs no timer.
                let exchange = shared.spare.take(Asker::Commit(key), table, *deadline, request, &write.key, now);
                shared.backends.submit(exchange, &mut shared.turn);
            }
            Plan::Answer(answer) => {
                let failure = match answer {
                    Answer::Failed(failure) => failure,
                    Answer::Found(_) | Answer::Miss => Failure::temporary(format_args!("table cannot be written")),
                };
                if let Some(outcome) = commitment.on_result(Err(failure), true) {
                    self.finish(key, outcome, shared);
                }
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
                // A timeout, or a gateway that failed: the backend behind it may have applied the write.
                let certain = !matches!(response.status, 408 | 502 | 504);
                let written = shared.tables.parse_write(*table, write, &response);
                (written.map_err(|error| shared.failure(*table, &exchange, FailureKind::Temporary, &error)), certain)
            }
        };
        let outcome = commitment.on_result(result, certain);
        // Lookups since the write was sent may have returned the old value.
        lookups.forget(*table, &exchange.key, &shared.tables);
        match outcome {
            Some(outcome) => self.finish(key, outcome, shared),
            None => self.advance(key, lookups, shared),
        }
    }

    fn finish(&mut self, key: Key, outcome: Outcome, shared: &mut Shared) {
        let Some(RunningCommit { to, table, commitment, .. }) = self.running.remove(key) else { return };
        let metrics = shared.tables.metrics(table);
        *(match outcome {
            Outcome::Done => &mut metrics.committed,
            Outcome::NotFound => &mut metrics.commits_not_found,
            Outcome::Failed(_) => &mut metrics.commits_failed,
            Outcome::Uncertain(_) => &mut metrics.commits_uncertain,
        }) += 1;
        let reply = Reply::Committed(commitment.id(), outcome);
        shared.clients.reply(to, shared.tables.name(table), reply, &mut shared.turn);
    }

    /// True if no commit is in progress.
    pub(super) fn is_drained(&self) -> bool {
        self.running.is_empty()
    }
}
