//! Listening: sockets with the right permissions, and files that only we may remove.

use crate::config::{Endpoint, Mode, Permissions};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Connections that may wait to be accepted, as far as the kernel allows (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// A socket that is listened on. The file of a unix socket goes with it.
#[derive(Debug)]
pub struct Listener {
    pub socket: ListenerSocket,
    pub mode: Mode,
    pub file: Option<SocketFile>,
}

/// The file of a unix socket, by path, device and inode: removed when this is dropped, if it is still ours.
#[derive(Debug)]
pub struct SocketFile(PathBuf, u64, u64);

/// Does not block.
#[derive(Debug)]
pub enum ListenerSocket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Takes over a socket that somebody else has opened, and told to listen.
    pub fn inherit(socket: OwnedFd, mode: Mode) -> io::Result<Listener> {
        let socket = Socket::from(socket);
        let (kind, address) = (socket.r#type()?, socket.local_addr()?);
        if kind != Type::STREAM {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a stream socket"));
        }
        socket.listen(BACKLOG)?; // again, as systemd's default is shorter; a connected socket fails here
        socket.set_nonblocking(true)?;
        let fd = OwnedFd::from(socket);
        let socket = if address.is_unix() { ListenerSocket::Unix(fd.into()) } else { ListenerSocket::Tcp(fd.into()) };
        Ok(Listener { socket, mode, file: None })
    }

    /// What would keep a socket from being made at a path; somebody who serves it already is none of it.
    pub fn check(endpoint: &Endpoint) -> io::Result<()> {
        let Endpoint::Unix(path) = endpoint else { return Ok(()) };
        match fs::symlink_metadata(path) {
            Ok(of) if !of.file_type().is_socket() => {
                Err(io::Error::new(ErrorKind::AlreadyExists, "exists and is not a socket"))
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                if folder.is_dir() {
                    Ok(())
                } else {
                    Err(io::Error::new(ErrorKind::NotFound, "parent directory does not exist"))
                }
            }
            Err(error) => Err(error),
        }
    }

    /// What a warning is due for: everybody who can reach the address may ask.
    pub fn is_exposed(&self) -> bool {
        match &self.socket {
            ListenerSocket::Unix(_) => false,
            ListenerSocket::Tcp(socket) => {
                socket.local_addr().is_ok_and(|address| !address.ip().to_canonical().is_loopback())
            }
        }
    }

    /// Listens. The permissions are set before anybody can connect. A socket file that nobody serves any
    /// more is replaced; a living one, and a file that is no socket, are left alone.
    pub fn bind(endpoint: &Endpoint, mode: Mode, permissions: Permissions) -> io::Result<Listener> {
        match endpoint {
            Endpoint::Inet(address) => {
                let address = address.to_socket_addrs()?.next().ok_or(ErrorKind::AddrNotAvailable)?;
                let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.bind(&address.into())?;
                socket.listen(BACKLOG)?;
                socket.set_nonblocking(true)?;
                let socket = ListenerSocket::Tcp(socket.into());
                Ok(Listener { socket, mode, file: None })
            }
            Endpoint::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                let address = SockAddr::unix(path)?;
                make_way(path)?;
                socket.bind(&address)?;
                let of = fs::symlink_metadata(path)?;
                let file = SocketFile(path.clone(), of.dev(), of.ino());
                fs::set_permissions(path, fs::Permissions::from_mode(permissions.mode))?;
                if permissions.owner.is_some() || permissions.group.is_some() {
                    let given = std::os::unix::fs::chown(path, permissions.owner, permissions.group);
                    given.map_err(|error| {
                        let why = "cannot be given to --socket-owner and --socket-group (be root, or in the group)";
                        io::Error::new(error.kind(), format!("{why}: {error}"))
                    })?;
                }
                socket.listen(BACKLOG)?;
                socket.set_nonblocking(true)?;
                let socket = ListenerSocket::Unix(OwnedFd::from(socket).into());
                Ok(Listener { socket, mode, file: Some(file) })
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let SocketFile(path, device, inode) = self;
        if fs::symlink_metadata(&*path).is_ok_and(|of| (of.dev(), of.ino()) == (*device, *inode)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes a socket file that a dead process left.
fn make_way(path: &Path) -> io::Result<()> {
    let of = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        of => of?,
    };
    if !of.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "exists and is not a socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another process serves this socket")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let permissions = Permissions { mode: 0o640, owner: None, group: None };
        let bind = || Listener::bind(&Endpoint::Unix(path.clone()), Mode::Auto, permissions);
        let kind = |result: io::Result<Listener>| result.err().map(|error| error.kind());

        fs::write(&path, "a file").unwrap();
        assert_eq!(kind(bind()), Some(ErrorKind::AlreadyExists));
        fs::remove_file(&path).unwrap();

        let living = bind().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(kind(bind()), Some(ErrorKind::AddrInUse));
        drop(living);
        assert!(!path.exists());

        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let ours = bind().unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists(), "somebody else's socket was removed");
        drop(other);
    }
}
