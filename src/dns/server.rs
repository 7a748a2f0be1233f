//! What is known of the name servers: which of them answer, and how often.

use crate::log;
use crate::metrics::NameServerMetrics;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Number of questions in a row that a server has not answered in time, after which others are asked first.
const MAX_MISSES: u32 = 3;

/// The interval of questions that a server which does not answer gets beside another one.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The time without any answer after which a server is reported.
// Not with the first few: one that looks up a name far away may take longer than the first repetition.
const REPORT_AFTER: Duration = Duration::from_secs(5);

/// The time after which nothing is known any more of a server that has not answered, and was not asked since.
const KNOWN: Duration = Duration::from_secs(60);

/// A name server.
#[derive(Debug)]
pub(super) struct Server {
    pub address: SocketAddr,
    pub metrics: NameServerMetrics,
    misses: u32,
    /// When it did not answer for the first time since it last did.
    silent_since: Option<Instant>,
    last_miss: Option<Instant>,
    next_probe: Option<Instant>,
    reported: bool,
}

impl Server {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            metrics: NameServerMetrics::default(),
            misses: 0,
            silent_since: None,
            last_miss: None,
            next_probe: None,
            reported: false,
        }
    }

    /// It has sent a response, whatever that says.
    pub(super) fn on_response(&mut self) {
        if std::mem::take(&mut self.reported) {
            log::warn(format_args!("name-server-up server={}", self.address));
        }
        (self.misses, self.silent_since, self.next_probe) = (0, None, None);
    }

    /// It has not answered a question that was sent at `sent`, or cannot be reached.
    pub(super) fn on_miss(&mut self, sent: Instant, cause: &str, now: Instant) {
        self.misses += 1;
        self.last_miss = Some(now);
        let since = *self.silent_since.get_or_insert(sent);
        if !self.reported && self.misses >= MAX_MISSES && now.saturating_duration_since(since) >= REPORT_AFTER {
            self.reported = true;
            log::warn(format_args!("name-server-down server={} cause=\"{cause}\"", self.address));
        }
    }

    /// True if others are asked first.
    pub(super) fn is_silent(&self) -> bool {
        self.misses >= MAX_MISSES
    }

    /// For how long it has not answered, if others are asked first because of that, and it was asked lately.
    pub(super) fn silent_for(&self, now: Instant) -> Option<Duration> {
        let is_known = self.last_miss.is_some_and(|last| now < last + KNOWN);
        self.silent_since.filter(|_| self.is_silent() && is_known).map(|since| now.saturating_duration_since(since))
    }

    /// True if a silent server is to be asked beside another one now.
    pub(super) fn take_probe(&mut self, now: Instant) -> bool {
        let is_due = self.is_silent() && self.next_probe.is_none_or(|at| at <= now);
        if is_due {
            self.next_probe = Some(now + PROBE_INTERVAL);
        }
        is_due
    }
}

/// The name servers that were ever asked, by number.
#[derive(Debug, Default)]
pub(super) struct Servers {
    list: Vec<Server>,
}

impl Servers {
    /// The number of the server with this address.
    pub(super) fn number(&mut self, address: SocketAddr) -> usize {
        self.list.iter().position(|server| server.address == address).unwrap_or_else(|| {
            self.list.push(Server::new(address));
            self.list.len() - 1
        })
    }

    /// These servers in the order in which to ask them, from the one at `first` on: silent ones last.
    pub(super) fn order(&mut self, addresses: &[SocketAddr], first: usize) -> Vec<usize> {
        let (before, after) = addresses.split_at(first % addresses.len().max(1));
        let mut order: Vec<usize> = after.iter().chain(before).map(|address| self.number(*address)).collect();
        order.sort_by_key(|server| self.list[*server].is_silent());
        order
    }

    pub(super) fn get(&mut self, server: usize) -> &mut Server {
        &mut self.list[server]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Server> {
        self.list.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_servers_are_asked_last_and_probed_until_they_answer() {
        let addresses: Vec<SocketAddr> = (1..4).map(|at| SocketAddr::from(([192, 0, 2, at], 53))).collect();
        let (mut servers, now) = (Servers::default(), Instant::now());
        assert_eq!(servers.order(&addresses, 0), [0, 1, 2]);
        assert_eq!(servers.order(&addresses, 4), [1, 2, 0]);
        for _ in 0..MAX_MISSES {
            assert!(!servers.get(0).take_probe(now));
            servers.get(0).on_miss(now, "", now);
        }
        assert_eq!(servers.order(&addresses, 0), [1, 2, 0]);
        assert!(servers.get(0).take_probe(now) && !servers.get(0).take_probe(now));
        assert!(servers.get(0).take_probe(now + PROBE_INTERVAL));
        (1..3).for_each(|at| (0..MAX_MISSES).for_each(|_| servers.get(at).on_miss(now, "", now)));
        assert_eq!(servers.order(&addresses, 0), [0, 1, 2], "one of them must be asked");
        servers.get(1).on_response();
        assert_eq!(servers.order(&addresses, 0), [1, 0, 2]);
        assert!(!servers.get(1).take_probe(now));
    }
}
