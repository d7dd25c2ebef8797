//! What is known of a name without following it.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Stat};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Folder,
    /// A symbolic link.
    Link,
    /// A pipe, a socket, a device.
    Other,
}

/// What is known of a file, a folder or a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// The file system that it is on, and its number there.
    pub id: (u64, u64),
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub bytes: u64,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: i64,
    /// Nanoseconds after them.
    pub mtime_nanos: u32,
    /// Whether it has more than one name. Folders have.
    pub is_elsewhere: bool,
}

impl Facts {
    /// What is known of something that is open.
    pub fn of(open: impl AsFd) -> io::Result<Self> {
        Ok(rustix::fs::fstat(open)?.into())
    }

    /// The modification time.
    pub fn modified(&self) -> SystemTime {
        let seconds = Duration::from_secs(self.mtime.unsigned_abs());
        let whole = if self.mtime < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(seconds)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(seconds)
        };
        whole
            .and_then(|whole| whole.checked_add(Duration::from_nanos(self.mtime_nanos.into())))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl From<Stat> for Facts {
    fn from(found: Stat) -> Self {
        let kind = match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        };
        #[allow(clippy::useless_conversion, reason = "the types are others on other machines")]
        let id = (u64::from(found.st_dev), u64::from(found.st_ino));
        Self {
            kind,
            id,
            mode: found.st_mode & 0o7777,
            uid: found.st_uid,
            gid: found.st_gid,
            bytes: u64::try_from(found.st_size).unwrap_or(0),
            mtime: found.st_mtime,
            mtime_nanos: u32::try_from(found.st_mtime_nsec).unwrap_or(0),
            is_elsewhere: found.st_nlink > 1,
        }
    }
}
