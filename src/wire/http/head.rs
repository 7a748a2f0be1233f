//! The head of a response: what it says of the body, of the connection and of caches.

use super::response::{Error, ExtraHeaders, Response};
use crate::wire::decimal;
use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::time::Duration;

pub(super) const MAX_HEAD: usize = 64 * 1024; // bytes, with the status line
pub(super) const MAX_FIELDS: usize = 128; // fields of one head
pub(super) const MAX_BODY: usize = 4 * 1024 * 1024; // bytes

#[derive(Debug, Default)]
pub(super) enum State {
    #[default]
    Head,
    /// So many bytes of the body are missing.
    Length(Head, usize),
    /// A chunk's size line is due.
    ChunkSize(Head),
    /// So many bytes of a chunk are missing.
    ChunkData(Head, usize),
    /// The line end after a chunk's data is due.
    ChunkEnd(Head),
    Trailers(Head),
    /// The end of the stream ends the body.
    UntilEnd(Head),
}

/// What of a response head is needed later.
#[derive(Debug, Default)]
pub(super) struct Head {
    status: u16,
    keep: bool,
    /// `Connection: close`, which wins (RFC 9112, 9.3).
    close: bool,
    keep_alive_timeout: Option<Duration>,
    extra_headers: Option<Box<ExtraHeaders>>,
}

impl Head {
    fn extra_headers(&mut self) -> &mut ExtraHeaders {
        self.extra_headers.get_or_insert_default()
    }

    pub(super) fn response(self, body: Cow<'_, [u8]>) -> Response<'_> {
        Response {
            status: self.status,
            keep: self.keep && !self.close,
            keep_alive_timeout: self.keep_alive_timeout,
            extra_headers: self.extra_headers,
            body,
        }
    }
}

/// An incomplete head that can still become one.
pub(super) fn plausible(partial: &[u8]) -> Result<(), Error> {
    const START: &[u8] = b"HTTP/1.";
    let common = partial.len().min(START.len());
    if partial.starts_with(START) {
        return Ok(()); // a comparison of known length costs next to nothing
    }
    if partial[..common] == START[..common] { Ok(()) } else { Err(Error::Head) }
}

/// Parses a head: the state that follows (`State::Head` after an interim response) and its length in bytes.
pub(super) fn parse_head(bytes: &[u8]) -> Result<Option<(State, usize)>, Error> {
    plausible(bytes)?;
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
        101 => return Err(Error::Interim),
        100..200 => return Ok(Some((State::Head, used))),
        _ => {}
    }
    let old = parsed.version == Some(0);
    let mut head = Head { status, keep: !old, ..Head::default() };
    let (mut length, mut chunked) = (None, false);
    for field in parsed.headers.iter() {
        read_field(field.name, field.value, &mut head, &mut length, &mut chunked)?;
    }
    let none = matches!(status, 204 | 304); // RFC 9112, 6.3: never a body, whatever the fields say
    let state = match (length, chunked) {
        (Some(_), true) => return Err(Error::Length),
        (None, true) if old => return Err(Error::Coding),
        _ if none => State::Length(head, 0),
        (Some(length), false) if length > MAX_BODY as u64 => return Err(Error::BodyTooLong),
        (Some(length), false) => State::Length(head, length as usize),
        (None, true) => State::ChunkSize(head),
        (None, false) => State::UntilEnd(Head { keep: false, ..head }),
    };
    Ok(Some((state, used)))
}

fn read_field(
    name: &str,
    value: &[u8],
    head: &mut Head,
    length: &mut Option<u64>,
    chunked: &mut bool,
) -> Result<(), Error> {
    // The length tells most names apart, and costs nothing.
    match name.len() {
        // Comparing with what nearly all servers write first saves half of the work.
        14 if name == "Content-Length" || name.eq_ignore_ascii_case("content-length") => {
            let number = decimal(value).ok_or(Error::Length)?;
            if length.is_some_and(|other| other != number) {
                return Err(Error::Length);
            }
            *length = Some(number);
        }
        17 if name.eq_ignore_ascii_case("transfer-encoding") => {
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
                    head.keep = true;
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
        8 if name.eq_ignore_ascii_case("location") => head.extra_headers().location = Some(value.into()),
        _ => {}
    }
    Ok(())
}

/// `timeout=5, max=100`: the seconds.
fn keep_alive(value: &[u8]) -> Option<Duration> {
    value.split(|byte| *byte == b',').find_map(|parameter| {
        let (name, seconds) = parameter.trim_ascii().split_at_checked("timeout=".len())?;
        let seconds = decimal(seconds)?.min(86_400);
        name.eq_ignore_ascii_case(b"timeout=").then(|| Duration::from_secs(seconds))
    })
}
