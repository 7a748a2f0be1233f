//! What is known of a TLS session from outside.

/// Memory for output that an idle connection holds: what sixteen lookups need that are sent at once.
pub(super) const RETAINED: usize = 8 * 1024; // bytes

/// What has ended a TLS session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SessionEnd {
    /// The server will send no more (`close_notify`).
    Closed,
    /// An alert, or bytes that are no TLS, for this reason.
    Broken(String),
    /// Plaintext in a record that had begun before a request had left.
    Unsolicited,
}

/// A completed handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Handshake {
    /// It was shortened, as the server remembered an older connection.
    pub resumed: bool,
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// Whether the server has asked for a client certificate, and then whether it was shown one.
    pub certificate: Option<bool>,
}
