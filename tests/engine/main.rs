//! The engine in memory: no sockets, no processes, and time is a number.
#![allow(unsafe_code, unreachable_pub, clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

/// The metrics listener: requests, deadlines and bounds.
mod admin;
/// Cached answers: their lifetimes, which lookups get them, and how writes invalidate them.
mod caching;
/// The order of commits and lookups of one client, and the memory of commits.
mod commits;
/// Any sequence of requests for decisions.
mod decisions;
/// The dict protocol: versions, order, commits, iterations and bounds.
mod dict;
/// A short run of the fuzz targets on the seeds in `tests/data/fuzz`.
mod fuzz;
/// One key, table, client or backend never harms the others.
mod isolation;
/// Lists that arrive in pieces.
mod lists;
/// Lookups over HTTP: deadlines, connections, retries and redirects.
mod lookups;
/// How much memory the cache takes.
mod memory;
/// What the properties are checked against.
mod model;
/// Lookups in the DNS.
mod mx;
/// Several lookups in flight on one connection.
mod pipelining;
/// Policy delegation.
mod policy;
/// The table type program.
mod programs;
/// Random sequences of events against a model.
mod properties;
/// Several replicas of one backend.
mod replicas;
/// Dovecot's authentication protocol.
mod sasl;
/// Lookups that ask for several keys.
mod search;
/// Keys and replicas that fault, hang and return at random.
mod simulation;
/// TLS to backends: handshakes, certificates, and streams that are cut off.
#[cfg(feature = "tls")]
mod tls;
/// The recorded requests of real Postfix and Dovecot clients.
mod transcripts;

#[path = "../support"]
mod support {
    pub mod dns;
    #[cfg(feature = "tls")]
    pub mod tls;
    #[cfg(feature = "tls")]
    pub mod tls_server;
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub mod world;
}
