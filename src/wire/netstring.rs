//! Netstrings, `LENGTH:PAYLOAD,`: the framing of Postfix socketmap (netstring.c and dict_sockmap.c).

use std::fmt;

/// Why the input is not a netstring. The frame boundaries are lost after that, so the connection cannot be used
/// further.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Error {
    /// The length is empty, not decimal, or has a leading zero.
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

/// Decodes the netstring at the front of `input`: its payload and its encoded length in bytes, or `None` if it is
/// incomplete.
///
/// A payload longer than `limit` bytes is refused as soon as its length has been read, before its bytes are buffered.
pub fn decode(input: &[u8], limit: usize) -> Result<Option<(&[u8], usize)>, Error> {
    match length(input, limit)? {
        Some((length, start)) => payload(input, start, length),
        None => Ok(None),
    }
}

/// Decodes the length at the front of `input`: the length of the payload, and where the payload begins. `None` if the
/// colon after it is missing.
pub fn length(input: &[u8], limit: usize) -> Result<Option<(usize, usize)>, Error> {
    let mut length = 0;
    for (at, &byte) in input.iter().enumerate() {
        match byte {
            b':' if at > 0 => return Ok(Some((length, at + 1))),
            // A leading zero would give one payload several encodings; the specification of netstrings forbids it, and
            // Postfix never sends one.
            b'0'..=b'9' if at == 0 || length > 0 => length = length * 10 + usize::from(byte - b'0'),
            _ => return Err(Error::Length),
        }
        // Checked for each digit, so that `length` cannot overflow.
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

/// Appends the netstring of the concatenated `parts` to `out`.
pub fn encode(parts: &[&[u8]], out: &mut Vec<u8>) {
    let payload = parts.iter().map(|part| part.len()).sum::<usize>();
    // Written backwards from the colon: the formatting machinery costs more than the digits. 20 of them hold any u64.
    let (mut head, mut at, mut length) = ([b':'; 21], 20, payload);
    loop {
        at -= 1;
        head[at] = b'0' + (length % 10) as u8;
        length /= 10;
        if length == 0 {
            break;
        }
    }
    // Reserved once, as growing in steps would reallocate for each part.
    out.reserve(head.len() - at + payload + 1);
    out.extend_from_slice(&head[at..]);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.push(b',');
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 20;

    /// Input, payloads, and how it ends. A new case is one line.
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
                let (mut buffered, mut got, mut ended) = (Vec::new(), Vec::new(), Ok(()));
                'all: for piece in input.chunks(step) {
                    buffered.extend_from_slice(piece);
                    loop {
                        match decode(&buffered, LIMIT) {
                            Ok(None) => break,
                            Ok(Some((payload, used))) => {
                                got.push(payload.to_vec());
                                buffered.drain(..used);
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
    fn encoding_and_decoding_are_inverse() {
        for length in [0, 1, 9, 10, 99, 100, 100_000] {
            let (text, mut out) = (vec![b'x'; length], Vec::new());
            encode(&[b"OK ", &text], &mut out);
            let (payload, used) = decode(&out, 200_000).unwrap().unwrap();
            assert_eq!((payload.len(), used), (length + 3, out.len()));
        }
    }
}
