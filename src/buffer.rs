//! Bytes on their way in or out of one connection.

/// Empty buffers up to this capacity are kept for the next use, where nothing else is said; larger ones give
/// their memory back.
const KEPT: usize = 1024; // bytes

/// Bytes waiting for the kernel to take them.
#[derive(Debug)]
pub struct Output {
    bytes: Vec<u8>,
    sent: usize,
    kept: usize,
}

impl Default for Output {
    fn default() -> Self {
        Self::keeping(KEPT)
    }
}

impl Output {
    /// Keeps so many bytes of memory while it is empty.
    pub fn keeping(kept: usize) -> Self {
        Self { bytes: Vec::new(), sent: 0, kept }
    }

    /// Keeps so many bytes of memory while it is empty, from now on.
    pub fn keep(&mut self, kept: usize) {
        self.kept = kept;
    }

    /// Where encoders append.
    pub fn end(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What the kernel has not taken yet.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Notes that the kernel took `count` bytes.
    pub fn advance(&mut self, count: usize) {
        self.sent += count;
        debug_assert!(self.sent <= self.bytes.len(), "more was sent than there is");
        if self.is_empty() {
            self.sent = 0;
            recycle(&mut self.bytes, self.kept);
        }
    }
}

/// Bytes that arrived and could not be used yet, because their frame is incomplete.
#[derive(Debug, Default)]
pub struct Input {
    held: Vec<u8>,
}

impl Input {
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What is held together with what has just arrived. Nothing is copied when nothing is held.
    /// The caller gives the unused rest back with [`Input::keep`].
    pub fn join<'a>(&mut self, arrived: &'a [u8]) -> Joined<'a> {
        if self.held.is_empty() {
            return Joined::Arrived(arrived);
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(arrived);
        Joined::Held(held)
    }

    /// Keeps the part of `joined` from `used` on for later.
    pub fn keep(&mut self, joined: Joined<'_>, used: usize) {
        debug_assert!(self.held.is_empty(), "bytes of the future were kept before those of the past");
        match joined {
            Joined::Arrived(bytes) => self.held.extend_from_slice(&bytes[used..]),
            Joined::Held(mut bytes) => {
                bytes.drain(..used);
                if bytes.is_empty() {
                    recycle(&mut bytes, KEPT);
                }
                self.held = bytes;
            }
        }
    }
}

/// See [`Input::join`].
#[derive(Debug)]
pub enum Joined<'a> {
    Arrived(&'a [u8]),
    Held(Vec<u8>),
}

impl Joined<'_> {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Joined::Arrived(bytes) => bytes,
            Joined::Held(bytes) => bytes,
        }
    }
}

/// Empties a buffer, and gives its memory back if it has grown beyond `kept` bytes.
fn recycle(bytes: &mut Vec<u8>, kept: usize) {
    if bytes.capacity() > kept {
        *bytes = Vec::new();
    } else {
        bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_sent_in_pieces_and_memory_of_a_burst_is_given_back() {
        let mut output = Output::default();
        output.end().extend_from_slice(&[b'x'; 3 * KEPT]);
        output.advance(1);
        assert_eq!(output.unsent().len(), 3 * KEPT - 1);
        output.advance(3 * KEPT - 1);
        assert!(output.is_empty() && output.end().capacity() == 0);
    }

    #[test]
    fn input_keeps_only_what_was_not_used() {
        let mut input = Input::default();
        let joined = input.join(b"one,tw");
        input.keep(joined, 4);
        let joined = input.join(b"o,");
        assert_eq!(joined.bytes(), b"two,");
        input.keep(joined, 4);
        assert!(input.is_empty());
    }
}
