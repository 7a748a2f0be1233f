//! The dict protocol in memory: versions, order, commits and their honest outcomes, iterations and bounds.

use crate::support;

use podop::client::MAX_UNSENT;
use podop::config::Mode;
use podop::io::{End, Peer};
use std::io::ErrorKind;
use support::world::{SECOND, World, response};

const HELLO: &str = "H4\t0\t0\t\tmeta\n";
const GONE: End = End::Closed(None);

#[test]
fn keys_belong_to_their_namespace_and_user() {
    let cases = [
        ("H4\t0\t0\t\tmeta\nLshared/a/b\t\n", "/m/a/b"),
        ("H4\t0\t0\t\tmeta\nLshared/a\tu@x\n", "/m/a"),
        ("H4\t0\t0\t\tmeta\nLpriv/a\tu@x\n", "/m/a/u%40x"),
        ("H3\t2\t0\tignored\tmeta\nLpriv/a\tu@x\n", "/m/a/u%40x"),
        ("H2\t2\t0\tu@x\tmeta\nLpriv/a\n", "/m/a/u%40x"),
        ("H2\t0\t0\tu@x\tmeta\nLshared/a\n", "/m/a"),
        ("H4\t0\t0\t\tmeta\nLshared/t\x01tn\x01n\x011\t\n", "/m/t%09n%0A%01"),
        ("H4\t0\t0\t\tmeta\nI0\t0\tshared/it/\t\n", "/m/it/"),
        ("H4\t0\t0\t\tmeta\nI0\t0\tpriv/it/\tu@x\n", "/m/it/u%40x"),
        ("H4\t0\t0\t\tmeta\nI16\t0\tshared/it/a\t\n", "/m/it/a"),
        ("H2\t2\t0\tu\tmeta\nI0\t0\tpriv/it\n", "/m/it/u"),
    ];
    for (bytes, target) in cases {
        let mut world = meta(&[]);
        let client = world.client(Mode::Auto);
        world.send(client, bytes.as_bytes());
        let backend = world.accept();
        assert_eq!(world.taken(backend).split(' ').nth(1), Some(target), "{bytes:?}");
    }
    for (bytes, reply) in [
        ("Lpriv/a\t\n", "Fpriv/ key without a user\n"),
        ("Lpriv/a\n", "Fpriv/ key without a user\n"),
        ("Lother/a\tu\n", "Fkey begins neither with shared/ nor with priv/\n"),
        ("I0\t0\tother/\tu\n", "Fkey begins neither with shared/ nor with priv/\n"),
        ("B1\t\nS1\tpriv/a\t1\nC1\n", "F1\tpriv/ key without a user\n"),
        ("B1\t\nS1\tshared/a\t1\nS1\tother/a\t1\nC1\n", "F1\tkey begins neither with shared/ nor with priv/\n"),
    ] {
        assert_eq!(spoken(&mut meta(&[]), bytes), reply, "{bytes:?}");
    }
}

#[test]
fn answers_are_escaped_and_json_is_compact() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    for (body, reply) in [
        (r#""tab\t nl\n cr\r one\u0001 end""#, "Otab\x01t nl\x01n cr\x01r one\x011 end\n"),
        (r#""a\u0000b""#, "Fmeta: the value has a NUL, where mail servers cut it\n"),
        (r#"{"a": 1.50, "b": "x\ty"}"#, "O{\"a\":1.50,\"b\":\"x\\ty\"}\n"),
        ("[1, 2]", "O[1,2]\n"),
        ("[]", "O[]\n"),
        ("41", "O41\n"),
        ("\"\"", "O\n"),
        ("null", "N\n"),
    ] {
        world.send(client, b"Lshared/k\t\n");
        world.serve(|_, _, _| Some(response(200, body)));
        assert_eq!(world.taken(client), reply);
    }
    world.send(client, b"Lshared/k\t\n");
    world.serve(|_, _, _| Some(response(500, "")));
    assert_eq!(world.taken(client), "Fmeta: 192.0.2.1 answered 500\n");
}

#[test]
fn lookups_overtake_each_other_where_ids_are_asynchronous() {
    for (hello, asynchronous) in [("H2\t0", false), ("H2\t1", true), ("H2\t2", true), ("H3\t2", true), ("H4\t0", true)]
    {
        let mut world = meta(&[]);
        let client = world.client(Mode::Dovecot);
        let lookups: String = (0..3).map(|at| format!("Lshared/{at}\tu\n")).collect();
        world.send(client, format!("{hello}\t0\tu\tmeta\n{lookups}").as_bytes());
        let backends = [world.accept(), world.accept(), world.accept()];
        world.respond(backends[2], "c");
        assert_eq!(world.taken(client), if asynchronous { "*1\n*2\n*3\n+3\tOc\n" } else { "" });
        world.respond(backends[0], "a");
        assert_eq!(world.taken(client), if asynchronous { "+1\tOa\n" } else { "Oa\n" });
        world.respond(backends[1], "b");
        assert_eq!(world.taken(client), if asynchronous { "+2\tOb\n" } else { "Ob\nOc\n" });
    }
}

#[test]
fn a_transaction_is_carried_out_in_order_one_write_at_a_time() {
    let mut world = meta(&["--option", "meta:unset=delete"]);
    let client = dovecot(&mut world);
    let writes =
        "B7\tu@x\t0\nT7\t1\t2\nV7\tyes\nS7\tpriv/q\t42\nS7\tshared/t\tmy text\nU7\tshared/d\nA7\tshared/n\t-3\n";
    world.send(client, format!("{writes}B8\t\nS8\tshared/x\t1\nR8\nC7\n").as_bytes());
    let mut seen = Vec::new();
    world.serve(|method, target, body| {
        seen.push(format!("{method} {target} {body}"));
        Some(response(if method == "DELETE" { 404 } else { 201 }, ""))
    });
    let expected = ["POST /m/q/u%40x 42", "POST /m/t \"my text\"", "DELETE /m/d ", "PATCH /m/n {\"increment\": -3}"];
    assert_eq!(seen, expected);
    assert_eq!(world.taken(client), "O7\n");

    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"B1\nU1\tshared/d\nC1\nB2\nC2\n");
    let backend = world.accept();
    let request = world.taken(backend);
    assert!(request.starts_with("POST /m/d ") && request.ends_with("\r\n\r\nnull"), "{request}");
    assert!(request.contains("Content-Type: application/json\r\nContent-Length: 4\r\n"));
    world.send(backend, &response(200, ""));
    assert_eq!(world.taken(client), "*1\n*2\n+2\tO2\n+1\tO1\n", "an empty transaction needs nobody");
}

#[test]
fn the_outcome_of_a_commit_is_never_better_than_the_truth() {
    let status = |status: u16| move |world: &mut World, backend: Peer| world.send(backend, &response(status, ""));
    let end = |end: End| move |world: &mut World, backend: Peer| world.end(backend, end);
    type Act = Box<dyn Fn(&mut World, Peer)>;
    let cases: Vec<(Vec<Act>, &str)> = vec![
        (vec![Box::new(status(200)), Box::new(status(204)), Box::new(status(299))], "O1\n"),
        (vec![Box::new(status(400))], "F1\tmeta: 192.0.2.1 answered 400\n"),
        (vec![Box::new(status(403))], "F1\tmeta: 192.0.2.1 answered 403\n"),
        (vec![Box::new(status(404))], "F1\tmeta: 192.0.2.1 answered 404\n"),
        (vec![Box::new(status(409))], "F1\tmeta: 192.0.2.1 answered 409\n"),
        (vec![Box::new(status(500))], "W1\tmeta: 192.0.2.1 answered 500\n"),
        (vec![Box::new(status(501))], "F1\tmeta: 192.0.2.1 answered 501\n"),
        (vec![Box::new(status(503))], "F1\tmeta: 192.0.2.1 answered 503\n"),
        (vec![Box::new(status(502))], "W1\tmeta: 192.0.2.1 answered 502\n"),
        (vec![Box::new(status(504))], "W1\tmeta: 192.0.2.1 answered 504\n"),
        (vec![Box::new(status(302))], "W1\tmeta: 192.0.2.1 answered 302\n"),
        (vec![Box::new(status(304))], "W1\tmeta: 192.0.2.1 answered 304\n"),
        (vec![Box::new(status(200)), Box::new(status(500))], "W1\tmeta: 192.0.2.1 answered 500\n"),
        (vec![Box::new(end(End::HalfClosed))], "W1\tmeta: 192.0.2.1 closed the connection without an answer\n"),
        (
            vec![Box::new(end(End::Closed(Some(ErrorKind::ConnectionReset))))],
            "W1\tmeta: 192.0.2.1 broke the connection: connection reset\n",
        ),
        (
            vec![Box::new(|world: &mut World, backend| {
                world.send(backend, b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")
            })],
            "W1\tmeta: 192.0.2.1 sent an invalid response: bad Content-Length\n",
        ),
        (
            vec![Box::new(|world: &mut World, _| world.wait(20 * SECOND))],
            "W1\tmeta: 192.0.2.1 did not answer in time\n",
        ),
    ];
    for (acts, reply) in cases {
        let mut world = meta(&[]);
        let client = dovecot(&mut world);
        world.send(client, b"B1\t\nS1\tshared/a\t1\nS1\tshared/b\t2\nS1\tshared/c\t3\nC1\n");
        let mut backend = world.accept();
        for act in acts {
            if !world.is_open(backend) {
                backend = world.accept();
            }
            world.taken(backend);
            act(&mut world, backend);
        }
        assert_eq!(world.taken(client), reply);
        assert!(world.connecting.is_empty(), "nothing is tried again");
    }
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"B1\t\nS1\tshared/a\t1\nC1\n");
    world.refuse();
    assert_eq!(world.taken(client), "F1\tmeta: 192.0.2.1 refused the connection\n", "it never left");
    world.send(client, b"B2\t\nS2\tshared/a\t\xff\nC2\n");
    assert_eq!(world.taken(client), "F2\tmeta: the value is neither JSON nor UTF-8\n");
    world.send(client, b"B3\t\nS3\tshared/../a\t1\nC3\n");
    assert_eq!(world.taken(client), "F3\tmeta: the key has a segment that is empty or of dots\n");
}

#[test]
fn an_increment_of_nothing_is_not_found() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"B1\t\nA1\tshared/n\t1\nC1\n");
    world.serve(|_, _, _| Some(response(404, "")));
    assert_eq!(world.taken(client), "N1\n");
    world.send(client, b"B2\t\nA2\tshared/n\t1\nA2\tshared/m\t1\nC2\n");
    world.serve(|_, target, _| Some(response(if target == "/m/n" { 200 } else { 404 }, "")));
    assert_eq!(world.taken(client), "W2\ta value to increment is missing\n");
}

#[test]
fn a_write_goes_out_on_a_connection_that_is_known_to_be_open() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"Lshared/a\t\n");
    let idle = world.accept();
    world.asked(idle);
    world.respond(idle, "v");
    assert_eq!(world.taken(client), "Ov\n");
    // The reactor reads first, and finds that the backend has closed meanwhile.
    world.block(idle, true);
    world.send(client, b"B1\t\nS1\tshared/a\t1\nC1\n");
    assert!(world.engine.needs_check(idle));
    world.end(idle, End::HalfClosed);
    let fresh = world.accept();
    assert!(!world.engine.needs_check(fresh));
    assert!(world.taken(fresh).starts_with("POST /m/a "));
    world.send(fresh, &response(200, ""));
    assert_eq!(world.taken(client), "O1\n");
}

#[test]
fn a_write_whose_connection_breaks_is_not_sent_again() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"B1\t\nS1\tshared/a\t1\nC1\n");
    let used = world.accept();
    world.taken(used);
    world.send(used, &response(200, ""));
    assert_eq!(world.taken(client), "O1\n");
    world.send(client, b"B2\t\nS2\tshared/a\t2\nC2\n");
    assert!(world.taken(used).ends_with("\r\n\r\n2"));
    world.end(used, End::HalfClosed);
    assert_eq!(world.taken(client), "W2\tmeta: 192.0.2.1 closed the connection without an answer\n");
    assert!(world.connecting.is_empty());
}

#[test]
fn a_commit_outlives_its_client_and_a_transaction_does_not() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"B1\t\nS1\tshared/a\t1\nS1\tshared/b\t2\nC1\nB2\t\nS2\tshared/c\t3\n");
    world.end(client, GONE);
    assert!(!world.engine.is_drained(), "a stop waits for it");
    let mut seen = Vec::new();
    world.serve(|_, target, body| {
        seen.push(format!("{target} {body}"));
        Some(response(200, ""))
    });
    assert_eq!(seen, ["/m/a 1", "/m/b 2"]);
    assert!(world.engine.is_drained());
}

#[test]
fn a_name_that_is_no_table_fails_each_command() {
    let mut world = meta(&[]);
    let client = world.client(Mode::Auto);
    world.send(client, b"H4\t0\t0\t\tnone\nLshared/a\t\nI0\t0\tshared/\t\nB1\t\nS1\tshared/a\t1\nC1\n");
    let reply = "Fno such table: none\nFno such table: none\nF1\tno such table: none\n";
    assert_eq!(world.taken(client), reply);
    assert!(world.is_open(client));
}

#[test]
fn broken_commands_close_the_connection() {
    for bytes in [
        "Lshared/a\t\n",
        "H1\t0\t0\t\tmeta\n",
        "H5\t0\t0\t\tmeta\n",
        "H4\t0\t0\n",
        "H4\t0\t0\t\tmeta\nH4\t0\t0\t\tmeta\n",
        "H4\t0\t0\t\tmeta\nX\n",
        "H4\t0\t0\t\tmeta\n\n",
        "H4\t0\t0\t\tmeta\nC1\n",
        "H4\t0\t0\t\tmeta\nS1\tshared/a\t1\n",
        "H4\t0\t0\t\tmeta\nB1\t\nB1\t\n",
        "H4\t0\t0\t\tmeta\nB1\t\nR1\nR1\n",
        "H4\t0\t0\t\tmeta\nT1\t1\t2\n",
    ] {
        let mut world = meta(&[]);
        let client = world.client(Mode::Dovecot);
        world.send(client, bytes.as_bytes());
        assert!(!world.is_open(client), "{bytes:?}");
    }
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, &[b'L'; 1 << 20]);
    assert!(world.is_open(client));
    world.send(client, b"L");
    assert!(!world.is_open(client), "a line may not grow without end");
    let client = world.client(Mode::Dovecot);
    world.send(client, format!("H4\t0\t0\t{}\tmeta\n", "u".repeat(70_000)).as_bytes());
    assert!(!world.is_open(client), "names are kept as long as the connection");
}

#[test]
fn a_value_of_a_mebibyte_is_written_however_it_arrives() {
    let head = "S1\tshared/a\t";
    let value = "v".repeat((1 << 20) - head.len());
    let lines = format!("B1\t\n{head}{value}\nC1\n");
    // Searched and copied again for each piece, 16 at a time would take minutes.
    for step in [lines.len(), 65_536, 4096, 16] {
        let start = std::time::Instant::now();
        let mut world = meta(&[]);
        let client = dovecot(&mut world);
        lines.as_bytes().chunks(step).for_each(|piece| world.send(client, piece));
        let mut written = 0;
        world.serve(|method, target, body| {
            assert_eq!((method, target), ("POST", "/m/a"));
            assert!(body == format!("\"{value}\""));
            written += 1;
            Some(response(200, ""))
        });
        assert_eq!((written, &world.taken(client)[..]), (1, "O1\n"));
        assert!(start.elapsed().as_secs() < 20, "{:?} in pieces of {step}", start.elapsed());
    }
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, format!("B1\t\n{head}{value}v\n").as_bytes());
    assert!(!world.is_open(client));
}

#[test]
fn only_values_may_be_longer_than_64_kib() {
    let long = "k".repeat(70_000);
    let paths = format!("shared/{}/\t", "k".repeat(30_000)).repeat(3);
    for (hello, command, reply) in [
        ("H4", format!("Lshared/{long}\t\n"), "Fkey is too long\n"),
        ("H4", format!("Lpriv/{long}\tu\n"), "Fkey is too long\n"),
        ("H4", format!("I0\t0\tshared/{long}\t\n"), "Fkey is too long\n"),
        ("H2", format!("I0\t0\t{}\n", paths.trim_end()), "Fpaths are too long\n"),
        ("H2", format!("I0\t0\t{}\n", "\t".repeat(1_000_000)), "Ftoo many paths\n"),
        ("H4", format!("B1\t\nS1\tshared/{long}\tv\nC1\n"), "F1\tkey is too long\n"),
        ("H4", format!("B1\t{long}\nS1\tpriv/a\tv\nC1\n"), "F1\tuser is too long\n"),
    ] {
        let mut world = meta(&[]);
        let client = world.client(Mode::Dovecot);
        world.send(client, format!("{hello}\t0\t0\t\tmeta\n{command}").as_bytes());
        assert_eq!(world.taken(client), reply);
        assert!(world.connecting.is_empty() && world.is_open(client));
    }
}

#[test]
fn rows_stream_in_order_and_what_has_gone_is_left_out() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"I0\t0\tshared/it/\t\n");
    let list: Vec<String> = (0..40).map(|at| format!("\"n{at}\"")).collect();
    world.serve(|_, target, _| {
        Some(match target {
            "/m/it/" => response(200, &format!("[{}]", list.join(","))),
            "/m/it/n7" => response(404, ""),
            "/m/it/n8" => response(200, "null"),
            target => response(200, &format!("\"v\\t{}\"", target.trim_start_matches("/m/it/n"))),
        })
    });
    let rows: String =
        (0..40).filter(|at| ![7, 8].contains(at)).map(|at| format!("Oshared/it/n{at}\tv\x01t{at}\n")).collect();
    assert_eq!(world.taken(client), rows + "\n");

    for (flags, status, body, reply) in [
        (0, 404, "", "\n"),
        (0, 403, "", "\n"),
        (0, 200, "[]", "\n"),
        (0, 200, "{}", "\n"),
        (8, 200, "[\"b\", \"a\"]", "Oshared/it/b\t\nOshared/it/a\t\n\n"),
        (9, 200, "{\"b\": 1}", "Oshared/it/b\t\n\n"),
        (2, 200, "{\"b\": 1, \"a\": 2}", "Oshared/it/a\t2\nOshared/it/b\t1\n\n"),
        (4, 200, "{}", "Fsorting by value is not supported\n"),
        (33, 200, "{\"b\": {\"x\": 1}}", "Oshared/it/b\t{\"x\":1}\n\n"),
        (16, 200, "\"v\"", "Oshared/it/\tv\n\n"),
        (16, 404, "", "\n"),
        (0, 500, "", "Fmeta: 192.0.2.1 answered 500\n"),
        (0, 200, "<html>", "Fmeta: 192.0.2.1 answered 200 without JSON\n"),
        (0, 200, "\"text\"", "Fmeta: the list is neither an array nor an object\n"),
        (0, 200, r#"{"\ud800": 1, "b": 2}"#, "Fmeta: the list is not JSON, or not valid Unicode\n"),
        (0, 200, r#"{"b": "\ud800"}"#, "Fmeta: the list is not JSON, or not valid Unicode\n"),
        (0, 200, r#"{"b": "a\u0000b"}"#, "Fmeta: a value has a NUL, where mail servers cut it\n"),
        (16, 200, r#""a\u0000b""#, "Fmeta: a value has a NUL, where mail servers cut it\n"),
    ] {
        world.send(client, format!("I{flags}\t0\tshared/it/\t\n").as_bytes());
        world.serve(|_, _, _| Some(response(status, body)));
        assert_eq!(world.taken(client), reply, "flags {flags}, {status} {body}");
    }
    world.send(client, b"I0\t2\tshared/it/\t\n");
    world.serve(|_, _, _| Some(response(200, "{\"a\": 1, \"b\": 2, \"c\": 3}")));
    assert_eq!(world.taken(client), "Oshared/it/a\t1\nOshared/it/b\t2\n\n", "max rows");
}

#[test]
fn the_backend_is_told_when_values_expire_or_the_write_fails() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"B1\t\t60\nS1\tshared/k\tv\nC1\nB2\t\t60\nU2\tshared/k\nC2\nB3\t\t0\nS3\tshared/k\tv\nC3\n");
    world.serve(|_, _, _| Some(response(200, "")));
    assert_eq!(world.taken(client), "F1\tmeta: expiration is not supported\nO2\nO3\n");

    let mut world = meta(&["--option", "meta:expire=X-Expires-In"]);
    let client = dovecot(&mut world);
    for (begin, expected) in [("B1\t\t60", "X-Expires-In: 60\r\n"), ("B1\t\t0", ""), ("B1\t", ""), ("B1", "")] {
        world.send(client, format!("{begin}\nS1\tshared/k\tv\nC1\n").as_bytes());
        let (backend, request) = world.next_request().unwrap();
        let line = request.lines().find(|line| line.starts_with("X-Expires")).map(|line| format!("{line}\r\n"));
        assert_eq!(line.unwrap_or_default(), expected, "{begin}");
        world.send(backend, &response(200, ""));
        assert_eq!(world.taken(client), "O1\n");
    }
    world.send(client, b"B1\t\tsoon\n");
    assert!(!world.is_open(client), "as Dovecot does");
}

#[test]
fn a_row_that_cannot_be_read_fails_the_iteration() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"I0\t0\tshared/it/\t\n");
    world.serve(|_, target, _| {
        Some(match target {
            "/m/it/" => response(200, "[\"a\", \"b\"]"),
            "/m/it/a" => response(200, "1"),
            _ => response(500, ""),
        })
    });
    let got = world.taken(client);
    assert!(got.ends_with("Fmeta: 192.0.2.1 answered 500\n") && !got.contains("\n\n"), "{got}");
}

#[test]
fn older_clients_iterate_several_paths_at_once() {
    let mut world = meta(&[]);
    let client = world.client(Mode::Auto);
    world.send(client, b"H2\t2\t0\tu\tmeta\nI0\t0\tshared/a/\tpriv/b/\n");
    world.serve(|_, target, _| Some(response(200, if target == "/m/a/" { "{\"x\": 1}" } else { "{\"y\": 2}" })));
    assert_eq!(world.taken(client), "Oshared/a/x\t1\nOpriv/b/y\t2\n\n");
}

#[test]
fn rows_wait_for_a_client_that_reads_slowly() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    let rows: Vec<String> = (0..100_000).map(|at| format!("\"user{at:06}@example.org\":{at}")).collect();
    world.block(client, true);
    world.send(client, b"I0\t0\tshared/it/\t\n");
    world.serve(|_, _, _| Some(response(200, &format!("{{{}}}", rows.join(",")))));
    let mut got = String::new();
    for _ in 0..1000 {
        let waiting = world.engine.output(client).len();
        assert!(waiting < MAX_UNSENT + 100, "{waiting} bytes wait");
        world.block(client, false);
        world.block(client, true);
        got += &world.taken(client);
    }
    assert_eq!(got.lines().count(), 100_001);
    assert!(got.starts_with("Oshared/it/user000000@example.org\t0\n"));
    assert!(got.ends_with("Oshared/it/user099999@example.org\t99999\n\n"));
}

#[test]
fn an_iteration_waits_for_its_turn_without_async_ids() {
    let mut world = meta(&[]);
    let client = world.client(Mode::Auto);
    world.send(client, b"H2\t0\t0\tu\tmeta\nLshared/slow\nI0\t0\tshared/it/\nLshared/last\n");
    let slow = world.accept();
    let others = |world: &mut World| {
        for _ in 0..3 {
            world.serve(|_, target, _| {
                Some(match target {
                    "/m/it/" => response(200, "[\"a\", \"b\"]"),
                    "/m/slow" => Vec::new(),
                    target => response(200, &format!("\"{}\"", target.trim_start_matches("/m/"))),
                })
            });
        }
    };
    others(&mut world);
    assert_eq!(world.taken(client), "");
    world.respond(slow, "s");
    others(&mut world);
    assert_eq!(world.taken(client), "Os\nOshared/it/a\tit/a\nOshared/it/b\tit/b\n\nOlast\n");
}

#[test]
fn an_iteration_has_a_deadline_too() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"I0\t0\tshared/it/\t\n");
    world.accept();
    world.wait(20 * SECOND);
    assert_eq!(world.taken(client), "Fmeta: 192.0.2.1 did not answer in time\n");
    assert!(world.engine.is_drained());
}

#[test]
fn a_client_that_leaves_ends_its_iteration() {
    let mut world = meta(&[]);
    let client = dovecot(&mut world);
    world.send(client, b"I0\t0\tshared/it/\t\n");
    let backend = world.accept();
    world.asked(backend);
    world.end(client, GONE);
    world.send(backend, &response(200, "[\"a\"]"));
    assert_eq!(world.asked(backend), "");
    assert!(world.engine.is_drained());

    // A request that is not answered does not hold its connection forever, although no client waits any more.
    let client = dovecot(&mut world);
    world.send(client, b"I0\t0\tshared/it/\t\n");
    assert_eq!(world.asked(backend), "");
    world.end(client, GONE);
    world.wait(20 * SECOND);
    assert!(!world.is_open(backend));
    assert_eq!(world.engine.deadline(), None);
}

#[test]
fn a_file_table_answers_and_lists_but_refuses_writes() {
    let mut world = World::new(&["--name", "meta", "--type", "file", "--param", "tests/data/test.json"]);
    let client = dovecot(&mut world);
    world.send(client, b"Lshared/example.org\t\nLshared/none\t\nB1\t\nS1\tshared/a\t1\nC1\nI8\t0\tshared/\t\n");
    let rows = "Oshared/alias@example.org\t\nOshared/alice@example.org\t\nOshared/example.org\t\n\n";
    assert_eq!(world.taken(client), format!("Oexample.org\nN\nF1\tmeta: table is read-only\n{rows}"));
}

#[test]
fn the_first_byte_tells_the_protocols_apart() {
    let mut world = World::new(&["--name", "meta", "--type", "file", "--param", "tests/data/test.json"]);
    let (postfix, dovecot) = (world.client(Mode::Auto), world.client(Mode::Auto));
    world.send(postfix, b"16:meta example.org,");
    world.send(dovecot, b"H4\t0\t0\t\tmeta\nLshared/example.org\t\n");
    assert_eq!((world.taken(postfix), world.taken(dovecot)), ("14:OK example.org,".into(), "Oexample.org\n".into()));
}

fn meta(args: &[&str]) -> World {
    let table = ["--name", "meta", "--type", "url", "--param", "http://192.0.2.1/m/§"];
    World::new(&[&table[..], args].concat())
}

fn dovecot(world: &mut World) -> Peer {
    let client = world.client(Mode::Auto);
    world.send(client, HELLO.as_bytes());
    client
}

/// What is answered to commands that plan no backend.
fn spoken(world: &mut World, commands: &str) -> String {
    let client = dovecot(world);
    world.send(client, commands.as_bytes());
    world.taken(client)
}

#[test]
fn values_are_texts_if_the_table_says_so() {
    let args = ["--name", "meta", "--type", "url", "--param", "http://192.0.2.1/m/§", "--option", "meta:values=text"];
    for (value, body) in
        [("47671950010092e5", "\"47671950010092e5\""), ("null", "\"null\""), ("\"a\"", "\"\\\"a\\\"\"")]
    {
        let mut world = World::new(&args);
        let client = world.client(Mode::Dovecot);
        world.send(client, format!("H4\t0\t0\t\tmeta\nB1\t\nS1\tshared/k\t{value}\nC1\n").as_bytes());
        world.serve(|method, _, got| {
            assert_eq!((method, got), ("POST", body));
            Some(response(200, "null"))
        });
        assert_eq!(world.taken(client), "O1\n");
    }
    let mut world = World::new(&args);
    let client = world.client(Mode::Dovecot);
    world.send(client, b"H4\t0\t0\t\tmeta\nB1\t\nS1\tshared/k\t\xff\nC1\n");
    assert_eq!(world.taken(client), "F1\tmeta: the value is not UTF-8\n");
}
