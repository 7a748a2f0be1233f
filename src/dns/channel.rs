//! Sockets to name servers: UDP sockets, each for a limited number of questions, and a TCP connection per question.

use super::random::Random;
use crate::arena::{Arena, Key};
use crate::io::{Action, DnsAddress, Peer, Turn};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Number of questions, and time, after which a UDP socket is replaced by one with another port.
// The port is what one who cannot see the questions has to guess beside id and case. A new one for each question would
// cost four system calls.
const MAX_USES: usize = 64;
const MAX_AGE: Duration = Duration::from_secs(5);

/// Maximum number of TCP connections to name servers.
pub(super) const MAX_TCP: usize = 64;

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
    sent: Vec<(u16, Key)>,
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
    current: HashMap<usize, Key>,
    tcp: usize,
}

impl Channels {
    /// Sends a question from a UDP socket; `message` writes it with its id. Returns socket and id.
    pub(super) fn send_udp(
        &mut self,
        (server, address): (usize, SocketAddr),
        query: Key,
        random: &mut Random,
        message: impl FnOnce(u16) -> Vec<u8>,
        turn: &mut Turn,
    ) -> (Key, u16) {
        let key = self.socket_for(server, address, turn);
        let mut id = random.u16();
        if let Some(Channel { kind: Kind::Udp(udp), .. }) = self.arena.get_mut(key) {
            while udp.sent.iter().any(|(other, _)| *other == id) {
                id = random.u16();
            }
            (udp.uses, udp.live) = (udp.uses + 1, udp.live + 1);
            udp.sent.push((id, query));
            udp.output.push_back(message(id));
            turn.push(Action::Flush(Peer::Dns(key)));
        }
        (key, id)
    }

    fn socket_for(&mut self, server: usize, address: SocketAddr, turn: &mut Turn) -> Key {
        if let Some(key) = self.current.get(&server).copied() {
            match self.arena.get(key).map(|channel| &channel.kind) {
                Some(Kind::Udp(udp)) if udp.uses < MAX_USES && turn.now < udp.opened + MAX_AGE => return key,
                _ => {
                    self.current.remove(&server);
                    self.close_if_unused(key, turn);
                }
            }
        }
        let udp = Udp { opened: turn.now, uses: 0, sent: Vec::new(), live: 0, output: VecDeque::new() };
        let key = self.arena.insert(Channel { server, kind: Kind::Udp(udp) });
        self.current.insert(server, key);
        turn.push(Action::OpenDns(key, DnsAddress::Udp(address)));
        key
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
        if self.tcp >= MAX_TCP {
            return None;
        }
        self.tcp += 1;
        let id = random.u16();
        let message = message(id);
        let output = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
        let tcp = Tcp { id, query, output, input: Vec::new() };
        let key = self.arena.insert(Channel { server, kind: Kind::Tcp(tcp) });
        turn.push(Action::OpenDns(key, DnsAddress::Tcp(address)));
        Some((key, id))
    }

    /// The server and the question that a message is meant for, by its id. What has arrived over TCP is complete if it
    /// has all of its length; `None` until then. Messages without a question are `Some((server, None))`.
    pub(super) fn receive(&mut self, key: Key, bytes: &[u8]) -> Option<(usize, Option<Received>)> {
        let Channel { server, kind } = self.arena.get_mut(key)?;
        let id = |message: &[u8]| message.first_chunk().map(|two| u16::from_be_bytes(*two));
        match kind {
            Kind::Udp(udp) => {
                let id = id(bytes)?;
                let query = udp.sent.iter().find(|(other, _)| *other == id).map(|(_, query)| *query);
                Some((*server, query.map(|query| Received { query, id, message: bytes.to_vec() })))
            }
            Kind::Tcp(tcp) => {
                tcp.input.extend_from_slice(bytes);
                let (length, rest) = tcp.input.split_first_chunk()?;
                let message = rest.get(..usize::from(u16::from_be_bytes(*length)))?.to_vec();
                tcp.input.drain(..2 + message.len());
                let query = (id(&message) == Some(tcp.id)).then_some(tcp.query);
                Some((*server, query.map(|query| Received { query, id: tcp.id, message })))
            }
        }
    }

    /// A question has its answer from this socket: another message with the id is for no question.
    pub(super) fn answered(&mut self, key: Key, id: u16) {
        if let Some(Channel { kind: Kind::Udp(udp), .. }) = self.arena.get_mut(key) {
            udp.sent.retain(|(other, _)| *other != id);
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
        Some((
            server,
            match kind {
                Kind::Udp(udp) => {
                    if self.current.get(&server) == Some(&key) {
                        self.current.remove(&server);
                    }
                    udp.sent.into_iter().map(|(_, query)| query).collect()
                }
                Kind::Tcp(tcp) => {
                    self.tcp -= 1;
                    vec![tcp.query]
                }
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
pub(super) struct Received {
    pub query: Key,
    pub id: u16,
    pub message: Vec<u8>,
}
