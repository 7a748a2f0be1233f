//! The README and the manual: their samples are files, which are run; their links lead somewhere.

use crate::support;

use podop::manual::CHAPTERS;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::http::{Backend, response};
use support::manual::{FOLDERS, sample};
use support::podop::{Podop, SOON};
use support::port;
use support::postfix::{self, Postfix};
use support::roots::Release;
#[cfg(feature = "tls")]
use support::server::Server;

#[test]
#[ignore = "needs python3; tests/run installs it"]
fn the_backend_of_the_manual_answers_postfix_and_dovecot() {
    let backend = Python::start(&sample("backend.py"));
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
fn the_backend_of_the_manual_is_short() {
    assert!(sample("backend.py").lines().count() <= 30);
}

on_each_release! {
    "needs Debian's postfix and python3; tests/run installs them, and builds trixie":
    postfix_works_with_the_configuration_of_the_manual
}

fn postfix_works_with_the_configuration_of_the_manual(release: Release) {
    if !postfix::is_root() {
        return println!("skipped: the Postfix master needs root");
    }
    let backend = Python::start(&sample("backend.py"));
    let podop = Podop::start(&tables(backend.port, &[]));
    let main_cf = sample("main.cf").replace("/run/podop/podop.sock", podop.socket().to_str().unwrap());
    let settings: Vec<(&str, &str)> = main_cf.lines().filter_map(|line| line.split_once(" = ")).collect();
    assert_eq!(settings.len(), 6, "{main_cf}");
    let postfix = Postfix::start(release, podop.socket(), &settings);
    let mut smtp = postfix.smtp();
    assert!(smtp.rcpt("alice@example.org").starts_with("250 "));
    assert!(smtp.rcpt("nobody@example.org").starts_with("550 5.1.1 "));
    assert!(smtp.rcpt("alice@example.net").starts_with("554 5.7.1 "));
    drop(backend);
    assert!(smtp.rcpt("bob@example.org").starts_with("451 4.3.0 "));
    // Not the first fault in the log: a lookup of cleanup may have been in flight when the backend was killed.
    let line = postfix.wait_for_log("refused the connection");
    assert!(line.contains("socketmap server temporary error"), "{line}");
}

#[test]
#[cfg(feature = "tls")]
#[ignore = "needs Debian's nginx-light and openssl; tests/run installs them"]
fn nginx_of_the_manual_admits_clients_with_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let here = |text: &str| text.replace("/etc/podop", dir.path().to_str().unwrap());
    let made = Command::new("sh").args(["-e", "-c", &here(&sample("certificates.sh"))]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let service = Backend::start(|request| match request.target.as_str() {
        "/alias/info%40example.org" => response(200, "[\"alice@example.org\"]"),
        _ => response(404, "null"),
    });
    let site = here(&sample("nginx.conf"));
    let site = site.replace("127.0.0.1:8080", &service.address().to_string());
    let nginx = Server::nginx_site(|port| site.replace("listen 8443", &format!("listen 127.0.0.1:{port}")));

    let command = here(&sample("tls.sh"));
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
fn every_flag_and_setting_is_in_the_chapter_on_options() {
    let text = chapter("options");
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
        "ca",
        "cert",
        "servername",
        "case",
        "search",
        "values",
        "expire",
        "trace",
        "fault",
        "mechanisms",
        "resolver",
        "primary",
        "processes",
    ] {
        assert!(text.contains(&format!("| `{setting}=")), "{setting}");
    }
    for code in ["64", "68", "69", "71", "73", "75", "77", "78"] {
        assert!(text.contains(code), "{code}");
    }
}

#[test]
fn signals_and_exit_codes_have_headings_of_their_own() {
    let section = |heading: &str| {
        let text = chapter("options").split(&format!("\n## {heading}\n")).nth(1).expect(heading);
        text.split("\n## ").next().unwrap()
    };
    for signal in ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"] {
        assert!(section("Signals").contains(signal), "{signal}");
    }
    for code in [0, 1, 64, 68, 69, 71, 73, 75, 77, 78] {
        assert!(section("Exit codes").contains(&format!("\n| {code} | ")), "{code}");
    }
}

/// Files of the packages that no reader types. Tests of the packages use them.
const INSTALLED_UNSEEN: [&str; 9] = [
    "build",
    "changelog",
    "dashboard.json",
    "podop.8",
    "podop.bash",
    "podop.sysusers",
    "podop.zsh",
    "postinst",
    "postrm",
];

#[test]
fn every_named_sample_is_the_file_of_that_name() {
    let mut shown = BTreeSet::new();
    for (page, text) in pages() {
        for (name, sample) in samples(&text) {
            let files: Vec<PathBuf> =
                FOLDERS.iter().map(|at| Path::new(at).join(&name)).filter(|at| at.exists()).collect();
            assert_eq!(files.len(), 1, "{page}: one file has the name {name}");
            assert!(std::fs::read_to_string(&files[0]).unwrap() == sample, "{page}: {} differs", files[0].display());
            if page != "README.md" {
                shown.insert(files[0].clone());
            }
        }
    }
    let listed = FOLDERS.iter().flat_map(|at| std::fs::read_dir(at).unwrap()).map(|entry| entry.unwrap().path());
    let is_shown = |path: &PathBuf| {
        path.is_file() && !INSTALLED_UNSEEN.iter().any(|name| *path == Path::new("src/package").join(name))
    };
    assert_eq!(listed.filter(is_shown).collect::<BTreeSet<_>>(), shown, "every file is shown in a chapter");
}

/// The flags in a text.
fn flags(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.filter(|word| word.starts_with("--") && word.len() > 2).map(str::to_owned).collect()
}

#[test]
fn man_page_and_completions_have_all_flags() {
    let help = flags(podop::config::HELP);
    assert!(help.contains("--socket"), "{help:?}");
    for name in ["podop.8", "podop.bash", "podop.zsh"] {
        let text = page(&format!("src/package/{name}")).replace("Fl -", "--").replace("enable --now", "");
        assert_eq!(flags(&text), help, "{name}");
    }
}

#[test]
fn every_fence_names_its_language() {
    for (page, text) in pages() {
        let fences: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("```")).collect();
        assert_eq!(fences.len() % 2, 0, "{page}");
        assert!(fences.chunks(2).all(|pair| !pair[0].is_empty() && pair[1].is_empty()), "{page}: {fences:?}");
    }
}

#[test]
fn every_chapter_is_listed_in_the_readme() {
    let mut listed: Vec<String> = Vec::new();
    for chapter in CHAPTERS {
        let row = format!("| [{0}](src/manual/{0}.md) | {1} |\n", chapter.name, chapter.summary);
        assert!(page("README.md").contains(&row), "{row}");
        listed.push(format!("{}.md", chapter.name));
    }
    let names = std::fs::read_dir("src/manual").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut chapters: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
    listed.sort();
    chapters.sort();
    assert_eq!(chapters, listed);
}

#[test]
fn the_readme_is_one_page() {
    assert!(page("README.md").lines().count() <= 200);
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    for (name, text) in pages() {
        for target in links(&prose(&text)) {
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = match path {
                "" => PathBuf::from(&name),
                path => Path::new(&name).parent().unwrap().join(path),
            };
            assert!(file.exists(), "{name}: {target}");
            assert!(anchor.is_empty() || anchors(&file).contains(anchor), "{name}: {target}");
        }
    }
}

/// The definitions at the end of a chapter lead to files; those for the crate's documentation lead to the same modules.
#[test]
fn every_reference_is_defined_for_both_readers() {
    let modules = page("src/manual/links.txt");
    let modules: BTreeMap<&str, &str> = modules.lines().filter_map(definition).collect();
    let mut used = BTreeSet::new();
    for chapter in CHAPTERS {
        let text = prose(chapter.text);
        let defined: BTreeMap<&str, &str> = text.lines().filter_map(definition).collect();
        let named: BTreeSet<&str> = text.split("][").skip(1).filter_map(|rest| Some(rest.split_once(']')?.0)).collect();
        assert_eq!(named, defined.keys().copied().collect(), "{}", chapter.name);
        for (label, target) in defined {
            let (name, anchor) = label.find('#').map_or((label, ""), |at| label.split_at(at));
            assert_eq!(target, format!("{name}.md{anchor}"), "{}", chapter.name);
            assert_eq!(modules.get(label), Some(&&*format!("crate::manual::{label}")), "{}", chapter.name);
            used.insert(label.to_owned());
        }
        let inline = text.split("](").skip(1).find(|rest| !rest.starts_with('#') && !rest.starts_with("https://"));
        assert_eq!(inline, None, "{}: a link that is no reference", chapter.name);
    }
    assert_eq!(used, modules.keys().map(|label| (*label).to_owned()).collect());
}

#[test]
#[ignore = "needs python3; tests/run installs it"]
fn the_argument_file_of_the_package_serves_the_tables_of_main_cf() {
    let backend = Python::start(&sample("backend.py"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tables");
    std::fs::write(
        &path,
        sample("podop.tables")
            .replace(":8080", &format!(":{}", backend.port))
            .replace(":9779", &format!(":{}", port::free())),
    )
    .unwrap();
    let podop = Podop::start(&[format!("@{}", path.display())]);
    let main_cf = sample("main.cf");
    let tables: Vec<&str> =
        main_cf.lines().filter_map(|line| line.split_once("${podop}:").map(|found| found.1)).collect();
    assert_eq!(tables, ["alias", "domain", "mailbox", "transport"]);
    for table in tables {
        assert_eq!(podop.lookup(table, "none"), "NOTFOUND ");
    }
    assert_eq!(podop.lookup("alias", "info@example.org"), "OK alice@example.org,bob@example.net");
}

#[test]
fn the_manifest_for_kubernetes_has_tables_and_probes_that_work() {
    let backend = Backend::start(|_| response(200, "\"value\""));
    let manifest = sample("kubernetes.yaml");
    let after = |start: &str| manifest.split(start).nth(1).unwrap();
    let tables: String = after("  tables: |\n")
        .lines()
        .take_while(|line| *line != "---")
        .map(|line| format!("{}\n", line.trim_start().replace("admin:8080", &backend.address().to_string())))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tables");
    std::fs::write(&path, tables).unwrap();
    let args: Vec<String> = serde_json::from_str(after("          args: ").lines().next().unwrap()).unwrap();
    let metrics = format!("127.0.0.1:{}", port::free());
    let args = args.iter().map(|arg| {
        arg.replace("@/etc/podop/tables", &format!("@{}", path.display())).replace("0.0.0.0:9779", &metrics)
    });
    let podop = Podop::start(&args.collect::<Vec<_>>());
    for table in ["alias", "domain", "mailbox", "transport"] {
        assert_eq!(podop.lookup(table, "key"), "OK value");
    }
    let probes: Vec<&str> = manifest.lines().filter_map(|line| line.trim().strip_prefix("path: ")).collect();
    assert_eq!(probes, ["/healthz", "/readyz"]);
    for probe in probes {
        let mut stream = TcpStream::connect(&metrics).unwrap();
        stream.write_all(format!("GET {probe} HTTP/1.1\r\nHost: podop\r\n\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert_eq!(line, "HTTP/1.1 200 OK\r\n", "{probe}");
    }
}

/// Every page that this file checks, by path.
fn pages() -> Vec<(String, String)> {
    let chapters = CHAPTERS.iter().map(|chapter| format!("src/manual/{}.md", chapter.name));
    let others = ["README.md", "benches/README.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md"];
    chapters.chain(others.map(str::to_owned)).map(|path| (path.clone(), page(&path))).collect()
}

fn page(path: &str) -> String {
    std::fs::read_to_string(path).expect(path)
}

fn chapter(name: &str) -> &'static str {
    CHAPTERS.iter().find(|chapter| chapter.name == name).expect(name).text
}

/// The fenced blocks that have a name, with their names.
fn samples(text: &str) -> Vec<(String, String)> {
    let blocks = text.split("\n```").skip(1).step_by(2);
    let named = blocks.filter_map(|block| {
        let (info, sample) = block.split_once('\n').expect("a fence has a line of its own");
        Some((info.split_once(' ')?.1.to_owned(), format!("{sample}\n")))
    });
    named.collect()
}

/// A text without its fenced blocks.
fn prose(text: &str) -> String {
    text.split("\n```").step_by(2).collect()
}

/// The targets of links, but for those to other sites.
fn links(prose: &str) -> Vec<String> {
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let defined = prose.lines().filter_map(definition).map(|(_, target)| target);
    inline.chain(defined).filter(|target| !target.contains("://")).map(str::to_owned).collect()
}

/// The label and the target of a link reference definition.
fn definition(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix('[')?.split_once("]: ")
}

/// The headings of a page, as GitHub and rustdoc name them in links.
fn anchors(file: &Path) -> BTreeSet<String> {
    let text = prose(&page(file.to_str().unwrap()));
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let name = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    headings.map(name).collect()
}

/// The tables of the manual's command line for Postfix, with a backend elsewhere, and more of the same kind.
fn tables(port: u16, more: &[&str]) -> Vec<String> {
    let text = sample("postfix.sh");
    let command = text.split("podop --socket /run/podop/podop.sock --socket-group postfix").nth(1).unwrap();
    let command = command.replace(":8080", &format!(":{port}"));
    let words = command.split_whitespace().filter(|word| *word != "\\").map(|word| word.trim_matches('\''));
    let mut args: Vec<String> = words.map(str::to_owned).collect();
    assert_eq!(args.len(), 26, "{command}");
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
