//! Scripted backends behind TLS: slow handshakes, broken records, certificates that change, and `--check`.

use crate::support;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::http::{Backend, response};
use support::podop::{Podop, ask, wait_until};
use support::tls::{self, Authority, Wants};

const LOOPBACK: &[&str] = &["127.0.0.1"];

#[test]
fn a_slow_handshake_has_its_own_time_in_the_log() {
    let authority = Authority::new();
    let config = Arc::new(tls::server(&authority.issue(LOOPBACK), &tls::BOTH, Wants::Nothing));
    let backend = Backend::start_with(Some(config), |_| response(200, "\"v\""));
    let front = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, address) = (front.local_addr().unwrap().port(), backend.address());
    let relay = std::thread::spawn(move || {
        let (mut outside, _) = front.accept().unwrap();
        // The first words of the client are held back: they are what is slow.
        std::thread::sleep(Duration::from_millis(300));
        let mut inside = TcpStream::connect(address).unwrap();
        let (mut from, mut to) = (outside.try_clone().unwrap(), inside.try_clone().unwrap());
        let forth = std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(&mut inside, &mut outside);
        drop((inside, outside, forth));
    });
    let url = format!("https://127.0.0.1:{port}/§");
    let option = authority.option();
    let podop =
        Podop::start(&["--name", "alias", "--type", "url", "--param", &url, "--slow", "0.2", "--option", &option]);
    assert_eq!(podop.lookup("alias", "a"), "OK v");
    let log = podop.log();
    let line = log.lines().find(|line| line.starts_with("warn slow")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(" handshake=0.3") && line.contains(" connect=0.0") && line.contains(" wait=0.0"), "{line}");
    drop(podop);
    drop(backend);
    relay.join().unwrap();
}

#[test]
fn files_are_read_again_on_sighup() {
    let (authority, other) = (Authority::new(), Authority::new());
    let config = Arc::new(tls::server(&authority.issue(LOOPBACK), &tls::BOTH, Wants::Nothing));
    let backend = Backend::start_with(Some(config), |_| response(200, "\"v\""));
    let (url, option) = (backend.url("/§"), authority.option());
    let podop = Podop::start(&["--name", "alias", "--type", "url", "--param", &url, "--option", &option]);
    assert_eq!(podop.lookup("alias", "a"), "OK v");
    let reload = |pem: &str| {
        authority.file("ca.pem", pem);
        let before = podop.log().matches("reload").count();
        podop.signal(libc::SIGHUP);
        wait_until(|| podop.log().matches("reload").count() > before);
    };
    reload(&other.pem());
    let reason = "failed the TLS handshake: its certificate is self-signed, or from a CA that is not trusted";
    assert_eq!(podop.lookup("alias", "a"), format!("TEMP alias: {} {reason}", backend.label()));
    reload(&authority.pem());
    assert_eq!(podop.lookup("alias", "a"), "OK v");
    reload("not a certificate");
    wait_until(|| podop.log().contains("warn tls-unreadable table=alias cause=\"ca "));
    assert_eq!(podop.lookup("alias", "a"), "OK v");
}

#[test]
fn what_the_system_trusts_is_what_counts_without_a_setting() {
    let authority = Authority::new();
    let config = Arc::new(tls::server(&authority.issue(LOOPBACK), &tls::BOTH, Wants::Nothing));
    let backend = Backend::start_with(Some(config), |_| response(200, "\"v\""));
    let (url, ca) = (backend.url("/§"), authority.file("system.pem", &authority.pem()));
    let args = ["--check", "--name", "alias", "--type", "url", "--param", &url];
    for (file, expected) in [(&ca[..], Some(0)), ("/dev/null", Some(78))] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_podop"));
        let output = command.args(args).env("SSL_CERT_FILE", file).env_remove("SSL_CERT_DIR").output().unwrap();
        let output_text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), expected, "{output_text}");
    }
}

#[test]
fn garbage_in_the_middle_of_a_session_harms_no_lookup() {
    let authority = Authority::new();
    let config = Arc::new(tls::server(&authority.issue(LOOPBACK), &tls::BOTH, Wants::Nothing));
    let backend = Backend::start_with(Some(config), |request| {
        let key = request.target.trim_start_matches('/');
        response(200, &format!("\"own {key}\""))
    });
    let (url, option) = (backend.url("/§"), authority.option());
    let podop = Podop::start(&["--name", "alias", "--type", "url", "--param", &url, "--option", &option]);
    let mut stream = podop.connect();
    for round in 0..20 {
        let key = format!("k{round}");
        assert_eq!(String::from_utf8(ask(&mut stream, "alias", key.as_bytes())).unwrap(), format!("OK own {key}"));
        backend.blurt(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
}

#[test]
fn a_check_reports_how_the_client_certificate_is_received() {
    for version in tls::BOTH {
        let (authority, clients) = (Authority::new(), Authority::new());
        let leaf = authority.issue(LOOPBACK);
        let own = clients.issue(&["podop"]);
        let own = format!("alias:cert={}", clients.file("own.pem", &(own.cert + &own.key)));
        let option = authority.option();
        let check = |wants: Wants<'_>, more: &[&str]| {
            let config = Arc::new(tls::server(&leaf, &[version], wants));
            let backend = Backend::start_with(Some(config), |_| response(200, "\"v\""));
            let url = backend.url("/§");
            let args = ["--check", "--name", "alias", "--type", "url", "--param", &url, "--option", &option];
            let output = support::podop::run(&[&args[..], more].concat());
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (code, report) = check(Wants::Certificate(&clients), &[]);
        assert!(code == Some(69) && report.contains("failed the TLS handshake: it sent the alert "), "{report}");
        let (code, report) = check(Wants::Certificate(&clients), &["--option", &own]);
        assert!(code == Some(0) && report.contains(", and gets the client certificate that it requests\n"), "{report}");
        let (code, report) = check(Wants::Perhaps(&clients), &[]);
        assert!(code == Some(0) && report.contains(", but requests a client certificate, and gets none"), "{report}");
    }
}

#[test]
fn a_check_gives_up_on_an_endless_handshake() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/§", server.local_addr().unwrap());
    let drips = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let _ = stream.write_all(&[22, 3, 3, 0x3f, 0xff]); // a long record, byte by byte
        while stream.write_all(&[2]).is_ok() {
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    let (start, ca) = (Instant::now(), Authority::new());
    let option = ca.option();
    let output =
        support::podop::run(&["--check", "--name", "alias", "--type", "url", "--param", &url, "--option", &option]);
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(report.contains("did not complete the TLS handshake in time"), "{report}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    drips.join().unwrap();
}
