//! What requests of all kinds work with: clients, tables, backends, and the log of faults.

use super::clients::Clients;
use super::tables::Tables;
use crate::backend::{Backends, Exchange, Fault, SpareExchanges};
use crate::io::Turn;
use crate::log::Repeats;
use crate::query::{Answer, Failure, FailureKind};
use crate::table::{ResponseOf, TableEntry};
use crate::wire::http::Response;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// What requests of all kinds work with.
pub(super) struct Shared {
    pub clients: Clients,
    pub tables: Tables,
    pub backends: Backends,
    pub faults: Repeats,
    pub spare: SpareExchanges,
    pub turn: Turn,
    /// An exchange that takes longer is worth a warning.
    pub slow: Duration,
}

impl Shared {
    /// `timeout` is the life of a request to a table that has none of its own.
    pub(super) fn new(tables: Vec<TableEntry>, backends: Backends, timeout: Duration) -> Self {
        Self {
            clients: Clients::default(),
            tables: Tables::new(tables, timeout),
            backends,
            faults: Repeats::default(),
            spare: SpareExchanges::default(),
            turn: Turn::new(Instant::now()),
            slow: Duration::from_secs(1),
        }
    }

    /// How long an exchange took that has just ended.
    pub(super) fn took(&self, exchange: &Exchange) -> Duration {
        self.turn.now.saturating_duration_since(exchange.since)
    }

    /// The answer that the table reads from the result of an exchange.
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
                    // A response that is no answer is a fault and never a miss: a miss would bounce mail.
                    Err(error) => self.failure(table, exchange, FailureKind::Temporary, &error),
                }
            }
        };
        Answer::Failed(failure)
    }

    /// Warns of an exchange that took too long.
    pub(super) fn check_slow(&mut self, table: usize, exchange: &Exchange, took: Duration) {
        if took < self.slow {
            return;
        }
        self.tables.metrics(table).slow += 1;
        let (name, label) = (self.tables.name(table), self.backends.label(exchange));
        let details = format!("took={:.3} {}", took.as_secs_f64(), exchange.phases(self.turn.now));
        self.faults.warn_of(&format!("slow table={name} backend={label}"), &details, self.turn.now);
    }

    /// The failure of a client whose exchange has no response.
    pub(super) fn fault(&mut self, table: usize, exchange: &Exchange, fault: &Fault) -> Failure {
        let timeout = matches!(fault, Fault::Timeout(_));
        let kind = if timeout { FailureKind::Timeout } else { FailureKind::Temporary };
        self.failure(table, exchange, kind, fault)
    }

    /// A failure, which is logged. `cause` completes a sentence that begins with the backend.
    pub(super) fn failure(
        &mut self,
        table: usize,
        exchange: &Exchange,
        kind: FailureKind,
        cause: &dyn Display,
    ) -> Failure {
        let (name, label) = (self.tables.name(table), self.backends.label(exchange));
        self.faults.warn(&format!("fault table={name} backend={label} cause=\"{cause}\""), self.turn.now);
        Failure::new(kind, format_args!("{name}: {label} {cause}"))
    }
}
