//! TLS to backends, in memory: handshakes, what ends them, and streams that a party on the path may cut off.

use crate::support;

use podop::backend::Backends;
use podop::config::Setting;
use podop::io::{End, Peer, Turn};
use podop::table::{self, SettingError, Settings, Setup, TableEntry, TableSpec};
use std::sync::Arc;
use std::time::Instant;
use support::tls::{Authority, BOTH, Leaf, Wants, self_signed, server};
use support::tls_server::Server;
use support::world::{MS, SECOND, World, response};

const HOST: &str = "192.0.2.1";

/// An engine with one table at `https://192.0.2.1/a/§`, and a server with a certificate for it.
fn world(args: &[&str]) -> (World, Authority, Leaf) {
    let authority = Authority::new();
    let leaf = authority.issue(&[HOST]);
    let option = authority.option();
    let table = ["--name", "alias", "--type", "url", "--param", "https://192.0.2.1/a/§", "--option", &option];
    (World::new(&[&table[..], args].concat()), authority, leaf)
}

fn metric(world: &World, name: &str) -> String {
    let text = world.engine.metrics();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().to_owned()
}

#[test]
fn a_lookup_over_tls_in_pieces_of_any_size() {
    for version in BOTH {
        for step in [1, 2, 3, 5, 7, 100, 1000, usize::MAX] {
            let (mut world, _authority, leaf) = world(&[]);
            let config = Arc::new(server(&leaf, &[version], Wants::Nothing));
            let client = world.lookup("a@x");
            let mut server = Server::accept_in_steps(&mut world, &config, step);
            assert_eq!(server.error, None);
            let request = server.heard(&mut world);
            assert!(request.starts_with("GET /a/a%40x HTTP/1.1\r\nHost: 192.0.2.1\r\n"), "{request}");
            server.say(&mut world, &response(200, "\"b@x\""));
            assert_eq!(world.taken(client), "6:OK b@x,", "step {step}");
            // On the same connection, a body of many records.
            let long = "x".repeat(50_000);
            let client = world.lookup("long");
            assert!(server.heard(&mut world).starts_with("GET /a/long "));
            server.say(&mut world, &response(200, &format!("\"{long}\"")));
            assert_eq!(world.taken(client), format!("50003:OK {long},"));
            assert_eq!(
                metric(&world, "podop_tls_handshakes_total{backend=\"https://192.0.2.1\",result=\"full\"}"),
                "1"
            );
        }
    }
}

#[test]
fn only_http_1_is_offered_and_the_host_is_named() {
    let (mut world, authority, _) = world(&[]);
    let mut config = server(&authority.issue(&[HOST]), &BOTH, Wants::Nothing);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client = world.lookup("a");
    Server::accept(&mut world, &Arc::new(config));
    let reason = "it does not speak HTTP/1.1";
    assert!(
        world.taken(client).ends_with(&format!("TEMP alias: https://192.0.2.1 failed the TLS handshake: {reason},"))
    );
}

/// The reason why a server with this certificate is refused.
fn refusal(leaf: &Leaf, authority: &Authority, ca: &str, args: &[&str]) -> String {
    let option = format!("alias:ca={}", authority.file("these.pem", ca));
    let table = ["--name", "alias", "--type", "url", "--param", "https://192.0.2.1/a/§", "--option", &option];
    let mut world = World::new(&[&table[..], args].concat());
    let client = world.lookup("a");
    let mut server = Server::accept(&mut world, &Arc::new(server(leaf, &BOTH, Wants::Nothing)));
    assert_eq!(server.heard(&mut world), "", "it was asked");
    assert!(world.parted.iter().any(|(peer, alert)| *peer == server.peer() && !alert.is_empty()), "it is not told");
    let reply = world.taken(client);
    let reason = reply
        .split_once("TEMP alias: https://192.0.2.1 failed the TLS handshake: ")
        .unwrap_or_else(|| panic!("{reply}"));
    reason.1.trim_end_matches(',').to_owned()
}

#[test]
fn a_certificate_that_is_not_right_is_a_fault_with_its_reason() {
    let authority = Authority::new();
    let (ca, date) = (authority.pem(), rcgen::date_time_ymd);
    let refused = |leaf: &Leaf| refusal(leaf, &authority, &ca, &[]);
    assert_eq!(
        refused(&authority.issue(&["192.0.2.2", "admin"])),
        "its certificate is not for 192.0.2.1 but for 192.0.2.2, admin"
    );
    assert_eq!(
        refused(&authority.issue_with(&[HOST], |leaf| leaf.not_after = date(2020, 1, 1))),
        "its certificate has expired"
    );
    assert_eq!(
        refused(&authority.issue_with(&[HOST], |leaf| leaf.not_before = date(2200, 1, 1))),
        "its certificate is not valid yet"
    );
    let unknown = "its certificate is self-signed, or from a CA that is not trusted";
    assert_eq!(refused(&self_signed(&[HOST], |_| {})), unknown);
    assert_eq!(refused(&Authority::new().issue(&[HOST])), unknown);
    let (one, other) = (Authority::named("the same"), Authority::named("the same"));
    let reason = "its certificate is not signed by the CA that it names";
    assert_eq!(refusal(&one.issue(&[HOST]), &authority, &other.pem(), &[]), reason);
    let ca_itself = self_signed(&[HOST], |leaf| leaf.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let reason = "its certificate is that of a CA, not of a server";
    assert_eq!(refusal(&ca_itself, &authority, &ca_itself.cert, &[]), reason);
    let for_clients = authority
        .issue_with(&[HOST], |leaf| leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth]);
    let reason = refused(&for_clients);
    assert!(reason.starts_with("its certificate is not valid: invalid purpose"), "{reason}");
    let good = authority.issue(&[HOST]);
    let revoked = refusal(&good, &authority, &(ca.clone() + &authority.revoke()), &[]);
    assert_eq!(revoked, "its certificate is revoked");
    let other = refusal(&good, &authority, &ca, &["--option", "alias:servername=admin.example.org"]);
    assert_eq!(other, "its certificate is not for admin.example.org but for 192.0.2.1");
}

#[test]
fn a_list_that_revokes_other_certificates_is_no_obstacle() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (leaf, ca) in [
        (authority.issue(&[HOST]), authority.pem() + &other.pem() + &other.revoke()),
        (
            authority.issue_with(&[HOST], |leaf| leaf.serial_number = Some(2.into())),
            authority.pem() + &authority.revoke(),
        ),
    ] {
        assert_accepted(&leaf, &authority.file("ca.pem", &ca));
    }
}

#[test]
fn a_self_signed_certificate_that_is_trusted_is_accepted() {
    let (leaf, dir) = (self_signed(&[HOST], |_| {}), tempfile::tempdir().unwrap());
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &leaf.cert).unwrap();
    assert_accepted(&leaf, ca.to_str().unwrap());
}

fn assert_accepted(leaf: &Leaf, ca: &str) {
    let option = format!("alias:ca={ca}");
    let table = ["--name", "alias", "--type", "url", "--param", "https://192.0.2.1/a/§", "--option", &option];
    let mut world = World::new(&table);
    let client = world.lookup("a");
    let mut server = Server::accept(&mut world, &Arc::new(server(leaf, &BOTH, Wants::Nothing)));
    server.heard(&mut world);
    server.say(&mut world, &response(404, ""));
    assert_eq!(world.taken(client), "9:NOTFOUND ,");
}

#[test]
fn what_is_not_tls_is_a_fault() {
    for nonsense in
        [&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], b"220 mx ESMTP\r\n", &[0; 100], &[22; 9]]
    {
        let (mut world, ..) = world(&[]);
        let client = world.lookup("a");
        let peer = world.accept();
        world.send(peer, nonsense);
        world.end(peer, End::HalfClosed);
        let reply = world.taken(client);
        assert!(reply.contains("TEMP alias: https://192.0.2.1 failed the TLS handshake: it "), "{reply}");
    }
}

#[test]
fn a_certificate_is_shown_to_who_wants_it() {
    for version in BOTH {
        let (authority, clients) = (Authority::new(), Authority::new());
        let config = Arc::new(server(&authority.issue(&[HOST]), &[version], Wants::Certificate(&clients)));
        let own = clients.issue(&["podop"]);
        let ca = authority.option();
        let (cert, key) = (clients.file("cert.pem", &own.cert), clients.file("key.pem", &own.key));
        let both = clients.file("both.pem", &(own.cert.clone() + &own.key));
        let (cert, key, both) =
            (format!("alias:cert={cert}"), format!("alias:key={key}"), format!("alias:cert={both}"));
        let foreign = authority.issue(&["podop"]);
        let foreign = format!("alias:cert={}", authority.file("foreign.pem", &(foreign.cert + &foreign.key)));
        let cases = [(vec![&cert, &key], true), (vec![&both], true), (vec![], false), (vec![&foreign], false)];
        for (options, welcome) in cases {
            let table = ["--name", "alias", "--type", "url", "--param", "https://192.0.2.1/a/§", "--option", &ca];
            let options = options.into_iter().flat_map(|option| ["--option", option]);
            let args: Vec<&str> = table.into_iter().chain(options).collect();
            let mut world = World::new(&args);
            let client = world.lookup("a");
            let mut server = Server::accept(&mut world, &config);
            if welcome {
                assert!(server.heard(&mut world).starts_with("GET /a/a "), "{:?}", server.error);
                server.say(&mut world, &response(200, "\"b\""));
                assert_eq!(world.taken(client), "4:OK b,");
            } else {
                let reply = world.taken(client);
                assert!(
                    reply.contains("TEMP alias: https://192.0.2.1 ") && reply.contains(" it sent the alert "),
                    "{reply}"
                );
            }
        }
    }
}

/// Statuses of a server that has requested a certificate, from a client that has one or not.
#[test]
fn a_refusal_of_who_wants_a_certificate_is_no_miss() {
    let clients = Authority::new();
    let own = clients.issue(&["podop"]);
    let own = format!("alias:cert={}", clients.file("own.pem", &(own.cert + &own.key)));
    let (wants, none) = (true, false);
    let cases = [
        (wants, false, 400, "close", true),
        (wants, false, 400, "keep-alive", true),
        (wants, false, 401, "keep-alive", true),
        (wants, false, 403, "keep-alive", true),
        (wants, false, 404, "close", false),
        (wants, true, 400, "close", true), // as nginx does if it is not the right one
        (wants, true, 400, "keep-alive", false), // about the request
        (wants, true, 403, "keep-alive", true),
        (wants, true, 404, "close", false),
        (none, false, 400, "close", false),
        (none, false, 403, "keep-alive", false),
    ];
    for (wants, has, status, connection, fault) in cases {
        let args = ["--option", &own[..]];
        let (mut world, authority, _) = world(if has { &args } else { &[] });
        let wants = if wants { Wants::Perhaps(&clients) } else { Wants::Nothing };
        let config = Arc::new(server(&authority.issue(&[HOST]), &BOTH, wants));
        // Also on a resumed connection, on which no certificate is requested again.
        for _ in 0..2 {
            let client = world.lookup("a");
            let mut server = Server::accept(&mut world, &config);
            server.heard(&mut world);
            let text = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: {connection}\r\n\r\n");
            server.say(&mut world, text.as_bytes());
            let expected = match fault {
                true => format!("TEMP alias: https://192.0.2.1 rejected the client certificate: answered {status},"),
                false if [403, 404].contains(&status) => "NOTFOUND ,".to_owned(),
                false => format!("TEMP alias: https://192.0.2.1 answered {status},"),
            };
            let reply = world.taken(client);
            assert!(reply.ends_with(&expected), "{expected} {has} {connection}: {reply}");
            world.wait(2 * SECOND);
            assert!(!world.is_open(server.peer()));
        }
    }
}

#[test]
fn a_refusal_that_arrives_after_a_reload_is_no_miss() {
    let (mut world, authority, _) = world(&[]);
    let clients = Authority::new();
    let config = Arc::new(server(&authority.issue(&[HOST]), &BOTH, Wants::Perhaps(&clients)));
    let client = world.lookup("a");
    let mut server = Server::accept(&mut world, &config);
    server.heard(&mut world);
    world.engine.reload();
    world.process();
    server.say(&mut world, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert!(world.taken(client).contains("TEMP alias: https://192.0.2.1 rejected the client certificate"));
}

/// Nothing of a record is visible before it is whole; it is no response to a request that was sent after it had begun.
#[test]
fn a_record_that_began_before_a_lookup_left_is_not_its_answer() {
    for version in BOTH {
        for missing in [1, 20, 60] {
            let (mut world, _authority, leaf) = world(&[]);
            let config = Arc::new(server(&leaf, &[version], Wants::Nothing));
            let client = world.lookup("a");
            let mut server = Server::accept(&mut world, &config);
            server.heard(&mut world);
            server.say(&mut world, &response(200, "\"b\""));
            assert_eq!(world.taken(client), "4:OK b,");
            server.seal(&response(200, "\"theirs\""));
            let records = server.records();
            let (first, rest) = records.split_at(records.len() - missing);
            server.deliver(&mut world, first);
            let client = world.lookup("c");
            assert!(server.heard(&mut world).starts_with("GET /a/c "));
            server.deliver(&mut world, rest);
            assert!(!world.is_open(server.peer()));
            let mut server = Server::accept(&mut world, &config);
            server.heard(&mut world);
            server.say(&mut world, &response(200, "\"mine\""));
            assert_eq!(world.taken(client), "7:OK mine,");
        }
    }
}

#[test]
fn nor_is_a_record_that_began_behind_the_answer_to_another() {
    let (mut world, _authority, leaf) = world(&["--option", "alias:connections=1"]);
    let config = Arc::new(server(&leaf, &BOTH, Wants::Nothing));
    let (client, second) = (world.lookup("a"), world.lookup("c"));
    let mut server = Server::accept(&mut world, &config);
    assert!(server.heard(&mut world).starts_with("GET /a/a "));
    server.seal(&response(200, "\"b\""));
    server.seal(&response(404, ""));
    let records = server.records();
    server.deliver(&mut world, &records[..records.len() - 5]);
    assert_eq!(world.taken(client), "4:OK b,");
    server.deliver(&mut world, &records[records.len() - 5..]);
    assert!(!world.is_open(server.peer()));
    let mut server = Server::accept(&mut world, &config);
    assert!(server.heard(&mut world).starts_with("GET /a/c "));
    server.say(&mut world, &response(200, "\"d\""));
    assert_eq!(world.taken(second), "4:OK d,");
}

/// A message of TLS itself in such a record does no harm.
#[test]
fn a_ticket_that_began_before_a_request_is_no_answer() {
    let (mut world, _authority, leaf) = world(&[]);
    let config = Arc::new(server(&leaf, &[BOTH[1]], Wants::Nothing));
    let gone = world.lookup("gone");
    let peer = world.accept();
    world.end(gone, End::Closed(None)); // so that the connection becomes idle, and its tickets come meanwhile
    let mut server = Server::new(&config, peer, usize::MAX);
    server.take(&mut world);
    let flight = server.records();
    server.deliver(&mut world, &flight);
    server.take(&mut world);
    let tickets = server.records();
    assert!(tickets.len() > 100);
    server.deliver(&mut world, &tickets[..tickets.len() - 7]);
    let client = world.lookup("a");
    server.take(&mut world);
    server.deliver(&mut world, &tickets[tickets.len() - 7..]);
    assert!(server.heard(&mut world).starts_with("GET /a/a "));
    server.say(&mut world, &response(200, "\"b\""));
    assert_eq!(world.taken(client), "4:OK b,");
    assert!(world.is_open(peer));
}

#[test]
fn a_server_that_finishes_and_ends_at_once_was_asked_nothing() {
    let authority = Authority::new();
    let option = authority.option();
    let urls = "https://192.0.2.1/a/§ https://192.0.2.2/a/§";
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", urls, "--option", &option]);
    // With TLS 1.2 the server has the last word of a handshake.
    let config = Arc::new(server(&authority.issue(&[HOST, "192.0.2.2"]), &[BOTH[0]], Wants::Nothing));
    let client = world.lookup("a");
    let peer = world.accept();
    let mut first = Server::new(&config, peer, usize::MAX);
    first.take(&mut world);
    let hello = first.records();
    first.deliver(&mut world, &hello);
    first.take(&mut world);
    first.seal_end();
    let last = first.records();
    first.deliver(&mut world, &last);
    assert!(!world.is_open(peer));
    assert_eq!(metric(&world, "podop_connections{backend=\"https://192.0.2.1\",state=\"handshaking\"}"), "0");
    let mut other = Server::accept(&mut world, &config);
    assert!(other.heard(&mut world).contains("Host: 192.0.2.2\r\n"));
    other.say(&mut world, &response(200, "\"b\""));
    assert_eq!(world.taken(client), "4:OK b,");
}

#[test]
fn sessions_are_resumed_after_idle_connections_were_closed() {
    for version in BOTH {
        let (mut world, _authority, leaf) = world(&[]);
        let config = Arc::new(server(&leaf, &[version], Wants::Nothing));
        for round in 0..3 {
            let client = world.lookup("a");
            let mut server = Server::accept(&mut world, &config);
            server.heard(&mut world);
            server.say(&mut world, &response(200, "\"b\""));
            assert_eq!(world.taken(client), "4:OK b,");
            world.wait(2 * SECOND);
            assert!(!world.is_open(server.peer()));
            let (peer, last) = world.parted.pop().expect("close_notify");
            assert!(peer == server.peer() && !last.is_empty());
            let resumed = "podop_tls_handshakes_total{backend=\"https://192.0.2.1\",result=\"resumed\"}";
            assert_eq!(metric(&world, resumed), round.to_string());
        }
    }
}

#[test]
fn a_burst_after_a_pause_resumes_a_session_on_each_connection() {
    let (mut world, _authority, leaf) = world(&[]);
    let config = Arc::new(server(&leaf, &BOTH, Wants::Nothing));
    for _ in 0..2 {
        let clients: Vec<Peer> = (0..20).map(|at| world.lookup(&format!("k{at}"))).collect();
        let mut servers = Server::accept_all(&mut world, &config, clients.len());
        for server in &mut servers {
            let key = server.heard(&mut world).split([' ', '/']).nth(3).unwrap().to_owned();
            server.say(&mut world, &response(200, &format!("\"{key}\"")));
        }
        for (at, client) in clients.into_iter().enumerate() {
            assert!(world.taken(client).ends_with(&format!("OK k{at},")));
        }
        world.wait(2 * SECOND);
    }
    assert_eq!(metric(&world, "podop_tls_handshakes_total{backend=\"https://192.0.2.1\",result=\"resumed\"}"), "20");
}

/// Every place at which the stream of records may be cut: what comes before the end of TLS is no answer if only the end
/// of the stream would make it one.
#[test]
fn a_stream_that_is_cut_anywhere_is_a_fault() {
    let until_end = [&b"HTTP/1.1 200 OK\r\n\r\n\"a, b\""[..], b"HTTP/1.1 404 Not Found\r\n\r\nnull"];
    for whole in until_end {
        // Three records and `close_notify`, to be cut between and within.
        for cut in 0.. {
            let (mut world, _authority, leaf) = world(&[]);
            let config = Arc::new(server(&leaf, &BOTH, Wants::Nothing));
            let client = world.lookup("a");
            let mut server = Server::accept(&mut world, &config);
            server.heard(&mut world);
            whole.chunks(whole.len().div_ceil(3)).for_each(|piece| server.seal(piece));
            server.seal_end();
            let records = server.records();
            let piece = &records[..cut.min(records.len())];
            server.deliver(&mut world, piece);
            if cut >= records.len() {
                assert!(world.taken(client).ends_with(if whole.starts_with(b"HTTP/1.1 2") {
                    "OK a, b,"
                } else {
                    "NOTFOUND ,"
                }));
                break;
            }
            assert_eq!(world.taken(client), "", "answered too early");
            world.end(server.peer(), End::HalfClosed);
            let reply = world.taken(client);
            assert!(reply.contains("TEMP alias: https://192.0.2.1 "), "{cut}: {reply}");
        }
    }
}

#[test]
fn the_end_of_tls_completes_no_answer_of_known_length() {
    let (mut world, _authority, leaf) = world(&[]);
    let config = Arc::new(server(&leaf, &BOTH, Wants::Nothing));
    let client = world.lookup("a");
    let mut server = Server::accept(&mut world, &config);
    server.heard(&mut world);
    server.seal(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnull");
    server.seal_end();
    server.pump(&mut world);
    assert!(world.taken(client).ends_with("TEMP alias: https://192.0.2.1 closed the connection within its answer,"));
}

#[test]
fn a_connection_that_was_closed_meanwhile_costs_nothing() {
    let (mut world, _authority, leaf) = world(&[]);
    let config = Arc::new(server(&leaf, &BOTH, Wants::Nothing));
    let first = world.lookup("a");
    let mut used = Server::accept(&mut world, &config);
    used.heard(&mut world);
    used.say(&mut world, &response(200, "\"b\""));
    assert_eq!(world.taken(first), "4:OK b,");
    // The request crosses with the end: it is sent once more, on a new connection.
    let client = world.lookup("b");
    assert!(used.heard(&mut world).starts_with("GET /a/b "));
    used.seal_end();
    used.pump(&mut world);
    assert!(!world.is_open(used.peer()));
    let mut server = Server::accept(&mut world, &config);
    assert!(server.heard(&mut world).starts_with("GET /a/b "));
    server.say(&mut world, &response(200, "\"c\""));
    assert_eq!(world.taken(client), "4:OK c,");
    // An idle connection that is closed is let go.
    server.seal_end();
    server.pump(&mut world);
    assert!(!world.is_open(server.peer()));
}

#[test]
fn a_broken_record_is_a_fault() {
    let (mut world, _authority, leaf) = world(&[]);
    let client = world.lookup("c");
    let mut server = Server::accept(&mut world, &Arc::new(server(&leaf, &BOTH, Wants::Nothing)));
    server.heard(&mut world);
    server.seal(&response(200, "\"d\""));
    let mut records = server.records();
    *records.last_mut().unwrap() ^= 1;
    server.deliver(&mut world, &records);
    let reply = world.taken(client);
    assert!(reply.ends_with("TEMP alias: https://192.0.2.1 broke TLS: cannot decrypt peer's message,"), "{reply}");
}

#[test]
fn bytes_that_nobody_asked_for_end_a_connection_under_tls_too() {
    let (mut world, _authority, leaf) = world(&[]);
    let config = Arc::new(server(&leaf, &BOTH, Wants::Nothing));
    let client = world.lookup("a");
    let mut server = Server::accept(&mut world, &config);
    server.heard(&mut world);
    server.say(&mut world, &response(200, "\"b\""));
    assert_eq!(world.taken(client), "4:OK b,");
    server.say(&mut world, &response(200, "\"theirs\""));
    assert!(!world.is_open(server.peer()));
    let client = world.lookup("c");
    let mut server = Server::accept(&mut world, &config);
    server.heard(&mut world);
    server.say(&mut world, &response(200, "\"d\""));
    assert_eq!(world.taken(client), "4:OK d,");
}

#[test]
fn a_write_was_seen_by_nobody_before_its_record_was_whole() {
    for (missing, expected) in [(1, "F"), (0, "W")] {
        let (mut world, _authority, leaf) = world(&[]);
        let config = Arc::new(server(&leaf, &BOTH, Wants::Nothing));
        let client = world.client(podop::config::Mode::Dovecot);
        world.send(client, b"H4\t0\t0\t\talias\nB1\t\nS1\tshared/k\tv\nC1\n");
        let peer = world.connecting.front().map(|(key, _)| Peer::Backend(*key)).unwrap();
        let mut server = Server::accept_in_steps(&mut world, &config, usize::MAX);
        assert!(server.heard(&mut world).starts_with("POST /a/k "));
        server.say(&mut world, &response(200, ""));
        assert_eq!(world.taken(client), "O1\n");
        world.block(peer, true);
        world.send(client, b"B2\t\nS2\tshared/k\tv\nC2\n");
        let count = world.engine.output(peer).len();
        assert!(count > 100);
        world.trickle(peer, count - missing);
        world.end(peer, End::Closed(None));
        if missing > 0 {
            // Nothing of it was seen, so it may be sent again on another connection, which fails as well.
            world.refuse();
        }
        let reply = world.taken(client);
        assert!(reply.contains(&format!("{expected}2\t")), "{missing}: {reply}");
    }
}

#[test]
fn pipelined_answers_keep_their_order() {
    let (mut world, _authority, leaf) = world(&["--option", "alias:pipeline=16"]);
    let config = Arc::new(server(&leaf, &BOTH, Wants::Nothing));
    let first = world.lookup("first");
    let mut server = Server::accept(&mut world, &config);
    server.heard(&mut world);
    server.say(&mut world, &response(200, "\"x\""));
    world.taken(first);
    let client = world.client(podop::config::Mode::Postfix);
    let mut requests = Vec::new();
    for key in ["a", "b", "c"] {
        podop::wire::netstring::encode(&[b"alias ", key.as_bytes()], &mut requests);
    }
    world.send(client, &requests);
    assert_eq!(server.heard(&mut world).matches("GET /a/").count(), 3);
    let answers: Vec<u8> = ["1", "2", "3"].iter().flat_map(|text| response(200, &format!("\"{text}\""))).collect();
    server.say(&mut world, &answers);
    assert_eq!(world.taken(client), "4:OK 1,4:OK 2,4:OK 3,");
}

#[test]
fn a_handshake_has_its_own_time_and_its_own_reason() {
    let (mut world, ..) = world(&[]);
    let client = world.lookup("a");
    world.accept();
    assert_eq!(metric(&world, "podop_connections{backend=\"https://192.0.2.1\",state=\"handshaking\"}"), "1");
    assert_eq!(metric(&world, "podop_connections{backend=\"https://192.0.2.1\",state=\"connecting\"}"), "0");
    world.wait(3 * SECOND - MS);
    assert_eq!(world.taken(client), "");
    world.wait(2 * MS);
    let reply = world.taken(client);
    assert!(reply.ends_with("TEMP alias: https://192.0.2.1 did not complete the TLS handshake in time,"), "{reply}");
    assert_eq!(metric(&world, "podop_connections{backend=\"https://192.0.2.1\",state=\"handshaking\"}"), "0");
    assert_eq!(metric(&world, "podop_tls_handshakes_total{backend=\"https://192.0.2.1\",result=\"failed\"}"), "1");
}

#[test]
fn a_timeout_names_the_handshake_that_was_waited_for() {
    let (mut world, ..) = world(&["--timeout", "2"]);
    let client = world.lookup("a");
    world.accept();
    world.wait(2 * SECOND);
    let reply = world.taken(client);
    assert!(reply.ends_with("TIMEOUT alias: https://192.0.2.1 did not complete a TLS handshake in time,"), "{reply}");
}

#[test]
fn the_next_address_is_tried_if_there_is_no_tls_with_one() {
    let authority = Authority::new();
    let option = authority.option();
    let table = ["--name", "alias", "--type", "url", "--param", "https://admin/a/§", "--option", &option];
    let mut world = World::new(&table);
    let good = Arc::new(server(&authority.issue(&["admin"]), &BOTH, Wants::Nothing));
    let bad = Arc::new(server(&Authority::new().issue(&["admin"]), &BOTH, Wants::Nothing));
    let client = world.lookup("a");
    world.resolve(Ok(&["192.0.2.1:443", "192.0.2.2:443"]));
    let refused = Server::accept(&mut world, &bad);
    assert!(refused.error.is_some() || !world.is_open(refused.peer()));
    let mut server = Server::accept(&mut world, &good);
    server.heard(&mut world);
    server.say(&mut world, &response(200, "\"b\""));
    assert_eq!(world.taken(client), "4:OK b,");
}

#[test]
fn a_reload_retires_connections_made_before_it() {
    let (mut world, authority, leaf) = world(&[]);
    let (old, other) = (Arc::new(server(&leaf, &BOTH, Wants::Nothing)), Authority::new());
    let new = Arc::new(server(&other.issue(&[HOST]), &BOTH, Wants::Nothing));
    // One connection is idle, one busy, one in its handshake when the file changes.
    let clients = ["a", "b", "c"].map(|key| world.lookup(key));
    let mut servers = [Server::accept(&mut world, &old), Server::accept(&mut world, &old)];
    world.accept();
    servers[0].heard(&mut world);
    servers[0].say(&mut world, &response(200, "\"1\""));
    // The third lookup has gone to the first connection by now.
    servers[0].heard(&mut world);
    servers[0].say(&mut world, &response(200, "\"3\""));
    assert_eq!((world.taken(clients[0]), world.taken(clients[2])), ("4:OK 1,".into(), "4:OK 3,".into()));
    authority.file("ca.pem", &other.pem());
    world.engine.reload();
    world.process();
    assert!(!world.is_open(servers[0].peer()) && world.is_open(servers[1].peer()));
    assert_eq!(metric(&world, "podop_connections{backend=\"https://192.0.2.1\",state=\"handshaking\"}"), "0");
    servers[1].heard(&mut world);
    servers[1].say(&mut world, &response(200, "\"2\""));
    assert_eq!(world.taken(clients[1]), "4:OK 2,");
    assert!(!world.is_open(servers[1].peer()), "it was made in the old terms");
    // The old server is not trusted any more, nor is a session with it resumed; the new one is.
    let client = world.lookup("d");
    Server::accept(&mut world, &old);
    assert!(world.taken(client).contains("from a CA that is not trusted"));
    let client = world.lookup("e");
    let mut server = Server::accept(&mut world, &new);
    server.heard(&mut world);
    server.say(&mut world, &response(200, "\"5\""));
    assert_eq!(world.taken(client), "4:OK 5,");
    // A file that cannot be used changes nothing.
    authority.file("ca.pem", "nothing");
    world.engine.reload();
    world.process();
    assert!(world.is_open(server.peer()));
}

#[test]
fn an_unusable_setting_is_reported_with_its_file() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (one, other) = (clients.issue(&["one"]), clients.issue(&["other"]));
    let ca = authority.file("ca.pem", &authority.pem());
    let cert = authority.file("cert.pem", &one.cert);
    let key = authority.file("other.key", &other.key);
    let broken = authority.file("broken.pem", "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n");
    let cut = authority.file("cut.pem", &authority.pem()[..100]);
    let locked = authority
        .file("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let cases = [
        (vec![("ca", "/no/such/file")], "ca /no/such/file: No such file".to_owned()),
        (vec![("ca", "/dev/null")], "ca /dev/null: has no certificate in PEM".to_owned()),
        (vec![("ca", &broken)], format!("ca {broken}: has a certificate that cannot be used")),
        (vec![("ca", &cut)], format!("ca {cut}: has a part that is not valid PEM")),
        (
            vec![("cert", &ca)],
            format!("cert {ca}: has no private key in PEM, or it is encrypted, and there is no key="),
        ),
        (vec![("cert", &key)], format!("cert {key}: has no certificate in PEM")),
        (vec![("cert", &cert), ("key", &key)], format!("key {key}: does not belong to the certificate")),
        (
            vec![("cert", &cert), ("key", &locked)],
            format!("key {locked}: has no private key in PEM, or it is encrypted"),
        ),
        (vec![("key", &key)], "key= needs cert=".to_owned()),
        (vec![("servername", "not a name")], "servername not a name: ".to_owned()),
        (vec![("verify", "no")], "setting 'verify' is unknown".to_owned()),
    ];
    for (settings, expected) in cases {
        let settings: Vec<Setting> = settings
            .iter()
            .map(|(key, value)| Setting { key: (*key).to_owned(), value: (*value).to_owned(), general: false })
            .collect();
        let opening =
            TableSpec { name: "t", param: "https://192.0.2.1/§", settings: Settings::new(&settings), decides: false };
        let error = open_url(opening, &mut Backends::default()).err().expect("an error");
        assert!(error.flag == "--option" && error.why.starts_with(&expected), "{}", error.why);
        assert!(!error.why.contains("secret") && !error.why.contains("c2Vj"), "{}", error.why);
    }
}

fn open_url(spec: TableSpec<'_>, backends: &mut Backends) -> Result<TableEntry, SettingError> {
    let mut turn = Turn::new(Instant::now());
    table::open("url", spec, &mut Setup::new(backends, &mut podop::program::Programs::default(), &mut turn))
}

#[test]
fn tables_share_connections_only_in_the_same_terms() {
    let authority = Authority::new();
    let (ca, again) = (authority.file("ca.pem", &authority.pem()), authority.file("again.pem", &authority.pem()));
    let mut backend = Backends::default();
    let mut origin = |ca: &str, servername: &str| {
        let settings = [("ca", ca), ("servername", servername)].map(|(key, value)| Setting {
            key: key.to_owned(),
            value: value.to_owned(),
            general: false,
        });
        let opening =
            TableSpec { name: "t", param: "https://192.0.2.1/§", settings: Settings::new(&settings), decides: false };
        open_url(opening, &mut backend).unwrap_or_else(|error| panic!("{error:?}"));
        backend.reports(Instant::now()).count()
    };
    assert_eq!(
        [origin(&ca, "a"), origin(&ca, "a"), origin(&ca, "b"), origin(&again, "a"), origin(&ca, "b")],
        [1, 1, 2, 3, 3]
    );
}

#[test]
fn a_cut_answer_on_a_used_connection_is_not_retried() {
    let (mut world, _authority, leaf) = world(&[]);
    let config = Arc::new(server(&leaf, &BOTH, Wants::Nothing));
    let first = world.lookup("first");
    let mut server = Server::accept(&mut world, &config);
    server.heard(&mut world);
    server.say(&mut world, &response(200, "\"x\""));
    assert_eq!(world.taken(first), "4:OK x,");
    let client = world.lookup("a");
    server.heard(&mut world);
    server.say(&mut world, b"HTTP/1.1 404 Not Found\r\n\r\nnull");
    world.end(server.peer(), End::HalfClosed);
    assert!(world.taken(client).ends_with("TEMP alias: https://192.0.2.1 closed without close_notify,"));
    assert!(world.connecting.is_empty());
}

#[test]
fn a_connection_is_replaced_before_its_keys_are_worn() {
    let (mut world, _authority, leaf) = world(&["--option", "alias:connections=1"]);
    let config = Arc::new(server(&leaf, &BOTH, Wants::Nothing));
    let client = world.client(podop::config::Mode::Postfix);
    let (mut server, mut connections) = (None::<Server>, 0);
    for at in 0..=65_536 {
        world.ask(client, "a");
        let server = match &mut server {
            Some(server) if world.is_open(server.peer()) => server,
            none => {
                assert!(connections == 0 || at == 65_536, "{at}");
                connections += 1;
                none.insert(Server::accept(&mut world, &config))
            }
        };
        server.heard(&mut world);
        server.say(&mut world, &response(200, "\"b\""));
        assert_eq!(world.taken(client), "4:OK b,");
    }
    assert_eq!(connections, 2);
}

#[test]
fn a_tables_own_certificate_is_not_mixed_with_the_general_key() {
    let (clients, own) = (Authority::new(), Authority::new());
    let (general, both) = (clients.issue(&["all"]), own.issue(&["own"]));
    let files = [
        ("cert", clients.file("cert.pem", &general.cert), true),
        ("key", clients.file("key.pem", &general.key), true),
        ("cert", clients.file("both.pem", &(both.cert + &both.key)), false),
        ("ca", clients.file("ca.pem", &clients.pem()), false),
    ];
    let settings = files.map(|(key, value, general)| Setting { key: key.to_owned(), value, general });
    let opening =
        TableSpec { name: "t", param: "https://192.0.2.1/§", settings: Settings::new(&settings), decides: false };
    open_url(opening, &mut Backends::default()).unwrap_or_else(|error| panic!("{error:?}"));
}

#[test]
fn a_replica_that_closes_as_the_handshake_ends_is_passed_over() {
    let authority = Authority::new();
    let option = authority.option();
    let urls = "https://192.0.2.1/a/§ https://192.0.2.2/a/§";
    for version in BOTH {
        for fin in [false, true] {
            let mut world = World::new(&["--name", "alias", "--type", "url", "--param", urls, "--option", &option]);
            let mut config = server(&authority.issue(&[HOST, "192.0.2.2"]), &[version], Wants::Nothing);
            config.send_half_rtt_data = true;
            let config = Arc::new(config);
            let client = world.lookup("a");
            let peer = world.accept();
            let mut first = Server::new(&config, peer, usize::MAX);
            first.take(&mut world);
            if version == BOTH[0] {
                let hello = first.records();
                first.deliver(&mut world, &hello);
                first.take(&mut world);
            }
            // The end of the handshake, and all else that a server may send, in one read.
            if !fin {
                first.seal(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                first.seal_end();
            }
            let last = first.records();
            world.engine.received(peer, &last, world.now);
            if fin {
                world.engine.ended(peer, End::HalfClosed, world.now);
            }
            world.process();
            assert!(!world.is_open(peer));
            for state in ["handshaking", "busy", "idle"] {
                let figure = format!("podop_connections{{backend=\"https://192.0.2.1\",state=\"{state}\"}}");
                assert_eq!(metric(&world, &figure), "0");
            }
            let mut other = Server::accept(&mut world, &config);
            assert!(other.heard(&mut world).contains("Host: 192.0.2.2\r\n"));
            other.say(&mut world, &response(200, "\"b\""));
            assert_eq!(world.taken(client), "4:OK b,");
            world.wait(10 * SECOND);
        }
    }
}

#[test]
fn an_answer_may_begin_before_the_whole_batch_is_sent() {
    for part in [0, 10] {
        let header = format!("alias:header=X: {}", "h".repeat(3000));
        let (mut world, _authority, leaf) =
            world(&["--option", &header, "--option", "alias:pipeline=16", "--option", "alias:connections=1"]);
        let config = Arc::new(server(&leaf, &BOTH, Wants::Nothing));
        let first = world.lookup("first");
        let mut server = Server::accept(&mut world, &config);
        server.heard(&mut world);
        let clients: Vec<Peer> = (0..8).map(|at| world.lookup(&format!("k{at}"))).collect();
        world.block(server.peer(), true);
        server.say(&mut world, &response(200, "\"x\""));
        assert_eq!(world.taken(first), "4:OK x,");
        // Eight requests of 3 KB are two records, of which the first leaves.
        world.trickle(server.peer(), 17_000);
        assert_eq!(server.heard(&mut world).matches("\r\n\r\n").count(), 5);
        let answer = response(200, "\"0\"");
        server.seal(&answer[..part]);
        server.seal(&answer[part..]);
        let records = server.records();
        server.deliver(&mut world, &records[..records.len() - 3]);
        world.block(server.peer(), false);
        server.deliver(&mut world, &records[records.len() - 3..]);
        assert_eq!(world.taken(clients[0]), "4:OK 0,", "{part}");
        assert!(world.is_open(server.peer()));
    }
}

#[test]
fn a_replica_that_wants_a_certificate_is_passed_over() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let option = authority.option();
    let urls = "https://192.0.2.1/a/§ https://192.0.2.2/a/§";
    let mut world = World::new(&["--name", "alias", "--type", "url", "--param", urls, "--option", &option]);
    let leaf = authority.issue(&[HOST, "192.0.2.2"]);
    let wants = Arc::new(server(&leaf, &BOTH, Wants::Perhaps(&clients)));
    let good = Arc::new(server(&leaf, &BOTH, Wants::Nothing));
    let client = world.lookup("a");
    let mut refusing = Server::accept(&mut world, &wants);
    refusing.heard(&mut world);
    refusing.say(&mut world, &response(403, ""));
    let mut other = Server::accept(&mut world, &good);
    assert!(other.heard(&mut world).contains("Host: 192.0.2.2\r\n"));
    other.say(&mut world, &response(403, ""));
    assert_eq!(world.taken(client), "9:NOTFOUND ,", "who asks for no certificate speaks of the key");
}

#[test]
fn a_miss_counts_again_once_no_certificate_is_asked_for() {
    // With a server that requests certificates, 403 is about those, whatever `miss=` is.
    let ((mut world, _authority, leaf), clients) = (world(&["--option", "alias:miss=403,404"]), Authority::new());
    for (wants, expected) in
        [(Wants::Perhaps(&clients), "rejected the client certificate: answered 403,"), (Wants::Nothing, "NOTFOUND ,")]
    {
        let config = Arc::new(server(&leaf, &BOTH, wants));
        let client = world.lookup("a");
        let mut server = Server::accept(&mut world, &config);
        server.heard(&mut world);
        server.say(&mut world, &response(403, ""));
        let reply = world.taken(client);
        assert!(reply.ends_with(expected), "{reply}");
        world.wait(2 * SECOND);
    }
}

/// A server that can check RSA keys only is not shown another one.
#[test]
fn a_certificate_that_cannot_be_shown_is_none() {
    #[derive(Debug)]
    struct RsaOnly;
    impl rustls::server::danger::ClientCertVerifier for RsaOnly {
        fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
            &[]
        }
        fn client_auth_mandatory(&self) -> bool {
            false
        }
        fn verify_client_cert(
            &self,
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::server::danger::ClientCertVerified, rustls::Error> {
            unreachable!("it was shown")
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            unreachable!("it was shown")
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            unreachable!("it was shown")
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            vec![rustls::SignatureScheme::RSA_PSS_SHA256, rustls::SignatureScheme::RSA_PKCS1_SHA256]
        }
    }
    let clients = Authority::new();
    let own = clients.issue(&["podop"]);
    let own = format!("alias:cert={}", clients.file("own.pem", &(own.cert + &own.key)));
    for version in BOTH {
        let (mut world, _authority, leaf) = world(&["--option", &own]);
        let config = Arc::new(server(&leaf, &[version], Wants::Verified(Arc::new(RsaOnly))));
        let client = world.lookup("a");
        let mut server = Server::accept(&mut world, &config);
        server.heard(&mut world);
        server.say(&mut world, &response(400, ""));
        let reply = world.taken(client);
        assert!(reply.ends_with("rejected the client certificate: answered 400,"), "{reply}");
    }
}
