//! `Cache-Control` and `Age` (RFC 9111).

use super::decimal;
use std::time::Duration;

/// What a response says of being kept (`Cache-Control` and `Age`; RFC 9111, 5.1 and 5.2.2), as a private cache reads it:
/// `s-maxage` and `private` mean nothing to it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheControl {
    /// It must not be used again: `no-store`, or `no-cache`, as nothing is ever revalidated.
    pub never: bool,
    /// Not even if the backend is gone: `must-revalidate`.
    pub strict: bool,
    max_age: Option<u32>,
    age: u32,
}

impl CacheControl {
    /// How long it is fresh from now on, if it says so.
    pub fn fresh(&self) -> Option<Duration> {
        self.max_age.map(|seconds| Duration::from_secs(seconds.saturating_sub(self.age).into()))
    }

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
                // What cannot be read is out of date at once (RFC 9111, 4.2.1).
                let seconds = decimal(unquoted).unwrap_or(0).min(31_536_000) as u32;
                self.max_age = Some(self.max_age.map_or(seconds, |other| other.min(seconds)));
            }
        }
    }

    /// Notes the seconds of the `Age` field.
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
    fn directives_say_how_long_a_response_may_be_cached() {
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
