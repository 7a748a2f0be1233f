//! Validated JSON text, scanned without parsing it again: where values end, and where white space is.

/// White space of JSON (RFC 8259, section 2), which lacks the form feed of `is_ascii_whitespace`.
pub(super) fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Whether a validated array or object is empty.
pub(super) fn is_empty(raw: &str) -> bool {
    raw[1..raw.len() - 1].trim_ascii().is_empty()
}

/// Removes the white space between the tokens of a validated text.
pub(super) fn compact(raw: &str) -> String {
    let (mut out, mut bytes) = (String::with_capacity(raw.len()), 0);
    while let Some(byte) = raw.as_bytes().get(bytes) {
        let end = match byte {
            byte if is_space(byte) => {
                bytes += 1;
                continue;
            }
            b'"' => string_end(raw, bytes),
            _ => bytes + 1,
        };
        out.push_str(&raw[bytes..end]);
        bytes = end;
    }
    out
}

/// The end of the value that starts at `start` of a validated text.
pub(super) fn value_end(raw: &str, start: usize) -> usize {
    // Counted instead of recursive: an array of a million brackets from a backend must not overflow the stack.
    let (mut at, mut depth) = (start, 0);
    while let Some(byte) = raw.as_bytes().get(at) {
        match byte {
            b'"' => at = string_end(raw, at) - 1,
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth > 0 => depth -= 1,
            b']' | b'}' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
        if depth == 0 && matches!(byte, b'"' | b']' | b'}') {
            return at;
        }
    }
    raw.len()
}

/// The end of the string whose opening quote is at `start` of a validated text.
fn string_end(raw: &str, start: usize) -> usize {
    let mut at = start + 1;
    while let Some(rest) = raw.as_bytes().get(at..)
        && let Some(next) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))
    {
        if rest[next] == b'"' {
            return at + next + 1;
        }
        at += next + 2; // what is escaped does not end the string
    }
    raw.len()
}
