//! Figures, and the text in which Prometheus reads them (exposition format 0.0.4).

use std::fmt::{self, Display, Write};
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds, and as they are written, in seconds.
const BUCKETS: [(u64, &str); 14] = [
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (20_000_000, "20"),
];

/// How long something took, how often.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Per bucket, not yet added up; the last one has no bound.
    counts: [u64; BUCKETS.len() + 1],
    sum_us: u64,
}

impl Histogram {
    pub fn observe(&mut self, took: Duration) {
        let us = took.as_secs() * 1_000_000 + u64::from(took.subsec_micros());
        let at = BUCKETS.iter().position(|(bound, _)| us <= *bound).unwrap_or(BUCKETS.len());
        self.counts[at] += 1;
        self.sum_us += us;
    }
}

/// What became of the requests to one table.
#[derive(Clone, Debug, Default)]
pub struct TableMetrics {
    pub found: u64,
    pub missed: u64,
    pub failed: u64,
    pub timed_out: u64,
    /// Lookups of all these kinds.
    pub latency: Histogram,
    pub iterated: u64,
    pub iterations_failed: u64,
    pub committed: u64,
    pub commits_not_found: u64,
    pub commits_failed: u64,
    pub commits_uncertain: u64,
    /// Lookups that were answered from the cache, with an answer that was out of date, or together with others.
    pub cache_fresh: u64,
    pub cache_stale: u64,
    pub coalesced: u64,
    /// Exchanges that took longer than what is called slow.
    pub slow: u64,
}

/// What became of the exchanges with one backend.
#[derive(Clone, Debug, Default)]
pub struct BackendMetrics {
    /// By the first digit of the status, from 2 on; what does not exist counts as 5.
    pub answered: [u64; 4],
    pub failed: u64,
    pub timed_out: u64,
    /// Sent once more, because a used connection broke.
    pub resent: u64,
    /// Handed on to another replica.
    pub retried: u64,
    pub opened: u64,
    /// Its connections have TLS, and so many handshakes were done in full, were shortened, and failed.
    pub tls: bool,
    pub handshakes_full: u64,
    pub handshakes_resumed: u64,
    pub handshakes_failed: u64,
    /// What those took that were done.
    pub handshakes_us: u64,
    pub busy: u64,
    pub idle: u64,
    pub connecting: u64,
    pub handshaking: u64,
    pub waiting: u64,
    /// How many of that name are set down.
    pub down: u64,
}

impl BackendMetrics {
    /// Counts an answer by its status.
    pub fn answer(&mut self, status: u16) {
        self.answered[usize::from(status / 100).clamp(2, 5) - 2] += 1;
    }

    /// Counts a handshake that was done.
    pub fn handshake(&mut self, resumed: bool, took: Duration) {
        *(if resumed { &mut self.handshakes_resumed } else { &mut self.handshakes_full }) += 1;
        self.handshakes_us += took.as_micros() as u64;
    }

    /// Adds the figures of another one that goes by the same name.
    pub fn add(&mut self, other: &BackendMetrics) {
        let BackendMetrics {
            answered,
            failed,
            timed_out,
            resent,
            retried,
            opened,
            tls,
            handshakes_full,
            handshakes_resumed,
            handshakes_failed,
            handshakes_us,
            busy,
            idle,
            connecting,
            handshaking,
            waiting,
            down,
        } = other;
        self.tls |= tls;
        self.answered.iter_mut().zip(answered).for_each(|(sum, more)| *sum += more);
        for (sum, more) in [
            (&mut self.failed, failed),
            (&mut self.timed_out, timed_out),
            (&mut self.resent, resent),
            (&mut self.retried, retried),
            (&mut self.opened, opened),
            (&mut self.handshakes_full, handshakes_full),
            (&mut self.handshakes_resumed, handshakes_resumed),
            (&mut self.handshakes_failed, handshakes_failed),
            (&mut self.handshakes_us, handshakes_us),
            (&mut self.busy, busy),
            (&mut self.idle, idle),
            (&mut self.connecting, connecting),
            (&mut self.handshaking, handshaking),
            (&mut self.waiting, waiting),
            (&mut self.down, down),
        ] {
            *sum += more;
        }
    }
}

/// The state of the answer cache.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheMetrics {
    pub entries: usize,
    pub bytes: usize,
    pub evicted: u64,
}

/// The text, family by family.
#[derive(Debug, Default)]
pub struct Exposition(String);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    /// Begins a family: all samples of one name. `kind` is `counter`, `gauge` or `histogram`.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}"); // memory takes it
    }

    pub fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        let _ = writeln!(self.0, "{name}{} {value}", Braces(labels));
    }

    pub fn histogram(&mut self, name: &str, labels: Labels<'_>, histogram: &Histogram) {
        let mut sum = 0;
        let bounds = BUCKETS.iter().map(|(_, bound)| *bound).chain(["+Inf"]);
        for (bound, count) in bounds.zip(histogram.counts) {
            sum += count;
            self.sample(&format!("{name}_bucket"), &[labels, &[("le", bound)]].concat(), sum);
        }
        self.sample(&format!("{name}_sum"), labels, histogram.sum_us as f64 / 1e6);
        self.sample(&format!("{name}_count"), labels, sum);
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

struct Braces<'a>(Labels<'a>);

impl Display for Braces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(f, "{}{name}=\"{value}\"", if at == 0 { "{" } else { "," })?;
        }
        f.write_str(if self.0.is_empty() { "" } else { "}" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_and_labels_are_escaped() {
        let mut histogram = Histogram::default();
        [0, 500, 501, 30_000_000].into_iter().for_each(|us| histogram.observe(Duration::from_micros(us)));
        let mut text = Exposition::default();
        text.family("a_seconds", "histogram", "How long.");
        text.histogram("a_seconds", &[("table", "a\"b\\")], &histogram);
        let text = text.into_string();
        assert!(text.starts_with(
            "# HELP a_seconds How long.\n# TYPE a_seconds histogram\n\
             a_seconds_bucket{table=\"a\\\"b\\\\\",le=\"0.0005\"} 2\n"
        ));
        assert!(text.contains("le=\"0.001\"} 3\n") && text.contains("le=\"20\"} 3\n"), "{text}");
        assert!(text.contains("le=\"+Inf\"} 4\n") && text.contains("_count{table=\"a\\\"b\\\\\"} 4\n"));
        assert!(text.contains("_sum{table=\"a\\\"b\\\\\"} 30.001001\n"), "{text}");
        let mut text = Exposition::default();
        text.sample("b", &[], 7);
        assert_eq!(text.into_string(), "b 7\n");
    }

    #[test]
    fn answers_are_counted_by_class() {
        let mut figures = BackendMetrics::default();
        [200, 204, 308, 404, 503, 999, 100].into_iter().for_each(|status| figures.answer(status));
        let mut sum = figures.clone();
        sum.add(&figures);
        assert_eq!((figures.answered, sum.answered), ([3, 1, 1, 2], [6, 2, 2, 4]));
    }
}
