//! What the client of a standby leaves for the next one: that the agent was silent.
//!
//! PostgreSQL asks four or five times in a promotion, each time by a process of its own. An agent that hangs would hold each of them for the
//! whole wait. So the first one leaves an empty file beside the destination (in pg_wal, which belongs to the asker), and those of the next
//! seconds give the agent less time for its first sign of life. They ask all the same: an agent that is well again is heard, and a file
//! that is left over, or whose time is wrong, costs nothing. No recovery that may end looks at it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file's name.
pub const NAME: &str = "walward-agent-silent";

/// How long it counts. It is not renewed meanwhile, so that an agent that is slow, and does not hang, is heard in full now and then.
const COUNTS_FOR: Duration = Duration::from_secs(10);

/// The file beside one destination.
#[derive(Debug)]
pub struct Silence {
    path: PathBuf,
    /// Whether it was there, whatever its age.
    left: bool,
    /// Whether it counts.
    counts: bool,
}

impl Silence {
    /// What was left beside `destination`. By the clock of the file system; a time in the future counts as none.
    pub fn beside(destination: &Path) -> Self {
        let path = destination.with_file_name(NAME);
        let found = fs::symlink_metadata(&path).ok();
        let age = found.as_ref().and_then(|found| found.modified().ok()?.elapsed().ok());
        Self { path, left: found.is_some(), counts: age.is_some_and(|age| age < COUNTS_FOR) }
    }

    /// Whether the agent was silent a moment ago.
    pub fn counts(&self) -> bool {
        self.counts
    }

    /// The agent was silent: leaves the file, unless one counts. What cannot be left is not.
    pub fn met(&self) {
        if !self.counts {
            let _ = fs::remove_file(&self.path);
            // Never through a link that lies there.
            let _ = File::create_new(&self.path);
        }
    }

    /// The agent has spoken: the file goes.
    pub fn broken(&self) {
        if self.left {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn it_counts_for_some_seconds_is_not_renewed_and_goes_when_the_agent_speaks() {
        let folder = tempfile::tempdir().expect("a folder");
        let (destination, file) = (folder.path().join("RECOVERYXLOG"), folder.path().join(NAME));
        let now = || Silence::beside(&destination);
        assert!(!now().counts());
        now().broken();
        now().met();
        assert!(now().counts());
        let age = |seconds: u64| {
            let at = SystemTime::now() - Duration::from_secs(seconds);
            File::options().write(true).open(&file).and_then(|file| file.set_modified(at)).expect("set");
        };
        age(8);
        now().met();
        assert!(now().counts());
        age(3600);
        assert!(!now().counts());
        now().met();
        assert!(now().counts(), "made anew");
        // A clock that was set back.
        let later = SystemTime::now() + Duration::from_mins(5);
        File::options().write(true).open(&file).and_then(|file| file.set_modified(later)).expect("set");
        assert!(!now().counts());
        now().broken();
        assert!(!file.exists());
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let aim = folder.path().join("aim");
        std::os::unix::fs::symlink(&aim, folder.path().join(NAME)).expect("a link");
        Silence::beside(&folder.path().join("RECOVERYXLOG")).met();
        assert!(!aim.exists());
    }
}
