//! JSON values, and the text that Postfix and Dovecot receive for them. Nothing is rounded or reordered: numbers and
//! nested values are passed on as they were written.

mod pointer;
mod quote;
mod scan;
pub mod stream;

use crate::wire;
use pointer::{index, token, unescaped};
use quote::PLAIN;
pub use quote::{push_quoted, quote};
use scan::{compact, is_empty, is_space, value_end};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The UTF-8 byte order mark.
// RFC 8259, section 8.1 lets a parser ignore it, and some frameworks send it.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A validated JSON document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value<'a> {
    Null,
    /// A string, unescaped: UTF-8, in bytes, as every use of it needs no more.
    Text(Cow<'a, [u8]>),
    /// A number or a boolean, as it was written.
    // Never parsed into an f64: an integer beyond 2^53 would be rounded.
    Scalar(Cow<'a, str>),
    /// An array, as it was written.
    Array(Cow<'a, str>),
    /// An object, as it was written.
    Object(Cow<'a, str>),
}

/// The input is not one JSON document (RFC 8259), or has text that cannot be decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct JsonError;

/// Why [`Value::select`] has no value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SelectError {
    /// A member of the pointer does not exist, or has no members itself (RFC 6901, section 4).
    Missing,
    /// The name of a member cannot be decoded, so that it is unknown whether it is the one.
    Unreadable,
}

impl From<JsonError> for SelectError {
    fn from(_: JsonError) -> Self {
        SelectError::Unreadable
    }
}

/// Why a value has no text that a mail server would read as it is. `Display` continues a sentence that begins with the
/// value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unfit {
    Object,
    /// An array in an array, or an object in one.
    Nested,
    NullItem,
    /// Half a surrogate pair.
    Undecodable,
    Nul,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unfit::Object => "is an object: select= names a part of it",
            Unfit::Nested => "is an array of arrays or objects: select= names a part of it",
            Unfit::NullItem => "is an array with null in it",
            Unfit::Undecodable => "has text that cannot be decoded",
            Unfit::Nul => "has a NUL, where mail servers cut it",
        })
    }
}

impl<'a> Value<'a> {
    /// Parses a JSON document. A byte order mark in front is ignored.
    pub fn parse(bytes: &'a [u8]) -> Result<Value<'a>, JsonError> {
        // Nearly all answers are strings without anything around them.
        if bytes.first() == Some(&b'"') {
            return text(bytes);
        }
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        if bytes.iter().find(|byte| !is_space(byte)) == Some(&b'"') {
            return text(bytes);
        }
        Value::checked(raw(bytes)?)
    }

    /// The value of a raw text that is known to be valid JSON. It fails on strings with half a surrogate pair only.
    fn checked(raw: &'a str) -> Result<Value<'a>, JsonError> {
        match raw.as_bytes().first() {
            Some(b'n') => Ok(Value::Null),
            Some(b'"') => text(raw.as_bytes()),
            Some(b'[') => Ok(Value::Array(Cow::Borrowed(raw))),
            Some(b'{') => Ok(Value::Object(Cow::Borrowed(raw))),
            _ => Ok(Value::Scalar(Cow::Borrowed(raw))),
        }
    }

    /// True for a number.
    pub fn is_number(&self) -> bool {
        matches!(self, Value::Scalar(raw) if !matches!(&**raw, "true" | "false"))
    }

    /// Copies borrowed text, so that the value outlives the input.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Value::Scalar(raw) => Value::Scalar(Cow::Owned(raw.into_owned())),
            Value::Array(raw) => Value::Array(Cow::Owned(raw.into_owned())),
            Value::Object(raw) => Value::Object(Cow::Owned(raw.into_owned())),
        }
    }

    /// Borrows the text of this value.
    pub fn borrowed(&self) -> Value<'_> {
        match self {
            Value::Null => Value::Null,
            Value::Text(text) => Value::Text(Cow::Borrowed(text)),
            Value::Scalar(raw) => Value::Scalar(Cow::Borrowed(raw)),
            Value::Array(raw) => Value::Array(Cow::Borrowed(raw)),
            Value::Object(raw) => Value::Object(Cow::Borrowed(raw)),
        }
    }

    /// The value at a JSON pointer (RFC 6901). An element beyond the end of an array is `Null`, as a query without rows
    /// returns an empty array.
    ///
    /// # Errors Anything else that does not exist. If it were a miss, a renamed member or an error sent with 200 would
    /// bounce all mail. This includes a step into `null`, which is how GraphQL reports errors (`"data": null`).
    pub fn select(self, pointer: &str) -> Result<Value<'a>, SelectError> {
        let (mut value, mut at) = (self, 0);
        while at < pointer.len() {
            let (token, end) = token(pointer, at);
            if let (Value::Array(raw), "*") = (&value, token) {
                let mut all = String::from("[");
                select_all(raw, &pointer[end..], &mut all)?;
                return Ok(Value::Array(Cow::Owned(all + "]")));
            }
            at = end;
            match value.child(&unescaped(token))? {
                Some(child) => value = child,
                None => return Ok(Value::Null),
            }
        }
        Ok(value)
    }

    /// The member `token`; `None` is beyond the end of an array.
    fn child(self, token: &str) -> Result<Option<Value<'a>>, SelectError> {
        match self {
            Value::Object(Cow::Borrowed(raw)) => {
                let (mut members, mut found) = (Members::new(), Err(SelectError::Missing));
                while let Some((name, value)) = members.next(raw)? {
                    if *name == *token.as_bytes() {
                        // The last of several equal names, as in most parsers (RFC 8259, section 4).
                        found = Ok(Some(Value::checked(value)?));
                    }
                }
                found
            }
            Value::Array(Cow::Borrowed(raw)) => {
                let index = index(token).ok_or(SelectError::Missing)?;
                Ok(Members::new().all_items(raw).nth(index).map(Value::checked).transpose()?)
            }
            Value::Object(Cow::Owned(raw)) => {
                Ok(Value::Object(Cow::Borrowed(&raw)).child(token)?.map(Value::into_owned))
            }
            Value::Array(Cow::Owned(raw)) => Ok(Value::Array(Cow::Borrowed(&raw)).child(token)?.map(Value::into_owned)),
            Value::Null | Value::Text(_) | Value::Scalar(_) => Err(SelectError::Missing),
        }
    }

    /// The text for Postfix; `None` is a miss. An array of scalars is joined with commas, as Postfix expects lists of
    /// addresses.
    ///
    /// # Errors
    /// There is no such text. Postfix would take JSON for an address, or split it into several.
    pub fn for_postfix(&self) -> Result<Option<Cow<'_, [u8]>>, Unfit> {
        let raw = match self {
            Value::Null => return Ok(None),
            Value::Text(text) => return without_nul(text).map(Some),
            // For Postfix every value exists, also the text `false`, for which relay_domains would relay.
            Value::Scalar(raw) if *raw == "false" => return Ok(None),
            Value::Scalar(raw) => return Ok(Some(Cow::Borrowed(raw.as_bytes()))),
            Value::Object(_) => return Err(Unfit::Object),
            Value::Array(raw) => raw,
        };
        let mut list = Vec::new();
        for (at, item) in Members::new().all_items(raw).enumerate() {
            if at > 0 {
                list.push(b',');
            }
            match Value::checked(item).map_err(|_| Unfit::Undecodable)? {
                Value::Text(text) => list.extend_from_slice(&without_nul(&text)?),
                Value::Scalar(raw) => list.extend_from_slice(raw.as_bytes()),
                Value::Null => return Err(Unfit::NullItem),
                Value::Array(_) | Value::Object(_) => return Err(Unfit::Nested),
            }
        }
        Ok(if is_empty(raw) { None } else { Some(Cow::Owned(list)) })
    }

    /// True if [`Value::for_postfix`] is `Ok(None)`.
    // Apart, as that is part of each lookup, and only inlined there.
    pub fn is_none_for_postfix(&self) -> bool {
        match self {
            Value::Null => true,
            Value::Scalar(raw) => *raw == "false",
            Value::Array(raw) => is_empty(raw),
            Value::Text(_) | Value::Object(_) => false,
        }
    }

    /// The text for Dovecot; `None` is a miss. Arrays and objects are JSON without white space.
    ///
    /// # Errors
    /// [`Unfit::Nul`] only: Dovecot's strings end there.
    pub fn for_dovecot(&self) -> Result<Option<Cow<'_, [u8]>>, Unfit> {
        match self {
            Value::Null => Ok(None),
            Value::Text(text) => without_nul(text).map(Some),
            Value::Scalar(raw) => Ok(Some(Cow::Borrowed(raw.as_bytes()))),
            Value::Array(raw) | Value::Object(raw) => Ok(Some(Cow::Owned(compact(raw).into_bytes()))),
        }
    }
}

/// Appends the values at a pointer in each item of an array. Those that are null, or beyond the end of an array, are
/// none: a query returns rows without a value for a column. An item itself that is null stays.
fn select_all(array: &str, pointer: &str, all: &mut String) -> Result<(), SelectError> {
    for item in Members::new().all_items(array) {
        let (mut leaf, mut at) = (Some(Value::checked(item)?), 0);
        while at < pointer.len()
            && let Some(value) = leaf.take()
        {
            let (token, end) = token(pointer, at);
            if let (Value::Array(raw), "*") = (&value, token) {
                select_all(raw, &pointer[end..], all)?;
                break;
            }
            (leaf, at) = (value.child(&unescaped(token))?, end);
        }
        let Some(value) = leaf.filter(|value| *value != Value::Null || pointer.is_empty()) else { continue };
        if all.len() > 1 {
            all.push(',');
        }
        match value {
            Value::Null => all.push_str("null"),
            Value::Text(text) => all.push_str(&String::from_utf8_lossy(&quote(&text))),
            Value::Scalar(raw) | Value::Array(raw) | Value::Object(raw) => all.push_str(&raw),
        }
    }
    Ok(())
}

fn without_nul(text: &[u8]) -> Result<Cow<'_, [u8]>, Unfit> {
    if text.contains(&0) { Err(Unfit::Nul) } else { Ok(Cow::Borrowed(text)) }
}

fn text(bytes: &[u8]) -> Result<Value<'_>, JsonError> {
    // ASCII without escapes is the text between its quotes. Checking that takes a quarter of the time of parsing.
    if let [b'"', inner @ .., b'"'] = bytes
        && wire::all(inner, |byte| PLAIN[usize::from(byte)])
    {
        return Ok(Value::Text(Cow::Borrowed(inner)));
    }
    match serde_json::from_slice::<&str>(bytes) {
        Ok(text) => Ok(Value::Text(Cow::Borrowed(text.as_bytes()))),
        // Unescaping needs memory of its own. An invalid string fails a second time here, which is rare enough.
        Err(_) => {
            let text = serde_json::from_slice::<String>(bytes).map_err(|_| JsonError)?;
            Ok(Value::Text(Cow::Owned(text.into_bytes())))
        }
    }
}

/// A whole JSON document, validated, without what surrounds it.
fn raw(bytes: &[u8]) -> Result<&str, JsonError> {
    serde_json::from_slice::<&RawValue>(bytes).map(RawValue::get).map_err(|_| JsonError)
}

/// `text` as JSON: as it is if it is a JSON document that can be parsed again, else as a JSON string. `None` if it is
/// neither JSON nor UTF-8.
pub fn to_json(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    // A value that could not be read back after a SET would be lost, so that a byte order mark or half a surrogate pair
    // makes it a string.
    if Value::parse(text).is_ok() && !text.starts_with(BOM) {
        return Some(Cow::Borrowed(text));
    }
    to_json_string(text).map(Cow::Owned)
}

/// `text` as a JSON string. `None` if it is not UTF-8.
pub fn to_json_string(text: &[u8]) -> Option<Vec<u8>> {
    serde_json::to_vec(std::str::from_utf8(text).ok()?).ok()
}

/// The decoded name and the raw value of a member of an object.
pub type Member<'a> = (Cow<'a, [u8]>, &'a str);

/// A cursor over the members of a validated array or object. It refers to the text by position instead of borrowing it,
/// so that a struct can own both.
#[derive(Clone, Copy, Debug)]
pub struct Members {
    at: usize,
    /// Where the last name began.
    name: usize,
}

impl Default for Members {
    fn default() -> Self {
        Self::new()
    }
}

impl Members {
    /// A cursor before the first member.
    pub fn new() -> Self {
        Self { at: 1, name: 1 }
    }

    /// A cursor before the member whose name begins at a position.
    pub fn from_position(at: usize) -> Self {
        Self { at, name: at }
    }

    /// The position in the text at which the last name returned begins, with its quote.
    pub fn name_position(&self) -> usize {
        self.name
    }

    /// The next name and raw value of the object `raw`.
    ///
    /// # Errors
    /// A name with half a surrogate pair is valid JSON, but has no Unicode text. The end of the object must not be
    /// assumed there: members behind it would be reported as missing.
    pub fn next<'a>(&mut self, raw: &'a str) -> Result<Option<Member<'a>>, JsonError> {
        let Some(name) = self.next_item(raw) else { return Ok(None) };
        self.name = self.at - name.len();
        match (text(name.as_bytes())?, self.next_item(raw)) {
            (Value::Text(name), Some(value)) => Ok(Some((name, value))),
            _ => Err(JsonError),
        }
    }

    /// The next raw item of the array `raw`, or the next name or value of the object `raw`.
    pub fn next_item<'a>(&mut self, raw: &'a str) -> Option<&'a str> {
        let rest = raw.as_bytes().get(self.at..)?;
        self.at += rest.iter().position(|byte| !is_space(byte) && !matches!(byte, b',' | b':'))?;
        if matches!(raw.as_bytes()[self.at], b']' | b'}') {
            return None;
        }
        let start = self.at;
        self.at = value_end(raw, start);
        Some(&raw[start..self.at])
    }

    fn all_items(mut self, raw: &str) -> impl Iterator<Item = &str> {
        std::iter::from_fn(move || self.next_item(raw))
    }
}

/// The value of a raw item that a [`Members`] returned.
pub fn member(raw: &str) -> Result<Value<'_>, JsonError> {
    Value::checked(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// JSON, the text for Postfix, the text for Dovecot (`None`: a miss).
    type Case = (&'static str, Result<Option<&'static str>, Unfit>, Result<Option<&'static str>, Unfit>);

    const CASES: &[Case] = &[
        ("null", Ok(None), Ok(None)),
        (" \n\"text\" ", Ok(Some("text")), Ok(Some("text"))),
        (r#""a\"b\u00fc\n""#, Ok(Some("a\"bü\n")), Ok(Some("a\"bü\n"))),
        ("\"ü\"", Ok(Some("ü")), Ok(Some("ü"))),
        ("\"\"", Ok(Some("")), Ok(Some(""))),
        ("\u{feff}1", Ok(Some("1")), Ok(Some("1"))),
        ("12345678901234567890.10e+5", Ok(Some("12345678901234567890.10e+5")), Ok(Some("12345678901234567890.10e+5"))),
        ("-0", Ok(Some("-0")), Ok(Some("-0"))),
        ("true", Ok(Some("true")), Ok(Some("true"))),
        ("false", Ok(None), Ok(Some("false"))),
        ("\"false\"", Ok(Some("false")), Ok(Some("false"))),
        ("[]", Ok(None), Ok(Some("[]"))),
        ("[ ]", Ok(None), Ok(Some("[]"))),
        (r#"["a", "b" , 3, true]"#, Ok(Some("a,b,3,true")), Ok(Some(r#"["a","b",3,true]"#))),
        (r#"["a, b", "c\"d"]"#, Ok(Some("a, b,c\"d")), Ok(Some(r#"["a, b","c\"d"]"#))),
        (r#"[""]"#, Ok(Some("")), Ok(Some(r#"[""]"#))),
        (r#"["a", [1, 2]]"#, Err(Unfit::Nested), Ok(Some(r#"["a",[1,2]]"#))),
        (r#"[{"goto":"a@x"}]"#, Err(Unfit::Nested), Ok(Some(r#"[{"goto":"a@x"}]"#))),
        (r#"["a", null]"#, Err(Unfit::NullItem), Ok(Some(r#"["a",null]"#))),
        ("[null]", Err(Unfit::NullItem), Ok(Some("[null]"))),
        (r#"["a", "caf\udce9"]"#, Err(Unfit::Undecodable), Ok(Some(r#"["a","caf\udce9"]"#))),
        (r#"{ "a" : 1.0, "b" : " x \\\" y " }"#, Err(Unfit::Object), Ok(Some(r#"{"a":1.0,"b":" x \\\" y "}"#))),
        (r#"{"detail":"Not found"}"#, Err(Unfit::Object), Ok(Some(r#"{"detail":"Not found"}"#))),
        ("{}", Err(Unfit::Object), Ok(Some("{}"))),
        (r#""a\u0000b""#, Err(Unfit::Nul), Err(Unfit::Nul)),
        (r#"["a\u0000b"]"#, Err(Unfit::Nul), Ok(Some(r#"["a\u0000b"]"#))),
    ];

    #[test]
    fn json_becomes_text_without_loss() {
        let text = |text: Result<Option<Cow<'_, [u8]>>, Unfit>| {
            text.map(|text| text.map(|text| String::from_utf8(text.into_owned()).unwrap()))
        };
        for (json, postfix, dovecot) in CASES {
            let value = Value::parse(json.as_bytes()).unwrap();
            for value in [value.borrowed(), value.clone().into_owned()] {
                assert_eq!(text(value.for_postfix()), postfix.map(|text| text.map(str::to_owned)), "{json}");
                assert_eq!(value.is_none_for_postfix(), value.for_postfix() == Ok(None), "{json}");
                assert_eq!(text(value.for_dovecot()), dovecot.map(|text| text.map(str::to_owned)), "{json}");
            }
        }
    }

    #[test]
    fn what_is_not_one_document_is_refused() {
        let wrong: &[&[u8]] = &[
            b"",
            b" ",
            b"text",
            b"<html>",
            b"\"a",
            b"\"a\" b",
            b"1 2",
            b"01",
            b"1.",
            b"+1",
            b"nul",
            b"nulll",
            b"NaN",
            b"[1,]",
            b"[1",
            b"{\"a\"}",
            b"{\"a\":1,}",
            b"{a:1}",
            b"'a'",
            b"\"\xff\"",
            b"\"a\nb\"",
            b"\"\\ud800\"",
            b"\"\\x\"",
            b"[\"\xff\"]",
            b"[\"\\x\"]",
            b"null,",
            b"[1]]",
            b"\x0c1",
            b"\"a\"\x0c",
        ];
        for bytes in wrong {
            assert_eq!(Value::parse(bytes), Err(JsonError), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        let value = Value::parse(deep.as_bytes()).unwrap();
        assert_eq!(value.for_dovecot().unwrap().unwrap().len(), deep.len());
        assert_eq!(value.for_postfix(), Err(Unfit::Nested));
        assert_eq!(Value::parse("[".repeat(1_000_000).as_bytes()), Err(JsonError));
    }

    #[test]
    fn a_pointer_selects_a_part() {
        let json = r#"[ {"mail dir": "/x", "a/b": [1, {"~": true}], "m": null, "n": 1, "n": 2}, "s", null ]"#;
        let text = |text: &'static str| Ok(Value::Text(text.as_bytes().into()));
        let cases = [
            ("/0/mail dir", text("/x")),
            ("/0/a~1b/1/~0", Ok(Value::Scalar("true".into()))),
            ("/0/n", Ok(Value::Scalar("2".into()))),
            ("/1", text("s")),
            // A null at the end, and elements beyond the end of an array, are misses.
            ("/0/m", Ok(Value::Null)),
            ("/2", Ok(Value::Null)),
            ("/3", Ok(Value::Null)),
            ("/3/mail dir", Ok(Value::Null)),
            ("/99999999999999999999", Ok(Value::Null)),
            // Anything else that does not exist is a fault.
            ("/0/maildri", Err(SelectError::Missing)),
            ("/0/mail dir/0", Err(SelectError::Missing)),
            ("/0/n/x", Err(SelectError::Missing)),
            ("/0/m/x", Err(SelectError::Missing)),
            ("/2/x", Err(SelectError::Missing)),
            ("/00", Err(SelectError::Missing)),
            ("/-", Err(SelectError::Missing)),
            ("/-1", Err(SelectError::Missing)),
            ("/+0", Err(SelectError::Missing)),
            ("/", Err(SelectError::Missing)),
            ("/maildir", Err(SelectError::Missing)),
        ];
        for (pointer, expected) in cases {
            let value = Value::parse(json.as_bytes()).unwrap();
            assert_eq!(value.clone().into_owned().select(pointer), expected, "{pointer}");
            assert_eq!(value.select(pointer), expected, "{pointer}");
        }
        assert!(matches!(Value::parse(json.as_bytes()).unwrap().select(""), Ok(Value::Array(_))));
        let half = Value::parse(br#"{"\ud800": "x", "b": "2"}"#).unwrap();
        assert_eq!(half.select("/b"), Err(SelectError::Unreadable), "a name that cannot be read may be the one");
    }

    #[test]
    fn errors_sent_with_200_are_no_misses() {
        for json in [
            r#"{"error":"database is locked"}"#,
            r#"{"data":null,"errors":[{}]}"#,
            r#"{"errors":[{}]}"#,
            "\"maintenance\"",
            "5",
            "{}",
            r#"[{"error":"x"}]"#,
        ] {
            for pointer in ["/0/maildir", "/data/user/mailbox"] {
                let value = Value::parse(json.as_bytes()).unwrap();
                assert_eq!(value.select(pointer), Err(SelectError::Missing), "{json} {pointer}");
            }
        }
    }

    #[test]
    fn members_are_read_one_at_a_time() {
        let raw = r#"{ "a" : [1,{"x":"]"}] , "b\n":"}" , "c":-1e5}"#;
        let mut members = Members::new();
        let mut all = Vec::new();
        while let Some((name, value)) = members.next(raw).unwrap() {
            all.push((String::from_utf8(name.into_owned()).unwrap(), value));
        }
        let expected = [("a", r#"[1,{"x":"]"}]"#), ("b\n", "\"}\""), ("c", "-1e5")];
        assert_eq!(all, expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(Members::new().all_items("[ 1 , 2,[3] ]").collect::<Vec<_>>(), ["1", "2", "[3]"]);
    }

    #[test]
    fn text_becomes_json() {
        let json = |text: &[u8]| to_json(text).map(|json| String::from_utf8(json.into_owned()).unwrap());
        assert_eq!(json(b"42").as_deref(), Some("42"));
        assert_eq!(json(b"{\"a\": 1}").as_deref(), Some("{\"a\": 1}"));
        assert_eq!(json(b"my comment").as_deref(), Some("\"my comment\""));
        assert_eq!(json(b"line1\r\nline2\tx \\ \"q\" \x01").as_deref(), Some(r#""line1\r\nline2\tx \\ \"q\" \u0001""#));
        assert_eq!(json(b"").as_deref(), Some("\"\""));
        assert_eq!(json(b"\xef\xbb\xbf1").as_deref(), Some("\"\u{feff}1\""));
        assert_eq!(json(br#""\ud800""#).as_deref(), Some(r#""\"\\ud800\"""#));
        assert_eq!(json(b"\xff"), None);
    }
}
