//! `--check`: opens all tables, and reports which sockets can be created and which backends are reachable; with a key,
//! also what each of them answers.

use super::exit::{failure, print};
use crate::backend::{CheckResult, Fault};
use crate::config::{self, Config, ConfigError};
use crate::engine::{Engine, ProbeResult};
use crate::listen::Listener;
use crate::reactor::Reactor;
use crate::system::{self, Signals};
use std::time::Duration;

/// Opens all tables, connects to all backends, looks up the key, if there is one, and prints a report. Returns the exit
/// code.
pub fn check(config: &Config) -> Result<u8, ConfigError> {
    let (tables, carriers) = crate::open(&config.tables)?;
    let (mut report, mut code) = (String::new(), 0);
    // Not bound, as a running Podop may be serving them.
    for (endpoint, mode) in &config.listeners {
        let state = match Listener::check(endpoint) {
            Ok(()) => format!("mode {mode}"),
            Err(error) => {
                code = config::EX_CANTCREAT;
                format!("cannot be created: {error}")
            }
        };
        report += &format!("socket {endpoint} {state}\n");
    }
    for table in &tables {
        report += &format!("table {} is usable\n", table.name);
    }
    let signals = Signals::catch().map_err(|error| failure("cannot catch signals", &error))?;
    let engine = Engine::new(tables, carriers, config.timeout);
    let reactor = Reactor::new(engine, Vec::new(), signals, Duration::ZERO, system::raise_descriptor_limit());
    // The engine connects, so that the report cannot differ from what lookups experience.
    let key = config.check_key.as_deref().map(str::as_bytes);
    let results = reactor.and_then(|mut reactor| reactor.check(key)).map_err(|error| failure("check", &error))?;
    let (backends, lookups) = results.unwrap_or_default();
    for CheckResult { label, result } in backends {
        let (exit, state) = match result {
            Ok(address) => (0, format!("is reachable at {address}")),
            Err(fault @ Fault::Unresolved(_)) => (config::EX_NOHOST, fault.to_string()),
            Err(fault @ (Fault::Handshake(_) | Fault::HandshakeTimeout)) => (config::EX_UNAVAILABLE, fault.to_string()),
            Err(fault) => (config::EX_UNAVAILABLE, format!("is not reachable: it {fault}")),
        };
        code = code.max(exit);
        report += &format!("backend {label} {state}\n");
    }
    for ProbeResult { table, backend, result } in lookups {
        let at = backend.map(|backend| format!(" backend {backend}")).unwrap_or_default();
        let state = result.unwrap_or_else(|reason| {
            code = code.max(config::EX_UNAVAILABLE);
            format!("failed: {reason}")
        });
        report += &format!("lookup {table}{at} {state}\n");
    }
    print(report.as_bytes());
    Ok(code)
}
