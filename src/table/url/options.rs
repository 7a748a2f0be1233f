//! The settings of a URL table from `--option`.

use super::super::interface::Caching;
use super::super::settings::Settings;
use super::super::tls_options::TlsOptions;
use crate::backend::{Method, PoolOptions};
use std::path::PathBuf;
use std::time::Duration;

/// The idle timeout of connections.
// Below the shortest timeout of common servers, gunicorn's 2 s: a server that closes first may cross with a request.
const KEEPALIVE: Duration = Duration::from_millis(1500);

/// Maximum number of connections to one backend, by default.
const CONNECTIONS: usize = 1024;

/// The settings of one table.
pub(super) struct UrlOptions {
    pub timeout: Option<Duration>,
    pub caching: Option<Caching>,
    pub pool: PoolOptions,
    pub misses: Misses,
    /// The method of an unset: `POST` of `null`, or `DELETE`.
    pub unset: Method,
    pub select: Option<String>,
    pub header: Vec<String>,
    pub header_files: Vec<PathBuf>,
    pub tls: TlsOptions,
}

impl UrlOptions {
    /// Takes the settings. `secure` is whether the table has an https:// URL.
    pub(super) fn take(mut settings: Settings<'_>, secure: bool) -> Result<Self, String> {
        let options = Self {
            timeout: settings.seconds("timeout")?,
            caching: caching(&mut settings)?,
            pool: PoolOptions {
                connections: number(&mut settings, "connections")?.unwrap_or(CONNECTIONS),
                keepalive: settings.seconds("keepalive")?.unwrap_or(KEEPALIVE),
                // Off by default: some servers, such as gunicorn 20.1 with threads, leave a second request unread until
                // their keep-alive time has passed.
                pipeline: number(&mut settings, "pipeline")?.unwrap_or(1),
            },
            misses: misses(settings.one("miss"))?,
            unset: match settings.one("unset") {
                None | Some("null") => Method::Post,
                Some("delete") => Method::Delete,
                Some(other) => return Err(format!("unset={other}: it is 'null' or 'delete'")),
            },
            select: settings.one("select").map(str::to_owned),
            header: settings.all("header").into_iter().map(str::to_owned).collect(),
            header_files: settings.all("header-file").into_iter().map(PathBuf::from).collect(),
            tls: TlsOptions::take(&mut settings, secure)?,
        };
        if options.select.as_ref().is_some_and(|pointer| !pointer.is_empty() && !pointer.starts_with('/')) {
            return Err("select= wants a JSON pointer, which starts with '/'".to_owned());
        }
        settings.finish()?;
        Ok(options)
    }
}

/// Statuses that mean that there is no such key.
pub(super) enum Misses {
    /// 4XX, except those that are about the moment or the connection instead of the key (408, 421, 425, 429).
    Usual,
    These(Vec<u16>),
}

impl Misses {
    /// Whether a response with this status is a miss.
    pub(super) fn contains(&self, status: u16) -> bool {
        match self {
            Misses::Usual => (400..500).contains(&status) && !matches!(status, 408 | 421 | 425 | 429),
            Misses::These(list) => list.contains(&status),
        }
    }
}

fn caching(settings: &mut Settings<'_>) -> Result<Option<Caching>, String> {
    match (settings.seconds("cache")?, settings.seconds("stale")?) {
        (Some(fresh), stale) => Ok(Some(Caching { fresh, stale: stale.unwrap_or_default() })),
        (None, Some(_)) => Err("stale= needs cache=".to_owned()),
        (None, None) => Ok(None),
    }
}

fn misses(setting: Option<&str>) -> Result<Misses, String> {
    let Some(text) = setting else { return Ok(Misses::Usual) };
    // 200 has the value; a miss with it is `null`.
    let status = |text: &str| text.trim().parse().ok().filter(|status| (200..600).contains(status) && *status != 200);
    let list: Option<Vec<u16>> = text.split(',').map(status).collect();
    list.map(Misses::These).ok_or_else(|| format!("miss={text}: wants statuses like 404,410"))
}

fn number(settings: &mut Settings<'_>, key: &'static str) -> Result<Option<usize>, String> {
    let Some(text) = settings.one(key) else { return Ok(None) };
    let number = text.parse().ok().filter(|number| (1..=65_536).contains(number));
    number.map(Some).ok_or_else(|| format!("{key}={text}: wants a number from 1 to 65536"))
}
