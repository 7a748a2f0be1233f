//! Host names and their addresses: which answers are known, and when a name has to be resolved again. The reactor
//! resolves them.

use crate::log;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The time for which an answer is used before its name is resolved again.
const ANSWER_LIFETIME: Duration = Duration::from_secs(30);

/// The time after a failure in which a name is not resolved again.
// Short, because a container or pod may be about to start.
const FAILURE_LIFETIME: Duration = Duration::from_secs(1);

/// The time to wait for an answer while older addresses are known, which are used after that.
// An old address may still work while the name server does not respond.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// All names of all backends, each with its port.
#[derive(Debug, Default)]
pub struct Resolver {
    names: Vec<Name>,
}

#[derive(Debug)]
struct Name {
    host: String,
    port: u16,
    addresses: Vec<SocketAddr>,
    /// The end of the lifetime of the last answer or failure.
    valid_until: Option<Instant>,
    /// When the resolution began that is in progress.
    pending: Option<Instant>,
    /// It began before a reload, so that its answer expires at once.
    // Else an answer from before the reload would be used for another 30 seconds.
    outdated: bool,
    /// When the last resolution began, and when it ended.
    took: Option<(Instant, Instant)>,
    error: String,
}

/// The result of looking up a name.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Resolution<'a> {
    Addresses(&'a [SocketAddr]),
    /// The name has to be resolved now, and the result passed to [`Resolver::answer`].
    Resolve {
        host: &'a str,
        port: u16,
    },
    /// A resolution is in progress.
    Wait,
    Failed(&'a str),
}

impl Resolver {
    /// Adds a name, or finds it; the number is for the calls below.
    pub(super) fn add(&mut self, host: &str, port: u16) -> usize {
        let known = self.names.iter().position(|name| name.host == host && name.port == port);
        known.unwrap_or_else(|| {
            let (host, error) = (host.to_owned(), String::new());
            self.names.push(Name {
                host,
                port,
                addresses: Vec::new(),
                valid_until: None,
                pending: None,
                outdated: false,
                took: None,
                error,
            });
            self.names.len() - 1
        })
    }

    /// What to do to connect to a name now.
    pub(super) fn look_up(&mut self, name: usize, now: Instant) -> Resolution<'_> {
        let name = &mut self.names[name];
        if name.valid_until.is_none_or(|until| until <= now) {
            match name.pending {
                None => {
                    name.pending = Some(now);
                    return Resolution::Resolve { host: &name.host, port: name.port };
                }
                Some(began) if name.addresses.is_empty() || now < began + MAX_WAIT => return Resolution::Wait,
                Some(_) => {}
            }
        }
        if name.addresses.is_empty() { Resolution::Failed(&name.error) } else { Resolution::Addresses(&name.addresses) }
    }

    /// When [`Resolution::Wait`] turns into the last good addresses.
    pub(super) fn wait_ends(&self, name: usize) -> Option<Instant> {
        let name = &self.names[name];
        name.pending.filter(|_| !name.addresses.is_empty()).map(|began| began + MAX_WAIT)
    }

    /// Takes an answer. After a failure, or an empty list, the last good addresses stay.
    pub fn answer(&mut self, name: usize, answer: Result<Vec<SocketAddr>, String>, now: Instant) {
        let name = &mut self.names[name];
        name.took = name.pending.take().map(|began| (began, now));
        match answer {
            Ok(addresses) if !addresses.is_empty() => {
                if name.addresses != addresses {
                    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                    log::info(format_args!("resolved host={} addresses={}", name.host, list.join(",")));
                }
                name.valid_until = Some(if std::mem::take(&mut name.outdated) { now } else { now + ANSWER_LIFETIME });
                name.addresses = addresses;
            }
            failed => {
                name.valid_until = Some(now + FAILURE_LIFETIME);
                name.error = failed.err().unwrap_or_else(|| "no address".to_owned());
            }
        }
    }

    /// True if a name should be resolved again.
    pub(super) fn is_stale(&self, name: usize, now: Instant) -> bool {
        let name = &self.names[name];
        name.pending.is_none() && name.valid_until.is_none_or(|until| until <= now)
    }

    /// When that becomes true by time alone; `None` while a resolution is in progress.
    pub(super) fn stale_at(&self, name: usize) -> Option<Instant> {
        let name = &self.names[name];
        name.valid_until.filter(|_| name.pending.is_none())
    }

    /// When the last resolution began, and when it ended.
    pub(super) fn took(&self, name: usize) -> Option<(Instant, Instant)> {
        self.names[name].took
    }

    /// Begins the resolution of all names at once, and returns them.
    // At the start, so that the first lookups need not wait for it.
    pub fn resolve_all(&mut self, now: Instant) -> Vec<(usize, String, u16)> {
        let unknown = |(_, name): &(usize, &mut Name)| name.valid_until.is_none() && name.pending.is_none();
        let all = self.names.iter_mut().enumerate().filter(unknown);
        all.map(|(at, name)| {
            name.pending = Some(now);
            (at, name.host.clone(), name.port)
        })
        .collect()
    }

    /// Has a name resolved again before the next connection, because its addresses do not work.
    pub(super) fn expire(&mut self, name: usize) {
        self.names[name].valid_until = None;
    }

    /// Has all names resolved again before the next connection.
    pub(super) fn expire_all(&mut self) {
        self.names.iter_mut().for_each(|name| (name.valid_until, name.outdated) = (None, name.pending.is_some()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_used_for_a_while_and_the_last_good_one_survives_a_failure() {
        let (mut resolver, mut now) = (Resolver::default(), Instant::now());
        let address: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let name = resolver.add("admin", 80);
        assert_eq!(resolver.add("admin", 80), name);
        assert_eq!(resolver.look_up(name, now), Resolution::Resolve { host: "admin", port: 80 });
        assert_eq!(resolver.look_up(name, now), Resolution::Wait);
        resolver.answer(name, Ok(vec![address]), now);
        assert_eq!(resolver.look_up(name, now), Resolution::Addresses(&[address]));
        now += ANSWER_LIFETIME;
        assert!(matches!(resolver.look_up(name, now), Resolution::Resolve { .. }));
        resolver.answer(name, Err("no such host".into()), now);
        assert_eq!(resolver.look_up(name, now), Resolution::Addresses(&[address]));
        now += FAILURE_LIFETIME;
        assert!(matches!(resolver.look_up(name, now), Resolution::Resolve { .. }));
        assert_eq!(resolver.look_up(name, now), Resolution::Wait);
        assert_eq!(resolver.wait_ends(name), Some(now + MAX_WAIT));
        now += MAX_WAIT;
        assert_eq!(resolver.look_up(name, now), Resolution::Addresses(&[address]));
    }

    #[test]
    fn a_failure_without_a_last_good_answer_is_reported_and_tried_again_soon() {
        let (mut resolver, mut now) = (Resolver::default(), Instant::now());
        let name = resolver.add("admin", 80);
        resolver.look_up(name, now);
        resolver.answer(name, Ok(vec![]), now);
        assert_eq!(resolver.look_up(name, now), Resolution::Failed("no address"));
        now += FAILURE_LIFETIME;
        assert!(matches!(resolver.look_up(name, now), Resolution::Resolve { .. }));
        now += 10 * MAX_WAIT;
        assert_eq!(resolver.look_up(name, now), Resolution::Wait);
    }
}
