//! A backend that is not given more than it can serve, in memory.

use crate::support;

use podop::io::Peer;
use support::world::{MS, World};

#[test]
fn no_more_lookups_are_sent_than_the_limit_allows() {
    let url = "http://192.0.2.1/a/§";
    let (long, short) =
        (["--name", "alias", "--type", "url", "--param", url], ["--name", "b", "--type", "url", "--param", url]);
    let options = ["--option", "*:concurrency=adapt", "--option", "b:timeout=5"];
    let mut world = World::new(&[&long[..], &short, &options].concat());
    let mut clients: Vec<Peer> = (0..30).map(|at| world.lookup(&at.to_string())).collect();
    let mut backends: Vec<Peer> = (0..16).map(|_| world.accept()).collect();
    world.wait(50 * MS);
    assert!(world.connecting.is_empty(), "the limit begins with 16");
    let urgent = world.lookup("none"); // to have a client
    world.send(urgent, b"8:b urgent,");
    clients.push(urgent);
    assert_eq!(world.asked(backends[0]), "0");
    world.respond(backends[0], "v");
    assert_eq!(world.asked(backends[0]), "urgent");
    world.respond(backends[0], "v");
    // It answers in a millisecond whatever it gets, so the limit grows and all are asked.
    let mut replies = 0;
    for _ in 0..40 {
        world.wait(MS);
        while !world.connecting.is_empty() {
            backends.push(world.accept());
        }
        for backend in &backends {
            if !world.asked(*backend).is_empty() {
                world.respond(*backend, "v");
            }
        }
        replies += clients.iter().filter(|client| !world.taken(**client).is_empty()).count();
    }
    assert_eq!(replies, clients.len());
}
