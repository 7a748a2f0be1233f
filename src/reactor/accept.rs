//! Listeners in the poll: connections are accepted in batches, and not while descriptors have run out.

use super::socket::Stream;
use crate::config::Mode;
use crate::listen::{Listener, ListenerSocket, SocketFile};
use crate::log;
use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

/// Connections accepted from one listener before others get their turn.
pub(super) const MAX_ACCEPTS: usize = 64;

/// Time until accepting is tried again after it failed, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listeners with the state of accepting from them.
pub(super) struct Acceptor {
    listeners: Vec<PolledListener>,
    /// Listeners that have more to accept, and the earliest time to do it. Their edge is not reported again.
    waiting: Vec<(usize, Instant)>,
    /// The last attempt to accept failed, which was logged.
    accept_paused: bool,
    /// Clients served at once; the remaining descriptors belong to backends and files.
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

    /// The next connection of a listener, while `open` clients are connected. `None` if there is none now; if there
    /// may be one later without another event, [`Acceptor::due`] names the listener then.
    pub(super) fn accept(&mut self, at: usize, open: u64, now: Instant) -> Option<(Stream, Mode)> {
        let listener = self.listeners.get(at)?;
        loop {
            // The reserve keeps descriptors for backends: a Podop that can accept but not ask is of no use.
            let accepted = match open < self.max_clients {
                true => listener.accept(),
                false => Err(io::Error::other("all descriptors for clients are taken")),
            };
            match accepted {
                Ok(stream) => return Some((stream, listener.mode)),
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.accept_paused = false;
                    return None;
                }
                Err(error) => {
                    // Mostly no descriptors left. The edge is not reported again, so time has to do it.
                    if !std::mem::replace(&mut self.accept_paused, true) {
                        log::warn(format_args!("accept-paused cause=\"{error}\""));
                    }
                    self.accept_later(at, now + ACCEPT_PAUSE);
                    return None;
                }
            }
        }
    }

    /// Has a listener served again, at the earliest at `from`.
    pub(super) fn accept_later(&mut self, at: usize, from: Instant) {
        if !self.waiting.iter().any(|(other, _)| *other == at) {
            self.waiting.push((at, from));
        }
    }

    /// A listener that is to be accepted from now.
    pub(super) fn due(&mut self, now: Instant) -> Option<usize> {
        let at = self.waiting.iter().position(|(_, from)| *from <= now)?;
        Some(self.waiting.swap_remove(at).0)
    }

    /// When [`Acceptor::due`] has a listener.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|(_, from)| *from).min()
    }

    /// Closes all listeners, and removes their files.
    pub(super) fn close(&mut self) {
        self.listeners.clear();
        self.waiting.clear();
    }
}
