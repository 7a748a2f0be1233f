//! Whole Debian systems, which `tests/roots` has built.

use std::path::PathBuf;

/// The root directory of a Debian system (`bookworm` or `trixie`). Says that the test is skipped if there is none.
pub fn root(release: &str) -> Option<PathBuf> {
    let root = std::env::var_os("PODOP_ROOTS").map(|roots| PathBuf::from(roots).join(release));
    let root = root.filter(|root| root.join("etc/os-release").exists());
    if root.is_none() {
        eprintln!("skipped: there is no {release} in PODOP_ROOTS, which tests/run builds as root, with a network");
    }
    root
}
