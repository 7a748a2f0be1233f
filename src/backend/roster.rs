//! The connections of one pool by their states.

use super::fault::Phase;
use crate::arena::Key;
use crate::metrics::BackendMetrics;
use std::collections::VecDeque;
use std::time::Instant;

/// The connections of one pool by their states, and the time limits of those without exchanges.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// Connections of every state.
    open: usize,
    /// Unused connections, and when each is closed; the last one that was used is at the end.
    idle: VecDeque<(Key, Instant)>,
    /// Connections that are not open yet, and the deadline of each.
    connecting: VecDeque<(Key, Instant)>,
    /// Number of those in their TLS handshakes.
    handshaking: usize,
}

impl Roster {
    pub(super) fn open(&self) -> usize {
        self.open
    }

    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    pub(super) fn connecting(&self) -> usize {
        self.connecting.len()
    }

    /// A connection is being made, until `until` at most.
    pub(super) fn add(&mut self, key: Key, until: Instant) {
        self.open += 1;
        self.connecting.push_back((key, until));
    }

    /// A TLS handshake has begun, which may take until `until`.
    pub(super) fn begin_handshake(&mut self, key: Key, until: Instant) {
        // Both phases have the same length, so that the list stays sorted by deadline.
        self.connecting.retain(|(other, _)| *other != key);
        self.connecting.push_back((key, until));
        self.handshaking += 1;
    }

    /// A connection is open, after a TLS handshake or without.
    pub(super) fn set_open(&mut self, key: Key, handshake: bool) {
        self.connecting.retain(|(other, _)| *other != key);
        self.handshaking -= usize::from(handshake);
    }

    /// A connection is unused, and is closed at `until`.
    pub(super) fn set_idle(&mut self, key: Key, until: Instant) {
        self.idle.push_back((key, until));
    }

    /// The unused connection that was used last, and when it is to be closed.
    pub(super) fn pop_idle(&mut self) -> Option<(Key, Instant)> {
        // The last one first: under little load the others can time out and close.
        self.idle.pop_back()
    }

    /// The connection that has been unused for longest, and when it is to be closed.
    pub(super) fn oldest_idle(&self) -> Option<(Key, Instant)> {
        self.idle.front().copied()
    }

    /// The connection that has been connecting for longest, and its deadline.
    pub(super) fn oldest_connecting(&self) -> Option<(Key, Instant)> {
        self.connecting.front().copied()
    }

    pub(super) fn idle_keys(&self) -> Vec<Key> {
        self.idle.iter().map(|(key, _)| *key).collect()
    }

    /// Those that carry nothing: unused, or not open yet.
    pub(super) fn unused_keys(&self) -> Vec<Key> {
        self.idle.iter().chain(&self.connecting).map(|(key, _)| *key).collect()
    }

    /// A connection has closed that was open, or still in its handshake.
    pub(super) fn remove(&mut self, key: Key, was_open: bool, was_handshaking: bool) {
        self.open -= 1;
        if was_open {
            self.idle.retain(|(other, _)| *other != key);
        } else {
            self.connecting.retain(|(other, _)| *other != key);
            self.handshaking -= usize::from(was_handshaking);
        }
    }

    /// `metrics` with the current numbers of connections.
    pub(super) fn metrics(&self, metrics: &BackendMetrics) -> BackendMetrics {
        BackendMetrics {
            busy: (self.open - self.idle.len() - self.connecting.len()) as u64,
            idle: self.idle.len() as u64,
            connecting: (self.connecting.len() - self.handshaking) as u64,
            handshaking: self.handshaking as u64,
            ..metrics.clone()
        }
    }

    /// What delays the exchanges that wait for a connection.
    pub(super) fn phase(&self, unresolved: bool) -> Phase {
        if self.open > self.connecting.len() {
            Phase::Queue
        } else if self.connecting.is_empty() && unresolved {
            Phase::Resolve
        } else if self.handshaking > 0 && self.handshaking == self.connecting.len() {
            Phase::Handshake
        } else {
            Phase::Connect
        }
    }

    /// The earliest time limit of a connection without exchanges.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.idle.front(), self.connecting.front()].into_iter().flatten().map(|(_, until)| *until).min()
    }
}
