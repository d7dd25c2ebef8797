//! Wakes an archiver when a file of its archive_status becomes ready. An event that is lost costs a rescan interval, no more.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::archive::Archiver;
use walward_base::sys::folder::Folder;
use walward_base::sys::ground::Ground;

/// How often a folder that cannot be watched is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Watches until `stop` is cancelled. The folder may not exist yet, and may be replaced by a restore.
pub async fn watch(archiver: Archiver, stop: CancellationToken) {
    let folder = archiver.pg_wal().join("archive_status");
    let ground = Ground::of(archiver.data_directory());
    loop {
        let (place, woken) = (folder.clone(), archiver.clone());
        // Blocking: the file system may hang.
        let starting = ground.look(move || start(&place, woken));
        let Some(started) = stop.run_until_cancelled(starting).await else { return };
        let watcher = started.unwrap_or_else(|| Err(notify::Error::generic("the look died")));
        if let Err(error) = &watcher {
            debug!(folder = %folder.display(), %error, "cannot watch; rescans do the work");
        }
        archiver.wake();
        let Some(inode) = stop.run_until_cancelled(identity(&ground, &folder)).await else { return };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
            let Some(now) = stop.run_until_cancelled(identity(&ground, &folder)).await else { return };
            if watcher.is_err() || now != inode {
                break;
            }
        }
    }
}

/// Blocking.
fn start(folder: &Path, archiver: Archiver) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Only what becomes ready; the archiver's own renames to .done are none of our business.
        if event.is_ok_and(|event| {
            matches!(event.kind, EventKind::Create(_) | EventKind::Modify(notify::event::ModifyKind::Name(_)))
                && event.paths.iter().any(|path| is_ready(path))
        }) {
            archiver.wake();
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn is_ready(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "ready")
}

async fn identity(ground: &Arc<Ground>, folder: &Path) -> Option<(u64, u64)> {
    let folder = folder.to_owned();
    let looked = ground.look(move || Folder::enter(&folder)?.facts()).await?;
    looked.ok().map(|facts| facts.id)
}
