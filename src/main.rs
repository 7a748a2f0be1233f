//! The program: arguments, then one of its commands.

use podop::ask::{self, Found};
use podop::backend::Target;
use podop::config::{self, Ask, Command, Config, Mistake};
use podop::listen::Listener;
use podop::log::{self, Level};
use podop::proxy::Proxy;
use podop::reactor::Reactor;
use podop::system::{self, Signals};
use std::io::{self, ErrorKind, Write};
use std::net::ToSocketAddrs;
use std::process::ExitCode;

fn main() -> ExitCode {
    let done = match config::parse(std::env::args_os().skip(1)) {
        Ok(Command::Run(config)) => run(&config).map(|()| 0),
        Ok(Command::Check(config)) => check(&config),
        Ok(Command::Query(question)) => Ok(query(&question)),
        Ok(Command::Help) => Ok(print(config::HELP.as_bytes())),
        Ok(Command::Version) => Ok(print(concat!("podop ", env!("CARGO_PKG_VERSION"), "\n").as_bytes())),
        Err(mistake) => Err(mistake),
    };
    ExitCode::from(done.unwrap_or_else(|mistake| {
        let _ = writeln!(io::stderr(), "podop: {mistake}"); // there is nobody else to tell
        mistake.code
    }))
}

/// Serves until a signal ends it.
fn run(config: &Config) -> Result<(), Mistake> {
    log::start(match config.verbosity {
        0 => Level::Warn,
        1 => Level::Info,
        _ => Level::Debug,
    });
    // First of all, so that every thread has the signals blocked.
    let signals = Signals::catch().map_err(|error| failure("cannot catch signals", &error))?;
    let (tables, backend) = podop::open(&config.tables)?;
    let descriptors = system::raise_descriptor_limit();
    let mut listeners = Vec::new();
    for (endpoint, mode) in &config.listeners {
        let listener = Listener::bind(endpoint, *mode, config.rights);
        listeners.push(listener.map_err(|error| failure(&format!("--socket {endpoint}"), &error))?);
        log::info(format_args!("listen socket={endpoint} mode={mode}"));
    }
    for (label, _) in backend.targets() {
        log::info(format_args!("backend origin={label}"));
    }
    log::info(format_args!("start tables={} descriptors={descriptors}", tables.len()));
    let patience = tables.iter().filter_map(|table| table.timeout).max().unwrap_or_default().max(config.timeout);
    let proxy = Proxy::new(tables, backend, config.timeout);
    let mut reactor =
        Reactor::new(proxy, listeners, signals, patience, descriptors).map_err(|error| failure("start", &error))?;
    reactor.run().map_err(|error| failure("poll", &error))
}

fn failure(what: &str, error: &io::Error) -> Mistake {
    let code = match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::AddrInUse | ErrorKind::NotFound => config::EX_CANTCREAT,
        ErrorKind::PermissionDenied => config::EX_NOPERM,
        ErrorKind::InvalidInput => config::EX_CONFIG,
        _ => config::EX_OSERR,
    };
    Mistake { code, line: format!("{what}: {error}") }
}

/// Opens all tables, resolves all backends, and reports.
fn check(config: &Config) -> Result<u8, Mistake> {
    let (tables, backend) = podop::open(&config.tables)?;
    let mut report = String::new();
    for (endpoint, mode) in &config.listeners {
        report += &format!("socket {endpoint} mode {mode}\n");
    }
    for table in &tables {
        report += &format!("table {} is usable\n", table.name);
    }
    let mut code = 0;
    for (label, target) in backend.targets() {
        let result = match target {
            Target::Unix(path) => format!("is the socket {}", path.display()),
            Target::Tcp(host, port) => match (host.as_str(), *port).to_socket_addrs() {
                Ok(addresses) => {
                    format!("is {}", addresses.map(|one| one.to_string()).collect::<Vec<_>>().join(", "))
                }
                Err(error) => {
                    code = config::EX_NOHOST;
                    format!("has no address: {error}")
                }
            },
        };
        report += &format!("backend {label} {result}\n");
    }
    print(report.as_bytes());
    Ok(code)
}

/// Asks a running Podop: 0 for a value, 1 for none, 75 for a failure.
fn query(question: &Ask) -> u8 {
    match ask::ask(question) {
        Ok(Found::Value(value)) => print(&[&value[..], b"\n"].concat()),
        Ok(Found::Nothing) => 1,
        Ok(Found::Failure(reason)) => {
            let _ = writeln!(io::stderr(), "podop: {reason}"); // the exit code says it too
            config::EX_TEMPFAIL
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "podop: {}: {error}", question.socket); // likewise
            config::EX_TEMPFAIL
        }
    }
}

fn print(text: &[u8]) -> u8 {
    if io::stdout().write_all(text).is_ok() { 0 } else { config::EX_OSERR }
}
