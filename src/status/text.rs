//! The status for a terminal of 80 columns.

use super::state::{Status, connections, count, latency, percent, rate, span, state};
use std::fmt::Write;

const COLUMNS: usize = 80;

/// Writes the status as text.
pub fn text(status: &Status) -> String {
    let mut out = String::new();
    let Status { version, uptime, clients, in_flight, tables, backends, faults } = status;
    let up = span(*uptime);
    let _ = writeln!(out, "podop {version}, up {up}, {clients} clients, {in_flight} requests in flight\n");
    row(&mut out, "TABLE", 24, &["REQ/S", "FOUND", "MISS", "FAULT", "P50", "P99", "CACHED"]);
    for table in tables {
        let numbers = [table.found, table.missed, table.failed].map(count);
        let [found, missed, failed] = numbers;
        let minute = &table.minute;
        let cells = [rate(minute.per_second), found, missed, failed, latency(minute.p50), latency(minute.p99)];
        let cached = percent(table.cached);
        let cells: Vec<&str> = cells.iter().map(String::as_str).chain([cached.as_str()]).collect();
        row(&mut out, &table.name, 24, &cells);
    }
    out.push('\n');
    row(&mut out, "BACKEND", 40, &["STATE", "BUSY", "QUEUE", "REQ/S", "P50"]);
    for backend in backends {
        let minute = &backend.minute;
        let cells = [
            state(backend).split(' ').next().unwrap_or_default().to_owned(), // how long is on a line of its own
            connections(backend),
            count(backend.waiting),
            rate(minute.per_second),
            latency(minute.p50),
        ];
        row(&mut out, &backend.label, 40, &cells.each_ref().map(String::as_str));
        if let Some((cause, _)) = &backend.trouble {
            wrap(&mut out, "    ", &format!("{}: {cause}", state(backend)));
        }
    }
    out.push_str("\nFAULTS\n");
    for fault in faults {
        let times = if fault.count == 1 { String::new() } else { format!(", {} times", fault.count) };
        wrap(&mut out, "    ", &format!("{} ago{times}: {}", span(fault.ago), fault.line));
    }
    if faults.is_empty() {
        out.push_str("    none\n");
    }
    out
}

/// Appends a line: a name of up to `width` columns, and cells at equal distances to its right.
fn row(out: &mut String, name: &str, width: usize, cells: &[&str]) {
    let shown: String = if name.chars().count() > width {
        name.chars().take(width - 1).chain(['…']).collect()
    } else {
        name.to_owned()
    };
    let _ = write!(out, "{shown:width$}");
    let cell = (COLUMNS - width) / cells.len();
    cells.iter().for_each(|text| out.push_str(&format!("{text:>cell$}")));
    out.push('\n');
}

/// Appends a text that may take several lines, all of them indented.
fn wrap(out: &mut String, indent: &str, text: &str) {
    let width = COLUMNS - indent.len();
    let mut line = String::new();
    for word in text.split(' ') {
        let length = line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && length > width {
            let _ = writeln!(out, "{indent}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        while line.chars().count() > width {
            let rest = line.chars().skip(width).collect();
            let full: String = line.chars().take(width).collect();
            let _ = writeln!(out, "{indent}{full}");
            line = rest;
        }
    }
    let _ = writeln!(out, "{indent}{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::state::example;

    #[test]
    fn no_line_is_longer_than_the_terminal() {
        let mut status = example();
        status.faults[0].line += &format!(" path={}", "ü".repeat(300));
        let text = text(&status);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
    }

    #[test]
    fn everything_is_there() {
        let expected = "\
podop 1.2.3, up 3 d, 40 clients, 2 requests in flight

TABLE                      REQ/S   FOUND    MISS   FAULT     P50     P99  CACHED
alias                       12.3  1234 k    4711       3  0.6 ms   25 ms    46 %
<b>&\"a-table-with-a-lon…       0       0       0       0       -       -       -

BACKEND                                    STATE    BUSY   QUEUE   REQ/S     P50
admin.internal.example.org:8080/and/a/l…    down  0 of 0      17       0       -
    down 3 min: is unreachable: connection refused <script>
b:80                                          up  2 of 7       0     1.0  0.3 ms
name server 127.0.0.1:53                 unknown       -       0       0       -

FAULTS
    12 s ago, 118 times: fault table=alias backend=admin:8080 cause=\"is
    unreachable: connection refused, and this goes on\"
";
        assert_eq!(text(&example()), expected);
        assert!(text(&Status::default()).ends_with("FAULTS\n    none\n"));
    }
}
