//! Where a redirect leads (RFC 3986, 5.2; RFC 9110, 15.4), as far as that is the same origin.

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RedirectError {
    NoLocation,
    OtherOrigin,
    /// From http to https on the same host.
    // Apart from other origins, as the reason can name the remedy: https:// in the URL of the table.
    ToTls,
    TooManyHops,
}

/// The target that `location` names, seen from the target `current` of `host`, if scheme, host and port are the same.
pub(super) fn follow(location: &[u8], host: &str, secure: bool, current: &[u8]) -> Result<Vec<u8>, RedirectError> {
    let location = location.split(|byte| *byte == b'#').next().unwrap_or_default();
    if location.is_empty() || !location.iter().all(u8::is_ascii_graphic) {
        return Err(RedirectError::NoLocation);
    }
    // A colon may also belong to a path: /time/12:30.
    let scheme = location.iter().position(|byte| *byte == b':').map(|at| location.split_at(at + 1));
    let (own, port) = if secure { (&b"https:"[..], &b":443"[..]) } else { (&b"http:"[..], &b":80"[..]) };
    let rest = match scheme {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(own) => rest,
        Some((scheme, rest)) if !secure && scheme.eq_ignore_ascii_case(b"https:") => {
            let authority = rest.strip_prefix(b"//").unwrap_or(rest).split(|byte| b"/?".contains(byte)).next();
            let same = without_port(authority.unwrap_or_default()) == without_port(host.as_bytes());
            return Err(if same { RedirectError::ToTls } else { RedirectError::OtherOrigin });
        }
        Some((scheme, _)) if scheme[..scheme.len() - 1].iter().all(u8::is_ascii_alphanumeric) => {
            return Err(RedirectError::OtherOrigin);
        }
        _ => location,
    };
    let path = current.split(|byte| *byte == b'?').next().unwrap_or_default();
    if let Some(rest) = rest.strip_prefix(b"//") {
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        // Requests carry credentials, which are for this origin only.
        if strip_default_port(authority, port) != strip_default_port(host.as_bytes(), port) {
            return Err(RedirectError::OtherOrigin);
        }
        let slash = if target.starts_with(b"/") { &b""[..] } else { b"/" };
        return Ok(remove_dot_segments(&[slash, target].concat()));
    }
    Ok(remove_dot_segments(&match rest.first() {
        Some(b'/') => rest.to_vec(),
        Some(b'?') => [path, rest].concat(),
        _ => {
            let directory = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
            [&path[..directory], rest].concat()
        }
    }))
}

/// A host without its port, in lower case.
fn without_port(authority: &[u8]) -> Vec<u8> {
    let end = authority.iter().rposition(|byte| *byte == b':').unwrap_or(authority.len());
    let port = authority[end..].iter().skip(1).all(u8::is_ascii_digit);
    authority[..if port { end } else { authority.len() }].to_ascii_lowercase()
}

/// A host for comparison: in lower case, without the default port of its scheme.
fn strip_default_port(authority: &[u8], port: &[u8]) -> Vec<u8> {
    authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase()
}

/// Removes `.` and `..` from the path of a target (RFC 3986, 5.2.4).
fn remove_dot_segments(target: &[u8]) -> Vec<u8> {
    let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    let mut output: Vec<&[u8]> = Vec::new();
    let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').skip(1).collect();
    for (at, segment) in segments.iter().enumerate() {
        let dots = matches!(*segment, b"." | b"..");
        if *segment == b".." {
            output.pop();
        }
        if !dots {
            output.push(segment);
        } else if at + 1 == segments.len() {
            output.push(b"");
        }
    }
    [b"/", &output.join(&b'/')[..], query].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_with_their_origin() {
        let ok = |target: &str| Ok(target.as_bytes().to_vec());
        let cases: &[(&str, Result<Vec<u8>, RedirectError>)] = &[
            ("/b/c?d=1", ok("/b/c?d=1")),
            ("/b/#part", ok("/b/")),
            ("x/", ok("/a/x/")),
            ("../x", ok("/x")),
            ("../../x", ok("/x")),
            ("./", ok("/a/")),
            ("..", ok("/")),
            ("?y", ok("/a/key?y")),
            ("http://Admin/z", ok("/z")),
            ("HTTP://admin:80/z", ok("/z")),
            ("http://admin", ok("/")),
            ("http://admin?q", ok("/?q")),
            ("//admin/z", ok("/z")),
            ("/time/12:30", ok("/time/12:30")),
            ("http://admin:8080/z", Err(RedirectError::OtherOrigin)),
            ("http://admin@evil/z", Err(RedirectError::OtherOrigin)),
            ("https://admin/z", Err(RedirectError::ToTls)),
            ("HTTPS://Admin:443", Err(RedirectError::ToTls)),
            ("https://admin:8443/z", Err(RedirectError::ToTls)),
            ("https://evil/z", Err(RedirectError::OtherOrigin)),
            ("//evil/z", Err(RedirectError::OtherOrigin)),
            ("", Err(RedirectError::NoLocation)),
            ("/a b", Err(RedirectError::NoLocation)),
            ("/\u{e9}", Err(RedirectError::NoLocation)),
        ];
        for (location, expected) in cases {
            assert_eq!(&follow(location.as_bytes(), "admin", false, b"/a/key?q=1"), expected, "{location}");
        }
        let cases = [
            ("admin", "https://admin:443/z", ok("/z")),
            ("admin:8443", "https://admin:8443/z", ok("/z")),
            ("admin", "//admin/z", ok("/z")),
            ("admin", "/z", ok("/z")),
            ("admin", "http://admin/z", Err(RedirectError::OtherOrigin)),
            ("admin", "http://admin:443/z", Err(RedirectError::OtherOrigin)),
            ("admin", "https://admin:80/z", Err(RedirectError::OtherOrigin)),
            ("admin:8443", "https://admin/z", Err(RedirectError::OtherOrigin)),
        ];
        for (host, location, expected) in cases {
            assert_eq!(follow(location.as_bytes(), host, true, b"/a/key"), expected, "{location}");
        }
        assert_eq!(follow(b"https://admin/z", "admin:8080", false, b"/a/key"), Err(RedirectError::ToTls));
        assert_eq!(follow(b"https://[::1]/z", "[::1]:8080", false, b"/a/key"), Err(RedirectError::ToTls));
        assert_eq!(follow(b"https://[::1]/z", "[::2]", false, b"/a/key"), Err(RedirectError::OtherOrigin));
    }
}
