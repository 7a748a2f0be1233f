//! The connections of mail servers: their input, replies, back-pressure and stalls.

use crate::arena::{Arena, Key};
use crate::buffer::Joined;
use crate::client::{AdminRequest, Client, Event, Reply, ReplyTo};
use crate::config::Mode;
use crate::io::{Action, Peer, Turn};
use crate::log::{self, Repeats};
use crate::query::Tokens;
use crate::timers::{Timers, earliest};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time without progress after which a client with an incomplete request or an unread reply is closed.
// As long as Postfix waits for a read or a write (dict_sockmap.c). An idle client is never closed.
const STALL_TIMEOUT: Duration = Duration::from_secs(100);

/// The same for a connection to the metrics listener, which has to send all of its request within this time.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The connected clients.
#[derive(Default)]
pub(super) struct Clients {
    arena: Arena<Client>,
    /// Clients that may have room again for rows or requests, each at most once.
    resumable: Vec<Key>,
    /// When to check stuck clients for progress.
    stalls: Timers<Key>,
    /// When to close clients that are owed replies after a fault.
    closings: Timers<Key>,
    /// Connections to the metrics listener, the oldest first.
    admins: VecDeque<Key>,
    /// Total number of connections of mail servers.
    accepted: u64,
    /// Total number of clients that were closed because of invalid requests or unread replies.
    dropped: u64,
    /// A client with open requests has disconnected.
    abandoned: bool,
    /// No more requests are read from mail servers.
    draining: bool,
}

impl Clients {
    pub(super) fn accept(&mut self, mode: Mode, tokens: Tokens, turn: &mut Turn) -> Key {
        let (client, now) = (Client::new(mode, tokens), turn.now);
        let speaks_first = !client.output.is_empty();
        let key = self.arena.insert(client);
        if speaks_first {
            turn.push(Action::Flush(Peer::Client(key)));
        }
        // Each scrape or probe is a connection; together they would outnumber the mail servers.
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
        let serves = |client: &&Client| !self.draining || client.is_admin();
        // Requests that were read but not started come first: otherwise the input of a client that writes faster than
        // it is served would grow without bound.
        self.arena
            .get(key)
            .filter(serves)
            .is_some_and(|client| client.accepts_requests() && !client.paused && !client.closing)
    }

    /// The buffered input of a client followed by `bytes`. [`Clients::end_input`] takes back the unused rest.
    pub(super) fn begin_input<'a>(&mut self, key: Key, bytes: &'a [u8]) -> Option<Joined<'a>> {
        let client = self.arena.get_mut(key)?;
        client.transferred += bytes.len() as u64;
        Some(client.input.join(bytes))
    }

    /// Parses the next event at the front of `input` and returns it with its length in bytes. `None` if it is
    /// incomplete or the client has too many open requests. A client that violates its protocol is closed.
    pub(super) fn next<'a>(
        &mut self,
        key: Key,
        input: &'a [u8],
        faults: &mut Repeats,
        turn: &mut Turn,
    ) -> Option<(Event<'a>, usize)> {
        let client = self.arena.get_mut(key).filter(|client| client.accepts_requests())?;
        // Earlier output already waits for the socket to become writable; flushing again would waste a system call.
        let was_empty = client.output.is_empty();
        match client.next(input) {
            Ok(next) => {
                if was_empty && !client.output.is_empty() {
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

    /// True if what a client sends may hold a password.
    pub(super) fn is_secret(&self, key: Key) -> bool {
        self.arena.get(key).is_some_and(Client::is_secret)
    }

    /// The table that a dict client has named in HELLO.
    pub(super) fn table(&self, key: Key) -> &[u8] {
        self.arena.get(key).map_or(&[], Client::table)
    }

    /// Buffers the input from `used` on.
    pub(super) fn end_input(&mut self, key: Key, input: Joined<'_>, used: usize, now: Instant) {
        let Some(client) = self.arena.get_mut(key) else { return };
        client.input.put_back(input, used);
        if client.is_stuck() {
            self.watch(key, now);
        }
    }

    /// A client has shut down its sending side.
    pub(super) fn begin_close(&mut self, key: Key) {
        self.arena.get_mut(key).into_iter().for_each(|client| client.closing = true);
    }

    /// Stops reading requests of mail servers.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    // --- replies

    /// Appends a reply to the output of its client, and flushes it if it was empty. Reasons name `table`.
    pub(super) fn reply(&mut self, to: ReplyTo, table: &str, reply: Reply<'_>, turn: &mut Turn) {
        let Some(client) = self.arena.get_mut(to.client) else { return };
        let was_empty = client.output.is_empty();
        let close_by = if let Reply::Close(by) = &reply { Some(*by) } else { None };
        let closes = client.reply(to.seq, table, reply);
        if was_empty && !client.output.is_empty() {
            turn.push(Action::Flush(Peer::Client(to.client)));
        }
        // Reading stops at 256 KiB of unread replies, but a thousand requests for large values may be open already.
        if client.is_overflowing() {
            log::warn(format_args!("client-timeout cause=\"more than 64 MiB of unread replies\""));
            return self.drop_client(to.client, turn);
        }
        // The last reply has nothing to send, so that no flush would notice.
        if client.closing && client.is_served() {
            return self.remove(to.client, turn);
        }
        if let Some(by) = close_by.filter(|_| closes) {
            self.closings.add_by(turn.now, Duration::ZERO, by.max(turn.now), to.client);
        }
        // There may be room for the next request, and without async ids it may be the turn of an iteration.
        if client.mark_resumable() {
            self.resumable.push(to.client);
        }
    }

    /// Appends the response to a request on the metrics listener.
    pub(super) fn respond(&mut self, key: Key, page: AdminRequest, body: &str, turn: &mut Turn) {
        let Some(client) = self.arena.get_mut(key) else { return };
        client.respond(page, body);
        turn.push(Action::Flush(Peer::Client(key)));
    }

    pub(super) fn output(&self, key: Key) -> &[u8] {
        self.arena.get(key).map_or(&[], |client| client.output.unsent())
    }

    /// The socket has accepted `count` bytes of the output.
    pub(super) fn sent(&mut self, key: Key, count: usize, turn: &mut Turn) {
        let Some(client) = self.arena.get_mut(key) else { return };
        client.output.advance(count);
        client.transferred += count as u64;
        let (unsent, closing) = (!client.output.is_empty(), client.closing);
        if client.mark_resumable() {
            self.resumable.push(key);
        }
        if unsent {
            // Also after 0 bytes: the socket of a client that never reads does not become writable again.
            self.watch(key, turn.now);
        } else if closing {
            self.close_if_served(key, turn);
        }
    }

    // --- back-pressure

    /// Counts an iteration that begins or ends.
    pub(super) fn count_iteration(&mut self, key: Key, begins: bool) {
        let Some(client) = self.arena.get_mut(key) else { return };
        // A count, because searching all iterations at every reply is slow when thousands of them wait.
        client.iterations = if begins { client.iterations + 1 } else { client.iterations - 1 };
    }

    /// True if a row would be written now instead of stored; `None` if the client has disconnected.
    pub(super) fn may_stream(&self, to: ReplyTo) -> Option<bool> {
        self.arena.get(to.client).map(|client| client.may_stream(to.seq))
    }

    /// True if some client may have room again.
    pub(super) fn has_resumable(&self) -> bool {
        !self.resumable.is_empty()
    }

    /// Removes and returns the clients that may have room again.
    pub(super) fn take_resumable(&mut self) -> Vec<Key> {
        let resumable = std::mem::take(&mut self.resumable);
        // Unmarked before any of them is served, so that one that is still busy is listed for the next turn.
        for key in &resumable {
            self.arena.get_mut(*key).into_iter().for_each(|client| client.resumable = false);
        }
        resumable
    }

    /// True if a client is paused: some of its buffered requests may not have been started.
    pub(super) fn is_paused(&self, key: Key) -> bool {
        self.arena.get(key).is_some_and(|client| client.paused)
    }

    /// Resumes a client; true if it was paused and has room now. Also during a shutdown: what was read is answered.
    pub(super) fn resume(&mut self, key: Key) -> bool {
        let Some(client) = self.arena.get_mut(key).filter(|client| client.accepts_requests()) else { return false };
        std::mem::take(&mut client.paused)
    }

    // --- disconnects

    /// Closes a client that sends no more requests, once all its replies are sent.
    pub(super) fn close_if_served(&mut self, key: Key, turn: &mut Turn) {
        if self.arena.get(key).is_some_and(|client| client.closing && client.is_served()) {
            self.remove(key, turn);
        }
    }

    /// Closes a client because of invalid requests or unread replies.
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
        // A scan of all requests: done once per turn, as many clients may disconnect together.
        self.abandoned |= client.open() > 0;
    }

    /// True if clients with open requests have disconnected since the last call.
    pub(super) fn take_abandoned(&mut self) -> bool {
        std::mem::take(&mut self.abandoned)
    }

    /// True if all replies are sent, and no request is left that was read.
    pub(super) fn is_drained(&self) -> bool {
        self.arena.iter().all(|(_, client)| client.output.is_empty() && (client.refuses || !client.paused))
    }

    // --- stalls

    /// Schedules a check of a client for progress, unless one is scheduled already.
    fn watch(&mut self, key: Key, now: Instant) {
        if let Some(client) = self.arena.get_mut(key).filter(|client| client.watched.is_none()) {
            client.watched = Some(client.transferred);
            let timeout = if client.is_admin() { ADMIN_TIMEOUT } else { STALL_TIMEOUT };
            self.stalls.add(now, timeout, key);
        }
    }

    /// Closes stuck clients that made no progress since they were last checked.
    pub(super) fn expire(&mut self, faults: &mut Repeats, turn: &mut Turn) {
        while let Some(key) = self.closings.due(turn.now, |key| self.arena.contains(*key)) {
            self.remove(key, turn);
        }
        while let Some(key) = self.stalls.due(turn.now, |key| self.arena.contains(*key)) {
            let Some(client) = self.arena.get_mut(key) else { continue };
            let before = client.watched.take();
            let is_late = client.is_admin() && !client.closing;
            if !client.is_stuck() {
                if is_late {
                    self.remove(key, turn); // it has sent nothing, which is no reason for a warning
                }
                continue; // the next incomplete request or partial write schedules a new check
            }
            // Any byte in either direction is progress: a slow link must not be disconnected.
            if is_late || before == Some(client.transferred) {
                let cause = if client.output.is_empty() { "incomplete request" } else { "unread replies" };
                faults.warn(&format!("client-timeout cause=\"{cause}\""), turn.now);
                self.drop_client(key, turn);
            } else {
                self.watch(key, turn.now);
            }
        }
    }

    /// When [`Clients::expire`] must be called.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let Self { stalls, closings, arena, .. } = self;
        let is_there = |key: &Key| arena.contains(*key);
        earliest([stalls.next(is_there), closings.next(is_there)])
    }

    // --- reports

    /// The number of connected mail servers.
    pub(super) fn mail_servers(&self) -> usize {
        self.arena.iter().filter(|(_, client)| !client.is_admin()).count()
    }

    /// The total numbers of accepted mail servers and of dropped clients.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.accepted, self.dropped)
    }

    /// The number of requests without a complete reply.
    pub(super) fn open_requests(&self) -> usize {
        self.arena.iter().map(|(_, client)| client.open()).sum()
    }
}
