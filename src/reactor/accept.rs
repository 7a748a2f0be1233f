//! Accepts connections from the listeners, in batches, and pauses when no descriptors are left.

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

/// The listeners, and which of them to accept from again.
pub(super) struct Acceptor {
    listeners: Vec<PolledListener>,
    /// Listeners to accept from again without an event, and the earliest time to do so.
    waiting: Vec<(usize, Instant)>,
    /// The last attempt failed and was logged.
    // Once per shortage: attempts follow ten times a second.
    accept_paused: bool,
    /// Maximum number of clients; the other descriptors are reserved for backends and files.
    max_clients: u64,
}

struct PolledListener {
    // Removed together with the listener, and before it is closed, as in [`Listener`].
    _file: Option<SocketFile>,
    socket: PolledSocket,
    mode: Mode,
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
        Self { socket, mode: listener.mode, _file: listener.file }
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
    /// Registers the listeners under tokens from `first` on.
    pub(super) fn new(
        listeners: Vec<Listener>,
        max_clients: u64,
        first: usize,
        registry: &Registry,
    ) -> io::Result<Self> {
        let mut listeners: Vec<PolledListener> = listeners.into_iter().map(PolledListener::new).collect();
        for (at, listener) in listeners.iter_mut().enumerate() {
            registry.register(listener.source(), Token(first + at), Interest::READABLE)?;
        }
        Ok(Self { listeners, waiting: Vec::new(), accept_paused: false, max_clients })
    }

    /// The next connection of a listener, while `open` clients are connected; `None` if there is none. After a failure
    /// [`Acceptor::due`] returns the listener again, without another event.
    pub(super) fn accept(&mut self, at: usize, open: u64, now: Instant) -> Option<(Stream, Mode)> {
        let listener = self.listeners.get(at)?;
        loop {
            // The other descriptors are for backends, without which accepted clients could not be served.
            let accepted = match open < self.max_clients {
                true => listener.accept(),
                false => Err(io::Error::other("all descriptors for clients are in use")),
            };
            match accepted {
                Ok(stream) => return Some((stream, listener.mode)),
                // The client has closed its connection already, but others may wait behind it.
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.accept_paused = false;
                    return None;
                }
                Err(error) => {
                    // The connection stays in the queue, and the kernel does not report it again: only a timer can.
                    if !std::mem::replace(&mut self.accept_paused, true) {
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

    /// Removes and returns a listener to accept from now.
    pub(super) fn due(&mut self, now: Instant) -> Option<usize> {
        let at = self.waiting.iter().position(|(_, from)| *from <= now)?;
        Some(self.waiting.swap_remove(at).0)
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
