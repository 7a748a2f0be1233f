//! The commands of the program, each a function from its arguments to an exit code.

mod ask;
mod check;
mod connect;
mod exit;
mod login;
mod manual;
mod query;
mod serve;
mod status;

pub use ask::ask;
pub use check::check;
pub use exit::print;
pub use login::log_in;
pub use manual::manual;
pub use query::query;
pub use serve::serve;
pub use status::status;
