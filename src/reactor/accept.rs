//! Accepts connections from the listeners, in batches, and pauses when no descriptors are left.

use super::peers::MAX_CLIENTS;
use super::socket::Stream;
use crate::config::Mode;
use crate::listen::{Listener, ListenerSocket, SocketFile};
use crate::log;
use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

/// Maximum number of connections accepted from a listener in one turn.
// In batches, as Postfix fails at once with EAGAIN if the accept queue of a unix socket is full.
pub(super) const MAX_ACCEPTS: usize = 64;

/// Time until the next attempt after accepting has failed, mostly because no descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Descriptors that mail servers cannot take, so that backends can be reached, files read and the metrics listener
/// served: at most this many, and at most a quarter of all.
const RESERVE: u64 = 1_100;

/// Descriptors of the reserve that are not for backends: listeners, signals, files, name resolution, readers of metrics.
const OTHERS: u64 = 40;

/// Connections to the metrics listener served at once: at most this many, and at most an eighth of the reserve.
const MAX_ADMINS: u64 = 8;

/// The listeners, and which of them to accept from again.
pub(super) struct Acceptor {
    listeners: Vec<PolledListener>,
    /// Listeners to accept from again without an event, and the earliest time to do so.
    waiting: Vec<(usize, Instant)>,
    /// Mail servers served at once.
    max_mail_servers: u64,
    /// Descriptors of the reserve for connections to backends.
    pub(super) for_backends: usize,
    /// Connections to the metrics listener served at once, with descriptors of the reserve.
    pub(super) max_admins: usize,
}

struct PolledListener {
    // Removed together with the listener, and before it is closed, as in [`Listener`].
    _file: Option<SocketFile>,
    socket: PolledSocket,
    mode: Mode,
    /// The last attempt failed and was logged.
    // Once per shortage: attempts follow ten times a second.
    paused: bool,
}

enum PolledSocket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl PolledListener {
    fn new(listener: Listener) -> Self {
        let socket = match listener.socket {
            ListenerSocket::Unix(socket) => PolledSocket::Unix(UnixListener::from_std(socket)),
            ListenerSocket::Tcp(socket) => PolledSocket::Tcp(TcpListener::from_std(socket)),
        };
        Self { socket, mode: listener.mode, paused: false, _file: listener.file }
    }

    fn source(&mut self) -> &mut dyn Source {
        match &mut self.socket {
            PolledSocket::Unix(listener) => listener,
            PolledSocket::Tcp(listener) => listener,
        }
    }

    fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            PolledSocket::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            PolledSocket::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::of_tcp(stream)),
        }
    }
}

impl Acceptor {
    /// Registers the listeners under tokens from `first` on. At most `descriptors` may be open.
    pub(super) fn new(
        listeners: Vec<Listener>,
        descriptors: u64,
        first: usize,
        registry: &Registry,
    ) -> io::Result<Self> {
        let mut listeners: Vec<PolledListener> = listeners.into_iter().map(PolledListener::new).collect();
        for (at, listener) in listeners.iter_mut().enumerate() {
            registry.register(listener.source(), Token(first + at), Interest::READABLE)?;
        }
        let reserve = RESERVE.min(descriptors / 4);
        let for_backends = reserve.saturating_sub(OTHERS) as usize;
        let max_admins = (reserve / 8).clamp(1, MAX_ADMINS) as usize;
        Ok(Self {
            listeners,
            waiting: Vec::new(),
            max_mail_servers: (descriptors - reserve).min(MAX_CLIENTS),
            for_backends,
            max_admins,
        })
    }

    /// The next connection of a listener, while this many mail servers are connected; `None` if there is none.
    /// After a failure [`Acceptor::due`] returns the listener again, without another event.
    pub(super) fn accept(&mut self, at: usize, mail_servers: u64, now: Instant) -> Option<(Stream, Mode)> {
        let listener = self.listeners.get_mut(at)?;
        loop {
            // The reserve keeps descriptors for backends: a Podop that can accept but not ask is of no use. Health is
            // asked for most of all when mail servers have all the others.
            let accepted = match listener.mode == Mode::Admin || mail_servers < self.max_mail_servers {
                true => listener.accept(),
                false => Err(io::Error::other("all descriptors for clients are in use")),
            };
            match accepted {
                Ok(stream) => return Some((stream, listener.mode)),
                // The client has closed its connection already, but others may wait behind it.
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    listener.paused = false;
                    return None;
                }
                Err(error) => {
                    // The connection stays in the queue, and the kernel does not report it again: only a timer can.
                    if !std::mem::replace(&mut listener.paused, true) {
                        log::warn(format_args!("accept-paused cause=\"{error}\""));
                    }
                    self.accept_later(at, now + ACCEPT_PAUSE);
                    return None;
                }
            }
        }
    }

    /// Schedules another attempt for a listener, at the earliest at `from`.
    pub(super) fn accept_later(&mut self, at: usize, from: Instant) {
        // Further events may arrive while it waits; it is listed once.
        if !self.waiting.iter().any(|(other, _)| *other == at) {
            self.waiting.push((at, from));
        }
    }

    /// Removes and returns the listeners to accept from now. All at once, so that each is served once in a turn.
    pub(super) fn due(&mut self, now: Instant) -> Vec<usize> {
        if self.waiting.is_empty() {
            return Vec::new(); // as nearly always
        }
        self.waiting.extract_if(.., |(_, from)| *from <= now).map(|(at, _)| at).collect()
    }

    /// When [`Acceptor::due`] returns a listener.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|(_, from)| *from).min()
    }

    /// Closes all listeners, and removes their files.
    pub(super) fn close(&mut self) {
        self.listeners.clear();
        self.waiting.clear();
    }
}
