//! DNS messages as name servers write them.

/// A record of a response: owner, type, TTL and data.
#[derive(Clone, Debug)]
pub struct Record(pub String, pub u16, pub u32, pub Vec<u8>);

/// A name in wire form.
pub fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).chain([0]).collect()
}

pub fn mx(owner: &str, ttl: u32, preference: u16, host: &str) -> Record {
    Record(owner.into(), 15, ttl, [&preference.to_be_bytes()[..], &name(host)].concat())
}

pub fn a(owner: &str, ttl: u32, address: [u8; 4]) -> Record {
    Record(owner.into(), 1, ttl, address.to_vec())
}

pub fn cname(owner: &str, ttl: u32, target: &str) -> Record {
    Record(owner.into(), 5, ttl, name(target))
}

/// A start of authority, with the same number as TTL and as minimum.
pub fn soa(owner: &str, ttl: u32) -> Record {
    Record(owner.into(), 6, ttl, [&[0; 18][..], &ttl.to_be_bytes()].concat())
}

pub fn ns(owner: &str) -> Record {
    Record(owner.into(), 2, 60, name("ns.example"))
}

/// The name and the type that a message asks for.
pub fn question(message: &[u8]) -> (String, u16) {
    let (mut at, mut name) = (12, String::new());
    while message[at] > 0 {
        let end = at + 1 + usize::from(message[at]);
        name += &String::from_utf8_lossy(&message[at + 1..end]);
        name.push('.');
        at = end;
    }
    (name.trim_end_matches('.').to_owned(), u16::from_be_bytes([message[at + 1], message[at + 2]]))
}

/// The response to a question: the lower flags, which end with the code, answers and authority.
pub fn answer(asked: &[u8], flags: u16, answers: &[Record], authority: &[Record]) -> Vec<u8> {
    let end = 12 + asked[12..].iter().position(|byte| *byte == 0).expect("the root") + 5;
    let mut out = asked[..end].to_vec();
    out[2..4].copy_from_slice(&(0x8180 | flags).to_be_bytes());
    for (at, count) in [(6, answers.len()), (8, authority.len()), (10, 0)] {
        out[at..at + 2].copy_from_slice(&(count as u16).to_be_bytes());
    }
    for Record(owner, kind, ttl, data) in answers.iter().chain(authority) {
        out.extend(name(owner));
        out.extend(kind.to_be_bytes());
        out.extend(1u16.to_be_bytes());
        out.extend(ttl.to_be_bytes());
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    out
}

/// The flags and codes in use.
pub const TRUNCATED: u16 = 0x0200;
pub const FORMERR: u16 = 1;
pub const SERVFAIL: u16 = 2;
pub const NXDOMAIN: u16 = 3;
pub const REFUSED: u16 = 5;
