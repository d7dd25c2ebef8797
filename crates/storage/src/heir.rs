//! Whom the files belong to that root writes: whoever owns the repository's folder. An agent that is not root must read them, and
//! write beside them, after `sudo walward keys rotate` or `repo copy`.
//!
//! Best effort: where root may not give files away (NFS), they stay its own, and `check` finds what cannot be read.

use walward_base::sys::durable::NewFile;
use walward_base::sys::folder::Folder;
use walward_base::sys::identity;

/// The owner of a repository's folder, who is not root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heir {
    uid: u32,
    gid: u32,
}

impl Heir {
    /// Who owns `root`, when this process is root and somebody else does. Blocking.
    pub(super) fn of(root: &Folder) -> Option<Self> {
        let found = root.facts().ok().filter(|_| identity::is_root())?;
        (found.uid != 0).then_some(Self { uid: found.uid, gid: found.gid })
    }

    /// User and group.
    pub(super) fn ids(self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// Gives a file that is being written. Blocking.
    pub(super) fn takes(self, file: &NewFile) {
        let _ = file.give(Some(self.uid), Some(self.gid));
    }
}
