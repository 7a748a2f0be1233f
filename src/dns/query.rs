//! One request to the DNS: a question, which is repeated until a server answers it, and those that follow from it.

use super::answer::MAX_ALIASES;
use super::random::Random;
use crate::arena::Key;
use crate::backend::{DnsQuery, Exchange};
use crate::wire::dns::{Data, Name, Question, TYPE_A, TYPE_AAAA, TYPE_MX};
use crate::wire::http::{CacheControl, ExtraHeaders, Response};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The time after which a question is sent to the next server. It doubles when all were asked.
const FIRST_REPEAT: Duration = Duration::from_millis(400);

/// The same over TCP, which repeats by itself.
const TCP_REPEAT: Duration = Duration::from_secs(1);

/// The bounds of the time for which records are used, in seconds.
// A TTL of 0 would have each mail of a mailing ask again, and one of years outlive a mistake.
const MIN_TTL: u32 = 5;
const MAX_TTL: u32 = 3_600;

/// The length of most records as text.
const LINE: usize = 96; // bytes

/// Maximum number of hosts with the lowest preference whose addresses are asked for.
const MAX_HOSTS: usize = 8;

/// One request: its questions one after another, and the records so far.
#[derive(Debug)]
pub(super) struct Query {
    pub exchange: Box<Exchange>,
    pub request: Rc<DnsQuery>,
    pub question: Question,
    /// The domain or the host that is asked about, also while an alias of it is.
    subject: Name,
    aliases: usize,
    /// What comes after this question.
    next: VecDeque<(Name, u16)>,
    /// The records, a line each.
    text: String,
    /// For how many seconds all of them hold.
    ttl: u32,
    pub attempts: Attempts,
    /// How many timers there were. Only the last one counts.
    pub timers: u32,
}

/// The attempts to have one question answered.
#[derive(Debug)]
pub(super) struct Attempts {
    /// When the question was asked first.
    since: Instant,
    /// The servers, by number, in the order in which they are asked.
    order: Vec<usize>,
    /// Those that have no answer.
    failed: Vec<usize>,
    /// Those that have not answered in time.
    pub missed: Vec<usize>,
    /// How often the question was sent or should have been.
    pub count: u32,
    pub last: Option<(usize, Instant)>,
    /// The sockets on which an answer may arrive.
    pub open: Vec<Open>,
    /// With EDNS, and over TCP.
    pub edns: bool,
    pub tcp: bool,
    /// It waits for a server to have room for it.
    pub waits: bool,
    /// Why the last server had no answer.
    pub cause: Option<String>,
}

/// A socket on which an answer may arrive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub channel: Key,
    pub id: u16,
    pub server: usize,
}

impl Attempts {
    pub(super) fn new(order: Vec<usize>, now: Instant) -> Self {
        Self {
            since: now,
            order,
            failed: Vec::new(),
            missed: Vec::new(),
            count: 0,
            last: None,
            open: Vec::new(),
            edns: true,
            tcp: false,
            waits: false,
            cause: None,
        }
    }

    /// The server to ask next; `None` if each of them has failed, or has the question over TCP, which repeats by itself.
    pub(super) fn next_server(&self) -> Option<usize> {
        let has_it = |server: &usize| self.tcp && self.open.iter().any(|open| open.server == *server);
        let all = self.order.iter().cycle().skip(self.count as usize % self.order.len().max(1)).take(self.order.len());
        all.copied().find(|server| !self.failed.contains(server) && !has_it(server))
    }

    /// The servers that are not asked first.
    pub(super) fn others(&self) -> &[usize] {
        self.order.get(1..).unwrap_or_default()
    }

    /// Marks a server as one that has no answer to this question.
    pub(super) fn exclude(&mut self, server: usize, cause: String) {
        self.cause = Some(cause);
        if !self.failed.contains(&server) {
            self.failed.push(server);
        }
    }

    /// The time to wait for an answer to what was sent last. `timeout` bounds it.
    pub(super) fn wait(&self, timeout: Duration) -> Duration {
        if self.tcp {
            return timeout.min(TCP_REPEAT);
        }
        let round = self.count.saturating_sub(1) / self.order.len().max(1) as u32;
        (FIRST_REPEAT * 2u32.saturating_pow(round.min(16))).min(timeout)
    }

    /// When the question is not repeated any more.
    pub(super) fn end(&self, request: &DnsQuery) -> Instant {
        self.since + request.conf.timeout * request.conf.attempts
    }
}

impl Query {
    /// A request for the MX records of the name; the questions have letters in random case.
    pub(super) fn new(
        exchange: Box<Exchange>,
        request: Rc<DnsQuery>,
        name: Name,
        random: u64,
        attempts: Attempts,
    ) -> Self {
        Self {
            exchange,
            request,
            question: Question::new(name.with_random_case(random), TYPE_MX),
            subject: name,
            aliases: 0,
            next: VecDeque::new(),
            text: String::with_capacity(LINE),
            ttl: u32::MAX,
            attempts,
            timers: 0,
        }
    }

    /// Asks for what the name is an alias of. False if there were too many.
    pub(super) fn follow(&mut self, alias: &Name, ttl: u32, random: u64) -> bool {
        self.aliases += 1;
        self.ttl = self.ttl.min(ttl);
        self.question = Question::new(alias.with_random_case(random), self.question.kind);
        self.aliases <= MAX_ALIASES
    }

    /// Adds the records that answer the question. False if more follow from them than are asked for.
    pub(super) fn add(&mut self, records: Vec<Data>, ttl: u32) -> bool {
        self.ttl = self.ttl.min(ttl);
        if self.question.kind == TYPE_MX {
            return self.add_hosts(&records);
        }
        for data in records {
            let Data::Address(address) = data else { continue };
            if self.request.is_near(address) {
                // One is enough.
                let subject = &self.subject;
                self.next.retain(|(other, _)| other != subject);
            }
            // Writing to memory does not fail.
            let _ = writeln!(self.text, "{} A {address}", self.subject);
        }
        true
    }

    /// The same for MX records.
    fn add_hosts(&mut self, records: &[Data]) -> bool {
        let request = self.request.clone();
        let host = |data: &Data| match data {
            Data::Mx { preference, exchange } => Some((*preference, exchange.clone())),
            Data::Address(_) | Data::Ns | Data::Cname(_) | Data::Soa { .. } | Data::Other => None,
        };
        let is_ours = |data: &Data| matches!(data, Data::Mx { exchange, .. } if request.hosts.contains(exchange));
        if !records.iter().any(is_ours) {
            return true; // whatever else they say
        }
        self.subject.push_text(&mut self.text);
        self.text.push('\n');
        if request.networks.is_empty() {
            return true;
        }
        let hosts: Vec<(u16, Name)> = records.iter().filter_map(host).collect();
        let lowest = hosts.iter().map(|(preference, _)| *preference).min();
        let best = hosts.into_iter().filter(|(preference, host)| Some(*preference) == lowest && !host.is_root());
        for (at, (_, host)) in best.enumerate() {
            if at == MAX_HOSTS {
                return false;
            }
            let _ = writeln!(self.text, "{host} MX");
            self.next.extend([(host.clone(), TYPE_A), (host, TYPE_AAAA)]);
        }
        true
    }

    /// Goes on to the next question; false if there is none.
    pub(super) fn advance(&mut self, random: &mut Random) -> bool {
        let Some((name, kind)) = self.next.pop_front() else { return false };
        self.question = Question::new(name.with_random_case(random.u64()), kind);
        (self.subject, self.aliases) = (name, 0);
        true
    }

    /// The records that matter as the response of a backend: the domain on a line, if one of its MX records names a host
    /// of the request, and if there are networks, a line for each of its best hosts (`mx1.example.net MX`) and each of
    /// their addresses (`mx1.example.net A 192.0.2.1`).
    pub(super) fn into_response(self) -> (Box<Exchange>, Response<'static>) {
        (self.exchange, response(self.text, self.ttl))
    }
}

/// Records as the response of a backend, which may be used for a time in seconds.
pub(super) fn response(text: String, ttl: u32) -> Response<'static> {
    let cache_control = CacheControl::of_max_age(ttl.clamp(MIN_TTL, MAX_TTL));
    Response {
        status: 200,
        keep_alive: true,
        keep_alive_timeout: None,
        extra_headers: Some(Box::new(ExtraHeaders { cache_control, ..ExtraHeaders::default() })),
        until_end: false,
        body: Cow::Owned(text.into_bytes()),
    }
}
