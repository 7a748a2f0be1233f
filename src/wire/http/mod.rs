//! HTTP/1.1 responses (RFC 9112), parsed strictly: a response is refused where two readers could disagree about its
//! end.
//!
//! The reason is the connection, which is used for other keys afterwards. A response whose end is misread becomes the
//! answer to another key, and mail is delivered to the wrong mailbox.

mod head;
mod response;

pub use super::cache_control::CacheControl;
pub use response::{Error, ExtraHeaders, Response};

use head::{Head, MAX_BODY, MAX_HEAD, State, parse_head, plausible};
use std::borrow::Cow;

/// Maximum number of interim responses (1xx) before the final one.
const MAX_INTERIM: u32 = 100;
/// Maximum length of the size line of a chunk in bytes, including extensions.
const MAX_CHUNK_LINE: usize = 1024;
/// Maximum length of the trailer section in bytes.
const MAX_TRAILERS: usize = 16 * 1024;

/// Decodes the responses of one connection, one after another.
///
/// Head ── head parsed ──▶ Length | Chunk… | UntilEnd ── last byte ──▶ Head
///
/// [`Decoder::push`] stops after each response; it does not know whether another one is expected.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// An incomplete head, chunk size line or trailer section.
    partial: Vec<u8>,
    body: Vec<u8>,
    /// Interim responses since the last final one.
    interim: u32,
    /// The body of the next response may be taken in parts.
    streams: bool,
}

impl Decoder {
    /// Consumes `input` up to the end of the first complete response, which it returns; the bytes after it are left in
    /// `input`. `None` if all of `input` was consumed and the response is still incomplete.
    pub fn push<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Response<'a>>, Error> {
        loop {
            match std::mem::take(&mut self.state) {
                State::Head => match self.head(input)? {
                    None => return Ok(None),
                    // Interim responses carry nothing that is needed.
                    Some(State::Head) => {}
                    // Nearly always the body arrives with the head, and is neither copied nor stored in between.
                    Some(State::Length(head, length)) if length <= input.len() => {
                        let (body, rest) = input.split_at(length);
                        *input = rest;
                        return Ok(Some(head.response(Cow::Borrowed(body))));
                    }
                    Some(body) => self.state = body,
                },
                State::Length(head, missing) => return Ok(self.rest(head, missing, input)),
                State::ChunkSize(head) => match self.line(input, MAX_CHUNK_LINE, Error::Chunk)? {
                    None => {
                        self.state = State::ChunkSize(head);
                        return Ok(None);
                    }
                    Some(line) => {
                        let room = self.limit(&head) - self.body.len();
                        self.state = chunk(&line, head, room)?;
                    }
                },
                State::ChunkData(head, missing) => {
                    let missing = missing - self.take_body(input, missing);
                    if missing > 0 {
                        self.state = State::ChunkData(head, missing);
                        return Ok(None);
                    }
                    self.state = State::ChunkEnd(head);
                }
                State::ChunkEnd(head) => match self.line(input, 0, Error::Chunk)? {
                    None => {
                        self.state = State::ChunkEnd(head);
                        return Ok(None);
                    }
                    Some(_) => self.state = State::ChunkSize(head),
                },
                State::Trailers(head) => match self.trailers(input)? {
                    false => {
                        self.state = State::Trailers(head);
                        return Ok(None);
                    }
                    true => return Ok(Some(self.complete(head))),
                },
                State::UntilEnd(head) => return self.until_end(head, input).map(|()| None),
            }
        }
    }

    /// Consumes `input` up to the end of a body of which this many bytes are missing.
    fn rest<'a>(&mut self, head: Head, missing: usize, input: &mut &'a [u8]) -> Option<Response<'a>> {
        if self.body.is_empty()
            && let Some(body) = input.split_off(..missing)
        {
            return Some(head.response(Cow::Borrowed(body)));
        }
        let missing = missing - self.take_body(input, missing);
        if missing == 0 {
            return Some(self.complete(head));
        }
        self.state = State::Length(head, missing);
        None
    }

    /// Consumes `input` as a body that lasts until the end of the stream.
    fn until_end(&mut self, head: Head, input: &mut &[u8]) -> Result<(), Error> {
        // One byte more than allowed is enough to see that the body is too long.
        let limit = self.limit(&head);
        self.take_body(input, limit.saturating_add(1));
        if self.body.len() > limit {
            return Err(Error::BodyTooLong);
        }
        self.state = State::UntilEnd(head);
        Ok(())
    }

    /// Handles the end of the stream: completes a body that lasts until then. `None` if no response had begun.
    ///
    /// # Errors
    /// [`Error::Cut`] within any other response.
    pub fn end(&mut self) -> Result<Option<Response<'static>>, Error> {
        match std::mem::take(&mut self.state) {
            State::Head if self.partial.is_empty() && self.interim == 0 => Ok(None),
            // Over TLS the session reports the end only after close_notify, as any party on the path could cut the body
            // otherwise.
            State::UntilEnd(head) => Ok(Some(Response { until_end: true, ..self.complete(head) })),
            State::Head
            | State::Length(..)
            | State::ChunkSize(_)
            | State::ChunkData(..)
            | State::ChunkEnd(_)
            | State::Trailers(_) => Err(Error::Cut),
        }
    }

    /// Whether the decoder is between two responses.
    pub fn is_clean(&self) -> bool {
        matches!(self.state, State::Head) && self.partial.is_empty() && self.interim == 0
    }

    /// Whether the head of the response is still incomplete, which a timeout reports as its cause.
    pub fn in_head(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// Reads a head. If all of it is in `input`, which is the usual case, nothing is copied.
    fn head(&mut self, input: &mut &[u8]) -> Result<Option<State>, Error> {
        if input.is_empty() {
            return Ok(None);
        }
        if self.partial.is_empty() {
            if let Some((next, used)) = parse_head(input)? {
                *input = &input[used..];
                return self.begin(next).map(Some);
            }
            self.partial.extend_from_slice(input);
            *input = &[];
            return if self.partial.len() > MAX_HEAD { Err(Error::HeadTooLong) } else { Ok(None) };
        }
        let before = self.partial.len();
        self.partial.extend_from_slice(input);
        // Parsed only when an empty line has arrived: parsing at each read would take quadratic time for a head that
        // arrives byte by byte. The line may begin in the last three bytes of the previous read.
        let tail = &self.partial[before.saturating_sub(3)..];
        let parsed = if tail.windows(2).any(|end| end == b"\n\n") || tail.windows(3).any(|end| end == b"\n\r\n") {
            parse_head(&self.partial)?
        } else {
            None
        };
        match parsed {
            Some((next, used)) => {
                *input = &input[used - before..];
                self.partial.clear();
                self.begin(next).map(Some)
            }
            None if self.partial.len() > MAX_HEAD => Err(Error::HeadTooLong),
            None => {
                *input = &[];
                plausible(&self.partial).map(|()| None)
            }
        }
    }

    /// Enters the state after a head, and limits the number of interim responses.
    fn begin(&mut self, next: State) -> Result<State, Error> {
        self.interim = if matches!(next, State::Head) { self.interim + 1 } else { 0 };
        if self.interim > MAX_INTERIM {
            return Err(Error::Interim);
        }
        if let State::Length(head, length) = &next
            && *length > self.limit(head)
        {
            return Err(Error::BodyTooLong);
        }
        Ok(next)
    }

    /// Whether the body of the response that comes next may be taken in parts, of any total length.
    pub fn set_streams(&mut self, streams: bool) {
        self.streams = streams;
    }

    /// Takes out what has arrived of the body of an incomplete response with status 200, if that may be streamed.
    pub fn take_part(&mut self) -> Option<Vec<u8>> {
        let (State::Length(head, _)
        | State::ChunkSize(head)
        | State::ChunkData(head, _)
        | State::ChunkEnd(head)
        | State::Trailers(head)
        | State::UntilEnd(head)) = &self.state
        else {
            return None;
        };
        let has_part = self.streams && head.is_ok() && !self.body.is_empty();
        has_part.then(|| std::mem::take(&mut self.body))
    }

    /// Maximum length of the part of a body that is held.
    fn limit(&self, head: &Head) -> usize {
        if self.streams && head.is_ok() { usize::MAX } else { MAX_BODY }
    }

    /// Moves up to `most` bytes of the body from `input` into the buffer and returns their number.
    fn take_body(&mut self, input: &mut &[u8], most: usize) -> usize {
        let count = most.min(input.len());
        self.body.extend_from_slice(&input[..count]);
        *input = &input[count..];
        count
    }

    /// The response with the buffered body.
    fn complete(&mut self, head: Head) -> Response<'static> {
        // An idle connection holds no buffers; ten thousand of them may be open.
        self.partial = Vec::new();
        head.response(Cow::Owned(std::mem::take(&mut self.body)))
    }

    /// Reads a line of at most `limit` bytes and returns it without the CR LF. It is only copied if it arrives in
    /// pieces.
    ///
    /// # Errors
    /// `error` if it is longer, ends with a bare LF, or has a bare CR.
    fn line<'a>(&mut self, input: &mut &'a [u8], limit: usize, error: Error) -> Result<Option<Cow<'a, [u8]>>, Error> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let (taken, rest) = input.split_at(end.map_or(input.len(), |at| at + 1));
        *input = rest;
        if self.partial.len() + taken.len() > limit + 2 {
            return Err(error);
        }
        let mut line = Cow::Borrowed(taken);
        if end.is_none() || !self.partial.is_empty() {
            self.partial.extend_from_slice(taken);
            if end.is_none() {
                return Ok(None);
            }
            line = Cow::Owned(std::mem::take(&mut self.partial));
        }
        // A bare LF is not accepted as a line end, although RFC 9112, section 2.2 lets a recipient do so: in chunk
        // lines it is what known smuggling attacks build on.
        match line.strip_suffix(b"\r\n") {
            Some(text) if !text.contains(&b'\r') => {}
            _ => return Err(error),
        }
        Ok(Some(match line {
            Cow::Borrowed(line) => Cow::Borrowed(&line[..line.len() - 2]),
            Cow::Owned(mut line) => {
                line.truncate(line.len() - 2);
                Cow::Owned(line)
            }
        }))
    }

    /// Consumes the trailer section; true once its empty line has been read.
    fn trailers(&mut self, input: &mut &[u8]) -> Result<bool, Error> {
        for (at, byte) in input.iter().enumerate() {
            self.partial.push(*byte);
            // Trailers are ignored, and checked byte by byte as nearly no response has any.
            if self.partial.len() > MAX_TRAILERS {
                return Err(Error::Trailers);
            }
            if self.partial == b"\r\n" || self.partial.ends_with(b"\r\n\r\n") {
                *input = &input[at + 1..];
                return check_trailers(&self.partial).map(|()| true);
            }
        }
        *input = &[];
        Ok(false)
    }
}

/// The state after the size line of a chunk, for which there is `room`.
fn chunk(line: &[u8], head: Head, room: usize) -> Result<State, Error> {
    // Digits are taken by hand because `from_str_radix` accepts a leading plus.
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extension) = line.split_at(digits);
    // Some servers pad the size with blanks to a fixed width.
    let blanks = extension.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    if !matches!(extension[blanks..], [] | [b';', ..]) {
        return Err(Error::Chunk);
    }
    let size = std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
    match size.ok_or(Error::Chunk)? {
        0 => Ok(State::Trailers(head)),
        size if size > room as u64 => Err(Error::BodyTooLong),
        size => Ok(State::ChunkData(head, size as usize)),
    }
}

/// Checks that each trailer is a field: a bare CR or LF or a folded line could hide the start of another response.
fn check_trailers(section: &[u8]) -> Result<(), Error> {
    let lines = section.strip_suffix(b"\r\n").ok_or(Error::Trailers)?;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let field = line.strip_suffix(b"\r\n").ok_or(Error::Trailers)?;
        let name = field.split(|byte| *byte == b':').next().unwrap_or_default();
        let has_name = name.len() < field.len() && !name.is_empty();
        if !has_name || field.contains(&b'\r') || name.iter().any(|byte| !byte.is_ascii_graphic()) {
            return Err(Error::Trailers);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::head::MAX_FIELDS;
    use super::*;
    use std::time::{Duration, SystemTime};

    /// The bytes of a connection, and what is decoded from them: `status keep body` of each response, then `.` if the
    /// stream may end there, or the error.
    const CASES: &[(&[u8], &[&str])] = &[
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\"a\"", &["200 keep \"a\"", "."]),
        (b"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", &["200 keep ", "."]),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnull", &["404 keep null", "."]),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnul", &["cut"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n41", &["200 close 41", "."]),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\nConnection: x, Close\r\n\r\n41", &["200 close 41", "."]),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\nConnection: close, keep-alive\r\n\r\n41", &["200 close 41", "."]),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n41", &["200 close 41", "."]),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\n41", &["200 keep 41", "."]),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", &["200 close until the end", "."]),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", &["204 keep ", "."]),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", &["304 keep ", "."]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\n4\r\n1;x=y\r\n1\r\n0\r\n\r\n", &["200 keep 41", "."]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2  \r\n41\r\n0 \t\r\n\r\n", &["200 keep 41", "."]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \t;x=y\r\n41\r\n0;x\r\n\r\n", &["200 keep 41", "."]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n002\r\n41\r\n0\r\nA: b\r\nC:\r\n\r\n", &["200 keep 41", "."]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n41\r\n0\r\n", &["cut"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n41\r\n", &["cut"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n411\r\n0\r\n\r\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\n41\n0\n\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n41\r\n0\r\n\r\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 1\r\n41\r\n0\r\n\r\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \x0c\r\n41\r\n0\r\n\r\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 2\r\n41\r\n0\r\n\r\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \n41\n0\n\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n41 \r\n0\r\n\r\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n41\r\n \r\n\r\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\n41\r\n0\r\n\r\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n41\r\n0\r\n\r\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n41\r\n0\r\n\r\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\rx\r\n41\r\n0\r\n\r\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n", &["body"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", &["chunk"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n A: folded\r\n\r\n", &["trailers"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nno field\r\n\r\n", &["trailers"]),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n41", &["200 keep 41", "."]),
        (b"HTTP/1.1 100 Continue\r\n\r\n", &["cut"]),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", &["interim"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", &["200 keep 1", "404 keep ", "."]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n12345", &["200 keep 12345", "."]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 4\r\n\r\n12345", &["length"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n12345", &["length"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", &["length"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n1", &["length"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0x1\r\n\r\n1", &["length"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", &["length"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", &["length"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4194305\r\n\r\n", &["body"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &["length"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", &["coding"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &["coding"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", &["coding"]),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &["coding"]),
        (b"HTTP/1.1 20 OK\r\n\r\n", &["head"]),
        (b"HTTP/1.1 2000 OK\r\n\r\n", &["head"]),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", &["head"]),
        (b"HTTP/2 200 OK\r\n\r\n", &["head"]),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", &["head"]),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", &["head"]),
        (b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", &["head"]),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", &["head"]),
        (b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &["head"]),
        (b"<html>", &["head"]),
        (b"HTTP/1.1 200 OK\r\nContent-Le", &["cut"]),
        (b"", &["."]),
    ];

    #[test]
    fn any_split_of_the_input_gives_the_same_responses() {
        for (input, expected) in CASES {
            for step in 1..=input.len().max(1) {
                assert_eq!(read(input, step), *expected, "step {step} of {}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn a_body_may_be_taken_in_parts() {
        let head = "HTTP/1.1 200 OK\r\n";
        for (framed, body) in [
            (format!("{head}Content-Length: 5\r\n\r\nabcde"), "abcde"),
            (format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3;x\r\ncde\r\n0\r\nA: b\r\n\r\n"), "abcde"),
            (format!("{head}\r\nabcde"), "abcde"),
            ("HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\nabcde".to_owned(), "-abcde"),
        ] {
            for step in 1..framed.len() {
                let (mut decoder, mut got, mut response) = (Decoder::default(), Vec::new(), None);
                decoder.set_streams(true);
                for mut piece in framed.as_bytes().chunks(step) {
                    response = decoder.push(&mut piece).unwrap();
                    got.extend(decoder.take_part().unwrap_or_default());
                }
                let end = decoder.end().unwrap();
                let response = response.or(end).expect("a response");
                // A response with another status is whole.
                got.extend(if response.status == 200 { &b""[..] } else { b"-" });
                got.extend_from_slice(&response.body);
                assert_eq!(String::from_utf8(got).unwrap(), body, "step {step} of {framed}");
            }
        }
        let long = "x".repeat(MAX_BODY + 1);
        for framed in [
            format!("{head}Content-Length: {}\r\n\r\n{long}", MAX_BODY + 1),
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n", MAX_BODY + 1),
            format!("{head}\r\n{long}"),
        ] {
            let (mut decoder, mut size) = (Decoder::default(), 0);
            decoder.set_streams(true);
            for mut piece in framed.as_bytes().chunks(65_536) {
                let response = decoder.push(&mut piece).unwrap();
                let piece = decoder.take_part().unwrap_or_default();
                assert!(piece.len() <= 65_536);
                size += piece.len() + response.map_or(0, |response| response.body.len());
            }
            assert_eq!(size, MAX_BODY + 1);
        }
    }

    #[test]
    fn sizes_are_bounded_while_the_bytes_arrive() {
        let head = |field: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{field}\r\n");
        let cases = [
            (format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(MAX_HEAD)), "headtoolong"),
            (format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS + 1)), "toomanyfields"),
            (format!("{}1;{}", head(""), "x".repeat(MAX_CHUNK_LINE + 1)), "chunk"),
            (format!("{}0\r\nA: {}", head(""), "x".repeat(MAX_TRAILERS)), "trailers"),
            (format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX_BODY + 1)), "body"),
            ("HTTP/1.1 100 Continue\r\n\r\n".repeat(MAX_INTERIM as usize + 1), "interim"),
        ];
        for (input, expected) in cases {
            for step in [1000, 65_536, input.len()] {
                assert_eq!(read(input.as_bytes(), step), [expected], "step {step}");
            }
        }
    }

    #[test]
    fn a_body_in_one_piece_is_not_copied() {
        let mut input = &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n41rest"[..];
        let response = Decoder::default().push(&mut input).unwrap().unwrap();
        assert!(matches!(response.body, Cow::Borrowed(b"41")));
        assert_eq!(input, b"rest");
    }

    #[test]
    fn cache_fields_of_a_head_reach_the_response() {
        let mut input = &b"HTTP/1.1 200 OK\r\nAge: 20\r\ncache-control: max-age=60\r\nContent-Length: 0\r\n\r\n"[..];
        let response = Decoder::default().push(&mut input).unwrap().unwrap();
        assert_eq!(response.cache_control().lifetime(SystemTime::now), Some(Duration::from_secs(40)));
        let cases: &[(&str, bool, Option<u64>)] = &[
            ("Date: Fri, 05 Jun 2026 10:00:00 GMT\r\nexpires: Fri, 05 Jun 2026 10:01:00 GMT", false, Some(60)),
            ("Expires: Fri, 05 Jun 2026 10:01:00 GMT\r\nDATE: Fri, 05 Jun 2026 10:00:30 GMT", false, Some(30)),
            ("Date: Fri, 05 Jun 2026 10:00:00 GMT\r\nExpires: 0", false, Some(0)),
            ("Date: Fri, 05 Jun 2026 10:00:00 GMT\r\nVary: Accept", false, None),
            ("VARY: *", true, None),
            ("pragma: no-cache", true, None),
        ];
        for (fields, never, fresh) in cases {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 0\r\n\r\n");
            let control = Decoder::default().push(&mut head.as_bytes()).unwrap().unwrap().cache_control();
            let got = (control.never(), control.lifetime(SystemTime::now));
            assert_eq!(got, (*never, fresh.map(Duration::from_secs)), "{fields}");
        }
    }

    #[test]
    fn location_and_keep_alive_are_returned() {
        let mut input =
            &b"HTTP/1.1 308 Moved\r\nLocation: /x/\r\nKeep-Alive: max=9, timeout=5\r\nContent-Length: 0\r\n\r\n"[..];
        let response = Decoder::default().push(&mut input).unwrap().unwrap();
        assert_eq!(response.location(), Some(&b"/x/"[..]));
        assert_eq!(response.keep_alive_timeout, Some(Duration::from_secs(5)));
    }

    /// Feeds `input` in pieces of `step` bytes and then the end of the stream. Returns the notation of `CASES`.
    fn read(input: &[u8], step: usize) -> Vec<String> {
        let (mut decoder, mut got) = (Decoder::default(), Vec::new());
        for mut piece in input.chunks(step) {
            loop {
                match decoder.push(&mut piece) {
                    Ok(Some(response)) => got.push(show(&response)),
                    Ok(None) => break assert!(piece.is_empty()),
                    Err(error) => return vec![word(error)],
                }
                if piece.is_empty() {
                    break;
                }
            }
        }
        match decoder.end() {
            Ok(Some(response)) => got.extend([show(&response), ".".into()]),
            Ok(None) => got.push(".".into()),
            Err(error) => return vec![word(error)],
        }
        got
    }

    fn show(response: &Response<'_>) -> String {
        let keep = if response.keep_alive { "keep" } else { "close" };
        format!("{} {keep} {}", response.status, String::from_utf8_lossy(&response.body))
    }

    fn word(error: Error) -> String {
        match error {
            Error::BodyTooLong => "body".into(),
            error => format!("{error:?}").to_lowercase(),
        }
    }
}
