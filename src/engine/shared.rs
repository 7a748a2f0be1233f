//! Shared state of lookups, iterations and commits.

use super::carriers::Carriers;
use super::clients::Clients;
use super::tables::{Tables, record};
use crate::backend::{Exchange, Fault, SpareExchanges};
use crate::client::{Reply, ReplyTo};
use crate::io::Turn;
use crate::log::{Escaped, Repeats};
use crate::query::{Answer, Failure, FailureKind, Outcome, Query};
use crate::table::{ResponseError, ResponseOf, TableEntry};
use crate::wire::http::Response;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// Shared state of lookups, iterations and commits.
pub(super) struct Shared {
    pub clients: Clients,
    pub tables: Tables,
    pub carriers: Carriers,
    pub faults: Repeats,
    pub spare: SpareExchanges,
    pub turn: Turn,
    /// The duration from which on an exchange is logged as slow.
    pub slow: Duration,
}

impl Shared {
    /// `timeout` is the time limit of requests to tables without a limit of their own.
    pub(super) fn new(tables: Vec<TableEntry>, carriers: Carriers, timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            clients: Clients::default(),
            tables: Tables::new(tables, timeout, now),
            carriers,
            faults: Repeats::default(),
            spare: SpareExchanges::default(),
            turn: Turn::new(now),
            slow: Duration::from_secs(1),
        }
    }

    /// Sends a request on its way.
    #[inline]
    pub(super) fn submit(&mut self, exchange: Box<Exchange>) {
        self.carriers.submit(exchange, &mut self.turn);
    }

    /// Answers a lookup whose key is too long. No table can hold it, and a failure would have Postfix defer the mail
    /// forever.
    pub(super) fn answer_long_key(&mut self, to: ReplyTo, table: usize) {
        let Self { tables, clients, faults, turn, .. } = self;
        faults.warn(&format!("key-too-long table={}", tables.name(table)), turn.now);
        record(tables.metrics(table), &Answer::Miss, Duration::ZERO);
        clients.reply(to, tables.name(table), Reply::Answer(Answer::Miss), turn);
    }

    /// Answers a request to a table that does not exist.
    // A fault of the configuration and not of the key: NOTFOUND would bounce mail.
    pub(super) fn refuse(&mut self, to: ReplyTo, table: &[u8], query: Query<'_>) {
        self.faults.warn(&format!("unknown-table name={}", Escaped(table)), self.turn.now);
        let failure = Failure::temporary(format_args!("no such table: {}", String::from_utf8_lossy(table)));
        let reply = match query {
            Query::Get(_) => Reply::Answer(Answer::Failed(failure)),
            Query::Iterate(_) | Query::Ask(_) => Reply::Failed(failure),
            Query::Commit(commit) => Reply::Committed(commit.id, Outcome::Failed(failure)),
        };
        self.clients.reply(to, "", reply, &mut self.turn);
    }

    /// The failure of a request whose time has passed.
    pub(super) fn timed_out(&self, table: usize) -> Failure {
        Failure::new(FailureKind::Timeout, format_args!("{}: timed out", self.tables.name(table)))
    }

    /// The duration of an exchange that has just ended.
    pub(super) fn took(&self, exchange: &Exchange) -> Duration {
        self.turn.now.saturating_duration_since(exchange.since)
    }

    /// The answer of a table for the result of an exchange.
    pub(super) fn parse_value<'a>(
        &mut self,
        table: usize,
        list: bool,
        exchange: &Exchange,
        took: Duration,
        result: Result<Response<'a>, Fault>,
    ) -> Answer<'a> {
        let failure = match result {
            Err(fault) => self.fault(table, exchange, &fault),
            Ok(response) => {
                self.check_slow(table, exchange, took);
                let of = ResponseOf { list, redirected: exchange.is_redirected() };
                match self.tables.parse_value(table, of, response) {
                    Ok(answer) => return answer,
                    // A response that cannot be parsed is a fault and never a miss: a miss would bounce mail.
                    Err(error) => self.response_failure(table, exchange, &error),
                }
            }
        };
        Answer::Failed(failure)
    }

    /// Logs an exchange if it was slow.
    pub(super) fn check_slow(&mut self, table: usize, exchange: &Exchange, took: Duration) {
        if took < self.slow {
            return;
        }
        self.tables.metrics(table).slow += 1;
        let (name, label) = (self.tables.name(table), self.carriers.label(exchange).to_owned());
        // The durations differ each time and must not keep the log from folding repetitions.
        let trace = exchange.trace().map(|trace| format!(" trace={trace}")).unwrap_or_default();
        let details = format!("took={:.3} {}{trace}", took.as_secs_f64(), exchange.phases(self.turn.now));
        self.faults.warn_of(&format!("slow table={name} backend={label}"), &details, self.turn.now);
    }

    /// The failure of a request whose exchange has no response.
    pub(super) fn fault(&mut self, table: usize, exchange: &Exchange, fault: &Fault) -> Failure {
        // Socketmap has a reply of its own for a request that timed out.
        let timeout = matches!(fault, Fault::Timeout(_));
        let kind = if timeout { FailureKind::Timeout } else { FailureKind::Temporary };
        self.failure(table, exchange, kind, fault, fault.detail())
    }

    /// The failure of a request whose response has no answer.
    pub(super) fn response_failure(&mut self, table: usize, exchange: &Exchange, error: &ResponseError) -> Failure {
        self.failure(table, exchange, FailureKind::Temporary, error, error.detail())
    }

    /// Logs and returns a failure. `cause` completes a sentence that starts with the backend; `detail` is what the backend
    /// says about it.
    fn failure(
        &mut self,
        table: usize,
        exchange: &Exchange,
        kind: FailureKind,
        cause: &dyn Display,
        detail: Option<&str>,
    ) -> Failure {
        let (name, label) = (self.tables.name(table), self.carriers.label(exchange).to_owned());
        // What may differ each time must not keep the log from folding repetitions.
        let mut details: Vec<String> =
            detail.map(|detail| format!("detail={}", Escaped(detail.as_bytes()))).into_iter().collect();
        details.extend(exchange.trace().map(|trace| format!("trace={trace}")));
        let line = format!("fault table={name} backend={label} cause=\"{cause}\"");
        self.faults.warn_of(&line, &details.join(" "), self.turn.now);
        // Postfix prints the reason in its own log, where it has to name table and backend.
        match detail {
            None => Failure::new(kind, format_args!("{name}: {label} {cause}")),
            Some(detail) => Failure::new(kind, format_args!("{name}: {label} {cause}: {detail}")),
        }
    }
}
