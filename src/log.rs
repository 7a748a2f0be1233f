//! Log lines on stderr: `level event name=value …`, without a date, which journald and other collectors add.

use crate::system;
use std::collections::HashMap;
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
/// Lines that stderr did not take since the last one that it took.
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

/// Writes one line. It never blocks or fails: lines that stderr does not take are counted, and the count is logged with
/// the next line.
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
    if let Some((cut, _)) = text.char_indices().take_while(|(at, _)| *at <= MAX_LINE).last()
        && text.len() > MAX_LINE
    {
        text.truncate(cut);
    }
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

/// The time after a fault for which its repetitions are only counted.
const QUIET: Duration = Duration::from_secs(30);

/// Maximum number of different faults that are tracked at once.
// Lines hold reasons that depend on backends, so that their number has no bound of its own.
const KINDS: usize = 256;

/// Folds faults that repeat: the first is logged at once, and the number of repetitions after 30 s.
#[derive(Debug, Default)]
pub struct Repeats {
    seen: HashMap<String, (Instant, u64)>,
}

impl Repeats {
    /// Logs a fault, or counts it if the same line was logged a short time ago.
    pub fn warn(&mut self, line: &str, now: Instant) {
        self.warn_of(line, "", now);
    }

    /// The same with details that may differ between repetitions; only those of the first are logged.
    pub fn warn_of(&mut self, line: &str, details: &str, now: Instant) {
        if let Some((_, count)) = self.seen.get_mut(line) {
            *count += 1;
            return;
        }
        if self.seen.len() >= KINDS {
            self.flush(|_| true);
        }
        let space = if details.is_empty() { "" } else { " " };
        warn(format_args!("{line}{space}{details}"));
        self.seen.insert(line.to_owned(), (now + QUIET, 0));
    }

    /// When [`Repeats::expire`] must be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.seen.values().map(|(until, _)| *until).min()
    }

    /// Logs the number of repetitions of faults whose quiet time is over, and forgets those.
    pub fn expire(&mut self, now: Instant) {
        if !self.seen.is_empty() {
            self.flush(|until| until <= now);
        }
    }

    fn flush(&mut self, due: impl Fn(Instant) -> bool) {
        self.seen.retain(|line, (until, count)| {
            if due(*until) && *count > 0 {
                warn(format_args!("{line} repeated={count}"));
            }
            !due(*until)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_a_socket_is_escaped() {
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
        (0..5).for_each(|_| repeats.warn("fault table=a", now));
        assert_eq!(repeats.seen["fault table=a"].1, 4);
        assert_eq!(repeats.deadline(), Some(now + QUIET));
        repeats.expire(now + QUIET);
        assert!(repeats.seen.is_empty());
    }
}
