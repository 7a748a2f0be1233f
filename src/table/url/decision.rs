//! Decisions in the responses of a URL table.

use super::super::interface::ResponseError;
use super::options::UrlOptions;
use crate::query::{AskKind, Decision};
use crate::value::{SelectError, Value};
use crate::wire::http::Response;

/// Maximum length of an action in bytes. Postfix reads lines of twice that length (`line_length_limit`).
const MAX_ACTION: usize = 1_000;

/// Maximum length of a detail in bytes.
// Table, backend and status have to fit into a reason as well.
pub(super) const MAX_DETAIL: usize = 120;

/// Interprets a response. `authorized` is whether the request had credentials of the table.
///
/// # Errors
/// There is no decision in it.
pub(super) fn parse(
    kind: AskKind,
    options: &UrlOptions,
    authorized: bool,
    response: &Response<'_>,
) -> Result<Decision, ResponseError> {
    let status = response.status;
    let is_miss = options.misses.contains(status, authorized, false);
    let is_denied = match kind {
        AskKind::Policy => is_miss,
        // With credentials of the table, 401 is about those.
        AskKind::Login => is_miss || status == 403 || status == 401 && !authorized,
    };
    match status {
        _ if is_denied && options.misses.json && Value::parse(&response.body).is_err() => {
            return Err(ResponseError::NotJson(status));
        }
        _ if is_denied => return Ok(Decision::No(status_error(response).detail().map(str::to_owned))),
        200..300 => {}
        _ => return Err(status_error(response)),
    }
    match kind {
        AskKind::Policy => action(options, response),
        AskKind::Login => user(options, response),
    }
}

/// The error for a status, with the `detail` of `application/problem+json` (RFC 9457, section 3.1.4).
pub(super) fn status_error(response: &Response<'_>) -> ResponseError {
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    if !response.is_problem() {
        return ResponseError::Status(response.status); // the body may be long
    }
    let detail = match Value::parse(&response.body).map(|problem| problem.select("/detail")) {
        Ok(Ok(Value::Text(text))) => String::from_utf8_lossy(&text).chars().map(printable).take(MAX_DETAIL).collect(),
        _ => String::new(),
    };
    match detail.is_empty() {
        true => ResponseError::Status(response.status),
        false => ResponseError::Problem(response.status, detail),
    }
}

/// The value of a response with a body that decides. One that is not JSON is a text as it is.
fn decided<'a>(options: &UrlOptions, response: &'a Response<'_>) -> Result<Value<'a>, ResponseError> {
    let not_json = || ResponseError::NotJson(response.status);
    let value = match Value::parse(&response.body) {
        Ok(value) => value,
        // Part of a text could be another one.
        Err(_) if response.until_end || options.select.is_some() => return Err(not_json()),
        Err(_) => Value::Text(response.body.trim_ascii().into()),
    };
    match &options.select {
        None => Ok(value),
        Some(pointer) => value.select(pointer).map_err(|error| match error {
            SelectError::Missing => ResponseError::NotSelected(pointer.clone()),
            SelectError::Unreadable => not_json(),
        }),
    }
}

/// The action in a response.
fn action(options: &UrlOptions, response: &Response<'_>) -> Result<Decision, ResponseError> {
    if response.status == 204 {
        return Ok(Decision::No(None));
    }
    let no_action = |what| Err(ResponseError::NoAction(response.status, what));
    let value = decided(options, response)?;
    match &value {
        Value::Null => Ok(Decision::No(None)),
        Value::Array(_) if value.is_none_for_postfix() => Ok(Decision::No(None)),
        Value::Array(_) | Value::Object(_) => no_action("no text: select= names a part of it"),
        Value::Scalar(_) => no_action("no text"),
        Value::Text(action) if action.len() > MAX_ACTION => no_action("an action that is too long"),
        // Of a page that was not meant for Postfix, the first byte is `<`.
        Value::Text(action) if !action.first().is_some_and(u8::is_ascii_alphanumeric) => no_action("no action"),
        Value::Text(action) if action.iter().any(u8::is_ascii_control) || std::str::from_utf8(action).is_err() => {
            no_action("a line break or control character in the action")
        }
        Value::Text(action) => Ok(Decision::Yes(action.to_vec())),
    }
}

/// The user in a response that admits one: the one that the backend names as a JSON string, or the one that was
/// asked for.
// A page is no yes: it may be that of a login form. Nor is an object, which may be an error.
fn user(options: &UrlOptions, response: &Response<'_>) -> Result<Decision, ResponseError> {
    // Any other status without a body says that something is accepted (202) or a part (206), and not that a user is.
    let is_empty = response.body.is_empty() && !response.until_end;
    if response.status == 204 || response.status == 200 && is_empty {
        return Ok(Decision::Yes(Vec::new()));
    }
    if Value::parse(&response.body).is_err() {
        return Err(ResponseError::NotJson(response.status));
    }
    let no_user = |what| Err(ResponseError::NoAction(response.status, what));
    match decided(options, response)? {
        Value::Text(user) if user.is_empty() || user.len() > MAX_ACTION || user.iter().any(u8::is_ascii_control) => {
            no_user("no name of a user")
        }
        Value::Text(user) => Ok(Decision::Yes(user.into_owned())),
        Value::Null => no_user("null, which is neither a yes nor a no"),
        Value::Scalar(raw) if raw == "true" => Ok(Decision::Yes(Vec::new())),
        Value::Scalar(_) => no_user("neither a name nor true: a no is 403"),
        Value::Array(_) | Value::Object(_) => no_user("no name of a user: select= names a part of it"),
    }
}
