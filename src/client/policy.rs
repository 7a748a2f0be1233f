//! Postfix policy delegation: `name=value` lines up to an empty line, answered by `action=…` and an empty line
//! (SMTPD_POLICY_README; smtpd_check.c, attr_scan_plain.c).

use super::message::{Event, MAX_KEY, MAX_REQUEST, ProtocolError, Reply};
use super::replies::{Part, Replies};
use crate::query::{Ask, AskKind, Decision, Query};
use crate::secret::Secret;
use crate::value;
use std::collections::BTreeMap;

/// Maximum number of attributes of a request, of which Postfix sends about 35.
const MAX_ATTRIBUTES: usize = 64;

/// The attribute that every request of smtpd has.
const REQUEST: (&[u8], &[u8]) = (b"request", b"smtpd_access_policy");

/// The action for a fault. Postfix rejects with 4XX what it would have accepted otherwise.
const DEFER: &[u8] = b"DEFER_IF_PERMIT 4.3.0 Service unavailable";

/// The state of a connection of smtpd.
#[derive(Debug)]
pub(super) struct PolicySession {
    /// The table that decides.
    table: &'static str,
    /// Bytes at the front of the input in which no end of the request begins.
    searched: usize,
    /// The sizes of open requests, and their sum.
    sizes: BTreeMap<u64, usize>,
    asked: usize,
}

impl PolicySession {
    pub(super) fn new(table: &'static str) -> Self {
        Self { table, searched: 0, sizes: BTreeMap::new(), asked: 0 }
    }

    /// Parses the next request and returns it with its length in bytes; `None` if it is incomplete.
    pub(super) fn next<'a>(
        &mut self,
        input: &[u8],
        replies: &mut Replies,
    ) -> Result<Option<(Event<'a>, usize)>, ProtocolError> {
        let Some(at) = input[self.searched..].windows(2).position(|pair| pair == b"\n\n") else {
            self.searched = input.len().saturating_sub(1);
            return if input.len() > MAX_REQUEST { Err(ProtocolError::Policy) } else { Ok(None) };
        };
        let end = self.searched + at;
        self.searched = 0;
        if end > MAX_REQUEST {
            return Err(ProtocolError::Policy);
        }
        let ask = parse(&input[..end]).ok_or(ProtocolError::Policy)?;
        let (seq, table) = (replies.enter(), Some(self.table.as_bytes()));
        self.asked += ask.json.len();
        self.sizes.insert(seq, ask.json.len());
        Ok(Some((Event::Request { seq, table, query: Query::Ask(Box::new(ask)) }, end + 2)))
    }

    /// Bytes of open requests.
    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    /// Encodes the reply to the request with the sequence number `seq`. True if the connection is to be closed in its
    /// place.
    pub(super) fn reply(&mut self, seq: u64, reply: &Reply<'_>, replies: &mut Replies, out: &mut Vec<u8>) -> bool {
        self.asked -= self.sizes.remove(&seq).unwrap_or_default();
        let action: &[u8] = match reply {
            Reply::Decided(Some(Decision::Yes(action))) => action,
            Reply::Decided(Some(Decision::No(_))) => b"DUNNO",
            // `Failed`: the table does not exist.
            Reply::Decided(None) | Reply::Failed(_) => DEFER,
            // A policy client sends nothing but requests for decisions.
            Reply::Close(_) | Reply::Answer(_) | Reply::Explained { .. } | Reply::Row { .. } => b"",
            Reply::End | Reply::Committed(..) => b"",
        };
        if action.is_empty() {
            replies.cut(seq);
        }
        replies.write(seq, Part::Last, out, |out| {
            out.extend_from_slice(b"action=");
            out.extend_from_slice(action);
            out.extend_from_slice(b"\n\n");
        });
        action.is_empty()
    }
}

/// The question of a request. `None` if it is malformed, has too many attributes or one twice, or is of another kind.
fn parse(lines: &[u8]) -> Option<Ask> {
    let mut attributes: Vec<(&[u8], &[u8])> = Vec::with_capacity(MAX_ATTRIBUTES);
    for line in lines.split(|byte| *byte == b'\n') {
        let at = line.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&line[..at], &line[at + 1..]);
        let is_new = !attributes.iter().any(|(other, _)| *other == name);
        if name.is_empty() || !is_new || attributes.len() == MAX_ATTRIBUTES {
            return None;
        }
        attributes.push((name, value));
    }
    if !attributes.contains(&REQUEST) {
        return None;
    }
    let mut object = Secret::with_capacity(lines.len() + 8 * attributes.len());
    let json = object.writer();
    for (name, value) in &attributes {
        json.push(if json.is_empty() { b'{' } else { b',' });
        value::push_quoted(name, json);
        json.push(b':');
        value::push_quoted(value, json);
    }
    json.push(b'}');
    let recipient = attributes.iter().find(|(name, _)| *name == b"recipient").map_or(&[][..], |(_, value)| *value);
    let key = recipient.get(..MAX_KEY).unwrap_or(recipient).to_vec();
    Some(Ask { kind: AskKind::Policy, key, json: object })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys and JSON texts of what arrives in these pieces.
    fn asked(pieces: &[&[u8]]) -> Result<Vec<(String, String)>, ProtocolError> {
        let (mut session, mut replies) = (PolicySession::new("policy"), Replies::default());
        let (mut input, mut all) = (Vec::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            while let Some((event, used)) = session.next(&input, &mut replies)? {
                let Event::Request { table: Some(b"policy"), query: Query::Ask(ask), .. } = event else {
                    panic!("{event:?}")
                };
                let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
                all.push((text(ask.key), text(ask.json.to_vec())));
                input.drain(..used);
            }
        }
        Ok(all)
    }

    #[test]
    fn requests_are_the_same_at_every_split() {
        let text = "request=smtpd_access_policy\nrecipient=a@b=c\nsender=\nhelo_name=\"q\\ü\u{1}\n\n\
                    size=1\nrequest=smtpd_access_policy\n\n"
            .as_bytes();
        let expected = [
            (
                "a@b=c".to_owned(),
                r#"{"request":"smtpd_access_policy","recipient":"a@b=c","sender":"","helo_name":"\"q\\ü\u0001"}"#
                    .to_owned(),
            ),
            (String::new(), r#"{"size":"1","request":"smtpd_access_policy"}"#.to_owned()),
        ];
        for one in 0..=text.len() {
            for other in one..=text.len() {
                assert_eq!(
                    asked(&[&text[..one], &text[one..other], &text[other..]]).unwrap(),
                    expected,
                    "{one} {other}"
                );
            }
        }
        assert_eq!(asked(&text.chunks(1).collect::<Vec<_>>()).unwrap(), expected);
        assert_eq!(
            asked(&[b"request=smtpd_access_policy\nhelo_name=\xff\n\n"]).unwrap()[0].1.matches('\u{fffd}').count(),
            1
        );
    }

    #[test]
    fn what_is_no_request_of_smtpd_closes_the_connection() {
        let many: String = (0..MAX_ATTRIBUTES).map(|at| format!("a{at}=\n")).collect();
        let long = "x".repeat(MAX_REQUEST);
        for text in [
            "\n\n",
            "sender=a\n\n",
            "request=other\n\n",
            "request=smtpd_access_policy\nnothing\n\n",
            "request=smtpd_access_policy\n=x\n\n",
            "request=smtpd_access_policy\na=1\na=2\n\n",
            &format!("{many}request=smtpd_access_policy\n\n"),
            &format!("request=smtpd_access_policy\nhelo_name={long}\n\n"),
            &format!("request=smtpd_access_policy\nhelo_name={long}"),
            "GET / HTTP/1.1\r\n\n\n",
        ] {
            assert_eq!(asked(&[text.as_bytes()]), Err(ProtocolError::Policy), "{}", &text[..text.len().min(60)]);
        }
        let most: String = (1..MAX_ATTRIBUTES).map(|at| format!("a{at}=\n")).collect();
        assert_eq!(asked(&[format!("{most}request=smtpd_access_policy\n\n").as_bytes()]).unwrap().len(), 1);
    }
}
