//! File systems: how full they are, and whether two paths lie on the same one.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What an ordinary user can still write: the reserve of root is not counted.
    pub free: u64,
    /// How large the file system is.
    pub total: u64,
}

/// The room on the file system of `path`, which must exist. Blocking.
pub fn space(path: &Path) -> io::Result<Space> {
    Ok(rustix::fs::statvfs(path)?.into())
}

/// As [`space`], of what is open. Blocking.
pub fn space_of(open: impl AsFd) -> io::Result<Space> {
    Ok(rustix::fs::fstatvfs(open)?.into())
}

impl From<rustix::fs::StatVfs> for Space {
    fn from(facts: rustix::fs::StatVfs) -> Self {
        Self {
            free: facts.f_bavail.saturating_mul(facts.f_frsize),
            total: facts.f_blocks.saturating_mul(facts.f_frsize),
        }
    }
}

/// Whether a file can be moved from `a` to `b` by a rename; both must exist. Blocking.
///
/// Equal device numbers can still mean different mounts (bind mounts), across which a rename fails with `EXDEV`.
pub fn same_filesystem(a: &Path, b: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(a)?.dev() == std::fs::metadata(b)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_less_room_than_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let space = space(folder.path()).unwrap();
        assert!(space.total > 0 && space.free <= space.total);
        assert!(super::space(&folder.path().join("gone")).is_err());
    }

    #[test]
    fn proc_is_another_file_system() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        assert!(same_filesystem(folder.path(), &folder.path().join("a")).unwrap());
        assert!(!same_filesystem(folder.path(), Path::new("/proc")).unwrap());
    }
}
