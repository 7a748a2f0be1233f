//! What the integration tests share: the real program, a scripted HTTP backend, private mail servers,
//! and the engine in memory.
#![allow(dead_code)] // each test uses its part

pub mod dovecot;
pub mod http;
pub mod manual;
pub mod podop;
pub mod postfix;
pub mod server;
pub mod tls;
pub mod world;
