//! Metrics and the status line.

use super::minutes::{Minutes, backends};
use super::shared::Shared;
use crate::backend::{BackendReport, Trouble};
use crate::client::AdminRequest;
use crate::log;
use crate::metrics::{ACTIONS, BackendMetrics, CacheMetrics, Exposition, NameServerMetrics, TableMetrics};
use crate::status::{BackendStatus, FaultStatus, Status, TableStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A status line: tables, backends and clients.
pub(super) fn summary(shared: &Shared, now: Instant) -> String {
    let backends = || shared.carriers.backends.reports(now);
    let unreachable = backends().filter(|backend| backend.trouble.is_some()).count();
    let trouble = if unreachable == 0 { String::new() } else { format!(", {unreachable} unreachable") };
    let backends = backends().count();
    let (tables, clients) = (shared.tables.len(), shared.clients.mail_servers());
    format!("{tables} tables, {backends} backends{trouble}, {clients} clients")
}

/// The body of the response to a request on the metrics listener.
pub(super) fn page(page: AdminRequest, metrics: impl FnOnce() -> String, status: impl FnOnce() -> Status) -> String {
    match page {
        AdminRequest::Metrics => metrics(),
        AdminRequest::Page => crate::status::html(&status()),
        AdminRequest::Status => crate::status::text(&status()),
        // Never 503: a shutdown closes the metrics listener first, so that no probe could see it.
        AdminRequest::Health | AdminRequest::Readiness => "ok\n".to_owned(),
        AdminRequest::UnknownPath => "/, /status, /metrics, /healthz, /readyz\n".to_owned(),
        AdminRequest::OtherMethod => "GET and HEAD only\n".to_owned(),
    }
}

/// The state for people.
pub(super) fn status(shared: &Shared, minutes: &Minutes) -> Status {
    let now = shared.turn.now;
    let tables = shared.tables.iter().enumerate().map(|(number, (name, metrics))| {
        let [found, missed, failed] = metrics.results();
        let (minute, cached) = minutes.table(number, metrics, now);
        TableStatus { name: name.to_owned(), found, missed, failed, minute, cached }
    });
    // Pools of the same backend with different settings share its label.
    let mut troubles = BTreeMap::<&str, &Trouble>::new();
    let mut reached = BTreeSet::<&str>::new();
    for BackendReport { label, trouble, is_reached, .. } in shared.carriers.reports(now) {
        reached.extend(is_reached.then_some(label));
        let Some(trouble) = trouble else { continue };
        let first = troubles.entry(label).or_insert(trouble);
        if trouble.since < first.since {
            *first = trouble;
        }
    }
    let backends = backends(shared);
    let backends = backends.iter().map(|(label, metrics)| BackendStatus {
        label: (*label).to_owned(),
        trouble: troubles
            .get(label)
            .map(|trouble| (trouble.cause.clone(), now.saturating_duration_since(trouble.since))),
        is_reached: reached.contains(label),
        busy: Some(metrics.busy),
        idle: metrics.idle,
        waiting: metrics.waiting,
        minute: minutes.backend(label, metrics, now),
    });
    let servers = shared.carriers.dns.silent(now).map(|(address, silent)| BackendStatus {
        label: format!("name server {address}"),
        trouble: silent.map(|time| ("did not answer in time".to_owned(), time)),
        is_reached: shared.carriers.dns.metrics().any(|(of, metrics)| of == address && metrics.answered > 0),
        ..BackendStatus::default()
    });
    let faults = shared.faults.recent().map(|recent| FaultStatus {
        line: recent.line.clone(),
        ago: now.saturating_duration_since(recent.last),
        count: recent.count,
    });
    Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime: minutes.uptime(now),
        clients: shared.clients.mail_servers(),
        in_flight: shared.clients.open_requests(),
        tables: tables.collect(),
        backends: backends.chain(servers).collect(),
        faults: faults.collect(),
    }
}

/// Logs metrics, without the buckets of histograms.
pub(super) fn dump(metrics: &str) {
    for line in metrics.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{")) {
        log::notice(format_args!("state {line}"));
    }
}

/// All metrics in the Prometheus text format.
pub(super) fn metrics(shared: &Shared, cache: CacheMetrics, unknown_table: u64) -> String {
    // Labels come from the command line only, so that no client can add time series.
    let mut text = Exposition::default();
    text.family("podop_build_info", "gauge", "Version of the running program.");
    text.sample("podop_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    client_metrics(shared, unknown_table, &mut text);
    let tables: Vec<_> = shared.tables.iter().collect();
    table_metrics(&tables, &mut text);
    cache_metrics(cache, &mut text);
    backend_metrics(&backends(shared), &mut text);
    dns_metrics(shared, &mut text);
    text.into_string()
}

fn client_metrics(shared: &Shared, unknown_table: u64, text: &mut Exposition) {
    let (accepted, dropped) = shared.clients.totals();
    let mut one = |name, kind, help, value| single(text, [name, kind, help], value);
    one("podop_clients", "gauge", "Connections of mail servers.", shared.clients.mail_servers() as u64);
    one("podop_clients_accepted_total", "counter", "Connections of mail servers that were accepted.", accepted);
    let help = "Clients closed because of invalid requests or unread replies.";
    one("podop_clients_rejected_total", "counter", help, dropped);
    let open = shared.clients.open_requests() as u64;
    one("podop_requests_in_flight", "gauge", "Requests without a complete reply.", open);
    let help = "Requests to tables that do not exist.";
    one("podop_unknown_table_requests_total", "counter", help, unknown_table);
}

fn cache_metrics(metrics: CacheMetrics, text: &mut Exposition) {
    let mut one = |name, kind, help, value| single(text, [name, kind, help], value);
    one("podop_cache_entries", "gauge", "Answers in the cache.", metrics.entries as u64);
    one("podop_cache_bytes", "gauge", "Memory used by the cache, limited by --cache-size.", metrics.bytes as u64);
    one("podop_cache_evictions_total", "counter", "Answers evicted to make room.", metrics.evicted);
}

/// A series of a family: the value of its label, and the value of its sample.
type Series<T> = (&'static str, fn(&T) -> u64);

fn table_metrics(tables: &[(&str, &TableMetrics)], text: &mut Exposition) {
    let each = || tables.iter().copied();
    let what = ["podop_lookups_total", "counter", "Lookups, by result."];
    let results: &[Series<TableMetrics>] = &[
        ("found", |table| table.found),
        ("miss", |table| table.missed),
        ("fault", |table| table.failed),
        ("timeout", |table| table.timed_out),
    ];
    family(text, what, ["table", "result"], each(), results);
    let what = ["podop_iterations_total", "counter", "Iterations of dict clients, by result."];
    let results: &[Series<TableMetrics>] =
        &[("done", |table| table.iterated), ("failed", |table| table.iterations_failed)];
    family(text, what, ["table", "result"], each(), results);
    let what = ["podop_commits_total", "counter", "Transactions of dict clients, by result."];
    let results: &[Series<TableMetrics>] = &[
        ("done", |table| table.committed),
        ("not_found", |table| table.commits_not_found),
        ("failed", |table| table.commits_failed),
        ("uncertain", |table| table.commits_uncertain),
    ];
    family(text, what, ["table", "result"], each(), results);
    let what = ["podop_decisions_total", "counter", "Decisions for policy clients, by the first word of the action."];
    let actions: &[Series<TableMetrics>] = &[
        (ACTIONS[0], |table| table.decisions[0]),
        (ACTIONS[1], |table| table.decisions[1]),
        (ACTIONS[2], |table| table.decisions[2]),
        (ACTIONS[3], |table| table.decisions[3]),
        ("other", |table| table.decisions[ACTIONS.len()]),
        ("fault", |table| table.decisions[ACTIONS.len() + 1]),
    ];
    family(text, what, ["table", "action"], each(), actions);
    let what = ["podop_logins_total", "counter", "Logins of authentication clients, by result."];
    let results: &[Series<TableMetrics>] =
        &[("ok", |table| table.logins[0]), ("fail", |table| table.logins[1]), ("fault", |table| table.logins[2])];
    family(text, what, ["table", "result"], each(), results);
    let what = ["podop_cache_answers_total", "counter", "Lookups answered without an exchange of their own."];
    let kinds: &[Series<TableMetrics>] = &[
        ("fresh", |table| table.cache_fresh),
        ("stale", |table| table.cache_stale),
        ("coalesced", |table| table.coalesced),
    ];
    family(text, what, ["table", "kind"], each(), kinds);
    let what = ["podop_slow_exchanges_total", "counter", "Requests to backends that took longer than --slow."];
    family(text, what, ["table", ""], each(), &[("", |table| table.slow)]);
    let name = "podop_lookup_duration_seconds";
    text.family(name, "histogram", "Time from the arrival of a lookup, or a request for a decision, to its answer.");
    each().for_each(|(table, metrics)| text.histogram(name, &[("table", table)], &metrics.latency));
}

fn backend_metrics(backends: &BTreeMap<&str, BackendMetrics>, text: &mut Exposition) {
    let each = || backends.iter().map(|(label, metrics)| (*label, metrics));
    let what = ["podop_exchanges_total", "counter", "Requests to backends, by status or fault."];
    let outcomes: &[Series<BackendMetrics>] = &[
        ("2xx", |backend| backend.responses[0]),
        ("3xx", |backend| backend.responses[1]),
        ("4xx", |backend| backend.responses[2]),
        ("5xx", |backend| backend.responses[3]),
        ("fault", |backend| backend.failed),
        ("timeout", |backend| backend.timed_out),
    ];
    family(text, what, ["backend", "outcome"], each(), outcomes);
    let what = ["podop_connections", "gauge", "Connections to backends."];
    let states: &[Series<BackendMetrics>] =
        &[("busy", |backend| backend.busy), ("idle", |backend| backend.idle), ("connecting", |one| one.connecting)];
    family(text, what, ["backend", "state"], each(), states);
    tls_metrics(backends, text);
    let name = "podop_exchange_duration_seconds";
    text.family(name, "histogram", "Time from sending a request to a backend to its response.");
    each().for_each(|(backend, metrics)| text.histogram(name, &[("backend", backend)], &metrics.latency));
    let what = ["podop_resends_total", "counter", "Requests sent again because a used connection broke."];
    family(text, what, ["backend", ""], each(), &[("", |backend| backend.resent)]);
    let what = ["podop_retries_total", "counter", "Requests sent to another replica."];
    family(text, what, ["backend", ""], each(), &[("", |backend| backend.retried)]);
    let what = ["podop_connections_opened_total", "counter", "Connections to backends that were opened."];
    family(text, what, ["backend", ""], each(), &[("", |backend| backend.connections_opened)]);
    let what = [
        "podop_backend_down",
        "gauge",
        "Whether a backend is marked down for a table, or less preferred than its replicas.",
    ];
    family(text, what, ["backend", ""], each(), &[("", |backend| backend.down)]);
    let what = ["podop_queue_length", "gauge", "Requests waiting for a connection."];
    family(text, what, ["backend", ""], each(), &[("", |backend| backend.waiting)]);
}

/// Metrics of the name servers that were asked, if there are any.
fn dns_metrics(shared: &Shared, text: &mut Exposition) {
    let servers: Vec<(String, NameServerMetrics)> =
        shared.carriers.dns.metrics().map(|(address, metrics)| (address.to_string(), metrics)).collect();
    if servers.is_empty() {
        return;
    }
    let what = ["podop_dns_queries_total", "counter", "Questions to name servers, by what came back."];
    let outcomes: &[Series<NameServerMetrics>] = &[
        ("answer", |server| server.answered),
        ("fault", |server| server.failed),
        ("timeout", |server| server.timed_out),
        ("ignored", |server| server.ignored),
    ];
    family(text, what, ["server", "outcome"], servers.iter().map(|(label, metrics)| (&label[..], metrics)), outcomes);
}

/// Metrics of backends with TLS.
fn tls_metrics(backends: &BTreeMap<&str, BackendMetrics>, text: &mut Exposition) {
    let each = || backends.iter().filter(|(_, metrics)| metrics.tls).map(|(label, metrics)| (*label, metrics));
    if each().next().is_none() {
        return;
    }
    // Still in the family of the caller: Prometheus requires that the lines of a family form one group.
    let name = "podop_connections";
    each().for_each(|(label, metrics)| {
        text.sample(name, &[("backend", label), ("state", "handshaking")], metrics.handshaking);
    });
    let what = ["podop_tls_handshakes_total", "counter", "TLS handshakes, by result."];
    let results: &[Series<BackendMetrics>] = &[
        ("full", |backend| backend.handshakes_full),
        ("resumed", |backend| backend.handshakes_resumed),
        ("failed", |backend| backend.handshakes_failed),
    ];
    family(text, what, ["backend", "result"], each(), results);
    let (name, help) = ("podop_tls_handshake_seconds_total", "Time spent in completed handshakes.");
    text.family(name, "counter", help);
    each().for_each(|(label, metrics)| {
        text.sample(name, &[("backend", label)], metrics.handshakes_us as f64 / 1e6);
    });
}

/// A family `[name, kind, help]` with one sample, without labels.
fn single(text: &mut Exposition, [name, kind, help]: [&str; 3], value: u64) {
    text.family(name, kind, help);
    text.sample(name, &[], value);
}

/// A family `[name, kind, help]` with a sample per owner, and per value of the second label unless its name is empty.
fn family<'a, T: 'a>(
    text: &mut Exposition,
    [name, kind, help]: [&str; 3],
    [owner, label]: [&str; 2],
    owners: impl Iterator<Item = (&'a str, &'a T)>,
    values: &[Series<T>],
) {
    text.family(name, kind, help);
    for (of, metrics) in owners {
        for (value, sample) in values {
            let labels = [(owner, of), (label, *value)];
            let count = if label.is_empty() { 1 } else { 2 };
            text.sample(name, &labels[..count], sample(metrics));
        }
    }
}
