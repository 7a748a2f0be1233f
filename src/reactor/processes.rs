//! Processes of programs: started, signalled and waited for.

use super::peers::Peers;
use super::socket::Stream;
use crate::arena::Key;
use crate::io::{Peer, Program, ProgramSignal};
use crate::system;
use mio::Registry;
use mio::unix::pipe::{Receiver, Sender};
use std::collections::HashMap;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Variables that are meant for this process alone (sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)).
const OWN_VARIABLES: [&str; 6] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// The time for processes to end that were killed.
const KILL_TIME: Duration = Duration::from_secs(1);

/// The interval between two looks at processes that are to end, at a shutdown.
const END_INTERVAL: Duration = Duration::from_millis(5);

/// The processes that have not been waited for. Dropping this kills them.
#[derive(Default)]
pub(super) struct Processes {
    children: HashMap<Key, Child>,
}

impl Processes {
    /// Starts a process, whose pipes become peers.
    pub(super) fn start(
        &mut self,
        key: Key,
        program: &Program,
        peers: &mut Peers,
        registry: &Registry,
    ) -> io::Result<()> {
        let mut command = Command::new(program.words.first().map_or("", String::as_str));
        command.args(&program.words[1..]).envs(program.environment.iter().map(|(name, value)| (name, value)));
        for name in OWN_VARIABLES {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that signals reach what it starts, and those of a terminal only this process.
        command.process_group(0);
        system::prepare_child(&mut command);
        let mut child = command.spawn()?;
        let added = pipes(&mut child).and_then(|(data, stderr)| {
            peers.open(Peer::Program(key), Ok(data), false, registry)?;
            peers.open(Peer::Stderr(key), Ok(stderr), false, registry)
        });
        self.children.insert(key, child); // also if it cannot be used: it is to be waited for
        added.inspect_err(|_| self.signal(key, ProgramSignal::Kill))
    }

    /// Sends a signal to a process and all that it has started.
    pub(super) fn signal(&self, key: Key, signal: ProgramSignal) {
        if let Some(child) = self.children.get(&key) {
            system::signal_group(child.id(), signal == ProgramSignal::Kill);
        }
    }

    /// The processes that have ended, with what is to be said about it. What they have started ends, too.
    pub(super) fn ended(&mut self) -> Vec<(Key, String)> {
        let mut all = Vec::new();
        loop {
            let has_ended = |(key, child): (&Key, &Child)| match system::has_ended(child.id()) {
                Ok(false) => None,
                Ok(true) => Some((*key, true)),
                Err(_) => Some((*key, false)), // its number may be that of another process by now
            };
            let ended: Vec<(Key, bool)> = self.children.iter().filter_map(has_ended).collect();
            for (key, is_there) in ended {
                let Some(mut child) = self.children.remove(&key) else { continue };
                if is_there {
                    // Before it is waited for, which frees its number.
                    system::signal_group(child.id(), true);
                }
                all.push((key, child.wait().map_or_else(|error| error.to_string(), describe)));
            }
            if !system::reap_orphans(|pid| self.children.values().any(|child| child.id() == pid)) {
                return all;
            }
        }
    }

    /// Has all processes end, and kills those that are there at `deadline`, or once `is_forced`.
    pub(super) fn end_all(&mut self, deadline: Instant, mut is_forced: impl FnMut() -> bool) {
        self.children.values().for_each(|child| system::signal_group(child.id(), false));
        while !self.children.is_empty() && Instant::now() < deadline && !is_forced() {
            self.ended();
            if !self.children.is_empty() {
                sleep(END_INTERVAL);
            }
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.children.values().for_each(|child| system::signal_group(child.id(), true));
        let deadline = Instant::now() + KILL_TIME;
        // Even a process that is killed may not end, if the kernel waits for a device.
        while !self.children.is_empty() && Instant::now() < deadline {
            self.ended();
            sleep(END_INTERVAL);
        }
    }
}

/// The pipes of a process: its stdin and stdout, and its stderr.
fn pipes(child: &mut Child) -> io::Result<(Stream, Stream)> {
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("a pipe is missing"));
    };
    let (stdin, stdout, stderr) = (Sender::from(stdin), Receiver::from(stdout), Receiver::from(stderr));
    stdin.set_nonblocking(true)?;
    stdout.set_nonblocking(true)?;
    stderr.set_nonblocking(true)?;
    Ok((Stream::Process(stdin, stdout), Stream::Pipe(stderr)))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
