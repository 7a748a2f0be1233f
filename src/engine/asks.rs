//! Requests for decisions: each is an exchange of its own, which nothing else shares.

use super::clients::Clients;
use super::shared::Shared;
use crate::arena::{Arena, Key};
use crate::backend::{Asker, Finished, TimeLimit};
use crate::client::{Reply, ReplyTo};
use crate::metrics::ACTIONS;
use crate::query::{Answer, Ask};
use crate::table::{OnFault, Plan, Question};
use crate::value::Value;
use std::time::Duration;

/// The requests for decisions in progress.
#[derive(Default)]
pub(super) struct Asks {
    running: Arena<RunningAsk>,
}

struct RunningAsk {
    to: ReplyTo,
    table: usize,
}

impl Asks {
    pub(super) fn start(&mut self, to: ReplyTo, table: usize, ask: &Ask, shared: &mut Shared) {
        let (now, timeout) = (shared.turn.now, shared.tables.timeout(table));
        match shared.tables.plan(table, Question::Ask(ask), now).plan {
            Plan::Request(request) => {
                // The exchange expires at the deadline, which therefore needs no timer.
                let asker = Asker::Ask(self.running.insert(RunningAsk { to, table }));
                let limit = TimeLimit { deadline: now + timeout, timeout };
                let exchange = shared.spare.take(asker, table, limit, request, &ask.key, now);
                shared.backends.submit(exchange, &mut shared.turn);
            }
            Plan::Answer(answer) => {
                let answer = answer.into_owned();
                reply(to, table, answer, Duration::ZERO, shared);
            }
        }
    }

    /// Handles the result of an exchange.
    pub(super) fn complete(&mut self, key: Key, finished: Finished<'_>, shared: &mut Shared) {
        let Finished { exchange, result, .. } = finished;
        let Some(RunningAsk { to, table }) = self.running.remove(key) else { return };
        let took = shared.took(&exchange);
        let answer = match result {
            Err(fault) => Answer::Failed(shared.fault(table, &exchange, &fault)),
            Ok(response) => {
                shared.check_slow(table, &exchange, took);
                let parsed = shared.tables.parse_ask(table, response);
                parsed.unwrap_or_else(|error| Answer::Failed(shared.response_failure(table, &exchange, &error)))
            }
        };
        reply(to, table, answer, took, shared);
        shared.spare.put(exchange);
    }

    /// True if the client of a request is connected.
    pub(super) fn is_live(&self, key: Key, clients: &Clients) -> bool {
        self.running.get(key).is_some_and(|running| clients.is_connected(running.to.client))
    }

    pub(super) fn remove(&mut self, key: Key) {
        self.running.remove(key);
    }

    /// True if no connected client waits for a decision.
    pub(super) fn is_drained(&self, clients: &Clients) -> bool {
        !self.running.iter().any(|(_, running)| clients.is_connected(running.to.client))
    }
}

/// Where `DUNNO` is in [`ACTIONS`].
const DUNNO: usize = 1;

/// Where a decision is counted.
fn kind(answer: &Answer<'_>) -> usize {
    match answer {
        Answer::Failed(_) => ACTIONS.len() + 1,
        Answer::Miss => DUNNO,
        Answer::Found(Value::Text(action)) => {
            let word = action.split(|byte| *byte == b' ').next().unwrap_or_default();
            let known = ACTIONS.iter().position(|known| known.as_bytes().eq_ignore_ascii_case(word));
            known.unwrap_or(ACTIONS.len())
        }
        Answer::Found(_) => ACTIONS.len(),
    }
}

/// Counts a decision, which took the time `took`, and sends it.
fn reply(to: ReplyTo, table: usize, answer: Answer<'_>, took: Duration, shared: &mut Shared) {
    let metrics = shared.tables.metrics(table);
    metrics.decisions[kind(&answer)] += 1;
    metrics.latency.observe(took);
    let reply = match (&answer, shared.tables.on_fault(table)) {
        (Answer::Failed(_), OnFault::Close) => Reply::Close,
        (Answer::Failed(_), OnFault::Dunno) => Reply::Answer(Answer::Miss),
        _ => Reply::Answer(answer),
    };
    shared.clients.reply(to, shared.tables.name(table), reply, &mut shared.turn);
}
