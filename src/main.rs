//! The program: arguments, then one of its commands.

use podop::ask::{self, Found};
use podop::backend::tls::{self, SessionEnd, TlsConnector, TlsSession};
use podop::backend::{CONNECT, HANDSHAKE, Target};
use podop::config::{self, Command, Config, ConfigError, Mode, QueryCommand, Spec};
use podop::engine::Engine;
use podop::listen::Listener;
use podop::log::{self, Level};
use podop::reactor::Reactor;
use podop::system::{self, Signals};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a check waits for what a server thinks of its client's certificate.
const VERDICT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let done = match config::parse(std::env::args_os().skip(1)) {
        Ok(Command::Run(config)) => run(&config).map(|()| 0),
        Ok(Command::Check(config)) => check(&config),
        Ok(Command::Query(question)) => Ok(query(&question)),
        Ok(Command::Help) => Ok(print(config::HELP.as_bytes())),
        Ok(Command::Version) => {
            let tls = if tls::SUPPORTED { " (with TLS)" } else { "" };
            Ok(print(format!("podop {}{tls}\n", env!("CARGO_PKG_VERSION")).as_bytes()))
        }
        Err(error) => Err(error),
    };
    ExitCode::from(done.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "podop: {error}"); // there is nobody else to tell
        error.code
    }))
}

/// Serves until a signal ends it.
fn run(config: &Config) -> Result<(), ConfigError> {
    log::start(match config.verbosity {
        0 => Level::Warn,
        1 => Level::Info,
        _ => Level::Debug,
    });
    // First of all, so that every thread has the signals blocked.
    let signals = Signals::catch().map_err(|error| failure("cannot catch signals", &error))?;
    let (tables, backend) = podop::open(&config.tables)?;
    let descriptors = system::raise_descriptor_limit();
    let listeners = listen(config)?;
    for Spec { name, kind, .. } in &config.tables {
        log::info(format_args!("table name={name} type={kind}"));
    }
    for (label, ..) in backend.targets() {
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
    let patience = tables.iter().filter_map(|table| table.timeout).max().unwrap_or_default().max(config.timeout);
    let mut engine = Engine::new(tables, backend, config.timeout);
    engine.set_slow_threshold(config.slow);
    engine.set_cache_limit(config.cache_size);
    let mut reactor =
        Reactor::new(engine, listeners, signals, patience, descriptors).map_err(|error| failure("start", &error))?;
    reactor.run().map_err(|error| failure("poll", &error))
}

/// All sockets: those that systemd has passed, and those that the command line names.
fn listen(config: &Config) -> Result<Vec<Listener>, ConfigError> {
    let mut listeners = Vec::new();
    for (name, socket) in system::inherited_sockets() {
        let mode = Mode::of_name(&name).unwrap_or(config.inherited);
        let listener = Listener::inherit(socket, mode);
        let listener = listener.map_err(|error| failure(&format!("inherited socket '{name}'"), &error))?;
        listeners.push((format!("inherited:{name}"), listener));
    }
    for (endpoint, mode) in &config.listeners {
        let listener = Listener::bind(endpoint, *mode, config.permissions);
        let listener = listener.map_err(|error| failure(&format!("--socket {endpoint}"), &error))?;
        listeners.push((endpoint.to_string(), listener));
    }
    for (name, listener) in &listeners {
        log::info(format_args!("listen socket={name} mode={}", listener.mode));
        if listener.is_exposed() {
            log::warn(format_args!("exposed socket={name} cause=\"not on loopback: whoever reaches it may ask\""));
        }
    }
    Ok(listeners.into_iter().map(|(_, listener)| listener).collect())
}

fn failure(what: &str, error: &io::Error) -> ConfigError {
    let code = match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::AddrInUse | ErrorKind::NotFound => config::EX_CANTCREAT,
        ErrorKind::PermissionDenied => config::EX_NOPERM,
        ErrorKind::InvalidInput => config::EX_CONFIG,
        _ => config::EX_OSERR,
    };
    ConfigError { code, line: format!("{what}: {error}") }
}

/// Opens all tables, tries to reach all backends, and reports.
fn check(config: &Config) -> Result<u8, ConfigError> {
    let (tables, backend) = podop::open(&config.tables)?;
    let (mut report, mut code) = (String::new(), 0);
    for (endpoint, mode) in &config.listeners {
        let state = match Listener::check(endpoint) {
            Ok(()) => format!("mode {mode}"),
            Err(error) => {
                code = config::EX_CANTCREAT;
                format!("cannot be made: {error}")
            }
        };
        report += &format!("socket {endpoint} {state}\n");
    }
    for table in &tables {
        report += &format!("table {} is usable\n", table.name);
    }
    for (label, target, tls) in backend.targets() {
        let reached = reach(target, tls);
        let result = match &reached {
            Ok(address) => format!("is reachable at {address}"),
            Err((_, error)) => error.clone(),
        };
        code = code.max(reached.err().map_or(0, |(code, _)| code));
        report += &format!("backend {label} {result}\n");
    }
    print(report.as_bytes());
    Ok(code)
}

/// Connects to a backend: the address that took the connection, or an exit code and what is wrong.
fn reach(target: &Target, tls: Option<&TlsConnector>) -> Result<String, (u8, String)> {
    let unreachable = |error: &io::Error| (config::EX_UNAVAILABLE, format!("is not reachable: {error}"));
    match target {
        Target::Unix(path) => match UnixStream::connect(path) {
            Ok(_) => Ok(path.display().to_string()),
            Err(error) => Err(unreachable(&error)),
        },
        Target::Tcp(host, port) => {
            let addresses = (host.as_str(), *port).to_socket_addrs();
            let addresses = addresses.map_err(|error| (config::EX_NOHOST, format!("has no address: {error}")))?;
            let mut result = Err((config::EX_NOHOST, "has no address".to_owned()));
            for address in addresses {
                let secured = TcpStream::connect_timeout(&address, CONNECT).map_err(|error| unreachable(&error));
                let secured = secured.and_then(|stream| match tls {
                    None => Ok(address.to_string()),
                    Some(client) => shake_hands(stream, client)
                        .map(|version| format!("{address} with TLS {version}"))
                        .map_err(|error| (config::EX_UNAVAILABLE, format!("failed the TLS handshake: {error}"))),
                });
                match secured {
                    Ok(reached) => return Ok(reached),
                    Err(error) => result = Err(error),
                }
            }
            result
        }
    }
}

/// Does a TLS handshake, and returns its version, with what there is to say of client certificates, or what is wrong.
fn shake_hands(mut stream: TcpStream, client: &TlsConnector) -> Result<String, String> {
    let (mut session, mut chunk, mut plain) = (TlsSession::new(client)?, vec![0; 16 * 1024], Vec::new());
    let mut until = Instant::now() + HANDSHAKE;
    let mut judged = false;
    loop {
        let output = session.output().len();
        let written = stream.write_all(session.output());
        session.sent(output);
        match session.end() {
            Some(SessionEnd::Broken(error)) => return Err(error.clone()),
            Some(SessionEnd::Closed | SessionEnd::Early) => return Err("it closed the connection".to_owned()),
            None => written.map_err(|error| error.to_string())?,
        }
        if session.is_ready() {
            // With TLS 1.3 the client is done before the server has seen its certificate: an alert may follow.
            if session.was_asked().is_none() || session.version() != "1.3" {
                break;
            }
            if !judged {
                (judged, until) = (true, until.min(Instant::now() + VERDICT));
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        let count = match left {
            Duration::ZERO => Err(ErrorKind::WouldBlock.into()),
            left => stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut chunk)),
        };
        match count {
            Ok(0) => return Err("it closed the connection".to_owned()),
            Ok(count) => session.receive(&chunk[..count], &mut plain),
            Err(error) if error.kind() == ErrorKind::WouldBlock && judged => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err("it did not answer in time".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
    }
    let _ = stream.write_all(&session.close_notify()); // polite, and nothing depends on it
    let asked = match session.was_asked() {
        None => "",
        Some(true) => ", and gets the client certificate that it asks for",
        Some(false) => ", but asks for a client certificate, and gets none that it can check (cert=)",
    };
    Ok(format!("{}{asked}", session.version()))
}

/// Asks a running Podop: 0 for a value, 1 for none, 75 for a failure.
fn query(question: &QueryCommand) -> u8 {
    let (code, reason) = match ask::ask(question) {
        Ok(Found::Value(value)) => return print(&[&value[..], b"\n"].concat()),
        Ok(Found::Nothing) => (1, "not found".to_owned()),
        Ok(Found::Failure(reason)) => (config::EX_TEMPFAIL, reason),
        Err(error) => (config::EX_TEMPFAIL, format!("{}: {error}", question.socket)),
    };
    let _ = writeln!(io::stderr(), "podop: {reason} (exit code {code})"); // the exit code says it too
    code
}

fn print(text: &[u8]) -> u8 {
    if io::stdout().write_all(text).is_ok() { 0 } else { config::EX_OSERR }
}
