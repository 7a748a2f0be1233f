//! `podop status`: prints the state of a running Podop.

use super::connect::connect;
use super::exit::{print, report};
use crate::config::{EX_TEMPFAIL, Endpoint};
use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

/// Maximum time to wait for all of the response, and its maximum length in bytes.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_RESPONSE: usize = 16 << 20;

/// Prints the state as text, from the metrics listener: exit code 0, or 75 if there is no answer.
pub fn status(listener: &Endpoint) -> u8 {
    match read(listener) {
        Ok(response) => match body(&response) {
            Some(body) => print(printable(body).as_bytes()),
            None => {
                report(EX_TEMPFAIL, &format!("{listener}: is not the metrics listener of a Podop with this command"))
            }
        },
        Err(error) => {
            report(EX_TEMPFAIL, &format!("{listener}: {error} (is Podop running with --metrics {listener}?)"))
        }
    }
}

fn read(listener: &Endpoint) -> io::Result<String> {
    let end = Instant::now() + TIMEOUT;
    let mut stream = connect(listener)?;
    stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
    let (mut response, mut chunk) = (Vec::new(), [0; 4096]);
    // Whatever listens there may send slowly, or without end.
    while response.len() < MAX_RESPONSE {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_timeout(left)?;
        match stream.read(&mut chunk)? {
            0 => break,
            count => response.extend_from_slice(&chunk[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&response).into_owned())
}

/// The body of a response, if it is the status and whole.
fn body(response: &str) -> Option<&str> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse::<usize>().ok()?;
    (head.starts_with("HTTP/1.1 200 ") && body.len() == length).then_some(body)
}

/// Text without what a terminal would carry out.
fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_status_is_shown_and_no_control_character() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na\nb", Some("a\nb")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na\n", None),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\na", None),
            ("HTTP/1.1 200 OK\r\n\r\na", None),
            ("5:PERM x,", None),
        ];
        for (response, expected) in cases {
            assert_eq!(body(response), expected, "{response}");
        }
        assert_eq!(printable("a\x1b]0;x\x07\u{9b}\tb\nü"), "a?]0;x???b\nü");
    }
}
