//! Postfix with `check_policy_service`.

use crate::support;

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::http::{Backend, Request, Then, raw, response};
use support::manual::sample;
use support::podop::{Podop, run, wait_until};
use support::port;
use support::postfix::{self, Postfix};
use support::roots::Release;

on_each_release! {
    "needs Debian's postfix; tests/run installs it, and builds trixie":
    recipients_are_accepted_rejected_and_greylisted_as_the_service_says
    while_the_service_is_down_postfix_does_what_the_setting_says
}

/// Postfix whose maps are tables of one Podop, and whose recipients another one decides on, with these settings.
struct Rig {
    postfix: Postfix,
    policy: Podop,
    _maps: (Backend, Podop),
}

impl Rig {
    /// `None` without root.
    fn start(release: Release, url: &str, settings: &[&str], main_cf: &[(&str, &str)]) -> Option<Rig> {
        if !postfix::is_root() {
            println!("skipped: the Postfix master needs root");
            return None;
        }
        let backend = Backend::start(|request| match request.target.contains("nobody") {
            true => response(404, "null"),
            false if request.target.starts_with("/transport") => response(404, "null"),
            false => response(200, &format!("\"{}\"", request.target.rsplit('/').next().unwrap().replace("%40", "@"))),
        });
        let mut args = Vec::new();
        for name in ["alias", "domain", "mailbox", "transport"] {
            args.extend(["--name", name, "--type", "url", "--param"].map(str::to_owned));
            args.push(backend.url(&format!("/{name}/§")));
        }
        let maps = Podop::start(&args);
        let table = ["--mode", "policy=policy", "--name", "policy", "--type", "url", "--param", url];
        let policy = Podop::start(&[&table[..], settings].concat());
        let restrictions = sample("policy.cf").replace("/run/podop/policy.sock", policy.socket().to_str().unwrap());
        let given: Vec<(&str, &str)> = restrictions.lines().filter_map(|line| line.split_once(" = ")).collect();
        let postfix = Postfix::start(release, maps.socket(), &[&given[..], main_cf].concat());
        Some(Rig { postfix, policy, _maps: (backend, maps) })
    }

    fn rcpt(&self, address: &str) -> String {
        self.postfix.smtp().rcpt(address)
    }
}

fn recipients_are_accepted_rejected_and_greylisted_as_the_service_says(release: Release) {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = bodies.clone();
    let backend = Backend::start(move |request: &Request| {
        let body = String::from_utf8(request.body.clone()).unwrap();
        seen.lock().unwrap().push(body.clone());
        let has = |text: &str| body.contains(text);
        match () {
            () if has("\"recipient\":\"spam@example.test\"") => response(200, "\"REJECT 5.7.1 no spam here\""),
            () if has("\"recipient\":\"grey@example.test\"") => response(200, "DEFER_IF_PERMIT 4.2.0 Greylisted"),
            () if has("\"recipient\":\"ünï@example.test\"") => response(200, "\"REJECT 5.7.1 ünï\""),
            () if has("\"recipient\":\"slow@example.test\"") => raw(vec![], Then::Hang),
            () => response(204, ""),
        }
    });
    let Some(rig) = Rig::start(release, &backend.url("/"), &["--timeout", "2"], &[("smtputf8_enable", "yes")]) else {
        return;
    };
    assert!(rig.rcpt("alice@example.test").starts_with("250 "));
    let reply = rig.rcpt("spam@example.test");
    assert!(reply.starts_with("554 5.7.1 <spam@example.test>: Recipient address rejected: no spam here"), "{reply}");
    assert!(
        rig.rcpt("grey@example.test")
            .starts_with("450 4.2.0 <grey@example.test>: Recipient address rejected: Greylisted")
    );
    assert!(rig.rcpt("nobody@example.test").starts_with("550 5.1.1"), "DUNNO leaves it to the others");
    let start = Instant::now();
    assert!(rig.rcpt("slow@example.test").starts_with("450 4.3.0 "));
    assert!(start.elapsed() < Duration::from_secs(10));
    let mut smtp = rig.postfix.smtp();
    smtp.command("EHLO client.test");
    assert!(smtp.command("MAIL FROM:<s@client.test> SMTPUTF8").starts_with("250 "));
    let reply = smtp.command("RCPT TO:<ünï@example.test>");
    assert!(reply.starts_with("554 5.7.1 <ünï@example.test>: Recipient address rejected: ünï"), "{reply}");
    let bodies = bodies.lock().unwrap();
    let body: serde_json::Value = serde_json::from_str(&bodies[0]).unwrap();
    for (name, value) in
        [("request", "smtpd_access_policy"), ("protocol_state", "RCPT"), ("client_address", "127.0.0.1")]
    {
        assert_eq!(body[name], value, "{body}");
    }
}

fn while_the_service_is_down_postfix_does_what_the_setting_says(release: Release) {
    let closed = format!("http://127.0.0.1:{}/", port::free());
    for (setting, code) in [("fault=defer", "450 4.3.0 "), ("fault=close", "451 4.3.5 "), ("fault=dunno", "250 ")] {
        let option = format!("policy:{setting}");
        let Some(rig) = Rig::start(release, &closed, &["--option", &option], &[]) else { return };
        let reply = rig.rcpt("alice@example.test");
        assert!(reply.starts_with(code), "{setting}: {reply}");
        assert!(rig.policy.log().contains("refused the connection"), "{}", rig.policy.log());
    }
}

#[test]
#[ignore = "needs python3; tests/run installs it"]
fn the_service_of_the_manual_refuses_greylists_and_limits_the_rate() {
    let (dir, port) = (tempfile::tempdir().unwrap(), port::free());
    assert!(sample("policy.py").lines().count() <= 40);
    std::fs::write(
        dir.path().join("policy.py"),
        sample("policy.py").replace("DELAY, REFUSED = 5, 60", "DELAY, REFUSED = 5, 0.5"),
    )
    .unwrap();
    let mut python = Command::new("/usr/bin/python3");
    python.arg(dir.path().join("policy.py")).arg(port.to_string()).stdin(Stdio::null());
    let _service = Running(python.stderr(Stdio::null()).spawn().unwrap());
    wait_until(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let command = sample("policy.sh").replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
    let words: Vec<&str> = command.split_whitespace().filter(|word| *word != "\\").collect();
    let at = |flag: &str| words.iter().position(|word| *word == flag).unwrap();
    let podop = Podop::start(&[&words[at("--mode")..at("--mode") + 2], &words[at("--name")..]].concat());
    let ask = |attributes: &[&str]| {
        let fixed = [
            "query",
            "--mode",
            "policy",
            podop.socket().to_str().unwrap(),
            "client_address=192.0.2.1",
            "recipient=r@y",
        ];
        let output = run(&[&fixed[..], attributes].concat());
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ask(&["sender=Spammer@example.com"]), "REJECT 5.7.1 We do not want your mail\n");
    assert_eq!(ask(&["sender=new@x"]), "DEFER_IF_PERMIT 4.2.0 Greylisted, try again later\n");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(ask(&["sender=new@x"]), "DUNNO\n");
    let user = ["sender=u@y", "sasl_username=u"];
    (0..5).for_each(|_| assert_eq!(ask(&user), "DUNNO\n"));
    assert_eq!(ask(&user), "DEFER 4.7.1 Too many messages, try again in a minute\n");
    assert_eq!(ask(&["sender=u@y", "sasl_username=v"]), "DUNNO\n");
}

#[test]
fn a_decision_can_be_asked_for_without_postfix() {
    let backend = Backend::start(|request| match request.body.len() > 100 {
        true => response(500, "null"),
        false => response(200, "\"REJECT\""),
    });
    let url = backend.url("/");
    let table = [
        "--mode",
        "policy=policy",
        "--name",
        "policy",
        "--type",
        "url",
        "--param",
        &url,
        "--option",
        "policy:fault=close",
    ];
    let podop = Podop::start(&table);
    let query = |attribute: &str| run(&["query", "--mode", "policy", podop.socket().to_str().unwrap(), attribute]);
    assert_eq!((query("sender=a").status.code(), &query("sender=a").stdout[..]), (Some(0), &b"REJECT\n"[..]));
    let long = query(&format!("sender={}", "a".repeat(100)));
    assert_eq!(long.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&long.stderr).contains("the connection was closed"));
}

/// A child that is ended when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
