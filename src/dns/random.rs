//! Random numbers that cannot be predicted.

use crate::system;

/// Random bytes from the kernel, in portions.
// A system call for each question would cost more than all else that is done for it.
#[derive(Debug)]
pub(super) struct Random {
    bytes: [u8; 256],
    used: usize,
}

impl Default for Random {
    fn default() -> Self {
        Self { bytes: [0; 256], used: 256 }
    }
}

impl Random {
    pub(super) fn u64(&mut self) -> u64 {
        let mut number = [0; 8];
        self.fill(&mut number);
        u64::from_ne_bytes(number)
    }

    /// Fills a few bytes.
    fn fill(&mut self, out: &mut [u8]) {
        if self.bytes.len() - self.used < out.len() {
            system::random(&mut self.bytes);
            self.used = 0;
        }
        out.copy_from_slice(&self.bytes[self.used..self.used + out.len()]);
        self.used += out.len();
    }

    pub(super) fn u16(&mut self) -> u16 {
        let mut number = [0; 2];
        self.fill(&mut number);
        u16::from_ne_bytes(number)
    }
}
