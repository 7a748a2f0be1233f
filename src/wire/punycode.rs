//! A-labels: labels with letters beyond ASCII in the form of the DNS (RFC 3492, RFC 5890).

const BASE: u32 = 36;
const T_MIN: u32 = 1;
const T_MAX: u32 = 26;

/// Appends the A-label of a label. Letters are lower-cased; other mappings of IDNA are not applied. `None` if it has a
/// character that no host name has.
pub fn push_a_label(label: &str, out: &mut Vec<u8>) -> Option<()> {
    let label: Vec<char> = label.chars().flat_map(char::to_lowercase).collect();
    if !label.iter().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '\u{b7}' | '\u{300}'..='\u{36f}')) {
        return None;
    }
    out.extend_from_slice(b"xn--");
    out.extend(label.iter().filter(|c| c.is_ascii()).map(|c| *c as u8));
    let basic = label.iter().filter(|c| c.is_ascii()).count() as u32;
    if basic > 0 {
        out.push(b'-');
    }
    let (mut code, mut delta, mut bias, mut done) = (128, 0u32, 72, basic);
    while (done as usize) < label.len() {
        let next = label.iter().map(|c| *c as u32).filter(|c| *c >= code).min()?;
        delta = delta.checked_add((next - code).checked_mul(done + 1)?)?;
        code = next;
        for c in label.iter().map(|c| *c as u32) {
            if c < code {
                delta += 1;
            } else if c == code {
                push_number(delta, bias, out);
                bias = adapt(delta, done + 1, done == basic);
                (delta, done) = (0, done + 1);
            }
        }
        (delta, code) = (delta + 1, code + 1);
    }
    Some(())
}

/// Appends a number in digits whose weights depend on the bias (RFC 3492, section 3.3).
fn push_number(mut number: u32, bias: u32, out: &mut Vec<u8>) {
    let digit = |value: u32| if value < 26 { b'a' + value as u8 } else { b'0' + (value - 26) as u8 };
    let mut k = BASE;
    loop {
        let t = k.saturating_sub(bias).clamp(T_MIN, T_MAX);
        if number < t {
            return out.push(digit(number));
        }
        out.push(digit(t + (number - t) % (BASE - t)));
        (number, k) = ((number - t) / (BASE - t), k + BASE);
    }
}

/// The bias for the next number (RFC 3492, section 3.4).
fn adapt(delta: u32, count: u32, first: bool) -> u32 {
    const SKEW: u32 = 38;
    const DAMP: u32 = 700;
    let mut delta = delta / if first { DAMP } else { 2 };
    delta += delta / count;
    let mut k = 0;
    while delta > (BASE - T_MIN) * T_MAX / 2 {
        delta /= BASE - T_MIN;
        k += BASE;
    }
    k + (BASE - T_MIN + 1) * delta / (delta + SKEW)
}

#[cfg(test)]
mod tests {
    use super::push_a_label;

    #[test]
    fn labels_become_a_labels() {
        // The first ones are the samples of RFC 3492, section 7.1.
        for (label, expected) in [
            ("ليهمابتكلموشعربي؟", None),
            ("他们为什么不说中文", Some("xn--ihqwcrb4cv8a8dqg056pqjye")),
            ("почемужеонинеговорятпорусски", Some("xn--b1abfaaepdrnnbgefbadotcwatmq2g4l")),
            ("porquénopuedensimplementehablarenespañol", Some("xn--porqunopuedensimplementehablarenespaol-fmd56a")),
            ("bücher", Some("xn--bcher-kva")),
            ("BÜCHER", Some("xn--bcher-kva")),
            ("ü", Some("xn--tda")),
            ("faß", Some("xn--fa-hia")),
            ("a ü", None),
            ("☃", None),
        ] {
            let mut out = Vec::new();
            let done = push_a_label(label, &mut out).map(|()| String::from_utf8(out).unwrap());
            assert_eq!(done.as_deref(), expected, "{label}");
        }
    }
}
