//! Speed of the codecs, and of lookups through the whole program with a backend of its own.

use podop::value::Value;
use podop::wire::http::Decoder;
use podop::wire::netstring;
use std::fs;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long each thing is measured.
const TIME: Duration = Duration::from_millis(500);

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 23 Nov 2026 09:00:00 GMT\r\n\
Content-Type: application/json\r\nContent-Length: 19\r\nConnection: keep-alive\r\n\r\n\"alice@example.org\"";

fn main() {
    println!("{:<44} {:>12} {:>14}", "codec", "ns each", "MB/s");
    let requests = b"24:alias alice@example.test,".repeat(1000);
    micro("netstring: decode 1 000 requests", requests.len(), || {
        let (mut rest, mut count) = (&requests[..], 0);
        while let Ok(Some((payload, used))) = netstring::decode(rest, 65_536) {
            count += usize::from(payload.starts_with(b"alias "));
            rest = &rest[used..];
        }
        assert_eq!(black_box(count), 1000);
    });
    micro("netstring: encode a reply", 24, || {
        let mut out = Vec::with_capacity(64);
        netstring::encode(&[b"OK ", black_box(b"alice@example.org")], &mut out);
        assert_eq!(out.len(), 24);
    });
    let mut decoder = Decoder::default();
    micro("http: decode a response", RESPONSE.len(), || {
        let mut input = black_box(RESPONSE);
        let response = decoder.push(&mut input).expect("valid").expect("whole");
        assert_eq!((response.status, response.body.len()), (200, 19));
    });
    micro("json: a string", 19, || {
        let value = Value::parse(black_box(b"\"alice@example.org\"")).expect("valid");
        assert_eq!(value.for_postfix().as_deref(), Some("alice@example.org"));
    });

    println!("\n{:<44} {:>12} {:>14} {:>10}", "lookups through the program", "CPU us each", "lookups/s", "wrong");
    let rig = Rig::start();
    for connections in [1, 8, 64, 512] {
        rig.measure(connections);
    }
}

fn micro(name: &str, bytes: usize, mut work: impl FnMut()) {
    let (start, mut rounds) = (Instant::now(), 0u32);
    while start.elapsed() < TIME {
        (0..100).for_each(|_| work());
        rounds += 100;
    }
    let each = start.elapsed().as_nanos() as f64 / f64::from(rounds);
    println!("{name:<44} {each:>12.0} {:>14.0}", bytes as f64 * 1000.0 / each);
}

/// The program, a backend in this process, and a folder for the socket.
struct Rig {
    podop: Child,
    dir: tempfile::TempDir,
}

impl Rig {
    fn start() -> Rig {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/map/§", listener.local_addr().expect("an address"));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream));
            }
        });
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("s");
        let mut command = Command::new(env!("CARGO_BIN_EXE_podop"));
        command.arg("--socket").arg(&socket).args(["--name", "t", "--type", "url", "--param", &url]);
        let podop = command.stdin(Stdio::null()).spawn().expect("podop starts");
        while UnixStream::connect(&socket).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Rig { podop, dir }
    }

    /// Asks on so many connections, one request on each at a time, and checks every answer.
    fn measure(&self, connections: usize) {
        let connect = |_| UnixStream::connect(self.dir.path().join("s")).expect("podop listens");
        let mut streams: Vec<UnixStream> = (0..connections).map(connect).collect();
        let (mut lookups, mut wrong, mut chunk) = (0usize, 0, [0; 256]);
        let (mut start, mut before) = (Instant::now(), self.cpu());
        let mut warm = false;
        while start.elapsed() < TIME {
            for (at, stream) in streams.iter_mut().enumerate() {
                write_all(stream, format!("13:t user{:05}@x,", (lookups + at) % 100_000).as_bytes());
            }
            for (at, stream) in streams.iter_mut().enumerate() {
                let count = stream.read(&mut chunk).expect("a reply");
                let expected = format!("16:OK v-user{:05}@x,", (lookups + at) % 100_000);
                wrong += usize::from(&chunk[..count] != expected.as_bytes());
            }
            lookups += connections;
            if !warm && start.elapsed() > TIME / 5 {
                (warm, start, before, lookups) = (true, Instant::now(), self.cpu(), 0);
            }
        }
        let (time, cpu) = (start.elapsed(), self.cpu() - before);
        let each = cpu as f64 / 1000.0 / lookups as f64;
        let rate = lookups as f64 / time.as_secs_f64();
        println!("{:<44} {each:>12.1} {rate:>14.0} {wrong:>10}", format!("{connections} connections"));
        assert_eq!(wrong, 0);
    }

    /// Nanoseconds on CPU of the program's threads.
    fn cpu(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.podop.id())).expect("a process");
        let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).ok();
        let first = |text: String| text.split(' ').next().and_then(|number| number.parse::<u64>().ok());
        tasks.flatten().filter_map(|task| of(task).and_then(first)).sum()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.podop.kill();
        let _ = self.podop.wait();
    }
}

fn write_all(stream: &mut UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("podop reads");
}

/// A backend that answers each GET with a value made of its key.
fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (mut chunk, mut held) = ([0; 4096], Vec::new());
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        held.extend_from_slice(&chunk[..count]);
        if !held.ends_with(b"\r\n\r\n") {
            continue;
        }
        let key = held.split(|byte| *byte == b' ').nth(1).and_then(|target| target.strip_prefix(b"/map/"));
        let key = String::from_utf8_lossy(key.unwrap_or_default()).replace("%40", "@");
        let body = format!("\"v-{key}\"");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        held.clear();
        if stream.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}
