//! The commands of the program and their settings.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Exit codes (sysexits.h).
pub const EX_USAGE: u8 = 64;
pub const EX_NOHOST: u8 = 68;
pub const EX_UNAVAILABLE: u8 = 69;
pub const EX_OSERR: u8 = 71;
pub const EX_CANTCREAT: u8 = 73;
pub const EX_TEMPFAIL: u8 = 75;
pub const EX_NOPERM: u8 = 77;
pub const EX_CONFIG: u8 = 78;

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    Run(Config),
    Check(Config),
    Query(QueryCommand),
    /// A chapter of the manual, or the list of them.
    Manual(Option<String>),
    Help,
    Version,
}

/// How to serve.
#[derive(Debug)]
pub struct Config {
    pub listeners: Vec<(Endpoint, Mode)>,
    /// The protocol of inherited sockets whose names say none.
    pub inherited: Mode,
    pub permissions: Permissions,
    pub tables: Vec<Spec>,
    pub timeout: Duration,
    /// What takes longer is worth a warning.
    pub slow: Duration,
    /// What all kept answers may take, in bytes.
    pub cache_size: usize,
    /// How many `-v` there were.
    pub verbosity: usize,
}

/// One lookup from the command line.
#[derive(Debug)]
pub struct QueryCommand {
    pub socket: Endpoint,
    pub dovecot: bool,
    pub user: Option<String>,
    pub table: String,
    pub key: String,
}

/// Where to listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Endpoint {
    Unix(PathBuf),
    /// Host and port.
    Inet(String),
}

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// The first byte decides: a digit is socketmap, `H` is dict.
    Auto,
    Postfix,
    Dovecot,
    /// Figures and health over HTTP, for who watches.
    Admin,
}

/// Permissions of the unix sockets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Permissions {
    pub mode: u32,
    pub owner: Option<u32>,
    pub group: Option<u32>,
}

/// A table to be opened.
#[derive(Debug, Eq, PartialEq)]
pub struct Spec {
    pub name: String,
    pub kind: String,
    pub param: String,
    pub settings: Vec<Setting>,
}

/// One `--option` of a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting {
    pub key: String,
    pub value: String,
    /// Given for all tables.
    pub general: bool,
}

/// Something wrong with the command line: an exit code and a line.
#[derive(Debug, Eq, PartialEq)]
pub struct ConfigError {
    pub code: u8,
    pub line: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// A error in what a flag says, while the command line itself is well-formed.
pub fn unusable(line: impl Into<String>) -> ConfigError {
    ConfigError { code: EX_CONFIG, line: line.into() }
}

impl Mode {
    /// The protocol that the name of an inherited socket says (`FileDescriptorName=` of a systemd socket unit).
    pub fn of_name(name: &str) -> Option<Mode> {
        [Mode::Auto, Mode::Postfix, Mode::Dovecot, Mode::Admin].into_iter().find(|mode| mode.to_string() == name)
    }
}

/// A time in seconds, above zero and at most a day; fractions are allowed.
pub fn seconds(text: &str) -> Option<Duration> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds: f64 = text.parse().ok().filter(|_| plain)?;
    (seconds > 0.0 && seconds <= 86_400.0).then(|| Duration::from_secs_f64(seconds))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => path.display().fmt(f),
            Endpoint::Inet(address) => write!(f, "inet:{address}"),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Auto => "auto",
            Mode::Postfix => "postfix",
            Mode::Dovecot => "dovecot",
            Mode::Admin => "metrics",
        })
    }
}
