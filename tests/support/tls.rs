//! Certificates that a test issues itself, and the configuration of a server with one.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

pub const BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// A CA with a folder for what it issues.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// A certificate and its key, in PEM.
pub struct Leaf {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Authority {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        Self::named(&format!("CA {} of a test", COUNT.fetch_add(1, Ordering::SeqCst)))
    }

    pub fn named(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer, dir: tempfile::tempdir().unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes a file into its folder.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `alias:ca=FILE`, for `--option`.
    pub fn option(&self) -> String {
        format!("alias:ca={}", self.file("ca.pem", &self.pem()))
    }

    /// A certificate for these host names and addresses, with the serial number 1.
    pub fn issue(&self, names: &[&str]) -> Leaf {
        self.issue_with(names, |_| {})
    }

    pub fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let (params, key) = params(names, change);
        Leaf { cert: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    /// A list that revokes the certificates with the serial number 1.
    pub fn revoke(&self) -> String {
        let then = rcgen::date_time_ymd(2024, 1, 1);
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(1),
            revocation_time: then,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: then,
            next_update: rcgen::date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// A self-signed certificate.
pub fn self_signed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
    let (params, key) = params(names, change);
    Leaf { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn params(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (CertificateParams, KeyPair) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.serial_number = Some(SerialNumber::from(1));
    params.use_authority_key_identifier_extension = true;
    change(&mut params);
    (params, KeyPair::generate().unwrap())
}

/// Which certificates a server requests of its clients.
pub enum Wants<'a> {
    Nothing,
    /// A certificate of this CA.
    Certificate(&'a Authority),
    /// The same, if there is one: as nginx, which complains in HTTP.
    Perhaps(&'a Authority),
    /// What this takes.
    Verified(Arc<dyn ClientCertVerifier>),
}

/// A server with this certificate.
pub fn server(leaf: &Leaf, versions: &[&'static SupportedProtocolVersion], wants: Wants<'_>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let verifier = |authority: &Authority| {
        let mut roots = RootCertStore::empty();
        roots.add(authority.issuer.der().clone()).unwrap();
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
    };
    let builder = match wants {
        Wants::Nothing => builder.with_no_client_auth(),
        Wants::Verified(verifier) => builder.with_client_cert_verifier(verifier),
        Wants::Certificate(ca) => builder.with_client_cert_verifier(verifier(ca).build().unwrap()),
        Wants::Perhaps(ca) => builder.with_client_cert_verifier(verifier(ca).allow_unauthenticated().build().unwrap()),
    };
    let chain = CertificateDer::pem_slice_iter(leaf.cert.as_bytes()).collect::<Result<_, _>>().unwrap();
    let mut config =
        builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap()).unwrap();
    config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
    config
}
