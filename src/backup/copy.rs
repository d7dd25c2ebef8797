//! Copies files into a pack's stream: checksum, page checksums and what changes while it is read, in one pass.
//!
//! As `sendFile` (src/backend/backup/basebackup.c) does: a file has the size that it had when it was opened. What grew is cut
//! there and what shrank is padded with zeros; recovery puts both right. What vanished is left out.

use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::incremental::Since;
use super::member::{self, Attributes};
use super::pace::Pace;
use super::pages::PageChecks;
use super::source::SourceFile;
use super::stream::{PIECE_BYTES, PackStream, Stopped};
use walward_base::sys::ground::Steps;
use walward_pg::changes::BlockSet;
use walward_pg::{ClusterFolders, NearbyFolders, incremental_bytes, incremental_header, incremental_path};

/// How often a page whose checksum does not match is read again: the server may have been writing it at that moment.
const READS_AGAIN_MAX: u32 = 5;
/// The pause before the first of them; it doubles.
const READ_AGAIN_PAUSE: Duration = Duration::from_millis(10);
/// After so many corrupt pages in one file the rest of it gets one more reading without a pause: it is damaged, not torn.
const PATIENT_PAGES_MAX: usize = 16;
/// How many corrupt pages are listed for a file.
pub const LISTED_PAGES_MAX: usize = 100;

/// A file that was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Length of the whole file in bytes.
    pub size: u64,
    /// CRC-32C of the member's content.
    pub crc32c: u32,
    /// Where the member's content begins in the pack's stream.
    pub offset: u64,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: i64,
    /// The blocks that were copied, when not all were; the member is an incremental file then.
    pub blocks: Option<Box<BlockSet>>,
}

impl Copied {
    /// The length of the member's content.
    pub fn member_bytes(&self, block_bytes: u32) -> u64 {
        self.blocks.as_ref().map_or(self.size, |blocks| incremental_bytes(count(blocks), block_bytes))
    }
}

/// How many blocks there are: no more than a file has.
pub fn count(blocks: &BlockSet) -> u32 {
    u32::try_from(blocks.count()).unwrap_or(u32::MAX)
}

/// Pages whose checksum does not match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CorruptPages {
    /// Path and number of the page in that file: at most a hundred a file.
    pub listed: Vec<(String, u32)>,
    /// How many there are.
    pub count: u64,
}

/// Why a file was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The machine does not let it be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An upload went away; its own error says why.
    #[error("an upload ended early")]
    Stopped,
    /// The work was given up.
    #[error("cancelled")]
    Cancelled,
}

impl From<Stopped> for CopyError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// How files are copied.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// How pages are checked; `None` when the cluster has no checksums.
    pub checks: Option<&'a PageChecks>,
    /// What changed since the parent; `None`: every file is copied whole.
    pub since: Option<&'a Since>,
    /// How fast they are read.
    pub pace: &'a Pace,
}

/// Copies files, one after the other, with one buffer.
pub struct Copier<'a> {
    folders: NearbyFolders,
    how: How<'a>,
    cancel: &'a CancellationToken,
    steps: &'a Steps,
    buffer: Vec<u8>,
    corrupt: CorruptPages,
    read_bytes: u64,
}

/// The file in hand.
struct Source<'p> {
    path: &'p str,
    /// Where it lies.
    place: PathBuf,
    file: SourceFile,
    /// Number, in its relation, of the first page of the file, when its pages are checked.
    first_block: Option<u32>,
    /// Its corrupt pages so far, not more than are listed.
    corrupt: Vec<u32>,
}

impl<'a> Copier<'a> {
    /// A copier of files of `folders`. Each call to their file systems is one of `steps`.
    pub fn new(folders: &ClusterFolders, how: How<'a>, cancel: &'a CancellationToken, steps: &'a Steps) -> Self {
        Self {
            folders: NearbyFolders::new(folders.clone()),
            how,
            cancel,
            steps,
            buffer: vec![0; PIECE_BYTES],
            corrupt: CorruptPages::default(),
            read_bytes: 0,
        }
    }

    /// How many bytes were read of what was copied.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// The corrupt pages in what was copied.
    pub fn into_corrupt_pages(self) -> CorruptPages {
        self.corrupt
    }

    /// Copies one file as a tar member. `None` when it is not there any more. `on_bytes` hears of every piece of the file that was read, or that
    /// need not be.
    pub fn copy(
        &mut self,
        path: &str,
        stream: &mut PackStream,
        mut on_bytes: impl FnMut(u64),
    ) -> Result<Option<Copied>, CopyError> {
        let place = self.folders.shown(path);
        let opened = self.steps.at(&place, || match self.folders.of(path) {
            // Dropped with its folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.and_then(|(folder, name)| SourceFile::open(folder, name)),
        });
        let opened = opened.map_err(|source| CopyError::Read { path: place.clone(), source })?;
        let Some(file) = opened else { return Ok(None) };
        let first_block = self.how.checks.and_then(|checks| checks.first_block(path));
        let mut source = Source { path, place, file, first_block, corrupt: Vec::new() };
        let size = source.file.metadata().len();
        let blocks = self.how.since.and_then(|since| Some((since.blocks(path, size)?, since.block_bytes)));
        let copied = match blocks {
            None => self.whole(&mut source, size, stream, &mut on_bytes)?,
            Some((blocks, block_bytes)) => {
                self.some(&mut source, size, (blocks, block_bytes), stream, &mut on_bytes)?
            }
        };
        self.corrupt.listed.extend(source.corrupt.into_iter().map(|block| (path.to_owned(), block)));
        Ok(Some(copied))
    }

    fn whole(
        &mut self,
        source: &mut Source<'_>,
        size: u64,
        stream: &mut PackStream,
        on_bytes: &mut impl FnMut(u64),
    ) -> Result<Copied, CopyError> {
        let attributes = attributes(source.file.metadata());
        stream.write(&member::file_header(source.path, size, attributes))?;
        let offset = stream.position();
        let mut crc32c = 0;
        self.stretch(source, 0..size, &mut crc32c, stream, on_bytes)?;
        stream.write(member::padding(size))?;
        Ok(Copied { size, crc32c, offset, mode: attributes.mode, mtime: attributes.mtime, blocks: None })
    }

    /// Copies these blocks as an incremental file.
    fn some(
        &mut self,
        source: &mut Source<'_>,
        size: u64,
        (blocks, block_bytes): (BlockSet, u32),
        stream: &mut PackStream,
        on_bytes: &mut impl FnMut(u64),
    ) -> Result<Copied, CopyError> {
        let attributes = attributes(source.file.metadata());
        let numbers: Vec<u32> = blocks.iter(..).collect();
        let bytes = incremental_bytes(count(&blocks), block_bytes);
        stream.write(&member::file_header(&incremental_path(source.path), bytes, attributes))?;
        let offset = stream.position();
        let block_bytes = u64::from(block_bytes);
        let length = u32::try_from(size / block_bytes).unwrap_or(u32::MAX);
        let header = incremental_header(&numbers, length, u32::try_from(block_bytes).unwrap_or(u32::MAX));
        let mut crc32c = crc32c::crc32c(&header);
        stream.write(&header)?;
        on_bytes(size - block_bytes * numbers.len() as u64);
        for run in numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next)) {
            let start = u64::from(run.first().copied().unwrap_or(0)) * block_bytes;
            self.stretch(source, start..start + run.len() as u64 * block_bytes, &mut crc32c, stream, on_bytes)?;
        }
        stream.write(member::padding(bytes))?;
        let blocks = Some(Box::new(blocks));
        Ok(Copied { size, crc32c, offset, mode: attributes.mode, mtime: attributes.mtime, blocks })
    }

    /// Reads a stretch of a file, which begins with a page, checks its pages and hands it on. What is missing at the end becomes zeros.
    fn stretch(
        &mut self,
        source: &mut Source<'_>,
        stretch: Range<u64>,
        crc32c: &mut u32,
        stream: &mut PackStream,
        on_bytes: &mut impl FnMut(u64),
    ) -> Result<(), CopyError> {
        let Source { place, file, first_block, corrupt, .. } = source;
        let failed = |source| CopyError::Read { path: place.clone(), source };
        let mut done = stretch.start;
        while done < stretch.end {
            if self.cancel.is_cancelled() {
                return Err(CopyError::Cancelled);
            }
            let wanted = self.buffer.len().min(usize::try_from(stretch.end - done).unwrap_or(usize::MAX));
            self.how.pace.wait(wanted as u64, self.cancel);
            let buffer = self.buffer.get_mut(..wanted).unwrap_or_default();
            let read = self.steps.at(place, || file.read_at(buffer, done)).map_err(failed)?;
            self.read_bytes += read as u64;
            let (content, missing) = buffer.split_at_mut(read);
            missing.fill(0);
            if let (Some(checks), Some(first_block)) = (self.how.checks, *first_block) {
                let (cancel, steps) = (self.cancel, self.steps);
                let mut check = Check { file, place, checks, cancel, steps, first_block, corrupt };
                self.corrupt.count += check.run(content, done).map_err(failed)?;
            }
            *crc32c = crc32c::crc32c_append(*crc32c, buffer);
            stream.write(buffer)?;
            done += wanted as u64;
            on_bytes(wanted as u64);
        }
        Ok(())
    }
}

/// What a header says of a file or directory with this metadata.
pub fn attributes(metadata: &std::fs::Metadata) -> Attributes {
    Attributes {
        mode: metadata.permissions().mode() & 0o7777,
        mtime: metadata.mtime(),
        uid: metadata.uid(),
        gid: metadata.gid(),
    }
}

/// The pages of one file.
struct Check<'a> {
    file: &'a mut SourceFile,
    /// Where it lies.
    place: &'a Path,
    checks: &'a PageChecks,
    cancel: &'a CancellationToken,
    steps: &'a Steps,
    /// Number, in its relation, of the first page of the file.
    first_block: u32,
    /// The corrupt pages of the file so far, not more than are listed.
    corrupt: &'a mut Vec<u32>,
}

impl Check<'_> {
    /// Checks the whole pages in `content`, which was read at `offset`, and puts right those that were read torn.
    /// Returns how many stay corrupt.
    fn run(&mut self, content: &mut [u8], offset: u64) -> io::Result<u64> {
        let page_bytes = self.checks.page_bytes;
        let Ok(first) = u32::try_from(offset / page_bytes as u64) else { return Ok(0) };
        let mut count = 0;
        for (block, page) in (first..).zip(content.chunks_exact_mut(page_bytes)) {
            if !self.is_fine(page, block) && !self.read_again(page, block)? {
                count += 1;
                if self.corrupt.len() < LISTED_PAGES_MAX {
                    self.corrupt.push(block);
                }
            }
        }
        Ok(count)
    }

    fn is_fine(&self, page: &[u8], block: u32) -> bool {
        self.checks.is_fine(page, self.first_block.wrapping_add(block))
    }

    /// Reads a page again until it is whole; then `page` holds it. `false` when it never is.
    fn read_again(&mut self, page: &mut [u8], block: u32) -> io::Result<bool> {
        let patient = self.corrupt.len() < PATIENT_PAGES_MAX;
        let mut again = vec![0; page.len()];
        for attempt in 0..if patient { READS_AGAIN_MAX } else { 1 } {
            if patient && !self.cancel.is_cancelled() {
                std::thread::sleep(READ_AGAIN_PAUSE * (1 << attempt));
            }
            let offset = u64::from(block) * page.len() as u64;
            let read = self.steps.at(self.place, || self.file.read_at(&mut again, offset))?;
            if read < page.len() {
                // Truncated meanwhile: recovery truncates it again.
                return Ok(true);
            }
            if self.is_fine(&again, block) {
                page.copy_from_slice(&again);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::stream::pack_stream;
    use futures::StreamExt;
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use walward_pg::Lsn;

    use walward_base::sys::folder::Folder;

    fn folders(root: &Path) -> ClusterFolders {
        ClusterFolders::new(Folder::enter(root).unwrap(), BTreeMap::new())
    }

    /// Two whole pages with checksums, blocks 0 and 1 of a relation.
    const PAGES: &[u8] = include_bytes!("../../tests/fixtures/pg/15/relation");

    const CHECKS: PageChecks = PageChecks { page_bytes: 8192, segment_blocks: 131_072, start: Lsn(u64::MAX) };

    fn write(root: &Path, path: &str, bytes: &[u8]) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).and_then(|mut file| file.write_all(bytes)).unwrap();
    }

    type Outcome = (Vec<Result<Option<Copied>, CopyError>>, CorruptPages, Vec<u8>);

    /// Copies files, and gives back what became of each and the stream. `meddle` hears of every piece that was read.
    async fn copy(root: &Path, paths: &[&str], meddle: impl Fn() + Send + 'static) -> Outcome {
        let (mut stream, mut content) = pack_stream(CancellationToken::new());
        let (root, paths) = (root.to_owned(), paths.iter().map(|&path| path.to_owned()).collect::<Vec<_>>());
        let reader = tokio::task::spawn_blocking(move || {
            let (cancel, steps) = (CancellationToken::new(), Steps::default());
            let how = How { checks: Some(&CHECKS), since: None, pace: &Pace::default() };
            let mut copier = Copier::new(&folders(&root), how, &cancel, &steps);
            let outcomes = paths.iter().map(|path| copier.copy(path, &mut stream, |_| meddle())).collect();
            stream.write(&member::END).unwrap();
            stream.finish().unwrap();
            (outcomes, copier.into_corrupt_pages())
        });
        let mut bytes = Vec::new();
        while let Some(piece) = content.next().await {
            bytes.extend(piece.unwrap());
        }
        let (outcomes, corrupt) = reader.await.unwrap();
        (outcomes, corrupt, bytes)
    }

    fn members(stream: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(stream);
        let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[tokio::test]
    async fn files_are_copied_and_what_vanished_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let large: Vec<u8> = (0u8..247).cycle().take(3_000_001).collect();
        write(folder.path(), "PG_VERSION", b"15\n");
        write(folder.path(), "base/5/large", &large);
        let (outcomes, corrupt, stream) = copy(folder.path(), &["PG_VERSION", "gone", "base/5/large"], || {}).await;
        assert!(matches!(outcomes[1], Ok(None)));
        assert_eq!(corrupt, CorruptPages::default());
        let copied = outcomes[2].as_ref().unwrap().as_ref().unwrap();
        assert_eq!((copied.size, copied.crc32c), (3_000_001, crc32c::crc32c(&large)));
        let offset = usize::try_from(copied.offset).unwrap();
        assert!(stream[offset..].starts_with(&large));
        assert_eq!(members(&stream), [("PG_VERSION".to_owned(), b"15\n".to_vec()), ("base/5/large".to_owned(), large)]);
    }

    #[tokio::test]
    async fn what_shrinks_is_padded_and_what_grows_is_cut() {
        for new_length in [1_500_000, 9_000_000] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), "file", &vec![7; 3 << 20]);
            write(folder.path(), "next", b"next");
            let path = folder.path().join("file");
            let meddle = move || std::fs::File::options().write(true).open(&path).unwrap().set_len(new_length).unwrap();
            let (outcomes, _, stream) = copy(folder.path(), &["file", "next"], meddle).await;
            let mut expected = vec![7; 3 << 20];
            if new_length < 3 << 20 {
                expected[1_500_000..].fill(0);
            }
            let copied = outcomes[0].as_ref().unwrap().as_ref().unwrap();
            assert_eq!((copied.size, copied.crc32c), (3 << 20, crc32c::crc32c(&expected)));
            assert_eq!(members(&stream), [("file".to_owned(), expected), ("next".to_owned(), b"next".to_vec())]);
        }
    }

    #[tokio::test]
    async fn a_page_that_stays_wrong_is_reported_and_copied_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut damaged = PAGES.to_vec();
        damaged[8192 + 5000] ^= 1;
        write(folder.path(), "base/5/16384", &damaged);
        write(folder.path(), "base/5/16385", PAGES);
        let (_, corrupt, stream) = copy(folder.path(), &["base/5/16384", "base/5/16385"], || {}).await;
        assert_eq!(corrupt, CorruptPages { listed: vec![("base/5/16384".to_owned(), 1)], count: 1 });
        assert_eq!(members(&stream)[0].1, damaged);
    }

    #[tokio::test]
    async fn a_torn_page_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut torn = PAGES.to_vec();
        torn[5000] ^= 1;
        write(folder.path(), "base/5/16384", &torn);
        let path = folder.path().join("base/5/16384");
        let healer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(25));
            let mut file = std::fs::File::options().write(true).open(path).unwrap();
            file.write_all(PAGES).unwrap();
        });
        let (_, corrupt, stream) = copy(folder.path(), &["base/5/16384"], || {}).await;
        healer.join().unwrap();
        assert_eq!(corrupt, CorruptPages::default());
        assert_eq!(members(&stream)[0].1, PAGES);
    }

    #[test]
    fn a_cancelled_copy_ends() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "file", &vec![7; 5 << 20]);
        let cancel = CancellationToken::new();
        let (mut stream, content) = pack_stream(cancel.clone());
        cancel.cancel();
        let steps = Steps::default();
        let outcome = {
            let how = How { checks: None, since: None, pace: &Pace::default() };
            Copier::new(&folders(folder.path()), how, &cancel, &steps).copy("file", &mut stream, |_| {})
        };
        assert!(matches!(outcome, Err(CopyError::Cancelled)));
        drop(content);
    }
}
