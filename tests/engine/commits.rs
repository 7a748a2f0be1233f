//! The order of commits and lookups of one client, and the memory of commits in flight.

use crate::support;

use podop::config::Mode;
use podop::io::{End, Peer};
use support::world::{SECOND, World, response};

const HELLO: &[u8] = b"H4\t0\t0\t\tmeta\n";
const GONE: End = End::Closed(None);

fn meta(args: &[&str]) -> World {
    let table = ["--name", "meta", "--type", "url", "--param", "http://192.0.2.1/m/§"];
    World::new(&[&table[..], args].concat())
}

fn dovecot(world: &mut World) -> Peer {
    let client = world.client(Mode::Dovecot);
    world.send(client, HELLO);
    client
}

/// Method, key and body of each request that waits for its response, and the connection for that.
fn waiting(world: &mut World) -> Vec<(Peer, String)> {
    let mut requests = Vec::new();
    while let Some((peer, request)) = world.next_request() {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        requests.push((peer, format!("{method} {} {body}", target.trim_start_matches("/m/"))));
    }
    requests.sort_by(|one, other| one.1.cmp(&other.1));
    requests
}

fn texts(requests: &[(Peer, String)]) -> Vec<&str> {
    requests.iter().map(|(_, text)| text.trim_end()).collect()
}

#[test]
fn commits_of_one_key_keep_their_order_and_lookups_see_them() {
    let mut world = meta(&[]);
    let (client, other) = (dovecot(&mut world), dovecot(&mut world));
    world.send(client, b"B1\t\nS1\tshared/k\told\nC1\nB2\t\nS2\tshared/k\tnew\nC2\nLshared/k\t\nLshared/x\t\n");
    world.send(client, b"B3\t\nS3\tshared/y\t1\nC3\n");
    world.send(other, b"Lshared/k\t\nB1\t\nS1\tshared/k\tother\nC1\n");
    let first = waiting(&mut world);
    let expected = ["GET k", "GET x", "POST k \"old\"", "POST k \"other\"", "POST y 1"];
    assert_eq!(texts(&first), expected, "only what the same client writes is waited for");
    world.send(first[2].0, &response(200, ""));
    let second = waiting(&mut world);
    assert_eq!(texts(&second), ["POST k \"new\""]);
    world.send(second[0].0, &response(200, ""));
    let third = waiting(&mut world);
    assert_eq!(texts(&third), ["GET k"]);
    world.respond(third[0].0, "new");
    assert!(world.taken(client).contains("Onew\n"));
}

#[test]
fn a_commit_waits_for_all_that_share_a_key_with_it() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"B1\t\nS1\tshared/a\t1\nC1\nB2\t\nS2\tshared/b\t2\nC2\n");
    world.send(client, b"B3\t\nS3\tshared/a\t3\nS3\tshared/a\t4\nS3\tshared/b\t5\nC3\nLshared/b\t\n");
    let both = waiting(&mut world);
    assert_eq!(texts(&both), ["POST a 1", "POST b 2"]);
    world.send(both[0].0, &response(200, ""));
    assert_eq!(texts(&waiting(&mut world)), Vec::<&str>::new());
    world.send(both[1].0, &response(500, ""));
    for expected in ["POST a 3", "POST a 4", "POST b 5", "GET b"] {
        let next = waiting(&mut world);
        assert_eq!(texts(&next), [expected]);
        world.send(next[0].0, &response(200, "9"));
    }
    let replies = world.taken(client);
    for reply in ["O1\n", "W2\tmeta: 192.0.2.1 answered 500\n", "O3\n", "O9\n"] {
        assert!(replies.contains(reply), "{replies}");
    }
    assert!(world.engine.is_drained());
}

#[test]
fn what_waits_for_a_commit_that_hangs_ends_in_time() {
    for args in [&[][..], &["--option", "meta:cache=60"]] {
        let mut world = meta(args);
        let client = dovecot(&mut world);
        world.send(client, b"B1\t\nS1\tshared/k\t1\nC1\nB2\t\nS2\tshared/k\t2\nC2\nLshared/k\t\n");
        world.wait(SECOND);
        world.send(client, b"Lshared/k\t\nLshared/free\t\n");
        let requests = waiting(&mut world);
        assert_eq!(texts(&requests), ["GET free", "POST k 1"]);
        world.respond(requests[0].0, "free");
        world.wait(19 * SECOND);
        let replies = world.taken(client);
        // The last lookup has a second left, and is sent.
        let requests = waiting(&mut world);
        assert_eq!(texts(&requests), ["GET k"], "{replies}");
        world.respond(requests[0].0, "v");
        let all = replies + &world.taken(client);
        for reply in ["W1\t", "F2\t", "Ov\n", "Ofree\n"] {
            assert!(all.contains(reply), "{reply}: {all}");
        }
        assert!(world.engine.is_drained());
    }
}

#[test]
fn commits_outlive_their_client_in_order_and_its_lookups_do_not() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"B1\t\nS1\tshared/k\t1\nC1\nLshared/k\t\nB2\t\nS2\tshared/k\t2\nC2\n");
    let first = waiting(&mut world);
    world.end(client, GONE);
    world.send(first[0].0, &response(200, ""));
    let second = waiting(&mut world);
    assert_eq!(texts(&second), ["POST k 2"]);
    world.send(second[0].0, &response(200, ""));
    assert!(world.engine.is_drained());
}

#[test]
fn a_client_whose_commits_take_all_memory_is_not_read() {
    let mut world = meta(&["--option", "meta:connections=1"]);
    let client = dovecot(&mut world);
    let value = "v".repeat(60_000);
    let mut sent = 0;
    while world.engine.wants_input(client) {
        world.send(client, format!("B{sent}\t\nS{sent}\tshared/k{sent}\t{value}\nC{sent}\n").as_bytes());
        sent += 1;
        assert!(sent < 100, "4 MiB of writes are in flight");
    }
    assert!(sent > 40, "{sent} commits fill the memory");
    world.send(client, b"Lshared/later\t\n");
    for _ in 0..sent {
        let requests = waiting(&mut world);
        assert_eq!(requests.len(), 1);
        world.send(requests[0].0, &response(200, ""));
    }
    let requests = waiting(&mut world);
    assert_eq!(texts(&requests), ["GET later"]);
    world.respond(requests[0].0, "v");
    assert_eq!(world.taken(client).matches('O').count(), sent + 1, "each has its reply");
    assert!(world.engine.wants_input(client));
}

#[test]
fn a_large_write_that_is_refused_early_failed_surely() {
    let large = "v".repeat(900_000);
    for (bytes, expected) in [
        (response(413, ""), "F1\tmeta: 192.0.2.1 answered 413\n"),
        (response(401, ""), "F1\tmeta: 192.0.2.1 answered 401\n"),
        (response(200, "null"), "W1\tmeta: 192.0.2.1 sent an unsolicited response\n"),
        (b"garbage\r\n\r\n".to_vec(), "W1\tmeta: 192.0.2.1 sent an invalid response: malformed response head\n"),
    ] {
        for step in [bytes.len(), 1] {
            let mut world = meta(&[]);
            let client = dovecot(&mut world);
            world.send(client, format!("B1\t\nS1\tshared/k\t{large}\nC1\n").as_bytes());
            let backend = world.accept_blocked();
            world.trickle(backend, 100_000);
            assert_eq!(world.taken(client), "");
            for piece in bytes.chunks(step) {
                world.send(backend, piece);
            }
            assert_eq!(world.taken(client), expected);
            assert!(!world.is_open(backend));
        }
    }
}

#[test]
fn an_early_refusal_may_last_until_the_end_and_nothing_else_may_begin_early() {
    let large = "v".repeat(900_000);
    for (first, rest, end, expected) in [
        (&b"HTTP/1.1 413 No\r\nConnection: close\r\n\r\nno"[..], &b""[..], true, "F1\tmeta: 192.0.2.1 answered 413\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"null", true, "W1\tmeta: 192.0.2.1 sent an unsolicited response\n"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"ngth: 4\r\n\r\nnull",
            false,
            "W1\tmeta: 192.0.2.1 sent an unsolicited response\n",
        ),
    ] {
        let mut world = meta(&[]);
        let client = dovecot(&mut world);
        world.send(client, format!("B1\t\nS1\tshared/k\t{large}\nC1\n").as_bytes());
        let backend = world.accept_blocked();
        world.trickle(backend, 100_000);
        world.send(backend, first);
        world.block(backend, false); // the rest of the write leaves only now
        world.send(backend, rest);
        if end && world.is_open(backend) {
            world.end(backend, End::HalfClosed);
        }
        assert_eq!(world.taken(client), expected);
    }
}

#[test]
fn a_chain_of_commits_that_is_late_closes_no_connection() {
    let mut world = meta(&["--option", "meta:keepalive=60"]);
    let client = dovecot(&mut world);
    (0..50).for_each(|at| world.send(client, format!("Lshared/{at}\t\n").as_bytes()));
    world.serve(|_, _, _| Some(response(200, "1")));
    world.taken(client);
    let mut commits = String::new();
    (0..500).for_each(|at| commits += &format!("B{at}\t\nS{at}\tshared/k\t{at}\nC{at}\n"));
    world.send(client, commits.as_bytes());
    world.wait(20 * SECOND);
    let replies = world.taken(client);
    assert_eq!(
        (replies.matches("W0\t").count(), replies.matches(" timed out behind another commit").count()),
        (1, 499)
    );
    let idle = world.engine.metrics();
    let line = idle.lines().find(|line| line.starts_with("podop_connections{") && line.contains("idle")).unwrap();
    let count: u32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(count >= 40, "{line}");
    assert!(world.engine.is_drained());
}

#[test]
fn a_refused_transaction_holds_nothing() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    let value = "v".repeat(60_000);
    world.send(client, b"B1\t\nS1\tother/k\t1\n");
    for _ in 0..100 {
        world.send(client, format!("S1\tshared/k\t{value}\n").as_bytes());
    }
    // The memory is there for others.
    world.send(client, format!("B2\t\nS2\tshared/k\t{value}\nC2\nC1\n").as_bytes());
    world.serve(|_, _, _| Some(response(200, "")));
    let replies = world.taken(client);
    assert!(replies.contains("O2\n"), "{replies}");
    assert!(replies.contains("F1\tkey begins neither with shared/ nor with priv/\n"), "{replies}");
}

#[test]
fn replies_behind_an_iteration_do_not_stop_its_rows() {
    let mut world = meta(&[]);
    let client = world.client(Mode::Dovecot);
    world.send(client, b"H2\t0\t0\tu\tmeta\nI0\t0\tshared/it/\nLshared/large\n");
    let large = "x".repeat(300_000);
    let requests = waiting(&mut world);
    assert_eq!(texts(&requests), ["GET it/", "GET large"]);
    world.respond(requests[1].0, &large);
    world.send(requests[0].0, &response(200, "[\"a\"]"));
    world.serve(|_, _, _| Some(response(200, "\"v\"")));
    assert_eq!(world.taken(client), format!("Oshared/it/a\tv\n\nO{large}\n"));
}

#[test]
fn the_writes_of_clients_that_left_are_bounded() {
    let mut world = meta(&["--option", "meta:connections=1"]);
    let large = "x".repeat(1_000_000);
    // The first one is in flight at a backend that hangs, the next ones of each client wait for a connection or for it.
    for number in 0..30 {
        let client = dovecot(&mut world);
        for (commit, key) in [(1, "k".to_owned()), (2, "k".to_owned()), (3, format!("k{number}"))] {
            world.send(client, format!("B{commit}\t\nS{commit}\tshared/{key}\t\"{large}\"\nC{commit}\n").as_bytes());
        }
        world.end(client, GONE);
    }
    let stays = dovecot(&mut world);
    world.send(stays, b"B1\t\nS1\tshared/k\t1\nC1\n");
    let mut written = 0;
    world.serve(|_, _, body| {
        written += body.len();
        Some(response(200, ""))
    });
    assert!((15 << 20..17 << 20).contains(&written), "{written}");
    assert_eq!(world.taken(stays), "O1\n");
    assert!(world.engine.metrics().contains("podop_commits_total{table=\"meta\",result=\"failed\"} 74"));
}
