//! Logins with Dovecot in every way that the manual describes: IMAP, LMTP, doveadm, and SMTP AUTH of Postfix.

use crate::dovecot::{ALICE, MESSAGE, NO_PERMISSION, NO_USER, OK, TEMPORARY, World, eventually, read_faults};
use crate::support;

use podop::wire::base64::encode;
use std::io::{BufRead, BufReader, Write};
use std::thread;
use std::time::{Duration, Instant};

use support::dovecot::Logins;
use support::http::{Then, raw, response};
use support::manual::sample;
use support::podop::{Podop, SOON};
use support::postfix::{self, Postfix};
use support::roots::Release;

/// A release of Dovecot, and how it looks up users and passwords.
type Way = (Release, Logins);

/// Makes a test of each case for every way that the manual describes.
macro_rules! in_each_way {
    ($($case:ident)*) => {$(
        mod $case {
            use super::{Logins, Release};

            #[test]
            #[ignore = "needs Debian's dovecot; tests/run installs it"]
            fn dict_of_bookworm() {
                super::$case((Release::Bookworm, Logins::Dict));
            }

            #[test]
            #[ignore = "needs Debian's dovecot with dovecot-auth-lua; tests/run installs them"]
            fn lua_of_bookworm() {
                super::$case((Release::Bookworm, Logins::Lua));
            }

            #[test]
            #[ignore = "needs a root directory with trixie; tests/run builds it"]
            fn lua_of_trixie() {
                if Release::Trixie.is_here() {
                    super::$case((Release::Trixie, Logins::Lua));
                }
            }

            #[test]
            #[ignore = "needs a root directory with trixie; tests/run builds it"]
            fn oauth2_of_trixie() {
                if Release::Trixie.is_here() {
                    super::$case((Release::Trixie, Logins::Oauth2));
                }
            }
        }
    )*};
}

in_each_way! {
    only_the_right_password_of_a_user_is_accepted
    names_and_passwords_reach_the_backend_as_they_are
    users_are_shown_and_listed
    many_logins_at_once_are_all_answered
    a_fault_is_no_wrong_password_and_no_unknown_user
    a_backend_that_hangs_is_a_temporary_failure
    a_backend_that_is_gone_is_a_temporary_failure
    an_outage_leaves_nothing_in_the_cache
}

const BOB: &str = "bob@x.test";
const NOBODY: &str = "nobody@x.test";

fn only_the_right_password_of_a_user_is_accepted((release, logins): Way) {
    let world = World::start_for(release, logins, &[], "");
    world.add_user(ALICE);
    world.store.put("/auth/userdb/alice@x.test", "{\"quota_rule\": \"*:bytes=1000000\", \"nothing\": null}");
    let right = world.doveadm(&["auth", "test", "ALICE@X.test", "secret"]);
    assert!(right.code == OK && right.out.contains("auth succeeded"), "{right:?}\n{}", world.dovecot.log());
    let reply = world.dovecot.imap().login(ALICE, "secret");
    assert!(reply.starts_with("OK"), "{reply}");
    for (user, password) in [
        (ALICE, "wrong"),
        (ALICE, "Secret"),
        (NOBODY, "secret"),
        ("../userdb/alice@x.test", "secret"),
        ("x/../alice@x.test", "secret"),
        ("..", "secret"),
    ] {
        let reply = world.doveadm(&["auth", "test", user, password]);
        assert_eq!(reply.code, NO_PERMISSION, "{reply:?}");
        assert!(reply.out.contains("auth failed") && !reply.out.contains("temp_fail"), "{reply:?}");
        let reply = world.dovecot.imap().login(user, password);
        assert!(reply.starts_with("NO [AUTHENTICATIONFAILED]"), "{user} {password}: {reply}");
    }
    for user in [NOBODY, "../passdb/alice@x.test", "..@x.test"] {
        let reply = world.dovecot.deliver(user, MESSAGE);
        assert!(reply.starts_with("550 "), "{user}: {reply}");
    }
    let reply = world.dovecot.deliver(ALICE, MESSAGE);
    assert!(reply.starts_with("250 "), "{reply}");
}

fn names_and_passwords_reach_the_backend_as_they_are((release, logins): Way) {
    let world = World::start_for(release, logins, &[], "");
    let passwords =
        ["a+b c", "100%20%u%{user}", "\"quoted\" 'single'", "back\\slash \\u0041", "../x?y=1&z=2#f", "grün€📬"];
    let users =
        ["o'neil+tag@x.test", "50%25%u@x.test", "q\"uote@x.test", "jörg@exämple.test", "a&b=c;d@x.test", "_~-.@x.test"];
    for (user, password) in users.into_iter().zip(passwords) {
        world.add_user(user);
        let json = serde_json::json!({"password": format!("{{PLAIN}}{password}")}).to_string();
        world.store.put(&format!("/auth/passdb/{user}"), &json);
        if logins == Logins::Oauth2 {
            world.store.put(&format!("/auth/passdb/{user}"), &json.replace("{PLAIN}", ""));
        }
        let reply = world.dovecot.imap().login(user, password);
        assert!(reply.starts_with("OK"), "{user} {password}: {reply}\n{}", world.dovecot.log());
        let reply = world.dovecot.imap().login(user, &format!("{password} "));
        assert!(reply.starts_with("NO [AUTHENTICATIONFAILED]"), "{user} {password}: {reply}");
    }
}

fn users_are_shown_and_listed((release, logins): Way) {
    let world = World::start_for(release, logins, &[], "");
    let user = |number: usize| format!("user{number:03}@x.test");
    for number in 0..200 {
        world.store.put(&format!("/auth/userdb/{}", user(number)), "{\"uid\": 8, \"home\": \"/nowhere\"}");
    }
    let shown = world.doveadm(&["user", "user007@x.test"]);
    assert!(shown.code == OK && shown.out.contains("home\t/nowhere\n"), "{shown:?}");
    let unknown = world.doveadm(&["user", NOBODY]);
    assert!(unknown.code == NO_USER && (unknown.out + &unknown.err).contains("doesn't exist"));
    world.store.list_with_values(true);
    let listed = world.doveadm(&["user", "*"]);
    let all: String = (0..200).map(|number| user(number) + "\n").collect();
    let mut rows: Vec<&str> = listed.out.lines().collect();
    rows.sort_unstable(); // Lua's tables keep the order of the backend; a dict does not promise it
    assert_eq!((listed.code, rows.join("\n") + "\n"), (OK, all), "{}", listed.err);
    let some = world.doveadm(&["user", "user01*"]);
    assert_eq!(some.out.lines().count(), 10);
}

fn many_logins_at_once_are_all_answered((release, logins): Way) {
    let world = World::start_for(release, logins, &[], "");
    let users: Vec<String> = (0..12).map(|number| format!("user{number}@x.test")).collect();
    users.iter().for_each(|user| world.add_user(user));
    let login = &|user: &String| {
        let reply = world.dovecot.imap().login(user, "secret");
        assert!(reply.starts_with("OK"), "{user}: {reply}");
    };
    thread::scope(|scope| {
        for user in &users {
            scope.spawn(move || login(user));
        }
    });
}

fn a_fault_is_no_wrong_password_and_no_unknown_user((release, logins): Way) {
    let world = World::start_for(release, logins, &["--timeout", "1", "--option", "auth:miss=404"], "");
    world.add_user(ALICE);
    let hanging = |reason: &str| reason.ends_with("in time"); // a case of its own, as it takes long
    for (script, reason) in read_faults().into_iter().filter(|(_, reason)| !hanging(reason)) {
        world.store.disturb(move |_| Some(script.clone()));
        logins_fail(&world, reason);
        if logins == Logins::Dict {
            world.dovecot.wait_for_log(&format!("{} {reason}", world.store.address()));
        }
    }
    world.store.disturb(|_| Some(response(500, "")));
    doveadm_fails(&world, logins);
    world.store.behave();
    eventually("another request", || world.dovecot.imap().login(ALICE, "secret").starts_with("OK").then_some(()));
    let reply = world.dovecot.imap().login(ALICE, "wrong");
    assert!(reply.starts_with("NO [AUTHENTICATIONFAILED]"), "{reply}");
}

fn a_backend_that_hangs_is_a_temporary_failure((release, logins): Way) {
    let world = World::start_for(release, logins, &["--timeout", "1"], "");
    world.add_user(ALICE);
    world.store.disturb(|_| Some(raw("", Then::Hang)));
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let reply = world.dovecot.imap().login(ALICE, "secret");
            assert!(reply.starts_with("NO [UNAVAILABLE]"), "{reply}");
        });
        scope.spawn(|| {
            let reply = world.dovecot.deliver(ALICE, MESSAGE);
            assert!(reply.starts_with("451 "), "{reply}");
        });
        scope.spawn(|| assert_eq!(world.doveadm(&["user", ALICE]).code, TEMPORARY));
    });
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

fn a_backend_that_is_gone_is_a_temporary_failure((release, logins): Way) {
    let mut world = World::start_for(release, logins, &[], "");
    world.add_user(ALICE);
    world.login(ALICE);
    assert_eq!(world.doveadm(&["user", ALICE]).code, OK);
    world.store.stop();
    // Dovecot's HTTP client waits longer after each failure, which the script prevents; oauth2 cannot.
    let rounds = if logins == Logins::Oauth2 { 1 } else { 4 };
    (0..rounds).for_each(|_| logins_fail(&world, "no backend"));
    doveadm_fails(&world, logins);
    world.store.resume();
    let back = Instant::now();
    eventually("another request", || world.dovecot.imap().login(ALICE, "secret").starts_with("OK").then_some(()));
    assert!(back.elapsed() < Duration::from_secs(4), "{:?}", back.elapsed());
    assert!(world.dovecot.deliver(ALICE, MESSAGE).starts_with("250 "));
    assert!(world.dovecot.deliver(NOBODY, MESSAGE).starts_with("550 "));
}

/// Known users, users who were created since they were looked up, and users who were looked up in the outage only.
fn an_outage_leaves_nothing_in_the_cache((release, logins): Way) {
    let config = "auth_cache_size = 1M\nauth_cache_ttl = 1s\nauth_cache_negative_ttl = 0\n";
    let world = World::start_for(release, logins, &["--option", "auth:miss=404"], config);
    if release == Release::Trixie {
        // No process has read the script yet.
        let script = world.dovecot.folder().join("podop.lua");
        let cached = std::fs::read_to_string(&script).unwrap() + &sample("cache.lua");
        std::fs::write(script, cached).unwrap();
    }
    world.add_user(ALICE);
    let new = "new@x.test";
    assert!(world.dovecot.imap().login(ALICE, "secret").starts_with("OK"));
    assert!(world.dovecot.imap().login(new, "secret").starts_with("NO [AUTHENTICATIONFAILED]"));
    assert!(world.dovecot.deliver(new, MESSAGE).starts_with("550 "));
    world.add_user(new);
    world.add_user(BOB);
    world.store.disturb(|_| Some(response(500, "")));
    thread::sleep(Duration::from_millis(2_100)); // the entries expire
    for user in [new, BOB] {
        let reply = world.dovecot.imap().login(user, "secret");
        assert!(reply.starts_with("NO [UNAVAILABLE]"), "{user}: {reply}");
        let reply = world.dovecot.deliver(user, MESSAGE);
        assert!(reply.starts_with("451 "), "{user}: {reply}");
    }
    // Dovecot knows the password that was right before.
    let reply = world.dovecot.imap().login(ALICE, "wrong");
    assert!(reply.starts_with("NO [UNAVAILABLE]"), "{reply}");
    let reply = world.dovecot.imap().login(ALICE, "secret");
    assert!(reply.starts_with("OK"), "{reply}\n{}", world.dovecot.log());
    world.store.behave();
    for user in [ALICE, new, BOB] {
        eventually("another request", || world.dovecot.imap().login(user, "secret").starts_with("OK").then_some(()));
        assert!(world.dovecot.deliver(user, MESSAGE).starts_with("250 "), "{user}");
    }
}

#[test]
#[ignore = "needs Debian's dovecot; tests/run installs it"]
fn twenty_thousand_users_are_listed_in_time() {
    let world = World::start_for(Release::Bookworm, Logins::Dict, &[], "");
    let user = |number: usize| format!("user{number:05}@x.test");
    let all: String = (0..20_000).map(|number| user(number) + "\n").collect();
    for number in 0..20_000 {
        world.store.put(&format!("/auth/userdb/{}", user(number)), "{}");
    }
    for (as_object, requests) in [(false, 20_001), (true, 1)] {
        world.store.list_with_values(as_object);
        let (start, before) = (Instant::now(), world.store.requests().len());
        assert_eq!(list_users(&world.podop), 20_000);
        let took = start.elapsed();
        eprintln!("20000 users, {requests} requests: {} ms", took.as_millis());
        assert!(took < DOVECOT_WAITS, "{took:?}");
        assert_eq!(world.store.requests().len() - before, requests);
        // Not timed: with all rows in hand, Dovecot 2.3 sometimes takes 60 s to pass them on from process to
        // process, whatever server they come from.
        let reply = world.doveadm(&["user", "*"]);
        assert_eq!((reply.code, reply.err.as_str()), (OK, ""));
        assert!(reply.out == all, "{} lines", reply.out.lines().count());
        assert_eq!(world.store.requests().len() - before, 2 * requests, "nothing is asked twice");
    }
    let some = world.doveadm(&["user", "user0001*"]);
    assert_eq!(some.out.lines().count(), 10);
}

#[test]
#[ignore = "needs Debian's dovecot; tests/run installs it"]
fn a_client_error_is_an_unknown_user_to_a_dict() {
    let world = World::start_for(Release::Bookworm, Logins::Dict, &[], "");
    world.store.disturb(|_| Some(response(403, "")));
    assert_eq!(world.doveadm(&["user", ALICE]).code, NO_USER);
    let reply = world.doveadm(&["auth", "test", ALICE, "secret"]);
    assert!(reply.code == NO_PERMISSION && !reply.out.contains("temp_fail"), "{reply:?}");
    let reply = world.dovecot.deliver(ALICE, MESSAGE);
    assert!(reply.starts_with("550 "), "{reply}");
}

/// Starts Postfix that asks Dovecot about logins, and has the backend fail; returns what Postfix says then.
fn postfix_in_an_outage(release: Release, logins: Logins) -> Option<(String, Duration)> {
    if !postfix::is_root() {
        println!("skipped: the Postfix master needs root");
        return None;
    }
    if !release.is_here() {
        return None;
    }
    let world = World::start_for(release, logins, &[], AUTH_FOR_POSTFIX);
    world.add_user(ALICE);
    let socket = format!("unix:{}/run/postfix-auth", world.dovecot.folder().display());
    let settings =
        [("smtpd_sasl_auth_enable", "yes"), ("smtpd_sasl_type", "dovecot"), ("smtpd_sasl_path", socket.as_str())];
    let postfix = Postfix::start(release, world.podop.socket(), &settings);
    let auth = |user: &str, password: &str| postfix.smtp().command(&plain(user, password));
    let reply = auth(ALICE, "secret");
    assert!(reply.starts_with("235 "), "{reply}\n{}{}", postfix.log(), world.dovecot.log());
    for (user, password) in [(ALICE, "wrong"), (NOBODY, "secret")] {
        let reply = auth(user, password);
        assert!(reply.starts_with("535 "), "{reply}");
    }
    world.store.disturb(|_| Some(response(500, "")));
    let start = Instant::now();
    let replies = thread::scope(|scope| {
        let waiting = [ALICE, NOBODY].map(|user| scope.spawn(move || auth(user, "secret")));
        logins_fail(&world, "while Postfix waits");
        waiting.map(|one| one.join().expect("a reply"))
    });
    let took = start.elapsed();
    assert_eq!(replies[0], replies[1]);
    world.store.behave();
    let reply = auth(ALICE, "secret");
    assert!(reply.starts_with("235 "), "{reply}");
    let [reply, _] = replies;
    Some((reply, took))
}

/// Postfix waits 10 s, and the manual's setting delays Dovecot's answer for longer.
fn postfix_says_454(logins: Logins) {
    let Some((reply, took)) = postfix_in_an_outage(Release::Trixie, logins) else { return };
    assert!(reply.starts_with("454 4.7.0 "), "{reply}");
    assert!(took < Duration::from_secs(11), "{took:?}");
}

#[test]
#[ignore = "needs a root directory with trixie; tests/run builds it"]
fn postfix_says_454_in_an_outage_of_lua() {
    postfix_says_454(Logins::Lua);
}

#[test]
#[ignore = "needs a root directory with trixie; tests/run builds it"]
fn postfix_says_454_in_an_outage_of_oauth2() {
    postfix_says_454(Logins::Oauth2);
}

/// The manual warns of it: Dovecot 2.3 has no such setting.
#[test]
#[ignore = "needs Debian's postfix and dovecot; tests/run installs them"]
fn postfix_says_535_in_an_outage_with_dovecot_2_3() {
    let Some((reply, _)) = postfix_in_an_outage(Release::Bookworm, Logins::Dict) else { return };
    assert!(reply.starts_with("535 5.7.8 "), "{reply}");
}

/// The socket for Postfix, which Debian's dovecot.conf has as a comment.
const AUTH_FOR_POSTFIX: &str = "
service auth {
  unix_listener postfix-auth {
    mode = 0666
  }
}
";

/// Dovecot 2.3 repeats or gives up what has no answer after this time.
const DOVECOT_WAITS: Duration = Duration::from_secs(30);

/// Asks for all users as Dovecot does, and counts the rows.
fn list_users(podop: &Podop) -> usize {
    let mut stream = podop.connect();
    stream.write_all(b"H3\t2\t0\t\tauth\nI0\t0\tshared/userdb/\t*\n").unwrap();
    let lines = BufReader::new(stream).lines().map(|line| line.expect("a row"));
    lines.take_while(|line| !line.is_empty()).filter(|row| row.starts_with("Oshared/userdb/user")).count()
}

fn plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", encode(format!("\0{user}\0{password}").as_bytes()))
}

/// Logins and deliveries get a temporary failure, whoever the user is.
fn logins_fail(world: &World, reason: &str) {
    let start = Instant::now();
    for user in [ALICE, NOBODY] {
        let reply = world.dovecot.imap().login(user, "secret");
        assert!(reply.starts_with("NO [UNAVAILABLE]"), "{reason}: {reply}\n{}", world.dovecot.log());
        let reply = world.dovecot.deliver(user, MESSAGE);
        assert!(reply.starts_with("451 "), "{reason}: {reply}\n{}", world.dovecot.log());
    }
    assert!(start.elapsed() < 2 * SOON, "{reason}: {:?}", start.elapsed());
}

/// doveadm says that the failure is temporary.
fn doveadm_fails(world: &World, logins: Logins) {
    let reply = world.doveadm(&["auth", "test", ALICE, "secret"]);
    // 2.3 has no exit code of its own for it.
    let code = if world.release == Release::Bookworm { NO_PERMISSION } else { TEMPORARY };
    assert!(reply.code == code && reply.out.contains("code=temp_fail"), "{reply:?}");
    if logins != Logins::Oauth2 {
        assert_eq!(world.doveadm(&["auth", "lookup", ALICE]).code, TEMPORARY);
    }
    assert_eq!(world.doveadm(&["user", ALICE]).code, TEMPORARY);
    assert_eq!(world.doveadm(&["user", "*"]).code, TEMPORARY);
}
