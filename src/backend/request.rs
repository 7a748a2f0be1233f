//! What is asked of a backend, and how it looks on the wire.

use crate::arena::Key;
use crate::wire::percent::{self, Part};
use std::io::Write;
use std::rc::Rc;
use std::time::Instant;

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
    /// Which origin of the backend, see [`super::Backend::origin`].
    pub origin: usize,
    /// The value of the `Host` field.
    pub host: String,
    /// Path and query.
    target: Vec<Piece>,
    /// The fields of the head, each with its line end.
    fields: Vec<u8>,
    /// A whole GET: nearly all requests are one, and are written in three pieces.
    get: Vec<Piece>,
}

impl Route {
    pub fn new(origin: usize, host: String, target: Vec<Piece>, fields: Vec<u8>) -> Self {
        let end = [VERSION, &fields, b"\r\n"].concat();
        let mut get: Vec<Piece> = Vec::new();
        let pieces = [Piece::Text(Method::Get.name().to_vec())].into_iter().chain(target.clone());
        for piece in pieces.chain([Piece::Text(end)]) {
            match (get.last_mut(), piece) {
                (Some(Piece::Text(text)), Piece::Text(more)) => text.extend_from_slice(&more),
                (_, piece) => get.push(piece),
            }
        }
        Self { origin, host, target, fields, get }
    }
}

/// A part of a target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Piece {
    Text(Vec<u8>),
    Key(Part),
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
    pub trail: Trail,
    /// The chosen one of the request's routes.
    pub(super) route: u8,
    /// Routes that could not be reached, as bits.
    pub(super) unreachable: u64,
    /// Asked again because a reused connection broke.
    pub(super) resent: bool,
    /// Where a redirect led to.
    redirected: Option<Box<[u8]>>,
    hops: u8,
}

/// Where the time of an exchange went, for who asks why a lookup was slow. Whole milliseconds will do.
#[derive(Clone, Copy, Debug)]
pub struct Trail {
    /// When it began to wait for its backend.
    pub since: Instant,
    /// From then until it was put on a connection, the last time; with resolving and connecting, if they fell in.
    pub asked_ms: u32,
    pub resolve_ms: u32,
    pub connect_ms: u32,
    /// Until the head of the response was there, if that came earlier than the end.
    pub head_ms: u32,
}

impl Trail {
    fn new(since: Instant) -> Self {
        Self { since, asked_ms: 0, resolve_ms: 0, connect_ms: 0, head_ms: 0 }
    }

    /// Milliseconds since the beginning.
    pub(super) fn passed(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.since).as_millis().try_into().unwrap_or(u32::MAX)
    }

    /// The part of the time from the beginning until `now` that lies between two others.
    pub(super) fn overlap(&self, start: Instant, end: Instant, now: Instant) -> u32 {
        let time = end.min(now).saturating_duration_since(start.max(self.since));
        time.as_millis().try_into().unwrap_or(u32::MAX)
    }

    /// `queue=… resolve=… connect=… wait=… body=…` in seconds, for an answer that came at `now`.
    pub fn phases(&self, now: Instant) -> String {
        let (end, Trail { asked_ms, resolve_ms, connect_ms, .. }) = (self.passed(now), *self);
        let head_ms = if self.head_ms > asked_ms { self.head_ms } else { end };
        let queue = asked_ms.saturating_sub(resolve_ms).saturating_sub(connect_ms);
        let (wait, body) = (head_ms.saturating_sub(asked_ms), end.saturating_sub(head_ms));
        let seconds = |ms: u32| f64::from(ms) / 1000.0;
        format!(
            "queue={:.3} resolve={:.3} connect={:.3} wait={:.3} body={:.3}",
            seconds(queue),
            seconds(resolve_ms),
            seconds(connect_ms),
            seconds(wait),
            seconds(body)
        )
    }
}

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Astray {
    NoLocation,
    OtherOrigin,
    TooFar,
}

impl Exchange {
    pub fn new(job: Key, part: u32, deadline: Instant, request: Request, key: Vec<u8>, now: Instant) -> Self {
        Self {
            job,
            part,
            deadline,
            request,
            key,
            trail: Trail::new(now),
            route: 0,
            unreachable: 0,
            resent: false,
            redirected: None,
            hops: 0,
        }
    }

    pub(super) fn origin(&self) -> usize {
        self.route().origin
    }

    fn route(&self) -> &Route {
        &self.request.routes[usize::from(self.route)]
    }

    pub(super) fn is_redirected(&self) -> bool {
        self.redirected.is_some()
    }

    /// The chosen route leads nowhere; a redirect of its origin does not count for another one.
    pub(super) fn give_up_route(&mut self) {
        self.unreachable |= 1 << self.route;
        self.redirected = None;
    }

    /// Appends the request as it goes on the wire.
    pub(super) fn render(&self, out: &mut Vec<u8>) {
        let method = self.request.method;
        if method == Method::Get && self.redirected.is_none() {
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
        match &self.redirected {
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
    pub(super) fn redirect(&mut self, location: Option<&[u8]>) -> Result<(), Astray> {
        let mut current = Vec::new();
        self.render_target(&mut current);
        let target = follow(location.ok_or(Astray::NoLocation)?, &self.route().host, &current)?;
        self.hops += 1;
        if self.hops > MAX_HOPS {
            return Err(Astray::TooFar);
        }
        self.redirected = Some(target.into());
        Ok(())
    }
}

/// Where `location` leads from `current` (RFC 3986, 5.2), if that is on the same host.
fn follow(location: &[u8], host: &str, current: &[u8]) -> Result<Vec<u8>, Astray> {
    let location = location.split(|byte| *byte == b'#').next().unwrap_or_default();
    if location.is_empty() || !location.iter().all(u8::is_ascii_graphic) {
        return Err(Astray::NoLocation);
    }
    let scheme = location.iter().position(|byte| *byte == b':').map(|at| location.split_at(at + 1));
    let rest = match scheme {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"http:") => rest,
        Some((scheme, _)) if scheme[..scheme.len() - 1].iter().all(u8::is_ascii_alphanumeric) => {
            return Err(Astray::OtherOrigin);
        }
        _ => location,
    };
    let path = current.split(|byte| *byte == b'?').next().unwrap_or_default();
    if let Some(rest) = rest.strip_prefix(b"//") {
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if !same_host(authority, host.as_bytes()) {
            return Err(Astray::OtherOrigin);
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

fn same_host(authority: &[u8], host: &[u8]) -> bool {
    let bare = |text: &[u8]| text.strip_suffix(b":80").unwrap_or(text).to_ascii_lowercase();
    bare(authority) == bare(host)
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
        let cases: &[(&str, Result<Vec<u8>, Astray>)] = &[
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
            ("http://admin:8080/z", Err(Astray::OtherOrigin)),
            ("http://admin@evil/z", Err(Astray::OtherOrigin)),
            ("https://admin/z", Err(Astray::OtherOrigin)),
            ("//evil/z", Err(Astray::OtherOrigin)),
            ("", Err(Astray::NoLocation)),
            ("/a b", Err(Astray::NoLocation)),
            ("/\u{e9}", Err(Astray::NoLocation)),
        ];
        for (location, expected) in cases {
            assert_eq!(&follow(location.as_bytes(), "admin", b"/a/key?q=1"), expected, "{location}");
        }
    }

    #[test]
    fn a_request_is_rendered_with_its_key_encoded() {
        let target = vec![
            Piece::Text(b"/map/".to_vec()),
            Piece::Key(Part::Path),
            Piece::Text(b"?k=".to_vec()),
            Piece::Key(Part::Query),
        ];
        let routes: Rc<[Route]> = [Route::new(0, "h".into(), target, b"Host: h\r\n".to_vec())].into();
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
