//! Texts as JSON strings.

use crate::wire;

/// ASCII that stands for itself in a JSON string: no control characters, quotes and backslashes (RFC 8259, section 7).
pub(super) const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ' as usize;
    while byte < 128 {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

/// Appends text as a JSON string; bytes that are not UTF-8 become replacement characters.
// Without memory of its own, as it may be a password.
pub fn push_quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if wire::all(text, |byte| PLAIN[usize::from(byte)]) {
        out.extend_from_slice(text);
    } else {
        for chunk in text.utf8_chunks() {
            for byte in chunk.valid().bytes() {
                match byte {
                    b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                    b'\n' => out.extend_from_slice(b"\\n"),
                    b'\t' => out.extend_from_slice(b"\\t"),
                    b'\r' => out.extend_from_slice(b"\\r"),
                    ..b' ' => {
                        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                        out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
                    }
                    _ => out.push(byte),
                }
            }
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    out.push(b'"');
}

/// Text as a JSON string; bytes that are not UTF-8 become replacement characters.
pub fn quote(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    push_quoted(text, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_that_a_parser_reads() {
        let bytes: Vec<u8> = (0..128).chain("äé😀\u{7f}".bytes()).collect();
        let quoted = quote(&bytes);
        assert_eq!(crate::value::Value::parse(&quoted), Ok(crate::value::Value::Text(bytes.into())));
        assert_eq!(quote(b"a\"\\\n\x01\xff\xe4b"), "\"a\\\"\\\\\\n\\u0001\u{fffd}\u{fffd}b\"".as_bytes());
        assert_eq!(quote(b""), b"\"\"");
    }
}
