//! The service manager's side: inherited sockets, notifications to systemd, a restart under load, and the units.

use crate::support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::http::{Backend, response};
use support::manual::sample;
use support::podop::{SOON, ask, request, signal, wait_until};
use support::postfix::postmap;
use support::roots::Release;

const TABLE: [&str; 6] = ["--name", "test", "--type", "file", "--param", "tests/data/test.json"];

#[test]
fn inherited_sockets_are_served_in_the_protocol_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = ["postfix", "dovecot", "metrics", "podop.socket"].map(|name| {
        let path = dir.path().join(name);
        (UnixListener::bind(&path).unwrap(), path, name)
    });
    let names = sockets.each_ref().map(|(.., name)| *name).join(":");
    let listeners: Vec<&UnixListener> = sockets.iter().map(|(listener, ..)| listener).collect();
    let mut podop = Running(inheriting(&listeners, &names, &TABLE).spawn().unwrap());
    let connect = |at: usize| UnixStream::connect(&sockets[at].1).unwrap();
    let closes = |mut stream: UnixStream, bytes: &[u8]| {
        stream.write_all(bytes).unwrap();
        let result = stream.read(&mut [0; 10]);
        matches!(result, Ok(0)) || result.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    };
    let hello = b"H4\t0\t0\t\ttest\nLshared/example.org\t\n";
    assert_eq!(ask(&mut connect(0), "test", b"example.org"), b"OK example.org");
    assert!(closes(connect(0), hello), "postfix speaks dict");
    let mut dict = connect(1);
    dict.write_all(hello).unwrap();
    let mut line = [0; 13];
    dict.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"Oexample.org\n");
    assert!(closes(connect(1), b"6:test x,\n"), "dovecot speaks socketmap");
    let mut page = connect(2);
    page.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    page.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nok\n"), "{text}");
    assert_eq!(ask(&mut connect(3), "test", b"example.org"), b"OK example.org", "any other name is auto");
    podop.signal(libc::SIGTERM);
    assert!(podop.0.wait().unwrap().success());
    assert!(sockets.iter().all(|(_, path, _)| path.exists()), "who has not made a socket does not remove it");
}

#[test]
fn each_inherited_socket_keeps_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b", "c", "d"].map(|name| dir.path().join(name));
    let sockets = paths.each_ref().map(|path| UnixListener::bind(path).unwrap());
    let mut command = inheriting(&sockets.each_ref(), "dovecot::metrics:postfix", &TABLE);
    // The third descriptor is closed, and one more is announced than there are.
    let _podop = Running(command.env("CLOSED", "5").env("LISTEN_FDS", "5").spawn().unwrap());
    let closes = |at: usize, bytes: &[u8]| {
        let mut stream = UnixStream::connect(&paths[at]).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(bytes).unwrap();
        let result = stream.read(&mut [0; 10]);
        matches!(result, Ok(0)) || result.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    };
    let (socketmap, dict) = (b"6:test x,", b"H4\t0\t0\t\ttest\nLshared/example.org\t\n");
    assert!(closes(0, b"6:test x,\n") && !closes(0, dict), "dovecot");
    assert!(!closes(1, socketmap) && !closes(1, dict), "no name is auto");
    assert!(!closes(3, socketmap) && closes(3, dict), "postfix");
}

#[test]
fn an_inherited_socket_may_be_for_decisions_or_logins() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    let sockets = paths.each_ref().map(|path| UnixListener::bind(path).unwrap());
    let table = |name: &'static str| ["--name", name, "--type", "url", "--param", "http://127.0.0.1:1/"];
    let tables = [table("rules"), table("login")].concat();
    let _podop = Running(inheriting(&sockets.each_ref(), "policy=rules:sasl=login", &tables).spawn().unwrap());
    let mut policy = UnixStream::connect(&paths[0]).unwrap();
    policy.set_read_timeout(Some(SOON)).unwrap();
    policy.write_all(b"request=smtpd_access_policy\n\n").unwrap();
    let mut action = [0; 50];
    policy.read_exact(&mut action).unwrap();
    assert_eq!(&action, b"action=DEFER_IF_PERMIT 4.3.0 Service unavailable\n\n");
    let mut sasl = UnixStream::connect(&paths[1]).unwrap();
    sasl.set_read_timeout(Some(SOON)).unwrap();
    let mut hello = [0; 12];
    sasl.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"VERSION\t1\t2\n");
    // Of a table that does not exist, the start says so.
    let output = inheriting(&[&sockets[0]], "policy=none", &tables).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--mode policy=none: there is no table 'none'"));
}

#[test]
fn sockets_that_were_passed_to_another_process_are_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    let mut command = inheriting(&[&listener], "postfix", &TABLE);
    let output = command.env("LISTEN_PID_OFFSET", "1").stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn systemd_is_told_of_start_reload_life_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(SOON)).unwrap();
    let heard = || {
        let mut bytes = [0; 500];
        let count = notify.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_podop"));
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    command.arg("--socket").arg(dir.path().join("s")).args(TABLE);
    let mut podop = Running(command.spawn().unwrap());
    assert_eq!(heard(), "READY=1\nSTATUS=1 tables, 0 backends, 0 clients");
    let _client = UnixStream::connect(dir.path().join("s")).unwrap();
    let (mut lives, mut statuses) = (0, Vec::new());
    while lives < 12 {
        match heard() {
            life if life == "WATCHDOG=1" => lives += 1,
            other => statuses.push(other),
        }
    }
    assert_eq!(statuses, ["STATUS=1 tables, 0 backends, 1 clients"]);
    podop.signal(libc::SIGHUP);
    let mut messages = std::iter::from_fn(|| Some(heard())).filter(|message| message != "WATCHDOG=1");
    assert!(messages.next().unwrap().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(messages.next().unwrap().starts_with("READY=1\nSTATUS=1 tables"));
    podop.signal(libc::SIGTERM);
    assert!(messages.next().unwrap().starts_with("STOPPING=1"));
    assert!(podop.0.wait().unwrap().success());
}

/// The listening socket outlives the process, as with a socket unit. Each client asks as Postfix does: on one
/// connection, and if that is closed without an answer, once more on a new one.
#[test]
fn a_restart_under_load_loses_no_lookup() {
    let backend = Backend::start(|request| response(200, &format!("\"own {}\"", &request.target[1..])));
    let url = backend.url("/§");
    let args = ["--name", "test", "--type", "url", "--param", &url];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let start = || Running(inheriting(&[&listener], "postfix", &args).spawn().unwrap());
    let mut podop = start();
    let (stop, answered, again) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
    let again = Arc::new(again);
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (stop, answered, again, path) = (stop.clone(), answered.clone(), again.clone(), path.clone());
            std::thread::spawn(move || {
                let mut stream = UnixStream::connect(&path).unwrap();
                for nth in 0.. {
                    if stop.load(SeqCst) {
                        return;
                    }
                    let key = format!("{number}-{nth}");
                    let expected = format!("OK own {key}");
                    if try_ask(&mut stream, &key).as_deref() != Some(expected.as_bytes()) {
                        again.fetch_add(1, SeqCst);
                        stream = UnixStream::connect(&path).expect("no connection is refused");
                        assert_eq!(try_ask(&mut stream, &key).as_deref(), Some(expected.as_bytes()));
                    }
                    answered.fetch_add(1, SeqCst);
                    if nth % 50 == 49 && number % 2 == 0 {
                        stream = UnixStream::connect(&path).expect("no connection is refused");
                    }
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let before = answered.load(SeqCst);
        wait_until(|| answered.load(SeqCst) > before + 500);
        podop.signal(libc::SIGTERM);
        assert!(podop.0.wait().unwrap().success());
        podop = start();
    }
    stop.store(true, SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert!(again.load(SeqCst) > 0, "nobody noticed the restarts");
}

#[test]
#[ignore = "needs Debian's postfix; tests/run installs it"]
fn postmap_finds_its_keys_while_podop_is_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let start = || Running(inheriting(&[&listener], "postfix", &TABLE).spawn().unwrap());
    let mut podop = start();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, map) = (stop.clone(), format!("socketmap:unix:{}:test", path.display()));
            std::thread::spawn(move || {
                let mut count = 0;
                while !stop.load(SeqCst) {
                    let output = postmap(Release::Bookworm, &map, "example.org");
                    let text = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert_eq!(String::from_utf8_lossy(&output.stdout), "example.org\n", "{:?} {text}", output.status);
                    count += 1;
                }
                count
            })
        })
        .collect();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(100)); // some lookups in between
        podop.signal(libc::SIGTERM);
        assert!(podop.0.wait().unwrap().success());
        podop = start();
    }
    stop.store(true, SeqCst);
    let count: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(count > 20, "{count} lookups");
}

#[test]
#[ignore = "needs Debian's systemd; tests/run installs it"]
fn the_units_of_the_package_are_valid_and_closed() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["podop.service", "podop.socket"] {
        // The program is not installed.
        let unit = sample(name).replace("ExecStart=podop", concat!("ExecStart=", env!("CARGO_BIN_EXE_podop")));
        fs::write(dir.path().join(name), unit).unwrap();
    }
    let analyze = |args: &[&str]| {
        let output = Command::new("systemd-analyze").args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    let paths = ["podop.service", "podop.socket"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    let (valid, text) = analyze(&["verify", "--man=no", &paths[0], &paths[1]]);
    // Other units of the machine may be complained of; ours may not.
    assert!(valid && !text.contains("podop."), "{text}");
    let (closed, text) = analyze(&["security", "--offline=yes", "--threshold=15", &paths[0]]);
    assert!(closed, "{text}");
}

#[test]
#[ignore = "needs Debian's systemd; tests/run installs it"]
fn systemd_socket_activate_starts_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--fdname=postfix", "-l"]).arg(&path).arg(env!("CARGO_BIN_EXE_podop")).args(TABLE);
    let _podop = Running(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    // The path is there a moment before anything listens.
    wait_until(|| UnixStream::connect(&path).is_ok());
    let mut stream = UnixStream::connect(&path).unwrap();
    assert_eq!(ask(&mut stream, "test", b"example.org"), b"OK example.org");
}

/// A child; it is ended when this is dropped.
struct Running(Child);

impl Running {
    fn signal(&self, number: i32) {
        signal(&self.0, number);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program with sockets passed as systemd does it. A shell sets `LISTEN_PID`, which is known only then.
fn inheriting(sockets: &[&UnixListener], names: &str, args: &[&str]) -> Command {
    let script = "eval \"exec ${CLOSED:-9}>&-\"; LISTEN_PID=$(($$ + ${LISTEN_PID_OFFSET:-0})) exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", &format!("export LISTEN_PID; {script}"), env!("CARGO_BIN_EXE_podop")]).args(args);
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names).stdin(Stdio::null());
    let descriptors: Vec<i32> = sockets.iter().map(|socket| socket.as_raw_fd()).collect();
    // SAFETY: only calls that are safe between fork and exec. All are moved out of the way first.
    unsafe {
        command.pre_exec(move || {
            for (at, descriptor) in descriptors.iter().enumerate() {
                libc::dup2(*descriptor, 500 + at as i32);
            }
            for at in 0..descriptors.len() as i32 {
                libc::dup2(500 + at, 3 + at);
                libc::close(500 + at);
            }
            Ok(())
        });
    }
    command
}

/// The reply to a lookup, unless the connection is closed instead.
fn try_ask(stream: &mut UnixStream, key: &str) -> Option<Vec<u8>> {
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&request("test", key.as_bytes())).ok()?;
    let (mut held, mut chunk) = (Vec::new(), [0; 500]);
    let until = Instant::now() + SOON;
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return None,
            Ok(count) => held.extend_from_slice(&chunk[..count]),
            Err(error) => {
                assert!(error.kind() != ErrorKind::WouldBlock && Instant::now() < until, "no reply");
                return None;
            }
        }
        if let Some((payload, _)) = podop::wire::netstring::decode(&held, 1000).unwrap() {
            return Some(payload.to_vec());
        }
    }
}
