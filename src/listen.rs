//! Listening sockets, with the files and permissions of unix sockets.

use crate::config::{Endpoint, Mode, Permissions};
use crate::system;
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Length of the accept queue, which the kernel limits to `net.core.somaxconn`.
// Postfix connects to unix sockets without blocking: with a full queue its lookup fails with EAGAIN at once.
const BACKLOG: i32 = 4096;

/// Time without a packet until a client is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// How long a start waits for another one in the same directory, which needs it for microseconds.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// A listening socket, and the file of a unix socket.
#[derive(Debug)]
pub struct Listener {
    // Before the socket, which shows until then that the file is in use: a successor could have one with its inode.
    pub file: Option<SocketFile>,
    pub socket: ListenerSocket,
    pub mode: Mode,
}

/// An endpoint with all addresses of its host.
#[derive(Debug)]
pub enum Resolved {
    Unix(PathBuf),
    Tcp(Vec<SocketAddr>),
}

/// The file of a unix socket by path, device and inode, which is removed on drop if it is still the same file.
#[derive(Debug)]
pub struct SocketFile(PathBuf, u64, u64);

/// A non-blocking listening socket.
#[derive(Debug)]
pub enum ListenerSocket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Takes over a listening socket that was opened by another process.
    ///
    /// # Errors
    /// It is not a stream socket, or is connected.
    pub fn inherit(socket: OwnedFd, mode: Mode) -> io::Result<Listener> {
        let socket = Socket::from(socket);
        let (kind, address) = (socket.r#type()?, socket.local_addr()?);
        if kind != Type::STREAM {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a stream socket"));
        }
        // Again, as systemd uses a shorter accept queue by default; it also fails for a connected socket.
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        // The unit of the socket may have set its own times.
        if !address.is_unix() && !socket.keepalive()? {
            keep_alive(&socket)?;
        }
        let fd = OwnedFd::from(socket);
        let socket = if address.is_unix() { ListenerSocket::Unix(fd.into()) } else { ListenerSocket::Tcp(fd.into()) };
        Ok(Listener { file: None, socket, mode })
    }

    /// Checks that a socket could be created at the endpoint. A process that already listens there is no error.
    pub fn check(endpoint: &Endpoint) -> io::Result<()> {
        let Endpoint::Unix(path) = endpoint else { return Ok(()) };
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                Err(io::Error::new(ErrorKind::AlreadyExists, "exists and is not a socket"))
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if folder(path).is_dir() {
                    Ok(())
                } else {
                    Err(io::Error::new(ErrorKind::NotFound, "parent directory does not exist"))
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The address of a TCP socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            ListenerSocket::Unix(_) => None,
            ListenerSocket::Tcp(socket) => socket.local_addr().ok(),
        }
    }

    /// Whether hosts other than this one can connect, which is worth a warning: clients are not authenticated.
    pub fn is_exposed(&self) -> bool {
        // An IPv4 address that is mapped to IPv6 counts as what it is.
        self.address().is_some_and(|address| !address.ip().to_canonical().is_loopback())
    }

    /// Listens at an endpoint, for a host at each of its addresses. The file of a dead process is replaced.
    ///
    /// # Errors
    /// Another process listens there, the file is not a socket, or the permissions cannot be set.
    pub fn bind(resolved: &Resolved, mode: Mode, permissions: Permissions) -> io::Result<Vec<Listener>> {
        let addresses = match resolved {
            Resolved::Unix(path) => return Ok(vec![Self::bind_unix(path, mode, permissions)?]),
            Resolved::Tcp(addresses) => addresses,
        };
        let (mut listeners, mut missing) = (Vec::new(), io::Error::from(ErrorKind::AddrNotAvailable));
        for address in addresses {
            match Self::bind_tcp(*address, mode) {
                Ok(listener) => listeners.push(listener),
                // /etc/hosts often has an IPv6 address of localhost on systems without IPv6.
                Err(error) if system::has_no_such_address(&error) => missing = error,
                Err(error) => return Err(error),
            }
        }
        if listeners.is_empty() { Err(missing) } else { Ok(listeners) }
    }

    fn bind_tcp(address: SocketAddr, mode: Mode) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // Without it a restart fails while connections of the previous process are in TIME_WAIT.
        socket.set_reuse_address(true)?;
        keep_alive(&socket)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Listener { file: None, socket: ListenerSocket::Tcp(socket.into()), mode })
    }

    fn bind_unix(path: &Path, mode: Mode, permissions: Permissions) -> io::Result<Listener> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        let address = SockAddr::unix(path)?;
        let _lock = lock_folder(path)?;
        remove_dead_socket(path)?;
        // The file is made with the permissions of the socket: a change by path might hit another file.
        let file_mode = fs::Permissions::from_mode(permissions.mode);
        File::from(socket.as_fd().try_clone_to_owned()?).set_permissions(file_mode)?;
        system::without_umask(|| socket.bind(&address))?;
        let of = fs::symlink_metadata(path)?;
        let file = SocketFile(path.to_owned(), of.dev(), of.ino());
        // Between bind and listen: no client can connect before the owner is set.
        if permissions.owner.is_some() || permissions.group.is_some() {
            let changed = std::os::unix::fs::lchown(path, permissions.owner, permissions.group);
            changed.map_err(|error| {
                let why = "cannot set --socket-owner or --socket-group (must run as root or be in the group)";
                io::Error::new(error.kind(), format!("{why}: {error}"))
            })?;
        }
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let socket = ListenerSocket::Unix(OwnedFd::from(socket).into());
        Ok(Listener { file: Some(file), socket, mode })
    }
}

impl Resolved {
    /// Looks up the host of an endpoint, which may take as long as the name servers do.
    pub fn of(endpoint: &Endpoint) -> io::Result<Resolved> {
        match endpoint {
            Endpoint::Unix(path) => Ok(Resolved::Unix(path.clone())),
            Endpoint::Inet(address) => {
                let mut addresses: Vec<SocketAddr> = Vec::new();
                for address in address.to_socket_addrs()? {
                    // A name that is in /etc/hosts twice has the same address twice.
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                Ok(Resolved::Tcp(addresses))
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let SocketFile(path, device, inode) = self;
        // A process that was started in the meantime may have replaced the file, and must not lose its socket.
        if fs::symlink_metadata(&*path).is_ok_and(|now| (now.dev(), now.ino()) == (*device, *inode)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Has the kernel close connections to hosts that have vanished, as an idle client is never disconnected otherwise.
// Set for the listener, from which Linux copies it to each connection.
fn keep_alive(listener: &Socket) -> io::Result<()> {
    listener.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Locks the directory of a socket: a socket that another start has bound looks dead until that start listens. `None` if
/// the directory cannot be locked.
// The directory and not a file in it, which would be left behind.
fn lock_folder(path: &Path) -> io::Result<Option<File>> {
    // With the dot nothing but a directory is opened, as a pipe would wait for a writer.
    let Ok(folder) = File::open(folder(path).join(".")) else { return Ok(None) }; // it may be closed to readers
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match system::try_lock(&folder) {
            Ok(true) => return Ok(Some(folder)),
            Ok(false) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Ok(false) => return Err(io::Error::new(ErrorKind::AddrInUse, "another process has locked its directory")),
            Err(_) => return Ok(None), // some network file systems have no such locks
        }
    }
}

/// Removes the socket file of a dead process.
fn remove_dead_socket(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "exists and is not a socket"));
    }
    // Only a connection attempt shows whether a process still listens. It must not wait for a place in a full queue.
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?).map_err(|error| (error.kind(), error)) {
        Err((ErrorKind::ConnectionRefused, _)) => fs::remove_file(path),
        Err((ErrorKind::NotFound, _)) => Ok(()),
        Ok(()) | Err((ErrorKind::WouldBlock, _)) => {
            Err(io::Error::new(ErrorKind::AddrInUse, "another process serves this socket"))
        }
        Err((_, error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_start_does_not_replace_the_socket_of_another_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let permissions = Permissions { mode: 0o660, owner: None, group: None };
        let bind = || Listener::bind_unix(&path, Mode::Auto, permissions);
        // Another start that has bound the socket, and does not listen yet.
        let lock = lock_folder(&path).unwrap().unwrap();
        let other = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        other.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        assert_eq!(bind().unwrap_err().kind(), ErrorKind::AddrInUse);
        std::thread::scope(|scope| {
            let second = scope.spawn(bind);
            other.listen(1).unwrap();
            drop(lock);
            let error = second.join().unwrap().unwrap_err();
            assert_eq!(error.to_string(), "another process serves this socket");
        });
        drop(other);
        assert!(bind().is_ok(), "the lock is held only while the socket is made");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something is left behind");
    }

    #[test]
    fn the_file_has_its_permissions_whatever_the_umask_is() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o666, 0o660, 0o600] {
            let path = dir.path().join(format!("{mode:o}"));
            let permissions = Permissions { mode, owner: None, group: None };
            let _listener = Listener::bind_unix(&path, Mode::Auto, permissions).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode);
        }
    }

    #[test]
    fn a_socket_whose_queue_is_full_is_alive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let address = SockAddr::unix(&path).unwrap();
        let socket = || Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let busy = socket();
        busy.bind(&address).unwrap();
        busy.listen(0).unwrap();
        let mut queued = Vec::new();
        loop {
            let client = socket();
            client.set_nonblocking(true).unwrap();
            match client.connect(&address) {
                Ok(()) => queued.push(client),
                Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        let permissions = Permissions { mode: 0o660, owner: None, group: None };
        let error = Listener::bind_unix(&path, Mode::Auto, permissions).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn a_listener_is_alive_as_long_as_it_has_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let permissions = Permissions { mode: 0o660, owner: None, group: None };
        for at in 0..1000 {
            let path = dir.path().join(format!("{at}"));
            let listener = Listener::bind_unix(&path, Mode::Auto, permissions).unwrap();
            std::thread::scope(|scope| {
                let refused = scope.spawn(|| {
                    while UnixStream::connect(&path).is_ok() {}
                    path.exists()
                });
                drop(listener);
                assert!(!refused.join().unwrap(), "a file without a listener, after {at} tries");
            });
        }
    }

    #[test]
    fn each_address_of_a_host_has_a_listener() {
        let bind = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            let permissions = Permissions { mode: 0o660, owner: None, group: None };
            Listener::bind(&Resolved::Tcp(addresses), Mode::Auto, permissions)
        };
        let listeners = bind(&["127.0.0.1:0", "127.0.0.2:0"]).unwrap();
        let hosts: Vec<String> = listeners.iter().map(|one| one.address().unwrap().ip().to_string()).collect();
        assert_eq!(hosts, ["127.0.0.1", "127.0.0.2"]);
        // The second is reserved for documentation.
        assert_eq!(bind(&["127.0.0.1:0", "192.0.2.1:0"]).unwrap().len(), 1);
        assert_eq!(bind(&["192.0.2.1:0"]).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
        let taken = listeners[1].address().unwrap().to_string();
        assert_eq!(bind(&["127.0.0.1:0", &taken]).unwrap_err().kind(), ErrorKind::AddrInUse, "half of a host");
    }

    #[test]
    fn connections_of_a_tcp_listener_are_kept_alive() {
        let ours = Listener::bind_tcp(SocketAddr::from(([127, 0, 0, 1], 0)), Mode::Auto).unwrap();
        let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
        let inherited = Listener::inherit(inherited.into(), Mode::Auto).unwrap();
        for listener in [ours, inherited] {
            let _client = TcpStream::connect(listener.address().unwrap()).unwrap();
            let ListenerSocket::Tcp(listener) = listener.socket else { panic!("{listener:?}") };
            listener.set_nonblocking(false).unwrap();
            let accepted = Socket::from(listener.accept().unwrap().0);
            assert!(accepted.keepalive().unwrap());
        }
    }

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let permissions = Permissions { mode: 0o640, owner: None, group: None };
        let bind = || Listener::bind_unix(&path, Mode::Auto, permissions);
        let kind = |result: io::Result<Listener>| result.err().map(|error| error.kind());

        fs::write(&path, "a file").unwrap();
        assert_eq!(kind(bind()), Some(ErrorKind::AlreadyExists));
        fs::remove_file(&path).unwrap();

        let alive = bind().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(kind(bind()), Some(ErrorKind::AddrInUse));
        drop(alive);
        assert!(!path.exists());

        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let ours = bind().unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists(), "the socket of another process was removed");
        drop(other);
    }
}
