//! Domain names (RFC 1035, section 3.1).

use crate::wire::punycode::{LabelError, push_a_label};
use std::fmt;

/// The message is cut, or malformed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MessageError;

/// Maximum length of a name in bytes, and of one of its labels (RFC 1035, section 3.1).
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;

/// Maximum length of a name as text in bytes: four for each of its characters.
const MAX_TEXT: usize = 4 * MAX_NAME;

/// A domain name in its wire form without compression: labels with their lengths, and the root.
// Compared without case (RFC 4343), but the case is kept: questions are compared exactly.
#[derive(Clone, Debug)]
pub struct Name(Vec<u8>);

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        // The length of a label, at most 63, is below all letters.
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl Name {
    /// A host name: labels of letters, digits, `-` and `_`, with or without a final dot. Labels with other letters are
    /// written as A-labels (RFC 5890, section 2.3.2.1).
    ///
    /// # Errors
    /// It is something else, such as an address; or its A-labels are not known.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let text = text.strip_suffix(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']).unwrap_or(text);
        if text.len() > MAX_TEXT {
            return Err(LabelError::Invalid);
        }
        let mut name = Vec::with_capacity(text.len() + 2);
        if text.is_ascii() {
            text.as_bytes().split(|byte| *byte == b'.').try_for_each(|label| push_label(label, &mut name))?;
        } else {
            // The full stops of other scripts separate labels, too (RFC 3490, section 3.1).
            for label in text.split(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']) {
                let mut written = Vec::new();
                match label.is_ascii() {
                    true => written.extend_from_slice(label.as_bytes()),
                    false => push_a_label(label, &mut written)?,
                }
                push_label(&written, &mut name)?;
            }
        }
        // No top-level domain is a number, but the end of an address is (RFC 3696, section 2).
        let last = text.rsplit('.').next().unwrap_or_default();
        let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
        name.push(0);
        if name.len() > MAX_NAME || is_number { Err(LabelError::Invalid) } else { Ok(Self(name)) }
    }

    /// Appends the name with dots, and with other bytes than those of host names escaped.
    pub fn push_text(&self, out: &mut String) {
        if self.is_root() {
            return out.push('.');
        }
        let (mut rest, start) = (&self.0[..], out.len());
        while let [length, left @ ..] = rest
            && *length > 0
        {
            let (label, left) = left.split_at(usize::from(*length).min(left.len()));
            if out.len() > start {
                out.push('.');
            }
            match str::from_utf8(label) {
                Ok(text) if label.iter().all(is_plain) => out.push_str(text),
                // As in master files (RFC 1035, section 5.1): different names have different texts.
                _ => label.iter().for_each(|byte| match is_plain(byte) {
                    true => out.push(char::from(*byte)),
                    false => *out += &format!("\\{byte:03}"),
                }),
            }
            rest = left;
        }
    }

    /// True if this name is the other one, or below it.
    pub fn is_below(&self, other: &Name) -> bool {
        let mut rest = &self.0[..];
        loop {
            if rest.eq_ignore_ascii_case(&other.0) {
                return true;
            }
            match rest {
                [length @ 1..=63, left @ ..] if left.len() >= usize::from(*length) => {
                    rest = &left[usize::from(*length)..]
                }
                _ => return false,
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True for the root, which a null MX names (RFC 7505).
    pub fn is_root(&self) -> bool {
        self.0 == [0]
    }

    /// The same name with each letter in upper or lower case by a bit of `random`, which is used in rounds.
    // A response has to repeat it, which one who cannot see the question has to guess (draft-vixie-dnsext-dns0x20).
    pub fn with_random_case(&self, random: u64) -> Self {
        let mut bytes = self.0.clone();
        for (at, byte) in bytes.iter_mut().enumerate().filter(|(_, byte)| byte.is_ascii_alphabetic()) {
            *byte = if random.rotate_right(at as u32) & 1 == 0 {
                byte.to_ascii_lowercase()
            } else {
                byte.to_ascii_uppercase()
            };
        }
        Self(bytes)
    }

    /// The position behind a name at `at` of a message.
    pub(super) fn skip(message: &[u8], mut at: usize) -> Result<usize, MessageError> {
        loop {
            match usize::from(*message.get(at).ok_or(MessageError)?) {
                0 => return Ok(at + 1),
                length @ 1..=MAX_LABEL => at += 1 + length,
                0xc0.. => return Ok(at + 2),
                _ => return Err(MessageError),
            }
        }
    }

    /// Reads a name at `at` of a message, and returns the position behind it.
    pub(super) fn read(message: &[u8], at: usize) -> Result<(Self, usize), MessageError> {
        let (mut name, mut at, mut end, mut bound) = (Vec::with_capacity(64), at, None, at);
        loop {
            let length = usize::from(*message.get(at).ok_or(MessageError)?);
            match length {
                0 => {
                    name.push(0);
                    return Ok((Self(name), end.unwrap_or(at + 1)));
                }
                1..=MAX_LABEL => {
                    name.extend_from_slice(message.get(at..at + 1 + length).ok_or(MessageError)?);
                    at += 1 + length;
                }
                0xc0.. => {
                    let low = usize::from(*message.get(at + 1).ok_or(MessageError)?);
                    end.get_or_insert(at + 2);
                    at = (length & 0x3f) << 8 | low;
                    // Always backwards, and further than before: no chain of pointers is a loop.
                    if at >= bound {
                        return Err(MessageError);
                    }
                    bound = at;
                }
                _ => return Err(MessageError),
            }
            if name.len() >= MAX_NAME {
                return Err(MessageError);
            }
        }
    }
}

/// As [`Name::push_text`] writes it.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.push_text(&mut text);
        f.write_str(&text)
    }
}

/// The bytes of host names.
fn is_plain(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Appends a label of a host name with its length.
fn push_label(label: &[u8], name: &mut Vec<u8>) -> Result<(), LabelError> {
    if label.is_empty() || label.len() > MAX_LABEL || !label.iter().all(is_plain) {
        return Err(LabelError::Invalid);
    }
    name.push(label.len() as u8);
    name.extend_from_slice(label);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn host_names_are_accepted_and_nothing_else() {
        for (text, shown) in [
            ("example.org", "example.org"),
            ("Example.ORG.", "Example.ORG"),
            ("हिन्दी.example", "xn--j2bd4cyah0f.example"),
            ("localhost", "localhost"),
            ("_smtp.a-b.example", "_smtp.a-b.example"),
            ("1.2.3.com", "1.2.3.com"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("B\u{dc}CHER\u{3002}example\u{3002}", "xn--bcher-kva.example"),
        ] {
            assert_eq!(name(text).to_string(), shown);
        }
        let long = format!("{}.org", "a".repeat(64));
        let longer = "abcdefg.".repeat(32);
        for text in
            ["", ".", "..", "a..b", ".a", "a b", "a@b", "[1.2.3.4]", "1.2.3.4", "::1", "a/b", "a\0", &long, &longer]
        {
            assert_eq!(Name::parse(text), Err(LabelError::Invalid), "{text}");
        }
        assert!(Name::parse(&"abcdefg.".repeat(31)).is_ok());
        assert_eq!(Name::parse("ＡＢＣ.example"), Err(LabelError::NotNormalized));
    }

    #[test]
    fn the_case_of_letters_depends_on_the_random_number() {
        let plain = name("abcdefghijklmnop.example");
        assert_eq!(plain.with_random_case(0).to_string(), "abcdefghijklmnop.example");
        assert_eq!(plain.with_random_case(u64::MAX).to_string(), "ABCDEFGHIJKLMNOP.EXAMPLE");
        assert_ne!(plain.with_random_case(0x5555).to_string(), plain.with_random_case(0x3333).to_string());
        assert_eq!(plain.with_random_case(0x1234_5678), plain);
    }

    #[test]
    fn names_are_below_others() {
        for (one, other, is_below) in [
            ("a.example.org", "example.org", true),
            ("Example.ORG", "example.org", true),
            ("example.org", "a.example.org", false),
            ("badexample.org", "example.org", false),
            ("a.example.com", "example.org", false),
        ] {
            assert_eq!(name(one).is_below(&name(other)), is_below, "{one} {other}");
        }
        assert!(name("a.b").is_below(&Name(vec![0])));
    }

    #[test]
    fn different_names_have_different_texts() {
        let of = |labels: &[&[u8]]| {
            let mut bytes: Vec<u8> =
                labels.iter().flat_map(|label| [&[label.len() as u8][..], label].concat()).collect();
            bytes.push(0);
            Name(bytes).to_string()
        };
        assert_eq!(of(&[b"a.b", b"c"]), "a\\046b.c");
        assert_eq!(of(&[b"a", b"b c\n"]), "a.b\\032c\\010");
        assert_eq!(of(&[b"a\\"]), "a\\092");
    }

    #[test]
    fn pointers_lead_backwards_only() {
        for pointer in [&[0xc0, 12][..], &[0xc0, 14], &[0xc0, 255], &[1, b'a', 0xc0, 12], &[0x40, 0], &[0x80, 0]] {
            let bytes = [&[0; 12][..], pointer, &[0; 4]].concat();
            assert!(Name::read(&bytes, 12).is_err(), "{pointer:?}");
        }
        // Two names that point to each other.
        let bytes = [&[0; 12][..], &[1, b'a', 0xc0, 16, 1, b'b', 0xc0, 12]].concat();
        assert!(Name::read(&bytes, 12).is_err() && Name::read(&bytes, 16).is_err());
        let chain = [&[1, b'x', 0][..], &[1, b'y', 0xc0, 0], &[1, b'z', 0xc0, 3]].concat();
        assert_eq!(Name::read(&chain, 7).unwrap().0.0, b"\x01z\x01y\x01x\0");
    }

    #[test]
    fn a_name_that_is_too_long_is_none() {
        let label = [&[63][..], &[b'a'; 63]].concat();
        let [four, three] = [4, 3].map(|count| [&label.repeat(count)[..], &[0]].concat());
        assert!(Name::read(&four, 0).is_err());
        assert!(Name::read(&three, 0).is_ok());
    }
}
