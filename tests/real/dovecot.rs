//! Dovecot 2.3 and 2.4 themselves: doveadm, IMAP and LMTP, answered by the program from a small web service.

use crate::support;

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{Write as _, copy};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use support::dovecot::{Dovecot, Imap, Logins, literal};
use support::http::{Backend, Request, Script, Then, raw, response};
use support::podop::{Podop, SOON, ask};
use support::roots::Release;

pub const ALICE: &str = "alice@x.test";
pub const BOB: &str = "bob@x.test";

// What doveadm exits with (sysexits).
pub const OK: Option<i32> = Some(0);
pub const NO_USER: Option<i32> = Some(67);
const NOT_FOUND: Option<i32> = Some(68);
pub const TEMPORARY: Option<i32> = Some(75);
pub const NO_PERMISSION: Option<i32> = Some(77);

fn values_of_every_kind_survive_set_and_get(release: Release) {
    let world = World::start(release, &[]);
    let values = [
        ("plain", "plain"),
        ("number", "42"),
        ("large", "123456789012345678901234567890.10"),
        ("empty", ""),
        ("space", " a  b "),
        ("odd", "tab[\t] newline[\n] return[\r] one[\x01] backslash[\\] \"quotes\" end"),
        ("escapes", "\x01t\x01n\x011\x010"),
        ("utf8", "gr\u{fc}n \u{20ac} \u{1f4ec}"),
        ("object", "{\"a\":[1,true,null]}"),
        ("with space", "1"),
        ("tab\there", "2"),
        ("line\nhere", "3"),
        ("one\x01here", "4"),
        ("percent%20/slash?q=1#f", "5"),
        ("j\u{f6}rg/\u{df}", "6"),
    ];
    for (key, value) in values {
        for (command, key) in [("-u nobody", format!("shared/{key}")), ("-u alice@x.test", format!("priv/{key}"))] {
            let set = world.dict(&format!("set {command}"), "meta", &[&key, value]);
            assert_eq!((set.code, set.err.as_str()), (OK, ""), "{key}");
            let got = world.dict(&format!("get {command}"), "meta", &[&key]);
            assert_eq!((got.code, got.out), (OK, format!("{value}\n")), "{key}: {}", got.err);
        }
    }
    assert_eq!(world.store.get("/meta/odd").unwrap(), serde_json::to_string(values[5].1).unwrap());
    assert_eq!(world.store.get("/meta/number/alice@x.test").unwrap(), "42");
    let targets: Vec<String> = world.store.requests().into_iter().map(|request| request.target).collect();
    for target in
        ["/meta/plain", "/meta/plain/alice%40x.test", "/meta/one%01here", "/meta/percent%2520/slash%3Fq%3D1%23f"]
    {
        assert!(targets.iter().any(|one| one == target), "{target}");
    }
}

fn a_missing_key_does_not_exist(release: Release) {
    let world = World::start(release, &[]);
    for (command, key) in [("get", "shared/none"), ("get -u alice@x.test", "priv/none"), ("get", "shared/../none")] {
        let got = world.dict(command, "meta", &[key]);
        assert_eq!((got.code, got.out.as_str()), (NOT_FOUND, ""), "{got:?}");
        assert!(got.err.contains(&format!("{key} doesn't exist")), "{got:?}");
    }
    let got = world.dict("get", "none", &["shared/x"]);
    assert_eq!(got.code, TEMPORARY);
    assert!(got.err.contains("no such table: none"), "{got:?}");
}

fn unset_removes_and_inc_adds(release: Release) {
    let world = World::start(release, &[]);
    world.store.put("/meta/n", "41");
    world.store.put("/meta/n/alice@x.test", "7");
    assert_eq!(world.dict("inc", "meta", &["shared/n", "5"]).code, OK);
    assert_eq!(world.dict("inc -u alice@x.test", "meta", &["priv/n", "1"]).code, OK);
    assert_eq!(world.store.get("/meta/n").unwrap(), "46");
    assert_eq!(world.store.get("/meta/n/alice@x.test").unwrap(), "8");
    assert_eq!(world.dict("unset", "meta", &["shared/n"]).code, OK);
    assert_eq!(world.dict("get", "meta", &["shared/n"]).code, NOT_FOUND);
    assert_eq!(world.dict("unset -u alice@x.test", "meta", &["priv/n"]).code, OK);
    assert_eq!(world.dict("get -u alice@x.test", "meta", &["priv/n"]).code, NOT_FOUND);
    let writes = world.store.requests().into_iter().filter(|request| request.method != "GET");
    let writes: Vec<(String, String)> =
        writes.map(|one| (one.method, String::from_utf8(one.body).expect("text"))).collect();
    let expected =
        [("PATCH", "{\"increment\": 5}"), ("PATCH", "{\"increment\": 1}"), ("POST", "null"), ("POST", "null")];
    assert_eq!(writes, expected.map(|(method, body)| (method.to_owned(), body.to_owned())));
}

fn an_increment_of_nothing_says_that_it_does_not_exist(release: Release) {
    let world = World::start(release, &[]);
    let reply = world.dict("inc", "meta", &["shared/none", "1"]);
    assert_eq!(reply.code, NOT_FOUND);
    assert!(reply.err.contains("shared/none doesn't exist"), "{reply:?}");
}

fn unset_is_a_delete_if_the_table_says_so(release: Release) {
    let world = World::start(release, &["--option", "meta:unset=delete"]);
    world.store.put("/meta/k", "1");
    for _ in 0..2 {
        let reply = world.dict("unset", "meta", &["shared/k"]);
        assert_eq!((reply.code, reply.err.as_str()), (OK, ""));
        assert_eq!(world.store.get("/meta/k"), None);
    }
    let requests = world.store.requests();
    assert_eq!(
        requests.iter().map(|one| (one.method.as_str(), one.body.len())).collect::<Vec<_>>(),
        [("DELETE", 0), ("DELETE", 0)]
    );
    world.store.disturb(|_| Some(response(403, "")));
    assert_eq!(world.dict("unset", "meta", &["shared/k"]).code, TEMPORARY);
}

fn iterating_shows_rows_in_every_variant(release: Release) {
    let world = World::start(release, &[]);
    for (key, value) in [("it/a", "1"), ("it/b", "\"x\\ty\\nz\\u0001\""), ("it/c/d", "{\"e\":2}"), ("it/empty", "\"\"")]
    {
        world.store.put(&format!("/meta/{key}"), value);
    }
    world.store.put("/meta/it/p/alice@x.test", "3");
    world.store.put("/meta/it/q/alice@x.test", "4");
    world.store.put("/meta/it/q/bob@x.test", "5");
    let shared = "key=shared/it/a value=1\nkey=shared/it/b value=x\ty\nz\x01\nkey=shared/it/empty value=\n";
    let deep = "key=shared/it/a value=1\nkey=shared/it/b value=x\ty\nz\x01\n\
                  key=shared/it/c/d value={\"e\":2}\nkey=shared/it/empty value=\n";
    let names = "key=shared/it/a\nkey=shared/it/b\nkey=shared/it/empty\n";
    let deep_names = "key=shared/it/a\nkey=shared/it/b\nkey=shared/it/c/d\nkey=shared/it/empty\n";
    let cases = [
        ("iter", "shared/it/", shared),
        ("iter -R", "shared/it/", deep),
        ("iter -V", "shared/it/", names),
        ("iter -R -V", "shared/it/", deep_names),
        ("iter -1", "shared/it/a", "key=shared/it/a value=1\n"),
        ("iter -1", "shared/it/none", ""),
        ("iter -1 -V", "shared/it/b", "key=shared/it/b\n"),
        ("iter", "shared/none/", ""),
        ("iter -u alice@x.test", "priv/it/", "key=priv/it/p value=3\nkey=priv/it/q value=4\n"),
        ("iter -V -u bob@x.test", "priv/it/", "key=priv/it/q\n"),
        ("iter -1 -u bob@x.test", "priv/it/q", "key=priv/it/q value=5\n"),
        ("iter -u nobody@x.test", "priv/it/", ""),
    ];
    for as_object in [false, true] {
        world.store.list_with_values(as_object);
        for (command, path, expected) in cases {
            let reply = world.dict(command, "meta", &[path]);
            assert_eq!((reply.code, reply.out.as_str()), (OK, expected), "{command} {path}: {reply:?}");
        }
    }
}

on_each_release! {
    "needs Debian's dovecot; tests/run installs it, and builds trixie":
    values_of_every_kind_survive_set_and_get
    a_missing_key_does_not_exist
    unset_removes_and_inc_adds
    an_increment_of_nothing_says_that_it_does_not_exist
    unset_is_a_delete_if_the_table_says_so
    iterating_shows_rows_in_every_variant
    a_login_works_and_leaves_its_time
    metadata_of_every_kind_is_kept_and_removed
    metadata_is_found_at_any_depth
    a_mailbox_goes_with_its_metadata
    a_mailbox_whose_metadata_cannot_be_removed_stays
    a_delivery_tells_the_quota
    a_sieve_script_comes_from_the_backend
    a_shared_mailbox_is_seen_by_the_other_user
    a_fault_of_the_backend_is_never_a_miss
    a_backend_that_is_gone_is_a_temporary_failure
    a_client_error_is_a_miss_unless_the_table_says_otherwise
    mail_is_deferred_while_its_sieve_script_is_out_of_reach
    a_listing_that_breaks_off_is_an_error
    a_failed_write_is_never_reported_as_done
    a_write_to_a_connection_that_is_reset_at_once_has_failed
    a_transaction_fails_with_any_of_its_writes
    one_process_serves_postfix_and_dovecot_from_the_same_tables
    one_connection_serves_many_operations_if_dovecot_keeps_it
}

fn a_login_works_and_leaves_its_time(release: Release) {
    let world = World::start(release, &[]);
    let mut imap = world.login(ALICE);
    assert!(imap_command(&mut imap, "SELECT INBOX").pop().unwrap().starts_with("OK"));
    let time = eventually("the time of the login", || world.store.get("/login/last-login/alice@x.test"));
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(time.parse::<u64>().is_ok_and(|time| (now - 60..=now).contains(&time)), "{time}");
    let refused = world.dovecot.imap().login(ALICE, "wrong");
    assert!(refused.starts_with("NO [AUTHENTICATIONFAILED]"), "{refused}");
    let unknown = world.dovecot.imap().login("nobody@x.test", "secret");
    assert!(unknown.starts_with("NO [AUTHENTICATIONFAILED]"), "{unknown}");
}

fn metadata_of_every_kind_is_kept_and_removed(release: Release) {
    let world = World::start(release, &[]);
    let mut imap = world.login(ALICE);
    let values = [
        ("/private/comment", "my comment"),
        ("/shared/comment", "our comment"),
        ("/private/number", "5"),
        ("/private/lit", "line1\r\nline2\tx \\ \"q\" \x01"),
        ("/private/utf8", "gr\u{fc}n)"),
        ("/private/empty", ""),
        ("/private/vendor/x/y", "deep"),
    ];
    for (entry, value) in values {
        let set = imap_command(&mut imap, &format!("SETMETADATA INBOX ({entry} {})", literal(value)));
        assert_eq!(set, ["OK Setmetadata completed."], "{entry}");
        let got = imap_command(&mut imap, &format!("GETMETADATA INBOX {entry}"));
        let expected = format!("* METADATA INBOX ({entry} {})", answer(value));
        assert_eq!(got, [expected.as_str(), "OK Getmetadata completed."]);
    }
    assert_eq!(
        imap_command(&mut imap, "SETMETADATA INBOX (/private/q \"a \\\"b\\\" \\\\c\")"),
        ["OK Setmetadata completed."]
    );
    let got = imap_command(&mut imap, "GETMETADATA INBOX (/private/q /private/none /shared/none)");
    let expected =
        format!("* METADATA INBOX (/private/q {} /private/none NIL /shared/none NIL)", answer("a \"b\" \\c"));
    assert_eq!(got, [expected.as_str(), "OK Getmetadata completed."]);
    assert_eq!(
        imap_command(&mut imap, "SETMETADATA \"\" (/private/vendor/s \"server\")"),
        ["OK Setmetadata completed."]
    );
    let got = imap_command(&mut imap, "GETMETADATA \"\" /private/vendor/s");
    assert_eq!(got[0], format!("* METADATA \"\" (/private/vendor/s {})", answer("server")));
    let two = "SETMETADATA INBOX (/private/comment NIL /shared/comment NIL /private/q NIL)";
    assert_eq!(imap_command(&mut imap, two), ["OK Setmetadata completed."]);
    let got = imap_command(&mut imap, "GETMETADATA INBOX (/private/comment /shared/comment /private/q)");
    assert_eq!(got[0], "* METADATA INBOX (/private/comment NIL /shared/comment NIL /private/q NIL)");
}

fn metadata_is_found_at_any_depth(release: Release) {
    let world = World::start(release, &[]);
    let mut imap = world.login(ALICE);
    let set = "SETMETADATA INBOX (/private/v/a \"1\" /private/v/b/c \"2\" /private/w \"3\" /shared/v/s \"4\")";
    assert_eq!(imap_command(&mut imap, set), ["OK Setmetadata completed."]);
    for as_object in [false, true] {
        world.store.list_with_values(as_object);
        for (depth, entry, expected) in [
            ("infinity", "/private", vec![("/private/v/a", "1"), ("/private/v/b/c", "2"), ("/private/w", "3")]),
            ("infinity", "/private/v", vec![("/private/v/a", "1"), ("/private/v/b/c", "2")]),
            ("1", "/private/v", vec![("/private/v/a", "1")]),
            ("infinity", "/shared", vec![("/shared/v/s", "4")]),
        ] {
            let got = imap_command(&mut imap, &format!("GETMETADATA (DEPTH {depth}) INBOX {entry}"));
            assert_eq!(got.last().unwrap(), "OK Getmetadata completed.");
            for (entry, value) in expected {
                let pair = format!("{entry} {}", answer(value));
                assert_eq!(got[0].matches(&pair).count(), 1, "{depth} {entry}: {got:?}");
            }
        }
    }
}

fn a_mailbox_goes_with_its_metadata(release: Release) {
    for unset in ["meta:unset=null", "meta:unset=delete"] {
        let world = World::start(release, &["--option", unset]);
        let mut imap = world.login(ALICE);
        for as_object in [false, true] {
            world.store.list_with_values(as_object);
            for entries in ["/private/comment \"1\" /private/a/b \"2\" /shared/other \"3\"", "/private/comment NIL"] {
                assert_eq!(imap_command(&mut imap, "CREATE Work"), ["OK Create completed."]);
                let set = imap_command(&mut imap, &format!("SETMETADATA Work ({entries})"));
                assert_eq!(set, ["OK Setmetadata completed."]);
                assert_eq!(imap_command(&mut imap, "DELETE Work"), ["OK Delete completed."], "{}", world.dovecot.log());
                assert_eq!(world.store.names("/meta/"), [""; 0]);
            }
        }
    }
}

fn a_mailbox_whose_metadata_cannot_be_removed_stays(release: Release) {
    let world = World::start(release, &["--timeout", "1"]);
    let mut imap = world.login(ALICE);
    assert_eq!(imap_command(&mut imap, "CREATE Work"), ["OK Create completed."]);
    assert_eq!(imap_command(&mut imap, "SETMETADATA Work (/private/comment \"1\")"), ["OK Setmetadata completed."]);
    for method in ["GET", "POST"] {
        world.store.disturb(move |request| (request.method == method).then(|| response(500, "")));
        let reply = imap_command(&mut imap, "DELETE Work");
        assert!(reply.last().unwrap().starts_with("NO [SERVERBUG]"), "{reply:?}");
    }
    world.store.behave();
    assert_eq!(imap_command(&mut imap, "DELETE Work"), ["OK Delete completed."]);
}

fn a_delivery_tells_the_quota(release: Release) {
    let world = World::start(release, &[]);
    world.add_user(ALICE);
    for count in ["1", "2"] {
        let reply = world.dovecot.deliver(ALICE, MESSAGE);
        assert!(reply.starts_with("250 "), "{reply}");
        let quota = |what: &str| world.store.get(&format!("/quota/quota/{what}/alice@x.test"));
        eventually("the number of messages", || quota("messages").filter(|number| number == count));
        let size: u64 = quota("storage").expect("the size comes first").parse().expect("a number");
        assert!(size >= MESSAGE.len() as u64, "{size}");
    }
    let reply = world.dovecot.deliver("nobody@x.test", MESSAGE);
    assert!(reply.starts_with("550 "), "{reply}");
}

fn a_sieve_script_comes_from_the_backend(release: Release) {
    let world = World::start(release, &[]);
    world.add_user(ALICE);
    world.add_user(BOB);
    let script = "require [\"fileinto\", \"mailbox\"];\r\n\
                  if header :contains \"subject\" \"spam\" {\r\n\tfileinto :create \"Junk\"; }\r\n";
    world.store.put("/sieve/sieve/name/default/alice@x.test", "42");
    world.store.put("/sieve/sieve/data/42/alice@x.test", &serde_json::to_string(script).unwrap());
    for (user, place) in [(ALICE, "Junk"), (BOB, "INBOX")] {
        let reply = world.dovecot.deliver(user, &MESSAGE.replace("Subject: ", "Subject: spam "));
        assert!(reply.starts_with("250 "), "{reply}");
        let mut imap = world.dovecot.imap();
        assert!(imap.login(user, "secret").starts_with("OK"));
        let status = imap_command(&mut imap, &format!("STATUS {place} (MESSAGES)"));
        assert_eq!(status[0], format!("* STATUS {place} (MESSAGES 1)"), "{}", world.dovecot.log());
    }
}

fn a_shared_mailbox_is_seen_by_the_other_user(release: Release) {
    for as_object in [false, true] {
        let world = World::start(release, &[]);
        world.store.list_with_values(as_object);
        let (mut alice, mut bob) = (world.login(ALICE), world.login(BOB));
        let shared = |imap: &mut Imap| {
            let lines = imap_command(imap, "LIST \"\" *");
            lines.iter().any(|line| line.ends_with("shared/alice@x.test/Team"))
        };
        assert_eq!(imap_command(&mut alice, "CREATE Team"), ["OK Create completed."]);
        assert!(!shared(&mut bob));
        assert_eq!(imap_command(&mut alice, "SETACL Team bob@x.test lr"), ["OK Setacl complete."]);
        assert_eq!(world.store.get("/acl/shared-boxes/user/bob@x.test/alice@x.test").unwrap(), "1");
        let mut bob = world.login(BOB); // an older session remembers for a while
        assert!(shared(&mut bob), "{}", world.dovecot.log());
        let selected = imap_command(&mut bob, "SELECT shared/alice@x.test/Team").pop().unwrap();
        assert!(selected.starts_with("OK"), "{selected}");
        assert_eq!(imap_command(&mut alice, "DELETEACL Team bob@x.test"), ["OK Deleteacl complete."]);
        assert_eq!(world.store.names("/acl/"), [""; 0]);
        assert!(!shared(&mut world.login(BOB)));
    }
}

fn a_fault_of_the_backend_is_never_a_miss(release: Release) {
    let world = World::start(release, &["--timeout", "1", "--option", "*:miss=404"]);
    for (script, reason) in read_faults() {
        let (faulty, reason) = (script.clone(), &format!("{} {reason}", world.store.address()));
        world.store.disturb(move |_| Some(faulty.clone()));
        lookups_fail(&world, reason);
    }
    world.store.behave();
    // After a row of lookups without an answer it is asked by one at a time, at the latest every two seconds.
    eventually("another request", || (world.dict("get", "meta", &["shared/none"]).code == NOT_FOUND).then_some(()));
}

fn a_backend_that_is_gone_is_a_temporary_failure(release: Release) {
    let mut world = World::start(release, &[]);
    world.add_user(ALICE);
    let address = world.store.address();
    world.store.stop();
    let reason = &format!("{address} refused the connection");
    lookups_fail(&world, reason);
    let reply = world.dict("set", "meta", &["shared/k", "v"]);
    assert!(reply.code == TEMPORARY && reply.err.contains(reason), "{reply:?}");
    world.store.resume();
    world.login(ALICE);
    assert!(world.dovecot.deliver(ALICE, MESSAGE).starts_with("250 "));
}

fn a_client_error_is_a_miss_unless_the_table_says_otherwise(release: Release) {
    let world = World::start(release, &["--option", "quota:miss=404"]);
    world.store.disturb(|_| Some(response(403, "")));
    assert_eq!(world.dict("get", "meta", &["shared/k"]).code, NOT_FOUND);
    assert_eq!(world.dict("iter", "meta", &["shared/k/"]).code, OK);
    let reply = world.dict("get", "quota", &["shared/k"]);
    assert!(reply.code == TEMPORARY && reply.err.contains("answered 403"), "{reply:?}");
}

fn mail_is_deferred_while_its_sieve_script_is_out_of_reach(release: Release) {
    let world = World::start(release, &["--timeout", "1"]);
    world.add_user(ALICE);
    for script in [response(500, ""), raw("", Then::Close), raw("", Then::Hang)] {
        world.store.disturb(move |request| request.target.starts_with("/sieve/").then(|| script.clone()));
        let reply = world.dovecot.deliver(ALICE, MESSAGE);
        assert!(reply.starts_with("451 "), "{reply}");
    }
    world.store.behave();
    let reply = world.dovecot.deliver(ALICE, MESSAGE);
    assert!(reply.starts_with("250 "), "{reply}");
}

fn a_listing_that_breaks_off_is_an_error(release: Release) {
    let world = World::start(release, &["--timeout", "1"]);
    for name in 0..100 {
        world.store.put(&format!("/meta/it/{name:02}"), "1");
    }
    for (script, reason) in read_faults() {
        world.store.disturb(move |request| request.target.ends_with("/it/50").then(|| script.clone()));
        if reason == "answered 403" {
            continue; // the row has gone meanwhile, see below
        }
        let reply = world.dict("iter", "meta", &["shared/it/"]);
        assert_eq!(reply.code, TEMPORARY, "{reason}");
        assert!(reply.err.contains(reason) && !reply.out.contains("shared/it/50"), "{reply:?}");
    }
    world.store.disturb(|request| request.target.ends_with("/it/50").then(|| response(404, "")));
    let reply = world.dict("iter", "meta", &["shared/it/"]);
    assert_eq!((reply.code, reply.out.lines().count()), (OK, 99));
    for list in ["\"text\"", "3", "[null]"] {
        world.store.disturb(move |_| Some(response(200, list)));
        assert_eq!(world.dict("iter", "meta", &["shared/it/"]).code, TEMPORARY, "{list}");
    }
}

fn a_failed_write_is_never_reported_as_done(release: Release) {
    let world = World::start(release, &["--timeout", "1"]);
    world.store.put("/meta/k", "1");
    let commands: [(&str, &[&str]); 3] =
        [("set", &["shared/k", "2"]), ("unset", &["shared/k"]), ("inc", &["shared/k", "1"])];
    for (script, reason) in write_faults() {
        let reason = &format!("{} {reason}", world.store.address());
        for (command, rest) in commands {
            if command == "inc" && reason.ends_with(" 404") {
                continue; // there is nothing to increment, see above
            }
            let (faulty, before) = (script.clone(), world.store.requests().len());
            world.store.disturb(move |_| Some(faulty.clone()));
            let start = Instant::now();
            let reply = world.dict(command, "meta", rest);
            assert_eq!((reply.code, reply.out.as_str()), (TEMPORARY, ""), "{command} {reason}");
            assert!(reply.err.contains(reason), "{command} {reason}: {reply:?}");
            assert!(start.elapsed() < SOON, "{command} {reason}");
            assert_eq!(world.store.requests().len() - before, 1, "a write is sent once: {command} {reason}");
            world.store.behave();
        }
    }
    assert_eq!(world.store.get("/meta/k").unwrap(), "1");
}

fn a_write_to_a_connection_that_is_reset_at_once_has_failed(release: Release) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/\u{a7}", listener.local_addr().unwrap());
    let world = World::start(release, &["--timeout", "1", "--name", "reset", "--type", "url", "--param", &url]);
    let resetting = thread::spawn(move || {
        for _ in 0..3 {
            let (stream, _) = listener.accept().unwrap();
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
    for (command, rest) in [("set", &["shared/k", "2"][..]), ("unset", &["shared/k"]), ("inc", &["shared/k", "1"])] {
        let reply = world.dict(command, "reset", rest);
        assert!(reply.code == TEMPORARY && reply.err.contains("dict-server returned failure"), "{reply:?}");
    }
    resetting.join().unwrap();
}

fn a_transaction_fails_with_any_of_its_writes(release: Release) {
    let world = World::start(release, &["--timeout", "1"]);
    let mut imap = world.login(ALICE);
    for (script, reason) in write_faults() {
        for (faulty, ahead) in [("/a/", false), ("/b/", true), ("/c/", true)] {
            let script = script.clone();
            let hit = move |request: &Request| request.method == "POST" && request.target.contains(faulty);
            world.store.disturb(move |request| hit(request).then(|| script.clone()));
            let set = "SETMETADATA INBOX (/private/a \"1\" /private/b \"2\" /private/c \"3\")";
            let reply = imap_command(&mut imap, set).pop().unwrap();
            assert!(reply.starts_with("NO "), "{reason} at {faulty}: {reply}");
            let stored = world.store.names("/meta/");
            assert_eq!(stored.iter().any(|name| name.contains("/a/")), ahead, "{reason} at {faulty}: {stored:?}");
            assert!(!stored.iter().any(|name| name.contains("/c/")), "the first failure is the end: {stored:?}");
            world.store.clear("/meta/");
        }
        world.dovecot.wait_for_log(&format!("{} {reason}", world.store.address()));
    }
    world.store.behave();
    for (faulty, line) in [("/storage/", "Failed to write value"), ("/messages/", "Write was unconfirmed")] {
        world.store.disturb(move |request| request.target.contains(faulty).then(|| response(503, "")));
        assert!(world.dovecot.deliver(ALICE, MESSAGE).starts_with("250 "));
        world.dovecot.wait_for_log(&format!("quota_clone_dict: {line}"));
    }
}

fn one_process_serves_postfix_and_dovecot_from_the_same_tables(release: Release) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("postfix.sock");
    let path = socket.to_str().unwrap();
    let world = World::start(release, &["--mode", "dovecot", "--socket", path, "--mode", "postfix"]);
    world.add_user(ALICE);
    world.store.put("/meta/k", "[\"a\",\"b\"]");
    let mut postfix = UnixStream::connect(&socket).unwrap();
    let both = |world: &World, stream: &mut UnixStream| {
        assert_eq!(ask(stream, "meta", b"k"), b"OK a,b");
        assert_eq!(ask(stream, "meta", b"none"), b"NOTFOUND ");
        assert_eq!(world.dict("get", "meta", &["shared/k"]).out, "[\"a\",\"b\"]\n");
        assert!(world.dovecot.imap().login(ALICE, "secret").starts_with("OK"));
    };
    both(&world, &mut postfix);
    let mut wrong = UnixStream::connect(&socket).unwrap();
    wrong.write_all(b"H3\t2\t0\t\tmeta\nLshared/k\t\n").unwrap();
    assert_eq!(copy(&mut wrong, &mut std::io::sink()).unwrap_or(0), 0, "a postfix socket talks no dict");
    let world = World::start(release, &["--mode", "auto"]);
    world.add_user(ALICE);
    world.store.put("/meta/k", "[\"a\",\"b\"]");
    both(&world, &mut world.podop.connect());
}

fn one_connection_serves_many_operations_if_dovecot_keeps_it(release: Release) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let relay = dir.path().join("relay.sock");
    let relayed = relay.display();
    let extra = match release {
        Release::Bookworm => format!("mail_attribute_dict = proxy:idle_msecs=60000:{relayed}:meta\n"),
        // The settings of the manual are merged with these.
        Release::Trixie => {
            format!("mail_attribute {{\n dict proxy {{\n socket_path = {relayed}\n }}\n}}\n")
        }
    };
    let world = World::start_with(release, &[], &extra);
    let opened = count_connections(&relay, world.podop.socket());
    let mut imap = world.login(ALICE);
    for number in 0..5 {
        let set = imap_command(&mut imap, &format!("SETMETADATA INBOX (/private/k \"{number}\")"));
        assert_eq!(set, ["OK Setmetadata completed."]);
        let got = imap_command(&mut imap, "GETMETADATA INBOX /private/k");
        assert_eq!(got[0], format!("* METADATA INBOX (/private/k {})", answer(&number.to_string())));
    }
    assert_eq!(opened.load(Ordering::SeqCst), 1);
    assert!(imap_command(&mut imap, "LOGOUT").pop().unwrap().starts_with("OK"));
}

pub const MESSAGE: &str = "From: sender@example.org\nTo: alice@x.test\nSubject: hello\n\nbody\n.\nend\n";

/// What a backend may do to a GET, and how the reason ends then.
pub fn read_faults() -> Vec<(Script, &'static str)> {
    vec![
        (response(500, ""), "answered 500"),
        (response(503, "<html>"), "answered 503"),
        (response(429, ""), "answered 429"),
        (response(403, ""), "answered 403"),
        (response(204, ""), "answered 204"),
        (response(200, "<html>no such user</html>"), "answered 200 without JSON"),
        (response(200, ""), "answered 200 without JSON"),
        (redirect(302), "answered 302 to another origin"),
        (
            raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"password\": \"sec", Then::Close),
            "closed the connection within its answer",
        ),
        (raw("HTTP/1.1 404 Not", Then::Close), "closed the connection within its answer"),
        (raw("", Then::Close), "closed the connection without an answer"),
        (raw("", Then::Reset), "broke the connection"),
        (raw("", Then::Hang), "did not answer in time"),
    ]
}

/// What a backend may do to a write, and how the reason ends then.
fn write_faults() -> Vec<(Script, &'static str)> {
    let mut faults = vec![
        (redirect(301), "answered 301"),
        (redirect(302), "answered 302"),
        (redirect(307), "answered 307"),
        (raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", Then::Close), "closed the connection within its answer"),
        (raw("HTTP/1.1 200", Then::Reset), "broke the connection"),
        (raw("", Then::Close), "closed the connection without an answer"),
        (raw("", Then::Reset), "broke the connection"),
        (raw("", Then::Hang), "did not answer in time"),
    ];
    let statuses = [
        (400, "answered 400"),
        (403, "answered 403"),
        (404, "answered 404"),
        (409, "answered 409"),
        (500, "answered 500"),
        (503, "answered 503"),
    ];
    faults.extend(statuses.map(|(status, reason)| (response(status, ""), reason)));
    faults
}

fn redirect(status: u16) -> Script {
    let head = format!("HTTP/1.1 {status} Status\r\nLocation: http://elsewhere.invalid/\r\nContent-Length: 0\r\n\r\n");
    raw(head, Then::Keep)
}

/// Dict operations that read say what is wrong, soon.
fn lookups_fail(world: &World, reason: &str) {
    for (command, key) in [("get", "shared/k"), ("get -u alice@x.test", "priv/k"), ("iter", "shared/it/")] {
        let start = Instant::now();
        let reply = world.dict(command, "meta", &[key]);
        assert_eq!((reply.code, reply.out.as_str()), (TEMPORARY, ""), "{reason}");
        assert!(reply.err.contains(reason), "{reason}: {reply:?}");
        assert!(start.elapsed() < SOON, "{command} {reason}");
    }
}

/// Sends an IMAP command; the time that it took, which Dovecot reports for some results, is removed.
fn imap_command(imap: &mut Imap, command: &str) -> Vec<String> {
    let mut lines = imap.command(command);
    let result = lines.pop().expect("a result");
    let cut = result.rfind(" (").filter(|_| result.ends_with(" secs)."));
    lines.push(cut.map_or(result.clone(), |cut| result[..cut].to_owned() + "."));
    lines
}

/// A value as GETMETADATA shows it.
fn answer(value: &str) -> String {
    format!("{{{}}}\r\n{value}", value.len())
}

/// Passes connections on from a new socket, and counts them.
fn count_connections(from: &Path, to: &Path) -> Arc<AtomicUsize> {
    let (listener, to, count) = (UnixListener::bind(from).unwrap(), to.to_owned(), Arc::new(AtomicUsize::new(0)));
    std::fs::set_permissions(from, Permissions::from_mode(0o666)).unwrap();
    let opened = count.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            opened.fetch_add(1, Ordering::SeqCst);
            let (client, server) = (client.unwrap(), UnixStream::connect(&to).unwrap());
            let ways = [
                (client.try_clone().unwrap(), server.try_clone().unwrap()), // requests
                (server, client),                                           // replies
            ];
            for (mut from, mut to) in ways {
                thread::spawn(move || {
                    let _ = copy(&mut from, &mut to); // either side may leave
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    count
}

/// Waits until something is there.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} does not come");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Dovecot, the program and its backend.
pub struct World {
    pub dovecot: Dovecot,
    pub podop: Podop,
    pub store: Store,
    pub release: Release,
}

/// The result of doveadm.
#[derive(Debug)]
pub struct Told {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl World {
    /// Starts everything, the program with these further arguments.
    fn start(release: Release, args: &[&str]) -> World {
        Self::start_with(release, args, "")
    }

    /// The same with further lines for dovecot.conf.
    fn start_with(release: Release, args: &[&str], config: &str) -> World {
        let logins = match release {
            Release::Bookworm => Logins::Dict,
            Release::Trixie => Logins::Lua,
        };
        Self::start_for(release, logins, args, config)
    }

    /// The same with logins of this kind.
    pub fn start_for(release: Release, logins: Logins, args: &[&str], config: &str) -> World {
        let store = Store::start();
        let mut words: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        for table in ["auth", "quota", "meta", "login", "sieve", "acl"] {
            let url = format!("http://{}/{table}/\u{a7}", store.address());
            words.extend(["--name", table, "--type", "url", "--param", &url].map(str::to_owned));
        }
        let podop = Podop::start(&words);
        let dovecot = Dovecot::start(release, podop.socket(), logins, store.address(), config);
        World { dovecot, podop, store, release }
    }

    pub fn doveadm(&self, args: &[&str]) -> Told {
        let output = self.dovecot.doveadm(args);
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Told { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs `doveadm dict` with a command and its options on a table.
    fn dict(&self, command: &str, table: &str, rest: &[&str]) -> Told {
        let uri = format!("proxy:{}:{table}", self.podop.socket().display());
        let name = format!("mail_attribute/dict/proxy/dict_proxy_name={table}");
        // 2.4 knows dicts by the section of dovecot.conf that uses them, whose settings can be replaced.
        let (options, dict) = match self.release {
            Release::Bookworm => (vec![], uri.as_str()),
            Release::Trixie => (vec!["-o", &name], "mail_attribute"),
        };
        let mut args = [options, vec!["-f", "flow", "dict"]].concat();
        args.extend(command.split(' '));
        args.push(dict);
        args.extend(rest);
        self.doveadm(&args)
    }

    /// Adds a user whose password is `secret`.
    pub fn add_user(&self, user: &str) {
        self.store.put(&format!("/auth/passdb/{user}"), "{\"password\": \"secret\"}");
        self.store.put(&format!("/auth/userdb/{user}"), "{}");
        if self.release == Release::Trixie {
            // 2.4 defers mail for users without a script.
            self.store.put(&format!("/sieve/sieve/name/default/{user}"), "1");
            self.store.put(&format!("/sieve/sieve/data/1/{user}"), "\"keep;\"");
        }
    }

    /// Adds a user and logs in as such.
    pub fn login(&self, user: &str) -> Imap {
        self.add_user(user);
        let mut imap = self.dovecot.imap();
        let reply = imap.login(user, "secret");
        assert!(reply.starts_with("OK"), "{reply}\n{}", self.dovecot.log());
        imap
    }
}

/// A web service that keeps JSON values under paths.
pub struct Store {
    backend: Option<Backend>,
    address: SocketAddr,
    shelf: Arc<Shelf>,
}

#[derive(Default)]
struct Shelf {
    values: Mutex<BTreeMap<String, String>>,
    /// Whether lists are objects, not arrays.
    with_values: AtomicBool,
    /// Answers in place of the proper ones.
    fault: Mutex<Option<Box<Fault>>>,
}

type Fault = dyn Fn(&Request) -> Option<Script> + Send;

impl Store {
    fn start() -> Store {
        let shelf = Arc::new(Shelf::default());
        let answering = shelf.clone();
        let backend = Backend::start(move |request| answering.answer(request));
        Store { address: backend.address(), backend: Some(backend), shelf }
    }

    /// Goes away until [`Store::resume`].
    pub fn stop(&mut self) {
        self.backend = None;
        eventually("the end of the backend", || TcpStream::connect(self.address).err());
    }

    pub fn resume(&mut self) {
        let shelf = self.shelf.clone();
        self.backend = Some(Backend::start_at(self.address, move |request| shelf.answer(request)));
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn requests(&self) -> Vec<Request> {
        self.backend.as_ref().expect("it runs").requests()
    }

    pub fn put(&self, path: &str, json: &str) {
        self.shelf.values.lock().unwrap().insert(path.to_owned(), json.to_owned());
    }

    pub fn get(&self, path: &str) -> Option<String> {
        self.shelf.values.lock().unwrap().get(path).cloned()
    }

    /// All paths that begin so.
    fn names(&self, start: &str) -> Vec<String> {
        self.shelf.values.lock().unwrap().keys().filter(|path| path.starts_with(start)).cloned().collect()
    }

    pub fn clear(&self, start: &str) {
        self.shelf.values.lock().unwrap().retain(|path, _| !path.starts_with(start));
    }

    pub fn list_with_values(&self, yes: bool) {
        self.shelf.with_values.store(yes, Ordering::SeqCst);
    }

    /// Lets a function answer, as far as it does.
    pub fn disturb(&self, fault: impl Fn(&Request) -> Option<Script> + Send + 'static) {
        *self.shelf.fault.lock().unwrap() = Some(Box::new(fault));
    }

    /// Ends the disturbance.
    pub fn behave(&self) {
        *self.shelf.fault.lock().unwrap() = None;
    }
}

impl Shelf {
    fn answer(&self, request: &Request) -> Script {
        let fault = self.fault.lock().unwrap().as_ref().and_then(|fault| fault(request));
        fault.unwrap_or_else(|| {
            let path = String::from_utf8(podop::wire::percent::decode(&request.target)).expect("a UTF-8 path");
            self.serve(&request.method, path, &request.body)
        })
    }

    fn serve(&self, method: &str, path: String, body: &[u8]) -> Script {
        let mut values = self.values.lock().unwrap();
        let body = String::from_utf8_lossy(body).into_owned();
        match method {
            "GET" => match values.get(&path).cloned().or_else(|| self.list(&values, &path)) {
                Some(json) => return response(200, &json),
                None => return response(404, ""),
            },
            "POST" if path == "/login" => return log_in(&values, &body),
            "POST" if body == "null" => drop(values.remove(&path)),
            "POST" => {
                serde_json::from_str::<Value>(&body).expect("a write is JSON");
                values.insert(path, body);
            }
            "DELETE" if values.remove(&path).is_none() => return response(404, ""),
            "DELETE" => {}
            "PATCH" => {
                let by = serde_json::from_str::<Value>(&body).expect("JSON")["increment"].as_i64().expect("a number");
                let Some(value) = values.get_mut(&path) else { return response(404, "") };
                *value = (value.parse::<i64>().expect("a number") + by).to_string();
            }
            _ => return response(405, ""),
        }
        response(204, "")
    }

    /// What is below `FOLDER/`, or what a user has there if the path is `FOLDER/USER`.
    fn list(&self, values: &BTreeMap<String, String>, path: &str) -> Option<String> {
        let (folder, user) = path.rsplit_once('/')?;
        let (start, end) = (format!("{folder}/"), if user.is_empty() { String::new() } else { format!("/{user}") });
        // Names in `meta` that end with a user are private ones.
        let private = |name: &str| user.is_empty() && path.starts_with("/meta/") && name.ends_with("@x.test");
        let rows = values.range(start.clone()..).take_while(|(path, _)| path.starts_with(&start));
        let rows = rows.filter_map(|(path, value)| Some((path[start.len()..].strip_suffix(&end)?, value)));
        let rows = rows.filter(|(name, _)| !name.is_empty() && !private(name));
        let quote = |name: &str| serde_json::to_string(name).expect("a JSON string");
        let with_values = self.with_values.load(Ordering::SeqCst);
        let rows: Vec<String> = match with_values {
            true => rows.map(|(name, value)| format!("{}: {value}", quote(name))).collect(),
            false => rows.map(|(name, _)| quote(name)).collect(),
        };
        let rows = Some(rows.join(", ")).filter(|rows| !rows.is_empty())?;
        Some(if with_values { format!("{{{rows}}}") } else { format!("[{rows}]") })
    }
}

/// The password grant of oauth2: the form's password is compared with that of the passdb.
fn log_in(values: &BTreeMap<String, String>, form: &str) -> Script {
    let fields: BTreeMap<&str, String> = form
        .split('&')
        .filter_map(|field| field.split_once('='))
        .map(|(name, value)| {
            let value = podop::wire::percent::decode(&value.replace('+', " "));
            (name, String::from_utf8(value).expect("UTF-8"))
        })
        .collect();
    let user = &fields["username"];
    let of_user = values.get(&format!("/auth/passdb/{user}"));
    let right =
        of_user.is_some_and(|json| serde_json::from_str::<Value>(json).unwrap()["password"] == fields["password"]);
    assert_eq!(fields["grant_type"], "password");
    response(200, &serde_json::json!({"access_token": "-", "username": user, "active": right}).to_string())
}
