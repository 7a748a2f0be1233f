//! Lookups that ask for several keys: `case=` and `search=`.

use crate::support;

use podop::config::Mode;
use proptest::prelude::*;
use std::collections::BTreeMap;
use support::world::{MS, SECOND, World, response};

const SEARCH: [&str; 4] = ["--option", "alias:case=lower", "--option", "alias:search=address,+,@"];

fn searching(more: &[&str]) -> World {
    World::with_alias(&[&SEARCH, more].concat())
}

/// One lookup, with a function in the place of the backend; `None` closes the connection. The reply, and what was asked
/// for.
fn look_up(world: &mut World, key: &str, answer: &dyn Fn(&str) -> Option<Vec<u8>>) -> (String, Vec<String>) {
    let mut asked = Vec::new();
    let client = world.lookup(key);
    world.serve(|_, target, _| {
        let key = target.rsplit('/').next().expect("a path").replace("%40", "@").replace("%2B", "+");
        let bytes = answer(&key);
        asked.push(key);
        bytes
    });
    (world.taken(client), asked)
}

fn values(of: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<Vec<u8>> {
    move |key| {
        let found = of.iter().find(|(one, _)| *one == key);
        Some(found.map_or_else(|| response(404, "null"), |(_, value)| response(200, value)))
    }
}

#[test]
fn keys_are_asked_for_one_after_another_until_one_has_a_value() {
    let all: &[(&str, &str)] = &[("a@b", "\"address\""), ("a+x@b", "\"extension\""), ("@b", "\"domain\"")];
    for (key, of, reply, asked) in [
        ("A+X@B", all, "12:OK extension,", &["a+x@b"][..]),
        ("A+X@B", &[all[0], all[2]], "10:OK address,", &["a+x@b", "a@b"]),
        ("a+y@b", all, "10:OK address,", &["a+y@b", "a@b"]),
        ("c+y@b", all, "9:OK domain,", &["c+y@b", "c@b", "@b"]),
        ("c@b", all, "9:OK domain,", &["c@b", "@b"]),
        ("c+y@d", all, "9:NOTFOUND ,", &["c+y@d", "c@d", "@d"]),
        ("B", all, "9:NOTFOUND ,", &["b"]),
    ] {
        let of: &'static [(&str, &str)] = Vec::leak(of.to_vec());
        let (got, keys) = look_up(&mut searching(&[]), key, &values(of));
        assert_eq!((&got[..], &keys[..]), (reply, &asked.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>()[..]));
    }
}

#[test]
fn what_postfix_would_be_told_is_missing_leads_to_the_next_key() {
    for empty in ["[]", "false", "null"] {
        let answer = |key: &str| Some(response(200, if key == "a@b" { "\"x\"" } else { empty }));
        assert_eq!(look_up(&mut searching(&[]), "a+x@b", &answer).0, "4:OK x,", "{empty}");
    }
}

#[test]
fn a_fault_at_any_step_is_a_fault() {
    let domain = |key: &str, fault: &[u8]| Some(if key == "@b" { response(200, "\"x\"") } else { fault.to_vec() });
    for fault in [response(500, ""), response(200, "<html>"), response(200, "{\"a\":1}"), b"garbage".to_vec()] {
        let (reply, asked) = look_up(&mut searching(&[]), "a@b", &|key| domain(key, &fault));
        assert!(reply.contains(":TEMP alias: ") && !reply.contains("OK"), "{reply}");
        assert!(!asked.contains(&"@b".to_owned()));
    }
}

#[test]
fn all_steps_have_one_deadline_and_count_as_one_lookup() {
    for more in [&[][..], &["--option", "alias:cache=60"]] {
        let mut world = searching(more);
        let client = world.lookup("a+x@b");
        let backend = world.accept();
        for _ in 0..2 {
            world.asked(backend);
            world.wait(9 * SECOND);
            world.send(backend, &response(404, "null"));
        }
        assert_eq!(world.asked(backend), "%40b");
        world.wait(2 * SECOND - MS);
        assert_eq!(world.taken(client), "");
        world.wait(MS);
        let reply = world.taken(client);
        assert!(reply.contains(":TIMEOUT alias: "), "{reply}");
        let metrics = world.engine.metrics();
        assert!(metrics.contains("podop_lookups_total{table=\"alias\",result=\"timeout\"} 1"), "{metrics}");
        assert!(metrics.contains("podop_lookups_total{table=\"alias\",result=\"miss\"} 0"), "{metrics}");
        assert!(metrics.contains("podop_lookup_duration_seconds_count{table=\"alias\"} 1"), "{metrics}");
    }
}

#[test]
fn each_step_is_cached_and_shared() {
    let mut world = searching(&["--option", "alias:cache=60"]);
    let clients: Vec<_> = ["a+x@b", "A+X@B", "a@B"].map(|key| world.lookup(key)).into();
    let mut asked = Vec::new();
    world.serve(|_, target, _| {
        asked.push(target.to_owned());
        Some(if target.ends_with("/a%40b") { response(200, "\"v\"") } else { response(404, "null") })
    });
    assert!(clients.into_iter().all(|client| world.taken(client) == "4:OK v,"));
    asked.sort();
    assert_eq!(asked, ["/a/a%2Bx%40b", "/a/a%40b"]);
    let (reply, asked) = look_up(&mut world, "a+x@b", &|_| None);
    assert_eq!((&reply[..], asked.len()), ("4:OK v,", 0), "both steps are in the cache");
}

#[test]
fn a_client_that_leaves_ends_its_search() {
    let mut world = searching(&[]);
    let client = world.lookup("a+x@b");
    let backend = world.accept();
    world.asked(backend);
    world.end(client, podop::io::End::Closed(None));
    world.send(backend, &response(404, "null"));
    world.wait(MS);
    assert_eq!(world.asked_all(backend), [""; 0]);
}

#[test]
fn dict_lookups_ask_for_their_key_alone() {
    let mut world = searching(&[]);
    let client = world.client(Mode::Dovecot);
    world.send(client, b"H4\t0\t0\t\talias\nLshared/A+x@b\t\n");
    let backend = world.accept();
    assert_eq!(world.asked(backend), "A%2Bx%40b");
    world.send(backend, &response(404, "null"));
    assert_eq!(world.taken(client), "N\n");
}

#[test]
fn a_lookup_can_be_explained() {
    let mut world = searching(&["--option", "alias:cache=60"]);
    let answer = values(&[("@b", "\"x\"")]);
    let mut ask = |table: &str, key: &str| {
        let client = world.client(Mode::Postfix);
        let request = format!("{table} {key}");
        world.send(client, format!("{}:{request},", request.len()).as_bytes());
        world.serve(|_, target, _| answer(&target.rsplit('/').next().expect("a path").replace("%40", "@")));
        world.taken(client)
    };
    let lines = "\"a+y@b\": miss (0.0 ms)\n\"a@b\": miss (0.0 ms)\n\"@b\": found (0.0 ms)\n\n4:OK x,";
    assert_eq!(ask("explain:alias", "A+Y@b"), format!("{}:OK {lines},", lines.len() + 3));
    assert_eq!(ask("explain:alias", "c"), "35:OK \"c\": miss (0.0 ms)\n\n9:NOTFOUND ,,");
    assert!(ask("explain:none", "c").contains("TEMP no such table: none"));
}

#[test]
fn only_a_lookup_of_postfix_can_be_explained_and_only_for_its_own_key() {
    let args = ["--name", "alias", "--type", "url", "--param", "http://192.0.2.1/a?k=§"];
    let mut world = World::new(&[&args[..], &SEARCH].concat());
    let client = world.client(Mode::Postfix);
    let request = format!("explain:alias {}", "a".repeat(65_100));
    world.send(client, format!("{}:{request},", request.len()).as_bytes());
    assert_eq!(world.taken(client), "9:NOTFOUND ,", "as without the prefix");
    let client = world.client(Mode::Dovecot);
    world.send(client, b"H2\t0\t0\t\texplain:alias\nLshared/a@b\n");
    assert_eq!(world.taken(client), "Fno such table: explain:alias\n");
    assert!(world.connecting.is_empty());
}

#[test]
fn a_step_that_has_no_time_left_is_no_fault_of_the_backend() {
    let mut world = searching(&["--timeout", "10"]);
    let client = world.lookup("a+x@b");
    let backend = world.accept();
    world.asked(backend);
    world.now += 10 * SECOND; // the response is read in the turn in which the deadline passes
    world.send(backend, &response(404, "null"));
    assert_eq!(world.taken(client), "24:TIMEOUT alias: timed out,");
    assert!(world.is_open(backend) && world.asked_all(backend).is_empty());
}

#[test]
fn a_stale_value_is_served_before_the_deadline_of_a_search() {
    let mut world = searching(&["--timeout", "10", "--option", "alias:cache=1", "--option", "alias:stale=600"]);
    assert_eq!(look_up(&mut world, "a@b", &|_| Some(response(200, "\"v\""))).0, "4:OK v,");
    world.wait(5 * SECOND);
    let client = world.lookup("a+x@b");
    let backend = world.accept();
    world.asked(backend);
    world.wait(9 * SECOND + 500 * MS);
    world.send(backend, &response(404, "null"));
    world.wait(500 * MS);
    assert_eq!(world.taken(client), "4:OK v,");
}

/// What a step comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Value,
    Miss,
    Null,
    Fault,
    Closed,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// For any key and any outcome of each step, the reply is that of a plain model.
    #[test]
    fn a_search_is_what_a_plain_model_says(
        key in "[aB+@\"-]{1,8}",
        outcomes in prop::collection::vec(prop_oneof![
            Just(Outcome::Value), Just(Outcome::Miss), Just(Outcome::Null), Just(Outcome::Fault), Just(Outcome::Closed)
        ], 3),
        cached: bool,
    ) {
        // Each key of the model has the outcome of its place.
        let lower = key.to_lowercase();
        let mut keys = vec![lower.clone()];
        if let Some(at) = lower.rfind('@').filter(|at| *at > 0 && !lower.starts_with('"')) {
            let (local, domain) = lower.split_at(at);
            if let Some(plus) = local.find('+').filter(|plus| *plus > 0) {
                keys.push(format!("{}{domain}", &local[..plus]));
            }
            keys.push(domain.to_owned());
        }
        let mut outcome_of = BTreeMap::new();
        keys.iter().zip(&outcomes).for_each(|(key, outcome)| { outcome_of.entry(key.clone()).or_insert(*outcome); });
        let deciding = keys.iter().find(|key| !matches!(outcome_of[*key], Outcome::Miss | Outcome::Null));
        let mut world = searching(if cached { &["--option", "alias:cache=60"] } else { &[] });
        for _ in 0..2 {
            let decode = |target: &str| {
                target.rsplit('/').next().unwrap().replace("%40", "@").replace("%2B", "+").replace("%22", "\"")
            };
            let client = world.lookup(&key);
            let mut asked = Vec::new();
            world.serve(|_, target, _| {
                let key = decode(target);
                let outcome = outcome_of[&key];
                asked.push(key.clone());
                match outcome {
                    Outcome::Value => Some(response(200, &serde_json::to_string(&format!("v{key}")).unwrap())),
                    Outcome::Miss => Some(response(404, "null")),
                    Outcome::Null => Some(response(200, "null")),
                    Outcome::Fault => Some(response(500, "null")),
                    Outcome::Closed => None,
                }
            });
            let reply = world.taken(client);
            match deciding.map(|key| (key, outcome_of[key])) {
                Some((key, Outcome::Value)) => {
                    let value = format!("OK v{key}");
                    prop_assert_eq!(reply, format!("{}:{value},", value.len()));
                }
                Some(_) => prop_assert!(reply.contains(":TEMP alias: "), "{}", reply),
                None => prop_assert_eq!(reply, "9:NOTFOUND ,"),
            }
            let mut steps = asked;
            steps.dedup(); // a connection that closes is tried once more
            prop_assert!(keys.iter().filter(|key| steps.contains(key)).eq(&steps), "in their order: {:?}", steps);
        }
    }
}
