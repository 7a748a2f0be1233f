//! The connections of all pools, as the reactor reads and writes them.

use super::connection::Connection;
use crate::arena::{Arena, Key};
use crate::io::{Action, Peer, Turn};

/// The connections of all pools.
#[derive(Debug, Default)]
pub struct Connections {
    pub(super) arena: Arena<Connection>,
    /// Connections whose responses are streamed, and that are not read.
    paused: Vec<Key>,
    /// The pools in which exchanges wait for a connection, and none can be opened.
    short: Vec<usize>,
}

impl Connections {
    /// The bytes to be written to a connection.
    pub fn output(&mut self, key: Key) -> &[u8] {
        self.arena.get_mut(key).map_or(&[], Connection::output)
    }

    /// Notes that `count` bytes were written.
    pub fn sent(&mut self, key: Key, count: usize) {
        self.arena.get_mut(key).into_iter().for_each(|connection| connection.sent(count));
    }

    /// True if a connection must be read from before it is written to.
    pub fn needs_check(&self, key: Key) -> bool {
        self.arena.get(key).is_some_and(Connection::needs_check)
    }

    /// True if bytes of a connection may be read.
    pub fn wants_input(&self, key: Key) -> bool {
        self.arena.get(key).is_none_or(Connection::wants_input)
    }

    /// Stops to read a connection whose response is streamed, or continues. One that others wait for is read on: they
    /// would wait for a client that may not read, or even waits for one of them.
    pub fn set_paused(&mut self, key: Key, paused: bool, turn: &mut Turn) {
        let Some(connection) = self.arena.get_mut(key) else { return };
        let paused = paused && !self.short.contains(&connection.pool());
        if paused != connection.wants_input() {
            return;
        }
        connection.set_paused(paused);
        self.paused.retain(|other| *other != key && self.arena.get(*other).is_some());
        if paused {
            self.paused.push(key);
        } else {
            turn.push(Action::Resume(Peer::Backend(key)));
        }
    }

    /// Notes whether exchanges wait in a pool that cannot open a connection for them.
    pub(super) fn set_short(&mut self, pool: usize, is_short: bool, turn: &mut Turn) {
        if self.short.contains(&pool) == is_short {
            return; // as nearly always
        }
        self.short.retain(|other| *other != pool);
        if is_short {
            self.short.push(pool);
            let of_pool = |key: &Key| self.arena.get(*key).is_none_or(|connection| connection.pool() == pool);
            let paused: Vec<Key> = self.paused.extract_if(.., |key| of_pool(key)).collect();
            paused.into_iter().for_each(|key| self.set_paused(key, false, turn));
        }
    }
}
