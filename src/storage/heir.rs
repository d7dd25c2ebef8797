//! Whom the files belong to that root writes: whoever owns the repository's folder. An agent that is not root must read them, and
//! write beside them, after `sudo walward keys rotate` or `repo copy`.
//!
//! Best effort: where root may not give files away (NFS), they stay its own, and `check` finds what cannot be read. The owner may
//! change the folders meanwhile, so that no symbolic link below the repository's folder is followed.

use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use crate::sys::durable::NewFile;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The owner of a repository's folder, who is not root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heir {
    uid: u32,
    gid: u32,
}

impl Heir {
    /// Who owns `root`, when this process is root and somebody else does. Blocking.
    pub(super) fn of(root: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let found = std::fs::metadata(root).ok()?;
        (found.uid() != 0).then(|| Self { uid: found.uid(), gid: found.gid() })
    }

    /// Gives a file that is being written. Blocking.
    pub(super) fn takes(self, file: &NewFile) {
        let _ = file.give(Some(self.uid), Some(self.gid));
    }

    /// Gives the folders from below `root` down to `folder` that are root's: new ones, and what root left otherwise. Blocking.
    pub(super) fn takes_folders(self, root: &Path, folder: &Path) {
        let Ok(below) = folder.strip_prefix(root) else { return };
        let Ok(mut folder) = openat(CWD, root, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty()) else { return };
        for name in below {
            let Ok(inner) = openat(&folder, name, FOLDER, Mode::empty()) else { return };
            if fstat(&inner).is_ok_and(|facts| facts.st_uid == 0) {
                let _ = fchown(&inner, Some(self.uid), Some(self.gid));
            }
            folder = inner;
        }
    }
}
