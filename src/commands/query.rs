//! `podop query`: lookups, sent as a mail server would send them.

use super::connect::{Stream, connect};
use super::exit::{print, report};
use crate::config::{EX_OSERR, EX_TEMPFAIL, QueryCommand};
use crate::engine::EXPLAIN;
use crate::wire::{dict, netstring};
use std::io::{self, BufRead, ErrorKind, Read, Write};

/// Maximum length of a reply in bytes.
// The dict protocol may escape each byte of a response body, whose limit is 4 MiB.
const MAX_REPLY: usize = 9 * 1024 * 1024;

/// The result of a lookup.
#[derive(Debug, Eq, PartialEq)]
enum LookupResult {
    Value(Vec<u8>),
    NotFound,
    /// The reason for a missing answer.
    Failure(String),
}

/// Looks up a key in a running Podop: exit code 0 for a value, 1 for none, 75 for a failure. The key `-` stands for keys
/// from stdin, one per line, of which those with values are printed, as `postmap -q -` does; the exit code is 0 if there
/// was any.
pub fn query(query: &QueryCommand) -> u8 {
    let mut session = match connect(&query.socket) {
        Ok(stream) => Session { stream, query, greeted: false },
        Err(error) => return report(EX_TEMPFAIL, &format!("{}: {error}", query.socket)),
    };
    if query.key == "-" {
        return session.look_up_lines(io::stdin().lock());
    }
    // 1 for a missing key, as with postmap; a failure has a code of its own, because users confuse the two.
    match session.look_up(query.key.as_bytes()) {
        Err(error) => report(EX_TEMPFAIL, &format!("{}: {error}", query.socket)),
        Ok(LookupResult::Value(value)) => print(&[&value[..], b"\n"].concat()),
        Ok(LookupResult::NotFound) => report(1, "not found"),
        Ok(LookupResult::Failure(reason)) => report(EX_TEMPFAIL, &reason),
    }
}

/// A connection to a running Podop.
struct Session<'a> {
    stream: Box<dyn Stream>,
    query: &'a QueryCommand,
    /// Dovecot's HELLO was sent.
    greeted: bool,
}

impl Session<'_> {
    /// Looks up one key per line.
    fn look_up_lines(&mut self, input: impl BufRead) -> u8 {
        let (mut found, mut failed) = (false, false);
        for line in input.split(b'\n') {
            let key = match line {
                Ok(key) => key,
                Err(error) => return report(EX_OSERR, &format!("stdin: {error}")),
            };
            // As postmap does: an empty key is nothing that a mail server asks for.
            if key.is_empty() {
                continue;
            }
            let shown = String::from_utf8_lossy(&key);
            match self.look_up(&key) {
                Err(error) => return report(EX_TEMPFAIL, &format!("{}: {error}", self.query.socket)),
                Ok(LookupResult::Value(value)) => {
                    found = true;
                    let code = print(&[&key[..], b"\t", &value, b"\n"].concat());
                    if code != 0 {
                        return code;
                    }
                }
                Ok(LookupResult::NotFound) => {}
                // One line each: what is missing in the output is neither there nor missing in the table.
                Ok(LookupResult::Failure(reason)) => {
                    failed = true;
                    let _ = writeln!(io::stderr(), "podop: {shown}: {reason}");
                }
            }
        }
        match (failed, found) {
            (true, _) => report(EX_TEMPFAIL, "not all lookups succeeded"),
            (false, true) => 0,
            (false, false) => 1,
        }
    }

    /// Looks up a key. With `-v`, prints what was asked for.
    fn look_up(&mut self, key: &[u8]) -> io::Result<LookupResult> {
        Ok(match self.exchange(key)? {
            LookupResult::Value(explained) if self.is_explained() => {
                let end = explained.windows(2).position(|pair| pair == b"\n\n");
                let (steps, reply) = explained.split_at(end.unwrap_or_default());
                let _ = io::stderr().write_all(&[steps, b"\n"].concat());
                let whole = reply.strip_prefix(b"\n\n").and_then(socketmap_reply);
                whole.unwrap_or_else(|| LookupResult::Failure("the reply has no result".to_owned()))
            }
            result @ (LookupResult::Value(_) | LookupResult::NotFound | LookupResult::Failure(_)) => result,
        })
    }

    fn is_explained(&self) -> bool {
        self.query.verbose && !self.query.dovecot
    }

    /// Sends the request and reads the reply.
    fn exchange(&mut self, key: &[u8]) -> io::Result<LookupResult> {
        let request = request(self.query, key, self.greeted);
        self.greeted = true;
        self.stream.write_all(&request)?;
        let (mut received, mut chunk) = (Vec::new(), vec![0; 65_536]);
        loop {
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            received.extend_from_slice(&chunk[..count]);
            let reply = if self.query.dovecot { dict_reply(&received) } else { socketmap_reply(&received) };
            if let Some(reply) = reply {
                return Ok(reply);
            }
        }
    }
}

/// The bytes of the request. A dict key without a namespace belongs to the user, if there is one.
fn request(query: &QueryCommand, key: &[u8], greeted: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if !query.dovecot {
        let explain: &[u8] = if query.verbose { EXPLAIN } else { b"" };
        netstring::encode(&[explain, query.table.as_bytes(), b" ", key], &mut out);
        return out;
    }
    let has_namespace = key.starts_with(b"shared/") || key.starts_with(b"priv/");
    let namespace: &[u8] = match &query.user {
        _ if has_namespace => b"",
        Some(_) => b"priv/",
        None => b"shared/",
    };
    if !greeted {
        // Major version 4, in which the user is a part of the command and not of HELLO.
        out.extend_from_slice(b"H4\t0\t0\t\t");
        dict::escape(query.table.as_bytes(), &mut out);
        out.push(b'\n');
    }
    out.push(b'L');
    dict::escape(&[namespace, key].concat(), &mut out);
    out.push(b'\t');
    dict::escape(query.user.as_deref().unwrap_or_default().as_bytes(), &mut out);
    out.push(b'\n');
    out
}

fn socketmap_reply(reply: &[u8]) -> Option<LookupResult> {
    let payload = match netstring::decode(reply, MAX_REPLY) {
        Ok(None) => return None,
        Ok(Some((payload, _))) => payload,
        Err(error) => return Some(LookupResult::Failure(error.to_string())),
    };
    let at = payload.iter().position(|byte| *byte == b' ').unwrap_or(payload.len());
    let (word, rest) = payload.split_at(at);
    Some(match word {
        b"OK" => LookupResult::Value(rest.get(1..).unwrap_or_default().to_vec()),
        b"NOTFOUND" => LookupResult::NotFound,
        _ => LookupResult::Failure(String::from_utf8_lossy(payload).into_owned()),
    })
}

fn dict_reply(reply: &[u8]) -> Option<LookupResult> {
    // The first line, as HELLO has no reply.
    let line = match dict::line(reply, 0, MAX_REPLY) {
        Ok(None) => return None,
        Ok(Some(end)) => &reply[..end],
        Err(error) => return Some(LookupResult::Failure(error.to_string())),
    };
    Some(match line.split_first() {
        Some((b'O', value)) => LookupResult::Value(dict::unescape(value).into_owned()),
        Some((b'N', _)) => LookupResult::NotFound,
        Some((b'F', reason)) => LookupResult::Failure(String::from_utf8_lossy(reason).into_owned()),
        _ => LookupResult::Failure(format!("unknown reply: {}", line.escape_ascii())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;

    fn request_text(dovecot: bool, user: Option<&str>, key: &str) -> String {
        let socket = Endpoint::Unix("/s".into());
        let (user, table, key) = (user.map(str::to_owned), "t".to_owned(), key.to_owned());
        let query = QueryCommand { socket, dovecot, verbose: false, user, table, key };
        String::from_utf8(request(&query, query.key.as_bytes(), false)).unwrap()
    }

    #[test]
    fn requests_are_those_of_a_mail_server() {
        assert_eq!(request_text(false, None, "a@x"), "5:t a@x,");
        assert_eq!(request_text(true, None, "k"), "H4\t0\t0\t\tt\nLshared/k\t\n");
        assert_eq!(request_text(true, Some("u"), "k\t"), "H4\t0\t0\t\tt\nLpriv/k\x01t\tu\n");
        assert_eq!(request_text(true, Some("u"), "shared/k"), "H4\t0\t0\t\tt\nLshared/k\tu\n");
    }

    #[test]
    fn replies_are_parsed() {
        assert_eq!(socketmap_reply(b"6:OK x@y"), None);
        assert_eq!(socketmap_reply(b"6:OK x@y,"), Some(LookupResult::Value(b"x@y".to_vec())));
        assert_eq!(socketmap_reply(b"9:NOTFOUND ,"), Some(LookupResult::NotFound));
        assert_eq!(socketmap_reply(b"9:TEMP down,"), Some(LookupResult::Failure("TEMP down".into())));
        assert_eq!(dict_reply(b"Oa\x01tb\n"), Some(LookupResult::Value(b"a\tb".to_vec())));
        assert_eq!(dict_reply(b"N\n"), Some(LookupResult::NotFound));
        assert_eq!(dict_reply(b"Fdown\n"), Some(LookupResult::Failure("down".into())));
        assert_eq!(dict_reply(b"O"), None);
    }
}
