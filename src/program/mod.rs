//! Programs without I/O: requests in, lines out to processes, and back.
//!
//! A process gets a JSON object per line, and answers it by its id. One that ends, or that cannot be trusted any more, is
//! replaced: requests that read are sent to another one once, writes may have been applied.

mod line;
mod pool;
mod process;
mod rows;

pub use pool::ProgramSpec;

use crate::arena::{Arena, Key};
use crate::backend::{Asker, BackendReport, BodyPart, Carrier, Exchange, Fault, Finished, Phase};
use crate::io::{Action, Peer, Turn};
use crate::timers::earliest;
use crate::wire::http::Response;
use pool::Pool;
use process::{Event, Process, State};
use std::collections::VecDeque;
use std::time::Instant;

/// All programs and their processes.
#[derive(Debug, Default)]
pub struct Programs {
    pools: Vec<Pool>,
    processes: Arena<Process>,
    finished: VecDeque<Finished<'static>>,
    parts: VecDeque<BodyPart>,
    /// No request expires before: a bound, so that deadlines cost nothing while none is reached.
    soonest: Option<Instant>,
    /// When processes are started or killed.
    next: Option<Instant>,
}

impl Programs {
    /// Adds a program, and returns its number. Its processes are started with its first request.
    pub fn add(&mut self, spec: ProgramSpec) -> usize {
        self.pools.push(Pool::new(spec));
        self.pools.len() - 1
    }

    /// Has all processes started.
    pub fn start(&mut self) {
        self.pools.iter_mut().for_each(Pool::activate);
    }

    /// Has all processes replaced, once they have answered their requests.
    pub fn reload(&mut self) {
        let Self { pools, processes, .. } = self;
        pools.iter_mut().for_each(|pool| pool.replace(processes));
    }

    /// The most descriptors that all processes need.
    pub fn descriptors(&self) -> usize {
        // Three each, also for those that are being replaced.
        self.pools.iter().map(|pool| 6 * pool.spec.processes).sum()
    }

    // --- requests

    /// Sends a request to a process as soon as one takes it. [`Programs::next_finished`] returns it in the end.
    pub fn submit(&mut self, exchange: Box<Exchange>, turn: &mut Turn) {
        let Carrier::Program(number) = *exchange.carrier() else { return };
        let deadline = exchange.deadline;
        self.soonest = Some(self.soonest.map_or(deadline, |soonest| soonest.min(deadline)));
        let Self { pools, processes, .. } = self;
        let pool = &mut pools[number];
        if let Some(trouble) = pool.trouble(processes) {
            let fault = Fault::Down(trouble.cause.clone());
            return self.finish(number, exchange, Err(fault), false, turn.now);
        }
        if let Err(exchange) = pool.enqueue(exchange) {
            return self.finish(number, exchange, Err(Fault::Overloaded), false, turn.now);
        }
        pool.dispatch(processes, turn);
    }

    /// The next request that has ended.
    #[inline]
    pub fn next_finished(&mut self) -> Option<Finished<'static>> {
        if self.finished.is_empty() { None } else { self.finished.pop_front() }
    }

    /// The next part of a list.
    #[inline]
    pub fn next_part(&mut self) -> Option<BodyPart> {
        if self.parts.is_empty() { None } else { self.parts.pop_front() }
    }

    fn finish(
        &mut self,
        number: usize,
        exchange: Box<Exchange>,
        result: Result<Response<'static>, Fault>,
        sent: bool,
        now: Instant,
    ) {
        let metrics = &mut self.pools[number].metrics;
        match &result {
            Ok(response) => {
                metrics.count_response(response.status, Some(now.saturating_duration_since(exchange.since)))
            }
            Err(fault) => metrics.count_failure(matches!(fault, Fault::Timeout(_))),
        }
        self.finished.push_back(Finished { exchange, result, sent });
    }

    /// Drops the requests that wait and that `is_live` does not hold for.
    pub fn sweep(&mut self, mut is_live: impl FnMut(Asker) -> bool) {
        self.pools.iter_mut().for_each(|pool| pool.sweep(&mut is_live));
    }

    // --- events

    /// Bytes of the stdout of a process.
    pub fn received(&mut self, key: Key, bytes: &[u8], turn: &mut Turn) {
        // What follows a line that answers nothing is not to be trusted.
        let trusted = |process: &&mut Process| !matches!(process.state, State::Ending(Some(_), _));
        let Some(process) = self.processes.get_mut(key).filter(trusted) else { return };
        let (number, mut events) = (process.program, Vec::new());
        if let Err(why) = process.receive(key, bytes, turn.now, &mut events) {
            Pool::end(key, process, Some(why.to_owned()), turn);
        }
        if !events.is_empty() {
            self.pools[number].on_answer();
        }
        for event in events {
            match event {
                Event::Answered(exchange, result) => self.finish(number, exchange, result, true, turn.now),
                Event::Part(part) => self.parts.push_back(part),
            }
        }
        let Self { pools, processes, .. } = self;
        pools[number].dispatch(processes, turn);
    }

    /// Bytes of the stderr of a process, or its end: the lines that are to be logged, with the label of the program.
    pub fn on_stderr(&mut self, key: Key, bytes: Option<&[u8]>) -> Option<(&str, Vec<String>)> {
        let process = self.processes.get_mut(key)?;
        let lines = match bytes {
            Some(bytes) => process.on_stderr(bytes),
            None => process.last_stderr().into_iter().collect(),
        };
        Some((&self.pools[process.program].spec.label, lines))
    }

    /// A process has closed its stdin or stdout. It is mostly about to end.
    pub fn ended(&mut self, key: Key, turn: &mut Turn) {
        if let Some(process) = self.processes.get_mut(key) {
            Pool::end(key, process, None, turn);
        }
    }

    /// A process has ended, or could not be started, for this reason. Returns the label of the program and the reason if
    /// that is to be logged.
    pub fn exited(&mut self, key: Key, status: &str, turn: &mut Turn) -> Option<(&str, String)> {
        let mut process = self.processes.remove(key)?;
        let number = process.program;
        turn.push(Action::Close(Peer::Program(key)));
        turn.push(Action::Close(Peer::Stderr(key)));
        let cause = match &process.state {
            State::Ending(Some(cause), _) => cause.clone(),
            State::Retiring(Some(cause)) => (*cause).to_owned(),
            State::Serving | State::Retiring(None) | State::Ending(None, _) => status.to_owned(),
        };
        let orphans = process.take_all();
        let Self { pools, processes, .. } = self;
        let fails = pools[number].on_end(key, &process, &cause, processes, turn.now);
        // Those that were not sent go in front of what came later, and in their old order.
        let (seen, unseen): (Vec<_>, Vec<_>) = orphans.into_iter().partition(|(_, sent)| *sent);
        for (mut exchange, sent) in seen.into_iter().chain(unseen.into_iter().rev()) {
            let may_repeat = !sent || exchange.is_safe() && !exchange.is_resent() && !exchange.is_streamed();
            if !may_repeat {
                self.finish(number, exchange, Err(Fault::Failed(cause.clone())), sent, turn.now);
                continue;
            }
            if sent {
                exchange.set_resent();
                self.pools[number].metrics.resent += 1;
            }
            self.pools[number].requeue(exchange);
        }
        if fails {
            for exchange in self.pools[number].drain() {
                self.finish(number, exchange, Err(Fault::Down(cause.clone())), false, turn.now);
            }
        }
        let Self { pools, processes, .. } = self;
        pools[number].dispatch(processes, turn);
        let is_news = !process.is_outdated || matches!(process.state, State::Ending(Some(_), _));
        is_news.then(|| (&self.pools[number].spec.label[..], cause))
    }

    /// The bytes to be written to the stdin of a process.
    pub fn output(&self, key: Key) -> &[u8] {
        self.processes.get(key).map_or(&[], Process::output)
    }

    /// Notes that `count` bytes were written.
    pub fn sent(&mut self, key: Key, count: usize) {
        self.processes.get_mut(key).into_iter().for_each(|process| process.sent(count));
    }

    /// True if the stdout of a process may be read.
    pub fn wants_input(&self, key: Key) -> bool {
        // All that one has sent is read when it ends.
        let is_read = |process: &Process| !process.is_paused || matches!(process.state, State::Ending(..));
        self.processes.get(key).is_some_and(is_read)
    }

    /// Stops to read a process, or continues: the client of a list has enough. One that others wait for is read on.
    pub fn set_paused(&mut self, key: Key, paused: bool, turn: &mut Turn) {
        let Self { pools, processes, .. } = self;
        let Some(process) = processes.get_mut(key) else { return };
        if !paused {
            pool::resume(key, processes, turn);
        } else if process.live() <= 1 && !pools[process.program].is_waiting() {
            process.is_paused = true;
        }
    }

    // --- time

    /// Starts, ends and kills processes, and ends requests whose deadlines have passed.
    #[inline]
    pub fn tick(&mut self, turn: &mut Turn) {
        if !self.pools.is_empty() {
            self.tick_all(turn);
        }
    }

    fn tick_all(&mut self, turn: &mut Turn) {
        if self.soonest.is_some_and(|soonest| soonest <= turn.now) {
            self.expire(turn);
        }
        let Self { pools, processes, .. } = self;
        let mut next: Option<Instant> = None;
        for (number, pool) in pools.iter_mut().enumerate() {
            pool.end_retired(processes, turn);
            pool.start_missing(number, processes, turn);
            let at = pool.end_retired(processes, turn); // with those that were just started
            pool.dispatch(processes, turn);
            next = earliest([next, at.filter(|at| *at > turn.now)]);
        }
        self.next = next;
    }

    fn expire(&mut self, turn: &mut Turn) {
        for number in 0..self.pools.len() {
            for exchange in self.pools[number].take_expired(turn.now) {
                self.finish(number, exchange, Err(Fault::Timeout(Phase::Process)), false, turn.now);
            }
        }
        let keys: Vec<Key> = self.processes.iter().map(|(key, _)| key).collect();
        for key in keys {
            while let Some((number, exchange)) =
                self.processes.get_mut(key).and_then(|one| Some((one.program, one.take_expired(turn.now)?)))
            {
                // It cannot be taken back, even if no byte of it has left.
                self.finish(number, exchange, Err(Fault::Timeout(Phase::Head)), true, turn.now);
            }
        }
        let waiting = self.pools.iter().filter_map(Pool::request_deadline);
        self.soonest = waiting.chain(self.processes.iter().filter_map(|(_, process)| process.deadline())).min();
    }

    /// When [`Programs::tick`] has something to do.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        if self.pools.is_empty() { None } else { earliest([self.soonest, self.next]) }
    }

    // --- reports

    /// The state of each program.
    pub fn reports(&self) -> impl Iterator<Item = BackendReport<'_>> {
        self.pools.iter().map(|pool| pool.report(&self.processes))
    }
}
