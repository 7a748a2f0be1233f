//! Output and exit codes of the commands.

use crate::config::{self, ConfigError, EX_OSERR};
use std::io::{self, ErrorKind, Write};

/// Writes to stdout and returns the exit code.
pub fn print(text: &[u8]) -> u8 {
    if io::stdout().write_all(text).is_ok() { 0 } else { EX_OSERR }
}

/// An error of the operating system, with the exit code of the program.
#[expect(clippy::wildcard_enum_match_arm, reason = "most kinds of error have no exit code of their own")]
pub(super) fn failure(what: &str, error: &io::Error) -> ConfigError {
    let code = match error.kind() {
        // Of a socket: its path exists, another process listens there, or the parent directory is missing.
        ErrorKind::AlreadyExists | ErrorKind::AddrInUse | ErrorKind::NotFound => config::EX_CANTCREAT,
        ErrorKind::PermissionDenied => config::EX_NOPERM,
        ErrorKind::InvalidInput => config::EX_CONFIG,
        _ => config::EX_OSERR,
    };
    ConfigError { code, line: format!("{what}: {error}") }
}

/// Prints why there is no result, and returns the exit code.
pub(super) fn report(code: u8, reason: &str) -> u8 {
    let _ = writeln!(io::stderr(), "podop: {reason} (exit code {code})"); // the exit code reports it, too
    code
}
