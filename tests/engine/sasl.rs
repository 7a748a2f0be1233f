//! Dovecot's authentication protocol, as Postfix and Exim speak it.

use crate::support;

use podop::config::Mode;
use podop::io::{End, Peer};
use podop::wire::base64::encode;
use support::world::{SECOND, World, response};

const HELLO: &[u8] = b"VERSION\t1\t0\nCPID\t15331\n";

fn login(more: &[&str]) -> World {
    let table = ["--mode", "sasl=login", "--name", "login", "--type", "url", "--param", "http://192.0.2.1/login"];
    World::new(&[&table[..], more].concat())
}

/// A client whose handshake is over.
fn client(world: &mut World) -> Peer {
    let client = world.client(Mode::Sasl("login"));
    world.process();
    assert!(world.taken(client).ends_with("\nDONE\n"));
    world.send(client, HELLO);
    client
}

fn plain(id: u32, user: &str, password: &str) -> Vec<u8> {
    let response = encode(format!("\0{user}\0{password}").as_bytes());
    format!("AUTH\t{id}\tPLAIN\tservice=smtp\tnologin\tlip=192.0.2.9\trip=192.0.2.7\tsecured\tresp={response}\n")
        .into_bytes()
}

/// Answers whatever is asked; what was.
fn serve(world: &mut World, status: u16, body: &str) -> Vec<String> {
    let mut asked = Vec::new();
    world.serve(|method, target, json| {
        assert_eq!((method, target), ("POST", "/login"));
        asked.push(json.to_owned());
        Some(response(status, body))
    });
    asked
}

#[test]
fn the_server_speaks_first_and_names_mechanisms_before_itself() {
    let mut world = login(&[]);
    let client = world.client(Mode::Sasl("login"));
    world.process();
    let hello = world.taken(client);
    let start = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t";
    assert!(hello.starts_with(start) && hello.ends_with("\nDONE\n"), "{hello}");
    let words: Vec<&str> = hello.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(words, ["VERSION", "MECH", "MECH", "SPID", "CUID", "COOKIE", "DONE"]);
    let mut world = login(&["--option", "login:mechanisms=xoauth2,oauthbearer"]);
    let client = world.client(Mode::Sasl("login"));
    world.process();
    assert!(world.taken(client).contains("MECH\tXOAUTH2\nMECH\tOAUTHBEARER\nSPID\t"));
    world.wait(400 * SECOND);
    assert!(world.is_open(client), "an idle client is never closed");
}

#[test]
fn a_login_is_posted_as_json_and_admitted_or_refused() {
    let mut world = login(&[]);
    let client = client(&mut world);
    world.send(client, &plain(1, "alice@x", "se\"cret"));
    let asked = serve(&mut world, 200, "true");
    assert_eq!(
        asked,
        [
            r#"{"username":"alice@x","password":"se\"cret","mechanism":"PLAIN","service":"smtp","client":"192.0.2.7","server":"192.0.2.9","tls":true}"#
        ]
    );
    assert_eq!(world.taken(client), "OK\t1\tuser=alice@x\n");
    for (status, body, reply) in [
        (204, "", "OK\t2\tuser=a\n"),
        (200, "", "OK\t2\tuser=a\n"),
        (200, "\"alice@x\"", "OK\t2\tuser=alice@x\n"),
        (401, "", "FAIL\t2\tuser=a\n"),
        (403, "wrong", "FAIL\t2\tuser=a\n"),
        (404, "", "FAIL\t2\tuser=a\n"),
    ] {
        world.send(client, &plain(2, "a", "p"));
        serve(&mut world, status, body);
        assert_eq!(world.taken(client), reply, "{status} {body}");
    }
    let metrics = world.engine.metrics();
    for (result, count) in [("ok", 4), ("fail", 3), ("fault", 0)] {
        assert!(
            metrics.contains(&format!("podop_logins_total{{table=\"login\",result=\"{result}\"}} {count}\n")),
            "{metrics}"
        );
    }
}

#[test]
fn a_fault_is_no_wrong_password_and_closes_the_connection() {
    let cut = |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}").into_bytes();
    for bytes in [
        response(500, "\"alice\""),
        response(400, ""),
        response(302, ""),
        response(429, ""),
        response(200, "<html>log in</html>"),
        response(200, "{\"error\": \"database is locked\"}"),
        response(200, "null"),
        response(200, "false"),
        response(200, "1"),
        response(200, "\"\""),
        response(200, "\"a\\nb\""),
        cut("Content-Length: 10\r\n", "true"),
        cut("", ""),
        b"garbage\r\n".to_vec(),
        b"".to_vec(),
    ] {
        for hangs in [false, true] {
            let mut world = login(&["--timeout", "20"]);
            let client = client(&mut world);
            world.send(client, &plain(1, "a", "p"));
            let backend = world.accept();
            world.taken(backend);
            world.send(backend, &bytes);
            if hangs && world.is_open(client) {
                world.wait(8 * SECOND); // Postfix waits ten
            } else {
                world.end(backend, End::HalfClosed);
            }
            assert_eq!(world.taken(client), "");
            assert!(!world.is_open(client), "{}", String::from_utf8_lossy(&bytes));
            assert!(world.connecting.is_empty(), "it is not sent twice");
            assert!(world.engine.metrics().contains("podop_logins_total{table=\"login\",result=\"fault\"} 1\n"));
        }
    }
    let mut world = login(&[]);
    let client = client(&mut world);
    world.send(client, &plain(1, "a", "p"));
    world.refuse();
    assert!(!world.is_open(client));
}

#[test]
fn replies_that_are_owed_come_before_the_connection_closes() {
    let mut world = login(&[]);
    let client = client(&mut world);
    world.send(client, &plain(1, "a", "p"));
    world.send(client, &plain(2, "b", "p"));
    let (first, second) = (world.accept(), world.accept());
    let (one, _) = (world.taken(first), world.taken(second));
    let (a, b) = if one.contains("\"a\"") { (first, second) } else { (second, first) };
    world.send(a, &response(500, ""));
    assert!(world.is_open(client));
    world.block(client, true); // so that what it is sent can be seen
    world.send(b, &response(200, "true"));
    assert!(world.is_open(client));
    world.block(client, false);
    assert!(!world.is_open(client));
}

#[test]
fn dialogues_of_postfix_are_answered_as_dovecot_does() {
    let mut world = login(&[]);
    let client = client(&mut world);
    let common = "service=smtp\tnologin\tlip=127.0.0.1\trip=127.0.0.1";
    // Each line of the client, and the reply; `?` is the table's decision.
    for (line, reply) in [
        (format!("AUTH\t5\tPLAIN\t{common}"), "CONT\t5\t\n"),
        ("CONT\t5\tAGFsaWNlQHgudGVzdABzZWNyZXQ=".to_owned(), "?OK\t5\tuser=alice@x.test\n"),
        (format!("AUTH\t6\tPLAIN\t{common}"), "CONT\t6\t\n"), // cancelled: never continued
        (format!("AUTH\t8\tPLAIN\t{common}\tresp=="), "FAIL\t8\n"),
        (format!("AUTH\t10\tLOGIN\t{common}"), "CONT\t10\tVXNlcm5hbWU6\n"),
        ("CONT\t10\tYWxpY2VAeC50ZXN0".to_owned(), "CONT\t10\tUGFzc3dvcmQ6\n"),
        ("CONT\t10\tc2VjcmV0".to_owned(), "?OK\t10\tuser=alice@x.test\n"),
        (format!("AUTH\t12\tLOGIN\t{common}\tresp=YWxpY2VAeC50ZXN0"), "CONT\t12\tUGFzc3dvcmQ6\n"),
        ("CONT\t12\tc2VjcmV0".to_owned(), "?OK\t12\tuser=alice@x.test\n"),
        (format!("AUTH\t13\tCRAM-MD5\t{common}"), "FAIL\t13\n"),
        (format!("AUTH\t14\tXOAUTH2\t{common}\tresp=dXNlcj1h"), "FAIL\t14\n"),
        (format!("AUTH\t15\tplain\t{common}\tresp=!!!!"), "FAIL\t15\n"),
        (format!("AUTH\t16\tPLAIN\t{common}\tresp={}", encode(b"other\0alice\0p")), "FAIL\t16\n"),
        (format!("AUTH\t17\tPLAIN\t{common}\tresp={}", encode(b"\0\0p")), "FAIL\t17\n"),
        (format!("AUTH\t18\tPLAIN\t{common}\tresp={}", encode(b"\0alice\0p\0q")), "FAIL\t18\n"),
        (format!("AUTH\t19\tPLAIN\t{common}\tresp={}", encode(b"\0al\xffice\0p")), "FAIL\t19\n"),
        (format!("AUTH\t20\tPLAIN\t{common}\tresp={}", encode(b"\0tab\tin\0p")), "?OK\t20\tuser=tab\x01tin\n"),
        (format!("AUTH\t21\tPLAIN\t{common}\tresp={}", encode(b"alice\0alice\0p")), "?OK\t21\tuser=alice\n"),
        ("UNKNOWN\t1".to_owned(), ""),
    ] {
        world.send(client, format!("{line}\n").as_bytes());
        let asked = serve(&mut world, 200, "true");
        assert_eq!(asked.len(), usize::from(reply.starts_with('?')), "{line}");
        assert_eq!(world.taken(client), reply.trim_start_matches('?'), "{line}");
    }
}

#[test]
fn tokens_take_the_place_of_passwords_if_the_table_says_so() {
    let mut world = login(&["--option", "login:mechanisms=XOAUTH2 OAUTHBEARER"]);
    let client = client(&mut world);
    for (mechanism, response, expected) in [
        ("XOAUTH2", "user=a@b\x01auth=Bearer t0ken\x01\x01", Some("a@b")),
        ("OAUTHBEARER", "n,a=a=2Cb=3Dc%40,\x01host=h\x01port=587\x01auth=Bearer t0ken\x01\x01", Some("a,b=c%40")),
        ("XOAUTH2", "user=a@b\x01\x01", None),
        ("OAUTHBEARER", "n,,\x01auth=Bearer t0ken\x01\x01", None),
        ("OAUTHBEARER", "y,a=a,\x01auth=Bearer t0ken\x01\x01", None),
        ("OAUTHBEARER", "n,a=a,\x01auth=Basic t0ken\x01\x01", None),
    ] {
        world.send(
            client,
            format!("AUTH\t1\t{mechanism}\tservice=smtp\tresp={}\n", encode(response.as_bytes())).as_bytes(),
        );
        let asked = serve(&mut world, 204, "");
        let reply = expected.map_or("FAIL\t1\n".to_owned(), |user| format!("OK\t1\tuser={user}\n"));
        assert_eq!(world.taken(client), reply, "{response}");
        if let Some(user) = expected {
            assert!(
                asked[0].starts_with(&format!(
                    "{{\"username\":\"{user}\",\"token\":\"t0ken\",\"mechanism\":\"{mechanism}\""
                ))
            );
        }
    }
}

#[test]
fn interleaved_and_cancelled_requests_keep_apart() {
    let mut world = login(&[]);
    let client = client(&mut world);
    world.send(client, b"AUTH\t1\tLOGIN\tservice=smtp\nAUTH\t2\tLOGIN\tservice=smtp\n");
    assert_eq!(world.taken(client), "CONT\t1\tVXNlcm5hbWU6\nCONT\t2\tVXNlcm5hbWU6\n");
    world.send(client, format!("CONT\t1\t{}\nCONT\t2\t{}\n", encode(b"one"), encode(b"two")).as_bytes());
    world.taken(client);
    world.send(client, format!("CONT\t2\t{}\nCONT\t1\t{}\n", encode(b"second"), encode(b"first")).as_bytes());
    world.serve(|_, _, json| {
        let right = json.contains("\"username\":\"one\",\"password\":\"first\"");
        assert!(right || json.contains("\"username\":\"two\",\"password\":\"second\""), "{json}");
        Some(response(if right { 200 } else { 403 }, if right { "true" } else { "" }))
    });
    let mut replies: Vec<String> = world.taken(client).lines().map(str::to_owned).collect();
    replies.sort();
    assert_eq!(replies, ["FAIL\t2\tuser=two", "OK\t1\tuser=one"]);
    // What was cancelled is answered by nothing, and its id can be used again after that.
    world.send(client, &plain(3, "a", "p"));
    world.send(client, b"CANCEL\t3\nAUTH\t4\tLOGIN\tservice=smtp\nCANCEL\t4\nAUTH\t4\tPLAIN\tservice=smtp\n");
    assert_eq!(serve(&mut world, 200, "true").len(), 1);
    assert_eq!(world.taken(client), "CONT\t4\tVXNlcm5hbWU6\nCONT\t4\t\n");
    world.send(client, &plain(3, "b", "p"));
    serve(&mut world, 200, "true");
    assert_eq!(world.taken(client), "OK\t3\tuser=b\n");
}

#[test]
fn clients_that_break_the_protocol_are_closed() {
    let mut dialogues: Vec<Vec<u8>> = [
        &b"AUTH\t1\tPLAIN\n"[..],
        b"VERSION\t2\t0\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"VERSION\t1\t0\nAUTH\n",
        b"VERSION\t1\t0\nAUTH\t-1\tPLAIN\n",
        b"VERSION\t1\t0\nAUTH\t99999999999\tPLAIN\n",
        b"VERSION\t1\t0\nCONT\t7\tYQ==\n",
    ]
    .map(<[u8]>::to_vec)
    .into();
    dialogues.push([HELLO, &plain(1, "a", "p"), &plain(1, "b", "p")].concat());
    dialogues.push([b"VERSION\t1\t0\nAUTH\t1\tPLAIN\tresp=", &[b'A'; 70_000][..]].concat());
    for bytes in dialogues {
        let mut world = login(&[]);
        let client = world.client(Mode::Sasl("login"));
        world.send(client, &bytes);
        assert!(!world.is_open(client), "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]));
    }
    // Byte by byte it is the same as at once, and one that vanishes stops nobody.
    let mut world = login(&[]);
    let (slow, gone) = (client(&mut world), client(&mut world));
    for byte in plain(1, "a", "p") {
        world.send(slow, &[byte]);
    }
    world.send(gone, &plain(1, "b", "p"));
    world.end(gone, End::Closed(None));
    serve(&mut world, 200, "true");
    assert_eq!(world.taken(slow), "OK\t1\tuser=a\n");
}

#[test]
fn a_used_connection_that_closes_without_a_byte_is_no_fault() {
    let mut world = login(&[]);
    let client = client(&mut world);
    world.send(client, &plain(1, "a", "p"));
    serve(&mut world, 200, "true");
    world.taken(client);
    world.send(client, &plain(2, "a", "p"));
    let (backend, _) = world.next_request().expect("a request");
    world.end(backend, End::HalfClosed);
    assert_eq!(serve(&mut world, 200, "true").len(), 1);
    assert_eq!(world.taken(client), "OK\t2\tuser=a\n");
}

#[test]
fn exchanges_that_were_given_up_stop_no_login() {
    let mut world = login(&[]);
    let client = client(&mut world);
    // Clients of Postfix that vanish after AUTH: it does not cancel their exchanges.
    for id in 0..300 {
        world.send(client, format!("AUTH\t{id}\tLOGIN\tservice=smtp\n").as_bytes());
    }
    world.taken(client);
    world.send(client, &plain(300, "a", "p"));
    serve(&mut world, 200, "true");
    assert_eq!(world.taken(client), "OK\t300\tuser=a\n");
    world.send(client, b"AUTH\t299\tPLAIN\tservice=smtp\n"); // the id of one that was given up
    assert_eq!(world.taken(client), "CONT\t299\t\n");
}

#[test]
fn after_a_fault_others_are_waited_for_until_its_deadline() {
    let mut world = login(&[]);
    let client = client(&mut world);
    world.send(client, &plain(1, "a", "p"));
    world.accept();
    world.wait(SECOND * 7);
    world.send(client, &plain(2, "b", "p"));
    world.accept();
    world.wait(SECOND * 2);
    assert!(!world.is_open(client), "Postfix has waited for the first one for 8 s");
}

#[test]
fn a_fault_of_a_cancelled_login_is_of_no_interest() {
    let mut world = login(&[]);
    let client = client(&mut world);
    world.send(client, &plain(1, "a", "p"));
    world.send(client, b"AUTH\t2\tLOGIN\tservice=smtp\nCANCEL\t1\n");
    serve(&mut world, 500, "");
    assert!(world.is_open(client));
}

/// Sends a login of which the backend, that has answered another one, gets only a part.
fn half_sent(world: &mut World, client: Peer) -> Peer {
    world.send(client, &plain(1, "a", "p"));
    let (backend, _) = world.next_request().expect("a request");
    world.send(backend, &response(200, "true"));
    world.taken(client);
    world.block(backend, true);
    world.send(client, &plain(2, "b", &"p".repeat(40_000)));
    world.trickle(backend, 300);
    backend
}

#[test]
fn what_comes_before_the_password_has_left_is_no_decision() {
    for status in [200, 403] {
        let mut world = login(&[]);
        let client = client(&mut world);
        let backend = half_sent(&mut world, client);
        world.send(backend, &response(status, "\"x\""));
        assert!(!world.is_open(client), "{status}");
        assert!(world.connecting.is_empty(), "it is not sent again");
    }
}

#[test]
fn names_and_passwords_that_no_service_could_tell_apart_are_refused() {
    let mut world = login(&["--option", "login:mechanisms=XOAUTH2 OAUTHBEARER"]);
    let client = client(&mut world);
    for (mechanism, response) in [
        ("PLAIN", &b"\0alice\0"[..]),
        ("PLAIN", b"\0alice\0p\xff"),
        ("OAUTHBEARER", b"n,a=al\xffice,\x01auth=Bearer t\x01\x01"),
        ("OAUTHBEARER", b"n,a=al=2Xice,\x01auth=Bearer t\x01\x01"),
        ("XOAUTH2", b"user=al\0ice\x01auth=Bearer t\x01\x01"),
        ("XOAUTH2", b"user=alice\x01auth=Bearer t\0\x01\x01"),
    ] {
        world.send(client, format!("AUTH\t1\t{mechanism}\tresp={}\n", encode(response)).as_bytes());
        assert_eq!((serve(&mut world, 200, "true").len(), &world.taken(client)[..]), (0, "FAIL\t1\n"), "{mechanism}");
    }
    world.send(client, b"AUTH\t1\tLOGIN\n");
    world.send(client, format!("CONT\t1\t{}\nCONT\t1\t{}\n", encode(b"a\0b"), encode(b"p")).as_bytes());
    assert!(world.taken(client).ends_with("FAIL\t1\n"));
    // A password keeps its characters.
    world.send(client, &plain(2, "jörg", "ä\"\\\t\u{1}"));
    let asked = serve(&mut world, 200, "true");
    assert!(asked[0].starts_with("{\"username\":\"jörg\",\"password\":\"ä\\\"\\\\\\t\\u0001\","), "{}", asked[0]);
}

#[test]
fn a_status_that_means_no_is_never_a_yes() {
    let mut world = login(&["--option", "login:miss=204,404"]);
    let client = client(&mut world);
    world.send(client, &plain(1, "a", "p"));
    serve(&mut world, 204, "");
    assert_eq!(world.taken(client), "FAIL\t1\tuser=a\n");
    // A name that no URL can express is that of no user.
    let table = ["--mode", "sasl=login", "--name", "login", "--type", "url", "--param", "http://192.0.2.1/login/§"];
    let mut world = World::new(&table);
    let client = self::client(&mut world);
    world.send(client, &plain(1, "..", "p"));
    assert_eq!(world.taken(client), "FAIL\t1\tuser=..\n");
}

#[test]
fn a_client_cannot_fill_the_memory_with_logins() {
    let mut world = login(&[]);
    let client = client(&mut world);
    let mut sent = 0;
    for id in 0..900 {
        world.send(client, &plain(id, "a", &"\u{1}".repeat(40_000)));
        sent += 1;
        if world.held(client) > 0 {
            break;
        }
    }
    assert!(sent < 40, "it is not read any more after 4 MiB: {sent}");
    // As its logins are decided, it is read again.
    world.serve(|_, _, _| Some(response(200, "true")));
    assert!(world.held(client) == 0 && world.taken(client).matches("OK\t").count() == sent);
}

#[test]
fn a_status_before_the_whole_login_has_left_is_no_decision_also_at_the_end_of_the_stream() {
    for (status, body) in [(403, ""), (401, "x"), (404, "")] {
        let mut world = login(&[]);
        let client = client(&mut world);
        let backend = half_sent(&mut world, client);
        world.send(backend, format!("HTTP/1.1 {status} No\r\nConnection: close\r\n\r\n{body}").as_bytes());
        world.end(backend, End::HalfClosed);
        assert_eq!((world.is_open(client), world.taken(client).as_str()), (false, ""), "{status}");
    }
}

#[test]
fn no_other_status_without_a_body_admits_a_user() {
    for status in [201, 202, 203, 205, 206, 226] {
        let mut world = login(&[]);
        let client = client(&mut world);
        world.send(client, &plain(1, "a", "p"));
        serve(&mut world, status, "");
        assert_eq!((world.is_open(client), world.taken(client).as_str()), (false, ""), "{status}");
    }
}

#[test]
fn a_cancelled_login_that_times_out_closes_nothing() {
    let mut world = login(&[]);
    let client = client(&mut world);
    world.send(client, &plain(1, "a", "p"));
    world.accept();
    world.send(client, b"CANCEL\t1\n");
    world.wait(SECOND * 5);
    world.send(client, &plain(2, "b", "p"));
    world.accept();
    world.end(client, End::HalfClosed);
    world.wait(SECOND * 4);
    assert!(world.is_open(client), "the second one is still owed");
    world.wait(SECOND * 5);
    assert!(!world.is_open(client));
}

#[test]
fn a_known_answer_is_sent_before_the_connection_is_closed_for_another_login() {
    let mut world = login(&[]);
    let client = client(&mut world);
    world.send(client, &plain(1, "a", "p"));
    world.accept();
    world.wait(SECOND * 5);
    world.send(client, &plain(2, "b", "p"));
    let second = world.accept();
    world.now += SECOND * 3;
    world.engine.received(second, &response(200, "true"), world.now);
    world.wait(SECOND);
    assert_eq!((world.taken(client).as_str(), world.is_open(client)), ("OK\t2\tuser=b\n", false));
}

#[test]
fn after_a_fault_no_more_logins_are_started() {
    let mut world = login(&["--option", "login:connections=2"]);
    let client = client(&mut world);
    let logins: Vec<u8> = (0..1_500).flat_map(|id| plain(id, "a", "p")).collect();
    world.send(client, &logins);
    let (backend, _) = world.next_request().expect("a request");
    world.send(backend, &response(500, ""));
    let mut asked = 0;
    world.serve(|_, _, _| {
        asked += 1;
        Some(response(200, "true"))
    });
    assert!((1..1_000).contains(&asked) && !world.is_open(client), "{asked} of 1500 were started");
}
