//! The lines of a program: JSON objects that answer a request by its id.

use crate::value::{Members, Value, member};

/// Maximum length of the text of an error in bytes.
const MAX_ERROR: usize = 120;

/// A line of a program.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Line<'a> {
    pub id: u64,
    pub reply: Reply<'a>,
}

/// What a line says about its request.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Reply<'a> {
    /// `"value"`: any JSON, as it was written.
    Value(&'a str),
    /// `"rows"`: an array of names, or an object of names and values; more may follow.
    Rows(&'a str),
    /// `"done"`: whether a write was applied, or that there are no more rows.
    Done(bool),
    /// `"error"`: why there is no answer, in printable ASCII.
    Error(String),
}

/// Parses a line.
///
/// # Errors
/// It answers nothing, for this reason: the program cannot be trusted to know what it answers.
pub(super) fn parse(line: &[u8]) -> Result<Line<'_>, &'static str> {
    let raw = object(line).ok_or(NO_OBJECT)?;
    let (mut id, mut reply, mut members) = (None, None, Members::new());
    while let Some((name, value)) = members.next(raw).map_err(|_| NO_OBJECT)? {
        let next = match &*name {
            b"id" => {
                // A second one would leave open which of the two is meant.
                if id.replace(crate::wire::decimal(value.as_bytes()).ok_or(NO_ID)?).is_some() {
                    return Err(NO_ID);
                }
                continue;
            }
            b"value" => Reply::Value(value),
            b"rows" if value.starts_with(['[', '{']) => Reply::Rows(value),
            b"done" if value == "true" => Reply::Done(true),
            b"done" if value == "false" => Reply::Done(false),
            b"error" => Reply::Error(error(value).ok_or("sent a line whose error is no text")?),
            b"rows" => return Err("sent a line whose rows are no array and no object"),
            b"done" => return Err("sent a line whose done is not true and not false"),
            _ => continue,
        };
        if reply.replace(next).is_some() {
            return Err("sent a line with more than one of value, rows, done and error");
        }
    }
    let reply = reply.ok_or("sent a line with none of value, rows, done and error")?;
    Ok(Line { id: id.ok_or(NO_ID)?, reply })
}

const NO_OBJECT: &str = "sent a line that is no JSON object";
const NO_ID: &str = "sent a line without an id that is a number";

/// The line as the text of a valid object.
fn object(line: &[u8]) -> Option<&str> {
    let is_object = matches!(Value::parse(line), Ok(Value::Object(_)));
    // A byte order mark, which a parser may ignore, is no start of a line.
    str::from_utf8(line).ok().map(str::trim_ascii).filter(|raw| is_object && raw.starts_with('{'))
}

fn error(raw: &str) -> Option<String> {
    let Ok(Value::Text(text)) = member(raw) else { return None };
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    Some(String::from_utf8_lossy(&text).chars().map(printable).take(MAX_ERROR).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_replies_by_their_ids() {
        for (line, id, reply) in [
            (r#"{"id":7,"value":"x"}"#, 7, Reply::Value("\"x\"")),
            (r#" { "value" : [1, {"id": 8}] , "id" : 0, "more": 1 } "#, 0, Reply::Value(r#"[1, {"id": 8}]"#)),
            (r#"{"id":18446744073709551615,"value":null}"#, u64::MAX, Reply::Value("null")),
            (r#"{"id":7,"rows":["a"]}"#, 7, Reply::Rows(r#"["a"]"#)),
            (r#"{"id":7,"rows":{}}"#, 7, Reply::Rows("{}")),
            (r#"{"id":7,"done":true}"#, 7, Reply::Done(true)),
            (r#"{"\u0069d":7,"done":false}"#, 7, Reply::Done(false)),
            (r#"{"id":7,"error":"no \n\u00e9"}"#, 7, Reply::Error("no ??".into())),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(Line { id, reply }), "{line}");
        }
        let long = format!(r#"{{"id":1,"error":"{}"}}"#, "x".repeat(1_000));
        assert_eq!(parse(long.as_bytes()).unwrap().reply, Reply::Error("x".repeat(MAX_ERROR)));
    }

    #[test]
    fn anything_else_is_no_line() {
        for (lines, why) in [
            (
                &[
                    "",
                    "{",
                    "null",
                    "7",
                    "[]",
                    "Traceback",
                    r#"{"id":7,"value":1"#,
                    r#"{"id":7,"value":}"#,
                    "\u{feff}{}",
                    r#"{"id":7,"value":1} {"id":8,"value":1}"#,
                    r#"{"id":7,"value":NaN}"#,
                ][..],
                NO_OBJECT,
            ),
            (
                &[
                    r#"{"value":1}"#,
                    r#"{"id":"7","value":1}"#,
                    r#"{"id":-7,"value":1}"#,
                    r#"{"id":7.0,"value":1}"#,
                    r#"{"id":null,"value":1}"#,
                    r#"{"id":7,"id":8,"value":1}"#,
                    r#"{"id":18446744073709551616,"value":1}"#,
                ],
                NO_ID,
            ),
            (&["{}", r#"{"id":7}"#], "sent a line with none of value, rows, done and error"),
            (
                &[r#"{"id":7,"value":1,"error":"x"}"#, r#"{"id":7,"value":1,"value":2}"#],
                "sent a line with more than one of value, rows, done and error",
            ),
            (&[r#"{"id":7,"rows":1}"#], "sent a line whose rows are no array and no object"),
            (&[r#"{"id":7,"done":null}"#], "sent a line whose done is not true and not false"),
            (&[r#"{"id":7,"error":5}"#], "sent a line whose error is no text"),
        ] {
            lines.iter().for_each(|line| assert_eq!(parse(line.as_bytes()), Err(why), "{line}"));
        }
        assert_eq!(parse(b"{\"id\":7,\"value\":\"\xff\"}"), Err(NO_OBJECT));
    }
}
