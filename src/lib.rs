//! Podop connects mail servers to an HTTP backend that knows the mailboxes: it answers the lookups of Postfix (socketmap)
//! and Dovecot (dict) with requests to the backend.
//!
//! The modules form layers. A file imports only files of its own folder and of lower layers; `tests/house.rs` enforces it.
//!
//! | layer | modules | subject |
//! | --- | --- | --- |
//! | 7 | `main.rs`, [`commands`] | arguments to one command: serve, check, query, manual |
//! | 6 | [`reactor`], [`listen`] | sockets and the clock; listening |
//! | 5 | [`engine`] | without I/O: routes bytes, time and results between clients, requests and backends |
//! | 4 | [`client`], [`table`], [`job`], [`cache`] | protocols of the mail servers; requests and responses of a table; iterations and commits; the answer cache |
//! | 3 | [`backend`], [`dns`], [`program`] | connection pools, replicas, retries; a stub resolver; processes |
//! | 2 | [`config`], [`query`], [`value`], [`io`] | the command line as data; queries and answers; JSON; the interface of engine and reactor |
//! | 1 | [`wire`] | incremental codecs |
//! | 0 | [`notify`], [`log`], [`manual`], [`metrics`], [`status`], [`arena`], [`buffer`], [`timers`], [`system`] | no imports but the standard library and libc |
//!
//! The methods of a type are in the file of its private fields; they borrow the state of other owners as arguments. A
//! lower layer returns events, and does not call back.
//!
//! The path of a lookup: `SocketState::read` → [`engine::Engine::received`] → `Client::next` → `Lookups::start` →
//! [`backend::Backends::submit`] → `Pool::submit` → `Connection::push` → `Request::write_to`. The path of its response:
//! `SocketState::read` → [`engine::Engine::received`] → [`backend::Backends::next_finished`] → `Connection::receive` →
//! `Lookups::complete` → [`table::Table::parse_value`] → `Clients::reply` → `netstring::encode`.

#![cfg_attr(test, allow(clippy::wildcard_enum_match_arm))] // in tests a panic names the other variants

pub mod arena;
pub mod backend;
pub mod buffer;
pub mod cache;
pub mod client;
pub mod commands;
pub mod config;
pub mod dns;
pub mod engine;
pub mod io;
pub mod job;
pub mod listen;
pub mod log;
pub mod manual;
pub mod metrics;
pub mod notify;
pub mod program;
pub mod query;
pub mod reactor;
pub mod secret;
pub mod status;
pub mod system;
pub mod table;
pub mod timers;
pub mod value;
pub mod wire;

use config::{ConfigError, Spec};
use engine::Carriers;
use io::Turn;
use std::time::Instant;
use table::{Settings, Setup, TableEntry, TableSpec};

/// Opens all tables of a command line, and collects the backends and programs that they need.
pub fn open(specs: &[Spec]) -> Result<(Vec<TableEntry>, Carriers), ConfigError> {
    let mut carriers = Carriers::default();
    let mut turn = Turn::new(Instant::now()); // no action can result before anything is connected
    let mut setup = Setup::new(&mut carriers.backends, &mut carriers.programs, &mut turn);
    let mut opened = Vec::new();
    for Spec { name, kind, param, settings, decides } in specs {
        let spec = TableSpec { name, param, settings: Settings::new(settings), decides: *decides };
        let table = table::open(kind, spec, &mut setup);
        let table = table.map_err(|error| format!("{} of table '{name}': {}", error.flag, error.why));
        opened.push(table.map_err(config::invalid)?);
    }
    Ok((opened, carriers))
}
