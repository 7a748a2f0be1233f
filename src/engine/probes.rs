//! One lookup in each table over each of its backends, for `--check=KEY`.

use super::shared::Shared;
use crate::backend::{Asker, Finished, TimeLimit};
use crate::query::Answer;
use crate::table::{Plan, Question};

/// The result of one lookup.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProbeResult {
    pub table: String,
    /// The backend that was asked; `None` for a table that has none.
    pub backend: Option<String>,
    /// What came back, without the value; or why nothing did.
    pub result: Result<String, String>,
}

/// The lookups of a check, by their numbers.
#[derive(Default)]
pub(super) struct Probes {
    results: Vec<Option<ProbeResult>>,
}

impl Probes {
    /// Looks up a key in each table, over each of its backends.
    pub(super) fn start(&mut self, key: &[u8], shared: &mut Shared) {
        let now = shared.turn.now;
        for table in (0..shared.tables.len()).filter(|table| !shared.tables.decides(*table)).collect::<Vec<_>>() {
            let timeout = shared.tables.timeout(table);
            let limit = TimeLimit { deadline: now + timeout, timeout };
            match shared.tables.plan(table, Question::Get(key), now).plan {
                Plan::Request(request) => {
                    for request in request.for_each_route() {
                        let asker = Asker::Probe(self.results.len() as u32);
                        self.results.push(None);
                        let exchange = shared.spare.take(asker, table, limit, request, key, now);
                        shared.backends.submit(exchange, &mut shared.turn);
                    }
                }
                Plan::Answer(answer) => {
                    let result = described(&answer, None);
                    let table = shared.tables.name(table).to_owned();
                    self.results.push(Some(ProbeResult { table, backend: None, result }));
                }
            }
        }
    }

    /// Handles the result of a lookup.
    pub(super) fn complete(&mut self, number: u32, finished: Finished<'_>, shared: &mut Shared) {
        let Finished { exchange, result, .. } = finished;
        let (table, status) = (exchange.table, result.as_ref().map(|response| response.status).ok());
        let backend = Some(shared.backends.label(&exchange).to_owned());
        let answer = shared.parse_value(table, false, &exchange, shared.took(&exchange), result);
        let result = described(&answer, status);
        let table = shared.tables.name(table).to_owned();
        if let Some(place) = self.results.get_mut(number as usize) {
            *place = Some(ProbeResult { table, backend, result });
        }
    }

    /// All results; `None` while one is missing.
    pub(super) fn results(&self) -> Option<Vec<ProbeResult>> {
        self.results.iter().cloned().collect()
    }
}

fn described(answer: &Answer<'_>, status: Option<u16>) -> Result<String, String> {
    let what = match answer {
        Answer::Failed(failure) => return Err(failure.reason().to_owned()),
        Answer::Found(_) => "a value",
        Answer::Miss => "no such key",
    };
    Ok(status.map_or_else(|| what.to_owned(), |status| format!("answered {status}: {what}")))
}
