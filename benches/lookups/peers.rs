//! The two ends of the comparison: a backend that is faster than any real one, and the floor.

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;

const LISTENER: Token = Token(usize::MAX);

/// Answers each GET of a key below `/map/` with `v-` and the key; writes its address into the file.
pub fn backend(file: &Path) {
    let (mut poll, mut events) = (Poll::new().expect("a poll"), Events::with_capacity(1024));
    let mut listener = TcpListener::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).expect("a listener");
    std::fs::write(file.with_extension("new"), address).expect("a file");
    std::fs::rename(file.with_extension("new"), file).expect("a file");
    let (mut streams, mut chunk, mut out) = (Vec::<(TcpStream, Vec<u8>)>::new(), vec![0; 65_536], Vec::new());
    loop {
        poll.poll(&mut events, None).expect("events");
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.set_nodelay(true);
                    let token = Token(streams.len());
                    poll.registry().register(&mut stream, token, Interest::READABLE).expect("a connection");
                    streams.push((stream, Vec::new()));
                }
                continue;
            }
            let (stream, held) = &mut streams[event.token().0];
            let Ok(count @ 1..) = stream.read(&mut chunk) else { continue };
            held.extend_from_slice(&chunk[..count]);
            out.clear();
            let mut used = 0;
            while let Some(end) = held[used..].windows(4).position(|end| end == b"\r\n\r\n") {
                answer(&held[used..used + end], &mut out);
                used += end + 4;
            }
            held.drain(..used);
            let _ = stream.write(&out);
        }
    }
}

fn answer(head: &[u8], out: &mut Vec<u8>) {
    let target = head.split(|byte| *byte == b' ').nth(1).and_then(|target| target.strip_prefix(b"/map/"));
    let key = String::from_utf8_lossy(target.expect("a key")).replace("%40", "@");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
    write!(out, "{head}{}\r\n\r\n\"v-{key}\"", key.len() + 4).expect("memory");
}

/// A connection of the floor to its backend.
struct Back {
    stream: TcpStream,
    client: usize,
}

/// The floor's connections to the backend; as many as serve a fast one best.
const POOL: usize = 64;

/// Relays each netstring of `t KEY` as a GET, and each answer as a netstring: whatever arrives is taken to be whole.
pub fn floor(socket: &Path, backend: SocketAddr) {
    let (mut poll, mut events) = (Poll::new().expect("a poll"), Events::with_capacity(1024));
    let mut listener = UnixListener::bind(socket).expect("a socket");
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).expect("a listener");
    let (mut clients, mut backs) = (Vec::<Option<UnixStream>>::new(), Vec::<Back>::new());
    let (mut idle, mut waiting) = (Vec::new(), VecDeque::<(usize, Vec<u8>)>::new());
    let (mut chunk, mut out) = (vec![0; 65_536], Vec::new());
    loop {
        poll.poll(&mut events, None).expect("events");
        for event in &events {
            match event.token() {
                LISTENER => {
                    while let Ok((mut stream, _)) = listener.accept() {
                        let token = Token(clients.len() << 1);
                        poll.registry().register(&mut stream, token, Interest::READABLE).expect("a connection");
                        clients.push(Some(stream));
                    }
                }
                Token(token) if token & 1 == 0 => {
                    let Some(stream) = &mut clients[token >> 1] else { continue };
                    let count = match stream.read(&mut chunk) {
                        Ok(count @ 1..) => count,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                        _ => {
                            clients[token >> 1] = None;
                            continue;
                        }
                    };
                    let start = chunk[..count].iter().position(|byte| *byte == b' ').expect("a key") + 1;
                    out.clear();
                    get(&chunk[start..count - 1], &mut out);
                    let at = idle.pop().or_else(|| (backs.len() < POOL).then(|| open(backend, &poll, &mut backs)));
                    let Some(at) = at else {
                        waiting.push_back((token >> 1, out.clone()));
                        continue;
                    };
                    backs[at].client = token >> 1;
                    let _ = backs[at].stream.write(&out);
                }
                Token(token) => {
                    let back = &mut backs[token >> 1];
                    let Ok(count @ 1..) = back.stream.read(&mut chunk) else { continue };
                    let end = chunk[..count].windows(4).position(|end| end == b"\r\n\r\n").expect("a whole answer");
                    let value = &chunk[end + 5..count - 1];
                    out.clear();
                    write!(out, "{}:OK ", value.len() + 3).expect("memory");
                    out.extend_from_slice(value);
                    out.push(b',');
                    if let Some(client) = &mut clients[back.client] {
                        let _ = client.write(&out);
                    }
                    match waiting.pop_front() {
                        None => idle.push(token >> 1),
                        Some((client, request)) => {
                            back.client = client;
                            let _ = back.stream.write(&request);
                        }
                    }
                }
            }
        }
    }
}

fn get(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"GET /map/");
    for byte in key {
        match byte {
            b'@' => out.extend_from_slice(b"%40"),
            byte => out.push(*byte),
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
}

/// Opens one more connection: it waits until the connection is there, which on loopback is at once.
fn open(backend: SocketAddr, poll: &Poll, backs: &mut Vec<Back>) -> usize {
    let stream = std::net::TcpStream::connect(backend).expect("the backend listens");
    stream.set_nodelay(true).expect("an option");
    stream.set_nonblocking(true).expect("an option");
    let mut stream = TcpStream::from_std(stream);
    let token = Token(backs.len() << 1 | 1);
    poll.registry().register(&mut stream, token, Interest::READABLE).expect("a connection");
    backs.push(Back { stream, client: 0 });
    backs.len() - 1
}
