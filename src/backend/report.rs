//! What is reported of a backend.

use crate::metrics::BackendMetrics;
use std::time::Instant;

/// The state of a backend, or of a program.
#[derive(Debug)]
pub struct BackendReport<'a> {
    /// Its name in logs and metrics, which several have if their options differ.
    pub label: &'a str,
    pub metrics: BackendMetrics,
    /// Why requests are not sent to it as usual.
    pub trouble: Option<&'a Trouble>,
    /// It could be reached at the last attempt. False if there was none, or if it failed, which `trouble` says for a minute.
    pub is_reached: bool,
}

/// Why something is not in use, and since when.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// The predicate of a sentence that begins with the backend.
    pub cause: String,
    pub since: Instant,
}
