//! Who may ask for what: root, the agent's own user, and the owner of the cluster's data directory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The user at the other end of a connection, as the kernel says (SO_PEERCRED).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
}

impl Peer {
    /// Root, or the user that the agent runs as.
    pub fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }

    /// Also the owner of `data_directory`.
    pub fn may_use(self, data_directory: &Path) -> bool {
        self.is_trusted() || std::fs::metadata(data_directory).is_ok_and(|directory| directory.uid() == self.uid)
    }
}
