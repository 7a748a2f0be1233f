//! Where a backend is reached, and how many connections it gets.

use super::tls::TlsConnector;
use std::path::PathBuf;
use std::time::Duration;

/// Maximum time for a TCP connection to be accepted.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum time for a TLS handshake after that.
// The same, because the roster has both phases in one list that is sorted by itself.
pub(super) const HANDSHAKE_TIMEOUT: Duration = CONNECT_TIMEOUT;

/// Where a backend is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A host name or address, and a port.
    Tcp(String, u16),
    Unix(PathBuf),
}

/// A backend, as tables name it. Tables with equal specifications share its connections.
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
    /// The idle timeout of a connection.
    pub keepalive: Duration,
    /// Maximum number of GETs in flight on one connection.
    pub pipeline: usize,
}
