//! What TLS costs this side of a connection, in memory: a handshake in full and resumed, and the records of a lookup. The
//! server beside it is not counted.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use podop::backend::tls::{Roots, TlsConfig, TlsConnector, TlsSession};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion, version};
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long each thing is measured.
const TIME: Duration = Duration::from_secs(1);

const REQUEST: usize = 170; // bytes, as one to nginx
const RESPONSE: usize = 180;

fn main() {
    println!("{:<46} {:>12} {:>12}", "what", "µs each", "each second");
    for (name, version) in [("TLS 1.2", &version::TLS12), ("TLS 1.3", &version::TLS13)] {
        let (config, ca) = server(version);
        let roots = Roots::Pem(ca.as_bytes());
        let client = TlsConfig::new(&roots, None, String::new()).expect("a usable CA");
        let connector = || client.connector("192.0.2.1").expect("a name");
        measure(&format!("{name}: handshake in full"), || {
            // Who has not seen a server before has no session to resume.
            let (session, _, took) = shake_hands(&connector(), &config);
            assert!(session.handshake().is_some_and(|handshake| !handshake.resumed));
            took
        });
        let again = connector();
        shake_hands(&again, &config);
        measure(&format!("{name}: handshake, resumed"), || {
            let (session, _, took) = shake_hands(&again, &config);
            assert!(session.handshake().is_some_and(|handshake| handshake.resumed));
            took
        });
        let (mut session, mut server, _) = shake_hands(&again, &config);
        measure(&format!("{name}: a request and its answer"), || {
            let start = Instant::now();
            session.encrypt(&[b'x'; REQUEST]);
            let mut took = start.elapsed();
            server.read_tls(&mut session.output()).expect("room");
            session.sent(session.output().len());
            server.process_new_packets().expect("TLS");
            let mut reader = server.reader();
            let heard = reader.fill_buf().expect("a request").len();
            assert_eq!(heard, REQUEST);
            reader.consume(heard);
            server.writer().write_all(&[b'y'; RESPONSE]).expect("room");
            let records = records(&mut server);
            let (start, mut plain) = (Instant::now(), Vec::with_capacity(1024));
            session.receive(&records, &mut plain);
            took += start.elapsed();
            assert_eq!(plain.len(), RESPONSE);
            took
        });
    }
}

/// Does `work`, which tells how long it took, for a while.
fn measure(name: &str, mut work: impl FnMut() -> Duration) {
    let (start, mut took, mut rounds) = (Instant::now(), Duration::ZERO, 0u32);
    while start.elapsed() < TIME {
        took += work();
        rounds += 1;
    }
    let each = took.as_secs_f64() / f64::from(rounds);
    println!("{name:<46} {:>12.1} {:>12.0}", each * 1e6, 1.0 / each);
}

/// A whole handshake, and what it took the client.
fn shake_hands(connector: &TlsConnector, config: &Arc<ServerConfig>) -> (TlsSession, ServerConnection, Duration) {
    let mut server = ServerConnection::new(config.clone()).expect("a usable configuration");
    let start = Instant::now();
    let mut session = TlsSession::new(connector).expect("a session");
    let (mut took, mut plain) = (start.elapsed(), Vec::new());
    loop {
        server.read_tls(&mut session.output()).expect("room");
        session.sent(session.output().len());
        server.process_new_packets().expect("TLS");
        let records = records(&mut server);
        if records.is_empty() {
            assert!(session.handshake().is_some() && session.end().is_none());
            return (session, server, took);
        }
        let start = Instant::now();
        session.receive(&records, &mut plain);
        took += start.elapsed();
    }
}

fn records(server: &mut ServerConnection) -> Vec<u8> {
    let mut records = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut records).expect("memory");
    }
    records
}

/// A server with a certificate (ECDSA, P-256), and the certificate of its CA in PEM.
fn server(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["192.0.2.1".to_owned()]).expect("a name");
    let leaf = leaf.signed_by(&key, &ca).expect("a certificate");
    let builder = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into());
    let builder = builder.with_protocol_versions(&[version]).expect("a version").with_no_client_auth();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    let mut config = builder.with_single_cert(vec![leaf.der().clone()], key).expect("a pair");
    config.ticketer = rustls::crypto::ring::Ticketer::new().expect("randomness");
    (config.into(), ca.pem())
}
