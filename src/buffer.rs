//! Input and output buffers of connections.

use crate::secret::{Secret, wipe};
use std::fmt;

/// Default capacity in bytes up to which an empty buffer retains its memory.
// Ten thousand clients may be connected: each retains the memory of its usual reply, but not that of its largest one.
const RETAINED: usize = 1024;

/// The capacity in bytes above which an input buffer that has used most of its bytes is shrunk.
// What remains after a long line may stay as long as its client is not read.
const MAX_SPARE: usize = 128 * 1024;

/// The number of sent bytes from which on those of a buffer that is never empty are removed.
// A client that reads steadily, and is always given more, held 200 MB of what it had read.
const MAX_SENT: usize = 64 * 1024;

/// Bytes to be written to the socket.
pub struct Output {
    bytes: Vec<u8>,
    sent: usize,
    retained: usize,
    /// It may hold a password, and is overwritten once it is empty.
    is_secret: bool,
}

impl Default for Output {
    fn default() -> Self {
        Self::retaining(RETAINED)
    }
}

impl Output {
    /// A buffer that retains up to `retained` bytes of memory while it is empty.
    pub fn retaining(retained: usize) -> Self {
        Self { bytes: Vec::new(), sent: 0, retained, is_secret: false }
    }

    /// Sets the number of bytes of memory that the buffer retains while it is empty.
    pub fn set_retained(&mut self, retained: usize) {
        self.retained = retained;
    }

    /// Has the memory overwritten once the buffer is empty.
    pub fn set_secret(&mut self) {
        self.is_secret = true;
    }

    /// The end of the buffer, where encoders append.
    pub fn writer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The bytes that the socket has not accepted yet.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Removes `count` bytes that the socket has accepted.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        // A position instead of a removal: moving the rest to the front at each partial write would copy long replies
        // repeatedly. Moved once it is no longer than what it replaces, no byte costs more than one copy.
        self.sent += count;
        debug_assert!(self.sent <= self.bytes.len(), "more bytes sent than buffered");
        if self.is_empty() {
            self.sent = 0;
            if std::mem::take(&mut self.is_secret) {
                wipe(&mut self.bytes);
            }
            recycle(&mut self.bytes, self.retained);
        } else if self.sent >= MAX_SENT.max(self.bytes.len() / 2) {
            self.bytes.drain(..std::mem::take(&mut self.sent));
        }
    }
}

/// Received bytes of an incomplete frame.
#[derive(Default)]
pub struct Input {
    buffered: Vec<u8>,
    /// What was used may have been a password, and is overwritten.
    is_secret: bool,
}

impl Drop for Input {
    fn drop(&mut self) {
        if self.is_secret {
            wipe(&mut self.buffered);
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.is_secret {
            wipe(&mut self.bytes);
        }
    }
}

// Without the bytes, which may be a password.
impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({} bytes)", self.buffered.len())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({} bytes)", self.unsent().len())
    }
}

impl Input {
    /// Has the memory of what was used overwritten.
    pub fn set_secret(&mut self) {
        self.is_secret = true;
    }

    pub fn is_empty(&self) -> bool {
        self.buffered.is_empty()
    }

    /// The buffered bytes followed by those that have arrived. Nothing is copied if nothing is buffered, which is the
    /// usual case. The caller returns the unused rest with [`Input::put_back`].
    pub fn join<'a>(&mut self, arrived: &'a [u8]) -> Joined<'a> {
        // The usual case, as requests are short and mostly arrive whole.
        if self.buffered.is_empty() { Joined::Arrived(arrived) } else { self.append(arrived) }
    }

    #[inline(never)]
    fn append(&mut self, arrived: &[u8]) -> Joined<'static> {
        let mut buffered = std::mem::take(&mut self.buffered);
        if self.is_secret {
            let joined = [&buffered[..], arrived].concat();
            wipe(&mut buffered); // it would be moved, and leave a copy
            return Joined::Secret(joined.into());
        }
        buffered.extend_from_slice(arrived);
        Joined::Buffered(buffered)
    }

    /// Buffers the bytes of `joined` from `used` on.
    pub fn put_back(&mut self, joined: Joined<'_>, used: usize) {
        debug_assert!(self.buffered.is_empty(), "bytes are buffered out of order");
        match joined {
            Joined::Arrived(bytes) => self.buffered.extend_from_slice(&bytes[used..]),
            Joined::Secret(bytes) => self.buffered = bytes[used..].to_vec(),
            Joined::Buffered(mut bytes) => {
                bytes.drain(..used);
                if bytes.is_empty() {
                    recycle(&mut bytes, RETAINED);
                } else if used > 0 && bytes.capacity() > MAX_SPARE {
                    bytes.shrink_to_fit();
                }
                self.buffered = bytes;
            }
        }
    }
}

/// The result of [`Input::join`].
pub enum Joined<'a> {
    Arrived(&'a [u8]),
    Buffered(Vec<u8>),
    /// They may be a password.
    Secret(Secret),
}

impl Joined<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Joined::Arrived(bytes) => bytes,
            Joined::Buffered(bytes) => bytes,
            Joined::Secret(bytes) => bytes,
        }
    }
}

/// Clears a buffer, and frees its memory if its capacity exceeds `retained` bytes.
fn recycle(bytes: &mut Vec<u8>, retained: usize) {
    if bytes.capacity() > retained {
        *bytes = Vec::new();
    } else {
        bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_sent_in_pieces_and_frees_the_memory_of_a_burst() {
        let mut output = Output::default();
        output.writer().extend_from_slice(&[b'x'; 3 * RETAINED]);
        output.advance(1);
        assert_eq!(output.unsent().len(), 3 * RETAINED - 1);
        output.advance(3 * RETAINED - 1);
        assert!(output.is_empty() && output.writer().capacity() == 0);
    }

    #[test]
    fn output_that_is_never_empty_does_not_grow() {
        let mut output = Output::default();
        output.writer().extend_from_slice(&[b'-'; 100_000]);
        for number in 0..10_000 {
            output.writer().extend_from_slice(format!("{number:1000}").as_bytes());
            output.advance(1000);
        }
        assert!(output.unsent().len() == 100_000 && output.unsent().ends_with(b" 9999"));
        assert!(output.bytes.capacity() < 1_000_000, "{}", output.bytes.capacity());
    }

    #[test]
    fn input_buffers_only_the_unused_rest() {
        let mut input = Input::default();
        let joined = input.join(b"one,tw");
        input.put_back(joined, 4);
        let joined = input.join(b"o,");
        assert_eq!(joined.bytes(), b"two,");
        input.put_back(joined, 4);
        assert!(input.is_empty());
    }

    #[test]
    fn input_gives_back_the_memory_of_a_long_line() {
        let mut input = Input::default();
        for piece in [&[b'x'; 10 * MAX_SPARE][..], b"rest of it\nnext"] {
            let joined = input.join(piece);
            let used = joined.bytes().iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            input.put_back(joined, used);
        }
        assert_eq!((&input.buffered[..], input.buffered.capacity() <= MAX_SPARE), (&b"next"[..], true));
    }
}
