//! Bytes that are overwritten when they are not needed any more.

use std::fmt;
use std::hint::black_box;
use std::ops::Deref;

/// Bytes of a password, or that may hold one. `Debug` does not show them, and dropping them overwrites their memory.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Empty, with memory for this many bytes. More would be moved, and leave a copy.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// The end of the bytes, where encoders append.
    pub fn writer(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Overwrites all memory of a buffer, and empties it.
pub fn wipe(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.capacity(), 0);
    overwrite(bytes);
    bytes.clear();
}

/// Overwrites bytes.
pub fn overwrite(bytes: &mut [u8]) {
    bytes.fill(0);
    black_box(bytes); // else the compiler may see that they are not read again
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown_and_leaves_nothing() {
        let mut secret = Secret::with_capacity(16);
        secret.writer().extend_from_slice(b"password");
        assert_eq!((&secret[..], &format!("{secret:?}")[..]), (&b"password"[..], "(8 bytes)"));
        let mut bytes = secret.to_vec();
        bytes.reserve_exact(8);
        wipe(&mut bytes);
        bytes.resize(bytes.capacity(), 1);
        assert!(bytes.iter().all(|byte| *byte == 1));
        let mut slice = *b"password";
        overwrite(&mut slice);
        assert_eq!(slice, [0; 8]);
    }
}
