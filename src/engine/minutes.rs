//! What happened in the last minute, from copies of the counters.

use super::shared::Shared;
use crate::metrics::{BackendMetrics, Histogram, TableMetrics};
use crate::status::Minute;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// The shortest time between two copies.
const INTERVAL: Duration = Duration::from_secs(10);

/// Copies of the counters of the last minute or a little more. They are made in turns that take place anyway: while there are
/// none, no counter changes.
#[derive(Debug)]
pub(super) struct Minutes {
    start: Instant,
    samples: VecDeque<Sample>,
    next: Instant,
}

/// The counters at one time, as far as they are compared.
#[derive(Debug)]
struct Sample {
    at: Instant,
    /// By the number of the table: latencies, and lookups answered without a request of their own.
    tables: Vec<(Histogram, u64)>,
    backends: BTreeMap<String, Histogram>,
}

impl Minutes {
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, samples: VecDeque::new(), next: now + INTERVAL }
    }

    /// The time since the start.
    pub(super) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }

    /// Copies the counters, if that is due. To be called before each event, so that it does not count yet.
    #[inline]
    pub(super) fn tick(&mut self, shared: &Shared) {
        if self.next <= shared.turn.now {
            self.sample(shared);
        }
    }

    // Not a part of each event's way.
    #[inline(never)]
    fn sample(&mut self, shared: &Shared) {
        let at = shared.turn.now;
        self.next = at + INTERVAL;
        // The last one that is older than a minute is where the minute begins.
        while self.samples.get(1).is_some_and(|second| second.at + MINUTE <= at) {
            self.samples.pop_front();
        }
        let tables = shared.tables.iter().map(|(_, table)| (table.latency.clone(), table.cached())).collect();
        let backends =
            backends(shared).into_iter().map(|(label, metrics)| (label.to_owned(), metrics.latency)).collect();
        self.samples.push_back(Sample { at, tables, backends });
    }

    /// Where the last minute begins: a sample, or nothing for the start; and the seconds since then. `None` if nothing can
    /// have happened in it.
    fn base(&self, now: Instant) -> Option<(Option<&Sample>, f64)> {
        // Between two samples that are further apart than the interval, nothing happened after the first of them.
        let recent = |sample: &&Sample| now < sample.at + MINUTE + INTERVAL;
        let uptime = self.uptime(now);
        let (sample, time) = if uptime < MINUTE + INTERVAL {
            (None, uptime)
        } else {
            let sample = self.samples.iter().find(recent)?;
            (Some(sample), now.saturating_duration_since(sample.at).max(MINUTE))
        };
        Some((sample, time.as_secs_f64().max(1.0)))
    }

    /// Requests to a table in the last minute, and the share of those that needed no request of their own.
    pub(super) fn table(&self, number: usize, metrics: &TableMetrics, now: Instant) -> (Minute, Option<f64>) {
        let Some((sample, seconds)) = self.base(now) else { return Default::default() };
        let nothing = (Histogram::default(), 0);
        let (latency, cached) = sample.map_or(&nothing, |sample| &sample.tables[number]);
        let recent = metrics.latency.after(latency);
        // Lookups are counted when they are joined to a request, and once more if they get an expired value.
        let share = (metrics.cached().saturating_sub(*cached)) as f64 / recent.count() as f64;
        (minute(&recent, seconds), (recent.count() > 0).then_some(share.min(1.0)))
    }

    /// Responses of a backend in the last minute.
    pub(super) fn backend(&self, label: &str, metrics: &BackendMetrics, now: Instant) -> Minute {
        let Some((sample, seconds)) = self.base(now) else { return Minute::default() };
        let nothing = Histogram::default();
        let latency = sample.and_then(|sample| sample.backends.get(label)).unwrap_or(&nothing);
        minute(&metrics.latency.after(latency), seconds)
    }
}

fn minute(recent: &Histogram, seconds: f64) -> Minute {
    let per_second = recent.count() as f64 / seconds;
    Minute { per_second, p50: recent.quantile(0.5), p99: recent.quantile(0.99) }
}

/// The metrics of each backend and program. Pools of the same backend with different settings share its label.
pub(super) fn backends(shared: &Shared) -> BTreeMap<&str, BackendMetrics> {
    let mut backends = BTreeMap::<&str, BackendMetrics>::new();
    for report in shared.carriers.reports(shared.turn.now) {
        backends.entry(report.label).or_default().add(&report.metrics);
    }
    backends
}
