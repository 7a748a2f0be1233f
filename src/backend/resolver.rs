//! Names to addresses: what is known, for how long, and when to ask again. Who asks is the reactor.

use crate::log;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// An answer is good for so long.
const ANSWER_LIFETIME: Duration = Duration::from_secs(30);

/// A failure is good for so long.
const FAILURE_LIFETIME: Duration = Duration::from_secs(1);

/// After so long without an answer the last good one has to do.
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
    /// Until then what is known, good or bad, need not be asked again.
    valid_until: Option<Instant>,
    /// When the question was asked that is still open.
    pending: Option<Instant>,
    /// The answer to it may be outdated: it was asked before a reload.
    outdated: bool,
    /// When the last answer was asked for, and when it came.
    took: Option<(Instant, Instant)>,
    error: String,
}

/// What is known of a name.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Resolution<'a> {
    Addresses(&'a [SocketAddr]),
    /// Somebody has to resolve it, and tell [`Resolver::answer`].
    Resolve {
        host: &'a str,
        port: u16,
    },
    /// The answer is on its way.
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
                // An old address may still work, while the name server is slow or gone.
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
                // A container or pod may be about to start: a failure is asked about again soon.
                name.valid_until = Some(now + FAILURE_LIFETIME);
                name.error = failed.err().unwrap_or_else(|| "no address".to_owned());
            }
        }
    }

    /// True if a name should be asked for again.
    pub(super) fn is_stale(&self, name: usize, now: Instant) -> bool {
        let name = &self.names[name];
        name.pending.is_none() && name.valid_until.is_none_or(|until| until <= now)
    }

    /// When that becomes true by time alone; `None` while the name is being asked for.
    pub(super) fn stale_at(&self, name: usize) -> Option<Instant> {
        let name = &self.names[name];
        name.valid_until.filter(|_| name.pending.is_none())
    }

    /// When the last answer was asked for, and when it came.
    pub(super) fn took(&self, name: usize) -> Option<(Instant, Instant)> {
        self.names[name].took
    }

    /// All names with what is known of them now, for a start that is not slowed down by them.
    pub fn resolve_all(&mut self, now: Instant) -> Vec<(usize, String, u16)> {
        let unknown = |(_, name): &(usize, &mut Name)| name.valid_until.is_none() && name.pending.is_none();
        let all = self.names.iter_mut().enumerate().filter(unknown);
        all.map(|(at, name)| {
            name.pending = Some(now);
            (at, name.host.clone(), name.port)
        })
        .collect()
    }

    /// The name has to be asked for again, because its addresses do not work.
    pub(super) fn expire(&mut self, name: usize) {
        self.names[name].valid_until = None;
    }

    /// All names have to be asked for again.
    pub(super) fn expire_all(&mut self) {
        self.names.iter_mut().for_each(|name| (name.valid_until, name.outdated) = (None, name.pending.is_some()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_for_a_while_and_the_last_good_one_survives_a_failure() {
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
    fn a_failure_without_a_last_good_answer_is_told_and_asked_for_again_soon() {
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
