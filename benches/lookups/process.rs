//! The processes that are measured: started on a core, watched, and ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A child; it is ended when this is dropped.
pub struct Process(Child);

impl Process {
    /// This program again, with other arguments.
    pub fn this(args: &[&str], core: usize) -> Process {
        Self::start(std::env::current_exe().expect("a program").to_str().expect("UTF-8"), args, core)
    }

    pub fn start(program: &str, args: &[&str], core: usize) -> Process {
        pin(core); // a child stays where its parent was
        Process(Command::new(program).args(args).stdin(Stdio::null()).spawn().expect("a program that starts"))
    }

    /// Waits until the process has made this file.
    pub fn ready<'a>(&self, path: &'a Path) -> &'a Path {
        let until = Instant::now() + Duration::from_secs(10);
        while fs::metadata(path).is_err() {
            assert!(Instant::now() < until, "{} does not come", path.display());
            std::thread::sleep(Duration::from_millis(2));
        }
        path
    }

    /// Nanoseconds on CPU of all its threads.
    pub fn cpu(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).expect("a process");
        let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).ok();
        let first = |text: String| text.split(' ').next().and_then(|number| number.parse::<u64>().ok());
        tasks.flatten().filter_map(|task| of(task).and_then(first)).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A count of the system calls of a process, by the kernel's tracepoint.
pub struct Syscalls(libc::c_int);

/// `struct perf_event_attr` in its first version (perf_event_open(2)).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    rest: [u64; 6],
}

impl Syscalls {
    const TRACEPOINT: u32 = 2;

    /// Starts to count. `None` where that is not permitted, or there is no tracefs.
    pub fn count(process: &Process) -> Option<Syscalls> {
        let roots = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].map(PathBuf::from);
        let id =
            roots.iter().find_map(|root| fs::read_to_string(root.join("events/raw_syscalls/sys_enter/id")).ok())?;
        let size = size_of::<Attributes>() as u32;
        let config = id.trim().parse().ok()?;
        let attributes = Attributes { kind: Self::TRACEPOINT, size, config, ..Attributes::default() };
        // SAFETY: the attributes live through the call and state their size.
        let fd =
            unsafe { libc::syscall(libc::SYS_perf_event_open, &attributes, process.0.id() as libc::pid_t, -1, -1, 0) };
        (fd >= 0).then_some(Syscalls(fd as libc::c_int))
    }

    /// How many there were.
    pub fn stop(self) -> u64 {
        let mut count = [0; 8];
        // SAFETY: the kernel writes at most the size that is given.
        unsafe {
            assert_eq!(libc::read(self.0, count.as_mut_ptr().cast(), count.len()), count.len() as isize);
            libc::close(self.0);
        }
        u64::from_ne_bytes(count)
    }
}

/// This thread, and the children it will have, run on one core: the `core`th of those it may use.
pub fn pin(core: usize) {
    static ALLOWED: std::sync::OnceLock<Vec<usize>> = std::sync::OnceLock::new();
    let allowed = ALLOWED.get_or_init(|| {
        // SAFETY: the set is as large as is said, and all zeros is a set.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of_val(&set), &mut set);
            (0..libc::CPU_SETSIZE as usize).filter(|core| libc::CPU_ISSET(*core, &set)).collect()
        }
    });
    // SAFETY: as above.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(allowed[core % allowed.len()], &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

pub fn raise_descriptor_limit() {
    podop::system::raise_descriptor_limit();
}

/// Processor and kernel.
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel: String = kernel.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    format!("{}, {cores} cores, Linux {kernel}", model.unwrap_or("unknown processor"))
}
