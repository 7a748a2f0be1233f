//! What a table is opened with.

use super::settings::Settings;
use super::tls_options::TlsConfigs;
use crate::backend::Backends;
use crate::io::Turn;
use crate::program::Programs;

/// The command line arguments of a table.
#[derive(Debug)]
pub struct TableSpec<'a> {
    pub name: &'a str,
    pub param: &'a str,
    pub settings: Settings<'a>,
    /// It decides for a listener, and needs no place for a key.
    pub decides: bool,
}

/// The environment in which tables are opened and reloaded.
pub struct Setup<'a> {
    pub backends: &'a mut Backends,
    pub programs: &'a mut Programs,
    pub turn: &'a mut Turn,
    /// TLS configurations by their files, so that tables with the same files share them.
    pub(super) tls_configs: TlsConfigs,
}

impl<'a> Setup<'a> {
    /// An environment without any TLS configuration yet.
    pub fn new(backends: &'a mut Backends, programs: &'a mut Programs, turn: &'a mut Turn) -> Self {
        Self { backends, programs, turn, tls_configs: TlsConfigs::default() }
    }
}
