//! Sockets to name servers: UDP sockets, each for a limited number of questions, and a TCP connection per question.

use super::random::Random;
use crate::arena::{Arena, Key};
use crate::io::{Action, DnsAddress, Peer, Turn};
use crate::wire::dns::id;
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Number of questions, and time, after which a UDP socket is replaced by one with another port.
// The port is what one who cannot see the questions has to guess beside id and case. A new one for each question would
// cost four system calls.
const MAX_USES: usize = 256;
const MAX_AGE: Duration = Duration::from_secs(5);

/// Maximum number of UDP sockets, and of TCP connections, to one name server.
// Per server: one that does not answer must not take the place of others.
const MAX_UDP_SOCKETS: usize = 8;
const MAX_CONNECTIONS: usize = 16;

/// Maximum number of questions from one UDP socket without an answer: most of its ids are free.
const MAX_SENT: usize = 10_000;

/// A socket to a name server.
#[derive(Debug)]
pub(super) struct Channel {
    /// The number of the server.
    pub server: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Udp(Udp),
    Tcp(Tcp),
}

#[derive(Debug)]
struct Udp {
    opened: Instant,
    uses: usize,
    /// The questions that were sent, with their ids. They stay when the question is answered by another server: what
    /// arrives late shows that this one is alive.
    sent: BTreeMap<u16, Key>,
    /// How many of these are waited for.
    live: usize,
    /// Datagrams to be sent.
    output: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct Tcp {
    id: u16,
    query: Key,
    output: Vec<u8>,
    input: Vec<u8>,
}

/// All sockets to name servers.
#[derive(Debug, Default)]
pub(super) struct Channels {
    arena: Arena<Channel>,
    /// The UDP socket of each server that further questions are sent from.
    current: BTreeMap<usize, Key>,
    /// A socket was closed since the last [`Channels::take_closed`].
    closed: bool,
}

impl Channels {
    /// Sends a question from a UDP socket; `message` writes it with its id. Returns socket and id, or `None` if the
    /// server has too many questions.
    pub(super) fn send_udp(
        &mut self,
        (server, address): (usize, SocketAddr),
        query: Key,
        random: &mut Random,
        message: impl FnOnce(u16) -> Vec<u8>,
        turn: &mut Turn,
    ) -> Option<(Key, u16)> {
        let key = self.socket_for(server, address, turn);
        let Some(Channel { kind: Kind::Udp(udp), .. }) = self.arena.get_mut(key) else { return None };
        if udp.sent.len() >= MAX_SENT {
            return None;
        }
        let id = std::iter::repeat_with(|| random.u16()).find(|id| !udp.sent.contains_key(id))?;
        (udp.uses, udp.live) = (udp.uses + 1, udp.live + 1);
        udp.sent.insert(id, query);
        udp.output.push_back(message(id));
        turn.push(Action::Flush(Peer::Dns(key)));
        Some((key, id))
    }

    fn socket_for(&mut self, server: usize, address: SocketAddr, turn: &mut Turn) -> Key {
        if let Some(key) = self.current.get(&server).copied()
            && let Some(Channel { kind: Kind::Udp(udp), .. }) = self.arena.get(key)
        {
            let is_full = || self.count(server, |kind| matches!(kind, Kind::Udp(_))) >= MAX_UDP_SOCKETS;
            if udp.uses < MAX_USES && turn.now < udp.opened + MAX_AGE || is_full() {
                return key;
            }
            self.current.remove(&server);
            self.close_if_unused(key, turn);
        }
        self.close_old(turn);
        let udp = Udp { opened: turn.now, uses: 0, sent: BTreeMap::new(), live: 0, output: VecDeque::new() };
        let key = self.arena.insert(Channel { server, kind: Kind::Udp(udp) });
        self.current.insert(server, key);
        turn.push(Action::OpenDns(key, DnsAddress::Udp(address)));
        key
    }

    fn count(&self, server: usize, is: impl Fn(&Kind) -> bool) -> usize {
        self.arena.iter().filter(|(_, channel)| channel.server == server && is(&channel.kind)).count()
    }

    /// Closes the sockets of servers that are not asked any more.
    fn close_old(&mut self, turn: &mut Turn) {
        let is_old = |key: &Key| match self.arena.get(*key).map(|channel| &channel.kind) {
            Some(Kind::Udp(udp)) => udp.live == 0 && turn.now >= udp.opened + MAX_AGE,
            Some(Kind::Tcp(_)) | None => false,
        };
        let old: Vec<Key> = self.current.values().copied().filter(is_old).collect();
        old.into_iter().for_each(|key| self.close(key, turn));
    }

    /// True if a socket was closed since the last call.
    pub(super) fn take_closed(&mut self) -> bool {
        std::mem::take(&mut self.closed)
    }

    /// True if another connection to a server may be opened.
    pub(super) fn has_room(&self, server: usize) -> bool {
        self.count(server, |kind| matches!(kind, Kind::Tcp(_))) < MAX_CONNECTIONS
    }

    /// Sends a question over a new TCP connection; `None` if there are too many.
    pub(super) fn send_tcp(
        &mut self,
        (server, address): (usize, SocketAddr),
        query: Key,
        random: &mut Random,
        message: impl FnOnce(u16) -> Vec<u8>,
        turn: &mut Turn,
    ) -> Option<(Key, u16)> {
        if !self.has_room(server) {
            return None;
        }
        let id = random.u16();
        let message = message(id);
        let output = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
        let tcp = Tcp { id, query, output, input: Vec::new() };
        let key = self.arena.insert(Channel { server, kind: Kind::Tcp(tcp) });
        turn.push(Action::OpenDns(key, DnsAddress::Tcp(address)));
        Some((key, id))
    }

    /// The server and the message of bytes that have arrived: a datagram, or what has the length that it has over TCP;
    /// `None` until then. The message of a datagram whose id is that of no question is `None`.
    pub(super) fn receive<'a>(&mut self, key: Key, bytes: &'a [u8]) -> Option<(usize, Option<Received<'a>>)> {
        let Channel { server, kind } = self.arena.get_mut(key)?;
        match kind {
            Kind::Udp(udp) => {
                let found = id(bytes).and_then(|id| Some((id, *udp.sent.get(&id)?)));
                let received = found.map(|(id, query)| Received { query, id, message: bytes.into(), is_only: false });
                Some((*server, received))
            }
            Kind::Tcp(tcp) => {
                tcp.input.extend_from_slice(bytes);
                let (length, rest) = tcp.input.split_first_chunk()?;
                let message = rest.get(..usize::from(u16::from_be_bytes(*length)))?.to_vec();
                let id = id(&message).unwrap_or(!tcp.id);
                Some((*server, Some(Received { query: tcp.query, id, message: message.into(), is_only: true })))
            }
        }
    }

    /// A question has its answer from this socket: another message with the id is for no question.
    pub(super) fn answered(&mut self, key: Key, id: u16) {
        if let Some(Channel { kind: Kind::Udp(udp), .. }) = self.arena.get_mut(key) {
            udp.sent.remove(&id);
        }
    }

    /// Nothing is expected any more from this socket for one question.
    pub(super) fn release(&mut self, key: Key, turn: &mut Turn) {
        match self.arena.get_mut(key).map(|channel| &mut channel.kind) {
            Some(Kind::Udp(udp)) => {
                udp.live -= 1;
                self.close_if_unused(key, turn);
            }
            Some(Kind::Tcp(_)) => self.close(key, turn),
            None => {}
        }
    }

    fn close_if_unused(&mut self, key: Key, turn: &mut Turn) {
        let Some(Channel { server, kind: Kind::Udp(udp) }) = self.arena.get(key) else { return };
        if udp.live == 0 && self.current.get(server) != Some(&key) {
            self.close(key, turn);
        }
    }

    /// Closes a socket.
    pub(super) fn close(&mut self, key: Key, turn: &mut Turn) {
        if self.remove(key).is_some() {
            turn.push(Action::Close(Peer::Dns(key)));
        }
    }

    /// Removes a socket and returns its server and the questions that were sent from it.
    fn remove(&mut self, key: Key) -> Option<(usize, Vec<Key>)> {
        let Channel { server, kind } = self.arena.remove(key)?;
        self.closed = true;
        Some((
            server,
            match kind {
                Kind::Udp(udp) => {
                    if self.current.get(&server) == Some(&key) {
                        self.current.remove(&server);
                    }
                    udp.sent.into_values().collect()
                }
                Kind::Tcp(tcp) => vec![tcp.query],
            },
        ))
    }

    /// A socket has failed, or its server has closed it. Returns the server and the questions that were sent from it.
    pub(super) fn ended(&mut self, key: Key, turn: &mut Turn) -> Option<(usize, Vec<Key>)> {
        let ended = self.remove(key)?;
        turn.push(Action::Close(Peer::Dns(key)));
        Some(ended)
    }

    /// A TCP connection is made.
    pub(super) fn connected(&self, key: Key, turn: &mut Turn) {
        if self.arena.contains(key) {
            turn.push(Action::Flush(Peer::Dns(key)));
        }
    }

    /// The bytes to be written to a socket: of UDP, one datagram.
    pub(super) fn output(&self, key: Key) -> &[u8] {
        match self.arena.get(key).map(|channel| &channel.kind) {
            Some(Kind::Udp(udp)) => udp.output.front().map_or(&[], Vec::as_slice),
            Some(Kind::Tcp(tcp)) => &tcp.output,
            None => &[],
        }
    }

    /// Notes that `count` bytes of the output were written.
    pub(super) fn sent(&mut self, key: Key, count: usize, turn: &mut Turn) {
        match self.arena.get_mut(key).map(|channel| &mut channel.kind) {
            Some(Kind::Udp(udp)) => {
                udp.output.pop_front(); // one that the kernel does not take is lost, like one on its way
                if !udp.output.is_empty() {
                    turn.push(Action::Flush(Peer::Dns(key)));
                }
            }
            Some(Kind::Tcp(tcp)) => drop(tcp.output.drain(..count.min(tcp.output.len()))),
            None => {}
        }
    }
}

/// A message that belongs to a question, by its id.
#[derive(Debug)]
pub(super) struct Received<'a> {
    pub query: Key,
    pub id: u16,
    pub message: Cow<'a, [u8]>,
    /// It came over TCP, where nothing else can follow: one question was sent there.
    pub is_only: bool,
}
