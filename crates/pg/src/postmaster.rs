//! `postmaster.pid`: one life of a server, from its start to its end.

use std::io::{self, Read};
use std::path::Path;

use walward_base::sys::folder::{Facts, Folder};

/// More than PostgreSQL writes (eight short lines and a path).
const BYTES_MAX: u64 = 8 << 10;

/// One life of a server on one data directory. It says nothing about processes, so that it is the same in every PID namespace,
/// and the same to an agent that was restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLife {
    pid: i64,
    /// Seconds since 1970.
    started: i64,
    /// The file itself: a copy of the data directory has another one.
    device: u64,
    inode: u64,
}

impl ServerLife {
    /// The life of which the file in `data_directory` speaks; `None` where there is none: no server runs there. Links are not
    /// followed. Blocking.
    ///
    /// # Errors
    /// When it cannot be read, or is not what PostgreSQL writes (it is empty for a moment while a server starts).
    pub fn read(data_directory: &Path) -> io::Result<Option<Self>> {
        let file = match Folder::enter(data_directory).and_then(|folder| folder.open("postmaster.pid")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let (device, inode) = Facts::of(&file)?.id;
        let mut text = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut text)?;
        let (pid, started) = parse(&String::from_utf8_lossy(&text)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "postmaster.pid is not what PostgreSQL writes")
        })?;
        Ok(Some(Self { pid, started, device, inode }))
    }

    /// The number of its process, in its own PID namespace.
    pub fn pid(&self) -> i64 {
        self.pid
    }
}

/// Process id and start time: the first and the third line (`LOCK_FILE_LINE_PID` and `LOCK_FILE_LINE_START_TIME`,
/// src/include/utils/pidfile.h).
fn parse(text: &str) -> Option<(i64, i64)> {
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    let started = lines.nth(1)?.trim().parse().ok()?;
    Some((pid, started))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(folder: &Path, text: &str) {
        let path = folder.join("postmaster.pid");
        let _ = std::fs::remove_file(&path);
        walward_base::sys::durable::create(&path, text.as_bytes(), 0o600).expect("written");
    }

    #[test]
    fn another_start_and_a_copy_are_other_lives_and_what_comes_later_in_the_file_is_not() {
        let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let life = |folder: &tempfile::TempDir| ServerLife::read(folder.path()).expect("read");
        assert_eq!(life(&one), None);
        write(one.path(), "77\n/data\n1800000000\n5432\n/run\n");
        let first = life(&one).expect("a life");
        let grown = std::fs::File::options().append(true).open(one.path().join("postmaster.pid"));
        io::Write::write_all(&mut grown.expect("opened"), b"localhost\n  1 2\nready\n").expect("written");
        assert_eq!(life(&one), Some(first));
        write(two.path(), "77\n/data\n1800000000\n5432\n/run\n");
        assert_ne!(life(&two), Some(first), "a copy");
        write(one.path(), "77\n/data\n1800000009\n5432\n/run\n");
        assert_ne!(life(&one), Some(first), "started again");
        write(one.path(), "");
        assert!(ServerLife::read(one.path()).is_err(), "a server that starts at this moment");
        std::fs::remove_file(one.path().join("postmaster.pid")).expect("removed");
        std::os::unix::fs::symlink(two.path().join("postmaster.pid"), one.path().join("postmaster.pid"))
            .expect("a link");
        assert!(ServerLife::read(one.path()).is_err(), "a link");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
