//! How many requests a backend can serve at once, found out from its latency: a gradient limit, after "Performance Under
//! Load" (Netflix, 2018), whose idea is that of TCP Vegas (Brakmo and Peterson, 1995).
//!
//! While latency is what it is without load, more is tried; when it grows, requests wait within the backend, and as many
//! fewer are sent as it has grown. Each window ends with
//! `limit = limit × (latency without load ÷ latency now) + headroom`, where the quotient is at least a half.

use std::time::{Duration, Instant};

/// Requests that may wait within the backend, so that it never runs dry.
const HEADROOM: f64 = 4.0;

const START: f64 = 16.0;
const LEAST: f64 = 2.0;

/// A window has so many answers at least, or as many as the limit.
const ANSWERS: u32 = 10;

/// Latency without load is measured anew so often, with half of the requests for one window.
const RENEW: Duration = Duration::from_secs(10);

/// Below this nobody waits for long, whatever the quotient is: it is the noise of schedulers.
const QUICK: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub struct Limit {
    limit: f64,
    most: f64,
    /// Seconds without load, as far as that is known.
    unloaded: Option<f64>,
    renewed: Option<Instant>,
    /// The limit to go back to, while latency without load is measured.
    before: Option<f64>,
    /// Of this window: answers, the sum of their seconds, and the most requests at once.
    answers: u32,
    seconds: f64,
    at_once: usize,
}

impl Limit {
    /// Never allows more than `most`.
    pub fn new(most: usize) -> Self {
        let most = most as f64;
        let limit = START.min(most);
        Self { limit, most, unloaded: None, renewed: None, before: None, answers: 0, seconds: 0.0, at_once: 0 }
    }

    /// So many requests may be on their way.
    pub fn get(&self) -> usize {
        self.limit as usize
    }

    /// An answer came after `took`, while so many requests were on their way.
    pub fn answered(&mut self, took: Duration, at_once: usize, now: Instant) {
        self.answers += 1;
        self.seconds += took.as_secs_f64();
        self.at_once = self.at_once.max(at_once);
        if self.answers < ANSWERS.max(self.limit as u32) {
            return;
        }
        let (latency, busy) = (self.seconds / f64::from(self.answers), self.at_once as f64 >= self.limit / 2.0);
        (self.answers, self.seconds, self.at_once) = (0, 0.0, 0);
        if let Some(before) = self.before.take() {
            self.unloaded = Some(latency);
            self.limit = before;
            return;
        }
        let renewed = *self.renewed.get_or_insert(now);
        let unloaded = self.unloaded.map_or(latency, |unloaded| unloaded.min(latency));
        self.unloaded = Some(unloaded);
        if now.saturating_duration_since(renewed) >= RENEW {
            self.renewed = Some(now);
            self.before = Some(self.limit);
            self.limit = (self.limit / 2.0).max(LEAST);
            return;
        }
        let gradient = (unloaded / latency).clamp(0.5, 1.0);
        let slow = latency > QUICK.as_secs_f64() && gradient < 0.9;
        if slow {
            self.limit = self.limit * gradient + HEADROOM;
        } else if busy {
            // Who is not asked for much shows nothing about more.
            self.limit += HEADROOM.max(self.limit / 4.0);
        }
        self.limit = self.limit.clamp(LEAST, self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    /// A backend with so many threads, each of which takes `service_us` per request, and clients that always ask for more
    /// than is allowed. Returns the least and most limits of the last ten of `seconds`, and the answers per second then.
    fn simulate(threads: usize, service_us: impl Fn(u64) -> u64, seconds: u64) -> (usize, usize, u64) {
        let (mut limit, start) = (Limit::new(1024), Instant::now());
        // When each thread is free, and when each request on its way was sent and is answered.
        let mut free: BinaryHeap<Reverse<u64>> = (0..threads).map(|_| Reverse(0)).collect();
        let (mut open, mut now, mut noise) = (BinaryHeap::<Reverse<(u64, u64)>>::new(), 0, 1u64);
        let (mut low, mut high, mut answers) = (usize::MAX, 0, 0);
        while now < seconds * 1_000_000 {
            while open.len() < limit.get() {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let work = service_us(now) * (90 + (noise >> 33) % 20) / 100;
                let Some(Reverse(at)) = free.pop() else { break };
                let done = at.max(now) + work;
                free.push(Reverse(done));
                open.push(Reverse((done, now)));
            }
            let Some(Reverse((done, sent))) = open.pop() else { break };
            now = done;
            limit.answered(Duration::from_micros(done - sent), open.len() + 1, start + Duration::from_micros(now));
            if now + 10_000_000 > seconds * 1_000_000 {
                (low, high, answers) = (low.min(limit.get()), high.max(limit.get()), answers + 1);
            }
        }
        (low, high, answers / 10)
    }

    #[test]
    fn a_backend_with_four_threads_gets_hardly_more_than_it_can_serve_and_is_never_idle() {
        let (low, high, rate) = simulate(4, |_| 5_000, 60);
        assert!(low >= 3 && high <= 20, "{low} to {high}");
        assert!(rate >= 760, "{rate} of 800 per second");
    }

    #[test]
    fn a_backend_that_only_takes_its_time_gets_all_that_is_asked() {
        let (_, high, rate) = simulate(2_000, |_| 50_000, 30);
        assert!(high >= 1_000 && rate >= 15_000, "{high}, {rate}");
    }

    #[test]
    fn a_backend_that_becomes_slow_and_recovers_is_followed() {
        let service = |now: u64| if (20_000_000..50_000_000).contains(&now) { 40_000 } else { 5_000 };
        let (low, high, rate) = simulate(8, service, 90);
        assert!(low >= 6 && high <= 40, "{low} to {high}");
        assert!(rate >= 1_500, "{rate} of 1600 per second");
    }
}
