//! The metrics listener: one request per connection.

use crate::support;

use podop::config::Mode;
use support::world::{MS, SECOND, World};

#[test]
fn what_follows_the_request_of_a_monitor_is_ignored() {
    let mut world = World::with_alias(&[]);
    let monitor = world.client(Mode::Admin);
    world.block(monitor, true);
    world.send(monitor, b"GET /healthz HTTP/1.1\r\nHost: podop\r\n\r");
    world.send(monitor, b"\nGET /readyz HTTP/1.1\r\n\r\n");
    let output = String::from_utf8_lossy(world.engine.output(monitor)).into_owned();
    assert_eq!(output.matches("HTTP/1.1 200 OK").count(), 1, "{output}");
    world.block(monitor, false);
    assert_eq!(world.closed, [monitor]);
}

#[test]
fn a_head_request_is_answered_as_get_without_the_body() {
    for path in ["/metrics", "/healthz?probe=1", "http://podop:9779/readyz", "/nothing"] {
        let page = |method| {
            let mut world = World::with_alias(&[]);
            let monitor = world.client(Mode::Admin);
            world.block(monitor, true);
            world.send(monitor, format!("{method} {path} HTTP/1.1\r\nHost: podop\r\n\r\n").as_bytes());
            String::from_utf8(world.engine.output(monitor).to_vec()).unwrap()
        };
        let (get, head) = (page("GET"), page("HEAD"));
        let (fields, body) = get.split_once("\r\n\r\n").unwrap();
        assert_eq!(head, format!("{fields}\r\n\r\n"));
        assert!(fields.contains(&format!("\r\nContent-Length: {}", body.len())), "{fields}");
        assert_eq!(fields.starts_with("HTTP/1.1 200 OK\r\n"), path != "/nothing", "{path}: {fields}");
    }
}

#[test]
fn other_methods_are_told_which_are_allowed() {
    for method in ["POST", "OPTIONS", "get", "X"] {
        let mut world = World::with_alias(&[]);
        let monitor = world.client(Mode::Admin);
        world.block(monitor, true);
        world.send(monitor, format!("{method} /healthz HTTP/1.1\r\n\r\n").as_bytes());
        let output = String::from_utf8_lossy(world.engine.output(monitor)).into_owned();
        assert!(output.starts_with("HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\n"), "{output}");
    }
}

#[test]
fn a_monitor_has_ten_seconds_for_its_request() {
    let mut world = World::with_alias(&[]);
    let (idle, slow) = (world.client(Mode::Admin), world.client(Mode::Admin));
    let mail = [world.client(Mode::Auto), world.client(Mode::Postfix), world.client(Mode::Dovecot)];
    for _ in 0..9 {
        world.send(slow, b"G");
        world.wait(SECOND);
    }
    assert!(world.closed.is_empty());
    world.wait(SECOND - MS);
    assert!(world.closed.is_empty());
    world.wait(MS);
    assert_eq!(world.closed, [idle, slow]);
    world.wait(10_000 * SECOND);
    assert!(mail.iter().all(|client| world.is_open(*client)), "an idle mail server was closed");
}

#[test]
fn the_oldest_monitors_make_room_for_new_ones() {
    let mut world = World::with_alias(&[]);
    let mail = world.client(Mode::Postfix);
    let monitors: Vec<_> = (0..4).map(|_| world.client(Mode::Admin)).collect();
    world.send(monitors[1], b"GET /healthz HTTP/1.1\r\n\r\n");
    assert_eq!((world.engine.admins(), &world.closed[..]), (3, &monitors[1..2]));
    world.engine.limit_admins(2);
    world.process();
    assert_eq!((world.engine.admins(), &world.closed[1..]), (2, &monitors[..1]));
    assert!(world.is_open(mail));
}

#[test]
fn a_monitor_may_read_slowly_but_not_stop() {
    let mut world = World::with_alias(&[]);
    let monitor = world.client(Mode::Admin);
    world.wait(9 * SECOND);
    world.block(monitor, true);
    world.send(monitor, b"GET /metrics HTTP/1.1\r\n\r\n");
    for _ in 0..5 {
        world.wait(9 * SECOND);
        world.trickle(monitor, 1);
        assert!(world.is_open(monitor));
    }
    world.wait(20 * SECOND);
    assert_eq!(world.closed, [monitor]);
}
