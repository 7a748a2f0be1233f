//! Seeded runs of a table whose keys answer, fault, hang and ask for pauses at random, at one to three replicas that die,
//! hang and return. `SIMULATION_RUNS` sets the number of runs.

use crate::support;

use podop::io::{End, Peer};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use support::world::{MS, World, response};

/// Time passes in turns of 10 ms.
const TURN: std::time::Duration = MS.saturating_mul(10);
const TIMEOUT: u32 = 100; // turns

/// xorshift64*: the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Replica {
    Answers,
    /// Takes requests and answers none.
    Hangs,
    /// Refuses and breaks connections.
    Dead,
}

/// What a key does at every replica that answers, by its first letter.
const KINDS: [&str; 6] = ["good", "gone", "fault", "unavailable", "limited", "hangs"];

struct Lookup {
    client: Peer,
    key: String,
    at: u32,
}

struct Simulation {
    world: World,
    random: Random,
    replicas: Vec<Replica>,
    /// Requests that a replica has, and when it answers them.
    due: Vec<(u32, Peer, String)>,
    hosts: BTreeMap<Peer, usize>,
    lookups: Vec<Lookup>,
    now: u32,
    number: u32,
    /// Requests that arrived at a replica that hangs, by turn.
    hung: Vec<u32>,
}

impl Simulation {
    fn new(seed: u64, replicas: usize) -> Self {
        let urls: Vec<String> = (1..=replicas).map(|host| format!("http://192.0.2.{host}/a/§")).collect();
        let urls = urls.join(" ");
        let args = ["--name", "alias", "--type", "url", "--param", &urls, "--timeout", "1"];
        Self {
            world: World::new(&args),
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            replicas: vec![Replica::Answers; replicas],
            due: Vec::new(),
            hosts: BTreeMap::new(),
            lookups: Vec::new(),
            now: 0,
            number: 0,
            hung: Vec::new(),
        }
    }

    fn ask(&mut self, kind: &str) {
        self.number += 1;
        // Some keys come again, as those of real mail do.
        let number = if self.random.below(3) == 0 { self.random.below(3) as u32 } else { self.number };
        let key = format!("{kind}{number}");
        let client = self.world.lookup(&key);
        self.lookups.push(Lookup { client, key, at: self.now });
    }

    fn set(&mut self, at: usize, replica: Replica) {
        self.replicas[at] = replica;
        if replica == Replica::Dead {
            let lost: Vec<Peer> = self.hosts.iter().filter(|(_, host)| **host == at).map(|(peer, _)| *peer).collect();
            for peer in lost {
                self.hosts.remove(&peer);
                if self.world.is_open(peer) {
                    self.world.end(peer, End::Closed(Some(ErrorKind::ConnectionReset)));
                }
            }
        }
        if replica == Replica::Answers {
            // What it had is answered now, late.
            let now = self.now;
            self.due.iter_mut().for_each(|(at, ..)| *at = (*at).max(now));
        }
    }

    /// One turn: connections, requests, responses, and the answers of `check`.
    fn turn(&mut self, mut check: impl FnMut(&Lookup, &str, u32)) {
        while let Some((_, address)) = self.world.connecting.front() {
            let host =
                (0..self.replicas.len()).find(|host| format!("{address:?}").contains(&format!(".{}:", host + 1)));
            let host = host.expect("a replica");
            if self.replicas[host] == Replica::Dead {
                self.world.refuse();
            } else {
                let peer = self.world.accept();
                self.hosts.insert(peer, host);
            }
        }
        let peers: Vec<Peer> = self.hosts.keys().copied().collect();
        for peer in peers {
            let key = self.world.asked(peer);
            if !key.is_empty() {
                if self.replicas[self.hosts[&peer]] == Replica::Hangs {
                    self.hung.push(self.now);
                }
                let latency = 1 + self.random.below(4) as u32;
                self.due.push((self.now + latency, peer, key));
            }
        }
        for (at, peer, key) in std::mem::take(&mut self.due) {
            let answers = self.hosts.get(&peer).is_some_and(|host| self.replicas[*host] == Replica::Answers);
            if !self.world.is_open(peer) || key.starts_with("hangs") && answers {
                continue;
            }
            if at > self.now || !answers {
                self.due.push((at, peer, key));
                continue;
            }
            let bytes = match &key[..2] {
                "go" if key.starts_with("gone") => response(404, "null"),
                "go" => response(200, &format!("\"{key}\"")),
                "fa" => response(500, ""),
                "un" => b"HTTP/1.1 503 No\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n".to_vec(),
                _ => b"HTTP/1.1 429 No\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n".to_vec(),
            };
            self.world.send(peer, &bytes);
        }
        self.world.wait(TURN);
        self.now += 1;
        let now = self.now;
        let world = &mut self.world;
        self.lookups.retain(|lookup| {
            let reply = world.taken(lookup.client);
            assert!(!reply.is_empty() || now <= lookup.at + TIMEOUT, "{} has no answer in time", lookup.key);
            if reply.is_empty() {
                return true;
            }
            let mut rest = reply.as_bytes();
            let decoded = podop::wire::netstring::decode(rest, 1_000).expect("a netstring").expect("a whole one");
            rest = &rest[decoded.1..];
            assert!(rest.is_empty(), "two answers: {reply}");
            if reply.contains(":OK ") {
                assert!(reply.ends_with(&format!(":OK {},", lookup.key)), "{} got {reply}", lookup.key);
            }
            assert!(!reply.contains("NOTFOUND") || lookup.key.starts_with("gone"), "{} got {reply}", lookup.key);
            assert!(!reply.contains("down: ,"), "{reply}");
            check(lookup, &reply, now);
            world.end(lookup.client, End::Closed(None));
            false
        });
    }
}

fn runs() -> u64 {
    std::env::var("SIMULATION_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(300)
}

#[test]
fn no_status_of_one_key_fails_another() {
    for seed in 1..=runs() {
        let replicas = 1 + (seed % 3) as usize;
        let mut one = Simulation::new(seed, replicas);
        for _ in 0..150 {
            for _ in 0..one.random.below(4) {
                let kind = KINDS[one.random.below(5) as usize];
                one.ask(kind);
            }
            one.turn(|lookup, reply, _| {
                let expected = if lookup.key.starts_with("good") { ":OK " } else { ":" };
                let is_miss = !lookup.key.starts_with("gone") || reply.contains("NOTFOUND");
                assert!(reply.contains(expected) && is_miss, "seed {seed}: {} got {reply}", lookup.key);
            });
        }
    }
}

#[test]
fn lookups_are_answered_soon_after_a_backend_returns() {
    for seed in 1..=runs() {
        let replicas = 1 + (seed % 3) as usize;
        let mut one = Simulation::new(seed, replicas);
        for _ in 0..2 {
            // Anything may happen.
            for _ in 0..150 {
                for _ in 0..one.random.below(3) {
                    let kind = KINDS[one.random.below(6) as usize];
                    one.ask(kind);
                }
                if one.random.below(20) == 0 {
                    let at = one.random.below(replicas as u64) as usize;
                    let state = [Replica::Answers, Replica::Hangs, Replica::Dead][one.random.below(3) as usize];
                    one.set(at, state);
                }
                one.turn(|_, _, _| {});
            }
            // All return. What is asked a little later is answered, as long as some lookups come at all.
            (0..replicas).for_each(|at| one.set(at, Replica::Answers));
            let back = one.now;
            for turn in 0..60 {
                if turn % 5 == 0 {
                    one.ask("good-again");
                }
                one.turn(|lookup, reply, _| {
                    let is_late = lookup.key.starts_with("good") && lookup.at >= back + 30;
                    assert!(!is_late || reply.contains(":OK "), "seed {seed}: {} got {reply}", lookup.key);
                });
            }
        }
    }
}

#[test]
fn a_backend_that_hangs_gets_one_request_in_100_ms() {
    for seed in 1..=runs().div_ceil(5) {
        let mut one = Simulation::new(seed, 1);
        one.set(0, Replica::Hangs);
        for _ in 0..500 {
            for _ in 0..one.random.below(4) {
                one.ask("good");
            }
            one.turn(|_, _, _| {});
        }
        // From the deadline of the fifth on, all of which may have been sent before.
        let first = one.hung.iter().take(5).max().copied().unwrap_or_default() + TIMEOUT + 10;
        let late: Vec<u32> = one.hung.iter().copied().filter(|at| *at >= first).collect();
        assert!(late.len() > 10, "seed {seed}: it is probed");
        let waiting = |at: &u32| one.hung.iter().filter(|other| (*at - TIMEOUT..=*at).contains(other)).count();
        assert!(late.iter().skip(10).all(|at| waiting(at) <= 11), "seed {seed}");
    }
}
