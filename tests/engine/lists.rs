//! Lists that arrive in pieces: rows leave as they come, and nothing is held that is not needed.

use crate::support;

use podop::config::Mode;
use podop::io::{End, Peer};
use std::io::ErrorKind;
use support::world::{MS, SECOND, World, response};

const NAMES: usize = 100_000;

fn meta(args: &[&str]) -> World {
    let table = ["--name", "meta", "--type", "url", "--param", "http://192.0.2.1/m/§"];
    World::new(&[&table[..], args].concat())
}

fn dovecot(world: &mut World) -> Peer {
    let client = world.client(Mode::Dovecot);
    world.send(client, b"H4\t0\t0\t\tmeta\n");
    client
}

fn names() -> String {
    let names: Vec<String> = (0..NAMES).map(|number| format!("\"name{number:07}\"")).collect();
    format!("[{}]", names.join(","))
}

fn object() -> String {
    let members: Vec<String> = (0..NAMES).map(|number| format!("\"name{number:07}\":\"v{number}\"")).collect();
    format!("{{{}}}", members.join(","))
}

fn rows(reply: &str) -> usize {
    reply.matches('O').count()
}

#[test]
fn the_backend_is_read_as_fast_as_the_client_reads() {
    for (flags, list) in [(8, names()), (8, object()), (0, object())] {
        let mut world = meta(&[]);
        let (client, other) = (dovecot(&mut world), dovecot(&mut world));
        world.block(client, true);
        world.send(client, format!("I{flags}\t0\tshared/all/\t\n").as_bytes());
        let backend = world.accept();
        world.taken(backend);
        world.send(backend, &response(200, &list));
        let (held, sent) = (world.held(backend), list.len());
        assert!(sent - held < (512 << 10) + 256 * 1024 + 200_000, "{} of {sent} bytes were read", sent - held);
        // Another client is not kept from anything.
        world.send(other, b"Lshared/k\t\n");
        let second = world.accept();
        assert_eq!(world.asked(second), "k");
        world.respond(second, "v");
        assert_eq!(world.taken(other), "Ov\n");
        world.block(client, false);
        let reply = world.taken(client);
        assert_eq!((rows(&reply), reply.ends_with("\n\n"), world.held(backend)), (NAMES, true, 0));
        // The connection carries the next request.
        world.send(client, b"Lshared/k\t\n");
        assert!([backend, second].into_iter().any(|peer| world.asked(peer) == "k"));
    }
}

#[test]
fn a_list_that_breaks_is_a_failure_and_comes_only_once() {
    let whole = response(200, &object());
    let mut garbage = whole.clone();
    let comma = whole.iter().rposition(|byte| *byte == b',').expect("several members");
    garbage[comma] = b';';
    for (bytes, end, reason) in [
        (&whole[..whole.len() / 2], Some(End::HalfClosed), "closed the connection within its answer"),
        (&whole[..whole.len() / 2], Some(End::Closed(Some(ErrorKind::ConnectionReset))), "broke the connection"),
        (&whole[..whole.len() / 2], None, "did not complete its answer in time"),
        (&garbage[..], None, "the list is not JSON, or not valid Unicode"),
    ] {
        let urls = "http://192.0.2.1/m/§ http://192.0.2.2/m/§";
        let mut world = World::new(&["--name", "meta", "--type", "url", "--param", urls]);
        let client = dovecot(&mut world);
        world.send(client, b"I8\t0\tshared/all/\t\n");
        let backend = world.accept();
        world.taken(backend);
        world.send(backend, bytes);
        if let Some(end) = end {
            world.end(backend, end);
        }
        world.wait(20 * SECOND);
        let reply = world.taken(client);
        let last = reply.lines().last().unwrap_or_default();
        assert!(rows(&reply) > 10_000 && last.starts_with("Fmeta: "), "{last}");
        assert!(last.contains(reason), "{reason}: {last}");
        assert!(world.connecting.is_empty(), "its rows would come twice");
    }
}

#[test]
fn values_of_a_long_list_are_looked_up_on_one_connection() {
    let mut world = meta(&["--option", "meta:connections=1"]);
    let client = dovecot(&mut world);
    world.send(client, b"I0\t3\tshared/all/\t\n");
    let list = names();
    let mut values = 0;
    world.serve(|_, target, _| {
        if target == "/m/all/" {
            return Some(response(200, &list));
        }
        values += 1;
        Some(response(200, &format!("\"{}\"", target.trim_start_matches("/m/all/"))))
    });
    assert_eq!(world.taken(client).lines().next(), Some("Oshared/all/name0000000\tname0000000"));
    assert!((3..=20).contains(&values), "{values}");
}

#[test]
fn the_rest_of_a_list_that_nobody_wants_is_dropped() {
    for leaves in [false, true] {
        let mut world = meta(&["--option", "meta:connections=1"]);
        let client = dovecot(&mut world);
        world.block(client, leaves);
        let max_rows = if leaves { 0 } else { 5 };
        world.send(client, format!("I8\t{max_rows}\tshared/all/\t\n").as_bytes());
        let backend = world.accept();
        world.taken(backend);
        world.send(backend, &response(200, &names()));
        if leaves {
            assert!(world.held(backend) > 0);
            world.end(client, End::Closed(None));
        } else {
            assert_eq!(rows(&world.taken(client)), 5);
        }
        world.wait(MS);
        assert_eq!(world.held(backend), 0);
        let next = dovecot(&mut world);
        world.send(next, b"Lshared/k\t\n");
        assert_eq!(world.asked(backend), "k", "the connection is free again");
    }
}

#[test]
fn a_client_that_does_not_read_is_no_fault_of_the_backend() {
    let mut world = meta(&["--timeout", "5", "--option", "meta:connections=1"]);
    for number in 0..6 {
        let client = dovecot(&mut world);
        world.block(client, true);
        world.send(client, format!("I8\t0\tshared/all{number}/\t\n").as_bytes());
        let backend = world.accept();
        world.taken(backend);
        world.send(backend, &response(200, &names()));
        world.wait(5 * SECOND);
        assert!(!world.is_open(backend), "it would be read for nobody");
    }
    let client = dovecot(&mut world);
    world.send(client, b"Lshared/k\t\n");
    assert_eq!(world.connecting.len(), 1, "it is not down");
}

/// Starts a list of names whose client does not read it. The backend has not answered.
fn unread_list(world: &mut World, client: Peer) -> Peer {
    world.block(client, true);
    world.send(client, b"I8\t0\tshared/all/\t\n");
    let backend = world.accept();
    world.taken(backend);
    backend
}

#[test]
fn a_list_whose_client_does_not_read_keeps_no_connection_from_others() {
    let mut world = meta(&["--option", "meta:connections=1"]);
    let (client, other) = (dovecot(&mut world), dovecot(&mut world));
    let backend = unread_list(&mut world, client);
    world.send(backend, &response(200, &names()));
    assert!(world.held(backend) > 0);
    world.send(other, b"Lshared/k\t\n");
    assert_eq!((world.held(backend), world.asked(backend)), (0, "k".into()), "the rest was read for the lookup");
    world.respond(backend, "v");
    assert_eq!(world.taken(other), "Ov\n");
    world.block(client, false);
    assert_eq!(rows(&world.taken(client)), NAMES);
    // One that waits before the list is long waits no longer either.
    world.block(client, true);
    world.send(client, b"I8\t0\tshared/all/\t\n");
    world.taken(backend);
    world.send(other, b"Lshared/k\t\n");
    world.send(backend, &response(200, &names()));
    assert_eq!((world.held(backend), world.asked(backend)), (0, "k".into()));
}

#[test]
fn a_list_does_not_keep_its_connection_from_the_one_before_it() {
    let mut world = meta(&["--option", "meta:connections=1"]);
    let client = world.client(Mode::Dovecot);
    world.send(client, b"H2\t0\t0\t\tmeta\n"); // without ids, replies are in the order of the commands
    // The rows of the second wait for those of the first, which wait for lookups, which wait for the connection.
    world.send(client, b"I0\t0\tshared/few/\nI8\t0\tshared/all/\n");
    let list = names();
    world.serve(|_, target, _| match target {
        "/m/few/" => Some(response(200, "[\"a\",\"b\"]")),
        "/m/all/" => Some(response(200, &list)),
        _ => Some(response(200, "\"v\"")),
    });
    let reply = world.taken(client);
    assert_eq!((reply.lines().next(), rows(&reply)), (Some("Oshared/few/a\tv"), 2 + NAMES));
}

#[test]
fn a_list_that_is_read_for_others_only_is_bounded() {
    let mut world = meta(&["--option", "meta:connections=1"]);
    let (client, other) = (dovecot(&mut world), dovecot(&mut world));
    let backend = unread_list(&mut world, client);
    world.send(other, b"Lshared/k\t\n");
    world.send(backend, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n[\"a\"", 20 << 20).as_bytes());
    let names = ",\"name\"".repeat(150_000);
    for _ in 0..20 {
        world.send(backend, names.as_bytes());
    }
    world.block(client, false);
    let reply = world.taken(client);
    assert!(reply.ends_with("Fmeta: the client did not read its rows, and others needed the connection\n"));
}

/// Clients that do not read lists over their own connections; the backends' connections.
fn unread(world: &mut World, count: usize, list: &str) -> Vec<Peer> {
    let client = dovecot(world);
    world.block(client, true);
    (0..count).for_each(|at| world.send(client, format!("I8\t0\tshared/all{at}/\t\n").as_bytes()));
    let mut backends = Vec::new();
    while !world.connecting.is_empty() {
        backends.push(world.accept());
    }
    for backend in &backends {
        world.taken(*backend);
        world.send(*backend, &response(200, list));
        assert!(world.held(*backend) > 0);
    }
    backends
}

#[test]
fn only_as_many_lists_are_read_for_others_as_others_wait() {
    let mut world = meta(&["--option", "meta:connections=8"]);
    let backends = unread(&mut world, 8, &names());
    for waiting in 1..=3 {
        let other = dovecot(&mut world);
        world.send(other, format!("Lshared/k{waiting}\t\n").as_bytes());
        let read = backends.iter().filter(|backend| world.held(**backend) == 0).count();
        assert_eq!(read, waiting);
    }
}

#[test]
fn lists_of_all_clients_together_have_a_bound() {
    let mut world = meta(&["--option", "meta:connections=8"]);
    let many: Vec<String> = (0..700_000).map(|number| format!("\"name{number:07}\"")).collect();
    let list = format!("[{}]", many.join(",")); // 10 MB
    let backends = unread(&mut world, 8, &list);
    let others: Vec<Peer> = (0..8).map(|_| dovecot(&mut world)).collect();
    for (at, other) in others.iter().enumerate() {
        world.send(*other, format!("Lshared/k{at}\t\n").as_bytes());
    }
    // All were read, but two are held no longer: their rows would have taken more than 64 MiB.
    assert!(backends.iter().all(|backend| world.held(*backend) == 0));
    assert!(backends.iter().all(|backend| world.asked(*backend).starts_with('k')));
}

#[test]
fn lists_of_one_backend_do_not_keep_descriptors_from_another() {
    let table = ["--name", "meta", "--type", "url", "--param", "http://192.0.2.1/m/§"];
    let other = ["--name", "alias", "--type", "url", "--param", "http://192.0.2.2/a/§"];
    let mut world = World::new(&[&table[..], &other].concat());
    world.engine.set_backend_descriptors(10); // eight, and one for each backend
    let backends = unread(&mut world, 8, &names());
    let clients: Vec<Peer> = (0..3).map(|at| world.lookup(&format!("k{at}"))).collect();
    let first = world.accept();
    world.asked(first); // it hangs
    assert!(backends.iter().filter(|backend| world.held(**backend) == 0).count() >= 2, "two wait for a connection");
    world.wait(3 * SECOND);
    assert!(!world.connecting.is_empty(), "a connection of the other backend has made room");
    while !world.connecting.is_empty() {
        let backend = world.accept();
        while !world.asked(backend).is_empty() {
            world.respond(backend, "v");
        }
    }
    assert!(clients.iter().any(|client| world.taken(*client).contains("OK v")));
}

#[test]
fn a_list_may_be_long_again_when_the_one_that_waited_has_left() {
    let mut world = meta(&["--option", "meta:connections=1", "--timeout", "60"]);
    let client = dovecot(&mut world);
    let backend = unread_list(&mut world, client);
    let other = dovecot(&mut world);
    world.send(other, b"Lshared/k\t\n");
    world.end(other, End::Closed(None));
    world.wait(SECOND);
    world.send(backend, &response(200, &names()));
    assert!(world.held(backend) > 0, "it is read as its client reads");
}

#[test]
fn a_list_that_is_null_has_no_rows_however_it_arrives() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    let whole = response(200, "null");
    let mut backend = None;
    for split in 1..=whole.len() {
        world.send(client, b"I8\t0\tshared/all/\t\n");
        let backend = *backend.get_or_insert_with(|| world.accept());
        world.taken(backend);
        world.send(backend, &whole[..split]);
        world.send(backend, &whole[split..]);
        assert_eq!(world.taken(client), "\n", "{split}");
    }
}

#[test]
fn names_whose_values_are_looked_up_are_bounded() {
    let mut world = meta(&["--option", "meta:connections=1"]);
    let client = dovecot(&mut world);
    world.send(client, b"I0\t0\tshared/all/\t\n");
    let backend = world.accept();
    world.taken(backend);
    world.send(backend, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n[\"a\"", 20 << 20).as_bytes());
    let names = ",\"name\"".repeat(150_000);
    for _ in 0..20 {
        world.send(backend, names.as_bytes());
    }
    assert!(world.taken(client).ends_with("Fmeta: the list of names is longer than 16 MiB\n"));
}

#[test]
fn one_large_value_is_read_to_its_end() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"I0\t0\tshared/all/\t\n");
    let backend = world.accept();
    world.taken(backend);
    let list = format!("{{\"a\":\"{}\",\"b\":\"2\"}}", "x".repeat(1_000_000));
    for piece in response(200, &list).chunks(10_000) {
        world.send(backend, piece);
    }
    let reply = world.taken(client);
    assert!(reply.len() > 1_000_000 && reply.ends_with("\nOshared/all/b\t2\n\n"), "{}", &reply[reply.len() - 50..]);
}

#[test]
fn nothing_is_pipelined_behind_a_list() {
    let mut world = meta(&["--option", "meta:pipeline=4"]);
    let (client, other) = (dovecot(&mut world), dovecot(&mut world));
    world.send(client, b"Lshared/k\t\n");
    let backend = world.accept();
    world.taken(backend);
    world.respond(backend, "v"); // now it may be pipelined
    world.hold(client, b"I8\t0\tshared/all/\t\n");
    world.hold(other, b"Lshared/k\t\n");
    world.turn_of(&[client, other]);
    assert_eq!(world.asked_all(backend).len(), 1);
    assert_eq!(world.connecting.len(), 1, "the lookup gets a connection of its own");
}

#[test]
fn after_a_list_the_body_of_any_other_response_is_bounded() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"I8\t0\tshared/all/\t\n");
    let backend = world.accept();
    world.taken(backend);
    for piece in response(200, "[\"a\",\"b\"]").chunks(10) {
        world.send(backend, piece);
    }
    assert_eq!(rows(&world.taken(client)), 2);
    // A write of which only a part leaves, as the backend stops to read.
    world.block(backend, true);
    world.send(client, format!("B1\t\nS1\tshared/k\t{}\nC1\n", "v".repeat(900_000)).as_bytes());
    world.trickle(backend, 100_000);
    world.send(backend, b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n");
    assert_eq!(world.taken(client), "W1\tmeta: 192.0.2.1 sent an invalid response: response body is too long\n");
}

#[test]
fn one_list_whose_backend_stops_does_not_keep_others_from_a_connection() {
    let slow = ["--name", "meta", "--type", "url", "--param", "http://192.0.2.1/m/§"];
    let quick = ["--name", "alias", "--type", "url", "--param", "http://192.0.2.1/a/§", "--option", "alias:timeout=5"];
    let limits = ["meta:connections=2", "meta:timeout=300", "alias:connections=2"].map(|option| ["--option", option]);
    let mut world = World::new(&[&slow[..], &quick, &limits.concat()].concat());
    let client = dovecot(&mut world);
    world.block(client, true);
    world.send(client, b"I8\t0\tshared/all0/\t\nI8\t0\tshared/all1/\t\n");
    let (one, two) = (world.accept(), world.accept());
    world.taken(one);
    world.taken(two);
    // The first one is paused first, and lacks its end.
    let whole = response(200, &names());
    world.send(one, &whole[..whole.len() - 10]);
    world.send(two, &whole);
    let lookup = world.lookup("k");
    world.wait(2 * SECOND);
    world.serve(|_, target, _| target.starts_with("/a/").then(|| response(200, "\"v\"")));
    assert_eq!(world.taken(lookup), "4:OK v,");
}

#[test]
fn a_list_is_not_read_for_others_once_they_have_left_even_if_another_pool_is_full() {
    let table = ["--name", "meta", "--type", "url", "--param", "http://192.0.2.1/m/§"];
    let other = ["--name", "alias", "--type", "url", "--param", "http://192.0.2.2/a/§"];
    let limits = ["meta:connections=1", "meta:timeout=300", "alias:connections=1", "alias:timeout=300"];
    let limits = limits.map(|option| ["--option", option]);
    let mut world = World::new(&[&table[..], &other, &limits.concat()].concat());
    let _busy = world.lookup("x");
    let hangs = world.accept();
    world.asked(hangs);
    let _waits = world.lookup("y");
    let client = dovecot(&mut world);
    let backend = unread_list(&mut world, client);
    let names = ",\"name\"".repeat(150_000);
    world.send(backend, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n[\"a\"{names}", 100 << 20).as_bytes());
    assert!(world.held(backend) > 0, "it is paused");
    let gone = dovecot(&mut world);
    world.send(gone, b"Lshared/k\t\n");
    assert_eq!(world.held(backend), 0, "it is read for the other");
    world.end(gone, End::Closed(None));
    world.wait(SECOND);
    (0..20).for_each(|_| world.send(backend, names.as_bytes()));
    assert!(world.held(backend) > 0, "it is paused again");
}

#[test]
fn lists_that_one_client_does_not_read_do_not_end_those_of_another() {
    let mut world = meta(&["--option", "meta:connections=20"]);
    let list =
        |count: u32| format!("[{}]", (0..count).map(|at| format!("\"name{at:07}\",")).collect::<String>() + "\"\"");
    let (large, small) = (list(1_190_000), list(150_000));
    let client = dovecot(&mut world);
    world.block(client, true);
    (0..7).for_each(|at| world.send(client, format!("I0\t0\tshared/big{at}/\t\n").as_bytes()));
    let serve = |world: &mut World, list: &str| {
        world.serve(|_, target, _| Some(response(200, if target.ends_with('/') { list } else { "\"v\"" })));
    };
    serve(&mut world, &large);
    let other = dovecot(&mut world);
    world.send(other, b"I0\t0\tshared/all/\t\n");
    serve(&mut world, &small);
    let rows = world.taken(other);
    assert_eq!((rows.matches("\tv\n").count(), rows.ends_with("\n\n")), (150_000, true), "{:?}", rows.lines().last());
}
