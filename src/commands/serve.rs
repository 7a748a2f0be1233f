//! The daemon: opens tables and listeners, and runs the reactor.

use super::exit::failure;
use crate::config::{Config, ConfigError, Endpoint, Mode, Spec};
use crate::engine::Engine;
use crate::listen::{Listener, Resolved};
use crate::log::{self, Level};
use crate::reactor::Reactor;
use crate::system::{self, Signals};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Serves until a signal requests a shutdown. Returns the exit code.
pub fn serve(mut config: Config) -> Result<u8, ConfigError> {
    // First of all, as a wrong $LISTEN_FDS would count descriptors of this process among them.
    let inherited = system::inherited_sockets();
    log::start(match config.verbosity {
        0 => Level::Warn,
        1 => Level::Info,
        _ => Level::Debug,
    });
    for (name, _) in &inherited {
        Mode::of_name(name).map_or(Ok(()), |mode| config.set_decides(mode))?;
    }
    let uncaught = |error| failure("cannot catch signals", &error);
    Signals::defer().map_err(uncaught)?;
    let (tables, carriers) = crate::open(&config.tables)?;
    let endpoints = resolve(&config.listeners)?;
    // Before there are sockets, whose files a signal must not leave behind, and before there are threads.
    let signals = Signals::catch().map_err(uncaught)?;
    let descriptors = system::raise_descriptor_limit();
    // After the tables, so that a start that fails there leaves no socket file behind.
    let listeners = listen(&config, inherited, &endpoints)?;
    for Spec { name, kind, .. } in &config.tables {
        log::info(format_args!("table name={name} type={kind}"));
    }
    for label in carriers.backends.reports(Instant::now()).map(|report| report.label) {
        log::info(format_args!("backend backend={label}"));
    }
    let (timeout, slow) = (config.timeout.as_secs_f64(), config.slow.as_secs_f64());
    log::info(format_args!(
        "start version={} tables={} timeout={timeout} slow={slow} descriptors={descriptors}",
        env!("CARGO_PKG_VERSION"),
        tables.len()
    ));
    if tables.is_empty() {
        log::warn(format_args!("no-tables cause=\"there is no --name: every request will fail\""));
    }
    // The longest time limit of any request, so that a shutdown can answer all of them.
    let drain_timeout = tables.iter().filter_map(|table| table.timeout).max().unwrap_or_default().max(config.timeout);
    let mut engine = Engine::new(tables, carriers, config.timeout);
    engine.set_slow_threshold(config.slow);
    engine.set_cache_limit(config.cache_size);
    let mut reactor = Reactor::new(engine, listeners, signals, drain_timeout, descriptors)
        .map_err(|error| failure("start", &error))?;
    reactor.run().map(|()| 0).map_err(|error| failure("poll", &error))
}

fn resolve(listeners: &[(Endpoint, Mode)]) -> Result<Vec<Resolved>, ConfigError> {
    let of = |(endpoint, mode): &(Endpoint, Mode)| {
        Resolved::of(endpoint).map_err(|error| unusable_socket(endpoint, *mode, &error))
    };
    listeners.iter().map(of).collect()
}

fn unusable_socket(endpoint: &Endpoint, mode: Mode, error: &io::Error) -> ConfigError {
    let flag = if mode == Mode::Admin { "--metrics" } else { "--socket" };
    failure(&format!("{flag} {endpoint}"), error)
}

/// All listeners: sockets inherited from systemd, and those of the command line.
fn listen(
    config: &Config,
    inherited: Vec<(String, OwnedFd)>,
    endpoints: &[Resolved],
) -> Result<Vec<Listener>, ConfigError> {
    let mut listeners = Vec::new();
    for (name, socket) in inherited {
        // `FileDescriptorName=` of the socket unit selects the protocol; --mode is for all others.
        let mode = Mode::of_name(&name).unwrap_or(config.inherited);
        let listener = Listener::inherit(socket, mode);
        let listener = listener.map_err(|error| failure(&format!("inherited socket '{name}'"), &error))?;
        listeners.push((format!("inherited:{name}"), listener));
    }
    for ((endpoint, mode), resolved) in config.listeners.iter().zip(endpoints) {
        let bound = Listener::bind(resolved, *mode, config.permissions);
        for listener in bound.map_err(|error| unusable_socket(endpoint, *mode, &error))? {
            let name = listener.address().map_or(endpoint.to_string(), |address| format!("inet:{address}"));
            listeners.push((name, listener));
        }
    }
    for (name, listener) in &listeners {
        log::info(format_args!("listen socket={name} mode={}", listener.mode));
        if listener.is_exposed() {
            log::warn(format_args!(
                "exposed socket={name} cause=\"not on loopback: any host that can reach it can send requests\""
            ));
        }
    }
    Ok(listeners.into_iter().map(|(_, listener)| listener).collect())
}
