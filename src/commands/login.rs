//! `podop query --mode sasl`: one login, sent as Postfix would send it.

use super::connect::{Stream, connect};
use super::exit::{print, report};
use crate::config::{EX_TEMPFAIL, LogInCommand};
use crate::secret::{Secret, overwrite, wipe};
use crate::wire::{base64, dict};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;

/// Maximum length of a password in bytes.
const MAX_PASSWORD: usize = 16_384;

/// Logs in with the password on the first line of stdin: exit code 0 and the user if that is admitted, 1 if it is refused,
/// 75 if neither.
pub fn log_in(login: &LogInCommand) -> u8 {
    let password = match password() {
        Ok(password) => password,
        Err(error) => return report(EX_TEMPFAIL, &format!("stdin: {error}")),
    };
    match exchange(login, &password) {
        Ok(reply) if reply.starts_with(b"OK\t") => {
            print(&[field(&reply, b"user=").unwrap_or_default(), b"\n".into()].concat())
        }
        Ok(reply) if !reply.starts_with(b"FAIL\t") => report(EX_TEMPFAIL, "this is no reply to a login"),
        Ok(reply) => {
            let reason = field(&reply, b"reason=").map(|reason| format!(": {}", String::from_utf8_lossy(&reason)));
            report(1, &format!("refused{}", reason.unwrap_or_default()))
        }
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            report(EX_TEMPFAIL, "the connection was closed: a temporary failure")
        }
        Err(error) => report(EX_TEMPFAIL, &format!("{}: {error}", login.socket)),
    }
}

/// The first line of stdin, without a buffer that would keep a copy.
fn password() -> io::Result<Secret> {
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (mut password, mut byte) = (Secret::with_capacity(MAX_PASSWORD), [0]);
    while stdin.read(&mut byte)? == 1 && byte != *b"\n" {
        if password.len() == MAX_PASSWORD {
            return Err(ErrorKind::FileTooLarge.into());
        }
        password.writer().push(byte[0]);
    }
    if password.last() == Some(&b'\r') {
        password.writer().pop();
    }
    overwrite(&mut byte);
    Ok(password)
}

fn exchange(login: &LogInCommand, password: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(&login.socket)?;
    // Until DONE, the server introduces itself.
    while line(&mut stream)? != b"DONE" {}
    let credentials: Secret = [b"\0", login.user.as_bytes(), b"\0", password].concat().into();
    let mut response = base64::encode(&credentials).into_bytes();
    let mut request = Secret::with_capacity(response.len() + 100);
    let head = format!("VERSION\t1\t0\nCPID\t{}\nAUTH\t1\tPLAIN\tservice=smtp\tresp=", std::process::id());
    request.writer().extend_from_slice(head.as_bytes());
    request.writer().extend_from_slice(&response);
    request.writer().push(b'\n');
    wipe(&mut response);
    stream.write_all(&request)?;
    line(&mut stream)
}

/// The next line, without its end.
fn line(stream: &mut Box<dyn Stream>) -> io::Result<Vec<u8>> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(line);
        }
        line.push(byte[0]);
    }
}

/// The value of a field of a reply.
fn field(reply: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let value = reply.split(|byte| *byte == b'\t').find_map(|field| field.strip_prefix(name))?;
    Some(dict::unescape(value).into_owned())
}
