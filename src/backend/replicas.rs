//! Which of several replicas is asked, and what their answers and faults say of them.

use super::health::Admission;
use super::origin::Address;
use super::request::Exchange;
use super::{Backend, Fault};
use crate::arena::Key;
use crate::log;
use std::time::{Duration, Instant};

impl Backend {
    /// The best of the routes that were not given up: one that has to be probed, else the one with working addresses and
    /// the fewest exchanges on their way; `None` if all are set aside. A write goes to a probe only if it must: what
    /// may be asked again elsewhere is the better probe.
    pub(super) fn choose(&self, exchange: &Exchange, now: Instant) -> Option<u8> {
        let routes = &exchange.request.routes;
        let origin = |at: u8| &self.origins[routes[usize::from(at)].origin];
        if routes.len() == 1 {
            return (origin(0).health.admission(now) != Admission::Closed).then_some(0);
        }
        let safe = exchange.request.method.is_safe();
        let left = (0..routes.len() as u8).filter(|at| !exchange.has_given_up(*at));
        let rank = |at: u8| match origin(at).health.admission(now) {
            Admission::Probe if safe => Some(0),
            Admission::Open => Some(1),
            Admission::Probe => Some(2),
            Admission::Closed => None,
        };
        left.filter_map(|at| rank(at).map(|rank| (rank, at)))
            .min_by_key(|(rank, at)| {
                let origin = origin(*at);
                (*rank, origin.is_aside(now), origin.is_unresolved(), origin.load())
            })
            .map(|(_, at)| at)
    }

    /// A fault that speaks against an origin as a whole, and against its address if it has others. An origin that has
    /// too many is asked no more for a while, and who waits for it goes elsewhere or fails. One that has no replicas is
    /// only blamed for what costs time: else asking it is as good as knowing the answer, and one key that it cannot
    /// answer must not keep it from answering others.
    pub(super) fn blame(
        &mut self,
        at: usize,
        address: Option<&Address>,
        fault: &impl ToString,
        slow: bool,
        now: Instant,
    ) {
        let origin = &mut self.origins[at];
        if let Some(address) = address.filter(|address| origin.avoid(address, now)) {
            let idle =
                |(key, _): &(Key, Instant)| self.connections.get(*key).is_some_and(|one| one.address == *address);
            let idle: Vec<Key> = origin.idle.iter().filter(|one| idle(one)).map(|(key, _)| *key).collect();
            idle.into_iter().for_each(|key| self.lost(key, Fault::Closed, now));
        }
        let origin = &mut self.origins[at];
        // Once it is set aside, whatever happens to the probe decides.
        let counts = slow || origin.has_replicas() || origin.health.is_aside();
        if counts && origin.health.fault(fault.to_string(), now) {
            log::warn(format_args!("set-aside origin={} cause=\"{}\"", origin.label, origin.health.cause()));
            self.evacuate(at, now);
        }
    }

    /// Lets all who wait for an origin try another, or fail.
    fn evacuate(&mut self, at: usize, now: Instant) {
        let origin = &mut self.origins[at];
        let mut waiting: Vec<Exchange> = origin.fresh.drain(..).collect();
        waiting.extend(origin.queue.drain(..).map(|(_, exchange)| exchange));
        waiting.into_iter().for_each(|exchange| self.submit(exchange, now));
    }

    /// What a status says of the origin that sent it.
    pub(super) fn judge(&mut self, at: usize, address: &Address, status: u16, retry_after: Option<u32>, now: Instant) {
        let cause = format_args!("answered {status}");
        match (status, retry_after) {
            (429 | 503, Some(seconds)) => {
                let (origin, pause) = (&mut self.origins[at], Duration::from_secs(seconds.into()));
                if origin.health.asked(pause, cause, now) {
                    log::warn(format_args!("set-aside origin={} cause=\"{cause}\" seconds={seconds}", origin.label));
                    self.evacuate(at, now);
                }
            }
            (502..=504, _) => self.blame(at, Some(address), &cause, false, now),
            _ => {
                let origin = &mut self.origins[at];
                if origin.health.answered() {
                    log::warn(format_args!("recovered origin={}", origin.label));
                }
            }
        }
    }
}
