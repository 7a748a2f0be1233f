//! The connections of all pools, as the reactor reads and writes them.

use super::connection::Connection;
use crate::arena::{Arena, Key};
use crate::io::{Action, Peer, Turn};
use std::time::{Duration, Instant};

/// How long a connection may be read for others without being free, until another one is read too: its backend may have
/// stopped in the middle of the list.
const HURRY_TIME: Duration = Duration::from_secs(1);

/// Exchanges that wait in a pool for which no connection may be opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Lacking {
    pub count: usize,
    /// Descriptors are lacking, so that a connection of any pool would do when it closes.
    pub anywhere: bool,
}

/// The connections of all pools.
#[derive(Debug, Default)]
pub struct Connections {
    pub(super) arena: Arena<Connection>,
    /// Connections whose responses are streamed, and that are not read.
    paused: Vec<Key>,
    /// The same, but they are read, as others wait for them; and until when those wait for these alone.
    hurried: Vec<(Key, Option<Instant>)>,
    /// The pools in which exchanges wait for a connection, and none can be opened.
    lacking: Vec<(usize, Lacking)>,
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
        if !paused && self.paused.is_empty() && self.hurried.is_empty() {
            return; // as nearly always
        }
        self.paused.retain(|other| *other != key && self.arena.contains(*other));
        if !paused {
            self.hurried.retain(|(other, _)| *other != key);
            return self.set_read(key, true, turn);
        }
        if self.arena.contains(key) && !self.hurried.iter().any(|(other, _)| *other == key) {
            self.paused.push(key);
            self.set_read(key, false, turn);
            self.hurry(turn);
        }
    }

    fn set_read(&mut self, key: Key, is_read: bool, turn: &mut Turn) {
        let Some(connection) = self.arena.get_mut(key) else { return };
        if is_read && !connection.wants_input() {
            turn.push(Action::Resume(Peer::Backend(key)));
        }
        connection.set_paused(!is_read);
    }

    /// Notes how many exchanges wait in a pool that cannot open a connection for them.
    pub(super) fn set_lacking(&mut self, pool: usize, lacking: Lacking, turn: &mut Turn) {
        if lacking.count == 0 && self.lacking.is_empty() {
            return; // as nearly always
        }
        self.lacking.retain(|(other, _)| *other != pool);
        if lacking.count > 0 {
            self.lacking.push((pool, lacking));
        }
        self.hurry(turn);
    }

    /// When [`Connections::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.hurried.iter().filter_map(|(_, until)| *until).min()
    }

    /// Reads further connections if the ones that others wait for have not become free.
    pub(super) fn tick(&mut self, turn: &mut Turn) {
        if self.deadline().is_some_and(|next| next <= turn.now) {
            self.hurry(turn);
        }
    }

    /// Reads as many of the paused connections as are waited for, the longest paused first. Each that is read may take
    /// megabytes that its client does not.
    fn hurry(&mut self, turn: &mut Turn) {
        let pool_of = |key: Key| self.arena.get(key).map(Connection::pool);
        let fits = |key: Key, pool: usize, lacking: Lacking| lacking.anywhere || pool_of(key) == Some(pool);
        // What is waited for no longer may be paused again, by its next part.
        let is_needed = |key: Key| self.lacking.iter().any(|(pool, lacking)| fits(key, *pool, *lacking));
        self.hurried.retain(|(key, _)| self.arena.contains(*key) && is_needed(*key));
        for (_, until) in &mut self.hurried {
            *until = until.filter(|until| *until > turn.now);
        }
        let mut chosen: Vec<Key> = Vec::new();
        for (pool, lacking) in &self.lacking {
            let hurried = self.hurried.iter().filter(|(key, until)| until.is_some() && fits(*key, *pool, *lacking));
            let count = lacking.count.saturating_sub(hurried.count());
            let others = self.paused.iter().filter(|key| fits(**key, *pool, *lacking) && !chosen.contains(key));
            chosen.extend(others.take(count).copied().collect::<Vec<_>>());
        }
        for key in chosen {
            self.paused.retain(|other| *other != key);
            self.hurried.push((key, Some(turn.now + HURRY_TIME)));
            self.set_read(key, true, turn);
        }
    }
}
