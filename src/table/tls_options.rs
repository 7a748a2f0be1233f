//! The TLS settings of a table, and the files that they name.

use super::settings::Settings;
use crate::backend::tls::TlsConnector;
use std::path::PathBuf;

#[cfg(feature = "tls")]
pub(super) use files::TlsConfigs;

/// A build without TLS has no TLS configurations.
#[cfg(not(feature = "tls"))]
#[derive(Debug, Default)]
pub(super) struct TlsConfigs {}

/// The settings `ca`, `cert`, `key` and `servername`.
#[derive(Debug, Default)]
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "they are checked in both builds, and read in one"))]
pub(super) struct TlsOptions {
    /// Trusted roots, in place of those of the system.
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    /// The private key; `None` if it is in the file of the certificate.
    key: Option<PathBuf>,
    /// The expected name in the certificate; `None` for the host of the URL.
    servername: Option<String>,
}

impl TlsOptions {
    /// Takes the settings. `secure` is whether the table has an https:// URL: without one, a TLS setting of this table
    /// is an error.
    pub(super) fn take(settings: &mut Settings<'_>, secure: bool) -> Result<Self, String> {
        if !secure {
            return match ["ca", "cert", "key", "servername"].into_iter().find(|key| settings.has_own(key)) {
                Some(key) => Err(format!("{key}= is for https:// URLs")),
                None => Ok(Self::default()),
            };
        }
        // A file of this table with both certificate and key must not be combined with the key of all tables.
        let both = settings.has_own("cert") && !settings.has_own("key");
        let servername = settings.one("servername").map(str::to_owned);
        let mut path = |key| settings.one(key).map(PathBuf::from);
        let (ca, cert, key) = (path("ca"), path("cert"), path("key").filter(|_| !both));
        if key.is_some() && cert.is_none() {
            return Err("key= needs cert=".to_owned());
        }
        Ok(Self { ca, cert, key, servername })
    }

    /// The connector for a host, from the current content of the files. Errors name the setting and the file, but never
    /// its content, which may be a private key.
    #[cfg(feature = "tls")]
    pub(super) fn connector(&self, host: &str, configs: &mut TlsConfigs) -> Result<TlsConnector, String> {
        let name = self.servername.as_deref().unwrap_or(host);
        let config = configs.config(self)?;
        config.connector(name).map_err(|error| format!("{} {name}: {}", error.setting, error.why))
    }

    /// A build without TLS refuses https:// URLs before this is called.
    #[cfg(not(feature = "tls"))]
    pub(super) fn connector(&self, _: &str, _: &mut TlsConfigs) -> Result<TlsConnector, String> {
        Err("this build has no TLS".to_owned())
    }
}

#[cfg(feature = "tls")]
mod files {
    use crate::backend::tls::{KeyPair, Roots, TlsConfig};
    use crate::table::tls_options::TlsOptions;
    use std::path::Path;

    /// TLS configurations by their files.
    #[derive(Debug, Default)]
    // Shared, so that a start or reload reads the same files once and not for each URL.
    pub(crate) struct TlsConfigs(Vec<TlsConfig>);

    impl TlsConfigs {
        /// The configuration of these options, made on first use.
        pub(crate) fn config(&mut self, options: &TlsOptions) -> Result<&TlsConfig, String> {
            let source = format!("{:?} {:?} {:?}", options.ca, options.cert, options.key);
            let at = match self.0.iter().position(|config| config.source() == source) {
                Some(at) => at,
                None => {
                    self.0.push(read_config(options, source)?);
                    self.0.len() - 1
                }
            };
            Ok(&self.0[at])
        }
    }

    fn read_config(options: &TlsOptions, source: String) -> Result<TlsConfig, String> {
        let ca = options.ca.as_deref().map(|path| read("ca", path)).transpose()?;
        let system = if ca.is_none() { system() } else { Vec::new() };
        let cert = options.cert.as_deref().map(|path| read("cert", path)).transpose()?;
        let key = options.key.as_deref().map(|path| read("key", path)).transpose()?;
        let pair = cert.as_deref().map(|cert| KeyPair { cert, key: key.as_deref().unwrap_or(cert) });
        let roots = ca.as_deref().map_or(Roots::System(&system), Roots::Pem);
        TlsConfig::new(&roots, pair.as_ref(), source).map_err(|error| {
            let path = match error.setting {
                "ca" => options.ca.as_ref(),
                "cert" => options.cert.as_ref(),
                _ => options.key.as_ref().or(options.cert.as_ref()),
            };
            let path = path.map_or(String::new(), |path| format!(" {}", path.display()));
            let (setting, hint) = match error.setting {
                "key" if options.key.is_none() => ("cert", ", and there is no key="),
                setting => (setting, ""),
            };
            format!("{setting}{path}: {}{hint}", error.why)
        })
    }

    fn read(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
        std::fs::read(path).map_err(|error| format!("{setting} {}: {error}", path.display()))
    }

    /// The trusted roots of the system: the bundle of Debian's `ca-certificates` and the like, or the files that
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    ///
    /// `rustls-platform-verifier` would do the same on Linux, through more packages.
    fn system() -> Vec<Vec<u8>> {
        // Certificates that cannot be read are skipped, as in other programs; an empty store is an error later.
        let found = rustls_native_certs::load_native_certs().certs;
        found.into_iter().map(|certificate| certificate.to_vec()).collect()
    }
}
