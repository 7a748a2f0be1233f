//! Connections in the making: reached, secured if they are to be, and usable; and what is under their TLS after that.

use super::tls::{SessionEnd, TlsConfig, TlsConnector, TlsSession};
use super::{Backends, Done, Fault, HANDSHAKE};
use crate::arena::Key;
use crate::io::{Action, Peer};
use crate::log;
use std::time::Instant;

impl Backends {
    /// What connections are secured with by this description, which is made only once until [`Backends::forget_tls_configs`].
    pub fn tls_config<E>(&mut self, text: &str, make: impl FnOnce() -> Result<TlsConfig, E>) -> Result<&TlsConfig, E> {
        let known = self.tls_configs.iter().position(|tls_configs| tls_configs.text() == text);
        let at = match known {
            Some(at) => at,
            None => {
                self.tls_configs.push(make()?);
                self.tls_configs.len() - 1
            }
        };
        Ok(&self.tls_configs[at])
    }

    /// Lets descriptions mean something else from now on: files may have changed.
    pub fn forget_tls_configs(&mut self) {
        self.tls_configs.clear();
    }

    /// Secures the connections of an origin in new tls_configs; those that were made in the old ones carry no more requests.
    pub fn secure(&mut self, at: usize, tls: TlsConnector) {
        let origin = &mut self.pools[at];
        origin.tls = Some(tls);
        let (idle, connecting) = (origin.idle.iter(), origin.connecting.iter());
        let unused: Vec<Key> = idle.chain(connecting).map(|(key, _)| *key).collect();
        unused.into_iter().for_each(|key| drop(self.remove(key)));
        let own = self.connections.iter_mut().map(|(_, connection)| connection).filter(|one| one.origin == at);
        own.for_each(|connection| connection.retired = true);
    }

    /// A connection was made. If it is to be secured, its handshake begins.
    pub fn connected(&mut self, key: Key, now: Instant) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.reached = Some(now);
        let origin = &mut self.pools[connection.origin];
        let Some(client) = &origin.tls else { return self.usable(key, now) };
        match TlsSession::new(client) {
            Err(error) => self.unreachable(key, Fault::Handshake(error), now),
            Ok(session) => {
                connection.secure(session);
                origin.connecting.retain(|(other, _)| *other != key);
                origin.connecting.push_back((key, now + HANDSHAKE));
                origin.handshaking += 1;
                self.actions.push_back(Action::Flush(Peer::Backend(key)));
            }
        }
    }

    /// A connection can be used.
    fn usable(&mut self, key: Key, now: Instant) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.connected = Some(now);
        let origin = &mut self.pools[connection.origin];
        origin.connecting.retain(|(other, _)| *other != key);
        origin.reached(&connection.address);
        self.dispatch_next(key, now);
    }

    /// Takes TLS off what has arrived on a connection, if it has TLS: tell [`Backends::received`] what is returned, and
    /// give it back with [`Backends::conclude`].
    pub fn decrypt(&mut self, key: Key, bytes: &[u8], now: Instant) -> Option<Vec<u8>> {
        let connection = self.connections.get_mut(key)?;
        let (new, at) = (connection.connected.is_none(), connection.origin);
        let tls = connection.tls()?;
        let mut plain = std::mem::take(&mut self.plain);
        tls.receive(bytes, &mut plain);
        if !tls.output().is_empty() {
            self.actions.push_back(Action::Flush(Peer::Backend(key)));
        }
        if new && tls.is_ready() && tls.end().is_none() {
            let (resumed, version) = (tls.is_resumed(), tls.version());
            let took = now.saturating_duration_since(connection.reached.unwrap_or(now));
            let origin = &mut self.pools[at];
            origin.handshaking -= 1;
            origin.metrics.handshake(resumed, took);
            let origin = &origin.label;
            let resumed = if resumed { "yes" } else { "no" };
            log::debug(format_args!("tls-established backend={origin} tls={version} resumed={resumed}"));
            self.usable(key, now);
        }
        Some(plain)
    }

    /// Ends a connection whose TLS has ended, after what came before that was received.
    pub fn conclude(&mut self, key: Key, mut plain: Vec<u8>, now: Instant) -> Option<Done<'static>> {
        plain.clear(); // never much larger than what is read at once
        self.plain = plain;
        let connection = self.connections.get_mut(key)?;
        let new = connection.connected.is_none();
        match connection.tls()?.end()?.clone() {
            SessionEnd::Closed => return self.ended(key, None, now),
            SessionEnd::Early => self.on_unsolicited(key, now),
            SessionEnd::Broken(error) if new => self.unreachable(key, Fault::Handshake(error), now),
            SessionEnd::Broken(error) => self.on_closed(key, Fault::Tls(error), now),
        }
        None
    }
}
