//! The connections of all pools, as the reactor reads and writes them.

use super::connection::Connection;
use crate::arena::{Arena, Key};
use crate::io::{Action, Peer, Turn};

/// The connections of all pools.
#[derive(Debug, Default)]
pub struct Connections {
    pub(super) arena: Arena<Connection>,
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

    /// Stops to read a connection whose response is streamed, or continues.
    pub fn set_paused(&mut self, key: Key, paused: bool, turn: &mut Turn) {
        let Some(connection) = self.arena.get_mut(key) else { return };
        if !paused && !connection.wants_input() {
            turn.push(Action::Resume(Peer::Backend(key)));
        }
        connection.set_paused(paused);
    }
}
