//! One key, table, client or backend never harms the others: what marks a backend down, and how limits are shared.

use crate::support;

use podop::config::Mode;
use podop::io::{End, Peer};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use support::world::{MS, SECOND, World, response};

const REPLICAS: &str = "http://192.0.2.1/a/§ http://192.0.2.2/a/§";

fn replicas(args: &[&str]) -> World {
    World::new(&[&["--name", "alias", "--type", "url", "--param", REPLICAS], args].concat())
}

/// Answers everything, but for one host.
fn serve(world: &mut World, silent: &str) {
    loop {
        let mut any = false;
        world.serve_hosts(|host| {
            any = true;
            if host == silent { Vec::new() } else { response(200, "\"v\"") }
        });
        if !any {
            return;
        }
    }
}

fn served(world: &mut World, client: Peer) -> String {
    serve(world, "");
    world.taken(client)
}

#[test]
fn a_hung_replica_costs_one_lookup_per_timeout_while_another_answers() {
    let mut world = replicas(&["--timeout", "20"]);
    let burst: Vec<Peer> = (0..20).map(|at| world.lookup(&format!("burst{at}"))).collect();
    serve(&mut world, "192.0.2.1");
    world.wait(21 * SECOND);
    burst.into_iter().for_each(|client| drop(world.taken(client)));
    let mut open = Vec::new();
    for at in 0..100 {
        open.push(world.lookup(&format!("k{at}")));
        serve(&mut world, "192.0.2.1");
        world.wait(1500 * MS);
    }
    world.wait(20 * SECOND);
    let good = open.into_iter().filter(|client| world.taken(*client) == "4:OK v,").count();
    assert!(good >= 90, "{good} of 100");
    // Once it answers, it is used again.
    for at in 0..3 {
        let client = world.lookup(&format!("again{at}"));
        assert_eq!(served(&mut world, client), "4:OK v,");
    }
    assert!(world.engine.metrics().contains("podop_backend_down{backend=\"192.0.2.1\"} 0\n"));
}

#[test]
fn an_iteration_that_runs_out_of_time_takes_no_table_down() {
    let mut world = World::with_alias(&["--timeout", "20"]);
    let dict = world.client(Mode::Dovecot);
    world.send(dict, b"H4\t0\t0\t\talias\nI1\t0\tshared/\t\n");
    let backend = world.accept();
    world.taken(backend);
    let names: Vec<String> = (0..10_000).map(|at| format!("\"u{at}\"")).collect();
    world.send(backend, &response(200, &format!("[{}]", names.join(","))));
    let requested = |world: &mut World| std::iter::from_fn(|| world.next_asked()).collect::<Vec<Peer>>();
    for _ in 0..199 {
        let all = requested(&mut world);
        world.wait(100 * MS);
        all.into_iter().for_each(|peer| world.respond(peer, "v"));
    }
    requested(&mut world);
    world.wait(100 * MS);
    assert!(world.taken(dict).contains("did not answer in time"));
    let other = world.lookup("good");
    assert_eq!(served(&mut world, other), "4:OK v,");
}

/// Responses per second to `rate` lookups per second on four connections, each of which takes as many turns of 5 ms as
/// `latency` has.
fn overload(seconds: u32, rate: u32, latency: impl Fn(u32) -> u32) -> Vec<u32> {
    let mut world = World::with_alias(&["--timeout", "1", "--option", "alias:connections=4"]);
    let (mut clients, mut due) = (Vec::new(), Vec::new());
    let mut per_second = vec![0; seconds as usize + 1];
    for at in 1..=seconds * 200 {
        if at * rate / 200 > (at - 1) * rate / 200 {
            clients.push(world.lookup(&at.to_string()));
        }
        while let Some(backend) = world.next_asked() {
            due.push((at + latency(at), backend));
        }
        due.retain(|(time, backend)| {
            if *time <= at && world.is_open(*backend) {
                world.respond(*backend, "v");
            }
            *time > at && world.is_open(*backend)
        });
        world.wait(5 * MS);
        clients.retain(|client| {
            let reply = world.taken(*client);
            per_second[(at / 200) as usize] += u32::from(reply == "4:OK v,");
            reply.is_empty()
        });
    }
    per_second.truncate(seconds as usize);
    per_second
}

#[test]
fn a_backend_that_becomes_slower_under_load_goes_on_answering() {
    // From 100 ms to 150 and 200 ms after five seconds; capacities 26 and 20 per second.
    for (rate, turns, least) in [(80, 30, 20), (60, 30, 20), (80, 40, 15), (30, 40, 15)] {
        let per_second = overload(20, rate, |at| if at < 1000 { 20 } else { turns });
        let late = &per_second[8..];
        assert!(late.iter().all(|count| *count >= least), "{rate}/s, {turns} turns: {per_second:?}");
    }
    let noise = |at: u32| at.wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(0x9E37_79B1) >> 16;
    let per_second = overload(20, 80, |at| 10 + noise(at) % 21); // 50 to 150 ms: 40 per second
    assert!(per_second[2..].iter().sum::<u32>() >= 18 * 40 * 8 / 10, "{per_second:?}");
}

/// A backend with one connection that has taken 9 s for each of many responses, while others waited; one is in flight.
fn slow() -> (World, Peer) {
    let options = ["--timeout", "20", "--option", "alias:connections=1", "--option", "alias:keepalive=60"];
    let mut world = World::with_alias(&options);
    world.lookup("1");
    let backend = world.accept();
    world.asked(backend);
    for at in 0..12 {
        world.lookup(&format!("next{at}"));
        world.wait(9 * SECOND);
        world.respond(backend, "v");
        world.asked(backend);
    }
    (world, backend)
}

#[test]
fn a_resent_lookup_opens_one_connection_however_late_it_is() {
    let (mut world, backend) = slow();
    world.wait(10 * SECOND);
    world.end(backend, End::Closed(Some(ErrorKind::ConnectionReset)));
    let mut made = 0;
    while !world.connecting.is_empty() && made < 10 {
        world.accept();
        made += 1;
    }
    assert_eq!(made, 1);
}

#[test]
fn a_resent_lookup_gets_its_connection_while_all_others_are_busy() {
    let options = ["--timeout", "20", "--option", "alias:connections=2", "--option", "alias:keepalive=60"];
    let mut world =
        World::new(&[&["--name", "alias", "--type", "url", "--param", "http://name/§"], &options[..]].concat());
    let warm = [world.lookup("warm1"), world.lookup("warm2")];
    world.resolve(Ok(&["192.0.2.1:80", "192.0.2.2:80"]));
    while let Some(backend) = world.next_asked() {
        world.respond(backend, "v");
    }
    warm.into_iter().for_each(|client| assert_eq!(world.taken(client), "4:OK v,"));
    let victim = world.lookup("victim");
    let backend = world.next_asked().unwrap();
    let mut others: Vec<Peer> = (0..10).map(|at| world.lookup(&format!("first{at}"))).collect();
    world.send(backend, &response(503, "")); // the other address may answer
    for at in 0..100 {
        others.extend([0, 1, 2].map(|of| world.lookup(&format!("other{at}-{of}"))));
        let all: Vec<Peer> = std::iter::from_fn(|| world.next_asked()).collect();
        all.into_iter().for_each(|backend| world.respond(backend, "v"));
        if !world.taken(victim).is_empty() {
            return;
        }
        world.wait(100 * MS);
    }
    panic!("the lookup starves");
}

#[test]
fn an_old_latency_keeps_nothing_from_a_free_connection() {
    let (mut world, mut backend) = slow();
    world.respond(backend, "v");
    world.wait(100 * SECOND);
    world.lookup("slow");
    backend = world.next_asked().unwrap();
    let waiting: Vec<Peer> = (0..10).map(|at| world.lookup(&format!("w{at}"))).collect();
    world.wait(12 * SECOND);
    world.respond(backend, "v");
    while let Some(backend) = world.next_asked() {
        world.respond(backend, "v");
    }
    let good = waiting.into_iter().filter(|client| world.taken(*client) == "4:OK v,").count();
    assert_eq!(good, 10);
}

#[test]
fn an_old_latency_does_not_change_the_order() {
    let (mut world, backend) = slow();
    world.respond(backend, "v");
    world.wait(100 * SECOND);
    world.lookup("slow");
    let backend = world.next_asked().unwrap();
    world.wait(SECOND);
    world.lookup("first");
    world.wait(11 * SECOND);
    world.lookup("second");
    world.respond(backend, "v");
    assert_eq!(world.asked(backend), "first");
}

#[test]
fn a_free_connection_is_used_whatever_one_key_has_taken() {
    for later in [1, 5, 9, 11] {
        let mut world = World::with_alias(&["--option", "alias:connections=1"]);
        world.lookup("hangs");
        let first = world.accept();
        world.asked(first);
        world.wait(later * SECOND);
        let fine = world.lookup("fine");
        world.wait((20 - later) * SECOND);
        assert_eq!(served(&mut world, fine), "4:OK v,", "after {later} s");
    }
}

#[test]
fn a_resent_lookup_gets_its_connection_also_at_the_limit_of_descriptors() {
    let table = |name: &'static str, host: &str| {
        ["--name", name, "--type", "url", "--param", String::leak(format!("http://{host}/{name}/§"))]
    };
    let mut world = World::new(&[table("dane", "192.0.2.1"), table("alias", "192.0.2.2")].concat());
    world.engine.set_backend_descriptors(6);
    let dane = world.client(Mode::Postfix);
    let ask_dane = |world: &mut World, at: u32| {
        let text = format!("dane {at}");
        world.send(dane, format!("{}:{text},", text.len()).as_bytes());
    };
    let warm = [world.lookup("warm1"), world.lookup("warm2")];
    while let Some(backend) = world.next_asked() {
        world.respond(backend, "v");
    }
    warm.into_iter().for_each(|client| assert_eq!(world.taken(client), "4:OK v,"));
    let victim = world.lookup("victim");
    let broken = world.next_asked().unwrap();
    let mut others = vec![world.lookup("other")];
    let busy = world.next_asked().unwrap();
    (0..50).for_each(|at| ask_dane(&mut world, at));
    while !world.connecting.is_empty() {
        world.accept();
    }
    world.end(broken, End::Closed(Some(ErrorKind::ConnectionReset)));
    let mut hung: Vec<Peer> = Vec::new();
    for at in 0..100 {
        others.push(world.lookup(&format!("other{at}")));
        if world.is_open(busy) {
            world.respond(busy, "v");
        }
        world.wait(100 * MS);
        while let Some((peer, request)) = world.next_request() {
            if request.contains("/alias/") && peer != busy {
                world.respond(peer, "v");
            } else {
                hung.push(peer);
            }
        }
        if !world.taken(victim).is_empty() {
            return;
        }
    }
    panic!("the lookup starves");
}

#[test]
fn keys_behind_one_that_hangs_do_not_count_against_the_backend() {
    let options = ["--timeout", "2", "--option", "alias:pipeline=16", "--option", "alias:keepalive=60"];
    let mut world = World::with_alias(&options);
    let client = world.client(Mode::Postfix);
    world.ask(client, "warm");
    let backend = world.accept();
    world.asked(backend);
    world.respond(backend, "v");
    let mut requests = Vec::new();
    for key in ["hangs", "a", "b", "c", "d", "e"] {
        podop::wire::netstring::encode(&[b"alias ", key.as_bytes()], &mut requests);
    }
    world.send(client, &requests);
    assert_eq!(world.asked_all(backend).len(), 6);
    world.wait(2 * SECOND);
    world.taken(client);
    let other = world.lookup("good");
    assert_eq!(served(&mut world, other), "4:OK v,");
}

#[test]
fn a_connect_timeout_counts_only_for_lookups_that_have_waited_for_it() {
    let mut world = World::with_alias(&["--timeout", "20", "--option", "alias:connections=1"]);
    world.lookup("0");
    world.wait(2999 * MS);
    for at in 1..5 {
        world.lookup(&at.to_string());
    }
    world.wait(2 * MS);
    let next = world.lookup("next");
    assert_eq!(world.taken(next), "", "it is tried");
}

#[test]
fn a_reason_names_the_replica_that_is_down() {
    let mut world = replicas(&["--timeout", "20"]);
    let burst: Vec<Peer> = (0..20).map(|at| world.lookup(&at.to_string())).collect();
    serve(&mut world, "192.0.2.2");
    world.wait(20 * SECOND); // .1 has closed its idle connections by now
    burst.into_iter().for_each(|client| drop(world.taken(client)));
    let clients = [world.lookup("one"), world.lookup("two")];
    world.wait(2 * SECOND);
    while !world.connecting.is_empty() && world.connecting.iter().any(|(_, at)| format!("{at:?}").contains("192.0.2.1"))
    {
        world.refuse();
    }
    for client in clients {
        let reply = world.taken(client);
        assert!(!reply.contains("down: ,"), "{reply}");
        assert!(reply.is_empty() || reply.contains("192.0.2.2 is marked down: did not answer in time"), "{reply}");
    }
}

#[test]
fn a_full_queue_sends_lookups_to_the_other_replica() {
    let mut world = replicas(&["--timeout", "20", "--option", "alias:connections=1"]);
    let (one, two) = (world.lookup("x"), world.lookup("bad"));
    let (first, second) = (world.accept(), world.accept());
    world.asked(first);
    world.send(second, b"HTTP/1.1 503 Slow\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n");
    world.respond(first, "v");
    while let Some(backend) = world.next_asked() {
        world.respond(backend, "v");
    }
    assert_eq!([world.taken(one), world.taken(two)], ["4:OK v,", "4:OK v,"]);
    for at in 0..11 {
        let client = world.client(Mode::Postfix);
        let mut requests = Vec::new();
        for key in 0..1000 {
            podop::wire::netstring::encode(&[b"alias ", format!("k{at}-{key}").as_bytes()], &mut requests);
        }
        world.send(client, &requests);
    }
    let last = world.lookup("last");
    assert_eq!(world.taken(last), "", "it waits for the other replica");
}

#[test]
fn a_backend_that_hangs_leaves_descriptors_to_the_others() {
    let table = |name: &'static str, host: &str| {
        ["--name", name, "--type", "url", "--param", String::leak(format!("http://{host}/{name}/§"))]
    };
    let args = [table("dane", "192.0.2.1"), table("alias", "192.0.2.2")].concat();
    let mut world = World::new(&args);
    world.engine.set_backend_descriptors(10);
    let client = world.client(Mode::Postfix);
    for at in 0..50 {
        let text = format!("dane {at}");
        world.send(client, format!("{}:{text},", text.len()).as_bytes());
    }
    let (mut made, good) = (0, world.lookup("good"));
    while let Some((_, address)) = world.connecting.front() {
        made += u32::from(format!("{address:?}").contains("192.0.2.1"));
        let backend = world.accept();
        if world.asked(backend) == "good" {
            world.respond(backend, "v");
        }
    }
    assert_eq!((made, world.taken(good).as_str()), (8, "4:OK v,"));
}

#[test]
fn a_lookup_that_broke_anywhere_is_sent_to_another_replica() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\"".to_vec();
    let cases: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        ("a response that breaks", half),
        ("an invalid response", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n".to_vec()),
        ("too many requests", response(429, "")),
        ("no response", Vec::new()),
    ]);
    for (name, bytes) in cases {
        let mut world = replicas(&["--timeout", "20"]);
        let client = world.lookup("k");
        let first = world.accept();
        world.asked(first);
        world.send(first, &bytes);
        if world.is_open(first) && name != "too many requests" {
            world.end(first, End::HalfClosed);
        }
        assert_eq!(served(&mut world, client), "4:OK v,", "{name}");
    }
}

#[test]
fn an_answer_to_a_question_from_before_a_reload_is_not_good_for_long() {
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", "http://name/§"]);
    world.lookup("a");
    world.engine.reload();
    world.process();
    world.resolve(Ok(&["192.0.2.1:80"]));
    world.wait(MS);
    assert!(!world.resolving.is_empty(), "it is asked for again");
}

#[test]
fn a_descriptor_that_another_backend_gives_up_is_used_at_once() {
    let url = |host: u8| format!("http://192.0.2.{host}/§");
    let (one, two) = (url(1), url(2));
    let mut args = vec!["--name", "one", "--type", "url", "--param", &one, "--option", "one:keepalive=2"];
    args.extend(["--name", "two", "--type", "url", "--param", &two]);
    let mut world = World::new(&args);
    // Two, besides one that each backend may have in any case.
    world.engine.set_backend_descriptors(4);
    let client = world.client(Mode::Postfix);
    world.send(client, b"5:one a,");
    let idle = world.accept();
    world.taken(idle);
    world.respond(idle, "v");
    world.send(client, b"5:two a,");
    let busy = world.accept();
    assert_eq!(world.asked(busy), "a");
    // No descriptor is left for the second lookup, until the idle connection is closed.
    let other = world.client(Mode::Postfix);
    world.send(other, b"5:two b,");
    world.wait(SECOND);
    assert!(world.connecting.is_empty());
    while world.is_open(idle) {
        let next = world.engine.deadline().expect("a time for the idle connection");
        world.pass(next.saturating_duration_since(world.now));
    }
    assert_eq!(world.connecting.len(), 1, "nothing else has happened that could wake it");
}
