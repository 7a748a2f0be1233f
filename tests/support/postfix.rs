//! A private, real Postfix for tests: own settings, queue, log and port, gone when dropped.

use super::port;
use super::roots::Release;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

/// How long a reply, a log line or the start may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait between two looks at something that is about to happen.
const POLL: Duration = Duration::from_millis(2);

/// After this many seconds a master ends by itself, in case the test run was killed.
const LIFETIME: &str = "600";

/// Settings of main.cf that are the same for every instance.
const MAIN_CF: &[(&str, &str)] = &[
    ("compatibility_level", "3.6"),
    ("inet_interfaces", "127.0.0.1"),
    ("inet_protocols", "ipv4"),
    ("smtpd_peername_lookup", "no"), // no DNS
    ("myhostname", "mx.rig.test"),
    ("mydestination", ""),
    ("local_recipient_maps", ""),
    ("virtual_alias_maps", "${podop}:alias"),
    ("virtual_mailbox_domains", "${podop}:domain"),
    ("virtual_mailbox_maps", "${podop}:mailbox"),
    ("transport_maps", "${podop}:transport"),
    ("smtpd_relay_restrictions", "reject_unauth_destination"),
    ("default_transport", "discard:"),
    ("local_transport", "discard:"),
    ("relay_transport", "discard:"),
    ("virtual_transport", "discard:"),
    // No limits and penalties: tests open many sessions and make many errors.
    ("default_process_limit", "200"),
    ("smtpd_client_connection_count_limit", "0"),
    ("smtpd_error_sleep_time", "0"),
    ("smtpd_soft_error_limit", "1000000"),
    ("smtpd_hard_error_limit", "1000000"),
    ("smtpd_junk_command_limit", "1000000"),
    ("in_flow_delay", "0"),
    // Deferred mail and failed daemons get their next try within a test, not minutes later.
    ("queue_run_delay", "1s"),
    ("minimal_backoff_time", "1s"),
    ("maximal_backoff_time", "1s"),
    ("service_throttle_time", "1s"),
    // No reports to the postmaster: they cause lookups that belong to no test.
    ("notify_classes", ""),
];

/// The services: every delivery agent is discard(8), so that nothing ever leaves the machine.
const MASTER_CF: &str = "\
127.0.0.1:{port} inet n - {chroot} - - smtpd
tlsmgr unix - - n 1000? 1 tlsmgr
cleanup   unix  n  -  {chroot}  -  0  cleanup
rewrite   unix  -  -  {chroot}  -  -  trivial-rewrite
qmgr      unix  n  -  n  300  1  qmgr
bounce    unix  -  -  n  -  0  bounce
defer     unix  -  -  n  -  0  bounce
trace     unix  -  -  n  -  0  bounce
error     unix  -  -  n  -  -  error
retry     unix  -  -  n  -  -  error
flush     unix  n  -  n  1000?  0  flush
showq     unix  n  -  n  -  -  showq
verify    unix  -  -  n  -  1  verify
proxymap  unix  -  -  n  -  -  proxymap
postlog   unix-dgram n - n - 1  postlogd
discard   unix  -  -  n  -  -  discard
lmtp      unix  -  -  n  -  -  discard
local     unix  -  -  n  -  -  discard
relay     unix  -  -  n  -  -  discard
smtp      unix  -  -  n  -  -  discard
virtual   unix  -  -  n  -  -  discard
";

/// Folders of the queue that the daemons, running as user `postfix`, write to.
const QUEUE_FOLDERS: &str =
    "active bounce corrupt defer deferred flush hold incoming maildrop private public saved trace";

/// Says whether this process is root, as the Postfix master has to be.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Asks `map` for one key with `postmap -q`, which any user may do.
pub fn postmap(release: Release, map: &str, key: &str) -> Output {
    query(release, map, key, Stdio::null())
}

/// Asks `map` for many keys, one on each line, with one `postmap -q -`.
pub fn postmap_stdin(release: Release, map: &str, keys: &[u8]) -> Output {
    let mut input = tempfile::tempfile().expect("temporary file");
    input.write_all(keys).and_then(|()| input.rewind()).expect("keys for postmap");
    query(release, map, "-", Stdio::from(input))
}

fn query(release: Release, map: &str, key: &str, input: Stdio) -> Output {
    let config = tempfile::tempdir().expect("temporary folder");
    write_main_cf(config.path(), "compatibility_level = 3.6\n");
    let mut postmap = release.command("postmap");
    postmap.env("MAIL_CONFIG", config.path()).args(["-q", key, map]).stdin(input);
    postmap.output().expect("postmap")
}

/// A running Postfix whose four virtual maps are served by socketmap; dropping it ends it.
pub struct Postfix {
    master: Child,
    port: u16,
    folder: TempDir,
}

impl Postfix {
    /// Starts Postfix with its maps on `socket`; `extra` adds or replaces settings of main.cf.
    pub fn start(release: Release, socket: &Path, extra: &[(&str, &str)]) -> Postfix {
        Self::launch(release, socket, extra, "n")
    }

    /// The same with smtpd, cleanup and trivial-rewrite in the chroot that Debian gives them.
    pub fn start_chrooted(release: Release, socket: &Path, extra: &[(&str, &str)]) -> Postfix {
        Self::launch(release, socket, extra, "y")
    }

    /// The queue, which is the root folder of chrooted daemons and the working folder of all.
    pub fn queue_directory(&self) -> PathBuf {
        self.folder.path().join("queue")
    }

    /// The port of smtpd.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Opens an SMTP session and says hello.
    pub fn smtp(&self) -> Smtp {
        Smtp::open(self.port, self.log_file())
    }

    /// The whole mail log so far.
    pub fn log(&self) -> String {
        read_log(&self.log_file())
    }

    /// Returns the first line of the log that holds `needle`, or panics if none comes.
    pub fn wait_for_log(&self, needle: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| line.contains(needle)) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "no {needle:?} in the mail log:\n{log}");
            sleep(POLL);
        }
    }

    /// How many recipients got their mail so far.
    pub fn delivered(&self) -> usize {
        self.log().matches(" status=sent ").count()
    }

    fn launch(release: Release, socket: &Path, extra: &[(&str, &str)], chroot: &str) -> Postfix {
        // One at a time: masters share a port without complaint (SO_REUSEPORT) if both chose the same.
        static STARTING: Mutex<()> = Mutex::new(());
        let _guard = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..5 {
            let (folder, port) = (create_folders(release), port::free());
            write_main_cf(folder.path(), &settings(folder.path(), socket, extra));
            write_master_cf(folder.path(), port, chroot);
            let mut postfix = Postfix { master: start_master(release, folder.path()), port, folder };
            if postfix.starts() {
                return postfix;
            }
        }
        panic!("every port was taken by somebody else");
    }

    /// Waits for the master; false if its port was taken meanwhile.
    fn starts(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let exit = self.master.try_wait().expect("state of the Postfix master");
            let log = self.log();
            if log.contains("daemon started") {
                return true;
            }
            if exit.is_some() && log.contains("Address already in use") {
                return false;
            }
            let waiting = exit.is_none() && Instant::now() < deadline;
            assert!(waiting, "the Postfix master did not start ({exit:?}):\n{log}");
            sleep(POLL);
        }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = self.master.kill(); // first, so that it starts no more daemons
        let group = self.master.id(); // of the master and all daemons, see master(8)
        let _ = Command::new("sh").arg("-c").arg(format!("kill -s KILL -- -{group}")).output();
        let _ = self.master.wait();
        let deadline = Instant::now() + PATIENCE;
        while is_alive(group) && Instant::now() < deadline {
            sleep(POLL);
        }
    }
}

/// Says whether a process group has members besides those that wait to be reaped by their parent.
fn is_alive(group: u32) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    stats.into_iter().any(|stat| {
        // pid (name) state parent group ...
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let state = fields.next();
        fields.nth(1) == Some(&group.to_string()) && !matches!(state, Some("Z" | "X"))
    })
}

/// Creates what `postfix start` would: everything traversable, some of it owned by `postfix`.
fn create_folders(release: Release) -> TempDir {
    let folder = tempfile::Builder::new().prefix("postfix-").tempdir().expect("temporary folder");
    let queue = folder.path().join("queue");
    let mut owned = vec![folder.path().join("data")];
    owned.extend(QUEUE_FOLDERS.split_whitespace().map(|name| queue.join(name)));
    for path in [&queue, &queue.join("pid")].into_iter().chain(&owned) {
        fs::create_dir(path).expect("folder of the queue");
    }
    for path in [folder.path(), &queue] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("mode of a folder");
    }
    run(release.command("chown").arg("postfix").args(&owned)); // a user whose number depends on the system
    folder
}

fn settings(folder: &Path, socket: &Path, extra: &[(&str, &str)]) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    let own = [
        ("podop", format!("socketmap:unix:{}", socket.display())),
        ("queue_directory", path("queue")),
        ("data_directory", path("data")),
        ("maillog_file", path("log")),
        ("maillog_file_prefixes", path("")),
    ];
    let given = MAIN_CF.iter().chain(extra).map(|&(name, value)| (name, value.to_owned()));
    let settings: BTreeMap<&str, String> = own.into_iter().chain(given).collect(); // the last one counts
    settings.iter().map(|(name, value)| format!("{name} = {value}\n")).collect()
}

/// Writes main.cf with an old date: Postfix pauses at each start while the file is younger than 2 s.
fn write_main_cf(folder: &Path, text: &str) {
    let write = || -> io::Result<()> {
        let mut file = File::create(folder.join("main.cf"))?;
        file.write_all(text.as_bytes())?;
        file.set_modified(SystemTime::UNIX_EPOCH)
    };
    write().expect("main.cf");
}

fn write_master_cf(folder: &Path, port: u16, chroot: &str) {
    let services = MASTER_CF.replace("{port}", &port.to_string()).replace("{chroot}", chroot);
    fs::write(folder.join("master.cf"), services).expect("master.cf");
}

fn start_master(release: Release, folder: &Path) -> Child {
    let daemons = run(release.command("postconf").args(["-d", "-h", "daemon_directory"])).stdout;
    let mut master = release.command(&format!("{}/master", String::from_utf8_lossy(&daemons).trim_end()));
    master.arg("-c").arg(folder).args(["-e", LIFETIME]);
    // Without it, errors at the start go to syslog.
    master.env("POSTLOG_SERVICE", folder.join("queue/public/postlog"));
    File::create(folder.join("log")).expect("mail log");
    master.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{master:?}: {error}"))
}

fn read_log(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).expect("mail log")).into_owned()
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// One SMTP session.
pub struct Smtp {
    stream: BufReader<TcpStream>,
    log: PathBuf,
}

impl Smtp {
    /// Says hello (again), which also resets the session.
    pub fn helo(&mut self) -> String {
        self.command("EHLO client.test")
    }

    /// Sends one command and returns the whole reply, its lines joined by line feeds.
    pub fn command(&mut self, line: &str) -> String {
        let written = self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes());
        written.unwrap_or_else(|error| self.fail(line, &error));
        self.reply(line)
    }

    /// Offers one recipient and returns the reply to it, or to MAIL if that was refused.
    pub fn rcpt(&mut self, address: &str) -> String {
        let mut reply = self.command("MAIL FROM:<sender@client.test>");
        if reply.starts_with('2') {
            reply = self.command(&format!("RCPT TO:<{address}>"));
        }
        self.command("RSET");
        reply
    }

    /// Sends one message and returns the reply to its end, or to the first step refused.
    pub fn send(&mut self, from: &str, to: &str, body: &str) -> String {
        let steps = [format!("MAIL FROM:<{from}>"), format!("RCPT TO:<{to}>"), "DATA".to_owned()];
        for step in steps {
            let reply = self.command(&step);
            if !reply.starts_with(['2', '3']) {
                self.command("RSET");
                return reply;
            }
        }
        let stuffed = body.lines().map(|line| match line.strip_prefix('.') {
            Some(_) => format!(".{line}\r\n"),
            None => format!("{line}\r\n"),
        });
        self.command(&(stuffed.collect::<String>() + "."))
    }

    fn open(port: u16, log: PathBuf) -> Smtp {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("smtpd accepts");
        stream.set_nodelay(true).expect("socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("socket option");
        let mut smtp = Smtp { stream: BufReader::new(stream), log };
        let greeting = smtp.reply("(connect)");
        assert!(greeting.starts_with("220 "), "smtpd greets with {greeting}");
        smtp.helo();
        smtp
    }

    fn reply(&mut self, command: &str) -> String {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            let read = self.stream.read_line(&mut reply);
            if read.unwrap_or_else(|error| self.fail(command, &error)) == 0 {
                self.fail(command, &"connection closed");
            }
            reply.truncate(reply.trim_end().len());
            if reply.as_bytes().get(start + 3) != Some(&b'-') {
                return reply;
            }
            reply.push('\n');
        }
    }

    fn fail(&self, command: &str, error: &dyn std::fmt::Display) -> ! {
        panic!("{command}: {error}\n{}", read_log(&self.log))
    }
}
