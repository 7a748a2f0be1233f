//! What a table does for the engine.

use super::setup::Setup;
use crate::backend::Request;
use crate::query::{Answer, Path, Write};
use crate::wire::http::Response;
use std::fmt;
use std::time::{Duration, Instant};

/// A table.
pub trait Table {
    /// Answers a question, or returns the request that will.
    fn plan(&mut self, question: Question<'_>, now: Instant) -> Plan<'_>;

    /// Interprets the response to a [`Question::Get`], or to a [`Question::List`] if `list` is set.
    ///
    /// # Errors
    /// The response says nothing about the key, and must not be taken for a miss.
    fn parse_value<'a>(&self, list: bool, response: Response<'a>) -> Result<Answer<'a>, ResponseError> {
        let _ = list;
        Err(ResponseError::Status(response.status))
    }

    /// Interprets the response to a [`Question::Write`].
    ///
    /// # Errors
    /// The write was not acknowledged.
    fn parse_write(&self, write: &Write, response: &Response<'_>) -> Result<Written, ResponseError> {
        let _ = write;
        Err(ResponseError::Status(response.status))
    }

    /// Reads files again, after SIGHUP.
    fn reload(&mut self, setup: &mut Setup<'_>) {
        let _ = setup;
    }
}

/// A question to a table.
#[derive(Debug)]
pub enum Question<'a> {
    Get(&'a [u8]),
    /// The names below a path, with or without values.
    List(&'a Path),
    Write(&'a Write),
}

/// How a question is answered.
#[derive(Debug)]
pub enum Plan<'a> {
    Answer(Answer<'a>),
    /// This request, with the key of the question.
    Request(Request),
}

/// The result of a write that was acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Written {
    Done,
    /// There is no value to increment.
    NotFound,
}

/// Why a response has no answer. `Display` continues a sentence that begins with the backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResponseError {
    Status(u16),
    NotJson,
    /// 400, because the port accepts nothing but TLS.
    WantsTls,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResponseError::Status(status) => write!(f, "answered {status}"),
            ResponseError::WantsTls => f.write_str("answered 400, as it wants https://"),
            ResponseError::NotJson => f.write_str("answered 200 without JSON"),
        }
    }
}

/// A table that is open.
pub struct TableEntry {
    pub name: String,
    /// The time limit of a request, if it is not that of all tables.
    pub timeout: Option<Duration>,
    /// The lifetime of cached answers; `None` without a cache.
    // Opt-in: some backends count on every lookup, like Mailu's rate limits.
    pub caching: Option<Caching>,
    pub table: Box<dyn Table>,
}

/// The lifetime of cached answers, unless the response has one of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caching {
    /// The time for which an answer is served without a request.
    pub fresh: Duration,
    /// The time after that for which it is served if the backend fails (RFC 5861, section 4).
    pub stale: Duration,
}
