//! Real web servers, each in a folder of its own.

use super::podop::{Podop, SOON, ask, reply, request};
use super::port;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
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

/// A web server with its children, in a folder of its own.
pub struct Server {
    command: Command,
    child: Child,
    pub port: u16,
    /// It answers plain HTTP, if only to complain of it.
    greets: bool,
    _dir: TempDir,
}

impl Server {
    pub fn nginx(settings: &str) -> Server {
        Self::nginx_on("", settings)
    }

    /// With TLS; the settings name its files.
    pub fn nginx_with_tls(settings: &str) -> Server {
        Self::nginx_on("ssl", settings)
    }

    fn nginx_on(listen: &str, settings: &str) -> Server {
        Self::nginx_site(|port| {
            format!(
                "{settings}
                server {{
                    listen 127.0.0.1:{port} {listen};
                    location ~ ^/map/none {{ return 404; }}
                    location ~ ^/map/broken {{ return 500; }}
                    location ~ ^/map/(?<key>.*)$ {{ return 200 '\"v-$key\"'; }}
                }}"
            )
        })
    }

    /// With this in its http block, made for its port.
    pub fn nginx_site(site: impl FnOnce(u16) -> String) -> Server {
        let port = port::free();
        let site = site(port);
        let config = format!(
            "worker_processes 1; daemon off; pid nginx.pid; error_log stderr crit; events {{}}
            http {{
                access_log off; default_type application/json;
                client_body_temp_path t1; proxy_temp_path t2;
                fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
                {site}
            }}"
        );
        Self::start(port, true, "nginx.conf", &config, |dir| {
            let mut command = Command::new("/usr/sbin/nginx");
            command.arg("-p").arg(dir).arg("-e").arg("stderr").arg("-c").arg(dir.join("nginx.conf"));
            command
        })
    }

    /// With this configuration, made for its port.
    pub fn haproxy(config: impl FnOnce(u16) -> String) -> Server {
        let port = port::free();
        Self::start(port, true, "haproxy.cfg", &config(port), |dir| {
            let mut command = Command::new("/usr/sbin/haproxy");
            command.arg("-db").arg("-f").arg(dir.join("haproxy.cfg"));
            command
        })
    }

    pub fn gunicorn(args: &[&str]) -> Server {
        Self::gunicorn_on(args, true)
    }

    /// With TLS; the arguments name its files.
    pub fn gunicorn_with_tls(args: &[&str]) -> Server {
        Self::gunicorn_on(args, false)
    }

    fn gunicorn_on(args: &[&str], greets: bool) -> Server {
        let port = port::free();
        Self::start(port, greets, "app.py", FLASK, |dir| {
            let mut command = Command::new("/usr/bin/gunicorn");
            command.args(["--bind", &format!("127.0.0.1:{port}")]).args(args).arg("app:app").current_dir(dir);
            command
        })
    }

    pub fn python(version: &str) -> Server {
        let port = port::free();
        Self::start(port, true, "server.py", HTTP_SERVER, |dir| {
            let mut command = Command::new("/usr/bin/python3");
            command.arg(dir.join("server.py")).args([&port.to_string(), version]);
            command
        })
    }

    fn start(port: u16, greets: bool, file: &str, text: &str, command: impl FnOnce(&Path) -> Command) -> Server {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(file), text).unwrap();
        let mut command = command(dir.path());
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("the server is installed");
        let mut server = Server { command, child, port, greets, _dir: dir };
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

    /// An answer to any request.
    fn greet(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /map/hello HTTP/1.0\r\n\r\n")?;
        if self.greets {
            return stream.read_exact(&mut [0; 12]);
        }
        match stream.read(&mut [0; 12]) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error),
            _ => Ok(()), // it was not amused
        }
    }

    /// Kills the server with all its children.
    pub fn kill(&mut self) {
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
    pub fn restart(&mut self) {
        self.child = self.command.spawn().expect("the server is installed");
        self.wait_until_up();
    }

    /// Waits until a connection was closed by the server, and its client has not noticed.
    pub fn wait_until_it_closed(&self) {
        const CLOSE_WAIT: &str = "08";
        let until = Instant::now() + SOON;
        while self.clients(CLOSE_WAIT) == 0 {
            assert!(Instant::now() < until, "the server keeps the connection");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its idle connection ends while Podop does not run, and meanwhile a lookup is asked for, before or after that: it
    /// gets its answer.
    pub fn close_while_asked(&self, podop: &Podop, stream: &mut UnixStream, table: &str, request_first: bool) {
        assert_eq!(ask(stream, table, b"before"), b"OK v-before");
        podop.signal(libc::SIGSTOP);
        let asked = |stream: &mut UnixStream| stream.write_all(&request(table, b"after")).unwrap();
        if request_first {
            asked(stream);
        }
        self.wait_until_it_closed();
        if !request_first {
            asked(stream);
        }
        podop.signal(libc::SIGCONT);
        assert_eq!(reply(stream), b"OK v-after");
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        const ESTABLISHED: &str = "01";
        self.clients(ESTABLISHED)
    }

    /// How many clients have a connection in this state.
    fn clients(&self, state: &str) -> usize {
        let remote = format!("0100007F:{:04X}", self.port);
        let own = |line: &&str| {
            let mut fields = line.split_whitespace().skip(2);
            fields.next() == Some(&remote) && fields.next() == Some(state)
        };
        fs::read_to_string("/proc/net/tcp").unwrap().lines().filter(own).count()
    }

    pub fn kill_one_worker(&self) {
        let id = self.child.id();
        let workers = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let worker = workers.split_whitespace().next().expect("a worker").parse().unwrap();
        // SAFETY: a child of the server, whose id is not reused until the server has waited for it.
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
