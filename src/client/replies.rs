//! The order of replies to one client.

use std::collections::BTreeMap;

/// Writes replies in the order of the requests, or marks those that overtake others with async ids.
///
/// Postfix and old dict clients match replies to requests by order alone. A dict client of protocol 2.1 or later
/// accepts any order if the server announces an id for a request (`*ID`) and prefixes the reply with it (`+ID TAB`).
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// The sequence number of the next request, counted from 0.
    next: u64,
    /// The first request whose reply is incomplete and, with ids, that has no id either: every earlier request has
    /// its reply or an id.
    first: u64,
    /// Requests without a complete reply.
    open: usize,
    /// Replies that wait for earlier ones, by sequence number; unused with ids.
    early: BTreeMap<u64, Vec<u8>>,
    early_bytes: usize,
    /// Whether async ids are used (dict protocol 2.1 and later).
    ids: bool,
    /// Replies have ids of their own, and may come in any order.
    unordered: bool,
    /// The first request that gets no reply, as its connection is closed then. None behind it gets any.
    cut: Option<u64>,
    /// Open requests that have an async id.
    identified: usize,
}

/// Whether more follows for the same request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    More,
    Last,
}

impl Replies {
    /// Allows async ids, which dict clients understand from protocol 2.1 on.
    pub(super) fn allow_ids(&mut self, allowed: bool) {
        self.ids = allowed;
    }

    /// Allows replies in any order, which have ids of their own.
    pub(super) fn allow_any_order(&mut self) {
        self.unordered = true;
    }

    /// A request gets no reply, and none behind it, as the client would take that for its own.
    pub(super) fn cut(&mut self, seq: u64) {
        self.cut = Some(self.cut.map_or(seq, |other| other.min(seq)));
    }

    /// True if nothing is left to be written.
    pub(super) fn is_complete(&self) -> bool {
        self.open == 0 || !self.unordered && self.cut.is_some_and(|cut| self.first > cut)
    }

    /// Requests without a complete reply.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Bytes of replies that wait for earlier ones.
    pub(super) fn early_bytes(&self) -> usize {
        self.early_bytes
    }

    /// True if a row of this request could be written now.
    pub(super) fn may_stream(&self, seq: u64) -> bool {
        self.ids || self.first == seq
    }

    /// Assigns a sequence number to a new request.
    pub(super) fn enter(&mut self) -> u64 {
        self.next += 1;
        self.open += 1;
        self.next - 1
    }

    /// Writes a reply, or stores it until the earlier ones are written.
    pub(super) fn write(&mut self, seq: u64, part: Part, out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
        if part == Part::Last {
            self.open -= 1;
        }
        if self.unordered {
            return encode(out);
        }
        // Never stored: the id tells the client which command the reply belongs to.
        if self.ids {
            self.write_id(seq, part, out);
            encode(out);
        } else if seq == self.first {
            if self.cut.is_none_or(|cut| seq < cut) {
                encode(out);
            }
            if part == Part::Last {
                self.first += 1;
                // Checked first, as replies nearly always arrive in order.
                if !self.early.is_empty() {
                    self.catch_up(out);
                }
            }
        } else {
            debug_assert_eq!(part, Part::Last, "rows are streamed only when it is their turn");
            let mut bytes = Vec::new();
            encode(&mut bytes);
            self.early_bytes += bytes.len();
            self.early.insert(seq, bytes);
        }
    }

    /// Writes the stored replies that are next in order.
    fn catch_up(&mut self, out: &mut Vec<u8>) {
        while let Some(bytes) = self.early.remove(&self.first) {
            self.early_bytes -= bytes.len();
            if self.cut.is_none_or(|cut| self.first < cut) {
                out.extend_from_slice(&bytes);
            }
            self.first += 1;
        }
    }

    /// Writes the async ids that a reply needs.
    ///
    /// A reply to the oldest open request needs none: the client takes a reply without an id for that one, even if it
    /// has an id (`dict_conn_input_line` in dict-client.c). Before any other reply, every request up to its own gets an
    /// id, because the client assigns `*ID` lines to its commands in order.
    fn write_id(&mut self, seq: u64, part: Part, out: &mut Vec<u8>) {
        // As long as an id is open, `first` is not the oldest open request, and a reply without an id would go to the
        // wrong one.
        if seq == self.first && self.identified == 0 {
            self.first += u64::from(part == Part::Last);
            return;
        }
        while self.first <= seq {
            out.extend_from_slice(format!("*{}\n", id(self.first)).as_bytes());
            self.first += 1;
            self.identified += 1;
        }
        out.extend_from_slice(format!("+{}\t", id(seq)).as_bytes());
        if part == Part::Last {
            self.identified -= 1;
        }
    }
}

/// The async id of a request: 32 bits, never zero.
fn id(seq: u64) -> u64 {
    // Dovecot keeps it in an unsigned int, where 0 means that a command has no id.
    seq % u64::from(u32::MAX) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn four_open(ids: bool) -> Replies {
        let mut replies = Replies { ids, ..Replies::default() };
        (0..4).for_each(|seq| assert_eq!(replies.enter(), seq));
        replies
    }

    fn written(replies: &mut Replies, texts: &[(u64, &str)]) -> String {
        let mut out = Vec::new();
        for (seq, text) in texts {
            let part = if text.ends_with('…') { Part::More } else { Part::Last };
            replies.write(*seq, part, &mut out, |out| out.extend_from_slice(format!("{text}\n").as_bytes()));
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replies_follow_the_order_of_the_requests() {
        let mut replies = four_open(false);
        assert_eq!(written(&mut replies, &[(2, "c"), (1, "b")]), "");
        assert_eq!(replies.early_bytes, 4);
        assert_eq!(written(&mut replies, &[(0, "a…"), (0, "a")]), "a…\na\nb\nc\n");
        assert_eq!(written(&mut replies, &[(3, "d")]), "d\n");
        assert_eq!((replies.open, replies.early_bytes), (0, 0));
    }

    #[test]
    fn replies_that_overtake_others_carry_ids_and_the_rest_does_not() {
        let mut replies = four_open(true);
        assert_eq!(written(&mut replies, &[(0, "a"), (2, "c"), (1, "b"), (3, "d")]), "a\n*2\n*3\n+3\tc\n+2\tb\nd\n");
    }

    #[test]
    fn a_reply_without_an_id_is_taken_for_the_oldest_open_request_even_if_that_has_an_id() {
        let mut replies = four_open(true);
        assert_eq!(
            written(&mut replies, &[(1, "b"), (2, "c"), (0, "a"), (3, "d")]),
            "*1\n*2\n+2\tb\n*3\n+3\tc\n+1\ta\nd\n"
        );
    }

    #[test]
    fn rows_carry_ids_as_soon_as_others_come_between() {
        let mut replies = four_open(true);
        let texts = [(0, "r1…"), (1, "b"), (0, "r2…"), (0, "")];
        assert_eq!(written(&mut replies, &texts), "r1…\n*1\n*2\n+2\tb\n+1\tr2…\n+1\t\n");
    }

    #[test]
    fn ids_are_never_zero() {
        assert_eq!((id(0), id(u64::from(u32::MAX) - 1), id(u64::from(u32::MAX))), (1, u64::from(u32::MAX), 1));
    }
}
