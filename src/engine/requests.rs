//! The requests of mail servers in progress, by their kinds.

use super::asks::Asks;
use super::commit::Commits;
use super::iterate::Iterations;
use super::lookup::Lookups;
use super::probes::{ProbeResult, Probes};
use super::search::Search;
use super::shared::Shared;
use crate::arena::Key;
use crate::backend::{Asker, BodyPart, Finished};
use crate::client::ReplyTo;
use crate::metrics::CacheMetrics;
use crate::query::Query;
use crate::timers::earliest;
use std::collections::HashSet;
use std::time::Instant;

/// The requests in progress.
pub(super) struct Requests {
    lookups: Lookups,
    iterations: Iterations,
    commits: Commits,
    asks: Asks,
    probes: Probes,
}

impl Requests {
    pub(super) fn new(cache_size: usize) -> Self {
        Self {
            lookups: Lookups::new(cache_size),
            iterations: Iterations::default(),
            commits: Commits::default(),
            asks: Asks::default(),
            probes: Probes::default(),
        }
    }

    /// Sets the size limit of the answer cache in bytes, before anything is served.
    pub(super) fn set_cache_limit(&mut self, bytes: usize) {
        self.lookups = Lookups::new(bytes);
    }

    pub(super) fn start(&mut self, to: ReplyTo, table: usize, query: Query<'_>, shared: &mut Shared) {
        // Commits get the lookups as well, as a write invalidates its key in the cache.
        match query {
            Query::Get(key) if self.commits.hold(to, table, &key, shared.turn.now) => {}
            Query::Get(key) => self.lookups.start(to, table, &key, shared.turn.now, shared),
            Query::Iterate(iterate) => self.iterations.start(to, table, *iterate, shared),
            Query::Commit(commit) => self.commits.start(to, table, *commit, &mut self.lookups, shared),
            Query::Ask(ask) => self.asks.start(to, table, &ask, shared),
        }
    }

    /// Looks up the keys that the settings of the table say. `explained` has the reply show them.
    pub(super) fn start_search(&mut self, to: ReplyTo, table: usize, key: &[u8], explained: bool, shared: &mut Shared) {
        let keys = shared.tables.keys(table).keys(key);
        let search = Box::new(Search::new(keys, explained, shared.turn.now));
        self.lookups.start_search(to, table, search, shared);
    }

    /// Gives the result of an exchange to the request that it belongs to.
    pub(super) fn complete(&mut self, finished: Finished<'_>, shared: &mut Shared) {
        match finished.exchange.asker {
            Asker::Lookup(key) => self.lookups.complete(key, finished, shared),
            Asker::Fetch(key) => self.lookups.complete_fetch(key, finished, shared),
            Asker::Iteration(key, number) => self.iterations.complete(key, number, finished, shared),
            Asker::Commit(key) => self.commits.complete(key, finished, &mut self.lookups, shared),
            Asker::Ask(key) => self.asks.complete(key, finished, shared),
            Asker::Probe(number) => self.probes.complete(number, finished, shared),
        }
    }

    /// Gives a part of a list to its iteration.
    pub(super) fn on_part(&mut self, part: BodyPart, shared: &mut Shared) {
        self.iterations.on_part(part, shared);
    }

    /// Continues with a client that has room again.
    pub(super) fn resume(&mut self, client: Key, shared: &mut Shared) {
        self.iterations.resume(client, shared);
    }

    /// Ends requests whose deadlines have passed.
    pub(super) fn expire(&mut self, shared: &mut Shared) {
        self.lookups.expire(shared);
        self.iterations.expire(shared);
    }

    /// When [`Requests::expire`] must be called.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        earliest([self.lookups.deadline(), self.iterations.deadline()])
    }

    /// Drops the requests of disconnected clients that were not sent to a backend yet.
    pub(super) fn sweep(&mut self, shared: &mut Shared) {
        self.iterations.sweep(shared);
        // A client may disconnect after its commit, which is carried out all the same.
        let mut excess = self.commits.excess(&shared.clients);
        let (mut abandoned, mut unasked, mut unsent) = (Vec::new(), Vec::new(), HashSet::new());
        let Shared { clients, carriers, .. } = shared;
        carriers.sweep(|asker| match asker {
            Asker::Fetch(_) | Asker::Probe(_) => true, // it fills the cache, or is part of a report
            Asker::Commit(key) => {
                let is_kept = !excess.contains(&key);
                unsent.extend((!is_kept).then_some(key));
                is_kept
            }
            Asker::Iteration(key, _) => self.iterations.is_live(key),
            Asker::Ask(key) => {
                let is_live = self.asks.is_live(key, clients);
                unasked.extend((!is_live).then_some(key));
                is_live
            }
            Asker::Lookup(key) => {
                let is_live = self.lookups.is_live(key, clients);
                abandoned.extend((!is_live).then_some(key));
                is_live
            }
        });
        abandoned.into_iter().for_each(|key| self.lookups.remove(key));
        unasked.into_iter().for_each(|key| self.asks.remove(key));
        // One whose write is in flight stays until that has ended.
        excess.retain(|key| unsent.contains(key) || self.commits.is_blocked(*key));
        self.commits.abandon(&excess, &mut self.lookups, shared);
    }

    /// Drops all that is cached, also what is in flight.
    pub(super) fn forget_all(&mut self) {
        self.lookups.forget_all();
    }

    /// True if no connected client waits for anything, and no commit is in progress.
    // Of disconnected clients, commits count, as they are carried out; others do not.
    pub(super) fn is_drained(&self, shared: &Shared) -> bool {
        let clients = &shared.clients;
        let replies = self.lookups.is_drained(clients) && self.iterations.is_drained(clients);
        replies && self.asks.is_drained(clients) && self.commits.is_drained()
    }

    /// Looks up a key in each table, for `--check=KEY`; without a key, for `--check`.
    pub(super) fn probe(&mut self, key: Option<&[u8]>, shared: &mut Shared) {
        self.probes.start(key, shared);
    }

    /// The results of [`Requests::probe`]; `None` while one is missing.
    pub(super) fn probe_results(&self) -> Option<Vec<ProbeResult>> {
        self.probes.results()
    }

    pub(super) fn cache_metrics(&self) -> CacheMetrics {
        self.lookups.cache_metrics()
    }
}
