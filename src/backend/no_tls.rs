//! In place of the TLS layer in a build without it: nothing of it can exist, so that it costs nothing.

/// Whether this build has TLS.
pub const SUPPORTED: bool = false;

/// See the build with TLS.
#[derive(Debug)]
pub enum Roots<'a> {
    System(&'a [Vec<u8>]),
    Pem(&'a [u8]),
}

/// See the build with TLS.
#[derive(Debug)]
pub struct KeyPair<'a> {
    pub cert: &'a [u8],
    pub key: &'a [u8],
}

/// See the build with TLS.
#[derive(Debug, Eq, PartialEq)]
pub struct TlsConfigError {
    pub setting: &'static str,
    pub why: String,
}

/// What connections are secured with: nothing.
#[derive(Clone, Debug)]
pub enum TlsConfig {}

impl TlsConfig {
    pub fn new(_: &Roots<'_>, _: Option<&KeyPair<'_>>, _: String) -> Result<Self, TlsConfigError> {
        Err(TlsConfigError { setting: "ca", why: "this build has no TLS".to_owned() })
    }

    pub fn text(&self) -> &str {
        match *self {}
    }

    pub fn client(&self, _: &str) -> Result<TlsConnector, TlsConfigError> {
        match *self {}
    }
}

/// How connections to one server are secured: not at all.
#[derive(Clone, Debug, PartialEq)]
pub enum TlsConnector {}

/// What has ended a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SessionEnd {
    Closed,
    Broken(String),
    Early,
}

/// One TLS connection: there is none.
#[derive(Debug)]
pub enum TlsSession {}

impl TlsSession {
    pub fn new(client: &TlsConnector) -> Result<Self, String> {
        match *client {}
    }

    pub fn is_ready(&self) -> bool {
        match *self {}
    }

    pub fn is_resumed(&self) -> bool {
        match *self {}
    }

    pub fn version(&self) -> &'static str {
        match *self {}
    }

    pub fn receive(&mut self, _: &[u8], _: &mut Vec<u8>) {
        match *self {}
    }

    pub fn is_uncertified(&self, _: u16, _: bool) -> bool {
        match *self {}
    }

    pub fn was_asked(&self) -> Option<bool> {
        match *self {}
    }

    pub fn distrust(&mut self) {
        match *self {}
    }

    pub fn end(&self) -> Option<&SessionEnd> {
        match *self {}
    }

    pub fn encrypt(&mut self, _: &[u8]) {
        match *self {}
    }

    pub fn key_limit_reached(&self) -> bool {
        match *self {}
    }

    pub fn output(&self) -> &[u8] {
        match *self {}
    }

    pub fn sent(&mut self, _: usize) -> usize {
        match *self {}
    }

    pub fn close_notify(&mut self) -> Vec<u8> {
        match *self {}
    }
}
