//! Which of several replicas gets a request. Pure.

use super::breaker::Permit;

/// The state of a replica.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Candidate {
    pub permit: Permit,
    /// It had too many recent faults, or requested a pause.
    pub avoided: bool,
    /// All of its addresses are ejected.
    pub ejected: bool,
    /// No address of it is known.
    pub unresolved: bool,
    /// Exchanges in flight and waiting.
    pub load: usize,
}

/// The best of the candidates: one that is due for a probe, else one without recent faults, with working addresses and
/// the fewest exchanges; `None` if none of them answers in time.
// If all had faults, the best of them is used all the same (Envoy calls it panic routing): the faults of one key must
// not fail another key.
pub(super) fn pick(safe: bool, candidates: impl Iterator<Item = (u8, Candidate)>) -> Option<u8> {
    // A probe comes first, so that a backend that has recovered is found by the next GET and not only when the others
    // fail. A write is a poor probe, as it cannot be sent again to another replica. A spare one comes last: each probe
    // of a replica that hangs costs a lookup, and a table with few lookups would lose all of them.
    let rank = |permit: Permit| match permit {
        Permit::Probe if safe => Some(0),
        Permit::Allow => Some(1),
        Permit::Probe | Permit::SpareProbe => Some(2),
        Permit::Deny => None,
    };
    candidates
        .filter_map(|(route, of)| {
            rank(of.permit).map(|rank| (route, (rank, of.avoided, of.ejected, of.unresolved, of.load)))
        })
        .min_by_key(|(_, order)| *order)
        .map(|(route, _)| route)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Candidate =
        Candidate { permit: Permit::Allow, avoided: false, ejected: false, unresolved: false, load: 5 };
    const IDLE: Candidate = Candidate { load: 0, ..GOOD };
    const EJECTED: Candidate = Candidate { ejected: true, load: 0, ..GOOD };
    const UNRESOLVED: Candidate = Candidate { unresolved: true, load: 0, ..GOOD };
    const PROBE: Candidate = Candidate { permit: Permit::Probe, load: 9, ..GOOD };
    const SPARE: Candidate = Candidate { permit: Permit::SpareProbe, load: 0, ..GOOD };
    const AVOIDED: Candidate = Candidate { avoided: true, load: 0, ..GOOD };
    const DOWN: Candidate = Candidate { permit: Permit::Deny, load: 0, ..GOOD };

    #[test]
    fn the_best_candidate_is_picked() {
        // Candidates, the choice for a GET, the choice for a write.
        let cases: &[(&[Candidate], Option<u8>, Option<u8>)] = &[
            (&[], None, None),
            (&[DOWN], None, None),
            (&[GOOD], Some(0), Some(0)),
            (&[GOOD, GOOD], Some(0), Some(0)),
            (&[GOOD, IDLE], Some(1), Some(1)),
            (&[EJECTED, GOOD], Some(1), Some(1)),
            (&[EJECTED, DOWN], Some(0), Some(0)),
            (&[AVOIDED, GOOD], Some(1), Some(1)),
            (&[AVOIDED, EJECTED], Some(1), Some(1)),
            (&[AVOIDED, AVOIDED], Some(0), Some(0)),
            (&[AVOIDED, DOWN], Some(0), Some(0)),
            (&[UNRESOLVED, GOOD], Some(1), Some(1)),
            (&[UNRESOLVED, EJECTED], Some(0), Some(0)),
            (&[GOOD, PROBE], Some(1), Some(0)),
            (&[DOWN, PROBE], Some(1), Some(1)),
            (&[SPARE, GOOD], Some(1), Some(1)),
            (&[SPARE, AVOIDED], Some(1), Some(1)),
            (&[SPARE, PROBE], Some(1), Some(0)),
            (&[DOWN, SPARE], Some(1), Some(1)),
            (&[PROBE, EJECTED], Some(0), Some(1)),
        ];
        for (candidates, get, write) in cases {
            let numbered = || candidates.iter().enumerate().map(|(at, candidate)| (at as u8, *candidate));
            assert_eq!((pick(true, numbered()), pick(false, numbered())), (*get, *write), "{candidates:?}");
        }
    }
}
