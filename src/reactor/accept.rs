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

/// Descriptors that mail servers cannot take, so that backends can be reached, files read and the metrics listener
/// served: at most this many, and at most a quarter of all.
const RESERVE: u64 = 1_100;

/// Connections to the metrics listener served at once: at most this many, and at most an eighth of the reserve.
const MAX_ADMINS: u64 = 8;

/// Listeners with the state of accepting from them.
pub(super) struct Acceptor {
    listeners: Vec<PolledListener>,
    /// Listeners that have more to accept, and the earliest time to do it. Their edge is not reported again.
    waiting: Vec<(usize, Instant)>,
    /// Mail servers served at once.
    max_mail_servers: u64,
    /// Connections to the metrics listener served at once, with descriptors of the reserve.
    pub(super) max_admins: usize,
}

struct PolledListener {
    socket: PolledSocket,
    mode: Mode,
    /// The last attempt to accept failed, which was logged.
    paused: bool,
    /// Removed together with the listener.
    _file: Option<SocketFile>,
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
        let max_admins = (reserve / 8).clamp(1, MAX_ADMINS) as usize;
        Ok(Self { listeners, waiting: Vec::new(), max_mail_servers: descriptors - reserve, max_admins })
    }

    /// The next connection of a listener, while so many mail servers are connected. `None` if there is none now; if there
    /// may be one later without another event, [`Acceptor::due`] names the listener then.
    pub(super) fn accept(&mut self, at: usize, mail_servers: u64, now: Instant) -> Option<(Stream, Mode)> {
        let listener = self.listeners.get_mut(at)?;
        loop {
            // The reserve keeps descriptors for backends: a Podop that can accept but not ask is of no use. Health is
            // asked for most of all when mail servers have all the others.
            let accepted = match listener.mode == Mode::Admin || mail_servers < self.max_mail_servers {
                true => listener.accept(),
                false => Err(io::Error::other("all descriptors for clients are taken")),
            };
            match accepted {
                Ok(stream) => return Some((stream, listener.mode)),
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    listener.paused = false;
                    return None;
                }
                Err(error) => {
                    // Mostly no descriptors left. The edge is not reported again, so time has to do it.
                    if !std::mem::replace(&mut listener.paused, true) {
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

    /// The listeners that are to be accepted from now. All at once, so that each is served once in a turn.
    pub(super) fn due(&mut self, now: Instant) -> Vec<usize> {
        self.waiting.extract_if(.., |(_, from)| *from <= now).map(|(at, _)| at).collect()
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
