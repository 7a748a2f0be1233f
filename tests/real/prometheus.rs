//! promtool's opinion of the metrics and of the package's alert rules.

use crate::support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use support::http::{Backend, response};
use support::podop::Podop;

#[test]
#[ignore = "needs Debian's prometheus; tests/run installs it"]
fn promtool_accepts_the_metrics() {
    let backend = Backend::start(|request| response(200, &format!("\"own {}\"", &request.target[1..])));
    let (dir, url) = (tempfile::tempdir().unwrap(), backend.url("/§"));
    let socket = dir.path().join("metrics");
    let table = ["--name", "alias", "--type", "url", "--param", &url];
    let podop = Podop::start(&[&table[..], &["--metrics", socket.to_str().unwrap()]].concat());
    assert_eq!(podop.lookup("alias", "a"), "OK own a");
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: podop\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let (head, metrics) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    check(&["check", "metrics"], metrics.as_bytes());
}

#[test]
#[ignore = "needs Debian's prometheus; tests/run installs it"]
fn promtool_accepts_the_alert_rules_of_the_package() {
    check(&["check", "rules", "src/package/alerts.yml"], b"");
}

fn check(args: &[&str], input: &[u8]) {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = command.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(input).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("error") && !text.contains("should"), "{text}");
}
