//! The addresses of one backend, and the state of each.

use super::fault::Fault;
use super::options::Target;
use super::resolver::{Resolution, Resolver};
use crate::io::{Action, Address, Turn};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The time for which an address that could not be reached is not tried while there is another one.
const UNREACHABLE: Duration = Duration::from_secs(10);

/// The pause before the next attempt when all addresses failed while older connections work.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The pause before the next attempt when the accept queue of a unix socket was full.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// The time for which an address that was reached and had a fault is avoided while there is another one.
const EJECTED: Duration = Duration::from_secs(1);

/// Number of times in a row that an address breaks off pipelined requests, after which it gets one at a time.
const MAX_BREAKS: u8 = 2;

/// The addresses of one backend, in the order of the resolver.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    list: Vec<AddressState>,
    /// The address that worked last.
    preferred: usize,
    /// Some address broke off pipelined requests.
    // So that a response costs no search of the list while none did, as nearly always.
    any_breaks: bool,
    /// The number of the name in the resolver, unless none is needed.
    name: Option<usize>,
    /// When the resolution began whose answer is in use, and when it ended.
    resolved: Option<(Instant, Instant)>,
    /// No connection is made before.
    paused_until: Option<Instant>,
}

#[derive(Debug)]
struct AddressState {
    address: Address,
    /// Until when others are preferred.
    ejected: Option<Instant>,
    /// It has been reached once.
    // Names like `localhost` have addresses where nothing listens. If those counted, a lone backend would be taken for
    // a replicated one: a single bad key would be requested twice and mark it down.
    reached: bool,
    /// It could not be reached since the last time that any address could, or that all could not.
    failed: bool,
    /// Connections to it, of every state.
    open: usize,
    /// Number of times in a row that it broke off pipelined requests, up to [`MAX_BREAKS`].
    breaks: u8,
}

impl AddressState {
    fn new(address: Address) -> Self {
        Self { address, ejected: None, reached: false, failed: false, open: 0, breaks: 0 }
    }

    fn is_ejected(&self, now: Instant) -> bool {
        self.ejected.is_some_and(|until| now < until)
    }
}

impl Addresses {
    /// The addresses of a target, whose name is resolved when a connection is needed.
    pub(super) fn new(target: &Target, resolver: &mut Resolver) -> Self {
        let fixed = |address| Self { list: vec![AddressState::new(address)], ..Self::default() };
        match target {
            Target::Unix(path) => fixed(Address::Unix(path.clone())),
            Target::Tcp(host, port) => match host.parse() {
                Ok(ip) => fixed(Address::Tcp(SocketAddr::new(ip, *port))),
                Err(_) => Self { name: Some(resolver.add(host, *port)), ..Self::default() },
            },
        }
    }

    /// The number of the name in the resolver, unless none is needed.
    pub(super) fn name(&self) -> Option<usize> {
        self.name
    }

    /// When the resolution began whose answer is in use, and when it ended.
    pub(super) fn resolved(&self) -> Option<(Instant, Instant)> {
        self.resolved
    }

    /// True if the resolver has a newer answer than the one in use, or the name should be resolved again.
    pub(super) fn is_outdated(&self, resolver: &Resolver, now: Instant) -> bool {
        self.name.is_some_and(|name| resolver.took(name) != self.resolved || resolver.is_stale(name, now))
    }

    /// When that becomes true by time alone.
    pub(super) fn outdated_at(&self, resolver: &Resolver) -> Option<Instant> {
        self.name.and_then(|name| resolver.stale_at(name))
    }

    pub(super) fn contains(&self, address: &Address) -> bool {
        self.list.iter().any(|one| one.address == *address)
    }

    /// The address of the next connection; `None` while the name has to be resolved.
    pub(super) fn next(&mut self, resolver: &mut Resolver, turn: &mut Turn) -> Result<Option<Address>, Fault> {
        if let Some(name) = self.name {
            match resolver.look_up(name, turn.now) {
                Resolution::Addresses(addresses) => self.update(addresses),
                Resolution::Wait => return Ok(None),
                Resolution::Resolve { host, port } => {
                    turn.push(Action::Resolve { name, host: host.to_owned(), port });
                    return Ok(None);
                }
                Resolution::Failed(error) => return Err(Fault::Unresolved(error.to_owned())),
            }
            self.resolved = resolver.took(name);
        }
        Ok(self.best(turn.now))
    }

    /// True until a pause after failures is over.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// True if another backend should be preferred: no address works, or none is connected to for now.
    pub(super) fn is_unavailable(&self, now: Instant) -> bool {
        self.all_ejected(now) || self.is_paused(now)
    }

    /// The earliest time from `at` on at which a connection can be opened.
    pub(super) fn earliest(&self, at: Instant, resolver: &Resolver) -> Instant {
        let resolved = self.name.and_then(|name| resolver.wait_ends(name));
        at.max(self.paused_until.unwrap_or(at)).max(resolved.unwrap_or(at))
    }

    /// Takes over the addresses of a name, with the state of those that stay.
    fn update(&mut self, addresses: &[SocketAddr]) {
        // The usual answer, for which nothing has to be rebuilt.
        let same = self.list.len() == addresses.len()
            && self.list.iter().zip(addresses).all(|(one, new)| one.address == Address::Tcp(*new));
        if same {
            return;
        }
        let mut old = std::mem::take(&mut self.list);
        let mut known = |address: Address| match old.iter().position(|one| one.address == address) {
            // Its connections and faults are still valid, but a new list begins a new round of attempts: a list that
            // changed during an attempt could stay exhausted otherwise.
            Some(at) => AddressState { failed: false, ..old.swap_remove(at) },
            None => AddressState::new(address),
        };
        self.list = addresses.iter().map(|address| known(Address::Tcp(*address))).collect();
        self.preferred = 0;
    }

    /// The address to try now, of those that did not just fail: of those that are not ejected the one with the fewest
    /// connections, and of several the one that worked last; else the one that was ejected first. `None` if no address
    /// is known.
    fn best(&self, now: Instant) -> Option<Address> {
        let left = || self.list.iter().enumerate().filter(|(_, one)| !one.failed);
        // By connections and not by turns: an address that is slow to accept gets fewer.
        let works = left().filter(|(_, one)| !one.is_ejected(now));
        let best = works.min_by_key(|(at, one)| (one.open, *at != self.preferred));
        let first = || left().min_by_key(|(_, one)| one.ejected);
        best.or_else(first).map(|(_, one)| one).or(self.list.first()).map(|one| one.address.clone())
    }

    fn find(&mut self, address: &Address) -> Option<&mut AddressState> {
        self.list.iter_mut().find(|one| one.address == *address)
    }

    /// A connection to an address is being made.
    pub(super) fn on_open(&mut self, address: &Address) {
        self.find(address).into_iter().for_each(|one| one.open += 1);
    }

    /// A connection to an address has closed.
    pub(super) fn on_close(&mut self, address: &Address) {
        // The list may have been updated since it was opened.
        self.find(address).into_iter().for_each(|one| one.open = one.open.saturating_sub(1));
    }

    /// A connection to an address was made.
    pub(super) fn on_reached(&mut self, address: &Address) {
        self.list.iter_mut().for_each(|one| one.failed = false);
        if let Some(at) = self.list.iter().position(|one| one.address == *address) {
            self.preferred = at;
            self.list[at].ejected = None;
            self.list[at].reached = true;
        }
    }

    /// A connection to an address could not be made, while `connecting` others are being made and `open` in all are
    /// there. True if no address is left: all have been tried, and no attempt is in progress.
    pub(super) fn on_connect_failed(
        &mut self,
        address: &Address,
        fault: &Fault,
        connecting: usize,
        open: usize,
        now: Instant,
    ) -> bool {
        // The accept queue of a unix socket is full, which the kernel reports at once, where it waits with TCP.
        if *fault == Fault::Unreachable(ErrorKind::WouldBlock) {
            self.paused_until = Some(now + FULL_PAUSE);
            return false;
        }
        if let Some(one) = self.find(address) {
            one.ejected = Some(now + UNREACHABLE);
            one.failed = true;
        }
        if !self.all_failed() || connecting > 0 {
            return false;
        }
        self.list.iter_mut().for_each(|one| one.failed = false);
        // Connections that work can serve the queue. Without any, all of the queue fails now, and the next request
        // tries again at once: the backend may have just started.
        self.paused_until = (open > 0).then_some(now + RETRY_PAUSE);
        true
    }

    /// True if all addresses failed, and attempts are in progress.
    pub(super) fn all_failed(&self) -> bool {
        !self.list.is_empty() && self.list.iter().all(|one| one.failed)
    }

    /// Prefers other addresses for a while, if there are any that work. True if there are.
    pub(super) fn eject(&mut self, address: &Address, now: Instant) -> bool {
        let others = self.has_other(address, now);
        self.find(address).filter(|_| others).map(|one| one.ejected = Some(now + EJECTED)).is_some()
    }

    /// True if no address is known.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True if another address may be used in place of this one.
    pub(super) fn has_other(&self, address: &Address, now: Instant) -> bool {
        self.list.iter().any(|one| one.address != *address && one.reached && !one.is_ejected(now))
    }

    /// True if all are ejected.
    pub(super) fn all_ejected(&self, now: Instant) -> bool {
        !self.list.is_empty() && self.list.iter().all(|one| one.is_ejected(now))
    }

    /// True if requests to this address may be pipelined.
    pub(super) fn may_pipeline(&self, address: &Address) -> bool {
        !self.list.iter().any(|one| one.address == *address && one.breaks >= MAX_BREAKS)
    }

    /// A connection to this address closed before it had answered any pipelined request; `announced` if the response
    /// before had `Connection: close`. True if pipelining to the address ends with that.
    pub(super) fn pipelining_failed(&mut self, address: &Address, announced: bool) -> bool {
        let Some(one) = self.find(address) else { return false };
        let before = one.breaks;
        one.breaks = if announced { MAX_BREAKS } else { MAX_BREAKS.min(before + 1) };
        let ends = before < MAX_BREAKS && one.breaks == MAX_BREAKS;
        self.any_breaks = true;
        ends
    }

    /// This address has answered pipelined requests.
    pub(super) fn pipelining_ok(&mut self, address: &Address) {
        if std::mem::take(&mut self.any_breaks) {
            self.find(address).into_iter().for_each(|one| one.breaks = 0);
        }
    }

    /// Allows pipelining to all addresses again.
    pub(super) fn allow_pipelining(&mut self) {
        self.list.iter_mut().for_each(|one| one.breaks = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Fault = Fault::Unreachable(ErrorKind::ConnectionRefused);

    fn tcp(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 80))
    }

    fn three() -> Addresses {
        let mut addresses = Addresses::default();
        addresses.update(&[tcp(1), tcp(2), tcp(3)]);
        addresses
    }

    #[test]
    fn failed_addresses_are_tried_last_and_the_one_that_worked_first() {
        let (mut addresses, now) = (three(), Instant::now());
        let [one, two, three] = [1, 2, 3].map(|last| Address::Tcp(tcp(last)));
        assert_eq!(addresses.best(now), Some(one.clone()));
        assert!(!addresses.on_connect_failed(&one, &REFUSED, 0, 1, now));
        assert_eq!(addresses.best(now), Some(two.clone()));
        addresses.on_reached(&three);
        assert_eq!(addresses.best(now), Some(three.clone()), "it worked last");
        addresses.on_open(&three);
        assert_eq!(addresses.best(now), Some(two.clone()), "it has fewer connections, and the first one is ejected");
        assert!(!addresses.on_connect_failed(&two, &REFUSED, 0, 1, now));
        assert!(!addresses.on_connect_failed(&three, &REFUSED, 1, 2, now) && addresses.all_ejected(now));
        assert_eq!(addresses.best(now), Some(one.clone()), "ejected first");
        assert!(
            !addresses.on_connect_failed(&one, &REFUSED, 1, 2, now) && addresses.all_failed(),
            "one is still connecting"
        );
        assert!(addresses.on_connect_failed(&two, &REFUSED, 0, 1, now), "no address is left");
        assert!(!addresses.all_failed() && addresses.all_ejected(now) && !addresses.all_ejected(now + UNREACHABLE));
        assert!(addresses.is_paused(now) && !addresses.is_paused(now + RETRY_PAUSE));
    }

    #[test]
    fn a_full_accept_queue_is_waited_for() {
        let (mut addresses, now) = (three(), Instant::now());
        let one = Address::Tcp(tcp(1));
        let full = Fault::Unreachable(ErrorKind::WouldBlock);
        assert!(!addresses.on_connect_failed(&one, &full, 0, 0, now), "an address is left");
        assert!(addresses.is_paused(now) && !addresses.is_paused(now + FULL_PAUSE));
        assert!(!addresses.all_failed() && !addresses.all_ejected(now));
    }

    #[test]
    fn the_only_working_address_is_not_ejected() {
        let (mut addresses, now) = (three(), Instant::now());
        let [one, two, three] = [1, 2, 3].map(|last| Address::Tcp(tcp(last)));
        assert!(!addresses.eject(&one, now), "no other has been reached");
        [&one, &two, &three].into_iter().for_each(|address| addresses.on_reached(address));
        assert!(addresses.eject(&one, now) && addresses.eject(&two, now));
        assert!(!addresses.eject(&three, now));
        assert!(addresses.eject(&three, now + EJECTED));
    }

    #[test]
    fn the_state_of_an_address_survives_a_new_list() {
        let (mut addresses, now) = (three(), Instant::now());
        let [two, three] = [2, 3].map(|last| Address::Tcp(tcp(last)));
        assert!(addresses.pipelining_failed(&two, true) && !addresses.pipelining_failed(&three, false));
        addresses.on_connect_failed(&two, &REFUSED, 0, 1, now);
        addresses.update(&[tcp(4), tcp(2)]);
        assert!(!addresses.may_pipeline(&two) && addresses.may_pipeline(&three));
        assert_eq!(addresses.best(now), Some(Address::Tcp(tcp(4))));
        addresses.pipelining_ok(&two);
        assert!(addresses.may_pipeline(&two));
    }
}
