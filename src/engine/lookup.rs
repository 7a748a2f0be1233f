//! Lookups in tables with a cache: answered from it, or by one exchange for all who ask for the same key.

use super::report::{count, log_answer};
use super::{Engine, Timer, respond};
use crate::arena::Key;
use crate::backend::Exchange;
use crate::cache::{CachedAnswer, Lifetime, Lookup};
use crate::client::Reply;
use crate::job::{Fetch, Job, Work};
use crate::query::{Answer, Failure, FailureKind};
use crate::table::{Caching, Plan, Question, TableEntry};
use crate::wire::http::CacheControl;
use std::time::{Duration, Instant};

/// Who could have a stale answer waits for a new one for a tenth of its time, at most for so long.
const MAX_STALE_DELAY: Duration = Duration::from_secs(1);

/// A job that belongs to no client.
const NOBODY: Key = Key { index: u32::MAX, age: 0 };

impl Engine {
    /// Answers a lookup from the cache, or lets it wait for the one exchange that asks for its key.
    pub(super) fn get_kept(&mut self, client: Key, place: u64, table: usize, key: &[u8], now: Instant) {
        let name = &self.tables[table].name;
        let stale = match self.cache.look(table, key, now) {
            Lookup::Fresh { kept, early } => {
                let answer = kept.answer();
                log_answer(name, &answer, key);
                let metrics = &mut self.metrics[table];
                metrics.cache_fresh += 1;
                count(metrics, &answer, Duration::ZERO);
                respond(&mut self.clients, &mut self.actions, client, place, name, Reply::Answer(answer));
                if early {
                    self.refresh(table, key, now);
                }
                return;
            }
            Lookup::Stale(_) => true,
            Lookup::Miss => false,
        };
        let timeout = self.tables[table].timeout.unwrap_or(self.timeout);
        let work = Work::Wait { fetch: NOBODY, since: now };
        let job = self.jobs.insert(Job { client, place, table, deadline: now + timeout, work });
        self.timers.add(now, timeout, Timer::Job(job));
        if stale {
            self.timers.add(now, (timeout / 10).min(MAX_STALE_DELAY), Timer::ServeStale(job));
        }
        self.wait(job, table, key, now);
    }

    /// Makes a lookup wait for the exchange of its key, which is begun if there is none.
    fn wait(&mut self, waiter: Key, table: usize, key: &[u8], now: Instant) {
        let coalesced = self.in_flight[table].get(key).copied();
        self.metrics[table].coalesced += u64::from(coalesced.is_some());
        let fetch = match coalesced.map_or_else(|| self.fetch(table, key, now), Ok) {
            Ok(fetch) => fetch,
            Err(answer) => return self.end_wait(waiter, &answer, now),
        };
        if let Some(Job { work: Work::Wait { fetch: of, .. }, .. }) = self.jobs.get_mut(waiter) {
            *of = fetch;
        }
        if let Some(Job { work: Work::Fetch(fetch), .. }) = self.jobs.get_mut(fetch) {
            fetch.waiters.push(waiter);
        }
    }

    /// Asks for a key before its answer is out of date.
    fn refresh(&mut self, table: usize, key: &[u8], now: Instant) {
        if !self.in_flight[table].contains_key(key) {
            let _ = self.fetch(table, key, now); // who needs no exchange is not kept, and not refreshed
        }
    }

    /// Begins an exchange that belongs to no client, or has the answer if the table needs none.
    fn fetch(&mut self, table: usize, key: &[u8], now: Instant) -> Result<Key, Result<CachedAnswer, Failure>> {
        let TableEntry { table: source, timeout, .. } = &mut self.tables[table];
        let deadline = now + timeout.unwrap_or(self.timeout);
        let request = match source.plan(Question::Get(key), now) {
            Plan::Request(request) => request,
            Plan::Answer(answer) => return Err(CachedAnswer::of(answer)),
        };
        let work = Work::Fetch(Box::new(Fetch { key: key.to_vec(), waiters: Vec::new(), current: true }));
        let job = self.jobs.insert(Job { client: NOBODY, place: 0, table, deadline, work });
        self.in_flight[table].insert(key.to_vec(), job);
        let asked = self.backend.key(key);
        self.backend.submit(Exchange::new(job, 0, deadline, request, asked, now), now);
        Ok(job)
    }

    /// Takes the answer to all who wait for it, and to the cache.
    pub(super) fn fetched(
        &mut self,
        job: Key,
        answer: Result<CachedAnswer, Failure>,
        cache_control: CacheControl,
        now: Instant,
    ) {
        let Some(Job { table, work: Work::Fetch(fetch), .. }) = self.jobs.remove(job) else { return };
        let Fetch { key, waiters, current } = *fetch;
        if current {
            self.in_flight[table].remove(&key);
        }
        let failure = match &answer {
            Ok(kept) => {
                if current {
                    self.keep(table, &key, kept, cache_control, now);
                }
                return waiters.into_iter().for_each(|waiter| self.end_wait(waiter, &answer, now));
            }
            Err(failure) => failure,
        };
        for waiter in waiters {
            let Some(deadline) = self.jobs.get(waiter).map(|job| job.deadline) else { continue };
            if self.end_stale(waiter, &key, failure.reason(), now) {
                continue;
            }
            // The exchange was begun for another, whose time was over earlier.
            if failure.kind == FailureKind::Timeout && now < deadline {
                self.wait(waiter, table, &key, now);
            } else {
                self.end_wait(waiter, &answer, now);
            }
        }
    }

    fn keep(&mut self, table: usize, key: &[u8], kept: &CachedAnswer, cache_control: CacheControl, now: Instant) {
        let Some(Caching { fresh, stale }) = self.tables[table].caching else { return };
        if cache_control.never {
            self.cache.forget(table, key);
            return;
        }
        let stale = if cache_control.strict { Duration::ZERO } else { stale };
        let lifetime = Lifetime { fresh: cache_control.fresh().unwrap_or(fresh), stale };
        self.cache.keep(table, key, kept.clone(), lifetime, now);
    }

    /// Drops what is known of a key that is written: in the cache, and on its way. Who asks from now on is not answered
    /// by what was asked before.
    pub(super) fn forget(&mut self, table: usize, key: &[u8]) {
        if self.tables[table].caching.is_none() {
            return;
        }
        self.cache.forget(table, key);
        let flight = self.in_flight[table].remove(key);
        if let Some(Job { work: Work::Fetch(fetch), .. }) = flight.and_then(|job| self.jobs.get_mut(job)) {
            fetch.current = false;
        }
    }

    /// Drops all that is known, also what is on its way.
    pub(super) fn forget_all(&mut self) {
        self.cache.clear();
        for table in 0..self.tables.len() {
            for job in std::mem::take(&mut self.in_flight[table]).into_values() {
                if let Some(Job { work: Work::Fetch(fetch), .. }) = self.jobs.get_mut(job) {
                    fetch.current = false;
                }
            }
        }
    }

    /// Serves a stale answer to who has waited long enough for a new one.
    pub(super) fn serve_stale(&mut self, waiter: Key, now: Instant) {
        let Some(Job { work: Work::Wait { fetch, .. }, .. }) = self.jobs.get(waiter) else { return };
        let Some(Job { work: Work::Fetch(fetch), .. }) = self.jobs.get(*fetch) else { return };
        let key = fetch.key.clone();
        self.end_stale(waiter, &key, "no answer yet", now);
    }

    /// Answers a lookup with what is out of date, if that is allowed and there; says whether.
    fn end_stale(&mut self, waiter: Key, key: &[u8], cause: &str, now: Instant) -> bool {
        let Some(table) = self.jobs.get(waiter).map(|job| job.table) else { return false };
        let kept = match self.cache.look(table, key, now) {
            Lookup::Fresh { kept, .. } | Lookup::Stale(kept) => kept.clone(),
            Lookup::Miss => return false,
        };
        self.metrics[table].cache_stale += 1;
        let line = format!("stale table={}", self.tables[table].name);
        self.faults.warn_of(&line, &format!("cause=\"{cause}\""), now);
        self.end_wait(waiter, &Ok(kept), now);
        true
    }

    fn end_wait(&mut self, waiter: Key, answer: &Result<CachedAnswer, Failure>, now: Instant) {
        let Some(Job { table, work: Work::Wait { since, .. }, .. }) = self.jobs.get(waiter) else { return };
        let (table, took) = (*table, now.saturating_duration_since(*since));
        let answer = match answer {
            Ok(kept) => kept.answer(),
            Err(failure) => Answer::Failed(failure.clone()),
        };
        count(&mut self.metrics[table], &answer, took);
        self.end(waiter, Reply::Answer(answer));
    }
}
