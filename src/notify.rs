//! Notifications to systemd (sd_notify(3)) and its watchdog (sd_watchdog_enabled(3)). Without the environment variables
//! of systemd there are none.

use crate::log;
use crate::system;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The minimum interval between two changes of the status line.
const STATUS: Duration = Duration::from_secs(1);

/// A connection to systemd.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// Half of the watchdog's timeout, and when the next notification is due.
    // Half of the timeout, as sd_watchdog_enabled(3) recommends.
    watchdog: Option<(Duration, Instant)>,
    status: Option<Status>,
}

/// The last status that was sent.
#[derive(Debug)]
struct Status {
    text: String,
    /// When it was last compared.
    at: Instant,
    /// A turn has passed since then, so that it may have changed.
    stale: bool,
}

impl Notifier {
    /// Reads `$NOTIFY_SOCKET`, `$WATCHDOG_USEC` and `$WATCHDOG_PID`. A socket that cannot be used is logged.
    pub fn from_environment(now: Instant) -> Self {
        let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return Self::default() };
        let socket = match connect(&path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                log::warn(format_args!("notify-socket-unusable path={path} cause=\"{error}\""));
                None
            }
        };
        // Children inherit the variables, but systemd expects notifications of one process (sd_watchdog_enabled(3)).
        let ours = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let time = std::env::var("WATCHDOG_USEC").ok().filter(|_| ours).and_then(|us| us.parse().ok());
        // Below 2 µs half of it would be zero, and always due.
        let half = time.filter(|us| *us > 1).map(|us: u64| Duration::from_micros(us / 2));
        Self { socket, watchdog: half.map(|half| (half, now)), status: None }
    }

    /// Reports that all listeners accept connections, or that a reload has ended.
    pub fn ready(&mut self, summary: &str, now: Instant) {
        self.send(&format!("READY=1\nSTATUS={summary}"));
        self.status = Some(Status { text: summary.to_owned(), at: now, stale: false });
    }

    /// Reports that a reload begins; [`Notifier::ready`] ends it.
    pub fn reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", system::monotonic_us()));
    }

    /// Reports that a shutdown has begun.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=answering requests in flight");
    }

    /// Notifies the watchdog, if due, that the event loop makes progress, and sends the status if it has changed.
    pub fn turn(&mut self, summary: impl FnOnce() -> String, now: Instant) {
        // Without systemd the summary is never formatted.
        if self.socket.is_none() {
            return;
        }
        if let Some((half, due)) = self.watchdog.filter(|(_, due)| *due <= now) {
            self.send("WATCHDOG=1");
            self.watchdog = Some((half, due.max(now) + half));
        }
        let Some(status) = &mut self.status else { return };
        status.stale = now < status.at + STATUS;
        if status.stale {
            return;
        }
        status.at = now;
        let summary = summary();
        if status.text != summary {
            status.text.clone_from(&summary);
            self.send(&format!("STATUS={summary}"));
        }
    }

    /// When [`Notifier::turn`] must be called even without events.
    pub fn deadline(&self) -> Option<Instant> {
        self.socket.as_ref()?;
        // Without a turn the status has not changed: an idle process is not woken for it.
        let status = self.status.as_ref().filter(|status| status.stale).map(|status| status.at + STATUS);
        self.watchdog.map(|(_, due)| due).into_iter().chain(status).min()
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket {
            // Neither blocking nor repeated: a lost notification must not stop the service.
            let _ = socket.send(message.as_bytes());
        }
    }
}

/// Connects to a path, or after `@` to a name in the abstract namespace.
fn connect(path: &str) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match path.strip_prefix('@') {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_notified_in_time_and_a_status_is_sent_once() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let received = || {
            let mut bytes = [0; 200];
            theirs.recv(&mut bytes).map(|count| String::from_utf8_lossy(&bytes[..count]).into_owned()).ok()
        };
        let (mut now, half) = (Instant::now(), Duration::from_secs(5));
        let mut notifier = Notifier { socket: Some(ours), watchdog: Some((half, now)), status: None };
        notifier.ready("a", now);
        assert_eq!(received().as_deref(), Some("READY=1\nSTATUS=a"));
        notifier.turn(|| "a".to_owned(), now);
        assert_eq!(received().as_deref(), Some("WATCHDOG=1"));
        assert_eq!(notifier.deadline(), Some(now + STATUS), "the turn may have changed the status");
        now += Duration::from_secs(1);
        notifier.turn(|| "b".to_owned(), now);
        assert_eq!(received().as_deref(), Some("STATUS=b"));
        assert_eq!(notifier.deadline(), Some(now + Duration::from_secs(4)));
        now += Duration::from_secs(4);
        notifier.turn(|| "b".to_owned(), now);
        assert_eq!((received().as_deref(), received()), (Some("WATCHDOG=1"), None));
        notifier.reloading();
        assert!(received().is_some_and(|text| text.starts_with("RELOADING=1\nMONOTONIC_USEC=")));
        notifier.stopping();
        assert!(received().is_some_and(|text| text.starts_with("STOPPING=1")));
    }

    #[test]
    fn a_status_changed_within_a_second_is_sent_at_its_end() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut notifier = Notifier { socket: Some(ours), ..Notifier::default() };
        let received = || {
            let mut bytes = [0; 200];
            theirs.recv(&mut bytes).map(|count| String::from_utf8_lossy(&bytes[..count]).into_owned()).unwrap()
        };
        let now = Instant::now();
        notifier.ready("a", now);
        assert_eq!((received().as_str(), notifier.deadline()), ("READY=1\nSTATUS=a", None));
        notifier.turn(|| unreachable!(), now);
        assert_eq!(notifier.deadline(), Some(now + STATUS));
        notifier.turn(|| "b".to_owned(), now + STATUS);
        assert_eq!((received().as_str(), notifier.deadline()), ("STATUS=b", None));
    }

    #[test]
    fn without_a_socket_nothing_is_due() {
        let mut notifier = Notifier { watchdog: Some((STATUS, Instant::now())), ..Notifier::default() };
        assert_eq!(notifier.deadline(), None);
        notifier.turn(|| unreachable!(), Instant::now());
    }
}
