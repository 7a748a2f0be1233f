//! The text of a file, and where each key is in it.

use crate::query::Path;
use crate::value::{self, JsonError, Members, Value};
use std::cmp::Ordering;
use std::hash::Hasher;

/// A JSON object of keys and values.
// The text as it is, and 10 to 16 bytes per key: parsed values of a million keys would take several times their memory, and
// most of them are never used.
pub(super) struct Content {
    text: String,
    /// Where the name of each member begins, sorted by its decoded bytes. Of several with one name it is the last.
    names: Vec<u32>,
    /// The same by the hash of the name, or zero; the number of slots is a power of two, and some are free.
    // A search of a million sorted names reads forty places that are not in the processor's cache: it took as much time
    // as all the rest of a lookup.
    slots: Vec<u32>,
}

impl Content {
    /// Parses and sorts all of the text.
    ///
    /// # Errors
    /// It is not a JSON object, or something in it cannot be decoded. The message continues a sentence that begins with
    /// the file.
    pub(super) fn new(mut text: String) -> Result<Self, String> {
        if u32::try_from(text.len()).is_err() {
            return Err("larger than 4 GiB".to_owned());
        }
        let Ok(Value::Object(object)) = Value::parse(text.as_bytes()) else {
            return Err("not a JSON object of key to value".to_owned());
        };
        // Without what surrounds it, but in the same memory.
        let (begins, size) = (text.find('{').unwrap_or_default(), object.len());
        drop(object);
        text.truncate(begins + size);
        text.drain(..begins);
        text.shrink_to_fit();
        let names = sorted_names(&text).map_err(|_| "a key or value is not valid Unicode")?;
        let mut slots = vec![0; (names.len() + names.len() / 2 + 1).next_power_of_two()];
        for (at, hash) in &names {
            let free = probe(slots.len(), *hash).find(|slot| slots[*slot] == 0);
            free.into_iter().for_each(|slot| slots[slot] = *at);
        }
        Ok(Self { text, names: names.into_iter().map(|(at, _)| at).collect(), slots })
    }

    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Value<'_>>, JsonError> {
        for slot in probe(self.slots.len(), hash(key)) {
            let at = self.slots[slot];
            if at == 0 {
                break; // position 0 is the brace
            }
            if compare(&self.text, at, key) == Ordering::Equal {
                return self.member(at).map(|(_, value)| value::member(value))?.map(Some);
            }
        }
        Ok(None)
    }

    /// The name and the raw value of the member whose name begins at a position.
    fn member(&self, at: u32) -> Result<value::Member<'_>, JsonError> {
        Members::from_position(at as usize).next(&self.text)?.ok_or(JsonError)
    }

    /// The entries below a path, as a JSON object of relative name to value. A key of a user ends with the user.
    pub(super) fn list(&self, path: &Path) -> String {
        // With a slash, as `it` must not list `item`.
        let mut prefix = path.path.clone();
        if !prefix.is_empty() && !prefix.ends_with(b"/") {
            prefix.push(b'/');
        }
        let suffix = path.user.as_ref().map(|user| [b"/", &user[..]].concat()).unwrap_or_default();
        let mut rows = Vec::new();
        let first = self.names.partition_point(|at| compare(&self.text, *at, &prefix) == Ordering::Less);
        for at in &self.names[first..] {
            let Ok((key, value)) = self.member(*at) else { break }; // all were decoded once
            let Some(rest) = key.strip_prefix(&prefix[..]) else { break };
            if let Some(name) = rest.strip_suffix(&suffix[..]).filter(|name| !name.is_empty()) {
                rows.push(format!("{}:{value}", String::from_utf8_lossy(&value::quote(name))));
            }
        }
        format!("{{{}}}", rows.join(","))
    }
}

/// Where the names of an object begin, and their hashes, sorted by their decoded bytes; the last of those that are equal.
fn sorted_names(object: &str) -> Result<Vec<(u32, u32)>, JsonError> {
    let (mut members, mut names) = (Members::new(), Vec::new());
    while let Some((name, value)) = members.next(object)? {
        // Checked now, so that a broken value is reported at the start and not at its first lookup.
        value::member(value)?;
        // The beginning of the name saves most comparisons the way to the text.
        let mut beginning = [0; 16];
        name.iter().zip(&mut beginning).for_each(|(byte, to)| *to = *byte);
        names.push((u128::from_be_bytes(beginning), members.name_position() as u32, hash(&name)));
    }
    let decoded = |at: u32| Members::from_position(at as usize).next(object).map(|member| member.map(|(name, _)| name));
    names.sort_unstable_by(|one, other| {
        let in_full = || decoded(one.1).unwrap_or_default().cmp(&decoded(other.1).unwrap_or_default());
        one.0.cmp(&other.0).then_with(in_full).then(one.1.cmp(&other.1))
    });
    // From the back, as of several equal ones the first is kept there.
    names.reverse();
    names.dedup_by(|one, other| {
        one.0 == other.0 && decoded(one.1).unwrap_or_default() == decoded(other.1).unwrap_or_default()
    });
    Ok(names.into_iter().rev().map(|(_, at, hash)| (at, hash)).collect())
}

fn hash(name: &[u8]) -> u32 {
    // Keyed or not makes no difference: who asks cannot choose what is in the file.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(name);
    hasher.finish() as u32
}

/// The slots in which a name may be, the most likely one first.
fn probe(slots: usize, hash: u32) -> impl Iterator<Item = usize> {
    (0..slots).map(move |step| (hash as usize).wrapping_add(step) & (slots - 1))
}

/// Compares the decoded name that begins at a position with a key.
fn compare(text: &str, at: u32, key: &[u8]) -> Ordering {
    let name = &text.as_bytes()[at as usize + 1..];
    let is_same = |(one, other): &(&u8, &u8)| one == other && !matches!(one, b'"' | b'\\');
    let common = name.iter().zip(key).take_while(is_same).count();
    match (name[common], key.get(common)) {
        (b'"', None) => Ordering::Equal,
        (b'"', Some(_)) => Ordering::Less,
        // An escape sequence: rare enough to decode all of the name.
        (b'\\', _) => match Members::from_position(at as usize).next(text) {
            Ok(Some((name, _))) => (*name).cmp(key),
            _ => Ordering::Less,
        },
        (_, None) => Ordering::Greater,
        (one, Some(other)) => one.cmp(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn content(text: &str) -> Content {
        Content::new(text.to_owned()).unwrap()
    }

    #[test]
    fn all_keys_are_found_and_no_other() {
        let names = [
            "",
            "a",
            "a\"",
            "a\\",
            "ab",
            "a\u{e9}",
            "a\n",
            "aé",
            "b",
            "\u{1}",
            "user1234567890123x",
            "user1234567890123y",
        ];
        let mut expected = BTreeMap::new();
        let mut members = Vec::new();
        for (number, name) in names.iter().cycle().take(30).enumerate() {
            expected.insert(*name, number);
            let quoted = match number % 2 {
                0 => String::from_utf8(value::quote(name.as_bytes())).unwrap(),
                // All of it escaped.
                _ => format!("\"{}\"", name.chars().map(|one| format!("\\u{:04x}", one as u32)).collect::<String>()),
            };
            members.push(format!("{quoted} : {number}"));
        }
        let content = content(&format!("\u{feff} {{ {} }} \n", members.join(" , ")));
        assert_eq!(content.len(), expected.len());
        for (name, number) in expected {
            let value = content.get(name.as_bytes()).unwrap().unwrap();
            assert_eq!(value, Value::Scalar(number.to_string().into()), "{name:?}");
        }
        for name in ["aa", "a\"b", "user1234567890123", "c", "user1234567890123xx", "\\", "\"", "\u{0}"] {
            assert_eq!(content.get(name.as_bytes()).unwrap(), None, "{name:?}");
        }
        assert_eq!(content.get(b"\xff").unwrap(), None);
    }

    #[test]
    fn a_path_lists_what_is_below_it() {
        let content = content(r#"{"it/b/u": 2, "it/a": 1, "it/c\"/v": 3, "item": 4}"#);
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
