//! Lines of the Dovecot dict protocol (dict-client.h, dict-connection.c, strescape.c).

use super::decimal;
use std::borrow::Cow;
use std::fmt;

/// Major versions of the protocol that are supported: 2 is sent by Dovecot up to 2.3.16, 3 by 2.3.17 to 2.3.21, 4 since
/// 2.4.
pub const MAJORS: std::ops::RangeInclusive<u32> = 2..=4;

/// Why a line is not a command. The connection is closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Error {
    /// The first byte is not a command of the protocol.
    Unknown,
    /// Fields are missing or are not numbers.
    Malformed,
    // Not skipped: a line that is dropped without a reply would shift all later replies by one, as the client counts
    // them.
    TooLong,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Unknown => "unknown dict command",
            Error::Malformed => "malformed dict command",
            Error::TooLong => "dict line is too long",
        })
    }
}

/// One command with its fields unescaped.
#[derive(Debug, Eq, PartialEq)]
pub enum DictCommand<'a> {
    Hello {
        major: u32,
        minor: u32,
        user: Cow<'a, [u8]>,
        name: Cow<'a, [u8]>,
    },
    Lookup {
        key: Cow<'a, [u8]>,
        user: Option<Cow<'a, [u8]>>,
    },
    /// `rest` is one path and an optional user; in major 2, one or more paths.
    Iterate {
        flags: u32,
        max_rows: u64,
        rest: Vec<Cow<'a, [u8]>>,
    },
    Begin {
        id: u32,
        user: Option<Cow<'a, [u8]>>,
        /// Seconds after which what the transaction sets expires; 0 is never.
        expire: u64,
    },
    Set {
        id: u32,
        key: Cow<'a, [u8]>,
        value: Cow<'a, [u8]>,
    },
    Unset {
        id: u32,
        key: Cow<'a, [u8]>,
    },
    Increment {
        id: u32,
        key: Cow<'a, [u8]>,
        by: i64,
    },
    /// `T` (timestamp of the change) and `V` (whether values may be logged), neither of which is passed on to backends.
    Remark {
        id: u32,
    },
    Rollback {
        id: u32,
    },
    Commit {
        id: u32,
    },
}

/// Finds the newline that ends the first line of `input`. `None` if the line is incomplete.
///
/// `seen` is the number of bytes that an earlier call has already searched; `limit` is the maximum length of a line in
/// bytes, without the newline.
pub fn line(input: &[u8], seen: usize, limit: usize) -> Result<Option<usize>, Error> {
    match input.iter().skip(seen).position(|byte| *byte == b'\n') {
        Some(at) if seen + at <= limit => Ok(Some(seen + at)),
        None if input.len() <= limit => Ok(None),
        _ => Err(Error::TooLong),
    }
}

/// Fields of an iteration that are read. No more paths are useful, and each takes memory.
const MAX_FIELDS: usize = 1_000;

/// Parses a line, without its newline.
pub fn parse(line: &[u8]) -> Result<DictCommand<'_>, Error> {
    let (letter, rest) = line.split_first().ok_or(Error::Malformed)?;
    let mut fields = rest.split(|byte| *byte == b'\t').map(unescape);
    let mut field = || fields.next().ok_or(Error::Malformed);
    match letter {
        b'H' => {
            // The value type is ignored: values are text in any case.
            let (major, minor, _type) = (number(&field()?)?, number(&field()?)?, field()?);
            Ok(DictCommand::Hello { major, minor, user: field()?, name: field()? })
        }
        b'L' => Ok(DictCommand::Lookup { key: field()?, user: field().ok() }),
        b'I' => {
            let (flags, max_rows) = (number(&field()?)?, decimal(&field()?).ok_or(Error::Malformed)?);
            let rest = vec![field()?];
            Ok(DictCommand::Iterate {
                flags,
                max_rows,
                rest: rest.into_iter().chain(fields.take(MAX_FIELDS)).collect(),
            })
        }
        b'B' => {
            let (id, user) = (number(&field()?)?, field().ok());
            // Dovecot sends it from 2.4 on, and closes the connection if it is no number (dict-commands.c).
            let expire = field().ok().map_or(Some(0), |seconds| decimal(&seconds)).ok_or(Error::Malformed)?;
            Ok(DictCommand::Begin { id, user, expire })
        }
        b'S' => Ok(DictCommand::Set { id: number(&field()?)?, key: field()?, value: field()? }),
        b'U' => Ok(DictCommand::Unset { id: number(&field()?)?, key: field()? }),
        b'A' => Ok(DictCommand::Increment { id: number(&field()?)?, key: field()?, by: signed(&field()?)? }),
        b'T' | b'V' => Ok(DictCommand::Remark { id: number(&field()?)? }),
        b'R' => Ok(DictCommand::Rollback { id: number(&field()?)? }),
        // D is the asynchronous commit of 2.2 and 2.3; it is answered like C.
        b'C' | b'D' => Ok(DictCommand::Commit { id: number(&field()?)? }),
        // Unlike unknown fields, an unknown command cannot be ignored: whether it needs a reply is unknown too.
        _ => Err(Error::Unknown),
    }
}

fn number(field: &[u8]) -> Result<u32, Error> {
    decimal(field).and_then(|number| number.try_into().ok()).ok_or(Error::Malformed)
}

fn signed(field: &[u8]) -> Result<i64, Error> {
    std::str::from_utf8(field).ok().and_then(|text| text.parse().ok()).ok_or(Error::Malformed)
}

/// Decodes escapes: byte 1 followed by one of `01tnr` is NUL, byte 1, tab, newline or CR (str_tabunescape in
/// strescape.c).
pub fn unescape(field: &[u8]) -> Cow<'_, [u8]> {
    // Escapes are rare: without any, the field borrows from the line.
    if !field.contains(&1) {
        return Cow::Borrowed(field);
    }
    let (mut out, mut bytes) = (Vec::with_capacity(field.len()), field.iter());
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            1 => match bytes.next() {
                Some(b'0') => 0,
                Some(b'1') => 1,
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                // As str_tabunescape does: an unknown escape is the character itself, and a trailing byte 1 is dropped.
                Some(&other) => other,
                None => break,
            },
            byte => byte,
        });
    }
    Cow::Owned(out)
}

/// Appends `text` to `out` with the bytes escaped that would end a field or a line.
pub fn escape(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, 0 | 1 | b'\t' | b'\n' | b'\r')) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match rest[at] {
            0 => b"\x010",
            1 => b"\x011",
            b'\t' => b"\x01t",
            b'\n' => b"\x01n",
            _ => b"\x01r",
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b(text: &str) -> Cow<'_, [u8]> {
        Cow::Borrowed(text.as_bytes())
    }

    #[test]
    fn every_command_is_read() {
        let cases: &[(&[u8], DictCommand<'_>)] = &[
            (b"H4\t0\t0\t\tmeta", DictCommand::Hello { major: 4, minor: 0, user: b(""), name: b("meta") }),
            (b"H2\t2\t0\tu@x\tquota", DictCommand::Hello { major: 2, minor: 2, user: b("u@x"), name: b("quota") }),
            (b"Lshared/k\t", DictCommand::Lookup { key: b("shared/k"), user: Some(b("")) }),
            (b"Lshared/tab\x01there", DictCommand::Lookup { key: b("shared/tab\there"), user: None }),
            (b"I9\t0\tpriv/g/\tu", DictCommand::Iterate { flags: 9, max_rows: 0, rest: vec![b("priv/g/"), b("u")] }),
            (b"B1\tu\t60", DictCommand::Begin { id: 1, user: Some(b("u")), expire: 60 }),
            (b"B9", DictCommand::Begin { id: 9, user: None, expire: 0 }),
            (
                b"S1\tshared/k\ta\x011\x010\x01n\x01r",
                DictCommand::Set { id: 1, key: b("shared/k"), value: b("a\x01\0\n\r") },
            ),
            (b"S1\tshared/k\t", DictCommand::Set { id: 1, key: b("shared/k"), value: b("") }),
            (b"U4294967295\tk", DictCommand::Unset { id: u32::MAX, key: b("k") }),
            (b"A1\tk\t-7", DictCommand::Increment { id: 1, key: b("k"), by: -7 }),
            (b"T1\t1700000000\t1", DictCommand::Remark { id: 1 }),
            (b"V1\tyes", DictCommand::Remark { id: 1 }),
            (b"R1", DictCommand::Rollback { id: 1 }),
            (b"C1", DictCommand::Commit { id: 1 }),
            (b"D1", DictCommand::Commit { id: 1 }),
        ];
        for (line, command) in cases {
            assert_eq!(parse(line).as_ref(), Ok(command), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn malformed_lines_are_refused() {
        let malformed: &[&[u8]] = &[
            b"",
            b"H",
            b"H4\t0\t0",
            b"Hx\t0\t0\t\tn",
            b"I",
            b"I0\t0",
            b"Ix\t0\tp",
            b"B",
            b"Bx",
            b"B-1",
            b"B4294967296",
            b"S1\tk",
            b"S1",
            b"U1",
            b"A1\tk",
            b"A1\tk\tx",
            b"C",
            b"Cx",
            b"C1x",
            b"R",
            b"T",
        ];
        for line in malformed {
            assert_eq!(parse(line), Err(Error::Malformed), "{}", line.escape_ascii());
        }
        assert_eq!(parse(b"GET / HTTP/1.1\r"), Err(Error::Unknown));
        assert_eq!(parse(b"l"), Err(Error::Unknown));
    }

    #[test]
    fn lines_are_found_at_every_split_and_bounded() {
        let input = b"C1\nC22\n";
        for split in 0..=input.len() {
            let seen = line(&input[..split], 0, 10).unwrap().map_or(split, |_| 0);
            assert_eq!(line(input, seen.min(2), 10), Ok(Some(2)));
        }
        assert_eq!(line(b"1234567890\n", 0, 10), Ok(Some(10)));
        assert_eq!(line(b"1234567890", 0, 10), Ok(None));
        assert_eq!(line(b"12345678901", 0, 10), Err(Error::TooLong));
        assert_eq!(line(b"12345678901\n", 11, 10), Err(Error::TooLong));
    }

    #[test]
    fn escaping_and_unescaping_are_inverse() {
        let all: Vec<u8> = (0..=255).collect();
        let mut out = Vec::new();
        escape(&all, &mut out);
        assert!(!out.iter().any(|byte| matches!(byte, 0 | b'\t' | b'\n' | b'\r')));
        assert_eq!(unescape(&out), all);
        assert_eq!(unescape(b"a\x01x\x01"), &b"ax"[..]);
    }
}
