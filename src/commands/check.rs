//! `--check`: opens all tables, and reports which sockets can be made and which backends can be reached.

use super::print;
use crate::backend::tls::{SessionEnd, TlsConnector, TlsSession};
use crate::backend::{CONNECT, HANDSHAKE, Target};
use crate::config::{self, Config, ConfigError};
use crate::listen::Listener;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a check waits for what a server thinks of its client's certificate.
const VERDICT: Duration = Duration::from_millis(500);

/// Opens all tables, tries to reach all backends, and reports.
pub fn check(config: &Config) -> Result<u8, ConfigError> {
    let (tables, backend) = crate::open(&config.tables)?;
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
