//! Dovecot's authentication protocol as Postfix and Exim speak it (`smtpd_sasl_type = dovecot`): the server speaks first,
//! then `AUTH` and `CONT` lines are answered by `OK`, `FAIL` or `CONT` (auth-protocol.txt; xsasl_dovecot_server.c).

use super::message::{Event, MAX_KEY, MAX_REQUEST, ProtocolError, Reply};
use super::replies::{Part, Replies};
use crate::buffer::Output;
use crate::query::{Ask, AskKind, Decision, Query, Tokens};
use crate::secret::Secret;
use crate::value::push_quoted;
use crate::wire::{base64, dict};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};

/// Maximum number of exchanges of one client that wait for its next line; the oldest are forgotten beyond it.
const MAX_CONTINUED: usize = 100;

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mechanism {
    /// RFC 4616
    Plain,
    /// draft-murchison-sasl-login
    Login,
    /// Google's, before RFC 7628
    XOauth2,
    /// RFC 7628
    OauthBearer,
}

/// The mechanisms that are offered, by their names.
const MECHANISMS: [(&str, Mechanism); 4] = [
    ("PLAIN", Mechanism::Plain),
    ("LOGIN", Mechanism::Login),
    ("XOAUTH2", Mechanism::XOauth2),
    ("OAUTHBEARER", Mechanism::OauthBearer),
];

/// The state of a connection of an authentication client.
#[derive(Debug)]
pub(super) struct SaslSession {
    /// The table that decides.
    table: &'static str,
    tokens: Tokens,
    /// VERSION has come, which is the first command.
    greeted: bool,
    /// Bytes at the front of the input in which no line ends.
    searched: usize,
    /// Exchanges by their ids, of which the next line has not come.
    // The oldest first: Postfix does not cancel those of its clients that have gone.
    continued: VecDeque<(u32, Exchange)>,
    /// Those that the table decides, by the sequence numbers of their requests.
    decided: BTreeMap<u64, Decided>,
    /// Bytes of open requests.
    asked: usize,
}

/// An authentication that is not complete.
#[derive(Debug)]
struct Exchange {
    mechanism: Mechanism,
    about: About,
    /// The user, once LOGIN has it.
    user: Option<Secret>,
}

/// What the server of the mail knows of its client, of which nothing is secret.
#[derive(Debug, Default)]
struct About {
    service: Vec<u8>,
    server: Vec<u8>,
    client: Vec<u8>,
    tls: bool,
}

#[derive(Debug)]
struct Decided {
    id: u32,
    user: Vec<u8>,
    size: usize,
    /// The client is not interested any more.
    cancelled: bool,
}

/// A user, and how that is proved.
struct Credentials {
    user: Secret,
    /// A password, or a token.
    secret: Secret,
}

impl SaslSession {
    /// A connection that was accepted. The handshake is written at once.
    // MECH before SPID, or Postfix reports a wrong socket.
    pub(super) fn new(table: &'static str, tokens: Tokens, output: &mut Output, replies: &mut Replies) -> Self {
        replies.allow_any_order();
        let session = Self {
            table,
            tokens,
            greeted: false,
            searched: 0,
            continued: VecDeque::new(),
            decided: BTreeMap::new(),
            asked: 0,
        };
        let mut hello = String::from("VERSION\t1\t2\n");
        for (name, mechanism) in MECHANISMS.iter().filter(|(_, mechanism)| session.offers(*mechanism)) {
            let plaintext = matches!(mechanism, Mechanism::Plain | Mechanism::Login);
            hello += &format!("MECH\t{name}{}\n", if plaintext { "\tplaintext" } else { "" });
        }
        let random = || RandomState::new().build_hasher().finish();
        let (unique, cookie) = (random() as u32, [random(), random()]);
        let process = std::process::id();
        hello += &format!("SPID\t{process}\nCUID\t{unique}\nCOOKIE\t{:016x}{:016x}\nDONE\n", cookie[0], cookie[1]);
        output.writer().extend_from_slice(hello.as_bytes());
        session
    }

    fn offers(&self, mechanism: Mechanism) -> bool {
        match mechanism {
            Mechanism::Plain | Mechanism::Login => true,
            Mechanism::XOauth2 => self.tokens.xoauth2,
            Mechanism::OauthBearer => self.tokens.oauthbearer,
        }
    }

    /// Parses the next line and returns what follows with its length in bytes; `None` if it is incomplete.
    pub(super) fn next<'a>(
        &mut self,
        input: &[u8],
        replies: &mut Replies,
        output: &mut Output,
    ) -> Result<Option<(Event<'a>, usize)>, ProtocolError> {
        let Some(at) = input[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = input.len();
            return if input.len() > MAX_REQUEST { Err(ProtocolError::Sasl) } else { Ok(None) };
        };
        let end = self.searched + at;
        self.searched = 0;
        if end > MAX_REQUEST {
            return Err(ProtocolError::Sasl);
        }
        let ask = self.line(&input[..end], output)?;
        let event = match ask {
            None => Event::Nothing,
            Some((id, ask)) => {
                let seq = replies.enter();
                let (user, size) = (ask.key.clone(), ask.json.len());
                self.asked += size;
                self.decided.insert(seq, Decided { id, user, size, cancelled: false });
                Event::Request { seq, table: Some(self.table.as_bytes()), query: Query::Ask(Box::new(ask)) }
            }
        };
        Ok(Some((event, end + 1)))
    }

    /// Handles one line. Returns the question of an exchange that is complete.
    fn line(&mut self, line: &[u8], output: &mut Output) -> Result<Option<(u32, Ask)>, ProtocolError> {
        let mut fields = line.split(|byte| *byte == b'\t');
        let command = fields.next().unwrap_or_default();
        if !self.greeted {
            let is_known = command == b"VERSION" && fields.next() == Some(b"1");
            self.greeted = is_known;
            return if is_known { Ok(None) } else { Err(ProtocolError::Sasl) };
        }
        let mut id = || {
            let text = fields.next().and_then(|text| std::str::from_utf8(text).ok());
            text.and_then(|text| text.parse::<u32>().ok()).ok_or(ProtocolError::Sasl)
        };
        match command {
            b"AUTH" => {
                let id = id()?;
                self.begin(id, fields, output)
            }
            b"CONT" => {
                let id = id()?;
                let exchange = self.take(id).ok_or(ProtocolError::Sasl)?;
                Ok(self.advance(id, exchange, fields.next().unwrap_or_default(), output))
            }
            b"CANCEL" => {
                let id = id()?;
                self.take(id);
                self.decided.values_mut().filter(|one| one.id == id).for_each(|one| one.cancelled = true);
                Ok(None)
            }
            // CPID, and what a later version may have.
            _ => Ok(None),
        }
    }

    /// Takes out an exchange that has waited for this line.
    fn take(&mut self, id: u32) -> Option<Exchange> {
        let at = self.continued.iter().position(|(other, _)| *other == id)?;
        self.continued.remove(at).map(|(_, exchange)| exchange)
    }

    /// Bytes of open requests.
    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    /// Handles `AUTH`: the name of a mechanism, and parameters, of which `resp=` is the last.
    fn begin<'f>(
        &mut self,
        id: u32,
        mut fields: impl Iterator<Item = &'f [u8]>,
        output: &mut Output,
    ) -> Result<Option<(u32, Ask)>, ProtocolError> {
        if self.decided.values().any(|one| one.id == id && !one.cancelled) {
            return Err(ProtocolError::Sasl);
        }
        self.take(id);
        let name = fields.next().unwrap_or_default();
        let known = MECHANISMS.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name));
        let Some((_, mechanism)) = known.filter(|(_, mechanism)| self.offers(*mechanism)) else {
            fail(id, output.writer());
            return Ok(None);
        };
        let (mut about, mut initial) = (About::default(), None);
        for field in fields {
            let at = field.iter().position(|byte| *byte == b'=').unwrap_or(field.len());
            let value = || dict::unescape(field.get(at + 1..).unwrap_or_default()).into_owned();
            match &field[..at] {
                b"service" => about.service = value(),
                b"lip" => about.server = value(),
                b"rip" => about.client = value(),
                b"secured" => about.tls = true,
                b"resp" => initial = Some(field.get(at + 1..).unwrap_or_default()),
                _ => {}
            }
        }
        let exchange = Exchange { mechanism: *mechanism, about, user: None };
        match initial {
            Some(response) => Ok(self.advance(id, exchange, response, output)),
            None => {
                let prompt = if *mechanism == Mechanism::Login { base64::encode(b"Username:") } else { String::new() };
                self.wait(id, exchange, &prompt, output);
                Ok(None)
            }
        }
    }

    fn wait(&mut self, id: u32, exchange: Exchange, prompt: &str, output: &mut Output) {
        if self.continued.len() >= MAX_CONTINUED {
            self.continued.pop_front();
        }
        self.continued.push_back((id, exchange));
        output.writer().extend_from_slice(format!("CONT\t{id}\t{prompt}\n").as_bytes());
    }

    /// Handles a response of the client, in base64.
    fn advance(&mut self, id: u32, mut exchange: Exchange, response: &[u8], output: &mut Output) -> Option<(u32, Ask)> {
        // An empty one is `=` (RFC 4954, section 4).
        let response = if response == b"=" { Some(Secret::default()) } else { base64::decode(response) };
        let credentials = match (exchange.mechanism, response) {
            (_, None) => None,
            (Mechanism::Login, Some(user)) if exchange.user.is_none() => {
                exchange.user = Some(user);
                self.wait(id, exchange, &base64::encode(b"Password:"), output);
                return None;
            }
            (Mechanism::Login, Some(secret)) => exchange.user.take().map(|user| Credentials { user, secret }),
            (Mechanism::Plain, Some(response)) => plain(&response),
            (Mechanism::XOauth2, Some(response)) => xoauth2(&response),
            (Mechanism::OauthBearer, Some(response)) => oauthbearer(&response),
        };
        // Nothing that a table could decide: the client has made a mistake.
        let is_text = |part: &[u8]| !part.is_empty() && !part.contains(&0) && std::str::from_utf8(part).is_ok();
        let usable = |one: &Credentials| is_text(&one.user) && is_text(&one.secret) && one.user.len() <= MAX_KEY;
        let Some(credentials) = credentials.filter(usable) else {
            fail(id, output.writer());
            return None;
        };
        let json = question(&exchange, &credentials);
        Some((id, Ask { kind: AskKind::Login, key: credentials.user.to_vec(), json }))
    }

    /// Encodes the reply to the request with the sequence number `seq`. True if the connection is to be closed in its
    /// place: Postfix takes any other reply than OK for a wrong password.
    pub(super) fn reply(&mut self, seq: u64, reply: Reply<'_>, replies: &mut Replies, out: &mut Vec<u8>) -> bool {
        let Some(Decided { id, user, size, cancelled }) = self.decided.remove(&seq) else { return false };
        self.asked -= size;
        let decision = match reply {
            _ if cancelled => None,
            Reply::Decided(decision) => decision,
            Reply::Close(_) | Reply::Failed(_) | Reply::Answer(_) | Reply::Explained { .. } | Reply::Row { .. } => None,
            Reply::End | Reply::Committed(..) => None,
        };
        let is_fault = decision.is_none() && !cancelled;
        replies.write(seq, Part::Last, out, |out| match decision {
            None => {}
            Some(Decision::Yes(name)) => {
                out.extend_from_slice(format!("OK\t{id}\tuser=").as_bytes());
                dict::escape(if name.is_empty() { &user } else { &name }, out);
                out.push(b'\n');
            }
            Some(Decision::No(reason)) => {
                out.extend_from_slice(format!("FAIL\t{id}\tuser=").as_bytes());
                dict::escape(&user, out);
                if let Some(reason) = reason {
                    out.extend_from_slice(b"\treason=");
                    dict::escape(reason.as_bytes(), out);
                }
                out.push(b'\n');
            }
        });
        is_fault
    }
}

fn fail(id: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("FAIL\t{id}\n").as_bytes());
}

/// The credentials of PLAIN: `authzid NUL authcid NUL password`. To act for another user is refused.
fn plain(response: &[u8]) -> Option<Credentials> {
    let mut parts = response.split(|byte| *byte == 0);
    let (Some(other), Some(user), Some(secret), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    (other.is_empty() || other == user)
        .then(|| Credentials { user: user.to_vec().into(), secret: secret.to_vec().into() })
}

/// The credentials of XOAUTH2: `user=NAME ^A auth=Bearer TOKEN ^A ^A`.
fn xoauth2(response: &[u8]) -> Option<Credentials> {
    let mut parts = response.split(|byte| *byte == 1);
    let user = parts.next()?.strip_prefix(b"user=")?;
    Some(Credentials { user: user.to_vec().into(), secret: bearer(parts)? })
}

/// The credentials of OAUTHBEARER: `n,a=NAME, ^A … auth=Bearer TOKEN ^A ^A` (RFC 7628, section 3.1).
fn oauthbearer(response: &[u8]) -> Option<Credentials> {
    let mut parts = response.split(|byte| *byte == 1);
    let header = parts.next()?.strip_prefix(b"n,")?;
    let name = header.strip_prefix(b"a=")?.strip_suffix(b",")?;
    Some(Credentials { user: sasl_name(name)?.into(), secret: bearer(parts)? })
}

/// A name in which a comma is `=2C` and an equals sign `=3D` (RFC 5801, section 4).
fn sasl_name(text: &[u8]) -> Option<Vec<u8>> {
    let mut parts = text.split(|byte| *byte == b'=');
    let mut name = parts.next()?.to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        name.push(match code {
            b"2C" => b',',
            b"3D" => b'=',
            _ => return None,
        });
        name.extend_from_slice(rest);
    }
    Some(name)
}

/// The token of a part `auth=Bearer TOKEN`.
fn bearer<'a>(mut parts: impl Iterator<Item = &'a [u8]>) -> Option<Secret> {
    let value = parts.find_map(|part| part.strip_prefix(b"auth="))?;
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then(|| token.to_vec().into())
}

/// The question about an exchange that is complete.
fn question(exchange: &Exchange, credentials: &Credentials) -> Secret {
    let Exchange { mechanism, about, .. } = exchange;
    let name = MECHANISMS.iter().find(|(_, known)| known == mechanism).map_or("", |(name, _)| name);
    let secret = if matches!(mechanism, Mechanism::Plain | Mechanism::Login) { "password" } else { "token" };
    let size = credentials.user.len() + credentials.secret.len() + about.service.len();
    // Enough for six bytes per byte, so that nothing is moved.
    let mut json = Secret::with_capacity(6 * (size + about.client.len() + about.server.len()) + 200);
    let out = json.writer();
    let pairs: [(&str, &[u8]); 6] = [
        ("username", &credentials.user),
        (secret, &credentials.secret),
        ("mechanism", name.as_bytes()),
        ("service", &about.service),
        ("client", &about.client),
        ("server", &about.server),
    ];
    for (name, value) in pairs {
        out.push(if out.is_empty() { b'{' } else { b',' });
        push_quoted(name.as_bytes(), out);
        out.push(b':');
        push_quoted(value, out);
    }
    out.extend_from_slice(if about.tls { b",\"tls\":true}" } else { b",\"tls\":false}" });
    json
}
