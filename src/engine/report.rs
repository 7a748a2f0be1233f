//! What is said of the state: to the log, and to who asks for metrics.

use super::Engine;
use crate::arena::Key;
use crate::client::AdminPage;
use crate::io::{Action, Peer};
use crate::log::{self, Escaped};
use crate::metrics::{BackendMetrics, Exposition, TableMetrics};
use crate::query::{Answer, FailureKind};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

impl Engine {
    /// Writes the metrics to the log, without the buckets.
    pub fn dump(&self) {
        for line in self.metrics().lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{")) {
            log::notice(format_args!("state {line}"));
        }
    }

    /// One line for a person: tables and backends.
    pub fn summary(&self, now: Instant) -> String {
        let (backends, unreachable) = self.backend.health(now);
        let trouble = if unreachable == 0 { String::new() } else { format!(", {unreachable} unreachable") };
        format!("{} tables, {backends} backends{trouble}, {} clients", self.tables.len(), self.mail_servers())
    }

    fn mail_servers(&self) -> usize {
        self.clients.iter().filter(|(_, client)| !client.is_admin()).count()
    }

    /// Shows a page to who watches.
    pub(super) fn respond(&mut self, key: Key, page: AdminPage) {
        let (status, body) = match page {
            AdminPage::Metrics => ("200 OK", self.metrics()),
            AdminPage::Health => ("200 OK", "ok\n".to_owned()),
            AdminPage::Readiness => ("200 OK", "ok\n".to_owned()),
            AdminPage::Unknown => ("404 Not Found", "/metrics, /healthz, /readyz\n".to_owned()),
            AdminPage::Refused => ("405 Method Not Allowed", "GET only\n".to_owned()),
        };
        let Some(client) = self.clients.get_mut(key) else { return };
        client.respond(status, &body);
        self.actions.push_back(Action::Flush(Peer::Client(key)));
    }

    /// All metrics, as Prometheus reads them. Labels come from the command line only.
    pub fn metrics(&self) -> String {
        let mut text = Exposition::default();
        text.family("podop_build_info", "gauge", "The version that runs.");
        text.sample("podop_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.client_metrics(&mut text);
        let tables: Vec<_> = self.tables.iter().map(|opened| &opened.name[..]).zip(&self.metrics).collect();
        table_metrics(&tables, &mut text);
        self.cache_metrics(&mut text);
        let mut backends = BTreeMap::<&str, BackendMetrics>::new();
        for (label, metrics) in self.backend.metrics() {
            backends.entry(label).or_default().add(&metrics);
        }
        backend_metrics(&backends, &mut text);
        text.into_string()
    }

    fn client_metrics(&self, text: &mut Exposition) {
        text.family("podop_clients", "gauge", "Connections of mail servers.");
        text.sample("podop_clients", &[], self.mail_servers());
        let (name, help) = ("podop_clients_accepted_total", "Connections of mail servers that were accepted.");
        text.family(name, "counter", help);
        text.sample(name, &[], self.accepted);
        let (name, help) =
            ("podop_clients_rejected_total", "Clients that were closed for what they sent or did not read.");
        text.family(name, "counter", help);
        text.sample(name, &[], self.dropped);
        let waiting: usize = self.clients.iter().map(|(_, client)| client.open()).sum();
        text.family("podop_requests_in_flight", "gauge", "Requests that wait for their answers.");
        text.sample("podop_requests_in_flight", &[], waiting);
        let (name, help) = ("podop_unknown_table_requests_total", "Requests to tables that are not there.");
        text.family(name, "counter", help);
        text.sample(name, &[], self.unknown_table);
    }

    fn cache_metrics(&self, text: &mut Exposition) {
        let metrics = self.cache.metrics();
        text.family("podop_cache_entries", "gauge", "Answers that are kept.");
        text.sample("podop_cache_entries", &[], metrics.entries);
        text.family("podop_cache_bytes", "gauge", "What they take, of --cache-size.");
        text.sample("podop_cache_bytes", &[], metrics.bytes);
        text.family("podop_cache_evictions_total", "counter", "Answers that had to go to make room.");
        text.sample("podop_cache_evictions_total", &[], metrics.evicted);
    }

    /// Counts a client that is let go for its own fault.
    pub(super) fn drop_client(&mut self, key: Key) {
        self.dropped += 1;
        self.remove(key);
    }
}

/// The value of a label, and where its figure is.
type Figure<T> = (&'static str, fn(&T) -> u64);

fn table_metrics(tables: &[(&str, &TableMetrics)], text: &mut Exposition) {
    let each = || tables.iter().copied();
    let what = ["podop_lookups_total", "counter", "Lookups, by what came of them."];
    let results: &[Figure<TableMetrics>] = &[
        ("found", |table| table.found),
        ("miss", |table| table.missed),
        ("fault", |table| table.failed),
        ("timeout", |table| table.timed_out),
    ];
    family(text, what, ["table", "result"], each(), results);
    let what = ["podop_iterations_total", "counter", "Lists of a dict, by what came of them."];
    let results: &[Figure<TableMetrics>] =
        &[("done", |table| table.iterated), ("failed", |table| table.iterations_failed)];
    family(text, what, ["table", "result"], each(), results);
    let what = ["podop_commits_total", "counter", "Transactions of a dict, by what came of them."];
    let results: &[Figure<TableMetrics>] = &[
        ("done", |table| table.committed),
        ("not_found", |table| table.commits_not_found),
        ("failed", |table| table.commits_failed),
        ("uncertain", |table| table.commits_uncertain),
    ];
    family(text, what, ["table", "result"], each(), results);
    let what = ["podop_cache_answers_total", "counter", "Lookups that needed no exchange of their own."];
    let kinds: &[Figure<TableMetrics>] = &[
        ("fresh", |table| table.cache_fresh),
        ("stale", |table| table.cache_stale),
        ("coalesced", |table| table.coalesced),
    ];
    family(text, what, ["table", "kind"], each(), kinds);
    let what = ["podop_slow_exchanges_total", "counter", "Requests to backends that took longer than --slow."];
    family(text, what, ["table", ""], each(), &[("", |table| table.slow)]);
    let name = "podop_lookup_duration_seconds";
    text.family(name, "histogram", "From a lookup's arrival until its answer.");
    each().for_each(|(table, metrics)| text.histogram(name, &[("table", table)], &metrics.latency));
}

fn backend_metrics(backends: &BTreeMap<&str, BackendMetrics>, text: &mut Exposition) {
    let each = || backends.iter().map(|(label, metrics)| (*label, metrics));
    let what = ["podop_exchanges_total", "counter", "Requests to backends, by status or fault."];
    let outcomes: &[Figure<BackendMetrics>] = &[
        ("2xx", |backend| backend.answered[0]),
        ("3xx", |backend| backend.answered[1]),
        ("4xx", |backend| backend.answered[2]),
        ("5xx", |backend| backend.answered[3]),
        ("fault", |backend| backend.failed),
        ("timeout", |backend| backend.timed_out),
    ];
    family(text, what, ["backend", "outcome"], each(), outcomes);
    let what = ["podop_connections", "gauge", "Connections to backends."];
    let states: &[Figure<BackendMetrics>] =
        &[("busy", |backend| backend.busy), ("idle", |backend| backend.idle), ("connecting", |one| one.connecting)];
    family(text, what, ["backend", "state"], each(), states);
    tls_metrics(backends, text);
    let what = ["podop_resends_total", "counter", "Requests sent once more because a used connection broke."];
    family(text, what, ["backend", ""], each(), &[("", |backend| backend.resent)]);
    let what = ["podop_retries_total", "counter", "Requests handed on to another replica."];
    family(text, what, ["backend", ""], each(), &[("", |backend| backend.retried)]);
    let what = ["podop_connections_opened_total", "counter", "Connections to backends that were opened."];
    family(text, what, ["backend", ""], each(), &[("", |backend| backend.opened)]);
    let what = ["podop_backend_down", "gauge", "Whether the backend is set aside after faults."];
    family(text, what, ["backend", ""], each(), &[("", |backend| backend.down)]);
    let what = ["podop_queue_length", "gauge", "Requests that wait for a connection."];
    family(text, what, ["backend", ""], each(), &[("", |backend| backend.waiting)]);
}

/// What only backends with TLS have.
fn tls_metrics(backends: &BTreeMap<&str, BackendMetrics>, text: &mut Exposition) {
    let each = || backends.iter().filter(|(_, metrics)| metrics.tls).map(|(label, metrics)| (*label, metrics));
    if each().next().is_none() {
        return;
    }
    let name = "podop_connections";
    each().for_each(|(label, metrics)| {
        text.sample(name, &[("backend", label), ("state", "handshaking")], metrics.handshaking);
    });
    let what = ["podop_tls_handshakes_total", "counter", "TLS handshakes, by what came of them."];
    let results: &[Figure<BackendMetrics>] = &[
        ("full", |backend| backend.handshakes_full),
        ("resumed", |backend| backend.handshakes_resumed),
        ("failed", |backend| backend.handshakes_failed),
    ];
    family(text, what, ["backend", "result"], each(), results);
    let (name, help) = ("podop_tls_handshake_seconds_total", "What the handshakes took that were done.");
    text.family(name, "counter", help);
    each().for_each(|(label, metrics)| {
        text.sample(name, &[("backend", label)], metrics.handshakes_us as f64 / 1e6);
    });
}

/// A family `[name, kind, help]` with a sample for each owner, and for each value of the second label if that has a name.
fn family<'a, T: 'a>(
    text: &mut Exposition,
    [name, kind, help]: [&str; 3],
    [owner, label]: [&str; 2],
    owners: impl Iterator<Item = (&'a str, &'a T)>,
    values: &[Figure<T>],
) {
    text.family(name, kind, help);
    for (of, metrics) in owners {
        for (value, figure) in values {
            let labels = [(owner, of), (label, *value)];
            let count = if label.is_empty() { 1 } else { 2 };
            text.sample(name, &labels[..count], figure(metrics));
        }
    }
}

/// Counts the answer to a lookup.
pub(super) fn count(metrics: &mut TableMetrics, answer: &Answer<'_>, took: Duration) {
    match answer {
        Answer::Found(_) => metrics.found += 1,
        Answer::Miss => metrics.missed += 1,
        Answer::Failed(failure) if failure.kind == FailureKind::Timeout => metrics.timed_out += 1,
        Answer::Failed(_) => metrics.failed += 1,
    }
    metrics.latency.observe(took);
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
