//! The real program as a child process.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take that should happen soon.
pub const SOON: Duration = Duration::from_secs(10);

/// A running Podop with one unix socket, which everybody may use. It is ended when this is dropped.
pub struct Podop {
    child: Child,
    dir: TempDir,
    args: Vec<String>,
    socket: PathBuf,
}

impl Podop {
    /// Starts the program with these arguments besides its socket, and waits until it listens.
    pub fn start<S: AsRef<str>>(args: &[S]) -> Podop {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("rights of the folder");
        let socket = dir.path().join("podop.sock");
        Self::start_at(dir, socket, args)
    }

    /// The same with a socket elsewhere.
    pub fn start_on<S: AsRef<str>>(socket: &Path, args: &[S]) -> Podop {
        Self::start_at(tempfile::tempdir().expect("a temporary folder"), socket.to_owned(), args)
    }

    fn start_at<S: AsRef<str>>(dir: TempDir, socket: PathBuf, args: &[S]) -> Podop {
        let args = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
        let mut podop = Podop { child: spawn(&dir, &socket, &args), dir, args, socket };
        podop.wait_until_up();
        podop
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection to the socket, with a read timeout.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("podop listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        stream
    }

    /// One socketmap lookup on a connection of its own: the payload of the reply.
    pub fn lookup(&self, table: &str, key: &str) -> String {
        let mut stream = self.connect();
        String::from_utf8_lossy(&ask(&mut stream, table, key.as_bytes())).into_owned()
    }

    /// Twenty clients ask for keys of their own, of which a tenth begin with `none` and have no value; that of the others
    /// is the key behind `prefix`. All get what is theirs.
    pub fn look_up_at_once(&self, table: &str, prefix: &str) {
        std::thread::scope(|scope| {
            for thread in 0..20 {
                let mut stream = self.connect();
                scope.spawn(move || {
                    for at in 0..200 {
                        let key = format!("{}{thread}-{at}", if at % 10 == 0 { "none" } else { "key" });
                        let got = ask(&mut stream, table, key.as_bytes());
                        let expected = if at % 10 == 0 { "NOTFOUND ".to_owned() } else { format!("OK {prefix}{key}") };
                        assert_eq!(String::from_utf8_lossy(&got), expected);
                    }
                });
            }
        });
    }

    /// Everything that was logged so far, by all starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn signal(&self, number: i32) {
        signal(&self.child, number);
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + 3 * SOON;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < until, "podop does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the process gracefully, if it still runs, and starts it again.
    pub fn restart(&mut self) {
        if self.child.try_wait().expect("a child").is_none() {
            self.signal(libc::SIGTERM);
            self.wait();
        }
        self.child = spawn(&self.dir, &self.socket, &self.args);
        self.wait_until_up();
    }

    fn wait_until_up(&mut self) {
        let until = Instant::now() + SOON;
        while UnixStream::connect(&self.socket).is_err() {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none() && Instant::now() < until, "podop does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Podop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- podop's log\n{}", self.log());
        }
    }
}

fn spawn(dir: &TempDir, socket: &Path, args: &Vec<String>) -> Child {
    let log = File::options().create(true).append(true).open(dir.path().join("log")).expect("a log file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_podop"));
    command.arg("--socket").arg(socket).args(["--socket-mode", "0666", "-v"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("podop can be started")
}

/// Sends a signal to a child that was not waited for.
pub fn signal(child: &Child, number: i32) {
    // SAFETY: the child was not waited for, so the process id is its own.
    unsafe { libc::kill(child.id() as i32, number) };
}

/// Waits until something has happened.
pub fn wait_until(mut done: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < until, "it does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the program to its end.
pub fn run<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_podop")).args(args).output().expect("podop can be started")
}

/// Runs the program to its end, with this input.
pub fn run_with<S: AsRef<std::ffi::OsStr>>(args: &[S], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podop"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("podop can be started");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // On a thread, as the program writes while it reads.
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("podop ends");
    let _ = writing.join();
    output
}

/// One socketmap lookup: the payload of the reply.
pub fn ask(stream: &mut (impl Read + Write), table: &str, key: &[u8]) -> Vec<u8> {
    stream.write_all(&request(table, key)).expect("a request can be sent");
    reply(stream)
}

/// The netstring of a socketmap request.
pub fn request(table: &str, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    podop::wire::netstring::encode(&[table.as_bytes(), b" ", key], &mut out);
    out
}

/// Reads one netstring, and not a byte more.
pub fn reply(stream: &mut impl Read) -> Vec<u8> {
    let (mut length, mut byte) = (0, [0]);
    loop {
        stream.read_exact(&mut byte).expect("a reply");
        match byte[0] {
            b':' => break,
            digit => length = 10 * length + usize::from(digit - b'0'),
        }
    }
    let mut payload = vec![0; length + 1];
    stream.read_exact(&mut payload).expect("the whole reply");
    assert_eq!(payload.pop(), Some(b','));
    payload
}
