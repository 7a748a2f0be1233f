//! `podop query`: one lookup, asked as a mail server would ask it.

use super::exit::print;
use crate::config::{EX_TEMPFAIL, Endpoint, QueryCommand};
use crate::wire::{dict, netstring};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Postfix gives up after so long.
const PATIENCE: Duration = Duration::from_secs(100);

/// The longest reply that is read: a response body of the largest size, with every byte escaped.
const MAX_REPLY: usize = 9 * 1024 * 1024; // bytes

/// What a lookup brought.
#[derive(Debug, Eq, PartialEq)]
enum Found {
    Value(Vec<u8>),
    Nothing,
    /// No answer; this is why.
    Failure(String),
}

/// Looks a key up in a running Podop: exit code 0 for a value, 1 for none, 75 for a failure.
pub fn query(query: &QueryCommand) -> u8 {
    let (code, reason) = match ask(query) {
        Ok(Found::Value(value)) => return print(&[&value[..], b"\n"].concat()),
        Ok(Found::Nothing) => (1, "not found".to_owned()),
        Ok(Found::Failure(reason)) => (EX_TEMPFAIL, reason),
        Err(error) => (EX_TEMPFAIL, format!("{}: {error}", query.socket)),
    };
    let _ = writeln!(io::stderr(), "podop: {reason} (exit code {code})"); // the exit code says it too
    code
}

fn ask(query: &QueryCommand) -> io::Result<Found> {
    match &query.socket {
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            converse(stream, query)
        }
        Endpoint::Inet(address) => {
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            converse(stream, query)
        }
    }
}

fn converse(mut stream: impl Read + Write, query: &QueryCommand) -> io::Result<Found> {
    stream.write_all(&request(query))?;
    let (mut reply, mut chunk) = (Vec::new(), vec![0; 65_536]);
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        reply.extend_from_slice(&chunk[..count]);
        let found = if query.dovecot { dict_reply(&reply) } else { socketmap_reply(&reply) };
        if let Some(found) = found {
            return Ok(found);
        }
    }
}

/// The bytes of the question. A dict key without a namespace belongs to the user, if there is one.
fn request(query: &QueryCommand) -> Vec<u8> {
    let mut out = Vec::new();
    if !query.dovecot {
        netstring::encode(&[query.table.as_bytes(), b" ", query.key.as_bytes()], &mut out);
        return out;
    }
    let known = query.key.starts_with("shared/") || query.key.starts_with("priv/");
    let namespace = match &query.user {
        _ if known => "",
        Some(_) => "priv/",
        None => "shared/",
    };
    out.extend_from_slice(b"H4\t0\t0\t\t");
    dict::escape(query.table.as_bytes(), &mut out);
    out.extend_from_slice(b"\nL");
    dict::escape(format!("{namespace}{}", query.key).as_bytes(), &mut out);
    out.push(b'\t');
    dict::escape(query.user.as_deref().unwrap_or_default().as_bytes(), &mut out);
    out.push(b'\n');
    out
}

fn socketmap_reply(reply: &[u8]) -> Option<Found> {
    let payload = match netstring::decode(reply, MAX_REPLY) {
        Ok(None) => return None,
        Ok(Some((payload, _))) => payload,
        Err(error) => return Some(Found::Failure(error.to_string())),
    };
    let at = payload.iter().position(|byte| *byte == b' ').unwrap_or(payload.len());
    let (word, rest) = payload.split_at(at);
    Some(match word {
        b"OK" => Found::Value(rest.get(1..).unwrap_or_default().to_vec()),
        b"NOTFOUND" => Found::Nothing,
        _ => Found::Failure(String::from_utf8_lossy(payload).into_owned()),
    })
}

fn dict_reply(reply: &[u8]) -> Option<Found> {
    let line = match dict::line(reply, 0, MAX_REPLY) {
        Ok(None) => return None,
        Ok(Some(end)) => &reply[..end],
        Err(error) => return Some(Found::Failure(error.to_string())),
    };
    Some(match line.split_first() {
        Some((b'O', value)) => Found::Value(dict::unescape(value).into_owned()),
        Some((b'N', _)) => Found::Nothing,
        Some((b'F', reason)) => Found::Failure(String::from_utf8_lossy(reason).into_owned()),
        _ => Found::Failure(format!("unknown reply: {}", line.escape_ascii())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(dovecot: bool, user: Option<&str>, key: &str) -> String {
        let socket = Endpoint::Unix("/s".into());
        let query = QueryCommand { socket, dovecot, user: user.map(str::to_owned), table: "t".into(), key: key.into() };
        String::from_utf8(request(&query)).unwrap()
    }

    #[test]
    fn questions_are_those_of_a_mail_server() {
        assert_eq!(question(false, None, "a@x"), "5:t a@x,");
        assert_eq!(question(true, None, "k"), "H4\t0\t0\t\tt\nLshared/k\t\n");
        assert_eq!(question(true, Some("u"), "k\t"), "H4\t0\t0\t\tt\nLpriv/k\x01t\tu\n");
        assert_eq!(question(true, Some("u"), "shared/k"), "H4\t0\t0\t\tt\nLshared/k\tu\n");
    }

    #[test]
    fn replies_are_understood() {
        assert_eq!(socketmap_reply(b"6:OK x@y"), None);
        assert_eq!(socketmap_reply(b"6:OK x@y,"), Some(Found::Value(b"x@y".to_vec())));
        assert_eq!(socketmap_reply(b"9:NOTFOUND ,"), Some(Found::Nothing));
        assert_eq!(socketmap_reply(b"9:TEMP down,"), Some(Found::Failure("TEMP down".into())));
        assert_eq!(dict_reply(b"Oa\x01tb\n"), Some(Found::Value(b"a\tb".to_vec())));
        assert_eq!(dict_reply(b"N\n"), Some(Found::Nothing));
        assert_eq!(dict_reply(b"Fdown\n"), Some(Found::Failure("down".into())));
        assert_eq!(dict_reply(b"O"), None);
    }
}
