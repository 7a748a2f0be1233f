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
        if self.used == self.bytes.len() {
            system::random(&mut self.bytes);
            self.used = 0;
        }
        let mut number = [0; 8];
        number.copy_from_slice(&self.bytes[self.used..self.used + 8]);
        self.used += 8;
        u64::from_ne_bytes(number)
    }

    pub(super) fn u16(&mut self) -> u16 {
        self.u64() as u16
    }
}
