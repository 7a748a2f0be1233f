//! The load: so many clients, each with one lookup on its way, every answer checked.

use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// What was seen.
#[derive(Clone, Copy)]
pub struct Load {
    pub lookups: usize,
    seconds: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Load {
    pub fn rate(&self) -> f64 {
        self.lookups as f64 / self.seconds
    }
}

struct Client {
    stream: UnixStream,
    key: usize,
    since: Instant,
    held: Vec<u8>,
}

/// What is asked, and what has to be answered, by the number of the lookup.
#[derive(Clone, Copy)]
pub struct Shape {
    pub request: fn(usize) -> String,
    pub reply: fn(usize) -> String,
}

/// An address, and its value with `v-` in front.
pub const ADDRESSES: Shape = Shape {
    request: |number| format!("24:t user{number:06}@example.com,"),
    reply: |number| format!("27:OK v-user{number:06}@example.com,"),
};

/// Asks for `time` and panics at the first wrong answer.
pub fn run(socket: &Path, connections: usize, time: Duration, shape: Shape) -> Load {
    let (mut poll, mut events) = (Poll::new().expect("a poll"), Events::with_capacity(1024));
    let (mut clients, mut next) = (Vec::new(), 0);
    for at in 0..connections {
        let stream = std::os::unix::net::UnixStream::connect(socket).expect("the server listens");
        stream.set_nonblocking(true).expect("an option");
        let mut stream = UnixStream::from_std(stream);
        poll.registry().register(&mut stream, Token(at), Interest::READABLE).expect("a connection");
        clients.push(Client { stream, key: 0, since: Instant::now(), held: Vec::new() });
    }
    let start = Instant::now();
    clients.iter_mut().for_each(|client| client.ask(&mut next, shape));
    let (mut open, mut chunk, mut took) = (connections, [0; 4096], Vec::new());
    while open > 0 {
        poll.poll(&mut events, Some(Duration::from_secs(10))).expect("events");
        assert!(!events.is_empty(), "no answer for 10 s");
        for event in &events {
            let client = &mut clients[event.token().0];
            let count = match client.stream.read(&mut chunk) {
                Ok(count) => count,
                Err(_) => continue,
            };
            assert!(count > 0, "the server has closed a connection");
            client.held.extend_from_slice(&chunk[..count]);
            if client.held.last() != Some(&b',') {
                continue;
            }
            assert_eq!(client.held, (shape.reply)(client.key).as_bytes(), "a wrong answer");
            client.held.clear();
            took.push(client.since.elapsed().as_nanos() as u64);
            if start.elapsed() < time {
                client.ask(&mut next, shape);
            } else {
                open -= 1;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    took.sort_unstable();
    let quantile = |share: f64| took[(took.len() as f64 * share) as usize] as f64 / 1000.0;
    Load { lookups: took.len(), seconds, p50_us: quantile(0.5), p99_us: quantile(0.99) }
}

impl Client {
    fn ask(&mut self, next: &mut usize, shape: Shape) {
        self.key = *next % 1_000_000;
        *next += 1;
        self.since = Instant::now();
        let request = (shape.request)(self.key);
        assert_eq!(self.stream.write(request.as_bytes()).expect("the server reads"), request.len());
    }
}
