//! Which keys a socketmap lookup asks for: the settings `case` and `search`.

use super::settings::Settings;

/// Local parts that are never split (`split_addr` of Postfix, src/global/split_addr.c).
const WHOLE: [&[u8]; 3] = [b"postmaster", b"mailer-daemon", b"double-bounce"];

/// Which keys a socketmap lookup asks for, as Postfix does with its own tables.
// Postfix asks socketmap tables for whole addresses only, in the case of the sender (dict_sockmap.c).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KeyRules {
    /// ASCII letters are folded to lower case.
    lower: bool,
    /// What separates the extension of a local part, without which an address is asked for next.
    delimiter: Option<u8>,
    /// `@domain` is asked for last.
    domain: bool,
}

impl KeyRules {
    /// Takes the settings.
    pub(super) fn take(settings: &mut Settings<'_>) -> Result<Self, String> {
        let lower = match settings.one("case") {
            None | Some("keep") => false,
            Some("lower") => true,
            Some(other) => return Err(format!("case={other}: it is 'keep' or 'lower'")),
        };
        let Some(text) = settings.one("search") else { return Ok(Self { lower, ..Self::default() }) };
        let error = || format!("search={text}: it is 'address', and then one delimiter, or '@', or both in this order");
        let mut steps = text.split(',').map(str::trim);
        let (Some("address"), second, third, None) = (steps.next(), steps.next(), steps.next(), steps.next()) else {
            return Err(error());
        };
        let delimiter = |text: &str| match text.as_bytes() {
            [byte] if byte.is_ascii_punctuation() && !b"@\"\\".contains(byte) => Some(*byte),
            _ => None,
        };
        match (second, third) {
            (None, None) => Ok(Self { lower, ..Self::default() }),
            (Some("@"), None) => Ok(Self { lower, delimiter: None, domain: true }),
            (Some(one), None) => {
                delimiter(one).map(|one| Self { lower, delimiter: Some(one), domain: false }).ok_or_else(error)
            }
            (Some(one), Some("@")) => {
                delimiter(one).map(|one| Self { lower, delimiter: Some(one), domain: true }).ok_or_else(error)
            }
            _ => Err(error()),
        }
    }

    /// True if a key is asked for as it is, and no other.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// The keys to be asked for, in this order until there is a value. At least one.
    pub fn keys(&self, key: &[u8]) -> Vec<Vec<u8>> {
        let key = if self.lower { key.to_ascii_lowercase() } else { key.to_vec() };
        let mut keys = Vec::with_capacity(3);
        // The last one, as Postfix does (mail_addr_find.c). A quoted local part may have anything in it.
        if let Some(at) = key.iter().rposition(|byte| *byte == b'@')
            && at > 0
            && key[0] != b'"'
        {
            let (local, domain) = key.split_at(at);
            keys.extend(
                self.delimiter.and_then(|delimiter| base(local, delimiter)).map(|base| [base, domain].concat()),
            );
            keys.extend(self.domain.then(|| domain.to_vec()));
        }
        keys.insert(0, key);
        keys
    }
}

/// The local part without its extension, if it has one (`split_addr`, with the default of `owner_request_special`).
fn base(local: &[u8], delimiter: u8) -> Option<&[u8]> {
    let is_whole = WHOLE.iter().any(|whole| local.eq_ignore_ascii_case(whole));
    let begins = |with: &[u8]| local.get(..with.len()).is_some_and(|front| front.eq_ignore_ascii_case(with));
    let ends = |with: &[u8]| local.len() > with.len() && local[local.len() - with.len()..].eq_ignore_ascii_case(with);
    if is_whole || delimiter == b'-' && (begins(b"owner-") || ends(b"-request")) {
        return None;
    }
    let at = local.iter().position(|byte| *byte == delimiter)?;
    (at > 0).then(|| &local[..at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Setting;

    /// Settings, a key, and the keys that are asked for.
    type Case = (&'static [(&'static str, &'static str)], &'static str, &'static str);

    fn rules(given: &[(&str, &str)]) -> Result<KeyRules, String> {
        let given: Vec<Setting> = given
            .iter()
            .map(|(key, value)| Setting { key: (*key).into(), value: (*value).into(), general: false })
            .collect();
        KeyRules::take(&mut Settings::new(&given))
    }

    #[test]
    fn keys_are_those_that_postfix_asks_its_own_tables_for() {
        let cases: &[Case] = &[
            (&[], "A+b@C", "A+b@C"),
            (&[("case", "keep"), ("search", "address")], "A+b@C", "A+b@C"),
            (&[("case", "lower")], "Info+News@Example.ORG", "info+news@example.org"),
            (&[("case", "lower")], "ÄÖ@x", "ÄÖ@x"), // only ASCII
            (&[("search", "address,+,@")], "a+b@c", "a+b@c a@c @c"),
            (&[("search", "address,+,@"), ("case", "lower")], "A+B@C", "a+b@c a@c @c"),
            (&[("search", "address, +, @")], "a@c", "a@c @c"),
            (&[("search", "address,+")], "a+b+c@d", "a+b+c@d a@d"),
            (&[("search", "address,-")], "a-b@c", "a-b@c a@c"),
            (&[("search", "address,@")], "a+b@c", "a+b@c @c"),
            (&[("search", "address,+,@")], "a@b@c", "a@b@c @c"),
            // The delimiter of the domain is none.
            (&[("search", "address,-")], "a@b-c", "a@b-c"),
            // No address, or nothing in front of the delimiter.
            (&[("search", "address,+,@")], "example.org", "example.org"),
            (&[("search", "address,+,@")], "*", "*"),
            (&[("search", "address,+,@")], "", ""),
            (&[("search", "address,+,@")], "@c", "@c"),
            (&[("search", "address,+,@")], "+b@c", "+b@c @c"),
            (&[("search", "address,+,@")], "\"a+b\"@c", "\"a+b\"@c"),
            // Never split.
            (&[("search", "address,+")], "Postmaster+x@c", "Postmaster+x@c Postmaster@c"),
            (&[("search", "address,-")], "double-bounce@c", "double-bounce@c"),
            (&[("search", "address,-")], "MAILER-DAEMON@c", "MAILER-DAEMON@c"),
            (&[("search", "address,-")], "owner-list@c", "owner-list@c"),
            (&[("search", "address,-")], "list-request@c", "list-request@c"),
            (&[("search", "address,+")], "owner+list@c", "owner+list@c owner@c"),
        ];
        for (given, key, expected) in cases {
            let keys = rules(given).unwrap().keys(key.as_bytes());
            let keys: Vec<&str> = keys.iter().map(|key| std::str::from_utf8(key).unwrap()).collect();
            assert_eq!(keys.join(" "), *expected, "{given:?} {key}");
        }
    }

    #[test]
    fn rules_are_checked() {
        for text in [
            "",
            "+",
            "@",
            "+,address",
            "address,",
            "address,+,-",
            "address,@,+",
            "address,++",
            "address,a",
            "address,+,@,x",
        ] {
            let error = rules(&[("search", text)]).unwrap_err();
            assert!(error.starts_with(&format!("search={text}: it is 'address'")), "{error}");
        }
        assert_eq!(rules(&[("case", "upper")]), Err("case=upper: it is 'keep' or 'lower'".to_owned()));
        assert!(rules(&[("search", "address")]).unwrap().is_plain());
    }
}
