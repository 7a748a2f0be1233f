//! The status as one page of HTML, without script and without anything from elsewhere.

use super::state::{
    BackendStatus, FaultStatus, Status, TableStatus, connections, count, latency, percent, rate, span, state,
};
use std::fmt::{self, Display, Write};

/// Everything before the title. The colours are those of the browser, light or dark; on a narrow screen each row is a
/// block of its own.
const HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<meta http-equiv=\"refresh\" content=\"5\">
<link rel=\"icon\" href=\"data:,\">
<style>
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }
body { margin: 1em auto; padding: 0 1em; max-width: 60em }
h1 { font-size: 1.3em; margin-bottom: 0 } h2 { font-size: 1.1em; margin: 1.5em 0 .3em } p { margin: 0 }
table { border-collapse: collapse; width: 100% }
th, td { text-align: right; padding: .2em .5em; border-bottom: 1px solid #8885; font-variant-numeric: tabular-nums }
th { font-weight: 600 } th:nth-child(3):last-child { text-align: left } th:first-child, td:first-child, .text { text-align: left; overflow-wrap: anywhere }
.bad { color: light-dark(#b00020, #ff8a80); font-weight: 600 }
small { display: block; font-weight: 400 }
@media (max-width: 40em) {
  thead { display: none } table, tbody, tr, td { display: block }
  tr { padding: .4em 0; border-bottom: 1px solid #8885 } td { border: 0; padding: 0; text-align: left }
  td:first-child { font-weight: 600 } td[data-of] { display: inline-block; margin-right: 1em }
  td[data-of]::before { content: attr(data-of) ' '; opacity: .7 }
}
</style>
";

/// Writes the status as a page.
pub fn html(status: &Status) -> String {
    let Status { version, uptime, clients, in_flight, tables, backends, faults } = status;
    let down = backends.iter().filter(|backend| backend.trouble.is_some()).count();
    let title = if down == 0 { "Podop".to_owned() } else { format!("Podop: {down} down") };
    let mut out = format!("{HEAD}<title>{title}</title>\n<h1>Podop {}</h1>\n", Text(version));
    let up = span(*uptime);
    out += &format!("<p>Up {up}, {clients} clients, {in_flight} requests in flight.</p>\n");
    add_tables(&mut out, tables);
    out += "<p><small>Found, miss and fault since the start, the rest in the last minute.</small></p>\n";
    add_backends(&mut out, backends);
    add_faults(&mut out, faults);
    out + "</html>\n"
}

fn add_tables(out: &mut String, tables: &[TableStatus]) {
    let columns = ["requests/s", "found", "miss", "fault", "p50", "p99", "cached"];
    begin(out, "Tables", "table", &columns);
    for table in tables {
        let minute = &table.minute;
        let cells = [
            rate(minute.per_second),
            count(table.found),
            count(table.missed),
            count(table.failed),
            latency(minute.p50),
            latency(minute.p99),
            percent(table.cached),
        ];
        *out += &format!("<tr><td>{}</td>", Text(&table.name));
        end_row(out, &columns, &cells);
    }
    *out += END;
}

fn add_backends(out: &mut String, backends: &[BackendStatus]) {
    let columns = ["state", "busy", "queue", "requests/s", "p50"];
    begin(out, "Backends", "backend", &columns);
    for backend in backends {
        let cells = [
            connections(backend),
            count(backend.waiting),
            rate(backend.minute.per_second),
            latency(backend.minute.p50),
        ];
        let (class, cause) = match &backend.trouble {
            None => ("", String::new()),
            Some((cause, _)) => (" class=\"bad\"", format!("<small class=\"bad\">{}</small>", Text(cause))),
        };
        let (label, state) = (Text(&backend.label), state(backend));
        *out += &format!("<tr><td>{label}{cause}</td><td data-of=\"state\"{class}>{state}</td>");
        end_row(out, &columns[1..], &cells);
    }
    *out += END;
}

fn add_faults(out: &mut String, faults: &[FaultStatus]) {
    begin(out, "Faults", "last", &["times", "line"]);
    for fault in faults {
        *out += &format!("<tr><td>{} ago</td><td data-of=\"times\">{}</td>", span(fault.ago), fault.count);
        *out += &format!("<td class=\"text\">{}</td></tr>\n", Text(&fault.line));
    }
    if faults.is_empty() {
        *out += "<tr><td>none</td><td></td><td></td></tr>\n";
    }
    *out += END;
}

/// The end of a table.
const END: &str = "</tbody></table>\n";

/// Begins a table.
fn begin(out: &mut String, heading: &str, first: &str, columns: &[&str]) {
    *out += &format!("<h2>{heading}</h2>\n<table><thead><tr><th>{first}</th>");
    columns.iter().for_each(|column| *out += &format!("<th>{column}</th>"));
    *out += "</tr></thead><tbody>\n";
}

/// Adds the cells of these columns, and ends the row.
fn end_row(out: &mut String, columns: &[&str], cells: &[String]) {
    columns.iter().zip(cells).for_each(|(of, cell)| *out += &format!("<td data-of=\"{of}\">{cell}</td>"));
    *out += "</tr>\n";
}

/// Text from the command line or a log line, in HTML.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::state::example;

    #[test]
    fn everything_is_there_and_escaped() {
        let page = html(&example());
        for part in [
            "<title>Podop: 1 down</title>",
            "<p>Up 3 d, 40 clients, 2 requests in flight.</p>",
            "<tr><td>alias</td><td data-of=\"requests/s\">12.3</td><td data-of=\"found\">1234 k</td>",
            "<tr><td>&lt;b&gt;&amp;&quot;a-table-with-a-long-name&quot;</td>",
            "<small class=\"bad\">is unreachable: connection refused &lt;script&gt;</small>",
            "<td data-of=\"state\" class=\"bad\">down 3 min</td><td data-of=\"busy\">0 of 0</td>",
            "<tr><td>12 s ago</td><td data-of=\"times\">118</td><td class=\"text\">fault table=alias",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("<script") && !page.contains("://"), "{page}");
        assert!(html(&Status::default()).contains("<title>Podop</title>"));
    }
}
