//! A connection to a running Podop.

use crate::config::Endpoint;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Maximum time to wait for a reply.
// As long as Postfix waits (dict_sockmap.c).
const READ_TIMEOUT: Duration = Duration::from_secs(100);

/// A connection over a unix socket or TCP.
pub(super) trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Connects as a mail server would.
pub(super) fn connect(socket: &Endpoint) -> io::Result<Box<dyn Stream>> {
    Ok(match socket {
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(READ_TIMEOUT))?;
            Box::new(stream)
        }
        Endpoint::Inet(address) => {
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(READ_TIMEOUT))?;
            Box::new(stream)
        }
    })
}
