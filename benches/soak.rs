//! A long run with faults mixed in and clients that leave early: every answer is checked, and memory and
//! descriptors must stay flat. `SOAK_LOOKUPS=2000000 SOAK_COMMITS=100000 cargo bench --bench soak` is the
//! long one; without numbers it takes a few seconds.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CLIENTS: u64 = 6;

/// What was seen, by kind.
type Tally = Arc<Mutex<BTreeMap<String, u64>>>;

fn main() {
    let lookups = number("SOAK_LOOKUPS", 40_000);
    let commits = number("SOAK_COMMITS", 2_000);
    let backend = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/§", backend.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for (number, stream) in backend.incoming().flatten().enumerate() {
            std::thread::spawn(move || serve(stream, number as u64));
        }
    });
    let mut podop = Podop::start(&url);
    let tally: Tally = Arc::default();
    drive(&podop.socket, &tally, lookups / 20, commits / 20); // until memory is in its steady state
    podop.settle();
    let before = podop.usage();
    tally.lock().expect("no panic").clear();
    let (start, peak) = (Instant::now(), podop.watch());
    drive(&podop.socket, &tally, lookups, commits);
    let (time, peak) = (start.elapsed(), peak.load(Ordering::SeqCst));
    podop.settle();
    let after = podop.usage();
    println!("{lookups} lookups and {commits} commits in {:.1} s", time.as_secs_f64());
    for (kind, count) in tally.lock().expect("no panic").iter() {
        println!("  {kind:<28} {count:>9}");
    }
    println!("memory: {} KiB before, {peak} KiB at the peak, {} KiB after", before.0, after.0);
    println!("descriptors: {} before, {} after", before.1, after.1);
    assert!(podop.child.try_wait().expect("a child").is_none(), "it ended");
    assert_eq!(before.1, after.1, "descriptors leak");
    assert!(after.0 < before.0 + 2048, "memory grows");
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// All clients at once: most ask for values, one in six writes.
fn drive(socket: &Path, tally: &Tally, lookups: u64, commits: u64) {
    let asked = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..CLIENTS)
        .map(|at| {
            let (socket, tally, asked) = (socket.to_owned(), tally.clone(), asked.clone());
            std::thread::spawn(move || match at {
                0 => write(&socket, &tally, commits),
                1 => look_up(&socket, &tally, &asked, lookups, at, true),
                _ => look_up(&socket, &tally, &asked, lookups, at, false),
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a client that went well"));
}

fn connect(socket: &Path) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(socket).expect("podop listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    BufReader::new(stream)
}

/// Asks on connections of a few batches each. One in four leaves with its last batch unanswered.
fn look_up(socket: &Path, tally: &Tally, asked: &AtomicU64, lookups: u64, seed: u64, dict: bool) {
    const BATCH: u64 = 16;
    let mut random = Random(0x9E37_79B9 + seed);
    let mut mine = BTreeMap::new();
    while asked.load(Ordering::SeqCst) < lookups {
        let mut stream = connect(socket);
        if dict {
            stream.get_mut().write_all(b"H2\t0\t0\tu\tt\n").expect("podop reads");
        }
        let (batches, leaves) = (1 + random.next() % 20, random.next().is_multiple_of(4));
        for batch in 0..batches {
            let keys: Vec<String> = (0..BATCH).map(|_| format!("k{}", random.next() % 1_000_000)).collect();
            let text: String = keys.iter().map(|key| request(key, dict)).collect();
            stream.get_mut().write_all(text.as_bytes()).expect("podop reads");
            asked.fetch_add(BATCH, Ordering::SeqCst);
            if leaves && batch + 1 == batches {
                *mine.entry("left before the answer".to_owned()).or_default() += BATCH;
                break;
            }
            for key in &keys {
                *mine.entry(judge(&reply(&mut stream, dict), key)).or_default() += 1;
            }
        }
    }
    add(tally, mine);
}

fn request(key: &str, dict: bool) -> String {
    if dict { format!("Lshared/{key}\n") } else { format!("{}:t {key},", key.len() + 2) }
}

fn reply(stream: &mut BufReader<UnixStream>, dict: bool) -> String {
    let mut bytes = Vec::new();
    if dict {
        stream.read_until(b'\n', &mut bytes).expect("a reply");
        bytes.pop();
    } else {
        stream.read_until(b':', &mut bytes).expect("a reply");
        bytes.pop();
        let length: usize = String::from_utf8_lossy(&bytes).parse().expect("a length");
        bytes = vec![0; length + 1];
        stream.read_exact(&mut bytes).expect("a whole reply");
        bytes.pop();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What kind of reply it is; one that is not the key's own ends the run.
fn judge(reply: &str, key: &str) -> String {
    let nothing = fate(key) == Fate::Nothing;
    match reply {
        "NOTFOUND " | "N" if nothing => "not found".to_owned(),
        _ if reply == format!("OK v-{key}") || reply == format!("Ov-{key}") => "found".to_owned(),
        _ => {
            let cause =
                reply.strip_prefix("TEMP ").or_else(|| reply.strip_prefix("TIMEOUT ")).or(reply.strip_prefix('F'));
            let cause = cause.unwrap_or_else(|| panic!("{key} got {reply}"));
            cause.split_once(' ').and_then(|(_, rest)| rest.split_once(' ')).map_or(cause, |(_, rest)| rest).to_owned()
        }
    }
}

/// Commits of one to three writes; what became of each must be said.
fn write(socket: &Path, tally: &Tally, commits: u64) {
    let (mut random, mut mine, mut done) = (Random(77), BTreeMap::new(), 0);
    while done < commits {
        let mut stream = connect(socket);
        stream.get_mut().write_all(b"H4\t0\t0\t\tt\n").expect("podop reads");
        for id in 1..=1 + random.next() % 50 {
            let writes: String = (0..1 + random.next() % 3)
                .map(|_| format!("S{id}\tshared/k{}\tx\n", random.next() % 1_000_000))
                .collect();
            stream.get_mut().write_all(format!("B{id}\t\t0\n{writes}C{id}\n").as_bytes()).expect("podop reads");
            done += 1;
            if random.next().is_multiple_of(200) {
                *mine.entry("commit: left before the reply".to_owned()).or_default() += 1;
                break;
            }
            let reply = reply(&mut stream, true);
            let (letter, rest) = reply.split_at(1);
            assert!(rest.split('\t').next() == Some(&id.to_string()) && "OFW".contains(letter), "{reply}");
            *mine.entry(format!("commit: {letter}")).or_default() += 1;
        }
    }
    add(tally, mine);
}

fn add(tally: &Tally, mine: BTreeMap<String, u64>) {
    let mut tally = tally.lock().expect("no panic");
    for (kind, count) in mine {
        *tally.entry(kind).or_default() += count;
    }
}

/// What the backend does with a key.
#[derive(Debug, Eq, PartialEq)]
enum Fate {
    Value,
    Nothing,
    Error,
    Close,
    Cut,
    Surplus,
    Slow,
    Nonsense,
}

fn fate(key: &str) -> Fate {
    match key.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))) % 1000 {
        0..30 => Fate::Nothing,
        30..40 => Fate::Error,
        40..45 => Fate::Close,
        45..50 => Fate::Cut,
        50..60 => Fate::Surplus,
        60..62 => Fate::Slow,
        62..65 => Fate::Nonsense,
        _ => Fate::Value,
    }
}

/// One connection of the backend; each ends without a word after some requests.
fn serve(mut stream: TcpStream, number: u64) {
    let _ = stream.set_nodelay(true);
    let (mut held, mut chunk, mut random) = (Vec::new(), [0; 4096], Random(number + 1));
    for _ in 0..100 + random.next() % 5_000 {
        let head = loop {
            if let Some(end) = held.windows(4).position(|end| end == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut chunk) {
                Ok(count @ 1..) => held.extend_from_slice(&chunk[..count]),
                _ => return,
            }
        };
        let text = String::from_utf8_lossy(&held[..head]).into_owned();
        let post = text.starts_with("POST ");
        let length = head + if post { 3 } else { 0 }; // "x" as JSON
        while held.len() < length {
            match stream.read(&mut chunk) {
                Ok(count @ 1..) => held.extend_from_slice(&chunk[..count]),
                _ => return,
            }
        }
        held.drain(..length);
        let key = text.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
        let ok = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n\"v-{key}\"", key.len() + 4);
        let answer = match fate(key) {
            Fate::Value | Fate::Slow => ok,
            Fate::Nothing => "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnull".to_owned(),
            Fate::Error => "HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned(),
            Fate::Close => return,
            Fate::Cut => ok[..ok.len() - 2].to_owned(),
            Fate::Surplus => ok + "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            Fate::Nonsense => ok.replace("Content-Length: ", "Content-Length: x"),
        };
        if fate(key) == Fate::Slow {
            std::thread::sleep(Duration::from_millis(20));
        }
        if stream.write_all(answer.as_bytes()).is_err() || fate(key) == Fate::Cut {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// The program and what it uses.
struct Podop {
    child: Child,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Podop {
    fn start(url: &str) -> Podop {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("s");
        let mut command = Command::new(env!("CARGO_BIN_EXE_podop"));
        command.arg("--socket").arg(&socket).args(["--name", "t", "--type", "url", "--param", url]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("podop starts");
        while UnixStream::connect(&socket).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Podop { child, socket, _dir: dir }
    }

    /// Waits until idle connections are closed.
    fn settle(&self) {
        std::thread::sleep(Duration::from_secs(3));
    }

    /// Resident memory in KiB, and open descriptors.
    fn usage(&self) -> (u64, usize) {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a process").count();
        (memory(self.child.id()), fds)
    }

    /// The most memory from now on.
    fn watch(&self) -> Arc<AtomicU64> {
        let (peak, pid) = (Arc::new(AtomicU64::new(0)), self.child.id());
        let shared = peak.clone();
        std::thread::spawn(move || {
            while Arc::strong_count(&shared) > 1 {
                shared.fetch_max(memory(pid), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        peak
    }
}

fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

impl Drop for Podop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Xorshift: the same numbers in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
