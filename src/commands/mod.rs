//! The commands of the program, each a function from its arguments to an exit code.

mod check;
mod exit;
mod manual;
mod query;
mod serve;

pub use check::check;
pub use exit::print;
pub use manual::manual;
pub use query::query;
pub use serve::serve;
