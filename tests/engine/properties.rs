//! Any sequence of events leads to exactly one reply per request, in legal order, and to no answer that
//! belongs to another request. The checker is a plain model of requests and of the backends' responses.

use crate::support;

use podop::config::Mode;
use podop::io::{End, Peer};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use support::world::{MS, SECOND, World, response};

/// What may happen. Numbers choose among what is there.
#[derive(Clone, Debug)]
enum Op {
    Connect(Protocol),
    /// A request for a new key, in one piece or in two.
    Ask(usize, bool),
    /// A transaction that sets one of a few keys.
    Commit(usize, u32),
    /// Clients stop reading, or read again.
    Block(usize, bool),
    Leave(usize, bool),
    Accept,
    Refuse,
    Answer(usize),
    /// An answer in two pieces with something in between; the second may never come.
    Half(usize),
    Surplus(usize),
    Blurt(usize),
    Cut(usize, bool),
    Pass(u64),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Protocol {
    Postfix,
    /// Without and with async ids.
    DictInOrder,
    DictAsync,
}

fn op() -> impl Strategy<Value = Op> {
    let protocol = prop_oneof![Just(Protocol::Postfix), Just(Protocol::DictInOrder), Just(Protocol::DictAsync)];
    prop_oneof![
        2 => protocol.prop_map(Op::Connect),
        10 => (any::<usize>(), any::<bool>()).prop_map(|(at, whole)| Op::Ask(at, whole)),
        3 => (any::<usize>(), 0u32..3).prop_map(|(at, key)| Op::Commit(at, key)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, block)| Op::Block(at, block)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, half)| Op::Leave(at, half)),
        6 => Just(Op::Accept),
        1 => Just(Op::Refuse),
        10 => any::<usize>().prop_map(Op::Answer),
        2 => any::<usize>().prop_map(Op::Half),
        1 => any::<usize>().prop_map(Op::Surplus),
        1 => any::<usize>().prop_map(Op::Blurt),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(at, reset)| Op::Cut(at, reset)),
        2 => prop_oneof![Just(1), Just(10), Just(400), Just(1500), Just(6000)].prop_map(Op::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_gets_one_reply_and_its_own(ops in prop::collection::vec(op(), 1..120), connections in 1usize..4, pipeline in 1usize..5, cache: bool) {
        let world = |args: &[&str]| World::with_alias(args);
        Model::new(world, connections, pipeline, cache).run(ops);
    }
}

/// The same over TLS, which costs a handshake per connection and is tried less often.
#[cfg(feature = "tls")]
mod over_tls {
    use super::*;
    use std::sync::Arc;
    use support::tls::{Authority, BOTH, Wants, server};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_request_gets_one_reply_and_its_own(ops in prop::collection::vec(op(), 1..120), connections in 1usize..4, pipeline in 1usize..5, cache: bool, lateness in prop_oneof![Just(0), 1usize..40]) {
            let authority = Authority::new();
            let config = Arc::new(server(&authority.issue(&["192.0.2.1"]), &BOTH, Wants::Nothing));
            let option = authority.option();
            let world = |args: &[&str]| {
                let table = ["--name", "alias", "--type", "url", "--param", "https://192.0.2.1/a/§", "--option", &option];
                let mut world = World::new(&[&table[..], args].concat()).over_tls(config.clone());
                world.lateness = lateness;
                world
            };
            Model::new(world, connections, pipeline, cache).run(ops);
        }
    }
}

/// A client, as far as it knows.
struct Client {
    peer: Peer,
    protocol: Protocol,
    /// Keys that were requested and not answered, with the async id that was announced.
    open: VecDeque<(u32, Option<u32>)>,
    /// Bytes of a reply that is not whole.
    held: String,
    blocked: bool,
    left: bool,
}

/// The keys that were requested on a connection, each with the part of its response that is not sent yet.
type Line = VecDeque<(u32, Vec<u8>)>;

struct Model {
    world: World,
    clients: Vec<Client>,
    backends: BTreeMap<Peer, Line>,
    /// Maximum number of requests in flight on one connection.
    pipeline: usize,
    next_key: u32,
    /// How often each key was seen by a backend.
    seen: BTreeMap<u32, u32>,
    /// Keys for which a backend sent a complete response that there is no value.
    misses: BTreeMap<u32, bool>,
    /// The client and the key of each write.
    writes: BTreeMap<u32, (Peer, u32)>,
    /// The last write of a client to a key that a backend was sent.
    written: BTreeMap<(Peer, u32), u32>,
}

/// Numbers of writes begin here, those of lookups at 0.
const WRITES: u32 = 1_000_000;

impl Model {
    fn new(world: impl FnOnce(&[&str]) -> World, connections: usize, pipeline: usize, cache: bool) -> Self {
        let options = [format!("alias:connections={connections}"), format!("alias:pipeline={pipeline}")];
        let mut args = vec!["--option", &options[0], "--option", &options[1], "--timeout", "5"];
        // No key is requested twice, so nothing is found there; but all takes another path.
        args.extend(["--option", "alias:cache=60"].iter().filter(|_| cache));
        Self {
            world: world(&args),
            pipeline,
            clients: Vec::new(),
            backends: BTreeMap::new(),
            next_key: 0,
            seen: BTreeMap::new(),
            misses: BTreeMap::new(),
            writes: BTreeMap::new(),
            written: BTreeMap::new(),
        }
    }

    fn run(mut self, ops: Vec<Op>) {
        for op in ops {
            self.apply(op);
            self.check();
        }
        self.finish();
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Connect(protocol) => self.connect(protocol),
            Op::Ask(at, whole) => self.ask(at, whole),
            Op::Commit(at, key) => self.commit(at, key),
            Op::Block(at, blocked) => {
                if let Some(client) = pick(&mut self.clients, at) {
                    client.blocked = blocked;
                    let peer = client.peer;
                    self.world.block(peer, blocked);
                }
            }
            Op::Leave(at, half) => {
                if let Some(client) = pick(&mut self.clients, at).filter(|client| !client.left) {
                    client.left = true;
                    let peer = client.peer;
                    self.read();
                    self.world.end(peer, if half { End::HalfClosed } else { End::Closed(None) });
                }
            }
            Op::Accept if !self.world.connecting.is_empty() => {
                let peer = self.world.accept();
                self.backends.insert(peer, VecDeque::new());
            }
            Op::Refuse if !self.world.connecting.is_empty() => self.world.refuse(),
            Op::Accept | Op::Refuse => {}
            Op::Answer(at) => self.answer(at, b""),
            Op::Half(at) => {
                if let Some((peer, line)) = self.asked(at) {
                    let held = &mut line[0].1;
                    let rest = held.split_off(held.len() / 2);
                    let first = std::mem::replace(held, rest);
                    self.world.send(peer, &first);
                }
            }
            Op::Surplus(at) => self.answer(at, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
            Op::Blurt(at) => {
                let idle = self.backends.iter().filter(|(_, asked)| asked.is_empty()).map(|(peer, _)| *peer);
                let idle: Vec<Peer> = idle.collect();
                if !idle.is_empty() {
                    self.world.send(idle[at % idle.len()], &response(200, "\"stranger\""));
                }
            }
            Op::Cut(at, reset) => {
                let peers: Vec<Peer> = self.backends.keys().copied().collect();
                if !peers.is_empty() {
                    let end = if reset { End::Closed(Some(ErrorKind::ConnectionReset)) } else { End::HalfClosed };
                    self.world.end(peers[at % peers.len()], end);
                }
            }
            Op::Pass(ms) => self.world.wait(ms as u32 * MS),
        }
    }

    fn connect(&mut self, protocol: Protocol) {
        let peer = self.world.client(Mode::Auto);
        match protocol {
            Protocol::Postfix => {}
            Protocol::DictInOrder => self.world.send(peer, b"H2\t0\t0\tu\talias\n"),
            Protocol::DictAsync => self.world.send(peer, b"H4\t0\t0\t\talias\n"),
        }
        let (open, held) = (VecDeque::new(), String::new());
        self.clients.push(Client { peer, protocol, open, held, blocked: false, left: false });
    }

    fn ask(&mut self, at: usize, whole: bool) {
        let key = self.next_key;
        let Some(client) = pick(&mut self.clients, at).filter(|client| !client.left) else { return };
        self.next_key += 1;
        client.open.push_back((key, None));
        let bytes = match client.protocol {
            Protocol::Postfix => {
                let text = format!("alias {key}");
                format!("{}:{text},", text.len())
            }
            Protocol::DictInOrder => format!("Lshared/{key}\n"),
            Protocol::DictAsync => format!("Lshared/{key}\tu\n"),
        };
        let (peer, middle) = (client.peer, if whole { bytes.len() } else { bytes.len() / 2 });
        self.world.send(peer, &bytes.as_bytes()[..middle]);
        if !whole {
            self.world.send(peer, &bytes.as_bytes()[middle..]);
        }
    }

    fn commit(&mut self, at: usize, key: u32) {
        let Some(client) = pick(&mut self.clients, at).filter(|client| !client.left) else { return };
        let user = match client.protocol {
            Protocol::Postfix => return,
            Protocol::DictInOrder => "",
            Protocol::DictAsync => "\tu",
        };
        let number = WRITES + self.writes.len() as u32;
        client.open.push_back((number, None));
        let peer = client.peer;
        self.writes.insert(number, (peer, key));
        let bytes = format!("B{number}{user}\nS{number}\tshared/w{key}\t{number}\nC{number}\n");
        self.world.send(peer, bytes.as_bytes());
    }

    /// The backend connections with requests in flight, one of them chosen.
    fn asked(&mut self, at: usize) -> Option<(Peer, &mut Line)> {
        let busy = self.backends.iter_mut().map(|(peer, line)| (*peer, line)).filter(|(_, line)| !line.is_empty());
        let mut busy: Vec<_> = busy.collect();
        if busy.is_empty() { None } else { Some(busy.swap_remove(at % busy.len())) }
    }

    /// Completes an answer, with bytes behind it unless these would be an answer to the next request.
    fn answer(&mut self, at: usize, surplus: &[u8]) {
        let Some((peer, line)) = self.asked(at) else { return };
        let Some((key, held)) = line.pop_front() else { return };
        let bytes = [&held[..], if line.is_empty() { surplus } else { b"" }].concat();
        if key % 3 == 1 {
            self.misses.insert(key, true);
        }
        self.world.send(peer, &bytes);
    }

    /// Looks at what the backends were sent and at what the clients got.
    fn check(&mut self) {
        let world = &self.world;
        self.backends.retain(|peer, _| world.is_open(*peer));
        for (peer, line) in &mut self.backends {
            let requests = self.world.taken(*peer);
            assert!(requests.is_empty() || line.is_empty(), "more is sent before the last answer has come");
            let mut rest = &requests[..];
            while let Some((head, after)) = rest.split_once("\r\n\r\n") {
                rest = after;
                let target = head.split(' ').nth(1).and_then(|target| target.strip_prefix("/a/")).expect("a target");
                if head.starts_with("POST ") {
                    let (number, after) = rest.split_at(WRITES.to_string().len());
                    rest = after;
                    let number: u32 = number.parse().expect("a value");
                    let (client, key) = self.writes[&number];
                    assert_eq!(target, format!("w{key}"));
                    let last = self.written.insert((client, key), number);
                    assert!(last.is_none_or(|last| last < number), "{number} was sent twice, or after {last:?}");
                    line.push_back((number, said(number)));
                    continue;
                }
                let key: u32 = target.parse().expect("a key");
                assert!(key < self.next_key);
                *self.seen.entry(key).or_default() += 1;
                assert!(self.seen[&key] <= 2, "key {key} is asked for again and again");
                line.push_back((key, said(key)));
            }
            assert!(line.len() <= self.pipeline, "too many requests at once");
        }
        let mut writing = BTreeMap::new();
        for (number, _) in self.backends.values().flatten().filter(|(number, _)| *number >= WRITES) {
            let other = writing.insert(self.writes[number], number);
            assert_eq!(other, None, "two writes of a client to one key are on their way");
        }
        self.read();
    }

    fn read(&mut self) {
        for client in &mut self.clients {
            client.held += &self.world.taken(client.peer);
            while let Some(reply) = client.next() {
                judge(&reply.1, reply.0, &self.misses);
            }
        }
    }

    /// Lets all sides do what is due; then nothing may be left.
    fn finish(mut self) {
        for at in 0..self.clients.len() {
            self.apply(Op::Block(at, false));
        }
        self.world.wait(10 * SECOND);
        self.check();
        for client in self.clients.iter().filter(|client| !client.left) {
            assert!(client.open.is_empty(), "no reply to {:?}", client.open);
            assert!(client.held.is_empty(), "half a reply: {}", client.held);
            assert!(self.world.is_open(client.peer), "an idle client was closed");
        }
        for at in 0..self.clients.len() {
            self.world.end(self.clients[at].peer, End::Closed(None));
        }
        while !self.world.connecting.is_empty() {
            self.world.refuse();
        }
        self.world.wait(200 * SECOND);
        assert!(self.world.engine.is_drained());
        assert_eq!(self.world.engine.deadline(self.world.now), None, "something is left over");
        self.check();
        assert!(self.backends.is_empty(), "connections stay open for ever");
    }
}

impl Client {
    /// The next whole reply, with the key that a real client would take it for.
    fn next(&mut self) -> Option<(u32, String)> {
        if self.protocol == Protocol::Postfix {
            let (payload, used) =
                podop::wire::netstring::decode(self.held.as_bytes(), 100_000).expect("a netstring")?;
            let text = String::from_utf8_lossy(payload).into_owned();
            self.held.drain(..used);
            return Some((self.open.pop_front().expect("a reply that nobody asked for").0, text));
        }
        let end = self.held.find('\n')?;
        let line: String = self.held.drain(..=end).collect();
        let line = line.trim_end_matches('\n');
        if let Some(id) = line.strip_prefix('*') {
            let id: u32 = id.parse().expect("an id");
            assert!(self.protocol == Protocol::DictAsync && id != 0);
            assert!(self.open.iter().all(|(_, known)| *known != Some(id)), "an id twice");
            self.open.iter_mut().find(|(_, known)| known.is_none()).expect("an id for nothing").1 = Some(id);
            return self.next();
        }
        let Some((id, text)) = line.strip_prefix('+').and_then(|rest| rest.split_once('\t')) else {
            return Some((self.open.pop_front().expect("a reply that nobody asked for").0, line.to_owned()));
        };
        let id: u32 = id.parse().expect("an id");
        let at = self.open.iter().position(|(_, known)| *known == Some(id)).expect("an unknown id");
        Some((self.open.remove(at).expect("it was found").0, text.to_owned()))
    }
}

/// The response of backends for a key: a value, a miss, or a fault.
fn said(key: u32) -> Vec<u8> {
    match key % 3 {
        0 => response(200, &format!("\"own {key}\"")),
        1 => response(404, "null"),
        _ => response(500, "down"),
    }
}

/// A reply must be the key's own: its value, a miss from a complete response, or a failure.
fn judge(reply: &str, key: u32, misses: &BTreeMap<u32, bool>) {
    if key >= WRITES {
        let is_done = key.is_multiple_of(3) && reply == format!("O{key}");
        assert!(is_done || ["F", "W"].iter().any(|word| reply.starts_with(&format!("{word}{key}\t"))), "{reply}");
        return;
    }
    let value = reply.strip_prefix("OK ").or_else(|| reply.strip_prefix('O').filter(|text| text.starts_with("own")));
    if let Some(value) = value {
        assert_eq!(value, format!("own {key}"));
    } else if reply == "NOTFOUND " || reply == "N" {
        assert!(misses.contains_key(&key), "key {key} was never told to be missing");
    } else {
        assert!(["TEMP ", "TIMEOUT ", "Falias: "].iter().any(|start| reply.starts_with(start)), "{reply}");
    }
}

fn pick(clients: &mut [Client], at: usize) -> Option<&mut Client> {
    let count = clients.len();
    clients.get_mut(at.checked_rem(count)?)
}
