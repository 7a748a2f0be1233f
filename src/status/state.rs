//! What the status shows, and how numbers are written in it.

use std::time::Duration;

/// What both show.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pub version: &'static str,
    pub uptime: Duration,
    /// Connections of mail servers, and their requests that have no answer yet.
    pub clients: usize,
    pub in_flight: usize,
    pub tables: Vec<TableStatus>,
    pub backends: Vec<BackendStatus>,
    /// The last first.
    pub faults: Vec<FaultStatus>,
}

/// Requests to a table: lookups, decisions and logins.
#[derive(Clone, Debug, Default)]
pub struct TableStatus {
    pub name: String,
    /// Since the start. For decisions, DUNNO is a miss; for logins, a refusal.
    pub found: u64,
    pub missed: u64,
    pub failed: u64,
    pub minute: Minute,
    /// The share of lookups in the last minute that needed no request of their own, from 0 to 1.
    pub cached: Option<f64>,
}

/// Requests of the last minute.
#[derive(Clone, Copy, Debug, Default)]
pub struct Minute {
    pub per_second: f64,
    /// Half of them, and 99 %, took no longer.
    pub p50: Option<Duration>,
    pub p99: Option<Duration>,
}

/// A backend, the processes of a program, or a name server.
#[derive(Clone, Debug, Default)]
pub struct BackendStatus {
    pub label: String,
    /// Why it is not in use as usual, and for how long.
    pub trouble: Option<(String, Duration)>,
    /// It could be reached at the last attempt; otherwise, and without a trouble, nothing is known.
    pub is_reached: bool,
    /// Connections or processes; `None` if it has none.
    pub busy: Option<u64>,
    pub idle: u64,
    /// Requests that wait for one.
    pub waiting: u64,
    pub minute: Minute,
}

/// A fault that was logged.
#[derive(Clone, Debug, Default)]
pub struct FaultStatus {
    /// As in the log.
    pub line: String,
    /// The time since it last occurred.
    pub ago: Duration,
    pub count: u64,
}

/// The state of a backend in a word, with the time for which it has not been usual.
pub(super) fn state(backend: &BackendStatus) -> String {
    match &backend.trouble {
        None if backend.is_reached => "up".to_owned(),
        None => "unknown".to_owned(),
        Some((_, time)) => format!("down {}", span(*time)),
    }
}

/// A time in its largest unit: `12 s`, `3 min`, `5 h`, `2 d`.
pub(super) fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ ..3_600 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// A latency with two or three digits: `0.6 ms`, `25 ms`, `1.2 s`; `-` if there is none.
pub(super) fn latency(time: Option<Duration>) -> String {
    let Some(time) = time else { return "-".to_owned() };
    match time.as_secs_f64() * 1e3 {
        ms @ ..9.95 => format!("{ms:.1} ms"),
        ms @ ..999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// A rate per second.
pub(super) fn rate(per_second: f64) -> String {
    if per_second == 0.0 || per_second >= 99.95 { format!("{per_second:.0}") } else { format!("{per_second:.1}") }
}

/// A share in percent; `-` if there is none.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0))
}

/// A number with at most six characters: `99999`, `123 k`, `45 M`.
pub(super) fn count(number: u64) -> String {
    match number {
        number @ ..=99_999 => number.to_string(),
        100_000..=9_999_999 => format!("{} k", number / 1_000),
        10_000_000..=9_999_999_999 => format!("{} M", number / 1_000_000),
        _ => format!("{} G", number / 1_000_000_000),
    }
}

/// Connections in use and in all; `-` if there are none by design.
pub(super) fn connections(backend: &BackendStatus) -> String {
    backend.busy.map_or("-".to_owned(), |busy| format!("{busy} of {}", busy + backend.idle))
}

/// A status with something of everything.
#[cfg(test)]
pub(super) fn example() -> Status {
    let minute = |per_second, p50, p99| Minute {
        per_second,
        p50: Some(Duration::from_micros(p50)),
        p99: Some(Duration::from_micros(p99)),
    };
    let alias = TableStatus {
        name: "alias".to_owned(),
        found: 1_234_567,
        missed: 4_711,
        failed: 3,
        minute: minute(12.34, 640, 25_000),
        cached: Some(0.456),
    };
    let odd = TableStatus { name: "<b>&\"a-table-with-a-long-name\"".to_owned(), ..TableStatus::default() };
    let down = BackendStatus {
        label: "admin.internal.example.org:8080/and/a/long/socket/path.sock".to_owned(),
        trouble: Some(("is unreachable: connection refused <script>".to_owned(), Duration::from_secs(200))),
        is_reached: false,
        busy: Some(0),
        idle: 0,
        waiting: 17,
        minute: Minute::default(),
    };
    let up = BackendStatus {
        label: "b:80".to_owned(),
        is_reached: true,
        busy: Some(2),
        idle: 5,
        minute: minute(1.0, 300, 400),
        ..BackendStatus::default()
    };
    let server = BackendStatus { label: "name server 127.0.0.1:53".to_owned(), ..BackendStatus::default() };
    let cause = "fault table=alias backend=admin:8080 cause=\"is unreachable: connection refused, and this goes on\"";
    let fault = FaultStatus { line: cause.to_owned(), ago: Duration::from_secs(12), count: 118 };
    Status {
        version: "1.2.3",
        uptime: Duration::from_secs(300_000),
        clients: 40,
        in_flight: 2,
        tables: vec![alias, odd],
        backends: vec![down, up, server],
        faults: vec![fault],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let spans = [0, 59, 60, 3_599, 3_600, 172_799, 172_800].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["0 s", "59 s", "1 min", "59 min", "1 h", "47 h", "2 d"]);
        let latencies = [0, 640, 9_949, 9_950, 999_400, 1_250_000].map(|us| latency(Some(Duration::from_micros(us))));
        assert_eq!(latencies, ["0.0 ms", "0.6 ms", "9.9 ms", "10 ms", "999 ms", "1.2 s"]);
        assert_eq!([0.0, 0.04, 12.34, 99.95, 5_000.4].map(rate), ["0", "0.0", "12.3", "100", "5000"]);
        let counts = [0, 99_999, 100_000, 9_999_999, 10_000_000, u64::MAX].map(count);
        assert_eq!(counts, ["0", "99999", "100 k", "9999 k", "10 M", "18446744073 G"]);
        assert_eq!([None, Some(0.456), Some(1.0)].map(percent), ["-", "46 %", "100 %"]);
    }
}
