//! Transactions of a dict: their writes, one after another. They outlive the client that has committed them.

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
    running: Arena<Running>,
}

struct Running {
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
        let running = Running { to, table, deadline, commitment: Commitment::new(commit) };
        let key = self.running.insert(running);
        self.advance(key, lookups, shared);
    }

    /// Carries out the next write. Its exchange has the deadline of the commit, which needs no timer of its own.
    fn advance(&mut self, key: Key, lookups: &mut Lookups, shared: &mut Shared) {
        let Some(Running { table, deadline, commitment, .. }) = self.running.get_mut(key) else { return };
        let (table, now) = (*table, shared.turn.now);
        let Some(write) = commitment.next() else { return self.end(key, Outcome::Done, shared) };
        // Before the write leaves, and once more after it was answered: a lookup in between may bring the old value or the new one.
        lookups.forget(table, &write.key, &shared.tables);
        match shared.tables.plan(table, Question::Write(write), now).plan {
            Plan::Request(request) => {
                let exchange = shared.spare.take(Asker::Commit(key), table, *deadline, request, &write.key, now);
                shared.backends.submit(exchange, &mut shared.turn);
            }
            Plan::Answer(answer) => {
                let failure = match answer {
                    Answer::Failed(failure) => failure,
                    Answer::Found(_) | Answer::Miss => Failure::temporary(format_args!("table cannot be written")),
                };
                if let Some(outcome) = commitment.answered(Err(failure), true) {
                    self.end(key, outcome, shared);
                }
            }
        }
    }

    /// Takes the end of the exchange of a write.
    pub(super) fn complete(&mut self, key: Key, finished: Finished<'_>, lookups: &mut Lookups, shared: &mut Shared) {
        let Finished { exchange, result, sent } = finished;
        let Some(Running { table, commitment, .. }) = self.running.get_mut(key) else { return };
        let Some(write) = commitment.next() else { return };
        let (result, certain) = match result {
            Err(fault) => (Err(shared.fault(*table, &exchange, &fault)), !sent),
            Ok(response) => {
                shared.check_slow(*table, &exchange, shared.took(&exchange));
                // A gateway that gave up does not know whether the write was carried out.
                let certain = !matches!(response.status, 408 | 502 | 504);
                let written = shared.tables.parse_write(*table, write, &response);
                (written.map_err(|error| shared.failure(*table, &exchange, FailureKind::Temporary, &error)), certain)
            }
        };
        let outcome = commitment.answered(result, certain);
        // What was asked for in the meantime may be the old value.
        lookups.forget(*table, &exchange.key, &shared.tables);
        match outcome {
            Some(outcome) => self.end(key, outcome, shared),
            None => self.advance(key, lookups, shared),
        }
    }

    fn end(&mut self, key: Key, outcome: Outcome, shared: &mut Shared) {
        let Some(Running { to, table, commitment, .. }) = self.running.remove(key) else { return };
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
