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
pub(super) trait Stream: Read + Write {
    /// Sets the maximum time to wait for the next bytes.
    fn set_timeout(&self, timeout: Duration) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))
    }
}

impl Stream for TcpStream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))
    }
}

/// Connects as a mail server would.
pub(super) fn connect(socket: &Endpoint) -> io::Result<Box<dyn Stream>> {
    let stream: Box<dyn Stream> = match socket {
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path)?),
        Endpoint::Inet(address) => Box::new(TcpStream::connect(address)?),
    };
    stream.set_timeout(READ_TIMEOUT)?;
    Ok(stream)
}
