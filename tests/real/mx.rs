//! The table type mx with dnsmasq, unbound and Postfix.

use crate::support;

use std::fs;
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::dns;
use support::manual::sample;
use support::podop::{Podop, run, wait_until};
use support::port;
use support::postfix::{self, Postfix};
use support::roots::Release;
use tempfile::TempDir;

/// A name server, which is ended when this is dropped.
struct NameServer {
    child: Child,
    port: u16,
    _dir: Option<TempDir>,
}

impl NameServer {
    fn dnsmasq() -> Self {
        Self::start(|port| {
            let mut command = Command::new("/usr/sbin/dnsmasq");
            command.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"]);
            command.args(["--listen-address=127.0.0.1", "--user=", &format!("--port={port}"), "--local=/test/"]);
            command.args(["--mx-host=here.test,mx.example.net,10", "--mx-host=elsewhere.test,mx.other.test,10"]);
            command.args(["--mx-host=several.test,mx.other.test,10", "--mx-host=several.test,MX.Example.Net,20"]);
            command.args(["--host-record=nodata.test,192.0.2.1", "--local-ttl=300"]);
            (command, None)
        })
    }

    fn unbound() -> Self {
        Self::start(|port| {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
            let many: String = (0..100).map(|at| format!("@ 60 IN MX {} mx{at}.big.test.\n", at + 1)).collect();
            let soa = "@ 60 IN SOA ns.test. root.test. 1 60 60 60 30\n@ 60 IN NS ns.test.\n";
            let signature = "MX 13 2 60 20400101000000 20200101000000 1 signed.test. AAAA";
            let zones = [
                (
                    "here.test",
                    "@ 60 IN MX 10 mx.example.net.\nalias 60 IN CNAME here.test.\nnodata 60 IN A 192.0.2.1\n"
                        .to_owned(),
                ),
                ("elsewhere.test", "@ 60 IN MX 10 mx.other.test.\n".to_owned()),
                ("several.test", "@ 60 IN MX 10 mx.other.test.\n@ 60 IN MX 20 MX.Example.Net.\n".to_owned()),
                ("null.test", "@ 60 IN MX 0 .\n".to_owned()),
                ("zero.test", "@ 0 IN MX 10 mx.example.net.\n".to_owned()),
                ("big.test", format!("{many}@ 60 IN MX 200 mx.example.net.\n")),
                ("signed.test", format!("@ 60 IN MX 10 mx.example.net.\n@ 60 IN RRSIG {signature}\n")),
                (
                    "primary.test",
                    "@ 60 IN MX 10 p.primary.test.\n@ 60 IN MX 20 mx.example.net.\np 60 IN A 198.51.100.7\n".to_owned(),
                ),
            ];
            let mut config = format!(
                "server:\n interface: 127.0.0.1@{port}\n port: {port}\n do-daemonize: no\n chroot: \"\"\n username: \"\"\n \
                 pidfile: \"\"\n use-syslog: no\n module-config: \"iterator\"\n directory: \"{}\"\n \
                 local-zone: \"test.\" nodefault\n local-zone: \"refused.test.\" always_refuse\n \
                 local-zone: \"example.org.\" always_refuse\nremote-control:\n control-enable: no\n",
                dir.path().display()
            );
            for (name, records) in &zones {
                fs::write(path(name), format!("$ORIGIN {name}.\n{soa}{records}")).unwrap();
                config += &zone(name, &format!("zonefile: \"{}\"", path(name)));
            }
            // One that cannot be fetched.
            config += &zone("fail.test", "primary: 127.0.0.1@9");
            fs::write(path("unbound.conf"), config).unwrap();
            let mut command = Command::new("/usr/sbin/unbound");
            command.args(["-d", "-c", &path("unbound.conf")]);
            (command, Some(dir))
        })
    }

    fn start(command: impl Fn(u16) -> (Command, Option<TempDir>)) -> Self {
        for _ in 0..5 {
            let port = port::free();
            let (mut command, dir) = command(port);
            let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut server = Self { child: command.spawn().expect("a name server"), port, _dir: dir };
            let mut ended = false;
            wait_until(|| {
                ended = server.child.try_wait().is_ok_and(|ended| ended.is_some());
                ended || answers(port)
            });
            // It needs the port for UDP and for TCP, and ends if another test has taken either meanwhile.
            if !ended {
                return server;
            }
        }
        panic!("a name server that starts");
    }
}

fn zone(name: &str, source: &str) -> String {
    format!(
        "auth-zone:\n name: \"{name}.\"\n {source}\n for-downstream: yes\n for-upstream: no\n \
         fallback-enabled: no\n"
    )
}

impl Drop for NameServer {
    fn drop(&mut self) {
        support::podop::signal(&self.child, libc::SIGTERM);
        let _ = self.child.wait();
    }
}

/// True if a name server answers there: a question for the MX records of `here.test` (RFC 1035, 4.1).
fn answers(port: u16) -> bool {
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04here\x04test\x00\x00\x0f\x00\x01";
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = [0; 512];
    let sent = socket.connect(("127.0.0.1", port)).and_then(|()| socket.send(query));
    sent.and_then(|_| socket.recv(&mut answer)).is_ok_and(|count| count > query.len() && answer[..2] == query[..2])
}

/// A Podop with a table `relay` that asks these ports.
fn podop(ports: &[u16], more: &[&str]) -> Podop {
    let resolver = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let resolver = format!("relay:resolver={resolver}");
    let table = ["--name", "relay", "--type", "mx", "--param", "mx.example.net", "--option", &resolver];
    Podop::start(&[&table[..], more].concat())
}

#[test]
#[ignore = "needs Debian's dnsmasq-base; tests/run installs it"]
fn dnsmasq_says_which_domains_have_their_mx_here() {
    let server = NameServer::dnsmasq();
    let podop = podop(&[server.port], &[]);
    assert_eq!(podop.lookup("relay", "here.test"), "OK here.test");
    assert_eq!(podop.lookup("relay", "several.test"), "OK several.test");
    for miss in ["elsewhere.test", "nodata.test", "none.test", "[192.0.2.1]", "a..b", "x@here.test"] {
        assert_eq!(podop.lookup("relay", miss), "NOTFOUND ", "{miss}");
    }
    let port = server.port;
    drop(server);
    assert_eq!(podop.lookup("relay", "here.test"), "OK here.test", "it is cached");
    let reply = podop.lookup("relay", "new.test");
    assert_eq!(reply, format!("TEMP relay: dns:127.0.0.1:{port} refused the connection"), "a fault is no miss");
}

#[test]
#[ignore = "needs Debian's unbound; tests/run installs it"]
fn unbound_says_which_domains_have_their_mx_here() {
    let server = NameServer::unbound();
    let relay = podop(&[server.port], &[]);
    for found in [
        "here.test",
        "HERE.Test",
        "several.test",
        "alias.here.test",
        "zero.test",
        "big.test",
        "signed.test",
        "primary.test",
    ] {
        assert_eq!(relay.lookup("relay", found), format!("OK {found}"));
    }
    for miss in ["elsewhere.test", "null.test", "nodata.here.test", "none.here.test"] {
        assert_eq!(relay.lookup("relay", miss), "NOTFOUND ", "{miss}");
    }
    let failed = |why: &str| format!("TEMP relay: dns:127.0.0.1:{} answered {why}", server.port);
    assert_eq!(relay.lookup("relay", "fail.test"), failed("SERVFAIL"));
    assert_eq!(relay.lookup("relay", "refused.test"), failed("REFUSED"));
    for (net, reply) in [("198.51.100.0/24", "OK primary.test"), ("192.0.2.0/24", "NOTFOUND ")] {
        let podop = podop(&[server.port], &["--option", &format!("relay:primary={net}")]);
        assert_eq!(podop.lookup("relay", "primary.test"), reply);
    }
    let resolver = format!("relay:resolver=127.0.0.1:{}", server.port);
    let check = |key: &str| {
        let args =
            ["--check", key, "--name", "relay", "--type", "mx", "--param", "mx.example.net", "--option", &resolver];
        let output = run(&args.iter().filter(|arg| !arg.is_empty()).collect::<Vec<_>>());
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, report) = check("");
    let refused = format!("failed: relay: dns:127.0.0.1:{} answered", server.port);
    assert!(report.contains(&refused) && code == Some(69), "a server that is not for example.org: {report}");
    let (code, report) = check("--check=here.test");
    assert_eq!(report, format!("table relay is usable\nlookup relay backend dns:127.0.0.1:{} a value\n", server.port));
    assert_eq!(code, Some(0));
}

#[test]
#[ignore = "needs Debian's unbound; tests/run installs it"]
fn one_dead_server_of_two_fails_no_lookup() {
    let server = NameServer::unbound();
    // It takes questions, and answers none.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let refuses = port::free();
    for dead in [silent.local_addr().unwrap().port(), refuses] {
        let podop = podop(&[dead, server.port], &[]);
        let mut took: Vec<Duration> = (0..1_000)
            .map(|at| {
                let since = Instant::now();
                assert_eq!(podop.lookup("relay", &format!("d{at}.here.test")), "NOTFOUND ");
                since.elapsed()
            })
            .collect();
        took.sort();
        println!("p50 {:?}, p99 {:?}, longest {:?}", took[500], took[990], took[999]);
        assert!(took[990] < Duration::from_millis(100), "{:?}", took[990]);
        assert!(took[999] < Duration::from_secs(1));
    }
}

on_each_release! {
    "needs Debian's postfix and unbound; tests/run installs them, and builds trixie":
    postfix_is_a_backup_mx_as_the_manual_says
}

fn postfix_is_a_backup_mx_as_the_manual_says(release: Release) {
    if !postfix::is_root() {
        return println!("skipped: the Postfix master needs root");
    }
    let server = NameServer::unbound();
    let dir = tempfile::tempdir().unwrap();
    let recipients = dir.path().join("recipients.json");
    fs::write(&recipients, sample("recipients.json").replace("alice@example.org", "user@here.test")).unwrap();
    let command = sample("backup-mx.sh").replace("/etc/podop/recipients.json", recipients.to_str().unwrap());
    let words: Vec<&str> = command.split_ascii_whitespace().filter(|word| *word != "\\").collect();
    let tables = words.iter().skip_while(|word| **word != "--name").map(|word| (*word).to_owned());
    let tables = tables.map(|word| word.replace("relay:primary=198.51.100.0/24", "relay:timeout=10"));
    let resolver = format!("relay:resolver=127.0.0.1:{}", server.port);
    let podop = Podop::start(&tables.chain(["--option".to_owned(), resolver]).collect::<Vec<_>>());
    let main_cf = sample("backup-mx.cf");
    let settings: Vec<(&str, &str)> =
        main_cf.lines().filter_map(|line| line.split_once(" = ")).filter(|(name, _)| *name != "podop").collect();
    let none = ["virtual_alias_maps", "virtual_mailbox_domains", "virtual_mailbox_maps", "transport_maps"];
    let settings = [settings, none.map(|name| (name, "")).to_vec()].concat();
    let postfix = Postfix::start(release, podop.socket(), &settings);
    let mut smtp = postfix.smtp();
    for (to, reply) in [
        ("user@here.test", "250 2.1.5"),
        ("User+x@here.test", "250 2.1.5"),
        ("nobody@here.test", "550 5.1.1"),
        ("user@elsewhere.test", "554 5.7.1"),
        ("user@null.test", "554 5.7.1"),
        ("user@sub.here.test", "554 5.7.1"), // only the whole domain is asked for
        ("user@fail.test", "451 4.3.0"),
    ] {
        let got = smtp.rcpt(to);
        assert!(got.starts_with(reply), "{to}: {got}");
    }
    postfix.wait_for_log(&format!("relay: dns:127.0.0.1:{} answered SERVFAIL", server.port));
    drop(server);
    assert!(smtp.rcpt("user@late.test").starts_with("451 4.3.0"), "an outage is no reason to bounce");
    assert!(smtp.rcpt("user@here.test").starts_with("250 2.1.5"), "it is cached");
}

#[test]
#[ignore = "needs Debian's dnsmasq-base and iproute2, and root; tests/run installs them"]
fn the_servers_of_resolv_conf_are_asked_and_read_again() {
    if !postfix::is_root() {
        return println!("skipped: namespaces need root");
    }
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_str().unwrap();
    // A network of its own, where port 53 is free, and a file in place of the machine's.
    let script = format!(
        "set -e
        cd {here}
        ip link set lo up
        echo 'nameserver 127.0.0.9' >one; echo 'nameserver 127.0.0.2' >two
        cp one conf; mount --bind conf /etc/resolv.conf
        /usr/sbin/dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces --user= \
            --listen-address=127.0.0.2 --local=/test/ --mx-host=here.test,mx.example.net,10 2>/dev/null & dnsmasq=$!
        {} --socket s --name relay --type mx --param mx.example.net --timeout 3 2>log & podop=$!
        for i in $(seq 100); do [ -S s ] && break; sleep 0.1; done
        {} query s relay here.test 2>&1 || echo \"exit $?\"
        cat two >conf; sleep 1.1
        {} query s relay here.test || echo \"exit $?\"
        kill $dnsmasq $podop; wait",
        env!("CARGO_BIN_EXE_podop"),
        env!("CARGO_BIN_EXE_podop"),
        env!("CARGO_BIN_EXE_podop"),
    );
    let output = Command::new("unshare").args(["-mn", "sh", "-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let expected =
        ["podop: TEMP relay: dns:127.0.0.9:53 refused the connection (exit code 75)", "exit 75", "here.test"];
    assert_eq!(lines, expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_others_send_is_no_answer() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let podop = podop(&[server.local_addr().unwrap().port()], &[]);
    for (at, last) in ["OK d0.test", "NOTFOUND ", "OK d2.test"].into_iter().enumerate() {
        let domain = format!("d{at}.test");
        let asker = std::thread::scope(|scope| {
            let asked = scope.spawn(|| podop.lookup("relay", &domain));
            let mut buffer = [0; 1024];
            let (count, from) = server.recv_from(&mut buffer).unwrap();
            let question = &buffer[..count];
            let accepted = dns::answer(question, 0, &[dns::mx(&domain, 60, 10, "mx.example.net")], &[]);
            let denied = dns::answer(question, dns::NXDOMAIN, &[], &[]);
            let (right, wrong) = if last.starts_with("OK") { (accepted, denied) } else { (denied, accepted) };
            // From another port; with another id; with another question; in another case.
            other.send_to(&wrong, from).unwrap();
            for change in [0, 1, 13, 14] {
                let mut wrong = wrong.clone();
                wrong[change] ^= if change < 2 { 1 } else { 0x20 };
                server.send_to(&wrong, from).unwrap();
            }
            std::thread::sleep(Duration::from_millis(50));
            assert!(!asked.is_finished());
            server.send_to(&right, from).unwrap();
            asked.join().unwrap()
        });
        assert_eq!(asker, last);
    }
}

#[test]
fn questions_leak_no_descriptors() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok((count, from)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&dns::answer(&buffer[..count], dns::NXDOMAIN, &[], &[]), from);
        }
    });
    let podop = podop(&[port], &[]);
    let open = || fs::read_dir(format!("/proc/{}/fd", podop.pid())).unwrap().count();
    podop.lookup("relay", "first.test");
    wait_until(|| open() > 0);
    let before = open();
    for at in 0..500 {
        assert_eq!(podop.lookup("relay", &format!("d{at}.test")), "NOTFOUND ");
    }
    wait_until(|| open() <= before);
}
