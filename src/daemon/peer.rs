//! Who may ask for what: root, the agent's own user, and the owner of the cluster's data directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use walward_base::sys::folder::Folder;
use walward_base::sys::ground::Ground;

/// How often the owner of a data directory is looked up.
const OWNER_INTERVAL: Duration = Duration::from_secs(5);

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

    /// Also the owner of `data_directory`. Blocking.
    pub fn may_use(self, data_directory: &Path) -> bool {
        self.is_trusted() || owner(data_directory) == Some(self.uid)
    }
}

/// The owner of `data_directory`, if it can be told. Blocking.
fn owner(data_directory: &Path) -> Option<u32> {
    Some(Folder::enter(data_directory).and_then(|folder| folder.facts()).ok()?.uid)
}

/// The owner of a data directory as it was seen last: good enough to give an owner's connections places of their own before a
/// file system is asked, not to let anybody in.
#[derive(Debug, Clone)]
pub struct Owner(Arc<AtomicI64>);

impl Default for Owner {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(-1)))
    }
}

impl Owner {
    /// Whether the peer was the owner.
    pub fn is(&self, peer: Peer) -> bool {
        self.0.load(Ordering::Relaxed) == i64::from(peer.uid)
    }

    /// Looks it up now and then until `closing` is cancelled. A file system that hangs keeps one thread.
    pub async fn watch(self, data_directory: PathBuf, closing: CancellationToken) {
        loop {
            let directory = data_directory.clone();
            let ground = Ground::of(&data_directory);
            let uid = ground.look(move || owner(&directory));
            tokio::select! {
                () = closing.cancelled() => return,
                looked = uid => {
                    if let Some(Some(uid)) = looked {
                        self.0.store(i64::from(uid), Ordering::Relaxed);
                    }
                }
            }
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(OWNER_INTERVAL) => {}
            }
        }
    }
}
