//! Lookups that ask for several keys, one after another until one has a value.

use crate::log::Escaped;
use crate::query::Answer;
use std::fmt::Write;
use std::time::Instant;

/// What `podop query -v` puts in front of the name of a table.
pub const EXPLAIN: &[u8] = b"explain:";

/// A lookup that may ask for several keys. Its deadline is that of one lookup.
pub(super) struct Search {
    /// The key that is being asked for.
    pub key: Vec<u8>,
    /// Those that come next if it has no value, the first one last.
    left: Vec<Vec<u8>>,
    /// When the lookup arrived, and when the current key was asked for.
    pub since: Instant,
    step_since: Instant,
    /// A line for each key so far, if the client has asked for them.
    pub explanation: Option<String>,
}

impl Search {
    /// `keys` has at least one.
    pub(super) fn new(mut keys: Vec<Vec<u8>>, explained: bool, now: Instant) -> Self {
        keys.reverse();
        let key = keys.pop().unwrap_or_default();
        Self { key, left: keys, since: now, step_since: now, explanation: explained.then(String::new) }
    }

    /// Goes on to the next key, if this answer is a miss and there is one. A fault ends the search: a catch-all must not
    /// take over an address that may exist.
    pub(super) fn advance(&mut self, answer: &Answer<'_>, now: Instant) -> bool {
        let result = match answer {
            // What is none for Postfix, like an empty list, is none here.
            Answer::Found(value) if value.is_none_for_postfix() => "miss",
            Answer::Found(_) => "found",
            Answer::Miss => "miss",
            Answer::Failed(_) => "failed",
        };
        if let Some(lines) = &mut self.explanation {
            let took = now.saturating_duration_since(self.step_since).as_secs_f64() * 1000.0;
            let _ = writeln!(lines, "{}: {result} ({took:.1} ms)", Escaped(&self.key));
        }
        let next = if result == "miss" { self.left.pop() } else { None };
        let Some(key) = next else { return false };
        (self.key, self.step_since) = (key, now);
        true
    }
}
