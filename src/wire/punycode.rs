//! A-labels: labels with letters beyond ASCII in the form of the DNS (RFC 3492, RFC 5890).

use super::idna::needs_mapping;

const BASE: u32 = 36;
const T_MIN: u32 = 1;
const T_MAX: u32 = 26;

/// Maximum length of a label in characters.
const MAX_LABEL: usize = 63;

/// Why a label has no A-label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LabelError {
    /// It has a character that no host name has, or is too long.
    Invalid,
    /// It has letters for which IDNA has others, which are not known here: it may be the name of a host all the same.
    NotNormalized,
}

/// Appends the A-label of a label with letters beyond ASCII, which are lower-cased.
pub fn push_a_label(label: &str, out: &mut Vec<u8>) -> Result<(), LabelError> {
    let (mut lower, mut before) = (Vec::new(), None);
    for c in label.chars() {
        if c.is_control() || c.is_whitespace() || c.is_ascii() && !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_')
        {
            return Err(LabelError::Invalid);
        }
        if needs_mapping(before.replace(c), c) {
            return Err(LabelError::NotNormalized);
        }
        lower.extend(c.to_lowercase());
        // The form of the DNS is longer than the label.
        if lower.len() > MAX_LABEL {
            return Err(LabelError::Invalid);
        }
    }
    encode(&lower, out).ok_or(LabelError::Invalid)
}

/// Appends the form of a label in the DNS (RFC 3492, section 6.3). `None` if a number in it is too large.
fn encode(label: &[char], out: &mut Vec<u8>) -> Option<()> {
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
                delta = delta.checked_add(1)?;
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
    use super::*;

    #[test]
    fn labels_become_a_labels() {
        // The first ones are the samples of RFC 3492, section 7.1.
        for (label, expected) in [
            ("他们为什么不说中文", Ok("xn--ihqwcrb4cv8a8dqg056pqjye")),
            ("почемужеонинеговорятпорусски", Ok("xn--b1abfaaepdrnnbgefbadotcwatmq2g4l")),
            ("porquénopuedensimplementehablarenespañol", Ok("xn--porqunopuedensimplementehablarenespaol-fmd56a")),
            ("यहलोगहिन्दीक्योंनहींबोलसकतेहैं", Ok("xn--i1baa7eci9glrd9b2ae1bj0hfcgg6iyaf8o0a1dig0cd")),
            ("なぜみんな日本語を話してくれないのか", Ok("xn--n8jok5ay5dzabd5bym9f0cm5685rrjetr6pdxa")),
            (
                "세계의모든사람들이한국어를이해한다면얼마나좋을까",
                Ok("xn--989aomsvi5e83db1d2a355cv1e0vak1dwrv93d5xbh15a0dt30a5jpsd879ccm6fea98c"),
            ),
            ("bücher", Ok("xn--bcher-kva")),
            ("BÜCHER", Ok("xn--bcher-kva")),
            ("ü", Ok("xn--tda")),
            ("faß", Ok("xn--fa-hia")),
            ("พร้อม", Ok("xn--v3cgf4b1i")),
            ("コム・コム", Ok("xn--tcka8kb7k")),
            ("bu\u{308}cher", Err(LabelError::NotNormalized)),
            ("ＡＢＣ", Err(LabelError::NotNormalized)),
            ("\u{212a}", Err(LabelError::NotNormalized)),
            ("İ", Err(LabelError::NotNormalized)),
            ("a ü", Err(LabelError::Invalid)),
            ("ü@", Err(LabelError::Invalid)),
            ("ü\u{a0}", Err(LabelError::Invalid)),
        ] {
            let mut out = Vec::new();
            let done = push_a_label(label, &mut out).map(|()| String::from_utf8(out).unwrap());
            match (done, expected) {
                (Ok(done), Ok(expected)) => assert_eq!(done, expected, "{label}"),
                (done, expected) => assert_eq!(done.as_deref(), expected.as_deref(), "{label}"),
            }
        }
    }

    #[test]
    fn a_long_label_takes_no_time() {
        let long = "ü".repeat(32_000) + "\u{20000}";
        assert_eq!(push_a_label(&long, &mut Vec::new()), Err(LabelError::Invalid));
    }
}
