//! Postfix with `smtpd_sasl_type = dovecot`, and Podop in the place of Dovecot.

use crate::support;

use podop::wire::base64::encode;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::http::{Backend, Request, Script, Then, raw, response};
use support::manual::sample;
use support::podop::{Podop, run_with, wait_until};
use support::port;
use support::postfix::{self, Postfix, Smtp};
use support::roots::Release;
use tempfile::TempDir;

on_each_release! {
    "needs Debian's postfix; tests/run installs it, and builds trixie":
    users_log_in_and_an_outage_is_never_a_wrong_password
    twenty_sessions_log_in_at_once_over_connections_that_are_kept
}

on_each_release! {
    "needs Debian's postfix and openssl; tests/run installs them, and builds trixie":
    over_starttls_the_service_is_told_so
}

/// Answers logins, and lookups of owners: each user owns the address of the same name.
fn service(request: &Request) -> Script {
    if request.method == "GET" {
        let key = request.target.rsplit('/').next().unwrap().replace("%40", "@");
        return response(200, &format!("\"{key}\""));
    }
    let login: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    match login["username"].as_str().unwrap() {
        "slow@x.test" => raw(vec![], Then::Hang),
        "broken@x.test" => response(500, "null"),
        "renamed@x.test" => response(200, "\"alice@x.test\""),
        _ if login["password"] == "se\tcret\"" => response(204, ""),
        _ => response(403, "null"),
    }
}

/// Postfix that relays for whoever has logged in, and Podop with both of its sockets.
struct Rig {
    postfix: Postfix,
    podop: Podop,
    _maps: TempDir,
}

impl Rig {
    fn start(release: Release, backend: &Backend) -> Option<Rig> {
        Self::start_with(release, backend, &[])
    }

    /// With further settings of main.cf.
    fn start_with(release: Release, backend: &Backend, extra: &[(&str, &str)]) -> Option<Rig> {
        if !postfix::is_root() {
            println!("skipped: the Postfix master needs root");
            return None;
        }
        let (login, owner) = (backend.url("/login"), backend.url("/owner/§"));
        let dir = tempfile::tempdir().unwrap();
        let maps = dir.path().join("podop.sock");
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let podop = Podop::start(&[
            "--mode",
            "sasl=login",
            "--socket",
            maps.to_str().unwrap(),
            "--mode",
            "postfix",
            "--name",
            "login",
            "--type",
            "url",
            "--param",
            &login,
            "--name",
            "owner",
            "--type",
            "url",
            "--param",
            &owner,
            "-vv",
        ]);
        let main_cf = sample("submission.cf")
            .replace("/run/podop/sasl.sock", podop.socket().to_str().unwrap())
            .replace("/run/podop/podop.sock", maps.to_str().unwrap());
        let settings: Vec<(&str, &str)> = main_cf.lines().filter_map(|line| line.split_once(" = ")).collect();
        assert_eq!(settings.len(), 8);
        let more = [
            ("virtual_alias_maps", ""),
            ("virtual_mailbox_maps", ""),
            ("virtual_mailbox_domains", ""),
            ("transport_maps", ""),
        ];
        let postfix = Postfix::start(release, &maps, &[&settings[..], &more, extra].concat());
        Some(Rig { postfix, podop, _maps: dir })
    }

    /// A session after EHLO.
    fn smtp(&self) -> Smtp {
        let mut smtp = self.postfix.smtp();
        assert!(smtp.command("EHLO client.test").contains("AUTH PLAIN LOGIN"));
        smtp
    }
}

fn plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", encode(format!("\0{user}\0{password}").as_bytes()))
}

fn users_log_in_and_an_outage_is_never_a_wrong_password(release: Release) {
    let backend = Backend::start(service);
    let Some(rig) = Rig::start(release, &backend) else { return };
    let right = plain("alice@x.test", "se\tcret\"");
    let mut smtp = rig.smtp();
    assert!(smtp.command(&plain("alice@x.test", "wrong")).starts_with("535 5.7.8"));
    assert!(smtp.command(&plain("nobody@x.test", "wrong")).starts_with("535 5.7.8"));
    assert!(smtp.command("AUTH PLAIN =").starts_with("535 5.7.8"));
    assert!(smtp.command(&right).starts_with("235 2.7.0"));
    // Who has logged in may send as the owner of the address, and nobody else.
    assert!(smtp.command("MAIL FROM:<bob@x.test>").starts_with("250"));
    assert!(smtp.command("RCPT TO:<someone@elsewhere.test>").starts_with("553 5.7.1"));
    smtp.command("RSET");
    let reply = smtp.send("alice@x.test", "someone@elsewhere.test", "body");
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    rig.postfix.wait_for_log("sasl_method=PLAIN, sasl_username=alice@x.test");
    // LOGIN, in steps, and cancelled ones.
    let mut smtp = rig.smtp();
    assert!(smtp.command("AUTH LOGIN").starts_with("334 VXNlcm5hbWU6"));
    assert!(smtp.command("*").starts_with("501"));
    assert!(smtp.command("AUTH LOGIN").starts_with("334 VXNlcm5hbWU6"));
    assert!(smtp.command(&encode(b"renamed@x.test")).starts_with("334 UGFzc3dvcmQ6"));
    assert!(smtp.command(&encode(b"any")).starts_with("235 2.7.0"));
    assert!(smtp.command("MAIL FROM:<alice@x.test>").starts_with("250"));
    assert!(smtp.command("RCPT TO:<someone@elsewhere.test>").starts_with("250"), "by the name that the service says");
    assert!(rig.postfix.smtp().rcpt("someone@elsewhere.test").starts_with("55"), "without a login");
    // Faults.
    let mut smtp = rig.smtp();
    assert!(smtp.command(&plain("broken@x.test", "p")).starts_with("454 4.7.0"));
    let mut smtp = rig.smtp();
    assert!(smtp.command(&right).starts_with("235 2.7.0"), "the next login is not affected");
    let (mut smtp, start) = (rig.smtp(), Instant::now());
    assert!(smtp.command(&plain("slow@x.test", "p")).starts_with("454 4.7.0"));
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    let address = backend.address();
    drop(backend);
    for _ in 0..3 {
        assert!(rig.smtp().command(&right).starts_with("454 4.7.0"));
    }
    let _backend = Backend::start_at(address, service);
    assert!(rig.smtp().command(&right).starts_with("235 2.7.0"));
    // No password is in any log.
    for log in [rig.podop.log(), rig.postfix.log()] {
        assert!(!log.contains("cret") && !log.contains(&right[11..]), "{log}");
    }
}

fn over_starttls_the_service_is_told_so(release: Release) {
    let backend = Backend::start(service);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (key, cert) = (path("key.pem"), path("cert.pem"));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]);
    make.args(["-subj", "/CN=localhost", "-keyout", &key, "-out", &cert]).stderr(Stdio::null());
    assert!(make.status().unwrap().success());
    let tls =
        [("smtpd_tls_security_level", "encrypt"), ("smtpd_tls_cert_file", &cert[..]), ("smtpd_tls_key_file", &key)];
    let Some(rig) = Rig::start_with(release, &backend, &tls) else { return };
    assert!(rig.postfix.smtp().command(&plain("alice@x.test", "se\tcret\"")).starts_with("530"), "not without TLS");
    let mut client = Command::new("openssl");
    client.args(["s_client", "-quiet", "-starttls", "smtp", "-connect", &format!("127.0.0.1:{}", rig.postfix.port())]);
    let mut client =
        Running(client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let (mut stdin, stdout) = (client.0.stdin.take().unwrap(), client.0.stdout.take().unwrap());
    let mut lines = BufReader::new(stdout).lines();
    let mut command = |line: &str| {
        stdin.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        // The last line of a reply has a space behind its code; the reply to the hello before TLS may come first.
        let last = |line: &String| line.as_bytes().get(3) == Some(&b' ');
        lines.by_ref().map_while(Result::ok).find(last).unwrap_or_else(|| panic!("{}", rig.postfix.log()))
    };
    let mut reply = command("EHLO client.test");
    while !reply.starts_with("250") {
        reply = command("NOOP");
    }
    let reply = command(&plain("alice@x.test", "se\tcret\""));
    let reply = if reply.starts_with("250") { command("NOOP") } else { reply };
    assert!(reply.starts_with("235 2.7.0"), "{reply}");
    let logins = backend.requests().into_iter().filter(|request| request.method == "POST");
    let bodies: Vec<String> = logins.map(|request| String::from_utf8(request.body).unwrap()).collect();
    assert!(bodies.len() == 1 && bodies[0].ends_with("\"tls\":true}"), "{bodies:?}");
}

fn twenty_sessions_log_in_at_once_over_connections_that_are_kept(release: Release) {
    let backend = Backend::start(service);
    let Some(rig) = Rig::start(release, &backend) else { return };
    std::thread::scope(|scope| {
        for at in 0..20 {
            let mut smtp = rig.smtp();
            scope.spawn(move || {
                let user = format!("user{at}@x.test");
                for round in 0..5 {
                    let password = if round < 4 { "wrong" } else { "se\tcret\"" };
                    let reply = smtp.command(&plain(&user, password));
                    assert!(reply.starts_with(if round < 4 { "535" } else { "235" }), "{reply}");
                }
                assert!(smtp.command(&format!("MAIL FROM:<{user}>")).starts_with("250"));
                assert!(smtp.command("RCPT TO:<someone@elsewhere.test>").starts_with("250"));
            });
        }
    });
}

#[test]
#[ignore = "needs python3; tests/run installs it"]
fn the_service_of_the_manual_admits_its_user() {
    let (dir, port) = (tempfile::tempdir().unwrap(), port::free());
    assert!(sample("sasl.py").lines().count() <= 40);
    std::fs::write(dir.path().join("sasl.py"), sample("sasl.py")).unwrap();
    let mut python = Command::new("/usr/bin/python3");
    python.arg(dir.path().join("sasl.py")).arg(port.to_string()).stdin(Stdio::null());
    let service = Running(python.stderr(Stdio::null()).spawn().unwrap());
    wait_until(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let command = sample("sasl.sh").replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
    let words: Vec<&str> = command.split_whitespace().filter(|word| *word != "\\").collect();
    let tables = words.iter().position(|word| *word == "--name").unwrap();
    let maps = dir.path().join("podop.sock");
    let sockets = ["--mode", "sasl=login", "--socket", maps.to_str().unwrap(), "--mode", "postfix"];
    let podop = Podop::start(&[&sockets[..], &words[tables..]].concat());
    let query = |user: &str, password: &str| {
        let args = ["query", "--mode", "sasl", podop.socket().to_str().unwrap(), user];
        let output = run_with(&args, password.as_bytes());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let right = query("Alice@example.org", "secret\n");
    assert_eq!(right, (Some(0), "alice@example.org\n".to_owned(), String::new()));
    let refused = "podop: refused: wrong user or password (exit code 1)\n";
    assert_eq!(query("alice@example.org", "wrong"), (Some(1), String::new(), refused.to_owned()));
    assert_eq!(query("nobody@example.org", "secret").0, Some(1));
    let owner = |key: &str| support::podop::run(&["query", maps.to_str().unwrap(), "owner", key]).status.code();
    assert_eq!((owner("alice@example.org"), owner("bob@example.org")), (Some(0), Some(1)));
    drop(service);
    let (code, _, stderr) = query("alice@example.org", "secret");
    assert_eq!(code, Some(75), "{stderr}");
}

/// A child that is ended when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
