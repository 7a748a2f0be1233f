//! The metrics listener: one request per connection.

use crate::support;

use podop::config::Mode;
use support::world::{MS, SECOND, World, response};

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

/// What the metrics listener answers.
fn page(world: &mut World, path: &str) -> String {
    let monitor = world.client(Mode::Admin);
    world.block(monitor, true);
    world.send(monitor, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
    let output = String::from_utf8(world.engine.output(monitor).to_vec()).unwrap();
    world.block(monitor, false);
    output.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// The words of the line of a table or a backend.
fn row(status: &str, name: &str) -> Vec<String> {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {status}"));
    line.split_whitespace().skip(1).map(str::to_owned).collect()
}

#[test]
fn the_status_shows_the_requests_of_the_last_minute() {
    let mut world = World::with_alias(&["--option", "alias:cache=3600"]);
    let client = world.client(Mode::Postfix);
    // For two minutes, one lookup per second, of which all but the first are answered from the cache.
    for second in 0..120 {
        world.ask(client, "k");
        if second == 0 {
            let backend = world.accept();
            world.wait(MS * 20);
            world.respond(backend, "v");
        }
        assert_eq!(world.taken(client), "4:OK v,");
        world.wait(SECOND);
    }
    let status = page(&mut world, "/status");
    let [rate, found, miss, fault, .., cached, unit] = &row(&status, "alias")[..] else { panic!("{status}") };
    assert_eq!([found, miss, fault, cached, unit].map(String::as_str), ["120", "0", "0", "100", "%"]);
    assert!((0.9..1.1).contains(&rate.parse::<f64>().unwrap()), "{rate}");
    // Nothing happens for longer than a minute.
    world.wait(SECOND * 100);
    let status = page(&mut world, "/status");
    assert_eq!(row(&status, "alias"), ["0", "120", "0", "0", "-", "-", "-"]);
    // One lookup after the pause counts as one in a minute.
    world.ask(client, "k");
    world.wait(SECOND);
    assert_eq!(row(&page(&mut world, "/status"), "alias")[..2], ["0.0", "121"]);
}

#[test]
fn the_rate_of_a_new_process_is_that_since_its_start() {
    let mut world = World::with_alias(&["--option", "alias:cache=3600"]);
    let client = world.client(Mode::Postfix);
    world.ask(client, "k");
    let backend = world.accept();
    world.respond(backend, "v");
    (0..29).for_each(|_| world.ask(client, "k"));
    for _ in 0..3 {
        world.wait(SECOND * 10);
        world.ask(client, "k"); // a turn in which the counters are copied
    }
    let rate = &row(&page(&mut world, "/status"), "alias")[0];
    assert_eq!(rate, "1.1", "33 in 30 s");
}

#[test]
fn the_status_shows_since_when_a_backend_cannot_be_reached() {
    let mut world = World::with_alias(&[]);
    assert_eq!(row(&page(&mut world, "/status"), "192.0.2.1")[0], "unknown");
    for _ in 0..3 {
        world.lookup("k");
        world.refuse();
        world.wait(SECOND * 20);
    }
    let status = page(&mut world, "/status");
    assert_eq!(row(&status, "192.0.2.1")[0], "down");
    assert!(status.contains("\n    down 1 min: refused the connection\n"), "{status}");
    assert!(status.contains(", 3 times: fault table=alias backend=192.0.2.1 cause=\"refused the"), "{status}");
    assert!(page(&mut world, "/").contains("<title>Podop: 1 down</title>"));
    world.lookup("k");
    let backend = world.accept();
    world.respond(backend, "v");
    assert_eq!(row(&page(&mut world, "/status"), "192.0.2.1")[0], "up");
    assert!(page(&mut world, "/").contains("<title>Podop</title>"));
}

#[test]
fn the_status_shows_for_how_long_a_slow_backend_is_down() {
    let mut world = World::with_alias(&["--timeout", "1"]);
    for number in 0..5 {
        world.lookup(&format!("key{number}"));
        if world.connecting.is_empty() {
            continue;
        }
        world.accept();
    }
    world.wait(SECOND * 2);
    let status = page(&mut world, "/status");
    assert_eq!(row(&status, "192.0.2.1")[0], "down", "{status}");
    assert!(status.contains("\n    down 1 s: did not answer in time"), "{status}");
}

#[test]
fn a_backend_with_a_connection_that_works_is_not_down() {
    let mut world = World::with_alias(&["--option", "alias:keepalive=86400"]);
    let first = world.lookup("a");
    let backend = world.accept();
    world.lookup("b");
    world.refuse(); // the second connection
    world.respond(backend, "v");
    assert_eq!(world.taken(first), "4:OK v,");
    assert_eq!(row(&page(&mut world, "/status"), "192.0.2.1")[0], "up");
}

#[test]
fn nothing_is_known_of_a_backend_that_was_not_tried_for_a_minute() {
    let mut world = World::with_alias(&[]);
    world.lookup("k");
    world.refuse();
    world.wait(SECOND * 59);
    assert_eq!(row(&page(&mut world, "/status"), "192.0.2.1")[0], "down");
    world.wait(SECOND * 2);
    assert_eq!(row(&page(&mut world, "/status"), "192.0.2.1")[0], "unknown");
    assert!(world.engine.summary(world.now).contains("1 backends, "), "none is unreachable");
}

#[test]
fn a_response_that_comes_too_late_is_counted_with_its_time() {
    let tables =
        ["--name", "alias", "--type", "url", "--param", "http://192.0.2.1/a/§", "--name", "fast", "--type", "url"];
    let options = ["--param", "http://192.0.2.1/a/§", "--option", "*:pipeline=4", "--option", "*:connections=1"];
    let mut world = World::new(&[&tables[..], &options, &["--option", "fast:timeout=1"]].concat());
    world.lookup("first");
    let backend = world.accept();
    world.respond(backend, "v"); // from now on, requests are pipelined
    let client = world.client(Mode::Postfix);
    world.send(client, b"10:alias slow,8:fast key,");
    world.taken(backend);
    world.wait(MS * 1_500);
    // Both at once: the second is that of the lookup whose time was over.
    world.send(backend, &[response(200, "\"v\""), response(200, "\"late\"")].concat());
    assert!(world.taken(client).contains("TIMEOUT fast: "));
    let metrics = page(&mut world, "/metrics");
    for line in ["_bucket{backend=\"192.0.2.1\",le=\"1\"} 1", "_count{backend=\"192.0.2.1\"} 3"] {
        assert!(metrics.contains(&format!("podop_exchange_duration_seconds{line}\n")), "{line}: {metrics}");
    }
}

#[test]
fn the_first_requests_after_a_pause_count_as_those_of_the_last_minute() {
    let mut world = World::with_alias(&["--option", "alias:cache=3600", "--option", "alias:keepalive=1"]);
    let client = world.client(Mode::Postfix);
    world.ask(client, "k");
    let backend = world.accept();
    world.respond(backend, "v");
    world.now += SECOND * 100; // without a turn
    world.send(client, &b"7:alias k,".repeat(60)); // in one turn, before which nothing was copied for long
    world.wait(SECOND);
    assert_eq!(row(&page(&mut world, "/status"), "alias")[..2], ["1.0", "61"]);
}

#[test]
fn no_more_than_all_requests_are_cached() {
    let mut world = World::with_alias(&["--option", "alias:cache=60"]);
    let clients: Vec<_> = (0..20).map(|_| world.lookup("k")).collect();
    let backend = world.accept();
    world.respond(backend, "v");
    clients.into_iter().for_each(|client| assert_eq!(world.taken(client), "4:OK v,"));
    let row = row(&page(&mut world, "/status"), "alias");
    assert_eq!(row[row.len() - 2..], ["95", "%"], "19 of 20");
}

#[test]
fn neither_page_has_a_key_a_value_or_a_secret() {
    let url = "http://name:pass-secret@192.0.2.1/path-secret/§";
    let header = "alias:header=X-Token: header-secret";
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", url, "--option", header]);
    for (key, answer) in [
        ("key-secret", response(200, "\"value-secret\"")),
        ("key-secret", response(503, "\"value-secret\"")),
        ("key-secret", response(200, "value-secret")),
        ("key-secret", b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.9/key-secret\r\nContent-Length: 0\r\n\r\n".to_vec()),
        (
            "key-secret",
            b"HTTP/1.1 500 X\r\nContent-Type: application/problem+json\r\nContent-Length: 25\r\n\r\n{\"detail\":\"detail-secret\"}"
                .to_vec(),
        ),
    ] {
        world.lookup(key);
        let backend = world.next_asked().unwrap_or_else(|| world.accept());
        world.send(backend, &answer);
    }
    let client = world.client(Mode::Postfix);
    world.send(client, b"19:table-secret secret,");
    let broken = world.client(Mode::Postfix);
    world.send(broken, b"broken-secret");
    for path in ["/", "/status"] {
        let page = page(&mut world, path);
        assert!(page.contains("unknown-table") && page.contains("answered 503"), "{page}");
        assert!(page.contains("client-error"), "{page}");
        assert!(!page.contains("secret"), "{page}");
    }
}
