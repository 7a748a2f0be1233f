//! Podop stands between a mail server and the HTTP service that knows the mailboxes: Postfix asks it
//! through socketmap, Dovecot through the dict protocol, and it asks the service.
//!
//! The floors of the house. Imports point strictly down, from file to file; `tests/house.rs` holds them to it.
//!
//! | floor | modules | subject |
//! | --- | --- | --- |
//! | 7 | `main.rs`, [`commands`] | arguments to one command: serve, check, query, manual |
//! | 6 | [`reactor`], [`listen`] | sockets and the clock; listening |
//! | 5 | [`engine`] | without I/O: routes bytes, time and results between clients, requests and backends |
//! | 4 | [`client`], [`table`], [`job`], [`cache`] | the mail servers' protocols; what a table asks of its backend; long requests; cached answers |
//! | 3 | [`backend`] | pools of connections, and what becomes of a request |
//! | 2 | [`config`], [`query`], [`value`], [`io`] | the command line as data; requests and answers; JSON; what engine and reactor tell each other |
//! | 1 | [`wire`] | incremental codecs |
//! | 0 | [`notify`], [`log`], [`manual`], [`metrics`], [`arena`], [`buffer`], [`timers`], [`system`] | the standard library and libc only |
//!
//! A file that holds a type's methods holds its private fields; what another owner has is lent as an argument. A lower
//! floor returns what has happened, and does not call back.
//!
//! A lookup on its way out: `SocketState::read` → [`engine::Engine::received`] → `Client::next` → `Lookups::start` →
//! [`backend::Backends::submit`] → `Pool::submit` → `Connection::push` → `Request::write_to`; and back:
//! `SocketState::read` → [`engine::Engine::received`] → [`backend::Backends::next_finished`] → `Connection::receive` →
//! `Lookups::complete` → [`table::Table::parse_value`] → `Clients::reply` → `netstring::encode`. What stands between them
//! hands on and decides nothing.

#![cfg_attr(test, allow(clippy::wildcard_enum_match_arm))] // in tests a panic names the rest

pub mod arena;
pub mod backend;
pub mod buffer;
pub mod cache;
pub mod client;
pub mod commands;
pub mod config;
pub mod engine;
pub mod io;
pub mod job;
pub mod listen;
pub mod log;
pub mod manual;
pub mod metrics;
pub mod notify;
pub mod query;
pub mod reactor;
pub mod system;
pub mod table;
pub mod timers;
pub mod value;
pub mod wire;

use backend::Backends;
use config::{ConfigError, Spec};
use io::Turn;
use std::time::Instant;
use table::{Settings, Setup, TableEntry, TableSpec};

/// Opens all tables of a command line, and collects the backends that they need.
pub fn open(specs: &[Spec]) -> Result<(Vec<TableEntry>, Backends), ConfigError> {
    let mut backends = Backends::default();
    let mut turn = Turn::new(Instant::now()); // nothing is connected yet that would need an action
    let mut setup = Setup::new(&mut backends, &mut turn);
    let mut opened = Vec::new();
    for Spec { name, kind, param, settings } in specs {
        let spec = TableSpec { name, param, settings: Settings::new(settings) };
        let table = table::open(kind, spec, &mut setup);
        let table = table.map_err(|wrong| format!("{} of table '{name}': {}", wrong.flag, wrong.why));
        opened.push(table.map_err(config::invalid)?);
    }
    Ok((opened, backends))
}
