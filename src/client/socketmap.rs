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
            None => miss(out),
            Some(text) => match unfit(&text) {
                None => netstring::encode(&[b"OK ", text.as_bytes()], out),
                Some(why) => encode(&Failure::temporary(format_args!("{table}: {why}")), out),
            },
        },
    });
}

fn miss(out: &mut Vec<u8>) {
    // The space is part of the reply: dict_sockmap.c splits the word off at it.
    netstring::encode(&[b"NOTFOUND "], out);
}

/// Why Postfix would reject or alter a value; `None` if it would not.
fn unfit(text: &str) -> Option<&'static str> {
    // Postfix would report either as a lookup error without a useful cause, or continue with half of the value; a
    // temporary failure names the table and keeps the mail queued.
    if text.len() + "OK ".len() > MAX_REPLY {
        Some("the value is longer than Postfix takes (100000 bytes)")
    } else if text.as_bytes().contains(&0) {
        Some("the value has a NUL, where Postfix would cut it")
    } else {
        None
    }
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

    fn encoded(text: &str) -> Vec<u8> {
        let (mut replies, mut out) = (Replies::default(), Vec::new());
        let seq = replies.enter();
        reply(seq, "alias", Reply::Answer(Answer::Found(Value::Text(text.into()))), &mut replies, &mut out);
        out
    }

    #[test]
    fn values_that_postfix_would_cut_or_refuse_are_temporary_failures() {
        assert_eq!(encoded("x@y"), b"6:OK x@y,");
        assert_eq!(encoded(""), b"3:OK ,");
        assert!(encoded(&"x".repeat(MAX_REPLY - 3)).starts_with(b"100000:OK x"));
        assert!(
            encoded(&"x".repeat(MAX_REPLY - 2))
                .ends_with(b":TEMP alias: the value is longer than Postfix takes (100000 bytes),")
        );
        assert!(encoded("a\0b").ends_with(b":TEMP alias: the value has a NUL, where Postfix would cut it,"));
    }
}
