//! Reading a file of a running server, and leaving the page cache as it was.
//!
//! PostgreSQL lives off the page cache. Reading a whole cluster would fill it with what nobody will read again. So each
//! piece is first taken from the cache without waiting (`RWF_NOWAIT`), which shows what was there; only what had to come from the
//! disk is dropped from the cache afterwards. The kernel's read-ahead is off, because it would make everything look as
//! if it had been there; the pieces are large enough without it.

use std::fs::{File, Metadata};
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

use walward_base::sys::folder::Folder;

/// A regular file that is being read.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    metadata: Metadata,
    /// Whether this file system can say what is in the cache; if not, the cache is left alone.
    knows_cache: bool,
}

impl SourceFile {
    /// Opens a file of `folder`; `None` when there is none (any more). A symbolic link is not followed, a pipe not waited for.
    pub fn open(folder: &Folder, name: &str) -> io::Result<Option<Self>> {
        let file = match folder.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let metadata = file.metadata()?;
        // Advice is no more than that: a file system may refuse it.
        let knows_cache = rustix::fs::fadvise(&file, 0, None, Advice::Random).is_ok();
        Ok(Some(Self { file, metadata, knows_cache }))
    }

    /// What was known of the file when it was opened.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Fills `buffer` from `offset` on; fewer bytes only at the end of the file.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let cached = if self.knows_cache { self.read_cached(buffer, offset)? } else { 0 };
        let mut done = cached;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.knows_cache
            && let Some(length) = NonZeroU64::new((done - cached) as u64)
        {
            let _ = rustix::fs::fadvise(&self.file, offset + cached as u64, Some(length), Advice::DontNeed);
        }
        Ok(done)
    }

    /// Reads what the page cache holds from `offset` on.
    fn read_cached(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.knows_cache = false;
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read_and_the_end_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let data: Vec<u8> = (0u8..253).cycle().take(300_000).collect();
        std::fs::File::create(&path).and_then(|mut file| io::Write::write_all(&mut file, &data)).unwrap();
        let held = Folder::enter(folder.path()).unwrap();
        let mut file = SourceFile::open(&held, "file").unwrap().unwrap();
        let mut buffer = vec![0; 400_000];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), data.len());
        assert_eq!(buffer[..data.len()], data);
        assert_eq!(file.read_at(&mut buffer, 299_000).unwrap(), 1_000);
        assert_eq!(buffer[..1_000], data[299_000..]);
        assert_eq!(file.read_at(&mut buffer, 300_000).unwrap(), 0);
    }

    #[test]
    fn what_is_not_a_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let held = Folder::enter(folder.path()).unwrap();
        assert!(SourceFile::open(&held, "gone").unwrap().is_none());
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        assert!(SourceFile::open(&held, "folder").is_err());
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        assert!(SourceFile::open(&held, "link").is_err());
    }
}
