//! Base64 with the standard alphabet (RFC 4648, section 4).

use crate::secret::Secret;

/// Encodes `bytes`, with padding.
pub fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// Decodes base64 with padding. `None` if it is anything else (RFC 4648, section 3.3: other characters must be refused).
pub fn decode(text: &[u8]) -> Option<Secret> {
    let mut out = Secret::with_capacity(text.len() / 4 * 3);
    let (chunks, []) = text.as_chunks::<4>() else { return None };
    for (at, chunk) in chunks.iter().enumerate() {
        let padding = chunk.iter().rev().take_while(|byte| **byte == b'=').count();
        if padding > 2 || padding > 0 && at + 1 < chunks.len() {
            return None;
        }
        let mut group = 0;
        for byte in &chunk[..4 - padding] {
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            group = group << 6 | u32::from(digit);
        }
        group <<= 6 * padding;
        out.writer().extend_from_slice(&group.to_be_bytes()[1..4 - padding]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn the_vectors_of_the_rfc() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (bytes, text) in cases {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(bytes.as_bytes()));
        }
        for length in 0..300 {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            assert_eq!(decode(encode(&bytes).as_bytes()).as_deref(), Some(&bytes[..]));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["=", "====", "Zg=", "Zg", "Zm9vYg==Zg==", "Z===", "Zg=a", "Zm 9v", "Zm9v\n", "Zm9-", "é", "!!!!"]
        {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }
}
