//! The file table: a JSON object of keys and values, held in memory.

use super::interface::{Plan, Question, Table, TableEntry};
use super::settings::SettingError;
use super::setup::{Setup, TableSpec};
use crate::log;
use crate::query::{Answer, Failure, Path};
use crate::value::{self, Members, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The minimum interval between two checks of the file for changes, which are made only when there is a question.
// A stat for each lookup would cost more than the lookup.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Opens a file table; `--param` is the path.
pub(super) fn open(spec: TableSpec<'_>, _: &mut Setup<'_>) -> Result<TableEntry, SettingError> {
    let mut settings = spec.settings;
    let timeout = settings.seconds("timeout").map_err(SettingError::option)?;
    settings.finish().map_err(SettingError::option)?;
    let path = PathBuf::from(spec.param);
    // A file that cannot be read is an error at the start, but only a warning later.
    let (stamp, content) = read(&path).map_err(|error| SettingError::param(format!("{}: {error}", path.display())))?;
    let table =
        File { name: spec.name.to_owned(), path, stamp: Some(stamp), checked: None, content, list: String::new() };
    Ok(TableEntry { name: spec.name.to_owned(), timeout, caching: None, table: Box::new(table) })
}

struct File {
    name: String,
    path: PathBuf,
    /// That of the content; `None` if the file is to be read in any case.
    stamp: Option<Stamp>,
    checked: Option<Instant>,
    content: Content,
    /// The last list, which the answer borrows.
    list: String,
}

/// What distinguishes a version of the file from others. The times are in seconds and nanoseconds.
// A file that was put in place of another may have its size and its modification time.
#[derive(Debug, Eq, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

struct Content {
    // The serialised text with an index of positions: parsed values of a million keys would take several times its
    // memory, and most of them are never used.
    text: String,
    /// The range of the raw value of each key in the text.
    values: BTreeMap<Vec<u8>, Range<usize>>,
}

impl Table for File {
    fn plan(&mut self, question: Question<'_>, now: Instant) -> Plan<'_> {
        if self.checked.is_none_or(|at| at + CHECK_INTERVAL <= now) {
            self.checked = Some(now);
            self.check();
        }
        Plan::Answer(match question {
            Question::Get(key) => self.get(key),
            Question::List(path) => {
                self.list = self.content.list(path);
                Answer::Found(Value::Object(Cow::Borrowed(&self.list)))
            }
            Question::Write(_) => Answer::Failed(Failure::temporary(format_args!("{}: table is read-only", self.name))),
        })
    }

    fn reload(&mut self, _: &mut Setup<'_>) {
        self.stamp = None;
        self.check();
    }
}

impl File {
    fn get(&self, key: &[u8]) -> Answer<'_> {
        match self.content.values.get(key).map(|range| value::member(&self.content.text[range.clone()])) {
            None | Some(Ok(Value::Null)) => Answer::Miss,
            Some(Ok(value)) => Answer::Found(value),
            Some(Err(_)) => {
                Answer::Failed(Failure::temporary(format_args!("{}: the value is not valid JSON", self.name)))
            }
        }
    }

    /// Reads the file again if it has changed. The old content stays in use while it cannot be read.
    fn check(&mut self) {
        if std::fs::metadata(&self.path).is_ok_and(|of| self.stamp == Some(Stamp::new(&of))) {
            return;
        }
        match read(&self.path) {
            Ok((stamp, content)) => {
                log::info(format_args!("file-read table={} keys={}", self.name, content.values.len()));
                (self.stamp, self.content) = (Some(stamp), content);
            }
            Err(error) => log::warn(format_args!("file-unreadable table={} cause=\"{error}\"", self.name)),
        }
    }
}

fn read(path: &std::path::Path) -> Result<(Stamp, Content), String> {
    // Before the content: if the file changes in between, the stamp is the older one and the file is read again.
    let stamp = Stamp::new(&std::fs::metadata(path).map_err(|error| error.to_string())?);
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok((stamp, Content::new(&text)?))
}

impl Stamp {
    fn new(of: &Metadata) -> Self {
        Self {
            device: of.dev(),
            inode: of.ino(),
            size: of.size(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        }
    }
}

impl Content {
    fn new(text: &str) -> Result<Self, String> {
        let Ok(Value::Object(raw)) = Value::parse(text.as_bytes()) else {
            return Err("not a JSON object of key to value".to_owned());
        };
        let (mut members, mut values) = (Members::new(), BTreeMap::new());
        let not_unicode = |_| "a key or value is not valid Unicode".to_owned();
        while let Some((name, value)) = members.next(&raw).map_err(not_unicode)? {
            // Checked now, so that a broken value is reported at the start and not at its first lookup.
            value::member(value).map_err(not_unicode)?;
            let end = members.position();
            values.insert(name.into_owned(), end - value.len()..end);
        }
        Ok(Self { text: raw.into_owned(), values })
    }

    /// The entries below a path, as a JSON object of relative name to value. A key of a user ends with the user.
    fn list(&self, path: &Path) -> String {
        // With a slash, as `it` must not list `item`.
        let mut prefix = path.path.clone();
        if !prefix.is_empty() && !prefix.ends_with(b"/") {
            prefix.push(b'/');
        }
        let suffix = path.user.as_ref().map(|user| [b"/", &user[..]].concat()).unwrap_or_default();
        let mut rows = Vec::new();
        for (key, range) in self.values.range(prefix.clone()..) {
            let Some(rest) = key.strip_prefix(&prefix[..]) else { break };
            if let Some(name) = rest.strip_suffix(&suffix[..]).filter(|name| !name.is_empty()) {
                let name = String::from_utf8_lossy(&value::quote(name)).into_owned();
                rows.push(format!("{name}:{}", &self.text[range.clone()]));
            }
        }
        format!("{{{}}}", rows.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::*;
    use crate::backend::Backends;
    use crate::io::Turn;

    fn with_setup<T>(act: impl FnOnce(&mut Setup<'_>) -> T) -> T {
        act(&mut Setup::new(&mut Backends::default(), &mut Turn::new(Instant::now())))
    }

    fn table(path: &std::path::Path) -> Result<TableEntry, SettingError> {
        let param = path.to_str().unwrap();
        with_setup(|setup| open(TableSpec { name: "test", param, settings: Settings::default() }, setup))
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

    #[test]
    fn keys_are_found_and_changes_are_seen_at_the_latest_after_a_second() {
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
        assert_eq!(get(&mut entry, "a@x", now + CHECK_INTERVAL).as_deref(), Some("changed@x"));
        std::fs::write(&path, r#"{"a@x": half"#).unwrap();
        assert_eq!(get(&mut entry, "a@x", now + 2 * CHECK_INTERVAL).as_deref(), Some("changed@x"));
        std::fs::write(&path, r#"{"a@x": "again"}"#).unwrap();
        with_setup(|setup| entry.table.reload(setup));
        assert_eq!(get(&mut entry, "a@x", now + 2 * CHECK_INTERVAL).as_deref(), Some("again"));
    }

    #[test]
    fn a_file_of_the_same_size_and_age_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let [path, new] = ["t.json", "new"].map(|name| dir.path().join(name));
        let (age, mut now) = (std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1), Instant::now());
        let write = |path: &std::path::Path, value: &str| {
            std::fs::write(path, format!(r#"{{"k": "{value}"}}"#)).unwrap();
            std::fs::File::options().write(true).open(path).unwrap().set_modified(age).unwrap();
        };
        write(&path, "a");
        let mut entry = table(&path).unwrap();
        write(&new, "b");
        std::fs::rename(&new, &path).unwrap();
        assert_eq!(get(&mut entry, "k", now).as_deref(), Some("b"), "another file");
        let changed = || std::fs::metadata(&path).map(|of| (of.ctime(), of.ctime_nsec())).unwrap();
        let before = changed();
        while changed() == before {
            write(&path, "c"); // again if the clock of the file system has not moved yet
        }
        now += CHECK_INTERVAL;
        assert_eq!(get(&mut entry, "k", now).as_deref(), Some("c"), "the same file, written to");
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

    #[test]
    fn a_path_lists_what_is_below_it() {
        let content = Content::new(r#"{"it/a": 1, "it/b/u": 2, "it/c\"/v": 3, "item": 4}"#).unwrap();
        let list = |path: &str, user: Option<&str>| {
            let user = user.map(|user| user.as_bytes().to_vec());
            content.list(&Path { namespace: "shared/", path: path.into(), user })
        };
        assert_eq!(list("it/", None), r#"{"a":1,"b/u":2,"c\"/v":3}"#);
        assert_eq!(list("it", None), list("it/", None));
        assert_eq!(list("it/", Some("u")), r#"{"b":2}"#);
        assert_eq!(list("none/", None), "{}");
        assert_eq!(list("", None), r#"{"it/a":1,"it/b/u":2,"it/c\"/v":3,"item":4}"#);
    }
}
