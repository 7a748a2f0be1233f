//! What is fuzzed: each codec, and the engine with everything around it. A target panics on what must not be.
#![allow(dead_code)] // each program runs one of them

use crate::support::world::{MS, World};
use podop::client::{Client, Event, Reply};
use podop::config::Mode;
use podop::io::{End, Peer};
use podop::query::{Decision, Query, Tokens};
use podop::value::stream::{Item, MemberReader};
use podop::value::{self, Members, Value};
use podop::wire::{
    date as dates, dict as lines, dns as messages, http as responses, netstring as frames, percent as percents,
};
use std::io::ErrorKind;

/// The first byte says how the rest is cut: the frames must not depend on it.
pub fn netstring(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else { return };
    let read = |step: usize| {
        let (mut held, mut payloads) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            held.extend_from_slice(piece);
            loop {
                match frames::decode(&held, 1000) {
                    Ok(None) => break,
                    Ok(Some((payload, used))) => {
                        assert!(payload.len() <= 1000 && used <= held.len());
                        payloads.push(payload.to_vec());
                        held.drain(..used);
                    }
                    Err(error) => return (payloads, Some(error)),
                }
            }
        }
        (payloads, None)
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(read(usize::from(*step).max(1)), whole);
    // What is too long to be decoded has a length all the same.
    match (frames::decode(bytes, 10), frames::length(bytes, 1000)) {
        (Ok(Some((payload, used))), length) => assert_eq!(length, Ok(Some((payload.len(), used - payload.len() - 1)))),
        (Err(frames::Error::TooLong), Ok(Some((length, start)))) => assert!(length > 10 && bytes[start - 1] == b':'),
        (_, _) => {}
    }
    for payload in whole.0 {
        let mut out = Vec::new();
        frames::encode(&[&payload], &mut out);
        assert_eq!(frames::decode(&out, 1000), Ok(Some((&payload[..], out.len()))));
    }
}

/// Messages of name servers: they are read without harm, and whatever they say, a lookup has one reply.
pub fn dns(data: &[u8]) {
    let _ = messages::Message::parse(data);
    let table = ["--name", "alias", "--type", "mx", "--param", "mx.example.net"];
    let mut world = World::new(&[&table[..], &["--option", "alias:resolver=192.0.2.1,192.0.2.2"]].concat());
    let client = world.lookup("d.example");
    // Parts with lengths in front: what follows the question, or a whole message.
    let mut rest = data;
    while let [length, tail @ ..] = rest {
        let (part, left) = tail.split_at((usize::from(*length) * 4).min(tail.len()));
        rest = left;
        let Some(asked) = world.datagrams.pop_front() else { break };
        let message = match part {
            [1, raw @ ..] => raw.to_vec(),
            [_, flags, answers, authority, raw @ ..] => {
                // Without EDNS, if there is any.
                let end = asked.bytes.len() - usize::from(asked.bytes[11]) * 11;
                let mut message = asked.bytes[..end].to_vec();
                message[3] = *flags;
                (message[2], message[7], message[9], message[11]) = (0x81, *answers, *authority, 0);
                [&message, raw].concat()
            }
            _ => part.to_vec(),
        };
        world.datagram(asked.from, &message);
        world.wait(100 * MS);
    }
    world.wait(30_000 * MS);
    let reply = world.taken(client);
    assert!(reply.ends_with(',') && reply.matches(' ').count() >= 1, "{reply}");
    world.wait(30_000 * MS);
    assert_eq!(world.taken(client), "", "one reply");
    assert!(world.name_servers.len() <= 2);
}

/// Output of a process, cut as the first byte says: a lookup and a list have one reply each, which does not depend on that.
pub fn program(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else { return };
    let run = |step: usize| {
        let table = ["--name", "alias", "--type", "program", "--param", "cat", "--option", "alias:processes=1"];
        let mut world = World::new(&[&table[..], &["--option", "alias:pipeline=2"]].concat());
        let lookup = world.lookup("k");
        let dict = world.client(Mode::Dovecot);
        world.send(dict, b"H4\t0\t0\t\talias\nI8\t0\tshared/\n");
        world.taken(dict);
        // What was sent before a line that answers nothing has been answered; the rest is asked of another process.
        for _ in 0..3 {
            let Some(process) = world.processes.first().copied() else { break };
            bytes.chunks(step).for_each(|part| world.send(process, part));
            if world.signals.drain(..).count() > 0 {
                world.exit(process, "was ended by signal 9");
            }
            world.wait(2_000 * MS);
        }
        world.wait(30_000 * MS);
        (world.taken(lookup), world.taken(dict))
    };
    let (reply, list) = run(bytes.len().max(1));
    assert!(reply.ends_with(',') && reply.contains(' '), "{reply}");
    assert!(
        list.ends_with("\n\n") || list == "\n" || list.lines().last().is_some_and(|line| line.starts_with('F')),
        "{list}"
    );
    // Which of two faults comes first may depend on the cuts, but not whether there is one.
    let kind = |text: &str| {
        text.split_inclusive("program:alias").next().unwrap_or_default().trim_start_matches(char::is_numeric).to_owned()
    };
    let (cut_reply, cut_list) = run(usize::from(*step).max(1));
    assert_eq!((kind(&cut_reply), kind(&cut_list)), (kind(&reply), kind(&list)));
}

/// Requests for decisions: they do not depend on how they are cut, and are JSON objects of strings.
pub fn policy(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else { return };
    let read = |step: usize| {
        let (mut client, mut held, mut asked) =
            (Client::new(Mode::Policy("policy"), Tokens::default()), Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            held.extend_from_slice(piece);
            loop {
                match client.next(&held) {
                    Ok(None) => break,
                    Ok(Some((Event::Request { query: Query::Ask(ask), .. }, used))) => {
                        asked.push((ask.key, ask.json.to_vec()));
                        held.drain(..used);
                    }
                    Ok(Some((event, _))) => panic!("{event:?}"),
                    Err(error) => return (asked, Some(error)),
                }
            }
        }
        (asked, None)
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(read(usize::from(*step).max(1)), whole);
    for (key, json) in whole.0 {
        let Ok(Value::Object(object)) = Value::parse(&json) else { panic!("{}", json.escape_ascii()) };
        assert_eq!(Value::Object(object).select("/request"), Ok(Value::Text(b"smtpd_access_policy".into())));
        assert!(key.len() < 65_536);
    }
}

/// Logins: they do not depend on how they are cut, and are JSON objects with a name.
pub fn sasl(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else { return };
    let tokens = Tokens { xoauth2: true, oauthbearer: true };
    let read = |step: usize| {
        let (mut client, mut held, mut asked) = (Client::new(Mode::Sasl("login"), tokens), Vec::new(), Vec::new());
        let hello = client.output.unsent().len();
        client.output.advance(hello); // it differs each time
        let error = 'all: {
            for piece in bytes.chunks(step) {
                held.extend_from_slice(piece);
                loop {
                    let used = match client.next(&held) {
                        Ok(None) => break,
                        Ok(Some((Event::Request { seq, query: Query::Ask(ask), .. }, used))) => {
                            asked.push((ask.key, ask.json.to_vec()));
                            client.reply(seq, "login", Reply::Decided(Some(Decision::No(None))));
                            used
                        }
                        Ok(Some((Event::Nothing, used))) => used,
                        Ok(Some((event, _))) => panic!("{event:?}"),
                        Err(error) => break 'all Some(error),
                    };
                    held.drain(..used);
                }
            }
            None
        };
        (asked, error, client.output.unsent().to_vec())
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(read(usize::from(*step).max(1)), whole);
    for (key, json) in whole.0 {
        let Ok(Value::Object(object)) = Value::parse(&json) else { panic!("{}", json.escape_ascii()) };
        assert_eq!(Value::Object(object).select("/username"), Ok(Value::Text(key.into())));
    }
}

/// Lines, however they are cut, and escapes.
pub fn dict(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some(end)) = lines::line(rest, 0, 1 << 20) {
        let _ = lines::parse(&rest[..end]);
        assert_eq!(lines::line(rest, end, 1 << 20), Ok(Some(end)), "it depends on what was searched before");
        rest = &rest[end + 1..];
    }
    let mut out = Vec::new();
    lines::escape(data, &mut out);
    assert!(!out.contains(&b'\n') && !out.contains(&b'\t'));
    assert_eq!(lines::unescape(&out), data);
}

/// The first byte says how the rest is cut: the responses must not depend on it.
pub fn http(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else { return };
    let read = |step: usize| {
        let (mut decoder, mut got) = (responses::Decoder::default(), Vec::new());
        for mut piece in bytes.chunks(step) {
            while !piece.is_empty() {
                match decoder.push(&mut piece) {
                    Ok(Some(one)) => {
                        got.push(Ok((one.status, one.keep_alive, one.extra_headers, one.body.into_owned())))
                    }
                    Ok(None) => assert!(piece.is_empty(), "bytes were left over"),
                    Err(error) => {
                        got.push(Err(error));
                        return got;
                    }
                }
            }
        }
        match decoder.end() {
            Ok(Some(one)) => got.push(Ok((one.status, one.keep_alive, one.extra_headers, one.body.into_owned()))),
            Ok(None) => {}
            Err(error) => got.push(Err(error)),
        }
        got
    };
    let (whole, cut) = (read(bytes.len().max(1)), read(usize::from(*step).max(1)));
    assert_eq!(whole.len(), cut.len());
    for (one, other) in whole.iter().zip(&cut) {
        // Which error it is may depend on what was seen first.
        assert!(one == other || (one.is_err() && other.is_err()), "{one:?} is not {other:?}");
    }
}

/// Whatever is called JSON can be rendered, taken apart, and read again.
pub fn value(data: &[u8]) {
    if let Some(json) = value::to_json(data) {
        assert!(Value::parse(&json).is_ok() || value::to_json(data).is_some_and(|json| *json == *data));
    }
    let Ok(parsed) = Value::parse(data) else { return };
    let _ = parsed.for_postfix();
    match &parsed {
        Value::Array(raw) => {
            let mut members = Members::new();
            while let Some(item) = members.next_item(raw) {
                let _ = value::member(item);
            }
        }
        Value::Object(raw) => {
            let mut members = Members::new();
            while let Ok(Some((_, item))) = members.next(raw) {
                let _ = value::member(item);
            }
        }
        Value::Null | Value::Text(_) | Value::Scalar(_) => {}
    }
    if let (Value::Array(_) | Value::Object(_), Ok(Some(text))) = (&parsed, parsed.for_dovecot()) {
        let again = Value::parse(&text).expect("compact JSON is JSON");
        assert_eq!(again.for_dovecot().unwrap().as_deref(), Some(&text[..]));
    }
    let _ = parsed.select("/0/a/b~1c");
}

/// The first byte says how the rest is cut: the members of a list must not depend on it, and are those of the whole.
pub fn list(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else { return };
    let read = |step: usize| {
        let (mut reader, mut members, mut ended) = (MemberReader::default(), Vec::new(), false);
        for piece in bytes.chunks(step) {
            reader.push(piece);
            loop {
                match reader.next_item() {
                    Ok(Item::Element(raw)) => members.push((Vec::new(), raw.to_owned())),
                    Ok(Item::Member(name, raw)) => members.push((name.into_owned(), raw.to_owned())),
                    Ok(Item::Incomplete) => break,
                    Ok(Item::End) => {
                        ended = true;
                        break;
                    }
                    Err(error) => return (members, Err(error)),
                }
            }
        }
        (members, Ok(ended))
    };
    let (members, ended) = read(bytes.len().max(1));
    assert_eq!(read(usize::from(*step).max(1)), (members.clone(), ended));
    let mut expected = Vec::new();
    match Value::parse(bytes) {
        Ok(Value::Array(raw)) => {
            let mut items = Members::new();
            while let Some(item) = items.next_item(&raw) {
                expected.push((Vec::new(), item.to_owned()));
            }
        }
        Ok(Value::Object(raw)) => {
            let mut items = Members::new();
            while let Ok(Some((name, value))) = items.next(&raw) {
                expected.push((name.into_owned(), value.to_owned()));
            }
            // A name that cannot be decoded ends both.
            if ended.is_err() {
                assert_eq!(members, expected);
                return;
            }
        }
        Ok(Value::Null) => {} // has no members
        _ => return assert!(ended != Ok(true), "what is no list was read as one"),
    }
    assert_eq!((members, ended), (expected, Ok(true)));
}

/// What is encoded is safe in a URL, and is the key.
pub fn percent(data: &[u8]) {
    for part in [percents::Component::Path, percents::Component::Query] {
        let mut out = Vec::new();
        percents::encode(data, part, &mut out);
        let text = String::from_utf8(out).expect("ASCII");
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%_.-~/".contains(&byte)));
        assert_eq!(percents::decode(&text), data);
    }
}

/// A date is one in any case, and none before 1970 or after the year 9999.
pub fn date(data: &[u8]) {
    let date = dates::parse(data);
    assert_eq!(dates::parse(&data.to_ascii_uppercase()), date);
    assert!(date.is_none_or(|seconds| seconds <= 253_402_300_800 && data.len() >= 24));
}

/// The bytes are a script: which side sends what, disconnects or answers, and how much time passes.
pub fn engine(data: &[u8]) {
    let mut world = World::with_alias(&["--timeout", "3", "--option", "alias:connections=2"]);
    let (mut clients, mut backends): (Vec<Peer>, Vec<Peer>) = (Vec::new(), Vec::new());
    let mut rest = data;
    while let [op, many, tail @ ..] = rest {
        let (bytes, tail) = tail.split_at(usize::from(*many).min(tail.len()));
        rest = tail;
        let chosen = usize::from(*op >> 4);
        match op & 15 {
            0 => clients.push(world.client(Mode::Auto)),
            1..=3 => send(&mut world, &clients, chosen, bytes),
            // What no script of 4 KiB can hold.
            4 => send(
                &mut world,
                &clients,
                chosen,
                &vec![bytes.first().copied().unwrap_or(b'k'); 257 * usize::from(*many)],
            ),
            5 | 6 if !world.connecting.is_empty() => backends.push(world.accept()),
            7 if !world.connecting.is_empty() => world.refuse(),
            5..=7 => {}
            8..=10 => send(&mut world, &backends, chosen, bytes),
            11 => {
                if let Some(peer) = at(&clients, chosen) {
                    let end = if bytes.is_empty() { End::HalfClosed } else { End::Closed(None) };
                    world.end(peer, end);
                }
            }
            12 => {
                if let Some(peer) = at(&backends, chosen) {
                    let reset = End::Closed(Some(ErrorKind::ConnectionReset));
                    world.end(peer, if bytes.is_empty() { End::HalfClosed } else { reset });
                }
            }
            13 => {
                if let Some(peer) = at(&clients, chosen) {
                    world.block(peer, bytes.is_empty());
                }
            }
            _ => world.wait(u32::from(*many) * 10 * MS),
        }
    }
    for peer in clients {
        world.end(peer, End::Closed(None));
    }
    while !world.connecting.is_empty() {
        world.refuse();
    }
    world.wait(1000 * 1000 * MS);
    assert!(world.engine.is_drained(), "something is left over");
    assert_eq!(world.engine.deadline(), None, "something is left over");
}

fn at(peers: &[Peer], chosen: usize) -> Option<Peer> {
    peers.get(chosen.checked_rem(peers.len())?).copied()
}

fn send(world: &mut World, peers: &[Peer], chosen: usize, bytes: &[u8]) {
    if let Some(peer) = at(peers, chosen) {
        world.send(peer, bytes);
    }
}
