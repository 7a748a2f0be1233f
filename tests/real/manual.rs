//! What the README shows is taken out of it and run.

use crate::support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::dovecot::Dovecot;
use support::http::{Backend, response};
use support::podop::{Podop, SOON};
use support::postfix::{self, Postfix};
#[cfg(feature = "tls")]
use support::server::Server;

#[test]
#[ignore = "needs python3; tests/run installs it"]
fn the_backend_of_the_readme_answers_postfix_and_dovecot() {
    let backend = Python::start(&block("python", 0));
    let podop = Podop::start(&tables(backend.port, &["auth", "meta"]));
    assert_eq!(podop.lookup("alias", "info@example.org"), "OK alice@example.org,bob@example.net");
    assert_eq!(podop.lookup("domain", "example.org"), "OK example.org");
    assert_eq!(podop.lookup("mailbox", "alice@example.org"), "OK alice@example.org");
    assert_eq!(podop.lookup("mailbox", "nobody@example.org"), "NOTFOUND ");
    assert_eq!(podop.lookup("transport", "*"), "NOTFOUND ");

    let mut dict = Dict::open(&podop, "meta");
    assert_eq!(dict.ask("Lshared/color\t"), "N");
    assert_eq!(dict.ask("B1\t\t0\nS1\tshared/color\tgreen\nS1\tshared/n\t41\nC1"), "O1");
    assert_eq!(dict.ask("Lshared/color\t"), "Ogreen");
    assert_eq!(dict.ask("B2\t\t0\nA2\tshared/n\t-7\nC2"), "O2");
    assert_eq!(dict.ask("Lshared/n\t"), "O34");
    assert_eq!(dict.ask("B3\t\t0\nA3\tshared/none\t1\nC3"), "N3");
    assert_eq!(dict.ask("B4\t\t0\nU4\tshared/color\nC4"), "O4");
    assert_eq!(dict.ask("Lshared/color\t"), "N");
    assert_eq!(dict.ask("B5\tu@x\t0\nS5\tpriv/g/a\t1\nS5\tpriv/g/b\t\"2\"\nC5"), "O5");
    assert_eq!(dict.ask("Lpriv/g/b\tu@x"), "O2");
    assert_eq!(dict.ask("Lpriv/g/b\tother@x"), "N");
    assert_eq!(dict.rows("I0\t0\tpriv/g/\tu@x"), ["Opriv/g/a\t1", "Opriv/g/b\t2"]);
    assert_eq!(dict.rows("I9\t0\tpriv/g/\tother@x"), [""; 0]);
}

#[test]
fn the_backend_of_the_readme_is_short() {
    assert!(block("python", 0).lines().count() <= 30);
}

#[test]
#[ignore = "needs Debian's postfix and python3; tests/run installs them"]
fn postfix_works_with_the_configuration_of_the_readme() {
    if !postfix::is_root() {
        return println!("skipped: the Postfix master needs root");
    }
    let backend = Python::start(&block("python", 0));
    let podop = Podop::start(&tables(backend.port, &[]));
    let main_cf = block("ini", 0).replace("/run/podop/podop.sock", podop.socket().to_str().unwrap());
    let settings: Vec<(&str, &str)> = main_cf.lines().filter_map(|line| line.split_once(" = ")).collect();
    assert_eq!(settings.len(), 6, "{main_cf}");
    let postfix = Postfix::start(podop.socket(), &settings);
    let mut smtp = postfix.smtp();
    assert!(smtp.rcpt("alice@example.org").starts_with("250 "));
    assert!(smtp.rcpt("nobody@example.org").starts_with("550 5.1.1 "));
    assert!(smtp.rcpt("alice@example.net").starts_with("554 5.7.1 "));
    drop(backend);
    assert!(smtp.rcpt("bob@example.org").starts_with("451 4.3.0 "));
    let line = postfix.wait_for_log("socketmap server temporary error");
    assert!(line.contains("refused the connection"), "{line}");
}

#[test]
#[ignore = "needs Debian's dovecot with dovecot-auth-lua; tests/run installs them"]
fn dovecot_with_the_lua_script_of_the_readme_asks_the_same_urls() {
    let backend = Backend::start(|request| match request.target.as_str() {
        "/auth/passdb/lua@x.test" => response(200, r#"{"password": "secr\u0065t", "nologin": null}"#),
        "/auth/userdb/lua@x.test" => response(200, "{}"),
        "/auth/passdb/broken@x.test" => response(500, "broken"),
        "/auth/passdb/page@x.test" => response(200, "<html>"),
        _ => response(404, "null"),
    });
    // The dict passdb comes first and knows nobody.
    let nobody = ["--name", "auth", "--type", "file", "--param", "tests/data/test.json"];
    let podop = Podop::start(&nobody);
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = dir.path().join("podop.lua");
    let port = backend.address().port();
    std::fs::write(&script, block("lua", 0).replace(":8080", &format!(":{port}"))).unwrap();
    let settings = readme().split("# 2.3\npassdb {").nth(1).unwrap().split("# 2.4").next().unwrap().to_owned();
    let settings = format!("passdb {{{settings}").replace("/etc/dovecot/podop.lua", script.to_str().unwrap());
    let dovecot = Dovecot::start(podop.socket(), &settings);
    let test = |user: &str, password: &str| {
        let output = dovecot.doveadm(&["auth", "test", user, password]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, told) = test("lua@x.test", "secret");
    assert!(code == Some(0) && told.contains("auth succeeded"), "{told}{}", dovecot.log());
    for (user, password, temporary) in [
        ("lua@x.test", "wrong", false),
        ("nobody@x.test", "secret", false),
        ("broken@x.test", "secret", true),
        ("page@x.test", "secret", true),
    ] {
        let (code, told) = test(user, password);
        assert_eq!(code, Some(77), "{told}");
        assert_eq!(told.contains("code=temp_fail"), temporary, "{user}: {told}");
    }
}

#[test]
#[cfg(feature = "tls")]
#[ignore = "needs Debian's nginx-light and openssl; tests/run installs them"]
fn nginx_of_the_readme_admits_clients_with_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let here = |text: &str| text.replace("/etc/podop", dir.path().to_str().unwrap());
    let made = Command::new("sh").args(["-e", "-c", &here(&block_with("sh", "openssl req"))]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let service = Backend::start(|request| match request.target.as_str() {
        "/alias/info%40example.org" => response(200, "[\"alice@example.org\"]"),
        _ => response(404, "null"),
    });
    let site = here(&block_with("nginx", "ssl_certificate"));
    let site = site.replace("127.0.0.1:8080", &service.address().to_string());
    let nginx = Server::nginx_site(|port| site.replace("listen 8443", &format!("listen 127.0.0.1:{port}")));

    let command = here(&block_with("sh", "alias:cert="));
    let words: Vec<&str> = command.split_whitespace().filter(|word| *word != "\\").collect();
    let table = words.iter().position(|word| *word == "--name").unwrap();
    let host = format!("https://127.0.0.1:{}", nginx.port);
    let args = words[table..].iter().map(|word| word.replace("https://admin.example.org:8443", &host));
    let args: Vec<String> = args.chain(["--option", "alias:servername=admin.example.org"].map(str::to_owned)).collect();
    let podop = Podop::start(&args);
    assert_eq!(podop.lookup("alias", "info@example.org"), "OK alice@example.org");
    assert_eq!(podop.lookup("alias", "none@example.org"), "NOTFOUND ");

    let own = |pair: &&[String]| pair[1].starts_with("alias:cert=") || pair[1].starts_with("alias:key=");
    let without: Vec<String> = args.chunks(2).filter(|pair| !own(pair)).flatten().cloned().collect();
    assert_eq!(without.len() + 4, args.len());
    let stranger = Podop::start(&without);
    let refused = format!("TEMP alias: {host} rejected the client certificate: answered 400");
    assert_eq!(stranger.lookup("alias", "info@example.org"), refused);
    assert_eq!(stranger.lookup("alias", "none@example.org"), refused);
}

#[test]
fn every_flag_and_setting_is_in_the_readme() {
    let text = readme();
    let help = podop::config::HELP;
    for flag in help.split([' ', ',', '\n']).filter(|word| word.starts_with("--")) {
        assert!(text.contains(&format!("`{flag}")) || text.contains(flag), "{flag}");
    }
    for setting in [
        "timeout",
        "miss",
        "header",
        "header-file",
        "select",
        "unset",
        "connections",
        "keepalive",
        "pipeline",
        "cache",
        "stale",
        "concurrency",
        "ca",
        "cert",
        "servername",
    ] {
        assert!(text.contains(&format!("| `{setting}=")), "{setting}");
    }
    for code in ["64", "68", "69", "71", "73", "75", "77", "78"] {
        assert!(text.contains(code), "{code}");
    }
}

fn readme() -> String {
    std::fs::read_to_string("README.md").unwrap()
}

/// The nth block of a language.
fn block(language: &str, nth: usize) -> String {
    let text = readme();
    let start = format!("```{language}\n");
    text.split(&start).nth(nth + 1).expect("a block").split("```").next().unwrap().to_owned()
}

/// The block of a language that has these words in it.
#[cfg(feature = "tls")]
fn block_with(language: &str, words: &str) -> String {
    let (text, start) = (readme(), format!("```{language}\n"));
    let mut blocks = text.split(&start).skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains(words)).expect("a block").to_owned()
}

/// The tables of the README's command line, with a backend elsewhere, and more of the same kind.
fn tables(port: u16, more: &[&str]) -> Vec<String> {
    let text = readme();
    let command = text.split("podop --socket /run/podop/podop.sock --socket-group postfix").nth(1).unwrap();
    let command = command.split("```").next().unwrap().replace(":8080", &format!(":{port}"));
    let mut args: Vec<String> = command.split_whitespace().filter(|word| *word != "\\").map(str::to_owned).collect();
    assert_eq!(args.len(), 24, "{command}");
    for name in more {
        args.extend(["--name", name, "--type", "url", "--param"].map(str::to_owned));
        args.push(format!("http://127.0.0.1:{port}/{name}/§"));
    }
    args
}

/// A Python program that serves a port of loopback.
struct Python {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Python {
    fn start(text: &str) -> Python {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backend.py");
        std::fs::write(&path, text).unwrap();
        let port = support::port::free();
        let mut command = Command::new("python3");
        command.arg(&path).arg(port.to_string()).stdin(Stdio::null()).stderr(Stdio::null());
        let mut python = Python { child: command.spawn().unwrap(), port, _dir: dir };
        let until = Instant::now() + SOON;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(python.child.try_wait().unwrap().is_none() && Instant::now() < until, "it does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        python
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Dovecot on one connection.
struct Dict {
    stream: BufReader<std::os::unix::net::UnixStream>,
}

impl Dict {
    fn open(podop: &Podop, table: &str) -> Dict {
        let mut stream = podop.connect();
        stream.write_all(format!("H4\t0\t0\t\t{table}\n").as_bytes()).unwrap();
        Dict { stream: BufReader::new(stream) }
    }

    fn ask(&mut self, command: &str) -> String {
        self.stream.get_mut().write_all(format!("{command}\n").as_bytes()).unwrap();
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.pop();
        line
    }

    /// All rows, sorted.
    fn rows(&mut self, command: &str) -> Vec<String> {
        let (mut rows, mut row) = (Vec::new(), self.ask(command));
        while !row.is_empty() {
            rows.push(row);
            row = self.line();
        }
        rows.sort();
        rows
    }
}
