//! What is said of the state: to the log, and to who asks for figures.

use super::Proxy;
use crate::log::{self, Escaped};
use crate::query::Answer;

impl Proxy {
    /// Writes the state to the log.
    pub fn dump(&self) {
        let waiting: usize = self.clients.iter().map(|(_, client)| client.open()).sum();
        log::warn(format_args!("state clients={} requests={waiting} jobs={}", self.clients.len(), self.jobs.len()));
        self.backend.dump();
    }
}

/// Tells, at debug level, what became of a lookup.
pub(super) fn log_answer(table: &str, answer: &Answer<'_>, key: &[u8]) {
    if !log::shows(log::Level::Debug) {
        return;
    }
    let word = match answer {
        Answer::Found(_) => "found",
        Answer::Miss => "miss",
        Answer::Failed(_) => "failed",
    };
    log::debug(format_args!("lookup table={table} key={} result={word}", Escaped(key)));
}
