//! Several replicas of one backend, in memory: which of them gets a request, which is marked down, and what a lookup gets
//! that met a bad one.

use crate::support;

use podop::config::Mode;
use podop::io::{End, Peer};
use std::io::ErrorKind;
use support::world::{MS, SECOND, World, response};

const RESET: End = End::Closed(Some(ErrorKind::ConnectionReset));

/// Three replicas, at 192.0.2.1 to 3.
fn three(args: &[&str]) -> World {
    let urls = "http://192.0.2.1/a/§ http://192.0.2.2/a/§ http://192.0.2.3/a/§";
    World::new(&[&["--name", "alias", "--type", "url", "--param", urls], args].concat())
}

#[test]
fn a_lookup_that_a_replica_cannot_answer_is_sent_to_the_next() {
    for status in [502, 503, 504] {
        let mut world = three(&[]);
        let client = world.lookup("k");
        for _ in 0..2 {
            let backend = world.accept();
            assert_eq!(world.asked(backend), "k");
            world.send(backend, &response(status, ""));
            assert_eq!(world.taken(client), "");
        }
        let last = world.accept();
        assert_eq!(world.asked(last), "k");
        world.respond(last, "v");
        assert_eq!(world.taken(client), "4:OK v,");
    }
    let mut world = three(&[]);
    let client = world.lookup("k");
    let backend = world.accept();
    world.end(backend, RESET);
    world.refuse();
    let last = world.accept();
    assert_eq!(world.asked(last), "k");
    world.send(last, &response(503, ""));
    assert_eq!(reply(&mut world, client), "TEMP alias: 192.0.2.3 answered 503", "all were asked");
}

#[test]
fn a_write_that_a_replica_cannot_answer_is_not_sent_to_another() {
    let mut world = three(&[]);
    let dict = world.client(Mode::Dovecot);
    world.send(dict, b"H2\t0\t0\tu\talias\nB1\nS1\tshared/k\tv\nC1\n");
    let backend = world.accept();
    world.taken(backend);
    world.send(backend, &response(503, ""));
    assert_eq!(world.taken(dict), "F1\talias: 192.0.2.1 answered 503\n");
    assert!(world.connecting.is_empty());
}

#[test]
fn the_least_busy_replica_is_asked() {
    let mut world = three(&[]);
    let clients: Vec<Peer> = (0..6).map(|at| world.lookup(&at.to_string())).collect();
    let hosts: Vec<String> = world.connecting.iter().map(|(_, address)| format!("{address:?}")).collect();
    for host in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        assert_eq!(hosts.iter().filter(|one| one.contains(host)).count(), 2, "{hosts:?}");
    }
    drop(clients);
}

#[test]
fn five_faults_in_a_row_set_a_replica_aside() {
    let mut world = three(&["--option", "alias:keepalive=60"]);
    // The first one is idle and answers 503 to whatever it gets, the others answer.
    let mut bad = 0;
    let mut ask = |world: &mut World, healthy: bool| {
        let client = world.lookup("k");
        world.serve_hosts(|host| {
            let sick = host == "192.0.2.1" && !healthy;
            bad += u32::from(sick);
            if sick { response(503, "") } else { response(200, "\"v\"") }
        });
        assert_eq!(world.taken(client), "4:OK v,");
        bad
    };
    for _ in 0..20 {
        ask(&mut world, false);
    }
    assert_eq!(ask(&mut world, false), 5);
    world.pass(250 * MS);
    assert_eq!(ask(&mut world, false), 6, "one probe, which another replica answers in its place");
    assert_eq!(ask(&mut world, false), 6);
    world.pass(499 * MS);
    assert_eq!(ask(&mut world, false), 6, "the pause grows");
    world.pass(MS);
    assert_eq!(ask(&mut world, true), 6);
    assert_eq!(ask(&mut world, false), 7, "after a good answer it is asked again at once");
}

#[test]
fn when_all_are_set_aside_lookups_fail_at_once_with_the_cause() {
    let mut world = World::with_alias(&["--timeout", "5", "--option", "alias:connections=5"]);
    let stuck: Vec<Peer> = (0..5).map(|at| world.lookup(&at.to_string())).collect();
    while !world.connecting.is_empty() {
        world.accept();
    }
    world.wait(4 * SECOND);
    let waiting: Vec<Peer> = (0..100).map(|at| world.lookup(&format!("w{at}"))).collect();
    world.wait(SECOND);
    for client in stuck {
        assert_eq!(reply(&mut world, client), "TIMEOUT alias: 192.0.2.1 did not answer in time");
    }
    let aside = "TEMP alias: 192.0.2.1 is marked down: did not answer in time";
    for client in waiting {
        assert_eq!(reply(&mut world, client), aside, "who waits for it plan not wait for the deadline");
    }
    let client = world.lookup("next");
    assert_eq!(reply(&mut world, client), aside);
    world.wait(250 * MS);
    let (probe, other) = (world.lookup("probe"), world.lookup("other"));
    assert_eq!(reply(&mut world, other), aside, "one probe at a time");
    let backend = world.accept();
    assert_eq!(world.asked(backend), "probe");
    world.respond(backend, "v");
    assert_eq!(world.taken(probe), "4:OK v,");
    world.lookup("again");
    assert_eq!(world.asked(backend), "again");
}

/// A service that hung, and is restarted while it is probed.
#[test]
fn a_probe_that_ends_in_any_way_makes_room_for_the_next() {
    let mut world = World::with_alias(&["--timeout", "20"]);
    let stuck: Vec<Peer> = (0..5).map(|at| world.lookup(&at.to_string())).collect();
    while !world.connecting.is_empty() {
        world.accept();
    }
    world.wait(20 * SECOND);
    assert!(stuck.iter().all(|client| world.taken(*client).contains("TIMEOUT")));
    world.wait(250 * MS);
    // It is refused, closed upon, and left.
    let probe = world.lookup("refused");
    world.refuse();
    assert_eq!(reply(&mut world, probe), "TEMP alias: 192.0.2.1 refused the connection");
    let early = world.lookup("early");
    assert!(reply(&mut world, early).contains("is marked down: did not answer in time"));
    world.wait(100 * MS);
    let probe = world.lookup("closed");
    let backend = world.accept();
    world.end(backend, End::HalfClosed);
    assert!(reply(&mut world, probe).contains("closed the connection"));
    world.wait(100 * MS);
    let probe = world.lookup("left");
    world.end(probe, End::Closed(None));
    world.wait(100 * MS);
    let last = world.lookup("last");
    assert_eq!(world.taken(last), "", "it is the next probe");
    let backend = world.accept();
    assert_eq!(world.asked(backend), "last");
    world.respond(backend, "v");
    assert_eq!(world.taken(last), "4:OK v,");
}

#[test]
fn a_pause_that_a_replica_asks_for_is_kept() {
    let mut world = three(&[]);
    let client = world.lookup("k");
    let backend = world.accept();
    world.asked(backend);
    world.send(backend, b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n");
    let other = world.accept();
    world.asked(other);
    world.respond(other, "v");
    assert_eq!(world.taken(client), "4:OK v,");
    for (time, host) in [(6, false), (1, true)] {
        world.wait(time * SECOND);
        let client = world.lookup("k");
        let mut hosts = Vec::new();
        world.serve_hosts(|host| {
            hosts.push(host.to_owned());
            response(200, "\"v\"")
        });
        assert_eq!(hosts.contains(&"192.0.2.1".to_owned()), host, "{hosts:?}");
        world.taken(client);
    }
}

/// One key that a backend refuses, or for which it requests a pause, does not affect the others.
#[test]
fn no_status_of_one_key_takes_a_lone_backend_out_of_use() {
    for status in ["429 Slow down", "503 Busy", "500 No", "502 No"] {
        let mut world = World::with_alias(&[]);
        let (head, client) = (format!("HTTP/1.1 {status}\r\nRetry-After: 60\r\n"), world.lookup("bad"));
        let backend = world.accept();
        for _ in 0..20 {
            assert_eq!(world.asked(backend), "bad");
            world.send(backend, format!("{head}Content-Length: 0\r\n\r\n").as_bytes());
            let expected = format!("TEMP alias: 192.0.2.1 answered {}", &status[..3]);
            assert_eq!(reply(&mut world, client), expected);
            world.ask(client, "bad");
        }
        let other = world.lookup("good");
        let second = world.accept();
        assert_eq!(world.asked(second), "good");
        world.respond(second, "v");
        assert_eq!(world.taken(other), "4:OK v,");
    }
}

/// Two replicas, and one key that neither can answer: they are less preferred, and the best of them is used all the same.
#[test]
fn a_key_that_no_replica_can_answer_keeps_none_from_answering_others() {
    let mut world = three(&[]);
    for _ in 0..20 {
        let client = world.lookup("bad");
        world.serve_hosts(|_| response(503, ""));
        assert!(reply(&mut world, client).contains("answered 503"));
        let client = world.lookup("good");
        assert_eq!(served(&mut world, client), "4:OK v,");
    }
    for _ in 0..20 {
        let client = world.lookup("bad");
        world.serve_hosts(|_| response(503, ""));
        assert!(reply(&mut world, client).contains("answered 503"), "they are asked also after many faults");
    }
    let client = world.lookup("good");
    assert_eq!(served(&mut world, client), "4:OK v,");
}

/// The backend hangs for one table, and answers another one that has the same backend.
#[test]
fn a_slow_table_takes_no_other_with_it() {
    let mut world = World::new(&[
        "--timeout",
        "2",
        "--name",
        "alias",
        "--type",
        "url",
        "--param",
        "http://192.0.2.1/alias/§",
        "--name",
        "dane",
        "--type",
        "url",
        "--param",
        "http://192.0.2.1/dane/§",
    ]);
    let ask = |world: &mut World, table: &str, key: &str| {
        let client = world.client(Mode::Postfix);
        let text = format!("{table} {key}");
        world.send(client, format!("{}:{text},", text.len()).as_bytes());
        client
    };
    let stuck: Vec<Peer> = (0..6).map(|at| ask(&mut world, "dane", &at.to_string())).collect();
    while !world.connecting.is_empty() {
        world.accept();
    }
    world.wait(2 * SECOND);
    assert!(stuck.iter().all(|client| world.taken(*client).contains("TIMEOUT")));
    let client = ask(&mut world, "dane", "next");
    assert_eq!(reply(&mut world, client), "TEMP dane: 192.0.2.1 is marked down: did not answer in time");
    for _ in 0..3 {
        let client = ask(&mut world, "alias", "k");
        assert_eq!(served(&mut world, client), "4:OK v,");
    }
    let client = ask(&mut world, "dane", "still");
    assert_eq!(
        reply(&mut world, client),
        "TEMP dane: 192.0.2.1 is marked down: did not answer in time",
        "answers to another table say nothing of it"
    );
}

/// One key that hangs, requested again and again by many clients.
#[test]
fn one_key_that_hangs_takes_no_other_with_it() {
    let mut world = World::with_alias(&["--timeout", "2"]);
    for round in 0..4 {
        let stuck: Vec<Peer> = (0..6).map(|_| world.lookup("hangs")).collect();
        while !world.connecting.is_empty() {
            world.accept();
        }
        world.wait(2 * SECOND);
        assert!(stuck.iter().all(|client| world.taken(*client).contains("TIMEOUT")), "round {round}");
    }
    let client = world.lookup("good");
    assert_eq!(served(&mut world, client), "4:OK v,");
}

#[test]
fn the_addresses_of_a_name_are_replicas_too() {
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", "http://admin/a/§"]);
    let clients: Vec<Peer> = (0..4).map(|at| world.lookup(&at.to_string())).collect();
    world.resolve(Ok(&["192.0.2.1:80", "192.0.2.2:80"]));
    let addresses: Vec<String> = world.connecting.iter().map(|(_, address)| format!("{address:?}")).collect();
    assert_eq!(addresses.iter().filter(|one| one.contains("192.0.2.2:80")).count(), 2, "{addresses:?}");
    let [first, second, ..] = [(); 4].map(|()| world.accept());
    let key = world.asked(first);
    world.asked(second);
    world.send(first, &response(503, ""));
    assert!(clients.iter().all(|client| world.taken(*client).is_empty()));
    let last = world.connecting.back().map(|(_, address)| format!("{address:?}"));
    assert!(last.is_some_and(|address| address.contains("192.0.2.2:80")), "the other one is asked");
    let other = world.accept();
    assert_eq!(world.asked(other), key);
    world.respond(other, "v");
    assert_eq!(clients.iter().filter(|client| world.taken(**client) == "4:OK v,").count(), 1);
}

#[test]
fn an_address_that_was_never_reached_is_no_replica() {
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", "http://localhost/a/§"]);
    let client = world.lookup("k");
    world.resolve(Ok(&["[::1]:80", "127.0.0.1:80"]));
    world.refuse();
    let backend = world.accept();
    for at in 0..6 {
        assert_eq!(world.asked(backend), "k");
        world.send(backend, &response(503, ""));
        assert_eq!(reply(&mut world, client), "TEMP alias: localhost answered 503", "it is asked once: {at}");
        world.ask(client, "k");
    }
    world.send(backend, &response(200, "\"v\""));
    assert_eq!(world.taken(client), "4:OK v,", "and no key is failed for another");
}

/// A backend that answers 40 requests in a second is sent 80: 4 at a time, for 0.1 s each.
#[test]
fn at_twice_its_capacity_a_backend_still_answers_most_of_what_it_can() {
    let mut world = World::with_alias(&["--timeout", "1", "--option", "alias:connections=4"]);
    let (mut clients, mut due, mut answered) = (Vec::new(), Vec::new(), 0);
    let (turns, turn) = (2000, 5 * MS);
    for at in 1..=turns {
        if at * 80 / 200 > (at - 1) * 80 / 200 {
            clients.push(world.lookup(&at.to_string()));
        }
        while !world.connecting.is_empty() {
            world.accept();
        }
        while let Some(backend) = world.next_asked() {
            due.push((at + 20, backend));
        }
        due.retain(|(time, backend)| {
            if *time <= at && world.is_open(*backend) {
                world.respond(*backend, "v");
            }
            *time > at
        });
        world.wait(turn);
        clients.retain(|client| {
            let reply = world.taken(*client);
            answered += usize::from(reply == "4:OK v,");
            reply.is_empty()
        });
    }
    assert!(answered > 400 * 8 / 10, "{answered} of 400 that it could answer in ten seconds");
}

/// What a client gets of backends that answer everything.
fn served(world: &mut World, client: Peer) -> String {
    world.serve_hosts(|_| response(200, "\"v\""));
    world.taken(client)
}

fn reply(world: &mut World, client: Peer) -> String {
    let text = world.taken(client);
    let payload = podop::wire::netstring::decode(text.as_bytes(), 1000).expect("a netstring").expect("a whole one").0;
    String::from_utf8_lossy(payload).into_owned()
}
