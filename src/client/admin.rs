//! The metrics listener: `GET` and `HEAD` of metrics, health and readiness over HTTP, one request per connection.

use super::message::{AdminRequest, Event, MAX_REQUEST, ProtocolError};

/// The end of a request, which has no body.
const END: &[u8] = b"\r\n\r\n";

/// The state of a connection to the metrics listener.
#[derive(Debug, Default)]
pub(super) struct AdminSession {
    /// Bytes at the front of the input in which no end of the request begins.
    // A head of 64 KiB that arrives in small pieces would otherwise be searched from its start at each of them.
    searched: usize,
    /// The request was read. Whatever follows it is ignored, as the connection is closed after the response.
    read: bool,
    /// The response has no body, as the method is HEAD.
    head_only: bool,
}

impl AdminSession {
    /// Parses one request; its header fields are ignored. Returns the page and the length of the request in bytes.
    pub(super) fn next<'a>(&mut self, input: &'a [u8]) -> Result<Option<(Event<'a>, usize)>, ProtocolError> {
        if self.read {
            return Ok(None);
        }
        let Some(at) = input[self.searched..].windows(END.len()).position(|end| end == END) else {
            self.searched = (input.len() + 1).saturating_sub(END.len());
            return if input.len() > MAX_REQUEST { Err(ProtocolError::Http) } else { Ok(None) };
        };
        let end = self.searched + at;
        self.read = true;
        let page = self.page(&input[..end])?;
        Ok(Some((Event::Admin(page), end + END.len())))
    }

    /// The page that a request asks for.
    fn page(&mut self, head: &[u8]) -> Result<AdminRequest, ProtocolError> {
        let mut words = head.split(|byte| matches!(byte, b' ' | b'\r'));
        let (method, target, version) = (words.next(), words.next(), words.next());
        if !version.is_some_and(|version| version.starts_with(b"HTTP/1.")) {
            return Err(ProtocolError::Http);
        }
        match method {
            Some(b"GET") => {}
            Some(b"HEAD") => self.head_only = true,
            _ => return Ok(AdminRequest::OtherMethod),
        }
        Ok(match path(target.unwrap_or_default()) {
            b"/" => AdminRequest::Page,
            b"/status" => AdminRequest::Status,
            b"/metrics" => AdminRequest::Metrics,
            b"/healthz" => AdminRequest::Health,
            b"/readyz" => AdminRequest::Readiness,
            _ => AdminRequest::UnknownPath,
        })
    }

    /// Appends the response to the request that was read. The connection is closed after it.
    pub(super) fn respond(&self, page: AdminRequest, body: &str, out: &mut Vec<u8>) {
        let status = match page {
            AdminRequest::Metrics
            | AdminRequest::Page
            | AdminRequest::Status
            | AdminRequest::Health
            | AdminRequest::Readiness => "200 OK",
            AdminRequest::UnknownPath => "404 Not Found",
            // Allow is required (RFC 9110, 15.5.6).
            AdminRequest::OtherMethod => "405 Method Not Allowed\r\nAllow: GET, HEAD",
        };
        // A browser loads nothing and runs nothing, whatever a label may look like to it.
        let of_content = match page {
            AdminRequest::Page => {
                "text/html; charset=utf-8\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; \
                 img-src data:; frame-ancestors 'none'"
            }
            AdminRequest::Metrics => "text/plain; version=0.0.4; charset=utf-8",
            AdminRequest::Status
            | AdminRequest::Health
            | AdminRequest::Readiness
            | AdminRequest::UnknownPath
            | AdminRequest::OtherMethod => "text/plain; charset=utf-8",
        };
        let fields = format!(
            "Content-Type: {of_content}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close"
        );
        let length = body.len();
        let body = if self.head_only { "" } else { body };
        out.extend_from_slice(
            format!("HTTP/1.1 {status}\r\n{fields}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes(),
        );
    }
}

/// The path of a request target: proxies may send the whole URL, which every server has to accept (RFC 9112, 3.2.2), and
/// probes may add a query string to get past caches.
fn path(target: &[u8]) -> &[u8] {
    let target = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let after = |scheme: &[u8]| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    match after(b"http://").or_else(|| after(b"https://")) {
        Some(rest) => rest.iter().position(|byte| *byte == b'/').map_or(b"/", |at| &rest[at..]),
        None => target,
    }
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
            (b"GET / HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::Page))),
            (b"GET /status HTTP/1.0\r\n\r\n", Ok(Some(AdminRequest::Status))),
            (b"GET /x HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::UnknownPath))),
            (b"HEAD /readyz HTTP/1.0\r\n\r\n", Ok(Some(AdminRequest::Readiness))),
            (b"GET http://podop/healthz HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::Health))),
            (b"GET HTTPS://[::1]:9779/metrics?x=/ HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::Metrics))),
            (b"GET http://healthz HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::Page))),
            (b"GET http://podop?/healthz HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::Page))),
            (b"GET healthz HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::UnknownPath))),
            (b"POST /metrics HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::OtherMethod))),
            (b"OPTIONS * HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::OtherMethod))),
            (b"get /metrics HTTP/1.1\r\n\r\n", Ok(Some(AdminRequest::OtherMethod))),
            (b"GET /metrics HTTP/1.1\r\nHost: x\r\n", Ok(None)),
            (b"hello\r\n\r\n", Err(ProtocolError::Http)),
            (b"\r\n\r\n", Err(ProtocolError::Http)),
        ];
        for (input, expected) in cases {
            let mut session = AdminSession::default();
            for end in 0..input.len() {
                assert!(matches!(session.next(&input[..end]), Ok(None)), "{}", input[..end].escape_ascii());
            }
            let got = session.next(input).map(|event| match event {
                Some((Event::Admin(page), used)) if used == input.len() => Some(page),
                None => None,
                other => panic!("{other:?}"),
            });
            assert_eq!(&got, expected, "{}", input.escape_ascii());
        }
        assert_eq!(AdminSession::default().next(&[b'x'; MAX_REQUEST + 1]).err(), Some(ProtocolError::Http));
    }

    #[test]
    fn a_request_that_comes_byte_by_byte_is_searched_once() {
        let mut input = b"GET /healthz HTTP/1.1\r\nX: ".to_vec();
        input.resize(MAX_REQUEST - END.len(), b'x');
        input.extend_from_slice(END);
        let (mut session, start) = (AdminSession::default(), std::time::Instant::now());
        for end in 0..input.len() {
            assert!(matches!(session.next(&input[..end]), Ok(None)));
        }
        assert!(matches!(session.next(&input), Ok(Some((Event::Admin(AdminRequest::Health), _)))));
        // It takes 10 ms without optimisation, and a minute if all of it is searched each time.
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }
}
