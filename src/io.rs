//! What the engine and the reactor say to each other about connections.

use crate::arena::Key;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

/// An address that a connection can be made to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Names a connection of either side.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Peer {
    Client(Key),
    Backend(Key),
}

/// What the reactor has to do.
#[derive(Debug, Eq, PartialEq)]
pub enum Action {
    /// Make a connection, then call `Engine::connected` or `Engine::ended`.
    Connect(Key, Address),
    /// Write `Engine::output`, then call `Engine::sent`.
    Flush(Peer),
    /// Read again: `Engine::wants_input` has become true.
    Resume(Peer),
    /// Write these last bytes of TLS to a backend, as far as the kernel takes them at once. `Close` follows.
    CloseNotify(Key, Vec<u8>),
    /// Close a connection, which the engine has forgotten.
    Close(Peer),
    /// Resolve a host, then call `Engine::resolved` with this number.
    Resolve { name: usize, host: String, port: u16 },
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The peer has shut down its sending side; it may still read.
    HalfClosed,
    /// The connection is closed in both directions, with the error if one was reported.
    Closed(Option<ErrorKind>),
}

/// One turn of the loop: its time, and what it has the reactor do.
#[derive(Debug)]
pub struct Turn {
    pub now: Instant,
    /// Clients to be flushed.
    replies: VecDeque<Key>,
    others: VecDeque<Action>,
}

impl Turn {
    pub fn new(now: Instant) -> Self {
        Self { now, replies: VecDeque::new(), others: VecDeque::new() }
    }

    pub fn push(&mut self, action: Action) {
        if let Action::Flush(Peer::Client(key)) = action {
            self.replies.push_back(key);
        } else {
            self.others.push_back(action);
        }
    }

    /// The next thing to do: replies to clients, then the rest in the order of [`Turn::push`]. With 512 busy clients, replies
    /// and requests in turns cost a tenth more than one kind after the other: each wakes another process and takes another
    /// path through the kernel.
    pub fn pop(&mut self) -> Option<Action> {
        let reply = self.replies.pop_front();
        reply.map(|key| Action::Flush(Peer::Client(key))).or_else(|| self.others.pop_front())
    }
}
