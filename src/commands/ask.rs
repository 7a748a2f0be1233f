//! `podop query --mode policy`: one request for a decision, sent as smtpd would send it.

use super::connect::connect;
use super::exit::{print, report};
use crate::config::{AskCommand, EX_TEMPFAIL};
use std::io::{self, ErrorKind, Read, Write};

/// Asks for a decision, and prints the action: exit code 0 for any, 75 for none.
pub fn ask(ask: &AskCommand) -> u8 {
    match decision(ask) {
        Ok(action) => print(&[&action[..], b"\n"].concat()),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            report(EX_TEMPFAIL, "the connection was closed: Postfix's own default_action decides")
        }
        Err(error) => report(EX_TEMPFAIL, &format!("{}: {error}", ask.socket)),
    }
}

fn decision(ask: &AskCommand) -> io::Result<Vec<u8>> {
    let mut stream = connect(&ask.socket)?;
    stream.write_all(format!("request=smtpd_access_policy\n{}\n\n", ask.attributes.join("\n")).as_bytes())?;
    let (mut received, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(at) = received.windows(2).position(|pair| pair == b"\n\n") {
            let action = received[..at].strip_prefix(b"action=").ok_or(ErrorKind::InvalidData)?;
            return Ok(action.to_vec());
        }
        match stream.read(&mut chunk)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => received.extend_from_slice(&chunk[..count]),
        }
    }
}
