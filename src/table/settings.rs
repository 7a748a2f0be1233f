//! The settings of a table.

use crate::config::{self, Setting};
use std::time::Duration;

/// The settings of one table from `--option`. A table takes those that it knows; any other is an error, unless it was
/// given for all tables.
#[derive(Debug, Default)]
pub struct Settings<'a> {
    left: Vec<&'a Setting>,
    /// Keys that the table knows, for the error message.
    known: Vec<&'static str>,
}

impl<'a> Settings<'a> {
    /// Settings of which none has been taken.
    pub fn new(settings: &'a [Setting]) -> Self {
        Self { left: settings.iter().collect(), known: Vec::new() }
    }

    /// Takes all values of a setting that may be repeated.
    pub fn all(&mut self, key: &'static str) -> Vec<&'a str> {
        self.known.push(key);
        let values = self.left.iter().filter(|one| one.key == key).map(|one| &one.value[..]).collect();
        self.left.retain(|one| one.key != key);
        values
    }

    /// Takes the value of a setting. The last one counts, and one for the table overrides one for all tables.
    pub fn one(&mut self, key: &'static str) -> Option<&'a str> {
        self.known.push(key);
        let of = |general| self.left.iter().rfind(|one| one.key == key && one.general == general);
        let value = of(false).or_else(|| of(true)).map(|one| &one.value[..]);
        self.left.retain(|one| one.key != key);
        value
    }

    /// Whether a setting is given for this table alone.
    pub fn has_own(&self, key: &str) -> bool {
        self.left.iter().any(|one| one.key == key && !one.general)
    }

    /// Takes a setting in seconds, at least a millisecond; fractions are allowed.
    pub fn seconds(&mut self, key: &'static str) -> Result<Option<Duration>, String> {
        self.one(key)
            .map(|text| config::seconds(text).ok_or_else(|| format!("{key}={text}: not a time in seconds")))
            .transpose()
    }

    /// Takes a number from 1 to `most`.
    pub fn number(&mut self, key: &'static str, most: usize) -> Result<Option<usize>, String> {
        let Some(text) = self.one(key) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        number.map(Some).ok_or_else(|| format!("{key}={text}: expects a number from 1 to {most}"))
    }

    /// Takes a setting that is one of two words, and returns which; the first one is the default.
    pub fn choice(&mut self, key: &'static str, [default, other]: [&str; 2]) -> Result<usize, String> {
        match self.one(key) {
            None => Ok(0),
            Some(text) if text == default => Ok(0),
            Some(text) if text == other => Ok(1),
            Some(text) => Err(format!("{key}={text}: it is '{default}' or '{other}'")),
        }
    }

    /// Takes `cache` and `stale`.
    pub(super) fn caching(&mut self) -> Result<Option<Caching>, String> {
        match (self.seconds("cache")?, self.seconds("stale")?) {
            (Some(fresh), stale) => Ok(Some(Caching { fresh, stale: stale.unwrap_or_default() })),
            (None, Some(_)) => Err("stale= needs cache=".to_owned()),
            (None, None) => Ok(None),
        }
    }

    /// Takes `select`, a JSON pointer.
    pub(super) fn select(&mut self) -> Result<Option<String>, String> {
        match self.one("select") {
            Some(pointer) if !pointer.is_empty() && !pointer.starts_with('/') => {
                Err("select= expects a JSON pointer, which starts with '/'".to_owned())
            }
            pointer => Ok(pointer.map(str::to_owned)),
        }
    }

    /// Reports a setting that the table has not taken.
    pub fn finish(mut self) -> Result<(), String> {
        // A setting of all tables may be meant for another type.
        let Some(one) = self.left.iter().find(|one| !one.general) else { return Ok(()) };
        self.known.sort_unstable();
        Err(format!("setting '{}' is unknown, it is one of: {}", one.key, self.known.join(", ")))
    }
}

/// The lifetime of cached answers, unless the response has one of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caching {
    /// The time for which an answer is served without a request.
    pub fresh: Duration,
    /// The time after that for which it is served if the backend fails (RFC 5861, section 4).
    pub stale: Duration,
}

/// An invalid setting: the flag that has it, and why it is invalid.
#[derive(Debug, Eq, PartialEq)]
pub struct SettingError {
    pub flag: &'static str,
    pub why: String,
}

impl SettingError {
    pub(super) fn option(why: String) -> Self {
        Self { flag: "--option", why }
    }

    pub(super) fn param(why: String) -> Self {
        Self { flag: "--param", why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_table_beat_those_of_all_and_unknown_ones_are_reported() {
        let setting = |key: &str, value: &str, general| Setting { key: key.into(), value: value.into(), general };
        let given = [
            setting("timeout", "1", false),
            setting("timeout", "2.5", true),
            setting("header", "A: b", true),
            setting("header", "C: d", false),
            setting("other", "x", true),
        ];
        let mut settings = Settings::new(&given);
        assert_eq!(settings.seconds("timeout"), Ok(Some(Duration::from_secs(1))));
        assert_eq!(settings.all("header"), ["A: b", "C: d"]);
        assert_eq!(settings.finish(), Ok(()));
        let given = [setting("other", "x", false)];
        let mut unknown = Settings::new(&given);
        assert_eq!((unknown.one("miss"), unknown.one("cache")), (None, None));
        assert_eq!(unknown.finish(), Err("setting 'other' is unknown, it is one of: cache, miss".into()));
    }
}
