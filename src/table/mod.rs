//! Tables: a table either answers a question itself, or plans the request that does and interprets the response.

mod file;
mod tls_options;
mod url;

use crate::backend::{Backends, Request};
use crate::config::{self, Setting};
use crate::io::Turn;
use crate::query::{Answer, Path, Write};
use crate::wire::http::Response;
use std::fmt;
use std::time::{Duration, Instant};
use tls_options::TlsConfigs;

/// A table.
pub trait Table {
    /// Answers a question, or returns the request that will.
    fn plan(&mut self, question: Question<'_>, now: Instant) -> Plan<'_>;

    /// Interprets the response to a [`Question::Get`], or to a [`Question::List`] if `list` is set.
    ///
    /// # Errors
    /// The response says nothing about the key, and must not be taken for a miss.
    fn parse_value<'a>(&self, list: bool, response: Response<'a>) -> Result<Answer<'a>, ResponseError> {
        // Only tables that plan requests receive responses.
        let _ = list;
        Err(ResponseError::Status(response.status))
    }

    /// Interprets the response to a [`Question::Write`].
    ///
    /// # Errors
    /// The write was not acknowledged.
    fn parse_write(&self, write: &Write, response: &Response<'_>) -> Result<Written, ResponseError> {
        let _ = write;
        Err(ResponseError::Status(response.status))
    }

    /// Reads files again, after SIGHUP.
    fn reload(&mut self, setup: &mut Setup<'_>) {
        let _ = setup;
    }
}

/// A question to a table.
#[derive(Debug)]
pub enum Question<'a> {
    Get(&'a [u8]),
    /// The names below a path, with or without values.
    List(&'a Path),
    Write(&'a Write),
}

/// How a question is answered.
#[derive(Debug)]
pub enum Plan<'a> {
    Answer(Answer<'a>),
    /// This request, with the key of the question.
    Request(Request),
}

/// The result of a write that was acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Written {
    Done,
    /// There is no value to increment.
    NotFound,
}

/// Why a response has no answer. `Display` continues a sentence that begins with the backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResponseError {
    Status(u16),
    NotJson,
    /// 400, because the port accepts nothing but TLS.
    WantsTls,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResponseError::Status(status) => write!(f, "answered {status}"),
            ResponseError::WantsTls => f.write_str("answered 400, as it wants https://"),
            ResponseError::NotJson => f.write_str("answered 200 without JSON"),
        }
    }
}

/// A table that is open.
pub struct TableEntry {
    pub name: String,
    /// The time limit of a request, if it is not that of all tables.
    pub timeout: Option<Duration>,
    /// The lifetime of cached answers; `None` without a cache.
    // Opt-in: some backends count on every lookup, like Mailu's rate limits.
    pub caching: Option<Caching>,
    pub table: Box<dyn Table>,
}

/// The lifetime of cached answers, unless the response has one of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caching {
    /// The time for which an answer is served without a request.
    pub fresh: Duration,
    /// The time after that for which it is served if the backend fails (RFC 5861, section 4).
    pub stale: Duration,
}

/// The command line arguments of a table.
#[derive(Debug)]
pub struct TableSpec<'a> {
    pub name: &'a str,
    pub param: &'a str,
    pub settings: Settings<'a>,
}

/// The environment in which tables are opened and reloaded.
pub struct Setup<'a> {
    pub backends: &'a mut Backends,
    pub turn: &'a mut Turn,
    /// TLS configurations by their files, so that tables with the same files share them.
    tls_configs: TlsConfigs,
}

impl<'a> Setup<'a> {
    /// An environment without any TLS configuration yet.
    pub fn new(backends: &'a mut Backends, turn: &'a mut Turn) -> Self {
        Self { backends, turn, tls_configs: TlsConfigs::default() }
    }
}

/// Opens a table of one type.
pub type Constructor = fn(TableSpec<'_>, &mut Setup<'_>) -> Result<TableEntry, SettingError>;

/// An invalid setting: the flag that has it, and why it is invalid.
#[derive(Debug, Eq, PartialEq)]
pub struct SettingError {
    pub flag: &'static str,
    pub why: String,
}

impl SettingError {
    fn option(why: String) -> Self {
        Self { flag: "--option", why }
    }

    fn param(why: String) -> Self {
        Self { flag: "--param", why }
    }
}

/// The table types of `--type`. A new type is a new file and one line here.
pub const TYPES: &[(&str, Constructor)] = &[("file", file::open), ("url", url::open)];

/// Opens a table of the type `kind`, which is one of [`TYPES`].
pub fn open(kind: &str, spec: TableSpec<'_>, setup: &mut Setup<'_>) -> Result<TableEntry, SettingError> {
    match TYPES.iter().find(|(name, _)| *name == kind) {
        Some((_, open)) => open(spec, setup),
        None => {
            let known: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
            let why = format!("'{kind}' is unknown, it is one of: {}", known.join(", "));
            Err(SettingError { flag: "--type", why })
        }
    }
}

/// The settings of one table from `--option`. A table takes those that it knows; any other is an error, unless it was
/// given for all tables.
#[derive(Debug, Default)]
pub struct Settings<'a> {
    left: Vec<&'a Setting>,
    /// Keys that the table knows, for the error message.
    known: Vec<&'static str>,
}

impl<'a> Settings<'a> {
    /// Settings of which none has been taken.
    pub fn new(settings: &'a [Setting]) -> Self {
        Self { left: settings.iter().collect(), known: Vec::new() }
    }

    /// Takes all values of a setting that may be repeated.
    pub fn all(&mut self, key: &'static str) -> Vec<&'a str> {
        self.known.push(key);
        let values = self.left.iter().filter(|one| one.key == key).map(|one| &one.value[..]).collect();
        self.left.retain(|one| one.key != key);
        values
    }

    /// Takes the value of a setting. The last one counts, and one for the table overrides one for all tables.
    pub fn one(&mut self, key: &'static str) -> Option<&'a str> {
        self.known.push(key);
        // The last one, as command lines are extended at their end.
        let of = |general| self.left.iter().rfind(|one| one.key == key && one.general == general);
        let value = of(false).or_else(|| of(true)).map(|one| &one.value[..]);
        self.left.retain(|one| one.key != key);
        value
    }

    /// Whether a setting is given for this table alone.
    pub fn has_own(&self, key: &str) -> bool {
        self.left.iter().any(|one| one.key == key && !one.general)
    }

    /// Takes a setting in seconds, above zero; fractions are allowed.
    pub fn seconds(&mut self, key: &'static str) -> Result<Option<Duration>, String> {
        self.one(key)
            .map(|text| config::seconds(text).ok_or_else(|| format!("{key}={text}: not a time in seconds")))
            .transpose()
    }

    /// Reports a setting that the table has not taken.
    pub fn finish(mut self) -> Result<(), String> {
        // A setting of all tables may be meant for another type.
        let Some(one) = self.left.iter().find(|one| !one.general) else { return Ok(()) };
        self.known.sort_unstable();
        Err(format!("setting '{}' is unknown, it is one of: {}", one.key, self.known.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_table_beat_those_of_all_and_unknown_ones_are_reported() {
        let setting = |key: &str, value: &str, general| Setting { key: key.into(), value: value.into(), general };
        let given = [
            setting("timeout", "1", false),
            setting("timeout", "2.5", true),
            setting("header", "A: b", true),
            setting("header", "C: d", false),
            setting("other", "x", true),
        ];
        let mut settings = Settings::new(&given);
        assert_eq!(settings.seconds("timeout"), Ok(Some(Duration::from_secs(1))));
        assert_eq!(settings.all("header"), ["A: b", "C: d"]);
        assert_eq!(settings.finish(), Ok(()));
        let given = [setting("other", "x", false)];
        let mut unknown = Settings::new(&given);
        assert_eq!((unknown.one("miss"), unknown.one("cache")), (None, None));
        assert_eq!(unknown.finish(), Err("setting 'other' is unknown, it is one of: cache, miss".into()));
    }
}
