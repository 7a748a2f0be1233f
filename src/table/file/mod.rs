//! The file table: a JSON object of keys and values, held in memory.

mod content;

use super::interface::{OnFault, Plan, Question, Table, TableEntry};
use super::keys::KeyRules;
use super::settings::SettingError;
use super::setup::{Setup, TableSpec};
use super::stamp::{CHECK_INTERVAL, Stamp};
use crate::log;
use crate::query::{Answer, Failure, Tokens};
use crate::value::Value;
use content::Content;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// The interval between two looks at a thread that reads the file.
const READ_INTERVAL: Duration = Duration::from_millis(20);

/// Opens a file table; `--param` is the path.
pub(super) fn open(spec: TableSpec<'_>, _: &mut Setup<'_>) -> Result<TableEntry, SettingError> {
    let mut settings = spec.settings;
    let timeout = settings.seconds("timeout").map_err(SettingError::option)?;
    let keys = KeyRules::take(&mut settings).map_err(SettingError::option)?;
    settings.finish().map_err(SettingError::option)?;
    let path = PathBuf::from(spec.param);
    // A file that cannot be read is an error at the start, but only a warning later.
    let (stamp, content) = read(&path);
    let content = content.map_err(|error| SettingError::param(format!("{}: {error}", path.display())))?;
    let name = spec.name.to_owned();
    let table = File {
        name: name.clone(),
        path,
        stamp,
        reading: None,
        is_outdated: false,
        unreadable: None,
        content,
        list: String::new(),
    };
    Ok(TableEntry {
        name,
        timeout,
        caching: None,
        keys,
        on_fault: OnFault::default(),
        tokens: Tokens::default(),
        decides: false,
        table: Box::new(table),
    })
}

struct File {
    name: String,
    path: PathBuf,
    /// That of the version that was read last, also if it could not be used; `None` if there was none.
    stamp: Option<Stamp>,
    /// The result of the thread that reads the file.
    reading: Option<Receiver<Version>>,
    /// The file is to be read in any case.
    is_outdated: bool,
    /// Why the last version could not be used.
    unreadable: Option<String>,
    content: Content,
    /// The last list, which the answer borrows.
    list: String,
}

/// A version of the file, as far as it could be read.
type Version = (Option<Stamp>, Result<Content, String>);

impl Table for File {
    fn plan(&mut self, question: Question<'_>, _: Instant) -> Plan<'_> {
        Plan::Answer(match question {
            Question::Get(key) => self.get(key),
            Question::List(path) => {
                self.list = self.content.list(path);
                Answer::Found(Value::Object(Cow::Borrowed(&self.list)))
            }
            Question::Ask(_) => {
                Answer::Failed(Failure::temporary(format_args!("{}: a file table cannot decide", self.name)))
            }
            Question::Write(_) => Answer::Failed(Failure::temporary(format_args!("{}: table is read-only", self.name))),
        })
    }

    fn reload(&mut self, _: &mut Setup<'_>) {
        self.is_outdated = true;
    }

    fn tick(&mut self, now: Instant) -> Option<Instant> {
        // Not at once after a version was read: one that cannot be is tried once per interval.
        let was_reading = self.reading.is_some();
        self.receive();
        if !was_reading && self.has_changed() {
            self.begin_to_read();
        }
        Some(now + if self.reading.is_some() { READ_INTERVAL } else { CHECK_INTERVAL })
    }
}

impl File {
    fn get(&self, key: &[u8]) -> Answer<'_> {
        match self.content.get(key) {
            Ok(None | Some(Value::Null)) => Answer::Miss,
            Ok(Some(value)) => Answer::Found(value),
            Err(_) => Answer::Failed(Failure::temporary(format_args!("{}: the value is not valid JSON", self.name))),
        }
    }

    /// True if the file is another one than the one that was read.
    fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_outdated) || Stamp::of(&self.path).is_some_and(|stamp| self.stamp != Some(stamp))
    }

    /// Has the file read by a thread: a million keys take half a second, in which no lookup may wait.
    fn begin_to_read(&mut self) {
        let (sender, receiver) = channel();
        let path = self.path.clone();
        // Without a receiver the program ends.
        let thread = std::thread::Builder::new().name("file".to_owned()).spawn(move || drop(sender.send(read(&path))));
        match thread {
            Ok(_) => self.reading = Some(receiver),
            Err(error) => {
                self.is_outdated = true; // tried again at the next check
                self.warn(error.to_string());
            }
        }
    }

    /// Uses the new content, if it is there. The old one stays in use while the file cannot be read.
    fn receive(&mut self) {
        let Some(result) = self.reading.as_ref().map(Receiver::try_recv) else { return };
        let (stamp, content) = match result {
            Ok(version) => version,
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Disconnected) => (None, Err("the thread that reads it has ended".to_owned())),
        };
        // One that cannot be used is not read again before it changes.
        (self.reading, self.stamp) = (None, stamp);
        match content {
            Err(error) => self.warn(error),
            Ok(content) => {
                self.unreadable = None;
                log::info(format_args!("file-read table={} keys={}", self.name, content.len()));
                let old = std::mem::replace(&mut self.content, content);
                // Giving back its memory takes milliseconds, too.
                let _ = std::thread::Builder::new().name("file".to_owned()).spawn(move || drop(old));
            }
        }
    }

    /// Says why the file cannot be used, once: it is tried again each second.
    fn warn(&mut self, cause: String) {
        if self.unreadable.as_ref() != Some(&cause) {
            log::warn(format_args!("file-unreadable table={} cause=\"{cause}\"", self.name));
            self.unreadable = Some(cause);
        }
    }
}

fn read(path: &Path) -> Version {
    let stamp = Stamp::of(path);
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    // What could not be read at all (no descriptor, say) is tried again; what cannot be used, once it changes.
    (stamp.filter(|_| text.is_ok()), text.and_then(Content::new))
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::*;
    use crate::backend::Backends;
    use crate::io::Turn;
    use crate::program::Programs;
    use std::os::unix::fs::MetadataExt;

    fn with_setup<T>(act: impl FnOnce(&mut Setup<'_>) -> T) -> T {
        act(&mut Setup::new(&mut Backends::default(), &mut Programs::default(), &mut Turn::new(Instant::now())))
    }

    fn table(path: &Path) -> Result<TableEntry, SettingError> {
        let param = path.to_str().unwrap();
        with_setup(|setup| {
            open(TableSpec { name: "test", param, settings: Settings::default(), decides: false }, setup)
        })
    }

    fn get(table: &mut TableEntry, key: &str, now: Instant) -> Option<String> {
        match table.table.plan(Question::Get(key.as_bytes()), now) {
            Plan::Answer(Answer::Found(value)) => {
                let text = value.for_postfix().unwrap();
                text.map(|text| String::from_utf8(text.into_owned()).unwrap())
            }
            Plan::Answer(Answer::Miss) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Lets the table do what is due at a time, until it has read the file.
    fn tick(table: &mut TableEntry, now: Instant) {
        while table.table.tick(now) == Some(now + READ_INTERVAL) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn keys_are_found_and_changes_are_seen_at_the_next_check() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.json");
        std::fs::write(&path, r#"{"a@x": "b@x", "n": null, "q\"": [1, 2]}"#).unwrap();
        let (mut entry, now) = (table(&path).unwrap(), Instant::now());
        assert_eq!(get(&mut entry, "a@x", now).as_deref(), Some("b@x"));
        assert_eq!(get(&mut entry, "q\"", now).as_deref(), Some("1,2"));
        assert_eq!(get(&mut entry, "n", now), None);
        assert_eq!(get(&mut entry, "none", now), None);
        std::fs::write(&path, r#"{"a@x": "changed@x"}"#).unwrap();
        assert_eq!(get(&mut entry, "a@x", now).as_deref(), Some("b@x"));
        assert_eq!(entry.table.tick(now), Some(now + READ_INTERVAL));
        tick(&mut entry, now);
        assert_eq!(get(&mut entry, "a@x", now).as_deref(), Some("changed@x"));
        assert_eq!(entry.table.tick(now), Some(now + CHECK_INTERVAL));
        std::fs::write(&path, r#"{"a@x": half"#).unwrap();
        tick(&mut entry, now);
        assert_eq!(get(&mut entry, "a@x", now).as_deref(), Some("changed@x"));
        std::fs::write(&path, r#"{"a@x": "again"}"#).unwrap();
        with_setup(|setup| entry.table.reload(setup));
        tick(&mut entry, now);
        assert_eq!(get(&mut entry, "a@x", now).as_deref(), Some("again"));
    }

    #[test]
    fn a_file_of_the_same_size_and_age_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let [path, new] = ["t.json", "new"].map(|name| dir.path().join(name));
        let (age, now) = (std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1), Instant::now());
        let write = |path: &Path, value: &str| {
            std::fs::write(path, format!(r#"{{"k": "{value}"}}"#)).unwrap();
            std::fs::File::options().write(true).open(path).unwrap().set_modified(age).unwrap();
        };
        write(&path, "a");
        let mut entry = table(&path).unwrap();
        write(&new, "b");
        std::fs::rename(&new, &path).unwrap();
        tick(&mut entry, now);
        assert_eq!(get(&mut entry, "k", now).as_deref(), Some("b"), "another file");
        let changed = || std::fs::metadata(&path).map(|of| (of.ctime(), of.ctime_nsec())).unwrap();
        let before = changed();
        while changed() == before {
            write(&path, "c"); // again if the clock of the file system has not moved yet
        }
        tick(&mut entry, now);
        assert_eq!(get(&mut entry, "k", now).as_deref(), Some("c"), "the same file, written to");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_tried_again_at_each_check() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.json");
        std::fs::write(&path, r#"{"k": "old"}"#).unwrap();
        let (mut entry, now) = (table(&path).unwrap(), Instant::now());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap(); // which can be looked at, and not be read
        for _ in 0..2 {
            assert_eq!(entry.table.tick(now), Some(now + READ_INTERVAL));
            tick(&mut entry, now);
            assert_eq!(get(&mut entry, "k", now).as_deref(), Some("old"));
        }
    }

    #[test]
    fn a_file_that_is_no_object_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.json");
        assert!(table(&path).is_err_and(|error| error.why.contains("No such file")));
        std::fs::write(&path, r#"{"a": "1", "\ud800": "x", "b": "2"}"#).unwrap();
        assert!(table(&path).is_err_and(|error| error.why.contains("not valid Unicode")));
        for text in ["", "[]", "1", "{", "{\"a\": 1}}"] {
            std::fs::write(&path, text).unwrap();
            assert!(table(&path).is_err_and(|error| error.why.contains("not a JSON object")), "{text}");
        }
    }
}
