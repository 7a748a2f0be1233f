//! Name resolution on threads, as getaddrinfo(3) blocks.

use mio::Waker;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, mpsc};

/// The memory of a thread's stack.
const STACK: usize = 256 * 1024; // bytes

/// The number of a name, and its addresses or the error of the resolver.
pub(super) type Resolved = (usize, Result<Vec<SocketAddr>, String>);

/// Resolves names, each on a thread of its own that ends with the answer, so that a silent name server holds up no other
/// name. A program whose backends have addresses starts no thread, which keeps libc's system calls and allocations free
/// of locks.
pub(super) struct NameResolver {
    waker: Arc<Waker>,
    answered: mpsc::Sender<Resolved>,
    answers: mpsc::Receiver<Resolved>,
}

impl NameResolver {
    /// `waker` wakes the poll with each answer.
    pub(super) fn new(waker: Waker) -> Self {
        let (answered, answers) = mpsc::channel();
        Self { waker: Arc::new(waker), answered, answers }
    }

    /// Has a name resolved. No name is asked for again before its answer has come, so there are at most as many threads as
    /// names.
    ///
    /// # Errors
    /// No thread could be started.
    pub(super) fn request(&self, name: usize, host: String, port: u16) -> io::Result<()> {
        let (answered, waker) = (self.answered.clone(), self.waker.clone());
        let resolve = move || {
            let answer = (host.as_str(), port).to_socket_addrs();
            let answer = answer.map(Iterator::collect).map_err(|error| error.to_string());
            if answered.send((name, answer)).is_ok() {
                let _ = waker.wake(); // it fails only with the poll itself
            }
        };
        std::thread::Builder::new().name("resolver".to_owned()).stack_size(STACK).spawn(resolve).map(drop)
    }

    /// An answer that has arrived.
    pub(super) fn next(&self) -> Option<Resolved> {
        self.answers.try_recv().ok()
    }
}
