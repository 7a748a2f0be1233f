//! Monitoring: metrics, health and log lines.

use crate::support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::http::{Backend, Request, Script, Then, raw, response};
use support::podop::{Podop, ask, reply, request, wait_until};

#[test]
fn lookups_exchanges_and_clients_are_counted() {
    let (backend, watched) = start(&["--timeout", "0.5", "--option", "*:keepalive=30"]);
    let podop = &watched.podop;
    let mut client = podop.connect();
    for (key, word) in [("a", "OK"), ("b", "OK"), ("none", "NOTFOUND"), ("broken", "TEMP"), ("hang", "TIMEOUT")] {
        let reply = String::from_utf8(ask(&mut client, "alias", key.as_bytes())).unwrap();
        assert!(reply.starts_with(word), "{key}: {reply}");
    }
    assert!(ask(&mut client, "nothing", b"x").starts_with(b"TEMP no such table"));
    let mut dict = podop.connect();
    dict.write_all(b"H4\t0\t0\t\talias\nB1\tu\nS1\tshared/k\tv\nC1\nB2\tu\nS2\tshared/broken\tv\nC2\n").unwrap();
    dict.write_all(b"I0\t0\tshared/list/\tu\n").unwrap();
    wait_until(|| watched.metrics().contains("podop_iterations_total{table=\"alias\",result=\"done\"} 1\n"));
    podop.connect().write_all(b"nonsense").unwrap();
    wait_until(|| watched.metrics().contains("podop_clients_rejected_total 1\n"));
    let (metrics, address) = (watched.metrics(), backend.address());
    let outcome = |outcome: &str| format!("podop_exchanges_total{{backend=\"{address}\",outcome=\"{outcome}\"}}");
    for line in [
        "podop_lookups_total{table=\"alias\",result=\"found\"} 2".to_owned(),
        "podop_lookups_total{table=\"alias\",result=\"miss\"} 1".to_owned(),
        "podop_lookups_total{table=\"alias\",result=\"fault\"} 1".to_owned(),
        "podop_lookups_total{table=\"alias\",result=\"timeout\"} 1".to_owned(),
        "podop_lookup_duration_seconds_count{table=\"alias\"} 5".to_owned(),
        "podop_lookup_duration_seconds_bucket{table=\"alias\",le=\"+Inf\"} 5".to_owned(),
        "podop_lookup_duration_seconds_bucket{table=\"alias\",le=\"0.25\"} 4".to_owned(),
        "podop_commits_total{table=\"alias\",result=\"done\"} 1".to_owned(),
        "podop_commits_total{table=\"alias\",result=\"uncertain\"} 1".to_owned(),
        "podop_unknown_table_requests_total 1".to_owned(),
        "podop_clients 2".to_owned(),
        "podop_requests_in_flight 0".to_owned(),
        format!("{} 4", outcome("2xx")),
        format!("{} 1", outcome("4xx")),
        format!("{} 2", outcome("5xx")),
        format!("{} 1", outcome("timeout")),
        format!("podop_backend_down{{backend=\"{address}\"}} 0"),
        format!("podop_queue_length{{backend=\"{address}\"}} 0"),
        format!("podop_connections{{backend=\"{address}\",state=\"busy\"}} 0"),
        format!("podop_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(metrics.lines().any(|one| one == line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("none") && !metrics.contains("nothing"), "labels come from the command line only");
    podop.signal(libc::SIGUSR1);
    wait_until(|| podop.log().contains("info state podop_lookups_total{table=\"alias\",result=\"found\"} 2\n"));
}

#[test]
fn a_backend_that_is_down_makes_nothing_unready() {
    let (backend, watched) = start(&["--timeout", "3"]);
    assert_eq!(watched.page("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(watched.page("/nothing").0, 404);
    drop(backend);
    wait_until(|| watched.podop.lookup("alias", "a").starts_with("TEMP"));
    assert_eq!(watched.page("/readyz"), (200, "ok\n".to_owned()));
}

#[test]
fn readiness_ends_with_the_shutdown() {
    let (backend, watched) = start(&["--timeout", "3"]);
    // The lookup keeps the process alive for a while.
    let mut hanging = watched.podop.connect();
    hanging.write_all(&request("alias", b"hang")).unwrap();
    wait_until(|| backend.requests().len() == 1);
    watched.podop.signal(libc::SIGTERM);
    wait_until(|| UnixStream::connect(&watched.socket).is_err());
    assert!(reply(&mut hanging).starts_with(b"TIMEOUT "), "it was still running");
}

#[test]
fn a_slow_lookup_is_explained_in_one_line_and_folded() {
    let (backend, watched) = start(&["--slow", "0.2", "--option", "*:connections=1"]);
    let podop = &watched.podop;
    let mut clients = [podop.connect(), podop.connect(), podop.connect()];
    for client in &mut clients {
        client.write_all(&request("alias", b"slow")).unwrap();
    }
    clients.iter_mut().for_each(|client| assert_eq!(reply(client), b"OK own slow"));
    let log = podop.log();
    let start = format!("warn slow table=alias backend={} took=0.3", backend.address());
    let line = log.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(" queue=0.0") && line.contains(" wait=0.3") && line.contains(" body=0.000"), "{line}");
    assert_eq!(log.matches("warn slow").count(), 1, "repetitions are only counted: {log}");
    let slow = "podop_slow_exchanges_total{table=\"alias\"} 3";
    assert!(watched.metrics().contains(slow), "{}", watched.metrics());
}

#[test]
fn made_up_table_names_do_not_fill_the_log() {
    let (_backend, watched) = start(&[]);
    let mut client = watched.podop.connect();
    for at in 0..200 {
        let name = format!("made-up-{at}-{}", "x".repeat(60_000));
        assert!(ask(&mut client, &name, b"a-key").starts_with(b"TEMP no such table: made-up-"));
    }
    for key in ["a-key", "none", "broken"] {
        ask(&mut client, "alias", key.as_bytes());
    }
    let log = watched.podop.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with("warn unknown-table ")).collect();
    assert_eq!(lines.len(), 64, "{log}");
    assert!(lines.iter().all(|line| line.len() < 150 && line.ends_with("xxx…\"")), "{log}");
    assert!(log.contains("warn fault table=alias "), "{log}");
    assert!(!log.contains("a-key") && !log.contains("key="), "keys are shown with -vv only: {log}");
}

#[test]
fn an_unreachable_backend_is_logged_once_a_second() {
    let port = support::port::free();
    let url = format!("http://127.0.0.1:{port}/§");
    let (podop, start) = (Podop::start(&["--name", "alias", "--type", "url", "--param", &url]), Instant::now());
    for at in 0..50 {
        assert!(podop.lookup("alias", &format!("k{at}")).ends_with("refused the connection"));
    }
    let logged = podop.log().matches("info unreachable backend=").count() as u64;
    assert!((1..=1 + start.elapsed().as_secs()).contains(&logged), "{logged}");
}

#[test]
fn a_slow_lookup_is_logged_with_its_phases() {
    let (_backend, watched) = start(&["--slow", "0.2"]);
    assert_eq!(watched.podop.lookup("alias", "drips"), "OK own drips");
    let log = watched.podop.log();
    let line = log.lines().find(|line| line.starts_with("warn slow")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(" wait=0.0") && !line.contains(" body=0.0"), "the body took its time: {line}");
}

#[test]
fn a_listener_that_others_can_reach_is_warned_of() {
    let port = support::port::free();
    let table = ["--name", "t", "--type", "file", "--param", "tests/data/test.json"];
    for (host, exposed) in [("127.0.0.1", false), ("[::1]", false), ("0.0.0.0", true)] {
        let inet = format!("inet:{host}:{port}");
        let podop = Podop::start(&[&table[..], &["--socket", &inet]].concat());
        wait_until(|| podop.log().contains("info start ")); // it is the second socket
        let log = podop.log();
        assert_eq!(log.contains(&format!("warn exposed socket={inet}")), exposed, "{log}");
        assert!(log.contains(&format!("info listen socket={inet} mode=auto")), "{log}");
    }
}

/// A Podop with its metrics listener.
struct Watched {
    podop: Podop,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Watched {
    fn page(&self, path: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: podop\r\n\r\n").as_bytes()).unwrap();
        read_page(stream)
    }

    fn metrics(&self) -> String {
        let (status, text) = self.page("/metrics");
        assert_eq!(status, 200);
        text
    }
}

fn read_page(mut stream: UnixStream) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let length = format!("Content-Length: {}", body.len());
    assert!(head.lines().any(|line| line == length), "{head}");
    (head[9..12].parse().unwrap(), body.to_owned())
}

fn start(args: &[&str]) -> (Backend, Watched) {
    let backend = Backend::start(answer);
    let dir = tempfile::tempdir().unwrap();
    let (socket, url) = (dir.path().join("metrics"), backend.url("/§"));
    let table = ["--name", "alias", "--type", "url", "--param", &url, "--metrics", socket.to_str().unwrap()];
    let podop = Podop::start(&[&table[..], args].concat());
    // It is the second socket, which listens a moment after the first.
    wait_until(|| UnixStream::connect(&socket).is_ok());
    (backend, Watched { podop, socket, _dir: dir })
}

fn answer(request: &Request) -> Script {
    let key = &request.target[1..];
    match key {
        "none" => response(404, "null"),
        "broken" => response(500, "null"),
        "hang" => raw("", Then::Hang),
        "slow" => response(200, "\"own slow\"").after(Duration::from_millis(300)),
        "drips" => {
            let body = format!("\"own drips\"{}", " ".repeat(300));
            Script { drips: true, ..response(200, &body) }
        }
        "list/" => response(200, "[]"),
        key => response(200, &format!("\"own {key}\"")),
    }
}
