//! What a table does for the engine.

use super::keys::KeyRules;
use super::settings::Caching;
use super::setup::Setup;
use crate::backend::Request;
use crate::query::{Answer, Ask, AskKind, Decision, Path, Tokens, Write};
use crate::wire::http::Response;
use std::fmt;
use std::time::{Duration, Instant};

/// A table.
pub trait Table {
    /// Answers a question, or returns the request that will.
    fn plan(&mut self, question: Question<'_>, now: Instant) -> Plan<'_>;

    /// Interprets the response to a [`Question::Get`] or a [`Question::List`].
    ///
    /// # Errors
    /// The response is not about the key, and must not be taken for a miss.
    fn parse_value<'a>(&self, of: ResponseOf, response: Response<'a>) -> Result<Answer<'a>, ResponseError> {
        let _ = of;
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

    /// Interprets the response to a [`Question::Ask`].
    ///
    /// # Errors
    /// There is no decision in it.
    fn parse_ask(&self, kind: AskKind, response: &Response<'_>) -> Result<Decision, ResponseError> {
        let _ = kind;
        Err(ResponseError::Status(response.status))
    }

    /// Does what is due by time alone. Returns when there is something to do again; `None` is never.
    fn tick(&mut self, now: Instant) -> Option<Instant> {
        let _ = now;
        None
    }

    /// Reads files again, after SIGHUP. [`Table::tick`] follows.
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
    Ask(&'a Ask),
}

/// What a response belongs to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ResponseOf {
    /// A [`Question::List`], not a [`Question::Get`].
    pub list: bool,
    /// A redirect was followed, so that another resource than that of the key may have responded.
    pub redirected: bool,
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
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ResponseError {
    Status(u16),
    /// A status with what the backend says about it (`detail` of RFC 9457), which is not part of `Display`.
    Problem(u16, String),
    /// The body is not JSON, which this status has to come with.
    NotJson(u16),
    /// A number that ended with the connection.
    CutNumber,
    /// There is nothing at this JSON pointer.
    NotSelected(String),
    /// The body is no action: what it is instead.
    NoAction(u16, &'static str),
    /// What a program has done instead of answering.
    Unexpected(&'static str),
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResponseError::Status(status) | ResponseError::Problem(status, _) => write!(f, "answered {status}"),
            ResponseError::NotJson(status) => write!(f, "answered {status} without JSON"),
            ResponseError::CutNumber => {
                f.write_str("answered 200 with a number that may be cut: it ended with the connection")
            }
            ResponseError::Unexpected(what) => f.write_str(what),
            ResponseError::NoAction(status, what) => write!(f, "answered {status} with {what}"),
            ResponseError::NotSelected(pointer) => write!(f, "answered 200 without {pointer}"),
        }
    }
}

impl ResponseError {
    /// What the backend says about it, in printable ASCII.
    pub fn detail(&self) -> Option<&str> {
        match self {
            ResponseError::Problem(_, detail) => Some(detail),
            ResponseError::Status(_)
            | ResponseError::NotJson(_)
            | ResponseError::CutNumber
            | ResponseError::NotSelected(_)
            | ResponseError::NoAction(..)
            | ResponseError::Unexpected(_) => None,
        }
    }
}

/// What a policy client gets in place of a fault.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFault {
    /// `DEFER_IF_PERMIT`: what would be accepted is deferred.
    #[default]
    Defer,
    /// The connection is closed, and Postfix's own `default_action` decides.
    Close,
    /// `DUNNO`: as if there were no policy.
    Dunno,
}

/// A table that is open.
pub struct TableEntry {
    pub name: String,
    /// The time limit of a request, if it is not that of all tables.
    pub timeout: Option<Duration>,
    /// The lifetime of cached answers; `None` without a cache.
    // Opt-in: some backends count on every lookup, like Mailu's rate limits.
    pub caching: Option<Caching>,
    /// The keys that a socketmap lookup asks for.
    pub keys: KeyRules,
    /// What a policy client gets in place of a fault.
    pub on_fault: OnFault,
    /// What else than passwords an authentication client may send.
    pub tokens: Tokens,
    /// It decides for a listener.
    pub decides: bool,
    pub table: Box<dyn Table>,
}
