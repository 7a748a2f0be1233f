//! The properties of a TLS session that are visible outside of this folder.

/// Capacity of the output buffer that an idle connection retains.
// Sixteen lookups that are sent at once fit into it.
pub(super) const RETAINED: usize = 8 * 1024; // bytes

/// Why a TLS session has ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SessionEnd {
    /// The server will send no more (`close_notify`).
    Closed,
    /// An alert, or bytes that are not TLS, for this reason.
    Broken(String),
    /// Plaintext in a record that had begun before a request had left.
    Unsolicited,
}

/// A completed handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Handshake {
    /// A session of an earlier connection was resumed.
    pub resumed: bool,
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// Whether the server has requested a client certificate, and then whether it got one.
    pub certificate: Option<bool>,
}
