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

    /// Reports a setting that the table has not taken.
    pub fn finish(mut self) -> Result<(), String> {
        // A setting of all tables may be meant for another type.
        let Some(one) = self.left.iter().find(|one| !one.general) else { return Ok(()) };
        self.known.sort_unstable();
        Err(format!("setting '{}' is unknown, it is one of: {}", one.key, self.known.join(", ")))
    }
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
