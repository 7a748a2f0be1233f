//! The metrics listener: `GET` of metrics, health and readiness over HTTP, one request per connection.

use super::message::{AdminRequest, Event, MAX_REQUEST, ProtocolError};

/// Parses a request, whose header fields are ignored, and returns it with its length in bytes.
pub(super) fn next(input: &[u8]) -> Result<Option<(Event<'_>, usize)>, ProtocolError> {
    // This is no general HTTP server: the head is searched again at each read, which is cheap for the few hundred bytes
    // that Prometheus and probes send.
    let Some(end) = input.windows(4).position(|end| end == b"\r\n\r\n") else {
        return if input.len() > MAX_REQUEST { Err(ProtocolError::Http) } else { Ok(None) };
    };
    let mut words = input[..end].split(|byte| matches!(byte, b' ' | b'\r'));
    let (method, target, version) = (words.next(), words.next(), words.next());
    if !version.is_some_and(|version| version.starts_with(b"HTTP/1.")) {
        return Err(ProtocolError::Http);
    }
    // Probes may add a query string to get past caches.
    let path = target.and_then(|target| target.split(|byte| *byte == b'?').next());
    let page = match (method, path) {
        (Some(b"GET"), Some(b"/metrics")) => AdminRequest::Metrics,
        (Some(b"GET"), Some(b"/healthz")) => AdminRequest::Health,
        (Some(b"GET"), Some(b"/readyz")) => AdminRequest::Readiness,
        (Some(b"GET"), _) => AdminRequest::UnknownPath,
        _ => AdminRequest::OtherMethod,
    };
    Ok(Some((Event::Admin(page), end + 4)))
}

/// Appends a response to `out`. The connection is closed after it.
pub(super) fn respond(status: &str, body: &str, out: &mut Vec<u8>) {
    let head = "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\nCache-Control: no-store\r\nConnection: close";
    let length = body.len();
    out.extend_from_slice(format!("HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_of_a_request_selects_the_same_page() {
        type Parsed = Result<Option<AdminRequest>, ProtocolError>;
        let cases: &[(&[u8], Parsed)] = &[
            (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Ok(Some(AdminRequest::Metrics))),
            (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", Ok(Some(AdminRequest::Metrics))),
            (b"GET /healthz HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::Health))),
            (b"GET /readyz HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::Readiness))),
            (b"GET / HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::UnknownPath))),
            (b"POST /metrics HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::OtherMethod))),
            (b"GET /metrics HTTP/1.1\r\nHost: x\r\n", Ok(None)),
            (b"hello\r\n\r\n", Err(ProtocolError::Http)),
            (b"\r\n\r\n", Err(ProtocolError::Http)),
        ];
        for (input, expected) in cases {
            for end in 0..input.len() {
                assert!(matches!(next(&input[..end]), Ok(None)), "{}", input[..end].escape_ascii());
            }
            let got = next(input).map(|event| match event {
                Some((Event::Admin(page), used)) if used == input.len() => Some(page),
                None => None,
                other => panic!("{other:?}"),
            });
            assert_eq!(&got, expected, "{}", input.escape_ascii());
        }
        assert_eq!(next(&[b'x'; MAX_REQUEST + 1]).err(), Some(ProtocolError::Http));
    }
}
