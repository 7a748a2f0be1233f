//! What carries requests: HTTP backends, the DNS and programs.

use crate::arena::Key;
use crate::backend::{Arrived, Asker, BackendReport, Backends, BodyPart, Carrier, Exchange, Finished};
use crate::dns::Dns;
use crate::io::{End, Peer, Turn};
use crate::log::Repeats;
use crate::program::Programs;
use crate::timers::earliest;
use std::time::Instant;

/// All carriers of requests. Each has its own peers, and returns each request once.
#[derive(Debug, Default)]
pub struct Carriers {
    pub backends: Backends,
    pub dns: Dns,
    pub programs: Programs,
}

impl Carriers {
    /// Sends a request on its way. [`Carriers::next_finished`] returns it in the end.
    #[inline]
    pub(super) fn submit(&mut self, exchange: Box<Exchange>, turn: &mut Turn) {
        match exchange.carrier() {
            Carrier::Http => self.backends.submit(exchange, turn),
            Carrier::Dns(_) => self.dns.submit(exchange, turn),
            Carrier::Program(_) => self.programs.submit(exchange, turn),
        }
    }

    /// The next request that has ended.
    #[inline]
    pub(super) fn next_finished<'a>(&mut self, arrived: &mut Arrived<'a>, turn: &mut Turn) -> Option<Finished<'a>> {
        let finished = self.backends.next_finished(arrived, turn);
        if finished.is_some() {
            return finished;
        }
        self.dns.next_finished().or_else(|| self.programs.next_finished())
    }

    /// The next part of a list.
    #[inline]
    pub(super) fn next_part(&mut self) -> Option<BodyPart> {
        self.backends.next_part().or_else(|| self.programs.next_part())
    }

    /// What a request was last sent to, in logs and reasons.
    pub(super) fn label<'a>(&'a self, exchange: &'a Exchange) -> &'a str {
        match exchange.carrier() {
            Carrier::Http => self.backends.label(exchange),
            Carrier::Dns(_) | Carrier::Program(_) => exchange.request.label(),
        }
    }

    /// Drops the requests that wait and that `is_live` does not hold for.
    pub(super) fn sweep(&mut self, mut is_live: impl FnMut(Asker) -> bool) {
        self.backends.sweep(&mut is_live);
        self.programs.sweep(is_live);
    }

    // --- peers

    /// A connection is made that was requested.
    pub(super) fn connected(&mut self, peer: Peer, turn: &mut Turn) {
        match peer {
            Peer::Backend(key) => self.backends.connected(key, turn),
            Peer::Dns(key) => self.dns.connected(key, turn),
            Peer::Client(_) | Peer::Program(_) | Peer::Stderr(_) => {} // these have connected
        }
    }

    /// Bytes have arrived of a peer that is neither a client nor a backend.
    // Lookups over HTTP do not come here, and are slower if this becomes a part of their way.
    #[inline(never)]
    pub(super) fn received(&mut self, peer: Peer, bytes: &[u8], faults: &mut Repeats, turn: &mut Turn) {
        match peer {
            Peer::Dns(key) => self.dns.received(key, bytes, turn),
            Peer::Program(key) => self.programs.received(key, bytes, turn),
            Peer::Stderr(key) => {
                self.log_stderr(key, Some(bytes), faults, turn);
            }
            Peer::Client(_) | Peer::Backend(_) => {}
        }
    }

    /// Logs what a process has written to stderr, or the rest at its end.
    fn log_stderr(&mut self, key: Key, bytes: Option<&[u8]>, faults: &mut Repeats, turn: &Turn) {
        let Some((label, lines)) = self.programs.on_stderr(key, bytes) else { return };
        for line in lines {
            faults.warn(&format!("program-stderr backend={label} line=\"{line}\""), turn.now);
        }
    }

    /// A peer has closed its side of a connection, or both.
    pub(super) fn ended(&mut self, peer: Peer, end: End, turn: &mut Turn) {
        let error = if let End::Closed(error) = end { error } else { None };
        match peer {
            // The end of the stream may complete a response, but nothing can follow it.
            Peer::Backend(key) => self.backends.ended(key, error, turn),
            Peer::Dns(key) => self.dns.ended(key, error, turn),
            Peer::Program(key) => self.programs.ended(key, turn),
            Peer::Stderr(_) | Peer::Client(_) => {} // it needs none
        }
    }

    /// A process has ended, or could not be started.
    pub(super) fn exited(&mut self, key: Key, status: &str, faults: &mut Repeats, turn: &mut Turn) {
        let now = turn.now;
        self.log_stderr(key, None, faults, turn);
        if let Some((label, cause)) = self.programs.exited(key, status, turn) {
            faults.warn(&format!("program-ended backend={label} cause=\"{cause}\""), now);
        }
    }

    /// True if bytes of a peer may be read.
    pub(super) fn wants_input(&mut self, peer: Peer) -> bool {
        match peer {
            // Otherwise bounded by the limits of the response decoder.
            Peer::Backend(key) => self.backends.connections().wants_input(key),
            Peer::Program(key) => self.programs.wants_input(key),
            Peer::Dns(_) | Peer::Stderr(_) | Peer::Client(_) => true,
        }
    }

    /// Stops to read the source of a list, or continues.
    pub(super) fn set_paused(&mut self, peer: Peer, paused: bool, turn: &mut Turn) {
        match peer {
            Peer::Backend(key) => self.backends.connections().set_paused(key, paused, turn),
            Peer::Program(key) => self.programs.set_paused(key, paused, turn),
            Peer::Client(_) | Peer::Dns(_) | Peer::Stderr(_) => {} // these have no lists
        }
    }

    /// The bytes to write to a peer.
    pub(super) fn output(&mut self, peer: Peer) -> &[u8] {
        match peer {
            Peer::Backend(key) => self.backends.connections().output(key),
            Peer::Dns(key) => self.dns.output(key),
            Peer::Program(key) => self.programs.output(key),
            Peer::Client(_) | Peer::Stderr(_) => &[],
        }
    }

    /// `count` bytes of the output were accepted.
    #[inline]
    pub(super) fn sent(&mut self, peer: Peer, count: usize, turn: &mut Turn) {
        match peer {
            Peer::Backend(key) => self.backends.connections().sent(key, count),
            Peer::Dns(key) => self.dns.sent(key, count, turn),
            Peer::Program(key) => self.programs.sent(key, count),
            Peer::Client(_) | Peer::Stderr(_) => {}
        }
    }

    // --- time

    pub(super) fn tick(&mut self, turn: &mut Turn) {
        self.backends.tick(turn);
        self.dns.tick(turn);
        self.programs.tick(turn);
    }

    /// When [`Carriers::tick`] has something to do.
    #[inline]
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        earliest([self.backends.deadline(), self.dns.deadline(), self.programs.deadline()])
    }

    /// The state of each backend and program.
    pub(super) fn reports(&self, now: Instant) -> impl Iterator<Item = BackendReport<'_>> {
        self.backends.reports(now).chain(self.programs.reports())
    }
}
