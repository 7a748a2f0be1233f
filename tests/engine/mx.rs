//! The table type mx: questions to name servers, and what their answers come to.

use crate::support;

use podop::config::Mode;
use podop::io::{DnsAddress, End, Peer};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::time::Duration;
use support::dns::{FORMERR, NXDOMAIN, REFUSED, Record, SERVFAIL, TRUNCATED, a, answer, cname, mx, ns, question, soa};
use support::world::{Datagram, MS, SECOND, World};

const OURS: &str = "mx.example.net";

/// A table `relay` with these name servers.
fn world_of(servers: &str, more: &[&str]) -> World {
    let resolver = format!("relay:resolver={servers}");
    let table = ["--name", "relay", "--type", "mx", "--param", OURS, "--option", &resolver];
    World::new(&[&table[..], more].concat())
}

fn world() -> World {
    world_of("192.0.2.1", &[])
}

fn ask(world: &mut World, domain: &str) -> Peer {
    let client = world.client(Mode::Postfix);
    ask_as(world, client, domain);
    client
}

fn ask_as(world: &mut World, client: Peer, domain: &str) {
    let mut request = Vec::new();
    podop::wire::netstring::encode(&[b"relay ", domain.as_bytes()], &mut request);
    world.send(client, &request);
}

fn asked(world: &mut World) -> Datagram {
    world.datagrams.pop_front().expect("a question")
}

/// Answers the next question.
fn respond(world: &mut World, flags: u16, answers: &[Record], authority: &[Record]) {
    let Datagram { from, bytes, .. } = asked(world);
    world.datagram(from, &answer(&bytes, flags, answers, authority));
}

/// The reply to a lookup of `d.example` that is answered like this.
fn reply(flags: u16, answers: &[Record], authority: &[Record]) -> String {
    let mut world = world();
    let client = ask(&mut world, "d.example");
    respond(&mut world, flags, answers, authority);
    world.taken(client)
}

#[test]
fn answers_of_the_dns_become_replies() {
    let found = "12:OK d.example,";
    let miss = "9:NOTFOUND ,";
    for (flags, answers, authority, expected) in [
        (0, vec![mx("d.example", 60, 10, OURS)], vec![], found),
        (0, vec![mx("d.example", 60, 10, "MX.Example.NET")], vec![], found),
        (0, vec![mx("d.example", 60, 10, "a.b"), mx("d.example", 60, 20, OURS)], vec![], found),
        (0, vec![mx("d.example", 60, 10, "a.b")], vec![], miss),
        (0, vec![mx("d.example", 60, 0, "")], vec![], miss),
        (0, vec![cname("d.example", 60, "e.example"), mx("e.example", 60, 10, OURS)], vec![], found),
        (0, vec![], vec![soa("example", 60)], miss),
        (0, vec![], vec![], miss),
        (NXDOMAIN, vec![], vec![soa("example", 60)], miss),
    ] {
        assert_eq!(reply(flags, &answers, &authority), expected, "{flags} {answers:?}");
    }
    let failed = |flags, answers: &[Record], authority: &[Record], why: &str| {
        let got = reply(flags, answers, authority);
        assert!(got.contains(&format!("TEMP relay: dns:192.0.2.1:53 {why}")), "{got}");
    };
    failed(SERVFAIL, &[], &[], "answered SERVFAIL");
    failed(SERVFAIL, &[mx("d.example", 60, 10, OURS)], &[], "answered SERVFAIL");
    failed(REFUSED, &[], &[], "answered REFUSED");
    failed(0, &[], &[ns("example")], "answered as a server that is not recursive");
    let ours = || mx("d.example", 60, 10, OURS);
    for (flags, answers, authority) in [
        (0, vec![Record("d.example".into(), 15, 60, vec![0])], vec![]),
        (0, vec![mx("other.example", 60, 10, OURS)], vec![]),
        (0, vec![ours(), mx("other.example", 60, 10, "a.b")], vec![]),
        (0, vec![a("d.example", 60, [192, 0, 2, 1])], vec![]),
        (0, vec![Record("example".into(), 39, 60, support::dns::name("other.test"))], vec![]), // DNAME without CNAME
        (0, vec![], vec![soa("unrelated.test", 60)]),
        (NXDOMAIN, vec![ours()], vec![]),
    ] {
        failed(flags, &answers, &authority, "sent an invalid response");
    }
    // A record of another class.
    let mut world = world();
    let client = ask(&mut world, "d.example");
    let Datagram { from, bytes, .. } = asked(&mut world);
    let mut chaos = answer(&bytes, 0, &[ours()], &[]);
    let class = bytes.len() - 11 + 11 + 3;
    chaos[class] = 3;
    world.datagram(from, &chaos);
    assert!(world.taken(client).contains("sent an invalid response"));
}

#[test]
fn what_is_no_domain_is_a_miss_without_a_question() {
    let mut world = world();
    for key in ["[192.0.2.1]", "192.0.2.1", "user@example.org", "a b", ".", "x..y"] {
        let client = ask(&mut world, key);
        assert_eq!(world.taken(client), "9:NOTFOUND ,", "{key}");
    }
    assert!(world.datagrams.is_empty());
}

#[test]
fn a_domain_in_another_script_is_asked_for_as_a_labels() {
    let mut world = world();
    let client = ask(&mut world, "bücher.example");
    let asked = asked(&mut world);
    let (name, kind) = question(&asked.bytes);
    assert_eq!((name.to_ascii_lowercase().as_str(), kind), ("xn--bcher-kva.example", 15));
    world.datagram(asked.from, &answer(&asked.bytes, 0, &[mx("xn--bcher-kva.example", 60, 10, OURS)], &[]));
    assert_eq!(world.taken(client), "24:OK xn--bcher-kva.example,");
}

#[test]
fn different_names_are_not_taken_for_ours() {
    let raw = |labels: &[&str]| {
        let labels = labels.iter().flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
        let name: Vec<u8> = labels.chain([0]).collect();
        Record("d.example".into(), 15, 60, [&[0, 10][..], &name].concat())
    };
    assert_eq!(reply(0, &[raw(&["mx", "example", "net"])], &[]), "12:OK d.example,");
    for labels in
        [&["mx.example", "net"][..], &["mx.example.net"], &["mx", "example", "net evil"], &["mx", "example", "net\n"]]
    {
        assert_eq!(reply(0, &[raw(labels)], &[]), "9:NOTFOUND ,", "{labels:?}");
    }
}

#[test]
fn domains_of_other_scripts_are_asked_for_or_faults() {
    for domain in ["हिन्दी.example", "พร้อม.example", "コム・コム.example", "நிறுவனம்.example"]
    {
        let mut world = world();
        ask(&mut world, domain);
        assert!(question(&world.datagrams[0].bytes).0.to_ascii_lowercase().starts_with("xn--"), "{domain}");
    }
    for domain in ["bu\u{308}cher.example", "ＡＢＣ.example", "\u{212a}.example", "น้ำ.example", "ᏣᎳᎩ.example"]
    {
        let mut world = world();
        let client = ask(&mut world, domain);
        assert!(
            world.taken(client).contains("TEMP relay: dns:192.0.2.1:53 cannot be asked for a name with characters"),
            "{domain}"
        );
    }
    // A long one costs nothing, and is none.
    let mut world = world();
    let client = ask(&mut world, &"ü".repeat(32_000));
    assert_eq!(world.taken(client), "9:NOTFOUND ,");
}

#[test]
fn only_the_answer_to_the_question_is_believed() {
    let mut world = world();
    let client = ask(&mut world, "abcdefghijklmnopqrstuvwxyz.example");
    let Datagram { from, bytes, .. } = asked(&mut world);
    let ours = |domain: &str| [mx(domain, 60, 10, OURS)];
    let right = answer(&bytes, 0, &ours("abcdefghijklmnopqrstuvwxyz.example"), &[]);
    let change = |at: usize, with: u8| {
        let mut other = right.clone();
        other[at] ^= with;
        other
    };
    let letter = 12 + 1 + 5;
    for (what, wrong) in [
        ("id", change(1, 1)),
        ("id", change(0, 0x80)),
        ("case", change(letter, 0x20)),
        ("name", change(letter, 1)),
        ("a query", change(2, 0x80)),
        ("opcode", change(2, 0x10)),
        ("type", change(bytes.len() - 11 - 3, 1)),
        ("class", change(bytes.len() - 11 - 1, 2)),
        ("no question", change(5, 1)),
        ("cut", right[..14].to_vec()),
        ("short", right[..1].to_vec()),
        ("empty", Vec::new()),
    ] {
        world.datagram(from, &wrong);
        assert_eq!(world.taken(client), "", "{what}");
    }
    world.datagram(from, &right);
    assert_eq!(world.taken(client), "37:OK abcdefghijklmnopqrstuvwxyz.example,");
    let metrics = world.engine.metrics();
    assert!(metrics.contains("podop_dns_queries_total{server=\"192.0.2.1:53\",outcome=\"ignored\"} 12\n"), "{metrics}");
    assert!(metrics.contains("podop_dns_queries_total{server=\"192.0.2.1:53\",outcome=\"answer\"} 1\n"), "{metrics}");
}

#[test]
fn ids_and_the_case_of_letters_differ_from_question_to_question() {
    let mut world = world();
    let mut seen: Vec<(Vec<u8>, String)> = Vec::new();
    for at in 0..200 {
        ask(&mut world, &format!("abcdefghijklmnop{at}.example"));
        let bytes = asked(&mut world).bytes;
        seen.push((bytes[..2].to_vec(), question(&bytes).0));
    }
    let ids: std::collections::HashSet<&Vec<u8>> = seen.iter().map(|(id, _)| id).collect();
    assert!(ids.len() > 190);
    let steps = seen.windows(2).filter(|pair| {
        let number = |at: usize| u16::from_be_bytes([pair[at].0[0], pair[at].0[1]]);
        number(1).wrapping_sub(number(0)) < 16
    });
    assert!(steps.count() < 20, "ids are no sequence");
    let cases: std::collections::HashSet<&str> = seen.iter().map(|(_, name)| &name[..16]).collect();
    assert!(cases.len() > 190);
}

#[test]
fn a_socket_is_replaced_before_its_port_is_known() {
    let mut world = world();
    let mut ports = std::collections::HashSet::new();
    for at in 0..1_000 {
        ask(&mut world, &format!("d{at}.example"));
        let Datagram { from, bytes, .. } = asked(&mut world);
        ports.insert(from);
        world.datagram(from, &answer(&bytes, NXDOMAIN, &[], &[]));
        assert_eq!(world.name_servers.len(), 1, "sockets do not pile up");
    }
    assert_eq!(ports.len(), 4);
    world.wait(SECOND * 6);
    ask(&mut world, "later.example");
    assert!(!ports.contains(&asked(&mut world).from), "an old one is not used any more");
}

#[test]
fn answers_are_cached_for_their_ttl() {
    for (answers, authority, kept, gone) in [
        (vec![mx("d.example", 60, 10, OURS)], vec![], 59, 61),
        (vec![mx("d.example", 0, 10, OURS)], vec![], 4, 6),
        (vec![mx("d.example", 500_000_000, 10, OURS)], vec![], 3_590, 3_601),
        (vec![mx("d.example", 60, 10, OURS), mx("d.example", 10, 20, "a.b")], vec![], 9, 11),
        (vec![cname("d.example", 9, "e.example"), mx("e.example", 60, 10, OURS)], vec![], 8, 10),
        (vec![], vec![soa("example", 30)], 29, 31),
        (vec![], vec![], 4, 6),
    ] {
        let mut world = world();
        ask(&mut world, "d.example");
        let start = world.now;
        respond(&mut world, 0, &answers, &authority);
        for (seconds, count) in [(kept, 0), (gone, 1)] {
            world.now = start + Duration::from_secs(seconds);
            let client = ask(&mut world, "d.example");
            assert_eq!(world.taken(client).is_empty(), count == 1, "{answers:?} after {seconds} s");
            // One that is used shortly before its end is refreshed, which is no answer to wait for.
            world.datagrams.clear();
            world.wait(SECOND * 30);
        }
    }
}

#[test]
fn faults_are_not_cached() {
    let mut world = world();
    let client = ask(&mut world, "d.example");
    respond(&mut world, SERVFAIL, &[], &[]);
    assert!(world.taken(client).contains("TEMP"));
    let client = ask(&mut world, "d.example");
    respond(&mut world, 0, &[mx("d.example", 60, 10, OURS)], &[]);
    assert!(world.taken(client).contains("OK"));
}

#[test]
fn lookups_of_one_domain_share_a_question() {
    let mut world = world();
    let clients: Vec<Peer> = (0..100).map(|_| ask(&mut world, "d.example")).collect();
    assert_eq!(world.datagrams.len(), 1);
    respond(&mut world, 0, &[mx("d.example", 60, 10, OURS)], &[]);
    for client in clients {
        assert!(world.taken(client).contains("OK"));
    }
}

#[test]
fn an_alias_without_its_records_is_asked_for() {
    let mut world = world();
    let client = ask(&mut world, "d.example");
    respond(&mut world, 0, &[cname("d.example", 60, "e.example")], &[]);
    assert_eq!(question(&world.datagrams[0].bytes).0.to_ascii_lowercase(), "e.example");
    respond(&mut world, 0, &[mx("e.example", 60, 10, OURS)], &[]);
    assert_eq!(world.taken(client), "12:OK d.example,");
}

#[test]
fn the_ttl_of_an_alias_counts() {
    let mut world = world();
    ask(&mut world, "d.example");
    respond(&mut world, 0, &[cname("d.example", 5, "e.example")], &[]);
    respond(&mut world, 0, &[mx("e.example", 3600, 10, OURS)], &[]);
    world.wait(SECOND * 6);
    ask(&mut world, "d.example");
    assert_eq!(world.datagrams.len(), 1);
}

#[test]
fn a_chain_of_aliases_ends() {
    let mut world = world();
    let client = ask(&mut world, "a0.example");
    for at in 0.. {
        let Some(Datagram { from, bytes, .. }) = world.datagrams.pop_front() else { break };
        assert!(at < 20);
        let (owner, next) = (format!("a{at}.example"), format!("a{}.example", at + 1));
        world.datagram(from, &answer(&bytes, 0, &[cname(&owner, 60, &next)], &[]));
    }
    assert!(world.taken(client).contains("TEMP relay: dns:192.0.2.1:53 followed too many aliases"));
}

/// The TCP connections that are open or being made.
fn connections(world: &World) -> Vec<Peer> {
    let is_tcp = |(peer, address): (&Peer, &DnsAddress)| matches!(address, DnsAddress::Tcp(_)).then_some(*peer);
    world.name_servers.iter().filter_map(is_tcp).collect()
}

/// The question of a connection that is established now, without its length.
fn asked_over_tcp(world: &mut World, peer: Peer) -> Vec<u8> {
    world.accept_dns(peer);
    world.taken_bytes(peer).split_off(2)
}

/// A message with its length, as over TCP.
fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

#[test]
fn a_truncated_answer_is_asked_for_over_tcp() {
    let records: Vec<Record> = (0..100).map(|at| mx("d.example", 60, at, &format!("mx{at}.example"))).collect();
    let all = [&records[..], &[mx("d.example", 60, 200, OURS)]].concat();
    for step in [1, 2, 3, 7, 100_000] {
        let mut world = world();
        let client = ask(&mut world, "d.example");
        respond(&mut world, TRUNCATED, &records[..1], &[]);
        assert_eq!(world.taken(client), "");
        let [peer] = connections(&world)[..] else { panic!("one connection") };
        world.accept_dns(peer);
        let asked = world.taken_bytes(peer);
        assert_eq!(usize::from(u16::from_be_bytes([asked[0], asked[1]])), asked.len() - 2);
        let bytes = framed(&answer(&asked[2..], 0, &all, &[]));
        bytes.chunks(step).for_each(|part| world.send(peer, part));
        assert_eq!(world.taken(client), "12:OK d.example,");
        assert!(connections(&world).is_empty());
    }
}

#[test]
fn a_truncated_answer_may_end_anywhere() {
    let records: Vec<Record> = (0..100).map(|at| mx("d.example", 60, at, &format!("mx{at}.example"))).collect();
    let mut world = world();
    ask(&mut world, "d.example");
    let Datagram { from, bytes, .. } = asked(&mut world);
    world.datagram(from, &answer(&bytes, TRUNCATED, &records, &[])[..512]);
    assert_eq!(connections(&world).len(), 1);
}

#[test]
fn another_message_over_tcp_is_a_fault_at_once() {
    let mut world = world();
    let client = ask(&mut world, "d.example");
    respond(&mut world, TRUNCATED, &[], &[]);
    let [peer] = connections(&world)[..] else { panic!("one connection") };
    let asked = asked_over_tcp(&mut world, peer);
    let right = answer(&asked, 0, &[mx("d.example", 60, 10, OURS)], &[]);
    let mut wrong = right.clone();
    wrong[0] ^= 1;
    world.send(peer, &[framed(&wrong), framed(&right)].concat());
    assert!(world.taken(client).contains("TEMP relay: dns:192.0.2.1:53 sent an invalid response"));
    assert!(connections(&world).is_empty());
}

#[test]
fn errors_without_a_question_are_errors() {
    let header = |asked: &[u8], code: u16| [&asked[..2], &(0x8180 | code).to_be_bytes(), &[0; 8]].concat();
    let mut world = world_of("192.0.2.1 192.0.2.2", &[]);
    let client = ask(&mut world, "d.example");
    let Datagram { from, bytes, .. } = asked(&mut world);
    world.datagram(from, &header(&bytes, FORMERR));
    let Datagram { from, bytes, to } = asked(&mut world);
    assert_eq!((to.to_string().as_str(), bytes[11]), ("192.0.2.1:53", 0), "without EDNS");
    world.datagram(from, &header(&bytes, REFUSED));
    let Datagram { from, bytes, to } = asked(&mut world);
    assert_eq!(to.to_string(), "192.0.2.2:53");
    world.datagram(from, &header(&bytes, SERVFAIL));
    assert!(world.taken(client).contains("TEMP relay: dns 192.0.2.2:53 answered SERVFAIL"));
    let client = ask(&mut world, "e.example");
    let Datagram { from, bytes, .. } = asked(&mut world);
    for code in [0, NXDOMAIN] {
        world.datagram(from, &header(&bytes, code));
        assert_eq!(world.taken(client), "", "no answer");
    }
}

/// Two tables with a name server each.
fn two_tables() -> World {
    let table = |name: &'static str| ["--name", name, "--type", "mx", "--param", OURS];
    let servers = ["--option", "relay:resolver=192.0.2.1", "--option", "other:resolver=192.0.2.2"];
    World::new(&[&table("relay")[..], &table("other")[..], &servers].concat())
}

fn ask_other(world: &mut World, domain: &str) -> Peer {
    let client = world.client(Mode::Postfix);
    let mut request = Vec::new();
    podop::wire::netstring::encode(&[b"other ", domain.as_bytes()], &mut request);
    world.send(client, &request);
    client
}

#[test]
fn a_silent_server_takes_nothing_from_another_table() {
    let mut world = two_tables();
    let clients: Vec<Peer> = (0..12).map(|_| world.client(Mode::Postfix)).collect();
    (0..10_000).for_each(|at| ask_as(&mut world, clients[at / 900], &format!("d{at}.example")));
    world.datagrams.clear();
    let client = ask_other(&mut world, "d.example");
    respond(&mut world, 0, &[mx("d.example", 60, 10, OURS)], &[]);
    assert_eq!(world.taken(client), "12:OK d.example,");
    // The same over TCP.
    let mut world = two_tables();
    for at in 0..64 {
        ask(&mut world, &format!("d{at}.example"));
        respond(&mut world, TRUNCATED, &[], &[]);
    }
    let before = connections(&world);
    let client = ask_other(&mut world, "d.example");
    respond(&mut world, TRUNCATED, &[], &[]);
    let peer = connections(&world).into_iter().find(|peer| !before.contains(peer)).expect("a connection");
    let asked = asked_over_tcp(&mut world, peer);
    world.send(peer, &framed(&answer(&asked, 0, &[mx("d.example", 60, 10, OURS)], &[])));
    assert_eq!(world.taken(client), "12:OK d.example,");
}

#[test]
fn a_question_has_one_connection_to_a_server() {
    let mut world = world();
    ask(&mut world, "d.example");
    respond(&mut world, TRUNCATED, &[], &[]);
    for _ in 0..90 {
        world.wait(MS * 100);
        assert_eq!(connections(&world).len(), 1);
    }
}

#[test]
fn an_error_is_reported_though_the_repetition_was_lost() {
    let mut world = world();
    let client = ask(&mut world, "d.example");
    let first = asked(&mut world);
    world.wait(MS * 400);
    world.datagrams.clear();
    world.datagram(first.from, &answer(&first.bytes, SERVFAIL, &[], &[]));
    assert!(world.taken(client).contains("answered SERVFAIL"));
}

#[test]
fn silent_servers_do_not_take_all_sockets() {
    let mut world = world_of("192.0.2.1 192.0.2.2 192.0.2.3", &[]);
    let clients: Vec<Peer> = (0..12).map(|_| world.client(Mode::Postfix)).collect();
    (0..10_000).for_each(|at| ask_as(&mut world, clients[at / 900], &format!("d{at}.example")));
    for _ in 0..110 {
        world.wait(MS * 100);
        world.datagrams.clear();
        assert!(world.name_servers.len() <= 24, "{}", world.name_servers.len());
    }
    let replies: String = clients.iter().map(|client| world.taken(*client)).collect();
    assert_eq!(replies.matches("TEMP").count(), 10_000);
}

#[test]
fn a_socket_that_cannot_be_opened_is_tried_again() {
    let mut world = world();
    let client = ask(&mut world, "d.example");
    let from = asked(&mut world).from;
    world.end(from, End::Closed(Some(ErrorKind::Other)));
    assert_eq!(world.taken(client), "");
    world.wait(MS * 400);
    respond(&mut world, 0, &[mx("d.example", 60, 10, OURS)], &[]);
    assert_eq!(world.taken(client), "12:OK d.example,");
}

#[test]
fn a_tcp_connection_that_fails_is_a_fault() {
    for (end, why) in [
        (End::HalfClosed, "closed the connection without an answer"),
        (End::Closed(Some(ErrorKind::ConnectionRefused)), "refused the connection"),
    ] {
        let mut world = world();
        let client = ask(&mut world, "d.example");
        respond(&mut world, TRUNCATED, &[], &[]);
        let [peer] = connections(&world)[..] else { panic!("one connection") };
        world.end(peer, end);
        assert!(world.taken(client).contains(&format!("TEMP relay: dns:192.0.2.1:53 {why}")));
    }
    let mut world = world();
    let client = ask(&mut world, "d.example");
    respond(&mut world, TRUNCATED, &[], &[]);
    let [peer] = connections(&world)[..] else { panic!("one connection") };
    let asked = asked_over_tcp(&mut world, peer);
    world.send(peer, &framed(&answer(&asked, TRUNCATED, &[], &[])));
    assert!(world.taken(client).contains("truncated its response over TCP"));
}

#[test]
fn tcp_connections_are_bounded() {
    let mut world = world();
    let clients: Vec<Peer> = (0..200).map(|at| ask(&mut world, &format!("d{at}.example"))).collect();
    for _ in 0..200 {
        respond(&mut world, TRUNCATED, &[], &[]);
    }
    for _ in 0..2_000 {
        let open = connections(&world);
        assert!(open.len() <= 16);
        let Some(peer) = open.first().copied() else { break };
        world.accept_dns(peer);
        let asked = world.taken_bytes(peer);
        let (name, _) = question(&asked[2..]);
        world.send(peer, &framed(&answer(&asked[2..], 0, &[mx(&name, 60, 10, OURS)], &[])));
        world.wait(MS * 10);
    }
    clients.into_iter().for_each(|client| assert!(world.taken(client).contains("OK")));
}

#[test]
fn a_server_that_does_not_know_edns_is_asked_without_it() {
    let mut world = world();
    let client = ask(&mut world, "d.example");
    assert_eq!(world.datagrams[0].bytes[11], 1);
    respond(&mut world, FORMERR, &[], &[]);
    assert_eq!(world.datagrams[0].bytes[11], 0);
    respond(&mut world, 0, &[mx("d.example", 60, 10, OURS)], &[]);
    assert!(world.taken(client).contains("OK"));
    let client = ask(&mut world, "e.example");
    respond(&mut world, FORMERR, &[], &[]);
    respond(&mut world, FORMERR, &[], &[]);
    assert!(world.taken(client).contains("answered FORMERR"));
}

#[test]
fn one_of_two_servers_is_enough() {
    let answers = [mx("d.example", 60, 10, OURS)];
    // The first one says that it has no answer, in one way or the other.
    for flags in [SERVFAIL, REFUSED] {
        let mut world = world_of("192.0.2.1 192.0.2.2", &[]);
        let client = ask(&mut world, "d.example");
        respond(&mut world, flags, &[], &[]);
        assert_eq!(world.datagrams[0].to.to_string(), "192.0.2.2:53");
        respond(&mut world, 0, &answers, &[]);
        assert!(world.taken(client).contains("OK"));
    }
    let mut world = world_of("192.0.2.1 192.0.2.2", &[]);
    let client = ask(&mut world, "d.example");
    let first = asked(&mut world).from;
    world.end(first, End::Closed(Some(ErrorKind::ConnectionRefused)));
    respond(&mut world, 0, &answers, &[]);
    assert!(world.taken(client).contains("OK"));
}

#[test]
fn a_silent_server_costs_the_first_lookups_only() {
    let mut world = world_of("192.0.2.1 192.0.2.2", &[]);
    let (mut slow, mut probes) = (0, 0);
    for at in 0..1_000 {
        let client = ask(&mut world, &format!("d{at}.example"));
        let sent = world.now;
        while world.taken(client).is_empty() {
            match world.datagrams.pop_front() {
                Some(Datagram { to, from, bytes }) if to.to_string() == "192.0.2.2:53" => {
                    world.datagram(from, &answer(&bytes, NXDOMAIN, &[], &[]));
                }
                Some(_) => probes += 1,
                None => world.wait(MS),
            }
        }
        slow += usize::from(world.now - sent > 10 * MS);
        world.wait(MS * 10);
    }
    assert_eq!(slow, 3);
    assert!((10..25).contains(&probes), "{probes} in ten seconds");
}

#[test]
fn a_late_answer_brings_a_server_back() {
    let mut world = world_of("192.0.2.1 192.0.2.2", &[]);
    let mut late = None;
    for at in 0..5 {
        let client = ask(&mut world, &format!("d{at}.example"));
        world.wait(SECOND / 2);
        let asked: Vec<Datagram> = world.datagrams.drain(..).collect();
        for Datagram { to, from, bytes } in asked {
            match to.to_string().as_str() {
                "192.0.2.2:53" => world.datagram(from, &answer(&bytes, NXDOMAIN, &[], &[])),
                _ => late = Some((from, answer(&bytes, NXDOMAIN, &[], &[]))),
            }
        }
        assert!(!world.taken(client).is_empty());
    }
    ask(&mut world, "e.example");
    assert_eq!(asked(&mut world).to.to_string(), "192.0.2.2:53");
    let (from, bytes) = late.unwrap();
    world.datagram(from, &bytes);
    world.datagrams.clear();
    ask(&mut world, "f.example");
    assert_eq!(asked(&mut world).to.to_string(), "192.0.2.1:53");
}

#[test]
fn silence_of_all_servers_is_a_fault_within_the_deadline() {
    let mut world = world_of("192.0.2.1 192.0.2.2", &[]);
    let client = ask(&mut world, "d.example");
    world.wait(SECOND * 9);
    assert_eq!(world.taken(client), "");
    let sent = world.datagrams.len();
    assert!((6..16).contains(&sent), "{sent}");
    world.wait(SECOND * 2);
    assert!(world.taken(client).contains("TEMP relay: dns 192.0.2.1:53 did not answer in time"));
    let mut world = world_of("192.0.2.1", &["--option", "relay:timeout=2"]);
    let client = ask(&mut world, "d.example");
    world.wait(SECOND * 2);
    assert!(world.taken(client).contains("TIMEOUT relay: dns:192.0.2.1:53 did not answer in time"));
}

#[test]
fn questions_in_flight_are_bounded() {
    let mut world = world();
    let clients: Vec<Peer> = (0..11).map(|_| world.client(Mode::Postfix)).collect();
    for at in 0..10_100 {
        ask_as(&mut world, clients[at / 950], &format!("d{at}.example"));
    }
    assert_eq!(world.datagrams.len(), 10_000);
    let last = world.taken(clients[10]);
    assert_eq!(
        last.matches("TEMP relay: dns:192.0.2.1:53 is overloaded").count(),
        0,
        "in order behind those that wait"
    );
    while !world.datagrams.is_empty() {
        respond(&mut world, NXDOMAIN, &[], &[]);
    }
    let last = world.taken(clients[10]);
    assert_eq!(last.matches("is overloaded: 10000 requests are waiting").count(), 100);
    assert_eq!(world.name_servers.len(), 1);
}

#[test]
fn the_best_hosts_must_have_an_address_in_the_networks() {
    let domain = |hosts: &[(u16, &str)]| -> Vec<Record> {
        hosts.iter().map(|(preference, host)| mx("d.example", 60, *preference, host)).collect()
    };
    for (hosts, addresses, expected) in [
        (&[(10, "p.example"), (20, OURS)][..], &[("p.example", [198, 51, 100, 1])][..], "12:OK d.example,"),
        (&[(10, "p.example"), (20, OURS)], &[("p.example", [192, 0, 2, 1])], "9:NOTFOUND ,"),
        (&[(10, "p.example"), (20, OURS)], &[], "9:NOTFOUND ,"),
        (&[(10, "p.example")], &[("p.example", [198, 51, 100, 1])], "9:NOTFOUND ,"),
    ] {
        let mut world = world_of("192.0.2.1", &["--option", "relay:primary=198.51.100.0/24"]);
        let client = ask(&mut world, "d.example");
        respond(&mut world, 0, &domain(hosts), &[]);
        let mut kinds = Vec::new();
        while let Some(Datagram { from, bytes, .. }) = world.datagrams.pop_front() {
            let (name, kind) = question(&bytes);
            let of = |(host, address): &(&str, [u8; 4])| {
                (host.eq_ignore_ascii_case(&name) && kind == 1).then(|| a(host, 30, *address))
            };
            kinds.push(kind);
            world.datagram(from, &answer(&bytes, 0, &addresses.iter().filter_map(of).collect::<Vec<_>>(), &[]));
        }
        // One address is enough, and foreign domains need none.
        let asked: &[u16] = match (hosts.len(), expected) {
            (1, _) => &[],
            (_, "9:NOTFOUND ,") => &[1, 28],
            _ => &[1],
        };
        assert_eq!((world.taken(client).as_str(), &kinds[..]), (expected, asked));
    }
    // An address that is not known is no answer.
    let mut world = world_of("192.0.2.1", &["--option", "relay:primary=198.51.100.0/24"]);
    let client = ask(&mut world, "d.example");
    respond(&mut world, 0, &domain(&[(10, "p.example"), (20, OURS)]), &[]);
    respond(&mut world, SERVFAIL, &[], &[]);
    assert!(world.taken(client).contains("TEMP"));
}

#[test]
fn a_foreign_domain_may_have_many_hosts() {
    let mut world = world_of("192.0.2.1", &["--option", "relay:primary=198.51.100.0/24"]);
    let foreign: Vec<Record> = (0..9).map(|at| mx("d.example", 60, 10, &format!("mx{at}.foreign.example"))).collect();
    let client = ask(&mut world, "d.example");
    respond(&mut world, 0, &foreign, &[]);
    assert_eq!(world.taken(client), "9:NOTFOUND ,");
    let client = ask(&mut world, "e.example");
    let ours: Vec<Record> = (0..9).map(|at| mx("e.example", 60, 10, &format!("mx{at}.example"))).collect();
    respond(&mut world, 0, &[&ours[..], &[mx("e.example", 60, 20, OURS)]].concat(), &[]);
    assert!(world.taken(client).contains("has too many hosts of the lowest preference"));
}

#[test]
fn the_timer_of_a_question_is_not_that_of_the_next() {
    let mut world = world_of("192.0.2.1", &["--option", "relay:primary=198.51.100.0/24"]);
    ask(&mut world, "d.example");
    world.wait(MS * 390);
    respond(&mut world, 0, &[mx("d.example", 60, 10, "p.example"), mx("d.example", 60, 20, OURS)], &[]);
    world.datagrams.clear();
    world.wait(MS * 399);
    assert!(world.datagrams.is_empty());
    world.wait(MS);
    assert_eq!(world.datagrams.len(), 1);
}

#[test]
fn a_late_answer_to_the_question_before_shows_life() {
    let mut world = world_of("192.0.2.1 192.0.2.2", &["--option", "relay:primary=198.51.100.0/24"]);
    for at in 0..4 {
        ask(&mut world, &format!("d{at}.example"));
        let first = asked(&mut world);
        world.wait(MS * 400);
        let Some(second) = world.datagrams.iter().position(|one| one.to.to_string() == "192.0.2.2:53") else { break };
        let second = world.datagrams.remove(second).unwrap();
        let records = [mx(&format!("d{at}.example"), 60, 10, "p.example"), mx(&format!("d{at}.example"), 60, 20, OURS)];
        world.datagram(second.from, &answer(&second.bytes, 0, &records, &[]));
        world.datagram(first.from, &answer(&first.bytes, 0, &records, &[]));
        world.datagrams.clear();
        world.wait(SECOND * 20);
        world.datagrams.clear();
    }
    ask(&mut world, "e.example");
    assert_eq!(asked(&mut world).to.to_string(), "192.0.2.1:53");
}

#[test]
fn a_stale_domain_is_served_while_the_dns_fails() {
    let mut world = world_of("192.0.2.1", &["--option", "relay:stale=3600"]);
    ask(&mut world, "d.example");
    respond(&mut world, 0, &[mx("d.example", 60, 10, OURS)], &[]);
    world.wait(SECOND * 100);
    let client = ask(&mut world, "d.example");
    respond(&mut world, SERVFAIL, &[], &[]);
    assert!(world.taken(client).contains("OK"));
}

/// What a name server does with a question.
#[derive(Clone, Copy, Debug)]
enum Act {
    Answer,
    Fail,
    Ignore,
    /// Answers with everything right but the id, and says the opposite.
    Forge,
    /// Says that the answer does not fit, and answers over TCP.
    Truncate,
    Refuse,
    Late,
}

fn act() -> impl Strategy<Value = Act> {
    use Act::{Answer, Fail, Forge, Ignore, Late, Refuse, Truncate};
    prop::sample::select(vec![Answer, Answer, Answer, Fail, Ignore, Forge, Truncate, Refuse, Late])
}

/// The records of `d0.example` to `d9.example`, of which those with an even number are ours.
fn truth(name: &str, opposite: bool) -> Vec<Record> {
    let is_ours = name.as_bytes()[1].is_multiple_of(2) != opposite;
    vec![mx(name, 60, 10, if is_ours { OURS } else { "mx.other.example" })]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Whatever name servers do: a lookup has one reply before its deadline, which is the truth or a fault.
    #[test]
    fn no_lookup_has_another_answer_than_its_own(
        steps in prop::collection::vec((0..10usize, act(), 0..1_500u64), 1..60),
        servers in prop::sample::select(vec!["192.0.2.1", "192.0.2.1 192.0.2.2", "192.0.2.1 192.0.2.2 192.0.2.3"]),
    ) {
        let mut world = world_of(servers, &[]);
        let (mut clients, mut late) = (Vec::new(), Vec::new());
        let mut replies = BTreeMap::<Peer, String>::new();
        // The ids of all questions: they are random, so that changing one may make another.
        let mut ids = BTreeSet::<[u8; 2]>::new();
        for (domain, act, wait) in steps {
            let client = ask(&mut world, &format!("d{domain}.example"));
            clients.push((client, domain, world.now));
            ids.extend(world.datagrams.iter().map(|sent| [sent.bytes[0], sent.bytes[1]]));
            if let Some(Datagram { from, bytes, .. }) = world.datagrams.pop_front() {
                let name = question(&bytes).0.to_ascii_lowercase();
                let right = answer(&bytes, 0, &truth(&name, false), &[]);
                match act {
                    Act::Answer => world.datagram(from, &right),
                    Act::Fail => world.datagram(from, &answer(&bytes, SERVFAIL, &[], &[])),
                    Act::Ignore => {}
                    Act::Forge => {
                        let mut forged = answer(&bytes, 0, &truth(&name, true), &[]);
                        let other = (0..=u16::MAX).map(u16::to_be_bytes).find(|id| !ids.contains(id)).unwrap();
                        forged[..2].copy_from_slice(&other);
                        world.datagram(from, &forged);
                    }
                    Act::Truncate => {
                        world.datagram(from, &answer(&bytes, TRUNCATED, &[], &[]));
                        for peer in connections(&world) {
                            world.accept_dns(peer);
                            let asked = world.taken_bytes(peer);
                            let Some(asked) = asked.get(2..) else { continue };
                            let name = question(asked).0.to_ascii_lowercase();
                            world.send(peer, &framed(&answer(asked, 0, &truth(&name, false), &[])));
                        }
                    }
                    Act::Refuse => world.end(from, End::Closed(Some(ErrorKind::ConnectionRefused))),
                    Act::Late => late.push((from, right)),
                }
            }
            world.wait(Duration::from_millis(wait));
            if wait % 3 == 0 && let Some((from, bytes)) = late.pop() {
                world.datagram(from, &bytes);
            }
            for (client, ..) in &clients {
                *replies.entry(*client).or_default() += &world.taken(*client);
            }
        }
        world.wait(SECOND * 20);
        for (client, domain, _) in clients {
            let reply = format!("{}{}", replies[&client], world.taken(client));
            let value = format!("13:OK d{domain}.example,");
            let truth = if domain % 2 == 0 { value } else { "9:NOTFOUND ,".to_owned() };
            let is_fault = reply.contains(":TEMP relay: ") || reply.contains(":TIMEOUT relay: ");
            prop_assert!(reply == truth || (is_fault && reply.matches(" relay: ").count() == 1), "{domain}: {reply}");
        }
        prop_assert!(world.name_servers.len() <= 3, "{:?}", world.name_servers);
    }
}
