//! DNS messages (RFC 1035, section 4), as far as a stub resolver needs them: questions with EDNS (RFC 6891), and the
//! records MX, A, AAAA, CNAME, SOA and NS of responses.

mod name;

pub use name::{MessageError, Name};

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The types of records in use (RFC 1035, section 3.2.2; RFC 3596; RFC 6891).
pub const TYPE_A: u16 = 1;
const TYPE_NS: u16 = 2;
const TYPE_CNAME: u16 = 5;
const TYPE_SOA: u16 = 6;
pub const TYPE_MX: u16 = 15;
pub const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;

/// Length of the header in bytes.
const HEADER: usize = 12;

/// The size of a UDP response that a server may send (DNS flag day 2020): more could be fragmented on its way.
pub const MAX_UDP: u16 = 1_232; // bytes

/// A question: a name and a type, in the class IN.
#[derive(Clone, Debug)]
pub struct Question {
    pub name: Name,
    pub kind: u16,
}

impl Question {
    pub fn new(name: Name, kind: u16) -> Self {
        Self { name, kind }
    }

    /// What follows the name in messages: type and class.
    fn end(&self) -> [u8; 4] {
        let ([k0, k1], [c0, c1]) = (self.kind.to_be_bytes(), CLASS_IN.to_be_bytes());
        [k0, k1, c0, c1]
    }

    /// The message that asks it of a recursive server, with the largest UDP response that is accepted if the server
    /// may know EDNS.
    pub fn message(&self, id: u16, edns: bool) -> Vec<u8> {
        const RECURSION_DESIRED: u16 = 0x0100;
        let mut out = Vec::with_capacity(HEADER + self.name.as_bytes().len() + 4 + 11);
        for field in [id, RECURSION_DESIRED, 1, 0, 0, u16::from(edns)] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(&self.end());
        if edns {
            out.push(0); // the root
            for field in [TYPE_OPT, MAX_UDP, 0, 0, 0] {
                out.extend_from_slice(&field.to_be_bytes());
            }
        }
        out
    }

    /// True if a message is a response that repeats this question exactly, also in the case of letters; or an error without
    /// any question.
    pub fn is_of(&self, message: &[u8]) -> bool {
        let (Some(flags), Some(count)) = (message.get(2), message.get(4..6)) else { return false };
        if flags & 0xf8 != 0x80 {
            return false; // no response, or not to a standard query
        }
        match count {
            [0, 1] => {
                let rest = message[HEADER.min(message.len())..].strip_prefix(self.name.as_bytes());
                rest.is_some_and(|rest| rest.starts_with(&self.end()))
            }
            // Servers without EDNS, and those that refuse, may send a header only: such an error is no answer.
            [0, 0] => message.len() == HEADER && matches!(message[3] & 0x0f, 1 | 2 | 4 | 5),
            _ => false,
        }
    }
}

/// The id of a message.
pub fn id(message: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*message.first_chunk()?))
}

/// The results of a question (RFC 1035, section 4.1.1), as far as they mean something here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rcode {
    NoError,
    FormErr,
    ServFail,
    NxDomain,
    NotImp,
    Refused,
    Other(u16),
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rcode::NoError => "NOERROR",
            Rcode::FormErr => "FORMERR",
            Rcode::ServFail => "SERVFAIL",
            Rcode::NxDomain => "NXDOMAIN",
            Rcode::NotImp => "NOTIMP",
            Rcode::Refused => "REFUSED",
            Rcode::Other(code) => return write!(f, "code {code}"),
        })
    }
}

/// A response.
#[derive(Debug)]
pub struct Message {
    /// It did not fit into a datagram.
    pub truncated: bool,
    /// The server is responsible for the name, or asks those that are.
    pub is_final: bool,
    pub rcode: Rcode,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
}

/// A record of the class IN.
#[derive(Debug)]
pub struct Record {
    pub owner: Name,
    /// In seconds.
    pub ttl: u32,
    pub data: Data,
}

/// The data of a record.
#[derive(Debug)]
pub enum Data {
    Address(IpAddr),
    Ns,
    Cname(Name),
    /// How long the absence of a name may be assumed, in seconds, besides the TTL of the record (RFC 2308, section 4).
    Soa {
        minimum: u32,
    },
    Mx {
        preference: u16,
        exchange: Name,
    },
    Other,
}

impl Message {
    /// Parses a response to one question. Of the additional section, only EDNS is read.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let field =
            |at: usize| bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]])).ok_or(MessageError);
        let (flags, questions) = (field(2)?, field(4)?);
        let truncated = flags & 0x0200 != 0;
        if truncated {
            // It may end anywhere, and nothing of it is used.
            let (answers, authority) = (Vec::new(), Vec::new());
            return Ok(Self { truncated, is_final: false, rcode: Rcode::NoError, answers, authority });
        }
        let mut reader = Reader { message: bytes, at: HEADER };
        for _ in 0..questions {
            reader.at = Name::skip(bytes, reader.at)?;
            reader.take(4)?; // type and class
        }
        let answers = reader.records(field(6)?)?;
        let authority = reader.records(field(8)?)?;
        let mut upper = 0;
        for _ in 0..field(10)? {
            match reader.head() {
                Ok((_, TYPE_OPT, _, ttl, data)) => {
                    upper = (ttl >> 24) as u16;
                    reader.at = data.end;
                }
                Ok((.., data)) => reader.at = data.end,
                Err(error) => return Err(error),
            }
        }
        let rcode = match upper << 4 | flags & 0x000f {
            0 => Rcode::NoError,
            1 => Rcode::FormErr,
            2 => Rcode::ServFail,
            3 => Rcode::NxDomain,
            4 => Rcode::NotImp,
            5 => Rcode::Refused,
            other => Rcode::Other(other),
        };
        const AUTHORITATIVE_OR_RECURSIVE: u16 = 0x0480;
        Ok(Self { truncated, is_final: flags & AUTHORITATIVE_OR_RECURSIVE != 0, rcode, answers, authority })
    }
}

/// A message, read up to a position.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn name(&mut self) -> Result<Name, MessageError> {
        let (name, end) = Name::read(self.message, self.at)?;
        self.at = end;
        Ok(name)
    }

    fn take(&mut self, count: usize) -> Result<&[u8], MessageError> {
        let taken = self.message.get(self.at..self.at + count).ok_or(MessageError)?;
        self.at += count;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, MessageError> {
        self.take(2).map(|two| u16::from_be_bytes([two[0], two[1]]))
    }

    fn u32(&mut self) -> Result<u32, MessageError> {
        Ok(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    /// Owner, type, class, TTL and the range of the data of a record.
    fn head(&mut self) -> Result<(Name, u16, u16, u32, std::ops::Range<usize>), MessageError> {
        let (owner, kind, class, ttl) = (self.name()?, self.u16()?, self.u16()?, self.u32()?);
        let length = usize::from(self.u16()?);
        let data = self.at..self.at + length;
        if data.end > self.message.len() { Err(MessageError) } else { Ok((owner, kind, class, ttl, data)) }
    }

    fn records(&mut self, count: u16) -> Result<Vec<Record>, MessageError> {
        let mut records = Vec::new();
        for _ in 0..count {
            let (owner, kind, class, ttl, data) = self.head()?;
            // The highest bit is no part of a TTL (RFC 2181, section 8).
            let ttl = if ttl >> 31 == 1 { 0 } else { ttl };
            let end = data.end;
            records.push(Record { owner, ttl, data: self.data(kind, data.len())? });
            // The data must have the length that was given, and belong to what was asked for.
            if self.at != end || class != CLASS_IN {
                return Err(MessageError);
            }
        }
        Ok(records)
    }

    fn data(&mut self, kind: u16, length: usize) -> Result<Data, MessageError> {
        Ok(match kind {
            TYPE_A => Data::Address(Ipv4Addr::from(self.u32()?).into()),
            TYPE_AAAA => {
                let bytes: [u8; 16] = self.take(16)?.try_into().map_err(|_| MessageError)?;
                Data::Address(Ipv6Addr::from(bytes).into())
            }
            TYPE_MX => Data::Mx { preference: self.u16()?, exchange: self.name()? },
            TYPE_CNAME => Data::Cname(self.name()?),
            TYPE_SOA => {
                self.name()?; // of the server
                self.name()?; // of the mailbox
                self.take(16)?; // serial number and times
                Data::Soa { minimum: self.u32()? }
            }
            TYPE_NS => {
                self.name()?;
                Data::Ns
            }
            _ => {
                self.take(length)?;
                Data::Other
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    /// A response to a question about `example.org`: answers and authority, as type, TTL and data.
    fn response(flags: u16, answers: &[(u16, u32, &[u8])], authority: &[(u16, u32, &[u8])]) -> Vec<u8> {
        let mut out = Question::new(name("example.org"), TYPE_MX).message(7, false);
        out[2..4].copy_from_slice(&(0x8180 | flags).to_be_bytes());
        for (count, at) in [(answers.len(), 6), (authority.len(), 8)] {
            out[at..at + 2].copy_from_slice(&(count as u16).to_be_bytes());
        }
        for (kind, ttl, data) in answers.iter().chain(authority) {
            out.extend_from_slice(&[0xc0, 12]);
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&CLASS_IN.to_be_bytes());
            out.extend_from_slice(&ttl.to_be_bytes());
            out.extend_from_slice(&(data.len() as u16).to_be_bytes());
            out.extend_from_slice(data);
        }
        out
    }

    /// What was read of a message, as text.
    fn shown(message: &Message) -> String {
        let mut text = format!("{} final={} tc={}", message.rcode, message.is_final, message.truncated);
        for Record { owner, ttl, data } in message.answers.iter().chain(&message.authority) {
            let _ = write!(text, "; {owner} {ttl} ");
            let _ = match data {
                Data::Address(address) => write!(text, "{address}"),
                Data::Ns => write!(text, "NS"),
                Data::Cname(target) => write!(text, "CNAME {target}"),
                Data::Soa { minimum } => write!(text, "SOA {minimum}"),
                Data::Mx { preference, exchange } => write!(text, "MX {preference} {exchange}"),
                Data::Other => write!(text, "?"),
            };
        }
        text
    }

    #[test]
    fn names_are_compared_without_case_and_questions_with_it() {
        let (lower, upper) = (name("example.org"), name("EXAMPLE.org"));
        assert_eq!(lower, upper);
        assert_ne!(lower, name("example.com"));
        let question = Question::new(upper.clone(), TYPE_MX);
        let mut answer = question.message(1, true);
        assert!(!question.is_of(&answer), "a query");
        answer[2] |= 0x80;
        assert!(question.is_of(&answer));
        for other in
            [Question::new(lower, TYPE_MX), Question::new(upper, TYPE_A), Question::new(name("EXAMPLE.or"), TYPE_MX)]
        {
            assert!(!other.is_of(&answer));
        }
        for end in 0..answer.len() - 11 {
            assert!(!question.is_of(&answer[..end]), "{end}");
        }
        answer[5] = 2;
        assert!(!question.is_of(&answer), "two questions");
        for (flags, is_error) in [(0x80, false), (0x83, false), (0x81, true), (0x82, true), (0x84, true), (0x85, true)]
        {
            let header = [0, 1, 0x81, flags, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(question.is_of(&header), is_error, "{flags:x}");
            assert!(!question.is_of(&[&header[..], &[0]].concat()));
        }
    }

    #[test]
    fn responses_are_read() {
        let mx = [&[0, 10, 3][..], b"mx1", &[0xc0, 12]].concat();
        let soa = [&[0, 0][..], &[0; 16], &300u32.to_be_bytes()].concat();
        let cname = [&[4][..], b"else", &[0xc0, 12]].concat();
        let cases: [(Vec<u8>, &str); 7] = [
            (response(0, &[(15, 60, &mx)], &[]), "NOERROR final=true tc=false; example.org 60 MX 10 mx1.example.org"),
            (response(0, &[(15, 1 << 31, &[0, 0, 0])], &[]), "NOERROR final=true tc=false; example.org 0 MX 0 ."),
            (response(3, &[], &[(6, 900, &soa)]), "NXDOMAIN final=true tc=false; example.org 900 SOA 300"),
            (response(2, &[], &[]), "SERVFAIL final=true tc=false"),
            (
                response(0, &[(5, 9, &cname), (1, 5, &[127, 0, 0, 1])], &[]),
                "NOERROR final=true tc=false; example.org 9 CNAME else.example.org; example.org 5 127.0.0.1",
            ),
            (
                response(0, &[(28, 5, &[0; 16]), (46, 5, b"any")], &[]),
                "NOERROR final=true tc=false; example.org 5 ::; example.org 5 ?",
            ),
            (response(15, &[], &[(2, 5, &cname)]), "code 15 final=true tc=false; example.org 5 NS"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(shown(&Message::parse(&bytes).unwrap()), expected);
            // Each of these ends with its last record, so that nothing can be cut off.
            for end in 0..bytes.len() {
                assert!(Message::parse(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn a_truncated_message_may_end_anywhere() {
        let bytes = response(0x200, &[(15, 60, &[0, 10, 0])], &[]);
        for end in 12..bytes.len() {
            assert!(Message::parse(&bytes[..end]).unwrap().truncated, "{end}");
        }
    }

    #[test]
    fn the_upper_bits_of_the_result_are_those_of_edns() {
        let mut bytes = response(0, &[], &[]);
        bytes[11] = 1;
        bytes.extend_from_slice(&[0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0]);
        assert_eq!(shown(&Message::parse(&bytes).unwrap()), "code 16 final=true tc=false");
    }

    #[test]
    fn the_data_of_a_record_has_its_length() {
        let mx = [&[0, 10, 3][..], b"mx1", &[0xc0, 12, 0]].concat();
        for (kind, data) in [(15, &mx[..]), (1, &[1, 2, 3, 4, 5]), (5, &[0, 0]), (2, &[0, 0])] {
            assert!(Message::parse(&response(0, &[(kind, 1, data)], &[])).is_err(), "{kind}");
        }
        let mut other_class = response(0, &[(15, 1, &[0, 10, 0])], &[]);
        let at = other_class.len() - 10;
        other_class[at] = 3;
        assert!(Message::parse(&other_class).is_err());
    }
}
