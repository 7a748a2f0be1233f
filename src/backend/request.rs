//! A request of a table, and its bytes on the wire (RFC 9112, 3).

use super::redirect::{self, RedirectError};
use super::trace::TraceId;
use crate::secret::Secret;
use crate::wire::dns::Name;
use crate::wire::net::Net;
use crate::wire::percent::{self, Component};
use crate::wire::resolv_conf::ResolvConf;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// Maximum number of replicas of one table.
// An exchange has as many bits for those that are excluded.
pub const MAX_ROUTES: usize = 64;

/// The end of a request line.
const VERSION: &[u8] = b" HTTP/1.1\r\n";

/// The methods in use (RFC 9110, 9.3; RFC 5789).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    Get,
    Post,
    Patch,
    Delete,
}

impl Method {
    /// True if sending it twice does no more than sending it once (RFC 9110, 9.2.1).
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

/// A part of a request target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Piece {
    Text(Vec<u8>),
    Key(Component),
}

/// What carries requests to whoever answers them.
#[derive(Clone, Debug)]
pub enum Carrier {
    /// [`super::Backends`].
    Http,
    /// The DNS: the records of the key, from one of these servers.
    Dns(Rc<DnsQuery>),
    /// The program with this number: the body has the members of a line.
    Program(usize),
}

/// What is asked of the DNS about a key, which is a domain: its MX records.
#[derive(Debug)]
pub struct DnsQuery {
    pub conf: ResolvConf,
    /// Whose MX records matter. If there are networks, the addresses of the hosts with the lowest preference are asked
    /// for, too, once there is one.
    pub hosts: Rc<[Name]>,
    pub networks: Rc<[Net]>,
}

impl DnsQuery {
    /// Whether an address is in one of the networks.
    pub fn is_near(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|net| net.contains(address))
    }

    /// The name of the servers as a backend.
    fn label(&self) -> String {
        match &self.conf.servers[..] {
            [server] => format!("dns:{server}"),
            _ => "dns".to_owned(),
        }
    }

    /// What is wrong with one of the servers, as the predicate of a sentence that begins with the label.
    pub fn cause(&self, server: SocketAddr, cause: &str) -> String {
        if self.conf.servers.len() == 1 { cause.to_owned() } else { format!("{server} {cause}") }
    }
}

/// One backend that can answer a table's requests, with everything of the request but key and body.
#[derive(Clone, Debug)]
pub struct Route {
    carrier: Carrier,
    /// The number of its pool, see [`super::Backends::add`].
    pub(super) pool: usize,
    /// The value of the `Host` field; the label if it is not carried over HTTP.
    host: String,
    /// The scheme is https.
    secure: bool,
    /// Path and query.
    target: Vec<Piece>,
    /// The fields of the head, each with its line end.
    fields: Vec<u8>,
    /// Requests have a `traceparent` of their own.
    traced: bool,
    /// A whole GET, in three pieces.
    // Nearly all requests are one.
    get: Vec<Piece>,
}

impl Route {
    pub fn new(pool: usize, secure: bool, host: String, target: Vec<Piece>, fields: Vec<u8>, traced: bool) -> Self {
        // All of a GET but the key is the same for each lookup, so that it is put together once.
        let end = [VERSION, &fields, b"\r\n"].concat();
        let mut get: Vec<Piece> = Vec::new();
        let pieces = [Piece::Text(Method::Get.name().to_vec())].into_iter().chain(target.clone());
        for piece in pieces.chain([Piece::Text(end)]) {
            match (get.last_mut(), piece) {
                (Some(Piece::Text(text)), Piece::Text(more)) => text.extend_from_slice(&more),
                (_, piece) => get.push(piece),
            }
        }
        Self { carrier: Carrier::Http, pool, host, secure, target, fields, traced, get }
    }

    /// A route to the DNS.
    pub fn to_dns(query: Rc<DnsQuery>) -> Self {
        let label = query.label();
        Self { carrier: Carrier::Dns(query), ..Self::new(0, false, label, Vec::new(), Vec::new(), false) }
    }

    /// A route to the processes of a program, with the label of these.
    pub fn to_program(number: usize, label: String) -> Self {
        Self { carrier: Carrier::Program(number), ..Self::new(0, false, label, Vec::new(), Vec::new(), false) }
    }

    /// Routes over each backend that this one may lead to.
    fn alone(&self) -> Vec<Self> {
        match &self.carrier {
            Carrier::Http | Carrier::Program(_) => vec![self.clone()],
            Carrier::Dns(query) => {
                let DnsQuery { conf, hosts, networks } = &**query;
                let conf = |server: &SocketAddr| ResolvConf { servers: vec![*server], ..conf.clone() };
                let to =
                    |conf| Self::to_dns(Rc::new(DnsQuery { conf, hosts: hosts.clone(), networks: networks.clone() }));
                query.conf.servers.iter().map(conf).map(to).collect()
            }
        }
    }
}

/// A request before it is bound to a key and to one of its routes.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    /// Equivalent backends, of which any may answer.
    pub routes: Rc<[Route]>,
    // Boxed, because a lookup has none, and exchanges hold a request by value.
    pub body: Option<Box<Body>>,
}

/// What a write has besides its key.
#[derive(Debug)]
pub struct Body {
    /// Field lines of this request only, each with its CR LF.
    pub fields: String,
    pub json: Secret,
}

impl Request {
    /// A request for each of the routes alone.
    pub fn for_each_route(&self) -> Vec<Request> {
        let body = || self.body.as_ref().map(|body| Box::new(Body { fields: String::new(), json: body.json.clone() }));
        let alone = |route| Request { method: self.method, routes: Rc::new([route]), body: body() };
        self.routes.iter().flat_map(Route::alone).map(alone).collect()
    }

    /// The name of what answers it, unless that is a pool of [`super::Backends`].
    pub fn label(&self) -> &str {
        self.routes.first().map_or("", |route| &route.host)
    }

    /// What carries it; its routes have the same.
    pub fn carrier(&self) -> &Carrier {
        self.routes.first().map_or(&Carrier::Http, |route| &route.carrier)
    }

    /// True if its exchange gets a [`TraceId`].
    pub(super) fn is_traced(&self) -> bool {
        self.routes.first().is_some_and(|route| route.traced)
    }

    /// Appends the request for `key` over a route; `redirected` is the target that a redirect has led to.
    pub(super) fn write_to(
        &self,
        route: u8,
        key: &[u8],
        redirected: Option<&[u8]>,
        trace: Option<TraceId>,
        out: &mut Vec<u8>,
    ) {
        let route = &self.routes[usize::from(route)];
        if self.method == Method::Get && redirected.is_none() && trace.is_none() {
            return write_pieces(&route.get, key, out);
        }
        out.extend_from_slice(self.method.name());
        match redirected {
            Some(target) => out.extend_from_slice(target),
            None => write_pieces(&route.target, key, out),
        }
        out.extend_from_slice(VERSION);
        out.extend_from_slice(&route.fields);
        if let Some(trace) = trace {
            let _ = trace.write_to(out);
        }
        match &self.body {
            None => out.extend_from_slice(b"\r\n"),
            Some(body) => {
                let Body { fields, json } = &**body;
                out.reserve(fields.len() + json.len() + 64); // memory that is moved would keep a copy
                // Writing to memory does not fail.
                let _ = write!(out, "{fields}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", json.len());
                out.extend_from_slice(json);
            }
        }
    }

    /// The target that a `Location` leads to from the current one.
    pub(super) fn redirect(
        &self,
        route: u8,
        key: &[u8],
        redirected: Option<&[u8]>,
        location: Option<&[u8]>,
    ) -> Result<Vec<u8>, RedirectError> {
        let route = &self.routes[usize::from(route)];
        let mut current = Vec::new();
        match redirected {
            Some(target) => current.extend_from_slice(target),
            None => write_pieces(&route.target, key, &mut current),
        }
        redirect::follow(location.ok_or(RedirectError::NoLocation)?, &route.host, route.secure, &current)
    }
}

fn write_pieces(pieces: &[Piece], key: &[u8], out: &mut Vec<u8>) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text),
            Piece::Key(component) => percent::encode(key, *component, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_with_its_key_encoded() {
        let target = vec![
            Piece::Text(b"/map/".to_vec()),
            Piece::Key(Component::Path),
            Piece::Text(b"?k=".to_vec()),
            Piece::Key(Component::Query),
        ];
        let routes: Rc<[Route]> = [Route::new(0, false, "h".into(), target, b"Host: h\r\n".to_vec(), false)].into();
        let written = |method, body: &str| {
            let fields = if method == Method::Patch { "Expires-In: 60\r\n" } else { "" }.to_owned();
            let body = (!body.is_empty()).then(|| Box::new(Body { fields, json: body.as_bytes().to_vec().into() }));
            let mut out = Vec::new();
            Request { method, routes: routes.clone(), body }.write_to(0, b"a/b@c", None, None, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Method::Get, ""), "GET /map/a/b%40c?k=a%2Fb%40c HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(
            written(Method::Post, "\"x\""),
            "POST /map/a/b%40c?k=a%2Fb%40c HTTP/1.1\r\nHost: h\r\n\
             Content-Type: application/json\r\nContent-Length: 3\r\n\r\n\"x\""
        );
        let patch = written(Method::Patch, "1");
        assert!(patch.contains("Host: h\r\nExpires-In: 60\r\nContent-Type: application/json\r\n"), "{patch}");
        assert!(written(Method::Delete, "").ends_with("Host: h\r\n\r\n"));
    }
}
