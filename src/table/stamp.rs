//! Versions of files, which are read again when they change.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// The interval between two checks of a file for changes.
// By the clock and not with lookups: the first one after an hour would be answered from the old content, while the new
// one is read.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What distinguishes a version of a file from others. The times are in seconds and nanoseconds.
// A file that was put in place of another may have its size and its modification time.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub is_regular: bool,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// That of the file which is there now, if there is one. To be taken before the file is read: if it changes in
    /// between, the stamp is the older one and the file is read again.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let of = std::fs::metadata(path).ok()?;
        Some(Self {
            device: of.dev(),
            inode: of.ino(),
            is_regular: of.is_file(),
            size: of.size(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        })
    }
}
