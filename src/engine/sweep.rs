//! What disconnected clients leave behind.

use super::commit::Commits;
use super::iterate::Iterations;
use super::lookup::Lookups;
use super::shared::Shared;
use crate::backend::Asker;
use std::collections::HashSet;

/// Drops the requests of disconnected clients that were not sent to a backend yet.
pub(super) fn sweep(lookups: &mut Lookups, iterations: &mut Iterations, commits: &mut Commits, shared: &mut Shared) {
    iterations.sweep(shared);
    // A client may disconnect after its commit, which is carried out all the same.
    let mut excess = commits.excess(&shared.clients);
    let mut abandoned = Vec::new();
    let Shared { clients, backends, .. } = shared;
    let mut unsent = HashSet::new();
    backends.sweep(|asker| match asker {
        Asker::Fetch(_) => true, // it fills the cache
        Asker::Probe(_) => true,
        Asker::Commit(key) => {
            let is_kept = !excess.contains(&key);
            unsent.extend((!is_kept).then_some(key));
            is_kept
        }
        Asker::Iteration(key, _) => iterations.is_live(key),
        Asker::Lookup(key) => {
            let is_live = lookups.is_live(key, clients);
            abandoned.extend((!is_live).then_some(key));
            is_live
        }
    });
    abandoned.into_iter().for_each(|key| lookups.remove(key));
    // One whose write is in flight stays until that has ended.
    excess.retain(|key| unsent.contains(key) || commits.is_blocked(*key));
    commits.abandon(&excess, lookups, shared);
}
