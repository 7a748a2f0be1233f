//! The program as a user starts it: exit codes, lines on stderr, socket files, signals.

use crate::support;

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use support::http::{Backend, response};
use support::podop::{Podop, run, run_with, signal, wait_until};

#[test]
fn it_answers_from_a_file() {
    let podop = Podop::start(&["--name", "test", "--type", "file", "--param", "tests/data/test.json"]);
    assert_eq!(podop.lookup("test", "alice@example.org"), "OK alice@example.org");
    assert_eq!(podop.lookup("test", "alias@example.org"), "OK alice@example.org,bob@example.net");
    assert_eq!(podop.lookup("test", "nobody@example.org"), "NOTFOUND ");
}

#[test]
fn sigterm_ends_it_and_removes_its_socket() {
    let mut podop = Podop::start(&["--name", "test", "--type", "file", "--param", "tests/data/test.json"]);
    podop.signal(libc::SIGTERM);
    assert_eq!(podop.wait().code(), Some(0));
    assert!(!podop.socket().exists());
}

#[test]
fn sigterm_ends_a_start_that_waits_for_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, socket) = (dir.path().join("pipe"), dir.path().join("s"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_podop"));
    command.args(["--name", "t", "--type", "file", "--socket"]).arg(&socket).arg("--param").arg(&pipe);
    let mut child = command.spawn().unwrap();
    // It waits for a writer: opening the pipe without waiting succeeds as soon as there is a reader.
    let open = || File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&pipe);
    let mut writer = None;
    wait_until(|| {
        writer = open().ok();
        writer.is_some()
    });
    signal(&child, libc::SIGTERM);
    let mut ended = None;
    wait_until(|| {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
    assert!(!socket.exists());
}

#[test]
fn mistakes_end_the_start_with_one_line_and_a_code() {
    let table = |kind: &str, param: &str| {
        ["--socket", "/nonexistent/s", "--name", "t", "--type", kind, "--param", param].map(str::to_owned).to_vec()
    };
    let with = |mut args: Vec<String>, option: &str| {
        args.extend(["--option".to_owned(), option.to_owned()]);
        args
    };
    let cases = [
        (vec![], 64, "--socket is required"),
        (vec!["querry".to_owned(), "/s".to_owned()], 64, "unknown argument 'querry'"),
        (
            vec!["--metrics".to_owned(), "9779".to_owned(), "--socket=/s".to_owned()],
            64,
            "--metrics expects a path or inet:",
        ),
        (
            table("urls", "http://h/§"),
            78,
            "--type of table 't': 'urls' is unknown, it is one of: file, mx, program, url",
        ),
        (table("url", "http://h/"), 78, "--param of table 't': the URL has no '§' or '{}' where the key belongs"),
        (with(table("url", "http://h/§"), "t:ca=/x"), 78, "--option of table 't': ca= is for https:// URLs"),
        (table("url", "h/§"), 78, "--param of table 't': not a URL"),
        (table("url", ""), 78, "--param of table 't': expects 1 to 64 URLs"),
        (table("file", "/no/such/file"), 78, "--param of table 't': /no/such/file: No such file"),
        (table("file", "Cargo.toml"), 78, "--param of table 't': Cargo.toml: not a JSON object"),
        (with(table("url", "http://h/§"), "t:colour=red"), 78, "--option of table 't': setting 'colour' is unknown"),
        (with(table("url", "http://h/§"), "t:stale=60"), 78, "--option of table 't': stale= needs cache="),
        (
            with(table("url", "http://h/§"), "t:timeout=x"),
            78,
            "--option of table 't': timeout=x: not a time in seconds",
        ),
        (table("url", "http://h/§"), 73, "--socket /nonexistent/s: No such file"),
    ];
    for (args, code, line) in cases {
        let output = run(&args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.starts_with("podop: ") && stderr.contains(line), "{args:?}: {stderr}");
        assert!(stderr.matches('\n').count() == 1 && !stderr.contains("secret"), "{args:?}: {stderr}");
    }
}

#[test]
fn help_prints_the_chapters_of_the_manual() {
    let help = |chapter: &[&str]| {
        let args: Vec<String> = ["help"].iter().chain(chapter).map(|word| (*word).to_owned()).collect();
        let output = run(&args);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, list, _) = help(&[]);
    assert_eq!(code, Some(0));
    for chapter in podop::manual::CHAPTERS {
        assert!(list.contains(chapter.name), "{list}");
        assert_eq!(help(&[chapter.name]), (Some(0), chapter.text.to_owned(), String::new()));
    }
    let (code, _, error) = help(&["nothing"]);
    assert!(code == Some(64) && error.contains("there is no chapter 'nothing', only: postfix, "), "{error}");
    assert_eq!(help(&["postfix", "dovecot"]).0, Some(64));
}

#[test]
fn https_needs_a_build_with_tls() {
    let output = run(&["--check", "--name", "t", "--type", "url", "--param", "https://u:secret@127.0.0.1:1/§"]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if cfg!(feature = "tls") {
        assert!(out.contains("backend https://127.0.0.1:1 is not reachable"), "{out}{err}");
    } else {
        assert_eq!(output.status.code(), Some(78));
        assert!(err.contains("needs a podop that was built with TLS: cargo build --release --features tls"), "{err}");
    }
    assert!(!out.contains("secret") && !err.contains("secret"));
}

#[test]
fn a_socket_that_is_served_or_no_socket_is_left_alone() {
    let args = ["--name", "test", "--type", "file", "--param", "tests/data/test.json"];
    let podop = Podop::start(&args);
    let output = run(&[&["--socket", podop.socket().to_str().unwrap()], &args[..]].concat());
    assert_eq!(output.status.code(), Some(73));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another process serves this socket"));
    assert_eq!(podop.lookup("test", "example.org"), "OK example.org");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let output = run(&[&["--socket", file.to_str().unwrap()], &args[..]].concat());
    assert_eq!(output.status.code(), Some(73));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_socket_left_by_a_killed_process_is_replaced() {
    let mut podop = Podop::start(&["--name", "test", "--type", "file", "--param", "tests/data/test.json"]);
    podop.signal(libc::SIGKILL);
    podop.wait();
    assert!(podop.socket().exists());
    podop.restart();
    assert_eq!(podop.lookup("test", "example.org"), "OK example.org");
}

#[test]
fn query_distinguishes_value_none_and_failure() {
    let podop = Podop::start(&["--name", "test", "--type", "file", "--param", "tests/data/test.json"]);
    let socket = podop.socket().to_str().unwrap();
    let query = |args: &[&str]| {
        let output = run(&[&["query"], args].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(query(&[socket, "test", "example.org"]), (Some(0), "example.org\n".into(), "".into()));
    let none = (Some(1), "".into(), "podop: not found (exit code 1)\n".into());
    assert_eq!(query(&[socket, "test", "none"]), none);
    let failure = (Some(75), "".into(), "podop: TEMP no such table: none (exit code 75)\n".into());
    assert_eq!(query(&[socket, "none", "x"]), failure);
    let list = (Some(0), "[\"alice@example.org\",\"bob@example.net\"]\n".into(), "".into());
    assert_eq!(query(&["--mode", "dovecot", socket, "test", "alias@example.org"]), list);
    let missing = query(&["/nonexistent/s", "test", "x"]);
    assert_eq!((missing.0, missing.1.as_str()), (Some(75), ""));
    assert!(missing.2.starts_with("podop: /nonexistent/s: No such file"));
}

#[test]
fn query_reads_keys_from_stdin_and_prints_those_with_values() {
    let podop = Podop::start(&["--name", "test", "--type", "file", "--param", "tests/data/test.json"]);
    let socket = podop.socket().to_str().unwrap();
    let query = |args: &[&str], keys: &str| {
        let output = run_with(&[&["query"], args].concat(), keys.as_bytes());
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let keys = "example.org\n\nnone\nalias@example.org";
    let list = "alias@example.org\talice@example.org,bob@example.net\n";
    assert_eq!(query(&[socket, "test", "-"], keys), (Some(0), format!("example.org\texample.org\n{list}")));
    assert_eq!(query(&[socket, "test", "-"], "none\nnothing\n"), (Some(1), String::new()));
    assert_eq!(query(&[socket, "test", "-"], ""), (Some(1), String::new()));
    assert_eq!(query(&["--mode", "dovecot", socket, "test", "-"], keys).0, Some(0));
    // Faults are told, and end with a code of their own, whatever else was found.
    assert_eq!(query(&[socket, "none", "-"], keys), (Some(75), String::new()));
    assert_eq!(query(&["/nonexistent/s", "test", "-"], keys), (Some(75), String::new()));
    let many: String = (0..20_000).map(|at| format!("none{at}\n")).collect();
    assert_eq!(query(&[socket, "test", "-"], &(many + "example.org\n")).1, "example.org\texample.org\n");
}

#[test]
fn query_shows_the_keys_of_a_search() {
    let search = ["--option", "test:case=lower", "--option", "test:search=address,+,@"];
    let table = ["--name", "test", "--type", "file", "--param", "tests/data/test.json"];
    let podop = Podop::start(&[&table[..], &search].concat());
    let output = run(&["query", "-v", podop.socket().to_str().unwrap(), "test", "Alias+News@Example.org"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "alice@example.org,bob@example.net\n");
    let steps = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = steps.lines().map(|line| line.split(" (").next().unwrap()).collect();
    assert_eq!(lines, ["\"alias+news@example.org\": miss", "\"alias@example.org\": found"]);
}

#[test]
fn check_reports_tables_and_which_backends_are_reachable() {
    let table = ["--check", "--name", "t", "--type", "file", "--param", "tests/data/test.json"];
    let output = run(&[&table[..], &["--socket", "/nonexistent/s"]].concat());
    assert_eq!(output.status.code(), Some(73));
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(report.contains("socket /nonexistent/s cannot be created: parent directory does not exist\n"), "{report}");
    assert_eq!(run(&table).status.code(), Some(0), "tables can be checked alone");
    let args = ["--check", "--socket", "/s", "--name", "t", "--type", "url", "--param"];
    let check = |param: &str| {
        let output = run(&[&args[..], &[param]].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("app.sock");
    let _unix = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let path = socket.to_str().unwrap();
    let (code, report) = check(&format!("http://{address}/§ http+unix://{}/§", path.replace('/', "%2F")));
    for line in [
        "socket /s mode auto".to_owned(),
        "table t is usable".to_owned(),
        format!("backend {address} is reachable at {address}"),
        format!("backend unix:{path} is reachable at {path}"),
    ] {
        assert!(report.lines().any(|one| one == line), "{report}");
    }
    assert_eq!(code, Some(0));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], support::port::free()));
    let (code, report) = check(&format!("http://{address}/§"));
    assert_eq!(code, Some(69));
    assert!(report.contains(&format!("backend {address} is not reachable: it refused the connection")), "{report}");
    let (code, report) = check("http://no-such-host.invalid/§");
    assert_eq!(code, Some(68));
    assert!(report.contains("backend no-such-host.invalid has no address"), "{report}");
}

#[test]
fn check_with_a_key_shows_what_each_backend_answers() {
    let one = Backend::start(|request| response(404, &format!("\"{}\"", request.target)));
    let two = Backend::start(|_| response(500, "null"));
    let urls = [one.url("/a/§"), two.url("/a/§")].join(" ");
    let file = ["--name", "f", "--type", "file", "--param", "tests/data/test.json"];
    let table = ["--name", "a", "--type", "url", "--param", &urls];
    let check = |check: &str, key: Option<&str>| {
        let output = run(&[&[check], &file[..], &table].concat());
        let report = String::from_utf8(output.stdout).unwrap();
        let asked: Vec<String> = one.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(asked.last().map(String::as_str), key);
        let lines = report.lines().filter(|line| line.starts_with("lookup ")).map(str::to_owned).collect::<Vec<_>>();
        (output.status.code(), lines)
    };
    assert_eq!(check("--check", None), (Some(0), vec![]), "without a key nothing is asked for");
    let (one, two) = (one.label(), two.label());
    let lines = [
        format!("lookup a backend {one} answered 404: no such key"),
        format!("lookup a backend {two} failed: a: {two} answered 500"),
        "lookup f a value".to_owned(),
    ];
    assert_eq!(check("--check=example.org", Some("/a/example.org")), (Some(69), lines.to_vec()));
    assert_eq!(run(&["--check=", "--name", "a"]).status.code(), Some(64));
}
