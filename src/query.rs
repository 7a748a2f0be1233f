//! The words that clients, jobs and tables share: what is asked, and what the answer can be.

use crate::value::Value;
use std::borrow::Cow;
use std::fmt;

/// What a mail server asks of a table. What is rare is boxed: the rest is handed on by value.
#[derive(Debug)]
pub enum Query<'a> {
    /// The value of one key.
    Get(Cow<'a, [u8]>),
    /// All rows below some paths.
    Iterate(Box<Iterate>),
    /// Writes, in order.
    Commit(Box<Commit>),
}

/// Rows below paths, with names and mostly with values.
#[derive(Debug)]
pub struct Iterate {
    /// At least one. Older Dovecots send several at once.
    pub paths: Vec<Path>,
    /// By name; else in the order of the list.
    pub sorted: bool,
    /// Names only.
    pub no_values: bool,
    /// Not what is below the path, but the key that the path is.
    pub exact: bool,
    /// At most so many rows; 0 means all.
    pub max_rows: u64,
}

/// Where an iteration looks.
#[derive(Clone, Debug)]
pub struct Path {
    /// `shared/` or `priv/`, which stands before each name in the rows.
    pub namespace: &'static str,
    /// The rest of the path.
    pub path: Vec<u8>,
    /// Whose, below `priv/`.
    pub user: Option<Vec<u8>>,
}

impl Path {
    /// The table's key of `name` below this path; `name` itself is the whole path when it is empty.
    pub fn key(&self, name: &[u8]) -> Vec<u8> {
        self.with_user(self.full(name))
    }

    /// The name of a row as its client wants it, with namespace and path.
    pub fn row(&self, name: &[u8]) -> Vec<u8> {
        [self.namespace.as_bytes(), &self.full(name)].concat()
    }

    fn full(&self, name: &[u8]) -> Vec<u8> {
        let slash = !self.path.is_empty() && !name.is_empty() && !self.path.ends_with(b"/");
        [&self.path[..], if slash { b"/" } else { b"" }, name].concat()
    }

    fn with_user(&self, mut key: Vec<u8>) -> Vec<u8> {
        if let Some(user) = &self.user {
            if !key.is_empty() && !key.ends_with(b"/") {
                key.push(b'/');
            }
            key.extend_from_slice(user);
        }
        key
    }
}

/// The writes of one transaction.
#[derive(Debug, Default)]
pub struct Commit {
    /// The client's number for it.
    pub id: u32,
    pub writes: Vec<Write>,
}

/// One write.
#[derive(Debug)]
pub struct Write {
    pub key: Vec<u8>,
    pub change: Change,
}

/// What a write does to its key.
#[derive(Debug)]
pub enum Change {
    Set(Vec<u8>),
    Unset,
    Increment(i64),
}

/// What became of a lookup. Not found is an answer; a fault never is one.
#[derive(Debug)]
pub enum Answer<'a> {
    Found(Value<'a>),
    Miss,
    Failed(Failure),
}

/// What became of a commit.
#[derive(Debug)]
pub enum Outcome {
    /// Every write was acknowledged.
    Done,
    /// An increment found no value, and nothing was written.
    NotFound,
    /// Nothing was written.
    Failed(Failure),
    /// Some of it was written, or may have been.
    Uncertain(Failure),
}

/// Why there is no answer. The reason ends up in the mail log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    pub kind: FailureKind,
    reason: String,
}

/// How a client should take a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailureKind {
    /// Ask again later.
    Temporary,
    /// The same; the deadline has passed.
    Timeout,
    /// The request itself is wrong.
    Permanent,
}

/// Postfix cuts a reason at 200 bytes.
const MAX_REASON: usize = 199; // bytes

impl Failure {
    /// A reason is made printable ASCII and cut to what a mail log shows.
    pub fn new(kind: FailureKind, reason: fmt::Arguments<'_>) -> Self {
        let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
        Self { kind, reason: reason.to_string().chars().map(printable).take(MAX_REASON).collect() }
    }

    pub fn temporary(reason: fmt::Arguments<'_>) -> Self {
        Self::new(FailureKind::Temporary, reason)
    }

    pub fn reason(&self) -> &str {
        &self.reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_short_and_printable() {
        let failure = Failure::temporary(format_args!("a\n\u{e9}{}", "x".repeat(300)));
        assert!(failure.reason().starts_with("a??xx") && failure.reason().len() == 199);
    }

    #[test]
    fn names_below_a_path_become_keys_and_rows() {
        let user = || Some(b"u".to_vec());
        let cases = [
            ("shared/", "it/", None, "a", "it/a", "shared/it/a"),
            ("shared/", "it", None, "a", "it/a", "shared/it/a"),
            ("shared/", "", None, "a", "a", "shared/a"),
            ("shared/", "it/", None, "", "it/", "shared/it/"),
            ("priv/", "it/", user(), "a", "it/a/u", "priv/it/a"),
            ("priv/", "it/", user(), "", "it/u", "priv/it/"),
            ("priv/", "it", user(), "", "it/u", "priv/it"),
            ("priv/", "", user(), "", "u", "priv/"),
        ];
        for (namespace, path, user, name, key, row) in cases {
            let path = Path { namespace, path: path.into(), user };
            assert_eq!((path.key(name.as_bytes()), path.row(name.as_bytes())), (key.into(), row.into()));
        }
    }
}
