//! Takes back what a restore lent to a recovery that has ended, where the server could not: it crashed before it ran
//! `recovery_end_command`, or the command was not there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::restore::{RestoreError, Settled, settle};
use walward_base::describe;
use walward_base::sys::folder::Folder;
use walward_base::sys::ground::Ground;
use walward_base::sys::identity;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(15);

/// Looks until `closing` is cancelled. A file system that hangs keeps one thread.
pub async fn watch(data_directory: PathBuf, closing: CancellationToken) {
    let mut said = None;
    loop {
        let directory = data_directory.clone();
        let ground = Ground::of(&data_directory);
        let looked = ground.look(move || as_owner(&directory));
        tokio::select! {
            () = closing.cancelled() => return,
            looked = looked => match looked {
                Some(Ok(Settled::TakenBack(names))) if !names.is_empty() => {
                    info!(settings = names.join(", "), "a recovery has ended; its settings are out of postgresql.auto.conf");
                }
                Some(Err(error)) => {
                    let text = describe(&error);
                    if said.as_ref() != Some(&text) {
                        warn!("the settings of a recovery cannot be taken out of postgresql.auto.conf: {text}");
                    }
                    said = Some(text);
                }
                _ => said = None,
            },
        }
        tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// With the rights of the data directory's owner and no other: the files are theirs, and so is every link. Blocking.
fn as_owner(directory: &Path) -> Result<Settled, RestoreError> {
    // Not there, or not to be seen: nothing was restored there.
    let Ok(owner) = Folder::enter(directory).and_then(|folder| folder.facts()) else { return Ok(Settled::Nothing) };
    if !identity::is_root() {
        return settle(directory);
    }
    let directory = directory.to_owned();
    // PostgreSQL runs as nobody like root, so that root's directory is no cluster's.
    if owner.uid == 0 {
        Ok(Settled::Nothing)
    } else {
        identity::as_user(owner.uid, owner.gid, move || settle(&directory)).unwrap_or(Ok(Settled::Nothing))
    }
}
