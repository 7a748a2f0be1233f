//! Real web servers as backends: nginx, gunicorn with both kinds of workers, Python's http.server.

use crate::support;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::podop::{Podop, SOON, ask};
use support::server::Server;

/// Workers that keep connections for 2 s.
const GTHREAD: [&str; 6] = ["--worker-class", "gthread", "--threads", "4", "--keep-alive", "2"];

#[test]
#[ignore = "needs Debian's nginx-light; tests/run installs it"]
fn nginx() {
    serves(Server::nginx("keepalive_timeout 75s; keepalive_requests 10;"));
}

#[test]
#[ignore = "needs Debian's nginx-light; tests/run installs it"]
fn nginx_that_closes_idle_connections_before_podop_does() {
    let server = Server::nginx("keepalive_timeout 1s;");
    // nginx closes 1 s after the last answer, at just about the next lookup.
    outlasts_idle_times(&server, 900..1_100);
    learns_late_of_a_close(&server);
}

#[test]
#[ignore = "needs Debian's gunicorn and python3-flask; tests/run installs them"]
fn gunicorn_with_sync_workers() {
    serves(Server::gunicorn(&["--worker-class", "sync", "--workers", "2"]));
}

#[test]
#[ignore = "needs Debian's gunicorn and python3-flask; tests/run installs them"]
fn gunicorn_with_threads() {
    serves(Server::gunicorn(&GTHREAD));
}

#[test]
#[ignore = "needs Debian's gunicorn and python3-flask; tests/run installs them"]
fn gunicorn_that_closes_idle_connections_before_podop_does() {
    // gunicorn looks once a second for connections that were idle for 2 s.
    let server = Server::gunicorn(&GTHREAD);
    outlasts_idle_times(&server, 1_900..3_100);
    learns_late_of_a_close(&server);
}

#[test]
#[ignore = "needs Debian's gunicorn and python3-flask; tests/run installs them"]
fn flasks_redirect_to_the_path_with_a_slash_is_followed() {
    let server = Server::gunicorn(&GTHREAD);
    let podop = podop(&server, "/slash/§", &[]);
    assert_eq!(podop.lookup("t", "a"), "OK s-a");
}

#[test]
#[ignore = "needs Debian's gunicorn and python3-flask; tests/run installs them"]
fn gunicorn_killed_and_started_again_under_load() {
    let mut server = Server::gunicorn(&[&GTHREAD[..], &["--workers", "2"]].concat());
    let podop = podop(&server, "/map/§", &[]);
    let (stop, good, bad) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let more = |counter: &AtomicUsize, count: usize| {
        let (before, until) = (counter.load(SeqCst), Instant::now() + 3 * SOON);
        // Stopped: a client has failed, and reports why.
        while counter.load(SeqCst) < before + count && !stop.load(SeqCst) {
            assert!(Instant::now() < until, "no more answers");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let client = |thread: usize| {
        let _stop = StopOnPanic(&stop);
        let mut stream = podop.connect();
        for at in (0..).take_while(|_| !stop.load(SeqCst)) {
            let got = String::from_utf8(ask(&mut stream, "t", format!("k{thread}-{at}").as_bytes())).unwrap();
            if got == format!("OK v-k{thread}-{at}") {
                good.fetch_add(1, SeqCst);
            } else {
                assert!(got.starts_with("TEMP t: "), "k{thread}-{at}: {got}");
                bad.fetch_add(1, SeqCst);
                std::thread::sleep(Duration::from_millis(5)); // or the clients keep gunicorn from starting
            }
        }
    };
    std::thread::scope(|scope| {
        let _stop = StopOnReturn(&stop);
        (0..8).for_each(|thread| drop(scope.spawn(move || client(thread))));
        for _ in 0..2 {
            more(&good, 200);
            server.kill();
            more(&bad, 20);
            server.restart();
        }
        more(&good, 200);
        server.kill_one_worker(); // the master starts another one
        more(&good, 200);
    });
    assert_eq!(podop.lookup("t", "at-last"), "OK v-at-last");
}

#[test]
#[ignore = "needs python3; tests/run installs it"]
fn python_http_server() {
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        serves(Server::python(version));
    }
}

/// Values, misses, faults and recovery, and everybody's own answers at once.
fn serves(mut server: Server) {
    let podop = podop(&server, "/map/§", &[]);
    assert_eq!(podop.lookup("t", "alice@example.org"), "OK v-alice@example.org");
    assert_eq!(podop.lookup("t", "none@example.org"), "NOTFOUND ");
    let broken = podop.lookup("t", "broken");
    assert_eq!(broken, format!("TEMP t: 127.0.0.1:{} answered 500", server.port));
    podop.look_up_at_once("t", "v-");
    server.kill();
    let refused = format!("TEMP t: 127.0.0.1:{} refused the connection", server.port);
    assert_eq!(podop.lookup("t", "alice@example.org"), refused);
    server.restart();
    assert_eq!(podop.lookup("t", "alice@example.org"), "OK v-alice@example.org");
    assert_eq!(podop.lookup("t", "none@example.org"), "NOTFOUND ");
}

/// Clients that each pause for a time of their own within this range, in milliseconds, always get their
/// answers, though Podop would keep its connections for a minute.
fn outlasts_idle_times(server: &Server, pauses: Range<u64>) {
    const CLIENTS: u64 = 20;
    // A table with a time of its own has a connection of its own, which is as old as the client's pause.
    let url = format!("http://127.0.0.1:{}/map/§", server.port);
    let table = |at: u64| {
        let [name, option] = [format!("t{at}"), format!("t{at}:keepalive={}", 60 + at)];
        ["--name", &name, "--type", "url", "--param", &url, "--option", &option].map(str::to_owned)
    };
    let podop = Podop::start(&(0..CLIENTS).flat_map(table).collect::<Vec<String>>());
    let step = (pauses.end - pauses.start) / CLIENTS;
    std::thread::scope(|scope| {
        for at in 0..CLIENTS {
            let (mut stream, pause) = (podop.connect(), Duration::from_millis(pauses.start + step * at));
            scope.spawn(move || {
                for round in 0..3 {
                    if round > 0 {
                        std::thread::sleep(pause); // nothing to wait for: the pause is what is tested
                    }
                    let got = ask(&mut stream, &format!("t{at}"), format!("k{at}-{round}").as_bytes());
                    assert_eq!(String::from_utf8(got).unwrap(), format!("OK v-k{at}-{round}"), "after {pause:?}");
                }
            });
        }
    });
}

/// A request and the end of the idle connection, in both orders, are found in the same moment.
fn learns_late_of_a_close(server: &Server) {
    let podop = podop(server, "/map/§", &["--option", "t:keepalive=60"]);
    let mut stream = podop.connect();
    for request_first in [true, false, true] {
        server.close_while_asked(&podop, &mut stream, "t", request_first);
    }
}

fn podop(server: &Server, path: &str, args: &[&str]) -> Podop {
    let url = format!("http://127.0.0.1:{}{path}", server.port);
    Podop::start(&[&["--name", "t", "--type", "url", "--param", &url], args].concat())
}

/// Tells the other threads when this one panics, so that the test ends.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        self.0.fetch_or(std::thread::panicking(), SeqCst);
    }
}

/// Tells the other threads when this one is done, or panics.
struct StopOnReturn<'a>(&'a AtomicBool);

impl Drop for StopOnReturn<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
