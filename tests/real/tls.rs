//! nginx and gunicorn behind TLS, and what Podop makes of their certificates.

use crate::support;

use std::io::{BufRead, BufReader, Write};
use support::podop::{Podop, wait_until};
use support::server::Server;
use support::tls::{Authority, Leaf, self_signed};

const VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];
const LOOPBACK: &[&str] = &["127.0.0.1"];

/// nginx with a certificate, in one version of TLS.
fn nginx(authority: &Authority, leaf: &Leaf, version: &str, settings: &str) -> Server {
    let (cert, key) = (authority.file("server.pem", &leaf.cert), authority.file("server.key", &leaf.key));
    let tls = format!("ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols {version};");
    Server::nginx_with_tls(&format!("{tls} {settings}"))
}

/// One table `alias` at a server on loopback.
fn podop(server: &Server, args: &[&str]) -> Podop {
    let url = format!("https://127.0.0.1:{}/map/§", server.port);
    Podop::start(&[&["--name", "alias", "--type", "url", "--param", &url], args].concat())
}

/// How many handshakes there were, by what came of them.
fn handshakes(podop: &Podop, result: &str) -> u64 {
    let (start, end) = ("podop_tls_handshakes_total{backend=", format!("result=\"{result}\"}} "));
    let count = |log: &str| log.matches(&end[..]).count();
    let before = count(&podop.log());
    podop.signal(libc::SIGUSR1);
    wait_until(|| count(&podop.log()) > before);
    let log = podop.log();
    let line = log.lines().rfind(|line| line.contains(start) && line.contains(&end)).expect("a figure");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn commit(podop: &Podop, key: &str) -> String {
    let mut stream = BufReader::new(podop.connect());
    let lines = format!("H4\t0\t0\t\talias\nB1\t\nS1\tshared/{key}\tvalue\nC1\n");
    stream.get_mut().write_all(lines.as_bytes()).unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line
}

#[test]
#[ignore = "needs Debian's nginx-light; tests/run installs it"]
fn nginx_answers_lookups_and_commits() {
    for version in VERSIONS {
        let authority = Authority::new();
        let mut server = nginx(&authority, &authority.issue(LOOPBACK), version, "keepalive_requests 10;");
        let podop = podop(&server, &["--option", &authority.option(), "-vv"]);
        assert_eq!(podop.lookup("alias", "alice@example.org"), "OK v-alice@example.org");
        assert_eq!(podop.lookup("alias", "none@example.org"), "NOTFOUND ");
        let broken = format!("TEMP alias: https://127.0.0.1:{} answered 500", server.port);
        assert_eq!(podop.lookup("alias", "broken"), broken);
        assert_eq!(commit(&podop, "k"), "O1\n");
        assert!(commit(&podop, "broken").starts_with("W1\t"));
        podop.look_up_at_once("alias", "v-");
        assert!(handshakes(&podop, "resumed") > 0);
        assert!(podop.log().contains(&format!("tls={} resumed=yes", version.trim_start_matches("TLSv"))));
        server.kill();
        let refused = format!("TEMP alias: https://127.0.0.1:{} refused the connection", server.port);
        assert_eq!(podop.lookup("alias", "alice@example.org"), refused);
        server.restart();
        assert_eq!(podop.lookup("alias", "alice@example.org"), "OK v-alice@example.org");
    }
}

#[test]
#[ignore = "needs Debian's nginx-light; tests/run installs it"]
fn nginx_resumes_sessions_by_tickets_and_from_its_cache() {
    for version in VERSIONS {
        for tickets in ["on", "off"] {
            let authority = Authority::new();
            let sessions = format!("ssl_session_cache shared:s:1m; ssl_session_tickets {tickets};");
            let server = nginx(&authority, &authority.issue(LOOPBACK), version, &sessions);
            let podop = podop(&server, &["--option", &authority.option(), "--option", "alias:keepalive=0.1"]);
            for round in 0..3 {
                assert_eq!(podop.lookup("alias", "a"), "OK v-a");
                assert_eq!((handshakes(&podop, "full"), handshakes(&podop, "resumed")), (1, round));
                wait_until(|| server.connections() == 0);
            }
        }
    }
}

#[test]
#[ignore = "needs Debian's nginx-light; tests/run installs it"]
fn nginx_that_closes_an_idle_connection_while_it_is_asked() {
    for version in VERSIONS {
        let authority = Authority::new();
        let server = nginx(&authority, &authority.issue(LOOPBACK), version, "keepalive_timeout 1s;");
        let podop = podop(&server, &["--option", &authority.option(), "--option", "alias:keepalive=60"]);
        let mut stream = podop.connect();
        for request_first in [true, false] {
            server.close_while_asked(&podop, &mut stream, "alias", request_first);
        }
        // A write is not sent into a connection that was closed.
        assert_eq!(commit(&podop, "before"), "O1\n");
        podop.signal(libc::SIGSTOP);
        let mut dict = BufReader::new(podop.connect());
        dict.get_mut().write_all(b"H4\t0\t0\t\talias\nB1\t\nS1\tshared/k\tv\nC1\n").unwrap();
        server.wait_until_it_closed();
        podop.signal(libc::SIGCONT);
        let mut line = String::new();
        dict.read_line(&mut line).unwrap();
        assert_eq!(line, "O1\n");
    }
}

#[test]
#[ignore = "needs Debian's nginx-light; tests/run installs it"]
fn nginx_that_wants_a_client_certificate() {
    for version in VERSIONS {
        let (authority, clients) = (Authority::new(), Authority::new());
        let settings = format!(
            "ssl_client_certificate {}; ssl_verify_client on; ssl_session_cache shared:s:1m;",
            clients.file("clients.pem", &clients.pem())
        );
        let server = nginx(&authority, &authority.issue(LOOPBACK), version, &settings);
        let (own, foreign) = (clients.issue(&["podop"]), authority.issue(&["podop"]));
        let file =
            |name: &str, leaf: &Leaf| format!("alias:cert={}", clients.file(name, &(leaf.cert.clone() + &leaf.key)));
        let (own, foreign, ca) = (file("own.pem", &own), file("foreign.pem", &foreign), authority.option());
        let good = podop(&server, &["--option", &ca, "--option", &own]);
        assert_eq!(good.lookup("alias", "a"), "OK v-a");
        assert_eq!(good.lookup("alias", "none"), "NOTFOUND ");
        let refused =
            format!("TEMP alias: https://127.0.0.1:{} rejected the client certificate: answered 400", server.port);
        for args in [vec![], vec!["--option", &foreign]] {
            let bad = podop(&server, &[&["--option", &ca, "--option", "alias:keepalive=0.1"][..], &args].concat());
            // The second connection resumes a session, if nginx lets it.
            for key in ["a", "none", "a"] {
                assert_eq!(bad.lookup("alias", key), refused);
                wait_until(|| server.connections() == 0);
            }
        }
    }
}

#[test]
#[ignore = "needs Debian's nginx-light; tests/run installs it"]
fn nginx_with_a_certificate_that_is_not_right() {
    let authority = Authority::new();
    let mut cases = vec![
        (authority.issue(&["localhost"]), authority.pem(), "its certificate is not for 127.0.0.1 but for localhost"),
        (
            authority.issue_with(LOOPBACK, |leaf| leaf.not_after = rcgen::date_time_ymd(2020, 1, 1)),
            authority.pem(),
            "its certificate has expired",
        ),
        (authority.issue(LOOPBACK), authority.pem() + &authority.revoke(), "its certificate is revoked"),
    ];
    let unknown = "its certificate is self-signed, or from a CA that is not trusted";
    cases.push((self_signed(LOOPBACK, |_| {}), authority.pem(), unknown));
    cases.push((Authority::new().issue(LOOPBACK), authority.pem(), unknown));
    for (leaf, ca, reason) in cases {
        for version in VERSIONS {
            let server = nginx(&authority, &leaf, version, "");
            let option = format!("alias:ca={}", authority.file("trusted.pem", &ca));
            let podop = podop(&server, &["--option", &option]);
            let label = format!("https://127.0.0.1:{}", server.port);
            let expected = format!("{label} failed the TLS handshake: {reason}");
            assert_eq!(podop.lookup("alias", "a"), format!("TEMP alias: {expected}"));
            assert_eq!(podop.lookup("alias", "none"), format!("TEMP alias: {expected}"));
            assert_eq!(commit(&podop, "k"), format!("F1\talias: {expected}\n"));
            let url = format!("{label}/map/§");
            let table = ["--check", "--name", "alias", "--type", "url", "--param", &url, "--option", &option];
            let output = support::podop::run(&table);
            let report = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(69));
            assert!(report.contains(&format!("backend {expected}\n")), "{report}");
        }
    }
}

#[test]
#[ignore = "needs Debian's nginx-light; tests/run installs it"]
fn nginx_is_checked() {
    for version in VERSIONS {
        let authority = Authority::new();
        let server = nginx(&authority, &authority.issue(LOOPBACK), version, "");
        let (label, option) = (format!("https://127.0.0.1:{}", server.port), authority.option());
        let url = format!("{label}/map/§");
        let output =
            support::podop::run(&["--check", "--name", "alias", "--type", "url", "--param", &url, "--option", &option]);
        let (report, version) = (String::from_utf8_lossy(&output.stdout), version.trim_start_matches("TLSv"));
        let expected = format!("backend {label} is reachable at 127.0.0.1:{} with TLS {version}\n", server.port);
        assert!(output.status.success() && report.contains(&expected), "{report}");
    }
}

#[test]
#[ignore = "needs Debian's nginx-light; tests/run installs it"]
fn nginx_that_is_asked_without_tls_is_a_fault() {
    let authority = Authority::new();
    let server = nginx(&authority, &authority.issue(LOOPBACK), "TLSv1.3", "");
    let url = format!("http://127.0.0.1:{}/map/§", server.port);
    let podop = Podop::start(&["--name", "alias", "--type", "url", "--param", &url]);
    let expected = format!("TEMP alias: 127.0.0.1:{} answered 400", server.port);
    assert_eq!(podop.lookup("alias", "a"), expected);
}

#[test]
#[ignore = "needs Debian's gunicorn and python3-flask; tests/run installs them"]
fn gunicorn_with_a_certificate() {
    let authority = Authority::new();
    let leaf = authority.issue(LOOPBACK);
    let (cert, key) = (authority.file("server.pem", &leaf.cert), authority.file("server.key", &leaf.key));
    for workers in [&["--worker-class", "gthread", "--threads", "4"][..], &["--worker-class", "sync"]] {
        let server = Server::gunicorn_with_tls(&[workers, &["--certfile", &cert, "--keyfile", &key]].concat());
        let podop = podop(&server, &["--option", &authority.option()]);
        for at in 0..20 {
            assert_eq!(podop.lookup("alias", &format!("k{at}")), format!("OK v-k{at}"));
            assert_eq!(podop.lookup("alias", "none"), "NOTFOUND ");
        }
    }
}
