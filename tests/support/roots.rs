//! Whole Debian systems, which `tests/roots` has built.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root directory of a Debian system (`bookworm` or `trixie`). Says that the test is skipped if there is none.
pub fn root(release: &str) -> Option<PathBuf> {
    let root = std::env::var_os("PODOP_ROOTS").map(|roots| PathBuf::from(roots).join(release));
    let root = root.filter(|root| root.join("etc/os-release").exists());
    if root.is_none() {
        eprintln!("skipped: there is no {release} in PODOP_ROOTS, which tests/run builds as root, with a network");
    }
    root
}

/// The directory of the packages that were built. Says that the test is skipped if there is none.
pub fn packages() -> Option<PathBuf> {
    let packages = std::env::var_os("PODOP_ROOTS").map(|roots| PathBuf::from(roots).join("packages"));
    let packages = packages.filter(|packages| packages.join("upgrade").exists());
    if packages.is_none() {
        eprintln!("skipped: there are no packages in PODOP_ROOTS, which tests/run builds as root, with a network");
    }
    packages
}

/// The package in a directory whose name has this end.
pub fn package(directory: &Path, end: &str) -> PathBuf {
    let paths = std::fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path());
    paths.into_iter().find(|path| path.to_string_lossy().ends_with(end)).expect("a package")
}

/// Where the servers of a test come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Release {
    /// This machine: Dovecot 2.3 and Postfix 3.7.
    Bookworm,
    /// The root directory of that name: Dovecot 2.4 and Postfix 3.10.
    Trixie,
}

impl Release {
    /// Whether tests can run its servers. Says that the test is skipped if not.
    pub fn is_here(self) -> bool {
        static MISSING: OnceLock<Option<String>> = OnceLock::new();
        if self == Release::Bookworm {
            return true;
        }
        if root("trixie").is_none() {
            return false;
        }
        let missing = MISSING.get_or_init(|| {
            let output = self.command("true").output().expect("unshare runs");
            (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
        });
        // Containers may lack the right to mount, and TMPDIR may name a folder that the root does not have.
        missing.iter().for_each(|reason| eprintln!("skipped: nothing runs in the root of trixie: {reason}"));
        missing.is_none()
    }

    /// A program of this release, with the temporary files of this machine at the same paths.
    ///
    /// What is mounted for it is seen by this process and its children only, and goes with them. The process becomes the
    /// program, so its id and its group are those of the child.
    pub fn command(self, program: &str) -> Command {
        let mut command = match self {
            Release::Bookworm => Command::new(program),
            Release::Trixie => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "--propagation", "private", "sh", "-ec", ENTER, "sh"]);
                command.arg(root("trixie").expect("tests are skipped without it"));
                command.arg(std::env::temp_dir()).arg(program);
                command
            }
        };
        // with the folders of daemons, which ordinary users lack
        command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin");
        command
    }
}

/// Becomes a program in another root directory: `ROOT TEMPORARY PROGRAM ARGUMENT...`.
const ENTER: &str = r#"
root=$1 temporary=$2
shift 2
mount --bind "$temporary" "$root$temporary"
mount -t proc proc "$root/proc"
exec chroot "$root" "$@"
"#;
