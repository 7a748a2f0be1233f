//! Any sequence of requests for decisions, answers and faults leads to one decision per request, which is its own; a fault
//! is never a yes, and never a wrong password.

use crate::support;

use podop::config::Mode;
use podop::io::{End, Peer};
use podop::wire::base64::encode;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use support::world::{MS, SECOND, World, response};

/// What may happen. Numbers choose among what is there.
#[derive(Clone, Debug)]
enum Op {
    Connect,
    Ask(usize),
    /// The backend answers one of the requests that it has.
    Answer(usize, Outcome),
    Leave(usize),
    Accept,
    Refuse,
    Pass(u32),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Yes,
    No,
    Status,
    Garbage,
    /// The connection closes, before or within the answer.
    Close(bool),
}

/// What a request has come to, as far as the backend is concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Known {
    Nothing,
    Yes,
    No,
    Fault,
}

struct Client {
    peer: Peer,
    /// Requests without a reply.
    open: Vec<u32>,
    left: bool,
}

struct Model {
    world: World,
    is_login: bool,
    clients: Vec<Client>,
    known: BTreeMap<u32, Known>,
    /// Requests at the backend, by connection.
    busy: Vec<(Peer, u32)>,
    next: u32,
    /// Requests that the backend has not answered in time, since it has answered any: it may be down from five on.
    hung: usize,
    /// Requests without an answer whose time may not be over, also those of clients that have gone: all of them may hang.
    unanswered: BTreeSet<u32>,
}

impl Model {
    fn new(is_login: bool, connections: usize) -> Model {
        let (mode, limit) = (if is_login { "sasl=t" } else { "policy=t" }, format!("t:connections={connections}"));
        let table = ["--mode", mode, "--name", "t", "--type", "url", "--param", "http://192.0.2.1/", "--timeout", "6"];
        let world = World::new(&[&table[..], &["--option", &limit]].concat());
        Model {
            world,
            is_login,
            clients: Vec::new(),
            known: BTreeMap::new(),
            busy: Vec::new(),
            next: 0,
            hung: 0,
            unanswered: BTreeSet::new(),
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Connect => {
                let peer = self.world.client(if self.is_login { Mode::Sasl("t") } else { Mode::Policy("t") });
                self.world.process();
                self.world.taken(peer);
                if self.is_login {
                    self.world.send(peer, b"VERSION\t1\t0\n");
                }
                self.clients.push(Client { peer, open: Vec::new(), left: false });
            }
            Op::Ask(at) => {
                let count = self.clients.len().max(1);
                let world = &self.world;
                let Some(client) = self.clients.get_mut(at % count).filter(|one| !one.left && world.is_open(one.peer))
                else {
                    return;
                };
                let number = self.next;
                self.next += 1;
                client.open.push(number);
                self.unanswered.insert(number);
                let text = match self.is_login {
                    true => format!("AUTH\t{number}\tPLAIN\tresp={}\n", encode(format!("\0z{number}z\0p").as_bytes())),
                    false => format!("request=smtpd_access_policy\nrecipient=z{number}z\n\n"),
                };
                let peer = client.peer;
                self.known.insert(number, if self.hung < 5 { Known::Nothing } else { Known::Fault });
                self.world.send(peer, text.as_bytes());
            }
            Op::Answer(at, outcome) => self.answer(at, outcome),
            Op::Leave(at) => {
                let count = self.clients.len().max(1);
                if let Some(client) = self.clients.get_mut(at % count).filter(|client| !client.left) {
                    client.left = true;
                    let peer = client.peer;
                    self.read();
                    self.world.end(peer, End::Closed(None));
                }
            }
            Op::Accept if !self.world.connecting.is_empty() => _ = self.world.accept(),
            Op::Refuse if !self.world.connecting.is_empty() => {
                self.fail_waiting();
                self.world.refuse();
            }
            Op::Accept | Op::Refuse => {}
            Op::Pass(ms) => {
                self.fail_waiting();
                self.world.wait(ms * MS);
                if ms >= 7_000 {
                    self.unanswered.clear(); // the time limit is 6 s
                }
            }
        }
        self.see();
        self.read();
    }

    /// Takes what the backend was sent.
    fn see(&mut self) {
        while let Some(peer) = self.world.next_busy() {
            let request = self.world.taken(peer);
            let number = request.split("\"z").nth(1).and_then(|rest| rest.split("z\"").next()).expect("a number");
            assert_eq!(request.matches("POST ").count(), 1, "nothing is pipelined");
            assert!(!self.busy.iter().any(|(other, _)| *other == peer));
            self.busy.push((peer, number.parse().expect("a number")));
        }
        let world = &self.world;
        self.busy.retain(|(peer, _)| world.is_open(*peer));
    }

    fn answer(&mut self, at: usize, outcome: Outcome) {
        self.see();
        if self.busy.is_empty() {
            return;
        }
        let (peer, number) = self.busy.remove(at % self.busy.len());
        if outcome != Outcome::Close(false) {
            self.unanswered.remove(&number); // the others may be sent again
        }
        let known = self.known.get_mut(&number).expect("it was asked");
        *known = match outcome {
            Outcome::Yes => Known::Yes,
            Outcome::No => Known::No,
            Outcome::Status | Outcome::Garbage | Outcome::Close(true) => Known::Fault,
            Outcome::Close(false) => *known, // it may be sent again
        };
        // Garbage does not show that a backend which has hung answers again.
        if matches!(outcome, Outcome::Yes | Outcome::No | Outcome::Status) {
            self.hung = 0;
        }
        let yes = format!("\"OK z{number}z\"");
        match outcome {
            Outcome::Yes => self.world.send(peer, &response(200, &yes)),
            Outcome::No => self.world.send(peer, &response(404, "null")),
            Outcome::Status => self.world.send(peer, &response(500, &yes)),
            Outcome::Garbage => self.world.send(peer, b"220 mail.example.com ESMTP\r\n"),
            Outcome::Close(begun) => {
                if begun {
                    self.world.send(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n\"OK");
                }
                self.world.end(peer, End::HalfClosed);
            }
        }
        if outcome == Outcome::Close(false) && !self.busy.iter().any(|(_, other)| *other == number) {
            // A new connection that closes at once is a fault.
            self.known.entry(number).and_modify(|known| {
                if *known == Known::Nothing {
                    *known = Known::Fault;
                }
            });
        }
    }

    /// Requests that were not answered may fail now.
    fn fail_waiting(&mut self) {
        self.hung += self.unanswered.len();
        for known in self.known.values_mut().filter(|known| **known == Known::Nothing) {
            *known = Known::Fault; // or they time out later, on a connection that was not refused
        }
    }

    fn read(&mut self) {
        for client in &mut self.clients {
            let reply = self.world.taken(client.peer);
            let separator = if self.is_login { "\n" } else { "\n\n" };
            for reply in reply.split_terminator(separator) {
                let number = if self.is_login {
                    let id: u32 = reply.split('\t').nth(1).expect("an id").parse().expect("a number");
                    let at = client.open.iter().position(|open| *open == id).expect("a request that is open");
                    client.open.remove(at)
                } else {
                    client.open.remove(0)
                };
                let known = self.known[&number];
                let expected = match (self.is_login, known) {
                    (true, Known::Yes) => format!("OK\t{number}\tuser=OK z{number}z"),
                    (true, Known::No) => format!("FAIL\t{number}\tuser=z{number}z"),
                    (true, _) => panic!("{reply} for a fault or without an answer"),
                    (false, Known::Yes) => format!("action=OK z{number}z"),
                    (false, Known::No) => "action=DUNNO".to_owned(),
                    (false, _) => "action=DEFER_IF_PERMIT 4.3.0 Service unavailable".to_owned(),
                };
                assert_eq!(reply, expected);
            }
            if !client.left && !self.world.is_open(client.peer) {
                let has_fault = client.open.iter().any(|number| self.known[number] == Known::Fault);
                assert!(self.is_login && has_fault, "it was closed without a fault");
                client.left = true;
            }
        }
    }

    fn finish(mut self) {
        for _ in 0..8 {
            self.apply(Op::Pass(1_000));
        }
        for client in &self.clients {
            assert!(client.left || client.open.is_empty(), "requests without a decision: {:?}", client.open);
        }
        // The next ones are answered.
        self.world.wait(5 * SECOND);
        self.apply(Op::Connect);
        let at = self.clients.len() - 1;
        self.apply(Op::Ask(at));
        for _ in 0..3 {
            while !self.world.connecting.is_empty() {
                self.apply(Op::Accept);
            }
            self.apply(Op::Answer(0, Outcome::Yes));
        }
        assert!(self.clients[at].open.is_empty(), "the last one is not answered");
    }
}

fn op() -> impl Strategy<Value = Op> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Yes),
        2 => Just(Outcome::No),
        1 => Just(Outcome::Status),
        1 => Just(Outcome::Garbage),
        1 => any::<bool>().prop_map(Outcome::Close)
    ];
    prop_oneof![
        2 => Just(Op::Connect),
        8 => any::<usize>().prop_map(Op::Ask),
        8 => (any::<usize>(), outcome).prop_map(|(at, outcome)| Op::Answer(at, outcome)),
        1 => any::<usize>().prop_map(Op::Leave),
        6 => Just(Op::Accept),
        1 => Just(Op::Refuse),
        1 => prop_oneof![Just(10), Just(1_500), Just(7_000)].prop_map(Op::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn every_request_gets_one_decision_and_its_own(
        ops in prop::collection::vec(op(), 1..80), is_login: bool, connections in 1usize..5
    ) {
        let mut model = Model::new(is_login, connections);
        ops.into_iter().for_each(|op| model.apply(op));
        model.finish();
    }
}
