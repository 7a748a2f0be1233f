//! The program as a child process, with scripted clients and backends on real sockets.
#![allow(unsafe_code, unreachable_pub, clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

/// Exit codes, lines on stderr, socket files, `query` and `--check`.
mod cli;
/// Clients that misbehave.
mod clients;
/// Backends that misbehave, one line per case.
mod faults;
/// Metrics, health and log lines.
mod monitoring;
/// Descriptors, crowds, signals, and a broken stderr.
mod process;
/// Program tables: processes that misbehave.
mod programs;
/// Many lookups at once, restarts, and what reaches the backend.
mod sockets;
/// Backends behind TLS: slow handshakes, broken records, certificates that change, `--check`.
#[cfg(feature = "tls")]
mod tls;

#[path = "../support"]
#[allow(dead_code)] // shared with `tests/real`
mod support {
    pub mod http;
    pub mod podop;
    pub mod port;
    pub mod tls;
}
