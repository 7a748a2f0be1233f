//! TLS between the socket and HTTP (RFC 8446, RFC 5246): bytes in and out, without I/O.
//!
//! Certificates are always verified, as `rustls` does it: there is no switch that turns that off.
//!
//! The provider of its cryptography is `ring`. With `aws-lc-rs` the program would be twice as large (4.4 instead of
//! 2.3 MB). Records are as fast with either; handshakes, which are rare, would take 9 % less in full with TLS 1.3 and 14 %
//! less resumed. Post-quantum key exchange would be the reason to change: `rustls` has it with `aws-lc-rs` only.

use crate::buffer::Output;
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue, WebPkiServerVerifier,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Error, HandshakeKind, NamedGroup,
    ProtocolVersion, RootCertStore, SignatureScheme,
};
use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether this build has TLS.
pub const SUPPORTED: bool = true;

/// Plaintext of one record (RFC 8446, 5.1).
const MAX_RECORD: usize = 16 * 1024; // bytes

/// Records that are sent with the same keys: far fewer than they are good for (RFC 8446, 5.5), where `rustls` would end a
/// connection with TLS 1.2 in the middle of a request; and a server shows its certificate now and then.
const MAX_RECORDS: u32 = 65_536;

/// Sessions that are kept for the next connections: a ticket is used once (RFC 8446, C.4), and after a pause as many
/// connections are made at once as a burst of lookups needs.
const MAX_TICKETS: usize = 64;

/// Memory for output that is kept for the next requests.
const KEPT: usize = 8 * 1024; // bytes

/// Who is trusted to be a server.
#[derive(Debug)]
pub enum Roots<'a> {
    /// Certificates in DER, of which those that cannot be used are left out.
    System(&'a [Vec<u8>]),
    /// Certificates, and revocation lists if there are any, in PEM. All have to be usable.
    Pem(&'a [u8]),
}

/// A certificate with its chain, and its key, in PEM; both may be the same text.
#[derive(Debug)]
pub struct KeyPair<'a> {
    pub cert: &'a [u8],
    pub key: &'a [u8],
}

/// Which setting cannot be used, and why.
#[derive(Debug, Eq, PartialEq)]
pub struct TlsConfigError {
    pub setting: &'static str,
    pub why: String,
}

/// What is wrong with a file of which a part cannot be read. The error itself shows bytes.
const BROKEN: &str = "has a part that begins like PEM and is not";

fn config_error(setting: &'static str, why: impl ToString) -> TlsConfigError {
    TlsConfigError { setting, why: why.to_string() }
}

/// What connections are secured with: who is trusted, and as whom Podop appears.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    config: ClientConfig,
    pair: Option<Arc<CertifiedKey>>,
    text: String,
}

impl TlsConfig {
    /// `text` tells what they are made from.
    pub fn new(roots: &Roots<'_>, pair: Option<&KeyPair<'_>>, text: String) -> Result<Self, TlsConfigError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (store, lists) = roots.read()?;
        let verifier = WebPkiServerVerifier::builder_with_provider(store.into(), provider.clone())
            .with_crls(lists)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|_| config_error("ca", "has a revocation list that cannot be used; version 2 is wanted"))?;
        let pair = pair.map(|pair| pair.read(&provider)).transpose()?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has what both versions need")
            .with_webpki_verifier(verifier)
            .with_no_client_auth(); // until there is a client
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config, pair, text })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// For a server whose certificate has to name this host or IP address.
    pub fn client(&self, name: &str) -> Result<TlsConnector, TlsConfigError> {
        let name = ServerName::try_from(name.to_owned()).map_err(|error| config_error("servername", error))?;
        let identity =
            Arc::new(Identity { pair: self.pair.clone(), asked: Mutex::default(), before: Mutex::default() });
        let mut config = self.config.clone();
        config.client_auth_cert_resolver = identity.clone();
        config.resumption = Resumption::store(Arc::new(Tickets::default()));
        Ok(TlsConnector { config: Arc::new(config), name, identity, terms: self.text.clone() })
    }
}

/// How connections to one server are secured.
#[derive(Clone, Debug)]
pub struct TlsConnector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    identity: Arc<Identity>,
    terms: String,
}

/// Two are the same if they were asked for in the same terms, whatever has come of them.
impl PartialEq for TlsConnector {
    fn eq(&self, other: &Self) -> bool {
        self.terms == other.terms && self.name == other.name
    }
}

impl Roots<'_> {
    fn read(&self) -> Result<(RootCertStore, Vec<CertificateRevocationListDer<'static>>), TlsConfigError> {
        let (mut store, mut lists) = (RootCertStore::empty(), Vec::new());
        match self {
            Roots::System(certificates) => {
                store.add_parsable_certificates(certificates.iter().map(|der| CertificateDer::from(&der[..])));
                if store.is_empty() {
                    return Err(config_error(
                        "ca",
                        "the system trusts nobody: install ca-certificates, or name a file",
                    ));
                }
            }
            Roots::Pem(text) => {
                for certificate in CertificateDer::pem_slice_iter(text) {
                    let certificate = certificate.map_err(|_| config_error("ca", BROKEN))?;
                    store.add(certificate).map_err(|_| config_error("ca", "has a certificate that cannot be used"))?;
                }
                for list in CertificateRevocationListDer::pem_slice_iter(text) {
                    lists.push(list.map_err(|_| config_error("ca", BROKEN))?);
                }
                if store.is_empty() {
                    return Err(config_error("ca", "has no certificate in PEM"));
                }
            }
        }
        Ok((store, lists))
    }
}

impl KeyPair<'_> {
    fn read(&self, provider: &rustls::crypto::CryptoProvider) -> Result<Arc<CertifiedKey>, TlsConfigError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.cert).collect();
        let chain = chain.map_err(|_| config_error("cert", BROKEN))?;
        if chain.is_empty() {
            return Err(config_error("cert", "has no certificate in PEM"));
        }
        // The error does not repeat what it has read.
        let key = PrivateKeyDer::from_pem_slice(self.key)
            .map_err(|_| config_error("key", "has no private key in PEM, or it is encrypted"))?;
        let pair = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(_) => config_error("key", "does not belong to the certificate"),
            error => config_error("key", error),
        })?;
        Ok(Arc::new(pair))
    }
}

/// As whom Podop shows itself, if anybody asks.
#[derive(Debug)]
struct Identity {
    pair: Option<Arc<CertifiedKey>>,
    /// What the handshake that is going on has brought, and the last one before that was done in full.
    asked: Mutex<CertificateRequest>,
    before: Mutex<CertificateRequest>,
}

/// Whether a server has asked for a certificate, and then whether it was shown one.
type CertificateRequest = Option<bool>;

impl rustls::client::ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // A key that the server cannot check is not shown.
        let pair = self.pair.clone().filter(|pair| pair.key.choose_scheme(schemes).is_some());
        *lock(&self.asked) = Some(pair.is_some());
        pair
    }

    /// Without it `rustls` would not ask what there is.
    fn has_certs(&self) -> bool {
        true
    }
}

/// Sessions of one server that may be resumed, the newest first: the older ones may be out of date there. The store that
/// `rustls` brings keeps 8 tickets of a server.
#[derive(Debug, Default)]
struct Tickets(Mutex<Sessions>);

#[derive(Debug, Default)]
struct Sessions {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl Tickets {
    fn with<T>(&self, act: impl FnOnce(&mut Sessions) -> T) -> T {
        act(&mut lock(&self.0))
    }
}

/// There is only one thread that locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.with(|kept| kept.group = Some(group));
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.with(|kept| kept.group)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.with(|kept| kept.tls12 = Some(value));
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.with(|kept| kept.tls12.clone())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.with(|kept| kept.tls12 = None);
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.with(|kept| {
            if kept.tls13.len() == MAX_TICKETS {
                kept.tls13.pop_front();
            }
            kept.tls13.push_back(value);
        });
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.with(|kept| kept.tls13.pop_back())
    }
}

/// What has ended a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SessionEnd {
    /// The server will send no more (`close_notify`).
    Closed,
    /// An alert, or what is not TLS; `Display` of a fault puts the origin in front.
    Broken(String),
    /// It said something in a record that had begun before it was asked.
    Early,
}

/// Where what has arrived stands in its record (RFC 8446, 5.1). `rustls` shows nothing of a record before it is whole;
/// whether it had begun before a request left, it does not tell.
#[derive(Debug, Default)]
struct Frame {
    header: [u8; 5],
    /// Bytes of the header that are there; none between two records.
    held: usize,
    /// Bytes that are missing behind a whole header.
    missing: usize,
}

impl Frame {
    /// Takes as much as belongs to one record, and returns how much that is.
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

    fn is_begun(&self) -> bool {
        self.held > 0
    }
}

/// One TLS connection.
///
/// handshake ── finished ──▶ ready ── close_notify, alert, nonsense ──▶ ended
pub struct TlsSession(Box<Inner>);

struct Inner {
    tls: ClientConnection,
    identity: Arc<Identity>,
    frame: Frame,
    /// The record that is arriving was not asked for when it began.
    early: bool,
    /// Whether the server has asked for a certificate, now or when the session began that was resumed.
    asked: CertificateRequest,
    /// Records for the socket.
    output: Output,
    /// Bytes that were put into `output`, and that left it, since the beginning.
    queued: u64,
    gone: u64,
    /// Where in the output records with plaintext end, and how much each holds.
    records: VecDeque<(u64, usize)>,
    /// Records with plaintext so far.
    sealed: u32,
    end: Option<SessionEnd>,
}

impl std::fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSession").field("ready", &self.is_ready()).field("end", &self.0.end).finish()
    }
}

impl TlsSession {
    /// Begins a handshake: there is output.
    pub fn new(client: &TlsConnector) -> Result<Self, String> {
        let tls =
            ClientConnection::new(client.config.clone(), client.name.clone()).map_err(|error| error.to_string())?;
        let mut inner = Inner {
            tls,
            identity: client.identity.clone(),
            frame: Frame::default(),
            early: false,
            asked: CertificateRequest::default(),
            output: Output::keeping(KEPT),
            queued: 0,
            gone: 0,
            records: VecDeque::new(),
            sealed: 0,
            end: None,
        };
        inner.collect();
        Ok(Self(Box::new(inner)))
    }

    /// True once the handshake is done: the server is who it should be, and may be asked.
    pub fn is_ready(&self) -> bool {
        !self.0.tls.is_handshaking()
    }

    /// True if the handshake was shortened, as the server remembered an older connection.
    pub fn is_resumed(&self) -> bool {
        self.0.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// `1.2` or `1.3`.
    pub fn version(&self) -> &'static str {
        match self.0.tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            _ => "?",
        }
    }

    /// Takes what has arrived, and appends what it says to `plain`. There may be output afterwards, and an
    /// [`TlsSession::end`].
    pub fn receive(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) {
        let inner = &mut *self.0;
        while !bytes.is_empty() && inner.end.is_none() {
            let (record, rest) = bytes.split_at(inner.frame.take(bytes));
            bytes = rest;
            inner.receive_of_record(record, plain);
        }
        inner.collect();
    }

    /// True if an answer with this status, after which the connection is kept or not, may be about the client's
    /// certificate and not about the key: the server has asked for one, and denies access, or refuses the request and the
    /// connection with it, as nginx does without a certificate that it likes (its 495 and 496, sent as 400).
    pub fn is_uncertified(&self, status: u16, keep: bool) -> bool {
        let Some(shown) = self.0.asked else { return false };
        match status {
            400 => !shown || !keep,
            401 | 403 => true,
            _ => false,
        }
    }

    /// Whether the server has asked for a certificate, and then whether it was shown one.
    pub fn was_asked(&self) -> Option<bool> {
        self.0.asked
    }

    /// What has ended it, if anything has.
    pub fn end(&self) -> Option<&SessionEnd> {
        self.0.end.as_ref()
    }

    /// Makes records of what is to be sent; only once it is ready.
    pub fn encrypt(&mut self, plain: &[u8]) {
        let inner = &mut *self.0;
        for piece in plain.chunks(MAX_RECORD) {
            // There is always room, as nothing is left in its own buffer. What is not sent is waited for in vain.
            if inner.tls.writer().write_all(piece).is_err() {
                return;
            }
            inner.collect();
            inner.records.push_back((inner.queued, piece.len()));
            inner.sealed += 1;
        }
    }

    /// True if its keys were used so often that a new connection should follow.
    pub fn key_limit_reached(&self) -> bool {
        self.0.sealed >= MAX_RECORDS
    }

    /// What is to be written to the socket.
    pub fn output(&self) -> &[u8] {
        self.0.output.unsent()
    }

    /// Notes that `count` bytes of the output were written. Returns how much plaintext left with them: nobody can read
    /// any of a record before all of it is there.
    pub fn sent(&mut self, count: usize) -> usize {
        let inner = &mut *self.0;
        inner.output.advance(count);
        inner.gone += count as u64;
        let mut plain = 0;
        while let Some((_, size)) = inner.records.front().filter(|(end, _)| *end <= inner.gone) {
            plain += size;
            inner.records.pop_front();
        }
        plain
    }

    /// What a record says that has begun to arrive is not taken: it was not asked for by then.
    pub fn distrust(&mut self) {
        self.0.early |= self.0.frame.is_begun();
    }

    /// The last bytes for the server before the connection is closed: why it is, or `close_notify` (RFC 8446, 6.1).
    /// Nothing if a record is on its way, which is left incomplete.
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
        let shaking = self.tls.is_handshaking();
        if shaking {
            *lock(&self.identity.asked) = self.asked;
        }
        while !bytes.is_empty() && self.end.is_none() {
            // It reads as much as it has room for.
            self.end = match self.tls.read_tls(&mut bytes).map(|_| self.tls.process_new_packets()) {
                Ok(Ok(state)) if state.peer_has_closed() => Some(SessionEnd::Closed),
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(SessionEnd::Broken(explain(&error, shaking))),
                Err(error) => Some(SessionEnd::Broken(error.to_string())),
            };
        }
        if shaking {
            self.asked = *lock(&self.identity.asked);
            match self.tls.handshake_kind() {
                _ if self.tls.is_handshaking() => {}
                Some(HandshakeKind::Resumed) => self.asked = *lock(&self.identity.before),
                _ => *lock(&self.identity.before) = self.asked,
            }
        }
        let (before, mut reader) = (plain.len(), self.tls.reader());
        while let Ok(piece @ [_, ..]) = reader.fill_buf() {
            plain.extend_from_slice(piece);
            let count = piece.len();
            reader.consume(count);
        }
        if self.early && plain.len() > before {
            plain.truncate(before);
            self.end = Some(SessionEnd::Early);
        }
        self.early &= self.frame.is_begun();
    }

    /// Takes over what is to be sent.
    fn collect(&mut self) {
        while let Ok(count @ 1..) = self.tls.write_tls(self.output.end()) {
            self.queued += count as u64;
        }
    }
}

/// What went wrong, as the end of a sentence of the mail log that begins with the server. `shaking` means that no
/// handshake was done before.
fn explain(error: &Error, shaking: bool) -> String {
    let certificate = match error {
        Error::InvalidCertificate(certificate) => certificate,
        Error::InvalidMessage(_) if shaking => return "it does not speak TLS".to_owned(),
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

/// The names in a certificate that nobody has vouched for: only what names are made of, and not too much of it.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let name = name.split_once('(').map_or(&name[..], |(_, rest)| rest);
        name.chars().filter(|c| c.is_ascii_alphanumeric() || "-._:*".contains(*c)).take(80).collect::<String>()
    };
    let named: Vec<String> = presented.iter().take(5).map(bare).collect();
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
