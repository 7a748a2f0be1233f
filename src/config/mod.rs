//! The configuration from the command line, as plain data.

mod args;
mod command;
mod expand;
mod help;

pub use args::parse;
pub use command::*;
pub use help::HELP;
