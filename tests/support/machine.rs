//! A Debian system that is booted with systemd in a container, and gone when dropped.

use super::podop::{signal, wait_until};
use super::roots::root;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tempfile::TempDir;

/// A booted system, with a network of its own that has only loopback.
pub struct Machine {
    nspawn: Child,
    /// The process id of its systemd.
    init: String,
    /// Its main.cf.
    _dir: TempDir,
}

impl Machine {
    /// Boots the system of this release, with these lines at the end of main.cf. What is written to its files is lost at the
    /// end. Says that the test is skipped if there is none.
    pub fn boot(release: &str, main_cf: &str) -> Option<Machine> {
        let root = root(release)?;
        // There from the start: on a host with cgroups v1, systemd sometimes fails to notice that Postfix has ended, so
        // that it cannot be restarted.
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("main.cf");
        let before = std::fs::read_to_string(root.join("etc/postfix/main.cf")).expect("main.cf of Debian");
        std::fs::write(&path, before + main_cf).expect("main.cf is written");
        let mut command = Command::new("systemd-nspawn");
        command.arg(format!("--bind-ro={}:/etc/postfix/main.cf", path.display()));
        command.arg("-D").arg(root).args(["--volatile=overlay", "--register=no", "--keep-unit", "--private-network"]);
        static BOOTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("--machine=podop-{}-{}", std::process::id(), BOOTED.fetch_add(1, Relaxed));
        command.args([&name, "--quiet", "--boot", "--console=pipe"]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut nspawn = command.stderr(Stdio::null()).spawn().expect("systemd-nspawn runs");
        let mut init = None;
        wait_until(|| {
            assert!(nspawn.try_wait().expect("its state").is_none(), "systemd-nspawn has ended");
            init = child(nspawn.id(), "systemd");
            init.is_some()
        });
        let init = init.expect("found");
        let machine = Machine { nspawn, init, _dir: dir };
        // Some unit of the system may have failed (`degraded`); those that matter are tested.
        wait_until(|| {
            let state = machine.command("systemctl is-system-running").output().expect("nsenter runs");
            matches!(state.stdout.trim_ascii(), b"running" | b"degraded")
        });
        Some(machine)
    }

    /// A shell command within the system.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init, "-a", "timeout", "60", "sh", "-c", script]).stdin(Stdio::null());
        command.env_clear().env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        command
    }

    /// What a command prints on stdout, which must succeed.
    pub fn run(&self, script: &str) -> String {
        let Output { status, stdout, stderr } = self.command(script).output().expect("nsenter runs");
        let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if !status.success() {
            let state = self.command("systemctl list-jobs --no-pager; journalctl --no-pager -n 40").output();
            let journal = state.map(|state| String::from_utf8_lossy(&state.stdout).into_owned()).unwrap_or_default();
            panic!("{script}: {status}\n{out}{err}\n{journal}");
        }
        out
    }

    /// True if a command succeeds.
    pub fn succeeds(&self, script: &str) -> bool {
        self.command(script).output().expect("nsenter runs").status.success()
    }

    /// Writes a file.
    pub fn write(&self, path: &str, content: &[u8]) {
        let mut command = self.command(&format!("mkdir -p $(dirname {path}) && cat >{path}"));
        let mut child = command.stdin(Stdio::piped()).spawn().expect("nsenter runs");
        child.stdin.take().expect("a pipe").write_all(content).expect("the file is written");
        assert!(child.wait().expect("its end").success(), "{path}");
    }

    /// Installs a package from a file.
    pub fn install(&self, package: &Path) {
        self.write("/root/package.deb", &std::fs::read(package).expect("the package"));
        self.run("DEBIAN_FRONTEND=noninteractive dpkg -i /root/package.deb");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It ends all processes of the system, and keeps nothing.
        signal(&self.nspawn, libc::SIGTERM);
        let _ = self.nspawn.wait();
    }
}

/// The child of a process that runs this program. There are others while the system starts.
fn child(parent: u32, program: &str) -> Option<String> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let runs =
        |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == program);
    children.split_whitespace().find(runs).map(str::to_owned)
}
