//! What a backend is reached at, and how many connections it gets.

use super::tls::TlsConnector;
use std::path::PathBuf;
use std::time::Duration;

/// Time for a TCP connection to be accepted.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for a TLS handshake after that; the same, as both wait in one list.
pub(super) const HANDSHAKE_TIMEOUT: Duration = CONNECT_TIMEOUT;

/// What a backend is reached at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A host name or address, and a port.
    Tcp(String, u16),
    Unix(PathBuf),
}

/// A backend, as tables name it. Tables with the same share its connections.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSpec {
    /// Its name in reasons, log and metrics.
    pub label: String,
    pub target: Target,
    pub options: PoolOptions,
    /// How its connections are secured, if they are.
    pub connector: Option<TlsConnector>,
}

/// How many connections a backend gets, and how they are used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolOptions {
    pub connections: usize,
    /// How long a connection stays open that is not used.
    pub keepalive: Duration,
    /// GETs that one connection may owe responses to.
    pub pipeline: usize,
}
