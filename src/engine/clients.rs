//! The connections of mail servers: their input, replies, back-pressure and stalls.

use crate::arena::{Arena, Key};
use crate::buffer::Joined;
use crate::client::{AdminPage, Client, Event, Reply, ReplyTo};
use crate::config::Mode;
use crate::io::{Action, Peer, Turn};
use crate::log::{self, Repeats};
use crate::timers::Timers;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A client that has sent half a request, or leaves a reply unread, is closed after this time without any progress:
/// Postfix's own limit for both. One that is merely idle never is.
const STALL_TIMEOUT: Duration = Duration::from_secs(100);

/// The same for a connection to the metrics listener, which has to send all of its request within this time.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The clients.
#[derive(Default)]
pub(super) struct Clients {
    arena: Arena<Client>,
    /// Clients that may have room again: for rows, for requests that were read already, for reading. Each is in here once.
    resumed: Vec<Key>,
    /// When clients that seemed stuck are looked at again.
    stalls: Timers<Key>,
    /// Connections to the metrics listener, the oldest first.
    admins: VecDeque<Key>,
    /// Connections of mail servers so far.
    accepted: u64,
    /// Clients closed for what they sent or did not read.
    dropped: u64,
    /// Some client left that had requests open.
    abandoned: bool,
    /// No more requests are read from mail servers.
    stopping: bool,
}

impl Clients {
    pub(super) fn accept(&mut self, mode: Mode, now: Instant) -> Key {
        let key = self.arena.insert(Client::new(mode));
        if mode == Mode::Admin {
            self.watch(key, now);
            self.admins.push_back(key);
        } else {
            self.accepted += 1;
        }
        key
    }

    /// Connections to the metrics listener.
    pub(super) fn admins(&self) -> usize {
        self.admins.len()
    }

    /// Closes the oldest connections to the metrics listener, so that `most` are left.
    pub(super) fn limit_admins(&mut self, most: usize, turn: &mut Turn) {
        while self.admins.len() > most {
            self.admins.front().copied().into_iter().for_each(|key| self.remove(key, turn));
        }
    }

    pub(super) fn is_connected(&self, key: Key) -> bool {
        self.arena.contains(key)
    }

    // --- input

    /// True if bytes of a client may be read.
    pub(super) fn wants_input(&self, key: Key) -> bool {
        let serves = |client: &&Client| !self.stopping || client.is_admin();
        // What was read and not begun comes first: else a client that writes faster than it is served would be held in
        // memory without bound.
        self.arena.get(key).filter(serves).is_some_and(|client| client.may_ask() && !client.paused && !client.ended)
    }

    /// What a client has sent, with what was held of it. [`Clients::end_input`] takes back what was not used.
    pub(super) fn begin_input<'a>(&mut self, key: Key, bytes: &'a [u8]) -> Option<Joined<'a>> {
        let client = self.arena.get_mut(key)?;
        client.moved += bytes.len() as u64;
        Some(client.input.join(bytes))
    }

    /// Takes the next event off the front of `input`, with the bytes that it took. `None` if there is none now, or the
    /// client has too much open. A client that breaks its protocol is closed.
    pub(super) fn next<'a>(
        &mut self,
        key: Key,
        input: &'a [u8],
        faults: &mut Repeats,
        turn: &mut Turn,
    ) -> Option<(Event<'a>, usize)> {
        let client = self.arena.get_mut(key).filter(|client| client.may_ask())?;
        // Output that was there before is waiting for a writable edge already; a second flush would be a system call for nothing.
        let quiet = client.output.is_empty();
        match client.next(input) {
            Ok(next) => {
                if quiet && !client.output.is_empty() {
                    turn.push(Action::Flush(Peer::Client(key)));
                }
                next
            }
            Err(error) => {
                faults.warn(&format!("client-error cause=\"{error}\""), turn.now);
                self.drop_client(key, turn);
                None
            }
        }
    }

    /// The name of the table that a dict client has chosen once for all.
    pub(super) fn table(&self, key: Key) -> &[u8] {
        self.arena.get(key).map_or(&[], Client::table)
    }

    /// Holds the part of the input from `used` on.
    pub(super) fn end_input(&mut self, key: Key, input: Joined<'_>, used: usize, now: Instant) {
        let Some(client) = self.arena.get_mut(key) else { return };
        client.input.keep(input, used);
        if client.is_stuck() {
            self.watch(key, now);
        }
    }

    /// A client has shut down its sending side.
    pub(super) fn set_ended(&mut self, key: Key) {
        self.arena.get_mut(key).into_iter().for_each(|client| client.ended = true);
    }

    /// Reads no more requests of mail servers.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }

    // --- replies

    /// Puts a reply into the output of its client, which is flushed if it was empty. `table` is for reasons.
    pub(super) fn reply(&mut self, to: ReplyTo, table: &str, reply: Reply<'_>, turn: &mut Turn) {
        let Some(client) = self.arena.get_mut(to.client) else { return };
        let quiet = client.output.is_empty();
        client.reply(to.place, table, reply);
        if quiet && !client.output.is_empty() {
            turn.push(Action::Flush(Peer::Client(to.client)));
        }
        // A client is not read while it leaves 256 KiB unread, but it may have asked for a thousand values of any size before.
        if client.is_overflowing() {
            log::warn(format_args!("client-timeout cause=\"far too many unread replies\""));
            return self.drop_client(to.client, turn);
        }
        // What was not read goes on being read; and an iteration may be the next in order now.
        if client.has_work() {
            self.resumed.push(to.client);
        }
    }

    /// Puts a page into the output of a metrics client.
    pub(super) fn respond(&mut self, key: Key, page: AdminPage, body: &str, turn: &mut Turn) {
        let Some(client) = self.arena.get_mut(key) else { return };
        client.respond(page, body);
        turn.push(Action::Flush(Peer::Client(key)));
    }

    pub(super) fn output(&self, key: Key) -> &[u8] {
        self.arena.get(key).map_or(&[], |client| client.output.unsent())
    }

    /// The kernel took `count` bytes of the output.
    pub(super) fn sent(&mut self, key: Key, count: usize, turn: &mut Turn) {
        let Some(client) = self.arena.get_mut(key) else { return };
        client.output.advance(count);
        client.moved += count as u64;
        let (waits, ended) = (!client.output.is_empty(), client.ended);
        if client.has_work() {
            self.resumed.push(key);
        }
        if waits {
            self.watch(key, turn.now);
        } else if ended {
            self.dismiss(key, turn);
        }
    }

    // --- back-pressure

    /// An iteration of a client begins or ends.
    pub(super) fn count_iteration(&mut self, key: Key, begins: bool) {
        let Some(client) = self.arena.get_mut(key) else { return };
        client.iterations = if begins { client.iterations + 1 } else { client.iterations - 1 };
    }

    /// True if a row would be written at once, and not held; `None` if the client has left.
    pub(super) fn may_stream(&self, to: ReplyTo) -> Option<bool> {
        self.arena.get(to.client).map(|client| client.may_stream(to.place))
    }

    /// True if some client may have room again.
    pub(super) fn has_resumed(&self) -> bool {
        !self.resumed.is_empty()
    }

    /// The clients that may have room again.
    pub(super) fn take_resumed(&mut self) -> Vec<Key> {
        let resumed = std::mem::take(&mut self.resumed);
        for key in &resumed {
            self.arena.get_mut(*key).into_iter().for_each(|client| client.resumed = false);
        }
        resumed
    }

    /// True if a client is paused: requests of it are held that were not begun.
    pub(super) fn is_paused(&self, key: Key) -> bool {
        self.arena.get(key).is_some_and(|client| client.paused)
    }

    /// True if a client was paused and is read again from now on.
    pub(super) fn resume(&mut self, key: Key) -> bool {
        let Some(client) = self.arena.get_mut(key).filter(|client| client.may_ask()) else { return false };
        std::mem::take(&mut client.paused) && !self.stopping
    }

    // --- the end

    /// Closes a client that has shut down its sending side and has got all that it is owed.
    pub(super) fn dismiss(&mut self, key: Key, turn: &mut Turn) {
        if self.arena.get(key).is_some_and(|client| client.ended && client.is_served()) {
            self.remove(key, turn);
        }
    }

    /// Closes a client for its own fault.
    fn drop_client(&mut self, key: Key, turn: &mut Turn) {
        self.dropped += 1;
        self.remove(key, turn);
    }

    pub(super) fn remove(&mut self, key: Key, turn: &mut Turn) {
        let Some(client) = self.arena.remove(key) else { return };
        turn.push(Action::Close(Peer::Client(key)));
        if client.is_admin() {
            self.admins.retain(|other| *other != key);
        }
        // Its requests are looked for once per turn, not for each client that leaves.
        self.abandoned |= client.open() > 0;
    }

    /// True if clients have left since the last call that had requests open.
    pub(super) fn take_abandoned(&mut self) -> bool {
        std::mem::take(&mut self.abandoned)
    }

    /// True if every reply was taken.
    pub(super) fn is_drained(&self) -> bool {
        self.arena.iter().all(|(_, client)| client.output.is_empty())
    }

    // --- stalls

    /// Looks at a client again after a while, once, unless that is planned already.
    fn watch(&mut self, key: Key, now: Instant) {
        if let Some(client) = self.arena.get_mut(key).filter(|client| client.watched.is_none()) {
            client.watched = Some(client.moved);
            let timeout = if client.is_admin() { ADMIN_TIMEOUT } else { STALL_TIMEOUT };
            self.stalls.add(now, timeout, key);
        }
    }

    /// Closes clients that have made no progress for too long.
    pub(super) fn expire(&mut self, faults: &mut Repeats, turn: &mut Turn) {
        while let Some(key) = self.stalls.due(turn.now, |key| self.arena.contains(*key)) {
            let Some(client) = self.arena.get_mut(key) else { continue };
            let before = client.watched.take();
            let is_late = client.is_admin() && !client.ended;
            if !client.is_stuck() {
                if is_late {
                    self.remove(key, turn); // it has sent nothing, which is nothing to warn of
                }
                continue;
            }
            // Any byte in either direction is progress: a slow link must not lose its connection.
            if is_late || before == Some(client.moved) {
                let cause = if client.output.is_empty() { "half a request" } else { "unread replies" };
                faults.warn(&format!("client-timeout cause=\"{cause}\""), turn.now);
                self.drop_client(key, turn);
            } else {
                self.watch(key, turn.now);
            }
        }
    }

    /// When [`Clients::expire`] has something to do.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        self.stalls.next(|key| self.arena.contains(*key))
    }

    // --- reports

    /// Mail servers that are connected.
    pub(super) fn mail_servers(&self) -> usize {
        self.arena.iter().filter(|(_, client)| !client.is_admin()).count()
    }

    /// Mail servers accepted so far, and clients closed for their own fault.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.accepted, self.dropped)
    }

    /// Requests that wait for their answers.
    pub(super) fn open_requests(&self) -> usize {
        self.arena.iter().map(|(_, client)| client.open()).sum()
    }
}
