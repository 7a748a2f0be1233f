//! What happens to clients: when one is read again, looked at again, let go.

use super::{Engine, Timer};
use crate::arena::Key;
use crate::client::Client;
use crate::io::{Action, Peer};
use std::time::{Duration, Instant};

/// A client that has sent half a request, or leaves its reply unread, is closed after so long without
/// any progress: Postfix's own limit for both. One that is merely idle never is.
const STALL: Duration = Duration::from_secs(100);

impl Engine {
    /// Goes on with a client that has room again: with rows, with what was read already, with reading.
    pub(super) fn resume(&mut self, key: Key, now: Instant) {
        self.stream(key, now);
        let Some(client) = self.clients.get_mut(key).filter(|client| client.may_ask()) else { return };
        let paused = std::mem::take(&mut client.paused);
        if self.stopping || !paused {
            return;
        }
        self.client_sent(key, &[], now);
        self.actions.push_back(Action::Resume(Peer::Client(key)));
        if self.clients.get(key).is_some_and(|client| client.ended) {
            self.dismiss(key);
        }
    }

    /// Drives the iterations of a client that has room again.
    pub(super) fn stream(&mut self, client: Key, now: Instant) {
        for key in self.iterations_of(client) {
            self.iterate(key, now);
        }
    }

    fn iterations_of(&self, client: Key) -> Vec<Key> {
        let of = |key: &Key| self.jobs.get(*key).is_some_and(|job| job.client == client);
        self.iterations.iter().copied().filter(of).collect()
    }

    /// Looks at a client again after a while, once, unless that is planned already.
    pub(super) fn watch(&mut self, key: Key, now: Instant) {
        if let Some(client) = self.clients.get_mut(key).filter(|client| client.watched.is_none()) {
            client.watched = Some(client.moved);
            self.timers.add(now, STALL, Timer::Stuck(key));
        }
    }

    pub(super) fn check_stuck(&mut self, key: Key, now: Instant) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let before = client.watched.take();
        if !client.is_stuck() {
            return;
        }
        if before == Some(client.moved) {
            let kind = if client.output.is_empty() { "half a request" } else { "unread replies" };
            self.faults.warn(&format!("client-timeout cause=\"{kind}\""), now);
            return self.drop_client(key);
        }
        self.watch(key, now);
    }

    /// Closes a client that has ended its side and has got all that it is owed.
    pub(super) fn dismiss(&mut self, key: Key) {
        if self.clients.get(key).is_some_and(Client::is_served) {
            self.remove(key);
        }
    }

    pub(super) fn remove(&mut self, key: Key) {
        let Some(client) = self.clients.remove(key) else { return };
        self.actions.push_back(Action::Close(Peer::Client(key)));
        if client.open() > 0 {
            (self.abandoned, self.pending) = (true, true);
            // Iterations end here; lookups end with their answers, and commits go on.
            for one in self.iterations_of(key) {
                self.jobs.remove(one);
                self.iterations.retain(|other| *other != one);
            }
        }
    }
}
