//! The names of files that are not finished yet, and the files that a killed writer left under such a name.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use super::super::folder::{Folder, Kind};

/// Whether `name` (a file's name without its folder) is one that only [`super`] gives to unfinished files.
pub fn is_temporary_name(name: &str) -> bool {
    name.strip_prefix(".walward-").and_then(|rest| rest.strip_suffix(".tmp")).is_some()
}

/// Removes the unfinished files in `folder` whose writers are gone, and answers how many. Where the file system knows no locks
/// none is. Need not be durable: they mean nothing. Blocking.
///
/// Those younger than `age_min` stay: where others write to the folder, one of them may have made a file and not locked it yet.
pub fn remove_abandoned(folder: &Folder, age_min: Duration) -> io::Result<u64> {
    abandoned(folder, age_min, true, &mut Vec::new()).map(|found| found.files)
}

/// Unfinished files whose writers are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abandoned {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// As [`remove_abandoned`], but only with `remove`; otherwise they are counted. The other names in `folder` come to the end of `others`.
pub fn abandoned(
    folder: &Folder,
    age_min: Duration,
    remove: bool,
    others: &mut Vec<OsString>,
) -> io::Result<Abandoned> {
    let mut found = Abandoned::default();
    for name in folder.names()? {
        if !name.to_str().is_some_and(is_temporary_name) {
            others.push(name);
            continue;
        }
        // Placed or removed by its writer since, or another user's.
        let Ok(facts) = folder.look(&name) else { continue };
        let age = SystemTime::now().duration_since(facts.modified()).unwrap_or_default();
        if facts.kind != Kind::File || age < age_min {
            continue;
        }
        let Ok(file) = folder.open_to_write(&name) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && (!remove || folder.remove_file(&name).is_ok())
        {
            found.files += 1;
            found.bytes += facts.bytes;
        }
    }
    Ok(found)
}

/// A name for an unfinished file beside `path`, that nobody else uses.
pub fn temporary_path(path: &Path) -> PathBuf {
    let name = format!(".walward-{}-{:016x}.tmp", std::process::id(), rand::random::<u64>());
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_are_known_again() {
        let path = temporary_path(Path::new("/a/b"));
        assert_eq!(path.parent(), Some(Path::new("/a")));
        assert!(is_temporary_name(path.file_name().unwrap().to_str().unwrap()));
        assert!(!is_temporary_name("000000010000000000000001"));
    }
}
