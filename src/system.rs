//! System calls that the standard library does not offer: the only file with `unsafe`.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Mutex;

/// A signal that is handled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// SIGTERM or SIGINT: answer the requests in flight, then exit.
    Stop,
    /// SIGHUP: read files and resolve names again.
    Reload,
    /// SIGUSR1: log the state.
    Dump,
    /// SIGCHLD: a process has ended.
    Child,
}

/// Signals as a readable descriptor (signalfd(2)), so that they are events of the loop like all others.
#[derive(Debug)]
pub struct Signals {
    file: File,
}

impl Signals {
    /// Until [`Signals::catch`], has SIGTERM and SIGINT end the process at once with code 0, and the others wait.
    // A start may block for long, on a name server or on a file.
    pub fn defer() -> io::Result<()> {
        extern "C" fn end(_: libc::c_int) {
            // SAFETY: _exit may be called in a signal handler.
            unsafe { libc::_exit(0) }
        }
        block(&[libc::SIGHUP, libc::SIGUSR1])?;
        let handler: extern "C" fn(libc::c_int) = end;
        for signal in [libc::SIGTERM, libc::SIGINT] {
            // A handler, as the default action does not end process 1, which this is in many containers.
            // SAFETY: `end` is a handler of the right type.
            if unsafe { libc::signal(signal, handler as libc::sighandler_t) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Blocks the signals for this thread and for threads that it starts later, and receives them here.
    pub fn catch() -> io::Result<Signals> {
        // Ignored, as a parent may have left it, no process could be waited for.
        // SAFETY: the default action is valid for each signal.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let set = block(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGCHLD])?;
        // SAFETY: `set` is initialised; the descriptor that signalfd returns is owned by nothing else.
        unsafe {
            let fd = libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Signals { file: File::from(OwnedFd::from_raw_fd(fd)) })
        }
    }

    /// The next pending signal; `None` until the descriptor is readable again.
    pub fn take(&mut self) -> Option<Signal> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes whole records of this size or nothing, and any bytes make a valid one.
        let info = unsafe {
            if libc::read(self.file.as_raw_fd(), info.as_mut_ptr().cast(), size) != size as isize {
                return None;
            }
            info.assume_init()
        };
        Some(match info.ssi_signo as i32 {
            libc::SIGHUP => Signal::Reload,
            libc::SIGUSR1 => Signal::Dump,
            libc::SIGCHLD => Signal::Child,
            _ => Signal::Stop,
        })
    }
}

impl Signals {
    /// Takes all pending signals; true if [`Signal::Stop`] was among them.
    pub fn take_stop(&mut self) -> bool {
        std::iter::from_fn(|| self.take()).filter(|signal| *signal == Signal::Stop).count() > 0
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

/// Blocks signals for this thread and for threads that it starts later.
fn block(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is initialised by sigemptyset before it is read.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        // The error is returned, and not left in errno.
        match libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) {
            0 => Ok(set.assume_init()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Has a command start without the signals that this process blocks, and end with the thread that starts it.
pub fn prepare_child(command: &mut Command) {
    let prepare = || {
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `none` is initialised by sigemptyset. All calls may be made between fork and exec (signal-safety(7)),
        // and prctl(2) takes no memory here.
        unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
            // What this process has inherited itself may not be closed by exec. Old kernels do not know the call.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            // This process may be killed, and could not end its children then.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
        }
        Ok(())
    };
    // SAFETY: the function allocates nothing and takes no locks.
    unsafe { command.pre_exec(prepare) };
}

/// Sends SIGTERM or SIGKILL to a child that has not been waited for, and to its process group.
pub fn signal_group(child: u32, kill: bool) {
    let (signal, pid) = (if kill { libc::SIGKILL } else { libc::SIGTERM }, child as libc::pid_t);
    // SAFETY: the calls take no memory. The number is not reused before the child is waited for.
    unsafe {
        libc::kill(-pid, signal);
        libc::kill(pid, signal); // it may have left its group
    }
}

/// Whether a child has ended; it is still to be waited for.
///
/// # Errors
/// It was waited for already.
pub fn has_ended(child: u32) -> io::Result<bool> {
    ended(libc::P_PID, child).map(|pid| pid.is_some())
}

/// Waits for processes whose parents have ended, if this is process 1, as in a container: nothing else would. `is_ours` is
/// whether a process is waited for elsewhere. True if one of those has ended: further ones may have.
pub fn reap_orphans(is_ours: impl Fn(u32) -> bool) -> bool {
    if std::process::id() != 1 {
        return false;
    }
    while let Ok(Some(pid)) = ended(libc::P_ALL, 0) {
        if is_ours(pid) {
            return true;
        }
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), libc::WNOHANG) };
    }
    false
}

/// A child of these that has ended, and is still to be waited for.
fn ended(which: libc::idtype_t, id: u32) -> io::Result<Option<u32>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the call only writes to `info`, of which zeros are a valid value, that of no child.
    unsafe {
        if libc::waitid(which, id, info.as_mut_ptr(), options) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(u32::try_from(info.assume_init().si_pid()).ok().filter(|pid| *pid != 0))
    }
}

/// Locks a file or directory against other processes (flock(2)) until it is closed; false if another has locked it.
pub fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: the call takes an open descriptor and no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}

/// Whether an address cannot be used because this machine does not have it, or no address of its family.
pub fn has_no_such_address(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

/// Calls a function while the umask is 0 (umask(2)), which applies to files created by other threads too.
pub fn without_umask<T>(create: impl FnOnce() -> T) -> T {
    // Two threads at once would leave each other's mask behind.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    // SAFETY: the call cannot fail, and takes no memory.
    let mask = unsafe { libc::umask(0) };
    let result = create();
    // SAFETY: as above.
    unsafe { libc::umask(mask) };
    result
}

/// Raises the limit of open descriptors to its hard limit and returns it.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only access `limit`. On failure the limit is unchanged and returned.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raised) == 0 {
            return wide(raised.rlim_cur);
        }
    }
    wide(limit.rlim_cur)
}

/// A number whose size depends on the platform, such as `rlim_t`.
fn wide(number: impl Into<u64>) -> u64 {
    number.into()
}

/// The id of a user, by name or number.
pub fn user_id(name: &str) -> Option<u32> {
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    by_number(name).or_else(|| {
        by_name(name, |name, text, size, found| {
            // SAFETY: all pointers are valid for the sizes given; `found` is null unless `entry` was filled.
            unsafe {
                let mut result = std::ptr::null_mut();
                let code = libc::getpwnam_r(name, entry.as_mut_ptr(), text, size, &mut result);
                if code == 0 && !result.is_null() {
                    *found = Some((*result).pw_uid);
                }
                code
            }
        })
    })
}

/// The id of a group, by name or number.
pub fn group_id(name: &str) -> Option<u32> {
    let mut entry = MaybeUninit::<libc::group>::uninit();
    by_number(name).or_else(|| {
        by_name(name, |name, text, size, found| {
            // SAFETY: as above.
            unsafe {
                let mut result = std::ptr::null_mut();
                let code = libc::getgrnam_r(name, entry.as_mut_ptr(), text, size, &mut result);
                if code == 0 && !result.is_null() {
                    *found = Some((*result).gr_gid);
                }
                code
            }
        })
    })
}

/// The id that a number is; the highest is none, as it means "unchanged" to chown(2).
fn by_number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// Calls a `get…nam_r` function with a buffer that grows until the entry fits, up to 1 MiB.
fn by_name(
    name: &str,
    mut get: impl FnMut(*const libc::c_char, *mut libc::c_char, usize, &mut Option<u32>) -> i32,
) -> Option<u32> {
    // sysconf(3) gives no more than a hint, with which the buffer would have to grow all the same (getgrnam_r(3)).
    let name = CString::new(name).ok()?;
    let (mut found, mut text) = (None, vec![0; 1024]);
    while get(name.as_ptr(), text.as_mut_ptr(), text.len(), &mut found) == libc::ERANGE && text.len() < 1 << 20 {
        text.resize(2 * text.len(), 0);
    }
    found
}

/// Sockets passed by systemd with their names (sd_listen_fds(3)); none unless `$LISTEN_PID` is this process. Must be
/// called once only, and before the process opens descriptors that it keeps: the number of those passed may be wrong.
pub fn inherited_sockets() -> Vec<(String, OwnedFd)> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let own = |(fd, name): (i32, &str)| {
        // SAFETY: by the protocol these descriptors are open and owned by this process alone; a closed one is skipped.
        unsafe {
            // They are passed without close-on-exec.
            if libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
                return None;
            }
            Some((name.to_owned(), OwnedFd::from_raw_fd(fd)))
        }
    };
    // The names are those of the descriptors in their order, also of descriptors that are closed or have no name.
    let names = names.split(':').chain(std::iter::repeat(""));
    (FIRST_INHERITED..FIRST_INHERITED + inherited()).zip(names).filter_map(own).collect()
}

/// The first descriptor passed by systemd (`SD_LISTEN_FDS_START`).
const FIRST_INHERITED: i32 = 3;

/// The number of sockets passed to this process.
pub fn inherited() -> i32 {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    // The variables are inherited by child processes, to which they do not apply.
    let ours = number("LISTEN_PID") == Some(std::process::id());
    number("LISTEN_FDS").filter(|_| ours).map_or(0, |count| count.min(1_000) as i32)
}

/// CLOCK_MONOTONIC in microseconds, which systemd requires in `MONOTONIC_USEC`.
pub fn monotonic_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes to `time`.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// Fills a buffer of at most 256 bytes with random bytes that cannot be predicted (getrandom(2)).
pub fn random(bytes: &mut [u8; 256]) {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &mut bytes[done..];
        // SAFETY: the pointer and the length are those of a slice.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        // Only a signal can interrupt it, before the kernel has collected entropy after its start.
        done += usize::try_from(count).unwrap_or(0);
    }
}

/// Whether a short write to stderr will not block.
pub fn stderr_is_writable() -> bool {
    let mut poll = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd, no waiting.
    // stderr is not made non-blocking: the flag belongs to the open file, which other processes share.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 }
}

/// Whether stderr is the stream that `$JOURNAL_STREAM` names by device and inode (systemd.exec(5)).
pub fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    File::from(stderr).metadata().is_ok_and(|of| stream == format!("{}:{}", of.dev(), of.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        assert_eq!((user_id("root"), user_id("4711"), user_id("no such user")), (Some(0), Some(4711), None));
        assert_eq!((group_id("root"), group_id("4711"), group_id("no such group")), (Some(0), Some(4711), None));
        assert_eq!((user_id("4294967295"), group_id("4294967295")), (None, None), "chown would change nothing");
    }

    #[test]
    fn the_descriptor_limit_is_raised_to_a_useful_value() {
        assert!(raise_descriptor_limit() >= 256);
    }
}
