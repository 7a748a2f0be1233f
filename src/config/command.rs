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

/// The command to run.
#[derive(Debug)]
pub enum Command {
    Run(Config),
    Check(Config),
    Query(QueryCommand),
    Ask(AskCommand),
    LogIn(LogInCommand),
    /// Print the state of a running Podop, from its metrics listener.
    Status(Endpoint),
    /// Print a chapter of the manual, or the list of chapters.
    Manual(Option<String>),
    Help,
    Version,
}

/// The configuration of the daemon.
#[derive(Debug)]
pub struct Config {
    pub listeners: Vec<(Endpoint, Mode)>,
    /// The protocol of inherited sockets whose names do not specify one.
    pub inherited: Mode,
    pub permissions: Permissions,
    pub tables: Vec<Spec>,
    /// Total time limit of a request.
    pub timeout: Duration,
    /// The duration from which on an exchange with a backend is logged as slow.
    pub slow: Duration,
    /// Maximum size of the answer cache in bytes.
    pub cache_size: usize,
    /// What `--check` looks up in each table.
    pub check_key: Option<String>,
    /// The number of `-v` flags.
    pub verbosity: usize,
}

impl Config {
    /// Notes the table that decides for a listener with this mode.
    ///
    /// # Errors
    /// There is no such table, or it cannot decide.
    pub fn set_decides(&mut self, mode: Mode) -> Result<(), ConfigError> {
        let (Mode::Policy(name) | Mode::Sasl(name)) = mode else { return Ok(()) };
        let Some(spec) = self.tables.iter_mut().find(|spec| spec.name == name) else {
            return Err(invalid(format!("--mode {mode}: there is no table '{name}'")));
        };
        if spec.kind != "url" {
            return Err(invalid(format!("--mode {mode}: only a table of type url can do this, not {}", spec.kind)));
        }
        spec.decides = true;
        Ok(())
    }
}

/// Lookups from the command line.
#[derive(Debug)]
pub struct QueryCommand {
    pub socket: Endpoint,
    pub dovecot: bool,
    /// Print which keys were asked for.
    pub verbose: bool,
    pub user: Option<String>,
    pub table: String,
    /// `-` stands for keys from stdin.
    pub key: String,
}

/// A request for a decision from the command line.
#[derive(Debug)]
pub struct AskCommand {
    pub socket: Endpoint,
    /// `name=value`
    pub attributes: Vec<String>,
}

/// A login from the command line. The password comes from stdin.
#[derive(Debug)]
pub struct LogInCommand {
    pub socket: Endpoint,
    pub user: String,
}

/// The address of a listener.
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
    // Both protocols let the client speak first, and their first bytes differ.
    Auto,
    Postfix,
    Dovecot,
    /// Metrics and health over HTTP.
    Admin,
    /// Postfix policy delegation, decided by the table with this name.
    // Leaked: there are as many as flags, and they are in use until the end.
    Policy(&'static str),
    /// Dovecot's authentication protocol, decided by the table with this name.
    Sasl(&'static str),
}

/// Permissions of the unix sockets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Permissions {
    pub mode: u32,
    pub owner: Option<u32>,
    pub group: Option<u32>,
}

/// The definition of a table.
#[derive(Debug, Eq, PartialEq)]
pub struct Spec {
    pub name: String,
    pub kind: String,
    pub param: String,
    pub settings: Vec<Setting>,
    /// It decides for a listener, and needs no place for a key.
    pub decides: bool,
}

/// One `--option` of a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting {
    pub key: String,
    pub value: String,
    /// Whether it was given for all tables (`*`).
    pub general: bool,
}

/// An error of the command line: the exit code and one line of text.
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

/// A command line that is not well-formed (`EX_USAGE`).
pub fn usage(line: impl Into<String>) -> ConfigError {
    ConfigError { code: EX_USAGE, line: line.into() }
}

/// An invalid value in a command line that is well-formed (`EX_CONFIG`).
pub fn invalid(line: impl Into<String>) -> ConfigError {
    ConfigError { code: EX_CONFIG, line: line.into() }
}

impl Mode {
    /// The protocol that the name of an inherited socket specifies (`FileDescriptorName=` of a systemd socket unit).
    pub fn of_name(name: &str) -> Option<Mode> {
        match name.split_once('=') {
            Some(("policy", table)) if !table.is_empty() => Some(Mode::Policy(table.to_owned().leak())),
            Some(("sasl", table)) if !table.is_empty() => Some(Mode::Sasl(table.to_owned().leak())),
            _ => [Mode::Auto, Mode::Postfix, Mode::Dovecot, Mode::Admin]
                .into_iter()
                .find(|mode| mode.to_string() == name),
        }
    }
}

/// Parses a time in seconds, from a millisecond to a day; fractions are allowed.
pub fn seconds(text: &str) -> Option<Duration> {
    // Rust's parser accepts `inf`, `nan` and exponents, and `Duration` panics on some of these.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds: f64 = text.parse().ok().filter(|_| plain)?;
    (0.001..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
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
            Mode::Policy(table) => return write!(f, "policy={table}"),
            Mode::Sasl(table) => return write!(f, "sasl={table}"),
        })
    }
}
