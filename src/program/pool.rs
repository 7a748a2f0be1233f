//! One program: its processes, and the requests that wait for one of them.

use super::process::{LATE_WRITE, Process, State};
use crate::arena::{Arena, Key};
use crate::backend::{Asker, BackendReport, Exchange, MAX_WAITING, Trouble};
use crate::io::{Action, Peer, Program, ProgramSignal, Turn};
use crate::metrics::BackendMetrics;
use crate::timers::earliest;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The bounds of the time between the end of a process and the start of another one. It doubles while processes end
/// without an answer.
const MIN_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(2);

/// The time after which a process is killed that was requested to end.
const KILL_AFTER: Duration = Duration::from_secs(2);

/// What to run, and how often.
#[derive(Debug)]
pub struct ProgramSpec {
    /// The name in logs, metrics and reasons.
    pub label: String,
    pub program: Rc<Program>,
    /// How many processes there are.
    pub processes: usize,
    /// How many requests each of them has at most.
    pub pipeline: usize,
}

/// One program.
#[derive(Debug)]
pub(super) struct Pool {
    pub spec: ProgramSpec,
    waiting: VecDeque<Box<Exchange>>,
    /// Those of them whose process has ended once.
    suspects: VecDeque<Box<Exchange>>,
    /// Processes are to run.
    active: bool,
    /// Those that have not ended.
    members: Vec<Key>,
    /// When the next one may be started.
    next_start: Option<Instant>,
    delay: Duration,
    /// Why the last one ended, if it had got no request, so that no request can be the reason.
    down: Option<Trouble>,
    pub metrics: BackendMetrics,
}

impl Pool {
    pub(super) fn new(spec: ProgramSpec) -> Self {
        Self {
            spec,
            waiting: VecDeque::new(),
            suspects: VecDeque::new(),
            active: false,
            members: Vec::new(),
            next_start: None,
            delay: MIN_DELAY,
            down: None,
            metrics: BackendMetrics::default(),
        }
    }

    /// Has its processes started.
    pub(super) fn activate(&mut self) {
        self.active = true;
    }

    /// Why requests fail at once: the program ends by itself, and no process runs at the moment.
    pub(super) fn trouble(&self, processes: &Arena<Process>) -> Option<&Trouble> {
        self.down.as_ref().filter(|_| self.serving(processes).count() == 0)
    }

    /// Has a request wait for a process.
    ///
    /// # Errors
    /// Too many wait.
    pub(super) fn enqueue(&mut self, exchange: Box<Exchange>) -> Result<(), Box<Exchange>> {
        if self.waiting.len() + self.suspects.len() >= MAX_WAITING {
            return Err(exchange);
        }
        self.active = true;
        self.waiting.push_back(exchange);
        Ok(())
    }

    /// Has a request wait again whose process has ended: behind all others if it may have been the reason, which could
    /// end the next process as well, and else in front of them.
    pub(super) fn requeue(&mut self, exchange: Box<Exchange>) {
        if exchange.is_resent() { self.suspects.push_back(exchange) } else { self.waiting.push_front(exchange) }
    }

    /// Takes out all requests that wait.
    pub(super) fn drain(&mut self) -> VecDeque<Box<Exchange>> {
        let mut all = std::mem::take(&mut self.waiting);
        all.append(&mut self.suspects);
        all
    }

    /// Takes out the requests that wait and whose deadlines have passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Box<Exchange>> {
        let mut expired = Vec::new();
        for queue in [&mut self.waiting, &mut self.suspects] {
            let (due, rest) = std::mem::take(queue).into_iter().partition(|exchange| exchange.deadline <= now);
            *queue = rest;
            expired.extend::<VecDeque<_>>(due);
        }
        expired
    }

    /// The earliest deadline of a request that waits.
    pub(super) fn request_deadline(&self) -> Option<Instant> {
        self.waiting.iter().chain(&self.suspects).map(|exchange| exchange.deadline).min()
    }

    /// Drops the requests that wait and that `is_live` does not hold for.
    pub(super) fn sweep(&mut self, mut is_live: impl FnMut(Asker) -> bool) {
        self.waiting.retain(|exchange| is_live(exchange.asker));
        self.suspects.retain(|exchange| is_live(exchange.asker));
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.suspects.is_empty()
    }

    fn serving<'a>(&'a self, processes: &'a Arena<Process>) -> impl Iterator<Item = (Key, &'a Process)> {
        let of = |key: &Key| processes.get(*key).map(|process| (*key, process));
        self.members.iter().filter_map(of).filter(|(_, process)| process.is_serving())
    }

    /// Starts the processes that are missing.
    pub(super) fn start_missing(&mut self, number: usize, processes: &mut Arena<Process>, turn: &mut Turn) {
        if !self.active || self.next_start.is_some_and(|at| at > turn.now) {
            return;
        }
        self.next_start = None;
        let (outdated, current): (Vec<&Process>, Vec<&Process>) =
            self.serving(processes).map(|(_, process)| process).partition(|process| process.is_outdated);
        // One that has closed its output ends in a moment, which begins the pause before the next.
        let is_ending = |key: &&Key| {
            let process = processes.get(**key);
            process.is_some_and(|one| !one.is_outdated && matches!(one.state, State::Ending(None, _)))
        };
        let ending = self.members.iter().filter(is_ending).count();
        let mut missing = self.spec.processes.saturating_sub(current.len() + ending);
        if !outdated.is_empty() {
            // Besides those that serve, one at a time until it is known to work.
            let is_tried = current.iter().any(|process| process.works_at() > turn.now);
            missing = if is_tried { 0 } else { missing.min(1) };
        }
        // Those that do not end take places, too.
        let free = (2 * self.spec.processes).saturating_sub(self.members.len());
        for _ in 0..missing.min(free) {
            let key = processes.insert(Process::new(number, turn.now));
            self.members.push(key);
            self.metrics.connections_opened += 1;
            turn.push(Action::Start(key, self.spec.program.clone()));
        }
    }

    /// Gives requests that wait to processes, those with the fewest first.
    pub(super) fn dispatch(&mut self, processes: &mut Arena<Process>, turn: &mut Turn) {
        while self.dispatch_suspect(processes, turn) {}
        // The oldest suspect has a process kept free for it, as it is for no other to wait with it.
        let oldest = self.suspects.front().map(|exchange| exchange.since);
        let is_next = oldest.is_some_and(|oldest| self.waiting.front().is_none_or(|first| oldest <= first.since));
        let kept = self.least(processes, |process| is_next && !process.has_resent()).map(|(key, _)| key);
        while !self.waiting.is_empty() {
            let takes = |process: &Process| process.load() < self.spec.pipeline && !process.has_resent();
            let best = self.serving(processes).filter(|(key, one)| Some(*key) != kept && takes(one));
            let Some(key) = best.min_by_key(|(_, one)| one.load()).map(|(key, _)| key) else { break };
            let Some(exchange) = self.waiting.pop_front() else { break };
            send(key, exchange, processes, turn);
        }
        // Others would wait for the client of a list.
        if self.is_waiting() {
            self.members.iter().for_each(|key| resume(*key, processes, turn));
        }
    }

    /// Gives the first request whose process has ended to another one, alone: it may have been the reason, and would end
    /// that one with all of its requests. False if there is none, or no process is free.
    fn dispatch_suspect(&mut self, processes: &mut Arena<Process>, turn: &mut Turn) -> bool {
        let free = self.least(processes, |process| process.load() == 0).map(|(key, _)| key);
        let Some((key, exchange)) = free.and_then(|key| Some((key, self.suspects.pop_front()?))) else { return false };
        send(key, exchange, processes, turn);
        true
    }

    /// The serving process with the fewest requests of those that `is` holds for.
    fn least<'a>(&'a self, processes: &'a Arena<Process>, is: impl Fn(&Process) -> bool) -> Option<(Key, &'a Process)> {
        self.serving(processes).filter(|(_, one)| is(one)).min_by_key(|(_, one)| one.load())
    }

    /// Ends processes that have nothing left to do, and kills those that do not end. Returns when it has to be called.
    pub(super) fn end_retired(&mut self, processes: &mut Arena<Process>, turn: &mut Turn) -> Option<Instant> {
        let proof = self.retire_outdated(processes, turn.now);
        let mut next = earliest([self.next_start.filter(|_| self.active), proof]);
        for key in &self.members {
            let until = processes.get_mut(*key).and_then(|process| process.check_abandoned(turn.now));
            next = earliest([next, until]);
        }
        for key in &self.members {
            let Some(process) = processes.get_mut(*key).filter(|one| !one.is_serving()) else { continue };
            let is_busy = process.live() > 0;
            match &mut process.state {
                State::Serving => {}
                State::Retiring(_) if is_busy => {}
                State::Retiring(cause) => {
                    let signal = if *cause == Some(LATE_WRITE) { ProgramSignal::Kill } else { ProgramSignal::Term };
                    let cause = cause.map(str::to_owned);
                    process.state = State::Ending(cause, Some(turn.now + KILL_AFTER));
                    turn.push(Action::Close(Peer::Program(*key)));
                    turn.push(Action::Signal(*key, signal));
                }
                State::Ending(_, kill_at) => {
                    if kill_at.take_if(|at| *at <= turn.now).is_some() {
                        turn.push(Action::Signal(*key, ProgramSignal::Kill));
                    }
                }
            }
            if let State::Ending(_, Some(at)) = process.state {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        next
    }

    /// Has a process end that cannot be used any more, for this reason if it is not its exit status.
    pub(super) fn end(key: Key, process: &mut Process, cause: Option<String>, turn: &mut Turn) {
        match process.state {
            State::Serving | State::Retiring(_) => {}
            // It has sent what nothing can follow.
            State::Ending(None, _) if cause.is_some() => {}
            State::Ending(..) => return,
        }
        let signal = if cause.is_some() { ProgramSignal::Kill } else { ProgramSignal::Term };
        process.state = State::Ending(cause, Some(turn.now + KILL_AFTER));
        turn.push(Action::Signal(key, signal));
    }

    /// Has all processes replaced, one after another.
    pub(super) fn replace(&mut self, processes: &mut Arena<Process>) {
        for key in &self.members {
            processes.get_mut(*key).into_iter().for_each(|process| process.is_outdated = true);
        }
        self.next_start = None;
    }

    /// Retires outdated processes, one for each other that works. Returns when another will be known to work.
    // A program that was changed for the worse must not take the place of one that works.
    fn retire_outdated(&mut self, processes: &mut Arena<Process>, now: Instant) -> Option<Instant> {
        let of = |key: &Key| processes.get(*key).filter(|one| one.is_serving()).map(|one| (*key, one));
        let serving: Vec<(Key, &Process)> = self.members.iter().filter_map(of).collect();
        let outdated: Vec<Key> = serving.iter().filter(|(_, one)| one.is_outdated).map(|(key, _)| *key).collect();
        let (works, next): (Vec<Instant>, Vec<Instant>) = serving
            .iter()
            .filter(|(_, one)| !one.is_outdated)
            .map(|(_, one)| one.works_at())
            .partition(|at| *at <= now);
        let excess = (works.len() + outdated.len()).saturating_sub(self.spec.processes);
        for key in outdated.iter().take(excess) {
            processes.get_mut(*key).into_iter().for_each(|one| one.state = State::Retiring(None));
        }
        next.into_iter().min().filter(|_| outdated.len() > excess)
    }

    /// A process has ended, for this reason. True if requests that wait fail: it had got none, and there is no other.
    pub(super) fn on_end(
        &mut self,
        key: Key,
        process: &Process,
        cause: &str,
        processes: &Arena<Process>,
        now: Instant,
    ) -> bool {
        self.members.retain(|other| *other != key);
        if process.is_outdated {
            return false;
        }
        if self.next_start.is_none_or(|at| at <= now) {
            self.next_start = Some(now + self.delay);
        }
        if process.has_answered {
            return false;
        }
        self.delay = (2 * self.delay).min(MAX_DELAY);
        if process.has_got_requests() {
            return false;
        }
        let worked = process.works_at() < now;
        let since = self.down.as_ref().filter(|_| !worked).map_or(now, |trouble| trouble.since);
        self.down = Some(Trouble { cause: cause.to_owned(), since });
        self.trouble(processes).is_some()
    }

    /// A process has answered.
    pub(super) fn on_answer(&mut self) {
        self.delay = MIN_DELAY;
        if self.down.is_some() {
            self.down = None;
        }
    }

    /// The state, with the current number of processes.
    pub(super) fn report(&self, processes: &Arena<Process>) -> BackendReport<'_> {
        let serving = || self.serving(processes).map(|(_, process)| process);
        let busy = serving().filter(|process| process.load() > 0).count() as u64;
        let trouble = self.trouble(processes);
        let metrics = BackendMetrics {
            busy,
            idle: serving().count() as u64 - busy,
            waiting: (self.waiting.len() + self.suspects.len()) as u64,
            down: u64::from(trouble.is_some()),
            ..self.metrics.clone()
        };
        let is_reached = serving().next().is_some();
        BackendReport { label: &self.spec.label, metrics, trouble, is_reached }
    }
}

/// Sends a request to a process.
fn send(key: Key, exchange: Box<Exchange>, processes: &mut Arena<Process>, turn: &mut Turn) {
    let Some(process) = processes.get_mut(key) else { return };
    process.push(exchange, turn.now);
    turn.push(Action::Flush(Peer::Program(key)));
    resume(key, processes, turn); // it may wait for the client of a list
}

/// Reads a process again that was not read.
pub(super) fn resume(key: Key, processes: &mut Arena<Process>, turn: &mut Turn) {
    if let Some(process) = processes.get_mut(key).filter(|process| process.is_paused) {
        process.is_paused = false;
        turn.push(Action::Resume(Peer::Program(key)));
    }
}
