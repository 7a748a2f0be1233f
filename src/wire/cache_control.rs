//! How long a response may be cached: the header fields `Cache-Control`, `Expires`, `Date`, `Age`, `Pragma` and `Vary`.

use super::{date, decimal};
use std::time::{Duration, SystemTime};

/// Maximum lifetime of any response.
// A backend that sends a year does not know of this cache: why a change has no effect would be hard to find out.
const MAX_LIFETIME: u64 = 86_400; // seconds

/// How long a response may be cached (RFC 9111, sections 4.2 and 5), as read by a private cache: `s-maxage`, `private`
/// and `public` have no effect.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheControl {
    /// The response must not be served stale: `must-revalidate`.
    pub strict: bool,
    /// `no-store`, `no-cache`, or `Vary: *`.
    // RFC 9111 allows a no-cache response to be reused after revalidation. Nothing is ever revalidated here, so that
    // the two directives come to the same.
    never: bool,
    /// There was a `Cache-Control` field, which takes precedence over `Pragma`.
    has_directives: bool,
    /// `Pragma: no-cache`.
    pragma: bool,
    max_age: Option<u32>,
    age: u32,
    /// `Expires` in seconds since 1970; 0, which is in the past, if it is not a date.
    expires: Option<u64>,
    /// `Date` in seconds since 1970; the maximum, which is after any `Expires`, if it is not a date.
    date: Option<u64>,
}

impl CacheControl {
    /// A lifetime of this many seconds, without restrictions.
    pub fn of_max_age(seconds: u32) -> Self {
        Self { max_age: Some(seconds), ..Self::default() }
    }

    /// Whether the response must not be reused.
    pub fn never(&self) -> bool {
        self.never || (self.pragma && !self.has_directives)
    }

    /// The remaining freshness lifetime, at most a day; `None` without `max-age` and `Expires`. `now` is the time of
    /// day, which only matters if the response has no `Date`.
    // The age is that of the Age field alone (RFC 9111, section 4.2.3 allows it), because an age by Date would make
    // every answer of a backend stale whose clock is behind.
    pub fn lifetime(&self, now: impl FnOnce() -> SystemTime) -> Option<Duration> {
        let now = || now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let lifetime = match (self.max_age, self.expires) {
            (Some(seconds), _) => seconds.into(),
            (None, Some(expires)) => expires.saturating_sub(self.date.unwrap_or_else(now)),
            (None, None) => return None,
        };
        Some(Duration::from_secs(lifetime.saturating_sub(self.age.into()).min(MAX_LIFETIME)))
    }

    /// Whether the lifetime depends on `Date`.
    pub(super) fn needs_date(&self) -> bool {
        self.max_age.is_none() && self.expires.is_some()
    }

    /// Parses one `Cache-Control` field value. Several fields add up, as in a list (RFC 9110, section 5.3).
    pub(super) fn add_directives(&mut self, value: &[u8]) {
        self.has_directives = true;
        for directive in members(value) {
            let mut parts = directive.splitn(2, |byte| *byte == b'=');
            let (name, argument) = (parts.next().unwrap_or_default().trim_ascii(), parts.next());
            if name.eq_ignore_ascii_case(b"no-store") || name.eq_ignore_ascii_case(b"no-cache") {
                self.never = true;
            } else if name.eq_ignore_ascii_case(b"must-revalidate") {
                self.strict = true;
            } else if name.eq_ignore_ascii_case(b"max-age") {
                let digits = argument.map(<[u8]>::trim_ascii).unwrap_or_default();
                let unquoted = digits.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(digits);
                // An invalid max-age makes the response stale (RFC 9111, section 4.2.1).
                let seconds = decimal(unquoted).unwrap_or(0).min(u32::MAX.into()) as u32;
                // Of duplicate directives with different values the most restrictive one is used, as RFC 9111, section
                // 4.2.1 suggests.
                self.max_age = Some(self.max_age.map_or(seconds, |other| other.min(seconds)));
            }
        }
    }

    /// Parses one `Pragma` field value.
    pub(super) fn add_pragma(&mut self, value: &[u8]) {
        self.pragma |= members(value).any(|member| member.eq_ignore_ascii_case(b"no-cache"));
    }

    /// Parses one `Vary` field value. Other fields of it than `*` have no effect: every lookup of a table has the same.
    pub(super) fn add_vary(&mut self, value: &[u8]) {
        self.never |= members(value).any(|member| member == b"*");
    }

    /// Sets the value of the `Age` field, in seconds.
    pub(super) fn set_age(&mut self, seconds: u32) {
        self.age = seconds;
    }

    /// Parses one `Expires` field value. Of several, the earliest is used.
    pub(super) fn add_expires(&mut self, value: &[u8]) {
        // Not a date, in particular "0", means already expired (RFC 9111, section 5.3).
        let expires = date::parse(value).unwrap_or(0);
        self.expires = Some(self.expires.map_or(expires, |other| other.min(expires)));
    }

    /// Parses one `Date` field value. Of several, the latest is used.
    pub(super) fn add_date(&mut self, value: &[u8]) {
        let date = date::parse(value).unwrap_or(u64::MAX);
        self.date = Some(self.date.map_or(date, |other| other.max(date)));
    }
}

/// The members of a list without the white space around them.
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time of day of these tests: `Tue, 15 Nov 1994 08:12:31 GMT`.
    const NOW: u64 = 784_887_151;

    /// Fields of a response; `never`, `strict` and the seconds that are left.
    type Case = (&'static [&'static str], bool, bool, Option<u64>);

    #[test]
    fn fields_limit_how_long_a_response_is_cached() {
        let cases: &[Case] = &[
            (&[], false, false, None),
            (&["Cache-Control: max-age=60"], false, false, Some(60)),
            (&["Cache-Control: Max-Age=60", "Age: 20"], false, false, Some(40)),
            (&["Cache-Control: private, max-age=60, must-revalidate", "Age: 90"], false, true, Some(0)),
            (&["Cache-Control: max-age=\"60\""], false, false, Some(60)),
            (&["Cache-Control: max-age=60", "Cache-Control: max-age=30"], false, false, Some(30)),
            (&["Cache-Control: s-maxage=5, max-age=60"], false, false, Some(60)),
            (&["Cache-Control: s-maxage=5"], false, false, None),
            (&["Cache-Control: max-age=soon"], false, false, Some(0)),
            (&["Cache-Control: max-age"], false, false, Some(0)),
            (&["Cache-Control: no-store"], true, false, None),
            (&["Cache-Control: no-cache=\"Set-Cookie\", max-age=60"], true, false, Some(60)),
            (&["Cache-Control: public"], false, false, None),
            // At most a day, after the age is subtracted.
            (&["Cache-Control: max-age=31536000"], false, false, Some(86_400)),
            (&["Cache-Control: max-age=99999999999999999999999"], false, false, Some(0)),
            (&["Cache-Control: max-age=31536000", "Age: 172800"], false, false, Some(86_400)),
            (&["Expires: Thu, 15 Nov 2094 08:12:31 GMT"], false, false, Some(0)), // was a Monday
            (&["Expires: Mon, 15 Nov 2094 08:12:31 GMT"], false, false, Some(86_400)),
            // Relative to Date, or else to now.
            (&["Expires: Tue, 15 Nov 1994 08:13:31 GMT"], false, false, Some(60)),
            (&["Expires: Tue, 15 Nov 1994 08:13:31 GMT", "Age: 20"], false, false, Some(40)),
            (&["Expires: Tue, 15 Nov 1994 08:12:31 GMT"], false, false, Some(0)),
            (&["Expires: Tue, 15 Nov 1994 08:12:30 GMT"], false, false, Some(0)),
            (
                &["Date: Fri, 05 Jun 2026 10:00:00 GMT", "Expires: Fri, 05 Jun 2026 10:01:00 GMT"],
                false,
                false,
                Some(60),
            ),
            (&["Date: Fri, 05 Jun 2026 10:00:00 GMT", "Expires: Fri, 05 Jun 2026 09:59:59 GMT"], false, false, Some(0)),
            (&["Date: now", "Expires: Fri, 05 Jun 2026 10:01:00 GMT"], false, false, Some(0)),
            (&["Expires: 0"], false, false, Some(0)),
            (&["Expires: -1"], false, false, Some(0)),
            (&["Expires: "], false, false, Some(0)),
            (&["Expires: Tue, 15 Nov 1994 08:13:31 UTC"], false, false, Some(0)),
            (&["Expires: 0", "Expires: Tue, 15 Nov 1994 08:13:31 GMT"], false, false, Some(0)),
            // max-age takes precedence; other directives do not replace Expires.
            (&["Expires: 0", "Cache-Control: max-age=60"], false, false, Some(60)),
            (&["Expires: 0", "Cache-Control: private"], false, false, Some(0)),
            (&["Pragma: no-cache"], true, false, None),
            (&["Pragma: x, No-Cache"], true, false, None),
            (&["Pragma: no-cache", "Cache-Control: max-age=60"], false, false, Some(60)),
            (&["Pragma: no-caches"], false, false, None),
            (&["Vary: *"], true, false, None),
            (&["Vary: Accept, *", "Cache-Control: max-age=60"], true, false, Some(60)),
            (&["Vary: Accept-Encoding, Cookie"], false, false, None),
        ];
        for (fields, never, strict, fresh) in cases {
            let mut control = CacheControl::default();
            for field in *fields {
                let (name, value) = field.split_once(": ").unwrap();
                let value = value.as_bytes();
                match name {
                    "Cache-Control" => control.add_directives(value),
                    "Age" => control.set_age(decimal(value).unwrap() as u32),
                    "Expires" => control.add_expires(value),
                    "Date" => control.add_date(value),
                    "Pragma" => control.add_pragma(value),
                    "Vary" => control.add_vary(value),
                    other => panic!("{other}"),
                }
            }
            let now = || SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
            let got = (control.never(), control.strict, control.lifetime(now));
            assert_eq!(got, (*never, *strict, fresh.map(Duration::from_secs)), "{fields:?}");
        }
    }
}
