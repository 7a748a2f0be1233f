//! URLs of tables, with places for the key.

use crate::backend::{Piece, Target, tls};
use crate::wire::percent::{self, Component};
use crate::wire::{self, base64};
use std::path::PathBuf;

/// A parsed URL of a table. Its userinfo is in `authorization` only, and is never logged.
#[derive(Debug)]
pub(super) struct Url {
    /// The name of the backend in reasons, log and metrics.
    pub label: String,
    /// Whether the scheme is https.
    pub secure: bool,
    pub to: Target,
    /// The value of the `Host` field.
    pub host: String,
    /// Path and query.
    pub target: Vec<Piece>,
    /// Credentials for Basic authorization, encoded.
    pub authorization: Option<String>,
}

impl Url {
    /// Parses a URL. Errors do not repeat it, because it may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("not a URL, which starts with http://")?;
        let (unix, secure) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (false, false),
            "http+unix" => (true, false),
            "https" if tls::SUPPORTED => (false, true),
            "https" => {
                return Err(
                    "https:// needs a podop that was built with TLS: cargo build --release --features tls".to_owned()
                );
            }
            // Nothing of the URL is repeated: with an unencoded '/', '#' or blank in a password, any part may be the
            // password.
            _ => return Err("the scheme is not supported, use http://, https:// or http+unix://".to_owned()),
        };
        // A fragment is not sent to a server (RFC 3986, section 3.5).
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        // The last `@`: with the first one, the end of a password with an unencoded `@` would be taken for the host and
        // logged.
        let (userinfo, authority) = match authority.rsplit_once('@') {
            Some((userinfo, authority)) => (Some(userinfo), authority),
            None => (None, authority),
        };
        let (to, host, label) = if unix { unix_target(authority)? } else { tcp_target(authority, secure)? };
        // A user without a password ends with the colon all the same (RFC 7617, section 2).
        let colon = |userinfo: &str| if userinfo.contains(':') { "" } else { ":" };
        let authorization =
            userinfo.map(|userinfo| base64::encode(&percent::decode(&format!("{userinfo}{}", colon(userinfo)))));
        Ok(Self { label, secure, to, host, target: pieces(target)?, authorization })
    }

    /// Whether it has a place for the key.
    pub(super) fn has_key(&self) -> bool {
        self.target.iter().any(|piece| matches!(piece, Piece::Key(_)))
    }

    /// Whether the key makes a dot segment or an empty segment in the path, so that it cannot be expressed in a URL:
    /// any client, proxy or server on the way may resolve dots to another path (RFC 3986, section 5.2.4), even when
    /// they are percent-encoded, and many servers merge slashes. Another key would be looked up.
    pub(super) fn has_ambiguous_path(&self, key: &[u8]) -> bool {
        // The usual case. A segment with any other byte than dots is harmless, whatever surrounds it.
        if key.first().is_some_and(|first| *first != b'.') && wire::all(key, |byte| byte != b'/') {
            return false;
        }
        if !key.split(|byte| *byte == b'/').any(|segment| segment.iter().all(|byte| *byte == b'.')) {
            return false;
        }
        if !self.target.contains(&Piece::Key(Component::Path)) {
            return false;
        }
        if key.split(|byte| *byte == b'/').any(<[u8]>::is_empty) {
            return true;
        }
        let mut path = Vec::new();
        for piece in &self.target {
            match piece {
                Piece::Text(text) => path.extend_from_slice(text),
                Piece::Key(Component::Path) => percent::encode(key, Component::Path, &mut path),
                Piece::Key(Component::Query) => break,
            }
        }
        let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
        path.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b".."))
    }
}

/// The target of an authority with host and port, the value of `Host`, and the label of the backend.
fn tcp_target(authority: &str, secure: bool) -> Result<(Target, String, String), String> {
    let (host, port) = match authority.rfind(':').filter(|at| !authority[*at..].contains(']')) {
        Some(at) => (&authority[..at], Some(&authority[at + 1..])),
        None => (authority, None),
    };
    let usual = if secure { 443 } else { 80 };
    let port = match port {
        None | Some("") => usual,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or("the port is not a number from 1 to 65535")?,
    };
    let host_without_brackets = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "what the brackets hold is not an IPv6 address")?;
            address
        }
        None => host,
    };
    if !host.is_ascii() {
        return Err("the host name is not ASCII: write its form that begins with 'xn--'".to_owned());
    }
    // No host name has an underscore (RFC 952), but names of containers do.
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if host == host_without_brackets && (host.is_empty() || !host.bytes().all(valid)) {
        return Err("the host is missing or not a host name; reserved characters in userinfo must be percent-encoded"
            .to_owned());
    }
    // The default port is omitted, as in the `Host` fields of other clients.
    let shown = if port == usual { host.to_owned() } else { format!("{host}:{port}") };
    let label = if secure { format!("https://{shown}") } else { shown.clone() };
    Ok((Target::Tcp(host_without_brackets.to_owned(), port), shown, label))
}

/// The same for the percent-encoded path of a unix socket.
fn unix_target(authority: &str) -> Result<(Target, String, String), String> {
    let path = String::from_utf8(percent::decode(authority)).map_err(|_| "the socket path is not UTF-8")?;
    if !path.starts_with('/') || path.contains(|c: char| c.is_control()) {
        return Err(
            "http+unix:// expects an absolute socket path, percent-encoded: http+unix://%2Frun%2Fapp.sock/".to_owned()
        );
    }
    Ok((Target::Unix(PathBuf::from(&path)), "localhost".to_owned(), format!("unix:{path}")))
}

/// Splits path and query at the places of the key.
fn pieces(target: &str) -> Result<Vec<Piece>, String> {
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    let path_end = target.find('?').unwrap_or(target.len());
    if target[..path_end].split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err("the path of the URL has a dot segment".to_owned());
    }
    let (mut pieces, mut at) = (Vec::new(), 0);
    while let Some((start, mark)) = next_mark(&target, at) {
        pieces.push(Piece::Text(literal(&target[at..start])?));
        pieces.push(Piece::Key(if start < path_end { Component::Path } else { Component::Query }));
        at = start + mark.len();
    }
    pieces.push(Piece::Text(literal(&target[at..])?));
    pieces.retain(|piece| *piece != Piece::Text(Vec::new()));
    Ok(pieces)
}

/// The next `§` or `{}` from `from` on, and its position.
fn next_mark(target: &str, from: usize) -> Option<(usize, &'static str)> {
    ["§", "{}"].into_iter().filter_map(|mark| target[from..].find(mark).map(|at| (from + at, mark))).min()
}

/// The bytes of a part between two places of the key. Bytes that are not allowed in a URL are encoded.
fn literal(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for byte in text.bytes() {
        match byte {
            0..=b' ' | 127 => return Err("the URL has a control character".to_owned()),
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 128.. => {
                percent::encode(&[byte], Component::Query, &mut out)
            }
            byte => out.push(byte),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let tcp = |host: &str, port| Target::Tcp(host.into(), port);
        let cases = [
            ("http://admin/a/§", tcp("admin", 80), "admin", "/a/\0"),
            ("http://admin:8080/{}", tcp("admin", 8080), "admin:8080", "/\0"),
            ("HTTP://[::1]:81/x?k=§&l={}", tcp("::1", 81), "[::1]:81", "/x?k=\0&l=\0"),
            ("http://[::1]/§", tcp("::1", 80), "[::1]", "/\0"),
            ("http://h?q=§", tcp("h", 80), "h", "/?q=\0"),
            ("http://h/a§b/§#f", tcp("h", 80), "h", "/a\0b/\0"),
            ("http://h/é/{x}/§", tcp("h", 80), "h", "/%C3%A9/%7Bx%7D/\0"),
            ("http+unix://%2Frun%2Fapp.sock/p/§", Target::Unix("/run/app.sock".into()), "localhost", "/p/\0"),
            ("https://admin/§", tcp("admin", 443), "admin", "/\0"),
            ("https://admin:80/§", tcp("admin", 80), "admin:80", "/\0"),
            ("https://[::1]:443/§", tcp("::1", 443), "[::1]", "/\0"),
        ];
        let cases = cases.into_iter().filter(|(text, ..)| tls::SUPPORTED || !text.starts_with("https"));
        for (text, to, host, target) in cases {
            let url = Url::parse(text).unwrap();
            let shown: Vec<u8> = url
                .target
                .iter()
                .flat_map(|piece| match piece {
                    Piece::Text(text) => text.clone(),
                    Piece::Key(_) => vec![0],
                })
                .collect();
            assert_eq!(
                (url.to, url.host.as_str(), String::from_utf8(shown).unwrap().as_str()),
                (to, host, target),
                "{text}"
            );
        }
    }

    #[test]
    fn unusable_urls_are_refused_without_showing_passwords() {
        let cases = [
            ("admin/§", "not a URL"),
            ("ftp://u:secret@admin/§", "scheme is not supported"),
            ("u:secret://admin/§", "scheme is not supported"),
            ("http://u:secret#x@admin/§", "port"),
            ("http://u:secret/x@admin/§", "port"),
            ("http://u:secret?x@admin/§", "port"),
            ("http://secret,x/y@admin/§", "percent-encoded"),
            ("http://u:secret", "port"), // what a blank leaves
            ("secret@admin/§", "not a URL"),
            ("http://u:secret@/§", "not a host name"),
            ("http://u:secret@admin:x/§", "port is not a number"),
            ("http://u:secret@admin:0/§", "port is not a number"),
            ("http://u:secret@admin:99999/§", "port is not a number"),
            ("http://u:secret@[::g]/§", "not an IPv6 address"),
            ("http://u:secret@a§b/", "xn--"),
            ("http://u:secret@bücher.example/§", "xn--"),
            ("http://u:secret@admin/a/../§", "dot segment"),
            ("http+unix://run%2Fapp.sock/§", "absolute socket path"),
        ];
        for (text, expected) in cases {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn keys_with_dot_or_empty_segments_cannot_be_expressed() {
        let url = Url::parse("http://h/a/§").unwrap();
        for key in [".", "..", "../x", "a/./b", "a/..", "/../x", "", "/", "/a", "a/", "a//b"] {
            assert!(url.has_ambiguous_path(key.as_bytes()), "{key}");
        }
        for key in ["a.b", "...", ".a", "a..", "a/.b", "%2e%2e", "a@b.c", "\\.."] {
            assert!(!url.has_ambiguous_path(key.as_bytes()), "{key}");
        }
        let has_key = |text: &str| Url::parse(text).unwrap().has_key();
        assert!(has_key("http://h/§") && has_key("http://h/?k={}") && !has_key("http://h/x#§") && !has_key("http://h"));
        assert!(Url::parse("http://h/.§").unwrap().has_ambiguous_path(b"."));
        assert!(
            Url::parse("http://h/a/.§.").is_ok_and(|url| url.has_ambiguous_path(b"") && !url.has_ambiguous_path(b"x."))
        );
        for key in ["../x", "", "/a", "a//b"] {
            assert!(!Url::parse("http://h/a?k=§").unwrap().has_ambiguous_path(key.as_bytes()), "{key}");
            assert!(Url::parse("http://h/§?k=§").unwrap().has_ambiguous_path(key.as_bytes()), "{key}");
        }
    }
}
