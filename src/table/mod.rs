//! Tables: each says what it needs to answer a question, and is told what came.

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

/// A source of answers.
pub trait Table {
    /// Answers a question, or says which request would.
    fn plan(&mut self, question: Question<'_>, now: Instant) -> Plan<'_>;

    /// Makes an answer of the response to a [`Question::Get`] or [`Question::List`]; `list` tells them apart.
    fn parse_value<'a>(&self, list: bool, response: Response<'a>) -> Result<Answer<'a>, ResponseError> {
        let _ = list;
        Err(ResponseError::Status(response.status))
    }

    /// Tells what the response to a [`Question::Write`] means for its write.
    fn parse_write(&self, write: &Write, response: &Response<'_>) -> Result<Written, ResponseError> {
        let _ = write;
        Err(ResponseError::Status(response.status))
    }

    /// Reads again what was read from files.
    fn reload(&mut self, setup: &mut Setup<'_>) {
        let _ = setup;
    }
}

/// What a table can be asked.
#[derive(Debug)]
pub enum Question<'a> {
    Get(&'a [u8]),
    /// The names below a path, with or without their values.
    List(&'a Path),
    Write(&'a Write),
}

/// What a table needs to answer.
#[derive(Debug)]
pub enum Plan<'a> {
    Answer(Answer<'a>),
    /// This request, with the key that was asked for.
    Request(Request),
}

/// How a write ended that was answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Written {
    Done,
    /// There is no value to increment.
    NotFound,
}

/// What is wrong with a response. `Display` completes a sentence that begins with the backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResponseError {
    Status(u16),
    NotJson,
    /// 400, as the port takes nothing but TLS.
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

/// A table of the command line, open.
pub struct TableEntry {
    pub name: String,
    /// The life of a request, if not that of all tables.
    pub timeout: Option<Duration>,
    /// How long answers are kept, if they are.
    pub caching: Option<Caching>,
    pub table: Box<dyn Table>,
}

/// How long answers of a table are kept, where their backend says nothing else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caching {
    pub fresh: Duration,
    /// How long after that an answer will do if there is no new one (RFC 5861).
    pub stale: Duration,
}

/// What a table is opened with.
#[derive(Debug)]
pub struct TableSpec<'a> {
    pub name: &'a str,
    pub param: &'a str,
    pub settings: Settings<'a>,
}

/// What tables are opened and reloaded with.
pub struct Setup<'a> {
    pub backends: &'a mut Backends,
    pub turn: &'a mut Turn,
    /// TLS configurations by what they were made from, so that tables with the same files share them.
    tls_configs: TlsConfigs,
}

impl<'a> Setup<'a> {
    pub fn new(backends: &'a mut Backends, turn: &'a mut Turn) -> Self {
        Self { backends, turn, tls_configs: TlsConfigs::default() }
    }
}

/// Opens a table, or says what is wrong.
pub type Constructor = fn(TableSpec<'_>, &mut Setup<'_>) -> Result<TableEntry, SettingError>;

/// The flag that says something unusable, and what is wrong with it.
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

/// The table types of the command line. A new type is a new file and one line here.
pub const TYPES: &[(&str, Constructor)] = &[("file", file::open), ("url", url::open)];

/// Opens a table of a type in [`TYPES`].
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

/// The settings of one table, as `--option` gave them. Each is taken by the table that knows it; what
/// is left is a mistake, unless it was meant for all tables.
#[derive(Debug, Default)]
pub struct Settings<'a> {
    left: Vec<&'a Setting>,
    /// Those that the table knows.
    known: Vec<&'static str>,
}

impl<'a> Settings<'a> {
    pub fn new(settings: &'a [Setting]) -> Self {
        Self { left: settings.iter().collect(), known: Vec::new() }
    }

    /// The values of a setting that may be given several times.
    pub fn all(&mut self, key: &'static str) -> Vec<&'a str> {
        self.known.push(key);
        let values = self.left.iter().filter(|one| one.key == key).map(|one| &one.value[..]).collect();
        self.left.retain(|one| one.key != key);
        values
    }

    /// The value of a setting: the last one given, where one for the table beats one for all.
    pub fn one(&mut self, key: &'static str) -> Option<&'a str> {
        self.known.push(key);
        let of = |general| self.left.iter().rfind(|one| one.key == key && one.general == general);
        let value = of(false).or_else(|| of(true)).map(|one| &one.value[..]);
        self.left.retain(|one| one.key != key);
        value
    }

    /// True if a setting is given for this table alone.
    pub fn has_own(&self, key: &str) -> bool {
        self.left.iter().any(|one| one.key == key && !one.general)
    }

    /// A setting that is a time in seconds, above zero; fractions are allowed.
    pub fn seconds(&mut self, key: &'static str) -> Result<Option<Duration>, String> {
        self.one(key)
            .map(|text| config::seconds(text).ok_or_else(|| format!("{key}={text}: not a time in seconds")))
            .transpose()
    }

    /// Complains of what nobody took.
    pub fn finish(mut self) -> Result<(), String> {
        let Some(one) = self.left.iter().find(|one| !one.general) else { return Ok(()) };
        self.known.sort_unstable();
        Err(format!("setting '{}' is unknown, it is one of: {}", one.key, self.known.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_table_beat_those_of_all_and_unknown_ones_are_told() {
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
