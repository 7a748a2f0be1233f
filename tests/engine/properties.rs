//! Any sequence of events leads to exactly one reply per request, in legal order and in time, to no answer that belongs
//! to another request, and to no failure without a cause. The checker is a plain model of requests and of the backends'
//! responses.

use crate::model::{Model, Setup};
use crate::support::world::World;
use proptest::prelude::*;

/// What may happen. Numbers choose among what is there.
#[derive(Clone, Debug)]
pub enum Op {
    /// A client of one of the two tables connects.
    Connect(Protocol, bool),
    /// A request for a new key, in one piece or in two.
    Ask(usize, bool),
    /// Requests of two clients for new keys, in one turn, and some time after.
    AskTogether(usize, usize, u32),
    /// A transaction that sets one of a few keys.
    Commit(usize, u32),
    /// The names and values below a new path.
    Iterate(usize),
    /// A transaction of 3 MB.
    Store(usize),
    /// Backends answer nothing for as long as it takes to be down for a table.
    Hang(bool),
    /// Thousands of lookups of one client at once, and one of another.
    Flood,
    /// Clients stop reading, or read again.
    Block(usize, bool),
    Leave(usize, bool),
    Accept,
    Refuse,
    Answer(usize),
    /// An answer in two pieces with something in between; the second may never come.
    Half(usize),
    Surplus(usize),
    Blurt(usize),
    Cut(usize, bool),
    Pass(u32),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    Postfix,
    /// Without and with async ids.
    DictInOrder,
    DictAsync,
}

fn op(heavy: bool) -> impl Strategy<Value = Op> {
    let protocol = prop_oneof![Just(Protocol::Postfix), Just(Protocol::DictInOrder), Just(Protocol::DictAsync)];
    prop_oneof![
        2 => (protocol, any::<bool>()).prop_map(|(protocol, slow)| Op::Connect(protocol, slow)),
        10 => (any::<usize>(), any::<bool>()).prop_map(|(at, whole)| Op::Ask(at, whole)),
        3 => (any::<usize>(), 0u32..3).prop_map(|(at, key)| Op::Commit(at, key)),
        (if heavy { 4 } else { 1 }) => any::<usize>().prop_map(Op::Iterate),
        1 => any::<bool>().prop_map(Op::Hang),
        2 => any::<usize>().prop_map(move |at| if heavy { Op::Store(at) } else { Op::Ask(at, true) }),
        1 => any::<usize>().prop_map(move |at| if heavy { Op::Flood } else { Op::Ask(at, true) }),
        // Long enough for one of the tables, or not at all.
        4 => (any::<usize>(), any::<usize>(), prop_oneof![Just(0), Just(2500)])
            .prop_map(|(at, other, ms)| Op::AskTogether(at, other, ms)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, block)| Op::Block(at, block)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, half)| Op::Leave(at, half)),
        6 => Just(Op::Accept),
        1 => Just(Op::Refuse),
        10 => any::<usize>().prop_map(Op::Answer),
        2 => any::<usize>().prop_map(Op::Half),
        1 => any::<usize>().prop_map(Op::Surplus),
        1 => any::<usize>().prop_map(Op::Blurt),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(at, reset)| Op::Cut(at, reset)),
        2 => prop_oneof![Just(1), Just(10), Just(400), Just(1500), Just(2500), Just(6000)].prop_map(Op::Pass),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    (1usize..4, 1usize..5, any::<bool>(), 1usize..3).prop_map(|(connections, pipeline, cache, replicas)| Setup {
        connections,
        pipeline,
        cache,
        replicas,
        ..Setup::default()
    })
}

/// `PROPERTY_RUNS` multiplies the number of cases.
fn config(cases: u32) -> ProptestConfig {
    let runs = std::env::var("PROPERTY_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(1);
    let cases = cases * runs;
    ProptestConfig { cases, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn every_request_gets_one_reply_and_its_own(ops in prop::collection::vec(op(false), 1..120), setup in setup()) {
        Model::new(setup, World::new).run(ops);
    }
}

proptest! {
    #![proptest_config(config(30))]

    #[test]
    fn no_client_takes_time_or_memory_of_others(ops in prop::collection::vec(op(true), 1..120), setup in setup()) {
        Model::new(Setup { large: true, ..setup }, World::new).run(ops);
    }
}

/// A lookup is refused while its backend is down, and its reply waits for one that is answered after the backend has
/// come back.
#[test]
fn a_reply_that_waits_for_others_has_the_cause_of_its_time() {
    use Op::{Accept, Answer, Ask, AskTogether, Connect, Hang, Pass};
    let connect = || Connect(Protocol::Postfix, false);
    let start = vec![Hang(false), AskTogether(0, 0, 0), Pass(400), Hang(false), connect(), connect(), Ask(0, true)];
    let end =
        vec![Pass(400), Ask(1_890_282_114, false), Ask(1_652_886_214, false), Accept, connect(), Answer(0), Answer(0)];
    let setup = Setup { connections: 3, pipeline: 1, cache: false, replicas: 1, ..Setup::default() };
    Model::new(setup, World::new).run([start, end].concat());
}

/// The same over TLS, which costs a handshake per connection and is tried less often.
#[cfg(feature = "tls")]
mod over_tls {
    use super::*;
    use crate::support::tls::{Authority, BOTH, Wants, server};
    use std::sync::Arc;

    proptest! {
        #![proptest_config(config(150))]

        #[test]
        fn every_request_gets_one_reply_and_its_own(ops in prop::collection::vec(op(false), 1..120), setup in setup(), lateness in prop_oneof![Just(0), 1usize..40]) {
            let authority = Authority::new();
            let config = Arc::new(server(&authority.issue(&["192.0.2.1", "192.0.2.2"]), &BOTH, Wants::Nothing));
            let alias = authority.option();
            let slow = alias.replace("alias:", "slow:");
            let world = |args: &[&str]| {
                let trust = ["--option", &alias, "--option", &slow];
                let mut world = World::new(&[args, &trust].concat()).over_tls(config.clone());
                world.lateness = lateness;
                world
            };
            Model::new(Setup { tls: true, ..setup }, world).run(ops);
        }
    }
}
