//! Podop stands between a mail server and the HTTP service that knows the mailboxes: Postfix asks it
//! through socketmap, Dovecot through the dict protocol, and it asks the service.
//!
//! The floors of the house; imports point strictly down (`tests/house.rs` holds it so):
//!
//! | floor | modules | what lives there |
//! | --- | --- | --- |
//! | 7 | `main.rs`, `lib.rs` | arguments → [`config::Config`] → bind → run |
//! | 6 | [`reactor`], [`listen`] | sockets and the clock; listening; `podop query` |
//! | 5 | [`engine`] | the engine, without I/O: bytes and time in, actions out |
//! | 4 | [`job`] over [`client`], [`table`] over [`backend`]; [`cache`] | a request in flight; both sides; what is asked; what is kept |
//! | 3 | [`config`], [`query`] | the command line as plain data; the words of a request |
//! | 2 | [`value`] | JSON in, Postfix's and Dovecot's text out |
//! | 1 | [`wire`] | incremental codecs |
//! | 0 | [`manual`], [`notify`], [`arena`], [`buffer`], [`timers`], [`metrics`], [`log`], [`system`] | the standard library and libc only |
//!
//! One lookup: `reactor` reads → [`engine::Engine::received`] → [`client::Client::next`] cuts a query off →
//! `engine` makes a [`job::Job`], its table says [`table::Plan::Request`] → [`backend::Backends::submit`] puts it
//! on a connection → `reactor` writes; and back: read → [`backend::Backends::received`] yields the response →
//! the table makes an [`query::Answer`] of it → [`client::Client::reply`] puts it in its place → write.
//! With the feature `tls`, [`backend::tls`] stands between the socket and HTTP where a URL says https.

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
        opened.push(table.map_err(config::unusable)?);
    }
    Ok((opened, backends))
}
