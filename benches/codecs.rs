//! Speed of the codecs and of the engine without sockets, and what each of them allocates per lookup: nothing, once
//! all buffers have their size.
#![allow(unsafe_code, unreachable_pub, clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use podop::arena::Key;
use podop::config::{self, Command, Mode};
use podop::engine::Engine;
use podop::io::{Action, Peer};
use podop::value::Value;
use podop::wire::http::Decoder;
use podop::wire::percent::{self, Component};
use podop::wire::{dict, netstring};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::OsString;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long each thing is measured.
const TIME: Duration = Duration::from_millis(500);

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 23 Nov 2026 09:00:00 GMT\r\n\
Content-Type: application/json\r\nContent-Length: 19\r\nConnection: keep-alive\r\n\r\n\"alice@example.org\"";

/// Lookups of one client that are on their way at once: as many as one batch takes.
const AT_ONCE: usize = 16;

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

fn main() {
    println!("{:<46} {:>9} {:>9} {:>12} {:>12}", "what", "ns each", "MB/s", "each second", "allocations");
    let requests = b"24:alias alice@example.test,".repeat(1000);
    measure("netstring: decode a request", 28, 1000, || {
        let (mut rest, mut count) = (&requests[..], 0);
        while let Ok(Some((payload, used))) = netstring::decode(rest, 65_536) {
            count += usize::from(payload.starts_with(b"alias "));
            rest = &rest[used..];
        }
        assert_eq!(black_box(count), 1000);
    });
    let mut out = Vec::with_capacity(256);
    measure("netstring: encode a reply", 24, 1, || {
        out.clear();
        netstring::encode(&[b"OK ", black_box(b"alice@example.org")], &mut out);
        assert_eq!(out.len(), 24);
    });
    measure("dict: parse a lookup", 35, 1, || {
        let line = black_box(b"Lshared/passdb/alice@example.test\tu");
        assert!(matches!(dict::parse(line), Ok(dict::DictCommand::Lookup { .. })));
    });
    measure("percent: encode a key", 18, 1, || {
        out.clear();
        percent::encode(black_box(b"alice@example.test"), Component::Path, &mut out);
        assert_eq!(out.len(), 20);
    });
    let mut decoder = Decoder::default();
    measure("http: decode a response", RESPONSE.len(), 1, || {
        let mut input = black_box(RESPONSE);
        let response = decoder.push(&mut input).expect("valid").expect("whole");
        assert_eq!((response.status, response.body.len()), (200, 19));
    });
    measure("json: a string", 19, 1, || {
        let value = Value::parse(black_box(b"\"alice@example.org\"")).expect("valid");
        assert_eq!(value.for_postfix().unwrap().as_deref(), Some(&b"alice@example.org"[..]));
    });
    let object = br#"{"user": "alice@example.org", "quota": 1000000000, "aliases": ["a", "b"]}"#;
    let checked = || {
        let value = Value::parse(black_box(object)).expect("valid");
        assert!(matches!(value, Value::Object(_)));
    };
    // The checker remembers the brackets that are open.
    assert!(measure("json: an object", object.len(), 1, checked) <= 1.0);
    for (name, mode, args) in [
        ("engine: a socketmap lookup", Mode::Postfix, &[][..]),
        ("engine: a socketmap lookup, pipeline=16", Mode::Postfix, &["--option", "*:pipeline=16"]),
        ("engine: a dict lookup", Mode::Dovecot, &[]),
        ("engine: a dict lookup, pipeline=16", Mode::Dovecot, &["--option", "*:pipeline=16"]),
    ] {
        let mut engine = Bench::new(mode, args);
        let allocations = measure(name, 0, AT_ONCE, || engine.turn());
        assert!(allocations < 0.001, "{name} allocates");
    }
}

/// Measures `work`, which does something `count` times to `bytes` bytes each; returns how often that allocates.
fn measure(name: &str, bytes: usize, count: usize, mut work: impl FnMut()) -> f64 {
    (0..1000).for_each(|_| work()); // until all buffers have their size
    let (start, before, mut rounds) = (Instant::now(), ALLOCATIONS.load(Relaxed), 0u32);
    while start.elapsed() < TIME {
        (0..10).for_each(|_| work());
        rounds += 10;
    }
    let times = f64::from(rounds) * count as f64;
    let each = start.elapsed().as_nanos() as f64 / times;
    let allocations = (ALLOCATIONS.load(Relaxed) - before) as f64 / times;
    let speed = if bytes == 0 { String::new() } else { format!("{:.0}", bytes as f64 * 1000.0 / each) };
    println!("{name:<46} {each:>9.1} {speed:>9} {:>12.0} {allocations:>12.3}", 1e9 / each);
    allocations
}

/// An engine with one client, and this program in the place of the sockets and the backend.
struct Bench {
    engine: Engine,
    client: Peer,
    backends: Vec<Key>,
    requests: Vec<u8>,
    replies: Vec<u8>,
    now: Instant,
}

impl Bench {
    fn new(mode: Mode, args: &[&str]) -> Bench {
        let table = ["--socket", "/s", "--name", "alias", "--type", "url", "--param", "http://192.0.2.1/a/§"];
        let Ok(Command::Run(config)) = config::parse(table.iter().chain(args).map(OsString::from)) else {
            panic!("a command line that runs")
        };
        let (tables, backend) = podop::open(&config.tables).expect("tables that can be opened");
        let mut engine = Engine::new(tables, backend, config.timeout);
        let (now, mut requests, mut replies) = (Instant::now(), Vec::new(), Vec::new());
        let client = engine.accepted(mode, now);
        for at in 0..AT_ONCE {
            let key = format!("user{at:05}@example.com");
            if mode == Mode::Postfix {
                netstring::encode(&[b"alias ", key.as_bytes()], &mut requests);
                netstring::encode(&[b"OK alice@example.org"], &mut replies);
            } else {
                requests.extend_from_slice(format!("Lshared/{key}\tuser\n").as_bytes());
                replies.extend_from_slice(b"Oalice@example.org\n");
            }
        }
        if mode == Mode::Dovecot {
            engine.received(client, b"H4\t0\t0\t\talias\n", now);
        }
        Bench { engine, client, backends: Vec::new(), requests, replies, now }
    }

    /// All requests arrive, all are answered, and all replies are checked.
    fn turn(&mut self) {
        self.now += Duration::from_micros(100);
        self.engine.received(self.client, &self.requests, self.now);
        let mut replied = 0;
        while replied < self.replies.len() {
            self.engine.process(self.now);
            while let Some(action) = self.engine.next_action() {
                match action {
                    Action::Connect(key, _) => {
                        self.engine.connected(Peer::Backend(key), self.now);
                        self.backends.push(key);
                    }
                    Action::Flush(Peer::Backend(key)) => self.answer(key),
                    Action::Flush(peer) => {
                        let output = self.engine.output(peer);
                        assert_eq!(output, &self.replies[replied..replied + output.len()]);
                        let count = output.len();
                        replied += count;
                        self.engine.sent(peer, count, self.now);
                    }
                    Action::OpenDns(..)
                    | Action::Start(..)
                    | Action::Signal(..)
                    | Action::Resume(_)
                    | Action::CloseNotify(..)
                    | Action::Close(_)
                    | Action::Resolve { .. } => {}
                }
            }
        }
    }

    fn answer(&mut self, key: Key) {
        let peer = Peer::Backend(key);
        let (length, count) = {
            let output = self.engine.output(peer);
            (output.len(), output.windows(4).filter(|end| *end == b"\r\n\r\n").count())
        };
        self.engine.sent(peer, length, self.now);
        (0..count).for_each(|_| _ = self.engine.received(peer, RESPONSE, self.now));
    }
}
