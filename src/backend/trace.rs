//! Ids of requests that backends log, too (W3C Trace Context, `traceparent`).

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};

/// The id of a request: 16 bytes that no other request has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceId(u128);

impl TraceId {
    /// A random id, never 0.
    // Each state of the standard library's hasher has a key that no other has had.
    pub(super) fn random() -> Self {
        let random = || u128::from(RandomState::new().build_hasher().finish());
        Self((random() << 64 | random()).max(1))
    }

    /// Appends the field `traceparent`. The span that is its parent has the upper half of the id.
    pub(super) fn write_to(self, out: &mut Vec<u8>) -> io::Result<()> {
        write!(out, "traceparent: 00-{self}-{:016x}-01\r\n", ((self.0 >> 64) as u64).max(1))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_differ_and_have_the_form_of_the_standard() {
        let ids: HashSet<String> = (0..10_000).map(|_| TraceId::random().to_string()).collect();
        assert_eq!(ids.len(), 10_000);
        let mut field = Vec::new();
        TraceId(1 << 64 | 0xabc).write_to(&mut field).unwrap();
        let expected = "traceparent: 00-00000000000000010000000000000abc-0000000000000001-01\r\n";
        assert_eq!(String::from_utf8(field).unwrap(), expected);
        assert_eq!(TraceId(1).to_string().len(), 32);
    }
}
