//! What the cache and the writes of a client really take, by a count of the allocator.

use crate::support;

use podop::cache::{Cache, Lifetime};
use podop::config::Mode;
use podop::query::Answer;
use podop::value::Value;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};
use support::world::World;

/// The system's allocator, which counts for each thread the bytes that it has allocated and not freed.
struct Counting;

thread_local! {
    /// Below zero in a thread that frees what others have allocated.
    static IN_USE: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What glibc adds to each piece of memory, and rounds it up to.
fn real(size: usize) -> isize {
    (size + 8).next_multiple_of(16).max(32).cast_signed()
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.set(IN_USE.get() + real(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.set(IN_USE.get() - real(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[test]
fn it_never_takes_more_than_a_tenth_beyond_its_size() {
    let lifetime = Lifetime { fresh: Duration::from_secs(60), stale: Duration::from_secs(600) };
    for limit in [1 << 20, 16 << 20] {
        for sizes in [vec![0], vec![10], vec![100], vec![1000], vec![30_000], vec![0, 20, 300, 4_000, 50_000]] {
            let before = IN_USE.get();
            let (mut cache, now, mut most) = (Cache::new(limit), Instant::now(), 0);
            // More than it holds, twice, with hits, writes and misses.
            for round in 0..(3 * limit / 120).min(300_000) {
                let key = format!("user{}@example.com", round * 7919 % 100_003);
                let answer = match round % 10 {
                    0 => Answer::Miss,
                    _ => Answer::Found(Value::Text("x".repeat(sizes[round % sizes.len()]).into_bytes().into())),
                };
                let key = cache.key(round % 3, key.as_bytes());
                cache.insert(key, &answer, lifetime, now);
                if round % 4 == 0 {
                    cache.look(key, now);
                    cache.look(key, now);
                }
                if round % 17 == 0 {
                    cache.forget(key);
                }
                most = most.max(IN_USE.get() - before);
            }
            assert!(cache.metrics().evicted > 0 || sizes == [0]);
            let most = most.cast_unsigned();
            assert!(most <= limit + limit / 10, "{most} of {limit} with values of {sizes:?} bytes");
        }
    }
}

#[test]
fn open_transactions_never_take_more_than_their_limit() {
    let table = ["--name", "meta", "--type", "url", "--param", "http://192.0.2.1/m/§"];
    // Lines of a mebibyte. Half of each value is escapes.
    let (user, value) = ("u".repeat(1_000_000), "\x011".repeat(500_000));
    let begins = |at: usize| format!("B{at}\t{user}\n");
    let sets = |at: usize| format!("B{at}\t\nS{at}\tshared/a\t{value}\n");
    for lines in [&begins as &dyn Fn(usize) -> String, &sets] {
        let mut world = World::new(&table);
        let client = world.client(Mode::Dovecot);
        world.send(client, b"H4\t0\t0\t\tmeta\n");
        let before = IN_USE.get();
        for at in 1..15 {
            world.send(client, lines(at).as_bytes());
            assert!(world.is_open(client));
            let held = IN_USE.get() - before;
            // The simulated kernel keeps a buffer of 1 MiB.
            assert!(held < 6 << 20, "{held} bytes after {at} lines");
        }
    }
}
