//! The table types besides `url`: `mx` beside a floor that sends and receives one datagram per lookup, and `program`
//! beside a `url` table with nginx. Each lookup is of another key, and nothing comes from the cache. Name server, floor
//! and child are this program too, started again with other arguments.
#![allow(unsafe_code, unreachable_pub, clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

#[allow(dead_code)] // shared with `lookups`
#[path = "lookups/load.rs"]
mod load;
#[allow(dead_code)] // shared with `lookups`
#[path = "lookups/process.rs"]
mod process;

use load::{ADDRESSES, Shape};
use mio::net::{UdpSocket, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use process::Process;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_millis(400);

/// A domain, which is its own value.
const DOMAINS: Shape = Shape {
    request: |number| format!("17:t d{number:06}.example,"),
    reply: |number| format!("18:OK d{number:06}.example,"),
};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["dns", file] => return name_server(Path::new(file)),
        ["floor", socket, address] => return floor(Path::new(socket), address.parse().expect("an address")),
        ["child"] => return child(),
        _ => {}
    }
    process::raise_descriptor_limit();
    println!("# {}\n", process::machine());
    println!("{:<24} {:>11} {:>8} {:>6} {:>10}", "server", "connections", "CPU us", "ratio", "lookups/s");
    for connections in [1, 8, 64] {
        mx(connections);
    }
    for connections in [1, 8, 64] {
        program(connections);
    }
}

fn mx(connections: usize) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let server = Process::this(&["dns", &path("dns")], 0);
    let address = std::fs::read_to_string(server.ready(Path::new(&path("dns")))).expect("an address");
    let floor = Process::this(&["floor", &path("floor"), &address], 0);
    let (socket, resolver) = (path("mx"), format!("t:resolver={address}"));
    let args = ["--socket", &socket, "--name", "t", "--type", "mx", "--param", "mx.example.net", "--option", &resolver];
    // Nothing is found in so small a cache.
    let podop = Process::start(env!("CARGO_BIN_EXE_podop"), &[&args[..], &["--cache-size", "64K"]].concat(), 0);
    compare(&[("floor (UDP)", &floor, path("floor")), ("mx", &podop, socket)], connections, DOMAINS);
}

/// The program and its processes share the CPU with nginx, of which only Podop's is counted.
fn program(connections: usize) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let this = std::env::current_exe().expect("a program");
    let param = format!("'{}' child", this.display());
    let table = |socket: &str, kind: &str, param: &str, more: &[&str]| {
        let args = ["--socket", socket, "--name", "t", "--type", kind, "--param", param];
        Process::start(env!("CARGO_BIN_EXE_podop"), &[&args[..], more].concat(), 0)
    };
    let Some((nginx, url)) = nginx(dir.path()) else { return println!("nginx is not installed") };
    let plain = table(&path("url"), "url", &url, &[]);
    let one = table(&path("one"), "program", &param, &[]);
    let many = table(&path("many"), "program", &param, &["--option", "t:pipeline=16"]);
    let servers = [
        ("url with nginx", &plain, path("url")),
        ("program", &one, path("one")),
        ("program, pipeline=16", &many, path("many")),
    ];
    compare(&servers, connections, ADDRESSES);
    drop(nginx);
}

fn compare(servers: &[(&str, &Process, String)], connections: usize, shape: Shape) {
    for (_, process, socket) in servers {
        process.ready(Path::new(socket));
    }
    let mut seen: Vec<Vec<(f64, f64)>> = vec![Vec::new(); servers.len()];
    for round in 0..=ROUNDS {
        for ((_, process, socket), seen) in servers.iter().zip(&mut seen) {
            let before = process.cpu();
            let load = load::run(Path::new(socket), connections, TIME, shape);
            if round > 0 {
                seen.push(((process.cpu() - before) as f64 / 1000.0 / load.lookups as f64, load.rate()));
            }
        }
    }
    let first = seen[0].clone();
    for ((name, ..), seen) in servers.iter().zip(&seen) {
        let cpu = median(seen.iter().map(|one| one.0).collect());
        let ratio = median(seen.iter().zip(&first).map(|(one, first)| one.0 / first.0).collect());
        let rate = median(seen.iter().map(|one| one.1).collect());
        println!("{name:<24} {connections:>11} {cpu:>8.1} {ratio:>6.2} {rate:>10.0}");
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// nginx that answers `v-KEY`, and the URL of its keys; `None` if it is not installed.
fn nginx(dir: &Path) -> Option<(Process, String)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a port").port();
    let config = format!(
        "worker_processes 1; daemon off; pid nginx.pid; error_log stderr crit; events {{}}
        http {{ access_log off; default_type application/json; keepalive_requests 1000000;
        client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
        server {{ listen 127.0.0.1:{port}; location ~ ^/map/(?<key>.*)$ {{ return 200 '\"v-$key\"'; }} }} }}"
    );
    let path = dir.join("nginx.conf");
    std::fs::write(&path, config).expect("a file");
    let found = Command::new("/usr/sbin/nginx").arg("-v").stderr(Stdio::null()).status().is_ok();
    let args = ["-p", dir.to_str()?, "-e", "stderr", "-c", path.to_str()?];
    let nginx = found.then(|| Process::start("/usr/sbin/nginx", &args, 0))?;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    Some((nginx, format!("http://127.0.0.1:{port}/map/§")))
}

/// Answers each line, as fast as that can be done.
fn child() {
    let (mut input, mut line) = (std::io::stdin().lock(), Vec::new());
    let mut output = std::io::stdout().lock();
    let mut out = Vec::new();
    while input.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        // {"id":1,"get":"KEY"}
        let comma = line.iter().position(|byte| *byte == b',').expect("an id");
        let key = &line[comma + 8..line.len() - 3];
        let (id, key) = (String::from_utf8_lossy(&line[..comma]), String::from_utf8_lossy(key));
        writeln!(out, "{id},\"value\":\"v-{key}\"}}").expect("memory");
        line.clear();
        // With the last of the lines that have arrived at once.
        if out.len() > 4096 || !has_input() {
            output.write_all(&out).and_then(|()| output.flush()).expect("a reader");
            out.clear();
        }
    }
}

/// Whether there is more to read.
fn has_input() -> bool {
    let mut poll = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd, no waiting.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 }
}

/// Answers each question with one MX record; writes its address into the file.
fn name_server(file: &Path) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    std::fs::write(file.with_extension("new"), socket.local_addr().expect("an address").to_string()).expect("a file");
    std::fs::rename(file.with_extension("new"), file).expect("a file");
    let mut buffer = [0; 512];
    while let Ok((count, from)) = socket.recv_from(&mut buffer) {
        let end = 12 + buffer[12..count].iter().position(|byte| *byte == 0).expect("the root") + 5;
        let mut answer = buffer[..end].to_vec();
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        answer.extend_from_slice(b"\xc0\x0c\0\x0f\0\x01\0\0\0\x3c\0\x12\0\x0a\x02mx\x07example\x03net\0");
        let _ = socket.send_to(&answer, from);
    }
}

/// Relays each netstring of `t DOMAIN` as a question, and each answer as a netstring, by the id: whatever arrives is
/// taken to be whole and right.
fn floor(socket: &Path, server: SocketAddr) {
    const LISTENER: Token = Token(usize::MAX);
    const SERVER: Token = Token(usize::MAX - 1);
    let (mut poll, mut events) = (Poll::new().expect("a poll"), Events::with_capacity(1024));
    let mut listener = UnixListener::bind(socket).expect("a socket");
    let mut udp = UdpSocket::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    udp.connect(server).expect("a server");
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).expect("a listener");
    poll.registry().register(&mut udp, SERVER, Interest::READABLE).expect("a socket");
    let mut clients = Vec::<Option<(UnixStream, Vec<u8>)>>::new();
    let (mut chunk, mut out) = (vec![0; 65_536], Vec::new());
    loop {
        poll.poll(&mut events, None).expect("events");
        for event in &events {
            match event.token() {
                LISTENER => {
                    while let Ok((mut stream, _)) = listener.accept() {
                        let token = Token(clients.len());
                        poll.registry().register(&mut stream, token, Interest::READABLE).expect("a connection");
                        clients.push(Some((stream, Vec::new())));
                    }
                }
                SERVER => {
                    while let Ok(count) = udp.recv(&mut chunk) {
                        assert!(count > 12);
                        let at = usize::from(u16::from_be_bytes([chunk[0], chunk[1]]));
                        let Some(Some((stream, key))) = clients.get_mut(at) else { continue };
                        out.clear();
                        write!(out, "{}:OK ", key.len() + 3).expect("memory");
                        out.extend_from_slice(key);
                        out.push(b',');
                        let _ = stream.write(&out);
                    }
                }
                Token(at) => {
                    let Some((stream, key)) = &mut clients[at] else { continue };
                    let count = match stream.read(&mut chunk) {
                        Ok(count @ 1..) => count,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                        _ => {
                            clients[at] = None;
                            continue;
                        }
                    };
                    let start = chunk[..count].iter().position(|byte| *byte == b' ').expect("a key") + 1;
                    key.clear();
                    key.extend_from_slice(&chunk[start..count - 1]);
                    out.clear();
                    out.extend_from_slice(&(at as u16).to_be_bytes());
                    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
                    for label in key.split(|byte| *byte == b'.') {
                        out.push(label.len() as u8);
                        out.extend_from_slice(label);
                    }
                    out.extend_from_slice(&[0, 0, 15, 0, 1]);
                    let _ = udp.send(&out);
                }
            }
        }
    }
}
