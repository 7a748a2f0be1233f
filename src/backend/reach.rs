//! Whether a backend can be reached, for `--check`.

use super::fault::Fault;
use super::tls::Handshake;
use crate::io::Address;
use std::time::{Duration, Instant};

/// The time for which a check waits for an alert after the handshake.
// With TLS 1.3 the client has completed its handshake before the server has seen the certificate: without it, --check
// called a server reachable that refused the certificate right after.
const ALERT_TIMEOUT: Duration = Duration::from_millis(500);

/// The result of a check for one backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckResult {
    pub label: String,
    /// The address that was reached, or why none was.
    pub result: Result<String, Fault>,
}

/// The state of a check. There is none while Podop serves.
#[derive(Debug, Default)]
pub(super) enum Reach {
    #[default]
    Off,
    /// A connection is needed.
    Pending,
    Reached {
        address: Address,
        handshake: Option<Handshake>,
        since: Instant,
    },
    Failed(Fault),
}

impl Reach {
    pub(super) fn is_pending(&self) -> bool {
        matches!(self, Reach::Pending)
    }

    /// A connection is open.
    pub(super) fn on_open(&mut self, address: &Address, handshake: Option<Handshake>, now: Instant) {
        if self.is_pending() {
            *self = Reach::Reached { address: address.clone(), handshake, since: now };
        }
    }

    /// No connection can be made.
    pub(super) fn on_unreachable(&mut self, fault: &Fault) {
        if self.is_pending() {
            *self = Reach::Failed(fault.clone());
        }
    }

    /// A connection that was open has failed.
    pub(super) fn on_fault(&mut self, fault: &Fault) {
        if let (Reach::Reached { .. }, Fault::Tls(error)) = (&self, fault) {
            *self = Reach::Failed(Fault::Handshake(error.clone()));
        }
    }

    /// The address that was reached, or why none was; `None` until that is known.
    pub(super) fn result(&self, now: Instant) -> Option<Result<String, Fault>> {
        match self {
            Reach::Off | Reach::Pending => None,
            Reach::Reached { .. } if self.deadline().is_some_and(|deadline| now < deadline) => None,
            Reach::Reached { address, handshake, .. } => Some(Ok(describe(address, *handshake))),
            Reach::Failed(fault) => Some(Err(fault.clone())),
        }
    }

    /// When an open connection counts as reached.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Reach::Reached {
                handshake: Some(Handshake { version: "1.3", certificate: Some(_), .. }), since, ..
            } => Some(*since + ALERT_TIMEOUT),
            Reach::Off | Reach::Pending | Reach::Reached { .. } | Reach::Failed(_) => None,
        }
    }
}

fn describe(address: &Address, handshake: Option<Handshake>) -> String {
    let address = match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => path.display().to_string(),
    };
    let Some(Handshake { version, certificate, .. }) = handshake else { return address };
    let certificate = match certificate {
        None => "",
        Some(true) => ", and gets the client certificate that it requests",
        Some(false) => ", but requests a client certificate, and gets none that it can check (cert=)",
    };
    format!("{address} with TLS {version}{certificate}")
}
