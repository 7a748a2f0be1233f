//! The process and the system around it: descriptors, crowds, signals, stopped backends, a broken stderr.

use crate::support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::http::{Backend, Request, Script, Then, raw, response};
use support::podop::{Podop, SOON, ask, reply, request};

#[test]
fn accepting_pauses_while_no_descriptor_is_free() {
    let backend = Backend::start(own);
    let podop = Podop::start(&alias(&backend));
    let limited = Command::new("prlimit").args(["--nofile=40:40", "--pid", &podop.pid().to_string()]).status();
    assert!(limited.is_ok_and(|status| status.success()), "prlimit is part of util-linux");
    let mut crowd: Vec<UnixStream> = (0..60).map(|_| podop.connect()).collect();
    wait_for(|| podop.log().contains("accept-paused"));
    let before = cpu(&podop);
    std::thread::sleep(Duration::from_millis(500)); // the time that is measured
    let spent = cpu(&podop) - before;
    assert!(spent < Duration::from_millis(100), "{spent:?} of CPU while there is nothing to do");
    assert!(podop.log().matches("accept-paused").count() < 5, "each try is logged");
    crowd.drain(..50);
    for (at, stream) in crowd.iter_mut().enumerate() {
        let key = format!("{at}");
        let got = String::from_utf8(ask(stream, "alias", key.as_bytes())).unwrap();
        assert!(got == format!("OK own {key}"), "{got}");
    }
}

#[test]
fn clients_cannot_take_the_descriptors_that_backends_need() {
    let backend = Backend::start(own);
    let (_child, _dir, socket) = limited(&alias(&backend));
    let mut crowd: Vec<UnixStream> = (0..60).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    for (at, stream) in crowd.iter_mut().enumerate().take(20) {
        let got = ask(stream, "alias", format!("{at}").as_bytes());
        assert_eq!(String::from_utf8(got).unwrap(), format!("OK own {at}"));
    }
}

#[test]
fn monitors_are_served_while_clients_have_all_descriptors() {
    let backend = Backend::start(own);
    let dir = tempfile::tempdir().unwrap();
    let metrics = dir.path().join("metrics");
    let args = [&alias(&backend)[..], &["--metrics".to_owned(), metrics.to_str().unwrap().to_owned()]].concat();
    let (_child, _dir, socket) = limited(&args);
    wait_for(|| UnixStream::connect(&metrics).is_ok());
    let health = || {
        let mut stream = UnixStream::connect(&metrics).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    };
    let mut crowd: Vec<UnixStream> = (0..60).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    assert_eq!(ask(&mut crowd[30], "none", b"x"), b"TEMP no such table: none"); // that many were accepted
    health();
    // Idle ones take no descriptors that backends and mail servers need.
    let _idle: Vec<UnixStream> = (0..60).map(|_| UnixStream::connect(&metrics).unwrap()).collect();
    health();
    for (at, stream) in crowd.iter_mut().enumerate().take(20) {
        let got = ask(stream, "alias", format!("{at}").as_bytes());
        assert_eq!(String::from_utf8(got).unwrap(), format!("OK own {at}"));
    }
    health();
}

#[test]
fn clients_that_come_as_others_leave_are_counted_once() {
    let args = ["--name", "alias", "--type", "file", "--param", "tests/data/test.json"].map(str::to_owned);
    let (child, _dir, socket) = limited(&args);
    let signal = |signal| {
        // SAFETY: the child was not waited for, so the process id is its own.
        unsafe { libc::kill(child.0.id() as i32, signal) };
    };
    let mut client = UnixStream::connect(&socket).unwrap();
    let start = Instant::now();
    for _ in 0..200 {
        assert_eq!(ask(&mut client, "alias", b"none"), b"NOTFOUND ");
        // If the count were wrong, accepting would pause for 100 ms each time.
        assert!(start.elapsed() < SOON, "accepting pauses");
        // Both happen within one turn, the leaving first.
        signal(libc::SIGSTOP);
        drop(client);
        client = UnixStream::connect(&socket).unwrap();
        signal(libc::SIGCONT);
    }
}

/// A Podop that may have 48 descriptors, and its socket.
fn limited(args: &[String]) -> (Killed, tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let mut command = Command::new("prlimit");
    command.args(["--nofile=48:48", env!("CARGO_BIN_EXE_podop"), "--socket"]).arg(&socket).args(args);
    let child = Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait_for(|| UnixStream::connect(&socket).is_ok());
    (child, dir, socket)
}

#[test]
fn nine_thousand_clients_are_served() {
    raise_limit();
    let backend = Backend::start(own);
    let podop = Podop::start(&alias(&backend));
    let mut crowd: Vec<UnixStream> = Vec::new();
    for _ in 0..9_000 {
        let until = Instant::now() + SOON;
        loop {
            // A full listen queue fails so, which Postfix would log as "Resource temporarily unavailable".
            match UnixStream::connect(podop.socket()) {
                Ok(stream) => break crowd.push(stream),
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
        }
    }
    for (at, stream) in crowd.iter_mut().enumerate() {
        stream.write_all(&request("alias", format!("{at}").as_bytes())).unwrap();
    }
    for (at, stream) in crowd.iter_mut().enumerate() {
        assert_eq!(String::from_utf8(reply(stream)).unwrap(), format!("OK own {at}"));
    }
    let memory = memory(&podop);
    assert!(memory < 8 * 1024, "{memory} KiB with nine thousand clients");
}

#[test]
fn nothing_happens_while_nothing_is_asked() {
    let backend = Backend::start(own);
    let podop = Podop::start(&alias(&backend));
    assert_eq!(podop.lookup("alias", "a"), "OK own a");
    wait_for(|| podop.log().contains("start")); // it is up
    std::thread::sleep(Duration::from_secs(2)); // idle connections to the backend are closed by now
    let before = cpu(&podop);
    std::thread::sleep(Duration::from_secs(1)); // the time that is measured
    assert_eq!(cpu(&podop) - before, Duration::ZERO);
}

#[test]
fn sigterm_waits_for_lookups_and_commits_in_flight() {
    let backend = Backend::start(|request| own(request).after(Duration::from_millis(300)));
    let mut podop = Podop::start(&alias(&backend));
    let (mut postfix, mut dovecot) = (podop.connect(), podop.connect());
    postfix.write_all(&request("alias", b"1")).unwrap();
    dovecot.write_all(b"H4\t0\t0\t\talias\nB1\t\nS1\tshared/a\t1\nS1\tshared/b\t2\nC1\n").unwrap();
    let mut gone = podop.connect();
    gone.write_all(b"H4\t0\t0\t\talias\nB1\t\nS1\tshared/c\t3\nS1\tshared/d\t4\nC1\n").unwrap();
    wait_for(|| backend.requests().len() >= 3);
    drop(gone);
    podop.signal(libc::SIGTERM);
    assert_eq!(reply(&mut postfix), b"OK own 1");
    let mut got = [0; 3];
    dovecot.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"O1\n");
    assert_eq!(podop.wait().code(), Some(0));
    let mut targets: Vec<String> = backend.requests().into_iter().map(|request| request.target).collect();
    targets.sort();
    assert_eq!(targets, ["/1", "/a", "/b", "/c", "/d"], "also the commit of the client that left");
    assert!(UnixStream::connect(podop.socket()).is_err());
}

#[test]
fn a_stopped_backend_is_used_again_when_it_goes_on() {
    let backend = Perl::start();
    let args = ["--name", "alias", "--type", "url", "--param", &backend.url, "--timeout", "0.5"];
    let podop = Podop::start(&args);
    assert_eq!(podop.lookup("alias", "a"), "OK v");
    backend.signal(libc::SIGSTOP);
    assert!(podop.lookup("alias", "a").starts_with("TIMEOUT alias: "));
    backend.signal(libc::SIGCONT);
    wait_for(|| podop.lookup("alias", "a") == "OK v");
}

#[test]
fn a_name_that_does_not_resolve_is_a_fault_with_its_reason() {
    let args = ["--name", "alias", "--type", "url", "--param", "http://no-such-host.invalid/§"];
    let podop = Podop::start(&args);
    let got = podop.lookup("alias", "a");
    assert!(got.starts_with("TEMP alias: no-such-host.invalid has no address: "), "{got}");
}

#[test]
fn a_backend_on_localhost_is_found_by_name() {
    let backend = Backend::start(own);
    let url = format!("http://localhost:{}/§", backend.address().port());
    let podop = Podop::start(&["--name", "alias", "--type", "url", "--param", &url]);
    // The first address may be ::1, where no server listens.
    assert_eq!(podop.lookup("alias", "a"), "OK own a");
}

#[test]
fn a_closed_pipe_or_a_full_disk_behind_stderr_changes_nothing() {
    let backend = Backend::start(|_| raw(vec![], Then::Close));
    for full in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let mut command = Command::new(env!("CARGO_BIN_EXE_podop"));
        command.arg("--socket").arg(&socket).arg("-vv").args(alias(&backend));
        if full {
            command.stderr(fs::File::options().write(true).open("/dev/full").unwrap());
        } else {
            command.stderr(Stdio::piped());
        }
        let mut child = Killed(command.stdout(Stdio::null()).spawn().unwrap());
        drop(child.0.stderr.take());
        wait_for(|| UnixStream::connect(&socket).is_ok());
        let mut stream = UnixStream::connect(&socket).unwrap();
        for at in 0..100 {
            assert!(ask(&mut stream, "alias", format!("{at}").as_bytes()).starts_with(b"TEMP "));
        }
        assert!(child.0.try_wait().unwrap().is_none());
    }
}

#[test]
fn a_full_pipe_behind_stderr_does_not_block() {
    let backend = Backend::start(own);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let mut command = Command::new(env!("CARGO_BIN_EXE_podop"));
    command.arg("--socket").arg(&socket).arg("-vv").args(alias(&backend)).stderr(Stdio::piped());
    let mut child = Killed(command.stdout(Stdio::null()).spawn().unwrap());
    wait_for(|| UnixStream::connect(&socket).is_ok());
    let mut stream = UnixStream::connect(&socket).unwrap();
    for at in 0..3_000 {
        assert!(ask(&mut stream, "alias", format!("{at}").as_bytes()).starts_with(b"OK "));
    }
    child.0.kill().unwrap();
    let mut log = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.lines().filter(|line| line.starts_with("debug lookup")).count() < 3_000, "the pipe was never full");
}

/// A child that is ended also when its test panics.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn alias(backend: &Backend) -> Vec<String> {
    let url = backend.url("/§");
    ["--name", "alias", "--type", "url", "--param", &url].map(str::to_owned).to_vec()
}

fn own(request: &Request) -> Script {
    response(200, &format!("\"own {}\"", request.target.trim_start_matches('/')))
}

/// Time on CPU of all threads.
fn cpu(podop: &Podop) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", podop.pid())).unwrap();
    let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).unwrap();
    tasks.flatten().map(|task| Duration::from_nanos(of(task).split(' ').next().unwrap().parse().unwrap())).sum()
}

/// Resident memory in KiB, without that of the program file, which depends on the build.
fn memory(podop: &Podop) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", podop.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn raise_limit() {
    podop::system::raise_descriptor_limit();
}

fn wait_for(mut done: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < until, "it does not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A backend that can be stopped: a shell would do, but Perl is on every Debian and answers HTTP in a line.
struct Perl {
    child: Killed,
    url: String,
}

impl Perl {
    fn start() -> Perl {
        const PROGRAM: &str = r#"use IO::Socket; $| = 1;
            my $l = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', LocalPort => 0) or die;
            print $l->sockport, "\n";
            while (my $c = $l->accept) {
                while (my $line = <$c>) { last if $line eq "\r\n" }
                print $c "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n\"v\""; close $c;
            }"#;
        let command = Command::new("perl").args(["-e", PROGRAM]).stdout(Stdio::piped()).spawn();
        let mut child = Killed(command.unwrap());
        let mut port = String::new();
        let mut stdout = std::io::BufReader::new(child.0.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut port).unwrap();
        Perl { child, url: format!("http://127.0.0.1:{}/§", port.trim()) }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the child was not waited for, so the process id is its own.
        unsafe { libc::kill(self.child.0.id() as i32, signal) };
    }
}
