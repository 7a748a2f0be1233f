//! The value of one key: from the cache, or by one exchange, which all share that ask for the same key meanwhile.

use super::clients::Clients;
use super::shared::Shared;
use super::tables::{Planned, Tables, log_answer, record};
use crate::arena::{Arena, Key};
use crate::backend::{Asker, Finished};
use crate::cache::{self, Cache, CachedAnswer, Lifetime};
use crate::client::{Reply, ReplyTo};
use crate::metrics::CacheMetrics;
use crate::query::{Answer, Failure, FailureKind};
use crate::table::{Caching, Plan, Question};
use crate::timers::Timers;
use crate::wire::http::CacheControl;
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

/// A lookup that could have a stale answer waits for a new one for a tenth of its life, at most for this long.
const MAX_STALE_DELAY: Duration = Duration::from_secs(1);

/// Lookups in flight, and the cache.
pub(super) struct Lookups {
    lookups: Arena<Lookup>,
    waiters: Arena<Waiter>,
    fetches: Arena<Fetch>,
    /// The fetches that lookups may join, by table and key.
    in_flight: Vec<HashMap<Vec<u8>, Key>>,
    cache: Cache,
    timers: Timers<Timer>,
}

/// A lookup with an exchange of its own.
struct Lookup {
    to: ReplyTo,
    table: usize,
}

/// A lookup that waits for a fetch.
struct Waiter {
    to: ReplyTo,
    table: usize,
    fetch: Key,
    since: Instant,
    deadline: Instant,
}

/// One exchange for all lookups of a key, and for the cache. It belongs to no client.
struct Fetch {
    table: usize,
    key: Vec<u8>,
    /// The lookups that wait for it.
    waiters: Vec<Key>,
    /// False once the key was written: its answer is then good for those that wait already, and for no one else.
    current: bool,
}

/// What may be due for a lookup that waits for a fetch.
#[derive(Debug)]
enum Timer {
    Expire(Key),
    /// A stale answer is served while there is no other.
    ServeStale(Key),
}

impl Lookups {
    pub(super) fn new(cache_size: usize, tables: usize) -> Self {
        Self {
            lookups: Arena::default(),
            waiters: Arena::default(),
            fetches: Arena::default(),
            in_flight: vec![HashMap::new(); tables],
            cache: Cache::new(cache_size, tables),
            timers: Timers::default(),
        }
    }

    /// Answers a lookup, now or when its exchange has ended.
    pub(super) fn start(&mut self, to: ReplyTo, table: usize, key: &[u8], shared: &mut Shared) {
        if shared.tables.caching(table).is_some() {
            return self.start_cached(to, table, key, shared);
        }
        let now = shared.turn.now;
        let deadline = now + shared.tables.timeout(table);
        let Planned { name, metrics, plan } = shared.tables.plan(table, Question::Get(key), now);
        match plan {
            Plan::Request(request) => {
                // Its only exchange has the same deadline, so it needs no timer of its own.
                let asker = Asker::Lookup(self.lookups.insert(Lookup { to, table }));
                let exchange = shared.spare.take(asker, table, deadline, request, key, now);
                shared.backends.submit(exchange, &mut shared.turn);
            }
            Plan::Answer(answer) => {
                log_answer(name, key, &answer);
                record(metrics, &answer, Duration::ZERO);
                shared.clients.reply(to, name, Reply::Answer(answer), &mut shared.turn);
            }
        }
    }

    /// Takes the end of the exchange of one lookup.
    pub(super) fn complete(&mut self, lookup: Key, finished: Finished<'_>, shared: &mut Shared) {
        let Finished { exchange, result, .. } = finished;
        let Some(Lookup { to, table }) = self.lookups.remove(lookup) else { return };
        let took = shared.took(&exchange);
        let answer = shared.parse_value(table, false, &exchange, took, result);
        shared.tables.record(table, &exchange.key, &answer, took);
        shared.clients.reply(to, shared.tables.name(table), Reply::Answer(answer), &mut shared.turn);
        shared.spare.put(exchange);
    }

    // --- cached tables

    /// Answers a lookup from the cache, or has it wait for the one exchange of its key.
    fn start_cached(&mut self, to: ReplyTo, table: usize, key: &[u8], shared: &mut Shared) {
        let now = shared.turn.now;
        let stale = match self.cache.look(table, key, now) {
            cache::Lookup::Fresh { answer, early } => {
                shared.tables.metrics(table).cache_fresh += 1;
                shared.tables.record(table, key, &answer.answer(), Duration::ZERO);
                let reply = Reply::Answer(answer.answer());
                shared.clients.reply(to, shared.tables.name(table), reply, &mut shared.turn);
                if early && !self.in_flight[table].contains_key(key) {
                    let _ = self.fetch(table, key, shared); // an answer without an exchange needs no refreshing
                }
                return;
            }
            cache::Lookup::Stale(_) => true,
            cache::Lookup::Miss => false,
        };
        let fetch = match self.join(table, key, shared) {
            Ok(fetch) => fetch,
            Err(answer) => return answer_lookup(to, table, &answer, Duration::ZERO, shared),
        };
        let timeout = shared.tables.timeout(table);
        let waiter = self.waiters.insert(Waiter { to, table, fetch, since: now, deadline: now + timeout });
        self.fetches.get_mut(fetch).into_iter().for_each(|fetch| fetch.waiters.push(waiter));
        self.timers.add(now, timeout, Timer::Expire(waiter));
        if stale {
            self.timers.add(now, (timeout / 10).min(MAX_STALE_DELAY), Timer::ServeStale(waiter));
        }
    }

    /// The fetch of a key that is in flight, or else a new one, or the answer if the table needs none.
    fn join(&mut self, table: usize, key: &[u8], shared: &mut Shared) -> Result<Key, Result<CachedAnswer, Failure>> {
        // Thousands of clients may ask for the key of a mailing at once, which the backend should see once.
        let Some(fetch) = self.in_flight[table].get(key) else { return self.fetch(table, key, shared) };
        shared.tables.metrics(table).coalesced += 1;
        Ok(*fetch)
    }

    /// Begins an exchange that belongs to no client, or returns the answer if the table needs none.
    fn fetch(&mut self, table: usize, key: &[u8], shared: &mut Shared) -> Result<Key, Result<CachedAnswer, Failure>> {
        let now = shared.turn.now;
        let deadline = now + shared.tables.timeout(table);
        let request = match shared.tables.plan(table, Question::Get(key), now).plan {
            Plan::Request(request) => request,
            Plan::Answer(answer) => return Err(CachedAnswer::of(answer)),
        };
        let fetch = Fetch { table, key: key.to_vec(), waiters: Vec::new(), current: true };
        let fetch = self.fetches.insert(fetch);
        self.in_flight[table].insert(key.to_vec(), fetch);
        let exchange = shared.spare.take(Asker::Fetch(fetch), table, deadline, request, key, now);
        shared.backends.submit(exchange, &mut shared.turn);
        Ok(fetch)
    }

    /// Takes the end of a fetch's exchange to all lookups that wait for it, and to the cache.
    pub(super) fn complete_fetch(&mut self, fetch: Key, finished: Finished<'_>, shared: &mut Shared) {
        let Some(Fetch { table, key, waiters, current }) = self.fetches.remove(fetch) else { return };
        let Finished { exchange, result, .. } = finished;
        // A fetch that is not current was taken out when its key was written; the entry belongs to a later fetch.
        if current {
            self.in_flight[table].remove(&key);
        }
        let control = result.as_ref().map(|response| response.cache_control()).unwrap_or_default();
        let answer = shared.parse_value(table, false, &exchange, shared.took(&exchange), result);
        log_answer(shared.tables.name(table), &key, &answer);
        let answer = CachedAnswer::of(answer);
        shared.spare.put(exchange);
        match &answer {
            Ok(cached) => {
                if current {
                    self.store(table, &key, cached, control, shared);
                }
                waiters.into_iter().for_each(|waiter| self.end_wait(waiter, &answer, shared));
            }
            Err(failure) => {
                waiters.into_iter().for_each(|waiter| self.end_failed_wait(waiter, &key, failure, shared));
            }
        }
    }

    /// Ends the waiting of a lookup whose fetch has failed, or has it wait for another.
    fn end_failed_wait(&mut self, waiter: Key, key: &[u8], failure: &Failure, shared: &mut Shared) {
        let Some(Waiter { table, deadline, .. }) = self.waiters.get(waiter) else { return };
        let (table, deadline) = (*table, *deadline);
        if self.serve_stale(waiter, key, failure.reason(), shared) {
            return;
        }
        // The fetch was begun for another lookup, whose deadline was earlier.
        if failure.kind != FailureKind::Timeout || shared.turn.now >= deadline {
            return self.end_wait(waiter, &Err(failure.clone()), shared);
        }
        match self.join(table, key, shared) {
            Err(answer) => self.end_wait(waiter, &answer, shared),
            Ok(fetch) => {
                self.fetches.get_mut(fetch).into_iter().for_each(|fetch| fetch.waiters.push(waiter));
                self.waiters.get_mut(waiter).into_iter().for_each(|waiter| waiter.fetch = fetch);
            }
        }
    }

    fn store(&mut self, table: usize, key: &[u8], answer: &CachedAnswer, control: CacheControl, shared: &Shared) {
        let Some(Caching { fresh, stale }) = shared.tables.caching(table) else { return };
        // An older answer must go too: the backend has just said that none may be used again.
        if control.never() {
            self.cache.forget(table, key);
            return;
        }
        // must-revalidate forbids it, also while the backend is gone (RFC 9111, 5.2.2.2).
        let stale = if control.strict { Duration::ZERO } else { stale };
        let lifetime = Lifetime { fresh: control.fresh(SystemTime::now).unwrap_or(fresh), stale };
        self.cache.keep(table, key, answer.clone(), lifetime, shared.turn.now);
    }

    /// Drops what is known of a key that is written: in the cache, and in flight. A lookup from now on is not answered by
    /// what was asked before.
    pub(super) fn forget(&mut self, table: usize, key: &[u8], tables: &Tables) {
        if tables.caching(table).is_none() {
            return;
        }
        self.cache.forget(table, key);
        let fetch = self.in_flight[table].remove(key).and_then(|fetch| self.fetches.get_mut(fetch));
        fetch.into_iter().for_each(|fetch| fetch.current = false);
    }

    /// Drops all that is known, also what is in flight.
    pub(super) fn forget_all(&mut self) {
        self.cache.clear();
        self.in_flight.iter_mut().for_each(HashMap::clear);
        // They may have been asked before the files changed that were read again.
        self.fetches.iter_mut().for_each(|(_, fetch)| fetch.current = false);
    }

    /// Answers a lookup with what is stale, if that is allowed and there; true if it was.
    fn serve_stale(&mut self, waiter: Key, key: &[u8], cause: &str, shared: &mut Shared) -> bool {
        let Some(table) = self.waiters.get(waiter).map(|waiter| waiter.table) else { return false };
        let answer = match self.cache.look(table, key, shared.turn.now) {
            cache::Lookup::Fresh { answer, .. } => answer.clone(),
            // A value that was right may still be: mail is delivered as it was. A miss may have become a mailbox since,
            // whose mail it would bounce.
            cache::Lookup::Stale(answer @ CachedAnswer::Found(_)) => answer.clone(),
            cache::Lookup::Stale(CachedAnswer::Miss) | cache::Lookup::Miss => return false,
        };
        shared.tables.metrics(table).cache_stale += 1;
        let line = format!("stale table={}", shared.tables.name(table));
        shared.faults.warn_of(&line, &format!("cause=\"{cause}\""), shared.turn.now);
        self.end_wait(waiter, &Ok(answer), shared);
        true
    }

    fn end_wait(&mut self, waiter: Key, answer: &Result<CachedAnswer, Failure>, shared: &mut Shared) {
        let Some(Waiter { to, table, since, .. }) = self.waiters.remove(waiter) else { return };
        let took = shared.turn.now.saturating_duration_since(since);
        answer_lookup(to, table, answer, took, shared);
    }

    // --- time

    /// Ends lookups that were late without waiting for a backend, and serves stale answers where they are due.
    pub(super) fn expire(&mut self, shared: &mut Shared) {
        while let Some(timer) = self.timers.due(shared.turn.now, |timer| is_waiting(timer, &self.waiters)) {
            match timer {
                Timer::Expire(waiter) => {
                    let Some(table) = self.waiters.get(waiter).map(|waiter| waiter.table) else { continue };
                    let reason = format_args!("{}: not done in time", shared.tables.name(table));
                    let failure = Failure::new(FailureKind::Timeout, reason);
                    self.end_wait(waiter, &Err(failure), shared);
                }
                Timer::ServeStale(waiter) => {
                    let fetch = self.waiters.get(waiter).and_then(|waiter| self.fetches.get(waiter.fetch));
                    let Some(key) = fetch.map(|fetch| fetch.key.clone()) else { continue };
                    self.serve_stale(waiter, &key, "no answer yet", shared);
                }
            }
        }
    }

    /// When [`Lookups::expire`] has something to do.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        self.timers.next(|timer| is_waiting(timer, &self.waiters))
    }

    // --- abandoned lookups

    /// True if the client of a lookup is still connected.
    pub(super) fn is_live(&self, lookup: Key, clients: &Clients) -> bool {
        self.lookups.get(lookup).is_some_and(|lookup| clients.is_connected(lookup.to.client))
    }

    pub(super) fn remove(&mut self, lookup: Key) {
        self.lookups.remove(lookup);
    }

    /// True if no connected client waits for an answer.
    pub(super) fn is_drained(&self, clients: &Clients) -> bool {
        let lookups = self.lookups.iter().map(|(_, lookup)| lookup.to.client);
        let waiters = self.waiters.iter().map(|(_, waiter)| waiter.to.client);
        !lookups.chain(waiters).any(|client| clients.is_connected(client))
    }

    pub(super) fn cache_metrics(&self) -> CacheMetrics {
        self.cache.metrics()
    }
}

fn is_waiting(timer: &Timer, waiters: &Arena<Waiter>) -> bool {
    let (Timer::Expire(waiter) | Timer::ServeStale(waiter)) = timer;
    waiters.contains(*waiter)
}

/// Answers a lookup that took so long.
fn answer_lookup(
    to: ReplyTo,
    table: usize,
    answer: &Result<CachedAnswer, Failure>,
    took: Duration,
    shared: &mut Shared,
) {
    let answer = match answer {
        Ok(cached) => cached.answer(),
        Err(failure) => Answer::Failed(failure.clone()),
    };
    record(shared.tables.metrics(table), &answer, took);
    shared.clients.reply(to, shared.tables.name(table), Reply::Answer(answer), &mut shared.turn);
}
