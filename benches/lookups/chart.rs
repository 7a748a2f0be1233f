//! The chart of the README: bars of CPU per lookup, as text of an SVG.

use super::{Row, SERVERS};
use std::fmt::Write;

const COLOURS: [&str; SERVERS.len()] = ["#9aa5b1", "#2f6db3", "#d9822b"];
const HEIGHT: f64 = 180.0; // of the highest bar
const BAR: f64 = 34.0;

/// Draws one group of bars per number of connections.
pub fn draw(groups: &[(usize, [Row; SERVERS.len()])], machine: &str) -> String {
    let most = groups.iter().flat_map(|(_, rows)| rows).map(|row| row.cpu_us).fold(1.0, f64::max);
    let group = BAR * (SERVERS.len() as f64 + 1.0);
    let (width, base) = (60.0 + group * groups.len() as f64, 70.0 + HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"20\" y=\"24\" font-size=\"15\">CPU per lookup, in microseconds, everything on one core</text>\n",
        base + 60.0
    );
    for (at, (name, _)) in SERVERS.iter().enumerate() {
        let x = 20.0 + 150.0 * at as f64;
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"36\" width=\"12\" height=\"12\" fill=\"{}\"/>", COLOURS[at]);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"46\">{name}</text>", x + 18.0);
    }
    for (at, (connections, rows)) in groups.iter().enumerate() {
        let left = 40.0 + group * at as f64;
        for (bar, row) in rows.iter().enumerate() {
            let (x, height) = (left + BAR * bar as f64, HEIGHT * row.cpu_us / most);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{:.1}\" width=\"{}\" height=\"{height:.1}\" fill=\"{}\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.1}</text>",
                base - height,
                BAR - 4.0,
                COLOURS[bar],
                x + BAR / 2.0 - 2.0,
                base - height - 4.0,
                row.cpu_us
            );
        }
        let middle = left + BAR * SERVERS.len() as f64 / 2.0;
        let plural = if *connections == 1 { "" } else { "s" };
        let label = format!("{connections} connection{plural}");
        let _ = writeln!(svg, "<text x=\"{middle:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", base + 18.0);
    }
    let escaped = machine.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"20\" y=\"{}\" fill=\"#666\">{escaped}</text>\n</svg>", base + 44.0);
    svg
}
