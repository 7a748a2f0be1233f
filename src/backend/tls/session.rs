//! One TLS connection to a backend (RFC 8446, RFC 5246): bytes in and out, without I/O.

use super::credentials::{CertificateRequest, Identity, TlsConnector};
use super::handshake::{Handshake, RETAINED, SessionEnd};
use crate::buffer::Output;
use rustls::{AlertDescription, CertificateError, ClientConnection, Error, HandshakeKind, ProtocolVersion};
use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::sync::Arc;

/// Plaintext of one record (RFC 8446, 5.1).
const MAX_RECORD: usize = 16 * 1024; // bytes

/// Maximum number of records that are sent with the same keys.
// Far below the limit of the ciphers (RFC 8446, 5.5), at which `rustls` ends a connection with TLS 1.2 in the middle of
// a request, which would then count as sent. It also makes the server show its certificate from time to time.
const MAX_RECORDS: u32 = 65_536;

/// The position of the bytes received within their record (RFC 8446, 5.1).
// `rustls` returns nothing of a record before it is whole. A record that began to arrive before a request left would be
// taken for its response: on an idle connection, an unsolicited record that was split answered the next lookup.
#[derive(Debug, Default)]
struct RecordPosition {
    header: [u8; 5],
    /// Bytes of the header that have arrived; 0 between two records.
    held: usize,
    /// Bytes that are missing behind a whole header.
    missing: usize,
}

impl RecordPosition {
    /// Takes as many bytes as belong to one record, and returns their number.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let head = (self.header.len() - self.held).min(bytes.len());
        self.header[self.held..self.held + head].copy_from_slice(&bytes[..head]);
        self.held += head;
        if self.held < self.header.len() {
            return head;
        }
        if head > 0 {
            self.missing = u16::from_be_bytes([self.header[3], self.header[4]]).into();
        }
        let body = self.missing.min(bytes.len() - head);
        self.missing -= body;
        if self.missing == 0 {
            self.held = 0;
        }
        head + body
    }

    fn is_within(&self) -> bool {
        self.held > 0
    }
}

/// One TLS connection.
///
/// handshake ── finished ──▶ ready ── close_notify, alert, no TLS ──▶ ended
pub struct TlsSession(Box<Inner>);

struct Inner {
    tls: ClientConnection,
    identity: Arc<Identity>,
    position: RecordPosition,
    /// The record that is arriving had begun before a request left.
    unsolicited: bool,
    /// Whether the server has requested a client certificate, now or when the session began that was resumed.
    certificate: CertificateRequest,
    /// Records for the socket.
    output: Output,
    /// Total of bytes that were put into `output`, and that left it.
    queued: u64,
    left: u64,
    /// Where in the output records with plaintext end, and how much each has.
    // A request counts as sent when its record has left as a whole, as the server cannot decrypt a part of one.
    records: VecDeque<(u64, usize)>,
    /// Records with plaintext so far.
    encrypted: u32,
    end: Option<SessionEnd>,
}

impl std::fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSession").field("handshake", &self.handshake()).field("end", &self.0.end).finish()
    }
}

impl TlsSession {
    /// Begins a handshake: there is output.
    pub fn new(connector: &TlsConnector) -> Result<Self, String> {
        let tls = ClientConnection::new(connector.config.clone(), connector.name.clone());
        let mut inner = Inner {
            tls: tls.map_err(|error| error.to_string())?,
            identity: connector.identity.clone(),
            position: RecordPosition::default(),
            unsolicited: false,
            certificate: None,
            output: Output::retaining(RETAINED),
            queued: 0,
            left: 0,
            records: VecDeque::new(),
            encrypted: 0,
            end: None,
        };
        inner.collect();
        Ok(Self(Box::new(inner)))
    }

    /// The handshake, once it is complete: the server is authenticated, and may be sent requests.
    pub fn handshake(&self) -> Option<Handshake> {
        let tls = &self.0.tls;
        if tls.is_handshaking() {
            return None;
        }
        let version = match tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            _ => "?",
        };
        let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        Some(Handshake { resumed, version, certificate: self.0.certificate })
    }

    /// Takes bytes from the socket, and appends their plaintext to `plain`. There may be output and an
    /// [`TlsSession::end`] afterwards.
    pub fn receive(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) {
        let inner = &mut *self.0;
        while !bytes.is_empty() && inner.end.is_none() {
            let (record, rest) = bytes.split_at(inner.position.take(bytes));
            bytes = rest;
            inner.receive_of_record(record, plain);
        }
        inner.collect();
    }

    /// True if a response with this status may be about the client certificate and not about the key: the server has
    /// requested one, and denies access, or refuses the request and closes the connection.
    // The latter is what nginx does without a certificate that it accepts (its 495 and 496, sent as 400). As a miss it
    // would bounce all mail.
    pub fn is_certificate_status(&self, status: u16, keep_alive: bool) -> bool {
        let Some(shown) = self.0.certificate else { return false };
        match status {
            400 => !shown || !keep_alive,
            401 | 403 => true,
            _ => false,
        }
    }

    /// Why it has ended, if it has.
    pub fn end(&self) -> Option<&SessionEnd> {
        self.0.end.as_ref()
    }

    /// Encrypts plaintext into records; only after the handshake.
    pub fn encrypt(&mut self, plain: &[u8]) {
        let inner = &mut *self.0;
        for piece in plain.chunks(MAX_RECORD) {
            // There is always room, as nothing is left in its own buffer. Were it not so, the deadline would end the
            // request.
            // One record at a time, so that the end of each in the output is known.
            if inner.tls.writer().write_all(piece).is_err() {
                return;
            }
            inner.collect();
            inner.records.push_back((inner.queued, piece.len()));
            inner.encrypted += 1;
        }
    }

    /// True if its keys have encrypted as many records as one connection may.
    pub fn key_limit_reached(&self) -> bool {
        self.0.encrypted >= MAX_RECORDS
    }

    /// The bytes to be written to the socket.
    pub fn output(&self) -> &[u8] {
        self.0.output.unsent()
    }

    /// Notes that `count` bytes of the output were written. Returns how much plaintext left with them: no part of a
    /// record can be read before all of it has arrived.
    pub fn sent(&mut self, count: usize) -> usize {
        let inner = &mut *self.0;
        inner.output.advance(count);
        inner.left += count as u64;
        let mut plain = 0;
        while let Some((_, size)) = inner.records.front().filter(|(end, _)| *end <= inner.left) {
            plain += size;
            inner.records.pop_front();
        }
        plain
    }

    /// The plaintext of a record that has begun to arrive is unsolicited: no request had left by that time.
    pub fn mark_unsolicited(&mut self) {
        self.0.unsolicited |= self.0.position.is_within();
    }

    /// The last bytes for the server before the connection is closed: an alert, or `close_notify` (RFC 8446, 6.1).
    /// None if a record is on its way, which is left incomplete.
    pub fn close_notify(&mut self) -> Vec<u8> {
        let inner = &mut *self.0;
        if !inner.records.is_empty() {
            return Vec::new();
        }
        if !inner.tls.is_handshaking() && !matches!(inner.end, Some(SessionEnd::Broken(_))) {
            inner.tls.send_close_notify();
            inner.collect();
        }
        inner.output.unsent().to_vec()
    }
}

impl Inner {
    /// Takes a part of a record, at most to its end.
    fn receive_of_record(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) {
        let handshaking = self.tls.is_handshaking();
        if handshaking {
            self.identity.set_current(self.certificate);
        }
        while !bytes.is_empty() && self.end.is_none() {
            // It reads as much as it has room for.
            self.end = match self.tls.read_tls(&mut bytes).map(|_| self.tls.process_new_packets()) {
                Ok(Ok(state)) if state.peer_has_closed() => Some(SessionEnd::Closed),
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(SessionEnd::Broken(explain(&error, handshaking))),
                Err(error) => Some(SessionEnd::Broken(error.to_string())),
            };
        }
        if handshaking {
            self.certificate = self.identity.current();
            match self.tls.handshake_kind() {
                _ if self.tls.is_handshaking() => {}
                Some(HandshakeKind::Resumed) => self.certificate = self.identity.last_full(),
                _ => self.identity.set_last_full(self.certificate),
            }
        }
        let (before, mut reader) = (plain.len(), self.tls.reader());
        while let Ok(piece @ [_, ..]) = reader.fill_buf() {
            plain.extend_from_slice(piece);
            let count = piece.len();
            reader.consume(count);
        }
        if self.unsolicited && plain.len() > before {
            plain.truncate(before);
            self.end = Some(SessionEnd::Unsolicited);
        }
        self.unsolicited &= self.position.is_within();
    }

    /// Moves records from `rustls` into the output.
    fn collect(&mut self) {
        while let Ok(count @ 1..) = self.tls.write_tls(self.output.writer()) {
            self.queued += count as u64;
        }
    }
}

/// What went wrong, as the end of a sentence of the mail log that begins with the backend.
#[expect(clippy::wildcard_enum_match_arm, reason = "most errors of rustls explain themselves")]
fn explain(error: &Error, handshaking: bool) -> String {
    let certificate = match error {
        Error::InvalidCertificate(certificate) => certificate,
        Error::InvalidMessage(_) if handshaking => return "it does not speak TLS".to_owned(),
        Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            return "it does not speak HTTP/1.1".to_owned();
        }
        Error::AlertReceived(AlertDescription::Unknown(number)) => return format!("it sent the alert {number}"),
        Error::AlertReceived(alert) => return format!("it sent the alert {}", words(&format!("{alert:?}"))),
        other => return other.to_string(),
    };
    let text = match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet"
        }
        CertificateError::Revoked => "its certificate is revoked",
        CertificateError::BadSignature => "its certificate is not signed by the CA that it names",
        CertificateError::UnknownIssuer => "its certificate is self-signed, or from a CA that is not trusted",
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = names(presented);
            return format!("its certificate is not for {} but for {names}", expected.to_str());
        }
        CertificateError::Other(why) if why.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is that of a CA, not of a server"
        }
        CertificateError::Other(why) => return format!("its certificate is not valid: {}", words(&why.to_string())),
        other => return format!("its certificate is not valid: {}", words(&format!("{other:?}"))),
    };
    text.to_owned()
}

/// The names in a certificate that is not trusted: only the characters of host names, and a limited number of them.
fn names(presented: &[String]) -> String {
    let host = |name: &String| {
        let name = name.split_once('(').map_or(&name[..], |(_, rest)| rest);
        name.chars().filter(|c| c.is_ascii_alphanumeric() || "-._:*".contains(*c)).take(80).collect::<String>()
    };
    let named: Vec<String> = presented.iter().take(5).map(host).collect();
    if named.is_empty() { "no name at all".to_owned() } else { named.join(", ") }
}

/// `CertificateRequired` as `certificate required`, without what may follow.
fn words(name: &str) -> String {
    let (mut out, mut before) = (String::new(), ' ');
    for letter in name.chars().take_while(char::is_ascii_alphanumeric) {
        if letter.is_ascii_uppercase() && before.is_ascii_lowercase() {
            out.push(' ');
        }
        out.push(letter.to_ascii_lowercase());
        before = letter;
    }
    out
}
