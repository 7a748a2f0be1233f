//! The packages, installed into a Debian system that is booted, with Postfix in its chroot.

use crate::support;

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::machine::Machine;
use support::manual::sample;
use support::podop::{SOON, wait_until};
use support::roots::{package, packages};

const SERVICE: &[u8] = include_bytes!("service.py");
const LOAD: &[u8] = include_bytes!("load.py");

/// main.cf of the manual's setup, as far as these tests need it.
const MAIN_CF: &str = "
podop = socketmap:unix:/run/podop/podop.sock
virtual_alias_maps = ${podop}:alias
virtual_alias_domains = ${podop}:domain
mydestination = localhost
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
maillog_file = /var/log/postfix.log
";

/// Boots a system, installs the package and starts the service that it asks.
fn installed(release: &str) -> Option<Machine> {
    let packages = packages()?;
    let machine = Machine::boot(release, MAIN_CF)?;
    machine.write("/root/service.py", SERVICE);
    machine.run("systemd-run --quiet python3 /root/service.py");
    machine.install(&package(&packages, ".deb"));
    Some(machine)
}

/// The same, with the units started.
fn started(release: &str) -> Option<Machine> {
    let machine = installed(release)?;
    machine.run("systemctl enable --now podop.socket podop.service");
    Some(machine)
}

fn main_pid(machine: &Machine) -> String {
    machine.run("systemctl show -P MainPID podop.service").trim().to_owned()
}

/// Clients that look up keys all the time.
struct Load(Child);

impl Load {
    fn start(machine: &Machine) -> Load {
        machine.write("/root/load.py", LOAD);
        let mut command = machine.command("exec python3 /root/load.py /run/podop/podop.sock");
        Load(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Ends it. Fails if a lookup was lost, or fewer than this were made.
    fn end(mut self, least: u64) {
        drop(self.0.stdin.take());
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(text.trim().parse::<u64>().is_ok_and(|count| count >= least), "{text}");
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
#[ignore = "boots Debian; tests/run builds it"]
fn an_installed_package_does_nothing_before_it_is_enabled() {
    let Some(machine) = installed("bookworm") else { return };
    assert_eq!(machine.run("systemctl is-enabled podop.socket podop.service || true"), "disabled\ndisabled\n");
    assert_eq!(machine.run("systemctl is-active podop.socket podop.service || true"), "inactive\ninactive\n");
    assert_eq!(machine.run("stat -c '%U:%G %a' /etc/podop/tables"), "root:podop 640\n");
    assert!(machine.run("podop help").contains("podop help deployment"));
    assert!(machine.run("zcat /usr/share/man/man8/podop.8.gz").contains(".Dt PODOP 8"));
    assert!(machine.run("podop --check @/etc/podop/tables").contains("127.0.0.1:8080"));
}

/// One mail is delivered and one is rejected, by a Postfix whose smtpd and cleanup run in the chroot.
fn mail_is_delivered_and_rejected_on(release: &str) {
    let Some(machine) = installed(release) else { return };
    machine.run("systemctl enable --now podop.socket");
    assert!(!machine.succeeds("systemctl is-active podop.service"), "no request has come yet");
    let session = "import smtplib\n\
        smtp = smtplib.SMTP('127.0.0.1')\n\
        smtp.sendmail('a@localhost', ['info@example.org'], 'Subject: hello\\n\\nhello\\n')\n\
        try:\n    smtp.sendmail('a@localhost', ['none@example.org'], 'x')\n\
        except smtplib.SMTPRecipientsRefused as error:\n    print(error.recipients['none@example.org'])\n";
    machine.write("/root/session.py", session.as_bytes());
    let refused = machine.run("python3 /root/session.py");
    assert!(refused.starts_with("(550, b'5.1.1"), "{refused}");
    wait_until(|| machine.succeeds("grep -q '^Subject: hello' /var/mail/root"));
    assert!(machine.succeeds("systemctl is-active podop.service"), "the first lookup starts it");
    assert!(machine.succeeds("grep -qE '^smtp +inet .* y .*smtpd' /etc/postfix/master.cf"), "no chroot");
}

#[test]
#[ignore = "boots Debian; tests/run builds it"]
fn mail_is_delivered_and_rejected_on_bookworm() {
    mail_is_delivered_and_rejected_on("bookworm");
}

#[test]
#[ignore = "boots Debian; tests/run builds it"]
fn mail_is_delivered_and_rejected_on_trixie() {
    mail_is_delivered_and_rejected_on("trixie");
}

#[test]
#[ignore = "boots Debian; tests/run builds it"]
fn reloads_restarts_and_upgrades_lose_no_lookup() {
    let Some(machine) = started("bookworm") else { return };
    let load = Load::start(&machine);
    let first = main_pid(&machine);
    for _ in 0..3 {
        machine.run("systemctl reload podop.service");
        assert_eq!(main_pid(&machine), first, "a reload keeps the process");
    }
    for _ in 0..3 {
        machine.run("systemctl restart podop.service");
    }
    let before = main_pid(&machine);
    assert_ne!(before, first);
    let packages = packages().unwrap();
    machine.install(&package(&packages.join("upgrade"), ".deb"));
    assert_ne!(main_pid(&machine), before, "the new version runs");
    assert!(machine.run("dpkg-query -W podop").contains("-2"));
    load.end(1000);
    let status = machine.run("systemctl status podop.service --no-pager");
    assert!(status.contains("Status: \"4 tables, 1 backends"), "{status}");
}

#[test]
#[ignore = "boots Debian; tests/run builds it"]
fn an_upgrade_with_errors_in_the_tables_keeps_the_old_process() {
    let Some(machine) = started("bookworm") else { return };
    let before = main_pid(&machine);
    machine.run("echo --nonsense >>/etc/podop/tables");
    machine.write("/root/upgrade.deb", &std::fs::read(package(&packages().unwrap().join("upgrade"), ".deb")).unwrap());
    let text = machine.run("DEBIAN_FRONTEND=noninteractive dpkg -i /root/upgrade.deb 2>&1");
    assert!(text.contains("unknown argument '--nonsense'") && text.contains("not restarted"), "{text}");
    assert_eq!(main_pid(&machine), before);
    assert!(machine.run("podop status").contains("\nalias "), "the metrics listener of the package's tables");
}

#[test]
#[ignore = "boots Debian; tests/run builds it"]
fn the_watchdog_restarts_a_stopped_process() {
    let Some(machine) = installed("bookworm") else { return };
    let faster = "[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\n";
    machine.write("/etc/systemd/system/podop.service.d/faster.conf", faster.as_bytes());
    machine.run("systemctl daemon-reload && systemctl enable --now podop.socket podop.service");
    let load = Load::start(&machine);
    let first = main_pid(&machine);
    machine.run(&format!("kill -STOP {first}"));
    wait_until(|| !["0", &first[..]].contains(&&main_pid(&machine)[..]));
    load.end(4);
    assert!(machine.run("journalctl -u podop.service").contains("Watchdog timeout"));
}

#[test]
#[ignore = "boots Debian; tests/run builds it"]
fn a_crashed_process_is_restarted() {
    let Some(machine) = started("bookworm") else { return };
    let load = Load::start(&machine);
    let first = main_pid(&machine);
    machine.run(&format!("kill -ABRT {first}"));
    let since = Instant::now();
    wait_until(|| !["0", &first[..]].contains(&&main_pid(&machine)[..]));
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    load.end(4);
}

#[test]
#[ignore = "boots Debian; tests/run builds it"]
fn the_running_unit_is_exposed_by_at_most_1_5() {
    let Some(machine) = started("bookworm") else { return };
    let text = machine.run("systemd-analyze security --no-pager --threshold=15 podop.service");
    assert!(text.contains("Overall exposure level for podop.service: 1."), "{text}");
}

#[test]
#[ignore = "boots Debian; tests/run builds it"]
fn the_journal_has_the_priority_of_each_line() {
    let Some(machine) = started("bookworm") else { return };
    machine.run("podop query /run/podop/podop.sock none x; systemctl reload podop.service");
    let priorities = "journalctl -u podop.service -o json --output-fields=MESSAGE,PRIORITY | python3 -c '
import json, sys
for line in sys.stdin:
    entry = json.loads(line)
    print(entry[\"PRIORITY\"], entry[\"MESSAGE\"])'";
    wait_until(|| machine.run(priorities).contains("unknown-table"));
    let text = machine.run(priorities);
    for (priority, event) in [("6", "info start "), ("4", "warn unknown-table "), ("6", "info reload")] {
        assert!(text.lines().any(|line| line.starts_with(&format!("{priority} {event}"))), "{event}: {text}");
    }
}

#[test]
#[ignore = "boots Debian; tests/run builds it"]
fn a_purge_leaves_nothing() {
    let Some(packages) = packages() else { return };
    let Some(machine) = Machine::boot("bookworm", MAIN_CF) else { return };
    // Not the logs, nor what dpkg and systemd keep of anything.
    let files = "find / -xdev \\( -path /proc -o -path /sys -o -path /var/log -o -path /var/lib/dpkg -o -path /root \\
        -o -path /run/systemd -o -path /tmp -o -path '/etc/*-' \\) -prune -o -print; find /run /etc -name '*podop*'";
    let before: BTreeSet<String> = machine.run(files).lines().map(str::to_owned).collect();
    let users = "sort /etc/passwd /etc/group /etc/shadow /etc/gshadow";
    let users_before = machine.run(users);
    machine.install(&package(&packages, ".deb"));
    machine.run("systemctl enable --now podop.socket podop.service");
    assert!(machine.succeeds("test -S /var/spool/postfix/run/podop/podop.sock"));
    machine.run("DEBIAN_FRONTEND=noninteractive dpkg --purge podop");
    let after: BTreeSet<String> = machine.run(files).lines().map(str::to_owned).collect();
    let left: Vec<&String> = after.difference(&before).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(machine.run(users), users_before);
    assert!(!machine.run("systemctl list-units --all --no-legend").contains("podop"));
}

#[test]
#[ignore = "boots Debian; tests/run builds it"]
fn the_units_can_be_installed_from_the_source() {
    let Some(packages) = packages() else { return };
    let Some(machine) = Machine::boot("bookworm", MAIN_CF) else { return };
    machine.write("/root/podop.tar.gz", &std::fs::read(package(&packages, ".tar.gz")).unwrap());
    machine.run("tar -xzf /root/podop.tar.gz -C /root && mv /root/podop-*/usr/bin/podop /usr/local/bin/podop");
    for name in ["podop.service", "podop.socket", "podop.sysusers", "podop.tables"] {
        machine.write(&format!("/root/src/package/{name}"), sample(name).as_bytes());
    }
    machine.write("/root/install-units.sh", sample("install-units.sh").as_bytes());
    machine.run("cd /root && sh -eux install-units.sh && systemctl enable --now podop.socket podop.service");
    machine.write("/root/service.py", SERVICE);
    machine.run("systemd-run --quiet python3 /root/service.py");
    wait_until(|| machine.succeeds("podop query /run/podop/podop.sock domain example.org"));
}

#[test]
#[ignore = "tests/run builds the packages"]
fn the_packages_are_the_same_wherever_they_are_built() {
    let Some(packages) = packages() else { return };
    for end in [".deb", ".tar.gz"] {
        let [one, other] = [packages.clone(), packages.join("elsewhere")].map(|of| std::fs::read(package(&of, end)));
        assert!(one.unwrap() == other.unwrap(), "{end}");
    }
}

/// The output of a command of this machine, which must succeed.
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
#[ignore = "needs Debian's lintian; tests/run builds the packages"]
fn lintian_finds_no_error() {
    let Some(packages) = packages() else { return };
    output("lintian", &["--allow-root", "--fail-on", "error", package(&packages, ".deb").to_str().unwrap()]);
}

#[test]
#[ignore = "tests/run builds the packages"]
fn the_archive_has_the_tree_of_the_package() {
    let Some(packages) = packages() else { return };
    let archive = output("tar", &["-tzf", package(&packages, ".tar.gz").to_str().unwrap()]);
    let deb = output("dpkg-deb", &["-c", package(&packages, ".deb").to_str().unwrap()]);
    let names = |text: &str, root: &str| -> BTreeSet<String> {
        let paths = text.lines().filter_map(|line| Some(line.split_once(root)?.1.to_owned()));
        paths.filter(|path| !path.is_empty() && !path.ends_with('/')).collect()
    };
    let ours = names(&archive, "podop-1.0.0/");
    assert!(ours.contains("usr/bin/podop") && ours.contains("etc/podop/tables"), "{ours:?}");
    // Where Debian has a place of its own for a file.
    let debian = names(&deb, " ./").into_iter().map(|path| path.replace("vendor-completions", "site-functions"));
    let debian: BTreeSet<String> = debian.map(|path| path.replace("podop.8.gz", "podop.8")).collect();
    let missing: Vec<&String> = ours.difference(&debian).filter(|path| !path.contains("LICENSE")).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
#[ignore = "needs rpm and cargo-generate-rpm; skipped without them"]
fn the_rpm_has_the_same_files_and_makes_its_user() {
    let Some(packages) = packages() else { return };
    let rpm = std::fs::read_dir(&packages)
        .unwrap()
        .flatten()
        .find(|entry| entry.path().extension().is_some_and(|end| end == "rpm"));
    let Some(rpm) = rpm else {
        return eprintln!("skipped: cargo-generate-rpm was not there when the packages were built");
    };
    let text = output("rpm", &["-qlp", "--scripts", rpm.path().to_str().unwrap()]);
    for part in [
        "/usr/bin/podop",
        "/etc/podop/tables",
        "/usr/lib/systemd/system/podop.socket",
        "useradd --system",
        "try-restart podop.service",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
#[ignore = "needs Debian's mandoc; tests/run installs it"]
fn the_man_page_is_valid() {
    let output = Command::new("mandoc").args(["-Tlint", "-Wwarning", "src/package/podop.8"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// What bash offers for the last of some words.
fn completed(words: &str) -> Vec<String> {
    let script = format!(
        "source src/package/podop.bash; podop() {{ {} \"$@\"; }}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         _podop; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        env!("CARGO_BIN_EXE_podop")
    );
    output("bash", &["-c", &script]).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_flags_values_and_chapters() {
    assert_eq!(completed("podop --socket-o"), ["--socket-owner"]);
    assert_eq!(completed("podop --type p"), ["program"]);
    assert_eq!(completed("podop --socket x --mode po"), ["postfix", "policy"]);
    assert_eq!(completed("podop q"), ["query"]);
    assert_eq!(completed("podop query --u"), ["--user"]);
    assert_eq!(completed("podop help dep"), ["deployment"]);
    assert!(completed("podop @src/package/podop.t").contains(&"@src/package/podop.tables".to_owned()));
}

#[test]
#[ignore = "needs Debian's zsh; tests/run installs it"]
fn zsh_completes_flags_and_chapters() {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_podop")).parent().unwrap().to_str().unwrap();
    let session = format!(
        "zmodload zsh/zpty; zpty shell zsh -f -i; zpty -w shell 'path=({program} $path); PS1=; fpath=($PWD/.none $fpath); \
         autoload -U compinit; compinit -u -D; source src/package/podop.zsh 2>/dev/null; compdef _podop podop; echo ready'; \
         zpty -r shell text '*ready*ready*'; zpty -w -n shell $'podop help dep\\t'; \
         zpty -r shell text '*deployment*' && print found"
    );
    let mut child =
        Command::new("timeout").args(["20", "zsh", "-f", "-c", &session]).stdout(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + SOON;
    while child.try_wait().unwrap().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success() && text.contains("found"), "{text}");
}
