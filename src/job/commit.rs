//! Commits of dict transactions.

use crate::query::{Commit, Failure, Outcome, Write};
use crate::table::Written;

/// The writes of a transaction, carried out one after another until the first failure.
// One at a time, because a client may set the same key twice (quota_clone does with U and S), and the order decides.
#[derive(Debug)]
pub struct Commitment {
    commit: Commit,
    /// The number of writes that were acknowledged.
    applied: usize,
}

impl Commitment {
    /// A commit of which nothing has been written.
    pub fn new(commit: Commit) -> Self {
        Self { commit, applied: 0 }
    }

    /// The client's id of the transaction.
    pub fn id(&self) -> u32 {
        self.commit.id
    }

    /// All writes, in their order.
    pub fn writes(&self) -> &[Write] {
        &self.commit.writes
    }

    /// The size of all keys and values in bytes.
    pub fn size(&self) -> usize {
        self.commit.writes.iter().map(Write::size).sum()
    }

    /// The write to carry out next; `None` when all are done.
    pub fn next(&self) -> Option<&Write> {
        self.commit.writes.get(self.applied)
    }

    /// Handles the result of [`Commitment::next`] and returns the outcome, if the commit has ended. A failure that is
    /// not `certain` leaves open whether the write was applied.
    pub fn on_result(&mut self, result: Result<Written, Failure>, certain: bool) -> Option<Outcome> {
        // The client treats N and F as proof that nothing has changed, so that both are allowed for the first write
        // only.
        let nothing_yet = self.applied == 0;
        match result {
            Ok(Written::Done) => {
                self.applied += 1;
                self.next().is_none().then_some(Outcome::Done)
            }
            Ok(Written::NotFound) if nothing_yet => Some(Outcome::NotFound),
            Ok(Written::NotFound) => {
                Some(Outcome::Uncertain(Failure::temporary(format_args!("a value to increment is missing"))))
            }
            Err(failure) if certain && nothing_yet => Some(Outcome::Failed(failure)),
            Err(failure) => Some(Outcome::Uncertain(failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Change;

    #[test]
    fn a_commit_that_may_have_written_is_uncertain() {
        let failure = || Failure::temporary(format_args!("x"));
        let after = |applied, result, certain| {
            let writes = (0..3).map(|_| Write { key: vec![], change: Change::Unset, expire: 0 }).collect();
            let mut commitment = Commitment { commit: Commit { id: 1, writes }, applied };
            match commitment.on_result(result, certain) {
                None => "-",
                Some(Outcome::Done) => "O",
                Some(Outcome::NotFound) => "N",
                Some(Outcome::Failed(_)) => "F",
                Some(Outcome::Uncertain(_)) => "W",
            }
        };
        assert_eq!(after(0, Ok(Written::Done), true), "-");
        assert_eq!(after(2, Ok(Written::Done), true), "O");
        assert_eq!(after(0, Ok(Written::NotFound), true), "N");
        assert_eq!(after(1, Ok(Written::NotFound), true), "W");
        assert_eq!(after(0, Err(failure()), true), "F");
        assert_eq!(after(0, Err(failure()), false), "W");
        assert_eq!(after(2, Err(failure()), true), "W");
    }
}
