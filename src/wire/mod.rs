//! Incremental codecs without I/O: bytes in, frames out, and back.

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

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn decimal_takes_digits_only() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for wrong in [&b""[..], b"+1", b"-1", b" 1", b"1 ", b"1x", b"0x1", b"18446744073709551616"] {
            assert_eq!(decimal(wrong), None, "{}", wrong.escape_ascii());
        }
    }
}
