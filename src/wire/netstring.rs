//! Netstrings, `LENGTH:PAYLOAD,`: the frames of Postfix socketmap (netstring.c, dict_sockmap.c).

use std::fmt;

/// Why the input is not a netstring. The frame boundaries are lost then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Error {
    /// The length is empty, not decimal, or padded with a zero.
    Length,
    /// The announced payload is longer than the limit.
    TooLong,
    /// The payload is not followed by a comma.
    Terminator,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Length => "netstring length is not a number",
            Error::TooLong => "netstring is too long",
            Error::Terminator => "netstring does not end with a comma",
        })
    }
}

/// Cuts one netstring off the front of `input`: its payload and the bytes it took in all, or `None`
/// until more bytes are there. A payload longer than `limit` bytes is refused as soon as its length is read.
pub fn decode(input: &[u8], limit: usize) -> Result<Option<(&[u8], usize)>, Error> {
    let mut length = 0;
    for (at, &byte) in input.iter().enumerate() {
        match byte {
            b':' if at > 0 => return payload(input, at + 1, length),
            b'0'..=b'9' if at == 0 || length > 0 => length = length * 10 + usize::from(byte - b'0'),
            _ => return Err(Error::Length),
        }
        if length > limit {
            return Err(Error::TooLong);
        }
    }
    Ok(None)
}

fn payload(input: &[u8], start: usize, length: usize) -> Result<Option<(&[u8], usize)>, Error> {
    match input.get(start + length) {
        None => Ok(None),
        Some(b',') => Ok(Some((&input[start..start + length], start + length + 1))),
        Some(_) => Err(Error::Terminator),
    }
}

/// Appends the netstring of `parts` joined together.
pub fn encode(parts: &[&[u8]], out: &mut Vec<u8>) {
    let payload = parts.iter().map(|part| part.len()).sum::<usize>();
    // Digits and colon, from the end of an array that no length fills.
    let (mut head, mut at, mut length) = ([b':'; 21], 20, payload);
    loop {
        at -= 1;
        head[at] = b'0' + (length % 10) as u8;
        length /= 10;
        if length == 0 {
            break;
        }
    }
    out.reserve(head.len() - at + payload + 1);
    out.extend_from_slice(&head[at..]);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.push(b',');
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 20;

    /// What goes in, the payloads that come out, and how it ends. A new case is one line.
    type Case = (&'static [u8], &'static [&'static [u8]], Result<(), Error>);
    const CASES: &[Case] = &[
        (b"", &[], Ok(())),
        (b"0:,", &[b""], Ok(())),
        (b"1:a,2:bc,3:d", &[b"a", b"bc"], Ok(())),
        (b"18:alias found@x.test,", &[b"alias found@x.test"], Ok(())),
        (b"6:alias ,5:a:b,c,", &[b"alias ", b"a:b,c"], Ok(())),
        (b"20:12345678901234567890,", &[b"12345678901234567890"], Ok(())),
        (b"21:", &[], Err(Error::TooLong)),
        (b"99999999999999999999999999:", &[], Err(Error::TooLong)),
        (b"01:a,", &[], Err(Error::Length)),
        (b"00:,", &[], Err(Error::Length)),
        (b":a,", &[], Err(Error::Length)),
        (b" 8:OK value,", &[], Err(Error::Length)),
        (b"9x:OK value,", &[], Err(Error::Length)),
        (b"-1:a,", &[], Err(Error::Length)),
        (b"GET / HTTP/1.1\r\n", &[], Err(Error::Length)),
        (b"1:a,2:bcd", &[b"a"], Err(Error::Terminator)),
        (b"8:OK value;", &[], Err(Error::Terminator)),
    ];

    #[test]
    fn any_split_of_the_input_gives_the_same_payloads() {
        for (input, payloads, end) in CASES {
            for step in 1..=input.len().max(1) {
                let (mut held, mut got, mut ended) = (Vec::new(), Vec::new(), Ok(()));
                'all: for piece in input.chunks(step) {
                    held.extend_from_slice(piece);
                    loop {
                        match decode(&held, LIMIT) {
                            Ok(None) => break,
                            Ok(Some((payload, used))) => {
                                got.push(payload.to_vec());
                                held.drain(..used);
                            }
                            Err(error) => {
                                ended = Err(error);
                                break 'all;
                            }
                        }
                    }
                }
                assert_eq!((&got[..], ended), (&payloads.iter().map(|p| p.to_vec()).collect::<Vec<_>>()[..], *end));
            }
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for length in [0, 1, 9, 10, 99, 100, 100_000] {
            let (text, mut out) = (vec![b'x'; length], Vec::new());
            encode(&[b"OK ", &text], &mut out);
            let (payload, used) = decode(&out, 200_000).unwrap().unwrap();
            assert_eq!((payload.len(), used), (length + 3, out.len()));
        }
    }
}
