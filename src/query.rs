//! The types that clients, jobs and tables share: queries, answers and failures.

use crate::secret::Secret;
use crate::value::Value;
use std::borrow::Cow;
use std::fmt;

/// A query of a mail server to a table.
#[derive(Debug)]
pub enum Query<'a> {
    /// Looks up one key.
    Get(Cow<'a, [u8]>),
    /// Lists the rows below one or more paths.
    // The rare variants are boxed, because a query is passed by value through several layers.
    Iterate(Box<Iterate>),
    /// Applies writes in order.
    Commit(Box<Commit>),
    /// Asks for a decision.
    Ask(Box<Ask>),
}

/// An iteration.
#[derive(Debug)]
pub struct Iterate {
    /// At least one. Dovecot up to 2.3.16 may send several.
    pub paths: Vec<Path>,
    /// Sort by name; otherwise rows are in the order of the list.
    pub sorted: bool,
    /// Also rows whose names have a `/`, which are below other names.
    pub recurse: bool,
    /// Omit the values.
    pub no_values: bool,
    /// Look up the path itself as a key, instead of what is below it.
    pub exact: bool,
    /// Maximum number of rows; 0 is unlimited.
    pub max_rows: u64,
}

/// A path of an iteration, or a dict key.
#[derive(Clone, Debug)]
pub struct Path {
    /// `shared/` or `priv/`, which precedes each name in rows.
    pub namespace: &'static str,
    /// The path without the namespace.
    pub path: Vec<u8>,
    /// The user, below `priv/`.
    pub user: Option<Vec<u8>>,
}

impl Path {
    /// The key in the table of `name` below this path; with an empty `name`, of the path itself.
    pub fn key(&self, name: &[u8]) -> Vec<u8> {
        self.with_user(self.full(name))
    }

    /// The name of a row as the client expects it: with namespace and path.
    pub fn row(&self, name: &[u8]) -> Vec<u8> {
        [self.namespace.as_bytes(), &self.full(name)].concat()
    }

    fn full(&self, name: &[u8]) -> Vec<u8> {
        // A path means the same with and without a final slash.
        let slash = !self.path.is_empty() && !name.is_empty() && !self.path.ends_with(b"/");
        [&self.path[..], if slash { b"/" } else { b"" }, name].concat()
    }

    // As the Python original: `priv/K` of user U is the table's key `K/U`.
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

/// A request for a decision.
#[derive(Debug)]
pub struct Ask {
    pub kind: AskKind,
    /// What takes the place of the key in a URL.
    pub key: Vec<u8>,
    /// All that is known, as a JSON object.
    pub json: Secret,
}

/// What is to be decided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AskKind {
    /// What Postfix does with a message.
    Policy,
    /// Whether a user may log in.
    Login,
}

/// Whether tokens are accepted in place of passwords.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tokens {
    pub xoauth2: bool,
    pub oauthbearer: bool,
}

/// A decision. A fault is none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// The action of a policy, or the name of a user, which is empty if it is the one that was asked for.
    Yes(Vec<u8>),
    /// No action, or no login, with what the backend says about it.
    No(Option<String>),
}

/// A transaction.
#[derive(Debug, Default)]
pub struct Commit {
    /// The client's id of the transaction.
    pub id: u32,
    pub writes: Vec<Write>,
}

/// A write to one key.
#[derive(Debug)]
pub struct Write {
    pub key: Vec<u8>,
    pub change: Change,
    /// Seconds after which a value that is set expires; 0 is never.
    pub expire: u64,
}

impl Write {
    /// The size of its key and value in bytes.
    pub fn size(&self) -> usize {
        let value = if let Change::Set(value) = &self.change { value.len() } else { 0 };
        self.key.len() + value
    }
}

/// The change that a write makes.
#[derive(Debug)]
pub enum Change {
    Set(Vec<u8>),
    Unset,
    Increment(i64),
}

/// The result of a lookup. A miss is a statement about the key; a fault is never reported as one.
#[derive(Debug)]
pub enum Answer<'a> {
    Found(Value<'a>),
    Miss,
    Failed(Failure),
}

impl Answer<'_> {
    /// The answer with a value of its own.
    pub fn into_owned(self) -> Answer<'static> {
        match self {
            Answer::Found(value) => Answer::Found(value.into_owned()),
            Answer::Miss => Answer::Miss,
            Answer::Failed(failure) => Answer::Failed(failure),
        }
    }

    /// The answer, of which the value is borrowed.
    pub fn borrowed(&self) -> Answer<'_> {
        match self {
            Answer::Found(value) => Answer::Found(value.borrowed()),
            Answer::Miss => Answer::Miss,
            Answer::Failed(failure) => Answer::Failed(failure.clone()),
        }
    }
}

/// The result of a commit.
#[derive(Debug)]
pub enum Outcome {
    /// All writes were acknowledged.
    Done,
    /// There was no value to increment. Nothing was written.
    NotFound,
    /// Nothing was written.
    Failed(Failure),
    /// Some of the writes were applied, or may have been.
    Uncertain(Failure),
}

/// The reason for a missing answer, which appears in the log of the mail server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    pub kind: FailureKind,
    reason: String,
}

/// How the client should treat a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailureKind {
    /// Retry later.
    Temporary,
    /// Retry later; the deadline has passed.
    Timeout,
    /// The request is invalid; a retry fails, too.
    Permanent,
}

/// Maximum length of a reason in bytes.
// Postfix truncates a reason to 200 bytes in its log (dict_sockmap.c).
const MAX_REASON: usize = 199;

impl Failure {
    /// A failure whose reason is reduced to printable ASCII and truncated to 199 bytes.
    pub fn new(kind: FailureKind, reason: fmt::Arguments<'_>) -> Self {
        // It is sent within a line of the dict protocol, and may hold bytes of a backend or of a key.
        let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
        Self { kind, reason: reason.to_string().chars().map(printable).take(MAX_REASON).collect() }
    }

    /// A temporary failure.
    pub fn temporary(reason: fmt::Arguments<'_>) -> Self {
        Self::new(FailureKind::Temporary, reason)
    }

    /// The reason, in printable ASCII.
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
