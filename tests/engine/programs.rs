//! The table type program: lines to processes, and what their answers and their ends come to.

use crate::support;

use podop::config::Mode;
use podop::io::{End, Peer, ProgramSignal};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;
use support::world::{MS, SECOND, World};

/// A table `alias` of `cat`, which is never run: the test plays its processes.
fn world_of(more: &[&str]) -> World {
    let table = ["--name", "alias", "--type", "program", "--param", "cat"];
    let settings = more.iter().flat_map(|setting| ["--option".to_owned(), format!("alias:{setting}")]);
    let args: Vec<String> = table.iter().map(|arg| (*arg).to_owned()).chain(settings).collect();
    let mut world = World::new(&args.iter().map(String::as_str).collect::<Vec<_>>());
    world.engine.start(world.now);
    world.process();
    world
}

/// With one process that has one request at a time.
fn world() -> World {
    world_of(&["processes=1"])
}

/// The id and the rest of the next line.
fn asked(world: &mut World) -> (Peer, u64, String) {
    let (peer, line) = world.next_line().expect("a request");
    let (id, rest) = line.strip_prefix("{\"id\":").and_then(|rest| rest.split_once(',')).expect("an id");
    (peer, id.parse().expect("a number"), rest.trim_end_matches('}').to_owned())
}

fn answer(world: &mut World, peer: Peer, id: u64, members: &str) {
    world.send(peer, format!("{{\"id\":{id},{members}}}\n").as_bytes());
}

/// Answers the next request.
fn respond(world: &mut World, members: &str) -> String {
    let (peer, id, request) = asked(world);
    answer(world, peer, id, members);
    request
}

/// A Dovecot client that has said hello.
fn dict(world: &mut World) -> Peer {
    let client = world.client(Mode::Dovecot);
    world.send(client, b"H4\t0\t0\t\talias\n");
    world.taken(client);
    client
}

#[test]
fn answers_become_replies() {
    for (members, reply) in [
        (r#""value":"x@y""#, "6:OK x@y,"),
        (r#""value":["a","b"]"#, "6:OK a,b,"),
        (r#""value":null"#, "9:NOTFOUND ,"),
        (r#""value":[]"#, "9:NOTFOUND ,"),
        (r#""error":"no database""#, "56:TEMP alias: program:alias reported an error: no database,"),
        (r#""done":true"#, "70:TEMP alias: program:alias answered done where it was asked for a value,"),
    ] {
        let mut world = world();
        let client = world.lookup("a@b");
        assert_eq!(respond(&mut world, members), r#""get":"a@b""#);
        assert_eq!(world.taken(client), reply);
    }
}

#[test]
fn the_text_of_an_error_is_a_detail_which_the_status_page_does_not_show() {
    let mut world = world();
    let client = world.lookup("a@b");
    respond(&mut world, r#""error":"where key = 'secret'""#);
    assert!(world.taken(client).contains("reported an error: where key = 'secret'"), "only the mail server gets it");
    let monitor = world.client(Mode::Admin);
    world.block(monitor, true);
    world.send(monitor, b"GET / HTTP/1.1\r\n\r\n");
    let page = String::from_utf8(world.engine.output(monitor).to_vec()).unwrap();
    assert!(page.contains("cause=&quot;reported an error&quot;") && !page.contains("secret"), "{page}");
}

#[test]
fn answers_arrive_in_any_pieces_and_in_any_order() {
    let bytes = |order: [u64; 3]| -> String {
        order.iter().map(|id| format!("{{\"id\":{id},\"value\":\"v{id}\"}}\n")).collect()
    };
    for order in [[1, 2, 3], [3, 1, 2], [2, 3, 1]] {
        for step in 1..bytes(order).len() {
            let mut world = world_of(&["processes=1", "pipeline=3"]);
            let clients: Vec<Peer> = (1..4).map(|at| world.lookup(&format!("k{at}"))).collect();
            let peer = world.processes[0];
            assert_eq!(world.lines(peer).len(), 3);
            bytes(order).as_bytes().chunks(step).for_each(|part| world.send(peer, part));
            for (client, id) in clients.into_iter().zip(1..) {
                assert_eq!(world.taken(client), format!("5:OK v{id},"));
            }
        }
    }
}

#[test]
fn a_process_has_one_request_at_a_time() {
    let mut world = world_of(&["processes=2"]);
    let clients: Vec<Peer> = (0..5).map(|at| world.lookup(&format!("k{at}"))).collect();
    let lines: Vec<usize> = world.processes.clone().into_iter().map(|peer| world.taken(peer).lines().count()).collect();
    assert_eq!(lines, [1, 1]);
    let [one, two] = world.processes[..] else { panic!("two processes") };
    answer(&mut world, two, 1, r#""value":"second""#);
    assert_eq!(world.taken(clients[1]), "9:OK second,");
    assert_eq!(world.lines(two), ["{\"id\":2,\"get\":\"k2\"}"]);
    answer(&mut world, one, 1, r#""value":"first""#);
    assert_eq!(world.lines(one), ["{\"id\":2,\"get\":\"k3\"}"]);
}

#[test]
fn a_slow_key_leaves_the_other_processes_to_the_others() {
    let mut world = world_of(&["processes=2", "timeout=5"]);
    [world.lookup("a"), world.lookup("b")].iter().for_each(|_| drop(respond(&mut world, r#""value":"x""#)));
    world.wait(MS);
    let slow = world.lookup("slow");
    let (hung, ..) = asked(&mut world);
    for at in 0..100 {
        let client = world.lookup(&format!("k{at}"));
        respond(&mut world, r#""value":"x""#);
        assert_eq!(world.taken(client), "4:OK x,");
        world.wait(10 * MS);
    }
    world.wait(SECOND * 5);
    assert_eq!(world.taken(slow), "51:TIMEOUT alias: program:alias did not answer in time,");
    assert!(world.signals.contains(&(hung, ProgramSignal::Term)), "it hangs, and is replaced");
    assert_eq!(world.processes.len(), 3);
    world.wait(SECOND * 3);
    assert!(world.signals.contains(&(hung, ProgramSignal::Kill)));
    world.exit(hung, "was ended by signal 9");
    let client = world.lookup("k");
    respond(&mut world, r#""value":"x""#);
    assert_eq!(world.taken(client), "4:OK x,");
}

#[test]
fn a_late_answer_is_nobody_elses() {
    let mut world = world_of(&["processes=1", "pipeline=2", "timeout=5"]);
    let late = world.lookup("late");
    let (peer, id, _) = asked(&mut world);
    world.wait(SECOND * 4);
    let other = world.lookup("other");
    let (_, other_id, _) = asked(&mut world);
    answer(&mut world, peer, other_id, r#""value":"o""#);
    assert_eq!(world.taken(other), "4:OK o,");
    let third = world.lookup("third");
    let (_, third_id, _) = asked(&mut world);
    world.wait(SECOND + MS);
    assert!(world.taken(late).contains("TIMEOUT"));
    assert!(world.signals.is_empty(), "it has answered another one since");
    answer(&mut world, peer, id, r#""value":"late""#);
    assert_eq!(world.taken(third), "");
    answer(&mut world, peer, third_id, r#""value":"t""#);
    assert_eq!((world.taken(third), world.taken(late)), ("4:OK t,".into(), String::new()));
}

#[test]
fn a_line_that_answers_nothing_ends_the_process() {
    for (line, why) in [
        ("Traceback (most recent call last):\n", "sent a line that is no JSON object"),
        ("\n", "sent a line that is no JSON object"),
        ("{\"id\":1}\n", "sent a line with none of value, rows, done and error"),
        ("{\"id\":2,\"value\":\"x\"}\n", "answered a request that it does not have"),
        ("{\"id\":0,\"value\":\"x\"}\n", "answered a request that it does not have"),
        ("{\"id\":1,\"rows\":[]}\n", "answered with rows where it was asked for no list"),
        (
            "{\"id\":1,\"value\":\"x\",\"value\":\"y\"}\n",
            "sent a line with more than one of value, rows, done and error",
        ),
    ] {
        let mut world = world();
        let client = world.lookup("k");
        for attempt in 1..3 {
            let (peer, ..) = asked(&mut world);
            world.send(peer, line.as_bytes());
            assert_eq!(world.signals.pop(), Some((peer, ProgramSignal::Kill)), "{line}");
            world.send(peer, b"{\"id\":1,\"value\":\"forged\"}\n");
            world.exit(peer, "was ended by signal 9");
            assert_eq!(world.taken(client).is_empty(), attempt == 1, "asked of another one once");
            world.wait(SECOND * 2);
        }
        assert!(world.next_line().is_none());
        let next = world.lookup("next");
        respond(&mut world, r#""value":"x""#);
        assert_eq!(world.taken(next), "4:OK x,");
        let mut again = world_of(&["processes=1"]);
        let client = again.lookup("k");
        for _ in 0..2 {
            let (peer, ..) = asked(&mut again);
            again.send(peer, line.as_bytes());
            again.exit(peer, "was ended by signal 9");
            again.wait(SECOND);
        }
        let reply = again.taken(client);
        assert!(reply.contains(why) && reply.contains(":TEMP alias: program:alias "), "{reply}");
    }
}

#[test]
fn an_endless_line_ends_the_process() {
    let mut world = world();
    let client = world.lookup("k");
    for _ in 0..2 {
        let (peer, ..) = asked(&mut world);
        (0..70).for_each(|_| world.send(peer, &[b'x'; 65_536]));
        assert_eq!(world.signals.pop(), Some((peer, ProgramSignal::Kill)));
        world.exit(peer, "was ended by signal 9");
        world.wait(SECOND);
    }
    assert!(world.taken(client).contains("sent a line longer than 4 MiB"));
}

#[test]
fn an_answer_before_the_request_is_none() {
    let mut world = world();
    let peer = world.processes[0];
    world.block(peer, true);
    let client = world.lookup("k");
    world.send(peer, b"{\"id\":1,\"value\":\"early\"}\n");
    assert_eq!((world.taken(client).as_str(), world.signals.pop()), ("", Some((peer, ProgramSignal::Kill))));
}

#[test]
fn reads_of_a_process_that_ended_are_asked_once_more() {
    let mut world = world_of(&["processes=2"]);
    let client = world.lookup("k");
    let (first, ..) = asked(&mut world);
    world.end(first, End::HalfClosed);
    assert_eq!(world.taken(client), "", "its exit says why");
    world.exit(first, "exited with status 1");
    let (second, id, request) = asked(&mut world);
    assert!(second != first && request == r#""get":"k""#);
    answer(&mut world, second, id, r#""value":"x""#);
    assert_eq!(world.taken(client), "4:OK x,");
}

#[test]
fn a_key_that_ends_each_process_fails_alone() {
    let mut world = world_of(&["processes=2", "pipeline=50"]);
    let poison = world.lookup("poison");
    let innocent: Vec<Peer> = (0..40).map(|at| world.lookup(&format!("k{at}"))).collect();
    for _ in 0..200 {
        let Some((peer, line)) = world.next_line() else {
            world.wait(SECOND / 10);
            continue;
        };
        let id = line.split_once(',').unwrap().0.trim_start_matches("{\"id\":").parse().unwrap();
        if line.contains("poison") {
            world.exit(peer, "exited with status 1");
        } else if world.processes.contains(&peer) {
            answer(&mut world, peer, id, r#""value":"x""#);
        }
    }
    for client in innocent {
        assert_eq!(world.taken(client), "4:OK x,");
    }
    assert_eq!(world.taken(poison), "46:TEMP alias: program:alias exited with status 1,");
}

#[test]
fn processes_are_restarted_slowly() {
    let mut world = world_of(&["processes=4"]);
    let (start, mut starts) = (world.now, 4);
    while world.now < start + SECOND * 20 {
        for peer in world.processes.clone() {
            world.exit(peer, "exited with status 1");
        }
        let before = world.processes.len();
        world.wait(MS * 50);
        starts += world.processes.len() - before;
    }
    assert!((40..=60).contains(&starts), "{starts} in 20 s");
    // While none runs that has ever answered, lookups fail at once.
    for peer in world.processes.clone() {
        world.exit(peer, "exited with status 1");
    }
    let client = world.lookup("k");
    assert_eq!(world.taken(client), "62:TEMP alias: program:alias is marked down: exited with status 1,");
    // One that works is used as soon as it runs.
    world.wait(SECOND * 2);
    let client = world.lookup("k");
    respond(&mut world, r#""value":"x""#);
    assert_eq!(world.taken(client), "4:OK x,");
}

#[test]
fn requests_wait_for_a_process_that_worked_before() {
    let mut world = world();
    world.lookup("k");
    respond(&mut world, r#""value":"x""#);
    let peer = world.processes[0];
    world.exit(peer, "exited with status 0");
    let client = world.lookup("k");
    assert_eq!((world.taken(client).as_str(), world.processes.len()), ("", 0));
    world.wait(MS * 250);
    respond(&mut world, r#""value":"x""#);
    assert_eq!(world.taken(client), "4:OK x,");
}

#[test]
fn a_program_that_cannot_be_started_fails_lookups_at_once() {
    let mut world = world();
    let peer = world.processes[0];
    world.block(peer, true); // nothing is read
    let client = world.lookup("k");
    world.exit(peer, "cannot be started: permission denied");
    let reply = world.taken(client);
    assert!(
        reply.contains("TEMP alias: program:alias is marked down: cannot be started: permission denied"),
        "{reply}"
    );
}

#[test]
fn writes_are_done_failed_or_uncertain() {
    let commit = |members: Option<&str>| {
        let mut world = world();
        let client = dict(&mut world);
        world.send(client, b"B1\t\nS1\tshared/k\tv\nC1\n");
        let (peer, id, request) = asked(&mut world);
        assert_eq!(request, r#""set":"k","value":"v""#);
        match members {
            Some(members) => answer(&mut world, peer, id, members),
            None => world.exit(peer, "exited with status 1"),
        }
        world.wait(SECOND * 3);
        assert!(world.next_line().is_none(), "never twice");
        world.taken(client)
    };
    assert_eq!(commit(Some("\"done\":true")), "O1\n");
    assert!(commit(Some("\"done\":false")).starts_with("F1\t"));
    for uncertain in [Some("\"error\":\"x\""), Some("\"value\":1"), None] {
        assert!(commit(uncertain).starts_with("W1\t"), "{uncertain:?}");
    }
    let mut world = world();
    let client = dict(&mut world);
    world.send(client, b"B1\t\nA1\tshared/k\t5\nC1\n");
    assert_eq!(respond(&mut world, "\"done\":false"), r#""increment":"k","by":5"#);
    assert_eq!(world.taken(client), "N1\n");
    world.send(client, b"B2\t\nU2\tshared/k\nC2\n");
    assert_eq!(respond(&mut world, "\"done\":true"), r#""unset":"k""#);
    assert_eq!(world.taken(client), "O2\n");
}

#[test]
fn a_write_that_was_not_read_is_not_lost_with_its_process() {
    let mut world = world();
    let (client, peer) = (dict(&mut world), world.processes[0]);
    world.lookup("k");
    respond(&mut world, r#""value":"x""#);
    world.block(peer, true);
    world.send(client, b"B1\t\nS1\tshared/k\tv\nC1\n");
    world.exit(peer, "exited with status 1");
    world.wait(SECOND);
    respond(&mut world, "\"done\":true");
    assert_eq!(world.taken(client), "O1\n");
}

#[test]
fn a_write_that_waits_too_long_is_uncertain_if_it_may_still_arrive() {
    let mut world = world_of(&["processes=1", "timeout=5"]);
    let (client, peer) = (dict(&mut world), world.processes[0]);
    world.block(peer, true);
    world.send(client, b"B1\t\nS1\tshared/k\tv\nC1\n");
    world.wait(SECOND * 5);
    assert!(world.taken(client).starts_with("W1\t"));
}

#[test]
fn lists_come_in_pieces() {
    let list = |flags: &str, lines: &[&str]| {
        let mut world = world();
        let client = dict(&mut world);
        world.send(client, format!("I{flags}\t0\tshared/\n").as_bytes());
        let (peer, id, request) = asked(&mut world);
        assert_eq!(request, r#""list":"""#);
        lines.iter().for_each(|members| answer(&mut world, peer, id, members));
        while let Some((peer, line)) = world.next_line() {
            let (id, rest) = line.trim_start_matches("{\"id\":").split_once(',').unwrap();
            let value = rest.trim_start_matches("\"get\":\"").trim_end_matches("\"}");
            answer(&mut world, peer, id.parse().unwrap(), &format!("\"value\":\"v-{value}\""));
        }
        world.taken(client)
    };
    let rows = "Oshared/a\t1\nOshared/b\t2\n\n";
    assert_eq!(list("0", &[r#""value":{"a":"1","b":"2"}"#]), rows);
    assert_eq!(list("0", &[r#""rows":{"a":"1"}"#, r#""rows":{}"#, r#""rows":{"b":"2"}"#, r#""done":true"#]), rows);
    assert_eq!(list("2", &[r#""rows":{"b":"2"}"#, r#""rows":{"a":"1"}"#, r#""done":true"#]), rows, "sorted");
    assert_eq!(list("8", &[r#""rows":["a"]"#, r#""rows":["b"]"#, r#""done":true"#]), "Oshared/a\t\nOshared/b\t\n\n");
    assert_eq!(list("0", &[r#""rows":["a","b"]"#, r#""done":true"#]), "Oshared/a\tv-a\nOshared/b\tv-b\n\n");
    assert_eq!(list("0", &[r#""done":true"#]), "\n");
    assert_eq!(list("0", &[r#""value":null"#]), "\n");
    assert!(
        list("0", &[r#""rows":{"a":"1"}"#, r#""error":"gone""#]).contains("\tF")
            || list("0", &[r#""rows":{"a":"1"}"#, r#""error":"gone""#]).contains('F')
    );
    assert!(list("0", &[r#""rows":{"a":"1"}"#, r#""value":{}"#]).ends_with("answered with rows and with a value\n"));
}

#[test]
fn a_list_whose_process_ends_is_no_whole_list() {
    let mut world = world();
    let client = dict(&mut world);
    world.send(client, b"I0\t0\tshared/\n");
    let (peer, id, _) = asked(&mut world);
    answer(&mut world, peer, id, r#""rows":{"a":"1"}"#);
    world.exit(peer, "exited with status 0");
    world.wait(SECOND);
    let got = world.taken(client);
    assert!(got.starts_with("Oshared/a\t1\nF") && !got.ends_with("\n\n"), "{got}");
}

#[test]
fn a_client_that_does_not_read_its_list_stops_nobody() {
    let mut world = world();
    let client = dict(&mut world);
    world.block(client, true);
    world.send(client, b"I8\t0\tshared/\n");
    let (peer, id, _) = asked(&mut world);
    let rows = (0..10_000).map(|at| format!("\"name{at}\"")).collect::<Vec<_>>().join(",");
    let mut sent = 0;
    while sent < 100 && world.held(peer) == 0 {
        answer(&mut world, peer, id, &format!("\"rows\":[{rows}]"));
        sent += 1;
    }
    assert!((5..30).contains(&sent), "{sent}: its process waits for it");
    // Another client needs the process.
    let other = world.lookup("k");
    while world.held(peer) == 0 && sent < 200 {
        answer(&mut world, peer, id, &format!("\"rows\":[{rows}]"));
        sent += 1;
        if !world.taken(client).is_empty() {
            break;
        }
        if sent == 60 {
            answer(&mut world, peer, id, "\"done\":true");
            break;
        }
    }
    assert_eq!(world.held(peer), 0, "it is read on");
    respond(&mut world, r#""value":"x""#);
    assert_eq!(world.taken(other), "4:OK x,");
}

#[test]
fn ten_thousand_lookups_in_flight_have_their_own_answers() {
    let mut world = world_of(&["processes=4", "pipeline=2500"]);
    let clients: Vec<Peer> = (0..10).map(|_| world.client(Mode::Postfix)).collect();
    for at in 0..9_900 {
        world.ask(clients[at % 10], &format!("k{at}"));
    }
    let mut open: Vec<(Peer, u64, String)> = Vec::new();
    for peer in world.processes.clone() {
        for line in world.lines(peer) {
            let (id, rest) = line.trim_start_matches("{\"id\":").split_once(',').unwrap();
            open.push((
                peer,
                id.parse().unwrap(),
                rest.trim_start_matches("\"get\":\"").trim_end_matches("\"}").to_owned(),
            ));
        }
    }
    assert_eq!(open.len(), 9_900);
    for (peer, id, key) in open.into_iter().rev() {
        answer(&mut world, peer, id, &format!("\"value\":\"v-{key}\""));
    }
    let replies: Vec<String> = clients.iter().map(|client| world.taken(*client)).collect();
    for (at, reply) in replies.iter().enumerate() {
        let expected: String = (0..990)
            .map(|step| {
                let text = format!("OK v-k{}", step * 10 + at);
                format!("{}:{text},", text.len())
            })
            .collect();
        assert_eq!(*reply, expected);
    }
}

#[test]
fn waiting_requests_are_bounded() {
    let mut world = world();
    let clients: Vec<Peer> = (0..11).map(|_| world.client(Mode::Postfix)).collect();
    for at in 0..10_005 {
        world.ask(clients[at / 950], &format!("k{at}"));
    }
    world.wait(SECOND * 20);
    let replies: String = clients.iter().map(|client| world.taken(*client)).collect();
    assert_eq!(replies.matches("is overloaded: 10000 requests are waiting").count(), 4);
    assert_eq!(replies.matches("TIMEOUT").count(), 10_001);
}

#[test]
fn reload_replaces_processes_without_losing_a_lookup() {
    let mut world = world();
    let client = world.lookup("k");
    let (old, id, _) = asked(&mut world);
    world.engine.reload();
    world.process();
    assert_eq!(world.processes.len(), 2);
    assert!(world.signals.is_empty(), "it has a request");
    let next = world.lookup("n");
    let (new, new_id, _) = asked(&mut world);
    assert_ne!(new, old);
    answer(&mut world, new, new_id, r#""value":"new""#);
    assert_eq!((world.taken(next).as_str(), world.signals.len()), ("6:OK new,", 0));
    answer(&mut world, old, id, r#""value":"old""#);
    assert_eq!((world.taken(client).as_str(), world.signals.pop()), ("6:OK old,", Some((old, ProgramSignal::Term))));
    world.exit(old, "was ended by signal 15");
    assert_eq!(world.processes.len(), 1);
}

#[test]
fn a_slow_list_is_no_reason_to_end_a_process() {
    let mut world = world_of(&["processes=1", "pipeline=4", "timeout=3"]);
    let (one, two) = (dict(&mut world), dict(&mut world));
    world.send(one, b"I2\t0\tshared/\n");
    let (peer, list, _) = asked(&mut world);
    world.send(two, b"B1\t\nS1\tshared/k\tv\nC1\n");
    let (_, write, _) = asked(&mut world);
    // One that is to be sorted may be too long; another one is not read by its client.
    let rows = format!("\"rows\":[\"{}\"]", "x".repeat(2_100_000));
    (0..2).for_each(|_| answer(&mut world, peer, list, &rows));
    assert!(world.taken(one).contains("answered with a list longer than 4 MiB"));
    assert!(world.signals.is_empty() && world.next_line().is_none());
    answer(&mut world, peer, write, "\"done\":true");
    assert_eq!(world.taken(two), "O1\n");
    answer(&mut world, peer, list, "\"done\":true");
    world.wait(SECOND * 30);
    assert!(world.signals.is_empty());
    world.block(one, true);
    world.send(one, b"I8\t0\tshared/\n");
    let (_, list, _) = asked(&mut world);
    let rows = (0..10_000).map(|at| format!("\"name{at}\"")).collect::<Vec<_>>().join(",");
    (0..20).for_each(|_| answer(&mut world, peer, list, &format!("\"rows\":[{rows}]")));
    assert!(world.held(peer) > 0);
    world.wait(SECOND * 4);
    assert_eq!(world.held(peer), 0, "the rest is read and dropped");
    answer(&mut world, peer, list, "\"done\":true");
    world.wait(SECOND * 10);
    assert!(world.signals.is_empty());
}

#[test]
fn a_paused_list_holds_up_no_other_request_of_its_process() {
    let mut world = world_of(&["processes=1", "pipeline=2"]);
    let client = dict(&mut world);
    world.block(client, true);
    world.send(client, b"I8\t0\tshared/\n");
    let (peer, id, _) = asked(&mut world);
    let rows = (0..10_000).map(|at| format!("\"name{at}\"")).collect::<Vec<_>>().join(",");
    (0..20).for_each(|_| answer(&mut world, peer, id, &format!("\"rows\":[{rows}]")));
    assert!(world.held(peer) > 0);
    let other = world.lookup("k");
    respond(&mut world, r#""value":"x""#);
    assert_eq!(world.taken(other), "4:OK x,");
}

#[test]
fn suspects_are_asked_alone_and_others_after_them() {
    let mut world = world_of(&["processes=1", "pipeline=50"]);
    let suspects: Vec<Peer> = (0..10).map(|at| world.lookup(&format!("s{at}"))).collect();
    let peer = world.processes[0];
    assert_eq!(world.lines(peer).len(), 10);
    world.exit(peer, "exited with status 1");
    let client = world.lookup("new");
    world.wait(SECOND);
    let peer = world.processes[0];
    for (at, suspect) in suspects.into_iter().enumerate() {
        assert_eq!(world.lines(peer), [format!("{{\"id\":{},\"get\":\"s{at}\"}}", at + 1)]);
        answer(&mut world, peer, at as u64 + 1, r#""value":"x""#);
        assert_eq!(world.taken(suspect), "4:OK x,");
    }
    answer(&mut world, peer, 11, r#""value":"x""#);
    assert_eq!(world.taken(client), "4:OK x,");
}

#[test]
fn one_process_is_for_suspects_and_the_others_are_for_the_rest() {
    let mut world = world_of(&["processes=2", "pipeline=4"]);
    let poison = world.lookup("poison");
    let (peer, ..) = asked(&mut world);
    let keys: Vec<Peer> = (0..6).map(|at| world.lookup(&format!("k{at}"))).collect();
    world.exit(peer, "exited with status 1");
    // The other process had some, too: the poison waits until it has one for itself.
    let mut alone = false;
    for _ in 0..100 {
        let Some((peer, line)) = world.next_line() else {
            world.wait(MS * 50);
            continue;
        };
        let id = line.split_once(',').unwrap().0.trim_start_matches("{\"id\":").parse().unwrap();
        if line.contains("poison") {
            alone = world.lines(peer).is_empty();
            world.exit(peer, "exited with status 1");
        } else {
            answer(&mut world, peer, id, r#""value":"x""#);
        }
    }
    assert!(alone);
    assert!(world.taken(poison).contains("TEMP"));
    keys.into_iter().for_each(|client| assert_eq!(world.taken(client), "4:OK x,"));
}

#[test]
fn a_lookup_whose_process_has_ended_does_not_starve() {
    let mut world = world_of(&["processes=1", "timeout=5"]);
    let victim = world.lookup("victim");
    let (peer, ..) = asked(&mut world);
    world.exit(peer, "exited with status 0");
    for at in 0..60 {
        world.lookup(&format!("k{at}"));
        world.wait(MS * 50);
        if let Some((peer, line)) = world.next_line() {
            let id = line.split_once(',').unwrap().0.trim_start_matches("{\"id\":").parse().unwrap();
            answer(&mut world, peer, id, r#""value":"x""#);
        }
    }
    assert_eq!(world.taken(victim), "4:OK x,");
}

#[test]
fn places_of_answers_that_never_come_are_not_lost() {
    let mut world = world_of(&["processes=1", "pipeline=2", "timeout=5"]);
    world.lookup("never");
    let (peer, ..) = asked(&mut world);
    for at in 0..60 {
        world.lookup(&format!("k{at}"));
        if let Some((_, line)) = world.next_line() {
            let id = line.split_once(',').unwrap().0.trim_start_matches("{\"id\":").parse().unwrap();
            answer(&mut world, peer, id, r#""value":"x""#);
        }
        world.wait(MS * 200);
        if world.signals.contains(&(peer, ProgramSignal::Term)) {
            return;
        }
    }
    panic!("it is replaced");
}

#[test]
fn a_write_that_is_late_is_not_carried_out_later() {
    let mut world = world_of(&["processes=1", "timeout=2", "cache=3600"]);
    let client = dict(&mut world);
    world.send(client, b"B1\t\nS1\tshared/k\tv\nC1\n");
    let (peer, ..) = asked(&mut world);
    world.wait(SECOND * 2);
    assert!(world.taken(client).starts_with("W1\t"));
    assert!(world.signals.contains(&(peer, ProgramSignal::Kill)), "at once");
}

#[test]
fn all_of_a_list_is_read_though_its_process_has_ended() {
    let mut world = world();
    let client = dict(&mut world);
    world.block(client, true);
    world.send(client, b"I8\t0\tshared/\n");
    let (peer, id, _) = asked(&mut world);
    let rows = (0..1_000).map(|at| format!("\"name{at}\"")).collect::<Vec<_>>().join(",");
    while world.held(peer) == 0 {
        answer(&mut world, peer, id, &format!("\"rows\":[{rows}]"));
    }
    answer(&mut world, peer, id, "\"done\":true");
    world.engine.ended(peer, End::Closed(None), world.now);
    for _ in 0..10 {
        world.turn_of(&[peer]); // as the reactor does before it reports the end
    }
    assert_eq!(world.held(peer), 0);
    world.exit(peer, "exited with status 0");
    world.block(client, false);
    let got = world.taken(client);
    assert!(got.lines().count() > 1 && !got.contains("\nF"), "{}", &got[got.len() - 100..]);
}

#[test]
fn a_crash_loop_starts_one_process_at_a_time() {
    let mut world = world();
    let mut starts = 1;
    for _ in 0..200 {
        if let Some(peer) = world.processes.first().copied() {
            world.engine.ended(peer, End::HalfClosed, world.now);
            world.process();
            assert_eq!(world.processes.len(), 1, "not before it has ended");
            world.exit(peer, "exited with status 1");
        }
        let before = world.processes.len();
        world.wait(MS * 100);
        starts += world.processes.len() - before;
    }
    assert!((8..=14).contains(&starts), "{starts} in 20 s");
}

#[test]
fn null_is_a_miss_also_where_a_part_is_selected() {
    for (value, reply) in [("null", "NOTFOUND "), (r#"{"goto":"x"}"#, "OK x"), (r#"{"goto":null}"#, "NOTFOUND ")] {
        let mut world = world_of(&["processes=1", "select=/goto"]);
        let client = world.lookup("k");
        respond(&mut world, &format!("\"value\":{value}"));
        assert_eq!(world.taken(client), format!("{}:{reply},", reply.len()));
    }
}

#[test]
fn a_process_may_take_long_to_start() {
    let mut world = world_of(&["processes=1", "timeout=2"]);
    for at in 0..60 {
        world.lookup(&format!("k{at}"));
        world.wait(MS * 100);
    }
    assert!(world.signals.is_empty() && world.processes.len() == 1);
    world.wait(SECOND * 30);
    assert!(!world.signals.is_empty(), "but not forever");
}

#[test]
fn nothing_is_believed_after_garbage_also_from_a_process_that_ends() {
    let mut world = world();
    let client = world.lookup("k");
    let (peer, id, _) = asked(&mut world);
    world.end(peer, End::Closed(None));
    world.engine.received(peer, b"garbage\n", world.now);
    world.engine.received(peer, format!("{{\"id\":{id},\"value\":\"x\"}}\n").as_bytes(), world.now);
    world.process();
    assert_eq!(world.taken(client), "");
    assert!(world.signals.contains(&(peer, ProgramSignal::Kill)));
}

#[test]
fn rows_of_a_list_that_was_given_up_are_no_sign_of_life() {
    let mut world = world_of(&["processes=1", "pipeline=100", "timeout=2"]);
    world.lookup("first");
    respond(&mut world, r#""value":"x""#);
    let client = dict(&mut world);
    world.send(client, b"I8\t0\tshared/\n");
    let (peer, id, _) = asked(&mut world);
    world.wait(SECOND * 3);
    for at in 0..100 {
        world.lookup(&format!("k{at}"));
        if world.processes.contains(&peer) {
            answer(&mut world, peer, id, r#""rows":[]"#);
        }
        world.wait(MS * 100);
        if world.signals.iter().any(|(other, _)| *other == peer) {
            assert!(at < 60, "{at}");
            return;
        }
    }
    panic!("it is not replaced");
}

#[test]
fn a_key_that_has_ended_processes_fails_no_other_later() {
    let mut world = world();
    let poison = world.lookup("poison");
    for _ in 0..2 {
        let (peer, ..) = asked(&mut world);
        world.exit(peer, "exited with status 1");
        if world.taken(poison).is_empty() {
            world.wait(SECOND);
        }
    }
    let client = world.lookup("k");
    world.wait(SECOND * 2);
    respond(&mut world, r#""value":"x""#);
    assert_eq!(world.taken(client), "4:OK x,");
}

#[test]
fn a_flood_on_stderr_takes_no_time() {
    let mut world = world();
    let Peer::Program(key) = world.processes[0] else { panic!("a process") };
    let since = std::time::Instant::now();
    for _ in 0..8 {
        world.engine.received(Peer::Stderr(key), &[b'\n'; 65_536], world.now);
        world.engine.received(Peer::Stderr(key), "a\n".repeat(32_768).as_bytes(), world.now);
    }
    assert!(since.elapsed() < SECOND * 5, "{:?}", since.elapsed()); // what is quadratic takes ten times that
}

#[test]
fn a_change_for_the_worse_replaces_nothing() {
    let mut world = world_of(&["processes=3"]);
    let old = world.processes.clone();
    world.engine.reload();
    world.process();
    for at in 0..10 {
        // The new ones cannot be started.
        for new in world.processes.clone().into_iter().filter(|peer| !old.contains(peer)) {
            world.exit(new, "exited with status 1");
        }
        let client = world.lookup(&format!("k{at}"));
        let (peer, id, _) = asked(&mut world);
        assert!(old.contains(&peer));
        answer(&mut world, peer, id, r#""value":"x""#);
        assert_eq!(world.taken(client), "4:OK x,");
        world.wait(MS * 500);
        assert!(world.processes.len() <= 4);
    }
    assert!(world.signals.is_empty());
    // Until one works.
    world.wait(SECOND * 10);
    let ended: Vec<Peer> = std::mem::take(&mut world.signals).into_iter().map(|(peer, _)| peer).collect();
    assert!(old.iter().all(|peer| ended.contains(peer)), "{ended:?}");
}

#[test]
fn stderr_is_logged_and_does_no_harm() {
    let mut world = world();
    let Peer::Program(key) = world.processes[0] else { panic!("a process") };
    for text in [&b"half"[..], b" a line\n\xff\x1b[31m\n", &[b'x'; 100_000], b"\n"] {
        world.engine.received(Peer::Stderr(key), text, world.now);
        world.process();
    }
    let client = world.lookup("k");
    respond(&mut world, r#""value":"x""#);
    assert_eq!(world.taken(client), "4:OK x,");
}

#[test]
fn a_cached_answer_needs_no_process() {
    let mut world = world_of(&["processes=1", "cache=60"]);
    for at in 0..3 {
        let client = world.lookup("k");
        if at == 0 {
            respond(&mut world, r#""value":"x""#);
        }
        assert_eq!(world.taken(client), "4:OK x,");
    }
    assert!(world.next_line().is_none());
}

/// What a process does with a request.
#[derive(Clone, Copy, Debug)]
enum Act {
    Answer,
    Miss,
    Error,
    Hold,
    Garbage,
    WrongId,
    Exit,
    Half,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Whatever processes do: a lookup has one reply before its deadline, which is its own or a fault.
    #[test]
    fn no_lookup_has_another_answer_than_its_own(
        steps in prop::collection::vec((0..4usize, prop::sample::select(vec![
            Act::Answer, Act::Answer, Act::Answer, Act::Miss, Act::Error, Act::Hold, Act::Garbage, Act::WrongId, Act::Exit,
            Act::Half,
        ]), 0..900u64), 1..80),
        processes in 1..4usize,
        pipeline in prop::sample::select(vec![1, 2, 8]),
    ) {
        let mut world = world_of(&[&format!("processes={processes}"), &format!("pipeline={pipeline}"), "timeout=4"]);
        let mut lookups: Vec<(Peer, usize, String)> = Vec::new();
        let mut held: Vec<(Peer, u64, String)> = Vec::new();
        let mut truth: BTreeMap<usize, &str> = BTreeMap::new();
        for (at, (count, act, wait)) in steps.into_iter().enumerate() {
            for extra in 0..count {
                let number = at * 10 + extra;
                let client = world.lookup(&format!("k{number}"));
                lookups.push((client, number, String::new()));
            }
            if let Some((peer, line)) = world.next_line() {
                let (id, rest) = line.trim_start_matches("{\"id\":").split_once(',').unwrap();
                let (id, key) = (id.parse::<u64>().unwrap(), rest.trim_start_matches("\"get\":\"").trim_end_matches("\"}"));
                let number: usize = key[1..].parse().unwrap();
                match act {
                    Act::Answer => answer(&mut world, peer, id, &format!("\"value\":\"v-{key}\"")),
                    Act::Miss => {
                        truth.insert(number, "miss");
                        answer(&mut world, peer, id, "\"value\":null");
                    }
                    Act::Error => answer(&mut world, peer, id, "\"error\":\"x\""),
                    Act::Hold => held.push((peer, id, key.to_owned())),
                    Act::Garbage => world.send(peer, b"garbage\n"),
                    Act::WrongId => world.send(peer, format!("{{\"id\":{},\"value\":\"wrong\"}}\n", id + 100).as_bytes()),
                    Act::Exit => world.exit(peer, "exited with status 1"),
                    Act::Half => world.send(peer, format!("{{\"id\":{id},\"val").as_bytes()),
                }
            }
            if wait % 4 == 0
                && let Some((peer, id, key)) = held.pop()
                && world.processes.contains(&peer)
            {
                answer(&mut world, peer, id, &format!("\"value\":\"v-{key}\""));
            }
            // Whoever is killed ends.
            for (peer, signal) in std::mem::take(&mut world.signals) {
                if signal == ProgramSignal::Kill && world.processes.contains(&peer) {
                    world.exit(peer, "was ended by signal 9");
                }
            }
            world.wait(Duration::from_millis(wait));
            for (client, _, got) in &mut lookups {
                *got += &world.taken(*client);
            }
            prop_assert!(world.processes.len() <= 2 * processes + 1, "{} processes", world.processes.len());
        }
        world.wait(SECOND * 5);
        for (client, number, mut got) in lookups {
            got += &world.taken(client);
            let value = format!("OK v-k{number}");
            let own = got == format!("{}:{value},", value.len());
            let miss = got == "9:NOTFOUND ," && truth.contains_key(&number);
            let fault = (got.contains(":TEMP alias: ") || got.contains(":TIMEOUT alias: ")) && got.matches(" alias: ").count() == 1;
            prop_assert!(own || miss || fault, "k{}: {}", number, got);
        }
    }
}
