//! Incremental codecs without I/O: bytes in, frames out, and back.

pub mod base64;
pub mod cache_control;
pub mod date;
pub mod dict;
pub mod dns;
pub mod http;
pub mod idna;
pub mod net;
pub mod netstring;
pub mod percent;
pub mod punycode;
pub mod resolv_conf;

/// Parses an unsigned decimal number of digits only: no sign, no white space. `None` for anything else and on overflow.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// Whether `predicate` is true for every byte of `bytes`.
pub fn all(bytes: &[u8], predicate: impl Fn(u8) -> bool) -> bool {
    // Eight bytes at a time without a branch between them: a third of the instructions of a byte-wise loop.
    let (eights, rest) = bytes.as_chunks::<8>();
    let check = |group: &[u8]| group.iter().fold(true, |all, byte| all & predicate(*byte));
    eights.iter().all(|eight| check(eight)) && check(rest)
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
        for refused in [&b""[..], b"+1", b"-1", b" 1", b"1 ", b"1x", b"0x1", b"18446744073709551616"] {
            assert_eq!(decimal(refused), None, "{}", refused.escape_ascii());
        }
    }
}
