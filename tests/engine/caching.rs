//! Cached answers, in memory: their lifetimes, which lookups get them, and how writes invalidate them.

use crate::support;

use podop::config::Mode;
use podop::io::{End, Peer};
use support::world::{MS, SECOND, World, response};

const CACHE: [&str; 2] = ["--option", "alias:cache=60"];
const STALE: [&str; 4] = ["--option", "alias:cache=60", "--option", "alias:stale=600"];

#[test]
fn an_answer_or_a_miss_is_kept_for_its_time() {
    for (status, body, reply) in [
        (200, "\"v\"", "4:OK v,"),
        (200, "[\"a\",\"b\"]", "6:OK a,b,"),
        (404, "", "9:NOTFOUND ,"),
        (200, "null", "9:NOTFOUND ,"),
    ] {
        let mut world = World::with_alias(&CACHE);
        let (client, backend) = asked(&mut world, "k");
        world.send(backend, &response(status, body));
        for time in [0, 30, 20] {
            world.wait(time * SECOND);
            world.taken(client);
            world.ask(client, "k");
            assert_eq!(world.taken(client), reply);
            assert!(world.connecting.is_empty(), "{body}");
        }
        world.wait(11 * SECOND);
        world.ask(client, "k");
        assert_eq!(world.taken(client), "");
        let backend = world.accept();
        assert_eq!(world.asked(backend), "k");
    }
}

#[test]
fn a_fault_is_not_kept() {
    let mut world = World::with_alias(&CACHE);
    let (client, backend) = asked(&mut world, "k");
    world.send(backend, &response(503, ""));
    assert!(world.taken(client).contains("TEMP"));
    world.ask(client, "k");
    assert_eq!(world.asked(backend), "k");
}

#[test]
fn what_the_backend_says_of_keeping_counts_more() {
    let kept_for = |fields: &str, seconds: u32| {
        let mut world = World::with_alias(&STALE);
        let (client, backend) = asked(&mut world, "k");
        world.send(backend, format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 3\r\n\r\n\"v\"").as_bytes());
        world.taken(client);
        world.wait(seconds * SECOND);
        world.ask(client, "k");
        let fresh = world.taken(client) == "4:OK v,";
        while !world.connecting.is_empty() {
            world.refuse();
        }
        (fresh, fresh || world.taken(client) == "4:OK v,")
    };
    assert_eq!(kept_for("X: y", 59), (true, true));
    assert_eq!(kept_for("X: y", 61), (false, true));
    assert_eq!(kept_for("Cache-Control: max-age=300", 299), (true, true));
    assert_eq!(kept_for("Cache-Control: max-age=300\r\nAge: 295", 6), (false, true));
    assert_eq!(kept_for("Cache-Control: max-age=5", 6), (false, true));
    assert_eq!(kept_for("Cache-Control: max-age=5, must-revalidate", 6), (false, false));
    assert_eq!(kept_for("Cache-Control: no-store", 6), (false, false));
    let from = |time: &str| format!("Date: Fri, 05 Jun 2026 10:00:00 GMT\r\nExpires: Fri, 05 Jun 2026 {time} GMT");
    assert_eq!(kept_for(&from("10:05:00"), 299), (true, true));
    assert_eq!(kept_for(&from("10:05:00"), 301), (false, true));
    assert_eq!(kept_for(&from("09:59:59"), 6), (false, true));
    assert_eq!(kept_for("Expires: 0", 6), (false, true));
    assert_eq!(kept_for("Expires: Fri, 31 Dec 9999 23:59:59 GMT", 86_399), (true, true));
    assert_eq!(kept_for("Expires: Fri, 31 Dec 9999 23:59:59 GMT", 86_401), (false, true));
    assert_eq!(kept_for("Cache-Control: max-age=31536000", 86_401), (false, true));
    assert_eq!(kept_for("Pragma: no-cache", 6), (false, false));
    assert_eq!(kept_for("Pragma: no-cache\r\nCache-Control: max-age=9", 8), (true, true));
    assert_eq!(kept_for("Vary: *", 6), (false, false));
    assert_eq!(kept_for("Vary: Accept", 59), (true, true));
}

#[test]
fn a_thousand_clients_that_ask_for_one_key_make_one_request() {
    let mut world = World::with_alias(&CACHE);
    let clients: Vec<Peer> = (0..1000).map(|_| world.lookup("k")).collect();
    assert_eq!(world.connecting.len(), 1);
    let backend = world.accept();
    assert_eq!(world.asked_all(backend), ["k"]);
    world.respond(backend, "v");
    assert!(clients.iter().all(|client| world.taken(*client) == "4:OK v,"));
    assert!(world.asked_all(backend).is_empty());
    let other = world.lookup("k2");
    assert_eq!(world.asked(backend), "k2", "another key is another question");
    world.respond(backend, "v2");
    assert_eq!(world.taken(other), "5:OK v2,");
}

#[test]
fn who_came_later_has_a_later_deadline() {
    let mut world = World::with_alias(&["--option", "alias:cache=60", "--timeout", "4"]);
    let (first, stuck) = asked(&mut world, "k");
    world.wait(3 * SECOND);
    let second = world.lookup("k");
    world.wait(SECOND);
    assert_eq!(world.taken(first), "47:TIMEOUT alias: 192.0.2.1 did not answer in time,");
    assert_eq!(world.taken(second), "", "it has three more seconds");
    assert!(!world.is_open(stuck));
    let backend = world.accept();
    assert_eq!(world.asked(backend), "k");
    world.respond(backend, "v");
    assert_eq!(world.taken(second), "4:OK v,");
    // The exchange continues although all clients that waited have disconnected.
    let (gone, backend) = (world.lookup("x"), backend);
    assert_eq!(world.asked(backend), "x");
    world.end(gone, End::Closed(None));
    world.respond(backend, "y");
    let late = world.lookup("x");
    assert_eq!(world.taken(late), "4:OK y,");
}

/// Lookups before, during and after a commit, on its connection and on another one.
#[test]
fn no_stale_answer_comes_after_a_commit_was_acknowledged() {
    let mut world = World::with_alias(&STALE);
    let dict = world.client(Mode::Dovecot);
    let other = world.client(Mode::Dovecot);
    for client in [dict, other] {
        world.send(client, b"H2\t0\t0\tu\talias\n"); // without async ids, so that replies come in order
    }
    let look = |world: &mut World, client: Peer| world.send(client, b"Lshared/k\n");
    look(&mut world, dict);
    let slow = world.accept();
    world.asked(slow);
    world.respond(slow, "old");
    assert_eq!(world.taken(dict), "Oold\n");
    // It is cached, and then requested again: that lookup is in flight when the commit begins.
    world.wait(61 * SECOND);
    look(&mut world, other);
    let slow = world.accept();
    assert_eq!(world.asked(slow), "k");
    world.send(dict, b"B1\nS1\tshared/k\tnew\nC1\n");
    let writing = world.accept();
    assert!(world.taken(writing).starts_with("POST /a/k "));
    // A lookup may get either value now, but it must not be cached.
    look(&mut world, other);
    let during = world.accept();
    assert_eq!(world.asked(during), "k", "a lookup does not join one from before the commit");
    world.send(writing, &response(200, ""));
    assert_eq!(world.taken(dict), "O1\n");
    for client in [dict, other] {
        look(&mut world, client);
    }
    assert_eq!(world.asked(writing), "k", "who asks after the commit is not answered by what was asked before");
    world.respond(slow, "old");
    world.respond(during, "old");
    assert_eq!(world.taken(other), "Oold\nOold\n", "these were asked before the commit was acknowledged");
    world.respond(writing, "new");
    assert_eq!([world.taken(dict), world.taken(other)], ["Onew\n", "Onew\n"]);
    look(&mut world, dict);
    assert_eq!(world.taken(dict), "Onew\n", "and the new one is kept");
}

#[test]
fn a_commit_that_fails_drops_the_key_too() {
    let mut world = World::with_alias(&CACHE);
    let (client, backend) = asked(&mut world, "k");
    world.respond(backend, "old");
    world.taken(client);
    let dict = world.client(Mode::Dovecot);
    world.send(dict, b"H2\t0\t0\tu\talias\nB1\nS1\tshared/k\tnew\nC1\n");
    world.taken(backend);
    world.end(backend, End::HalfClosed);
    assert!(world.taken(dict).starts_with("W1\t"), "its outcome is unknown");
    world.ask(client, "k");
    let backend = world.accept();
    assert_eq!(world.asked(backend), "k");
}

#[test]
fn after_an_uncertain_write_nothing_is_cached_until_it_must_be_done() {
    let mut world = World::with_alias(&CACHE);
    let dict = world.client(Mode::Dovecot);
    world.send(dict, b"H2\t0\t0\tu\talias\nB1\nS1\tshared/k\tnew\nC1\n");
    let backend = world.accept();
    world.taken(backend);
    world.end(backend, End::HalfClosed);
    assert!(world.taken(dict).starts_with("W1\t"), "its outcome is unknown");
    // It may be applied after any of these.
    for at in [0, 10, 9] {
        world.wait(at * SECOND);
        let client = world.lookup("k");
        assert_eq!(world.next_request().map(|(peer, _)| world.respond(peer, "old")), Some(()));
        assert!(world.taken(client).contains("OK old"));
    }
    world.wait(SECOND);
    let client = world.lookup("k");
    assert_eq!(world.next_request().map(|(peer, _)| world.respond(peer, "new")), Some(()));
    assert!(world.taken(client).contains("OK new"));
    let client = world.lookup("k");
    assert!(world.taken(client).contains("OK new"), "cached again");
}

#[test]
fn a_stale_answer_serves_while_the_backend_is_gone_or_slow() {
    let mut world = World::with_alias(&STALE);
    let (client, backend) = asked(&mut world, "k");
    world.send(backend, &response(200, "\"v\""));
    world.taken(client);
    world.wait(100 * SECOND);
    // It cannot be reached.
    world.ask(client, "k");
    assert_eq!(world.taken(client), "", "a new answer is waited for");
    world.refuse();
    assert_eq!(world.taken(client), "4:OK v,");
    // It faults.
    world.ask(client, "k");
    let backend = world.accept();
    assert_eq!(world.asked(backend), "k");
    world.send(backend, &response(500, ""));
    assert_eq!(world.taken(client), "4:OK v,");
    // It does not answer within a part of the deadline; a later response is cached all the same.
    world.ask(client, "k");
    world.wait(999 * MS);
    assert_eq!(world.taken(client), "");
    world.wait(MS);
    assert_eq!(world.taken(client), "4:OK v,");
    world.asked(backend);
    world.respond(backend, "new");
    world.ask(client, "k");
    assert_eq!(world.taken(client), "6:OK new,");
    // After its time a fault is a fault.
    world.wait(661 * SECOND);
    world.ask(client, "k");
    world.refuse();
    assert!(world.taken(client).contains("TEMP alias: 192.0.2.1 refused the connection"));
}

#[test]
fn a_stale_miss_is_never_served() {
    let mut world = World::with_alias(&STALE);
    let (client, backend) = asked(&mut world, "k");
    world.send(backend, &response(404, ""));
    assert_eq!(world.taken(client), "9:NOTFOUND ,");
    world.wait(100 * SECOND);
    // The mailbox may exist since: mail to it must wait, and not bounce.
    world.ask(client, "k");
    world.refuse();
    assert!(world.taken(client).contains("TEMP alias: 192.0.2.1 refused the connection"));
    world.ask(client, "k");
    let backend = world.accept();
    world.asked(backend);
    world.wait(2 * SECOND);
    assert_eq!(world.taken(client), "", "a slow backend is waited for");
    world.respond(backend, "new");
    assert_eq!(world.taken(client), "6:OK new,");
}

#[test]
fn a_hot_key_is_asked_for_again_before_its_time_is_over() {
    let mut world = World::with_alias(&CACHE);
    let (client, backend) = asked(&mut world, "k");
    world.respond(backend, "1");
    world.taken(client);
    for (time, connections) in [(30, 0), (25, 1), (1, 1)] {
        world.wait(time * SECOND);
        world.ask(client, "k");
        assert_eq!(world.taken(client), "4:OK 1,");
        assert_eq!(world.connecting.len(), connections, "one is enough");
    }
    let backend = world.accept();
    assert_eq!(world.asked(backend), "k");
    world.respond(backend, "2");
    world.wait(10 * SECOND);
    world.ask(client, "k");
    assert_eq!(world.taken(client), "4:OK 2,");
}

#[test]
fn an_answer_to_a_request_before_a_reload_is_not_kept() {
    let mut world = World::with_alias(&CACHE);
    let (client, backend) = asked(&mut world, "k");
    world.engine.reload();
    world.respond(backend, "old");
    assert_eq!(world.taken(client), "6:OK old,");
    world.ask(client, "k");
    assert_eq!(world.asked(backend), "k");
}

#[test]
fn a_reload_empties_the_cache() {
    let mut world = World::with_alias(&CACHE);
    let (client, backend) = asked(&mut world, "k");
    world.respond(backend, "new");
    world.taken(client);
    world.engine.reload();
    world.ask(client, "k");
    assert_eq!(world.asked(backend), "k");
}

#[test]
fn a_key_that_cannot_be_asked_for_is_a_miss_at_once() {
    let mut world = World::with_alias(&CACHE);
    let client = world.lookup("../k");
    assert_eq!(world.taken(client), "9:NOTFOUND ,");
    assert!(world.connecting.is_empty());
}

/// A client whose lookup has reached a connection.
fn asked(world: &mut World, key: &str) -> (Peer, Peer) {
    let client = world.lookup(key);
    let backend = world.accept();
    assert_eq!(world.asked(backend), key);
    (client, backend)
}

#[test]
fn after_a_reload_a_key_still_has_one_request_and_one_answer() {
    let mut world = World::with_alias(&["--timeout", "10", "--option", "alias:cache=600"]);
    let _first = world.lookup("a");
    let backend = world.accept();
    world.asked(backend);
    world.wait(5 * SECOND);
    let second = world.lookup("a");
    world.engine.reload();
    world.process();
    world.wait(5 * SECOND); // the first fetch expires, and the second lookup asks again
    let third = world.lookup("a");
    let mut asked = 0;
    world.serve(|_, _, _| {
        asked += 1;
        Some(response(200, "\"v\""))
    });
    assert_eq!((&world.taken(second)[..], &world.taken(third)[..], asked), ("4:OK v,", "4:OK v,", 1));
    assert!(world.engine.metrics().contains("podop_cache_entries 1\n"));
}

#[test]
fn a_header_file_that_is_being_written_turns_no_fault_into_a_miss() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("token");
    std::fs::write(&path, "Authorization: Bearer x\n").expect("a file");
    let option = format!("alias:header-file={}", path.display());
    let mut world = World::with_alias(&["--option", &option]);
    let ask = |world: &mut World, token: &str| {
        let client = world.lookup("k");
        while let Some((peer, request)) = world.next_request() {
            assert!(request.contains(&format!("Authorization: Bearer {token}\r\n")), "{request}");
            world.send(peer, &response(401, ""));
        }
        assert!(world.taken(client).contains(":TEMP alias: "), "a fault while there are credentials");
    };
    ask(&mut world, "x");
    for text in ["", "\n", "Authori"] {
        std::fs::write(&path, text).expect("a file");
        world.wait(5 * SECOND);
        ask(&mut world, "x");
    }
    std::fs::write(&path, "Authorization: Bearer y\n").expect("a file");
    world.wait(5 * SECOND);
    ask(&mut world, "y");
    // Without credentials, but a table that has had some takes no 401 for a miss.
    std::fs::write(&path, "X-Other: z\n").expect("a file");
    world.wait(5 * SECOND);
    let client = world.lookup("k");
    world.serve(|_, _, _| Some(response(401, "")));
    assert!(world.taken(client).contains(":TEMP alias: "));
}

#[test]
fn a_header_file_is_read_again_whatever_happens_to_the_others() {
    let dir = tempfile::tempdir().expect("a folder");
    let paths = ["token", "pipe", "time"].map(|name| dir.path().join(name));
    let [token, pipe, time] = &paths;
    std::fs::write(token, "Authorization: Bearer x\n").expect("a file");
    std::fs::write(time, "X-Time: 0\n").expect("a file");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().expect("mkfifo").success());
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::write(pipe, "X-Pipe: p\n").expect("a pipe")
    });
    let options = paths.each_ref().map(|path| format!("alias:header-file={}", path.display()));
    let options: Vec<&str> = options.iter().flat_map(|option| ["--option", option]).collect();
    let mut world = World::with_alias(&options);
    writer.join().expect("it has written");
    for count in 1..20 {
        std::fs::write(time, format!("X-Time: {}\n", "1".repeat(count))).expect("a file");
        if count == 5 {
            std::fs::write(token, "Authorization: Bearer new\n").expect("a file");
        }
        world.wait(SECOND);
    }
    world.engine.reload();
    world.lookup("k");
    let (_, request) = world.next_request().expect("a request");
    assert!(request.contains("Authorization: Bearer new\r\n"), "{request}");
    assert!(request.contains("X-Pipe: p\r\n"), "the pipe is not read again: {request}");
    assert!(request.contains("X-Time: 1111"), "one that always changes is read all the same: {request}");
}
