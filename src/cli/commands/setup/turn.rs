//! Setups on one host that share a folder of keys take turns, so that none removes a key file that another one is about to use.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::cli::failure::Failure;
use crate::outcome::Exit;

/// Longer than a setup needs for a repository, unless its store hangs.
const DEADLINE: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(50);

/// Waits for the turn at the folder of `key_file`, which lasts until the answer is dropped or the process ends. Nothing is written.
pub(super) async fn take(key_file: &Path) -> Result<File, Failure> {
    take_within(key_file, DEADLINE).await
}

async fn take_within(key_file: &Path, deadline: Duration) -> Result<File, Failure> {
    let folder = key_file.parent().unwrap_or(Path::new("/"));
    let opened =
        File::open(folder).with_context(|| format!("cannot open {}, where the key is to lie", folder.display()))?;
    let began = Instant::now();
    loop {
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(opened),
            Err(Errno::WOULDBLOCK) if began.elapsed() < deadline => tokio::time::sleep(PAUSE).await,
            Err(Errno::WOULDBLOCK) => {
                let text = format!("another setup is at work with the keys in {}", folder.display());
                return Err(Failure::new(Exit::Locked, text).hint("run this again when it has ended"));
            }
            Err(error) => {
                let error = anyhow::Error::new(error).context(format!("cannot lock {}", folder.display()));
                return Err(error.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_setups_with_keys_in_one_folder_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let at_once = Duration::ZERO;
        let first = take_within(&folder.path().join("a.key"), at_once).await.unwrap();
        let refused = take_within(&folder.path().join("b.key"), at_once).await.unwrap_err();
        assert_eq!(refused.exit, Exit::Locked);
        drop(first);
        take_within(&folder.path().join("b.key"), at_once).await.unwrap();
    }
}
