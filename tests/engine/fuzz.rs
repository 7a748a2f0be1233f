//! A short deterministic run of the fuzz targets in `tests/fuzz`, on the seeds in `tests/data/fuzz` and on
//! what small changes make of them. `FUZZ_SECONDS` makes each run longer.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::time::{Duration, Instant};

/// Inputs that are tried when no time is given.
const ROUNDS: usize = 20_000;

/// Pieces that mean something to one of the targets.
const WORDS: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 404 No\r\n",
    b"HTTP/1.0 ",
    b"Content-Length: 3\r\n",
    b"Content-Length: ",
    b"\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"0\r\n\r\n",
    b"3\r\n\"v\"\r\n",
    b"\r\n",
    b"\n",
    b"\t",
    b":",
    b"7:alias a,",
    b"H4\t0\t0\t\talias\n",
    b"H2\t0\t0\tu\talias\n",
    b"Lshared/a\t\n",
    b"I0\t0\tshared/\t\n",
    b"B1\t\n",
    b"S1\tshared/a\t1\n",
    b"C1\n",
    b"\x01t",
    b"65552:alias ",
    b"Expires: Fri, 05 Jun 2026 10:00:00 GMT\r\n",
    b"Sunday, 06-Nov-94 08:49:37 GMT",
    b"Sun Nov  6 08:49:37 1994",
    b"Date: ",
    b"Vary: *\r\n",
    b"Pragma: no-cache\r\n",
    b"null",
    b"{\"id\":1,",
    b"{\"id\":2,",
    b"\"value\":",
    b"\"rows\":[",
    b"\"done\":true}\n",
    b"\"error\":\"x\"}\n",
    b"\n\n",
    b"request=smtpd_access_policy\n",
    b"recipient=",
    b"VERSION\t1\t0\n",
    b"AUTH\t1\tPLAIN\tresp=",
    b"CONT\t1\tYQ==\n",
    b"=",
    b"[1,{\"a\":\"\\u00e9\"}]",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"\0",
    b"\xff",
];

#[test]
fn netstring() {
    run("netstring", targets::netstring);
}

#[test]
fn dict() {
    run("dict", targets::dict);
}

#[test]
fn http() {
    run("http", targets::http);
}

#[test]
fn value() {
    run("value", targets::value);
}

#[test]
fn list() {
    run("list", targets::list);
}

#[test]
fn percent() {
    run("percent", targets::percent);
}

#[test]
fn date() {
    run("date", targets::date);
}

#[test]
fn policy() {
    run("policy", targets::policy);
}

#[test]
fn sasl() {
    run("sasl", targets::sasl);
}

#[test]
fn dns() {
    run("dns", targets::dns);
}

#[test]
fn program() {
    run("program", targets::program);
}

#[test]
fn engine() {
    run("engine", targets::engine);
}

fn run(name: &str, target: fn(&[u8])) {
    // One of processes takes as long as ten others.
    let most = if name == "program" { ROUNDS / 4 } else { ROUNDS };
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for entry in std::fs::read_dir(format!("tests/data/fuzz/{name}")).expect("seeds") {
        seeds.push(std::fs::read(entry.expect("a file").path()).expect("a seed"));
    }
    seeds.sort();
    assert!(!seeds.is_empty());
    seeds.iter().for_each(|seed| target(seed));
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let (start, mut random, mut rounds) = (Instant::now(), Random(0x9E37_79B9_7F4A_7C15), 0);
    while seconds.map_or(rounds < most, |limit| start.elapsed() < limit) {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(6) {
            mutate(&mut input, &seeds, &mut random);
        }
        target(&input);
        rounds += 1;
    }
    println!("{name}: {rounds} inputs");
}

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    match random.below(7) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.below(256) as u8,
        2 if at < input.len() => {
            let end = at + 1 + random.below((input.len() - at).min(16));
            input.drain(at..end.min(input.len()));
        }
        3 => input.insert(at, random.below(256) as u8),
        4 => insert(input, at, WORDS[random.below(WORDS.len())]),
        5 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            insert(input, at, &other[from..(from + random.below(64)).min(other.len())]);
        }
        _ => {
            let piece = input[at..(at + random.below(32)).min(input.len())].to_vec();
            insert(input, at, &piece);
        }
    }
    input.truncate(4096);
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    input.splice(at..at, piece.iter().copied());
}

/// Xorshift: the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}
