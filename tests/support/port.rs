//! Ports of loopback for servers that have to be given one.

use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

/// A free port, each time another one. By default the kernel chooses none of this range for port 0 or for an outgoing
/// connection, so no other test takes it before the server does.
pub fn free() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16; // tests of another process begin elsewhere
    loop {
        let port = 10_000 + start.wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst)) % 20_000;
        // It does not listen: a program that another test starts at this moment holds a copy of the socket until it is
        // executed, and a connection to that copy would be taken for one to the server.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("an option"); // or such a copy would keep the server from binding
        if socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).is_ok() {
            return port;
        }
    }
}
