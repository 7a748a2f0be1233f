//! The settings of a URL table from `--option`.

use super::super::interface::OnFault;
use super::super::keys::KeyRules;
use super::super::settings::{Caching, Settings};
use super::super::tls_options::TlsOptions;
use super::fields::Fields;
use crate::backend::{Method, PoolOptions};
use crate::query::Tokens;
use std::path::PathBuf;
use std::time::Duration;

/// The idle timeout of connections.
// Below the shortest timeout of common servers, gunicorn's 2 s: a server that closes first may cross with a request.
const KEEPALIVE: Duration = Duration::from_millis(1500);

/// The highest value of the settings that are numbers.
const MAX_NUMBER: usize = 65_536;

/// Maximum number of connections to one backend, by default.
const CONNECTIONS: usize = 1024;

/// The settings of one table.
pub(super) struct UrlOptions {
    pub timeout: Option<Duration>,
    pub caching: Option<Caching>,
    pub keys: KeyRules,
    pub pool: PoolOptions,
    pub misses: Misses,
    /// The method of an unset: `POST` of `null`, or `DELETE`.
    pub unset: Method,
    pub select: Option<String>,
    /// A value that is set is sent as a JSON string, also if it is JSON itself.
    pub text_values: bool,
    /// The request field with the number of seconds after which a value expires.
    pub expire: Option<String>,
    pub on_fault: OnFault,
    pub tokens: Tokens,
    /// Requests have ids, by which the backend's log can be searched.
    pub trace: bool,
    pub header: Vec<String>,
    pub header_files: Vec<PathBuf>,
    pub tls: TlsOptions,
}

impl UrlOptions {
    /// Takes the settings. `secure` is whether the table has an https:// URL.
    pub(super) fn take(mut settings: Settings<'_>, secure: bool) -> Result<Self, String> {
        let options = Self {
            timeout: settings.seconds("timeout")?,
            caching: settings.caching()?,
            keys: KeyRules::take(&mut settings)?,
            pool: PoolOptions {
                connections: settings.number("connections", MAX_NUMBER)?.unwrap_or(CONNECTIONS),
                keepalive: settings.seconds("keepalive")?.unwrap_or(KEEPALIVE),
                // Off by default: some servers, such as gunicorn 20.1 with threads, leave a second request unread until
                // their keep-alive time has passed.
                pipeline: settings.number("pipeline", MAX_NUMBER)?.unwrap_or(1),
            },
            misses: misses(settings.one("miss"))?,
            unset: match settings.one("unset") {
                None | Some("null") => Method::Post,
                Some("delete") => Method::Delete,
                Some(other) => return Err(format!("unset={other}: it is 'null' or 'delete'")),
            },
            select: settings.select()?,
            text_values: settings.choice("values", ["json", "text"])? == 1,
            expire: settings.one("expire").map(str::to_owned),
            on_fault: match settings.one("fault") {
                None | Some("defer") => OnFault::Defer,
                Some("close") => OnFault::Close,
                Some("dunno") => OnFault::Dunno,
                Some(other) => return Err(format!("fault={other}: it is 'defer', 'close' or 'dunno'")),
            },
            tokens: tokens(settings.one("mechanisms"))?,
            trace: settings.choice("trace", ["off", "on"])? == 1,
            header: settings.all("header").into_iter().map(str::to_owned).collect(),
            header_files: settings.all("header-file").into_iter().map(PathBuf::from).collect(),
            tls: TlsOptions::take(&mut settings, secure)?,
        };
        if let Some(name) = &options.expire {
            Fields::default().add(&format!("{name}: 1")).map_err(|error| format!("expire={name}: {error}"))?;
        }
        settings.finish()?;
        Ok(options)
    }
}

/// Which responses mean that there is no such key, besides `null` with 200.
pub(super) struct Misses {
    statuses: Statuses,
    /// Only with a body that is JSON: the 404 of a proxy in front of a backend that is being deployed has none.
    pub json: bool,
}

enum Statuses {
    /// Those that deny access to the key, and those that are not registered.
    Usual,
    /// All of 4XX.
    All,
    These(Vec<u16>),
}

impl Misses {
    /// Whether a response with this status is a miss. `authorized` is whether the request had credentials.
    pub(super) fn contains(&self, status: u16, authorized: bool, redirected: bool) -> bool {
        // The login page of a backend whose session has ended responds with 403 to every key.
        if redirected && !matches!(status, 404 | 410) {
            return false;
        }
        match &self.statuses {
            // A rotated password would otherwise bounce all mail.
            Statuses::Usual => is_usual_miss(status) && !(status == 401 && authorized),
            Statuses::All => (400..500).contains(&status),
            Statuses::These(list) => list.contains(&status),
        }
    }
}

/// True for statuses of 4XX that may be about the key. The others are about the request, the connection, the rate or
/// the moment: Django sends 400 for a wrong `Host`, gunicorn for a long line, to every key alike.
fn is_usual_miss(status: u16) -> bool {
    match status {
        401 | 403 | 404 | 409 | 410 | 422 | 451 => true,
        // RFC 9110, section 15.5, and the registry of statuses that it refers to; 444 and 494 to 499 are nginx's own.
        400 | 402 | 405..=408 | 411..=417 | 421 | 423..=426 | 428 | 429 | 431 | 444 | 494..=499 => false,
        _ => (400..500).contains(&status),
    }
}

fn misses(setting: Option<&str>) -> Result<Misses, String> {
    let Some(text) = setting else { return Ok(Misses { statuses: Statuses::Usual, json: false }) };
    let mut words: Vec<&str> = text.split(',').map(str::trim).collect();
    let json = words.contains(&"json");
    words.retain(|word| *word != "json");
    // 200 has the value; a miss with it is `null`.
    let status = |text: &&str| text.parse().ok().filter(|status| (200..600).contains(status) && *status != 200);
    let statuses = match words[..] {
        [] => Some(Statuses::Usual),
        ["none"] => Some(Statuses::These(Vec::new())),
        ["4xx"] => Some(Statuses::All),
        _ => words.iter().map(status).collect::<Option<Vec<u16>>>().map(Statuses::These),
    };
    let statuses =
        statuses.ok_or_else(|| format!("miss={text}: expects statuses like 404,410, or 4xx, none, 404,json"))?;
    Ok(Misses { statuses, json })
}

fn tokens(setting: Option<&str>) -> Result<Tokens, String> {
    let mut tokens = Tokens::default();
    for name in setting.into_iter().flat_map(|text| text.split([',', ' '])).filter(|name| !name.is_empty()) {
        match name.to_ascii_uppercase().as_str() {
            "PLAIN" | "LOGIN" => {}
            "XOAUTH2" => tokens.xoauth2 = true,
            "OAUTHBEARER" => tokens.oauthbearer = true,
            _ => return Err(format!("mechanisms={name}: it is PLAIN, LOGIN, XOAUTH2 or OAUTHBEARER")),
        }
    }
    Ok(tokens)
}
