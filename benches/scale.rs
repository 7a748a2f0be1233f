//! How the cost of one thing grows with the number of others: the engine without sockets, so that only its own work
//! counts. The last lines say what is above its goal.
//!
//! `cargo bench --bench scale -- --write` also writes `benches/scale.svg`.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use podop::config::{self, Command, Mode};
use podop::engine::Engine;
use podop::io::{Action, Peer};
use podop::wire::netstring;
use std::ffi::OsString;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// How long each size is measured.
const TIME: Duration = Duration::from_millis(300);

/// What is measured, with which numbers, the goal, and the cost of one in nanoseconds with a number.
type Case = (&'static str, &'static [usize], f64, fn(usize) -> f64);

fn main() {
    let (mut above, mut lines) = (Vec::new(), Vec::new());
    println!("{:<38} {:>10} {:>10} {:>8}", "what, and how many", "number", "ns each", "ratio");
    // The goals are for the largest number, as ratios to the smallest. Beyond the caches of the processor, each key costs
    // a few reads of memory.
    let cases: [Case; 5] = [
        ("a lookup, of so many connected clients", &[1, 100, 10_000], 1.3, clients),
        ("a lookup, of so many tables and backends", &[1, 10, 100, 1_000], 1.3, tables),
        ("a lookup in a file of so many keys", &[1_000, 10_000, 100_000, 1_000_000], 3.0, file),
        ("a hit in a cache of so many answers", &[10_000, 100_000, 1_000_000], 1.5, cache),
        ("a row of a list of so many names", &[100, 10_000, 1_000_000], 1.3, rows),
    ];
    for (name, numbers, goal, measure) in cases {
        // The better of two, in rounds: a slow moment of the machine would pass for growth.
        let round = || numbers.iter().map(|number| measure(*number)).collect::<Vec<f64>>();
        let costs: Vec<f64> = round().into_iter().zip(round()).map(|(one, other)| one.min(other)).collect();
        for (number, cost) in numbers.iter().zip(&costs) {
            println!("{name:<38} {number:>10} {cost:>10.0} {:>8.2}", cost / costs[0]);
        }
        lines.push((name, numbers.iter().zip(&costs).map(|(number, cost)| (*number, cost / costs[0])).collect()));
        let ratio = costs.last().unwrap_or(&0.0) / costs[0];
        if ratio > goal {
            above.push(format!("{name}: {ratio:.2}, goal {goal}"));
        }
    }
    if above.is_empty() {
        println!("all within their goals");
    }
    above.iter().for_each(|line| println!("above its goal: {line}"));
    if std::env::args().any(|arg| arg == "--write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/scale.svg");
        std::fs::write(path, chart(&lines)).unwrap();
    }
}

/// Draws each case as a line: its number on a logarithmic axis, its ratio to the smallest number from 0 to 4.
fn chart(cases: &[(&str, Vec<(usize, f64)>)]) -> String {
    const COLOURS: [&str; 5] = ["#2f6db3", "#d9822b", "#4a9c5d", "#b0413e", "#7a5aa6"];
    let x = |number: usize| 50.0 + 90.0 * (number as f64).log10();
    let y = |ratio: f64| 290.0 - 60.0 * ratio.min(4.0);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"440\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"20\" y=\"24\" font-size=\"15\">Cost of one, as a ratio to that with the smallest number</text>\n",
    );
    for ratio in 0..=4 {
        let at = y(f64::from(ratio));
        writeln!(svg, "<path d=\"M50 {at}H590\" stroke=\"#ddd\"/>\n<text x=\"30\" y=\"{}\">{ratio}</text>", at + 4.0)
            .unwrap();
    }
    for power in 0..=6 {
        let number = 10_usize.pow(power);
        writeln!(svg, "<text x=\"{}\" y=\"308\" text-anchor=\"middle\">{number}</text>", x(number)).unwrap();
    }
    for (at, (name, points)) in cases.iter().enumerate() {
        let (colour, top) = (COLOURS[at], 330 + 20 * at);
        let path: Vec<String> =
            points.iter().map(|(number, ratio)| format!("{:.1} {:.1}", x(*number), y(*ratio))).collect();
        let path = path.join("L");
        writeln!(svg, "<path d=\"M{path}\" stroke=\"{colour}\" stroke-width=\"2.5\" fill=\"none\"/>").unwrap();
        writeln!(svg, "<rect x=\"50\" y=\"{top}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>").unwrap();
        writeln!(svg, "<text x=\"68\" y=\"{}\">{name}</text>", top + 11).unwrap();
    }
    svg + "</svg>\n"
}

fn clients(count: usize) -> f64 {
    let mut bench = Bench::new(&[url("t0", 1)].concat());
    for _ in 1..count {
        bench.engine.accepted(Mode::Postfix, bench.now);
    }
    bench.lookups("t0", 1_000)
}

fn tables(count: usize) -> f64 {
    let args: Vec<String> = (0..count).flat_map(|at| url(&format!("t{at}"), at + 1)).collect();
    Bench::new(&args).lookups("t0", 1_000)
}

fn file(count: usize) -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table.json");
    let mut text = String::from("{");
    for at in 0..count {
        write!(text, "{}\"{}\":\"x@example.org\"", if at == 0 { "" } else { "," }, key(at)).unwrap();
    }
    std::fs::write(&path, text + "}").unwrap();
    let args = ["--name", "t0", "--type", "file", "--param", path.to_str().unwrap()].map(String::from);
    Bench::new(&args).lookups("t0", count)
}

fn cache(count: usize) -> f64 {
    let args = [&url("t0", 1)[..], &["--option", "t0:cache=3600"].map(String::from)].concat();
    let mut bench = Bench::new(&args);
    bench.engine.set_cache_limit(1 << 30);
    (0..count).for_each(|at| bench.lookup("t0", at));
    let served = bench.served;
    let cost = bench.lookups("t0", count);
    assert_eq!(bench.served, served, "all are in the cache");
    cost
}

fn rows(count: usize) -> f64 {
    let mut bench = Bench::new(&url("t0", 1));
    let names: Vec<String> = (0..count).map(|at| format!("\"{}\"", key(at))).collect();
    bench.response = response(&format!("[{}]", names.join(",")));
    bench.client = bench.engine.accepted(Mode::Dovecot, bench.now);
    bench.engine.received(bench.client, b"H4\t0\t0\t\tt0\n", bench.now);
    let (start, mut rows) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        bench.ask(b"I8\t0\tshared/all/\t\n", b"\n\n");
        rows += count;
    }
    start.elapsed().as_nanos() as f64 / rows as f64
}

fn key(at: usize) -> String {
    format!("user{at:07}@example.com")
}

fn url(name: &str, host: usize) -> Vec<String> {
    let url = format!("http://10.0.{}.{}/a/§", host / 250, host % 250 + 1);
    ["--name", name, "--type", "url", "--param", &url].map(String::from).to_vec()
}

fn response(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// An engine with one client that asks, and this program in the place of the sockets and the backend.
struct Bench {
    engine: Engine,
    client: Peer,
    now: Instant,
    response: Vec<u8>,
    /// What of a response has not been read yet.
    unread: Option<(Peer, usize)>,
    /// Responses that were sent.
    served: usize,
    /// The last bytes of what the client was sent.
    end: Vec<u8>,
}

impl Bench {
    fn new(args: &[String]) -> Bench {
        let args = ["--socket", "/s"].iter().map(OsString::from).chain(args.iter().map(OsString::from));
        let Ok(Command::Run(config)) = config::parse(args) else { panic!("a command line that runs") };
        let (tables, backends) = podop::open(&config.tables).expect("tables that can be opened");
        let (mut engine, now) = (Engine::new(tables, backends, config.timeout), Instant::now());
        let client = engine.accepted(Mode::Postfix, now);
        let response = response("\"x@example.org\"");
        Bench { engine, client, now, response, unread: None, served: 0, end: Vec::new() }
    }

    /// Looks up keys below `count`, one after another, and returns what each takes in nanoseconds.
    fn lookups(&mut self, table: &str, count: usize) -> f64 {
        let (mut at, mut asked) = (0, 0u32);
        (0..1_000).for_each(|at| self.lookup(table, at % count));
        let start = Instant::now();
        while start.elapsed() < TIME {
            for _ in 0..100 {
                at = (at + 7_919) % count; // in no order that a cache of the processor could follow
                self.lookup(table, at);
            }
            asked += 100;
        }
        start.elapsed().as_nanos() as f64 / f64::from(asked)
    }

    fn lookup(&mut self, table: &str, at: usize) {
        let mut request = Vec::new();
        netstring::encode(&[table.as_bytes(), b" ", key(at).as_bytes()], &mut request);
        self.ask(&request, b":OK x@example.org,");
    }

    /// Sends a request, and carries out actions until what the client is sent ends with `end`.
    fn ask(&mut self, request: &[u8], end: &[u8]) {
        self.now += Duration::from_micros(10);
        self.end.clear();
        self.engine.received(self.client, request, self.now);
        while !self.end.ends_with(end) {
            self.engine.process(self.now);
            while let Some(action) = self.engine.next_action() {
                self.carry_out(action);
            }
            if let Some((peer, at)) = self.unread.take_if(|(peer, _)| self.engine.wants_input(*peer)) {
                self.send(peer, at);
            }
            if self.engine.has_resumable() {
                self.engine.resume(self.now);
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Connect(key, _) => self.engine.connected(Peer::Backend(key), self.now),
            Action::Flush(peer) => {
                let output = self.engine.output(peer);
                let count = output.len();
                if peer == self.client {
                    self.end.extend_from_slice(&output[count.saturating_sub(32)..]);
                }
                self.engine.sent(peer, count, self.now);
                if peer != self.client && count > 0 {
                    self.served += 1;
                    self.send(peer, 0);
                }
            }
            _ => {}
        }
    }

    /// Sends the response from a position on, in pieces, as far as it is read.
    fn send(&mut self, peer: Peer, at: usize) {
        let response = std::mem::take(&mut self.response);
        let mut at = at;
        while at < response.len() && self.engine.wants_input(peer) {
            let end = response.len().min(at + 65_536);
            self.engine.received(peer, &response[at..end], self.now);
            at = end;
        }
        self.unread = (at < response.len()).then_some((peer, at));
        self.response = response;
    }
}
