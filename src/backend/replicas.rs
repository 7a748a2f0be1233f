//! Which of several replicas is asked, and what their answers and faults say of them.

use super::breaker::Permit;
use super::request::Exchange;
use super::{Backends, Fault};
use crate::arena::Key;
use crate::io::Address;
use crate::log;
use std::time::{Duration, Instant};

impl Backends {
    /// The best of the routes that were not given up: one that has to be probed, else the one with working addresses and
    /// the fewest exchanges on their way; `None` if all are set down. A write goes to a probe only if it must: what
    /// may be asked again elsewhere is the better probe.
    pub(super) fn pick(&self, exchange: &Exchange, now: Instant) -> Option<u8> {
        let routes = &exchange.request.routes;
        let origin = |at: u8| &self.pools[routes[usize::from(at)].origin];
        if routes.len() == 1 {
            return (origin(0).breaker.permit(now) != Permit::Deny).then_some(0);
        }
        let safe = exchange.request.method.is_safe();
        let left = (0..routes.len() as u8).filter(|at| !exchange.has_given_up(*at));
        let rank = |at: u8| match origin(at).breaker.permit(now) {
            Permit::Probe if safe => Some(0),
            Permit::Allow => Some(1),
            Permit::Probe => Some(2),
            Permit::Deny => None,
        };
        left.filter_map(|at| rank(at).map(|rank| (rank, at)))
            .min_by_key(|(rank, at)| {
                let origin = origin(*at);
                (*rank, origin.is_ejected(now), origin.is_unresolved(), origin.load())
            })
            .map(|(_, at)| at)
    }

    /// A fault that speaks against an origin as a whole, and against its address if it has others. An origin that has
    /// too many is asked no more for a while, and who waits for it goes elsewhere or fails. One that has no replicas is
    /// only blamed for what costs time: else asking it is as good as knowing the answer, and one key that it cannot
    /// answer must not keep it from answering others.
    pub(super) fn record_failure(
        &mut self,
        at: usize,
        address: Option<&Address>,
        fault: &impl ToString,
        slow: bool,
        now: Instant,
    ) {
        let origin = &mut self.pools[at];
        if let Some(address) = address.filter(|address| origin.eject(address, now)) {
            let idle =
                |(key, _): &(Key, Instant)| self.connections.get(*key).is_some_and(|one| one.address == *address);
            let idle: Vec<Key> = origin.idle.iter().filter(|one| idle(one)).map(|(key, _)| *key).collect();
            idle.into_iter().for_each(|key| self.on_closed(key, Fault::Closed, now));
        }
        let origin = &mut self.pools[at];
        // Once it is set down, whatever happens to the probe decides.
        let counts = slow || origin.has_replicas() || origin.breaker.is_down();
        if counts && origin.breaker.fault(fault.to_string(), now) {
            log::warn(format_args!("backend-down backend={} cause=\"{}\"", origin.label, origin.breaker.cause()));
            self.reroute_all(at, now);
        }
    }

    /// Lets all who wait for an origin try another, or fail.
    fn reroute_all(&mut self, at: usize, now: Instant) {
        let origin = &mut self.pools[at];
        let mut waiting: Vec<Exchange> = origin.fresh.drain(..).collect();
        waiting.extend(origin.queue.drain(..).map(|(_, exchange)| exchange));
        waiting.into_iter().for_each(|exchange| self.submit(exchange, now));
    }

    /// What a status says of the origin that sent it.
    pub(super) fn record_status(
        &mut self,
        at: usize,
        address: &Address,
        status: u16,
        retry_after: Option<u32>,
        now: Instant,
    ) {
        let cause = format_args!("answered {status}");
        match (status, retry_after) {
            (429 | 503, Some(seconds)) => {
                let (origin, pause) = (&mut self.pools[at], Duration::from_secs(seconds.into()));
                if origin.breaker.asked(pause, cause, now) {
                    log::warn(format_args!(
                        "backend-down backend={} cause=\"{cause}\" seconds={seconds}",
                        origin.label
                    ));
                    self.reroute_all(at, now);
                }
            }
            (502..=504, _) => self.record_failure(at, Some(address), &cause, false, now),
            _ => {
                let origin = &mut self.pools[at];
                if origin.breaker.answered() {
                    log::warn(format_args!("backend-up backend={}", origin.label));
                }
            }
        }
    }
}
