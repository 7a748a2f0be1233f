//! Percent-encoding of keys in URLs (RFC 3986, sections 2.1 to 2.3).

/// The component of a URL that a key is inserted into.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Component {
    /// `/` is not encoded.
    // Backends route on it: Mailu has routes like /internal/dovecot/quota/storage/USER, and the Python original quoted
    // keys with `/` as a safe character.
    Path,
    /// `/` is encoded too.
    Query,
}

/// Bytes that are not encoded: `unreserved` of RFC 3986, and `/` in a path.
const IN_QUERY: [bool; 256] = {
    let mut literal = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let c = byte as u8;
        literal[byte] = c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-' | b'~');
        byte += 1;
    }
    literal
};
const IN_PATH: [bool; 256] = {
    let mut literal = IN_QUERY;
    literal[b'/' as usize] = true;
    literal
};

/// Appends `key` to `out`: letters, digits and `_.-~` as they are, any other byte as `%XX`.
pub fn encode(key: &[u8], component: Component, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let literal = if component == Component::Path { &IN_PATH } else { &IN_QUERY };
    // Most bytes need no encoding and are copied in runs.
    for piece in key.split_inclusive(|byte| !literal[usize::from(*byte)]) {
        match piece.split_last() {
            Some((&last, plain)) if !literal[usize::from(last)] => {
                out.extend_from_slice(plain);
                out.extend_from_slice(&[b'%', HEX[usize::from(last >> 4)], HEX[usize::from(last & 15)]]);
            }
            _ => out.extend_from_slice(piece),
        }
    }
}

/// Decodes `%XX`. A `%` that is not followed by two hexadecimal digits is left as it is.
pub fn decode(text: &str) -> Vec<u8> {
    let (text, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((16 * high + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_encoded_as_it_must_be() {
        const CASES: &[(&[u8], &str, &str)] = &[
            (b"alice@example.org", "alice%40example.org", "alice%40example.org"),
            (b"a/b", "a/b", "a%2Fb"),
            (b"%2e%2e", "%252e%252e", "%252e%252e"),
            (b"x?y#z&w=1+2", "x%3Fy%23z%26w%3D1%2B2", "x%3Fy%23z%26w%3D1%2B2"),
            (b"\r\n\0 \"", "%0D%0A%00%20%22", "%0D%0A%00%20%22"),
            (b"caf\xe9", "caf%E9", "caf%E9"),
            (b"_.-~", "_.-~", "_.-~"),
        ];
        for (key, path, query) in CASES {
            for (component, expected) in [(Component::Path, path), (Component::Query, query)] {
                let mut out = Vec::new();
                encode(key, component, &mut out);
                assert_eq!(std::str::from_utf8(&out), Ok(*expected));
            }
        }
    }

    #[test]
    fn decoding_undoes_encoding() {
        let all: Vec<u8> = (0..=255).collect();
        let mut out = Vec::new();
        encode(&all, Component::Query, &mut out);
        assert_eq!(decode(std::str::from_utf8(&out).unwrap()), all);
        assert_eq!(decode("%2Frun%2Fapp.sock%"), b"/run/app.sock%");
        assert_eq!(decode("%+1%g0%"), b"%+1%g0%");
    }
}
