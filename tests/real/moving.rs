//! Moving from maps of Postfix: its search order, and the same answers as before.

use crate::support;

use std::fmt::Write;
use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use support::http::{Backend, Request, Script, response};
use support::manual::sample;
use support::podop::{Podop, wait_until};
use support::port;
use support::postfix::{self, Postfix, postmap};
use support::roots::Release;

/// `example.test` with a catch-all: each mailbox has an alias of itself.
fn catch_all(request: &Request) -> Script {
    let (table, key) = request.target[1..].split_once('/').expect("a table and a key");
    let key = key.replace("%40", "@").replace("%2B", "+");
    let value = match (table, &key[..]) {
        ("domain", "example.test") => "example.test",
        ("mailbox", "alice@example.test" | "all@example.test" | "broken@example.test") => "yes",
        ("alias", "info@example.test" | "alice@example.test") => "alice@example.test",
        ("alias", "@example.test" | "all@example.test") => "all@example.test",
        ("alias", "broken@example.test") => return response(500, "null"),
        _ => return response(404, "null"),
    };
    response(200, &format!("\"{value}\""))
}

#[test]
#[ignore = "needs Debian's postfix; tests/run installs it"]
fn mail_finds_its_way_in_any_case_with_an_extension_and_by_the_catch_all() {
    if !postfix::is_root() {
        return println!("skipped: the Postfix master needs root");
    }
    let backend = Backend::start(catch_all);
    let mut args = vec!["--option".to_owned(), "*:case=lower".to_owned()];
    for name in ["alias", "domain", "mailbox", "transport"] {
        args.extend(["--name", name, "--type", "url", "--param"].map(str::to_owned));
        args.push(backend.url(&format!("/{name}/§")));
    }
    let search = ["--option", "alias:search=address,+,@", "--option", "mailbox:search=address,+"].map(str::to_owned);
    args.extend(search);
    let podop = Podop::start(&args);
    let postfix = Postfix::start(Release::Bookworm, podop.socket(), &[("recipient_delimiter", "+")]);
    let mut smtp = postfix.smtp();
    for (to, recipient) in [
        ("Info+news@Example.test", "alice@example.test"),
        ("ALICE@example.test", "alice@example.test"),
        ("Nobody+x@example.test", "all@example.test"),
    ] {
        let delivered = postfix.delivered();
        let reply = smtp.send("s@client.test", to, "body");
        assert!(reply.starts_with("250 2.0.0"), "{to}: {reply}");
        wait_until(|| postfix.delivered() == delivered + 1);
        assert!(
            postfix
                .log()
                .lines()
                .any(|line| line.contains(&format!("to=<{recipient}>")) && line.contains("status=sent"))
        );
    }
    // The catch-all takes no mail of an address whose lookup fails.
    for to in ["broken@example.test", "Broken+x@example.test"] {
        let reply = smtp.rcpt(to);
        assert!(reply.starts_with("451 4.3.0 "), "{to}: {reply}");
    }
    postfix.wait_for_log("answered 500");
    assert!(!postfix.log().contains("orig_to=<broken@example.test>"));
    assert!(smtp.rcpt("x@elsewhere.test").starts_with("554 5.7.1"));
}

#[test]
#[ignore = "needs Debian's postfix; tests/run installs it"]
fn postfix_shows_what_a_value_or_a_reason_has_become() {
    let backend = Backend::start(|request| match request.target.trim_start_matches("/alias/") {
        "rows" => response(200, "[{\"goto\": \"a@x\"}, {\"goto\": null}, {\"goto\": \"b@x\"}]"),
        "none" => response(200, "[]"),
        "false" => response(200, "[{\"goto\": false}]"),
        "renamed" => response(200, "[{\"to\": \"a@x\"}]"),
        "page" => response(404, "<html>"),
        "missing" => response(404, "{}"),
        _ => Script {
            bytes: b"HTTP/1.1 503 Busy\r\nContent-Type: application/problem+json\r\nContent-Length: 26\r\n\r\n\
                     {\"detail\": \"disk is full\"}"
                .to_vec(),
            ..response(503, "")
        },
    });
    let url = backend.url("/alias/§");
    let table = ["--name", "alias", "--type", "url", "--param", &url];
    let podop =
        Podop::start(&[&table[..], &["--option", "alias:select=/*/goto", "--option", "alias:miss=404,json"]].concat());
    let map = format!("socketmap:unix:{}:alias", podop.socket().display());
    for (key, code, stdout, reason) in [
        ("rows", 0, "a@x,b@x\n", ""),
        ("none", 1, "", ""),
        ("false", 0, "false\n", ""), // an item of a list, which is a text
        ("renamed", 1, "", "answered 200 without /*/goto"),
        ("page", 1, "", "answered 404 without JSON"),
        ("missing", 1, "", ""),
        ("busy", 1, "", "answered 503: disk is full"),
    ] {
        let output = postmap(Release::Bookworm, &map, key);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &String::from_utf8_lossy(&output.stdout)[..]), (Some(code), stdout), "{key}");
        assert!(stderr.contains(reason) && stderr.is_empty() == reason.is_empty(), "{key}: {stderr}");
    }
}

#[test]
#[ignore = "needs Debian's postfix-sqlite and python3; tests/run installs them"]
fn podop_answers_a_thousand_keys_as_the_map_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    // Keys that have a value, and further ones that may have none.
    let odd = [
        "info@example.org",
        "a b@x",
        "q'uo\"te@x",
        "ümlaut@exämple.org",
        "100%@x",
        "back\\slash@x",
        "+x@y",
        "@example.org",
        "tab\tbed@x",
        "§@x",
        "?key=1&a=b#c@x",
        "a/../b@x",
        "%40@x",
        "a;--@x",
        "{}@x",
        "x\u{1}y@x",
    ];
    let known: Vec<String> =
        odd.iter().map(|key| (*key).to_owned()).chain((0..700).map(|at| format!("u{at}@x"))).collect();
    let more =
        ["list@x", "off@x", "null@x", "num@x", "INFO@Example.ORG", "none@x", "info+x@example.org", "../a@x", "/", ".."];
    let more =
        more.into_iter().map(str::to_owned).chain((0..274).map(|at| format!("U{at}@X"))).chain(["x".repeat(300)]);
    let keys: Vec<String> = known.iter().cloned().chain(more).collect();
    assert!(keys.len() > 1_000);
    let mut sql = String::from(
        "CREATE TABLE alias (address TEXT, goto, active INT); CREATE TABLE domain (domain TEXT); \
         CREATE TABLE mailbox (username TEXT, maildir TEXT); \
         INSERT INTO alias VALUES ('list@x', 'a@x', 1), ('list@x', 'b@x', 1), ('off@x', 'a@x', 0), ('null@x', NULL, 1), \
         ('num@x', 42, 1), ('empty@x', '', 1), ('Ünï@x', 'c@x', 1);",
    );
    for key in &known {
        let quoted = key.replace('\'', "''");
        write!(sql, "INSERT INTO alias VALUES ('{quoted}', 'to {quoted}', 1);").unwrap();
    }
    fs::write(path("schema.sql"), sql).unwrap();
    let fill = "import sqlite3; sqlite3.connect('mail.db').executescript(open('schema.sql').read())";
    let filled = Command::new("/usr/bin/python3").args(["-c", fill]).current_dir(dir.path()).status();
    assert!(filled.is_ok_and(|status| status.success()));

    fs::write(path("moving.py"), sample("moving.py")).unwrap();
    let port = port::free();
    let mut service = Command::new("/usr/bin/python3");
    service.args([&path("moving.py"), &port.to_string(), &path("mail.db")]).stdin(Stdio::null());
    let _service = Running(service.stderr(Stdio::null()).spawn().unwrap());
    wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
    let command = sample("moving.sh").replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
    let words: Vec<&str> =
        command.split_whitespace().filter(|word| *word != "\\").map(|word| word.trim_matches('\'')).collect();
    let tables = words.iter().position(|word| *word == "--option").unwrap();
    let podop = Podop::start(&words[tables..]);

    fs::create_dir(path("postfix")).unwrap();
    fs::write(path("postfix/main.cf"), "compatibility_level = 3.6\n").unwrap();
    fs::write(path("postfix/alias.cf"), sample("alias.cf").replace("/etc/postfix/mail.db", &path("mail.db"))).unwrap();
    let script = sample("compare.sh")
        .replace("/etc/postfix/", &format!("{}/", path("postfix")))
        .replace("/run/podop/podop.sock", podop.socket().to_str().unwrap())
        .replace("podop query", &format!("{} query", env!("CARGO_BIN_EXE_podop")));
    let compare = |keys: &[String]| {
        fs::write(path("keys"), keys.join("\n") + "\n").unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(dir.path()).env("MAIL_CONFIG", path("postfix"));
        let output = shell.env("PATH", "/usr/sbin:/usr/bin:/bin").output().unwrap();
        let differences = String::from_utf8_lossy(&output.stdout).into_owned();
        (differences, fs::read_to_string(path("old")).unwrap().lines().count())
    };
    let (differences, answers) = compare(&keys);
    assert_eq!(differences, "");
    assert!(answers > 990, "{answers} answers");
    // What the manual says differs.
    let (differences, _) = compare(&["Ünï@x".to_owned(), "empty@x".to_owned()]);
    assert_eq!(differences, "0a1,2\n> Ünï@x\tc@x\n> empty@x\t\n");
}

#[test]
#[ignore = "needs Debian's postfix; tests/run installs it"]
fn postfix_combines_tables_as_the_manual_says() {
    if !postfix::is_root() {
        return println!("skipped: the Postfix master needs root");
    }
    let backend = Backend::start(catch_all);
    let mut args = Vec::new();
    for name in ["alias", "domain", "mailbox", "transport"] {
        args.extend(["--name", name, "--type", "url", "--param"].map(str::to_owned));
        args.push(backend.url(&format!("/{name}/§")));
    }
    let podop = Podop::start(&args);
    let maps = sample("maps.cf").replace("example.org", "example.test");
    let settings: Vec<(&str, &str)> = maps.lines().filter_map(|line| line.split_once(" = ")).collect();
    assert_eq!(settings.len(), 2);
    let postfix = Postfix::start(Release::Bookworm, podop.socket(), &settings);
    let mut smtp = postfix.smtp();
    for (to, delivered) in
        [("info+news@example.test", "alice@example.test"), ("alice@example.test", "alice@example.test")]
    {
        let before = postfix.delivered();
        assert!(smtp.send("s@client.test", to, "body").starts_with("250 2.0.0"), "{to}");
        wait_until(|| postfix.delivered() == before + 1);
        assert!(postfix.log().contains(&format!("to=<{delivered}>")), "{to}");
    }
    assert!(smtp.rcpt("postmaster@example.test").starts_with("250 "), "of the second table");
    assert!(smtp.rcpt("nobody@example.test").starts_with("550 5.1.1"));
    assert!(smtp.rcpt("broken@example.test").starts_with("451 "));
}

#[test]
#[ignore = "needs Debian's python3; tests/run installs it"]
fn the_module_for_mailu_takes_the_place_of_the_python_package() {
    let backend = Backend::start(|request| match request.target.as_str() {
        "/internal/postfix/domain/example.org" => response(200, "\"example.org\""),
        "/internal/postfix/dane/slow.test" => response(200, "\"dane\"").after(std::time::Duration::from_millis(300)),
        "/internal/postfix/recipient/map/a%40b" => response(400, "null"),
        _ => response(404, "null"),
    });
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("podop.socket");
    // What Mailu's start.py does: a child becomes Podop, and this process something else.
    let start = format!(
        "import multiprocessing, time\n\
         from podop import run_server\n\
         def start_podop():\n\
         \x20   url = 'http://{}/internal/postfix/'\n\
         \x20   run_server(0, 'postfix', '{}', [(name, 'url', url + path) for name, path in (('domain', 'domain/§'), \
         ('dane', 'dane/§'), ('recipientmap', 'recipient/map/§'))])\n\
         multiprocessing.set_start_method('fork')\n\
         child = multiprocessing.Process(target=start_podop)\n\
         child.start()\n\
         child.join()\n",
        backend.address(),
        socket.display()
    );
    fs::write(dir.path().join("start.py"), start).unwrap();
    let mut python = Command::new("/usr/bin/python3");
    python.arg(dir.path().join("start.py")).env("PYTHONPATH", "src/package/mailu").stdin(Stdio::null());
    python.env("PODOP", env!("CARGO_BIN_EXE_podop")).env("PODOP_OPTIONS", "--timeout 5").stderr(Stdio::null());
    let python = Running(python.env("PYTHONDONTWRITEBYTECODE", "1").spawn().unwrap());
    wait_until(|| socket.exists());
    let children = format!("/proc/{0}/task/{0}/children", python.0.id());
    let child = Grandchild(fs::read_to_string(children).unwrap().trim().parse().unwrap());
    let query = |table: &str, key: &str| {
        let output = support::podop::run(&["query", socket.to_str().unwrap(), table, key]);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(query("domain", "example.org"), (Some(0), "example.org\n".to_owned()), "the health check");
    assert_eq!(query("domain", "example.com").0, Some(1));
    assert_eq!(query("recipientmap", "a@b").0, Some(75), "400 is a fault without miss=404, too");
    assert_eq!(query("dane", "slow.test").0, Some(0));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o755);
    let command = fs::read_to_string(format!("/proc/{}/cmdline", child.0)).unwrap();
    assert!(command.starts_with("podop\0"), "the child has become Podop: {command}");
    assert!(command.contains("\0dane:connections=1\0") && command.ends_with("\0--timeout\x005\0"), "{command}");
    drop(child);
    wait_until(|| !socket.exists());
}

/// A child of a child, which is asked to end when this is dropped.
struct Grandchild(i32);

impl Drop for Grandchild {
    fn drop(&mut self) {
        // SAFETY: its parent waits for it, so that the id is its own.
        unsafe { libc::kill(self.0, libc::SIGTERM) };
    }
}

/// A child that is ended when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
