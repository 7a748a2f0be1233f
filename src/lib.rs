//! Podop.
pub mod arena;
pub mod buffer;
pub mod log;
pub mod query;
pub mod system;
pub mod timers;
pub mod value;
pub mod wire;
