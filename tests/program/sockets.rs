//! The real program on real sockets, with a scripted backend: no client ever gets what belongs to another.

use crate::support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::http::{Backend, Request, Script, Then, raw, response};
use support::podop::{Podop, SOON, ask, reply, request};

#[test]
fn no_key_gets_the_value_of_another() {
    let backend = Backend::start(|request| own(request).after(jitter(&request.target)));
    let podop = alias(&backend, &[]);
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let mut stream = podop.connect();
            std::thread::spawn(move || {
                for round in 0..10 {
                    let keys: Vec<String> = (0..30).map(|at| format!("{}-{thread}-{round}-{at}", at % 3)).collect();
                    let bytes: Vec<u8> = keys.iter().flat_map(|key| request("alias", key.as_bytes())).collect();
                    stream.write_all(&bytes).unwrap();
                    for key in keys {
                        let expected = if key.starts_with('0') { "NOTFOUND ".into() } else { format!("OK own {key}") };
                        assert_eq!(String::from_utf8(reply(&mut stream)).unwrap(), expected);
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn thirty_two_dict_lookups_at_once_get_their_own_values() {
    let backend = Backend::start(|request| own(request).after(jitter(&request.target)));
    let podop = alias(&backend, &[]);
    for version in ["2\t0", "2\t2", "3\t2", "4\t0"] {
        let mut stream = BufReader::new(podop.connect());
        stream.get_mut().write_all(format!("H{version}\t0\tu\talias\n").as_bytes()).unwrap();
        let mut overtaken = 0;
        for round in 0..10 {
            let keys: Vec<String> = (0..32).map(|at| format!("{}-{round}-{at}", at % 3)).collect();
            let text: String = keys.iter().map(|key| format!("Lshared/{key}\tu\n")).collect();
            stream.get_mut().write_all(text.as_bytes()).unwrap();
            // What a real client keeps: its open commands, with the ids that were announced for them.
            let mut open: Vec<(String, Option<String>)> = keys.into_iter().map(|key| (key, None)).collect();
            while !open.is_empty() {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                let line = line.trim_end_matches('\n');
                if let Some(id) = line.strip_prefix('*') {
                    open.iter_mut().find(|(_, known)| known.is_none()).unwrap().1 = Some(id.to_owned());
                    overtaken += 1;
                    continue;
                }
                let (at, text) = match line.strip_prefix('+').and_then(|rest| rest.split_once('\t')) {
                    Some((id, text)) => {
                        (open.iter().position(|(_, known)| known.as_deref() == Some(id)).unwrap(), text)
                    }
                    None => (0, line),
                };
                let (key, _) = open.remove(at);
                let expected = if key.starts_with('0') { "N".to_owned() } else { format!("Oown {key}") };
                assert_eq!(text, expected);
            }
        }
        assert_eq!(overtaken > 0, version != "2\t0", "{version}");
    }
}

#[test]
fn surplus_responses_and_late_misses_answer_no_lookup() {
    let miss = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnull".to_vec();
    let stranger = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n\"stranger\"".to_vec();
    for extra in [miss, stranger, b"\r\n".to_vec(), b"x".to_vec()] {
        let bytes = extra.clone();
        let backend = Backend::start(move |request| {
            let mut script = own(request);
            if request.target.contains("extra") {
                script.bytes.extend_from_slice(&bytes);
            }
            script
        });
        let podop = alias(&backend, &[]);
        let mut stream = podop.connect();
        for round in 0..20 {
            for key in [format!("extra-{round}"), format!("innocent-{round}")] {
                let got = ask(&mut stream, "alias", key.as_bytes());
                assert_eq!(String::from_utf8(got).unwrap(), format!("OK own {key}"));
            }
            backend.blurt(&extra);
            // The bytes may come before, with or after the next lookup leaves; a fault is allowed then,
            // but neither a miss nor the value of another key.
            let key = format!("later-{round}");
            let got = String::from_utf8(ask(&mut stream, "alias", key.as_bytes())).unwrap();
            assert!(got == format!("OK own {key}") || got.starts_with("TEMP "), "{got}");
        }
    }
}

#[test]
fn keys_reach_the_backend_as_they_are_or_not_at_all() {
    let backend = Backend::start(|_| response(200, "\"v\""));
    let podop = alias(&backend, &[]);
    let long = "k".repeat(9_000);
    let cases: [(&[u8], Option<&str>); 15] = [
        (b"../x", None),
        (b"a/./b", None),
        (b"..", None),
        (b"%2e%2e", Some("%252e%252e")),
        (b"x?y#z", Some("x%3Fy%23z")),
        (b"a\r\nHost: evil", Some("a%0D%0AHost%3A%20evil")),
        (b"nul\0", Some("nul%00")),
        (b"caf\xe9", Some("caf%E9")),
        (b"a b", Some("a%20b")),
        (b"", None),
        (b"/a", None),
        (b"a/", None),
        (b"a//b", None),
        (b"a/b", Some("a/b")),
        (long.as_bytes(), Some(&long)),
    ];
    let mut stream = podop.connect();
    for (key, target) in cases {
        let before = backend.requests().len();
        let got = ask(&mut stream, "alias", key);
        let requests = &backend.requests()[before..];
        match target {
            None => assert!(got == b"NOTFOUND " && requests.is_empty(), "{}", key.escape_ascii()),
            Some(target) => {
                assert_eq!(got, b"OK v");
                assert_eq!(requests.len(), 1);
                assert_eq!(requests[0].target, format!("/a/{target}"));
            }
        }
    }
}

#[test]
fn a_backend_that_hangs_gives_a_timeout() {
    let backend = Backend::start(|_| raw(vec![], Then::Hang));
    let podop = alias(&backend, &["--timeout", "0.3"]);
    let start = Instant::now();
    let got = podop.lookup("alias", "a");
    assert_eq!(got, format!("TIMEOUT alias: {} did not answer in time", backend.address()));
    assert!((Duration::from_millis(300)..SOON).contains(&start.elapsed()));
}

#[test]
fn a_backend_that_is_restarted_under_load_costs_no_wrong_answer() {
    let backend = Backend::start(own);
    let (address, podop) = (backend.address(), alias(&backend, &[]));
    let stop = Arc::new(AtomicBool::new(false));
    let (good, bad) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let (mut stream, stop, good, bad) = (podop.connect(), stop.clone(), good.clone(), bad.clone());
            std::thread::spawn(move || {
                for at in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let key = format!("{}-{thread}-{at}", at % 2);
                    let got = String::from_utf8(ask(&mut stream, "alias", key.as_bytes())).unwrap();
                    let expected = if at % 2 == 0 { "NOTFOUND ".into() } else { format!("OK own {key}") };
                    if got == expected {
                        good.fetch_add(1, Ordering::SeqCst);
                    } else {
                        assert!(got.starts_with("TEMP alias: "), "{got}");
                        bad.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    let mut backend = Some(backend);
    for _ in 0..3 {
        wait_for(|| good.load(Ordering::SeqCst) > 100);
        let before = bad.load(Ordering::SeqCst);
        drop(backend.take());
        wait_for(|| bad.load(Ordering::SeqCst) > before);
        good.store(0, Ordering::SeqCst);
        backend = Some(Backend::start_at(address, own));
    }
    wait_for(|| good.load(Ordering::SeqCst) > 100);
    stop.store(true, Ordering::SeqCst);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn sigterm_answers_what_is_in_flight() {
    let backend = Backend::start(|request| own(request).after(Duration::from_millis(300)));
    let mut podop = alias(&backend, &[]);
    let mut stream = podop.connect();
    stream.write_all(&request("alias", b"1")).unwrap();
    wait_for(|| !backend.requests().is_empty());
    podop.signal(libc::SIGTERM);
    assert_eq!(reply(&mut stream), b"OK own 1");
    assert_eq!(podop.wait().code(), Some(0));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let backend = Backend::start(|_| raw(vec![], Then::Hang));
    let mut podop = alias(&backend, &[]);
    let mut stream = podop.connect();
    stream.write_all(&request("alias", b"1")).unwrap();
    wait_for(|| !backend.requests().is_empty());
    podop.signal(libc::SIGTERM);
    wait_for(|| podop.log().contains("shutdown"));
    podop.signal(libc::SIGINT);
    assert_eq!(podop.wait().code(), Some(0));
}

#[test]
fn requests_that_come_byte_by_byte_are_answered() {
    let backend = Backend::start(own);
    let podop = alias(&backend, &[]);
    let mut stream = podop.connect();
    for byte in request("alias", b"1").into_iter().chain(request("alias", b"0")) {
        stream.write_all(&[byte]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all, "8:OK own 1,9:NOTFOUND ,");
}

#[test]
fn ten_megabytes_reach_a_client_that_reads_slowly() {
    let value = "x".repeat(90_000);
    let body = format!("\"{value}\"");
    let backend = Backend::start(move |_| response(200, &body));
    let podop = alias(&backend, &[]);
    let mut stream = podop.connect();
    let requests: Vec<u8> = (0..120).flat_map(|at| request("alias", format!("{at}").as_bytes())).collect();
    stream.write_all(&requests).unwrap();
    for _ in 0..120 {
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(reply(&mut stream).len(), value.len() + 3);
    }
    let mut stream = BufReader::new(podop.connect());
    let lookups: String = (0..120).map(|at| format!("Lshared/{at}\n")).collect();
    stream.get_mut().write_all(format!("H2\t0\t0\tu\talias\n{lookups}").as_bytes()).unwrap();
    for _ in 0..120 {
        std::thread::sleep(Duration::from_millis(1));
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line.len(), value.len() + 2);
    }
}

#[test]
fn a_backend_on_a_unix_socket_gets_the_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let heads = seen.clone();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            heads.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..count]));
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\"u\"").unwrap();
        }
    });
    let encoded = path.to_str().unwrap().replace('/', "%2F");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "X-Auth-Token: t0ken\n").unwrap();
    let option = format!("alias:header-file={}", secret.display());
    let url = format!("http+unix://user:p%40ss@{encoded}/map/§");
    let podop = Podop::start(&["--name", "alias", "--type", "url", "--param", &url, "--option", &option, "-v"]);
    assert_eq!(podop.lookup("alias", "a@x"), "OK u");
    assert_eq!(podop.lookup("alias", "b@x"), "OK u");
    let seen = seen.lock().unwrap();
    assert!(seen.starts_with("GET /map/a%40x HTTP/1.1\r\nHost: localhost\r\n"), "{seen}");
    assert!(seen.contains("Authorization: Basic dXNlcjpwQHNz\r\nX-Auth-Token: t0ken\r\n"), "{seen}");
    let log = podop.log();
    assert!(!log.contains("p@ss") && !log.contains("p%40ss") && !log.contains("t0ken"), "{log}");
}

/// A backend on a unix socket that answers 503 with a problem to `/map/bad`, and all it was sent.
fn recording(path: &std::path::Path) -> Arc<Mutex<String>> {
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let heads = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, heads) = (stream.unwrap(), heads.clone());
            std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut chunk) {
                    let request = String::from_utf8_lossy(&chunk[..count]).into_owned();
                    heads.lock().unwrap().push_str(&request);
                    let bytes = if request.starts_with("GET /map/bad ") {
                        let body = "{\"title\": \"Busy\", \"detail\": \"the database is l\u{f6}cked\\n\"}";
                        let kind = "Content-Type: application/problem+json; charset=utf-8";
                        format!("HTTP/1.1 503 Busy\r\n{kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                    } else {
                        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\"u\"".to_owned()
                    };
                    stream.write_all(bytes.as_bytes()).unwrap();
                }
            });
        }
    });
    seen
}

fn unix_url(path: &std::path::Path) -> String {
    format!("http+unix://{}/map/§", path.to_str().unwrap().replace('/', "%2F"))
}

#[test]
fn a_header_file_is_read_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, secret) = (dir.path().join("app.sock"), dir.path().join("secret"));
    let seen = recording(&path);
    let rotate = |text: &str| {
        std::fs::write(dir.path().join("new"), text).unwrap();
        std::fs::rename(dir.path().join("new"), &secret).unwrap();
    };
    rotate("X-Token: first\n");
    let option = format!("alias:header-file={}", secret.display());
    let podop = Podop::start(&["--name", "alias", "--type", "url", "--param", &unix_url(&path), "--option", &option]);
    let sent = |token: &str| {
        seen.lock().unwrap().clear();
        assert_eq!(podop.lookup("alias", "a"), "OK u");
        seen.lock().unwrap().contains(&format!("X-Token: {token}\r\n"))
    };
    assert!(sent("first"));
    rotate("X-Token: third\n"); // of the same size
    support::podop::wait_until(|| sent("third"));
    // What cannot be used is reported once, and the old one stays in use.
    rotate("no field\n");
    support::podop::wait_until(|| podop.log().contains("header-file-unreadable"));
    std::fs::remove_file(&secret).unwrap();
    std::thread::sleep(Duration::from_millis(2_500));
    assert!(sent("third"));
    rotate("X-Token: fourth\n");
    support::podop::wait_until(|| sent("fourth"));
    assert_eq!(podop.log().matches("header-file-unreadable").count(), 1, "{}", podop.log());
}

#[test]
fn a_request_can_be_found_in_the_log_of_the_backend_and_the_reason_in_that_of_postfix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let seen = recording(&path);
    let table = ["--name", "alias", "--type", "url", "--param", &unix_url(&path)];
    let podop = Podop::start(&[&table[..], &["--option", "alias:trace=on", "-vv", "--slow", "0.001"]].concat());
    let trace = || {
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let field =
            seen.lines().find_map(|line| line.strip_prefix("traceparent: 00-").map(str::to_owned)).expect(&seen);
        let parts: Vec<&str> = field.split('-').collect();
        assert!(parts.len() == 3 && parts[0].len() == 32 && parts[1].len() == 16 && parts[2] == "01", "{field}");
        parts[0].to_owned()
    };
    assert_eq!(podop.lookup("alias", "a"), "OK u");
    let first = trace();
    assert!(podop.log().contains(&format!("key=\"a\" result=found trace={first}\n")), "{}", podop.log());
    let reason = format!("TEMP alias: unix:{} answered 503: the database is l?cked?", path.display());
    assert_eq!(podop.lookup("alias", "bad"), reason);
    let second = trace();
    assert_ne!(first, second);
    let line = format!("cause=\"answered 503\" detail=\"the database is l?cked?\" trace={second}\n");
    assert!(podop.log().contains(&line), "{}", podop.log());
    // Without trace=on there is no field, and without the media type the body is not read.
    drop(podop);
    let podop = Podop::start(&table);
    assert_eq!(podop.lookup("alias", "a"), "OK u");
    assert!(!seen.lock().unwrap().contains("traceparent"));
}

#[test]
fn a_unix_backend_with_a_full_accept_queue_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let full = UnixStream::connect(&path).unwrap();
    let url = format!("http+unix://{}/§", path.to_str().unwrap().replace('/', "%2F"));
    let podop = Podop::start(&["--name", "alias", "--type", "url", "--param", &url, "--timeout", "1"]);
    let start = Instant::now();
    let reason = format!("TIMEOUT alias: unix:{} did not accept a connection in time", path.display());
    assert_eq!(podop.lookup("alias", "a"), reason);
    assert!(start.elapsed() >= Duration::from_secs(1));
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(full);
        for _ in 0..2 {
            let (mut stream, _) = socket.accept().unwrap();
            let mut chunk = [0; 4096];
            while let Ok(1..) = stream.read(&mut chunk) {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\"u\"").unwrap();
            }
        }
    });
    assert_eq!(podop.lookup("alias", "b"), "OK u");
}

#[test]
fn a_file_table_is_read_again_on_sighup() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.json");
    std::fs::write(&path, "{\"k\": \"old\"}").unwrap();
    let podop = Podop::start(&["--name", "t", "--type", "file", "--param", path.to_str().unwrap()]);
    assert_eq!(podop.lookup("t", "k"), "OK old");
    std::fs::write(&path, "{\"k\": \"new\"}").unwrap();
    podop.signal(libc::SIGHUP);
    wait_for(|| podop.lookup("t", "k") == "OK new");
}

/// A Podop whose table `alias` asks this backend below `/a/`.
fn alias(backend: &Backend, args: &[&str]) -> Podop {
    let url = backend.url("/a/§");
    Podop::start(&[&["--name", "alias", "--type", "url", "--param", &url], args].concat())
}

/// A value that contains its key; keys that begin with 0 have none.
fn own(request: &Request) -> Script {
    let key = request.target.trim_start_matches("/a/");
    if key.starts_with('0') { response(404, "null") } else { response(200, &format!("\"own {key}\"")) }
}

/// Up to 10 ms, different for each key.
fn jitter(key: &str) -> Duration {
    let sum: u64 = key.bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    Duration::from_micros(sum % 10_000)
}

fn wait_for(mut done: impl FnMut() -> bool) {
    let until = Instant::now() + 2 * SOON;
    while !done() {
        assert!(Instant::now() < until, "it does not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}
