//! The Dovecot dict protocol (dict-client.c, dict-commands.c), major versions 2, 3 and 4.

use super::message::{Event, MAX_KEY, MAX_REQUEST, ProtocolError, Reply};
use super::replies::{Part, Replies};
use crate::buffer::Output;
use crate::query::{Answer, Change, Commit, Failure, Iterate, Outcome, Path, Query, Write};
use crate::wire::dict::{self, DictCommand};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Maximum length of a line in bytes. Only the value of a write may be longer than [`MAX_REQUEST`].
// IMAP METADATA values are. Dovecot's client does not limit them, and it fails its whole queue if it is disconnected.
const MAX_LINE: usize = 1024 * 1024;

/// Maximum number of open transactions of one client.
const MAX_TRANSACTIONS: usize = 1_000;

/// Maximum length of a user name in bytes.
// The user is copied into the key of every `priv/` write.
const MAX_USER: usize = 1_024;

/// Maximum number of paths of one iteration. Dovecot sends one or two.
const MAX_PATHS: usize = 64;

/// Maximum size in bytes of the writes of one client, in open transactions and in commits without a reply.
const MAX_WRITES: usize = 4 * 1024 * 1024;

/// Nothing is read while commits without a reply leave less room than this for writes: no single write is larger, as it
/// is one line.
const MIN_ROOM: usize = MAX_LINE + 64 * 1024;

/// The namespace of keys without a user.
const SHARED: &[u8] = b"shared/";

// Iteration flags (dict.h).
const RECURSE: u32 = 1;
const SORT_BY_KEY: u32 = 2;
const SORT_BY_VALUE: u32 = 4;
const NO_VALUE: u32 = 8;
const EXACT_KEY: u32 = 16;

/// The state of a dict connection.
#[derive(Debug, Default)]
pub(super) struct DictSession {
    hello: Option<Hello>,
    transactions: BTreeMap<u32, Transaction>,
    /// Bytes of writes in open transactions.
    write_bytes: usize,
    /// Bytes of writes in each commit without a reply, by the seq of the reply, and their sum.
    committing: BTreeMap<u64, usize>,
    in_flight: usize,
    /// Bytes at the front of the input that have been searched for the end of the line.
    // A long line that arrives in small pieces would otherwise be searched from its start at each of them.
    searched: usize,
}

#[derive(Debug)]
struct Hello {
    major: u32,
    user: Vec<u8>,
    table: Vec<u8>,
}

#[derive(Debug, Default)]
struct Transaction {
    user: Vec<u8>,
    expire: u64,
    commit: Commit,
    /// The first error in its writes, reported at COMMIT.
    refused: Option<Failure>,
    write_bytes: usize,
}

impl DictSession {
    /// The dict name in HELLO, which is the name of a table; empty before HELLO.
    pub(super) fn table(&self) -> &[u8] {
        self.hello.as_ref().map_or(&[], |hello| &hello.table)
    }

    /// True if no more may be read, as the writes of commits that have not ended take all memory. They end by their
    /// deadlines.
    pub(super) fn is_full(&self) -> bool {
        self.in_flight > 0 && self.write_bytes + self.in_flight + MIN_ROOM > MAX_WRITES
    }

    /// The commit at `seq` was replied to.
    pub(super) fn committed(&mut self, seq: u64) {
        self.in_flight -= self.committing.remove(&seq).unwrap_or_default();
    }

    /// Parses the next command and returns it with its length in bytes; `None` if the line is incomplete.
    pub(super) fn next<'a>(
        &mut self,
        input: &'a [u8],
        replies: &mut Replies,
        output: &mut Output,
    ) -> Result<Option<(Event<'a>, usize)>, ProtocolError> {
        let Some(end) = dict::line(input, self.searched, MAX_LINE).map_err(ProtocolError::Dict)? else {
            self.searched = input.len();
            return Ok(None);
        };
        self.searched = 0;
        let command = dict::parse(&input[..end]).map_err(ProtocolError::Dict)?;
        // Its names are kept as long as the connection.
        if end > MAX_REQUEST && matches!(command, DictCommand::Hello { .. }) {
            return Err(ProtocolError::Dict(dict::Error::TooLong));
        }
        self.carry_out(command, replies, output).map(|event| Some((event, end + 1)))
    }

    fn carry_out<'a>(
        &mut self,
        command: DictCommand<'a>,
        replies: &mut Replies,
        output: &mut Output,
    ) -> Result<Event<'a>, ProtocolError> {
        let hello = match (&self.hello, command) {
            (None, DictCommand::Hello { major, minor, user, name }) => {
                if !dict::MAJORS.contains(&major) {
                    return Err(ProtocolError::Version);
                }
                replies.allow_ids((major, minor) >= (2, 1));
                self.hello = Some(Hello { major, user: user.into_owned(), table: name.into_owned() });
                // No reply to HELLO: a line that the client does not expect makes it close the connection.
                return Ok(Event::Nothing);
            }
            (None, _) | (Some(_), DictCommand::Hello { .. }) => return Err(ProtocolError::Hello),
            (Some(hello), command) => (hello, command),
        };
        let (hello, command) = hello;
        match command {
            DictCommand::Hello { .. } => Err(ProtocolError::Hello),
            DictCommand::Lookup { key, user } => {
                let query = key_of(key, hello.user(user.as_deref())).map(Query::Get);
                Ok(self::query(query, replies, output))
            }
            DictCommand::Iterate { flags, max_rows, rest } => {
                let query = hello.iterate(flags, max_rows, &rest).map(|iterate| Query::Iterate(Box::new(iterate)));
                Ok(self::query(query, replies, output))
            }
            // Of the commands below only COMMIT is answered, which is why errors of writes wait for it.
            DictCommand::Begin { id, user, expire } => {
                let user = hello.user(user.as_deref());
                // What is too long is refused with the writes, for which the rest is not needed.
                let user = user[..user.len().min(MAX_USER + 1)].to_vec();
                self.begin(id, user, expire).map(|()| Event::Nothing)
            }
            DictCommand::Set { id, key, value } => self.write(id, &key, set(value)),
            DictCommand::Unset { id, key } => self.write(id, &key, Change::Unset),
            DictCommand::Increment { id, key, by } => self.write(id, &key, Change::Increment(by)),
            DictCommand::Remark { id } if self.transactions.contains_key(&id) => Ok(Event::Nothing),
            DictCommand::Remark { .. } => Err(ProtocolError::Transaction),
            DictCommand::Rollback { id } => self.take(id).map(|_| Event::Nothing),
            DictCommand::Commit { id } => self.commit(id, replies, output),
        }
    }

    fn commit<'a>(&mut self, id: u32, replies: &mut Replies, output: &mut Output) -> Result<Event<'a>, ProtocolError> {
        let transaction = self.take(id)?;
        let seq = replies.enter();
        if let Some(failure) = transaction.refused {
            reply(seq, "", Reply::Committed(id, Outcome::Failed(failure)), replies, output.writer());
            return Ok(Event::Nothing);
        }
        self.committing.insert(seq, transaction.write_bytes);
        self.in_flight += transaction.write_bytes;
        Ok(Event::Request { seq, table: None, query: Query::Commit(Box::new(transaction.commit)) })
    }

    fn begin(&mut self, id: u32, user: Vec<u8>, expire: u64) -> Result<(), ProtocolError> {
        if self.transactions.len() >= MAX_TRANSACTIONS || self.transactions.contains_key(&id) {
            return Err(ProtocolError::Transaction);
        }
        let commit = Commit { id, writes: Vec::new() };
        self.transactions.insert(id, Transaction { user, expire, commit, ..Transaction::default() });
        Ok(())
    }

    /// Removes a transaction that is committed or rolled back.
    fn take(&mut self, id: u32) -> Result<Transaction, ProtocolError> {
        let transaction = self.transactions.remove(&id).ok_or(ProtocolError::Transaction)?;
        self.write_bytes -= transaction.write_bytes;
        Ok(transaction)
    }

    /// Adds a write to its transaction. An invalid write is reported when the transaction is committed.
    fn write(&mut self, id: u32, key: &[u8], change: Change) -> Result<Event<'static>, ProtocolError> {
        let transaction = self.transactions.get_mut(&id).ok_or(ProtocolError::Transaction)?;
        // The entry itself counts, as empty values in any number would otherwise be free.
        let size = size_of::<Write>()
            + key.len()
            + transaction.user.len()
            + if let Change::Set(value) = &change { value.len() } else { 0 };
        if transaction.refused.is_some() {
            return Ok(Event::Nothing);
        }
        let refused = match locate(key, &transaction.user) {
            Err(failure) => failure,
            Ok(_) if self.write_bytes + size > MAX_WRITES => {
                Failure::temporary(format_args!("transaction is too large"))
            }
            Ok(path) => {
                self.write_bytes += size;
                transaction.write_bytes += size;
                transaction.commit.writes.push(Write { key: path.key(b""), change, expire: transaction.expire });
                return Ok(Event::Nothing);
            }
        };
        // What was stored of it will not be written.
        transaction.refused = Some(refused);
        transaction.commit.writes = Vec::new();
        self.write_bytes -= std::mem::take(&mut transaction.write_bytes);
        Ok(Event::Nothing)
    }
}

impl Hello {
    /// The user of a command: the user in HELLO up to major 2, that of the command itself from 3 on.
    fn user<'a>(&'a self, user: Option<&'a [u8]>) -> &'a [u8] {
        if self.major < 3 { &self.user } else { user.unwrap_or_default() }
    }

    fn iterate(&self, flags: u32, max_rows: u64, rest: &[Cow<'_, [u8]>]) -> Result<Iterate, Failure> {
        // The parser returns at least one path.
        let (paths, user) = if self.major < 3 { (rest, None) } else { (&rest[..1], rest.get(1)) };
        let user = self.user(user.map(|user| &user[..]));
        if paths.len() > MAX_PATHS {
            return Err(Failure::temporary(format_args!("too many paths")));
        }
        // No version of Dovecot sends it, and sorting by value would need all values in memory.
        if flags & SORT_BY_VALUE != 0 {
            return Err(Failure::temporary(format_args!("sorting by value is not supported")));
        }
        let paths = paths.iter().map(|path| locate(path, user)).collect::<Result<Vec<_>, _>>()?;
        if paths.iter().map(|path| path.path.len()).sum::<usize>() > MAX_KEY {
            return Err(Failure::temporary(format_args!("paths are too long")));
        }
        let (sorted, recurse) = (flags & SORT_BY_KEY != 0, flags & RECURSE != 0);
        Ok(Iterate {
            paths,
            sorted,
            recurse,
            no_values: flags & NO_VALUE != 0,
            exact: flags & EXACT_KEY != 0,
            max_rows,
        })
    }
}

/// A change to a value, whose memory is its length: an unescaped value has room for the escapes.
fn set(value: Cow<'_, [u8]>) -> Change {
    let mut value = value.into_owned();
    value.shrink_to_fit();
    Change::Set(value)
}

/// Assigns a sequence number to a query. An invalid query is answered with its failure.
fn query<'a>(query: Result<Query<'a>, Failure>, replies: &mut Replies, output: &mut Output) -> Event<'a> {
    let seq = replies.enter();
    match query {
        Ok(query) => Event::Request { seq, table: None, query },
        Err(failure) => {
            reply(seq, "", Reply::Failed(failure), replies, output.writer());
            Event::Nothing
        }
    }
}

/// The key in the table of a dict key, for a user. Below `shared/` it borrows from the line, which saves an allocation.
fn key_of<'a>(key: Cow<'a, [u8]>, user: &[u8]) -> Result<Cow<'a, [u8]>, Failure> {
    match key {
        Cow::Borrowed(key) if key.starts_with(SHARED) && key.len() <= MAX_KEY => {
            Ok(Cow::Borrowed(&key[SHARED.len()..]))
        }
        Cow::Borrowed(_) | Cow::Owned(_) => locate(&key, user).map(|path| Cow::Owned(path.key(b""))),
    }
}

/// The path that a dict key names, for a user.
fn locate(key: &[u8], user: &[u8]) -> Result<Path, Failure> {
    if key.len() > MAX_KEY {
        return Err(Failure::temporary(format_args!("key is too long")));
    }
    if let Some(path) = key.strip_prefix(SHARED) {
        return Ok(Path { namespace: "shared/", path: path.to_vec(), user: None });
    }
    match key.strip_prefix(b"priv/") {
        Some(_) if user.len() > MAX_USER => Err(Failure::temporary(format_args!("user is too long"))),
        // Dovecot's own dict server refuses such a command, too. Without a user the key of another user could be meant.
        Some(_) if user.is_empty() => Err(Failure::temporary(format_args!("priv/ key without a user"))),
        Some(path) => Ok(Path { namespace: "priv/", path: path.to_vec(), user: Some(user.to_vec()) }),
        None => Err(Failure::temporary(format_args!("key begins neither with shared/ nor with priv/"))),
    }
}

/// Encodes a reply to the command at `seq`. `table` is named in reasons.
pub(super) fn reply(seq: u64, table: &str, reply: Reply<'_>, replies: &mut Replies, out: &mut Vec<u8>) {
    let part = if matches!(reply, Reply::Row { .. }) { Part::More } else { Part::Last };
    replies.write(seq, part, out, |out| {
        match reply {
            Reply::Answer(Answer::Found(value)) => match value.for_dovecot() {
                Ok(Some(text)) => {
                    out.push(b'O');
                    dict::escape(&text, out);
                }
                Ok(None) => out.push(b'N'),
                Err(unfit) => fail(&Failure::temporary(format_args!("{table}: the value {unfit}")), out),
            },
            Reply::Answer(Answer::Miss) => out.push(b'N'),
            Reply::Answer(Answer::Failed(failure)) | Reply::Failed(failure) => fail(&failure, out),
            // The TAB is required without a value, too: the client asserts that a row has one (dict-client.c).
            Reply::Row { name, value } => {
                out.push(b'O');
                dict::escape(name, out);
                out.push(b'\t');
                dict::escape(value, out);
            }
            // An empty line ends an iteration. The others are for other protocols.
            Reply::End | Reply::Explained { .. } | Reply::Decided(_) | Reply::Close(_) => {}
            Reply::Committed(id, outcome) => {
                let (letter, failure) = match outcome {
                    Outcome::Done => ('O', None),
                    Outcome::NotFound => ('N', None),
                    Outcome::Failed(failure) => ('F', Some(failure)),
                    Outcome::Uncertain(failure) => ('W', Some(failure)),
                };
                let reason = failure.map(|failure| format!("\t{}", failure.reason())).unwrap_or_default();
                out.extend_from_slice(format!("{letter}{id}{reason}").as_bytes());
            }
        }
        out.push(b'\n');
    });
}

fn fail(failure: &Failure, out: &mut Vec<u8>) {
    out.push(b'F');
    out.extend_from_slice(failure.reason().as_bytes());
}
