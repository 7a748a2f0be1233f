//! Real Postfix with the real program: postmap, and whole SMTP sessions.

use crate::support;

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::http::{Backend, Request, Script, Then, raw, response};
use support::podop::Podop;
use support::postfix::{self, Postfix, Smtp, postmap, postmap_stdin};
use support::roots::Release;

on_each_release! {
    "needs Debian's postfix; tests/run installs it, and builds trixie":
    postmap_distinguishes_value_miss_and_fault
    odd_keys_reach_the_backend_as_they_are
    values_that_postfix_would_cut_are_faults
    two_thousand_keys_on_one_connection_get_their_own_values
    mail_is_accepted_rejected_and_deferred_as_the_backend_says
    a_backend_that_hangs_defers_mail
    thirty_sessions_at_once_are_served
    transports_come_from_the_backend
    a_fault_in_any_map_defers_mail
    restarts_and_crashes_of_podop_under_load_cost_no_mail
    restarts_of_the_backend_under_load_cost_no_mail
    the_chroot_trap_has_two_ways_out
}

const TABLES: [&str; 4] = ["alias", "domain", "mailbox", "transport"];

fn postmap_distinguishes_value_miss_and_fault(release: Release) {
    let backend = Backend::start(|request| match request.target.as_str() {
        "/alias/a%40x.test" => response(200, "[\"b@x.test\", \"c@x.test\"]"),
        "/alias/down%40x.test" => response(500, "no"),
        "/alias/html%40x.test" => response(200, "<html>"),
        _ => response(404, "null"),
    });
    let podop = start(&backend, &[]);
    assert_eq!(
        outcome(&postmap(release, &map(&podop), "a@x.test")),
        (Some(0), "b@x.test,c@x.test\n".into(), "".into())
    );
    assert_eq!(outcome(&postmap(release, &map(&podop), "none@x.test")), (Some(1), "".into(), "".into()));
    for (key, cause) in [("down@x.test", "answered 500"), ("html@x.test", "answered 200 without JSON")] {
        let (code, stdout, stderr) = outcome(&postmap(release, &map(&podop), key));
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        let reason = format!("socketmap server temporary error: alias: {} {cause}\n", backend.address());
        assert!(stderr.contains(&reason), "{stderr}");
    }
    let (address, url) = (backend.address(), map(&podop));
    drop(backend);
    let (_, _, stderr) = outcome(&postmap(release, &url, "a@x.test"));
    assert!(stderr.contains(&format!("alias: {address} refused the connection")), "{stderr}");
}

fn odd_keys_reach_the_backend_as_they_are(release: Release) {
    let backend = Backend::start(|request| {
        let target = request.target.trim_start_matches("/alias/");
        response(200, &format!("\"seen {target}\""))
    });
    let podop = start(&backend, &[]);
    let long = "k".repeat(9_000);
    for (key, target) in [
        ("\"a@b\"@example.org", "%22a%40b%22%40example.org"),
        ("user@[192.0.2.1]", "user%40%5B192.0.2.1%5D"),
        ("*", "%2A"),
        ("a b  c", "a%20b%20%20c"),
        ("q\"uo'te\\", "q%22uo%27te%5C"),
        ("jörg@exämple.test", "j%C3%B6rg%40ex%C3%A4mple.test"),
        ("MixedCase@X.test", "MixedCase%40X.test"),
        (long.as_str(), long.as_str()),
    ] {
        let got = outcome(&postmap(release, &map(&podop), key));
        assert_eq!(got, (Some(0), format!("seen {target}\n"), "".into()), "{key}");
    }
    for key in ["../x", "", "/x"] {
        assert_eq!(outcome(&postmap(release, &map(&podop), key)), (Some(1), "".into(), "".into()), "{key}");
    }
}

fn values_that_postfix_would_cut_are_faults(release: Release) {
    let backend = Backend::start(|request| match request.target.trim_start_matches("/alias/") {
        "max" => response(200, &format!("\"{}\"", "x".repeat(99_997))),
        "over" => response(200, &format!("\"{}\"", "x".repeat(99_998))),
        "nul" => response(200, "\"a\\u0000b\""),
        "line" => response(200, "\"a\\nb\""),
        _ => response(404, "null"),
    });
    let podop = start(&backend, &[]);
    assert_eq!(outcome(&postmap(release, &map(&podop), "max")).1.len(), 99_998);
    assert_eq!(outcome(&postmap(release, &map(&podop), "line")).1, "a\nb\n");
    let (_, stdout, stderr) = outcome(&postmap(release, &map(&podop), "over"));
    assert!(stdout.is_empty() && stderr.contains("alias: the value is longer than Postfix takes"), "{stderr}");
    let (_, stdout, stderr) = outcome(&postmap(release, &map(&podop), "nul"));
    assert!(stdout.is_empty() && stderr.contains("alias: the value has a NUL"), "{stderr}");
}

fn two_thousand_keys_on_one_connection_get_their_own_values(release: Release) {
    let backend = Backend::start(|request| {
        let key = request.target.trim_start_matches("/alias/");
        if key.ends_with('7') { response(404, "null") } else { response(200, &format!("\"v-{key}\"")) }
    });
    let podop = start(&backend, &[]);
    let keys: String = (0..2_000).map(|at| format!("key{at}\n")).collect();
    let (code, stdout, stderr) = outcome(&postmap_stdin(release, &map(&podop), keys.as_bytes()));
    let expected: String = (0..2_000).filter(|at| at % 10 != 7).map(|at| format!("key{at}\tv-key{at}\n")).collect();
    assert_eq!((code, stdout, stderr), (Some(0), expected, "".into()));
}

fn mail_is_accepted_rejected_and_deferred_as_the_backend_says(release: Release) {
    let Some((backend, podop, postfix)) = rig(release, &[]) else { return };
    let mut smtp = postfix.smtp();
    assert_starts(&smtp.rcpt("user1@example.test"), "250 2.1.5");
    assert_starts(&smtp.rcpt("nobody@example.test"), "550 5.1.1");
    assert_starts(&smtp.rcpt("user1@elsewhere.test"), "554 5.7.1");
    assert_starts(&smtp.send("s@client.test", "team@example.test", "body"), "250 2.0.0");
    wait_for(|| postfix.delivered() == 2, &postfix);
    let log = postfix.log();
    assert!(log.contains("to=<user1@example.test>, orig_to=<team@example.test>"), "{log}");
    assert!(log.contains("to=<user2@example.test>, orig_to=<team@example.test>"), "{log}");

    // The backend answers 500 for some keys.
    assert_starts(&smtp.rcpt("broken@example.test"), "451 4.3.0");
    let reason = format!("mailbox: {} answered 500", backend.address());
    postfix.wait_for_log(&reason);
    // It is gone altogether, and comes back. trivial-rewrite's answers of before are still known to smtpd,
    // so each step has recipients of its own.
    let address = backend.address();
    drop(backend);
    assert_starts(&smtp.rcpt("user3@example.test"), "451 4.3.0");
    postfix.wait_for_log(&format!("temporary error: alias: {address} "));
    let _backend = Backend::start_at(address, mail);
    assert_starts(&smtp.rcpt("user4@example.test"), "250 2.1.5");
    assert_starts(&smtp.rcpt("nobody4@example.test"), "550 5.1.1");
    drop(podop);
    assert_starts(&smtp.rcpt("user5@example.test"), "451 4.3.0");
}

fn a_backend_that_hangs_defers_mail(release: Release) {
    if !is_root() {
        return;
    }
    let backend = Backend::start(|request| match request.target.contains("slow") {
        true => raw(vec![], Then::Hang),
        false => mail(request),
    });
    let podop = start(&backend, &["--timeout", "0.5"]);
    let postfix = Postfix::start(release, podop.socket(), &[]);
    let start = Instant::now();
    assert_starts(&postfix.smtp().rcpt("slow@example.test"), "451 4.3.0");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let line = postfix.wait_for_log("socketmap server timeout error");
    assert!(line.contains("did not answer in time"), "{line}");
    assert_starts(&postfix.smtp().rcpt("user1@example.test"), "250 2.1.5");
}

fn thirty_sessions_at_once_are_served(release: Release) {
    let Some((_backend, _podop, postfix)) = rig(release, &[]) else { return };
    let threads: Vec<_> = (0..30)
        .map(|at| {
            let mut smtp = postfix.smtp();
            std::thread::spawn(move || {
                assert_starts(&smtp.rcpt(&format!("user{at}@example.test")), "250 2.1.5");
                assert_starts(&smtp.rcpt(&format!("nobody{at}@example.test")), "550 5.1.1");
                assert_starts(&smtp.send("s@client.test", &format!("user{at}@example.test"), "body"), "250 2.0.0");
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a session that went well"));
    wait_for(|| postfix.delivered() == 30, &postfix);
}

fn transports_come_from_the_backend(release: Release) {
    if !is_root() {
        return;
    }
    let backend = Backend::start(|request| match request.target.as_str() {
        "/transport/user-away%40example.test" => response(200, "\"error:5.1.6 moved away\""),
        "/transport/user-relayed%40example.test" => response(200, "\"relay:[192.0.2.9]\""),
        _ => mail(request),
    });
    let podop = start(&backend, &[]);
    let postfix = Postfix::start(release, podop.socket(), &[]);
    let mut smtp = postfix.smtp();
    let away = smtp.rcpt("user-away@example.test");
    assert!(away.starts_with("550 5.1.6") && away.ends_with("moved away"), "{away}");
    assert_starts(&smtp.send("s@client.test", "user-relayed@example.test", "body"), "250 2.0.0");
    let line = postfix.wait_for_log("to=<user-relayed@example.test>");
    assert!(line.ends_with("status=sent ([192.0.2.9])"), "{line}");
}

fn a_fault_in_any_map_defers_mail(release: Release) {
    if !is_root() {
        return;
    }
    let late = AtomicUsize::new(0);
    let backend = Backend::start(move |request| match request.target.as_str() {
        "/transport/user-broken%40example.test" | "/domain/broken.test" => response(500, "broken"),
        "/alias/user-late%40example.test" if late.fetch_add(1, Ordering::SeqCst) == 1 => response(500, "broken"),
        _ => mail(request),
    });
    let podop = start(&backend, &[]);
    let postfix = Postfix::start(release, podop.socket(), &[]);
    let mut smtp = postfix.smtp();
    for (to, table) in [("user-broken@example.test", "transport"), ("user@broken.test", "domain")] {
        assert_starts(&smtp.rcpt(to), "451 4.3.0");
        postfix.wait_for_log(&format!("temporary error: {table}: {} answered 500", backend.address()));
    }
    // The second to ask for an alias is cleanup, after the recipient was accepted.
    assert_starts(&smtp.send("early@client.test", "user-late@example.test", "body"), "451 4.3.0");
    assert_starts(&smtp.send("late@client.test", "user-late@example.test", "body"), "250 2.0.0");
    wait_for(|| postfix.delivered() == 1, &postfix);
}

fn restarts_and_crashes_of_podop_under_load_cost_no_mail(release: Release) {
    let Some((_backend, mut podop, postfix)) = rig(release, &[]) else { return };
    let load = Load::start(&postfix);
    for round in 0..6 {
        load.more(10);
        load.outage(|| {
            if round % 2 == 1 {
                podop.signal(libc::SIGKILL);
                podop.wait();
            }
            podop.restart();
        });
    }
    load.more(10);
    load.finish();
}

fn restarts_of_the_backend_under_load_cost_no_mail(release: Release) {
    let Some((backend, podop, postfix)) = rig(release, &[]) else { return };
    let load = Load::start(&postfix);
    let (address, mut backend) = (backend.address(), Some(backend));
    for round in 0..6 {
        load.more(10);
        load.outage(|| {
            drop(backend.take());
            if round % 2 == 1 {
                load.wait_until_deferred();
            }
            backend = Some(Backend::start_at(address, mail));
            wait_for(|| podop.lookup("mailbox", "user@example.test") == "OK user@example.test", &postfix);
        });
    }
    load.more(10);
    load.finish();
}

fn the_chroot_trap_has_two_ways_out(release: Release) {
    if !is_root() {
        return;
    }
    let backend = Backend::start(mail);
    // The trap.
    let podop = start(&backend, &[]);
    let postfix = Postfix::start_chrooted(release, podop.socket(), &[]);
    assert_starts(&postfix.smtp().rcpt("user1@example.test"), "451 4.3.0");
    let line = postfix.wait_for_log("No such file or directory");
    assert!(line.contains(&format!("connect to {}", podop.socket().display())), "{line}");
    drop(postfix);
    // Let proxymap ask.
    let proxied = format!("proxy:socketmap:unix:{}", podop.socket().display());
    let postfix = Postfix::start_chrooted(release, podop.socket(), &[("podop", &proxied)]);
    assert_starts(&postfix.smtp().rcpt("user1@example.test"), "250 2.1.5");
    assert_starts(&postfix.smtp().rcpt("nobody@example.test"), "550 5.1.1");
    drop(postfix);
    // Put the socket into the jail.
    let postfix = Postfix::start_chrooted(release, "run/podop.sock".as_ref(), &[]);
    let folder = postfix.queue_directory().join("run");
    fs::create_dir_all(&folder).expect("a folder in the jail");
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("rights of the folder");
    let _podop = Podop::start_on(&folder.join("podop.sock"), &tables(&backend));
    assert_starts(&postfix.smtp().rcpt("user1@example.test"), "250 2.1.5");
    assert_starts(&postfix.smtp().rcpt("nobody@example.test"), "550 5.1.1");
}

/// Four sessions that send one mail after the other, each to a recipient of its own.
struct Load<'a> {
    postfix: &'a Postfix,
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Counts the beginnings and ends of outages, so it is odd during one.
    outages: AtomicUsize,
    accepted: Mutex<Vec<String>>,
    deferred: AtomicUsize,
}

impl<'a> Load<'a> {
    fn start(postfix: &'a Postfix) -> Load<'a> {
        let shared = Arc::<Shared>::default();
        let threads = (0..4).map(|thread| {
            let (mut smtp, shared) = (postfix.smtp(), shared.clone());
            std::thread::spawn(move || {
                let numbers = (0..).take_while(|_| !shared.stop.load(Ordering::SeqCst));
                numbers.for_each(|at| shared.send(&mut smtp, &format!("{thread}x{at}")));
            })
        });
        Load { postfix, threads: threads.collect(), shared }
    }

    /// Waits until this many more mails were accepted.
    fn more(&self, count: usize) {
        let accepted = || self.shared.accepted.lock().expect("no panic").len();
        let before = accepted();
        self.wait_for(|| accepted() >= before + count);
    }

    fn wait_until_deferred(&self) {
        let before = self.shared.deferred.load(Ordering::SeqCst);
        self.wait_for(|| self.shared.deferred.load(Ordering::SeqCst) > before);
    }

    /// Something is away, and back when `restart` returns.
    fn outage(&self, restart: impl FnOnce()) {
        self.shared.outages.fetch_add(1, Ordering::SeqCst);
        restart();
        self.shared.outages.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends the sessions, and waits until all that was accepted is delivered.
    fn finish(self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a session that went well"));
        let accepted = self.shared.accepted.lock().expect("no panic");
        wait_for(
            || {
                let log = self.postfix.log();
                assert!(!log.contains("status=bounced"), "{log}");
                let sent = log.lines().filter(|line| line.contains(" status=sent "));
                let sent: HashSet<&str> = sent.filter_map(|line| line.split(['<', '>']).nth(1)).collect();
                accepted.iter().all(|to| sent.contains(to.as_str()))
            },
            self.postfix,
        );
    }

    fn wait_for(&self, done: impl Fn() -> bool) {
        let ended = || self.threads.iter().any(|thread| thread.is_finished());
        wait_for(|| done() || ended(), self.postfix);
        assert!(!ended(), "a session has failed:\n{}", self.postfix.log());
    }
}

impl Shared {
    /// A mail is never refused, and deferred only if something was away meanwhile.
    fn send(&self, smtp: &mut Smtp, name: &str) {
        let before = self.outages.load(Ordering::SeqCst);
        let to = format!("user{name}@example.test");
        let reply = smtp.send(&format!("s{name}@client.test"), &to, "body");
        if reply.starts_with("250 ") {
            self.accepted.lock().expect("no panic").push(to);
            return;
        }
        assert!(reply.starts_with('4'), "mail was refused: {reply}");
        let quiet = before.is_multiple_of(2) && before == self.outages.load(Ordering::SeqCst);
        assert!(!quiet, "mail was deferred though nothing was away: {reply}");
        self.deferred.fetch_add(1, Ordering::SeqCst);
    }
}

/// Users `user…` of `example.test`, a team of two, and a mailbox that is broken.
fn mail(request: &Request) -> Script {
    let key = request.target.trim_start_matches('/').replace("%40", "@");
    match key.split_once('/') {
        Some(("domain", "example.test")) => response(200, "\"example.test\""),
        Some(("alias", "team@example.test")) => response(200, "[\"user1@example.test\", \"user2@example.test\"]"),
        Some(("mailbox", "broken@example.test")) => response(500, "broken"),
        Some(("mailbox", key)) if key.starts_with("user") => response(200, &format!("\"{key}\"")),
        _ => response(404, "null"),
    }
}

/// Backend, Podop and Postfix; `None` where that is not possible.
fn rig(release: Release, args: &[&str]) -> Option<(Backend, Podop, Postfix)> {
    is_root().then(|| {
        let backend = Backend::start(mail);
        let podop = start(&backend, args);
        let postfix = Postfix::start(release, podop.socket(), &[]);
        (backend, podop, postfix)
    })
}

fn is_root() -> bool {
    if !postfix::is_root() {
        println!("skipped: the Postfix master needs root");
    }
    postfix::is_root()
}

fn start(backend: &Backend, args: &[&str]) -> Podop {
    let mut all = tables(backend);
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    Podop::start(&all)
}

fn tables(backend: &Backend) -> Vec<String> {
    let table = |name: &str| {
        let url = backend.url(&format!("/{name}/§"));
        ["--name", name, "--type", "url", "--param", &url].map(str::to_owned)
    };
    TABLES.iter().flat_map(|name| table(name)).collect()
}

fn map(podop: &Podop) -> String {
    format!("socketmap:unix:{}:alias", podop.socket().display())
}

fn outcome(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn assert_starts(reply: &str, start: &str) {
    assert!(reply.starts_with(start), "wanted {start}, got {reply}");
}

fn wait_for(done: impl Fn() -> bool, postfix: &Postfix) {
    let until = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < until, "it does not happen:\n{}", postfix.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}
