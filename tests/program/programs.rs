//! Program tables with processes that misbehave: the key chooses what a process does. Each case ends in the right reply,
//! and innocent keys are untouched.

use crate::support;

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use support::podop::{Podop, ask, reply, request, run, wait_until};
use tempfile::TempDir;

/// Answers `v-KEY`, or does what the key says.
const CHILD: &str = r#"
use strict; $| = 1; $SIG{TERM} = sub { exit 0 } unless $ENV{STUBBORN}; $SIG{TERM} = 'IGNORE' if $ENV{STUBBORN};
while (my $line = <STDIN>) {
    my ($id) = $line =~ /"id":(\d+)/;
    my ($key) = $line =~ /"(?:get|set|unset|increment|list)":"([^"]*)"/;
    my ($name) = $key =~ /^([a-z-]+)/;
    my $answer = $line =~ /"get"/ ? "\"value\":\"v-$key\"" : "\"done\":true";
    if ($name eq 'miss') { $answer = '"value":null' }
    elsif ($name eq 'error') { $answer = '"error":"no database"' }
    elsif ($name eq 'object') { $answer = '"value":{"a":1}' }
    elsif ($name eq 'nul') { $answer = '"value":"a\u0000b"' }
    elsif ($name eq 'garbage') { print "Traceback (most recent call last):\n"; next }
    elsif ($name eq 'wrong-id') { $id += 1 }
    elsif ($name eq 'old-id') { $id = 0 }
    elsif ($name eq 'twice') { print "{\"id\":$id,$answer}\n" }
    elsif ($name eq 'half') { print "{\"id\":$id,\"val"; next }
    elsif ($name eq 'endless') { while (print 'x' x 65536) {} exit 1 }
    elsif ($name eq 'silent') { sleep 1000 }
    elsif ($name eq 'deaf') { sleep 1000 while 1 }
    elsif ($name eq 'die') { exit 3 }
    elsif ($name eq 'die-after') { print "{\"id\":$id,$answer}\n"; exit 0 }
    elsif ($name eq 'die-within') { print "{\"id\":$id,\"val"; exit 3 }
    elsif ($name eq 'kill') { kill 'KILL', $$; sleep 10 }
    elsif ($name eq 'close-out') { close STDOUT; sleep 1000 }
    elsif ($name eq 'close-in') { close STDIN }
    elsif ($name eq 'orphan') { if (!fork) { sleep 30; exit } exit 3 }
    elsif ($name eq 'noise') { print STDERR "x" x 200_000, "\n" for 1..5 }
    elsif ($name eq 'environment') {
        my $own = join ',', grep { exists $ENV{$_} } qw(LISTEN_PID LISTEN_FDS NOTIFY_SOCKET WATCHDOG_USEC);
        my $open = join ',', map { m{/(\d+)$} && -e $_ ? $1 : () } glob "/proc/$$/fd/*";
        my ($blocked) = `cat /proc/$$/status` =~ /SigBlk:\s*(\w+)/;
        $answer = "\"value\":\"$ENV{PODOP_TABLE} $ENV{GIVEN} [$own] [$open] $blocked\"";
    }
    print "{\"id\":$id,$answer}\n";
}
sleep 1000 while $ENV{STUBBORN};
exit 0;
"#;

struct Rig {
    podop: Podop,
    _dir: TempDir,
}

/// A table `alias` of the child, and another one, `other`.
fn rig(settings: &[&str], timeout: &str) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("child.pl");
    fs::write(&path, CHILD).unwrap();
    let param = format!("env GIVEN=yes perl '{}'", path.display());
    let mut args: Vec<String> = vec!["--timeout".into(), timeout.into()];
    for name in ["alias", "other"] {
        args.extend(["--name", name, "--type", "program", "--param", &param].map(str::to_owned));
    }
    for setting in settings {
        args.extend(["--option".to_owned(), format!("alias:{setting}")]);
    }
    Rig { podop: Podop::start(&args), _dir: dir }
}

/// The processes whose parent is Podop.
fn children(podop: &Podop) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{0}/task/{0}/children", podop.pid())).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn assert_innocent(podop: &Podop) {
    for at in 0..8 {
        assert_eq!(podop.lookup("alias", &format!("k{at}")), format!("OK v-k{at}"));
        assert_eq!(podop.lookup("other", &format!("k{at}")), format!("OK v-k{at}"));
    }
}

#[test]
fn whatever_a_process_does_others_are_answered() {
    let rig = rig(&["processes=2"], "1.5");
    let podop = &rig.podop;
    let temp = |why: &str| format!("TEMP alias: program:alias {why}");
    for (key, expected) in [
        ("plain", "OK v-plain".to_owned()),
        ("miss", "NOTFOUND ".to_owned()),
        ("error", temp("reported an error: no database")),
        ("object", "TEMP alias: the value is an object: select= names a part of it".to_owned()),
        ("nul", "TEMP alias: the value has a NUL, where mail servers cut it".to_owned()),
        ("garbage", temp("sent a line that is no JSON object")),
        ("wrong-id", temp("answered a request that it does not have")),
        ("old-id", temp("answered a request that it does not have")),
        ("endless", temp("sent a line longer than 4 MiB")),
        ("die", temp("exited with status 3")),
        ("die-within", temp("exited with status 3")),
        ("kill", temp("was ended by signal 9")),
        ("orphan", temp("exited with status 3")),
        ("close-in", "OK v-close-in".to_owned()),
        ("die-after", "OK v-die-after".to_owned()),
        ("twice", "OK v-twice".to_owned()),
        ("noise", "OK v-noise".to_owned()),
        ("half", "TIMEOUT alias: program:alias did not answer in time".to_owned()),
        ("silent", "TIMEOUT alias: program:alias did not answer in time".to_owned()),
        ("close-out", temp("was ended by signal 15")),
    ] {
        let since = Instant::now();
        let got = podop.lookup("alias", key);
        assert!(since.elapsed() < Duration::from_secs(4), "{key} took {:?}", since.elapsed());
        assert!(got == expected || key == "close-out" && got.starts_with("TEMP alias: program:alias "), "{key}: {got}");
        assert_innocent(podop);
    }
    // No zombie, no orphan, and not one process more than there should be.
    wait_until(|| children(podop).len() == 2 + 4);
}

#[test]
fn innocent_lookups_beside_faults_are_untouched() {
    let rig = rig(&["processes=4"], "10");
    let faults = ["garbage", "die", "wrong-id", "kill", "endless"];
    let mut guilty: Vec<UnixStream> = faults.iter().map(|_| rig.podop.connect()).collect();
    let mut innocent: Vec<UnixStream> = (0..20).map(|_| rig.podop.connect()).collect();
    for round in 0..5 {
        for (stream, fault) in guilty.iter_mut().zip(faults) {
            stream.write_all(&request("alias", fault.as_bytes())).unwrap();
        }
        for (at, stream) in innocent.iter_mut().enumerate() {
            stream.write_all(&request("alias", format!("k{round}-{at}").as_bytes())).unwrap();
        }
        for (at, stream) in innocent.iter_mut().enumerate() {
            assert_eq!(String::from_utf8(reply(stream)).unwrap(), format!("OK v-k{round}-{at}"));
        }
        guilty.iter_mut().for_each(|stream| assert!(reply(stream).starts_with(b"TEMP ")));
    }
}

#[test]
fn ten_thousand_lookups_in_flight_are_answered() {
    let rig = rig(&["processes=4", "pipeline=100"], "20");
    let mut streams: Vec<UnixStream> = (0..11).map(|_| rig.podop.connect()).collect();
    for (at, stream) in streams.iter_mut().enumerate() {
        let all: Vec<u8> = (0..900).flat_map(|step| request("alias", format!("k{at}-{step}").as_bytes())).collect();
        stream.write_all(&all).unwrap();
    }
    for (at, stream) in streams.iter_mut().enumerate() {
        for step in 0..900 {
            assert_eq!(String::from_utf8(reply(stream)).unwrap(), format!("OK v-k{at}-{step}"));
        }
    }
}

#[test]
fn a_process_has_a_clean_environment() {
    let rig = rig(&[], "5");
    assert_eq!(rig.podop.lookup("alias", "environment"), "OK alias yes [] [0,1,2] 0000000000000000");
}

#[test]
fn processes_end_with_podop() {
    let mut rig = rig(&["processes=3"], "5");
    assert_innocent(&rig.podop);
    let pids = children(&rig.podop);
    assert_eq!(pids.len(), 7);
    rig.podop.signal(libc::SIGTERM);
    assert!(rig.podop.wait().success());
    pids.iter().for_each(|pid| assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "{pid}"));
}

#[test]
fn processes_do_not_survive_a_podop_that_is_killed() {
    let mut rig = rig(&["processes=3"], "5");
    assert_innocent(&rig.podop);
    let pids = children(&rig.podop);
    rig.podop.signal(libc::SIGKILL);
    rig.podop.wait();
    wait_until(|| pids.iter().all(|pid| !fs::exists(format!("/proc/{pid}/exe")).unwrap_or(false)));
}

#[test]
fn a_process_that_ignores_sigterm_is_killed_after_the_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("child.pl");
    fs::write(&path, CHILD).unwrap();
    let param = format!("env STUBBORN=1 perl {}", path.display());
    let args = ["--name", "alias", "--type", "program", "--param", &param, "--timeout", "1"];
    let mut podop = Podop::start(&args);
    assert_eq!(podop.lookup("alias", "k"), "OK v-k");
    // One that hangs is killed 2 s after its deadline.
    let before = children(&podop);
    assert!(podop.lookup("alias", "deaf").starts_with("TIMEOUT"));
    wait_until(|| before.iter().filter(|pid| fs::exists(format!("/proc/{pid}")).unwrap()).count() == 3);
    let pids = children(&podop);
    let since = Instant::now();
    podop.signal(libc::SIGTERM);
    assert!(podop.wait().success());
    let took = since.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&took), "{took:?}");
    pids.iter().for_each(|pid| assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "{pid}"));
}

#[test]
fn a_program_that_always_ends_is_started_seldom() {
    let args = ["--name", "alias", "--type", "program", "--param", "false", "-v"];
    let podop = Podop::start(&[&args[..], &["--metrics", "inet:127.0.0.1:0"]].concat());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(podop.lookup("alias", "k"), "TEMP alias: program:alias is marked down: exited with status 1");
    podop.signal(libc::SIGUSR1);
    let started = || {
        let log = podop.log();
        let line =
            log.lines().rfind(|line| line.contains("podop_connections_opened_total{backend=\"program:alias\"}"))?;
        line.rsplit(' ').next()?.parse::<u32>().ok()
    };
    wait_until(|| started().is_some());
    assert!((8..=24).contains(&started().unwrap()), "{:?}", started());
}

#[test]
fn reload_replaces_processes_under_load() {
    let rig = rig(&["processes=2", "pipeline=4"], "5");
    let mut stream = rig.podop.connect();
    let before = children(&rig.podop);
    for at in 0..300 {
        if at % 30 == 0 {
            rig.podop.signal(libc::SIGHUP);
        }
        assert_eq!(ask(&mut stream, "alias", format!("k{at}").as_bytes()), format!("OK v-k{at}").into_bytes());
    }
    wait_until(|| children(&rig.podop).len() == 6 && children(&rig.podop).iter().all(|pid| !before.contains(pid)));
}

#[test]
fn check_starts_a_program_for_a_key_and_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("child.pl");
    fs::write(&path, CHILD).unwrap();
    let param = format!("perl {}", path.display());
    let check = |key: &str| {
        let output = run(&[key, "--name", "alias", "--type", "program", "--param", &param]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let report = |state: &str| format!("table alias is usable\nlookup alias backend program:alias {state}\n");
    assert_eq!(check("--check=k"), (Some(0), report("a value")));
    assert_eq!(
        check("--check=error"),
        (Some(69), report("failed: alias: program:alias reported an error: no database"))
    );
    assert_eq!(check("--check"), (Some(0), "table alias is usable\n".to_owned()));
}
