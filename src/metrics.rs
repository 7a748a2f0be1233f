//! Metrics, and their text for Prometheus (text exposition format 0.0.4).

use std::fmt::{self, Display, Write};
use std::time::Duration;

/// Upper bounds of the buckets: in microseconds, and in seconds as written.
// With the text of each bound, so that labels need no formatting of floats. The last bound is the default timeout.
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

/// A histogram of durations.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Observations per bucket, not cumulative; the last bucket is unbounded.
    counts: [u64; BUCKETS.len() + 1],
    sum_us: u64,
}

impl Histogram {
    /// Counts a duration.
    pub fn observe(&mut self, took: Duration) {
        // In 64 bits: `as_micros` computes in 128.
        let us = took.as_secs() * 1_000_000 + u64::from(took.subsec_micros());
        let at = BUCKETS.iter().position(|(bound, _)| us <= *bound).unwrap_or(BUCKETS.len());
        self.counts[at] += 1;
        self.sum_us += us;
    }

    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds the durations of another histogram.
    pub fn add(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, more)| *sum += more);
        self.sum_us += other.sum_us;
    }

    /// What was counted after `base`, an earlier copy.
    pub fn after(&self, base: &Histogram) -> Histogram {
        let mut later = self.clone();
        later.counts.iter_mut().zip(base.counts).for_each(|(sum, less)| *sum = sum.saturating_sub(less));
        later.sum_us = later.sum_us.saturating_sub(base.sum_us);
        later
    }

    /// The duration that this share of all durations does not exceed; `None` if there are none. As Prometheus computes it
    /// (`histogram_quantile`), durations are evenly spread within their bucket, and none is above the last bound.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = share * self.count() as f64;
        let (mut below, mut lower) = (0.0, 0);
        for ((bound, _), count) in BUCKETS.iter().zip(self.counts) {
            let count = count as f64;
            if count > 0.0 && below + count >= rank {
                let part = (rank - below).max(0.0) / count;
                return Some(Duration::from_micros(lower + ((bound - lower) as f64 * part) as u64));
            }
            (below, lower) = (below + count, *bound);
        }
        (self.count() > 0).then(|| Duration::from_micros(lower))
    }
}

/// Results of the requests to one table.
#[derive(Clone, Debug, Default)]
pub struct TableMetrics {
    pub found: u64,
    pub missed: u64,
    pub failed: u64,
    pub timed_out: u64,
    /// Latency of lookups and decisions with any result.
    pub latency: Histogram,
    pub iterated: u64,
    pub iterations_failed: u64,
    pub committed: u64,
    pub commits_not_found: u64,
    pub commits_failed: u64,
    pub commits_uncertain: u64,
    /// Lookups that were answered from the cache, with an expired answer, or by a request that was in flight for
    /// another one.
    pub cache_fresh: u64,
    pub cache_stale: u64,
    pub coalesced: u64,
    /// Requests that took longer than `--slow`.
    pub slow: u64,
    /// Decisions by [`ACTIONS`], then those of any other action, and faults.
    pub decisions: [u64; ACTIONS.len() + 2],
    /// Logins that were admitted, refused, and that failed.
    pub logins: [u64; 3],
}

impl TableMetrics {
    /// Lookups that needed no request of their own.
    pub fn cached(&self) -> u64 {
        self.cache_fresh + self.cache_stale + self.coalesced
    }

    /// Requests of any kind by result: found, no such key, failed. For decisions, DUNNO is none; for logins, a refusal.
    pub fn results(&self) -> [u64; 3] {
        let [ok, dunno, reject, defer, other, fault] = self.decisions;
        let [admitted, refused, failed] = self.logins;
        [
            self.found + ok + reject + defer + other + admitted,
            self.missed + dunno + refused,
            self.failed + self.timed_out + fault + failed,
        ]
    }
}

/// The first words of actions that are counted by themselves (access(5) of Postfix).
pub const ACTIONS: [&str; 4] = ["OK", "DUNNO", "REJECT", "DEFER_IF_PERMIT"];

/// Results of the questions to one name server.
#[derive(Clone, Copy, Debug, Default)]
pub struct NameServerMetrics {
    /// NOERROR and NXDOMAIN.
    pub answered: u64,
    /// Another result, an invalid response, or no connection.
    pub failed: u64,
    /// No answer before the question was repeated.
    pub timed_out: u64,
    /// Messages that belong to no question: late, or from someone else.
    pub ignored: u64,
}

/// Results of the requests to one backend.
#[derive(Clone, Debug, Default)]
pub struct BackendMetrics {
    /// Responses by status class, from 2XX to 5XX; a status above 599 counts as 5XX.
    pub responses: [u64; 4],
    /// The time from sending each request to its response, also if that came too late.
    pub latency: Histogram,
    pub failed: u64,
    pub timed_out: u64,
    /// Requests that were sent again because a reused connection broke.
    pub resent: u64,
    /// Requests that were sent to another replica after a fault.
    pub retried: u64,
    pub connections_opened: u64,
    /// Whether its connections use TLS; handshakes that were full, resumed, and failed.
    pub tls: bool,
    pub handshakes_full: u64,
    pub handshakes_resumed: u64,
    pub handshakes_failed: u64,
    /// The total time of successful handshakes in microseconds.
    pub handshakes_us: u64,
    pub busy: u64,
    pub idle: u64,
    pub connecting: u64,
    pub handshaking: u64,
    pub waiting: u64,
    /// The number of addresses of this backend that are marked down.
    pub down: u64,
}

impl BackendMetrics {
    /// Counts an exchange that has failed, at its deadline or before.
    pub fn count_failure(&mut self, timeout: bool) {
        *(if timeout { &mut self.timed_out } else { &mut self.failed }) += 1;
    }

    /// Counts a response by its status, and the time since its request was sent, if there was one.
    pub fn count_response(&mut self, status: u16, took: Option<Duration>) {
        self.responses[usize::from(status / 100).clamp(2, 5) - 2] += 1;
        took.into_iter().for_each(|took| self.latency.observe(took));
    }

    /// Counts a successful handshake.
    pub fn handshake(&mut self, resumed: bool, took: Duration) {
        *(if resumed { &mut self.handshakes_resumed } else { &mut self.handshakes_full }) += 1;
        self.handshakes_us += took.as_micros() as u64;
    }

    /// Adds the metrics of another pool with the same label.
    pub fn add(&mut self, other: &BackendMetrics) {
        // Taken apart without `..`, so that a new field cannot be forgotten here.
        let BackendMetrics {
            responses,
            latency,
            failed,
            timed_out,
            resent,
            retried,
            connections_opened,
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
        self.latency.add(latency);
        self.responses.iter_mut().zip(responses).for_each(|(sum, more)| *sum += more);
        for (sum, more) in [
            (&mut self.failed, failed),
            (&mut self.timed_out, timed_out),
            (&mut self.resent, resent),
            (&mut self.retried, retried),
            (&mut self.connections_opened, connections_opened),
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

/// The text of the metrics endpoint, family by family.
#[derive(Debug, Default)]
pub struct Exposition(String);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    /// Begins a family, which is all samples of one name. `kind` is `counter`, `gauge` or `histogram`.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}"); // writing to a String cannot fail
    }

    /// Appends one sample.
    pub fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        let _ = writeln!(self.0, "{name}{} {value}", Braces(labels));
    }

    /// Appends the cumulative buckets, sum and count of a histogram.
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

    /// Returns the text.
    pub fn into_string(self) -> String {
        self.0
    }
}

struct Braces<'a>(Labels<'a>);

impl Display for Braces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            // The escapes of label values in the exposition format.
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
    fn quantiles_lie_within_their_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        (0..100).for_each(|_| histogram.observe(Duration::from_micros(700)));
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_micros(750)));
        let base = histogram.clone();
        histogram.observe(Duration::from_secs(60));
        assert_eq!(histogram.quantile(0.99), Some(Duration::from_micros(999)));
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_secs(20)), "the last bound");
        let later = histogram.after(&base);
        assert_eq!((later.count(), later.quantile(0.01)), (1, Some(Duration::from_secs(20))));
    }

    #[test]
    fn answers_are_counted_by_class() {
        let mut metrics = BackendMetrics::default();
        [200, 204, 308, 404, 503, 999, 100].into_iter().for_each(|status| metrics.count_response(status, None));
        let mut sum = metrics.clone();
        sum.add(&metrics);
        assert_eq!((metrics.responses, sum.responses), ([3, 1, 1, 2], [6, 2, 2, 4]));
    }
}
