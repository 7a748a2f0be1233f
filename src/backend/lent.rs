//! What a pool is lent, and what it gives back.

use super::connection::Connection;
use super::exchange::Exchange;
use super::retry::Progress;
use crate::arena::{Arena, Key};
use crate::io::{Address, Turn};

/// What a pool works with that belongs to others.
pub(super) struct Lent<'a> {
    pub connections: &'a mut Arena<Connection>,
    pub turn: &'a mut Turn,
}

impl Lent<'_> {
    /// The connections of the pool with this number.
    pub(super) fn of_pool(&mut self, at: usize) -> impl Iterator<Item = (Key, &mut Connection)> {
        self.connections.iter_mut().filter(move |(_, connection)| connection.pool() == at)
    }
}

/// The exchanges of a connection that has closed.
pub(super) struct Orphans {
    pub exchanges: Vec<(Box<Exchange>, Progress)>,
    /// The connection had carried a response before.
    pub reused: bool,
    pub address: Address,
}
