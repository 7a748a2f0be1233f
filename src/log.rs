//! Log lines on stderr: `level event name=value …`, without a date, which journald and other collectors add.

use crate::system;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The severity of a line, with its syslog priority, which the journal reads as `<4>` (sd-daemon(3)).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    Error = 3,
    Warn = 4,
    Info = 6,
    Debug = 7,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Warn as u8);
static JOURNAL: AtomicBool = AtomicBool::new(false);
/// Number of lines lost since the last one that stderr accepted.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Maximum length of a line in bytes.
// Below PIPE_BUF (4096), so that a write to a pipe that poll(2) reported as writable never blocks: a log collector that
// hangs must not stop the mail.
const MAX_LINE: usize = 4_000;

/// Sets the level of lines that are written, and whether they have the journal's prefix. Called once at the start.
pub fn start(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
    JOURNAL.store(system::stderr_is_journal(), Ordering::Relaxed);
}

/// Whether lines of this level are written.
pub fn shows(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

pub fn error(line: fmt::Arguments<'_>) {
    write(Level::Error, line);
}

pub fn warn(line: fmt::Arguments<'_>) {
    write(Level::Warn, line);
}

pub fn info(line: fmt::Arguments<'_>) {
    write(Level::Info, line);
}

/// Writes a line at any level, in reply to a signal.
pub fn notice(line: fmt::Arguments<'_>) {
    put(Level::Info, line);
}

pub fn debug(line: fmt::Arguments<'_>) {
    write(Level::Debug, line);
}

/// Writes one line. It never blocks or fails: lost lines are counted, and the count is logged with the next line.
fn write(level: Level, line: fmt::Arguments<'_>) {
    if shows(level) {
        put(level, line);
    }
}

fn put(level: Level, line: fmt::Arguments<'_>) {
    let word = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let mut text = String::new();
    if JOURNAL.load(Ordering::Relaxed) {
        text = format!("<{}>", level as u8);
    }
    text += &format!("{word} {line}");
    text.truncate(cut(&text, MAX_LINE).len());
    let lost = LOST.swap(0, Ordering::Relaxed);
    if lost > 0 {
        text += &format!(" lines_lost={lost}");
    }
    // Appended and written at once: one write per line keeps lines of several processes apart.
    text.push('\n');
    if !system::stderr_is_writable() || std::io::stderr().write_all(text.as_bytes()).is_err() {
        // Added back, as the line that would have reported them is lost too.
        LOST.fetch_add(lost + 1, Ordering::Relaxed);
    }
}

/// Maximum number of bytes from a socket that are shown in a log line.
const MAX_SHOWN: usize = 100;

/// As much of a line as has this many bytes.
fn cut(line: &str, most: usize) -> &str {
    &line[..(0..=line.len().min(most)).rfind(|at| line.is_char_boundary(*at)).unwrap_or(0)]
}

/// Bytes from a socket, quoted for a log line: quotes, control characters and bytes beyond ASCII are escaped. After 100
/// bytes they are cut, which a `…` shows, as it would have been escaped otherwise.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, mark) = match self.0.get(..MAX_SHOWN) {
            Some(shown) if self.0.len() > MAX_SHOWN => (shown, "…"),
            _ => (self.0, ""),
        };
        write!(f, "\"{}{mark}\"", shown.escape_ascii())
    }
}

/// Time after a fault during which its repetitions are only counted.
const QUIET: Duration = Duration::from_secs(30);

/// Maximum number of different lines that are tracked at once, in total and of one event.
// Lines hold names that clients have sent, and reasons that depend on backends: their number has no bound of its own.
const MAX_KINDS: usize = 256;
const MAX_KINDS_OF_EVENT: usize = 64;

/// Folds lines that repeat: the first is logged at once, and the number of repetitions after 30 s. New lines beyond the
/// bounds are only counted, in one line per event.
#[derive(Debug, Default)]
pub struct Repeats {
    // By the first word of the line, of which there are only as many as the code has.
    events: BTreeMap<String, Kinds>,
    /// The last different lines, the latest at the end.
    recent: VecDeque<Recent>,
}

/// Number of different lines that are kept for the status page, and how much of each in bytes.
const MAX_RECENT: usize = 20;
const MAX_RECENT_LINE: usize = 300;

/// Events whose lines have more than names from the command line and causes: the first has what a program has written, the
/// second what a mail server has sent.
const UNSEEN: [&str; 2] = ["program-stderr", "unknown-table"];

/// A line with the time of its last occurrence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recent {
    pub line: String,
    pub last: Instant,
    pub count: u64,
}

/// The different lines of one event.
#[derive(Debug, Default)]
struct Kinds {
    /// When the quiet time of a line ends, and its repetitions.
    seen: HashMap<String, (Instant, u64)>,
    /// The same for all lines that are not tracked.
    more: Option<(Instant, u64)>,
}

impl Repeats {
    /// Logs a fault, or counts it if the same line was logged a short time ago.
    pub fn warn(&mut self, line: &str, now: Instant) {
        self.warn_of(line, "", now);
    }

    /// The same with details that may differ between repetitions; only those of the first are logged.
    pub fn warn_of(&mut self, line: &str, details: &str, now: Instant) {
        self.remember(line, now);
        if self.is_new(line, now) {
            let space = if details.is_empty() { "" } else { " " };
            warn(format_args!("{line}{space}{details}"));
        }
    }

    /// The last different lines, the latest first. They have no keys, values or secrets.
    pub fn recent(&self) -> impl Iterator<Item = &Recent> {
        self.recent.iter().rev()
    }

    fn remember(&mut self, line: &str, now: Instant) {
        let event = line.split(' ').next().unwrap_or_default();
        let line = if UNSEEN.contains(&event) { event } else { cut(line, MAX_RECENT_LINE) };
        let before = self.recent.iter().position(|one| one.line == line).and_then(|at| self.recent.remove(at));
        let mut recent = before.unwrap_or_else(|| Recent { line: line.to_owned(), last: now, count: 0 });
        (recent.last, recent.count) = (now, recent.count + 1);
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(recent);
    }

    /// True if a line is to be logged now, and counted from now on.
    fn is_new(&mut self, line: &str, now: Instant) -> bool {
        let line = cut(line, MAX_LINE); // what follows would not be logged either
        let event = line.split(' ').next().unwrap_or_default();
        if let Some((_, count)) = self.events.get_mut(event).and_then(|kinds| kinds.seen.get_mut(line)) {
            *count += 1;
            return false;
        }
        let total: usize = self.events.values().map(|kinds| kinds.seen.len()).sum();
        let kinds = self.events.entry(event.to_owned()).or_default();
        if total >= MAX_KINDS || kinds.seen.len() >= MAX_KINDS_OF_EVENT {
            kinds.more.get_or_insert((now + QUIET, 0)).1 += 1;
            return false;
        }
        kinds.seen.insert(line.to_owned(), (now + QUIET, 0));
        true
    }

    /// When [`Repeats::expire`] must be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.events.values().flat_map(|kinds| kinds.seen.values().chain(&kinds.more)).map(|(until, _)| *until).min()
    }

    /// Logs the number of repetitions of faults whose quiet time is over, and forgets those.
    pub fn expire(&mut self, now: Instant) {
        // As nearly always; it is called in each turn.
        if self.events.is_empty() {
            return;
        }
        for line in self.due(now) {
            warn(format_args!("{line}"));
        }
    }

    /// The lines about what was counted until now.
    fn due(&mut self, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for (event, kinds) in &mut self.events {
            kinds.seen.retain(|line, (until, count)| {
                lines.extend((*until <= now && *count > 0).then(|| format!("{line} repeated={count}")));
                *until > now
            });
            if let Some((_, count)) = kinds.more.take_if(|(until, _)| *until <= now) {
                lines.push(format!("{event} cause=\"… and {count} more\""));
            }
        }
        self.events.retain(|_, kinds| !kinds.seen.is_empty() || kinds.more.is_some());
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_from_a_socket_are_escaped() {
        assert_eq!(Escaped(b"a\n\"\x01\xff").to_string(), r#""a\n\"\x01\xff""#);
    }

    #[test]
    fn what_comes_from_a_socket_is_cut_at_100_bytes() {
        let (whole, long) = ([b'\xff'; 100], [b'\xff'; 101]);
        assert_eq!(Escaped(&whole).to_string(), format!("\"{}\"", r"\xff".repeat(100)));
        assert_eq!(Escaped(&long).to_string(), format!("\"{}…\"", r"\xff".repeat(100)));
    }

    #[test]
    fn a_fault_that_repeats_is_counted_until_its_quiet_time_is_over() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let new: Vec<bool> = (0..5).map(|_| repeats.is_new("fault table=a", now)).collect();
        assert_eq!(new, [true, false, false, false, false]);
        assert_eq!(repeats.deadline(), Some(now + QUIET));
        assert!(repeats.due(now).is_empty());
        assert_eq!(repeats.due(now + QUIET), ["fault table=a repeated=4"]);
        assert_eq!(repeats.deadline(), None);
    }

    #[test]
    fn beyond_its_bound_an_event_has_one_line_per_quiet_time() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let name = "x".repeat(2 * MAX_LINE);
        let later = now + QUIET / 2;
        // The first 64 are tracked, whatever comes after them.
        let new = |repeats: &mut Repeats, at| repeats.is_new(&format!("unknown-table name={at}{name}"), later);
        assert_eq!((0..1_000).filter(|at| new(&mut repeats, *at)).count(), MAX_KINDS_OF_EVENT);
        assert!(!new(&mut repeats, 0) && !new(&mut repeats, 999));
        assert!(repeats.is_new("fault table=a", later), "another event is not concerned");
        let kept = repeats.events.values().flat_map(|kinds| kinds.seen.keys());
        assert!(kept.map(String::len).sum::<usize>() <= (MAX_KINDS_OF_EVENT + 1) * MAX_LINE);
        assert_eq!(repeats.deadline(), Some(later + QUIET));
        let lines = repeats.due(later + QUIET);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].ends_with("x repeated=1"), "{lines:?}");
        assert_eq!(lines[1], format!("unknown-table cause=\"… and {} more\"", 1_001 - MAX_KINDS_OF_EVENT));
        assert!(repeats.events.is_empty());
    }

    #[test]
    fn the_last_different_lines_are_remembered() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        (0..30).for_each(|at| repeats.remember(&format!("fault table={at}"), now));
        (0..2).for_each(|_| repeats.remember("fault table=12", now + QUIET));
        repeats.remember("unknown-table name=\"secret\"", now + QUIET);
        repeats.remember("program-stderr backend=program:x line=\"secret\"", now + QUIET);
        let recent: Vec<(&str, u64)> = repeats.recent().map(|one| (&one.line[..], one.count)).collect();
        assert_eq!(recent.len(), MAX_RECENT);
        assert_eq!(recent[..3], [("program-stderr", 1), ("unknown-table", 1), ("fault table=12", 3)]);
        assert_eq!(recent[3..5], [("fault table=29", 1), ("fault table=28", 1)]);
    }

    #[test]
    fn the_kinds_of_all_events_are_bounded_together() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let line = |at: usize| format!("event{} name={at}", at % 10);
        assert_eq!((0..1_000).filter(|at| repeats.is_new(&line(*at), now)).count(), MAX_KINDS);
        assert_eq!(repeats.due(now + QUIET).len(), 10);
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        assert_eq!(cut("é", 2), "é");
        assert_eq!(cut(&format!("x{}", "é".repeat(MAX_LINE)), MAX_LINE).len(), MAX_LINE - 1);
    }
}
