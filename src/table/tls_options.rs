//! Whom a table trusts to be its service, and as whom it shows itself: what the settings name, read from files.

use super::Settings;
use crate::backend::Backends;
use crate::backend::tls::{KeyPair, Roots, TlsConfig, TlsConnector};
use std::path::{Path, PathBuf};

/// The settings `ca`, `cert`, `key` and `servername`.
#[derive(Debug, Default)]
pub struct TlsOptions {
    /// Who is trusted, in place of those whom the system trusts.
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    /// If it is not in the file of the certificate.
    key: Option<PathBuf>,
    /// Whom the certificate has to name, if not the host of the URL.
    servername: Option<String>,
}

impl TlsOptions {
    /// Takes the settings; those that are given for one table must have something to do.
    pub fn take(settings: &mut Settings<'_>, secure: bool) -> Result<Self, String> {
        if !secure {
            return match ["ca", "cert", "key", "servername"].into_iter().find(|key| settings.has_own(key)) {
                Some(key) => Err(format!("{key}= is for https:// URLs")),
                None => Ok(Self::default()),
            };
        }
        // One file with both is not completed by the key of all tables.
        let both = settings.has_own("cert") && !settings.has_own("key");
        let servername = settings.one("servername").map(str::to_owned);
        let mut path = |key| settings.one(key).map(PathBuf::from);
        let (ca, cert, key) = (path("ca"), path("cert"), path("key").filter(|_| !both));
        if key.is_some() && cert.is_none() {
            return Err("key= needs cert=".to_owned());
        }
        Ok(Self { ca, cert, key, servername })
    }

    /// How connections to a host are secured, by what is in the files. Errors tell the setting and the file, never what is
    /// in it.
    pub fn client(&self, host: &str, backend: &mut Backends) -> Result<TlsConnector, String> {
        let name = self.servername.as_deref().unwrap_or(host);
        let text = format!("{:?} {:?} {:?}", self.ca, self.cert, self.key);
        let terms = backend.tls_config(&text, || self.read(text.clone()))?;
        terms.client(name).map_err(|error| format!("{} {name}: {}", error.setting, error.why))
    }

    fn read(&self, text: String) -> Result<TlsConfig, String> {
        let ca = self.ca.as_deref().map(|path| read("ca", path)).transpose()?;
        let system = if ca.is_none() { system() } else { Vec::new() };
        let cert = self.cert.as_deref().map(|path| read("cert", path)).transpose()?;
        let key = self.key.as_deref().map(|path| read("key", path)).transpose()?;
        let pair = cert.as_deref().map(|cert| KeyPair { cert, key: key.as_deref().unwrap_or(cert) });
        let roots = ca.as_deref().map_or(Roots::System(&system), Roots::Pem);
        TlsConfig::new(&roots, pair.as_ref(), text).map_err(|error| {
            let path = match error.setting {
                "ca" => self.ca.as_ref(),
                "cert" => self.cert.as_ref(),
                _ => self.key.as_ref().or(self.cert.as_ref()),
            };
            let path = path.map_or(String::new(), |path| format!(" {}", path.display()));
            let (setting, hint) = match error.setting {
                "key" if self.key.is_none() => ("cert", ", and there is no key="),
                setting => (setting, ""),
            };
            format!("{setting}{path}: {}{hint}", error.why)
        })
    }
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{setting} {}: {error}", path.display()))
}

/// Those whom the system trusts: the bundle of Debian's `ca-certificates` and its like, or what `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` name.
///
/// `rustls-native-certs` reads them; `rustls-platform-verifier` would do the same on Linux, through more packages.
#[cfg(feature = "tls")]
fn system() -> Vec<Vec<u8>> {
    // What of it cannot be read is left out, as elsewhere; an empty store is an error.
    let found = rustls_native_certs::load_native_certs().certs;
    found.into_iter().map(|certificate| certificate.to_vec()).collect()
}

#[cfg(not(feature = "tls"))]
fn system() -> Vec<Vec<u8>> {
    Vec::new()
}
