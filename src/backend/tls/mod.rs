//! The layer between HTTP and the socket of a backend: nothing, or TLS in a build that has it.
//!
//! Everything outside of this folder is the same in both builds, and handles plaintext only.
#![cfg_attr(not(feature = "tls"), allow(unused_variables))]

#[cfg(feature = "tls")]
mod credentials;
mod handshake;
#[cfg(feature = "tls")]
mod session;

#[cfg(feature = "tls")]
pub use credentials::{KeyPair, Roots, TlsConfig, TlsConfigError, TlsConnector};
#[cfg(feature = "tls")]
pub use session::TlsSession;

pub use handshake::{Handshake, SessionEnd};

use crate::buffer::Output;
use handshake::RETAINED;

/// Whether this build has TLS.
pub const SUPPORTED: bool = cfg!(feature = "tls");

/// How connections to one backend are secured: a build without TLS has no such value.
#[cfg(not(feature = "tls"))]
#[derive(Clone, Debug, PartialEq)]
pub enum TlsConnector {}

/// The bytes of one connection on their way between HTTP and the socket.
#[derive(Debug)]
pub(super) struct Transport {
    /// Requests that have not left: for the socket, or to be encrypted.
    requests: Output,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

#[cfg(feature = "tls")]
#[derive(Debug)]
struct Tls {
    session: TlsSession,
    /// Plaintext that has arrived and was not read yet.
    plain: Output,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            requests: Output::retaining(RETAINED),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl Transport {
    /// Begins a TLS handshake: there is output.
    pub(super) fn begin_handshake(&mut self, connector: &TlsConnector) -> Result<(), String> {
        #[cfg(feature = "tls")]
        {
            let session = TlsSession::new(connector)?;
            self.tls = Some(Tls { session, plain: Output::retaining(RETAINED) });
        }
        Ok(())
    }

    pub(super) fn is_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Where requests are appended.
    pub(super) fn requests(&mut self) -> &mut Vec<u8> {
        self.requests.writer()
    }

    /// Has the memory of requests overwritten once they have left.
    pub(super) fn set_secret(&mut self) {
        self.requests.set_secret();
    }

    /// Bytes of requests that have not left.
    pub(super) fn unsent(&self) -> usize {
        self.requests.unsent().len()
    }

    /// The bytes to be written to the socket.
    pub(super) fn output(&mut self) -> &[u8] {
        #[cfg(feature = "tls")]
        if let Some(Tls { session, .. }) = &mut self.tls {
            // Encrypted as late as this, so that requests that leave together share a record.
            if !self.requests.is_empty() {
                session.encrypt(self.requests.unsent());
                self.requests.advance(self.requests.unsent().len());
            }
            return session.output();
        }
        self.requests.unsent()
    }

    /// Notes that the kernel took `count` bytes of the output. Returns how many bytes of requests have left with them.
    /// `awaited` is whether a response was due before.
    pub(super) fn sent(&mut self, count: usize, awaited: bool) -> usize {
        #[cfg(feature = "tls")]
        if let Some(Tls { session, .. }) = &mut self.tls {
            let plain = session.sent(count);
            // A record that had begun to arrive is no response to a request that had not left as a whole.
            if plain > 0 && !awaited {
                session.mark_unsolicited();
            }
            return plain;
        }
        self.requests.advance(count);
        count
    }

    /// Decrypts bytes from the socket. There may be plaintext, output and an end afterwards.
    pub(super) fn decrypt(&mut self, bytes: &[u8]) {
        #[cfg(feature = "tls")]
        if let Some(Tls { session, plain }) = &mut self.tls {
            session.receive(bytes, plain.writer());
        }
    }

    /// Plaintext that has arrived. [`Transport::advance`] removes the bytes that were read.
    pub(super) fn plaintext(&self) -> &[u8] {
        #[cfg(feature = "tls")]
        if let Some(Tls { plain, .. }) = &self.tls {
            return plain.unsent();
        }
        &[]
    }

    pub(super) fn advance(&mut self, count: usize) {
        #[cfg(feature = "tls")]
        if let Some(Tls { plain, .. }) = &mut self.tls {
            plain.advance(count);
        }
    }

    /// The handshake, once it is complete.
    pub(super) fn handshake(&self) -> Option<Handshake> {
        #[cfg(feature = "tls")]
        if let Some(Tls { session, .. }) = &self.tls {
            return session.handshake();
        }
        None
    }

    /// Why the session has ended, if it has.
    pub(super) fn end(&self) -> Option<&SessionEnd> {
        #[cfg(feature = "tls")]
        if let Some(Tls { session, .. }) = &self.tls {
            return session.end();
        }
        None
    }

    /// True if a response with this status may be about the client certificate and not about the request. `keep_alive`
    /// is whether the connection stays open after it.
    pub(super) fn is_certificate_status(&self, status: u16, keep_alive: bool) -> bool {
        #[cfg(feature = "tls")]
        if let Some(Tls { session, .. }) = &self.tls {
            return session.is_certificate_status(status, keep_alive);
        }
        false
    }

    /// True if the keys have encrypted as many records as one connection may.
    pub(super) fn key_limit_reached(&self) -> bool {
        #[cfg(feature = "tls")]
        if let Some(Tls { session, .. }) = &self.tls {
            return session.key_limit_reached();
        }
        false
    }

    /// The last bytes for the server before the connection is closed.
    pub(super) fn close_notify(&mut self) -> Vec<u8> {
        #[cfg(feature = "tls")]
        if let Some(Tls { session, .. }) = &mut self.tls {
            return session.close_notify();
        }
        Vec::new()
    }
}
