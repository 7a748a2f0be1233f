//! Sockets by the peers of the engine, and the tokens by which the kernel names them.

use super::socket::{SocketState, Stream};
use crate::arena::{AGES, Key};
use crate::io::Peer;
use mio::{Registry, Token};
use std::io;

/// The highest bits of a token, which are the kind of the peer. The highest kind is left to listeners and the rest.
const KIND_BITS: u32 = 3;

/// The bits of a token that hold the index of a key; those above, up to the kind, hold its age.
const INDEX_BITS: u32 = if usize::BITS < 64 { 19 } else { 30 };

/// Ages wrap at this number in tokens: as in keys, or earlier where a token has 32 bits.
// No event is older than one turn, in which no slot is reused that often.
const TOKEN_AGES: u32 = if usize::BITS < 64 { 1 << (usize::BITS - KIND_BITS - INDEX_BITS) } else { AGES };

/// Maximum number of clients, so that the index of each fits into a token.
pub(super) const MAX_CLIENTS: u64 = 1 << INDEX_BITS;

/// The number of kinds of peers.
const KINDS: usize = 5;

/// The sockets of all peers, by kind.
#[derive(Default)]
pub(super) struct Peers([Sockets; KINDS]);

impl Peers {
    fn of_kind(&mut self, peer: Peer) -> &mut Sockets {
        &mut self.0[kind(peer)]
    }

    pub(super) fn get(&mut self, peer: Peer) -> Option<&mut SocketState> {
        self.of_kind(peer).get(peer.key())
    }

    /// Adds a stream that was opened, and has its events reported.
    pub(super) fn open(
        &mut self,
        peer: Peer,
        stream: io::Result<Stream>,
        connecting: bool,
        registry: &Registry,
    ) -> io::Result<()> {
        let mut socket = SocketState::new(peer.key(), stream?, connecting);
        socket.register(token(peer), registry)?;
        self.insert(peer, socket);
        Ok(())
    }

    fn insert(&mut self, peer: Peer, socket: SocketState) {
        self.of_kind(peer).insert(peer.key(), socket);
    }

    /// Closes the socket of a peer.
    pub(super) fn remove(&mut self, peer: Peer) {
        self.of_kind(peer).remove(peer.key());
    }

    /// The number of clients.
    pub(super) fn clients(&self) -> u64 {
        self.0[CLIENTS].open
    }

    /// The peer that a token names.
    pub(super) fn of(&self, Token(token): Token) -> Peer {
        let kind = (token >> (usize::BITS - KIND_BITS)).min(KINDS - 1);
        let index = (token & ((1 << INDEX_BITS) - 1)) as u32;
        let key = self.0[kind].key(index, (token >> INDEX_BITS) as u32 % TOKEN_AGES);
        match kind {
            CLIENTS => Peer::Client(key),
            1 => Peer::Backend(key),
            2 => Peer::Dns(key),
            3 => Peer::Program(key),
            _ => Peer::Stderr(key),
        }
    }
}

/// The kind of clients.
const CLIENTS: usize = 0;

/// The kind of a peer, as in its token.
fn kind(peer: Peer) -> usize {
    match peer {
        Peer::Client(_) => CLIENTS,
        Peer::Backend(_) => 1,
        Peer::Dns(_) => 2,
        Peer::Program(_) => 3,
        Peer::Stderr(_) => 4,
    }
}

/// The token of a peer.
pub(super) fn token(peer: Peer) -> Token {
    let key = peer.key();
    let age = (key.age % TOKEN_AGES) as usize;
    Token(kind(peer) << (usize::BITS - KIND_BITS) | age << INDEX_BITS | key.index as usize)
}

/// Sockets by the keys of the engine.
#[derive(Default)]
struct Sockets {
    slots: Vec<Option<SocketState>>,
    open: u64,
}

impl Sockets {
    fn get(&mut self, key: Key) -> Option<&mut SocketState> {
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

    fn insert(&mut self, key: Key, socket: SocketState) {
        let index = key.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        // The engine may reuse a slot in the turn in which it is freed. Its previous socket is then closed here, and
        // the slot must not be counted twice.
        let before = self.slots[index].replace(socket);
        self.open += u64::from(before.is_none());
    }

    fn remove(&mut self, key: Key) {
        // Not deregistered: closing the descriptor removes it from the poll.
        if self.get(key).is_some() {
            self.slots[key.index as usize] = None;
            self.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::net::UnixStream;

    fn socket(key: Key) -> SocketState {
        SocketState::new(key, Stream::Unix(UnixStream::pair().unwrap().0), false)
    }

    #[test]
    fn a_slot_used_again_before_its_socket_closed_counts_once() {
        let mut peers = Peers::default();
        let keys = [Key { index: 0, age: 0 }, Key { index: 0, age: 1 }];
        keys.iter().for_each(|key| peers.insert(Peer::Client(*key), socket(*key)));
        assert_eq!(peers.clients(), 1);
        peers.remove(Peer::Client(keys[0]));
        assert!(peers.get(Peer::Client(keys[1])).is_some());
        peers.remove(Peer::Client(keys[1]));
        assert_eq!(peers.clients(), 0);
    }

    #[test]
    fn a_token_names_its_peer() {
        let (key, first) = (Key { index: 7, age: AGES - 1 }, Key { index: 0, age: 0 });
        let mut peers = Peers::default();
        let kinds = [Peer::Client, Peer::Backend, Peer::Dns, Peer::Program, Peer::Stderr];
        for peer in kinds.into_iter().flat_map(|of| [of(key), of(first)]) {
            peers.insert(peer, socket(peer.key()));
            assert_eq!(peers.of(token(peer)), peer);
        }
    }

    #[test]
    fn no_token_of_a_socket_is_that_of_a_listener() {
        let most = Key { index: (MAX_CLIENTS - 1) as u32, age: TOKEN_AGES - 1 };
        for peer in [Peer::Client(most), Peer::Backend(most), Peer::Dns(most), Peer::Stderr(most)] {
            assert!(token(peer).0 < super::super::LISTENERS);
        }
        let older = Key { index: 7, age: TOKEN_AGES - 1 };
        assert_ne!(token(Peer::Client(older)), token(Peer::Client(Key { index: 7, age: 0 })));
    }
}
