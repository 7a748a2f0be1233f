//! The URL table: a lookup is a GET; a write is a POST, PATCH or DELETE.

mod fields;
mod options;
mod parse;

use super::interface::{Plan, Question, ResponseError, Table, TableEntry, Written};
use super::settings::SettingError;
use super::setup::{Setup, TableSpec};
use crate::backend::tls::TlsConnector;
use crate::backend::{BackendSpec, MAX_ROUTES, Method, Request, Route, Target};
use crate::log;
use crate::query::{Answer, Change, Failure, Write};
use crate::value::{self, Value};
use crate::wire::http::Response;
use fields::Fields;
use options::{Misses, UrlOptions};
use parse::Url;
use std::borrow::Cow;
use std::rc::Rc;
use std::time::Instant;

/// The fields of every request except `Host`.
// No coding but identity: there is no decompressor.
const FIELDS: &str = concat!(
    "Accept: application/json\r\nAccept-Encoding: identity\r\nUser-Agent: podop/",
    env!("CARGO_PKG_VERSION"),
    "\r\n"
);

/// Opens a URL table; `--param` is one or more URLs.
pub(super) fn open(spec: TableSpec<'_>, setup: &mut Setup<'_>) -> Result<TableEntry, SettingError> {
    let urls: Result<Vec<Url>, String> = spec.param.split_ascii_whitespace().map(Url::parse).collect();
    let urls = urls.map_err(SettingError::param)?;
    if urls.is_empty() || urls.len() > MAX_ROUTES {
        return Err(SettingError::param(format!("wants 1 to {MAX_ROUTES} URLs")));
    }
    let options = UrlOptions::take(spec.settings, urls.iter().any(|url| url.secure)).map_err(SettingError::option)?;
    let mut backends = Vec::new();
    for url in &urls {
        let connector = connector(url, &options, setup).map_err(SettingError::option)?;
        let (label, target) = (url.label.clone(), url.to.clone());
        backends
            .push(setup.backends.add(BackendSpec { label, target, options: options.pool, connector }, urls.len() > 1));
    }
    let (name, timeout, caching) = (spec.name.to_owned(), options.timeout, options.caching);
    let mut table = UrlTable { name: name.clone(), urls, backends, routes: Rc::new([]), authorized: false, options };
    table.prepare().map_err(SettingError::option)?;
    Ok(TableEntry { name, timeout, caching, table: Box::new(table) })
}

/// The TLS connector for a URL, from the current content of the files; `None` for a URL without TLS.
fn connector(url: &Url, options: &UrlOptions, setup: &mut Setup<'_>) -> Result<Option<TlsConnector>, String> {
    match &url.to {
        Target::Tcp(host, _) if url.secure => options.tls.connector(host, &mut setup.tls_configs).map(Some),
        Target::Tcp(..) | Target::Unix(_) => Ok(None),
    }
}

struct UrlTable {
    name: String,
    urls: Vec<Url>,
    /// The index of each URL's backend.
    backends: Vec<usize>,
    routes: Rc<[Route]>,
    /// Whether requests carry credentials, so that 401 is about those and not about the key.
    authorized: bool,
    options: UrlOptions,
}

impl Table for UrlTable {
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
            Change::Unset if self.options.unset == Method::Delete => (Method::Delete, None),
            Change::Unset => (Method::Post, Some(b"null"[..].into())),
            Change::Increment(by) => {
                (Method::Patch, Some(format!("{{\"increment\": {by}}}").into_bytes().into_boxed_slice()))
            }
        };
        // A lookup of such a key is a miss, but a write must not be lost without an error.
        if self.urls.iter().any(|url| url.bends(&write.key)) {
            return self.refuse("the key has a dot segment");
        }
        Plan::Request(Request { method, routes: self.routes.clone(), body })
    }

    fn parse_value<'a>(&self, list: bool, response: Response<'a>) -> Result<Answer<'a>, ResponseError> {
        match response.status {
            200 => {}
            // A wrong scheme in the URL would make every key a miss.
            400 if wants_tls(&response.body) => return Err(ResponseError::WantsTls),
            // A rotated password would otherwise bounce all mail.
            401 if self.authorized && matches!(self.options.misses, Misses::Usual) => {
                return Err(ResponseError::Status(401));
            }
            status if self.options.misses.contains(status) => return Ok(Answer::Miss),
            status => return Err(ResponseError::Status(status)),
        }
        let value = match response.body {
            Cow::Borrowed(body) => Value::parse(body),
            Cow::Owned(body) => Value::parse(&body).map(Value::into_owned),
        };
        let value = value.map_err(|_| ResponseError::NotJson)?;
        let value = match &self.options.select {
            Some(pointer) if !list => value.select(pointer).map_err(|_| ResponseError::NotJson)?,
            _ => value,
        };
        Ok(if value == Value::Null { Answer::Miss } else { Answer::Found(value) })
    }

    fn parse_write(&self, write: &Write, response: &Response<'_>) -> Result<Written, ResponseError> {
        match (response.status, &write.change) {
            (200..300, _) => Ok(Written::Done),
            // The key is gone, which is what was requested.
            (404, Change::Unset) if self.options.unset == Method::Delete => Ok(Written::Done),
            (404, Change::Increment(_)) => Ok(Written::NotFound),
            (status, _) => Err(ResponseError::Status(status)),
        }
    }

    fn reload(&mut self, setup: &mut Setup<'_>) {
        if let Err(error) = self.prepare() {
            log::warn(format_args!("header-file-unreadable table={} cause=\"{error}\"", self.name));
        }
        for (url, backend) in self.urls.iter().zip(&self.backends) {
            match connector(url, &self.options, setup) {
                Ok(None) => {}
                Ok(Some(connector)) => setup.backends.set_connector(*backend, connector, setup.turn),
                Err(error) => {
                    log::warn(format_args!("tls-unreadable table={} cause=\"{error}\"", self.name));
                    break; // all URLs have the same files
                }
            }
        }
    }
}

impl UrlTable {
    fn get(&self, key: &[u8]) -> Plan<'_> {
        if self.urls.iter().any(|url| url.bends(key)) {
            return Plan::Answer(Answer::Miss);
        }
        Plan::Request(Request { method: Method::Get, routes: self.routes.clone(), body: None })
    }

    fn refuse(&self, why: &str) -> Plan<'_> {
        Plan::Answer(Answer::Failed(Failure::temporary(format_args!("{}: {why}", self.name))))
    }

    /// Prepares everything in requests that does not depend on the key.
    fn prepare(&mut self) -> Result<(), String> {
        let mut extra = Fields::default();
        self.options.header.iter().try_for_each(|line| extra.add(line))?;
        for path in &self.options.header_files {
            // Read at each reload, so that tokens can be rotated without a restart.
            let at = |error: String| format!("header-file {}: {error}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| at(error.to_string()))?;
            text.lines().filter(|line| !line.trim().is_empty()).try_for_each(|line| extra.add(line)).map_err(at)?;
        }
        let route = |(url, backend): (&Url, &usize)| {
            let host = extra.host.as_ref().unwrap_or(&url.host).clone();
            let basic = url.authorization.as_ref().filter(|_| !extra.authorized);
            let authorization = basic.map(|basic| format!("Authorization: Basic {basic}\r\n")).unwrap_or_default();
            let fields = format!("Host: {host}\r\n{FIELDS}{authorization}{}", extra.lines).into_bytes();
            Route::new(*backend, url.secure, host, url.target.clone(), fields)
        };
        self.routes = self.urls.iter().zip(&self.backends).map(route).collect();
        self.authorized = extra.authorized || self.urls.iter().any(|url| url.authorization.is_some());
        Ok(())
    }
}

/// How nginx, Go's net/http (Caddy, Traefik), Apache httpd and Tomcat explain, with 400, that a port accepts TLS only.
const TLS_ONLY: [&[u8]; 4] = [
    b"plain HTTP request was sent to HTTPS port",
    b"HTTP request to an HTTPS server",
    b"speaking plain HTTP to an SSL-enabled server",
    b"This combination of host and port requires TLS",
];

fn wants_tls(body: &[u8]) -> bool {
    TLS_ONLY.iter().any(|words| body.windows(words.len()).any(|window| window == *words))
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;
    use crate::backend::Backends;
    use crate::config::Setting;
    use crate::io::Turn;

    fn open_with(settings: &[Setting]) -> Result<TableEntry, SettingError> {
        let (mut backends, mut turn) = (Backends::default(), Turn::new(Instant::now()));
        let spec = TableSpec { name: "t", param: "http://h/§", settings: Settings::new(settings) };
        open(spec, &mut Setup::new(&mut backends, &mut turn))
    }

    #[test]
    fn statuses_and_bodies_become_answers() {
        let answer = |given: Option<(&'static str, &'static str)>, status, body: &'static str| {
            let setting = |(key, value): (&str, &str)| Setting { key: key.into(), value: value.into(), general: false };
            let given: Vec<Setting> = given.into_iter().map(setting).collect();
            let entry = open_with(&given).unwrap();
            let response = Response {
                status,
                keep: true,
                keep_alive_timeout: None,
                extra_headers: None,
                body: body.as_bytes().into(),
            };
            match entry.table.parse_value(false, response) {
                Ok(Answer::Found(value)) => value.for_postfix().map_or("miss".to_owned(), |text| text.into_owned()),
                Ok(Answer::Miss) => "miss".to_owned(),
                Ok(Answer::Failed(failure)) => failure.reason().to_owned(),
                Err(error) => error.to_string(),
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
            (("concurrency", "4"), "setting 'concurrency' is unknown"),
        ];
        for ((key, value), expected) in cases {
            let given = [Setting { key: key.into(), value: value.into(), general: false }];
            let error = open_with(&given).err().expect(key);
            assert!(error.why.contains(expected) && error.flag == "--option", "{key}={value}: {error:?}");
        }
    }
}
