//! The spools of a configuration: old ones are removed and new ones are made, within a bounded time. One whose file system hangs is done
//! without until that answers, and nothing but what would lie in it waits for it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use futures::future::try_join_all;
use tracing::warn;

use crate::archive::{Spool, is_in_use};
use crate::config::Config;
use walward_base::sys::folder::Folder;
use walward_base::sys::ground::Ground;

/// How long the file system of the spools may take to remove old ones, and then to make a new one. All clusters' are asked at once.
const DEADLINE: Duration = Duration::from_secs(5);

/// The folder of a cluster: its spools are named by numbers there.
pub fn folder_of(spool_directory: &Path, cluster: &str) -> PathBuf {
    spool_directory.join(cluster)
}

/// Removes the spools that earlier processes left. Only folders with a number for a name are spools, and only those that no agent
/// uses are left over.
pub async fn clear(config: &Config) {
    let clears = config.clusters.keys().map(async |cluster| {
        let folder = folder_of(&config.agent.spool_directory, cluster);
        let (cluster, path) = (cluster.clone(), folder.clone());
        let cleared = Ground::of(&folder).look_at(&folder, DEADLINE, move |_| clear_one(&cluster, &path)).await;
        if cleared.is_err() {
            warn!(folder = %folder.display(), "the file system of the spool does not answer: old spools are left there");
        }
    });
    futures::future::join_all(clears).await;
}

/// Blocking.
fn clear_one(cluster: &str, folder: &Path) {
    let entries = match Folder::enter_own(folder).and_then(|_| std::fs::read_dir(folder)) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                warn!(cluster, folder = %folder.display(), %error, "cannot look for old spools");
            }
            return;
        }
    };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.parse::<u64>().is_ok());
        // Another agent may share the place.
        if !is_ours || is_in_use(&entry.path()) {
            continue;
        }
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            warn!(cluster, folder = %entry.path().display(), %error, "cannot remove an old spool");
        }
    }
}

/// New spools for all clusters of `config`. They have a number of their own, apart from those of any other configuration.
///
/// # Errors
/// When one cannot be made. One that does not answer is made when it does.
pub async fn open(config: &Config) -> anyhow::Result<BTreeMap<String, Spool>> {
    let number: u64 = rand::random();
    let opens = config.clusters.iter().map(async |(cluster, settings)| {
        let folder = folder_of(&config.agent.spool_directory, cluster).join(number.to_string());
        let spool = Spool::at(&folder, settings.fetch.prefetch_bytes_max);
        let made = if spool.hangs().is_some() { None } else { spool.make(DEADLINE).await.ok() };
        if let Some(made) = made {
            made.with_context(|| format!("make the spool {}", folder.display()))?;
        } else {
            warn!(
                cluster, folder = %folder.display(),
                "the file system of the spool does not answer: until it does nothing is fetched ahead, and what a recovery asks for goes beside its destination"
            );
        }
        anyhow::Ok((cluster.clone(), spool))
    });
    Ok(try_join_all(opens).await?.into_iter().collect())
}
