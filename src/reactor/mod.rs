//! The event loop: owns the sockets and reads the clock; all decisions are made by the engine.

mod accept;
mod peers;
mod processes;
mod resolve;
mod shutdown;
mod socket;

use crate::arena::Key;
use crate::backend::CheckResult;
use crate::client::MAX_OPEN;
use crate::config::Mode;
use crate::engine::{Engine, ProbeResult};
use crate::io::{Action, Address, DnsAddress, End, Peer, Program};
use crate::listen::Listener;
use crate::log;
use crate::notify::Notifier;
use crate::system::{Signal, Signals};
use crate::timers::earliest;
use accept::{Acceptor, MAX_ACCEPTS};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use peers::{Peers, token};
use processes::Processes;
use resolve::NameResolver;
use shutdown::Shutdown;
use socket::{ReadResult, Stream};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Size of the read buffer in bytes.
// A request or a response almost always fits, and one read is enough for it.
const CHUNK: usize = 64 * 1024;

/// Maximum number of reads from one connection before others get their turn.
const MAX_READS: usize = 4;

// Tokens above those of connections, whose upper half is an age and a bit for the side.
const SIGNALS: Token = Token(usize::MAX);
const RESOLVED: Token = Token(usize::MAX - 1);
const LISTENERS: usize = usize::MAX - 1_000_000;

/// The loop around an engine.
pub struct Reactor {
    engine: Engine,
    poll: Poll,
    acceptor: Acceptor,
    peers: Peers,
    processes: Processes,
    signals: Signals,
    notifier: Notifier,
    resolver: NameResolver,
    chunk: Box<[u8]>,
    /// Sockets to read from in the next turn.
    again: Vec<Peer>,
    now: Instant,
    shutdown: Shutdown,
    drain_timeout: Duration,
}

impl Reactor {
    /// `drain_timeout` limits the time for requests in flight at a shutdown; `descriptors` is the descriptor limit.
    pub fn new(
        mut engine: Engine,
        listeners: Vec<Listener>,
        signals: Signals,
        drain_timeout: Duration,
        descriptors: u64,
    ) -> io::Result<Reactor> {
        let poll = Poll::new()?;
        let descriptors = descriptors - (engine.process_descriptors() as u64).min(descriptors / 2);
        let acceptor = Acceptor::new(listeners, descriptors, LISTENERS, poll.registry())?;
        engine.set_backend_descriptors(acceptor.for_backends);
        poll.registry().register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
        Ok(Reactor {
            resolver: NameResolver::new(Waker::new(poll.registry(), RESOLVED)?),
            engine,
            poll,
            acceptor,
            peers: Peers::default(),
            processes: Processes::default(),
            signals,
            notifier: Notifier::from_environment(Instant::now()),
            chunk: vec![0; CHUNK].into_boxed_slice(),
            again: Vec::new(),
            now: Instant::now(),
            shutdown: Shutdown::default(),
            drain_timeout,
        })
    }

    /// Serves until a signal requests a shutdown, and then until no request is in flight or the drain timeout is over.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(MAX_OPEN);
        self.now = Instant::now();
        // Before the first request, which would otherwise wait for it.
        self.engine.start(self.now);
        self.notifier.ready(&self.engine.summary(self.now), self.now);
        self.act(); // sends off the resolutions, before the first wait
        while !self.turn(&mut events)? {}
        self.peers = Peers::default(); // clients find out now, and not when the last process has ended
        self.processes.end_all(self.shutdown.deadline().unwrap_or(self.now), || self.signals.take_stop());
        Ok(())
    }

    /// Connects to each backend, looks up a key in each table, and returns the results; `None` if a signal interrupts it.
    pub fn check(&mut self, key: Option<&[u8]>) -> io::Result<Option<(Vec<CheckResult>, Vec<ProbeResult>)>> {
        let mut events = Events::with_capacity(MAX_OPEN);
        self.now = Instant::now();
        self.engine.check(key, self.now);
        self.act();
        loop {
            if let Some(results) = self.engine.check_results(self.now) {
                return Ok(Some(results));
            }
            if self.turn(&mut events)? {
                return Ok(None);
            }
        }
    }

    /// One turn of the loop: waits for events, handles them and carries out actions. True at the end of a shutdown.
    fn turn(&mut self, events: &mut Events) -> io::Result<bool> {
        let timeout = self.timeout();
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        self.now = Instant::now();
        for event in &*events {
            self.on_event(event);
        }
        // Taken out first: a socket that is not drained now is added again, for the next turn.
        for peer in std::mem::take(&mut self.again) {
            self.read(peer);
        }
        if self.engine.has_resumable() {
            self.engine.resume(self.now);
        }
        self.acceptor.due(self.now).into_iter().for_each(|listener| self.accept(listener));
        if self.shutdown.begins_to_drain(self.now) {
            self.engine.drain();
        }
        self.act();
        self.notifier.turn(|| self.engine.summary(self.now), self.now);
        Ok(self.shutdown.is_over(|| self.engine.is_drained(), self.now))
    }

    fn timeout(&mut self) -> Option<Duration> {
        // Work was deferred to this turn, for which no event will arrive.
        if !self.again.is_empty() || self.engine.has_resumable() {
            return Some(Duration::ZERO);
        }
        let Self { engine, shutdown, acceptor, notifier, .. } = self;
        let next = [engine.deadline(), shutdown.deadline(), acceptor.deadline(), notifier.deadline()];
        // mio rounds up to the whole milliseconds of the kernel, which avoids a turn in which nothing is due yet.
        earliest(next).map(|at| at.saturating_duration_since(self.now))
    }

    fn on_event(&mut self, event: &Event) {
        match event.token() {
            SIGNALS => self.on_signal(),
            RESOLVED => {
                while let Some((name, answer)) = self.resolver.next() {
                    self.engine.resolved(name, answer, self.now);
                }
            }
            Token(token) if token >= LISTENERS => self.accept(token - LISTENERS),
            token => self.on_socket_event(self.peers.of(token), event),
        }
    }

    fn on_socket_event(&mut self, peer: Peer, event: &Event) {
        let Some(socket) = self.peers.get(peer) else { return }; // closed earlier in this turn
        let has_room = socket.on_event(event);
        if socket.connecting {
            return self.on_connect_event(peer);
        }
        if has_room {
            self.flush(peer);
        }
        self.read(peer);
    }

    fn on_connect_event(&mut self, peer: Peer) {
        let now = self.now;
        let Some(socket) = self.peers.get(peer) else { return };
        match socket.connect_result() {
            None => {}
            Some(Ok(())) => {
                let readable = socket.readable;
                self.engine.connected(peer, now);
                if readable {
                    self.read(peer); // the kernel does not report this edge again
                }
            }
            Some(Err(error)) => self.engine.ended(peer, End::Closed(Some(error.kind())), now),
        }
    }

    /// Reads what has arrived, at most [`MAX_READS`] times. True if there was anything.
    fn read(&mut self, peer: Peer) -> bool {
        let mut any = false;
        for _ in 0..MAX_READS {
            // Checked before each read, as the requests of the last one may have filled the output of a client.
            if !self.engine.wants_input(peer) {
                // What a backend has sent before it closed is read once it is wanted.
                if matches!(peer, Peer::Client(_)) && self.peers.get(peer).is_some_and(|socket| socket.closed) {
                    self.engine.ended(peer, End::Closed(None), self.now);
                }
                return any;
            }
            let Some(socket) = self.peers.get(peer).filter(|socket| socket.readable && !socket.connecting) else {
                return any;
            };
            match socket.read(&mut self.chunk) {
                ReadResult::Data { count, more } => {
                    any = true;
                    if self.engine.received(peer, &self.chunk[..count], self.now) {
                        crate::secret::overwrite(&mut self.chunk[..count]);
                    }
                    if !more {
                        return any;
                    }
                }
                ReadResult::WouldBlock => return any,
                ReadResult::End => {
                    // A client that only closed its sending side still gets its replies.
                    let end = if socket.closed { End::Closed(None) } else { End::HalfClosed };
                    self.engine.ended(peer, end, self.now);
                    return any;
                }
                ReadResult::Failed(kind) => {
                    self.engine.ended(peer, End::Closed(Some(kind)), self.now);
                    return any;
                }
            }
        }
        if self.peers.get(peer).is_some_and(|socket| socket.readable) {
            self.again.push(peer);
        }
        any
    }

    /// Reads what may have arrived since the last event. Several times, as TLS tickets may precede the end of stream.
    fn read_unreported(&mut self, peer: Peer) {
        for _ in 0..MAX_READS {
            if let Some(socket) = self.peers.get(peer) {
                socket.readable = true;
            }
            if !self.read(peer) {
                return;
            }
        }
    }

    /// Carries out the engine's actions until there are none.
    fn act(&mut self) {
        loop {
            self.engine.process(self.now);
            while let Some(action) = self.engine.next_action() {
                self.carry_out(action);
            }
            if !self.engine.has_pending() {
                return;
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Flush(peer) => self.flush(peer),
            Action::Resume(peer) => self.again.push(peer), // in the next turn, after all others
            Action::Connect(key, address) => self.connect(Peer::Backend(key), &address),
            Action::CloseNotify(key, bytes) => {
                if let Some(socket) = self.peers.get(Peer::Backend(key)).filter(|socket| socket.can_write()) {
                    let _ = socket.write(&bytes); // a courtesy: the connection is closed in any case
                }
            }
            Action::OpenDns(key, address) => {
                self.open(Peer::Dns(key), Stream::open_dns(address), matches!(address, DnsAddress::Tcp(_)));
            }
            Action::Start(key, program) => self.start(key, &program),
            Action::Signal(key, signal) => self.processes.signal(key, signal),
            Action::Close(peer) => self.peers.remove(peer),
            Action::Resolve { name, host, port } => {
                if let Err(error) = self.resolver.request(name, host, port) {
                    self.engine.resolved(name, Err(error.to_string()), self.now);
                }
            }
        }
    }

    /// Writes as much as the kernel takes. What it does not take waits for a writable edge.
    fn flush(&mut self, peer: Peer) {
        // A write must not be sent on a connection that the backend has closed: it could not be repeated.
        if self.engine.needs_check(peer) {
            self.read_unreported(peer);
        } else if matches!(peer, Peer::Backend(_) | Peer::Program(_))
            && self.peers.get(peer).is_some_and(|socket| socket.readable)
        {
            self.read(peer); // what has arrived already is no response to the request that is sent now
        }
        let Some(socket) = self.peers.get(peer) else { return };
        if socket.can_write() {
            let output = self.engine.output(peer);
            if !output.is_empty() {
                match socket.write(output) {
                    // Also for 0 bytes, so that a client that reads nothing is closed in the end.
                    Ok(count) => self.engine.sent(peer, count, self.now),
                    Err(error) => {
                        if matches!(peer, Peer::Backend(_)) {
                            self.read_unreported(peer); // it may have refused the rest of a body
                        }
                        return self.engine.ended(peer, End::Closed(Some(error.kind())), self.now);
                    }
                }
            }
        }
        if let Err(error) = socket.update_interest(token(peer), self.poll.registry()) {
            self.engine.ended(peer, End::Closed(Some(error.kind())), self.now);
        }
    }

    fn connect(&mut self, peer: Peer, address: &Address) {
        let tcp = matches!(address, Address::Tcp(_));
        // A unix socket is connected at once, or the call fails; with TCP, an event reports the result.
        if self.open(peer, Stream::connect(address), tcp) && !tcp {
            self.engine.connected(peer, self.now);
        }
    }

    /// Adds a stream that was opened, or reports that it was not. True if it was.
    fn open(&mut self, peer: Peer, stream: io::Result<Stream>, connecting: bool) -> bool {
        let error = self.peers.open(peer, stream, connecting, self.poll.registry()).err().map(|error| error.kind());
        error.into_iter().for_each(|kind| self.engine.ended(peer, End::Closed(Some(kind)), self.now));
        error.is_none()
    }

    fn accept(&mut self, listener: usize) {
        for _ in 0..MAX_ACCEPTS {
            let mail_servers = self.peers.clients().saturating_sub(self.engine.admins() as u64);
            let Some((stream, mode)) = self.acceptor.accept(listener, mail_servers, self.now) else { return };
            let peer = self.engine.accepted(mode, self.now);
            self.open(peer, Ok(stream), false);
            if mode == Mode::Admin {
                self.engine.limit_admins(self.acceptor.max_admins);
                break; // what it has closed goes first
            }
        }
        // The queue may hold more, but the kernel does not report this edge again.
        self.acceptor.accept_later(listener, self.now);
    }

    fn on_signal(&mut self) {
        while let Some(signal) = self.signals.take() {
            match signal {
                Signal::Stop => self.shut_down(),
                Signal::Reload => {
                    log::notice(format_args!("reload arguments=unchanged"));
                    self.notifier.reloading();
                    self.engine.reload();
                    self.notifier.ready(&self.engine.summary(self.now), self.now);
                }
                Signal::Dump => self.engine.dump(),
                Signal::Child => self.on_child(),
            }
        }
    }

    fn start(&mut self, key: Key, program: &Program) {
        if let Err(error) = self.processes.start(key, program, &mut self.peers, self.poll.registry()) {
            self.engine.exited(key, &format!("cannot be started: {error}"), self.now);
        }
    }

    fn on_child(&mut self) {
        for (key, status) in self.processes.ended() {
            self.engine.ended(Peer::Program(key), End::Closed(None), self.now);
            self.read_unreported(Peer::Program(key));
            self.read_unreported(Peer::Stderr(key));
            self.engine.exited(key, &status, self.now);
        }
    }

    /// Begins a shutdown; a second request forces it.
    fn shut_down(&mut self) {
        if self.shutdown.is_running() {
            log::info(format_args!("shutdown"));
            self.notifier.stopping();
            self.acceptor.close();
        } else {
            log::warn(format_args!("shutdown forced=yes"));
        }
        self.shutdown.request(self.peers.clients() > 0, self.now + self.drain_timeout, self.now);
    }
}
