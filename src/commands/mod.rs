//! The commands of the program, each a function from its arguments to an exit code.

mod check;
mod query;
mod serve;

pub use check::check;
pub use query::query;
pub use serve::serve;

use crate::config::EX_OSERR;
use std::io::{self, Write};

/// Writes to stdout; the exit code says whether that worked.
pub fn print(text: &[u8]) -> u8 {
    if io::stdout().write_all(text).is_ok() { 0 } else { EX_OSERR }
}
