//! The program table: processes that answer lines of JSON.

mod words;

use super::interface::{OnFault, Plan, Question, ResponseError, ResponseOf, Table, TableEntry, Written};
use super::keys::KeyRules;
use super::select::select;
use super::settings::{Caching, SettingError, Settings};
use super::setup::{Setup, TableSpec};
use crate::backend::{Body, Method, Request, Route};
use crate::io::Program;
use crate::program::ProgramSpec;
use crate::query::{Answer, Change, Failure, Tokens, Write};
use crate::value::{self, Value, quote};
use crate::wire;
use crate::wire::http::Response;
use std::borrow::Cow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The number of processes, unless there is a setting: one that is slow does not stop the others.
const PROCESSES: usize = 4;
const MAX_PROCESSES: usize = 256;

/// Maximum number of requests that a process has at once.
const MAX_PIPELINE: usize = 10_000;

/// Opens a program table; `--param` is a command line.
pub(super) fn open(spec: TableSpec<'_>, setup: &mut Setup<'_>) -> Result<TableEntry, SettingError> {
    let words = words::split(spec.param)
        .ok_or_else(|| SettingError::param("the command line has a quote that is not closed".to_owned()))?;
    let Some(program) = words.first() else {
        return Err(SettingError::param("expects a program and its arguments".to_owned()));
    };
    find(program).map_err(|why| SettingError::param(format!("{program}: {why}")))?;
    let options = ProgramOptions::take(spec.settings).map_err(SettingError::option)?;
    let (name, timeout, caching, keys) = (spec.name.to_owned(), options.timeout, options.caching, options.keys);
    let label = format!("program:{name}");
    // One program can serve several tables.
    let program = Rc::new(Program { words, environment: vec![("PODOP_TABLE", name.clone())] });
    let (processes, pipeline) = (options.processes, options.pipeline);
    let number = setup.programs.add(ProgramSpec { label: label.clone(), program, processes, pipeline });
    let table = ProgramTable { name: name.clone(), routes: Rc::new([Route::to_program(number, label)]), options };
    Ok(TableEntry {
        name,
        timeout,
        caching,
        keys,
        on_fault: OnFault::default(),
        tokens: Tokens::default(),
        decides: false,
        table: Box::new(table),
    })
}

/// JSON without anything that a program could take for the end of a line: not only LF, which would have it read the rest
/// as a request of its own.
fn one_line(json: Vec<u8>) -> Vec<u8> {
    // Nearly always there is nothing of the kind.
    if wire::all(&json, |byte| byte >= b' ' && byte != 0xc2 && byte != 0xe2) {
        return json;
    }
    let mut out = Vec::with_capacity(json.len());
    let mut rest = &json[..];
    while let Some((byte, left)) = rest.split_first() {
        match rest {
            // Within strings only, which is where they may be escaped: next line, and the separators of lines and
            // paragraphs, at which readers of JavaScript and others split.
            [0xc2, 0x85, left @ ..] => {
                out.extend_from_slice(b"\\u0085");
                rest = left;
            }
            [0xe2, 0x80, last @ (0xa8 | 0xa9), left @ ..] => {
                out.extend_from_slice(if *last == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                rest = left;
            }
            _ => {
                // Between the parts only, where they are white space.
                out.push(if *byte < b' ' { b' ' } else { *byte });
                rest = left;
            }
        }
    }
    out
}

/// Looks for a program as execvp(3) does.
fn find(program: &str) -> Result<(), &'static str> {
    let is_executable =
        |path: &Path| path.metadata().is_ok_and(|of| of.is_file() && of.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        let path = Path::new(program);
        return match path.exists() {
            false => Err("there is no such program"),
            true if is_executable(path) => Ok(()),
            true => Err("it is not executable"),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    match folders.iter().any(|folder| is_executable(&folder.join(program))) {
        true => Ok(()),
        false => Err("there is no such program in $PATH"),
    }
}

/// The settings of one table.
struct ProgramOptions {
    timeout: Option<Duration>,
    caching: Option<Caching>,
    keys: KeyRules,
    select: Option<String>,
    text_values: bool,
    /// Requests may have a number of seconds after which a value expires.
    expire: bool,
    processes: usize,
    pipeline: usize,
}

impl ProgramOptions {
    fn take(mut settings: Settings<'_>) -> Result<Self, String> {
        let options = Self {
            timeout: settings.seconds("timeout")?,
            caching: settings.caching()?,
            keys: KeyRules::take(&mut settings)?,
            select: settings.select()?,
            text_values: settings.choice("values", ["json", "text"])? == 1,
            expire: settings.choice("expire", ["off", "on"])? == 1,
            processes: settings.number("processes", MAX_PROCESSES)?.unwrap_or(PROCESSES),
            // One, as a program that answers one after another would have a slow request delay others.
            pipeline: settings.number("pipeline", MAX_PIPELINE)?.unwrap_or(1),
        };
        settings.finish()?;
        Ok(options)
    }
}

struct ProgramTable {
    name: String,
    routes: Rc<[Route]>,
    options: ProgramOptions,
}

impl Table for ProgramTable {
    fn plan(&mut self, question: Question<'_>, _: Instant) -> Plan<'_> {
        match question {
            // JSON cannot express other keys; Postfix asks none of its own tables for them either (dict_utf8.c).
            Question::Get(key) if str::from_utf8(key).is_err() => Plan::Answer(Answer::Miss),
            Question::Get(key) => self.request(Method::Get, [&b"\"get\":"[..], &quote(key)].concat()),
            Question::List(path) => {
                let key = path.key(b"");
                match str::from_utf8(&key) {
                    Ok(_) => self.request(Method::Get, [&b"\"list\":"[..], &quote(&key)].concat()),
                    Err(_) => self.refuse("the path is not UTF-8"),
                }
            }
            Question::Write(write) => match self.members(write) {
                Ok((method, members)) => self.request(method, members),
                Err(why) => self.refuse(why),
            },
            Question::Ask(_) => self.refuse("a program cannot decide"),
        }
    }

    fn parse_value<'a>(&self, of: ResponseOf, response: Response<'a>) -> Result<Answer<'a>, ResponseError> {
        let status = response.status;
        if status != 200 {
            return Err(ResponseError::Unexpected("answered done where it was asked for a value"));
        }
        let value = match response.body {
            Cow::Borrowed(body) => Value::parse(body),
            Cow::Owned(body) => Value::parse(&body).map(Value::into_owned),
        };
        let value = value.map_err(|_| ResponseError::NotJson(status))?;
        if value == Value::Null {
            return Ok(Answer::Miss); // also where a part of a value is selected
        }
        let value = if of.list { value } else { select(value, self.options.select.as_deref(), status)? };
        Ok(if value == Value::Null { Answer::Miss } else { Answer::Found(value) })
    }

    fn parse_write(&self, write: &Write, response: &Response<'_>) -> Result<Written, ResponseError> {
        match (response.status, &write.change) {
            (204, _) => Ok(Written::Done),
            (404, Change::Increment(_)) => Ok(Written::NotFound),
            (404, Change::Set(_) | Change::Unset) => Err(ResponseError::Unexpected("has not done it")),
            _ => Err(ResponseError::Unexpected("answered a write without done")),
        }
    }
}

impl ProgramTable {
    fn request(&self, method: Method, members: Vec<u8>) -> Plan<'_> {
        let body = Some(Box::new(Body { fields: String::new(), json: one_line(members).into() }));
        Plan::Request(Request { method, routes: self.routes.clone(), body })
    }

    /// The members of the line for a write.
    fn members(&self, write: &Write) -> Result<(Method, Vec<u8>), &'static str> {
        if str::from_utf8(&write.key).is_err() {
            return Err("the key is not UTF-8");
        }
        let key = quote(&write.key);
        let (method, mut members) = match &write.change {
            Change::Set(text) => {
                let json = if self.options.text_values {
                    value::to_json_string(text).map(Cow::Owned)
                } else {
                    value::to_json(text)
                };
                let json = json.ok_or("the value is neither JSON nor UTF-8")?;
                (Method::Post, [&b"\"set\":"[..], &key, b",\"value\":", &json].concat())
            }
            Change::Unset => (Method::Delete, [&b"\"unset\":"[..], &key].concat()),
            Change::Increment(by) => {
                (Method::Patch, [&b"\"increment\":"[..], &key, format!(",\"by\":{by}").as_bytes()].concat())
            }
        };
        match (&write.change, write.expire, self.options.expire) {
            // A deleted value cannot expire.
            (Change::Unset, ..) | (_, 0, _) => {}
            (_, seconds, true) => members.extend_from_slice(format!(",\"expire\":{seconds}").as_bytes()),
            // It would never expire.
            (_, _, false) => return Err("expiration is not supported"),
        }
        Ok((method, members))
    }

    fn refuse(&self, why: &str) -> Plan<'_> {
        Plan::Answer(Answer::Failed(Failure::temporary(format_args!("{}: {why}", self.name))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::alone::open_alone;
    use super::*;

    fn open_with(param: &str, settings: &[(&str, &str)]) -> Result<TableEntry, SettingError> {
        open_alone(open, param, settings)
    }

    #[test]
    fn questions_become_members_of_a_line() {
        let set = |value: &str| Change::Set(value.as_bytes().to_vec());
        let members = |settings: &[(&str, &str)], question: Question<'_>| {
            let mut entry = open_with("cat", settings).unwrap();
            match entry.table.plan(question, Instant::now()) {
                Plan::Request(request) => String::from_utf8(request.body.unwrap().json.to_vec()).unwrap(),
                Plan::Answer(Answer::Failed(failure)) => failure.reason().to_owned(),
                Plan::Answer(answer) => format!("{answer:?}"),
            }
        };
        assert_eq!(members(&[], Question::Get("a\"\\\u{1}ü".as_bytes())), "\"get\":\"a\\\"\\\\\\u0001ü\"");
        assert_eq!(members(&[], Question::Get(b"\xff")), "Miss");
        let write = |settings: &[(&str, &str)], change, expire| {
            members(settings, Question::Write(&Write { key: b"k".to_vec(), change, expire }))
        };
        assert_eq!(write(&[], set("text"), 0), "\"set\":\"k\",\"value\":\"text\"");
        assert_eq!(write(&[], set("[1,\n2,\r\t3]"), 0), "\"set\":\"k\",\"value\":[1, 2,  3]");
        assert_eq!(
            write(&[], set("\"\u{85}\u{2028}ü\u{2029}\""), 0),
            "\"set\":\"k\",\"value\":\"\\u0085\\u2028ü\\u2029\""
        );
        assert_eq!(write(&[], set("a\r\u{b}b"), 0), "\"set\":\"k\",\"value\":\"a\\r\\u000bb\"");
        assert_eq!(members(&[], Question::Get("a\u{2028}b".as_bytes())), "\"get\":\"a\\u2028b\"");
        assert_eq!(write(&[("values", "text")], set("1"), 0), "\"set\":\"k\",\"value\":\"1\"");
        assert_eq!(write(&[], Change::Unset, 9), "\"unset\":\"k\"");
        assert_eq!(write(&[], Change::Increment(-7), 0), "\"increment\":\"k\",\"by\":-7");
        assert_eq!(write(&[], set("1"), 9), "t: expiration is not supported");
        assert_eq!(write(&[("expire", "on")], set("1"), 9), "\"set\":\"k\",\"value\":1,\"expire\":9");
        let write = Write { key: b"\xff".to_vec(), change: Change::Unset, expire: 0 };
        assert_eq!(members(&[], Question::Write(&write)), "t: the key is not UTF-8");
    }

    #[test]
    fn programs_and_settings_are_checked() {
        let error = |param, settings| open_with(param, settings).err().map(|error| error.why).unwrap_or_default();
        assert_eq!(error("sh -c 'exit 1'", &[("processes", "2"), ("pipeline", "64"), ("cache", "5")]), "");
        assert!(error("", &[]).contains("expects a program"));
        assert!(error("'", &[]).contains("quote"));
        assert_eq!(error("no-such-program", &[]), "no-such-program: there is no such program in $PATH");
        assert_eq!(error("/no/such", &[]), "/no/such: there is no such program");
        assert_eq!(error("/etc/passwd x", &[]), "/etc/passwd: it is not executable");
        assert!(error("cat", &[("processes", "0")]).contains("expects a number"));
        assert!(error("cat", &[("processes", "257")]).contains("from 1 to 256"));
        assert!(error("cat", &[("miss", "404")]).contains("one of: cache, case, expire, pipeline, processes"));
    }
}
