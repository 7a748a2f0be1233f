//! `podop status`: prints the state of a running Podop.

use super::connect::connect;
use super::exit::{print, report};
use crate::config::{EX_TEMPFAIL, Endpoint};
use std::io::{self, Read, Write};

/// Prints the state as text, from the metrics listener: exit code 0, or 75 if there is no answer.
pub fn status(listener: &Endpoint) -> u8 {
    match read(listener) {
        Ok(response) => match response.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => print(body.as_bytes()),
            _ => report(EX_TEMPFAIL, &format!("{listener}: is not the metrics listener of a Podop with this command")),
        },
        Err(error) => {
            report(EX_TEMPFAIL, &format!("{listener}: {error} (is Podop running with --metrics {listener}?)"))
        }
    }
}

fn read(listener: &Endpoint) -> io::Result<String> {
    let mut stream = connect(listener)?;
    stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}
