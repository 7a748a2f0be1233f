//! `podop query`: one lookup, sent as a mail server would send it.

use super::exit::print;
use crate::config::{EX_TEMPFAIL, Endpoint, QueryCommand};
use crate::wire::{dict, netstring};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Maximum time to wait for a reply.
// As long as Postfix waits (dict_sockmap.c).
const READ_TIMEOUT: Duration = Duration::from_secs(100);

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

/// Looks up a key in a running Podop: exit code 0 for a value, 1 for none, 75 for a failure.
pub fn query(query: &QueryCommand) -> u8 {
    // 1 for a missing key, as with postmap; a failure has a code of its own, because users confuse the two.
    let (code, reason) = match look_up(query) {
        Ok(LookupResult::Value(value)) => return print(&[&value[..], b"\n"].concat()),
        Ok(LookupResult::NotFound) => (1, "not found".to_owned()),
        Ok(LookupResult::Failure(reason)) => (EX_TEMPFAIL, reason),
        Err(error) => (EX_TEMPFAIL, format!("{}: {error}", query.socket)),
    };
    let _ = writeln!(io::stderr(), "podop: {reason} (exit code {code})"); // the exit code reports it, too
    code
}

fn look_up(query: &QueryCommand) -> io::Result<LookupResult> {
    match &query.socket {
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(READ_TIMEOUT))?;
            exchange(stream, query)
        }
        Endpoint::Inet(address) => {
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(READ_TIMEOUT))?;
            exchange(stream, query)
        }
    }
}

/// Sends the request and reads the reply.
fn exchange(mut stream: impl Read + Write, query: &QueryCommand) -> io::Result<LookupResult> {
    stream.write_all(&request(query))?;
    let (mut received, mut chunk) = (Vec::new(), vec![0; 65_536]);
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&chunk[..count]);
        let reply = if query.dovecot { dict_reply(&received) } else { socketmap_reply(&received) };
        if let Some(reply) = reply {
            return Ok(reply);
        }
    }
}

/// The bytes of the request. A dict key without a namespace belongs to the user, if there is one.
fn request(query: &QueryCommand) -> Vec<u8> {
    let mut out = Vec::new();
    if !query.dovecot {
        netstring::encode(&[query.table.as_bytes(), b" ", query.key.as_bytes()], &mut out);
        return out;
    }
    let has_namespace = query.key.starts_with("shared/") || query.key.starts_with("priv/");
    let namespace = match &query.user {
        _ if has_namespace => "",
        Some(_) => "priv/",
        None => "shared/",
    };
    // Major version 4, in which the user is a part of the command and not of HELLO.
    out.extend_from_slice(b"H4\t0\t0\t\t");
    dict::escape(query.table.as_bytes(), &mut out);
    out.extend_from_slice(b"\nL");
    dict::escape(format!("{namespace}{}", query.key).as_bytes(), &mut out);
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

    fn request_text(dovecot: bool, user: Option<&str>, key: &str) -> String {
        let socket = Endpoint::Unix("/s".into());
        let query = QueryCommand { socket, dovecot, user: user.map(str::to_owned), table: "t".into(), key: key.into() };
        String::from_utf8(request(&query)).unwrap()
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
