//! What is asked of a backend, and how it looks on the wire.

use crate::arena::Key;
use crate::wire::percent::{self, Component};
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Replicas of one table; which of them an exchange found unreachable is kept in as many bits.
pub const MAX_ROUTES: usize = 64;

/// The end of a request line.
const VERSION: &[u8] = b" HTTP/1.1\r\n";

/// Redirects that are followed for one request.
const MAX_HOPS: u8 = 5;

/// What a request does (RFC 9110, 9.3; RFC 5789).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    Get,
    Post,
    Patch,
    Delete,
}

impl Method {
    /// True if asking twice is as good as asking once.
    pub fn is_safe(self) -> bool {
        self == Method::Get
    }

    fn name(self) -> &'static [u8] {
        match self {
            Method::Get => b"GET ",
            Method::Post => b"POST ",
            Method::Patch => b"PATCH ",
            Method::Delete => b"DELETE ",
        }
    }
}

/// One way to ask a table's question: an origin and everything of the request but key and body.
#[derive(Debug)]
pub struct Route {
    /// Which origin of the backend, see [`super::Backends::origin`].
    pub origin: usize,
    /// The value of the `Host` field.
    pub host: String,
    /// The scheme is https.
    secure: bool,
    /// Path and query.
    target: Vec<Piece>,
    /// The fields of the head, each with its line end.
    fields: Vec<u8>,
    /// A whole GET: nearly all requests are one, and are written in three pieces.
    get: Vec<Piece>,
}

impl Route {
    pub fn new(origin: usize, secure: bool, host: String, target: Vec<Piece>, fields: Vec<u8>) -> Self {
        let end = [VERSION, &fields, b"\r\n"].concat();
        let mut get: Vec<Piece> = Vec::new();
        let pieces = [Piece::Text(Method::Get.name().to_vec())].into_iter().chain(target.clone());
        for piece in pieces.chain([Piece::Text(end)]) {
            match (get.last_mut(), piece) {
                (Some(Piece::Text(text)), Piece::Text(more)) => text.extend_from_slice(&more),
                (_, piece) => get.push(piece),
            }
        }
        Self { origin, host, secure, target, fields, get }
    }
}

/// A part of a target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Piece {
    Text(Vec<u8>),
    Key(Component),
}

/// One question in HTTP, not yet bound to a key nor to one of its routes.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    /// Equivalent: any of them may be taken.
    pub routes: Rc<[Route]>,
    pub body: Option<Box<[u8]>>,
}

/// One question on its way. Its owner is either a queue of its origin or the connection that is asking
/// it, never both: it cannot be lost, nor be asked twice at once.
#[derive(Debug)]
pub struct Exchange {
    pub job: Key,
    /// Which of the job's questions this is.
    pub part: u32,
    pub deadline: Instant,
    pub request: Request,
    pub key: Vec<u8>,
    /// When it began to wait for its backend.
    pub since: Instant,
    /// The chosen one of the request's routes.
    pub(super) route: u8,
    /// Asked again because a reused connection broke.
    pub(super) resent: bool,
    rare: Option<Box<Rare>>,
}

/// What few exchanges need: kept apart, as exchanges are moved about a lot.
#[derive(Debug, Default)]
struct Rare {
    /// Routes that could not be reached, as bits.
    unreachable: u64,
    /// Where a redirect led to.
    redirected: Option<Box<[u8]>>,
    hops: u8,
    /// Where its time went.
    phases: Phases,
}

/// Milliseconds of an exchange since it began to wait.
#[derive(Clone, Copy, Debug, Default)]
struct Phases {
    /// Until it was put on a connection, the last time; with resolving, connecting and TLS, if they fell in.
    asked: u32,
    resolve: u32,
    connect: u32,
    handshake: u32,
    /// Until the head of the response was there, if the rest came later.
    head: u32,
}

/// Phases that are shorter are not told apart.
const NOTABLE: Duration = Duration::from_millis(10);

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RedirectError {
    NoLocation,
    OtherOrigin,
    /// From http to https on the same host.
    ToTls,
    TooFar,
}

impl Exchange {
    pub fn new(job: Key, part: u32, deadline: Instant, request: Request, key: Vec<u8>, now: Instant) -> Self {
        Self { job, part, deadline, request, key, since: now, route: 0, resent: false, rare: None }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn redirected(&self) -> Option<&[u8]> {
        self.rare.as_ref()?.redirected.as_deref()
    }

    pub(super) fn origin(&self) -> usize {
        self.route().origin
    }

    fn route(&self) -> &Route {
        &self.request.routes[usize::from(self.route)]
    }

    pub(super) fn is_redirected(&self) -> bool {
        self.redirected().is_some()
    }

    /// True if a route was found to lead nowhere.
    pub(super) fn has_given_up(&self, route: u8) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.unreachable & 1 << route != 0)
    }

    /// True if a route is left besides the chosen one.
    pub(super) fn has_other_route(&self) -> bool {
        let given_up = self.rare.as_ref().map_or(0, |rare| rare.unreachable) | 1 << self.route;
        (given_up.count_ones() as usize) < self.request.routes.len()
    }

    /// True if no route is left.
    pub(super) fn is_lost(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.unreachable.count_ones() as usize >= self.request.routes.len())
    }

    /// Notes that it is put on a connection that was opened and there at these times, secured between those, to a host
    /// whose name was asked for and known at those.
    pub(super) fn waited(
        &mut self,
        made: (Instant, Instant),
        secured: Option<(Instant, Instant)>,
        resolved: Option<(Instant, Instant)>,
        now: Instant,
    ) {
        if now.saturating_duration_since(self.since) < NOTABLE {
            return;
        }
        let since = self.since;
        let overlap = |(start, end): (Instant, Instant)| ms(end.min(now).saturating_duration_since(start.max(since)));
        let phases = &mut self.rare().phases;
        phases.asked = ms(now - since);
        phases.connect = overlap(made);
        phases.handshake = secured.map_or(0, overlap);
        phases.resolve = resolved.map_or(0, overlap);
    }

    /// Notes that the head of its response was there at `head`, and the rest at `now`.
    pub(super) fn lingered(&mut self, head: Instant, now: Instant) {
        if now.saturating_duration_since(head) >= NOTABLE {
            let until_head = ms(head.saturating_duration_since(self.since));
            self.rare().phases.head = until_head;
        }
    }

    /// `queue=… resolve=… connect=… handshake=… wait=… body=…` in seconds, for an answer that came at `now`.
    pub fn phases(&self, now: Instant) -> String {
        let phases = self.rare.as_ref().map(|rare| rare.phases).unwrap_or_default();
        let Phases { asked, resolve, connect, handshake, head } = phases;
        let end = ms(now.saturating_duration_since(self.since));
        let head = if head > asked { head } else { end };
        let (queue, wait) = (
            asked.saturating_sub(resolve.saturating_add(connect).saturating_add(handshake)),
            head.saturating_sub(asked),
        );
        let made = [("queue", queue), ("resolve", resolve), ("connect", connect), ("handshake", handshake)];
        let named = made.into_iter().chain([("wait", wait)]);
        let seconds = |(name, ms): (&str, u32)| format!("{name}={:.3}", f64::from(ms) / 1000.0);
        named.chain([("body", end.saturating_sub(head))]).map(seconds).collect::<Vec<_>>().join(" ")
    }

    /// The chosen route leads nowhere; a redirect of its origin does not count for another one.
    pub(super) fn give_up_route(&mut self) {
        let route = self.route;
        let rare = self.rare();
        rare.unreachable |= 1 << route;
        rare.redirected = None;
    }

    /// Appends the request as it goes on the wire.
    pub(super) fn render(&self, out: &mut Vec<u8>) {
        let method = self.request.method;
        if method == Method::Get && !self.is_redirected() {
            return self.render_pieces(&self.route().get, out);
        }
        out.extend_from_slice(method.name());
        self.render_target(out);
        out.extend_from_slice(VERSION);
        out.extend_from_slice(&self.route().fields);
        match &self.request.body {
            None => out.extend_from_slice(b"\r\n"),
            Some(body) => {
                // Writing to memory does not fail.
                let _ = write!(out, "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
                out.extend_from_slice(body);
            }
        }
    }

    fn render_target(&self, out: &mut Vec<u8>) {
        match self.redirected() {
            Some(target) => out.extend_from_slice(target),
            None => self.render_pieces(&self.route().target, out),
        }
    }

    fn render_pieces(&self, pieces: &[Piece], out: &mut Vec<u8>) {
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Key(part) => percent::encode(&self.key, *part, out),
            }
        }
    }

    /// Makes this the request that a redirect asks for, if it stays with the origin.
    pub(super) fn redirect(&mut self, location: Option<&[u8]>) -> Result<(), RedirectError> {
        let mut current = Vec::new();
        self.render_target(&mut current);
        let route = self.route();
        let target = follow(location.ok_or(RedirectError::NoLocation)?, &route.host, route.secure, &current)?;
        let rare = self.rare();
        rare.hops += 1;
        if rare.hops > MAX_HOPS {
            return Err(RedirectError::TooFar);
        }
        rare.redirected = Some(target.into());
        Ok(())
    }
}

fn ms(time: Duration) -> u32 {
    time.as_millis().try_into().unwrap_or(u32::MAX)
}

/// Where `location` leads from `current` (RFC 3986, 5.2), if that is on the same host and in the same scheme.
fn follow(location: &[u8], host: &str, secure: bool, current: &[u8]) -> Result<Vec<u8>, RedirectError> {
    let location = location.split(|byte| *byte == b'#').next().unwrap_or_default();
    if location.is_empty() || !location.iter().all(u8::is_ascii_graphic) {
        return Err(RedirectError::NoLocation);
    }
    let scheme = location.iter().position(|byte| *byte == b':').map(|at| location.split_at(at + 1));
    let (own, port) = if secure { (&b"https:"[..], &b":443"[..]) } else { (&b"http:"[..], &b":80"[..]) };
    let rest = match scheme {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(own) => rest,
        Some((scheme, rest)) if !secure && scheme.eq_ignore_ascii_case(b"https:") => {
            let authority = rest.strip_prefix(b"//").unwrap_or(rest).split(|byte| b"/?".contains(byte)).next();
            let same = portless(authority.unwrap_or_default()) == portless(host.as_bytes());
            return Err(if same { RedirectError::ToTls } else { RedirectError::OtherOrigin });
        }
        Some((scheme, _)) if scheme[..scheme.len() - 1].iter().all(u8::is_ascii_alphanumeric) => {
            return Err(RedirectError::OtherOrigin);
        }
        _ => location,
    };
    let path = current.split(|byte| *byte == b'?').next().unwrap_or_default();
    if let Some(rest) = rest.strip_prefix(b"//") {
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if strip_default_port(authority, port) != strip_default_port(host.as_bytes(), port) {
            return Err(RedirectError::OtherOrigin);
        }
        let slash = if target.starts_with(b"/") { &b""[..] } else { b"/" };
        return Ok(normal(&[slash, target].concat()));
    }
    Ok(normal(&match rest.first() {
        Some(b'/') => rest.to_vec(),
        Some(b'?') => [path, rest].concat(),
        _ => {
            let directory = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
            [&path[..directory], rest].concat()
        }
    }))
}

/// A host without its port.
fn portless(authority: &[u8]) -> Vec<u8> {
    let end = authority.iter().rposition(|byte| *byte == b':').unwrap_or(authority.len());
    let port = authority[end..].iter().skip(1).all(u8::is_ascii_digit);
    authority[..if port { end } else { authority.len() }].to_ascii_lowercase()
}

/// A host to be compared: without the usual port of its scheme.
fn strip_default_port(authority: &[u8], port: &[u8]) -> Vec<u8> {
    authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase()
}

/// Takes `.` and `..` out of the path of a target (RFC 3986, 5.2.4).
fn normal(target: &[u8]) -> Vec<u8> {
    let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    let mut kept: Vec<&[u8]> = Vec::new();
    let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').skip(1).collect();
    for (at, segment) in segments.iter().enumerate() {
        let dots = matches!(*segment, b"." | b"..");
        if *segment == b".." {
            kept.pop();
        }
        if !dots {
            kept.push(segment);
        } else if at + 1 == segments.len() {
            kept.push(b"");
        }
    }
    [b"/", &kept.join(&b'/')[..], query].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_with_their_origin() {
        let ok = |target: &str| Ok(target.as_bytes().to_vec());
        let cases: &[(&str, Result<Vec<u8>, RedirectError>)] = &[
            ("/b/c?d=1", ok("/b/c?d=1")),
            ("/b/#part", ok("/b/")),
            ("x/", ok("/a/x/")),
            ("../x", ok("/x")),
            ("../../x", ok("/x")),
            ("./", ok("/a/")),
            ("..", ok("/")),
            ("?y", ok("/a/key?y")),
            ("http://Admin/z", ok("/z")),
            ("HTTP://admin:80/z", ok("/z")),
            ("http://admin", ok("/")),
            ("http://admin?q", ok("/?q")),
            ("//admin/z", ok("/z")),
            ("/time/12:30", ok("/time/12:30")),
            ("http://admin:8080/z", Err(RedirectError::OtherOrigin)),
            ("http://admin@evil/z", Err(RedirectError::OtherOrigin)),
            ("https://admin/z", Err(RedirectError::ToTls)),
            ("HTTPS://Admin:443", Err(RedirectError::ToTls)),
            ("https://admin:8443/z", Err(RedirectError::ToTls)),
            ("https://evil/z", Err(RedirectError::OtherOrigin)),
            ("//evil/z", Err(RedirectError::OtherOrigin)),
            ("", Err(RedirectError::NoLocation)),
            ("/a b", Err(RedirectError::NoLocation)),
            ("/\u{e9}", Err(RedirectError::NoLocation)),
        ];
        for (location, expected) in cases {
            assert_eq!(&follow(location.as_bytes(), "admin", false, b"/a/key?q=1"), expected, "{location}");
        }
        let cases = [
            ("admin", "https://admin:443/z", ok("/z")),
            ("admin:8443", "https://admin:8443/z", ok("/z")),
            ("admin", "//admin/z", ok("/z")),
            ("admin", "/z", ok("/z")),
            ("admin", "http://admin/z", Err(RedirectError::OtherOrigin)),
            ("admin", "http://admin:443/z", Err(RedirectError::OtherOrigin)),
            ("admin", "https://admin:80/z", Err(RedirectError::OtherOrigin)),
            ("admin:8443", "https://admin/z", Err(RedirectError::OtherOrigin)),
        ];
        for (host, location, expected) in cases {
            assert_eq!(follow(location.as_bytes(), host, true, b"/a/key"), expected, "{location}");
        }
        assert_eq!(follow(b"https://admin/z", "admin:8080", false, b"/a/key"), Err(RedirectError::ToTls));
        assert_eq!(follow(b"https://[::1]/z", "[::1]:8080", false, b"/a/key"), Err(RedirectError::ToTls));
        assert_eq!(follow(b"https://[::1]/z", "[::2]", false, b"/a/key"), Err(RedirectError::OtherOrigin));
    }

    #[test]
    fn a_request_is_rendered_with_its_key_encoded() {
        let target = vec![
            Piece::Text(b"/map/".to_vec()),
            Piece::Key(Component::Path),
            Piece::Text(b"?k=".to_vec()),
            Piece::Key(Component::Query),
        ];
        let routes: Rc<[Route]> = [Route::new(0, false, "h".into(), target, b"Host: h\r\n".to_vec())].into();
        let exchange = |method, body: &str| {
            let body = (!body.is_empty()).then(|| body.as_bytes().into());
            let (request, key) = (Request { method, routes: routes.clone(), body }, b"a/b@c".to_vec());
            let mut out = Vec::new();
            let now = Instant::now();
            Exchange::new(Key { index: 0, age: 0 }, 0, now, request, key, now).render(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(exchange(Method::Get, ""), "GET /map/a/b%40c?k=a%2Fb%40c HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(
            exchange(Method::Post, "\"x\""),
            "POST /map/a/b%40c?k=a%2Fb%40c HTTP/1.1\r\nHost: h\r\n\
             Content-Type: application/json\r\nContent-Length: 3\r\n\r\n\"x\""
        );
        assert!(exchange(Method::Delete, "").ends_with("Host: h\r\n\r\n"));
    }
}
