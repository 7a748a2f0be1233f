//! Whether a pool opens one more connection. Pure.

use super::addresses::Addresses;
use super::options::PoolOptions;
use super::queue::Queue;
use super::reach::Reach;
use super::roster::Roster;
use std::time::{Duration, Instant};

/// Up to this many connections, every exchange that finds none free gets a new one. Fewer make a fast backend wait for
/// Podop; many more cost both more than they bring (512 instead of 64: 37 % more CPU).
const EAGER: usize = 64;

/// Beyond that, the time an exchange waits for a connection that others use before it gets one of its own: a fast
/// backend has answered several others by then, and a slow one does not notice.
const MAX_WAIT: Duration = Duration::from_millis(20);

/// What the decision depends on.
#[derive(Clone, Copy, Debug)]
struct Demand {
    /// Connections of every state, and the number of those that are not open yet or unused.
    open: usize,
    connecting: usize,
    idle: usize,
    /// Exchanges that wait for a new connection, and for any.
    fresh: usize,
    any: usize,
    /// No address is left to be tried.
    all_failed: bool,
}

/// True if a pool should open one more connection now.
pub(super) fn is_due(
    roster: &Roster,
    queue: &Queue,
    addresses: &Addresses,
    reach: &Reach,
    options: &PoolOptions,
    now: Instant,
) -> bool {
    if queue.len() == 0 && !reach.is_pending() {
        return false; // as nearly always: what was submitted has found a connection
    }
    let demand = Demand {
        open: roster.open(),
        connecting: roster.connecting(),
        idle: roster.idle(),
        fresh: queue.new_only(),
        any: queue.any() + usize::from(reach.is_pending()),
        all_failed: addresses.all_failed(),
    };
    let long_waiting = || queue.long_waiting(MAX_WAIT, options.connections, now);
    !addresses.is_paused(now) && lacks_connection(demand, options, long_waiting)
}

/// True if a connection that has just become free should be closed, to make room for a new one: while all are busy, none
/// is idle that could.
pub(super) fn needs_room(roster: &Roster, queue: &Queue, is_full: bool) -> bool {
    is_full && queue.new_only() > roster.connecting()
}

/// When the next connection should be opened, if nothing happens before.
pub(super) fn due_at(roster: &Roster, queue: &Queue, options: &PoolOptions, now: Instant) -> Option<Instant> {
    let waiting = queue.since(roster.connecting()).map(|since| since + MAX_WAIT);
    let waiting = if queue.new_only() == 0 { waiting } else { Some(now) };
    waiting.filter(|_| roster.open() < options.connections)
}

/// True if one more connection should be opened. `long_waiting` counts the exchanges that have waited for [`MAX_WAIT`].
fn lacks_connection(of: Demand, options: &PoolOptions, long_waiting: impl FnOnce() -> usize) -> bool {
    let Demand { open, connecting, idle, fresh, any, all_failed } = of;
    // Without this each refusal of several attempts in progress would open another connection, and the attempts would never end.
    if all_failed && connecting > 0 {
        return false; // what is still connecting decides
    }
    if connecting < fresh {
        return open < options.connections || idle > 0; // an idle one makes room
    }
    // Beside an idle connection, only exchanges wait that cannot be answered before their deadlines.
    if open >= options.connections || idle > 0 {
        return false;
    }
    // A pipelined connection does the work of several.
    let eager = EAGER.div_ceil(options.pipeline);
    let needed = if open < eager { any.min(eager - (open - connecting)) } else { long_waiting() };
    connecting < fresh + needed
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Demand = Demand { open: 0, connecting: 0, idle: 0, fresh: 0, any: 0, all_failed: false };

    #[test]
    fn a_pool_grows_by_what_waits() {
        let cases: &[(Demand, usize, bool)] = &[
            (NONE, 0, false),
            (Demand { any: 1, ..NONE }, 0, true),
            (Demand { any: 1, open: 1, connecting: 1, ..NONE }, 0, false),
            (Demand { any: 2, open: 1, connecting: 1, ..NONE }, 0, true),
            (Demand { any: 5, open: 63, ..NONE }, 0, true),
            (Demand { any: 5, open: 64, connecting: 1, ..NONE }, 0, false),
            (Demand { any: 5, open: 64, ..NONE }, 0, false),
            (Demand { any: 5, open: 64, ..NONE }, 1, true),
            (Demand { any: 5, open: 65, connecting: 1, ..NONE }, 1, false),
            (Demand { any: 5, open: 100, ..NONE }, 5, false),
            (Demand { fresh: 1, open: 100, ..NONE }, 0, false),
            (Demand { fresh: 1, open: 100, idle: 1, ..NONE }, 0, true),
            (Demand { fresh: 1, open: 5, connecting: 1, ..NONE }, 0, false),
            (Demand { fresh: 1, any: 1, open: 5, connecting: 1, ..NONE }, 0, true),
            (Demand { any: 9, open: 1, connecting: 1, all_failed: true, ..NONE }, 0, false),
            (Demand { any: 9, open: 1, all_failed: true, ..NONE }, 0, true),
        ];
        let options = PoolOptions { connections: 100, keepalive: Duration::from_secs(1), pipeline: 1 };
        for (demand, long_waiting, expected) in cases {
            assert_eq!(lacks_connection(*demand, &options, || *long_waiting), *expected, "{demand:?}");
        }
        let pipelined = PoolOptions { pipeline: 16, ..options };
        assert!(!lacks_connection(Demand { any: 9, open: 4, ..NONE }, &pipelined, || 0), "four are enough at 16 deep");
    }
}
