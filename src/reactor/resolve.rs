//! Name resolution on a thread, as getaddrinfo(3) blocks.

use mio::Waker;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc;

/// The memory of the thread's stack.
const STACK: usize = 256 * 1024; // bytes

/// The number, host and port of a name.
type Request = (usize, String, u16);

/// The number of a name, and its addresses or the error of the resolver.
pub(super) type Resolved = (usize, Result<Vec<SocketAddr>, String>);

/// The thread that resolves names.
pub(super) struct NameResolver {
    requests: mpsc::Sender<Request>,
    answers: mpsc::Receiver<Resolved>,
}

impl NameResolver {
    /// Starts the thread, which wakes the poll with each answer.
    pub fn start(waker: Waker) -> io::Result<Self> {
        let (requests, requested) = mpsc::channel::<Request>();
        let (answered, answers) = mpsc::channel();
        std::thread::Builder::new().name("resolver".to_owned()).stack_size(STACK).spawn(move || {
            for (name, host, port) in requested {
                let answer = (host.as_str(), port).to_socket_addrs();
                let answer = answer.map(Iterator::collect).map_err(|error| error.to_string());
                if answered.send((name, answer)).is_err() || waker.wake().is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { requests, answers })
    }

    /// Has a name resolved. False if the thread has ended.
    pub fn request(&self, name: usize, host: String, port: u16) -> bool {
        self.requests.send((name, host, port)).is_ok()
    }

    /// An answer that has arrived.
    pub fn next(&self) -> Option<Resolved> {
        self.answers.try_recv().ok()
    }
}
