//! The tokens of JSON pointers (RFC 6901).

/// The token of a pointer behind the slash at `at`, and where it ends.
pub(super) fn token(pointer: &str, at: usize) -> (&str, usize) {
    let rest = &pointer[at + 1..];
    let length = rest.find('/').unwrap_or(rest.len());
    (&rest[..length], at + 1 + length)
}

/// A token as the name of a member.
pub(super) fn unescaped(token: &str) -> String {
    // `~1` first: `~01` stands for `~1`, not for `/` (RFC 6901, section 4).
    token.replace("~1", "/").replace("~0", "~")
}

/// An array index (RFC 6901, section 4): no sign, no leading zero.
pub(super) fn index(token: &str) -> Option<usize> {
    if token.len() > 1 && token.starts_with('0') {
        return None;
    }
    // This excludes `-`, which names the element after the last one and never exists (RFC 6901, section 4). An index
    // that does not fit is beyond the end of any array.
    let digits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| token.parse().unwrap_or(usize::MAX))
}
