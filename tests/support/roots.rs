//! Whole Debian systems, which `tests/roots` has built.

use std::path::{Path, PathBuf};

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
