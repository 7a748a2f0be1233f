//! Sockets with their readiness: an edge is reported once, and remembered until the socket is drained or full.

use crate::arena::Key;
use crate::io::{Address, DnsAddress};
use mio::event::Source;
use mio::net::{TcpStream, UdpSocket, UnixStream};
use mio::unix::pipe::{Receiver, Sender};
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A connected or connecting socket, or pipes, non-blocking.
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Udp(UdpSocket),
    /// Stdin and stdout of a process.
    Process(Sender, Receiver),
    /// A pipe that is read.
    Pipe(Receiver),
}

impl Stream {
    /// Begins to connect.
    pub(super) fn connect(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(address) => Self::of_tcp(TcpStream::connect(*address)?),
            Address::Unix(path) => Self::Unix(UnixStream::connect(path)?),
        })
    }

    /// Opens a socket to a name server.
    pub(super) fn open_dns(address: DnsAddress) -> io::Result<Self> {
        Ok(match address {
            DnsAddress::Tcp(address) => Self::of_tcp(TcpStream::connect(address)?),
            DnsAddress::Udp(address) => {
                let any: IpAddr =
                    if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let socket = UdpSocket::bind((any, 0).into())?;
                // The kernel drops what comes from elsewhere.
                socket.connect(address)?;
                Self::Udp(socket)
            }
        })
    }

    pub(super) fn of_tcp(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true); // without it, requests are only slower
        Self::Tcp(stream)
    }

    fn register(&mut self, token: Token, interest: Interest, registry: &Registry) -> io::Result<()> {
        let source: &mut dyn Source = match self {
            Stream::Unix(stream) => stream,
            Stream::Tcp(stream) => stream,
            Stream::Udp(socket) => socket,
            Stream::Process(stdin, stdout) => {
                registry.register(stdin, token, Interest::WRITABLE)?;
                return registry.register(stdout, token, Interest::READABLE);
            }
            Stream::Pipe(pipe) => return registry.register(pipe, token, Interest::READABLE),
        };
        registry.register(source, token, interest)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(into),
            Stream::Tcp(stream) => stream.read(into),
            Stream::Udp(socket) => socket.recv(into),
            Stream::Process(_, pipe) | Stream::Pipe(pipe) => pipe.read(into),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Udp(socket) => socket.send(bytes),
            Stream::Process(pipe, _) => pipe.write(bytes),
            Stream::Pipe(_) => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// The result of a connection attempt; `None` while it is in progress.
    fn connect_result(&self) -> Option<io::Result<()>> {
        match self {
            Stream::Unix(_) | Stream::Udp(_) | Stream::Process(..) | Stream::Pipe(_) => Some(Ok(())),
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
    pub age: u32,
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
    pub(super) fn register(&mut self, token: Token, registry: &Registry) -> io::Result<()> {
        // TCP for both directions, once: an edge for writability comes only after it was full.
        let interest = if self.write_interest { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.stream.register(token, interest, registry)
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
                // Each datagram is read by itself, and an empty one ends nothing.
                Ok(count) if matches!(self.stream, Stream::Udp(_)) => ReadResult::Data { count, more: true },
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
                    // The datagram is lost, and the next one is tried: each that leaves would be reported otherwise.
                    self.writable = matches!(self.stream, Stream::Udp(_));
                    Ok(0)
                }
                Err(error) => Err(error),
            };
        }
    }

    /// Registers a unix socket for writability if it is full, or ends that if there is room.
    pub(super) fn update_interest(&mut self, token: Token, registry: &Registry) -> io::Result<()> {
        let (full, Stream::Unix(stream)) = (!self.writable, &mut self.stream) else { return Ok(()) };
        if full == self.write_interest {
            return Ok(());
        }
        self.write_interest = full;
        let interest = if full { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        registry.reregister(stream, token, interest)
    }
}
