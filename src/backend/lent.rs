//! What a pool is lent, and what it gives back.

use super::connection::Connection;
use super::exchange::Exchange;
use super::retry::Progress;
use crate::arena::Arena;
use crate::io::{Address, Turn};

/// What a pool works with that belongs to others.
pub(super) struct Lent<'a> {
    pub connections: &'a mut Arena<Connection>,
    pub turn: &'a mut Turn,
}

/// The exchanges of a connection that has closed.
pub(super) struct Orphans {
    pub exchanges: Vec<(Box<Exchange>, Progress)>,
    /// The connection had carried a response before.
    pub reused: bool,
    pub address: Address,
}
