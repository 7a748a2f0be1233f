//! Name resolution on threads, as getaddrinfo(3) blocks.

use mio::Waker;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, mpsc};

/// Stack size of a thread in bytes.
const STACK: usize = 256 * 1024;

/// The number of a name, and its addresses or an error message.
pub(super) type Resolved = (usize, Result<Vec<SocketAddr>, String>);

/// Resolves names, each on a thread of its own that ends with the answer.
// A thread each, so that a name server that does not respond delays no other name. None is kept, because libc takes
// locks for system calls and allocations in a program with several threads.
pub(super) struct NameResolver {
    waker: Arc<Waker>,
    sender: mpsc::Sender<Resolved>,
    receiver: mpsc::Receiver<Resolved>,
}

impl NameResolver {
    /// `waker` wakes the poll with each answer.
    pub(super) fn new(waker: Waker) -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { waker: Arc::new(waker), sender, receiver }
    }

    /// Starts to resolve a name. The engine requests none twice before its answer has arrived, which limits the number
    /// of threads.
    ///
    /// # Errors
    /// No thread could be started.
    pub(super) fn request(&self, name: usize, host: String, port: u16) -> io::Result<()> {
        let (sender, waker) = (self.sender.clone(), self.waker.clone());
        let resolve = move || {
            let answer = (host.as_str(), port).to_socket_addrs();
            let answer = answer.map(Iterator::collect).map_err(|error| error.to_string());
            if sender.send((name, answer)).is_ok() {
                let _ = waker.wake(); // fails only with the poll itself
            }
        };
        std::thread::Builder::new().name("resolver".to_owned()).stack_size(STACK).spawn(resolve).map(drop)
    }

    /// The next answer that has arrived.
    pub(super) fn next(&self) -> Option<Resolved> {
        self.receiver.try_recv().ok()
    }
}
