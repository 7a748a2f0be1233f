//! Lookups sent ahead on one connection, in memory: whose answer is whose, and what a break costs.

use crate::support;

use podop::config::Mode;
use podop::io::{End, Peer};
use std::io::ErrorKind;
use support::world::{MS, SECOND, World, response};

const RESET: End = End::Closed(Some(ErrorKind::ConnectionReset));

#[test]
fn lookups_that_share_a_connection_get_their_own_answers() {
    let (mut world, client, backend) = start(&["--option", "alias:pipeline=3"]);
    ask(&mut world, client, &["a", "b", "c", "d"]);
    assert_eq!(world.asked_all(backend), ["a", "b", "c"], "and the fourth waits");
    let answers = [answer("a"), answer("b"), answer("c")].concat();
    for byte in answers.chunks(7) {
        world.send(backend, byte);
    }
    assert_eq!(world.taken(client), "4:OK a,4:OK b,4:OK c,");
    assert_eq!(world.asked_all(backend), ["d"]);
    world.send(backend, &answer("d"));
    assert_eq!(world.taken(client), "4:OK d,");
    assert!(world.is_open(backend));
}

#[test]
fn a_new_connection_takes_one_request_until_it_has_answered() {
    let mut world = World::with_alias(&["--option", "alias:pipeline=16", "--option", "alias:connections=1"]);
    let client = world.client(Mode::Postfix);
    ask(&mut world, client, &["a", "b", "c"]);
    let backend = world.accept();
    assert_eq!(world.asked_all(backend), ["a"]);
    world.send(backend, &answer("a"));
    assert_eq!(world.asked_all(backend), ["b", "c"]);
}

#[test]
fn nothing_is_added_to_what_has_left() {
    let (mut world, client, backend) = start(&["--option", "alias:pipeline=16", "--option", "alias:connections=1"]);
    ask(&mut world, client, &["a", "b"]);
    assert_eq!(world.asked_all(backend), ["a", "b"]);
    ask(&mut world, client, &["c", "d"]);
    assert!(world.asked_all(backend).is_empty());
    world.send(backend, &answer("a"));
    assert!(world.asked_all(backend).is_empty());
    world.send(backend, &answer("b"));
    assert_eq!(world.asked_all(backend), ["c", "d"]);
}

#[test]
fn a_write_goes_alone() {
    let (mut world, _, backend) = start(&["--option", "alias:pipeline=16", "--option", "alias:connections=1"]);
    let dict = world.client(Mode::Dovecot);
    world.send(dict, b"H4\t0\t0\t\talias\nB1\tu\nS1\tshared/k\tv\nC1\nLshared/a\tu\nLshared/b\tu\n");
    assert!(world.taken(backend).starts_with("POST /a/k "));
    world.send(backend, &answer("x"));
    assert_eq!(world.asked_all(backend), ["a", "b"]);
    world.send(dict, b"B2\tu\nS2\tshared/k\tv\nC2\n");
    assert_eq!(world.taken(backend), "");
    world.send(backend, &[answer("a"), answer("b")].concat());
    assert!(world.taken(backend).starts_with("POST /a/k "));
}

#[test]
fn requests_behind_a_broken_answer_are_retried_once() {
    let (mut world, client, backend) = start(&["--option", "alias:pipeline=16"]);
    ask(&mut world, client, &["a", "b", "c"]);
    world.asked_all(backend);
    // A half answer belongs to the first of the rest, which gets no second chance.
    let half = &answer("b")[..20];
    world.send(backend, &[&answer("a")[..], half].concat());
    world.end(backend, RESET);
    assert_eq!(world.taken(client), "4:OK a,60:TEMP alias: 192.0.2.1 broke the connection: connection reset,");
    let again = world.accept();
    assert_eq!(world.asked_all(again), ["c"]);
    world.end(again, RESET);
    assert!(world.taken(client).contains("TEMP alias: 192.0.2.1 broke the connection"), "once, not twice");
    assert!(world.connecting.is_empty());
}

#[test]
fn requests_behind_an_announced_close_keep_their_retry() {
    let (mut world, client, backend) = start(&["--option", "alias:pipeline=3", "--option", "alias:connections=1"]);
    // It has shown that it can pipeline, so its closing is not held against it.
    ask(&mut world, client, &["1", "2"]);
    world.asked_all(backend);
    world.send(backend, &[answer("1"), answer("2")].concat());
    world.taken(client);

    ask(&mut world, client, &["a", "b", "c"]);
    world.asked_all(backend);
    world.send(backend, &last("a"));
    assert!(!world.is_open(backend));
    let backend = world.accept();
    assert_eq!(world.asked_all(backend), ["b"], "a new connection takes one");
    world.send(backend, &answer("b"));
    assert_eq!(world.asked_all(backend), ["c"]);
    world.end(backend, RESET);
    let backend = world.accept();
    assert_eq!(world.asked_all(backend), ["c"]);
    world.send(backend, &answer("c"));
    assert_eq!(world.taken(client), "4:OK a,4:OK b,4:OK c,");
    ask(&mut world, client, &["d", "e"]);
    assert_eq!(world.asked_all(backend), ["d", "e"]);
}

#[test]
fn a_backend_that_closes_early_is_asked_one_at_a_time() {
    let (mut world, client, backend) = start(&["--option", "alias:pipeline=16", "--option", "alias:connections=1"]);
    ask(&mut world, client, &["a", "b", "c"]);
    assert_eq!(world.asked_all(backend).len(), 3);
    world.send(backend, &last("a"));
    let backend = world.accept();
    for key in ["b", "c"] {
        assert_eq!(world.asked_all(backend), [key]);
        world.send(backend, &answer(key));
    }
    assert_eq!(world.taken(client), "4:OK a,4:OK b,4:OK c,");
    ask(&mut world, client, &["d", "e"]);
    assert_eq!(world.asked_all(backend), ["d"]);
    world.send(backend, &answer("d"));
    world.send(backend, &answer("e"));
    world.taken(client);

    world.engine.reload();
    world.wait(2 * SECOND); // until the connection that was opened before has gone
    ask(&mut world, client, &["f"]);
    let backend = world.accept();
    world.asked_all(backend);
    world.send(backend, &answer("f"));
    ask(&mut world, client, &["g", "h"]);
    assert_eq!(world.asked_all(backend), ["g", "h"], "a reload gives it another chance");
}

#[test]
fn a_backend_that_breaks_off_twice_is_asked_one_at_a_time() {
    let (mut world, client, mut backend) = start(&["--option", "alias:pipeline=16"]);
    for keys in [["a", "b"], ["c", "d"]] {
        ask(&mut world, client, &keys);
        assert_eq!(world.asked_all(backend), keys);
        world.end(backend, End::HalfClosed);
        for key in keys {
            backend = world.accept();
            assert_eq!(world.asked_all(backend), [key], "each on a connection of its own");
            world.send(backend, &answer(key));
        }
        assert_eq!(world.taken(client).matches("OK ").count(), 2);
        // Only the connection that was used last is of interest from here on.
        world.pass(1400 * MS);
        ask(&mut world, client, &["x"]);
        world.asked_all(backend);
        world.send(backend, &answer("x"));
        world.taken(client);
        world.pass(200 * MS);
    }
    ask(&mut world, client, &["e", "f"]);
    assert_eq!(world.asked_all(backend), ["e"]);
}

#[test]
fn a_late_answer_is_not_taken_for_the_next() {
    let args = ["--name", "alias", "--type", "url", "--param", "http://192.0.2.1/a/§"];
    let quick = ["--name", "quick", "--type", "url", "--param", "http://192.0.2.1/a/§", "--option", "quick:timeout=1"];
    let mut world = World::new(&[&args[..], &quick, &["--option", "*:pipeline=16"]].concat());
    let client = world.lookup("warm");
    let backend = world.accept();
    world.asked_all(backend);
    world.send(backend, &answer("warm"));
    world.taken(client);

    world.send(client, b"7:alias a,7:quick b,7:alias c,");
    assert_eq!(world.asked_all(backend), ["a", "b", "c"]);
    world.wait(SECOND);
    assert!(world.is_open(backend), "the first of them still has time");
    world.send(backend, &[answer("a"), answer("b"), answer("c")].concat());
    let replies = world.taken(client);
    assert_eq!(replies, "4:OK a,47:TIMEOUT quick: 192.0.2.1 did not answer in time,4:OK c,");

    // The one whose response is due is late: those that wait behind it are sent elsewhere.
    world.send(client, b"7:quick d,7:alias e,");
    assert_eq!(world.asked_all(backend), ["d", "e"]);
    world.wait(SECOND);
    assert!(!world.is_open(backend));
    let other = world.accept();
    assert_eq!(world.asked_all(other), ["e"]);
    world.send(other, &answer("e"));
    assert_eq!(world.taken(client), "47:TIMEOUT quick: 192.0.2.1 did not answer in time,4:OK e,");
}

#[test]
fn an_answer_to_a_request_that_has_not_left_is_no_answer() {
    let (mut world, client, backend) = start(&["--option", "alias:pipeline=16"]);
    world.block(backend, true);
    ask(&mut world, client, &["a", "b"]);
    let first = world.engine.output(backend).windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at + 4);
    world.trickle(backend, first);
    world.send(backend, &[answer("a"), answer("b")].concat());
    assert_eq!(world.taken(client), "4:OK a,");
    assert!(!world.is_open(backend), "who answers b has not been asked for it");
    let other = world.accept();
    assert_eq!(world.asked_all(other), ["b"]);
}

/// A client, and a connection that has answered once.
fn start(args: &[&str]) -> (World, Peer, Peer) {
    let mut world = World::with_alias(args);
    let client = world.lookup("warm");
    let backend = world.accept();
    world.asked_all(backend);
    world.send(backend, &answer("warm"));
    world.taken(client);
    (world, client, backend)
}

/// Requests that arrive together.
fn ask(world: &mut World, client: Peer, keys: &[&str]) {
    let mut bytes = Vec::new();
    keys.iter().for_each(|key| podop::wire::netstring::encode(&[b"alias ", key.as_bytes()], &mut bytes));
    world.send(client, &bytes);
}

fn answer(text: &str) -> Vec<u8> {
    response(200, &format!("\"{text}\""))
}

/// An answer after which the connection ends.
fn last(text: &str) -> Vec<u8> {
    let text = String::from_utf8(answer(text)).expect("text");
    text.replacen("\r\n", "\r\nConnection: close\r\n", 1).into_bytes()
}

#[test]
fn a_connection_that_owes_an_answer_to_no_one_is_closed() {
    let args = ["--name", "alias", "--type", "url", "--param", "http://192.0.2.1/a/§"];
    let quick = ["--name", "quick", "--type", "url", "--param", "http://192.0.2.1/a/§", "--option", "quick:timeout=1"];
    let options = ["--option", "*:pipeline=16", "--option", "*:connections=1"];
    let mut world = World::new(&[&args[..], &quick, &options].concat());
    let client = world.lookup("warm");
    let backend = world.accept();
    world.asked_all(backend);
    world.send(backend, &answer("warm"));
    world.taken(client);

    world.send(client, b"7:alias a,7:quick b,");
    assert_eq!(world.asked_all(backend), ["a", "b"]);
    world.wait(SECOND);
    world.send(backend, &answer("a"));
    assert_eq!(world.taken(client), "4:OK a,47:TIMEOUT quick: 192.0.2.1 did not answer in time,");
    assert!(!world.is_open(backend), "nothing else would ever close it");
    world.ask(client, "c");
    let backend = world.accept();
    assert_eq!(world.asked_all(backend), ["c"]);
}
