//! A model of clients and backends around an engine: what each was sent, what it may be told, and until when.

use crate::properties::{Op, Protocol};
use crate::support::world::{MS, SECOND, World, response};
use podop::config::Mode;
use podop::io::{Address, End, Peer};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// The tables, all with the same backends, and their timeouts in seconds.
const TABLES: [(&str, u32); 2] = [("alias", 5), ("slow", 2)];

// Lookups are numbered from 0, or from `LARGE` if some values are to be large, those after the sequence of events from
// `LATER`; other requests from these numbers on.
const LARGE: u32 = 250_002;
const LATER: u32 = 500_001;
const WRITES: u32 = 1_000_000;
const LISTS: u32 = 2_000_000;
const STORES: u32 = 3_000_000;
/// A key of a table in memory, whose value is of [`KNOWN_SIZE`] bytes.
const KNOWN: u32 = 4_000_000;
const KNOWN_SIZE: usize = 2_000;

/// Lookups of a flood: more than a client may have open, and with more bytes than are read at once.
const FLOOD: usize = 8_000;

/// More than this much of what a client has sent is never held: input, what was read last, and its open writes.
const MAX_HELD: usize = (4 << 20) + 3 * 65_536 + (1 << 20);

/// More than this is never added to the output of a client in a turn in which its requests are answered at once.
const MAX_PER_TURN: usize = 2 * (256 * 1024 + KNOWN_SIZE) + 10_000;

/// Number of timeouts in a row after which a backend may be down for a table.
const HUNG: u32 = 5;

/// The options of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    pub connections: usize,
    /// Maximum number of requests in flight on one connection.
    pub pipeline: usize,
    pub cache: bool,
    pub replicas: usize,
    pub tls: bool,
    /// Some values are large, and there is a table in memory.
    pub large: bool,
}

/// A client, as far as it knows.
struct Client {
    peer: Peer,
    protocol: Protocol,
    table: usize,
    /// Requests without a reply.
    open: VecDeque<Request>,
    /// Bytes of a reply that is not whole.
    held: String,
    blocked: bool,
    left: bool,
    /// Bytes that it has sent, and those of requests that were answered.
    sent: usize,
    answered: usize,
}

struct Request {
    number: u32,
    /// The async id that was announced for it.
    id: Option<u32>,
    /// When it must be answered; `None` if its client may not have been read so far.
    due: Option<Instant>,
    size: usize,
    rows: Vec<String>,
    /// Its backend was down while it was open, and its reply may wait for those before it.
    may_be_refused: bool,
}

/// A connection to a backend.
#[derive(Default)]
struct Connection {
    replica: usize,
    /// Requests in flight, each with when it came and the part of its response that is not sent yet.
    line: VecDeque<(u32, Instant, Vec<u8>)>,
    /// A part of the first response was sent.
    begun: bool,
    /// It was idle, or has carried a response.
    used: bool,
}

pub struct Model {
    world: World,
    setup: Setup,
    clients: Vec<Client>,
    backends: BTreeMap<Peer, Connection>,
    /// Since when each connection is being made.
    connecting: BTreeMap<Peer, Instant>,
    next_key: u32,
    /// The table of each request that was seen by a backend.
    tables: BTreeMap<u32, usize>,
    /// How often each key was seen by a backend.
    seen: BTreeMap<u32, u32>,
    /// Keys for which a backend sent a complete response that there is no value.
    misses: BTreeSet<u32>,
    /// The client and the key of each write.
    writes: BTreeMap<u32, (Peer, u32)>,
    /// The last write of a client to a key that a backend was sent.
    written: BTreeMap<(Peer, u32), u32>,
    /// What a backend has answered completely.
    answered: BTreeSet<u32>,
    /// How many replicas have failed each lookup, and those that were sent once more because of that.
    strikes: BTreeMap<u32, usize>,
    resent: BTreeSet<u32>,
    /// Timeouts in a row by replica and table: from [`HUNG`] on, others may be refused.
    hung: BTreeMap<(usize, usize), u32>,
    lists: u32,
    stores: u32,
    /// Clients whose requests are read in one turn.
    together: Option<Vec<Peer>>,
    _known: tempfile::TempDir,
}

impl Model {
    pub fn new(setup: Setup, world: impl FnOnce(&[&str]) -> World) -> Self {
        let Setup { connections, pipeline, cache, replicas, tls, large } = setup;
        let directory = tempfile::tempdir().expect("a directory");
        let known = directory.path().join("known.json");
        std::fs::write(&known, format!("{{\"k\": \"{}\"}}", "k".repeat(KNOWN_SIZE))).expect("a file");
        let scheme = if tls { "https" } else { "http" };
        let mut args = Vec::new();
        if large {
            args.extend(["--name", "known", "--type", "file", "--param"].map(String::from));
            args.push(known.display().to_string());
        }
        for (name, timeout) in TABLES {
            let url = |host| format!("{scheme}://192.0.2.{host}/{name}/§");
            let urls: Vec<String> = (1..=replicas).map(url).collect();
            args.extend(["--name", name, "--type", "url", "--param"].map(String::from));
            args.push(urls.join(" "));
            let options = [("connections", connections), ("pipeline", pipeline), ("timeout", timeout as usize)];
            // No key is requested twice, so nothing is found there; but all takes another path.
            let options = options.into_iter().chain(cache.then_some(("cache", 60)));
            args.extend(options.flat_map(|(key, value)| ["--option".into(), format!("{name}:{key}={value}")]));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Self {
            world: world(&args),
            setup,
            clients: Vec::new(),
            backends: BTreeMap::new(),
            connecting: BTreeMap::new(),
            next_key: if large { LARGE } else { 0 },
            tables: BTreeMap::new(),
            seen: BTreeMap::new(),
            misses: BTreeSet::new(),
            writes: BTreeMap::new(),
            written: BTreeMap::new(),
            answered: BTreeSet::new(),
            strikes: BTreeMap::new(),
            resent: BTreeSet::new(),
            hung: BTreeMap::new(),
            lists: 0,
            stores: 0,
            together: None,
            _known: directory,
        }
    }

    pub fn run(mut self, ops: Vec<Op>) {
        for op in ops {
            self.apply(op);
            self.check();
        }
        self.recover();
        self.resend_under_load();
        self.finish();
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Connect(protocol, slow) => _ = self.connect(protocol, usize::from(slow)),
            Op::AskTogether(at, other, ms) => {
                self.together = Some(Vec::new());
                let _ = (self.ask(at, true), self.ask(other, true));
                let peers = self.together.take().unwrap_or_default();
                self.world.turn_of(&peers);
                self.world.process();
                self.check();
                self.pass(ms);
            }
            Op::Ask(at, whole) => _ = self.ask(at, whole),
            Op::Commit(at, key) => self.commit(at, key),
            Op::Iterate(at) => self.iterate(at),
            Op::Store(at) => self.store(at),
            Op::Flood => self.flood(),
            Op::Hang(slow) => self.hang(slow),
            Op::Block(at, blocked) => self.block(at, blocked),
            Op::Leave(at, half) => {
                if let Some(client) = pick(&mut self.clients, at).filter(|client| !client.left) {
                    client.left = true;
                    let peer = client.peer;
                    self.read();
                    self.world.end(peer, if half { End::HalfClosed } else { End::Closed(None) });
                }
            }
            Op::Accept => self.accept(),
            Op::Refuse if !self.world.connecting.is_empty() => {
                self.strike_all();
                self.world.refuse();
            }
            Op::Refuse => {}
            Op::Answer(at) => self.answer(at, b""),
            Op::Half(at) => {
                if let Some((peer, connection)) = self.busy(at) {
                    let held = &mut connection.line[0].2;
                    let rest = held.split_off(held.len() / 2);
                    let first = std::mem::replace(held, rest);
                    connection.begun = true;
                    self.world.send(peer, &first);
                }
            }
            Op::Surplus(at) => self.answer(at, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
            Op::Blurt(at) => {
                let idle = self.backends.iter().filter(|(_, one)| one.line.is_empty()).map(|(peer, _)| *peer);
                let idle: Vec<Peer> = idle.collect();
                if !idle.is_empty() {
                    self.world.send(idle[at % idle.len()], &response(200, "\"stranger\""));
                }
            }
            Op::Cut(at, reset) => {
                let peers: Vec<Peer> = self.backends.keys().copied().collect();
                if !peers.is_empty() {
                    self.cut(peers[at % peers.len()], reset);
                }
            }
            Op::Pass(ms) => self.pass(ms),
        }
    }

    // --- clients

    fn connect(&mut self, protocol: Protocol, table: usize) -> usize {
        let peer = self.world.client(Mode::Auto);
        let name = TABLES[table].0;
        match protocol {
            Protocol::Postfix => {}
            Protocol::DictInOrder => self.world.send(peer, format!("H2\t0\t0\tu\t{name}\n").as_bytes()),
            Protocol::DictAsync => self.world.send(peer, format!("H4\t0\t0\t\t{name}\n").as_bytes()),
        }
        let (open, held) = (VecDeque::new(), String::new());
        let client = Client { peer, protocol, table, open, held, blocked: false, left: false, sent: 0, answered: 0 };
        self.clients.push(client);
        self.clients.len() - 1
    }

    fn block(&mut self, at: usize, blocked: bool) {
        let Some(client) = pick(&mut self.clients, at) else { return };
        client.blocked = blocked;
        client.open.iter_mut().for_each(|request| request.due = None);
        let peer = client.peer;
        self.world.block(peer, blocked);
    }

    /// Sends the bytes of a request, the first `split` of them by themselves.
    fn request(&mut self, at: usize, number: u32, bytes: &[u8], split: usize) {
        let client = &mut self.clients[at];
        // Behind a large write or a large reply it may not be read for now.
        let is_bulky = |request: &Request| (STORES..KNOWN).contains(&request.number) || is_large(request.number);
        let is_read = !client.blocked && !client.open.iter().any(is_bulky);
        let due = is_read.then_some(self.world.now + SECOND * TABLES[client.table].1);
        // Without ids a reply waits for those before it.
        let before = client.open.back().filter(|_| client.protocol != Protocol::DictAsync).map(|last| last.due);
        let due = match before {
            Some(before) => before.zip(due).map(|(before, own)| before.max(own)),
            None => due,
        };
        client.sent += bytes.len();
        client.open.push_back(Request {
            number,
            id: None,
            due,
            size: bytes.len(),
            rows: Vec::new(),
            may_be_refused: false,
        });
        let peer = client.peer;
        if let Some(peers) = &mut self.together {
            peers.push(peer);
            return self.world.hold(peer, bytes);
        }
        self.world.send(peer, &bytes[..split]);
        if split < bytes.len() {
            self.world.send(peer, &bytes[split..]);
        }
    }

    /// A client that has not left, by a number.
    fn present(&self, at: usize) -> Option<usize> {
        let at = at.checked_rem(self.clients.len())?;
        (!self.clients[at].left).then_some(at)
    }

    fn ask(&mut self, at: usize, whole: bool) -> Option<u32> {
        let at = self.present(at)?;
        let (key, client) = (self.next_key, &self.clients[at]);
        self.next_key += 1;
        let bytes = match client.protocol {
            Protocol::Postfix => {
                let text = format!("{} {key}", TABLES[client.table].0);
                format!("{}:{text},", text.len())
            }
            Protocol::DictInOrder => format!("Lshared/{key}\n"),
            Protocol::DictAsync => format!("Lshared/{key}\tu\n"),
        };
        let split = if whole { bytes.len() } else { bytes.len() / 2 };
        self.request(at, key, bytes.as_bytes(), split);
        Some(key)
    }

    fn commit(&mut self, at: usize, key: u32) {
        let Some((at, user)) = self.dict(at) else { return };
        let number = WRITES + self.writes.len() as u32;
        self.writes.insert(number, (self.clients[at].peer, key));
        let bytes = format!("B{number}{user}\nS{number}\tshared/w{key}\t{number}\nC{number}\n");
        self.request(at, number, bytes.as_bytes(), bytes.len());
    }

    fn iterate(&mut self, at: usize) {
        let Some((at, user)) = self.dict(at) else { return };
        let number = LISTS + self.lists;
        self.lists += 1;
        let bytes = format!("I0\t0\tshared/{number}/{user}\n");
        self.request(at, number, bytes.as_bytes(), bytes.len());
    }

    fn store(&mut self, at: usize) {
        let Some((at, user)) = self.dict(at) else { return };
        let number = STORES + self.stores;
        self.stores += 1;
        let set = format!("S{number}\tshared/{number}\t\"{}\"\n", "s".repeat(600_000));
        let bytes = format!("B{number}{user}\n{}C{number}\n", set.repeat(5));
        self.request(at, number, bytes.as_bytes(), bytes.len());
        // How long it takes until all of it is read depends on those before it.
        self.clients[at].open.iter_mut().for_each(|request| request.due = None);
    }

    /// A client of Dovecot, by a number, and the last field of its commands.
    fn dict(&self, at: usize) -> Option<(usize, &'static str)> {
        let at = self.present(at)?;
        match self.clients[at].protocol {
            Protocol::Postfix => None,
            Protocol::DictInOrder => Some((at, "")),
            Protocol::DictAsync => Some((at, "\tu")),
        }
    }

    /// A client asks for thousands of keys that are known, another one for one. It is answered in the same turn.
    fn flood(&mut self) {
        let [at, other] = [0, 1].map(|table| self.connect(Protocol::Postfix, table));
        let bytes = b"7:known k,";
        for (at, count) in [(at, FLOOD), (other, 1)] {
            let client = &mut self.clients[at];
            client.sent += count * bytes.len();
            let request = || Request {
                number: KNOWN,
                id: None,
                due: None,
                size: bytes.len(),
                rows: Vec::new(),
                may_be_refused: false,
            };
            client.open.extend((0..count).map(|_| request()));
            self.world.hold(client.peer, &bytes.repeat(count));
        }
        let peers = [self.clients[at].peer, self.clients[other].peer];
        self.world.turn_of(&peers);
        assert!(!self.world.taken(peers[1]).is_empty(), "another client waits for one that floods");
        let client = &mut self.clients[other];
        client.open.clear();
        client.answered = client.sent;
        while !self.clients[at].open.is_empty() {
            let reply = self.world.taken(peers[0]);
            assert!(!reply.is_empty() && reply.len() <= MAX_PER_TURN, "{} bytes in one turn", reply.len());
            self.clients[at].held += &reply;
            self.check_held();
            self.read();
            self.world.turn_of(&[]);
        }
    }

    /// Keys that hang one after another, as many as take a backend out of use.
    fn hang(&mut self, slow: bool) {
        let timeout = TABLES[usize::from(slow)].1 * 1000;
        for _ in 0..=HUNG {
            let client = self.connect(Protocol::Postfix, usize::from(slow));
            self.ask(client, true);
            while !self.world.connecting.is_empty() {
                self.accept();
            }
            self.check();
        }
        self.pass(timeout);
    }

    // --- backends

    fn accept(&mut self) {
        let Some((_, address)) = self.world.connecting.front() else { return };
        let replica = match address {
            Address::Tcp(address) => address.ip().to_string().ends_with(".2").into(),
            Address::Unix(path) => panic!("{path:?}"),
        };
        let peer = self.world.accept();
        self.backends.insert(peer, Connection { replica, ..Connection::default() });
    }

    /// The backend connections with requests in flight, one of them chosen.
    fn busy(&mut self, at: usize) -> Option<(Peer, &mut Connection)> {
        let busy = self.backends.iter_mut().map(|(peer, one)| (*peer, one)).filter(|(_, one)| !one.line.is_empty());
        let mut busy: Vec<_> = busy.collect();
        if busy.is_empty() { None } else { Some(busy.swap_remove(at % busy.len())) }
    }

    /// Completes an answer, with bytes behind it unless these would be an answer to the next request.
    fn answer(&mut self, at: usize, surplus: &[u8]) {
        if let Some((peer, _)) = self.busy(at) {
            self.answer_on(peer, surplus);
        }
    }

    fn answer_on(&mut self, peer: Peer, surplus: &[u8]) {
        let Some(connection) = self.backends.get_mut(&peer) else { return };
        let Some((number, _, held)) = connection.line.pop_front() else { return };
        (connection.begun, connection.used) = (false, true);
        let bytes = [&held[..], if connection.line.is_empty() { surplus } else { b"" }].concat();
        let replica = connection.replica;
        if number % 3 == 1 {
            self.misses.insert(number);
        }
        // The rows of a list may have to wait until it is their turn.
        let waits = |client: &Client| {
            let is_behind = client.open.iter().skip(1).any(|request| request.number == number);
            client.protocol == Protocol::DictInOrder && is_behind && (LISTS..STORES).contains(&number)
        };
        if !self.clients.iter().any(waits) {
            self.answered.insert(number);
        }
        self.world.send(peer, &bytes);
        self.read(); // as long as the backend may be down
        let table = self.tables[&number];
        if self.hung.remove(&(replica, table)).is_some_and(|count| count >= HUNG) {
            // What was refused meanwhile may wait for its turn.
            let of_table = self.clients.iter_mut().filter(|client| client.table == table);
            of_table
                .flat_map(|client| client.open.iter_mut().skip(1))
                .for_each(|request| request.may_be_refused = true);
        }
    }

    /// Closes the connection of a backend.
    fn cut(&mut self, peer: Peer, reset: bool) {
        if let Some(connection) = self.backends.remove(&peer) {
            self.lose(connection);
        }
        let end = if reset { End::Closed(Some(ErrorKind::ConnectionReset)) } else { End::HalfClosed };
        self.world.end(peer, end);
    }

    /// Notes for which lookups the end of a connection is a reason to fail.
    fn lose(&mut self, connection: Connection) {
        let Connection { line, begun, used, .. } = connection;
        for (at, (number, ..)) in line.into_iter().enumerate() {
            let is_first = used && !(begun && at == 0) && self.resent.insert(number);
            *self.strikes.entry(number).or_default() += usize::from(!is_first);
        }
    }

    /// A backend could not be reached: a reason to fail for whatever waits.
    fn strike_all(&mut self) {
        for request in self.clients.iter().flat_map(|client| &client.open) {
            *self.strikes.entry(request.number).or_default() += 1;
        }
    }

    fn pass(&mut self, ms: u32) {
        // In steps, because connections are begun and given up in between.
        for _ in 0..ms / 500 {
            self.step(500);
            self.check();
        }
        self.step(ms % 500);
    }

    fn step(&mut self, ms: u32) {
        let until = self.world.now + ms * MS;
        // A connection may be made within three seconds, and may have begun up to a step before it was seen.
        let late = self.connecting.values().filter(|since| **since + 3 * SECOND <= until + 500 * MS).count();
        (0..late).for_each(|_| self.strike_all());
        if late > 0 {
            for key in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                *self.hung.entry(key).or_default() += HUNG;
            }
        }
        self.world.wait(ms * MS);
    }

    // --- checks

    /// Looks at what the backends were sent and at what the clients got.
    fn check(&mut self) {
        self.note_closed();
        let peers: Vec<Peer> = self.backends.keys().copied().collect();
        peers.into_iter().for_each(|peer| self.check_backend(peer));
        self.check_connecting();
        let mut writing = BTreeMap::new();
        let in_flight = self.backends.values().flat_map(|one| &one.line).map(|(number, ..)| *number);
        for number in in_flight.filter(|number| (WRITES..LISTS).contains(number)) {
            let other = writing.insert(self.writes[&number], number);
            assert_eq!(other, None, "two writes of a client to one key are on their way");
        }
        self.read();
        self.check_held();
        self.check_deadlines();
    }

    /// Notes the connections that the engine has closed.
    fn note_closed(&mut self) {
        let world = &self.world;
        let closed: Vec<Peer> = self.backends.keys().copied().filter(|peer| !world.is_open(*peer)).collect();
        for peer in closed {
            let connection = self.backends.remove(&peer).expect("it is listed");
            // It waited for the first one in vain.
            if let Some((number, ..)) = connection.line.front() {
                *self.hung.entry((connection.replica, self.tables[number])).or_default() += 1;
            }
            self.lose(connection);
        }
    }

    fn check_backend(&mut self, peer: Peer) {
        let requests = self.world.taken(peer);
        let connection = self.backends.get_mut(&peer).expect("an open connection");
        connection.used |= requests.is_empty() && connection.line.is_empty();
        assert!(requests.is_empty() || connection.line.is_empty(), "more is sent before the last answer has come");
        let mut rest = &requests[..];
        while let Some((head, after)) = rest.split_once("\r\n\r\n") {
            rest = after;
            let mut path = head.split(' ').nth(1).expect("a target").split('/').skip(1);
            let (table, target) = (path.next().expect("a table"), path.next().expect("a key"));
            let table = TABLES.iter().position(|(name, _)| *name == table).expect("a table");
            let number = if head.starts_with("POST ") {
                let size = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
                let (value, after) = rest.split_at(size.parse().expect("a length"));
                rest = after;
                match value.parse() {
                    Ok(number) => {
                        let (client, key) = self.writes[&number];
                        assert_eq!(target, format!("w{key}"));
                        let last = self.written.insert((client, key), number);
                        assert!(last.is_none_or(|last| last < number), "{number} was sent twice, or after {last:?}");
                        number
                    }
                    Err(_) => target.parse().expect("the number of a large one"),
                }
            } else {
                let key: u32 = target.parse().expect("a key");
                assert!(key < self.next_key || key >= LISTS);
                *self.seen.entry(key).or_default() += 1;
                let most = 1 + self.setup.replicas as u32;
                assert!(self.seen[&key] <= most, "key {key} is asked for again and again");
                key
            };
            self.tables.insert(number, table);
            connection.line.push_back((number, self.world.now, said(number)));
        }
        assert!(rest.is_empty(), "half a request");
        assert!(connection.line.len() <= self.setup.pipeline, "too many requests at once");
    }

    fn check_connecting(&mut self) {
        let (now, old) = (self.world.now, std::mem::take(&mut self.connecting));
        for (key, _) in &self.world.connecting {
            let peer = Peer::Backend(*key);
            self.connecting.insert(peer, old.get(&peer).copied().unwrap_or(now));
        }
    }

    /// What the engine holds of each client is bounded.
    fn check_held(&self) {
        // What waits for the reply to another request is not written any more, but not answered either.
        let at_once = |client: &&Client| client.protocol != Protocol::DictInOrder && !client.blocked && !client.left;
        for client in self.clients.iter().filter(at_once) {
            let held = client.sent - client.answered - self.world.held(client.peer);
            assert!(held <= MAX_HELD, "{held} bytes of a client are held");
        }
    }

    /// Whatever waits has a deadline, and none has passed.
    fn check_deadlines(&mut self) {
        let now = self.world.now;
        for client in self.clients.iter().filter(|client| !client.left && !client.blocked) {
            let late = client.open.iter().find(|request| request.due.is_some_and(|due| due + MS <= now));
            assert!(late.is_none(), "no reply to {:?} in time", late.map(|request| request.number));
        }
        let most = now + SECOND * TABLES[0].1;
        for connection in self.backends.values() {
            let Some((number, since, _)) = connection.line.front() else { continue };
            let next = self.world.engine.deadline();
            assert!(next.is_some_and(|next| next <= most), "nothing watches the connection of {number}");
            let is_late = *since + SECOND * TABLES[0].1 + MS <= now;
            assert!(!is_late, "a connection stays open that owes {number}");
        }
    }

    /// Reads the replies of all clients.
    fn read(&mut self) {
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            client.held += &self.world.taken(client.peer);
            while let Some((request, reply)) = self.clients[at].next() {
                let (protocol, table) = (self.clients[at].protocol, self.clients[at].table);
                self.judge(&reply, &request, protocol, table);
            }
        }
    }

    /// A reply must be the key's own: its value, a miss from a complete response, or a failure that has a cause.
    fn judge(&self, reply: &str, request: &Request, protocol: Protocol, table: usize) {
        let Request { number, due, rows, may_be_refused, .. } = request;
        let number = *number;
        assert!(!reply.contains(": ,") && !reply.ends_with(": "), "a reason without a cause: {reply}");
        match number {
            KNOWN.. => assert_eq!(reply.len(), "OK ".len() + KNOWN_SIZE),
            WRITES..LISTS | STORES..KNOWN => {
                let is_done = number.is_multiple_of(3) && reply == format!("O{number}");
                let failed = ["F", "W"].iter().any(|word| reply.starts_with(&format!("{word}{number}\t")));
                assert!(is_done || failed, "{reply}");
            }
            LISTS..STORES if reply.is_empty() => {
                let expected = if number % 3 == 0 { vec![format!("shared/{number}/x\town {number}")] } else { vec![] };
                assert!(*rows == expected && number % 3 != 2, "{number} has the rows {rows:?}");
                assert!(!rows.is_empty() || self.misses.contains(&number), "{number} was never told to be empty");
            }
            _ => {
                let value = reply.strip_prefix("OK ").or_else(|| reply.strip_prefix('O'));
                if let Some(value) = value.filter(|value| value.starts_with("own")) {
                    assert_eq!(value, own(number));
                    return;
                }
                if reply == "NOTFOUND " || reply == "N" {
                    assert!(self.misses.contains(&number), "key {number} was never told to be missing");
                    return;
                }
                let name = TABLES[table].0;
                let kinds = [format!("TEMP {name}: "), format!("TIMEOUT {name}: "), format!("F{name}: ")];
                assert!(kinds.iter().any(|kind| reply.starts_with(kind)), "{reply}");
                let strikes = self.strikes.get(&number).copied().unwrap_or_default();
                let is_unfit = is_large(number) && protocol == Protocol::Postfix;
                let may_be_down = self.hung.iter().any(|((_, of), count)| *of == table && *count >= HUNG);
                let is_late = due.is_none_or(|due| due <= self.world.now && !self.answered.contains(&number));
                let may_be_down = may_be_down || *may_be_refused;
                let excused = number % 3 == 2 || is_unfit || is_late || may_be_down || self.setup.tls;
                assert!(excused || strikes >= self.setup.replicas, "{number} failed without a cause: {reply}");
            }
        }
    }

    // --- the end

    /// Backends answer whatever they are asked.
    fn serve_all(&mut self) {
        loop {
            self.check();
            while !self.world.connecting.is_empty() {
                self.accept();
            }
            self.check();
            let Some((peer, _)) = self.busy(0) else { return };
            self.answer_on(peer, b"");
        }
    }

    /// All backends work again: soon lookups of both tables are answered.
    fn recover(&mut self) {
        self.next_key = LATER;
        (0..self.clients.len()).for_each(|at| self.block(at, false));
        let clients = [0, 1].map(|table| self.connect(Protocol::Postfix, table));
        for _ in 0..20 {
            self.serve_all();
            clients.into_iter().for_each(|client| assert!(self.ask(client, true).is_some()));
            self.serve_all();
            self.pass(100);
        }
        self.hung.clear();
        self.strikes.clear();
        for _ in 0..10 {
            clients.into_iter().for_each(|client| assert!(self.ask(client, true).is_some()));
        }
        self.serve_all();
        assert!(self.setup.tls || clients.into_iter().all(|client| self.clients[client].open.is_empty()));
    }

    /// While more is asked than connections are free, a lookup whose used connection breaks gets its new one.
    fn resend_under_load(&mut self) {
        let Setup { connections, pipeline, tls, .. } = self.setup;
        if tls {
            return;
        }
        let ask = |model: &mut Self| {
            let client = model.connect(Protocol::Postfix, 0);
            model.ask(client, true).expect("a client")
        };
        for _ in 0..6 * connections * pipeline {
            ask(self);
        }
        self.check();
        self.answer(0, b""); // what is sent behind a response may be pipelined
        self.check();
        let used = self.backends.iter().filter(|(_, one)| one.used).max_by_key(|(_, one)| one.line.len());
        let Some(peer) = used.map(|(peer, _)| *peer) else { return };
        let victims: Vec<u32> = self.backends[&peer].line.iter().map(|(number, ..)| *number).collect();
        self.cut(peer, true);
        self.check();
        for _ in 0..20 {
            let busy: Vec<Peer> =
                self.backends.iter().filter(|(_, one)| !one.line.is_empty()).map(|(peer, _)| *peer).collect();
            for peer in busy {
                ask(self);
                self.answer_on(peer, b"");
                self.check();
            }
            while !self.world.connecting.is_empty() {
                self.accept();
            }
            self.check();
            self.pass(20);
        }
        let open = self.clients.iter().flat_map(|client| &client.open).map(|request| request.number);
        let waiting: Vec<u32> = open.filter(|number| victims.contains(number)).collect();
        assert!(waiting.is_empty(), "{waiting:?} were sent once more, and get no connection");
        self.serve_all();
    }

    /// Lets all sides do what is due; then nothing may be left.
    fn finish(mut self) {
        self.world.wait(60 * SECOND);
        self.check();
        for client in self.clients.iter().filter(|client| !client.left) {
            let open: Vec<u32> = client.open.iter().map(|request| request.number).collect();
            assert!(open.is_empty(), "no reply to {open:?}");
            assert!(client.held.is_empty(), "half a reply: {}", client.held);
            assert!(self.world.is_open(client.peer), "an idle client was closed");
        }
        for at in 0..self.clients.len() {
            self.world.end(self.clients[at].peer, End::Closed(None));
        }
        while !self.world.connecting.is_empty() {
            self.world.refuse();
        }
        self.world.wait(Duration::from_secs(200));
        assert!(self.world.engine.is_drained());
        // A file is looked at each second.
        let left = self.world.engine.deadline().is_some() && !self.setup.large;
        assert!(!left, "something is left over");
        self.check();
        assert!(self.backends.is_empty(), "connections stay open for ever");
    }
}

impl Client {
    /// The next whole reply, with the request that a real client would take it for.
    fn next(&mut self) -> Option<(Request, String)> {
        let (request, reply) = self.next_reply()?;
        self.answered += request.size;
        Some((request, reply))
    }

    fn next_reply(&mut self) -> Option<(Request, String)> {
        if self.protocol == Protocol::Postfix {
            let (payload, used) =
                podop::wire::netstring::decode(self.held.as_bytes(), 100_000).expect("a netstring")?;
            let text = String::from_utf8_lossy(payload).into_owned();
            self.held.drain(..used);
            return Some((self.open.pop_front().expect("a reply that nobody asked for"), text));
        }
        let end = self.held.find('\n')?;
        let line: String = self.held.drain(..=end).collect();
        let line = line.trim_end_matches('\n');
        if let Some(id) = line.strip_prefix('*') {
            let id: u32 = id.parse().expect("an id");
            assert!(self.protocol == Protocol::DictAsync && id != 0);
            assert!(self.open.iter().all(|request| request.id != Some(id)), "an id twice");
            self.open.iter_mut().find(|request| request.id.is_none()).expect("an id for nothing").id = Some(id);
            return self.next_reply();
        }
        let (at, text) = match line.strip_prefix('+').and_then(|rest| rest.split_once('\t')) {
            None => (0, line),
            Some((id, text)) => {
                let id: u32 = id.parse().expect("an id");
                (self.open.iter().position(|request| request.id == Some(id)).expect("an unknown id"), text)
            }
        };
        let request = self.open.get_mut(at).expect("a reply that nobody asked for");
        if (LISTS..STORES).contains(&request.number) && text.starts_with('O') {
            request.rows.push(text[1..].to_owned());
            return self.next_reply();
        }
        Some((self.open.remove(at).expect("it was found"), text.to_owned()))
    }
}

/// Whether the value of a key is longer than Postfix takes, and fills the output of a client.
fn is_large(key: u32) -> bool {
    (LARGE..LATER).contains(&key) && key % 6 == 3
}

/// The value of a key.
fn own(key: u32) -> String {
    let tail = if is_large(key) { "x".repeat(270_000) } else { String::new() };
    format!("own {key}{tail}")
}

/// The response of backends for a key: a value, a miss, or a fault.
fn said(key: u32) -> Vec<u8> {
    match key % 3 {
        0 if (LISTS..STORES).contains(&key) => response(200, &format!("{{\"x\": \"own {key}\"}}")),
        0 => response(200, &format!("\"{}\"", own(key))),
        1 => response(404, "null"),
        _ => response(500, "down"),
    }
}

fn pick(clients: &mut [Client], at: usize) -> Option<&mut Client> {
    let count = clients.len();
    clients.get_mut(at.checked_rem(count)?)
}
