//! One lookup in each table over each of its backends, for `--check=KEY`.

use super::shared::Shared;
use crate::backend::{Asker, Carrier, Exchange, Finished, TimeLimit};
use crate::query::Answer;
use crate::table::{Plan, Question};

/// The domain that name servers are asked for (RFC 2606).
const EXAMPLE: &[u8] = b"example.org";

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
    /// There was no key to look up.
    only_dns: bool,
}

impl Probes {
    /// Looks up a key in each table, over each of its backends. Without a key, asks only name servers, for a domain that
    /// exists: nothing else shows whether they can be reached.
    pub(super) fn start(&mut self, key: Option<&[u8]>, shared: &mut Shared) {
        let now = shared.turn.now;
        let (only_dns, key) = key.map_or((true, EXAMPLE), |key| (false, key));
        self.only_dns = only_dns;
        for table in (0..shared.tables.len()).filter(|table| !shared.tables.decides(*table)).collect::<Vec<_>>() {
            let timeout = shared.tables.timeout(table);
            let limit = TimeLimit { deadline: now + timeout, timeout };
            match shared.tables.plan(table, Question::Get(key), now).plan {
                Plan::Request(request) if only_dns && !matches!(request.carrier(), Carrier::Dns(_)) => {}
                Plan::Request(request) => {
                    for request in request.for_each_route() {
                        let asker = Asker::Probe(self.results.len() as u32);
                        self.results.push(None);
                        let exchange = shared.spare.take(asker, table, limit, request, key, now);
                        shared.submit(exchange);
                    }
                }
                Plan::Answer(_) if only_dns => {}
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
        let table = exchange.table;
        let status = result.as_ref().ok().and_then(|response| status(&exchange, response.status));
        let backend = Some(shared.carriers.label(&exchange).to_owned());
        let answer = shared.parse_value(table, false, &exchange, shared.took(&exchange), result);
        let mut result = described(&answer, status);
        if self.only_dns {
            result = result.map(|_| format!("answered the question for {}", EXAMPLE.escape_ascii()));
        }
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

/// The status of a response, if it came over HTTP.
fn status(exchange: &Exchange, status: u16) -> Option<u16> {
    matches!(exchange.carrier(), Carrier::Http).then_some(status)
}

fn described(answer: &Answer<'_>, status: Option<u16>) -> Result<String, String> {
    let what = match answer {
        Answer::Failed(failure) => return Err(failure.reason().to_owned()),
        Answer::Found(_) => "a value",
        Answer::Miss => "no such key",
    };
    Ok(status.map_or_else(|| what.to_owned(), |status| format!("answered {status}: {what}")))
}
