//! The state of a running Podop for people, as a page for a browser and as text for a terminal. It has no key, value or
//! secret.

mod html;
mod state;
mod text;

pub use html::html;
pub use state::{BackendStatus, FaultStatus, Minute, Status, TableStatus};
pub use text::text;
