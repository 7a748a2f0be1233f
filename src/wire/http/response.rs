//! A response, and what can be wrong with one.

use super::CacheControl;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A whole response to one request.
#[derive(Debug, Eq, PartialEq)]
pub struct Response<'a> {
    pub status: u16,
    /// Whether the connection may be used again.
    pub keep: bool,
    /// How long the server keeps an keep_alive_timeout connection (`Keep-Alive: timeout=`), if it says so.
    pub keep_alive_timeout: Option<Duration>,
    /// What few responses say: kept apart, as responses are moved about a lot.
    pub extra_headers: Option<Box<ExtraHeaders>>,
    pub body: Cow<'a, [u8]>,
}

/// What few responses say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ExtraHeaders {
    pub location: Option<Box<[u8]>>,
    /// `Retry-After` in seconds; a date is not understood.
    pub retry_after: Option<u32>,
    pub cache_control: CacheControl,
}

impl Response<'_> {
    pub fn location(&self) -> Option<&[u8]> {
        self.extra_headers.as_ref()?.location.as_deref()
    }

    pub fn retry_after(&self) -> Option<u32> {
        self.extra_headers.as_ref()?.retry_after
    }

    /// The same without ties to the bytes it was read from.
    pub fn into_owned(self) -> Response<'static> {
        let Response { status, keep, keep_alive_timeout, extra_headers, body } = self;
        Response { status, keep, keep_alive_timeout, extra_headers, body: Cow::Owned(body.into_owned()) }
    }

    pub fn cache_control(&self) -> CacheControl {
        self.extra_headers.as_ref().map(|extra_headers| extra_headers.cache_control).unwrap_or_default()
    }
}

/// What is wrong with a response. The connection is of no use after that.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Error {
    /// The status line or a field is malformed, folded, or has a unquoted CR.
    Head,
    HeadTooLong,
    TooManyFields,
    /// `Content-Length` is not one decimal number, or stands beside `Transfer-Encoding`.
    Length,
    /// `Transfer-Encoding` is anything but `chunked`, or comes with HTTP/1.0.
    Coding,
    BodyTooLong,
    /// A chunk's size or end is malformed, or its line is too long.
    Chunk,
    Trailers,
    /// 101, which nobody asked for, or interim responses without end.
    Interim,
    /// The stream ended within the response.
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
