//! Policy delegation: requests of smtpd become POSTs of JSON, and actions their replies.

use crate::support;

use podop::config::Mode;
use podop::io::{End, Peer};
use std::io::ErrorKind;
use support::world::{SECOND, World, response};

const REQUEST: &str = "request=smtpd_access_policy\nprotocol_state=RCPT\nsender=s@x\nrecipient=r@y\n\n";
const JSON: &str = r#"{"request":"smtpd_access_policy","protocol_state":"RCPT","sender":"s@x","recipient":"r@y"}"#;
const DEFER: &str = "action=DEFER_IF_PERMIT 4.3.0 Service unavailable\n\n";

fn deciding(more: &[&str]) -> World {
    let table = ["--mode", "policy=policy", "--name", "policy", "--type", "url", "--param", "http://192.0.2.1/decide"];
    World::new(&[&table[..], more].concat())
}

fn ask(world: &mut World) -> Peer {
    let client = world.client(Mode::Policy("policy"));
    world.send(client, REQUEST.as_bytes());
    client
}

#[test]
fn a_request_is_posted_as_json_and_the_text_is_the_action() {
    let mut world = deciding(&[]);
    let client = ask(&mut world);
    world.serve(|method, target, body| {
        assert_eq!((method, target, body), ("POST", "/decide", JSON));
        Some(response(200, "\"REJECT no spam\""))
    });
    assert_eq!(world.taken(client), "action=REJECT no spam\n\n");
    // The connection is kept, and so is that to the backend.
    world.send(client, REQUEST.as_bytes());
    world.serve(|_, _, _| Some(response(200, "OK")));
    assert_eq!(world.taken(client), "action=OK\n\n");
    world.wait(400 * SECOND);
    assert!(world.is_open(client));
    let metrics = world.engine.metrics();
    for (action, count) in [("OK", 1), ("REJECT", 1), ("DUNNO", 0), ("fault", 0)] {
        let line = format!("podop_decisions_total{{table=\"policy\",action=\"{action}\"}} {count}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[test]
fn what_the_backend_says_is_one_decision_and_a_fault_is_never_ok() {
    let cut = |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}").into_bytes();
    for (bytes, end, action) in [
        (response(200, "\"OK\""), None, "action=OK\n\n"),
        (response(200, "450 4.2.0 Greylisted, come again\n"), None, "action=450 4.2.0 Greylisted, come again\n\n"),
        (response(200, "null"), None, "action=DUNNO\n\n"),
        (response(200, "[]"), None, "action=DUNNO\n\n"),
        (response(204, ""), None, "action=DUNNO\n\n"),
        (response(404, ""), None, "action=DUNNO\n\n"),
        (response(403, "OK"), None, "action=DUNNO\n\n"),
        (response(201, "\"PREPEND X: y\""), None, "action=PREPEND X: y\n\n"),
        // Faults.
        (response(200, ""), None, DEFER),
        (response(200, "<html>OK</html>"), None, DEFER),
        (response(200, "\"OK\\naction=REJECT\""), None, DEFER),
        (response(200, "OK\nOK"), None, DEFER),
        (response(200, "\" OK\""), None, DEFER),
        (response(200, "{\"action\": \"OK\"}"), None, DEFER),
        (response(200, "[\"OK\"]"), None, DEFER),
        (response(200, "true"), None, DEFER),
        (response(200, &"x".repeat(1_001)), None, DEFER),
        (response(200, "OK \u{1}"), None, DEFER),
        (response(200, "OK \u{e9}"), None, "action=OK \u{e9}\n\n"),
        (response(400, "OK"), None, DEFER),
        (response(500, "OK"), None, DEFER),
        (response(302, "OK"), None, DEFER),
        (cut("Content-Length: 10\r\n", "OK"), Some(End::HalfClosed), DEFER),
        (cut("Content-Length: 10\r\n", "OK"), Some(End::Closed(Some(ErrorKind::ConnectionReset))), DEFER),
        (cut("", "OK"), Some(End::HalfClosed), DEFER), // which may be a part of another action
        (cut("", "\"OK\""), Some(End::HalfClosed), "action=OK\n\n"),
        (b"SMTP garbage\r\n".to_vec(), None, DEFER),
        (b"".to_vec(), Some(End::HalfClosed), DEFER),
        (b"".to_vec(), None, DEFER), // it hangs
    ] {
        let mut world = deciding(&["--timeout", "5"]);
        let client = ask(&mut world);
        let backend = world.accept();
        world.taken(backend);
        world.send(backend, &bytes);
        if let Some(end) = end {
            world.end(backend, end);
        }
        world.wait(5 * SECOND);
        assert_eq!(world.taken(client), action, "{}", String::from_utf8_lossy(&bytes));
        assert!(world.connecting.is_empty(), "it is not sent twice");
    }
}

#[test]
fn the_settings_of_the_table_apply() {
    let setting = |setting: &'static str, status, body: &str| {
        let mut world = deciding(&["--option", setting]);
        let client = ask(&mut world);
        world.serve(|_, _, _| Some(response(status, body)));
        world.taken(client)
    };
    assert_eq!(setting("policy:select=/action", 200, "{\"action\": \"OK\"}"), "action=OK\n\n");
    assert_eq!(setting("policy:select=/action", 200, "{\"action\": null}"), "action=DUNNO\n\n");
    assert_eq!(setting("policy:select=/action", 200, "{\"error\": 1}"), DEFER);
    assert_eq!(setting("policy:select=/action", 200, "OK"), DEFER);
    assert_eq!(setting("policy:miss=none", 404, ""), DEFER);
    assert_eq!(setting("policy:miss=404,json", 404, "<html>"), DEFER);
    assert_eq!(setting("policy:miss=404,json", 404, "{}"), "action=DUNNO\n\n");
    assert_eq!(setting("policy:fault=dunno", 500, ""), "action=DUNNO\n\n");
    let mut world = deciding(&["--option", "policy:fault=close"]);
    let client = ask(&mut world);
    world.serve(|_, _, _| Some(response(500, "")));
    assert!(world.taken(client).is_empty() && !world.is_open(client), "Postfix decides");
    assert!(world.engine.metrics().contains("podop_decisions_total{table=\"policy\",action=\"fault\"} 1\n"));
}

#[test]
fn the_recipient_takes_the_place_of_the_key() {
    let table = ["--mode", "policy=policy", "--name", "policy", "--type", "url", "--param", "http://192.0.2.1/p/§"];
    for (recipient, target) in [("r@y", "/p/r%40y"), ("", "/p/"), ("a/../b", "")] {
        let mut world = World::new(&table);
        let client = world.client(Mode::Policy("policy"));
        world.send(client, format!("request=smtpd_access_policy\nrecipient={recipient}\n\n").as_bytes());
        let mut asked = String::new();
        world.serve(|_, target, _| {
            asked = target.to_owned();
            Some(response(200, "OK"))
        });
        assert_eq!(asked, target);
        assert_eq!(world.taken(client), if target.is_empty() { DEFER } else { "action=OK\n\n" });
    }
}

#[test]
fn a_request_is_sent_again_only_if_a_used_connection_closes_without_a_byte() {
    let mut world = deciding(&[]);
    let client = ask(&mut world);
    let backend = world.accept();
    world.taken(backend);
    world.send(backend, &response(200, "OK"));
    assert_eq!(world.taken(client), "action=OK\n\n");
    for begun in [false, true] {
        world.send(client, REQUEST.as_bytes());
        let (backend, _) = world.next_request().expect("a request");
        if begun {
            world.send(backend, b"HTTP/1.1 200 OK\r\n");
        }
        world.end(backend, End::HalfClosed);
        if begun {
            assert_eq!(world.taken(client), DEFER);
        } else {
            world.serve(|_, _, body| {
                assert_eq!(body, JSON);
                Some(response(200, "OK"))
            });
            assert_eq!(world.taken(client), "action=OK\n\n");
        }
    }
    assert!(world.connecting.is_empty());
}

#[test]
fn nothing_is_cached_shared_or_pipelined() {
    let mut world = deciding(&["--option", "policy:cache=60", "--option", "policy:pipeline=16"]);
    let clients = [ask(&mut world), ask(&mut world), ask(&mut world)];
    let mut asked = 0;
    world.serve(|_, _, _| {
        asked += 1;
        Some(response(200, &format!("\"OK {asked}\"")))
    });
    let replies: std::collections::BTreeSet<String> = clients.map(|client| world.taken(client)).into();
    assert_eq!((asked, replies.len()), (3, 3));
    let client = ask(&mut world);
    let (backend, request) = world.next_request().expect("a request");
    assert_eq!(request.matches("POST ").count(), 1);
    world.send(backend, &response(200, "OK"));
    assert_eq!(world.taken(client), "action=OK\n\n");
}

#[test]
fn clients_may_be_slow_vanish_or_send_garbage() {
    let mut world = deciding(&[]);
    let slow = world.client(Mode::Policy("policy"));
    for byte in REQUEST.as_bytes() {
        world.send(slow, &[*byte]);
    }
    world.serve(|_, _, body| Some(response(200, if body == JSON { "OK" } else { "REJECT" })));
    assert_eq!(world.taken(slow), "action=OK\n\n");
    // One that has half closed is answered, and closed then.
    let half = ask(&mut world);
    world.end(half, End::HalfClosed);
    assert!(world.is_open(half));
    world.serve(|_, _, _| Some(response(200, "OK")));
    assert!(!world.is_open(half));
    let gone = ask(&mut world);
    let (backend, _) = world.next_request().expect("a request");
    world.end(gone, End::Closed(None));
    world.send(backend, &response(200, "OK"));
    for garbage in ["GET / HTTP/1.1\r\n\r\n\n\n", "5:alias,\n\n", "request=other\n\n"] {
        let client = world.client(Mode::Policy("policy"));
        world.send(client, garbage.as_bytes());
        assert!(!world.is_open(client), "{garbage}");
    }
    let stuck = world.client(Mode::Policy("policy"));
    world.send(stuck, b"request=smtpd_access_policy\n");
    world.wait(101 * SECOND);
    assert!(!world.is_open(stuck));
}

#[test]
fn a_table_without_a_place_for_the_key_answers_no_lookup() {
    let mut world = deciding(&[]);
    let client = world.client(Mode::Postfix);
    world.send(client, b"8:policy x,");
    assert!(world.taken(client).contains(":TEMP policy: its URL has no place for a key"), "never a value");
    let dict = world.client(Mode::Dovecot);
    world.send(dict, b"H4\t0\t0\t\tpolicy\nLshared/a\t\nI0\t0\tshared/\t\nB1\t\nS1\tshared/a\t1\nC1\n");
    let replies = world.taken(dict);
    assert_eq!(replies.lines().filter(|line| line.starts_with('F')).count(), 3, "{replies}");
    assert!(world.connecting.is_empty());
}

#[test]
fn after_a_fault_that_closes_no_later_action_is_sent() {
    for first_fails_first in [false, true] {
        let mut world = deciding(&["--option", "policy:fault=close"]);
        let client = ask(&mut world);
        world.send(client, REQUEST.replace("r@y", "second@y").as_bytes());
        let (one, other) = (world.accept(), world.accept());
        let (first, second) = if world.taken(one).contains("r@y") { (one, other) } else { (other, one) };
        world.taken(second);
        world.block(client, true);
        if first_fails_first {
            world.send(first, &response(500, ""));
        }
        world.send(second, &response(200, "OK"));
        if !first_fails_first {
            world.send(first, &response(500, ""));
        }
        assert!(world.engine.output(client).is_empty(), "the client would take it for the first one");
        assert!(!world.is_open(client));
    }
}

#[test]
fn a_status_that_means_no_action_has_none() {
    let mut world = deciding(&["--option", "policy:miss=202"]);
    let client = ask(&mut world);
    world.serve(|_, _, _| Some(response(202, "OK")));
    assert_eq!(world.taken(client), "action=DUNNO\n\n");
    // A status before all of the request has left cannot be about it.
    let mut world = deciding(&[]);
    let client = world.client(Mode::Policy("policy"));
    let long = "x".repeat(60_000);
    world.send(client, format!("request=smtpd_access_policy\nhelo_name={long}\n\n").as_bytes());
    let backend = world.accept_blocked();
    world.trickle(backend, 300);
    world.send(backend, &response(404, ""));
    assert_eq!(world.taken(client), DEFER);
}

#[test]
fn a_client_cannot_fill_the_memory_with_requests() {
    let mut world = deciding(&[]);
    let client = world.client(Mode::Policy("policy"));
    let request = format!("request=smtpd_access_policy\nhelo_name={}\n\n", "\u{1}".repeat(60_000));
    for _ in 0..100 {
        world.send(client, request.as_bytes());
    }
    assert!(world.held(client) > 80 * 60_000, "{}", world.held(client));
    world.serve(|_, _, _| Some(response(204, "")));
    assert_eq!((world.held(client), world.taken(client).matches("action=DUNNO").count()), (0, 100));
}
