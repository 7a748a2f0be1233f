//! Postfix socketmap: `NAME SPACE KEY` in a netstring, answered by one of five words (socketmap_table(5),
//! dict_sockmap.c).

use super::message::{Event, MAX_KEY, MAX_REQUEST, ProtocolError, Reply};
use super::replies::{Part, Replies};
use crate::buffer::Output;
use crate::query::{Answer, Failure, FailureKind, Query};
use crate::wire::netstring::{self, Error};

/// Maximum length of a reply in bytes, including the status word (`socketmap_max_reply_size`, dict_sockmap.c).
const MAX_REPLY: usize = 100_000;

/// The longest request that is answered, in bytes. What is beyond [`MAX_REQUEST`] is skipped.
// A line of header_checks is as long as Postfix lets a header be, and a closed connection would defer its mail forever.
const MAX_SKIPPED: usize = 16 * 1024 * 1024;

/// Bytes at the front of a skipped request among which the name of the table must end.
const MAX_NAME: usize = MAX_REQUEST - MAX_KEY;

/// The state of a socketmap connection.
#[derive(Debug, Default)]
pub(super) struct SocketmapSession {
    /// Boxed, because there may be ten thousand connections and nearly none ever skips.
    skipped: Option<Box<Skipped>>,
}

/// A request that is too long to be buffered.
#[derive(Debug)]
struct Skipped {
    /// The name of the table, if there was one.
    table: Option<Vec<u8>>,
    /// Bytes of the payload that have not arrived.
    missing: usize,
}

impl SocketmapSession {
    /// Whether a part of a skipped request is still to come.
    pub(super) fn is_skipping(&self) -> bool {
        self.skipped.is_some()
    }

    /// Decodes the next request and returns it with its length in bytes; `None` if it is incomplete. A part of a request
    /// that is skipped is returned as [`Event::Nothing`].
    pub(super) fn next<'a>(
        &mut self,
        input: &'a [u8],
        replies: &mut Replies,
        output: &mut Output,
    ) -> Result<Option<(Event<'a>, usize)>, ProtocolError> {
        if self.skipped.is_some() {
            return self.skip(input, replies, output).map_err(ProtocolError::Netstring);
        }
        let (request, used) = match netstring::decode(input, MAX_REQUEST) {
            Ok(Some(decoded)) => decoded,
            Ok(None) => return Ok(None),
            Err(Error::TooLong) => return self.begin_skip(input).map_err(ProtocolError::Netstring),
            Err(error) => return Err(ProtocolError::Netstring(error)),
        };
        let seq = replies.enter();
        let event = match request.iter().position(|byte| *byte == b' ') {
            Some(at) => {
                let (table, key) = (&request[..at], &request[at + 1..]);
                if key.len() > MAX_KEY {
                    Event::LongKey { seq, table: table.to_vec() }
                } else {
                    Event::Request { seq, table: Some(table), query: Query::Get(key.into()) }
                }
            }
            None => refuse(seq, replies, output),
        };
        Ok(Some((event, used)))
    }

    /// Begins to skip the request at the front of `input`, once the name of its table has arrived.
    fn begin_skip<'a>(&mut self, input: &[u8]) -> Result<Option<(Event<'a>, usize)>, Error> {
        let Some((missing, start)) = netstring::length(input, MAX_SKIPPED)? else { return Ok(None) };
        let Some(front) = input[start..].get(..MAX_NAME) else { return Ok(None) };
        let table = front.iter().position(|byte| *byte == b' ').map(|at| front[..at].to_vec());
        self.skipped = Some(Box::new(Skipped { table, missing }));
        Ok(Some((Event::Nothing, start)))
    }

    /// Skips what has arrived of a request. It is answered at its end, as it may still be malformed.
    fn skip<'a>(
        &mut self,
        input: &[u8],
        replies: &mut Replies,
        output: &mut Output,
    ) -> Result<Option<(Event<'a>, usize)>, Error> {
        let Some(skipped) = &mut self.skipped else { return Ok(None) };
        if skipped.missing > 0 {
            let count = skipped.missing.min(input.len());
            skipped.missing -= count;
            return Ok(Some((Event::Nothing, count)));
        }
        if input.first() != Some(&b',') {
            return Err(Error::Terminator);
        }
        let seq = replies.enter();
        let event = match self.skipped.take().and_then(|skipped| skipped.table) {
            Some(table) => Event::LongKey { seq, table },
            None => refuse(seq, replies, output),
        };
        Ok(Some((event, 1)))
    }
}

/// Answers a request without a space.
fn refuse<'a>(seq: u64, replies: &mut Replies, output: &mut Output) -> Event<'a> {
    // The only use of PERM: Postfix reports it as a configuration error and stops retrying, which no fault of a backend
    // should cause.
    let failure = Failure::new(FailureKind::Permanent, format_args!("request without a space after the map name"));
    replies.write(seq, Part::Last, output.writer(), |out| encode(&failure, out));
    Event::Nothing
}

/// Encodes the reply to the request with the sequence number `seq`. Reasons name `table`.
pub(super) fn reply(seq: u64, table: &str, reply: Reply<'_>, replies: &mut Replies, out: &mut Vec<u8>) {
    replies.write(seq, Part::Last, out, |out| match reply {
        Reply::Answer(answer) => encode_answer(table, &answer, out),
        Reply::Explained { steps, answer } => {
            let mut answered = Vec::new();
            encode_answer(table, &answer, &mut answered);
            netstring::encode(&[b"OK ", steps.as_bytes(), b"\n", &answered], out);
        }
        // A socketmap client sends nothing but lookups.
        Reply::Row { .. }
        | Reply::End
        | Reply::Failed(_)
        | Reply::Committed(..)
        | Reply::Decided(_)
        | Reply::Close(_) => {}
    });
}

fn encode_answer(table: &str, answer: &Answer<'_>, out: &mut Vec<u8>) {
    match answer {
        Answer::Miss => miss(out),
        Answer::Failed(failure) => encode(failure, out),
        Answer::Found(value) => match value.for_postfix() {
            // An empty array: Postfix refuses an empty result, and a list of nothing is no address.
            Ok(None) => miss(out),
            // Postfix would report it as a lookup error without a useful cause.
            Ok(Some(text)) if text.len() + "OK ".len() > MAX_REPLY => {
                let why = "the value is longer than Postfix takes (100000 bytes)";
                encode(&Failure::temporary(format_args!("{table}: {why}")), out);
            }
            Ok(Some(text)) => netstring::encode(&[b"OK ", &text], out),
            Err(unfit) => encode(&Failure::temporary(format_args!("{table}: the value {unfit}")), out),
        },
    }
}

fn miss(out: &mut Vec<u8>) {
    // The space is part of the reply: dict_sockmap.c splits the word off at it.
    netstring::encode(&[b"NOTFOUND "], out);
}

fn encode(failure: &Failure, out: &mut Vec<u8>) {
    let word: &[u8] = match failure.kind {
        FailureKind::Temporary => b"TEMP ",
        FailureKind::Timeout => b"TIMEOUT ",
        FailureKind::Permanent => b"PERM ",
    };
    netstring::encode(&[word, failure.reason().as_bytes()], out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    fn encoded(value: Value<'_>) -> String {
        let (mut replies, mut out) = (Replies::default(), Vec::new());
        let seq = replies.enter();
        reply(seq, "alias", Reply::Answer(Answer::Found(value)), &mut replies, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// What a connection asks that gets these pieces, and the most bytes that it holds meanwhile.
    fn asked<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, usize) {
        let mut session = SocketmapSession::default();
        let (mut replies, mut output) = (Replies::default(), Output::default());
        let (mut held, mut most, mut asked) = (Vec::new(), 0, Vec::new());
        for piece in pieces {
            held.extend_from_slice(piece);
            let mut used = 0;
            while used < held.len() {
                match session.next(&held[used..], &mut replies, &mut output) {
                    Ok(Some((event, count))) => {
                        used += count;
                        match event {
                            Event::Nothing => {}
                            Event::Request { seq, table, query: Query::Get(key) } => {
                                let table = String::from_utf8_lossy(table.unwrap()).into_owned();
                                asked.push(format!("{seq} {table} {}", key.len()));
                            }
                            Event::LongKey { seq, table } => {
                                asked.push(format!("{seq} {} long", String::from_utf8_lossy(&table)));
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        asked.push(error.to_string());
                        return (asked, most);
                    }
                }
            }
            held.drain(..used);
            most = most.max(held.len());
        }
        let rest = if held.is_empty() && !session.is_skipping() { "" } else { "incomplete" };
        asked.push(rest.to_owned());
        (asked, most)
    }

    fn framed(payload: &str) -> String {
        format!("{}:{payload},", payload.len())
    }

    #[test]
    fn a_key_that_is_too_long_is_skipped_however_it_is_split() {
        let long = framed(&format!("alias {}", "k".repeat(65_540)));
        let bytes = [&framed("alias a"), &long[..], &framed("alias b")].concat().into_bytes();
        let expected = ["0 alias 1", "1 alias long", "2 alias 1", ""];
        for at in 0..=bytes.len() {
            let (asked, most) = asked([&bytes[..at], &bytes[at..]].into_iter());
            assert_eq!(asked, expected, "{at}");
            assert!(most < 600, "{most} bytes are held, cut at {at}");
        }
        for step in (1..600).chain([4096, 65_535, 65_536]) {
            assert_eq!(asked(bytes.chunks(step)).0, expected, "{step}");
        }
    }

    #[test]
    fn the_longest_keys_and_requests_are_told_from_longer_ones() {
        let broken = "netstring does not end with a comma";
        let request = |name: usize, key: usize| framed(&format!("{} {}", "n".repeat(name), "k".repeat(key)));
        let name = |length: usize| "n".repeat(length);
        let cases: &[(String, &[String])] = &[
            (request(1, MAX_KEY), &["0 n 65000".into(), "".into()]),
            (request(1, MAX_KEY + 1), &["0 n long".into(), "".into()]),
            (request(535, MAX_KEY), &[format!("0 {} 65000", name(535)), "".into()]),
            (request(535, MAX_KEY + 1), &[format!("0 {} long", name(535)), "".into()]),
            (request(536, MAX_KEY + 1), &["".into()]),   // PERM
            (framed(&"x".repeat(70_000)), &["".into()]), // PERM
            (request(1, MAX_SKIPPED - 2), &["0 n long".into(), "".into()]),
            (request(1, MAX_SKIPPED - 1), &["netstring is too long".into()]),
            (request(1, 70_000).replace(',', ";"), &[broken.into()]),
            (request(1, 70_000).replace(':', "0:"), &["incomplete".into()]),
            (format!("{}x", &request(1, 70_000)[..70_000]), &["incomplete".into()]),
        ];
        for (bytes, expected) in cases {
            for step in [1, 4096, 65_536, bytes.len()].into_iter().skip(usize::from(bytes.len() > 1 << 20)) {
                let (asked, most) = asked(bytes.as_bytes().chunks(step));
                assert_eq!(asked, *expected, "{} in steps of {step}", &bytes[..20]);
                assert!(most <= MAX_REQUEST + 7, "{most} bytes are held");
            }
        }
    }

    #[test]
    fn values_that_postfix_would_cut_or_refuse_are_temporary_failures() {
        let text = |text: &str| encoded(Value::Text(text.as_bytes().to_vec().into()));
        assert_eq!(text("x@y"), "6:OK x@y,");
        assert_eq!(text(""), "3:OK ,");
        assert!(text(&"x".repeat(MAX_REPLY - 3)).starts_with("100000:OK x"));
        let long = text(&"x".repeat(MAX_REPLY - 2));
        assert!(long.ends_with(":TEMP alias: the value is longer than Postfix takes (100000 bytes),"), "{long}");
        let json = |json: &str| encoded(Value::parse(json.as_bytes()).unwrap());
        assert_eq!(json("[]"), "9:NOTFOUND ,");
        assert_eq!(json("false"), "9:NOTFOUND ,");
        for (value, why) in [
            (r#"{"detail":"Not found"}"#, "is an object: select= names a part of it"),
            (r#"["a@x",["b@x"]]"#, "is an array of arrays or objects: select= names a part of it"),
            (r#"["a@x",null]"#, "is an array with null in it"),
            (r#"["a@x","\ud800"]"#, "has text that cannot be decoded"),
            (r#""a\u0000b""#, "has a NUL, where mail servers cut it"),
        ] {
            assert!(json(value).ends_with(&format!(":TEMP alias: the value {why},")), "{value}: {}", json(value));
        }
    }
}
