//! The members of a JSON array or object, while its text arrives.

use super::{BOM, JsonError, Value, is_space, raw, text};
use std::borrow::Cow;
use std::ops::Range;

/// The size in bytes of what was used from which on it is removed.
const MAX_USED: usize = 64 * 1024;

/// Maximum size of one member in bytes.
pub const MAX_MEMBER: usize = 4 << 20;

/// An array or object that does not exist.
const NULL: &[u8] = b"null";

/// Cuts an array or an object into its members, in any pieces; `null` has none. No more of the text is held than what was not used yet.
#[derive(Debug, Default)]
pub struct MemberReader {
    text: Vec<u8>,
    /// Where the next token begins.
    at: usize,
    state: State,
    /// How far a value is scanned of which the end has not arrived.
    scan: Scan,
    /// The name of the object's member whose value comes next.
    name: Option<Range<usize>>,
    is_object: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Start,
    /// A member or the end of an array or object without any.
    First,
    /// A member.
    Next,
    Colon,
    Value,
    CommaOrEnd,
    End,
}

/// A value that is being scanned: only its end is looked for, it is parsed once it is whole.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    /// Bytes that were looked at.
    seen: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Its size, once its end was seen.
    // A member that waits for room is asked for again and again, and may have megabytes.
    size: Option<usize>,
}

/// What [`MemberReader::next_item`] has found.
#[derive(Debug, Eq, PartialEq)]
pub enum Item<'a> {
    /// A raw item of an array.
    Element(&'a str),
    /// The decoded name and the raw value of a member of an object.
    Member(Cow<'a, [u8]>, &'a str),
    /// More of the text is needed.
    Incomplete,
    End,
}

impl MemberReader {
    /// Adds what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at >= MAX_USED.max(self.text.len() / 2) {
            let used = self.name.as_ref().map_or(self.at, |name| name.start);
            self.text.drain(..used);
            self.at -= used;
            self.name = self.name.take().map(|name| name.start - used..name.end - used);
        }
        self.text.extend_from_slice(bytes);
    }

    /// The next member, which is used with that; [`MemberReader::is_next`] tells whether there is one.
    ///
    /// # Errors
    /// The text is not an array, an object or `null`, or has a name or value that is not valid JSON or cannot be decoded.
    pub fn next_item(&mut self) -> Result<Item<'_>, JsonError> {
        match self.find()? {
            Found::Incomplete => Ok(Item::Incomplete),
            Found::End => Ok(Item::End),
            Found::Value(value) => {
                (self.at, self.state, self.scan) = (value.end, State::CommaOrEnd, Scan::default());
                // Valid in itself: together with what was checked between the values, all of the text is.
                let name = self.name.take();
                let raw = raw(&self.text[value])?;
                match name {
                    None => Ok(Item::Element(raw)),
                    Some(name) => match text(&self.text[name])? {
                        Value::Text(name) => Ok(Item::Member(name, raw)),
                        Value::Null | Value::Scalar(_) | Value::Array(_) | Value::Object(_) => Err(JsonError),
                    },
                }
            }
        }
    }

    /// Whether a member can be had now; `None` at the end.
    ///
    /// # Errors
    /// As [`MemberReader::next_item`].
    pub fn is_next(&mut self) -> Result<Option<bool>, JsonError> {
        Ok(match self.find()? {
            Found::Incomplete => Some(false),
            Found::Value(_) => Some(true),
            Found::End => None,
        })
    }

    /// Number of bytes that have arrived and were not used.
    pub fn buffered(&self) -> usize {
        self.text.len() - self.at
    }

    /// True if the members have names, as far as anything has arrived.
    pub fn is_object(&self) -> bool {
        self.is_object
    }

    /// Goes on until a value is whole, the text ends or more is needed.
    fn find(&mut self) -> Result<Found, JsonError> {
        loop {
            self.at += self.text[self.at..].iter().take_while(|byte| is_space(byte)).count();
            if self.state == State::Start && self.at == 0 {
                if self.text.starts_with(BOM) {
                    self.at = BOM.len();
                    continue;
                }
                if BOM.starts_with(&self.text) {
                    return Ok(Found::Incomplete);
                }
            }
            let rest = &self.text[self.at..];
            if self.state == State::Start && rest.first() == Some(&b'n') {
                if rest.starts_with(NULL) {
                    (self.at, self.state) = (self.at + NULL.len(), State::End);
                    continue;
                }
                return if NULL.starts_with(rest) { Ok(Found::Incomplete) } else { Err(JsonError) };
            }
            let Some(byte) = self.text.get(self.at).copied() else {
                return Ok(if self.state == State::End { Found::End } else { Found::Incomplete });
            };
            let next = match (self.state, byte) {
                (State::Start, b'[' | b'{') => {
                    self.is_object = byte == b'{';
                    State::First
                }
                (State::First | State::CommaOrEnd, b']') if !self.is_object => State::End,
                (State::First | State::CommaOrEnd, b'}') if self.is_object => State::End,
                (State::CommaOrEnd, b',') => State::Next,
                (State::Colon, b':') => State::Value,
                (State::First | State::Next, b'"') if self.is_object => match self.value()? {
                    None => return Ok(Found::Incomplete),
                    Some(name) => {
                        (self.at, self.state, self.scan) = (name.end, State::Colon, Scan::default());
                        self.name = Some(name);
                        continue;
                    }
                },
                (State::Value, _) => return Ok(self.value()?.map_or(Found::Incomplete, Found::Value)),
                (State::First | State::Next, _) if !self.is_object => {
                    return Ok(self.value()?.map_or(Found::Incomplete, Found::Value));
                }
                _ => return Err(JsonError),
            };
            self.state = next;
            self.at += 1;
        }
    }

    /// The range of the value that begins here, if its end has arrived.
    fn value(&mut self) -> Result<Option<Range<usize>>, JsonError> {
        let bytes = &self.text[self.at..];
        let Scan { mut seen, mut depth, mut in_string, mut escaped, size } = self.scan;
        let size = size.or_else(|| {
            loop {
                let Some(byte) = bytes.get(seen) else { break None };
                seen += 1;
                if in_string {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => {
                            in_string = false;
                            if depth == 0 {
                                break Some(seen);
                            }
                        }
                        _ => {}
                    }
                    continue;
                }
                match byte {
                    b'"' => in_string = true,
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' if depth > 1 => depth -= 1,
                    b']' | b'}' if depth == 1 => break Some(seen),
                    // Behind a number or a word. Its first byte may be one, too: then there is no value.
                    b']' | b'}' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => break Some(seen - 1),
                    _ => {}
                }
            }
        });
        if size.unwrap_or(seen) > MAX_MEMBER {
            return Err(JsonError);
        }
        self.scan = Scan { seen, depth, in_string, escaped, size };
        Ok(size.map(|size| self.at..self.at + size))
    }
}

enum Found {
    Incomplete,
    Value(Range<usize>),
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The members of a text that arrives in pieces, and `.` if it is whole.
    fn read(text: &[u8], pieces: &[usize]) -> Result<Vec<String>, JsonError> {
        let (mut reader, mut all, mut at) = (MemberReader::default(), Vec::new(), 0);
        for end in pieces.iter().copied().chain([text.len()]) {
            reader.push(&text[at..end]);
            at = end;
            loop {
                let is_next = reader.is_next()?;
                let item = match reader.next_item()? {
                    Item::Element(raw) => raw.to_owned(),
                    Item::Member(name, raw) => format!("{}={raw}", String::from_utf8_lossy(&name)),
                    Item::Incomplete => {
                        assert_eq!(is_next, Some(false));
                        break;
                    }
                    Item::End => {
                        assert_eq!(is_next, None);
                        all.push(".".to_owned());
                        break;
                    }
                };
                assert_eq!(is_next, Some(true));
                all.push(item);
            }
        }
        all.dedup_by(|one, other| one == "." && other == ".");
        Ok(all)
    }

    #[test]
    fn members_are_the_same_at_every_split() {
        let cases: &[(&str, &[&str])] = &[
            ("[]", &["."]),
            (" null ", &["."]),
            ("nul", &[]),
            (" { } ", &["."]),
            ("[1]", &["1", "."]),
            ("[1,\"a\", null ,[2,[3]],{\"b\":[\"]\"]}] ", &["1", "\"a\"", "null", "[2,[3]]", "{\"b\":[\"]\"]}", "."]),
            ("{\"a\":1,\"b\\\"\" : \"x\\\\\" , \"\\u00e9\":{}}", &["a=1", "b\"=\"x\\\\\"", "é={}", "."]),
            ("\u{feff}[\"é\"]", &["\"é\"", "."]),
            ("[1", &[]),
            ("[1 ", &["1"]),
            ("{\"a\":1,", &["a=1"]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            let text = text.as_bytes();
            for one in 0..=text.len() {
                for other in one..=text.len() {
                    let all = read(text, &[one, other]).unwrap();
                    assert_eq!(all, *expected, "{:?} {one} {other}", String::from_utf8_lossy(text));
                }
            }
            let all = read(text, &(0..text.len()).collect::<Vec<_>>()).unwrap();
            assert_eq!(all, *expected, "{:?} byte by byte", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn anything_but_one_array_or_object_is_refused() {
        for text in [
            "1",
            "\"a\"",
            "nul1",
            "null,",
            "[1]]",
            "[] x",
            "[,]",
            "[1,]",
            "[1 2]",
            "[tru]",
            "[01]",
            "[\"\n\"]",
            "{1:2}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "[1}",
            "{\"a\":1]",
            "[\"\\x\"]",
            "[{]}]",
            "[}",
            "{]",
            "x",
            "{\"\\ud800\":1}",
            "{\"a\":1:2}",
            "[1:2]",
        ] {
            assert_eq!(read(text.as_bytes(), &[]), Err(JsonError), "{text}");
            assert_eq!(read(text.as_bytes(), &(0..text.len()).collect::<Vec<_>>()), Err(JsonError), "{text}");
        }
        assert_eq!(read(b"[\"\xff\"]", &[]), Err(JsonError));
        assert_eq!(read(format!("[\"{}\"]", "x".repeat(MAX_MEMBER)).as_bytes(), &[]), Err(JsonError));
    }

    #[test]
    fn what_was_used_is_not_held() {
        let mut reader = MemberReader::default();
        reader.push(b"[");
        for number in 0..100_000 {
            reader.push(format!("\"name {number}\",").as_bytes());
            assert_eq!(reader.next_item(), Ok(Item::Element(&format!("\"name {number}\""))));
        }
        assert!(reader.text.capacity() < 4 * MAX_USED, "{}", reader.text.capacity());
        assert_eq!(reader.next_item(), Ok(Item::Incomplete));
    }
}
