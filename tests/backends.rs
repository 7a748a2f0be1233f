//! Real web servers as backends: nginx, gunicorn with both kinds of workers, Python's http.server.

mod support;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::podop::{Podop, SOON, ask};

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

#[test]
#[ignore = "needs Debian's nginx-light; tests/run installs it"]
fn nginx() {
    let server = Server::nginx("keepalive_timeout 75s; keepalive_requests 10;");
    serves(&server, "/map/§");
}

#[test]
#[ignore = "needs Debian's nginx-light; tests/run installs it"]
fn nginx_that_closes_idle_connections_before_podop_does() {
    let server = Server::nginx("keepalive_timeout 1s;");
    let args = ["--option", "t:keepalive=60"];
    let podop = podop(&server, "/map/§", &args);
    for at in 0..3 {
        assert_eq!(podop.lookup("t", &format!("a{at}")), format!("OK v-a{at}"));
        std::thread::sleep(Duration::from_millis(1_050)); // until nginx closes, at just about the next lookup
    }
}

#[test]
#[ignore = "needs Debian's gunicorn and python3-flask; tests/run installs them"]
fn gunicorn_with_sync_workers() {
    serves(&Server::gunicorn(&["--worker-class", "sync", "--workers", "2"]), "/map/§");
}

#[test]
#[ignore = "needs Debian's gunicorn and python3-flask; tests/run installs them"]
fn gunicorn_with_threads() {
    let server = Server::gunicorn(&["--worker-class", "gthread", "--threads", "4", "--keep-alive", "2"]);
    serves(&server, "/map/§");
    let podop = podop(&server, "/slash/§", &[]);
    assert_eq!(podop.lookup("t", "a"), "OK s-a", "a redirect to the same origin is followed");
    for at in 0..3 {
        assert_eq!(podop.lookup("t", &format!("b{at}")), format!("OK s-b{at}"));
        std::thread::sleep(Duration::from_millis(1_950)); // about when gunicorn closes
    }
}

#[test]
#[ignore = "needs Debian's gunicorn and python3-flask; tests/run installs them"]
fn gunicorn_killed_and_started_again_under_load() {
    let threads = ["--worker-class", "gthread", "--threads", "4"];
    let mut server = Server::gunicorn(&threads);
    let podop = podop(&server, "/map/§", &[]);
    let mut streams: Vec<_> = (0..8).map(|_| podop.connect()).collect();
    let (mut good, mut bad) = (0, 0);
    for round in 0..60 {
        match round {
            20 => server.kill(),
            30 => server = Server::gunicorn_on(server.port, &threads),
            _ => {}
        }
        for (at, stream) in streams.iter_mut().enumerate() {
            let got = String::from_utf8(ask(stream, "t", format!("k{round}-{at}").as_bytes())).unwrap();
            if got == format!("OK v-k{round}-{at}") {
                good += 1;
            } else {
                assert!(got.starts_with("TEMP t: "), "{got}");
                bad += 1;
            }
        }
    }
    assert!(good >= 50 * 8 && bad >= 8, "{good} good, {bad} bad");
}

#[test]
#[ignore = "needs python3; tests/run installs it"]
fn python_http_server() {
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        serves(&Server::python(version), "/map/§");
    }
}

/// Values, misses, faults and recovery, and everybody's own answers at once.
fn serves(server: &Server, path: &str) {
    let podop = podop(server, path, &[]);
    assert_eq!(podop.lookup("t", "alice@example.org"), "OK v-alice@example.org");
    assert_eq!(podop.lookup("t", "none@example.org"), "NOTFOUND ");
    let broken = podop.lookup("t", "broken");
    assert_eq!(broken, format!("TEMP t: 127.0.0.1:{} answered 500", server.port));
    let threads: Vec<_> = (0..20)
        .map(|thread| {
            let mut stream = podop.connect();
            std::thread::spawn(move || {
                for at in 0..100 {
                    let key = format!("{}{thread}-{at}", if at % 10 == 0 { "none" } else { "key" });
                    let got = String::from_utf8(ask(&mut stream, "t", key.as_bytes())).unwrap();
                    let expected = if at % 10 == 0 { "NOTFOUND ".to_owned() } else { format!("OK v-{key}") };
                    assert_eq!(got, expected);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn podop(server: &Server, path: &str, args: &[&str]) -> Podop {
    let url = format!("http://127.0.0.1:{}{path}", server.port);
    Podop::start(&[&["--name", "t", "--type", "url", "--param", &url], args].concat())
}

/// A web server with its children, in a folder of its own.
struct Server {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Server {
    fn nginx(settings: &str) -> Server {
        let port = free_port();
        let config = format!(
            "worker_processes 1; daemon off; pid nginx.pid; error_log stderr crit; events {{}}
            http {{
                access_log off; default_type application/json; {settings}
                client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
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
        Self::gunicorn_on(free_port(), args)
    }

    fn gunicorn_on(port: u16, args: &[&str]) -> Server {
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
        let mut server = Server { child: command.spawn().expect("the server is installed"), port, _dir: dir };
        let until = Instant::now() + SOON;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(server.child.try_wait().unwrap().is_none() && Instant::now() < until, "it does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn kill(&mut self) {
        // SAFETY: the child leads the group and was not waited for.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
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
