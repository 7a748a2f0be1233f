//! Postfix socketmap: `NAME SPACE KEY` in a netstring, answered by one of five words (socketmap_table(5),
//! dict_sockmap.c).

use super::message::{Event, MAX_REQUEST, ProtocolError, Reply};
use super::replies::{Part, Replies};
use crate::buffer::Output;
use crate::query::{Answer, Failure, FailureKind, Query};
use crate::wire::netstring;

/// Maximum length of a reply in bytes, including the status word (`socketmap_max_reply_size`, dict_sockmap.c).
const MAX_REPLY: usize = 100_000;

/// Decodes the next request and returns it with its length in bytes; `None` if it is incomplete.
pub(super) fn next<'a>(
    input: &'a [u8],
    replies: &mut Replies,
    output: &mut Output,
) -> Result<Option<(Event<'a>, usize)>, ProtocolError> {
    let Some((request, used)) = netstring::decode(input, MAX_REQUEST).map_err(ProtocolError::Netstring)? else {
        return Ok(None);
    };
    let seq = replies.enter();
    let event = match request.iter().position(|byte| *byte == b' ') {
        Some(at) => {
            let (table, key) = (&request[..at], &request[at + 1..]);
            Event::Request { seq, table: Some(table), query: Query::Get(key.into()) }
        }
        None => {
            // The only use of PERM: Postfix reports it as a configuration error and stops retrying, which no fault of a
            // backend should cause.
            let failure =
                Failure::new(FailureKind::Permanent, format_args!("request without a space after the map name"));
            replies.write(seq, Part::Last, output.writer(), |out| encode(&failure, out));
            Event::Nothing
        }
    };
    Ok(Some((event, used)))
}

/// Encodes the reply to the request with the sequence number `seq`. Reasons name `table`.
pub(super) fn reply(seq: u64, table: &str, reply: Reply<'_>, replies: &mut Replies, out: &mut Vec<u8>) {
    // A socketmap client sends nothing but lookups.
    let Reply::Answer(answer) = reply else { return };
    replies.write(seq, Part::Last, out, |out| match &answer {
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
    });
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
