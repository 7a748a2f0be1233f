//! HTTP responses, and the errors of parsing them.

use crate::wire::cache_control::CacheControl;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A complete response to one request.
#[derive(Debug, Eq, PartialEq)]
pub struct Response<'a> {
    pub status: u16,
    /// Whether the connection stays open for another request (RFC 9112, section 9.3).
    pub keep_alive: bool,
    /// The server's idle timeout of the connection, from `Keep-Alive: timeout=`.
    pub keep_alive_timeout: Option<Duration>,
    /// Fields that few responses have.
    // Boxed, because a response is moved several times on its way to the client and most have none of these.
    pub extra_headers: Option<Box<ExtraHeaders>>,
    /// The body ended with the connection, so that nothing shows that all of it has arrived (RFC 9112, section 8).
    pub until_end: bool,
    pub body: Cow<'a, [u8]>,
}

/// Header fields that few responses have.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ExtraHeaders {
    /// `Location`, not parsed.
    pub location: Option<Box<[u8]>>,
    /// `Retry-After` in seconds, at most a day. The form with a date is ignored.
    pub retry_after: Option<u32>,
    pub cache_control: CacheControl,
    /// The body of a status from 400 on is `application/problem+json` (RFC 9457).
    pub is_problem: bool,
}

impl Response<'_> {
    /// The value of `Location`.
    pub fn location(&self) -> Option<&[u8]> {
        self.extra_headers.as_ref()?.location.as_deref()
    }

    /// The value of `Retry-After`, in seconds.
    pub fn retry_after(&self) -> Option<u32> {
        self.extra_headers.as_ref()?.retry_after
    }

    /// True if the body describes an error as RFC 9457 says.
    pub fn is_problem(&self) -> bool {
        self.extra_headers.as_ref().is_some_and(|extra_headers| extra_headers.is_problem)
    }

    /// Copies the body, if it is borrowed, so that the response outlives the input.
    pub fn into_owned(self) -> Response<'static> {
        Response { body: Cow::Owned(self.body.into_owned()), ..self }
    }

    /// Cache directives; the default has no restrictions and no lifetime.
    pub fn cache_control(&self) -> CacheControl {
        self.extra_headers.as_ref().map(|extra_headers| extra_headers.cache_control).unwrap_or_default()
    }
}

/// Why a response is invalid. The connection must be closed, as the start of the next response is unknown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Error {
    /// The status line or a field is malformed or folded, or has a bare CR.
    Head,
    HeadTooLong,
    TooManyFields,
    /// `Content-Length` is not a single decimal number, or is combined with `Transfer-Encoding`.
    Length,
    /// `Transfer-Encoding` is not `chunked`, or is used with HTTP/1.0.
    Coding,
    BodyTooLong,
    /// A chunk's size or end is malformed, or its size line is too long.
    Chunk,
    Trailers,
    /// 101 without a request to upgrade, or too many interim responses.
    Interim,
    /// The stream ended within a response.
    Cut,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Head => "malformed response head",
            Error::HeadTooLong => "response head is too long",
            Error::TooManyFields => "response has too many fields",
            Error::Length => "bad Content-Length",
            Error::Coding => "bad Transfer-Encoding",
            Error::BodyTooLong => "response body is too long",
            Error::Chunk => "malformed chunk",
            Error::Trailers => "malformed trailers",
            Error::Interim => "unexpected interim response",
            Error::Cut => "response is cut short",
        })
    }
}
