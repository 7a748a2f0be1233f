//! Trusted roots, the client certificate, and sessions to be resumed.
//!
//! Certificates are always verified, as `rustls` does it: there is no switch that turns that off.
//!
//! The provider of its cryptography is `ring`. With `aws-lc-rs` the program would be twice as large (4.4 instead of 2.3
//! MB). Records are as fast with either; handshakes, which are rare, would take 9 % less in full with TLS 1.3 and 14 %
//! less resumed. Post-quantum key exchange would be the reason to change: `rustls` has it with `aws-lc-rs` only.

use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue, WebPkiServerVerifier,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error, NamedGroup, RootCertStore, SignatureScheme};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maximum number of tickets stored for one server.
// Each is used once (RFC 8446, C.4), and a burst of lookups after a pause opens many connections at once: the 8 of the
// store that `rustls` has would be used up.
const MAX_TICKETS: usize = 64;

/// The trusted roots.
#[derive(Debug)]
pub enum Roots<'a> {
    /// Certificates in DER. Those that cannot be used are ignored.
    System(&'a [Vec<u8>]),
    /// Certificates, and revocation lists if there are any, in PEM. All have to be valid.
    Pem(&'a [u8]),
}

/// A certificate with its chain, and its key, in PEM; both may be the same text.
#[derive(Debug)]
pub struct KeyPair<'a> {
    pub cert: &'a [u8],
    pub key: &'a [u8],
}

/// A setting that cannot be used, and why.
#[derive(Debug, Eq, PartialEq)]
pub struct TlsConfigError {
    pub setting: &'static str,
    pub why: String,
}

/// The reason for a file that cannot be decoded.
// The error of the decoder is not repeated, as it has bytes of the file, which may be a private key.
const BROKEN: &str = "has a part that is not valid PEM";

fn config_error(setting: &'static str, why: impl ToString) -> TlsConfigError {
    TlsConfigError { setting, why: why.to_string() }
}

/// What the connections of several backends are secured with: trusted roots and a client certificate.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    config: ClientConfig,
    pair: Option<Arc<CertifiedKey>>,
    source: String,
}

impl TlsConfig {
    /// `source` identifies the files that it is made from.
    pub fn new(roots: &Roots<'_>, pair: Option<&KeyPair<'_>>, source: String) -> Result<Self, TlsConfigError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (store, lists) = roots.read()?;
        let verifier = WebPkiServerVerifier::builder_with_provider(store.into(), provider.clone())
            .with_crls(lists)
            // A list covers the certificates of its own issuer only; chains with other issuers must pass.
            .allow_unknown_revocation_status()
            .build()
            .map_err(|_| config_error("ca", "has a revocation list that cannot be used: version 2 is expected"))?;
        let pair = pair.map(|pair| pair.read(&provider)).transpose()?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has what both versions need")
            .with_webpki_verifier(verifier)
            .with_no_client_auth(); // replaced for each server, see `connector`
        // Without it a server that prefers HTTP/2 might choose that.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config, pair, source })
    }

    /// The files that it was made from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The connector for a server whose certificate has to name this host or IP address.
    pub fn connector(&self, name: &str) -> Result<TlsConnector, TlsConfigError> {
        let name = ServerName::try_from(name.to_owned()).map_err(|error| config_error("servername", error))?;
        let identity =
            Arc::new(Identity { pair: self.pair.clone(), current: Mutex::default(), last_full: Mutex::default() });
        let mut config = self.config.clone();
        config.client_auth_cert_resolver = identity.clone();
        config.resumption = Resumption::store(Arc::new(Tickets::default()));
        Ok(TlsConnector { config: Arc::new(config), name, identity, source: self.source.clone() })
    }
}

/// How connections to one server are secured.
#[derive(Clone, Debug)]
pub struct TlsConnector {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    pub(super) identity: Arc<Identity>,
    /// The files that its configuration was made from.
    source: String,
}

/// Two are equal if their configurations were made from the same files, whatever their content.
// So that tables with the same settings share a backend.
impl PartialEq for TlsConnector {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.name == other.name
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
                        "the system has no trusted roots: install ca-certificates, or name a file",
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
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other errors explain themselves")]
    fn read(&self, provider: &rustls::crypto::CryptoProvider) -> Result<Arc<CertifiedKey>, TlsConfigError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.cert).collect();
        let chain = chain.map_err(|_| config_error("cert", BROKEN))?;
        if chain.is_empty() {
            return Err(config_error("cert", "has no certificate in PEM"));
        }
        // The error of the decoder is not repeated here either.
        let key = PrivateKeyDer::from_pem_slice(self.key)
            .map_err(|_| config_error("key", "has no private key in PEM, or it is encrypted"))?;
        let pair = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(_) => config_error("key", "does not belong to the certificate"),
            error => config_error("key", error),
        })?;
        Ok(Arc::new(pair))
    }
}

/// The client certificate, and whether servers have requested it.
// `rustls` reports a request only by calling `resolve`.
#[derive(Debug)]
pub(super) struct Identity {
    pair: Option<Arc<CertifiedKey>>,
    /// The handshake in progress.
    current: Mutex<CertificateRequest>,
    /// The last full handshake.
    // A resumed handshake has no request; whether a certificate was requested and shown belongs to the session.
    last_full: Mutex<CertificateRequest>,
}

/// Whether a server has requested a certificate, and then whether it got one.
pub(super) type CertificateRequest = Option<bool>;

impl Identity {
    /// Begins or continues a handshake in which `request` has happened so far.
    pub(super) fn set_current(&self, request: CertificateRequest) {
        *lock(&self.current) = request;
    }

    /// The certificate request of the handshake in progress.
    pub(super) fn current(&self) -> CertificateRequest {
        *lock(&self.current)
    }

    /// A full handshake has ended.
    pub(super) fn set_last_full(&self, request: CertificateRequest) {
        *lock(&self.last_full) = request;
    }

    pub(super) fn last_full(&self) -> CertificateRequest {
        *lock(&self.last_full)
    }
}

impl rustls::client::ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // A certificate that the server cannot check counts as none, and is not sent.
        let pair = self.pair.clone().filter(|pair| pair.key.choose_scheme(schemes).is_some());
        *lock(&self.current) = Some(pair.is_some());
        pair
    }

    /// Without it `rustls` would not call `resolve`.
    fn has_certs(&self) -> bool {
        true
    }
}

/// Sessions of one server that may be resumed.
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
        self.with(|stored| stored.group = Some(group));
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.with(|stored| stored.group)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.with(|stored| stored.tls12 = Some(value));
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.with(|stored| stored.tls12.clone())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.with(|stored| stored.tls12 = None);
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.with(|stored| {
            if stored.tls13.len() == MAX_TICKETS {
                stored.tls13.pop_front();
            }
            stored.tls13.push_back(value);
        });
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        // The newest first: older ones may have expired at the server.
        self.with(|stored| stored.tls13.pop_back())
    }
}
