//! Lookups of one key: answered from the cache, or by an exchange that concurrent lookups of a cached table share.

use super::barred::Barred;
use super::clients::Clients;
use super::fetches::Fetches;
use super::search::Search;
use super::shared::Shared;
use super::tables::{Planned, Tables, log_answer, record};
use crate::arena::{Arena, Key};
use crate::backend::{Asker, Finished, TimeLimit};
use crate::cache::{self, Cache, CacheKey, Lifetime};
use crate::client::{Reply, ReplyTo};
use crate::metrics::CacheMetrics;
use crate::query::{Answer, Failure, FailureKind};
use crate::table::{Caching, Plan, Question};
use crate::timers::Timers;
use crate::wire::http::CacheControl;
use std::time::{Duration, Instant, SystemTime};

/// The longest time that a lookup waits for a new answer before a stale one is served; a tenth of its time limit if that
/// is shorter.
const MAX_STALE_DELAY: Duration = Duration::from_secs(1);

/// Lookups in flight, and the cache.
pub(super) struct Lookups {
    /// Those of tables without cache, each with an exchange of its own.
    lookups: Arena<Lookup>,
    waiters: Arena<Waiter>,
    fetches: Fetches,
    cache: Cache,
    barred: Barred,
    timers: Timers<Timer>,
}

/// A lookup of a client.
struct Lookup {
    to: ReplyTo,
    table: usize,
    search: Option<Box<Search>>,
}

/// A lookup that waits for a commit of its client.
pub(super) struct HeldLookup {
    pub to: ReplyTo,
    pub table: usize,
    pub key: Vec<u8>,
    pub since: Instant,
}

/// A lookup that waits for a fetch.
struct Waiter {
    lookup: Lookup,
    fetch: Key,
    since: Instant,
    deadline: Instant,
}

/// A timer of a lookup that waits for a fetch.
#[derive(Debug)]
struct Timer {
    waiter: Key,
    /// A stale answer is served, as the new one has not arrived; otherwise the lookup expires.
    serves_stale: bool,
}

impl Lookups {
    pub(super) fn new(cache_size: usize) -> Self {
        Self {
            lookups: Arena::default(),
            waiters: Arena::default(),
            fetches: Fetches::default(),
            cache: Cache::new(cache_size),
            barred: Barred::default(),
            timers: Timers::default(),
        }
    }

    /// Answers a lookup that has waited for a commit of its client.
    pub(super) fn start_held(&mut self, held: HeldLookup, shared: &mut Shared) {
        let HeldLookup { to, table, key, since } = held;
        if shared.clients.is_connected(to.client) {
            self.start(to, table, &key, since, shared);
        }
    }

    /// Answers a lookup that arrived at `since`, now or when its exchange has ended.
    // Else the second caller, which is rare, would cost the first a call: 1 % of the instructions of a lookup.
    #[inline(always)]
    pub(super) fn start(&mut self, to: ReplyTo, table: usize, key: &[u8], since: Instant, shared: &mut Shared) {
        if shared.tables.caching(table).is_some() {
            return self.start_cached(Lookup { to, table, search: None }, key, since, shared);
        }
        let now = shared.turn.now;
        let timeout = shared.tables.timeout(table);
        let limit = TimeLimit { deadline: since + timeout, timeout };
        let Planned { name, metrics, plan } = shared.tables.plan(table, Question::Get(key), now);
        match plan {
            Plan::Request(request) => {
                // The exchange expires at the deadline of the lookup, which therefore needs no timer.
                let asker = Asker::Lookup(self.lookups.insert(Lookup { to, table, search: None }));
                let exchange = shared.spare.take(asker, table, limit, request, key, now);
                shared.submit(exchange);
            }
            Plan::Answer(answer) => {
                log_answer(name, key, &answer, None);
                record(metrics, &answer, Duration::ZERO);
                shared.clients.reply(to, name, Reply::Answer(answer), &mut shared.turn);
            }
        }
    }

    /// Answers a lookup whose exchange is complete.
    pub(super) fn complete(&mut self, lookup: Key, finished: Finished<'_>, shared: &mut Shared) {
        let Finished { exchange, result, .. } = finished;
        let Some(lookup) = self.lookups.remove(lookup) else { return };
        let took = shared.took(&exchange);
        let answer = shared.parse_value(lookup.table, false, &exchange, took, result);
        log_answer(shared.tables.name(lookup.table), &exchange.key, &answer, exchange.trace());
        self.finish(lookup, answer, took, shared);
        shared.spare.put(exchange);
    }

    // --- several keys

    /// Asks for the keys of a search, one after another until one has a value.
    pub(super) fn start_search(&mut self, to: ReplyTo, table: usize, search: Box<Search>, shared: &mut Shared) {
        if shared.tables.caching(table).is_some() {
            let (key, since) = (search.key.clone(), search.since);
            return self.start_cached(Lookup { to, table, search: Some(search) }, &key, since, shared);
        }
        let (now, timeout) = (shared.turn.now, shared.tables.timeout(table));
        let limit = TimeLimit { deadline: search.since + timeout, timeout };
        match shared.tables.plan(table, Question::Get(&search.key), now).plan {
            Plan::Request(request) => {
                let key = search.key.clone();
                let asker = Asker::Lookup(self.lookups.insert(Lookup { to, table, search: Some(search) }));
                let exchange = shared.spare.take(asker, table, limit, request, &key, now);
                shared.submit(exchange);
            }
            Plan::Answer(answer) => {
                let answer = answer.into_owned();
                log_answer(shared.tables.name(table), &search.key, &answer, None);
                self.finish_step(to, table, answer, search, shared);
            }
        }
    }

    /// Handles the answer for one key of a search: the next one is asked for, or the lookup is answered and counted.
    fn finish_step(
        &mut self,
        to: ReplyTo,
        table: usize,
        answer: Answer<'_>,
        mut search: Box<Search>,
        shared: &mut Shared,
    ) {
        let mut answer = answer;
        if search.advance(&answer, shared.turn.now) {
            if !shared.clients.is_connected(to.client) {
                return;
            }
            if shared.turn.now < search.since + shared.tables.timeout(table) {
                return self.start_search(to, table, search, shared);
            }
            // An exchange without any time would be taken for one that its backend did not answer.
            answer = Answer::Failed(shared.timed_out(table));
        }
        record(shared.tables.metrics(table), &answer, shared.turn.now.saturating_duration_since(search.since));
        let reply = match &search.explanation {
            None => Reply::Answer(answer),
            Some(steps) => Reply::Explained { steps, answer },
        };
        shared.clients.reply(to, shared.tables.name(table), reply, &mut shared.turn);
    }

    // --- cached tables

    /// Answers a lookup from the cache, or has it wait for the one exchange of its key.
    fn start_cached(&mut self, lookup: Lookup, key: &[u8], since: Instant, shared: &mut Shared) {
        let table = lookup.table;
        let (now, key) = (shared.turn.now, self.cache.key(table, key));
        let stale = match self.cache.look(key, now) {
            cache::Lookup::Fresh { answer, early } => {
                shared.tables.metrics(table).cache_fresh += 1;
                log_answer(shared.tables.name(table), key.key, &answer, None);
                if lookup.search.is_none() {
                    answer_lookup(lookup.to, table, answer, Duration::ZERO, shared);
                } else {
                    let answer = answer.into_owned();
                    self.finish(lookup, answer, Duration::ZERO, shared);
                }
                // Refreshed before it expires, so that no client waits for a key that is in use.
                if early && self.fetches.find(key).is_none() {
                    let _ = self.fetch(key, shared); // a table that answers at once needs no refresh
                }
                return;
            }
            cache::Lookup::Stale(_) => true,
            cache::Lookup::Miss => false,
        };
        let fetch = match self.join(key, shared) {
            Ok(fetch) => fetch,
            Err(answer) => return self.finish(lookup, answer, Duration::ZERO, shared),
        };
        let timeout = shared.tables.timeout(table);
        let deadline = since + timeout;
        let waiter = self.waiters.insert(Waiter { lookup, fetch, since: now, deadline });
        self.fetches.add_waiter(fetch, waiter);
        self.timers.add_by(now, timeout, deadline, Timer { waiter, serves_stale: false });
        if stale {
            // A search may have used up most of its time.
            let delay = (timeout / 10).min(MAX_STALE_DELAY).min(deadline.saturating_duration_since(now) / 2);
            self.timers.add_by(now, delay, now + delay, Timer { waiter, serves_stale: true });
        }
    }

    /// Returns the fetch of a key, which is started if none is in flight; or the answer if the table needs no exchange.
    fn join(&mut self, key: CacheKey<'_>, shared: &mut Shared) -> Result<Key, Answer<'static>> {
        // A mailing makes thousands of clients look up the same key at once; the backend gets one request.
        let Some(fetch) = self.fetches.find(key) else { return self.fetch(key, shared) };
        shared.tables.metrics(key.table).coalesced += 1;
        Ok(fetch)
    }

    /// Starts a fetch, or returns the answer if the table needs no exchange.
    fn fetch(&mut self, key: CacheKey<'_>, shared: &mut Shared) -> Result<Key, Answer<'static>> {
        let (table, now) = (key.table, shared.turn.now);
        let timeout = shared.tables.timeout(table);
        let limit = TimeLimit { deadline: now + timeout, timeout };
        let request = match shared.tables.plan(table, Question::Get(key.key), now).plan {
            Plan::Request(request) => request,
            Plan::Answer(answer) => return Err(answer.into_owned()),
        };
        let fetch = self.fetches.insert(key);
        let exchange = shared.spare.take(Asker::Fetch(fetch), table, limit, request, key.key, now);
        shared.submit(exchange);
        Ok(fetch)
    }

    /// Gives the result of a fetch to the lookups that wait for it and to the cache.
    pub(super) fn complete_fetch(&mut self, fetch: Key, finished: Finished<'_>, shared: &mut Shared) {
        let Some(mut fetch) = self.fetches.remove(fetch) else { return };
        let Finished { exchange, result, .. } = finished;
        let (table, waiters) = (fetch.table, fetch.waiters.take());
        let control = result.as_ref().map(|response| response.cache_control()).unwrap_or_default();
        let answer = shared.parse_value(table, false, &exchange, shared.took(&exchange), result);
        log_answer(shared.tables.name(table), &fetch.key, &answer, exchange.trace());
        shared.spare.put(exchange);
        if let Answer::Failed(failure) = &answer {
            waiters.for_each(|waiter| self.end_failed_wait(waiter, fetch.key(), failure, shared));
            return;
        }
        if fetch.current {
            self.store(fetch.key(), &answer, control, shared);
        }
        waiters.for_each(|waiter| self.end_wait(waiter, answer.borrowed(), shared));
    }

    /// Handles the failure of a fetch for one of its lookups, which may wait for another fetch.
    fn end_failed_wait(&mut self, waiter: Key, key: CacheKey<'_>, failure: &Failure, shared: &mut Shared) {
        let Some(deadline) = self.waiters.get(waiter).map(|waiter| waiter.deadline) else { return };
        if self.serve_stale(waiter, key, failure.reason(), shared) {
            return;
        }
        // A fetch expires with the lookup that started it. One that has joined it later has time for another.
        if failure.kind != FailureKind::Timeout || shared.turn.now >= deadline {
            return self.end_wait(waiter, Answer::Failed(failure.clone()), shared);
        }
        match self.join(key, shared) {
            Err(answer) => self.end_wait(waiter, answer, shared),
            Ok(fetch) => {
                self.fetches.add_waiter(fetch, waiter);
                self.waiters.get_mut(waiter).into_iter().for_each(|waiter| waiter.fetch = fetch);
            }
        }
    }

    /// Stores an answer for as long as the response and the settings of the table allow.
    fn store(&mut self, key: CacheKey<'_>, answer: &Answer<'_>, control: CacheControl, shared: &Shared) {
        let Some(Caching { fresh, stale }) = shared.tables.caching(key.table) else { return };
        // An older answer must go too: the backend has just said that none may be used again.
        if control.never() || self.barred.contains(key, shared.turn.now) {
            self.cache.forget(key);
            return;
        }
        // must-revalidate forbids stale answers, also while the backend is unreachable (RFC 9111, section 5.2.2.2).
        let stale = if control.strict { Duration::ZERO } else { stale };
        let lifetime = Lifetime { fresh: control.lifetime(SystemTime::now).unwrap_or(fresh), stale };
        self.cache.insert(key, answer, lifetime, shared.turn.now);
    }

    /// Invalidates a key that is written: later lookups use neither a cached answer nor a fetch that is in flight.
    pub(super) fn forget(&mut self, table: usize, key: &[u8], tables: &Tables) {
        if tables.caching(table).is_none() {
            return;
        }
        let key = self.cache.key(table, key);
        self.cache.forget(key);
        self.fetches.forget(key);
    }

    /// Caches nothing of a key for the timeout of its table: a write may still be applied, or not, and what is read in
    /// between would be served for as long as the cache holds it.
    pub(super) fn bar(&mut self, table: usize, key: &[u8], shared: &Shared) {
        if shared.tables.caching(table).is_none() {
            return;
        }
        self.barred.bar(table, key, shared.turn.now, shared.tables.timeout(table));
    }

    /// Drops all that is known, also what is in flight.
    pub(super) fn forget_all(&mut self) {
        self.cache.clear();
        // Requests in flight may be based on files from before the reload.
        self.fetches.forget_all();
    }

    /// Answers a lookup with a stale value, if there is one that may be used; true if there was.
    fn serve_stale(&mut self, waiter: Key, key: CacheKey<'_>, cause: &str, shared: &mut Shared) -> bool {
        let answer = match self.cache.look(key, shared.turn.now) {
            cache::Lookup::Fresh { answer, .. } => answer.into_owned(),
            // With an old value, mail is delivered as before. An old miss would bounce the mail of a new mailbox.
            cache::Lookup::Stale(answer @ Answer::Found(_)) => answer.into_owned(),
            cache::Lookup::Stale(Answer::Miss | Answer::Failed(_)) | cache::Lookup::Miss => return false,
        };
        shared.tables.metrics(key.table).cache_stale += 1;
        // The cause is not part of the line, so that repetitions with other causes are folded too.
        let line = format!("stale table={}", shared.tables.name(key.table));
        shared.faults.warn_of(&line, &format!("cause=\"{cause}\""), shared.turn.now);
        self.end_wait(waiter, answer, shared);
        true
    }

    fn end_wait(&mut self, waiter: Key, answer: Answer<'_>, shared: &mut Shared) {
        let Some(Waiter { lookup, since, .. }) = self.waiters.remove(waiter) else { return };
        let took = shared.turn.now.saturating_duration_since(since);
        self.finish(lookup, answer, took, shared);
    }

    /// Answers a lookup, which took the time `took`, or a step of one.
    #[inline]
    fn finish(&mut self, lookup: Lookup, answer: Answer<'_>, took: Duration, shared: &mut Shared) {
        let Lookup { to, table, search } = lookup;
        match search {
            None => answer_lookup(to, table, answer, took, shared),
            Some(search) => self.finish_step(to, table, answer, search, shared),
        }
    }

    // --- time

    /// Ends lookups at their deadlines, and serves stale answers when they are due.
    pub(super) fn expire(&mut self, shared: &mut Shared) {
        while let Some(timer) = self.timers.due(shared.turn.now, |timer| self.waiters.contains(timer.waiter)) {
            let Timer { waiter, serves_stale } = timer;
            let Some(Waiter { lookup, fetch, .. }) = self.waiters.get(waiter) else { continue };
            if !serves_stale {
                let failure = shared.timed_out(lookup.table);
                self.end_wait(waiter, Answer::Failed(failure), shared);
            } else if let Some((table, key)) = self.fetches.get(*fetch).map(|fetch| (fetch.table, fetch.key.clone())) {
                self.serve_stale(waiter, self.cache.key(table, &key), "no answer yet", shared);
            }
        }
    }

    /// When [`Lookups::expire`] must be called.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        self.timers.next(|timer| self.waiters.contains(timer.waiter))
    }

    // --- abandoned lookups

    /// True if the client of a lookup is connected.
    pub(super) fn is_live(&self, lookup: Key, clients: &Clients) -> bool {
        self.lookups.get(lookup).is_some_and(|lookup| clients.is_connected(lookup.to.client))
    }

    pub(super) fn remove(&mut self, lookup: Key) {
        self.lookups.remove(lookup);
    }

    /// True if no connected client waits for an answer.
    pub(super) fn is_drained(&self, clients: &Clients) -> bool {
        let lookups = self.lookups.iter().map(|(_, lookup)| lookup.to.client);
        let waiters = self.waiters.iter().map(|(_, waiter)| waiter.lookup.to.client);
        !lookups.chain(waiters).any(|client| clients.is_connected(client))
    }

    pub(super) fn cache_metrics(&self) -> CacheMetrics {
        self.cache.metrics()
    }
}

/// Answers a lookup, which took the time `took`.
// Not logged here: a fetch logs its answer once for all of its lookups.
fn answer_lookup(to: ReplyTo, table: usize, answer: Answer<'_>, took: Duration, shared: &mut Shared) {
    record(shared.tables.metrics(table), &answer, took);
    shared.clients.reply(to, shared.tables.name(table), Reply::Answer(answer), &mut shared.turn);
}
