//! The URL table: a lookup is a GET; a write is a POST, PATCH or DELETE.

mod decision;
mod fields;
mod header_file;
mod options;
mod parse;

use super::interface::{Plan, Question, ResponseError, ResponseOf, Table, TableEntry, Written};
use super::select::select;
use super::settings::SettingError;
use super::setup::{Setup, TableSpec};
use super::stamp::CHECK_INTERVAL;
use crate::backend::tls::TlsConnector;
use crate::backend::{BackendSpec, Body, MAX_ROUTES, Method, Request, Route, Target};
use crate::log;
use crate::query::{Answer, Ask, AskKind, Change, Decision, Failure, Path, Write};
use crate::value::{self, Value};
use crate::wire::http::Response;
use decision::status_error;
use fields::Fields;
use header_file::HeaderFile;
use options::UrlOptions;
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

/// Why a table that decides answers no lookup.
const NO_KEY: &str = "its URL has no place for a key: the table only decides";

/// Opens a URL table; `--param` is one or more URLs.
pub(super) fn open(spec: TableSpec<'_>, setup: &mut Setup<'_>) -> Result<TableEntry, SettingError> {
    let urls: Result<Vec<Url>, String> = spec.param.split_ascii_whitespace().map(Url::parse).collect();
    let urls = urls.map_err(SettingError::param)?;
    if !spec.decides && !urls.iter().all(Url::has_key) {
        return Err(SettingError::param("the URL has no '§' or '{}' where the key belongs".to_owned()));
    }
    if urls.is_empty() || urls.len() > MAX_ROUTES {
        return Err(SettingError::param(format!("expects 1 to {MAX_ROUTES} URLs")));
    }
    let options = UrlOptions::take(spec.settings, urls.iter().any(|url| url.secure)).map_err(SettingError::option)?;
    let mut header = Fields::default();
    options.header.iter().try_for_each(|line| header.add(line)).map_err(SettingError::option)?;
    let header_files = options.header_files.iter().cloned().map(HeaderFile::open).collect::<Result<_, _>>();
    let header_files = header_files.map_err(SettingError::option)?;
    let mut backends = Vec::new();
    for url in &urls {
        let connector = connector(url, &options, setup).map_err(SettingError::option)?;
        let (label, target) = (url.label.clone(), url.to.clone());
        backends
            .push(setup.backends.add(BackendSpec { label, target, options: options.pool, connector }, urls.len() > 1));
    }
    let (name, timeout, caching, keys) = (spec.name.to_owned(), options.timeout, options.caching, options.keys);
    let (on_fault, tokens, has_key) = (options.on_fault, options.tokens, urls.iter().all(Url::has_key));
    let mut table = UrlTable {
        name: name.clone(),
        urls,
        backends,
        routes: Rc::new([]),
        authorized: false,
        has_key,
        header,
        header_files,
        options,
    };
    table.prepare();
    Ok(TableEntry { name, timeout, caching, keys, on_fault, tokens, decides: spec.decides, table: Box::new(table) })
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
    /// Every URL has a place for the key: without one, any key would get the same value.
    has_key: bool,
    /// The fields of the setting `header`.
    header: Fields,
    header_files: Vec<HeaderFile>,
    options: UrlOptions,
}

impl Table for UrlTable {
    fn plan(&mut self, question: Question<'_>, _: Instant) -> Plan<'_> {
        let write = match question {
            Question::Get(key) => return self.get(key),
            Question::List(path) => return self.list(path),
            Question::Write(write) => write,
            Question::Ask(ask) => return self.ask(ask),
        };
        if !self.has_key {
            return self.refuse(NO_KEY);
        }
        let (method, json) = match &write.change {
            Change::Set(text) if self.options.text_values => match value::to_json_string(text) {
                Some(json) => (Method::Post, Some(json)),
                None => return self.refuse("the value is not UTF-8"),
            },
            Change::Set(text) => match value::to_json(text) {
                Some(json) => (Method::Post, Some(json.into_owned())),
                None => return self.refuse("the value is neither JSON nor UTF-8"),
            },
            Change::Unset if self.options.unset == Method::Delete => (Method::Delete, None),
            Change::Unset => (Method::Post, Some(b"null".to_vec())),
            Change::Increment(by) => (Method::Patch, Some(format!("{{\"increment\": {by}}}").into_bytes())),
        };
        let fields = match (&write.change, write.expire, &self.options.expire) {
            // A deleted value cannot expire.
            (Change::Unset, ..) | (_, 0, _) => String::new(),
            (_, seconds, Some(name)) => format!("{name}: {seconds}\r\n"),
            // It would never expire.
            (_, _, None) => return self.refuse("expiration is not supported"),
        };
        // A lookup of such a key is a miss, but a write must not be lost without an error.
        if self.has_ambiguous_path(&write.key) {
            return self.refuse("the key has a segment that is empty or of dots");
        }
        let body = json.map(|json| Box::new(Body { fields, json: json.into() }));
        Plan::Request(Request { method, routes: self.routes.clone(), body })
    }

    fn parse_value<'a>(&self, of: ResponseOf, response: Response<'a>) -> Result<Answer<'a>, ResponseError> {
        let status = response.status;
        if status != 200 {
            if !self.options.misses.contains(status, self.authorized, of.redirected) {
                return Err(status_error(&response));
            }
            if self.options.misses.json && Value::parse(&response.body).is_err() {
                return Err(ResponseError::NotJson(status));
            }
            return Ok(Answer::Miss);
        }
        let value = match response.body {
            Cow::Borrowed(body) => Value::parse(body),
            Cow::Owned(body) => Value::parse(&body).map(Value::into_owned),
        };
        let value = value.map_err(|_| ResponseError::NotJson(status))?;
        // Part of any other JSON document is none.
        if response.until_end && value.is_number() {
            return Err(ResponseError::CutNumber);
        }
        let value = if of.list { value } else { select(value, self.options.select.as_deref(), status)? };
        Ok(if value == Value::Null { Answer::Miss } else { Answer::Found(value) })
    }

    fn parse_ask(&self, kind: AskKind, response: &Response<'_>) -> Result<Decision, ResponseError> {
        decision::parse(kind, &self.options, self.authorized, response)
    }

    fn parse_write(&self, write: &Write, response: &Response<'_>) -> Result<Written, ResponseError> {
        match (response.status, &write.change) {
            (200..300, _) => Ok(Written::Done),
            // The key does not exist any more, as requested.
            (404, Change::Unset) if self.options.unset == Method::Delete => Ok(Written::Done),
            (404, Change::Increment(_)) => Ok(Written::NotFound),
            _ => Err(status_error(response)),
        }
    }

    fn tick(&mut self, now: Instant) -> Option<Instant> {
        let mut is_new = false;
        for file in self.header_files.iter_mut().filter_map(|file| file.is_due().then_some(file)) {
            file.read_again(&self.name);
            is_new = true;
        }
        if is_new {
            self.prepare();
        }
        (!self.header_files.is_empty()).then_some(now + CHECK_INTERVAL)
    }

    fn reload(&mut self, setup: &mut Setup<'_>) {
        self.header_files.iter_mut().for_each(|file| file.reload(&self.name));
        self.prepare();
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
    fn ask(&self, ask: &Ask) -> Plan<'_> {
        // Without a key, the path is that of no other one; a decision depends on the body.
        if !ask.key.is_empty() && self.has_ambiguous_path(&ask.key) {
            if ask.kind == AskKind::Login {
                return Plan::Answer(Answer::Miss);
            }
            return self.refuse("the key has a segment that is empty or of dots");
        }
        let body = Some(Box::new(Body { fields: String::new(), json: ask.json.clone() }));
        Plan::Request(Request { method: Method::Post, routes: self.routes.clone(), body })
    }

    fn get(&self, key: &[u8]) -> Plan<'_> {
        if !self.has_key {
            return self.refuse(NO_KEY);
        }
        if self.has_ambiguous_path(key) {
            return Plan::Answer(Answer::Miss);
        }
        Plan::Request(Request { method: Method::Get, routes: self.routes.clone(), body: None })
    }

    fn list(&self, path: &Path) -> Plan<'_> {
        let key = path.key(b"");
        // The list of all keys, and a slash at the end, are what lists are requested with.
        match key.strip_suffix(b"/").unwrap_or(&key) {
            b"" if self.has_key => {
                Plan::Request(Request { method: Method::Get, routes: self.routes.clone(), body: None })
            }
            key => self.get(key),
        }
    }

    fn has_ambiguous_path(&self, key: &[u8]) -> bool {
        self.urls.iter().any(|url| url.has_ambiguous_path(key))
    }

    fn refuse(&self, why: &str) -> Plan<'_> {
        Plan::Answer(Answer::Failed(Failure::temporary(format_args!("{}: {why}", self.name))))
    }

    /// Prepares everything in requests that does not depend on the key.
    fn prepare(&mut self) {
        let mut extra = self.header.clone();
        self.header_files.iter().for_each(|file| extra.extend(file.fields()));
        let route = |(url, backend): (&Url, &usize)| {
            let host = extra.host.as_ref().unwrap_or(&url.host).clone();
            let basic = url.authorization.as_ref().filter(|_| !extra.authorized);
            let authorization = basic.map(|basic| format!("Authorization: Basic {basic}\r\n")).unwrap_or_default();
            let fields = format!("Host: {host}\r\n{FIELDS}{authorization}{}", extra.lines).into_bytes();
            Route::new(*backend, url.secure, host, url.target.clone(), fields, self.options.trace)
        };
        self.routes = self.urls.iter().zip(&self.backends).map(route).collect();
        // For good: a table whose token is gone would take each 401 for a miss.
        self.authorized |= extra.authorized || self.urls.iter().any(|url| url.authorization.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::super::alone::open_alone;
    use super::*;
    use crate::wire::http::ExtraHeaders;

    fn open_with(settings: &[(&str, &str)]) -> Result<TableEntry, SettingError> {
        open_alone(open, "http://h/§", settings)
    }

    #[test]
    fn statuses_and_bodies_become_answers() {
        let answer = |setting: Option<(&'static str, &'static str)>, redirected, status, body: &'static str| {
            let entry = open_with(&Vec::from_iter(setting)).unwrap();
            let response = Response {
                status,
                keep_alive: true,
                keep_alive_timeout: None,
                extra_headers: None,
                until_end: false,
                body: body.as_bytes().into(),
            };
            shown(entry.table.parse_value(ResponseOf { list: false, redirected }, response))
        };
        let plain = |status, body| answer(None, false, status, body);
        assert_eq!(plain(200, "\"x\""), "x");
        assert_eq!(plain(200, "null"), "miss");
        assert_eq!(plain(200, "[]"), "miss");
        assert_eq!(plain(200, "<html>"), "answered 200 without JSON");
        assert_eq!(plain(200, ""), "answered 200 without JSON");
        let misses = [401, 403, 404, 409, 410, 418, 422, 450, 451, 452, 493];
        for status in 400..500 {
            let meant = status == 418 || [420, 427, 430].contains(&status) || (432..=493).contains(&status);
            let is_miss = misses.contains(&status) || status == 419 || (meant && status != 444);
            let expected = if is_miss { "miss".to_owned() } else { format!("answered {status}") };
            assert_eq!(plain(status, ""), expected);
            assert_eq!(plain(status, "\"x\""), expected);
            let expected = if [404, 410].contains(&status) { "miss".to_owned() } else { format!("answered {status}") };
            assert_eq!(answer(None, true, status, ""), expected, "after a redirect");
        }
        for status in [0, 99, 201, 202, 204, 206, 300, 304, 399, 500, 502, 503, 504, 599, 999] {
            assert_eq!(plain(status, "\"x\""), format!("answered {status}"));
        }
        for (setting, status, body, expected) in [
            (("header", "Authorization: Bearer x"), 401, "", "answered 401"),
            (("header", "Authorization: Bearer x"), 403, "", "miss"),
            (("miss", "404, 410"), 410, "", "miss"),
            (("miss", "404,410"), 403, "", "answered 403"),
            (("miss", "429"), 429, "", "miss"),
            (("miss", "4xx"), 400, "", "miss"),
            (("miss", "4xx"), 500, "", "answered 500"),
            (("miss", "none"), 404, "null", "answered 404"),
            (("miss", "none"), 200, "null", "miss"),
            (("miss", "404,json"), 404, "{\"detail\": \"none\"}", "miss"),
            (("miss", "404,json"), 404, "<html>", "answered 404 without JSON"),
            (("miss", "404,json"), 404, "", "answered 404 without JSON"),
            (("miss", "404,json"), 410, "null", "answered 410"),
            (("miss", "json"), 410, "null", "miss"),
            (("miss", "json"), 400, "null", "answered 400"),
            (("select", "/0/m"), 200, r#"[{"m": "/x"}]"#, "/x"),
            (("select", "/0/m"), 200, "[]", "miss"),
            (("select", "/0/m"), 200, r#"[{"m": null}]"#, "miss"),
            (("select", "/0/m"), 200, r#"[{"n": "/x"}]"#, "answered 200 without /0/m"),
            (("select", "/0/m"), 200, r#"{"error": "database is locked"}"#, "answered 200 without /0/m"),
            (("select", "/0/m"), 200, "null", "answered 200 without /0/m"),
            (("select", "/*/m"), 200, r#"[{"m": "a"}, {"m": "b"}]"#, "a,b"),
            (("select", "/*/m"), 200, r#"[{"m": "a"}, {"n": "b"}]"#, "answered 200 without /*/m"),
            (("select", "/*/m"), 200, "[]", "miss"),
            (("select", "/*/m"), 200, r#"[{"m": null}, {"m": "b"}, {"m": null}]"#, "b"),
            (("select", "/*/m"), 200, r#"[{"m": null}]"#, "miss"),
            (
                ("select", "/*/m"),
                200,
                r#"[{"m": ["a"]}]"#,
                "is an array of arrays or objects: select= names a part of it",
            ),
            (("select", "/*/m/*"), 200, r#"[{"m": ["a", 1]}, {"m": []}, {"m": ["é\u0022"]}]"#, "a,1,é\""),
            (("select", "/d/*"), 200, r#"{"d": ["a", 1]}"#, "a,1"),
            (("select", "/d/*"), 200, r#"{"d": ["a", null, "b"]}"#, "is an array with null in it"),
            (("select", "/*/m"), 200, "[null]", "answered 200 without /*/m"),
            (
                ("select", "/*/*"),
                200,
                r#"[{"*": ["a"]}]"#,
                "is an array of arrays or objects: select= names a part of it",
            ),
            (("select", "/*/0"), 200, r#"[["a"], [], ["b", "c"]]"#, "a,b"),
            (("select", "/*/m"), 200, r#"{"*": {"m": "literal"}}"#, "literal"),
            (("select", "/*/m"), 200, r#"{"error": "x"}"#, "answered 200 without /*/m"),
            (("select", "/*"), 200, r#""text""#, "answered 200 without /*"),
        ] {
            assert_eq!(answer(Some(setting), false, status, body), expected, "{setting:?} {status} {body}");
        }
        assert_eq!(answer(Some(("miss", "403,410")), true, 403, ""), "answered 403", "after a redirect");
        assert_eq!(answer(Some(("miss", "403,410")), true, 404, ""), "answered 404", "after a redirect");
    }

    #[test]
    fn a_problem_of_the_backend_is_told_in_its_words() {
        let entry = open_with(&[]).unwrap();
        let detail = |status, is_problem, body: &'static str| {
            let extra_headers = Some(Box::new(ExtraHeaders { is_problem, ..ExtraHeaders::default() }));
            let response = Response {
                status,
                keep_alive: true,
                keep_alive_timeout: None,
                extra_headers,
                until_end: false,
                body: body.as_bytes().into(),
            };
            match entry.table.parse_value(ResponseOf::default(), response) {
                Ok(answer) => shown(Ok(answer)),
                Err(error) => format!("{error}: {:?}", error.detail()),
            }
        };
        let busy = r#"{"title": "Busy", "detail": "database \u0000is\nlocked \u00e9"}"#;
        assert_eq!(detail(503, true, busy), "answered 503: Some(\"database ?is?locked ?\")");
        assert_eq!(detail(400, true, busy), "answered 400: Some(\"database ?is?locked ?\")");
        assert_eq!(detail(503, false, busy), "answered 503: None");
        assert_eq!(detail(404, true, busy), "miss");
        for body in ["", "<html>", "[]", "{}", r#"{"detail": 5}"#, r#"{"detail": ""}"#, r#"{"detail": null}"#] {
            assert_eq!(detail(503, true, body), "answered 503: None", "{body}");
        }
        let long = format!("{{\"detail\": \"{}\"}}", "x".repeat(1_000));
        let shown = detail(503, true, Box::leak(long.into_boxed_str()));
        assert_eq!(shown, format!("answered 503: Some(\"{}\")", "x".repeat(decision::MAX_DETAIL)));
    }

    fn shown(answer: Result<Answer<'_>, ResponseError>) -> String {
        match answer {
            Ok(Answer::Found(value)) => match value.for_postfix() {
                Ok(text) => text.map_or("miss".to_owned(), |text| String::from_utf8_lossy(&text).into_owned()),
                Err(unfit) => unfit.to_string(),
            },
            Ok(Answer::Miss) => "miss".to_owned(),
            Ok(Answer::Failed(failure)) => failure.reason().to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_number_that_ends_with_the_connection_may_be_cut() {
        let entry = open_with(&[]).unwrap();
        let cut = "answered 200 with a number that may be cut: it ended with the connection";
        for (body, expected) in
            [("123", cut), (" 1", cut), ("-1.5e3", cut), ("true", "true"), ("\"1\"", "1"), ("[1]", "1")]
        {
            let response = Response {
                status: 200,
                keep_alive: false,
                keep_alive_timeout: None,
                extra_headers: None,
                until_end: true,
                body: body.as_bytes().into(),
            };
            assert_eq!(shown(entry.table.parse_value(ResponseOf::default(), response)), expected, "{body}");
        }
    }

    #[test]
    fn keys_that_no_path_can_express_are_misses_and_refused_writes() {
        let mut entry = open_with(&[]).unwrap();
        let mut plan = |question: Question<'_>| match entry.table.plan(question, Instant::now()) {
            Plan::Answer(Answer::Miss) => "miss".to_owned(),
            Plan::Answer(Answer::Failed(failure)) => failure.reason().to_owned(),
            Plan::Answer(answer) => format!("{answer:?}"),
            Plan::Request(_) => "request".to_owned(),
        };
        for key in ["", "/", "/a", "a/", "a//b", "..", "a/."] {
            assert_eq!(plan(Question::Get(key.as_bytes())), "miss", "{key}");
            let write = Write { key: key.into(), change: Change::Unset, expire: 0 };
            assert_eq!(plan(Question::Write(&write)), "t: the key has a segment that is empty or of dots", "{key}");
        }
        let mut list = |path: &str, user: Option<&str>| {
            let user = user.map(|user| user.as_bytes().to_vec());
            plan(Question::List(&Path { namespace: "shared/", path: path.into(), user }))
        };
        for path in ["", "a", "a/", "a/b/"] {
            assert_eq!(
                (list(path, None), list(path, Some("u"))),
                ("request".to_owned(), "request".to_owned()),
                "{path}"
            );
        }
        assert_eq!(
            (list("a//", None), list("../", None), list("a//b", None)),
            ("miss".into(), "miss".into(), "miss".into())
        );
    }

    #[test]
    fn settings_are_checked() {
        let cases = [
            (("connections", "0"), "expects a number"),
            (("connections", "x"), "expects a number"),
            (("keepalive", "0"), "not a time"),
            (("timeout", "soon"), "not a time"),
            (("miss", "40x"), "expects statuses"),
            (("miss", "200"), "expects statuses"),
            (("miss", "none,404"), "expects statuses"),
            (("miss", ""), "expects statuses"),
            (("select", "x"), "JSON pointer"),
            (("unset", "post"), "'null' or 'delete'"),
            (("values", "number"), "'json' or 'text'"),
            (("trace", "yes"), "'off' or 'on'"),
            (("case", "upper"), "'keep' or 'lower'"),
            (("search", "@,address"), "it is 'address'"),
            (("expire", "a b"), "'Name: value'"),
            (("expire", "Content-Length"), "Podop's own"),
            (("header", "no colon"), "expects 'Name: value'"),
            (("header", "A b: c"), "expects 'Name: value'"),
            (("header", "A: b\r\nC: d"), "control characters"),
            (("header", "Content-Length: 5"), "Podop's own"),
            (("header-file", "/no/such/file"), "No such file"),
            (("cache", "0"), "not a time"),
            (("stale", "60"), "stale= needs cache="),
            (("pipeline", "0"), "expects a number"),
            (("concurrency", "4"), "setting 'concurrency' is unknown"),
        ];
        for ((key, value), expected) in cases {
            let error = open_with(&[(key, value)]).err().expect(key);
            assert!(error.why.contains(expected) && error.flag == "--option", "{key}={value}: {error:?}");
        }
    }
}
