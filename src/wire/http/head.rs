//! The head of a response: status line and header fields, and the framing of the body that follows from them.

use super::response::{Error, ExtraHeaders, Response};
use crate::wire::decimal;
use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::time::Duration;

/// Maximum length of a head in bytes, including the status line.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// Maximum number of header fields.
pub(super) const MAX_FIELDS: usize = 128;
/// Maximum length of a body in bytes.
pub(super) const MAX_BODY: usize = 4 * 1024 * 1024;

/// The media type of a body that describes an error (RFC 9457, section 3), which parameters may follow.
const PROBLEM: &[u8] = b"application/problem+json";

/// What the decoder reads next.
#[derive(Debug, Default)]
pub(super) enum State {
    #[default]
    Head,
    /// The number of bytes of the body that are missing.
    Length(Head, usize),
    /// The size line of a chunk comes next.
    ChunkSize(Head),
    /// The number of bytes of a chunk that are missing.
    ChunkData(Head, usize),
    /// The line end after a chunk comes next.
    ChunkEnd(Head),
    Trailers(Head),
    /// The body lasts until the end of the stream.
    UntilEnd(Head),
}

/// The parts of a head that are needed once the body is complete.
#[derive(Debug, Default)]
pub(super) struct Head {
    status: u16,
    keep_alive: bool,
    /// `Connection: close` was seen.
    // Apart from `keep_alive`, as it takes precedence over `keep-alive` in either order (RFC 9112, section 9.3).
    close: bool,
    keep_alive_timeout: Option<Duration>,
    extra_headers: Option<Box<ExtraHeaders>>,
}

impl Head {
    fn extra_headers(&mut self) -> &mut ExtraHeaders {
        self.extra_headers.get_or_insert_default()
    }

    pub(super) fn is_ok(&self) -> bool {
        self.status == 200
    }

    pub(super) fn response(self, body: Cow<'_, [u8]>) -> Response<'_> {
        Response {
            status: self.status,
            keep_alive: self.keep_alive && !self.close,
            keep_alive_timeout: self.keep_alive_timeout,
            extra_headers: self.extra_headers,
            until_end: false,
            body,
        }
    }
}

/// Checks that an incomplete head can still become a valid one.
///
/// # Errors
/// [`Error::Head`] if it does not begin with `HTTP/1.`
pub(super) fn plausible(partial: &[u8]) -> Result<(), Error> {
    // What answers on a wrong port (SMTP, a TLS alert, a banner) is reported at its first bytes instead of at the
    // timeout.
    const START: &[u8] = b"HTTP/1.";
    let common = partial.len().min(START.len());
    // A comparison of known length costs next to nothing, and is all that a complete head needs.
    if partial.starts_with(START) {
        return Ok(());
    }
    if partial[..common] == START[..common] { Ok(()) } else { Err(Error::Head) }
}

/// Parses a head. Returns the state that follows ([`State::Head`] after an interim response) and the length of the head
/// in bytes, or `None` if it is incomplete.
pub(super) fn parse_head(bytes: &[u8]) -> Result<Option<(State, usize)>, Error> {
    plausible(bytes)?;
    // Uninitialised, as clearing 128 fields would be the larger part of the work for the usual five.
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let used = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields) {
        Ok(httparse::Status::Complete(used)) if used <= MAX_HEAD => used,
        Ok(httparse::Status::Complete(_)) => return Err(Error::HeadTooLong),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Error::TooManyFields),
        Err(_) => return Err(Error::Head),
    };
    let status = parsed.code.ok_or(Error::Head)?;
    match status {
        // An upgrade is never requested, and what follows a 101 is not HTTP/1.1 any more (RFC 9110, section 15.2.2).
        101 => return Err(Error::Interim),
        100..200 => return Ok(Some((State::Head, used))),
        _ => {}
    }
    let old = parsed.version == Some(0);
    let mut head = Head { status, keep_alive: !old, ..Head::default() };
    let (mut length, mut chunked) = (None, false);
    for field in parsed.headers.iter() {
        read_field(field.name, field.value, &mut head, &mut length, &mut chunked)?;
    }
    read_date(parsed.headers, &mut head);
    // These never have a body, regardless of the fields (RFC 9112, section 6.3).
    let bodiless = matches!(status, 204 | 304);
    let state = match (length, chunked) {
        // Both fields together are how responses are smuggled: a proxy on the way may have used the other one (RFC
        // 9112, section 6.3).
        (Some(_), true) => return Err(Error::Length),
        // An HTTP/1.0 server does not know chunks; the framing is faulty then (RFC 9112, section 6.1).
        (None, true) if old => return Err(Error::Coding),
        _ if bodiless => State::Length(head, 0),
        (Some(length), false) => State::Length(head, usize::try_from(length).map_err(|_| Error::BodyTooLong)?),
        (None, true) => State::ChunkSize(head),
        // No length at all: the body ends with the connection, which cannot be used again.
        (None, false) => State::UntilEnd(Head { keep_alive: false, ..head }),
    };
    Ok(Some((state, used)))
}

/// Evaluates one header field. Names are compared without case; unknown fields are ignored.
fn read_field(
    name: &str,
    value: &[u8],
    head: &mut Head,
    length: &mut Option<u64>,
    chunked: &mut bool,
) -> Result<(), Error> {
    // Matching on the length first rules out nearly all names without comparing bytes.
    match name.len() {
        // The usual spelling first: an exact comparison is half of the work of one that ignores case.
        14 if name == "Content-Length" || name.eq_ignore_ascii_case("content-length") => {
            let number = decimal(value).ok_or(Error::Length)?;
            // Identical repetitions are allowed (RFC 9110, section 8.6); a list like `5, 5` is refused, which the same
            // section leaves to the recipient.
            if length.is_some_and(|other| other != number) {
                return Err(Error::Length);
            }
            *length = Some(number);
        }
        17 if name.eq_ignore_ascii_case("transfer-encoding") => {
            // No other coding is accepted in requests (there is no TE), and chunked twice has no meaning (RFC 9112,
            // section 6.1).
            if *chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Error::Coding);
            }
            *chunked = true;
        }
        10 if name.eq_ignore_ascii_case("connection") => {
            for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if token.eq_ignore_ascii_case(b"close") {
                    head.close = true;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    head.keep_alive = true;
                }
            }
        }
        10 if name.eq_ignore_ascii_case("keep-alive") => head.keep_alive_timeout = keep_alive(value),
        13 if name.eq_ignore_ascii_case("cache-control") => head.extra_headers().cache_control.add_directives(value),
        3 if name.eq_ignore_ascii_case("age") => {
            head.extra_headers().cache_control.set_age(decimal(value).unwrap_or(0).min(u32::MAX.into()) as u32);
        }
        11 if name.eq_ignore_ascii_case("retry-after") => {
            head.extra_headers().retry_after = decimal(value).map(|seconds| seconds.min(86_400) as u32);
        }
        7 if name.eq_ignore_ascii_case("expires") => head.extra_headers().cache_control.add_expires(value),
        6 if name.eq_ignore_ascii_case("pragma") => head.extra_headers().cache_control.add_pragma(value),
        4 if name.eq_ignore_ascii_case("vary") => read_vary(value, head),
        12 if head.status >= 400 && name.eq_ignore_ascii_case("content-type") => {
            let is_problem = value.get(..PROBLEM.len()).is_some_and(|start| start.eq_ignore_ascii_case(PROBLEM));
            head.extra_headers().is_problem = is_problem;
        }
        8 if name.eq_ignore_ascii_case("location") => head.extra_headers().location = Some(value.into()),
        _ => {}
    }
    Ok(())
}

/// Evaluates a `Vary` field. Most name fields, and have no effect.
fn read_vary(value: &[u8], head: &mut Head) {
    if value.contains(&b'*') {
        head.extra_headers().cache_control.add_vary(value);
    }
}

/// Evaluates the `Date` fields, if the lifetime depends on them.
// Apart from the other fields, as nearly every response has a date and nearly none has a lifetime that needs it.
fn read_date(fields: &[httparse::Header<'_>], head: &mut Head) {
    let Some(extra_headers) = head.extra_headers.as_deref_mut() else { return };
    if extra_headers.cache_control.needs_date() {
        let dates = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("date"));
        dates.for_each(|field| extra_headers.cache_control.add_date(field.value));
    }
}

/// The `timeout` parameter of `Keep-Alive: timeout=5, max=100`, at most a day.
fn keep_alive(value: &[u8]) -> Option<Duration> {
    value.split(|byte| *byte == b',').find_map(|parameter| {
        let (name, seconds) = parameter.trim_ascii().split_at_checked("timeout=".len())?;
        let seconds = decimal(seconds)?.min(86_400);
        name.eq_ignore_ascii_case(b"timeout=").then(|| Duration::from_secs(seconds))
    })
}
