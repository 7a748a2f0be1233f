//! Clients that misbehave, on real sockets and both protocols: each gets what it deserves, and nobody else
//! notices.

use crate::support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::http::{Backend, Then, raw, response};
use support::podop::{Podop, SOON, ask, reply, request};
use support::port;

/// What is sent on one connection, what comes back, and whether Podop closes it then.
struct Case {
    name: &'static str,
    sent: Vec<u8>,
    answered: &'static [u8],
    closed: bool,
}

fn case(name: &'static str, sent: impl AsRef<[u8]>, answered: &'static [u8], closed: bool) -> Case {
    Case { name, sent: sent.as_ref().to_vec(), answered, closed }
}

fn cases() -> Vec<Case> {
    let hello = "H4\t0\t0\t\talias\n";
    let dict = |rest: &str| format!("{hello}{rest}");
    let key = "k".repeat(65_000);
    let line = format!("Lshared/{}\t", "k".repeat(1_048_567));
    let longest = format!("{}:OK own {key},", key.len() + 7);
    vec![
        // Neither protocol.
        case("a web browser", "GET / HTTP/1.1\r\n\r\n", b"", true),
        case("an empty line", "\n", b"", true),
        case("TLS", b"\x16\x03\x01\x02\x00", b"", true),
        // Socketmap.
        case("no length", ":alias a,", b"", true),
        case("a letter in the length", "7x:alias a,", b"", true),
        case("a sign before the length", "+7:alias a,", b"", true),
        case("a space before the length", " 7:alias a,", b"", true),
        case("a zero before the length", "07:alias a,", b"", true),
        case("no comma", "7:alias a;", b"", true),
        case("length too small", "6:alias a,", b"", true),
        case("a length beyond the limit", "16777217:", b"", true),
        case("length beyond 64 bits", "99999999999999999999999:", b"", true),
        case("good, then garbage", "7:alias a,x", b"8:OK own a,", true),
        case(
            "no space",
            "5:alias,7:alias a,",
            b"47:PERM request without a space after the map name,8:OK own a,",
            false,
        ),
        case("nothing", "0:,7:alias a,", b"47:PERM request without a space after the map name,8:OK own a,", false),
        case("no such table", "6:none a,7:alias a,", b"24:TEMP no such table: none,8:OK own a,", false),
        case("no name", "2: a,7:alias a,", b"20:TEMP no such table: ,8:OK own a,", false),
        case("an empty key", "6:alias ,7:alias a,", b"9:NOTFOUND ,8:OK own a,", false),
        case("a key of the largest size", format!("{}:alias {key},", key.len() + 6), longest.leak().as_bytes(), false),
        case("a longer key", format!("{}:alias {key}k,7:alias a,", key.len() + 7), b"9:NOTFOUND ,8:OK own a,", false),
        case(
            "a much longer key",
            format!("3000006:alias {},7:alias a,", "k".repeat(3_000_000)),
            b"9:NOTFOUND ,8:OK own a,",
            false,
        ),
        case("a long key without a comma", format!("70006:alias {};", "k".repeat(70_000)), b"", true),
        // Dict.
        case("no hello", "Lshared/a\t\n", b"", true),
        case("an old version", "H1\t0\t0\t\talias\n", b"", true),
        case("a new version", "H5\t0\t0\t\talias\n", b"", true),
        case("a version that is no number", "Hx\t0\t0\t\talias\n", b"", true),
        case("half a hello", "H4\t0\n", b"", true),
        case("two hellos", dict(hello), b"", true),
        case("an unknown command", dict("Z1\n"), b"", true),
        case("an empty command", dict("\n"), b"", true),
        case("a commit of nothing begun", dict("C1\n"), b"", true),
        case("a write of nothing begun", dict("S1\tshared/a\t1\n"), b"", true),
        case("a transaction twice", dict("B1\t\nB1\t\n"), b"", true),
        case("an id that is no number", dict("Bx\t\n"), b"", true),
        case("an id beyond 32 bits", dict("B4294967296\t\n"), b"", true),
        case("an increment that is no number", dict("B1\t\nA1\tshared/a\tx\n"), b"", true),
        case("flags that are no number", dict("Ix\t0\tshared/\t\n"), b"", true),
        case("good, then garbage", dict("Lshared/a\t\nZ\n"), b"Oown a\n", true),
        case("priv without a user", dict("Lpriv/a\t\nLshared/a\t\n"), b"Fpriv/ key without a user\nOown a\n", false),
        case("no namespace", dict("La\tu\n"), b"Fkey begins neither with shared/ nor with priv/\n", false),
        case("an empty transaction", dict("B1\t\nC1\nB1\t\nD1\n"), b"O1\nO1\n", false),
        case("rolled back", dict("B1\t\nS1\tshared/a\t1\nR1\nLshared/a\t\n"), b"Oown a\n", false),
        case("two transactions interleaved", dict("B1\t\nB2\t\nR2\nC1\n"), b"O1\n", false),
        case("a longer key", dict(&format!("Lshared/{key}\t\nLshared/a\t\n")), b"Fkey is too long\nOown a\n", false),
        case("a line beyond the limit", dict(&line) + "kkkk", b"", true),
    ]
}

#[test]
fn every_case_is_answered_as_stated() {
    let (backend, podop) = start();
    let mut innocent = podop.connect();
    for Case { name, sent, answered, closed } in cases() {
        for step in [usize::MAX, 1] {
            let sent = if step == 1 && sent.len() > 1000 { &sent[..1000] } else { &sent[..] };
            let whole = step > 1 || sent.len() < 1000;
            let mut stream = podop.connect();
            for piece in sent.chunks(step) {
                if stream.write_all(piece).is_err() {
                    break; // closed already, rightly
                }
            }
            if !closed && whole {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            let mut got = Vec::new();
            if whole {
                let end = stream.read_to_end(&mut got);
                assert!(closed || end.is_ok(), "{name}");
            }
            // What was answered before a mistake may or may not arrive; nothing else may.
            let lossy = closed && got.is_empty();
            assert!(!whole || got == answered || lossy, "{name}: {}", got.escape_ascii());
            drop(stream);
            assert_eq!(support::podop::ask(&mut innocent, "alias", b"innocent"), b"OK own innocent", "after {name}");
        }
    }
    drop(backend);
}

#[test]
fn a_key_that_is_too_long_is_logged_without_the_key() {
    let (_backend, podop) = start();
    let mut client = podop.connect();
    for _ in 0..3 {
        assert_eq!(ask(&mut client, "alias", "k".repeat(100_000).as_bytes()), b"NOTFOUND ");
    }
    let log = podop.log();
    assert_eq!(log.matches("warn key-too-long table=alias\n").count(), 1, "{log}");
    assert!(!log.contains("kkk"), "{log}");
}

#[test]
fn a_client_that_vanishes_at_any_byte_disturbs_no_other() {
    let (_backend, podop) = start();
    let mut innocent = podop.connect();
    let dialogues = [request("alias", b"some key"), b"H4\t0\t0\t\talias\nLshared/a\t\nI0\t0\tshared/x/\t\n".to_vec()];
    for bytes in dialogues {
        for cut in 0..=bytes.len() {
            let mut stream = podop.connect();
            stream.write_all(&bytes[..cut]).unwrap();
            drop(stream);
        }
        assert_eq!(support::podop::ask(&mut innocent, "alias", b"innocent"), b"OK own innocent");
    }
}

#[test]
fn a_client_that_never_reads_delays_no_other() {
    let value = "x".repeat(90_000);
    let backend = Backend::start(move |request| match request.target.as_str() {
        "/innocent" => response(200, "\"own innocent\""),
        _ => response(200, &format!("\"{value}\"")),
    });
    let podop = podop(&backend);
    let mut deaf: Vec<UnixStream> = Vec::new();
    for hello in [&b""[..], b"H4\t0\t0\t\talias\n"] {
        for _ in 0..4 {
            let mut stream = podop.connect();
            stream.set_nonblocking(true).unwrap();
            let one = if hello.is_empty() { request("alias", b"big") } else { b"Lshared/big\t\n".to_vec() };
            let _ = stream.write(&[hello, &one.repeat(300)].concat());
            deaf.push(stream);
        }
    }
    let mut innocent = podop.connect();
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        assert_eq!(support::podop::ask(&mut innocent, "alias", b"innocent"), b"OK own innocent");
    }
    // One that begins to read again gets everything.
    let mut slow = deaf.swap_remove(0);
    slow.set_nonblocking(false).unwrap();
    for _ in 0..300 {
        assert_eq!(reply(&mut slow).len(), 90_003);
    }
}

#[test]
fn many_clients_share_the_socket_without_mixing() {
    let (_backend, podop) = start();
    let threads: Vec<_> = (0..16)
        .map(|thread| {
            let mut stream = podop.connect();
            std::thread::spawn(move || {
                let dict = thread % 2 == 1;
                if dict {
                    stream.write_all(b"H2\t0\t0\tu\talias\n").unwrap();
                }
                for at in 0..200 {
                    let key = format!("{thread}-{at}");
                    if dict {
                        stream.write_all(format!("Lshared/{key}\n").as_bytes()).unwrap();
                        let expected = format!("Oown {key}\n");
                        let mut got = vec![0; expected.len()];
                        stream.read_exact(&mut got).unwrap();
                        assert_eq!(String::from_utf8_lossy(&got), expected);
                    } else {
                        let got = support::podop::ask(&mut stream, "alias", key.as_bytes());
                        assert_eq!(String::from_utf8_lossy(&got), format!("OK own {key}"));
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_commit_is_carried_out_though_its_client_left() {
    let backend = Backend::start(|request| match request.method.as_str() {
        "POST" => response(200, "").after(Duration::from_millis(30)),
        _ => raw(vec![], Then::Close),
    });
    let podop = podop(&backend);
    let mut stream = podop.connect();
    stream
        .write_all(b"H4\t0\t0\t\talias\nB1\t\nS1\tshared/a\t1\nS1\tshared/b\t2\nC1\nB2\t\nS2\tshared/c\t3\n")
        .unwrap();
    drop(stream);
    let until = Instant::now() + SOON;
    while backend.requests().len() < 2 {
        assert!(Instant::now() < until, "{:?}", backend.requests());
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut late = podop.connect();
    late.write_all(b"H4\t0\t0\t\talias\nB1\t\nS1\tshared/d\t4\nC1\n").unwrap();
    let mut got = [0; 3];
    late.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"O1\n");
    let targets: Vec<String> = backend.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/a", "/b", "/d"]);
}

fn start() -> (Backend, Podop) {
    let backend = Backend::start(|request| {
        let key = request.target.trim_start_matches('/');
        response(200, &format!("\"own {key}\""))
    });
    let podop = podop(&backend);
    (backend, podop)
}

fn podop(backend: &Backend) -> Podop {
    Podop::start(&["--name", "alias", "--type", "url", "--param", &backend.url("/§")])
}

#[test]
fn a_client_that_leaves_far_too_much_unread_is_closed() {
    let value = "x".repeat(90_000);
    let backend = Backend::start(move |_| response(200, &format!("\"{value}\"")));
    let podop = podop(&backend);
    let mut stream = podop.connect();
    stream.write_all(&request("alias", b"big").repeat(990)).unwrap();
    let until = Instant::now() + 2 * SOON;
    while !podop.log().contains("client-timeout") {
        assert!(Instant::now() < until, "89 MB are kept for it");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(support::podop::ask(&mut podop.connect(), "alias", b"a").len(), 90_003);
}

#[test]
fn a_flood_that_reads_quickly_delays_no_other_client() {
    let (dir, port) = (tempfile::tempdir().unwrap(), port::free());
    let path = dir.path().join("table.json");
    std::fs::write(&path, format!("{{\"k\": \"{}\"}}", "v".repeat(5_000))).unwrap();
    let inet = format!("inet:127.0.0.1:{port}");
    let table = ["--name", "test", "--type", "file", "--param", path.to_str().unwrap(), "--socket", &inet];
    let podop = Podop::start(&table);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let unix = podop.connect();
        // The second socket listens a moment after the first, for which `start` waits.
        let until = Instant::now() + SOON;
        let tcp = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(tcp) => break tcp,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        // So that neither side of a flood outlives it.
        let soon = Some(Duration::from_millis(200));
        unix.set_read_timeout(soon).and_then(|()| unix.set_write_timeout(soon)).unwrap();
        tcp.set_read_timeout(soon).and_then(|()| tcp.set_write_timeout(soon)).unwrap();
        flood(scope, &stop, unix.try_clone().unwrap(), unix);
        flood(scope, &stop, tcp.try_clone().unwrap(), tcp);
        let (mut other, mut longest, start) = (podop.connect(), Duration::ZERO, Instant::now());
        while start.elapsed() < Duration::from_secs(2) {
            let sent = Instant::now();
            assert_eq!(ask(&mut other, "test", b"none"), b"NOTFOUND ");
            longest = longest.max(sent.elapsed());
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, SeqCst);
        // In a debug build, on two cores that the flood keeps busy as well.
        assert!(longest < Duration::from_millis(500), "{longest:?}");
        let peak = peak(podop.pid());
        assert!(peak < 40 << 20, "{peak} bytes");
    });
}

/// Writes lookups without end, and reads the replies as fast as they come.
fn flood<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    stop: &'scope AtomicBool,
    mut to: impl Write + Send + 'scope,
    mut from: impl Read + Send + 'scope,
) {
    let requests = b"6:test k,".repeat(10_000);
    scope.spawn(move || while !stop.load(SeqCst) && to.write_all(&requests).is_ok() {});
    scope.spawn(move || {
        let mut chunk = vec![0; 1 << 20];
        while !stop.load(SeqCst) && from.read(&mut chunk).is_ok_and(|count| count > 0) {}
    });
}

/// The most memory that a process has had, in bytes.
fn peak(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
