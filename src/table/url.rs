//! The URL table: a lookup is a GET, a write is a POST, PATCH or DELETE.

use super::tls_options::TlsOptions;
use super::{Caching, Plan, Question, ResponseError, SettingError, Settings, Table, TableEntry, TableSpec, Written};
use crate::backend::{Backends, MAX_ROUTES, Method, Piece, PoolOptions, Request, Route, Target, tls};
use crate::log;
use crate::query::{Answer, Change, Failure, Write};
use crate::value::{self, Value};
use crate::wire::percent::{self, Component};
use crate::wire::{self, http::Response};
use std::borrow::Cow;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The shortest idle limit met in the field is 2 s (gunicorn); below it nobody closes before we do.
const KEEPALIVE: Duration = Duration::from_millis(1500);

/// Connections to one address.
const CONNECTIONS: usize = 1024;

/// What every request says besides `Host`.
const FIELDS: &str = concat!(
    "Accept: application/json\r\nAccept-Encoding: identity\r\nUser-Agent: podop/",
    env!("CARGO_PKG_VERSION"),
    "\r\n"
);

pub fn open(opening: TableSpec<'_>, backend: &mut Backends) -> Result<TableEntry, SettingError> {
    let urls: Vec<Url> = opening
        .param
        .split_ascii_whitespace()
        .map(Url::parse)
        .collect::<Result<_, _>>()
        .map_err(SettingError::param)?;
    if urls.is_empty() || urls.len() > MAX_ROUTES {
        return Err(SettingError::param(format!("wants 1 to {MAX_ROUTES} URLs")));
    }
    let given = UrlOptions::take(opening.settings, urls.iter().any(|url| url.secure)).map_err(SettingError::option)?;
    let mut origins = Vec::new();
    for url in &urls {
        let tls = url.tls(&given.trust, backend).map_err(SettingError::option)?;
        origins.push(backend.origin(&url.label, url.to.clone(), given.pool, tls));
    }
    if origins.len() > 1 {
        origins.iter().for_each(|origin| backend.is_replica(*origin));
    }
    let (name, timeout, caching) = (opening.name.to_owned(), given.timeout, given.caching);
    let mut table = Remote { name: name.clone(), urls, origins, routes: Rc::new([]), authorized: false, given };
    table.prepare().map_err(SettingError::option)?;
    Ok(TableEntry { name, timeout, caching, table: Box::new(table) })
}

/// The settings of one table.
struct UrlOptions {
    timeout: Option<Duration>,
    caching: Option<Caching>,
    pool: PoolOptions,
    misses: Misses,
    /// What an unset is: a POST of `null`, or a DELETE.
    unset: Method,
    select: Option<String>,
    header: Vec<String>,
    header_files: Vec<PathBuf>,
    trust: TlsOptions,
}

impl UrlOptions {
    /// `secure` tells whether there is any https:// URL.
    fn take(mut settings: Settings<'_>, secure: bool) -> Result<Self, String> {
        let given = Self {
            timeout: settings.seconds("timeout")?,
            caching: caching(&mut settings)?,
            pool: PoolOptions {
                connections: number(&mut settings, "connections")?.unwrap_or(CONNECTIONS),
                keepalive: settings.seconds("keepalive")?.unwrap_or(KEEPALIVE),
                pipeline: number(&mut settings, "pipeline")?.unwrap_or(1),
                adapts: match settings.one("concurrency") {
                    None => false,
                    Some("adapt") => true,
                    Some(other) => return Err(format!("concurrency={other}: it is 'adapt' or not given")),
                },
            },
            misses: misses(settings.one("miss"))?,
            unset: match settings.one("unset") {
                None | Some("null") => Method::Post,
                Some("delete") => Method::Delete,
                Some(other) => return Err(format!("unset={other}: it is 'null' or 'delete'")),
            },
            select: settings.one("select").map(str::to_owned),
            header: settings.all("header").into_iter().map(str::to_owned).collect(),
            header_files: settings.all("header-file").into_iter().map(PathBuf::from).collect(),
            trust: TlsOptions::take(&mut settings, secure)?,
        };
        if given.select.as_ref().is_some_and(|pointer| !pointer.is_empty() && !pointer.starts_with('/')) {
            return Err("select= wants a JSON pointer, which starts with '/'".to_owned());
        }
        settings.finish()?;
        Ok(given)
    }
}

struct Remote {
    name: String,
    urls: Vec<Url>,
    /// The origin of each URL.
    origins: Vec<usize>,
    routes: Rc<[Route]>,
    /// Requests carry credentials: 401 speaks of those, and not of the key.
    authorized: bool,
    given: UrlOptions,
}

/// Statuses that say "no such key".
enum Misses {
    /// 4XX, but for those that say "not now".
    Usual,
    These(Vec<u16>),
}

impl Table for Remote {
    fn plan(&mut self, question: Question<'_>, _: Instant) -> Plan<'_> {
        let write = match question {
            Question::Get(key) => return self.get(key),
            Question::List(path) => return self.get(&path.key(b"")),
            Question::Write(write) => write,
        };
        let (method, body) = match &write.change {
            Change::Set(text) => match value::to_json(text) {
                Some(json) => (Method::Post, Some(json.into_owned().into())),
                None => return self.refuse("the value is neither JSON nor UTF-8"),
            },
            Change::Unset if self.given.unset == Method::Delete => (Method::Delete, None),
            Change::Unset => (Method::Post, Some(b"null"[..].into())),
            Change::Increment(by) => {
                (Method::Patch, Some(format!("{{\"increment\": {by}}}").into_bytes().into_boxed_slice()))
            }
        };
        if self.urls.iter().any(|url| url.bends(&write.key)) {
            return self.refuse("the key has a dot segment");
        }
        Plan::Request(Request { method, routes: self.routes.clone(), body })
    }

    fn parse_value<'a>(&self, list: bool, response: Response<'a>) -> Result<Answer<'a>, ResponseError> {
        match response.status {
            200 => {}
            400 if wants_tls(&response.body) => return Err(ResponseError::WantsTls),
            401 if self.authorized && matches!(self.given.misses, Misses::Usual) => {
                return Err(ResponseError::Status(401));
            }
            status if self.given.misses.contains(status) => return Ok(Answer::Miss),
            status => return Err(ResponseError::Status(status)),
        }
        let value = match response.body {
            Cow::Borrowed(body) => Value::parse(body),
            Cow::Owned(body) => Value::parse(&body).map(Value::into_owned),
        };
        let value = value.map_err(|_| ResponseError::JsonError)?;
        let value = match &self.given.select {
            Some(pointer) if !list => value.select(pointer).map_err(|_| ResponseError::JsonError)?,
            _ => value,
        };
        Ok(if value == Value::Null { Answer::Miss } else { Answer::Found(value) })
    }

    fn parse_write(&self, write: &Write, response: &Response<'_>) -> Result<Written, ResponseError> {
        match (response.status, &write.change) {
            (200..300, _) => Ok(Written::Done),
            (404, Change::Unset) if self.given.unset == Method::Delete => Ok(Written::Done),
            (404, Change::Increment(_)) => Ok(Written::NotFound),
            (status, _) => Err(ResponseError::Status(status)),
        }
    }

    fn reload(&mut self, backend: &mut Backends) {
        if let Err(error) = self.prepare() {
            log::warn(format_args!("header-file-unreadable table={} cause=\"{error}\"", self.name));
        }
        for (url, origin) in self.urls.iter().zip(&self.origins) {
            match url.tls(&self.given.trust, backend) {
                Ok(tls) => tls.into_iter().for_each(|tls| backend.secure(*origin, tls)),
                Err(error) => {
                    log::warn(format_args!("tls-unreadable table={} cause=\"{error}\"", self.name));
                    break; // as it is for the others
                }
            }
        }
    }
}

impl Remote {
    fn get(&self, key: &[u8]) -> Plan<'_> {
        if self.urls.iter().any(|url| url.bends(key)) {
            return Plan::Answer(Answer::Miss);
        }
        Plan::Request(Request { method: Method::Get, routes: self.routes.clone(), body: None })
    }

    fn refuse(&self, why: &str) -> Plan<'_> {
        Plan::Answer(Answer::Failed(Failure::temporary(format_args!("{}: {why}", self.name))))
    }

    /// Renders all of the requests that does not depend on the key.
    fn prepare(&mut self) -> Result<(), String> {
        let mut given = Fields::default();
        self.given.header.iter().try_for_each(|line| given.add(line))?;
        for path in &self.given.header_files {
            let at = |error: String| format!("header-file {}: {error}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| at(error.to_string()))?;
            text.lines().filter(|line| !line.trim().is_empty()).try_for_each(|line| given.add(line)).map_err(at)?;
        }
        let route = |(url, origin): (&Url, &usize)| {
            let host = given.host.as_ref().unwrap_or(&url.host).clone();
            let basic = url.authorization.as_ref().filter(|_| !given.authorized);
            let authorization = basic.map(|basic| format!("Authorization: Basic {basic}\r\n")).unwrap_or_default();
            let fields = format!("Host: {host}\r\n{FIELDS}{authorization}{}", given.lines).into_bytes();
            Route::new(*origin, url.secure, host, url.target.clone(), fields)
        };
        self.routes = self.urls.iter().zip(&self.origins).map(route).collect();
        self.authorized = given.authorized || self.urls.iter().any(|url| url.authorization.is_some());
        Ok(())
    }
}

impl Misses {
    fn contains(&self, status: u16) -> bool {
        match self {
            Misses::Usual => (400..500).contains(&status) && !matches!(status, 408 | 421 | 425 | 429),
            Misses::These(list) => list.contains(&status),
        }
    }
}

/// How nginx, Go's net/http (Caddy, Traefik), Apache httpd and Tomcat answer plain HTTP on a port for TLS, with 400: no
/// word on the key.
const TLS_ONLY: [&[u8]; 4] = [
    b"plain HTTP request was sent to HTTPS port",
    b"HTTP request to an HTTPS server",
    b"speaking plain HTTP to an SSL-enabled server",
    b"This combination of host and port requires TLS",
];

fn wants_tls(body: &[u8]) -> bool {
    TLS_ONLY.iter().any(|words| body.windows(words.len()).any(|part| part == *words))
}

fn caching(settings: &mut Settings<'_>) -> Result<Option<Caching>, String> {
    match (settings.seconds("cache")?, settings.seconds("stale")?) {
        (Some(fresh), stale) => Ok(Some(Caching { fresh, stale: stale.unwrap_or_default() })),
        (None, Some(_)) => Err("stale= needs cache=".to_owned()),
        (None, None) => Ok(None),
    }
}

fn misses(setting: Option<&str>) -> Result<Misses, String> {
    let Some(text) = setting else { return Ok(Misses::Usual) };
    let status = |text: &str| text.trim().parse().ok().filter(|status| (200..600).contains(status) && *status != 200);
    let list: Option<Vec<u16>> = text.split(',').map(status).collect();
    list.map(Misses::These).ok_or_else(|| format!("miss={text}: wants statuses like 404,410"))
}

fn number(settings: &mut Settings<'_>, key: &'static str) -> Result<Option<usize>, String> {
    let Some(text) = settings.one(key) else { return Ok(None) };
    let number = text.parse().ok().filter(|number| (1..=65_536).contains(number));
    number.map(Some).ok_or_else(|| format!("{key}={text}: wants a number from 1 to 65536"))
}

/// The fields that `header` and `header-file` give.
#[derive(Default)]
struct Fields {
    lines: String,
    host: Option<String>,
    authorized: bool,
}

impl Fields {
    fn add(&mut self, line: &str) -> Result<(), String> {
        // The line itself may be a secret and is not told.
        let (name, value) = line.split_once(':').ok_or("header wants 'Name: value'")?;
        let value = value.trim();
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty()
            || !name.bytes().all(token)
            || value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 127)
        {
            return Err("header wants 'Name: value' without control characters".to_owned());
        }
        match name.to_ascii_lowercase().as_str() {
            "host" => self.host = Some(value.to_owned()),
            "content-length" | "transfer-encoding" | "connection" | "content-type" | "accept-encoding" | "te"
            | "expect" | "upgrade" => return Err(format!("header {name} is Podop's own")),
            lower => {
                self.authorized |= lower == "authorization";
                self.lines += &format!("{name}: {value}\r\n");
            }
        }
        Ok(())
    }
}

/// One URL of a table, taken apart. Its userinfo is in `authorization` only, and never logged.
#[derive(Debug)]
struct Url {
    label: String,
    secure: bool,
    to: Target,
    host: String,
    target: Vec<Piece>,
    authorization: Option<String>,
}

impl Url {
    /// Errors do not repeat the URL: it may hold a password.
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("not a URL, which starts with http://")?;
        let (unix, secure) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (false, false),
            "http+unix" => (true, false),
            "https" if tls::SUPPORTED => (false, true),
            "https" => {
                return Err(
                    "https:// needs a podop that was built with TLS: cargo build --release --features tls".to_owned()
                );
            }
            other => return Err(format!("scheme {other}:// is not supported, use http://, https:// or http+unix://")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (userinfo, authority) = match authority.rsplit_once('@') {
            Some((userinfo, authority)) => (Some(userinfo), authority),
            None => (None, authority),
        };
        let (to, host, label) = if unix { unix_target(authority)? } else { tcp_target(authority, secure)? };
        let authorization = userinfo.map(|userinfo| base64(&percent::decode(userinfo)));
        Ok(Self { label, secure, to, host, target: pieces(target)?, authorization })
    }

    /// How connections for it are secured: by what the files say now.
    fn tls(&self, trust: &TlsOptions, backend: &mut Backends) -> Result<Option<tls::TlsConnector>, String> {
        match &self.to {
            Target::Tcp(host, _) if self.secure => trust.client(host, backend).map(Some),
            _ => Ok(None),
        }
    }

    /// True if the key would bend the path: a segment of dots cannot be expressed in a URL, as
    /// everybody on the way may resolve it.
    fn bends(&self, key: &[u8]) -> bool {
        // A segment with anything but dots stays harmless, whatever stands around it.
        if key.first().is_some_and(|first| *first != b'.') && wire::all(key, |byte| byte != b'/') {
            return false; // as nearly all keys
        }
        if !key.split(|byte| *byte == b'/').any(|segment| segment.iter().all(|byte| *byte == b'.')) {
            return false;
        }
        let mut path = Vec::new();
        for piece in &self.target {
            match piece {
                Piece::Text(text) => path.extend_from_slice(text),
                Piece::Key(Component::Path) => percent::encode(key, Component::Path, &mut path),
                Piece::Key(Component::Query) => break,
            }
        }
        let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
        path.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b".."))
    }
}

fn tcp_target(authority: &str, secure: bool) -> Result<(Target, String, String), String> {
    let (host, port) = match authority.rfind(':').filter(|at| !authority[*at..].contains(']')) {
        Some(at) => (&authority[..at], Some(&authority[at + 1..])),
        None => (authority, None),
    };
    let usual = if secure { 443 } else { 80 };
    let port = match port {
        None | Some("") => usual,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("'{port}' is not a port"))?,
    };
    let host_without_brackets = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| format!("'{host}' is not an IPv6 address"))?;
            address
        }
        None => host,
    };
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if host == host_without_brackets && (host.is_empty() || !host.bytes().all(valid)) {
        return Err(format!("'{host}' is not a host name"));
    }
    let shown = if port == usual { host.to_owned() } else { format!("{host}:{port}") };
    let label = if secure { format!("https://{shown}") } else { shown.clone() };
    Ok((Target::Tcp(host_without_brackets.to_owned(), port), shown, label))
}

fn unix_target(authority: &str) -> Result<(Target, String, String), String> {
    let path = String::from_utf8(percent::decode(authority)).map_err(|_| "the socket path is not UTF-8")?;
    if !path.starts_with('/') || path.contains(|c: char| c.is_control()) {
        return Err(
            "http+unix:// wants an absolute socket path, percent-encoded: http+unix://%2Frun%2Fapp.sock/".to_owned()
        );
    }
    Ok((Target::Unix(PathBuf::from(&path)), "localhost".to_owned(), format!("unix:{path}")))
}

/// Cuts path and query at the places of the key.
fn pieces(target: &str) -> Result<Vec<Piece>, String> {
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    let path_end = target.find('?').unwrap_or(target.len());
    if target[..path_end].split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err("the path of the URL has a dot segment".to_owned());
    }
    let (mut pieces, mut at) = (Vec::new(), 0);
    while let Some((start, mark)) = next_mark(&target, at) {
        pieces.push(Piece::Text(literal(&target[at..start])?));
        pieces.push(Piece::Key(if start < path_end { Component::Path } else { Component::Query }));
        at = start + mark.len();
    }
    if pieces.is_empty() {
        return Err("the URL has no '§' or '{}' where the key belongs".to_owned());
    }
    pieces.push(Piece::Text(literal(&target[at..])?));
    pieces.retain(|piece| *piece != Piece::Text(Vec::new()));
    Ok(pieces)
}

fn next_mark(target: &str, from: usize) -> Option<(usize, &'static str)> {
    ["§", "{}"].into_iter().filter_map(|mark| target[from..].find(mark).map(|at| (from + at, mark))).min()
}

/// A part of the URL that is the same for all keys. What a URL cannot hold is encoded.
fn literal(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for byte in text.bytes() {
        match byte {
            0..=b' ' | 127 => return Err("the URL has a control character".to_owned()),
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 128.. => {
                percent::encode(&[byte], Component::Query, &mut out)
            }
            byte => out.push(byte),
        }
    }
    Ok(out)
}

/// RFC 4648, 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Setting;

    #[test]
    fn urls_are_taken_apart() {
        let tcp = |host: &str, port| Target::Tcp(host.into(), port);
        let cases = [
            ("http://admin/a/§", tcp("admin", 80), "admin", "/a/\0"),
            ("http://admin:8080/{}", tcp("admin", 8080), "admin:8080", "/\0"),
            ("HTTP://[::1]:81/x?k=§&l={}", tcp("::1", 81), "[::1]:81", "/x?k=\0&l=\0"),
            ("http://[::1]/§", tcp("::1", 80), "[::1]", "/\0"),
            ("http://h?q=§", tcp("h", 80), "h", "/?q=\0"),
            ("http://h/a§b/§#f", tcp("h", 80), "h", "/a\0b/\0"),
            ("http://h/é/{x}/§", tcp("h", 80), "h", "/%C3%A9/%7Bx%7D/\0"),
            ("http+unix://%2Frun%2Fapp.sock/p/§", Target::Unix("/run/app.sock".into()), "localhost", "/p/\0"),
            ("https://admin/§", tcp("admin", 443), "admin", "/\0"),
            ("https://admin:80/§", tcp("admin", 80), "admin:80", "/\0"),
            ("https://[::1]:443/§", tcp("::1", 443), "[::1]", "/\0"),
        ];
        let cases = cases.into_iter().filter(|(text, ..)| tls::SUPPORTED || !text.starts_with("https"));
        for (text, to, host, target) in cases {
            let url = Url::parse(text).unwrap();
            let shown: Vec<u8> = url
                .target
                .iter()
                .flat_map(|piece| match piece {
                    Piece::Text(text) => text.clone(),
                    Piece::Key(_) => vec![0],
                })
                .collect();
            assert_eq!(
                (url.to, url.host.as_str(), String::from_utf8(shown).unwrap().as_str()),
                (to, host, target),
                "{text}"
            );
        }
    }

    #[test]
    fn unusable_urls_are_refused_without_telling_passwords() {
        let cases = [
            ("admin/§", "not a URL"),
            ("ftp://u:secret@admin/§", "scheme ftp://"),
            ("http://u:secret@admin/", "no '§'"),
            ("http://u:secret@/§", "not a host name"),
            ("http://u:secret@admin:x/§", "not a port"),
            ("http://u:secret@admin:0/§", "not a port"),
            ("http://u:secret@admin:99999/§", "not a port"),
            ("http://u:secret@[::g]/§", "not an IPv6 address"),
            ("http://u:secret@a§b/", "not a host name"),
            ("http://u:secret@admin/#§", "no '§'"),
            ("http://u:secret@admin/a/../§", "dot segment"),
            ("http+unix://run%2Fapp.sock/§", "absolute socket path"),
        ];
        for (text, expected) in cases {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn keys_with_dot_segments_cannot_be_expressed() {
        let url = Url::parse("http://h/a/§").unwrap();
        for key in [".", "..", "../x", "a/./b", "a/..", "/../x"] {
            assert!(url.bends(key.as_bytes()), "{key}");
        }
        for key in ["", "a.b", "...", ".a", "a..", "a/.b", "%2e%2e", "a@b.c", "\\.."] {
            assert!(!url.bends(key.as_bytes()), "{key}");
        }
        assert!(Url::parse("http://h/.§").unwrap().bends(b"."));
        assert!(Url::parse("http://h/a/.§.").is_ok_and(|url| url.bends(b"") && !url.bends(b"x.")));
        assert!(!Url::parse("http://h/a?k=§").unwrap().bends(b"../x"));
    }

    #[test]
    fn statuses_and_bodies_become_answers() {
        let answer = |given: Option<(&'static str, &'static str)>, status, body: &'static str| {
            let setting = |(key, value): (&str, &str)| Setting { key: key.into(), value: value.into(), general: false };
            let given: Vec<Setting> = given.into_iter().map(setting).collect();
            let opening = TableSpec { name: "t", param: "http://h/§", settings: Settings::new(&given) };
            let opened = open(opening, &mut Backends::default()).unwrap();
            let response = Response {
                status,
                keep: true,
                keep_alive_timeout: None,
                extra_headers: None,
                body: body.as_bytes().into(),
            };
            match opened.table.parse_value(false, response) {
                Ok(Answer::Found(value)) => value.for_postfix().map_or("miss".to_owned(), |text| text.into_owned()),
                Ok(Answer::Miss) => "miss".to_owned(),
                Ok(Answer::Failed(failure)) => failure.reason().to_owned(),
                Err(complaint) => complaint.to_string(),
            }
        };
        assert_eq!(answer(None, 200, "\"x\""), "x");
        assert_eq!(answer(None, 200, "null"), "miss");
        assert_eq!(answer(None, 200, "[]"), "miss");
        assert_eq!(answer(None, 200, "<html>"), "answered 200 without JSON");
        assert_eq!(answer(None, 200, ""), "answered 200 without JSON");
        assert_eq!(answer(None, 400, "HTTP"), "miss");
        for words in [
            "<center>The plain HTTP request was sent to HTTPS port</center>",
            "Client sent an HTTP request to an HTTPS server.\n",
            "Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
            "Bad Request\r\nThis combination of host and port requires TLS.\r\n",
        ] {
            assert_eq!(answer(None, 400, words), "answered 400, as it wants https://");
            assert_eq!(answer(None, 404, words), "miss");
        }
        for status in [400, 401, 403, 404, 406, 410, 422, 451, 499] {
            assert_eq!(answer(None, status, ""), "miss");
        }
        for status in [0, 99, 201, 202, 204, 206, 300, 304, 399, 408, 421, 425, 429, 500, 502, 503, 504, 599, 999] {
            assert_eq!(answer(None, status, "\"x\""), format!("answered {status}"));
        }
        assert_eq!(answer(Some(("header", "Authorization: Bearer x")), 401, ""), "answered 401");
        assert_eq!(answer(Some(("header", "Authorization: Bearer x")), 403, ""), "miss");
        assert_eq!(answer(Some(("miss", "404, 410")), 410, ""), "miss");
        assert_eq!(answer(Some(("miss", "404,410")), 403, ""), "answered 403");
        assert_eq!(answer(Some(("miss", "429")), 429, ""), "miss");
        assert_eq!(answer(Some(("select", "/0/m")), 200, r#"[{"m": "/x"}]"#), "/x");
        assert_eq!(answer(Some(("select", "/0/m")), 200, "[]"), "miss");
    }

    #[test]
    fn settings_are_checked() {
        let cases = [
            (("connections", "0"), "wants a number"),
            (("connections", "x"), "wants a number"),
            (("keepalive", "0"), "not a time"),
            (("timeout", "soon"), "not a time"),
            (("miss", "40x"), "wants statuses"),
            (("miss", "200"), "wants statuses"),
            (("select", "x"), "JSON pointer"),
            (("unset", "post"), "'null' or 'delete'"),
            (("header", "no colon"), "wants 'Name: value'"),
            (("header", "A b: c"), "wants 'Name: value'"),
            (("header", "A: b\r\nC: d"), "control characters"),
            (("header", "Content-Length: 5"), "Podop's own"),
            (("header-file", "/no/such/file"), "No such file"),
            (("cache", "0"), "not a time"),
            (("stale", "60"), "stale= needs cache="),
            (("pipeline", "0"), "wants a number"),
            (("concurrency", "4"), "it is 'adapt'"),
        ];
        for ((key, value), expected) in cases {
            let given = [Setting { key: key.into(), value: value.into(), general: false }];
            let opening = TableSpec { name: "t", param: "http://h/§", settings: Settings::new(&given) };
            let error = open(opening, &mut Backends::default()).err().expect(key);
            assert!(error.why.contains(expected) && error.flag == "--option", "{key}={value}: {error:?}");
        }
    }

    #[test]
    fn base64_is_padded() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("user:pass", "dXNlcjpwYXNz")];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
