//! What follows from a response of a name server. Pure.

use crate::wire::dns::{Data, Message, MessageError, Name, Question, Rcode, Record, TYPE_A, TYPE_AAAA, TYPE_MX};
use std::borrow::Cow;
use std::io::ErrorKind;

/// Maximum number of aliases that are followed for one question.
pub(super) const MAX_ALIASES: usize = 16;

/// The cause for a response that makes no sense.
const INVALID: &str = "sent an invalid response";

/// What follows from a response.
#[derive(Debug)]
pub(super) enum Verdict {
    /// These are the records, for this many seconds; without any, the name or the type does not exist.
    Records(Vec<Data>, u32),
    /// The response ends with this alias, and says nothing about it. The aliases hold for this many seconds.
    Alias(Name, u32),
    /// It did not fit into a datagram.
    Truncated,
    /// The server may not know EDNS.
    WithoutEdns,
    /// The server has no answer. Completes a sentence that begins with it.
    Failed(String),
}

/// Interprets a response that repeats the question, which was asked with EDNS or without.
pub(super) fn interpret(question: &Question, response: Result<Message, MessageError>, edns: bool) -> Verdict {
    let Ok(message) = response else { return Verdict::Failed(INVALID.to_owned()) };
    if message.truncated {
        return Verdict::Truncated;
    }
    match message.rcode {
        Rcode::NoError | Rcode::NxDomain => {}
        Rcode::FormErr | Rcode::NotImp if edns => return Verdict::WithoutEdns,
        code @ (Rcode::FormErr | Rcode::ServFail | Rcode::NotImp | Rcode::Refused | Rcode::Other(_)) => {
            return Verdict::Failed(format!("answered {code}"));
        }
    }
    let Some((name, mut ttl)) = resolve_aliases(question, &message.answers) else {
        return Verdict::Failed("answered with a chain of aliases without end".to_owned());
    };
    let is_alias = *name != question.name;
    // Nearly always it is none, and needs no memory of its own.
    let name = if is_alias { Cow::Owned(name.clone()) } else { Cow::Borrowed(&question.name) };
    let invalid = || Verdict::Failed(INVALID.to_owned());
    let mut records = Vec::new();
    let mut soa = None;
    for record in &message.authority {
        match record.data {
            // It must be that of the name's zone.
            Data::Soa { .. } if !name.is_below(&record.owner) => return invalid(),
            // Both the TTL of the record and the field bound the time (RFC 2308, section 5).
            Data::Soa { minimum } => soa = Some(record.ttl.min(minimum)),
            Data::Address(_) | Data::Ns | Data::Cname(_) | Data::Mx { .. } | Data::Other => {}
        }
    }
    let is_referral = soa.is_none() && message.authority.iter().any(|record| matches!(record.data, Data::Ns));
    for Record { owner, ttl: other, data } in message.answers {
        match data {
            Data::Cname(_) => {}
            Data::Other if is_alias || owner == *name => {} // such as signatures
            Data::Mx { .. } | Data::Address(_) if owner == *name && is_of_kind(&data, question.kind) => {
                ttl = ttl.min(other);
                records.push(data);
            }
            // Not about the question, so that nothing follows from its not being there.
            Data::Mx { .. } | Data::Address(_) | Data::Ns | Data::Soa { .. } | Data::Other => return invalid(),
        }
    }
    if message.rcode == Rcode::NxDomain && !records.is_empty() {
        return invalid();
    }
    match soa {
        _ if !records.is_empty() => Verdict::Records(records, ttl),
        Some(negative) => Verdict::Records(records, ttl.min(negative)),
        None if message.rcode == Rcode::NxDomain && message.is_final => Verdict::Records(records, 0),
        None if is_alias => Verdict::Alias(name.into_owned(), ttl),
        // One that knows whom to ask, but does not: no statement about the name.
        None if is_referral || !message.is_final => {
            Verdict::Failed("answered as a server that is not recursive".to_owned())
        }
        None => Verdict::Records(records, 0),
    }
}

/// The name at the end of the aliases of the question's name, and the lowest TTL of these; `None` if there are too many.
fn resolve_aliases<'a>(question: &'a Question, answers: &'a [Record]) -> Option<(&'a Name, u32)> {
    let (mut name, mut ttl) = (&question.name, u32::MAX);
    for _ in 0..=MAX_ALIASES {
        let next = answers.iter().find_map(|record| match &record.data {
            Data::Cname(target) if record.owner == *name => Some((target, record.ttl)),
            Data::Cname(_) | Data::Address(_) | Data::Ns | Data::Soa { .. } | Data::Mx { .. } | Data::Other => None,
        });
        let Some((target, of)) = next else { return Some((name, ttl)) };
        (name, ttl) = (target, ttl.min(of));
    }
    None
}

fn is_of_kind(data: &Data, kind: u16) -> bool {
    match data {
        Data::Mx { .. } => kind == TYPE_MX,
        Data::Address(address) => kind == if address.is_ipv4() { TYPE_A } else { TYPE_AAAA },
        Data::Ns | Data::Cname(_) | Data::Soa { .. } | Data::Other => false,
    }
}

/// What the end of a socket means, in words that continue a sentence about its server, and whether it is a fault of that
/// server. Anything else, such as a want of descriptors, is none: the question is repeated in time.
pub(super) fn describe_end(error: Option<ErrorKind>) -> (String, bool) {
    match error {
        None => ("closed the connection without an answer".to_owned(), true),
        Some(ErrorKind::ConnectionRefused) => ("refused the connection".to_owned(), true),
        Some(kind) => {
            let reasons = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];
            let ways = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
            (format!("is unreachable: {kind}"), reasons.contains(&kind) || ways.contains(&kind))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn record(owner: &str, ttl: u32, data: Data) -> Record {
        Record { owner: name(owner), ttl, data }
    }

    fn mx(host: &str) -> Data {
        Data::Mx { preference: 10, exchange: name(host) }
    }

    fn address(text: &str) -> Data {
        Data::Address(text.parse::<IpAddr>().unwrap())
    }

    fn message(rcode: Rcode, answers: Vec<Record>, authority: Vec<Record>) -> Message {
        Message { truncated: false, is_final: true, rcode, answers, authority }
    }

    /// The verdict about a response to a question for the MX records of `a.example`, as text.
    fn verdict(edns: bool, message: Message) -> String {
        match interpret(&Question::new(name("a.example"), TYPE_MX), Ok(message), edns) {
            Verdict::Records(records, ttl) => format!("{} for {ttl}", records.len()),
            Verdict::Alias(name, ttl) => format!("alias {name} for {ttl}"),
            Verdict::Failed(why) => why,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_response_has_records_or_none_or_fails() {
        let soa = |ttl, minimum| record("example", ttl, Data::Soa { minimum });
        let cname = |from: &str, to: &str| record(from, 70, Data::Cname(name(to)));
        let own = || record("A.example", 60, mx("mx.example"));
        for (message, expected) in [
            (message(Rcode::NoError, vec![own()], vec![]), "1 for 60"),
            (message(Rcode::NoError, vec![own(), record("a.example", 5, mx("m2.example"))], vec![]), "2 for 5"),
            (message(Rcode::NoError, vec![record("b.example", 60, mx("mx.example"))], vec![]), INVALID),
            (message(Rcode::NoError, vec![own(), record("a.example", 60, Data::Other)], vec![]), "1 for 60"),
            (message(Rcode::NoError, vec![record("b.example", 60, Data::Other)], vec![]), INVALID),
            (message(Rcode::NoError, vec![], vec![record("unrelated", 9, Data::Soa { minimum: 9 })]), INVALID),
            (message(Rcode::NxDomain, vec![own()], vec![]), INVALID),
            (message(Rcode::NoError, vec![record("a.example", 60, address("192.0.2.1"))], vec![soa(9, 90)]), INVALID),
            (message(Rcode::NoError, vec![], vec![soa(90, 9)]), "0 for 9"),
            (message(Rcode::NxDomain, vec![], vec![soa(90, 9)]), "0 for 9"),
            (message(Rcode::NxDomain, vec![], vec![]), "0 for 0"),
            (
                message(
                    Rcode::NoError,
                    vec![cname("a.example", "b.example"), record("b.example", 80, mx("x.y"))],
                    vec![],
                ),
                "1 for 70",
            ),
            (
                message(
                    Rcode::NoError,
                    vec![record("b.example", 80, mx("x.y")), cname("a.example", "b.example")],
                    vec![],
                ),
                "1 for 70",
            ),
            (message(Rcode::NoError, vec![cname("a.example", "b.example")], vec![]), "alias b.example for 70"),
            (message(Rcode::NoError, vec![cname("a.example", "b.example")], vec![soa(90, 9)]), "0 for 9"),
            (message(Rcode::NxDomain, vec![cname("a.example", "b.example")], vec![soa(90, 99)]), "0 for 70"),
            (
                message(Rcode::NoError, vec![cname("a.example", "b.example"), cname("b.example", "a.example")], vec![]),
                "answered with a chain of aliases without end",
            ),
            (
                message(Rcode::NoError, vec![cname("a.example", "a.example"), own()], vec![]),
                "answered with a chain of aliases without end",
            ),
            (
                message(Rcode::NoError, vec![], vec![record("example", 9, Data::Ns)]),
                "answered as a server that is not recursive",
            ),
            (message(Rcode::NoError, vec![], vec![record("example", 9, Data::Ns), soa(90, 9)]), "0 for 9"),
            (message(Rcode::NoError, vec![], vec![]), "0 for 0"),
            (message(Rcode::ServFail, vec![own()], vec![]), "answered SERVFAIL"),
            (message(Rcode::Refused, vec![], vec![]), "answered REFUSED"),
            (message(Rcode::FormErr, vec![], vec![]), "answered FORMERR"),
            (message(Rcode::NotImp, vec![], vec![]), "answered NOTIMP"),
            (message(Rcode::Other(16), vec![], vec![]), "answered code 16"),
            (Message { truncated: true, ..message(Rcode::NoError, vec![own()], vec![]) }, "Truncated"),
            (
                Message { is_final: false, ..message(Rcode::NoError, vec![], vec![]) },
                "answered as a server that is not recursive",
            ),
            (
                Message { is_final: false, ..message(Rcode::NxDomain, vec![], vec![]) },
                "answered as a server that is not recursive",
            ),
            (Message { is_final: false, ..message(Rcode::NoError, vec![own()], vec![]) }, "1 for 60"),
        ] {
            assert_eq!(verdict(false, message), expected);
        }
        for rcode in [Rcode::FormErr, Rcode::NotImp] {
            assert_eq!(verdict(true, message(rcode, vec![], vec![])), "WithoutEdns");
        }
        assert_eq!(verdict(true, message(Rcode::ServFail, vec![], vec![])), "answered SERVFAIL");
        let invalid = interpret(&Question::new(name("a.example"), TYPE_MX), Err(MessageError), true);
        assert!(matches!(invalid, Verdict::Failed(why) if why == "sent an invalid response"));
    }

    #[test]
    fn a_long_chain_of_aliases_is_followed_and_a_longer_one_is_not() {
        let chain = |count: usize| {
            let host = |at: usize| if at == 0 { "a.example".to_owned() } else { format!("a{at}.example") };
            let mut answers: Vec<Record> =
                (0..count).map(|at| record(&host(at), 9, Data::Cname(name(&host(at + 1))))).collect();
            answers.push(record(&host(count), 9, mx("mx.example")));
            verdict(true, message(Rcode::NoError, answers, vec![]))
        };
        assert_eq!(chain(MAX_ALIASES), "1 for 9");
        assert_eq!(chain(MAX_ALIASES + 1), "answered with a chain of aliases without end");
    }
}
