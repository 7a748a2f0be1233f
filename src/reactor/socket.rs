//! Sockets with their readiness: an edge is reported once, and remembered until the socket is drained or full.

use crate::arena::{AGES, Key};
use crate::io::{Address, Peer};
use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};

/// The bit of a token that marks a backend connection.
const BACKEND: usize = 1 << (usize::BITS - 1);

/// The bits of a token that hold the index of a key; those above, up to that of the side, hold its age.
const INDEX_BITS: u32 = if usize::BITS < 64 { 20 } else { 32 };

/// Ages wrap at this number in tokens: as in keys, or earlier where a token has 32 bits.
// No event is older than one turn, in which no slot is reused that often. One below the power of two, so that the
// highest tokens are left to listeners.
const TOKEN_AGES: u32 = if usize::BITS < 64 { (1 << 11) - 1 } else { AGES };

/// Maximum number of clients, so that the index of each fits into a token.
pub(super) const MAX_CLIENTS: u64 = 1 << INDEX_BITS;

/// A connected or connecting stream socket, non-blocking.
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Begins to connect.
    pub(super) fn connect(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(address) => Self::of_tcp(TcpStream::connect(*address)?),
            Address::Unix(path) => Self::Unix(UnixStream::connect(path)?),
        })
    }

    pub(super) fn of_tcp(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true); // without it, requests are only slower
        Self::Tcp(stream)
    }

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

    /// The result of a connection attempt; `None` while it is in progress.
    fn connect_result(&self) -> Option<io::Result<()>> {
        match self {
            Stream::Unix(_) => Some(Ok(())),
            // An event may come while the connection is still being made: it is complete when there is a peer address.
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

/// A socket with the state that its events have reported.
pub(super) struct SocketState {
    age: u32,
    stream: Stream,
    pub readable: bool,
    writable: bool,
    /// The peer has closed its sending side; bytes from before may not have been read yet.
    half_closed: bool,
    /// The connection is closed in both directions.
    pub closed: bool,
    pub connecting: bool,
    /// The socket is registered for writability.
    // Unix sockets only while they are full: each reply that the peer reads would be reported otherwise.
    write_interest: bool,
}

/// The outcome of one read.
pub(super) enum ReadResult {
    /// This many bytes; `more` if another read may find some.
    Data {
        count: usize,
        more: bool,
    },
    /// End of stream.
    End,
    WouldBlock,
    Failed(ErrorKind),
}

impl SocketState {
    pub(super) fn new(key: Key, stream: Stream, connecting: bool) -> Self {
        let write_interest = matches!(stream, Stream::Tcp(_));
        Self {
            age: key.age,
            stream,
            readable: false,
            writable: true, // until the kernel refuses bytes; no event is needed for the first
            half_closed: false,
            closed: false,
            connecting,
            write_interest,
        }
    }

    /// Registers a new socket.
    pub(super) fn register(&mut self, peer: Peer, registry: &Registry) -> io::Result<()> {
        // TCP for both directions, once: an edge for writability comes only after it was full.
        let interest = if self.write_interest { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        registry.register(self.stream.source(), token(peer), interest)
    }

    /// Records an event. True if the socket was full and has become writable.
    pub(super) fn on_event(&mut self, event: &mio::event::Event) -> bool {
        let full = !self.writable;
        // An error is found by reading, like the end of the stream.
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_error();
        // The last bytes and the end may come with one edge, so that both are read before waiting again.
        self.half_closed |= event.is_read_closed();
        self.closed |= event.is_write_closed();
        full && self.writable // most events repeat that the socket is writable, which it was before
    }

    /// The result of the connection attempt; `None` while it is in progress.
    pub(super) fn connect_result(&mut self) -> Option<io::Result<()>> {
        let result = self.stream.connect_result()?;
        self.connecting = false;
        Some(result)
    }

    /// Reads once.
    pub(super) fn read(&mut self, into: &mut [u8]) -> ReadResult {
        loop {
            return match self.stream.read(into) {
                Ok(0) => {
                    self.readable = false;
                    ReadResult::End
                }
                Ok(count) => {
                    // A short read has drained the socket, and another would only return EAGAIN; but if the peer has
                    // closed, the end of the stream remains, which is not reported again.
                    self.readable = count == into.len() || self.half_closed;
                    ReadResult::Data { count, more: self.readable }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    ReadResult::WouldBlock
                }
                Err(error) => ReadResult::Failed(error.kind()),
            };
        }
    }

    pub(super) fn can_write(&self) -> bool {
        self.writable && !self.connecting
    }

    /// Writes once and returns the number of bytes that the kernel has accepted, which may be 0.
    #[inline(always)] // the other caller is rare
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            return match self.stream.write(bytes) {
                Ok(count) => {
                    // A short write means that the socket is full; an event follows when there is room.
                    self.writable = count == bytes.len();
                    Ok(count)
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.writable = false;
                    Ok(0)
                }
                Err(error) => Err(error),
            };
        }
    }

    /// Registers a unix socket for writability if it is full, or ends that if there is room.
    pub(super) fn update_interest(&mut self, peer: Peer, registry: &Registry) -> io::Result<()> {
        let full = !self.writable;
        if full == self.write_interest || matches!(self.stream, Stream::Tcp(_)) {
            return Ok(());
        }
        self.write_interest = full;
        let interest = if full { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        registry.reregister(self.stream.source(), token(peer), interest)
    }
}

/// Sockets by the keys of the engine.
#[derive(Default)]
pub(super) struct Sockets {
    slots: Vec<Option<SocketState>>,
    open: u64,
}

impl Sockets {
    /// The number of open sockets.
    pub(super) fn len(&self) -> u64 {
        self.open
    }

    pub(super) fn get(&mut self, key: Key) -> Option<&mut SocketState> {
        self.slots.get_mut(key.index as usize)?.as_mut().filter(|socket| socket.age == key.age)
    }

    /// The key of the socket in a slot, by the age in its token; one of no socket if it was closed.
    fn key(&self, index: u32, token_age: u32) -> Key {
        if TOKEN_AGES >= AGES {
            return Key { index, age: token_age }; // with 64 bits, a token holds the whole age
        }
        let slot = self.slots.get(index as usize).and_then(Option::as_ref);
        let age = slot.map(|socket| socket.age).filter(|age| age % TOKEN_AGES == token_age);
        Key { index, age: age.unwrap_or(token_age) }
    }

    pub(super) fn insert(&mut self, key: Key, socket: SocketState) {
        let index = key.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        // The engine may reuse a slot in the turn in which it is freed. Its previous socket is then closed here, and
        // the slot must not be counted twice.
        let before = self.slots[index].replace(socket);
        self.open += u64::from(before.is_none());
    }

    /// Closes a socket.
    pub(super) fn remove(&mut self, key: Key) {
        // Not deregistered: closing the descriptor removes it from the poll.
        if self.get(key).is_some() {
            self.slots[key.index as usize] = None;
            self.open -= 1;
        }
    }
}

/// The token of a connection: one bit for the side, the age and the index of its key.
fn token(peer: Peer) -> Token {
    let (key, side) = match peer {
        Peer::Client(key) => (key, 0),
        Peer::Backend(key) => (key, BACKEND),
    };
    Token(side | ((key.age % TOKEN_AGES) as usize) << INDEX_BITS | key.index as usize)
}

/// The connection that a token names.
pub(super) fn peer(token: Token, clients: &Sockets, backends: &Sockets) -> Peer {
    let index = (token.0 & ((1 << INDEX_BITS) - 1)) as u32;
    let age = ((token.0 & !BACKEND) >> INDEX_BITS) as u32;
    if token.0 & BACKEND == 0 { Peer::Client(clients.key(index, age)) } else { Peer::Backend(backends.key(index, age)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_used_again_before_its_socket_closed_counts_once() {
        let mut sockets = Sockets::default();
        let socket = || Stream::Unix(UnixStream::pair().unwrap().0);
        let keys = [Key { index: 0, age: 0 }, Key { index: 0, age: 1 }];
        keys.iter().for_each(|key| sockets.insert(*key, SocketState::new(*key, socket(), false)));
        assert_eq!(sockets.len(), 1);
        sockets.remove(keys[0]);
        assert!(sockets.get(keys[1]).is_some());
        sockets.remove(keys[1]);
        assert_eq!(sockets.len(), 0);
    }

    #[test]
    fn a_token_names_its_peer() {
        let key = Key { index: 7, age: AGES - 1 };
        let mut sockets = Sockets::default();
        sockets.insert(key, SocketState::new(key, Stream::Unix(UnixStream::pair().unwrap().0), false));
        for one in [Peer::Client(key), Peer::Backend(key), Peer::Backend(Key { index: 0, age: 0 })] {
            assert_eq!(peer(token(one), &sockets, &sockets), one);
            assert!(token(one).0 < super::super::LISTENERS);
        }
    }

    #[test]
    fn no_token_of_a_socket_is_that_of_a_listener() {
        let most = Key { index: (MAX_CLIENTS - 1).min(1 << 31) as u32, age: TOKEN_AGES - 1 };
        assert!(token(Peer::Backend(most)).0 < super::super::LISTENERS);
        let older = Key { index: 7, age: TOKEN_AGES - 1 };
        assert_ne!(token(Peer::Client(older)), token(Peer::Client(Key { index: 7, age: 0 })));
    }
}
