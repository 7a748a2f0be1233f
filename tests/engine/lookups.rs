//! The engine in memory: deadlines, connections and retries, with a scripted backend and time as a number.

use crate::support;

use podop::backend::MAX_WAITING;
use podop::client::{MAX_OPEN, MAX_UNSENT};
use podop::config::Mode;
use podop::io::{Address, End, Peer};
use std::io::ErrorKind;
use support::world::{MS, SECOND, World, response};

const GONE: End = End::Closed(None);

#[test]
fn a_lookup_goes_to_the_backend_and_back() {
    let mut world = World::with_alias(&[]);
    let client = world.lookup("a@x");
    let backend = world.accept();
    let request = world.taken(backend);
    assert!(
        request.starts_with("GET /a/a%40x HTTP/1.1\r\nHost: 192.0.2.1\r\nAccept: application/json\r\n"),
        "{request}"
    );
    world.respond(backend, "b@x");
    assert_eq!(world.taken(client), "6:OK b@x,");
    assert!(world.is_open(backend) && world.is_open(client));
}

#[test]
fn a_connection_is_used_again_and_the_last_one_first() {
    let mut world = World::with_alias(&[]);
    let clients = [world.lookup("1"), world.lookup("2")];
    let backends = [world.accept(), world.accept()];
    for (at, backend) in backends.into_iter().enumerate() {
        world.asked(backend);
        world.respond(backend, "v");
        assert_eq!(world.taken(clients[at]), "4:OK v,");
        world.pass(MS);
    }
    world.lookup("3");
    assert_eq!(world.asked(backends[1]), "3");
    assert_eq!(world.asked(backends[0]), "");
    assert!(world.connecting.is_empty());
}

#[test]
fn an_idle_connection_is_closed_before_the_backend_would() {
    let mut world = World::with_alias(&[]);
    let backend = served(&mut world);
    world.wait(1499 * MS);
    assert!(world.is_open(backend));
    world.wait(MS);
    assert!(!world.is_open(backend));
    assert_eq!(world.engine.deadline(), None, "nothing is left to wake up for");

    let mut world = World::with_alias(&["--option", "alias:keepalive=10"]);
    world.lookup("1");
    let backend = world.accept();
    world.send(backend, b"HTTP/1.1 404 No\r\nKeep-Alive: timeout=1\r\nContent-Length: 0\r\n\r\n");
    world.wait(500 * MS);
    assert!(!world.is_open(backend), "half of what the backend grants is over");
}

#[test]
fn the_deadline_holds_in_each_phase_and_names_it() {
    // Waiting for an address.
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", "http://admin:81/§"]);
    let client = world.lookup("a");
    assert_eq!(world.resolving.len(), 1);
    world.wait(20 * SECOND);
    assert_eq!(reply(&mut world, client), "TIMEOUT alias: admin:81 was not resolved in time");

    // Connecting: each address gets three seconds.
    let mut world = World::with_alias(&["--timeout", "2"]);
    let client = world.lookup("a");
    world.wait(2 * SECOND);
    assert_eq!(reply(&mut world, client), "TIMEOUT alias: 192.0.2.1 did not accept a connection in time");

    // Waiting for a connection that others use.
    let mut world = World::with_alias(&["--option", "alias:connections=1"]);
    let busy = world.lookup("a");
    let backend = world.accept();
    world.wait(SECOND);
    let client = world.lookup("b");
    world.wait(19 * SECOND);
    assert_eq!(reply(&mut world, busy), "TIMEOUT alias: 192.0.2.1 did not answer in time");
    assert!(!world.is_open(backend), "a late answer would be taken for the next one");
    assert_eq!(world.asked(world.connecting.front().map(|(key, _)| Peer::Backend(*key)).unwrap()), "");
    world.wait(SECOND);
    let reason = reply(&mut world, client);
    assert!(reason.starts_with("TIMEOUT alias: 192.0.2.1 did not accept"), "{reason}");

    let url = "http://192.0.2.1/a/§";
    let two = ["--name", "alias", "--type", "url", "--param", url, "--name", "b", "--type", "url", "--param", url];
    let mut world = World::new(&[&two[..], &["--option", "*:connections=1", "--option", "b:timeout=1"]].concat());
    world.lookup("a");
    world.accept();
    let client = world.client(Mode::Postfix);
    world.send(client, b"3:b x,");
    world.wait(SECOND);
    assert_eq!(reply(&mut world, client), "TIMEOUT b: 192.0.2.1 had no connection free in time");
    // In a queue that both tables share, those with less time plan not come first.
    let waiting: Vec<(Peer, &str)> = ["alias x", "b x", "alias y", "b y"]
        .map(|text| {
            let client = world.client(Mode::Postfix);
            world.send(client, format!("{}:{text},", text.len()).as_bytes());
            (client, text)
        })
        .into();
    world.wait(SECOND);
    for (client, text) in waiting {
        assert_eq!(world.taken(client).contains("TIMEOUT b: "), text.starts_with('b'), "{text}");
    }

    // The body: bytes that drip in do not prolong anything.
    let mut world = World::with_alias(&[]);
    let client = world.lookup("a");
    let backend = world.accept();
    world.send(backend, b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n\"");
    for _ in 0..20 {
        world.wait(SECOND - MS);
        world.send(backend, b"x");
    }
    world.wait(20 * MS);
    assert_eq!(reply(&mut world, client), "TIMEOUT alias: 192.0.2.1 did not complete its answer in time");
    assert!(!world.is_open(backend));
}

#[test]
fn a_table_may_have_a_deadline_of_its_own() {
    let mut world = World::with_alias(&["--option", "alias:timeout=0.5"]);
    let client = world.lookup("a");
    world.accept();
    world.wait(499 * MS);
    assert_eq!(world.taken(client), "");
    world.wait(MS);
    assert!(reply(&mut world, client).starts_with("TIMEOUT alias: "));
}

#[test]
fn an_answer_after_the_deadline_goes_nowhere() {
    let mut world = World::with_alias(&[]);
    let client = world.lookup("slow");
    let backend = world.accept();
    world.wait(20 * SECOND);
    assert!(reply(&mut world, client).starts_with("TIMEOUT"));
    world.engine.received(backend, &response(200, "\"late\""), world.now);
    world.process();
    assert_eq!(world.taken(client), "");
    world.ask(client, "next");
    let backend = world.accept();
    assert_eq!(world.asked(backend), "next");
    world.respond(backend, "own");
    assert_eq!(world.taken(client), "6:OK own,");
}

#[test]
fn a_stale_connection_costs_nothing_but_a_new_one() {
    for end in
        [End::HalfClosed, End::Closed(Some(ErrorKind::ConnectionReset)), End::Closed(Some(ErrorKind::BrokenPipe))]
    {
        let mut world = World::with_alias(&[]);
        let stale = served(&mut world);
        let client = world.lookup("a");
        assert_eq!(world.asked(stale), "a");
        world.end(stale, end);
        assert_eq!(world.taken(client), "", "asked again on a new connection");
        let fresh = world.accept();
        assert_eq!(world.asked(fresh), "a");
        world.respond(fresh, "v");
        assert_eq!(world.taken(client), "4:OK v,");
    }
}

#[test]
fn a_lookup_is_not_retried_after_a_new_connection() {
    // A connection that carried no answer yet is not stale, it is broken.
    let mut world = World::with_alias(&[]);
    let client = world.lookup("a");
    let backend = world.accept();
    world.end(backend, End::HalfClosed);
    assert_eq!(reply(&mut world, client), "TEMP alias: 192.0.2.1 closed the connection without an answer");
}

#[test]
fn a_lookup_is_retried_once_on_a_new_connection() {
    // The second time it is the backend's fault.
    let mut world = World::with_alias(&[]);
    let (first, second) = two_idle(&mut world);
    let client = world.lookup("a");
    assert_eq!(world.asked(second), "a");
    world.end(second, End::HalfClosed);
    assert_eq!(world.asked(first), "", "another used connection may be stale as well");
    let fresh = world.accept();
    world.end(fresh, End::Closed(Some(ErrorKind::ConnectionReset)));
    assert_eq!(reply(&mut world, client), "TEMP alias: 192.0.2.1 broke the connection: connection reset");
}

#[test]
fn a_lookup_is_not_retried_twice_with_another_replica() {
    let urls = "http://192.0.2.1/§ http://192.0.2.2/§";
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", urls]);
    let (one, other) = two_idle(&mut world);
    let client = world.lookup("a");
    assert_eq!(world.asked(one), "a");
    world.end(one, End::HalfClosed);
    world.refuse();
    assert_eq!(world.asked(other), "a");
    world.end(other, End::HalfClosed);
    assert_eq!(reply(&mut world, client), "TEMP alias: 192.0.2.2 closed the connection without an answer");
    assert!(world.connecting.is_empty());
}

#[test]
fn a_lookup_is_not_retried_after_the_first_byte_of_an_answer() {
    // A byte of the answer has come: whatever it meant, it is no stale connection.
    let mut world = World::with_alias(&[]);
    let stale = served(&mut world);
    let client = world.lookup("a");
    world.send(stale, b"HTTP/1.1 404 Not");
    world.end(stale, End::HalfClosed);
    assert_eq!(reply(&mut world, client), "TEMP alias: 192.0.2.1 closed the connection within its answer");
}

#[test]
fn unsolicited_bytes_close_the_connection_and_answer_nothing() {
    let not_found = response(404, "null");
    // On an idle connection.
    let mut world = World::with_alias(&[]);
    let idle = served(&mut world);
    world.send(idle, &not_found);
    assert!(!world.is_open(idle));
    // After an answer, in the same piece.
    let mut world = World::with_alias(&[]);
    let client = world.lookup("a");
    let backend = world.accept();
    world.send(backend, &[response(200, "\"v\""), not_found.clone()].concat());
    assert_eq!(world.taken(client), "4:OK v,");
    assert!(!world.is_open(backend));
    // Before the request has left.
    let mut world = World::with_alias(&[]);
    let idle = served(&mut world);
    world.block(idle, true);
    let client = world.lookup("a");
    world.send(idle, &not_found);
    assert!(!world.is_open(idle));
    assert_eq!(world.taken(client), "");
    let fresh = world.accept();
    assert_eq!(world.asked(fresh), "a");
    world.respond(fresh, "v");
    assert_eq!(world.taken(client), "4:OK v,");
}

#[test]
fn a_client_that_left_ends_its_lookups() {
    let mut world = World::with_alias(&["--option", "alias:connections=1"]);
    let first = world.lookup("1");
    let second = world.lookup("2");
    let third = world.lookup("3");
    let backend = world.accept();
    assert_eq!(world.asked(backend), "1");
    world.end(first, GONE);
    world.end(second, GONE);
    world.respond(backend, "v1");
    assert_eq!(world.asked(backend), "3", "what nobody waits for is not asked");
    world.respond(backend, "v3");
    assert_eq!(world.taken(third), "5:OK v3,");
    assert!(world.engine.is_drained());
}

#[test]
fn a_client_that_closed_its_side_gets_what_it_is_owed() {
    let mut world = World::with_alias(&[]);
    let client = world.lookup("a");
    world.end(client, End::HalfClosed);
    assert!(world.is_open(client));
    let backend = world.accept();
    world.block(client, true);
    world.respond(backend, "v");
    assert!(world.is_open(client));
    let closed = world.closed.len();
    world.block(client, false);
    assert_eq!(world.closed[closed..], [client]);
}

#[test]
fn an_idle_client_is_never_closed_but_one_that_is_stuck_is() {
    let mut world = World::with_alias(&[]);
    let idle = world.client(Mode::Auto);
    let half = world.client(Mode::Postfix);
    world.send(half, b"100:alias a");
    let skipped = world.client(Mode::Postfix);
    world.send(skipped, format!("70000:alias {}", "k".repeat(5_000)).as_bytes());
    let file = ["--name", "alias", "--type", "file", "--param", "tests/data/test.json"];
    world.wait(99 * SECOND);
    assert!(world.is_open(half));
    world.wait(SECOND);
    assert!(!world.is_open(half) && !world.is_open(skipped));
    world.wait(100_000 * SECOND);
    assert!(world.is_open(idle));

    let mut world = World::new(&file);
    let client = world.client(Mode::Postfix);
    world.block(client, true);
    world.ask(client, "example.org");
    // In memory there is no call for a kernel that took nothing; a reactor makes it.
    world.engine.sent(client, 0, world.now);
    world.wait(100 * SECOND);
    assert!(!world.is_open(client));
}

#[test]
fn redirects_are_followed_five_times_and_not_elsewhere() {
    let mut world = World::with_alias(&[]);
    let client = world.lookup("a");
    let backend = world.accept();
    let redirect = |to: &str| format!("HTTP/1.1 308 Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    for hop in 0..5 {
        world.taken(backend);
        world.send(backend, redirect(&format!("/hop/{hop}?x")).as_bytes());
    }
    assert!(world.taken(backend).starts_with("GET /hop/4?x HTTP/1.1\r\nHost: 192.0.2.1\r\n"));
    world.send(backend, redirect("/hop/5").as_bytes());
    assert_eq!(reply(&mut world, client), "TEMP alias: 192.0.2.1 answered 308 too often");

    for (location, reason) in [
        ("http://192.0.2.2/a/a", "answered 308 to another origin"),
        ("https://192.0.2.1/a/a", "answered 308 to https:// on the same host, which the table should name itself"),
        ("https://192.0.2.2/a/a", "answered 308 to another origin"),
        ("", "answered 308 without a usable location"),
    ] {
        world.ask(client, "b");
        world.send(backend, redirect(location).as_bytes());
        assert_eq!(reply(&mut world, client), format!("TEMP alias: 192.0.2.1 {reason}"));
    }
}

#[test]
fn only_so_many_lookups_wait_for_one_origin() {
    let mut world = World::with_alias(&["--option", "alias:connections=1"]);
    let first = world.lookup("busy");
    let backend = world.accept();
    let mut clients = Vec::new();
    for at in 0..MAX_WAITING {
        if at % (MAX_OPEN - 1) == 0 {
            clients.push(world.client(Mode::Postfix));
        }
        world.ask(*clients.last().unwrap(), "x");
    }
    let last = world.lookup("too many");
    assert_eq!(reply(&mut world, last), "TEMP alias: 192.0.2.1 is overloaded: 10000 requests are waiting");
    world.respond(backend, "v");
    assert_eq!(world.taken(first), "4:OK v,");
    let one_more = world.lookup("fits");
    assert_eq!(world.taken(one_more), "");
}

#[test]
fn a_client_with_too_much_open_or_unread_is_not_read() {
    let mut world = World::with_alias(&["--option", "alias:connections=1"]);
    let client = world.client(Mode::Postfix);
    let requests: Vec<u8> = (0..MAX_OPEN + 500).flat_map(|at| format!("10:alias {at:04},").into_bytes()).collect();
    world.send(client, &requests);
    assert!(!world.engine.wants_input(client));
    let backend = world.accept();
    let mut replies = String::new();
    for at in 0..MAX_OPEN + 500 {
        assert_eq!(world.asked(backend), format!("{at:04}"));
        world.respond(backend, &format!("v{at}"));
        replies += &world.taken(client);
    }
    let expected: String = (0..MAX_OPEN + 500).map(|at| format!("{}:OK v{at},", 4 + at.to_string().len())).collect();
    assert_eq!(replies, expected);

    let big = "x".repeat(90_000);
    world.block(client, true);
    let mut sent = 0;
    while world.engine.wants_input(client) {
        world.ask(client, "big");
        world.asked(backend);
        world.respond(backend, &big);
        sent += 1;
    }
    assert_eq!(sent, MAX_UNSENT.div_ceil(90_000));
    world.ask(client, "later");
    assert_eq!(world.asked(backend), "");
    world.block(client, false);
    assert_eq!(world.asked(backend), "later");
}

#[test]
fn a_client_that_reads_in_small_pieces_gets_every_reply() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.json");
    std::fs::write(&path, format!("{{\"k\": \"{}\"}}", "x".repeat(90_000))).unwrap();
    let args = ["--name", "alias", "--type", "file", "--param", path.to_str().unwrap()];
    for (pieces, closes) in [(50_000, false), (50_000, true), (usize::MAX, false), (usize::MAX, true)] {
        let mut world = World::new(&args);
        let client = world.client(Mode::Postfix);
        world.block(client, true);
        world.send(client, &b"7:alias k,".repeat(10));
        if closes {
            world.end(client, End::HalfClosed);
        }
        let mut got = 0;
        for _ in 0..30 {
            world.trickle(client, pieces);
            got += world.taken(client).len();
        }
        // The bytes taken last are lost with the client.
        let all = 10 * (90_003 + "90003:,".len());
        assert_eq!(world.is_open(client), !closes);
        assert!(got == all || closes && got + 100_000 >= all, "{got} of {all} bytes");
    }
}

#[test]
fn bytes_on_a_new_connection_before_the_request_are_a_fault() {
    for early in [&response(404, "null")[..], b"x"] {
        let mut world = World::with_alias(&[]);
        let client = world.lookup("a");
        let (key, _) = world.connecting.pop_front().unwrap();
        world.engine.connected(Peer::Backend(key), world.now);
        world.engine.received(Peer::Backend(key), early, world.now);
        world.process();
        assert_eq!(reply(&mut world, client), "TEMP alias: 192.0.2.1 sent an unsolicited response");
        assert!(world.connecting.is_empty(), "it would do the same the next time");
    }
}

#[test]
fn addresses_that_change_during_a_connect_do_no_lasting_harm() {
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", "http://admin/§"]);
    world.lookup("a");
    world.resolve(Ok(&["192.0.2.1:80"]));
    let backend = world.accept();
    world.respond(backend, "v");
    world.end(backend, End::HalfClosed);
    world.wait(29 * SECOND);
    let slow = world.lookup("b");
    world.wait(SECOND + 500 * MS);
    let other = world.lookup("c");
    world.resolve(Ok(&["192.0.2.2:80"]));
    world.connecting.swap(0, 1);
    world.refuse();
    let backend = world.accept();
    world.respond(backend, "v");
    world.respond(backend, "v");
    assert_eq!([slow, other].map(|client| world.taken(client)), ["4:OK v,", "4:OK v,"]);
    world.end(backend, End::HalfClosed);
    world.wait(40 * SECOND);
    let later = world.lookup("d");
    world.resolve(Ok(&["192.0.2.2:80"]));
    let backend = world.accept();
    world.respond(backend, "v");
    assert_eq!(world.taken(later), "4:OK v,");
}

#[test]
fn every_address_is_tried_and_a_dead_one_is_set_aside() {
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", "http://admin/§"]);
    let client = world.lookup("a");
    world.resolve(Ok(&["192.0.2.1:80", "192.0.2.2:80"]));
    assert_eq!(address(&world), "192.0.2.1:80");
    world.refuse();
    assert_eq!(address(&world), "192.0.2.2:80");
    let backend = world.accept();
    world.send(backend, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1");
    assert_eq!(world.taken(client), "4:OK 1,");
    world.lookup("b");
    assert_eq!(address(&world), "192.0.2.2:80", "the address that worked is tried first");
    world.refuse();
    assert_eq!(address(&world), "192.0.2.1:80", "one that was set aside is better than none");
    world.refuse();
    let client = world.lookup("c");
    world.resolve(Ok(&["192.0.2.1:80", "192.0.2.2:80"]));
    world.refuse();
    world.refuse();
    assert_eq!(reply(&mut world, client), "TEMP alias: admin refused the connection");
    assert!(world.connecting.is_empty());
}

#[test]
fn an_address_that_does_not_answer_costs_three_seconds() {
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", "http://admin/§"]);
    let client = world.lookup("a");
    world.resolve(Ok(&["192.0.2.1:80", "192.0.2.2:80"]));
    world.wait(3 * SECOND);
    assert_eq!(address(&world), "192.0.2.2:80");
    let backend = world.accept();
    world.respond(backend, "v");
    assert_eq!(world.taken(client), "4:OK v,");
}

#[test]
fn a_refused_connection_is_a_fault_of_that_lookup_only() {
    let mut world = World::with_alias(&[]);
    for _ in 0..3 {
        let client = world.lookup("a");
        world.refuse();
        assert_eq!(reply(&mut world, client), "TEMP alias: 192.0.2.1 refused the connection");
        assert!(world.connecting.is_empty());
    }
    let client = world.lookup("a");
    let backend = world.accept();
    world.respond(backend, "v");
    assert_eq!(world.taken(client), "4:OK v,");
}

#[test]
fn many_lookups_that_are_refused_at_once_end_at_once() {
    let mut world = World::with_alias(&[]);
    let clients: Vec<Peer> = (0..100).map(|at| world.lookup(&at.to_string())).collect();
    let attempts = world.connecting.len();
    for _ in 0..attempts {
        world.refuse();
    }
    assert!(world.connecting.is_empty(), "it goes on connecting");
    for client in clients {
        assert_eq!(reply(&mut world, client), "TEMP alias: 192.0.2.1 refused the connection");
    }
}

#[test]
fn a_name_without_an_address_is_resolved_again() {
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", "http://admin/§"]);
    let client = world.lookup("a");
    world.resolve(Err("Name or service not known"));
    assert_eq!(reply(&mut world, client), "TEMP alias: admin has no address: Name or service not known");
    world.wait(SECOND);
    let client = world.lookup("a");
    world.resolve(Ok(&["192.0.2.1:80"]));
    let backend = world.accept();
    world.respond(backend, "v");
    assert_eq!(world.taken(client), "4:OK v,");
}

#[test]
fn a_moved_backend_is_found_under_its_new_address() {
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", "http://admin/§"]);
    world.lookup("a");
    world.resolve(Ok(&["192.0.2.1:80"]));
    let backend = world.accept();
    world.respond(backend, "v");
    world.end(backend, End::HalfClosed);
    let client = world.lookup("b");
    world.refuse();
    assert!(reply(&mut world, client).starts_with("TEMP"));
    let client = world.lookup("c");
    world.resolve(Ok(&["192.0.2.9:80"]));
    assert_eq!(address(&world), "192.0.2.9:80");
    let backend = world.accept();
    world.respond(backend, "v");
    assert_eq!(world.taken(client), "4:OK v,");
}

#[test]
fn replicas_share_the_lookups() {
    let urls = "http://192.0.2.1/one/§ http://u:p@192.0.2.2/two/§";
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", urls]);
    let clients = [world.lookup("a"), world.lookup("b")];
    let backends = [world.accept(), world.accept()];
    let requests = backends.map(|backend| world.taken(backend));
    assert!(requests[0].starts_with("GET /one/a ") && requests[1].starts_with("GET /two/b "), "{requests:?}");
    assert!(requests[1].contains("Authorization: Basic dTpw\r\n") && !requests[0].contains("Authorization"));
    for backend in backends {
        world.respond(backend, "v");
        world.end(backend, End::HalfClosed);
    }
    assert_eq!(clients.map(|client| world.taken(client)), ["4:OK v,", "4:OK v,"]);
}

#[test]
fn a_replica_that_cannot_be_reached_is_passed_over() {
    let urls = "http://192.0.2.1/one/§ http://192.0.2.2/two/§";
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", urls]);
    let client = world.lookup("c");
    assert_eq!(address(&world), "192.0.2.1:80");
    world.refuse();
    assert_eq!(address(&world), "192.0.2.2:80");
    let backend = world.accept();
    assert!(world.taken(backend).starts_with("GET /two/c "));
    world.respond(backend, "v");
    assert_eq!(world.taken(client), "4:OK v,");
    world.end(backend, End::HalfClosed);
    let client = world.lookup("d");
    assert_eq!(address(&world), "192.0.2.2:80", "the dead one is set aside");
    world.refuse();
    world.refuse();
    assert!(reply(&mut world, client).ends_with("refused the connection"));
}

#[test]
fn the_pool_grows_by_need() {
    let mut world = World::with_alias(&[]);
    let clients: Vec<Peer> = (0..200).map(|at| world.lookup(&format!("{at:03}"))).collect();
    assert_eq!(world.connecting.len(), 64);
    let mut backends: Vec<Peer> = (0..64).map(|_| world.accept()).collect();
    assert!(world.connecting.is_empty(), "a fast backend needs no more");
    let key = world.asked(backends[0]);
    world.respond(backends[0], &key);
    assert_eq!(world.asked(backends[0]), "064");
    world.respond(backends[0], "064");
    assert_eq!(world.asked(backends[0]), "065");
    world.wait(20 * MS);
    assert_eq!(world.connecting.len(), 200 - 66, "a slow one gets as many as there are lookups");
    let more: Vec<Peer> = (0..134).map(|_| world.accept()).collect();
    world.respond(backends.remove(0), "065");
    for backend in backends.into_iter().chain(more) {
        let key = world.asked(backend);
        world.respond(backend, &key);
    }
    for (at, client) in clients.into_iter().enumerate() {
        assert_eq!(world.taken(client), format!("6:OK {at:03},"));
    }
}

#[test]
fn a_stop_answers_all_requests_that_were_read() {
    let mut world = World::with_alias(&[]);
    let client = world.client(Mode::Postfix);
    let mut requests = Vec::new();
    (0..2500).for_each(|at| podop::wire::netstring::encode(&[format!("alias {at}").as_bytes()], &mut requests));
    world.send(client, &requests);
    world.engine.drain();
    assert!(!world.engine.is_drained());
    let mut replies = String::new();
    while !world.engine.is_drained() {
        world.serve(|_, _, _| Some(response(200, "\"v\"")));
        replies += &world.taken(client);
    }
    assert_eq!(replies.matches("4:OK v,").count(), 2500);
    assert!(!world.engine.wants_input(client));
}

#[test]
fn a_stop_is_not_over_between_the_replies_and_the_requests_behind_them() {
    let mut world = World::with_alias(&[]);
    let client = world.client(Mode::Postfix);
    world.block(client, true);
    let mut requests = Vec::new();
    (0..1500).for_each(|at| podop::wire::netstring::encode(&[format!("alias {at}").as_bytes()], &mut requests));
    world.send(client, &requests);
    world.serve(|_, _, _| Some(response(200, &format!("\"{}\"", "v".repeat(1_000)))));
    world.engine.drain();
    // The client takes all replies; what it had sent besides is begun in the next turn only.
    let count = world.engine.output(client).len();
    world.engine.sent(client, count, world.now);
    assert!(world.engine.output(client).is_empty() && !world.engine.is_drained());
}

#[test]
fn a_stop_answers_what_is_in_flight_and_takes_nothing_new() {
    let mut world = World::with_alias(&[]);
    let client = world.lookup("a");
    let backend = world.accept();
    world.engine.drain();
    assert!(!world.engine.is_drained() && !world.engine.wants_input(client));
    world.respond(backend, "v");
    assert_eq!(world.taken(client), "4:OK v,");
    assert!(world.engine.is_drained());
}

#[test]
fn only_the_client_that_breaks_the_protocol_is_closed() {
    for garbage in ["x", "01:a,", "99999999:", "7:alias a;", "GET / HTTP/1.1\r\n\r\n"] {
        let mut world = World::with_alias(&[]);
        let innocent = world.lookup("a");
        let client = world.client(Mode::Postfix);
        world.send(client, garbage.as_bytes());
        assert!(!world.is_open(client), "{garbage}");
        let backend = world.accept();
        world.respond(backend, "v");
        assert_eq!(world.taken(innocent), "4:OK v,");
    }
    let mut world = World::with_alias(&[]);
    let client = world.client(Mode::Auto);
    world.send(client, b"nonsense");
    assert!(!world.is_open(client));
    let client = world.client(Mode::Postfix);
    world.send(client, b"5:alias,9:none none,");
    assert_eq!(world.taken(client), "47:PERM request without a space after the map name,24:TEMP no such table: none,");
}

#[test]
fn a_key_that_is_too_long_is_a_miss_in_its_place() {
    let key = "k".repeat(100_000);
    let long = |table: &str| format!("{}:{table} {key},", table.len() + 1 + key.len());
    let requests = ["7:alias a,", &long("alias"), "7:alias b,", &long("none")].concat();
    for step in [requests.len(), 65_536, 4096, 1000] {
        let mut world = World::with_alias(&[]);
        let client = world.client(Mode::Auto);
        requests.as_bytes().chunks(step).for_each(|piece| world.send(client, piece));
        assert_eq!(world.taken(client), "");
        world.serve(|_, target, _| Some(response(200, &format!("\"{}\"", &target[3..]))));
        assert_eq!(world.taken(client), "4:OK a,9:NOTFOUND ,4:OK b,24:TEMP no such table: none,");
        world.send(client, format!("{};", long("alias").trim_end_matches(',')).as_bytes());
        assert!(!world.is_open(client));
    }
}

#[test]
fn a_response_that_is_cut_anywhere_is_a_fault() {
    let responses: [&[u8]; 4] = [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnull",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\"v\"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\"v\"\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    for whole in responses {
        for end in [End::HalfClosed, End::Closed(Some(ErrorKind::ConnectionReset))] {
            for cut in 0..whole.len() {
                let mut world = World::with_alias(&[]);
                let client = world.lookup("a");
                let backend = world.accept();
                world.send(backend, &whole[..cut]);
                assert_eq!(world.taken(client), "", "answered too early");
                world.end(backend, end);
                let reply = world.taken(client);
                assert!(reply.contains(":TEMP alias: 192.0.2.1 "), "{cut} of {}: {reply}", whole.escape_ascii());
            }
        }
    }
}

/// A used connection, idle now.
fn served(world: &mut World) -> Peer {
    let client = world.lookup("first");
    let backend = world.accept();
    world.asked(backend);
    world.respond(backend, "v");
    world.end(client, GONE);
    backend
}

fn two_idle(world: &mut World) -> (Peer, Peer) {
    world.lookup("1");
    world.lookup("2");
    let backends = [world.accept(), world.accept()];
    for backend in backends {
        world.asked(backend);
        world.respond(backend, "v");
    }
    (backends[0], backends[1])
}

/// The payload of the one reply that a client has got.
fn reply(world: &mut World, client: Peer) -> String {
    let text = world.taken(client);
    let payload = text.split_once(':').and_then(|(_, rest)| rest.strip_suffix(',')).unwrap_or(&text);
    payload.to_owned()
}

/// The address of the next connection that the engine requests.
fn address(world: &World) -> String {
    match world.connecting.front() {
        Some((_, Address::Tcp(address))) => address.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_idle_connection_that_never_answered_counts_as_used() {
    let mut world = World::with_alias(&["--option", "alias:keepalive=60"]);
    let [first, second] = [world.lookup("1"), world.lookup("2")];
    let backend = world.accept();
    assert_eq!(world.asked(backend), "1");
    world.respond(backend, "v");
    assert_eq!((world.taken(first), world.asked(backend)), ("4:OK v,".to_owned(), "2".to_owned()));
    world.respond(backend, "v");
    assert_eq!(world.taken(second), "4:OK v,");
    let spare = world.accept(); // it finds nothing to do
    world.pass(30 * SECOND);
    // The backend closes it as idle, while a lookup is on its way on it.
    let client = world.lookup("3");
    assert_eq!(world.asked(spare), "3");
    world.end(spare, End::HalfClosed);
    let fresh = world.accept();
    assert_eq!(world.asked(fresh), "3", "it is sent once more");
    world.respond(fresh, "v");
    assert_eq!(world.taken(client), "4:OK v,");
}

#[test]
fn lookups_follow_a_name_to_its_new_address() {
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", "http://admin/a/§"]);
    let client = world.lookup("0");
    world.resolve(Ok(&["192.0.2.1:80"]));
    let old = world.accept();
    // Under steady load no new connection is ever needed.
    for second in 0..30 {
        world.asked(old);
        world.respond(old, "v");
        assert_eq!(world.taken(client), "4:OK v,");
        world.wait(SECOND);
        world.ask(client, &second.to_string());
    }
    world.resolve(Ok(&["192.0.2.2:80"]));
    assert!(world.is_open(old), "what it owes is waited for");
    world.respond(old, "old");
    assert_eq!(world.taken(client), "6:OK old,");
    assert!(!world.is_open(old));
    world.ask(client, "new");
    assert_eq!(address(&world), "192.0.2.2:80");
}
