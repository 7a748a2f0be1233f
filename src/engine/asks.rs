//! Requests for decisions: each is an exchange of its own, which nothing else shares.

use super::clients::Clients;
use super::shared::Shared;
use crate::arena::{Arena, Key};
use crate::backend::{Asker, Finished, TimeLimit};
use crate::client::{Reply, ReplyTo};
use crate::metrics::ACTIONS;
use crate::query::{Answer, Ask, AskKind, Decision, Failure};
use crate::table::{OnFault, Plan, Question};
use std::time::{Duration, Instant};

/// The longest time for a login, as Postfix waits 10 s (xsasl_dovecot_server.c).
const MAX_LOGIN: Duration = Duration::from_secs(8);

/// The requests for decisions in progress.
#[derive(Default)]
pub(super) struct Asks {
    running: Arena<RunningAsk>,
}

struct RunningAsk {
    to: ReplyTo,
    table: usize,
    kind: AskKind,
    deadline: Instant,
}

impl Asks {
    pub(super) fn start(&mut self, to: ReplyTo, table: usize, ask: &Ask, shared: &mut Shared) {
        let (now, kind) = (shared.turn.now, ask.kind);
        let timeout = match kind {
            AskKind::Policy => shared.tables.timeout(table),
            AskKind::Login => shared.tables.timeout(table).min(MAX_LOGIN),
        };
        let running = RunningAsk { to, table, kind, deadline: now + timeout };
        match shared.tables.plan(table, Question::Ask(ask), now).plan {
            Plan::Request(request) => {
                // The exchange expires at the deadline, which therefore needs no timer.
                let limit = TimeLimit { deadline: running.deadline, timeout };
                let asker = Asker::Ask(self.running.insert(running));
                let exchange = shared.spare.take(asker, table, limit, request, &ask.key, now);
                shared.submit(exchange);
            }
            Plan::Answer(answer) => {
                // A table that has no request for it has a reason.
                let result = match answer {
                    Answer::Failed(failure) => Err(failure),
                    // No user can have such a name.
                    Answer::Miss if kind == AskKind::Login => Ok(Decision::No(None)),
                    Answer::Found(_) | Answer::Miss => Err(Failure::temporary(format_args!("no decision"))),
                };
                reply(running, result, Duration::ZERO, shared);
            }
        }
    }

    /// Handles the result of an exchange.
    pub(super) fn complete(&mut self, key: Key, finished: Finished<'_>, shared: &mut Shared) {
        let Finished { exchange, result, .. } = finished;
        let Some(running) = self.running.remove(key) else { return };
        let (table, took) = (running.table, shared.took(&exchange));
        let result = match result {
            Err(fault) => Err(shared.fault(table, &exchange, &fault)),
            Ok(response) => {
                shared.check_slow(table, &exchange, took);
                let parsed = shared.tables.parse_ask(table, running.kind, &response);
                parsed.map_err(|error| shared.response_failure(table, &exchange, &error))
            }
        };
        reply(running, result, took, shared);
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

/// Counts a decision, which took the time `took`, and sends it.
fn reply(running: RunningAsk, result: Result<Decision, Failure>, took: Duration, shared: &mut Shared) {
    let RunningAsk { to, table, kind, deadline } = running;
    let metrics = shared.tables.metrics(table);
    metrics.latency.observe(took);
    match kind {
        AskKind::Policy => metrics.decisions[action_at(&result)] += 1,
        AskKind::Login => metrics.logins[login_at(&result)] += 1,
    }
    let reply = match (result, kind, shared.tables.on_fault(table)) {
        (Ok(decision), ..) => Reply::Decided(Some(decision)),
        // Postfix takes any reply but OK for a wrong password.
        (Err(_), AskKind::Login, _) | (Err(_), _, OnFault::Close) => Reply::Close(deadline),
        (Err(_), _, OnFault::Dunno) => Reply::Decided(Some(Decision::No(None))),
        (Err(_), _, OnFault::Defer) => Reply::Decided(None),
    };
    shared.clients.reply(to, shared.tables.name(table), reply, &mut shared.turn);
}

/// Where a decision is counted.
fn action_at(result: &Result<Decision, Failure>) -> usize {
    match result {
        Err(_) => ACTIONS.len() + 1,
        Ok(Decision::No(_)) => DUNNO,
        Ok(Decision::Yes(action)) => {
            let word = action.split(|byte| *byte == b' ').next().unwrap_or_default();
            let known = ACTIONS.iter().position(|known| known.as_bytes().eq_ignore_ascii_case(word));
            known.unwrap_or(ACTIONS.len())
        }
    }
}

/// Where a login is counted.
fn login_at(result: &Result<Decision, Failure>) -> usize {
    match result {
        Ok(Decision::Yes(_)) => 0,
        Ok(Decision::No(_)) => 1,
        Err(_) => 2,
    }
}
