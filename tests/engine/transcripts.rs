//! The recorded requests of real Postfix and Dovecot clients, however they are split, are answered with
//! what those clients accepted.

use crate::support;

use podop::config::Mode;
use std::collections::{BTreeMap, VecDeque};
use support::world::{SECOND, World, response};

/// How the bytes of a connection are cut: all at once, one by one, and odd pieces.
const SPLITS: [usize; 4] = [usize::MAX, 1, 2, 7];

#[test]
fn postfix_gets_every_reply_that_a_correct_server_could_give() {
    let mut compared = 0;
    for file in ["3.7-postmap", "3.10-postmap", "3.7-limits", "3.7-smtp", "3.7-mailu", "3.7-chroot"] {
        for dialogue in dialogues(&format!("postfix-{file}.txt")) {
            let (requests, replies) = (frames(&dialogue.sent), frames(&dialogue.answered));
            if requests.len() != replies.len() {
                continue; // malformed on purpose
            }
            let pairs = requests.into_iter().zip(replies);
            let fit = |(request, reply): &(Vec<u8>, Vec<u8>)| !name(request).is_empty() && is_possible(reply);
            let (requests, replies): (Vec<_>, Vec<_>) = pairs.filter(fit).unzip();
            let mut sent = Vec::new();
            requests.iter().for_each(|request| podop::wire::netstring::encode(&[request], &mut sent));
            for split in SPLITS {
                let got = ask_postfix(&requests, &replies, &sent, split);
                for (got, recorded) in got.iter().zip(&replies) {
                    assert_eq!(word(got), word(recorded), "{file}: {}", sent.escape_ascii());
                    if !matches!(word(recorded), "TEMP" | "TIMEOUT") {
                        assert_eq!(got, recorded, "{file}: {}", sent.escape_ascii());
                    }
                }
                assert_eq!(got.len(), replies.len());
            }
            compared += replies.len();
        }
    }
    assert!(compared > 200, "only {compared} replies were compared");
}

#[test]
fn dovecot_gets_what_the_recorded_one_accepted() {
    let mut compared = 0;
    let files = ["acl", "delivery", "doveadm", "errors", "imap"];
    let names = ["2.3", "2.4"].iter().flat_map(|version| files.map(|file| format!("dovecot-{version}-{file}.txt")));
    for name in names.chain(["dovecot-2.3-auth.txt".into(), "dovecot-2.3-quotadict.txt".into()]) {
        for dialogue in dialogues(&name) {
            let Some(script) = Script::new(&dialogue) else { continue };
            for split in SPLITS {
                let got = ask_dovecot(&script, &dialogue.sent, split);
                assert_eq!(got, script.expected, "{name}: {}", dialogue.sent.escape_ascii());
            }
            compared += script.answers.len();
        }
    }
    assert!(compared > 150, "only {compared} replies were compared");
}

/// All bytes of one connection, each way.
#[derive(Default)]
struct Dialogue {
    sent: Vec<u8>,
    answered: Vec<u8>,
}

fn dialogues(name: &str) -> Vec<Dialogue> {
    let text = std::fs::read_to_string(format!("tests/data/transcripts/{name}")).expect("a transcript");
    let mut dialogues: BTreeMap<&str, Dialogue> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (connection, rest) = line.split_once(' ').expect("a connection");
        let (direction, bytes) = rest.split_once(' ').expect("a direction");
        let dialogue = dialogues.entry(connection).or_default();
        let side = if direction == ">" { &mut dialogue.sent } else { &mut dialogue.answered };
        side.extend(unescape(bytes));
    }
    dialogues.into_values().collect()
}

/// Bytes in C style, between quotes.
fn unescape(quoted: &str) -> Vec<u8> {
    let text = quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).expect("quoted bytes");
    let (mut bytes, mut out) = (text.bytes(), Vec::new());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next().expect("an escape") {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digit = |byte: Option<u8>| char::from(byte.expect("a digit")).to_digit(16).expect("hex") as u8;
                    16 * digit(bytes.next()) + digit(bytes.next())
                }
                other => other,
            },
            byte => byte,
        });
    }
    out
}

fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Ok(Some((payload, used))) = podop::wire::netstring::decode(bytes, 200_000) {
        frames.push(payload.to_vec());
        bytes = &bytes[used..];
    }
    if bytes.is_empty() { frames } else { Vec::new() }
}

/// True for a reply that Podop could give as well.
fn is_possible(reply: &[u8]) -> bool {
    let utf8 = std::str::from_utf8(reply).is_ok_and(|text| !text.contains('\0'));
    let found = reply.starts_with(b"OK ") && utf8;
    found || reply == b"NOTFOUND " || reply.starts_with(b"TEMP ") || reply.starts_with(b"TIMEOUT ")
}

fn word(reply: &[u8]) -> &str {
    std::str::from_utf8(reply.split(|byte| *byte == b' ').next().unwrap_or_default()).expect("a word")
}

/// Plays a recorded connection against a backend that knows what was answered then.
fn ask_postfix(requests: &[Vec<u8>], replies: &[Vec<u8>], sent: &[u8], split: usize) -> Vec<Vec<u8>> {
    let mut tables: Vec<&[u8]> = requests.iter().map(|request| name(request)).collect();
    tables.sort();
    tables.dedup();
    let tables: Vec<&str> = tables.into_iter().map(|table| std::str::from_utf8(table).expect("a name")).collect();
    let mut world = world(&tables);
    let client = world.client(Mode::Auto);
    let mut script: Vec<(&Vec<u8>, &Vec<u8>)> = requests.iter().zip(replies).collect();
    let mut got = Vec::new();
    for piece in sent.chunks(split.min(sent.len().max(1))) {
        world.send(client, piece);
        let mut silent = false;
        world.serve(|_, target, _| {
            // Requests in flight together come in any order.
            let request_key = podop::wire::percent::decode(&target[1..].replacen('/', "%20", 1));
            let at = script.iter().position(|(request, _)| **request == request_key).expect("a recorded request");
            let (_, reply) = script.remove(at);
            silent = reply.starts_with(b"TIMEOUT");
            Some(if silent { Vec::new() } else { from_reply(reply) })
        });
        if silent {
            world.wait(20 * SECOND);
        }
        got.extend_from_slice(world.taken(client).as_bytes());
    }
    frames(&got)
}

fn name(request: &[u8]) -> &[u8] {
    request.split(|byte| *byte == b' ').next().unwrap_or_default()
}

fn world(tables: &[&str]) -> World {
    let mut args = vec!["--option".to_owned(), "*:expire=X-Expires-In".to_owned()];
    for table in tables {
        let param = format!("http://192.0.2.1/{table}/§");
        args.extend(["--name", table, "--type", "url", "--param"].map(str::to_owned));
        args.push(param);
    }
    World::new(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The response that makes Podop give a recorded reply.
fn from_reply(reply: &[u8]) -> Vec<u8> {
    match reply.strip_prefix(b"OK ") {
        Some(value) => response(200, &String::from_utf8_lossy(&podop::value::quote(value))),
        None if reply.starts_with(b"NOTFOUND") => response(404, "null"),
        None => response(503, "down"),
    }
}

/// The responses of a backend that lead to the replies of a recorded connection, and those replies.
struct Script {
    /// For each command that is answered.
    answers: Vec<Answer>,
    tables: Vec<String>,
    expected: String,
}

#[derive(Clone, Debug)]
enum Answer {
    Value(String),
    Miss,
    Fault,
    /// The connection breaks after the request.
    Uncertain,
    /// To this many writes.
    Written(usize),
    NotThere,
    Rows(String),
}

impl Script {
    /// `None` for replies that only a broken server gives, or that Podop has no way to give.
    fn new(dialogue: &Dialogue) -> Option<Script> {
        let mut replies: VecDeque<&[u8]> = dialogue.answered.split(|byte| *byte == b'\n').collect();
        if replies.pop_back() != Some(b"") {
            return None;
        }
        let (mut answers, mut tables, mut expected, mut writes) = (Vec::new(), Vec::new(), String::new(), 0);
        for line in dialogue.sent.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let fields: Vec<&[u8]> = line[1..].split(|byte| *byte == b'\t').collect();
            match line[0] {
                b'H' => tables.push(String::from_utf8_lossy(fields[4]).into_owned()),
                b'S' | b'U' | b'A' => writes += 1,
                b'R' => writes = 0,
                b'L' | b'C' | b'D' => {
                    let reply = std::str::from_utf8(replies.pop_front()?).ok()?;
                    let written = std::mem::take(&mut writes);
                    // Recorded when Podop still sent a value that Dovecot cuts.
                    let is_cut = line[0] == b'L' && reply.starts_with('O') && plain(reply).contains('\0');
                    let reply = if is_cut { "Fcut" } else { reply };
                    answers.push(match (line[0], reply.split_at_checked(1)?) {
                        (b'L', ("O", value)) if !value.contains('\t') => Answer::Value(plain(value)),
                        (b'L', ("N", "")) => Answer::Miss,
                        (b'C' | b'D', ("O", id)) if id.as_bytes() == fields[0] => Answer::Written(written),
                        (b'C' | b'D', ("N", id)) if id.as_bytes() == fields[0] && line_has_increment(dialogue) => {
                            Answer::NotThere
                        }
                        (b'C' | b'D', ("W", id)) if id.contains('\t') => Answer::Uncertain,
                        (_, ("F", text)) if !text.is_empty() && (line[0] == b'L' || text.contains('\t')) => {
                            Answer::Fault
                        }
                        _ => return None,
                    });
                    expected += &shape(reply);
                }
                b'I' => {
                    let (mut rows, path) = (Vec::new(), String::from_utf8_lossy(fields[2]).into_owned());
                    loop {
                        let reply = std::str::from_utf8(replies.pop_front()?).ok()?;
                        expected += &shape(reply);
                        if reply.is_empty() {
                            break;
                        }
                        let (name, value) = reply.strip_prefix('O')?.split_once('\t')?;
                        if value.contains('\t') || fields[0] == b"16" {
                            return None; // several values, or a lookup in disguise
                        }
                        let name = name.strip_prefix(&path)?.trim_start_matches('/');
                        let text = |text: &str| {
                            String::from_utf8_lossy(&podop::value::quote(plain(text).as_bytes())).into_owned()
                        };
                        rows.push(format!("{}:{}", text(name), text(value)));
                    }
                    answers.push(Answer::Rows(format!("{{{}}}", rows.join(","))));
                }
                _ => {}
            }
        }
        replies.is_empty().then_some(Script { answers, tables, expected })
    }
}

fn line_has_increment(dialogue: &Dialogue) -> bool {
    dialogue.sent.split(|byte| *byte == b'\n').any(|line| line.first() == Some(&b'A'))
}

/// A field without the escapes of the protocol.
fn plain(field: &str) -> String {
    String::from_utf8_lossy(&podop::wire::dict::unescape(field.as_bytes())).into_owned()
}

/// A reply line without its reason, which is Podop's own.
fn shape(reply: &str) -> String {
    match reply.split_at_checked(1) {
        Some(("F" | "W", rest)) => {
            let id = rest.split_once('\t').map(|(id, _)| id).filter(|id| id.parse::<u32>().is_ok());
            format!("{}{}\n", &reply[..1], id.unwrap_or_default())
        }
        _ => format!("{reply}\n"),
    }
}

/// Plays a recorded connection; the replies, as [`shape`] shows them.
fn ask_dovecot(script: &Script, sent: &[u8], split: usize) -> String {
    let mut world = world(&script.tables.iter().map(String::as_str).collect::<Vec<_>>());
    let client = world.client(Mode::Auto);
    let (mut got, mut answers) = (String::new(), VecDeque::from(script.answers.clone()));
    for piece in sent.chunks(split.min(sent.len().max(1))) {
        world.send(client, piece);
        world.serve(|method, _, _| {
            while matches!(answers.front(), Some(Answer::Written(0))) {
                answers.pop_front(); // an empty transaction asks nobody
            }
            match (method, answers.front_mut().expect("an answer for each request")) {
                ("GET", Answer::Rows(_) | Answer::Value(_) | Answer::Miss | Answer::Fault) => {}
                ("POST" | "PATCH", Answer::Written(left)) if *left > 1 => {
                    *left -= 1;
                    return Some(response(200, ""));
                }
                ("POST" | "PATCH", Answer::Written(_) | Answer::NotThere | Answer::Fault | Answer::Uncertain) => {}
                other => panic!("{other:?}"),
            }
            match answers.pop_front() {
                Some(Answer::Value(text)) => {
                    Some(response(200, &String::from_utf8_lossy(&podop::value::quote(text.as_bytes()))))
                }
                Some(Answer::Rows(rows)) => Some(response(200, &rows)),
                Some(Answer::Written(_)) => Some(response(204, "")),
                Some(Answer::Miss | Answer::NotThere) => Some(response(404, "")),
                Some(Answer::Fault) => Some(response(503, "")),
                Some(Answer::Uncertain) | None => None,
            }
        });
        got += &world.taken(client);
    }
    got.split_inclusive('\n').map(|line| shape(line.trim_end_matches('\n'))).collect()
}
