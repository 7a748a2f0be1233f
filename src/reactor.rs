//! The reactor: owns the sockets, reads the clock, and decides nothing.

use crate::arena::{AGES, Key};
use crate::backend::Address;
use crate::client::MAX_OPEN;
use crate::config::Mode;
use crate::engine::{Action, End, Engine, Peer};
use crate::listen::{self, Listener, SocketFile};
use crate::log;
use crate::notify::Notifier;
use crate::system::{Signal, Signals};
use mio::event::{Event, Source};
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Bytes read at once: a request or an answer almost always fits.
const CHUNK: usize = 64 * 1024;

/// A busy connection gives way to the others after so many reads.
const READS: usize = 4;

/// So many connections are accepted before others get their turn.
const ACCEPTS: usize = 64;

/// Descriptors that clients cannot take, so that backends can be reached and files read: at most so many,
/// and at most a quarter of all.
const RESERVE: u64 = 1_100;

/// When descriptors have run out, accepting is tried again after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is connected when a stop is asked for may ask for so long: whoever has just come has not sent anything yet, and
/// `postmap` dies if it writes to a connection that was closed.
const GRACE: Duration = Duration::from_millis(100);

const SIGNALS: Token = Token(usize::MAX);
const RESOLVED: Token = Token(usize::MAX - 1);
const LISTENERS: usize = usize::MAX - 1_000_000;
const BACKEND: usize = (AGES as usize) << 32;

/// A listener in the poll.
struct BoundListener {
    socket: ListenerSocket,
    mode: Mode,
    /// The file of a unix socket goes with the listener.
    _file: Option<SocketFile>,
}

enum ListenerSocket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl BoundListener {
    fn new(listener: Listener) -> BoundListener {
        let socket = match listener.socket {
            listen::Socket::Unix(socket) => ListenerSocket::Unix(UnixListener::from_std(socket)),
            listen::Socket::Tcp(socket) => ListenerSocket::Tcp(TcpListener::from_std(socket)),
        };
        BoundListener { socket, mode: listener.mode, _file: listener.file }
    }

    fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            ListenerSocket::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            ListenerSocket::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                let _ = stream.set_nodelay(true); // only slower without
                Ok(Stream::Tcp(stream))
            }
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match &mut self.socket {
            ListenerSocket::Unix(listener) => listener,
            ListenerSocket::Tcp(listener) => listener,
        }
    }
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Stream::Unix(stream) => stream,
            Stream::Tcp(stream) => stream,
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(into),
            Stream::Tcp(stream) => stream.read(into),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Tcp(stream) => stream.write(bytes),
        }
    }

    /// What became of a connection attempt: `None` while it goes on.
    fn outcome(&self) -> Option<io::Result<()>> {
        match self {
            Stream::Unix(_) => Some(Ok(())),
            Stream::Tcp(stream) => match stream.take_error() {
                Ok(None) => match stream.peer_addr() {
                    Ok(_) => Some(Ok(())),
                    Err(error) if error.kind() == ErrorKind::NotConnected => None,
                    Err(error) => Some(Err(error)),
                },
                Ok(Some(error)) | Err(error) => Some(Err(error)),
            },
        }
    }
}

/// A socket with what the last events said of it. Edges are told only once, so they are kept here.
struct SocketState {
    age: u32,
    socket: Stream,
    readable: bool,
    writable: bool,
    /// The peer sends no more; what it has sent is still to be read.
    half_closed: bool,
    /// The connection is closed in both directions.
    closed: bool,
    connecting: bool,
    /// Told of writability. A unix socket becomes writable with each reply that its peer reads, so
    /// that is only asked for while it is full.
    write_interest: bool,
}

impl SocketState {
    fn new(key: Key, socket: Stream) -> Self {
        Self {
            age: key.age,
            socket,
            readable: false,
            writable: true,
            half_closed: false,
            closed: false,
            connecting: false,
            write_interest: false,
        }
    }
}

/// Sockets by the keys of the engine.
#[derive(Default)]
struct Sockets {
    slots: Vec<Option<SocketState>>,
    /// How many there are.
    open: u64,
}

impl Sockets {
    fn get(&mut self, key: Key) -> Option<&mut SocketState> {
        self.slots.get_mut(key.index as usize)?.as_mut().filter(|io| io.age == key.age)
    }

    fn put(&mut self, key: Key, io: SocketState) {
        let index = key.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        // Within a turn a slot may be used again before its last socket is closed, which happens here then.
        let before = self.slots[index].replace(io);
        self.open += u64::from(before.is_none());
    }

    /// Closes a socket; closing takes it out of the poll as well.
    fn drop(&mut self, key: Key) {
        if self.get(key).is_some() {
            self.slots[key.index as usize] = None;
            self.open -= 1;
        }
    }
}

/// A host to resolve, and what came of it.
type NameRequest = (usize, String, u16);
type Resolved = (usize, Result<Vec<SocketAddr>, String>);

/// The loop around an engine.
pub struct Reactor {
    engine: Engine,
    poll: Poll,
    listeners: Vec<BoundListener>,
    clients: Sockets,
    backends: Sockets,
    signals: Signals,
    notifier: Notifier,
    questions: mpsc::Sender<NameRequest>,
    answers: mpsc::Receiver<Resolved>,
    chunk: Box<[u8]>,
    /// Sockets that have more to read but had to give way.
    again: Vec<Peer>,
    /// Listeners that have more to accept, and from when on.
    waiting: Vec<(usize, Instant)>,
    /// The last attempt to accept failed, which was told.
    accept_paused: bool,
    /// So many clients are served at once.
    most_clients: u64,
    now: Instant,
    /// When what is in flight has to be done, once a stop was asked for.
    stop: Option<Instant>,
    /// Until then those who are connected may still ask, once a stop was asked for.
    last_orders: Option<Instant>,
    patience: Duration,
}

impl Reactor {
    /// `patience` is how long a stop waits for what is in flight; `descriptors` is how many may be open.
    pub fn new(
        engine: Engine,
        listeners: Vec<Listener>,
        signals: Signals,
        patience: Duration,
        descriptors: u64,
    ) -> io::Result<Reactor> {
        let poll = Poll::new()?;
        let mut listeners: Vec<BoundListener> = listeners.into_iter().map(BoundListener::new).collect();
        for (at, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener.source(), Token(LISTENERS + at), Interest::READABLE)?;
        }
        poll.registry().register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
        let (questions, answers) = resolver(Waker::new(poll.registry(), RESOLVED)?)?;
        Ok(Reactor {
            engine,
            poll,
            listeners,
            clients: Sockets::default(),
            backends: Sockets::default(),
            signals,
            notifier: Notifier::from_environment(Instant::now()),
            questions,
            answers,
            chunk: vec![0; CHUNK].into_boxed_slice(),
            again: Vec::new(),
            waiting: Vec::new(),
            accept_paused: false,
            most_clients: descriptors - RESERVE.min(descriptors / 4),
            now: Instant::now(),
            stop: None,
            last_orders: None,
            patience,
        })
    }

    /// Serves until a signal says to stop and what is in flight is done, or its time is over.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(MAX_OPEN);
        self.now = Instant::now();
        self.engine.resolve_all(self.now);
        let mut first = Some(Duration::ZERO); // there is something to do already
        self.notifier.ready(&self.engine.summary(self.now), self.now);
        loop {
            let timeout = first.take().or_else(|| self.timeout());
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.now = Instant::now();
            for event in &events {
                self.event(event);
            }
            for peer in std::mem::take(&mut self.again) {
                self.read(peer);
            }
            self.accept_waiting();
            if self.last_orders.is_some_and(|until| until <= self.now) {
                self.last_orders = None;
                self.engine.stop();
            }
            self.act();
            self.notifier.turn(|| self.engine.summary(self.now), self.now);
            let drained = self.last_orders.is_none() && self.engine.is_drained();
            if self.stop.is_some_and(|until| drained || until <= self.now) {
                return Ok(());
            }
        }
    }

    fn timeout(&mut self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let accept = self.waiting.iter().map(|(_, at)| *at).min();
        let next = [self.engine.deadline(self.now), self.stop, accept, self.last_orders, self.notifier.deadline()];
        let next = next.into_iter().flatten().min();
        // The kernel counts whole milliseconds; rounding up avoids a turn in which nothing is due yet.
        next.map(|at| at.saturating_duration_since(self.now))
    }

    fn event(&mut self, event: &Event) {
        match event.token() {
            SIGNALS => self.signal(),
            RESOLVED => {
                while let Ok((name, answer)) = self.answers.try_recv() {
                    self.engine.resolved(name, answer, self.now);
                }
            }
            Token(token) if token >= LISTENERS => self.accept(token - LISTENERS),
            token => self.socket_event(peer(token), event),
        }
    }

    fn socket_event(&mut self, peer: Peer, event: &Event) {
        let Some(io) = self.io(peer) else { return }; // closed earlier in this turn
        let full = !io.writable;
        io.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        io.writable |= event.is_writable() || event.is_error();
        let drained = full && io.writable; // an event also tells what has long been known
        io.half_closed |= event.is_read_closed();
        io.closed |= event.is_write_closed();
        if io.connecting {
            return self.connect_event(peer);
        }
        if drained {
            self.flush(peer);
        }
        self.read(peer);
    }

    fn connect_event(&mut self, peer: Peer) {
        let (now, Peer::Backend(key)) = (self.now, peer) else { return };
        let Some(io) = self.backends.get(key) else { return };
        match io.socket.outcome() {
            None => {}
            Some(Ok(())) => {
                io.connecting = false;
                let readable = io.readable;
                self.engine.connected(key, now);
                if readable {
                    self.read(peer); // that edge is not told again
                }
            }
            Some(Err(error)) => self.engine.ended(peer, End::Gone(Some(error.kind())), now),
        }
    }

    fn io(&mut self, peer: Peer) -> Option<&mut SocketState> {
        match peer {
            Peer::Client(key) => self.clients.get(key),
            Peer::Backend(key) => self.backends.get(key),
        }
    }

    /// Reads what there is. A read that returned less than it could is not followed by another, unless
    /// the peer has closed: that edge is not told again. Returns whether there was anything.
    fn read(&mut self, peer: Peer) -> bool {
        let mut any = false;
        for _ in 0..READS {
            if !self.engine.wants_input(peer) {
                self.refuse(peer);
                return any;
            }
            let sockets = if let Peer::Client(_) = peer { &mut self.clients } else { &mut self.backends };
            let (Peer::Client(key) | Peer::Backend(key)) = peer;
            let Some(io) = sockets.get(key).filter(|io| io.readable && !io.connecting) else { return any };
            match io.socket.read(&mut self.chunk) {
                Ok(0) => {
                    io.readable = false;
                    let end = if io.closed { End::Gone(None) } else { End::Sending };
                    self.engine.ended(peer, end, self.now);
                    return any;
                }
                Ok(count) => {
                    any = true;
                    let more = count == CHUNK || io.half_closed;
                    io.readable = more;
                    self.engine.received(peer, &self.chunk[..count], self.now);
                    if !more {
                        return any;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => io.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.engine.ended(peer, End::Gone(Some(error.kind())), self.now);
                    return any;
                }
            }
        }
        if self.io(peer).is_some_and(|io| io.readable) {
            self.again.push(peer);
        }
        any
    }

    /// Reads what may have come that was not told of yet; more than once, as what TLS says for itself may stand in front
    /// of the end.
    fn check(&mut self, peer: Peer) {
        for _ in 0..READS {
            if let Some(io) = self.io(peer) {
                io.readable = true;
            }
            if !self.read(peer) {
                return;
            }
        }
    }

    /// Nothing more is read from this peer now; but if it is closed altogether that has to be told.
    fn refuse(&mut self, peer: Peer) {
        if self.io(peer).is_some_and(|io| io.closed) {
            self.engine.ended(peer, End::Gone(None), self.now);
        }
    }

    /// Carries out what the engine wants until it wants nothing more.
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
            Action::Resume(peer) => drop(self.read(peer)),
            Action::Connect(key, address) => self.connect(key, &address),
            Action::Part(key, last) => {
                if let Some(io) = self.backends.get(key).filter(|io| io.writable && !io.connecting) {
                    let _ = io.socket.write(&last); // the peer does without, if it must
                }
            }
            Action::Close(Peer::Client(key)) => self.clients.drop(key),
            Action::Close(Peer::Backend(key)) => self.backends.drop(key),
            Action::Resolve { name, host, port } => {
                if self.questions.send((name, host, port)).is_err() {
                    self.engine.resolved(name, Err("the resolver has ended".to_owned()), self.now);
                }
            }
        }
    }

    /// Writes as much as the kernel takes. What it does not take waits for a writable edge.
    fn flush(&mut self, peer: Peer) {
        if self.engine.needs_check(peer) {
            self.check(peer);
        } else if matches!(peer, Peer::Backend(_)) && self.io(peer).is_some_and(|io| io.readable) {
            self.read(peer); // what is there already is no answer to what leaves now
        }
        let (Peer::Client(key) | Peer::Backend(key)) = peer;
        let sockets = if let Peer::Client(_) = peer { &mut self.clients } else { &mut self.backends };
        let Some(io) = sockets.get(key) else { return };
        while io.writable && !io.connecting {
            let output = self.engine.output(peer);
            if output.is_empty() {
                break;
            }
            match io.socket.write(output) {
                Ok(count) => {
                    // Less than all means that the kernel is full; the edge comes when it is not.
                    io.writable = count == output.len();
                    self.engine.sent(peer, count, self.now);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    io.writable = false;
                    self.engine.sent(peer, 0, self.now); // a peer that reads nothing is not waited for for ever
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.engine.ended(peer, End::Gone(Some(error.kind())), self.now),
            }
        }
        let full = !io.writable;
        if full != io.write_interest && matches!(io.socket, Stream::Unix(_)) {
            let interest = if full { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            io.write_interest = full;
            if let Err(error) = self.poll.registry().reregister(io.socket.source(), token(peer), interest) {
                self.engine.ended(peer, End::Gone(Some(error.kind())), self.now);
            }
        }
    }

    fn connect(&mut self, key: Key, address: &Address) {
        let peer = Peer::Backend(key);
        let socket = match address {
            Address::Tcp(address) => TcpStream::connect(*address).map(|stream| {
                let _ = stream.set_nodelay(true); // only slower without
                Stream::Tcp(stream)
            }),
            Address::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
        };
        let tcp = matches!(address, Address::Tcp(_));
        let added = socket.and_then(|socket| self.add(peer, socket, tcp));
        match added {
            Err(error) => self.engine.ended(peer, End::Gone(Some(error.kind())), self.now),
            Ok(()) if tcp => {} // an event tells
            Ok(()) => self.engine.connected(key, self.now),
        }
    }

    /// Registers a socket once for all. A TCP socket is told of both directions: it becomes writable
    /// only after it was full.
    fn add(&mut self, peer: Peer, mut socket: Stream, connecting: bool) -> io::Result<()> {
        let tcp = matches!(socket, Stream::Tcp(_));
        let interest = if tcp { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.poll.registry().register(socket.source(), token(peer), interest)?;
        let (Peer::Client(key) | Peer::Backend(key)) = peer;
        let io = SocketState { connecting, write_interest: tcp, ..SocketState::new(key, socket) };
        match peer {
            Peer::Client(key) => self.clients.put(key, io),
            Peer::Backend(key) => self.backends.put(key, io),
        }
        Ok(())
    }

    fn accept(&mut self, at: usize) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.get(at) else { return };
            let accepted = match self.clients.open < self.most_clients {
                true => listener.accept(),
                false => Err(io::Error::other("all descriptors for clients are taken")),
            };
            match accepted {
                Ok(socket) => {
                    let peer = self.engine.accepted(listener.mode);
                    if let Err(error) = self.add(peer, socket, false) {
                        self.engine.ended(peer, End::Gone(Some(error.kind())), self.now);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.accept_paused = false;
                    return;
                }
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    // Mostly no descriptors left. The edge is not told again, so time has to.
                    if !std::mem::replace(&mut self.accept_paused, true) {
                        log::warn(format_args!("accept-paused cause=\"{error}\""));
                    }
                    return self.accept_later(at, self.now + ACCEPT_PAUSE);
                }
            }
        }
        self.accept_later(at, self.now);
    }

    fn accept_later(&mut self, at: usize, from: Instant) {
        if !self.waiting.iter().any(|(other, _)| *other == at) {
            self.waiting.push((at, from));
        }
    }

    fn accept_waiting(&mut self) {
        for (at, from) in std::mem::take(&mut self.waiting) {
            if from <= self.now {
                self.accept(at);
            } else {
                self.waiting.push((at, from));
            }
        }
    }

    fn signal(&mut self) {
        while let Some(signal) = self.signals.take() {
            match signal {
                Signal::Stop if self.stop.is_some() => {
                    log::warn(format_args!("shutdown forced=yes"));
                    self.stop = Some(self.now);
                }
                Signal::Stop => {
                    log::info(format_args!("shutdown"));
                    self.notifier.stopping();
                    self.listeners.clear();
                    self.waiting.clear();
                    self.engine.leave();
                    self.last_orders = Some(self.now + if self.clients.open > 0 { GRACE } else { Duration::ZERO });
                    self.stop = Some(self.now + self.patience);
                }
                Signal::Reload => {
                    log::notice(format_args!("reload"));
                    self.notifier.reloading();
                    self.engine.reload();
                    self.notifier.ready(&self.engine.summary(self.now), self.now);
                }
                Signal::Dump => self.engine.dump(),
            }
        }
    }
}

/// Starts the thread that resolves names, as getaddrinfo(3) blocks.
fn resolver(waker: Waker) -> io::Result<(mpsc::Sender<NameRequest>, mpsc::Receiver<Resolved>)> {
    let (questions, asked) = mpsc::channel::<NameRequest>();
    let (answered, answers) = mpsc::channel();
    std::thread::Builder::new().name("resolver".to_owned()).stack_size(256 * 1024).spawn(move || {
        for (name, host, port) in asked {
            let answer = (host.as_str(), port).to_socket_addrs();
            let answer = answer.map(Iterator::collect).map_err(|error| error.to_string());
            if answered.send((name, answer)).is_err() || waker.wake().is_err() {
                return;
            }
        }
    })?;
    Ok((questions, answers))
}

/// The token of a connection: one bit for the side, the age and the index of its key.
fn token(peer: Peer) -> Token {
    let (key, side) = match peer {
        Peer::Client(key) => (key, 0),
        Peer::Backend(key) => (key, BACKEND),
    };
    Token(side | (key.age as usize) << 32 | key.index as usize)
}

fn peer(token: Token) -> Peer {
    let key = Key { index: token.0 as u32, age: (token.0 >> 32) as u32 % AGES };
    if token.0 & BACKEND == 0 { Peer::Client(key) } else { Peer::Backend(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_whose_slot_is_used_again_before_it_is_closed_is_counted_once() {
        let mut sockets = Sockets::default();
        let socket = || Stream::Unix(UnixStream::pair().unwrap().0);
        let keys = [Key { index: 0, age: 0 }, Key { index: 0, age: 1 }];
        keys.iter().for_each(|key| sockets.put(*key, SocketState::new(*key, socket())));
        assert_eq!(sockets.open, 1);
        sockets.drop(keys[0]);
        assert!(sockets.get(keys[1]).is_some());
        sockets.drop(keys[1]);
        assert_eq!(sockets.open, 0);
    }

    #[test]
    fn a_token_names_its_peer() {
        let key = Key { index: 7, age: AGES - 1 };
        for one in [Peer::Client(key), Peer::Backend(key), Peer::Backend(Key { index: 0, age: 0 })] {
            assert_eq!(peer(token(one)), one);
            assert!(token(one).0 < LISTENERS);
        }
    }
}
