//! The status page in a real browser, and the same in a terminal.

use crate::support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use support::http::{Backend, response};
use support::podop::{Podop, run};
use support::port;

/// A Podop with a backend that answers and one that cannot be reached, after some lookups; and the address of its pages.
fn watched() -> (Podop, Backend, String) {
    let backend = Backend::start(|request| match request.target.ends_with("broken") {
        true => response(503, ""),
        false => response(200, "\"value\""),
    });
    let address = format!("127.0.0.1:{}", port::free());
    let (url, gone) = (backend.url("/§"), format!("http://127.0.0.1:{}/§", port::free()));
    let tables =
        ["--name", "alias", "--type", "url", "--param", &url, "--name", "<gone>", "--type", "url", "--param", &gone];
    let podop = Podop::start(&[&tables[..], &["--metrics", &format!("inet:{address}")]].concat());
    for (table, key) in [("alias", "key-of-alice"), ("alias", "broken"), ("<gone>", "key-of-bob")] {
        podop.lookup(table, key);
    }
    (podop, backend, address)
}

/// Runs Chromium without a window. What it prints on stdout and stderr; `None` if there is none.
fn chromium(args: &[&str]) -> Option<(String, String)> {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).arg("--enable-logging=stderr").args(args);
    let Ok(output) = command.output() else {
        eprintln!("skipped: there is no chromium");
        return None;
    };
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{err}");
    Some((out, err))
}

#[test]
#[ignore = "needs Debian's chromium; skipped without it"]
fn a_browser_shows_the_status_page_without_errors() {
    let (_podop, backend, address) = watched();
    let Some((dom, log)) = chromium(&["--dump-dom", &format!("http://{address}/")]) else { return };
    // The page's own messages, such as what its policy has blocked.
    assert!(!log.contains("CONSOLE"), "{log}");
    let cells = ["<td>alias</td>", "<td>&lt;gone&gt;</td>", "down ", "cause=\"answered 503\""];
    for part in cells.iter().copied().chain(["<title>Podop: 1 down</title>"]) {
        assert!(dom.contains(part), "{part}: {dom}");
    }
    assert!(dom.contains(&format!("<td>{}</td>", backend.address())), "{dom}");
    assert!(!dom.contains("alice") && !dom.contains("value"), "{dom}");
}

#[test]
#[ignore = "needs Debian's chromium; skipped without it"]
fn the_page_is_no_wider_than_a_phone() {
    let (_podop, _backend, address) = watched();
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let html = response.split_once("\r\n\r\n").unwrap().1;
    // Writes the width that its content takes into the title.
    let script = "<script>onload = () => document.title = 'width ' + document.documentElement.scrollWidth</script>";
    std::fs::write(&page, html.replace("</html>", &format!("{script}</html>"))).unwrap();
    let url = format!("file://{}", page.display());
    let Some((dom, _)) = chromium(&["--window-size=360,800", "--dump-dom", &url]) else { return };
    let width = dom.split("<title>width ").nth(1).and_then(|rest| rest.split('<').next()).unwrap();
    assert!(width.parse::<u32>().unwrap() <= 500, "{width}"); // 500 is the smallest window of Chromium
}

#[test]
fn podop_status_prints_the_same_in_80_columns() {
    let (_podop, backend, address) = watched();
    let output = run(&["status", &format!("inet:{address}")]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    for part in
        ["\nalias ", "\n<gone> ", &format!("\n{} ", backend.address()), "refused the connection", "answered 503"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("alice") && !text.contains("value"), "{text}");
}

#[test]
fn podop_status_says_why_it_has_no_answer() {
    let address = format!("inet:127.0.0.1:{}", port::free());
    let output = run(&["status", &address]);
    assert_eq!(output.status.code(), Some(75));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains(&format!("is Podop running with --metrics {address}?")), "{error}");
    // The socket of mail servers is another one.
    let podop = Podop::start(&["--name", "t", "--type", "file", "--param", "tests/data/test.json"]);
    let output = run(&["status", podop.socket().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(75));
}
