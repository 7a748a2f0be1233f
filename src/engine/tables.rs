//! Tables by name, with their metrics.

use super::carriers::Carriers;
use crate::backend::TraceId;
use crate::io::Turn;
use crate::log::{self, Escaped};
use crate::metrics::TableMetrics;
use crate::query::Tokens;
use crate::query::{Answer, AskKind, Decision, FailureKind, Write};
use crate::table::{Caching, KeyRules, OnFault, Plan, Question, ResponseError, ResponseOf, Setup, TableEntry, Written};
use crate::wire::http::Response;
use std::time::{Duration, Instant};

/// The tables, sorted by name.
pub(super) struct Tables {
    entries: Vec<TableEntry>,
    metrics: Vec<TableMetrics>,
    /// The time limit of requests to tables without a limit of their own.
    timeout: Duration,
    /// When the first of them has something to do by time alone.
    next_tick: Option<Instant>,
}

/// The plan of a table for a question, with its name and metrics to record an immediate answer.
// In one borrow, because an immediate answer borrows its value from the table.
pub(super) struct Planned<'a> {
    pub name: &'a str,
    pub metrics: &'a mut TableMetrics,
    pub plan: Plan<'a>,
}

impl Tables {
    pub(super) fn new(mut entries: Vec<TableEntry>, timeout: Duration, now: Instant) -> Self {
        // Binary search in a few names is faster than hashing one.
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        let metrics = vec![TableMetrics::default(); entries.len()];
        Self { metrics, entries, timeout, next_tick: Some(now) }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The index of the table with this name.
    pub(super) fn find(&self, name: &[u8]) -> Option<usize> {
        self.entries.binary_search_by(|entry| entry.name.as_bytes().cmp(name)).ok()
    }

    pub(super) fn name(&self, table: usize) -> &str {
        &self.entries[table].name
    }

    /// The time limit of requests to a table.
    pub(super) fn timeout(&self, table: usize) -> Duration {
        self.entries[table].timeout.unwrap_or(self.timeout)
    }

    pub(super) fn caching(&self, table: usize) -> Option<Caching> {
        self.entries[table].caching
    }

    /// Which keys a socketmap lookup asks for.
    pub(super) fn keys(&self, table: usize) -> KeyRules {
        self.entries[table].keys
    }

    pub(super) fn metrics(&mut self, table: usize) -> &mut TableMetrics {
        &mut self.metrics[table]
    }

    pub(super) fn plan(&mut self, table: usize, question: Question<'_>, now: Instant) -> Planned<'_> {
        let TableEntry { name, table: of, .. } = &mut self.entries[table];
        Planned { name, metrics: &mut self.metrics[table], plan: of.plan(question, now) }
    }

    pub(super) fn parse_value<'a>(
        &self,
        table: usize,
        of: ResponseOf,
        response: Response<'a>,
    ) -> Result<Answer<'a>, ResponseError> {
        self.entries[table].table.parse_value(of, response)
    }

    pub(super) fn parse_write(
        &self,
        table: usize,
        write: &Write,
        response: &Response<'_>,
    ) -> Result<Written, ResponseError> {
        self.entries[table].table.parse_write(write, response)
    }

    pub(super) fn parse_ask(
        &self,
        table: usize,
        kind: AskKind,
        response: &Response<'_>,
    ) -> Result<Decision, ResponseError> {
        self.entries[table].table.parse_ask(kind, response)
    }

    /// True if the table decides for a listener.
    pub(super) fn decides(&self, table: usize) -> bool {
        self.entries[table].decides
    }

    /// Whether the table with this name accepts tokens.
    pub(super) fn tokens(&self, name: &str) -> Tokens {
        self.find(name.as_bytes()).map(|table| self.entries[table].tokens).unwrap_or_default()
    }

    /// What a policy client gets in place of a fault.
    pub(super) fn on_fault(&self, table: usize) -> OnFault {
        self.entries[table].on_fault
    }

    /// Rereads files.
    pub(super) fn reload(&mut self, carriers: &mut Carriers, turn: &mut Turn) {
        let mut setup = Setup::new(&mut carriers.backends, &mut carriers.programs, turn);
        self.entries.iter_mut().for_each(|entry| entry.table.reload(&mut setup));
        self.next_tick = Some(setup.turn.now);
    }

    /// Lets tables do what is due by time alone.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.next_tick.is_some_and(|at| at <= now) {
            // All of them, as this is seldom; one that is early has little to do.
            self.next_tick = self.entries.iter_mut().filter_map(|entry| entry.table.tick(now)).min();
        }
    }

    /// When [`Tables::tick`] must be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next_tick
    }

    /// The names and metrics of all tables.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &TableMetrics)> {
        self.entries.iter().map(|entry| &entry.name[..]).zip(&self.metrics)
    }
}

/// Counts the answer to a lookup, which took the time `took`.
pub(super) fn record(metrics: &mut TableMetrics, answer: &Answer<'_>, took: Duration) {
    match answer {
        Answer::Found(_) => metrics.found += 1,
        Answer::Miss => metrics.missed += 1,
        Answer::Failed(failure) if failure.kind == FailureKind::Timeout => metrics.timed_out += 1,
        Answer::Failed(_) => metrics.failed += 1,
    }
    metrics.latency.observe(took);
}

/// Logs the answer to a lookup at debug level.
pub(super) fn log_answer(table: &str, key: &[u8], answer: &Answer<'_>, trace: Option<TraceId>) {
    // Only at this level, and without the value: keys and values are data of users.
    if !log::shows(log::Level::Debug) {
        return;
    }
    let result = match answer {
        Answer::Found(_) => "found",
        Answer::Miss => "miss",
        Answer::Failed(_) => "failed",
    };
    let trace = trace.map(|trace| format!(" trace={trace}")).unwrap_or_default();
    log::debug(format_args!("lookup table={table} key={} result={result}{trace}", Escaped(key)));
}
