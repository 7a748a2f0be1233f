//! A scripted HTTP backend on a port of loopback: a function answers each request with the bytes to send, over TLS
//! if there is a certificate.

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A request as the backend sees it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query, as they came.
    pub target: String,
    pub body: Vec<u8>,
}

/// What the backend does then.
#[derive(Clone, Debug)]
pub struct Script {
    pub delay: Duration,
    pub bytes: Vec<u8>,
    /// The bytes go out one by one, with pauses.
    pub drips: bool,
    pub then: Then,
}

/// What follows the answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    Keep,
    /// Over TLS, after `close_notify`.
    Close,
    /// Close without `close_notify`.
    Cut,
    /// Close with RST.
    Reset,
    /// Do nothing more, nor close.
    Hang,
}

type Answer = dyn Fn(&Request) -> Script + Send + Sync;

/// A backend; it ends when this is dropped.
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The accepting thread, which owns the listening socket.
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    answer: Box<Answer>,
    tls: Option<Arc<ServerConfig>>,
    stopping: AtomicBool,
    requests: Mutex<Vec<Request>>,
    open: Mutex<HashMap<u64, TcpStream>>,
}

impl Backend {
    pub fn start(answer: impl Fn(&Request) -> Script + Send + Sync + 'static) -> Backend {
        Self::listen("127.0.0.1:0".parse().expect("an address"), None, Box::new(answer))
    }

    /// A backend, with TLS if it has a certificate.
    pub fn start_with(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Request) -> Script + Send + Sync + 'static,
    ) -> Backend {
        Self::listen("127.0.0.1:0".parse().expect("an address"), tls, Box::new(answer))
    }

    /// A backend on a given address, for one that comes back.
    pub fn start_at(address: SocketAddr, answer: impl Fn(&Request) -> Script + Send + Sync + 'static) -> Backend {
        Self::listen(address, None, Box::new(answer))
    }

    fn listen(address: SocketAddr, tls: Option<Arc<ServerConfig>>, answer: Box<Answer>) -> Backend {
        let listener = bind(address);
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            answer,
            tls,
            stopping: AtomicBool::new(false),
            requests: Mutex::default(),
            open: Mutex::default(),
        });
        let thread = shared.clone();
        let listening = std::thread::spawn(move || accept(&listener, &thread));
        Backend { address, shared, listening: Some(listening) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://HOST:PORT` or `https://HOST:PORT` followed by `path`.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.shared.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// The name that Podop has for it.
    pub fn label(&self) -> String {
        self.url("").trim_start_matches("http://").to_owned()
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("no panic").clone()
    }

    /// Sends unsolicited bytes on every open connection.
    pub fn blurt(&self, bytes: &[u8]) {
        for stream in self.shared.open.lock().expect("no panic").values_mut() {
            let _ = stream.write_all(bytes);
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accepting thread
        // Only then is the port free for the next backend, and no further connection will be opened.
        let _ = self.listening.take().map(JoinHandle::join);
        for stream in self.shared.open.lock().expect("no panic").values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A whole response.
pub fn response(status: u16, body: &str) -> Script {
    let head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n", body.len());
    raw((head + body).into_bytes(), Then::Keep)
}

/// Bytes as they are.
pub fn raw(bytes: impl Into<Vec<u8>>, then: Then) -> Script {
    Script { delay: Duration::ZERO, bytes: bytes.into(), drips: false, then }
}

impl Script {
    pub fn after(mut self, delay: Duration) -> Script {
        self.delay = delay;
        self
    }
}

/// A program that another test is about to start holds a copy of every descriptor until it runs, so a port
/// that was given up may be taken for a moment.
fn bind(address: SocketAddr) -> TcpListener {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            bound => return bound.expect("a port"),
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for (number, stream) in (0..).zip(listener.incoming()) {
        if shared.stopping.load(Ordering::SeqCst) {
            // Also in a program that is about to start, see `bind`: what connects from now on is refused.
            let _ = socket2::SockRef::from(listener).shutdown(Shutdown::Both);
            return;
        }
        let Ok(stream) = stream else { continue };
        let _ = stream.set_nodelay(true);
        shared.open.lock().expect("no panic").insert(number, stream.try_clone().expect("a descriptor"));
        let shared = shared.clone();
        std::thread::spawn(move || {
            serve(stream, &shared);
            shared.open.lock().expect("no panic").remove(&number);
        });
    }
}

/// A connection.
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Wire {
    fn socket(&self) -> &TcpStream {
        match self {
            Wire::Plain(stream) => stream,
            Wire::Tls(stream) => &stream.sock,
        }
    }

    fn end(&mut self) {
        if let Wire::Tls(stream) = self {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(into),
            Wire::Tls(stream) => stream.read(into),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.write_all(bytes),
            Wire::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

fn serve(stream: TcpStream, shared: &Shared) {
    let mut stream = match &shared.tls {
        None => Wire::Plain(stream),
        Some(config) => {
            let tls = ServerConnection::new(config.clone()).expect("a usable configuration");
            Wire::Tls(Box::new(StreamOwned::new(tls, stream)))
        }
    };
    let mut held = Vec::new();
    while let Some(request) = read(&mut stream, &mut held) {
        shared.requests.lock().expect("no panic").push(request.clone());
        let script = (shared.answer)(&request);
        std::thread::sleep(script.delay);
        let pieces = script.bytes.chunks(if script.drips { 1 } else { usize::MAX });
        for piece in pieces {
            if stream.write_all(piece).is_err() {
                return;
            }
            if script.drips {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        match script.then {
            Then::Keep => {}
            Then::Close => {
                stream.end();
                return drop(stream.socket().shutdown(Shutdown::Both));
            }
            Then::Cut => return drop(stream.socket().shutdown(Shutdown::Both)),
            Then::Reset => return reset(stream.socket()),
            Then::Hang => {
                let _ = stream.read(&mut [0; 1]); // until the client gives up
                return;
            }
        }
    }
}

/// Closing sends RST from now on, once the last descriptor of the connection is closed.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn read(stream: &mut Wire, held: &mut Vec<u8>) -> Option<Request> {
    let mut chunk = [0; 65_536];
    loop {
        if let Some(end) = held.windows(4).position(|end| end == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&held[..end + 4]).into_owned();
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let length: usize = length.map_or(0, |length| length.trim().parse().expect("a length"));
            if held.len() >= end + 4 + length {
                let body = held[end + 4..end + 4 + length].to_vec();
                held.drain(..end + 4 + length);
                let mut words = head.split(' ').map(str::to_owned);
                let (method, target) = (words.next()?, words.next()?);
                return Some(Request { method, target, body });
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => held.extend_from_slice(&chunk[..count]),
        }
    }
}
