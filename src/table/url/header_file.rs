//! The files of the setting `header-file`, which are read again when they change.

use super::super::stamp::Stamp;
use super::fields::Fields;
use crate::log;
use std::path::PathBuf;

/// Looks after which a file is read even if it has changed at each of them.
const MAX_LOOKS: u32 = 5;

/// A file with header lines, as it was last read.
pub(super) struct HeaderFile {
    path: PathBuf,
    /// What is in use.
    fields: Fields,
    /// The version that was read last; `None` if it could not be read.
    read: Option<Stamp>,
    /// The version that was there at the last look.
    seen: Option<Stamp>,
    /// Looks since a new version appeared.
    looks: u32,
    /// Why the last version could not be used, which is logged once.
    error: Option<String>,
}

impl HeaderFile {
    /// # Errors
    /// The file cannot be read or used.
    pub(super) fn open(path: PathBuf) -> Result<Self, String> {
        let mut file = Self { path, fields: Fields::default(), read: None, seen: None, looks: 0, error: None };
        file.read()?;
        Ok(file)
    }

    /// The fields of the last version that could be used.
    pub(super) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// True if the file is to be read again: there is a new version, which is not being written any more.
    pub(super) fn is_due(&mut self) -> bool {
        let there = Stamp::of(&self.path).filter(|stamp| stamp.is_regular);
        // One that is gone is not new.
        let is_new = there.is_some() && there != self.read;
        self.looks = if is_new { self.looks + 1 } else { 0 };
        // One that is being written may have no credentials yet, or a part: it is read once it has not changed for an
        // interval. One that never stops to change is read all the same.
        let is_due = is_new && (there == self.seen || self.looks > MAX_LOOKS);
        self.seen = there;
        is_due
    }

    /// Reads the file again. If it cannot be used, the old content stays in use, and the reason is logged.
    pub(super) fn read_again(&mut self, table: &str) {
        // To read a pipe again could block.
        if Stamp::of(&self.path).is_some_and(|stamp| !stamp.is_regular) {
            return;
        }
        let error = self.read().err();
        if let Some(error) = error.as_ref().filter(|error| self.error.as_ref() != Some(*error)) {
            log::warn(format_args!("header-file-unreadable table={table} cause=\"{error}\""));
        }
        self.error = error;
    }

    /// Reads the file again, and logs why it cannot be used even if that is not new.
    pub(super) fn reload(&mut self, table: &str) {
        self.error = None;
        self.read_again(table);
    }

    fn read(&mut self) -> Result<(), String> {
        let at = |error: String| format!("header-file {}: {error}", self.path.display());
        // One that cannot be read is tried again; one that cannot be used, once it changes.
        (self.read, self.looks) = (None, 0);
        let stamp = Stamp::of(&self.path);
        let text = std::fs::read_to_string(&self.path).map_err(|error| at(error.to_string()))?;
        self.read = stamp;
        if text.trim().is_empty() {
            return Err(at("empty".to_owned()));
        }
        let (mut fields, mut lines) = (Fields::default(), text.lines().filter(|line| !line.trim().is_empty()));
        lines.try_for_each(|line| fields.add(line)).map_err(at)?;
        self.fields = fields;
        Ok(())
    }
}
