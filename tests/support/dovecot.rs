//! A private Dovecot 2.3 or 2.4 for tests: real daemons on sockets of their own, gone when dropped.

use super::port;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::manual::sample;
use super::roots::Release;
use tempfile::TempDir;

/// Longest wait for a line of the log or for a reply. Dovecot itself waits 30 s for a dict.
const PATIENCE: Duration = Duration::from_secs(40);

/// How often a port that another process was quicker to take is replaced.
const PORTS_TRIED: u32 = 10;

/// dovecot.conf of 2.3, without the manual's lines for Podop. Words between `@` are filled in by `configure`.
const CONFIG_2_3: &str = "
base_dir = @dir@/run
state_dir = @dir@/state
log_path = @dir@/log
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no

auth_verbose = yes
auth_username_chars =
auth_failure_delay = 0
auth_cache_size = 0

first_valid_uid = 1
mail_uid = @user@
mail_gid = @group@
mail_home = @dir@/mail/%u
mail_location = maildir:~/Maildir
mail_fsync = never
namespace inbox {
  inbox = yes
  separator = /
}
namespace shared {
  type = shared
  separator = /
  prefix = shared/%%u/
  location = maildir:%%h/Maildir:INDEXPVT=~/shared/%%u
  list = children
  subscriptions = no
}
plugin {
  acl_anyone = allow
  sieve = file:~/sieve;active=~/active.sieve
}

";

/// The same of 2.4.
const CONFIG_2_4: &str = "
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
base_dir = @dir@/run
state_dir = @dir@/state
log_path = @dir@/log
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
auth_allow_cleartext = yes

auth_verbose = yes
auth_username_chars =
auth_failure_delay = 0
auth_internal_failure_delay = 0
auth_cache_size = 0

first_valid_uid = 1
mail_uid = @user@
mail_gid = @group@
mail_home = @dir@/mail/%{user}
mail_driver = maildir
mail_path = ~/Maildir
mail_fsync = never
namespace inbox {
  inbox = yes
  separator = /
}
namespace shared {
  type = shared
  separator = /
  prefix = shared/$user/
  mail_path = %{owner_home}/Maildir
  mail_index_private_path = ~/shared/%{owner_user}
  list = children
  subscriptions = no
}
imap_acl_allow_anyone = yes
sieve_script personal {
  path = ~/sieve
  active_path = ~/active.sieve
}
";

/// The services, which both write in the same way.
const SERVICES: &str = "
service imap-login {
  inet_listener imap {
    port = @port@
  }
  inet_listener imaps {
    port = 0
  }
}
service anvil {
  # Without this listener nothing slows down a client whose password was wrong.
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service auth {
  # A shared mailbox makes one user ask for the home of another; mode 0777 permits it.
  unix_listener auth-userdb {
    mode = 0777
  }
}
";

/// What an ordinary user needs in addition: nothing may change its user or its root.
const CONFIG_WITHOUT_ROOT: &str = "
default_internal_user = @user@
default_internal_group = @group@
default_login_user = @user@
service anvil {
  chroot =
}
service imap-login {
  chroot =
}
";

/// How Dovecot looks up users and passwords, as the manual describes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Logins {
    /// By dicts: Podop's table `auth`. Only 2.3 has a dict driver for logins.
    Dict,
    /// By the Lua script, from the backend.
    Lua,
    /// Passwords by oauth2, and users by the Lua script. Only 2.4 has the password grant.
    Oauth2,
}

/// A running Dovecot that keeps all its files below one temporary folder.
pub struct Dovecot {
    /// Leads the process group and kills it at the end of its input, so even a killed test
    /// leaves no daemon behind.
    guard: Child,
    master: Child,
    port: u16,
    log: Log,
    dir: TempDir,
    release: Release,
}

impl Dovecot {
    /// Starts Dovecot with its dicts at `socket` and with `extra` at the end of dovecot.conf. Lua and oauth2 send their
    /// requests to `backend`.
    ///
    /// Started by root, it reads mail as user `mail`, who must be able to reach the socket.
    pub fn start(release: Release, socket: &Path, logins: Logins, backend: SocketAddr, extra: &str) -> Dovecot {
        for _ in 0..PORTS_TRIED {
            let mut dovecot = Self::launch(release, socket, logins, backend, extra);
            if dovecot.is_up() {
                return dovecot;
            }
        }
        panic!("no port for Dovecot after {PORTS_TRIED} tries");
    }

    /// Runs doveadm with the configuration of this Dovecot.
    pub fn doveadm(&self, args: &[&str]) -> Output {
        let mut command = self.release.command("doveadm");
        command.arg("-c").arg(self.dir.path().join("dovecot.conf"));
        command.args(args).stdin(Stdio::null()).output().expect("doveadm runs")
    }

    /// The folder of its files, and of the sockets in `run`.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Opens an IMAP connection.
    pub fn imap(&self) -> Imap {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        let stream = stream.unwrap_or_else(|e| self.log.fail(&format!("no IMAP connection: {e}")));
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        let mut wire = Wire { stream: BufReader::new(stream), log: self.log.clone() };
        let greeting = wire.line();
        if !greeting.starts_with(b"* OK") {
            self.log.fail(&format!("greeting {:?}", String::from_utf8_lossy(&greeting)));
        }
        Imap { wire, commands: 0 }
    }

    /// Delivers a message by LMTP and returns the reply that decided about it.
    pub fn deliver(&self, to: &str, message: &str) -> String {
        let stream = UnixStream::connect(self.dir.path().join("run/lmtp"));
        let stream = stream.unwrap_or_else(|e| self.log.fail(&format!("no LMTP connection: {e}")));
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        let mut wire = Wire { stream: BufReader::new(stream), log: self.log.clone() };
        let recipient = format!("RCPT TO:<{to}>\r\n");
        let steps = ["", "LHLO test\r\n", "MAIL FROM:<sender@example.org>\r\n", &recipient, "DATA\r\n"];
        for step in steps {
            wire.send(step.as_bytes());
            let reply = wire.reply();
            if !reply.starts_with(['2', '3']) {
                return reply;
            }
        }
        wire.send(dot_stuffed(message).as_bytes());
        wire.reply()
    }

    /// Returns all that Dovecot has logged.
    pub fn log(&self) -> String {
        self.log.read()
    }

    /// Waits until the log has a line that contains `needle`, and returns the first such line.
    pub fn wait_for_log(&self, needle: &str) -> String {
        let line = eventually(|| {
            let log = self.log.read();
            log.lines().find(|line| line.contains(needle)).map(str::to_owned)
        });
        line.unwrap_or_else(|| self.log.fail(&format!("{needle:?} is not logged")))
    }

    fn launch(release: Release, socket: &Path, logins: Logins, backend: SocketAddr, extra: &str) -> Dovecot {
        let dir = tempfile::Builder::new().prefix("dovecot").tempdir().expect("temporary folder");
        let port = port::free();
        let fill = |text: &str| {
            text.replace("/run/podop/podop.sock", socket.to_str().expect("UTF-8 path"))
                .replace("127.0.0.1:8080", &backend.to_string())
                .replace("@port@", &port.to_string())
        };
        configure(dir.path(), configuration(release, logins), fill, extra);
        let log = Log(dir.path().join("log"));
        let guard = Command::new("sh")
            .args(["-c", "read -r _; kill -s KILL 0"])
            .stdin(Stdio::piped())
            .process_group(0) // an interrupt from the terminal ends the test, not its guard
            .spawn()
            .expect("sh runs");
        let master = release
            .command("dovecot")
            .arg("-F")
            .arg("-c")
            .arg(dir.path().join("dovecot.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log.0).expect("log file"))
            .process_group(guard.id().cast_signed())
            .spawn()
            .expect("dovecot runs");
        Dovecot { guard, master, port, log, dir, release }
    }

    /// Waits for the start; `false` if the port was taken meanwhile.
    fn is_up(&mut self) -> bool {
        let up = eventually(|| {
            let ended = self.master.try_wait().expect("state of the master").is_some();
            // logged by the master as soon as it listens everywhere
            (ended || self.log.read().contains("starting up for")).then_some(!ended)
        });
        let port_taken = up == Some(false) && self.log.read().contains("Address already in use");
        if up != Some(true) && !port_taken {
            self.log.fail("Dovecot does not start");
        }
        !port_taken
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        let _ = self.master.wait();
        let group = self.guard.id();
        if eventually(|| (!group_is_alive(group)).then_some(())).is_none() {
            eprintln!("Dovecot left processes of group {group} behind");
        }
    }
}

/// An IMAP connection.
pub struct Imap {
    wire: Wire<TcpStream>,
    commands: u32,
}

impl Imap {
    /// Logs in and returns the result, from `OK` or `NO` on.
    pub fn login(&mut self, user: &str, password: &str) -> String {
        let mut lines = self.command(&format!("LOGIN {} {}", literal(user), literal(password)));
        lines.pop().expect("a result")
    }

    /// Sends a command without its tag and returns the untagged lines, then the tagged result
    /// without its tag; literals are part of their line.
    pub fn command(&mut self, line: &str) -> Vec<String> {
        self.commands += 1;
        let tag = format!("a{} ", self.commands);
        self.wire.send(format!("{tag}{line}\r\n").as_bytes());
        let mut lines = Vec::new();
        loop {
            let line = self.response();
            if let Some(result) = line.strip_prefix(&tag) {
                lines.push(result.to_owned());
                return lines;
            }
            lines.push(line);
        }
    }

    /// One line, and for every literal it announces the literal and the rest of the line.
    fn response(&mut self) -> String {
        let mut response = self.wire.line();
        let mut announced = literal_size(&response);
        while let Some(size) = announced {
            response.extend(b"\r\n");
            response.extend(self.wire.bytes(size));
            let rest = self.wire.line();
            announced = literal_size(&rest);
            response.extend(rest);
        }
        String::from_utf8_lossy(&response).into_owned()
    }
}

/// Writes a text as an IMAP literal for which the client does not wait.
pub fn literal(text: &str) -> String {
    format!("{{{}+}}\r\n{text}", text.len())
}

/// Returns the size of the literal that a line announces at its end.
fn literal_size(line: &[u8]) -> Option<usize> {
    let start = line.iter().rposition(|&byte| byte == b'{')? + 1;
    str::from_utf8(line[start..].strip_suffix(b"}")?).ok()?.parse().ok()
}

/// A connection on which both sides talk in lines.
struct Wire<S> {
    stream: BufReader<S>,
    log: Log,
}

impl<S: Read + Write> Wire<S> {
    fn send(&mut self, bytes: &[u8]) {
        let sent = self.stream.get_mut().write_all(bytes);
        sent.unwrap_or_else(|e| self.log.fail(&format!("nothing can be sent: {e}")));
    }

    /// Reads one line and cuts off its end.
    fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        let read = self.stream.read_until(b'\n', &mut line);
        read.unwrap_or_else(|e| self.log.fail(&format!("no answer: {e}")));
        match line.strip_suffix(b"\r\n") {
            Some(text) => text.to_vec(),
            None => self.log.fail("connection closed instead of an answer"),
        }
    }

    fn bytes(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let read = self.stream.read_exact(&mut bytes);
        read.unwrap_or_else(|e| self.log.fail(&format!("literal cut short: {e}")));
        bytes
    }

    /// Reads an LMTP reply and returns its last line.
    fn reply(&mut self) -> String {
        loop {
            let line = self.line();
            if line.get(3) != Some(&b'-') {
                return String::from_utf8_lossy(&line).into_owned();
            }
        }
    }
}

/// Turns a message into what follows DATA.
fn dot_stuffed(message: &str) -> String {
    let mut data = String::new();
    for line in message.lines() {
        data += if line.starts_with('.') { "." } else { "" };
        data += line;
        data += "\r\n";
    }
    data + ".\r\n"
}

/// The log file, which every failure shows.
#[derive(Clone)]
struct Log(PathBuf);

impl Log {
    fn read(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.0).unwrap_or_default()).into_owned()
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{what}; log of Dovecot:\n{}", self.read());
    }
}

/// Returns the configuration, with words between `@` to be filled in, and the name of the file beside it.
fn configuration(release: Release, logins: Logins) -> (String, &'static str) {
    let (config, dicts) = match release {
        Release::Bookworm => (CONFIG_2_3, "dovecot-2.3-dicts.conf"),
        Release::Trixie => (CONFIG_2_4, "dovecot-2.4-dicts.conf"),
    };
    let (logins, beside) = match (logins, release) {
        (Logins::Dict, _) => ("dovecot-2.3-logins.conf", "auth.conf"),
        (Logins::Lua, Release::Bookworm) => ("dovecot-2.3-lua.conf", "podop.lua"),
        (Logins::Lua, Release::Trixie) => ("dovecot-2.4-lua.conf", "podop.lua"),
        (Logins::Oauth2, _) => ("dovecot-2.4-oauth2.conf", "podop.lua"),
    };
    ([config, SERVICES, &sample(logins), &sample(dicts)].concat(), beside)
}

/// Writes the configuration and makes the folders.
fn configure(dir: &Path, (config, beside): (String, &str), fill: impl Fn(&str) -> String, extra: &str) {
    let is_root = id("-u") == "0";
    let (user, group) = match is_root {
        true => ("mail".to_owned(), "mail".to_owned()), // Dovecot opens no mail as root
        false => (id("-un"), id("-gn")),
    };
    let dir_name = dir.to_str().expect("UTF-8 path");
    let fill = |text: &str| {
        let text = fill(text).replace("/etc/dovecot/", "@dir@/").replace("@dir@", dir_name);
        text.replace("@user@", &user).replace("@group@", &group)
    };
    let rootless = if is_root { "" } else { CONFIG_WITHOUT_ROOT };
    let write = || -> io::Result<()> {
        fs::write(dir.join("dovecot.conf"), fill(&config) + &fill(rootless) + &fill(extra))?;
        fs::write(dir.join(beside), fill(&sample(beside)))?;
        fs::create_dir(dir.join("mail"))?;
        // the users that Dovecot runs as pass through, and `mail` makes its folders
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
        fs::set_permissions(dir.join("mail"), Permissions::from_mode(0o777))
    };
    write().expect("configuration of Dovecot");
}

/// Returns what `id` prints about the user of this process.
fn id(option: &str) -> String {
    let output = Command::new("id").arg(option).output().expect("id runs");
    assert!(output.status.success(), "the user of the test has no name: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Tries again and again, until there is an answer or [`PATIENCE`] has passed.
fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let answer = ask();
        if answer.is_some() || start.elapsed() > PATIENCE {
            return answer;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Tells whether any process of the group still runs.
fn group_is_alive(group: u32) -> bool {
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    stats.into_iter().any(|stat| is_alive_in(&stat, group))
}

/// Reads a line of `/proc/PID/stat`: `PID (NAME) STATE PARENT GROUP ...`.
fn is_alive_in(stat: &str, group: u32) -> bool {
    // a name may hold spaces and parentheses
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<_> = fields.split_whitespace().take(3).collect();
    // a zombie is gone and only waits for its parent
    matches!(fields[..], [state, _, of] if state != "Z" && of == group.to_string())
}
