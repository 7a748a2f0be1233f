//! What happens on a connection, and what follows from it.

use super::exchange::{Asker, Exchange};
use super::fault::Fault;
use super::tls::Handshake;
use crate::io::Peer;
use crate::wire::http::Response;

/// An event on a connection.
#[derive(Debug)]
pub(super) enum Arrival<'a> {
    Nothing,
    /// The TLS handshake is complete.
    Open(Handshake),
    /// The response to the exchange at the front, which `Connection::complete` takes out. `surplus` if bytes follow it
    /// that belong to no request.
    Response {
        response: Response<'a>,
        surplus: bool,
    },
    /// A part of the response to the exchange at the front.
    Part(Asker, Vec<u8>),
    /// The connection could not be made.
    ConnectFailed(Fault),
    /// The connection cannot be used any more.
    Closed(CloseReason),
}

impl Arrival<'_> {
    /// Copies what it borrows.
    pub(super) fn into_owned(self) -> Arrival<'static> {
        match self {
            Arrival::Response { response, surplus } => Arrival::Response { response: response.into_owned(), surplus },
            Arrival::Nothing => Arrival::Nothing,
            Arrival::Open(handshake) => Arrival::Open(handshake),
            Arrival::Part(asker, bytes) => Arrival::Part(asker, bytes),
            Arrival::ConnectFailed(fault) => Arrival::ConnectFailed(fault),
            Arrival::Closed(reason) => Arrival::Closed(reason),
        }
    }
}

/// Why a connection is closed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum CloseReason {
    /// It is not needed any more, or must not be used. Nothing is in flight on it.
    Unused,
    /// The last response had `Connection: close`.
    // Apart from `Unused`, because exchanges behind that response are safe to send again.
    Announced,
    Fault(Fault),
}

impl CloseReason {
    /// What the exchanges have failed with that were in flight.
    pub(super) fn into_fault(self) -> Fault {
        match self {
            CloseReason::Unused | CloseReason::Announced => Fault::Closed,
            CloseReason::Fault(fault) => fault,
        }
    }
}

/// What an open connection does after a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum AfterResponse {
    /// Further responses are expected.
    Busy,
    /// It can carry another request.
    Free,
    /// It is to be closed, because the response had `Connection: close`; others are still in flight.
    CloseAnnounced,
    /// It is to be closed; nothing is in flight.
    Close,
}

/// The next part of a response that is streamed. While its asker has enough, it pauses the connection.
#[derive(Debug)]
pub struct BodyPart {
    pub asker: Asker,
    /// What it came from.
    pub connection: Peer,
    pub bytes: Vec<u8>,
}

impl BodyPart {
    pub fn new(asker: Asker, connection: Peer, bytes: Vec<u8>) -> Self {
        Self { asker, connection, bytes }
    }
}

/// The end of an exchange.
#[derive(Debug)]
pub struct Finished<'a> {
    pub exchange: Box<Exchange>,
    pub result: Result<Response<'a>, Fault>,
    /// Whether the backend may have seen the request.
    pub sent: bool,
}
