//! Real web servers as backends: nginx, gunicorn with both kinds of workers, Python's http.server.

mod support;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::podop::{Podop, SOON, ask, reply, request};
use tempfile::TempDir;

/// Answers `v-KEY` below `/map/`, and nothing for keys that begin with `none`.
const FLASK: &str = r#"
import flask
app = flask.Flask(__name__)

@app.get("/map/<path:key>")
def look_up(key):
    if key.startswith("none"):
        flask.abort(404)
    if key.startswith("broken"):
        raise RuntimeError
    return flask.jsonify("v-" + key)

# A trailing slash that is missing is answered with 308.
@app.get("/slash/<key>/")
def slash(key):
    return flask.jsonify("s-" + key)
"#;

const HTTP_SERVER: &str = r#"
import http.server, json, sys, urllib.parse
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = sys.argv[2]
    def do_GET(self):
        key = urllib.parse.unquote(self.path.removeprefix("/map/"))
        status = 404 if key.startswith("none") else 500 if key.startswith("broken") else 200
        body = json.dumps("v-" + key).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

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
        // Stopped: a client has failed, and tells why.
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
    let threads: Vec<_> = (0..20)
        .map(|thread| {
            let mut stream = podop.connect();
            std::thread::spawn(move || {
                for at in 0..200 {
                    let key = format!("{}{thread}-{at}", if at % 10 == 0 { "none" } else { "key" });
                    let got = String::from_utf8(ask(&mut stream, "t", key.as_bytes())).unwrap();
                    let expected = if at % 10 == 0 { "NOTFOUND ".to_owned() } else { format!("OK v-{key}") };
                    assert_eq!(got, expected);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
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
        assert_eq!(ask(&mut stream, "t", b"before"), b"OK v-before");
        podop.signal(libc::SIGSTOP);
        let asked = |stream: &mut UnixStream| stream.write_all(&request("t", b"after")).unwrap();
        if request_first {
            asked(&mut stream);
        }
        server.wait_until_it_closed();
        if !request_first {
            asked(&mut stream);
        }
        podop.signal(libc::SIGCONT);
        assert_eq!(reply(&mut stream), b"OK v-after");
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

/// A web server with its children, in a folder of its own.
struct Server {
    command: Command,
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Server {
    fn nginx(settings: &str) -> Server {
        let port = free_port();
        let config = format!(
            "worker_processes 1; daemon off; pid nginx.pid; error_log stderr crit; events {{}}
            http {{
                access_log off; default_type application/json; {settings}
                client_body_temp_path t1; proxy_temp_path t2;
                fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
                server {{
                    listen 127.0.0.1:{port};
                    location ~ ^/map/none {{ return 404; }}
                    location ~ ^/map/broken {{ return 500; }}
                    location ~ ^/map/(?<key>.*)$ {{ return 200 '\"v-$key\"'; }}
                }}
            }}"
        );
        Self::start(port, "nginx.conf", &config, |dir| {
            let mut command = Command::new("/usr/sbin/nginx");
            command.arg("-p").arg(dir).arg("-e").arg("stderr").arg("-c").arg(dir.join("nginx.conf"));
            command
        })
    }

    fn gunicorn(args: &[&str]) -> Server {
        let port = free_port();
        Self::start(port, "app.py", FLASK, |dir| {
            let mut command = Command::new("/usr/bin/gunicorn");
            command.args(["--bind", &format!("127.0.0.1:{port}")]).args(args).arg("app:app").current_dir(dir);
            command
        })
    }

    fn python(version: &str) -> Server {
        let port = free_port();
        Self::start(port, "server.py", HTTP_SERVER, |dir| {
            let mut command = Command::new("/usr/bin/python3");
            command.arg(dir.join("server.py")).args([&port.to_string(), version]);
            command
        })
    }

    fn start(port: u16, file: &str, text: &str, command: impl FnOnce(&Path) -> Command) -> Server {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(file), text).unwrap();
        let mut command = command(dir.path());
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("the server is installed");
        let mut server = Server { command, child, port, _dir: dir };
        server.wait_until_up();
        server
    }

    fn wait_until_up(&mut self) {
        let until = Instant::now() + SOON;
        while self.greet().is_err() {
            assert!(self.child.try_wait().unwrap().is_none() && Instant::now() < until, "it does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// An answer to any request; that the port takes connections may still be due to `free_port`.
    fn greet(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /map/hello HTTP/1.0\r\n\r\n")?;
        stream.read_exact(&mut [0; 12])
    }

    /// Kills the server with all its children.
    fn kill(&mut self) {
        // SAFETY: the child leads the group and was not waited for.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
        let until = Instant::now() + SOON;
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(Instant::now() < until, "a worker goes on");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts it again after it was killed.
    fn restart(&mut self) {
        self.child = self.command.spawn().expect("the server is installed");
        self.wait_until_up();
    }

    /// Waits until a connection was closed by the server, and its client has not noticed.
    fn wait_until_it_closed(&self) {
        const CLOSE_WAIT: &str = "08";
        let (remote, until) = (format!("0100007F:{:04X}", self.port), Instant::now() + SOON);
        let closed = |line: &str| {
            let mut fields = line.split_whitespace().skip(2);
            fields.next() == Some(&remote) && fields.next() == Some(CLOSE_WAIT)
        };
        while !fs::read_to_string("/proc/net/tcp").unwrap().lines().any(closed) {
            assert!(Instant::now() < until, "the server keeps the connection");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill_one_worker(&self) {
        let id = self.child.id();
        let workers = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let worker = workers.split_whitespace().next().expect("a worker").parse().unwrap();
        // SAFETY: a child of the server, which lives until the server is told of its end.
        unsafe { libc::kill(worker, libc::SIGKILL) };
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.kill();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
