//! A TLS server on a connection of the engine in memory.

use super::world::World;
use podop::io::Peer;
use rustls::{ServerConfig, ServerConnection};
use std::io::{BufRead, Write};
use std::sync::Arc;

/// The server's end of a connection of an engine in memory.
pub struct Server {
    tls: ServerConnection,
    peer: Peer,
    /// Bytes go to the engine in pieces of this size.
    step: usize,
    /// The error that it has met, if any.
    pub error: Option<rustls::Error>,
}

impl Server {
    /// Takes the next connection that the engine has requested, and does as much of the handshake as possible.
    pub fn accept(world: &mut World, config: &Arc<ServerConfig>) -> Server {
        Self::accept_in_steps(world, config, usize::MAX)
    }

    pub fn accept_in_steps(world: &mut World, config: &Arc<ServerConfig>, step: usize) -> Server {
        let peer = world.accept();
        let mut server = Self::new(config, peer, step);
        server.pump(world);
        server
    }

    /// Takes this many connections before it begins any handshake.
    pub fn accept_all(world: &mut World, config: &Arc<ServerConfig>, count: usize) -> Vec<Server> {
        let peers: Vec<Peer> = (0..count).map(|_| world.accept()).collect();
        let mut servers: Vec<Server> = peers.into_iter().map(|peer| Self::new(config, peer, usize::MAX)).collect();
        servers.iter_mut().for_each(|server| server.pump(world));
        servers
    }

    /// For a connection that was taken already; nothing has passed yet.
    pub fn new(config: &Arc<ServerConfig>, peer: Peer, step: usize) -> Server {
        Server { tls: ServerConnection::new(config.clone()).unwrap(), peer, step, error: None }
    }

    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Carries bytes in both directions until no side has any more.
    pub fn pump(&mut self, world: &mut World) {
        loop {
            let sent = self.take(world);
            let bytes = self.records();
            if bytes.is_empty() && !sent {
                return;
            }
            self.deliver(world, &bytes);
        }
    }

    /// Takes what the engine has sent, if it has sent anything, and sends nothing.
    pub fn take(&mut self, world: &mut World) -> bool {
        let sent = world.taken_bytes(self.peer);
        let mut rest = &sent[..];
        while !rest.is_empty() && self.error.is_none() {
            self.tls.read_tls(&mut rest).unwrap();
            self.error = self.tls.process_new_packets().err();
        }
        !sent.is_empty()
    }

    /// The records that it has ready.
    pub fn records(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Sends bytes to the engine as they are.
    pub fn deliver(&self, world: &mut World, bytes: &[u8]) {
        bytes.chunks(self.step.min(bytes.len().max(1))).for_each(|piece| world.send(self.peer, piece));
    }

    /// The plaintext that the engine has sent since the last call.
    pub fn heard(&mut self, world: &mut World) -> String {
        self.pump(world);
        let (mut plain, mut reader) = (Vec::new(), self.tls.reader());
        while let Ok(piece @ [_, ..]) = reader.fill_buf() {
            plain.extend_from_slice(piece);
            let count = piece.len();
            reader.consume(count);
        }
        String::from_utf8_lossy(&plain).into_owned()
    }

    /// Puts bytes into records, for [`Server::records`].
    pub fn seal(&mut self, plain: &[u8]) {
        self.tls.writer().write_all(plain).unwrap();
    }

    pub fn say(&mut self, world: &mut World, plain: &[u8]) {
        self.seal(plain);
        self.pump(world);
    }

    /// Puts `close_notify` into the records.
    pub fn seal_end(&mut self) {
        self.tls.send_close_notify();
    }
}
