//! The engine in memory: sockets are vectors, time is a number, and the test plays kernel, mail servers
//! and backends.

use podop::arena::Key;

use podop::config::{self, Command, Mode};
use podop::engine::Engine;
use podop::io::{Action, Address, DnsAddress, End, Peer, ProgramSignal};
use rustls::{ServerConfig, ServerConnection};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io::{BufRead, ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const SECOND: Duration = Duration::from_secs(1);
pub const MS: Duration = Duration::from_millis(1);

/// An engine and everything around it.
pub struct World {
    pub engine: Engine,
    pub now: Instant,
    /// Backends use TLS. The test does not notice: it reads and writes plaintext.
    tls: Option<Arc<ServerConfig>>,
    /// Number of bytes of what backends send over TLS that arrive late.
    pub lateness: usize,
    /// What each peer was sent and the test has not taken yet. A peer that was closed is not in here.
    wires: BTreeMap<Peer, Wire>,
    /// Connections that the engine has requested, not yet made.
    pub connecting: VecDeque<(Key, Address)>,
    /// Open sockets to name servers.
    pub name_servers: BTreeMap<Peer, DnsAddress>,
    /// Datagrams to name servers that the test has not taken yet.
    pub datagrams: VecDeque<Datagram>,
    /// Processes that were started and have not ended.
    pub processes: Vec<Peer>,
    /// Signals for processes that the test has not taken yet.
    pub signals: Vec<(Peer, ProgramSignal)>,
    /// Names that the engine has requested to be resolved.
    pub resolving: VecDeque<(usize, String)>,
    /// Peers that the engine closed.
    pub closed: Vec<Peer>,
    /// What backends were sent last before their connections were closed.
    pub parted: Vec<(Peer, Vec<u8>)>,
    /// What peers had been sent, and the test had not taken, when the engine closed them.
    untaken: BTreeMap<Peer, Vec<u8>>,
    /// Peers that are read again in the next turn.
    again: Vec<Peer>,
}

/// A datagram to a name server.
#[derive(Debug)]
pub struct Datagram {
    pub from: Peer,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// How often the reactor reads from a connection in one turn, and how much at once.
const READS: usize = 4;
const CHUNK: usize = 65_536; // bytes

#[derive(Default)]
struct Wire {
    /// From the engine to the peer.
    output: Vec<u8>,
    /// From the peer to the engine, which does not read it yet.
    input: VecDeque<u8>,
    /// The end of what the peer has sent last, which comes after the next event only.
    late: Vec<u8>,
    /// The peer reads nothing.
    blocked: bool,
    tls: Option<ServerConnection>,
}

impl World {
    /// An engine with the tables of this command line; `--socket` is added.
    pub fn new(args: &[&str]) -> World {
        podop::log::start(podop::log::Level::Error); // what happens on purpose is not news
        let args = args.iter().chain(&["--socket", "/s"]).map(OsString::from);
        let Ok(Command::Run(config)) = config::parse(args) else { panic!("a command line that runs") };
        let (tables, carriers) = podop::open(&config.tables).unwrap_or_else(|mistake| panic!("{mistake}"));
        World {
            engine: Engine::new(tables, carriers, config.timeout),
            now: Instant::now(),
            tls: None,
            lateness: 0,
            wires: BTreeMap::new(),
            connecting: VecDeque::new(),
            name_servers: BTreeMap::new(),
            datagrams: VecDeque::new(),
            processes: Vec::new(),
            signals: Vec::new(),
            resolving: VecDeque::new(),
            closed: Vec::new(),
            parted: Vec::new(),
            untaken: BTreeMap::new(),
            again: Vec::new(),
        }
    }

    /// With backends that use TLS.
    pub fn over_tls(self, config: Arc<ServerConfig>) -> World {
        World { tls: Some(config), ..self }
    }

    /// One URL table `alias` at `http://192.0.2.1/a/§`, with further arguments.
    pub fn with_alias(args: &[&str]) -> World {
        let table = ["--name", "alias", "--type", "url", "--param", "http://192.0.2.1/a/§"];
        World::new(&[&table[..], args].concat())
    }

    /// A mail server connects.
    pub fn client(&mut self, mode: Mode) -> Peer {
        let peer = self.engine.accepted(mode, self.now);
        self.wires.insert(peer, Wire::default());
        peer
    }

    /// A Postfix that looks up a key.
    pub fn lookup(&mut self, key: &str) -> Peer {
        let client = self.client(Mode::Postfix);
        self.ask(client, key);
        client
    }

    /// A request for a key of `alias`.
    pub fn ask(&mut self, client: Peer, key: &str) {
        let mut request = Vec::new();
        podop::wire::netstring::encode(&[b"alias ", key.as_bytes()], &mut request);
        self.send(client, &request);
    }

    /// Bytes from a peer, as far as the engine reads them.
    pub fn send(&mut self, peer: Peer, bytes: &[u8]) {
        let late: Vec<Peer> = self.wires.iter().filter(|(_, wire)| !wire.late.is_empty()).map(|(at, _)| *at).collect();
        let lateness = self.lateness;
        if let Some(wire) = self.wires.get_mut(&peer) {
            wire.arrive();
            match &mut wire.tls {
                None => wire.input.extend(bytes),
                Some(tls) => tls.writer().write_all(bytes).expect("a buffer with room"),
            }
            wire.seal();
            if wire.tls.is_some() {
                let punctual = wire.input.len() - lateness.min(wire.input.len());
                wire.late = wire.input.split_off(punctual).into();
            }
        }
        self.feed(peer);
        self.process();
        for peer in late.into_iter().filter(|late| *late != peer) {
            if let Some(wire) = self.wires.get_mut(&peer) {
                wire.arrive();
            }
            self.feed(peer);
            self.process();
        }
    }

    /// Reads from a peer as the reactor does in one turn.
    fn feed(&mut self, peer: Peer) {
        for _ in 0..READS {
            let wire = self.wires.get_mut(&peer).filter(|wire| !wire.input.is_empty());
            let Some(wire) = wire.filter(|_| self.engine.wants_input(peer)) else { return };
            let count = wire.input.len().min(CHUNK);
            let rest = wire.input.split_off(count);
            let chunk: Vec<u8> = std::mem::replace(&mut wire.input, rest).into();
            self.engine.received(peer, &chunk, self.now);
        }
        self.again.push(peer);
    }

    /// Bytes from a peer, which the engine reads in [`World::turn_of`].
    pub fn hold(&mut self, peer: Peer, bytes: &[u8]) {
        self.wires.get_mut(&peer).into_iter().for_each(|wire| wire.input.extend(bytes));
    }

    /// Number of bytes from a peer that the engine has not read.
    pub fn held(&self, peer: Peer) -> usize {
        self.wires.get(&peer).map_or(0, |wire| wire.input.len())
    }

    /// One turn of the loop, in which bytes of these peers have arrived.
    pub fn turn_of(&mut self, peers: &[Peer]) {
        peers.iter().for_each(|peer| self.feed(*peer));
        self.turn();
    }

    /// The peer closes its sending side, or altogether.
    pub fn end(&mut self, peer: Peer, end: End) {
        if let Some(tls) =
            self.wires.get_mut(&peer).filter(|_| end == End::HalfClosed).and_then(|wire| wire.tls.as_mut())
        {
            tls.send_close_notify();
            return self.send(peer, b""); // which the engine takes for the end
        }
        if end != End::HalfClosed || matches!(peer, Peer::Backend(_)) {
            self.wires.remove(&peer);
        }
        self.engine.ended(peer, end, self.now);
        self.process();
    }

    /// Takes what a peer was sent since the last call.
    pub fn taken(&mut self, peer: Peer) -> String {
        String::from_utf8_lossy(&self.taken_bytes(peer)).into_owned()
    }

    pub fn taken_bytes(&mut self, peer: Peer) -> Vec<u8> {
        match self.wires.get_mut(&peer) {
            Some(wire) => std::mem::take(&mut wire.output),
            None => self.untaken.remove(&peer).unwrap_or_default(),
        }
    }

    /// From now on a peer reads nothing, or reads again.
    pub fn block(&mut self, peer: Peer, blocked: bool) {
        if let Some(wire) = self.wires.get_mut(&peer) {
            wire.blocked = blocked;
        }
        self.flush(peer);
        self.process();
    }

    /// A peer that is blocked reads this many bytes after all.
    pub fn trickle(&mut self, peer: Peer, count: usize) {
        let output = self.engine.output(peer);
        let taken = output[..count.min(output.len())].to_vec();
        if let Some(wire) = self.wires.get_mut(&peer).filter(|_| !taken.is_empty()) {
            wire.receive(&taken);
            self.engine.sent(peer, taken.len(), self.now);
        }
        self.process();
    }

    /// Makes the next connection that the engine has requested.
    pub fn accept(&mut self) -> Peer {
        let (key, _) = self.connecting.pop_front().expect("the engine wants a connection");
        let peer = Peer::Backend(key);
        let mut tls = self.tls.clone().map(|config| ServerConnection::new(config).expect("a usable configuration"));
        tls.iter_mut().for_each(|tls| tls.set_buffer_limit(None)); // a response is written at once
        self.wires.insert(peer, Wire { tls, ..Wire::default() });
        self.engine.connected(peer, self.now);
        self.process();
        // The engine's part of the handshake has arrived.
        while self.wires.get(&peer).is_some_and(|wire| !wire.input.is_empty()) {
            self.feed(peer);
            self.process();
        }
        peer
    }

    /// Makes the next connection, of which the backend reads nothing for now.
    pub fn accept_blocked(&mut self) -> Peer {
        let (key, _) = self.connecting.pop_front().expect("the engine wants a connection");
        let peer = Peer::Backend(key);
        self.wires.insert(peer, Wire { blocked: true, ..Wire::default() });
        self.engine.connected(peer, self.now);
        self.process();
        peer
    }

    /// Refuses the next connection that the engine wants.
    pub fn refuse(&mut self) {
        let (key, _) = self.connecting.pop_front().expect("the engine wants a connection");
        self.engine.ended(Peer::Backend(key), End::Closed(Some(ErrorKind::ConnectionRefused)), self.now);
        self.process();
    }

    /// A name server accepts a TCP connection.
    pub fn accept_dns(&mut self, peer: Peer) {
        self.wires.insert(peer, Wire::default());
        self.engine.connected(peer, self.now);
        self.process();
    }

    /// A datagram arrives from a name server.
    pub fn datagram(&mut self, peer: Peer, bytes: &[u8]) {
        self.engine.received(peer, bytes, self.now);
        self.process();
    }

    /// A process ends.
    pub fn exit(&mut self, peer: Peer, status: &str) {
        self.processes.retain(|other| *other != peer);
        self.engine.exited(peer.key(), status, self.now);
        self.process();
    }

    /// The lines that a process has got since the last call.
    pub fn lines(&mut self, peer: Peer) -> Vec<String> {
        self.taken(peer).lines().map(str::to_owned).collect()
    }

    /// The next line that any process has got, which may have more.
    pub fn next_line(&mut self) -> Option<(Peer, String)> {
        for peer in self.processes.clone() {
            let Some(wire) = self.wires.get_mut(&peer) else { continue };
            if let Some(end) = wire.output.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = wire.output.drain(..=end).collect();
                return Some((peer, String::from_utf8(line).expect("UTF-8").trim_end().to_owned()));
            }
        }
        None
    }

    /// Answers the oldest open name.
    pub fn resolve(&mut self, addresses: Result<&[&str], &str>) {
        let (name, _) = self.resolving.pop_front().expect("the engine wants an address");
        let parse = |list: &[&str]| list.iter().map(|one| one.parse().expect("an address")).collect();
        self.engine.resolved(name, addresses.map(parse).map_err(str::to_owned), self.now);
        self.process();
    }

    /// The key of the request that a backend connection has got: the rest of its path.
    pub fn asked(&mut self, peer: Peer) -> String {
        let request = self.taken(peer);
        assert!(request.matches("\r\n\r\n").count() <= 1, "one request at a time: {request}");
        let target = request.split(' ').nth(1).unwrap_or_default();
        target.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// The keys of all requests that a backend connection has got since the last call.
    pub fn asked_all(&mut self, peer: Peer) -> Vec<String> {
        let key = |head: &str| head.split(' ').nth(1).and_then(|target| target.rsplit('/').next().map(str::to_owned));
        self.taken(peer).split_terminator("\r\n\r\n").map(|head| key(head).expect("a request")).collect()
    }

    /// A whole response with a JSON string.
    pub fn respond(&mut self, peer: Peer, text: &str) {
        self.send(peer, &response(200, &format!("\"{text}\"")));
    }

    /// Plays all backends until no request is left: accepts every connection and answers every
    /// request (method, target, body) with these bytes, or by closing for `None`.
    pub fn serve(&mut self, mut answer: impl FnMut(&str, &str, &str) -> Option<Vec<u8>>) {
        while let Some((peer, request)) = self.next_request() {
            let (head, body) = request.split_once("\r\n\r\n").expect("a whole request");
            let mut words = head.split(' ');
            match answer(words.next().unwrap_or_default(), words.next().unwrap_or_default(), body) {
                Some(bytes) => self.send(peer, &bytes),
                None => self.end(peer, End::HalfClosed),
            }
        }
    }

    /// The same, with responses that depend on the `Host` field.
    pub fn serve_hosts(&mut self, mut answer: impl FnMut(&str) -> Vec<u8>) {
        while let Some((peer, request)) = self.next_request() {
            let host = request.lines().find_map(|line| line.strip_prefix("Host: ")).expect("a host");
            let bytes = answer(host);
            self.send(peer, &bytes);
        }
    }

    /// Accepts every connection, and takes the next request from any.
    pub fn next_request(&mut self) -> Option<(Peer, String)> {
        while !self.connecting.is_empty() {
            self.accept();
        }
        let asked = |(peer, wire): (&Peer, &Wire)| {
            (matches!(peer, Peer::Backend(_)) && !wire.output.is_empty()).then_some(*peer)
        };
        let peer = self.wires.iter().find_map(asked)?;
        Some((peer, self.taken(peer)))
    }

    /// The next backend connection that was sent a request.
    pub fn next_busy(&self) -> Option<Peer> {
        let is_busy = |(peer, wire): &(&Peer, &Wire)| matches!(peer, Peer::Backend(_)) && !wire.output.is_empty();
        self.wires.iter().find(is_busy).map(|(peer, _)| *peer)
    }

    /// The next backend connection that was sent a request, which is taken.
    pub fn next_asked(&mut self) -> Option<Peer> {
        self.next_request().map(|(peer, _)| peer)
    }

    /// True while a peer is connected, as far as the engine has closed nothing.
    pub fn is_open(&self, peer: Peer) -> bool {
        self.wires.contains_key(&peer)
    }

    /// Lets time pass, all at once.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.process();
    }

    /// Lets time pass as the reactor does, from deadline to deadline.
    pub fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        let mut turns = 0;
        while let Some(next) = self.engine.deadline().filter(|next| *next <= end) {
            turns = if next > self.now { 0 } else { turns + 1 };
            assert!(turns < 100, "the engine wakes up again and again for nothing");
            self.now = self.now.max(next);
            self.process();
        }
        self.now = end;
        self.process();
    }

    /// Carries out the engine's actions, turn by turn until there are none.
    pub fn process(&mut self) {
        let mut turns = 0;
        loop {
            self.turn();
            if !self.engine.has_resumable() && self.again.is_empty() {
                return;
            }
            turns += 1;
            assert!(turns < 10_000, "clients are resumed again and again for nothing");
        }
    }

    /// One turn of the loop.
    pub fn turn(&mut self) {
        std::mem::take(&mut self.again).into_iter().for_each(|peer| self.feed(peer));
        if self.engine.has_resumable() {
            self.engine.resume(self.now);
        }
        loop {
            self.engine.process(self.now);
            while let Some(action) = self.engine.next_action() {
                match action {
                    Action::Connect(key, address) => self.connecting.push_back((key, address)),
                    Action::OpenDns(key, address) => {
                        self.name_servers.insert(Peer::Dns(key), address);
                        if matches!(address, DnsAddress::Udp(_)) {
                            self.wires.insert(Peer::Dns(key), Wire::default());
                        }
                    }
                    Action::Start(key, _) => {
                        self.processes.push(Peer::Program(key));
                        self.wires.insert(Peer::Program(key), Wire::default());
                    }
                    Action::Signal(key, signal) => self.signals.push((Peer::Program(key), signal)),
                    Action::Flush(peer) => self.flush(peer),
                    Action::Resume(peer) => self.again.push(peer), // in the next turn, after all others
                    Action::Resolve { name, host, .. } => self.resolving.push_back((name, host)),
                    Action::CloseNotify(key, last) => self.parted.push((Peer::Backend(key), last)),
                    Action::Close(peer) => {
                        let output = self.wires.remove(&peer).map(|wire| wire.output).unwrap_or_default();
                        self.untaken.insert(peer, output);
                        self.connecting.retain(|(key, _)| Peer::Backend(*key) != peer);
                        self.name_servers.remove(&peer);
                        self.closed.push(peer);
                    }
                }
            }
            if !self.engine.has_pending() {
                return;
            }
        }
    }

    fn flush(&mut self, peer: Peer) {
        let Some(wire) = self.wires.get_mut(&peer).filter(|wire| !wire.blocked) else { return };
        let output = self.engine.output(peer).to_vec();
        if output.is_empty() {
            return;
        }
        self.engine.sent(peer, output.len(), self.now);
        match self.name_servers.get(&peer) {
            Some(DnsAddress::Udp(to)) => self.datagrams.push_back(Datagram { from: peer, to: *to, bytes: output }),
            Some(DnsAddress::Tcp(_)) | None => wire.receive(&output),
        }
    }
}

impl Wire {
    /// Takes what the engine has sent.
    fn receive(&mut self, bytes: &[u8]) {
        let Some(tls) = &mut self.tls else { return self.output.extend_from_slice(bytes) };
        let mut rest = bytes;
        while !rest.is_empty() {
            tls.read_tls(&mut rest).expect("a buffer with room");
            tls.process_new_packets().expect("TLS");
            let mut reader = tls.reader();
            while let Ok(piece @ [_, ..]) = reader.fill_buf() {
                self.output.extend_from_slice(piece);
                let count = piece.len();
                reader.consume(count);
            }
        }
        self.seal();
    }

    /// What was late is there.
    fn arrive(&mut self) {
        self.input.extend(std::mem::take(&mut self.late));
    }

    /// Sends the records that TLS has ready.
    fn seal(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records).expect("memory");
        }
        self.input.extend(records);
    }
}

/// The bytes of a response.
pub fn response(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
