//! Lookups through the whole program, beside a floor: a relay that does the same system calls without parsing, limits
//! or error handling. Load, backend and floor are this program too, started again with other arguments; nothing has
//! to be installed. Every answer is checked. The servers are measured in turn, round after round, so that a slow
//! minute hits all of them; ratios are taken within each round, and their median is shown.
//!
//! `cargo bench --bench lookups -- --write` also writes `benches/lookups.svg`, the chart of the README.
#![allow(unsafe_code, unreachable_pub, clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

mod chart;
mod load;
mod peers;
mod process;

use load::Load;
use process::{Process, Syscalls};
use std::path::Path;
use std::time::Duration;

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_millis(400);

/// What is compared, and how it is started.
const SERVERS: [(&str, &[&str]); 3] =
    [("floor", &[]), ("podop", &[]), ("podop, pipeline=16", &["--option", "*:pipeline=16"])];

/// The medians of one server at one number of connections.
#[derive(Clone, Copy, Default)]
pub struct Row {
    cpu_us: f64,
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    /// CPU, rate and p99 as multiples of the floor's.
    cpu: f64,
    times_rate: f64,
    p99: f64,
    calls: Option<f64>,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["backend", socket] => return peers::backend(Path::new(socket)),
        ["floor", socket, address] => return peers::floor(Path::new(socket), address.parse().expect("an address")),
        _ => {}
    }
    process::raise_descriptor_limit();
    let machine = process::machine();
    println!("# {machine}");
    let mut charted = Vec::new();
    for (title, apart) in [("all on one core", false), ("the server on a core of its own", true)] {
        println!("\n## {title}");
        println!(
            "{:<20} {:>11} {:>8} {:>6} {:>10} {:>6} {:>8} {:>8} {:>6} {:>6}",
            "server", "connections", "CPU us", "ratio", "lookups/s", "ratio", "p50 us", "p99 us", "ratio", "calls"
        );
        for connections in [1, 8, 64, 512] {
            let rows = compare(connections, apart);
            for ((name, _), row) in SERVERS.iter().zip(&rows) {
                let calls = row.calls.map_or("-".to_owned(), |calls| format!("{calls:.2}"));
                println!(
                    "{name:<20} {connections:>11} {:>8.1} {:>6.2} {:>10.0} {:>6.2} {:>8.0} {:>8.0} {:>6.2} {calls:>6}",
                    row.cpu_us, row.cpu, row.rate, row.times_rate, row.p50_us, row.p99_us, row.p99
                );
            }
            if !apart {
                charted.push((connections, rows));
            }
        }
    }
    if args.iter().any(|arg| arg == "--write") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/lookups.svg");
        std::fs::write(&path, chart::draw(&charted, &machine)).expect("the chart can be written");
        println!("\nwrote {}", path.display());
    }
}

/// Measures all servers at so many connections, in turn.
fn compare(connections: usize, apart: bool) -> [Row; SERVERS.len()] {
    let dir = tempfile::tempdir().expect("a folder");
    let (rest, own) = if apart { (1, 0) } else { (0, 0) };
    let path = |name: &str| dir.path().join(name);
    let backend = Process::this(&["backend", path("backend").to_str().expect("UTF-8")], rest);
    let address = std::fs::read_to_string(backend.ready(&path("backend"))).expect("the backend's address");
    let mut servers = Vec::new();
    for (at, (name, args)) in SERVERS.iter().enumerate() {
        let socket = path(&at.to_string());
        let text = socket.to_str().expect("UTF-8");
        let process = match *name {
            "floor" => Process::this(&["floor", text, &address], own),
            _ => {
                let url = format!("http://{address}/map/§");
                let table = ["--socket", text, "--name", "t", "--type", "url", "--param", &url];
                Process::start(env!("CARGO_BIN_EXE_podop"), &[&table[..], args].concat(), own)
            }
        };
        process.ready(&socket);
        servers.push((process, socket));
    }
    process::pin(rest);
    let mut seen: Vec<Vec<(f64, Load)>> = vec![Vec::new(); SERVERS.len()];
    for round in 0..=ROUNDS {
        for ((process, socket), seen) in servers.iter().zip(&mut seen) {
            let before = process.cpu();
            let load = load::run(socket, connections, TIME, load::ADDRESSES);
            let cpu = (process.cpu() - before) as f64 / 1000.0 / load.lookups as f64;
            if round > 0 {
                seen.push((cpu, load)); // the first one is for warming up
            }
        }
    }
    let floor = seen[0].clone();
    std::array::from_fn(|at| {
        let of = |figure: &dyn Fn(&(f64, Load)) -> f64| median(seen[at].iter().map(figure).collect());
        let ratio = |figure: &dyn Fn(&(f64, Load)) -> f64| {
            median(seen[at].iter().zip(&floor).map(|(one, floor)| figure(one) / figure(floor)).collect())
        };
        let calls = Syscalls::count(&servers[at].0).map(|count| {
            let lookups = load::run(&servers[at].1, connections, TIME, load::ADDRESSES).lookups;
            count.stop() as f64 / lookups as f64
        });
        Row {
            cpu_us: of(&|seen| seen.0),
            rate: of(&|seen| seen.1.rate()),
            p50_us: of(&|seen| seen.1.p50_us),
            p99_us: of(&|seen| seen.1.p99_us),
            cpu: ratio(&|seen| seen.0),
            times_rate: ratio(&|seen| seen.1.rate()),
            p99: ratio(&|seen| seen.1.p99_us),
            calls,
        }
    })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
