//! The response header fields `Cache-Control` and `Age` (RFC 9111).

use super::decimal;
use std::time::Duration;

/// How long a response may be cached, by its `Cache-Control` and `Age` fields (RFC 9111, sections 5.1 and 5.2.2), as
/// read by a private cache: `s-maxage`, `private` and `public` have no effect.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheControl {
    /// The response must not be reused: `no-store`, or `no-cache`.
    // RFC 9111 allows a no-cache response to be reused after revalidation. Nothing is ever revalidated here, so that
    // the two directives come to the same.
    pub never: bool,
    /// The response must not be served stale: `must-revalidate`.
    pub strict: bool,
    max_age: Option<u32>,
    age: u32,
}

impl CacheControl {
    /// The remaining freshness lifetime; `None` without a `max-age`.
    pub fn fresh(&self) -> Option<Duration> {
        self.max_age.map(|seconds| Duration::from_secs(seconds.saturating_sub(self.age).into()))
    }

    /// Parses one `Cache-Control` field value. Several fields add up, as in a list (RFC 9110, section 5.3).
    pub(super) fn add_directives(&mut self, value: &[u8]) {
        for directive in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let mut parts = directive.splitn(2, |byte| *byte == b'=');
            let (name, argument) = (parts.next().unwrap_or_default().trim_ascii(), parts.next());
            if name.eq_ignore_ascii_case(b"no-store") || name.eq_ignore_ascii_case(b"no-cache") {
                self.never = true;
            } else if name.eq_ignore_ascii_case(b"must-revalidate") {
                self.strict = true;
            } else if name.eq_ignore_ascii_case(b"max-age") {
                let digits = argument.map(<[u8]>::trim_ascii).unwrap_or_default();
                let unquoted = digits.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(digits);
                // An invalid max-age makes the response stale (RFC 9111, section 4.2.1). A year at most, so that adding
                // it to an `Instant` cannot overflow.
                let seconds = decimal(unquoted).unwrap_or(0).min(31_536_000) as u32;
                // Of duplicate directives with different values the most restrictive one is used, as RFC 9111, section
                // 4.2.1 suggests.
                self.max_age = Some(self.max_age.map_or(seconds, |other| other.min(seconds)));
            }
        }
    }

    /// Sets the value of the `Age` field, in seconds.
    pub(super) fn set_age(&mut self, seconds: u32) {
        self.age = seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `Cache-Control`, `Age`; `never`, `strict` and the seconds that are left.
    type Case = (&'static [&'static str], u32, bool, bool, Option<u64>);

    #[test]
    fn directives_limit_how_long_a_response_is_cached() {
        let cases: &[Case] = &[
            (&[], 0, false, false, None),
            (&["max-age=60"], 0, false, false, Some(60)),
            (&["Max-Age=60"], 20, false, false, Some(40)),
            (&["private, max-age=60, must-revalidate"], 90, false, true, Some(0)),
            (&["max-age=\"60\""], 0, false, false, Some(60)),
            (&["max-age=60", "max-age=30"], 0, false, false, Some(30)),
            (&["s-maxage=5, max-age=60"], 0, false, false, Some(60)),
            (&["s-maxage=5"], 0, false, false, None),
            (&["max-age=soon"], 0, false, false, Some(0)),
            (&["max-age"], 0, false, false, Some(0)),
            (&["no-store"], 0, true, false, None),
            (&["no-cache=\"Set-Cookie\", max-age=60"], 0, true, false, Some(60)),
            (&["public"], 0, false, false, None),
        ];
        for (fields, age, never, strict, fresh) in cases {
            let mut control = CacheControl::default();
            fields.iter().for_each(|field| control.add_directives(field.as_bytes()));
            control.set_age(*age);
            let got = (control.never, control.strict, control.fresh());
            assert_eq!(got, (*never, *strict, fresh.map(Duration::from_secs)), "{fields:?}");
        }
    }
}
