//! What a pool borrows for a call, and what it returns.

use super::addresses::Addresses;
use super::connection::Connection;
use super::exchange::Exchange;
use super::retry::Progress;
use crate::arena::{Arena, Key};
use crate::io::{Address, Turn};
use crate::log;

/// What a pool borrows for a call.
pub(super) struct Lent<'a> {
    pub connections: &'a mut Arena<Connection>,
    /// Maximum number of connections of all pools together.
    pub limit: usize,
    pub turn: &'a mut Turn,
}

impl Lent<'_> {
    /// The connections of the pool with this number.
    pub(super) fn of_pool(&mut self, at: usize) -> impl Iterator<Item = (Key, &mut Connection)> {
        self.connections.iter_mut().filter(move |(_, connection)| connection.pool() == at)
    }

    /// True if a pool with this many connections may open one more.
    // One is always allowed, as a backend that hangs must not take the descriptors of the others.
    pub(super) fn has_room(&self, open: usize) -> bool {
        open == 0 || self.connections.len() < self.limit
    }

    /// A connection has closed with pipelined requests in flight. A backend that has answered none so far, and
    /// announces the end with the response to the first of them or breaks off twice in a row, gets one at a time from
    /// now on.
    // gunicorn 20.1 with threads leaves the second request unread until its keep-alive time has passed.
    pub(super) fn on_pipelining_failed(
        &mut self,
        closed: &Connection,
        announced: bool,
        addresses: &mut Addresses,
        label: &str,
    ) {
        if closed.has_pipelined() || !addresses.pipelining_failed(closed.address(), announced) {
            return;
        }
        log::warn(format_args!("pipelining-disabled backend={label} cause=\"it closes connections\""));
        let same = self.of_pool(closed.pool()).filter(|(_, other)| other.address() == closed.address());
        same.for_each(|(_, other)| other.stop_pipelining());
    }
}

/// The exchanges of a connection that has closed.
pub(super) struct Orphans {
    pub exchanges: Vec<(Box<Exchange>, Progress)>,
    /// The connection had carried a response before.
    pub reused: bool,
    pub address: Address,
}
