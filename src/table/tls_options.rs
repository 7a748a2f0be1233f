//! The TLS settings of a table, and what they name, read from files.

use super::Settings;
use crate::backend::tls::TlsConnector;
use std::path::PathBuf;

#[cfg(feature = "tls")]
pub(super) use files::TlsConfigs;

/// In a build without TLS there are none.
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
    /// If it is not in the file of the certificate.
    key: Option<PathBuf>,
    /// The name that the certificate must have, if not the host of the URL.
    servername: Option<String>,
}

impl TlsOptions {
    /// Takes the settings. `secure` tells whether the table has any https:// URL: without one, a setting that is given
    /// for this table alone is an error.
    pub(super) fn take(settings: &mut Settings<'_>, secure: bool) -> Result<Self, String> {
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

    /// How connections to a host are secured, by what is in the files now. Errors name the setting and the file, never
    /// its content.
    #[cfg(feature = "tls")]
    pub(super) fn connector(&self, host: &str, configs: &mut TlsConfigs) -> Result<TlsConnector, String> {
        let name = self.servername.as_deref().unwrap_or(host);
        let config = configs.config(self)?;
        config.connector(name).map_err(|error| format!("{} {name}: {}", error.setting, error.why))
    }

    /// A build without TLS refuses https:// URLs before it comes here.
    #[cfg(not(feature = "tls"))]
    pub(super) fn connector(&self, _: &str, _: &mut TlsConfigs) -> Result<TlsConnector, String> {
        Err("this build has no TLS".to_owned())
    }
}

#[cfg(feature = "tls")]
mod files {
    use super::TlsOptions;
    use crate::backend::tls::{KeyPair, Roots, TlsConfig};
    use std::path::Path;

    /// TLS configurations by what they were made from.
    #[derive(Debug, Default)]
    pub(crate) struct TlsConfigs(Vec<TlsConfig>);

    impl TlsConfigs {
        /// The configuration that the options name, which is made from their files once.
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

    /// The trusted roots of the system: the bundle of Debian's `ca-certificates` and its like, or what `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` name.
    ///
    /// `rustls-native-certs` reads them; `rustls-platform-verifier` would do the same on Linux, through more packages.
    fn system() -> Vec<Vec<u8>> {
        // What of it cannot be read is left out, as other programs do; an empty store is an error.
        let found = rustls_native_certs::load_native_certs().certs;
        found.into_iter().map(|certificate| certificate.to_vec()).collect()
    }
}
