//! Cuts the files out of a pack's stream and writes them under their names, and blocks of files where they belong. Blocking.
//!
//! Where each file lies is known from the manifest, so that the stream is not parsed: its bytes are counted. Every file is
//! checked against its CRC-32C. What was written before an error is removed when the pack is unpacked again.

use std::fs::{File, FileTimes, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::iter::Peekable;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};

use super::composition::Run;
use super::contents::{ComposedFile, PackedFile, Part};
use super::directory::Owner;
use super::early_sync::EarlySync;
use super::error::RestoreError;
use super::sums::Sums;

/// A file and the name that it gets.
#[derive(Debug)]
pub struct Destination {
    /// What is in the pack.
    pub file: PackedFile,
    /// Where it goes.
    pub path: PathBuf,
}

/// The files of a pack, by offset.
pub type Destinations = Box<dyn Iterator<Item = Result<Destination, RestoreError>> + Send>;

/// Why a pack was not unpacked.
#[derive(Debug)]
pub enum UnpackError {
    /// The machine failed; another repository would not help.
    Local(RestoreError),
    /// The bytes are not those of the backup.
    Content(String),
}

/// Unpacks one pack.
pub struct Unpacker {
    /// What is still to come.
    waiting: Peekable<Destinations>,
    open: Option<OpenFile>,
    /// Bytes of the stream so far.
    position: u64,
    owner: Option<Owner>,
    early_sync: Arc<EarlySync>,
    sums: Arc<Sums>,
}

#[derive(Debug)]
struct OpenFile {
    destination: Destination,
    output: File,
    left: u64,
    crc32c: u32,
    /// The runs of a part that were written, and how much of the next one.
    written: Vec<(Run, u32)>,
    next: (u64, u32),
}

impl Unpacker {
    /// One for `files`, sorted by offset.
    pub fn new(files: Destinations, owner: Option<Owner>, early_sync: Arc<EarlySync>, sums: Arc<Sums>) -> Self {
        Self { waiting: files.peekable(), open: None, position: 0, owner, early_sync, sums }
    }

    /// Takes the next bytes of the stream. Returns how many of them went into files.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<u64, UnpackError> {
        let mut written = 0;
        while !bytes.is_empty() {
            if self.open.is_none() && !self.open_next()? {
                // Between two files, or after the last one.
                let position = self.position;
                let gap = match self.waiting.peek() {
                    Some(Ok(next)) => next.file.offset.saturating_sub(position),
                    _ => u64::MAX,
                };
                bytes = self.advance(bytes, gap).1;
                continue;
            }
            let left = self.open.as_ref().map_or(0, |open| open.left);
            let (content, rest) = self.advance(bytes, left);
            bytes = rest;
            if let Some(open) = &mut self.open {
                written += open.write(content).map_err(UnpackError::Local)?;
            }
            self.close_full()?;
        }
        Ok(written)
    }

    /// The stream ended after `length` bytes: it must be all there.
    pub fn finish(mut self, length: u64) -> Result<(), UnpackError> {
        while self.open.is_none() && self.open_next()? {
            self.close_full()?;
        }
        if self.position != length {
            return Err(UnpackError::Content(format!("it is {} bytes long instead of {length}", self.position)));
        }
        match self.open.map(|open| Ok(open.destination)).or_else(|| self.waiting.next()) {
            Some(Ok(missing)) => Err(UnpackError::Content(format!("it ends before the end of {}", missing.file.path))),
            Some(Err(error)) => Err(UnpackError::Local(error)),
            None => Ok(()),
        }
    }

    /// Splits at most `length` off `bytes` and counts it.
    fn advance<'a>(&mut self, bytes: &'a [u8], length: u64) -> (&'a [u8], &'a [u8]) {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        self.position += length as u64;
        bytes.split_at(length)
    }

    /// Opens the next file if it begins here.
    fn open_next(&mut self) -> Result<bool, UnpackError> {
        let position = self.position;
        let is_here = |next: &Result<Destination, _>| next.as_ref().map_or(true, |next| next.file.offset <= position);
        let Some(destination) = self.waiting.next_if(is_here) else { return Ok(false) };
        let destination = destination.map_err(UnpackError::Local)?;
        let output = match destination.file.part {
            None => create(&destination.path),
            Some(_) => open(&destination.path),
        };
        let output = output.map_err(UnpackError::Local)?;
        let (left, next, written) = (destination.file.size, (0, 0), Vec::new());
        self.open = Some(OpenFile { left, crc32c: 0, destination, output, written, next });
        // An empty file is full at once.
        self.close_full()?;
        Ok(true)
    }

    fn close_full(&mut self) -> Result<(), UnpackError> {
        let Some(open) = self.open.take_if(|open| open.left == 0) else { return Ok(()) };
        let Destination { file, path } = &open.destination;
        if open.crc32c != file.crc32c {
            return Err(UnpackError::Content(format!("the checksum of {} does not match", file.path)));
        }
        if let Some(Part { file, .. }) = file.part {
            // Only now is it known that these are the right bytes.
            for (run, crc32c) in &open.written {
                self.sums.add(file, (run.to, run.bytes), *crc32c);
            }
            return Ok(());
        }
        finish_file(&open.output, (file.mode, file.mtime), self.owner)
            .map_err(RestoreError::io("set the attributes of", path))
            .and_then(|()| self.early_sync.offer(open.output, file.size, path))
            .map_err(UnpackError::Local)
    }
}

impl OpenFile {
    /// Takes the next bytes; how many of them went into the file.
    fn write(&mut self, content: &[u8]) -> Result<u64, RestoreError> {
        let Self { destination: Destination { file, path }, output, left, crc32c, written, next } = self;
        *crc32c = crc32c::crc32c_append(*crc32c, content);
        let begin = file.size - *left;
        *left -= content.len() as u64;
        let Some(Part { runs, .. }) = &file.part else {
            output.write_all(content).map_err(RestoreError::io("write", path))?;
            return Ok(content.len() as u64);
        };
        let end = begin + content.len() as u64;
        let mut bytes = 0;
        while let Some(run) = runs.get(written.len()) {
            let (done, of_run) = *next;
            let from = run.at + done;
            let to = end.min(run.at + run.bytes);
            let here = from.checked_sub(begin).and_then(|from| usize::try_from(from).ok());
            let there = to.checked_sub(begin).and_then(|to| usize::try_from(to).ok());
            let piece = here.zip(there).and_then(|(from, to)| content.get(from..to)).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            output.write_all_at(piece, run.to + done).map_err(RestoreError::io("write", path))?;
            bytes += piece.len() as u64;
            *next = (done + piece.len() as u64, crc32c::crc32c_append(of_run, piece));
            if next.0 == run.bytes {
                written.push((*run, next.1));
                *next = (0, 0);
            }
        }
        Ok(bytes)
    }
}

/// Opens a file that is put together, which was made before.
fn open(path: &Path) -> Result<File, RestoreError> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty());
    Ok(file.map_err(io::Error::from).map_err(RestoreError::io("open", path))?.into())
}

/// Writes a file anew that was restored, with its mode. One that is cut in this is restored again by the next run.
pub fn write_anew(
    path: &Path,
    write: impl FnOnce(BufWriter<File>) -> io::Result<BufWriter<File>>,
) -> Result<(), RestoreError> {
    let permissions = std::fs::symlink_metadata(path).map_err(RestoreError::io("look at", path))?.permissions();
    let made = create(path)?;
    made.set_permissions(permissions).map_err(RestoreError::io("set the mode of", path))?;
    let written = write(BufWriter::new(made)).and_then(|mut written| {
        written.flush()?;
        written.get_ref().sync_all()
    });
    written.map_err(RestoreError::io("write", path))
}

/// Makes a file that is put together, as long as it will be. What is not written of it yet reads as zeros.
pub fn prepare(file: &ComposedFile, path: &Path) -> Result<(), RestoreError> {
    let made = create(path)?;
    made.set_len(file.size).map_err(RestoreError::io("set the length of", path))
}

/// Ends a file that was put together.
pub fn complete(file: &ComposedFile, path: &Path, early_sync: &EarlySync) -> Result<(), RestoreError> {
    let made = open(path)?;
    finish_file(&made, (file.mode, file.mtime), None).map_err(RestoreError::io("set the attributes of", path))?;
    early_sync.offer(made, file.size, path)
}

/// Makes a file. What an earlier attempt left under its name goes first: written over, it would keep a name that may never have
/// reached the disk.
fn create(path: &Path) -> Result<File, RestoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(RestoreError::io("remove", path)(error)),
        _ => {}
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    Ok(file.map_err(io::Error::from).map_err(RestoreError::io("create", path))?.into())
}

fn finish_file(output: &File, (mode, mtime): (u32, i64), owner: Option<Owner>) -> io::Result<()> {
    if let Some(Owner { uid, gid }) = owner {
        std::os::unix::fs::fchown(output, Some(uid), Some(gid))?;
    }
    output.set_permissions(Permissions::from_mode(mode))?;
    let seconds = Duration::from_secs(mtime.unsigned_abs());
    let modified = if mtime < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    match modified {
        Some(modified) => output.set_times(FileTimes::new().set_modified(modified)),
        None => Ok(()),
    }
}

/// Whether every one of `files` is there with the right content. What is read may come from memory: only files that were proven to be
/// durable are good when they look so.
pub fn are_intact(files: Destinations) -> Result<bool, RestoreError> {
    for destination in files {
        let Destination { file, path } = destination?;
        match is_intact(&file, &path) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(RestoreError::io("read", &path)(error)),
        }
    }
    Ok(true)
}

fn is_intact(file: &PackedFile, path: &Path) -> io::Result<bool> {
    const BUFFER_BYTES: usize = 1 << 20;
    let metadata = std::fs::symlink_metadata(path)?;
    if !metadata.is_file() || metadata.len() != file.size {
        return Ok(false);
    }
    let mut input = File::open(path)?;
    let mut buffer = vec![0; usize::try_from(file.size).unwrap_or(BUFFER_BYTES).clamp(1, BUFFER_BYTES)];
    let mut crc32c = 0;
    loop {
        let length = input.read(&mut buffer)?;
        let Some(read) = buffer.get(..length).filter(|read| !read.is_empty()) else { break };
        crc32c = crc32c::crc32c_append(crc32c, read);
    }
    Ok(crc32c == file.crc32c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::MetadataExt;

    /// Files with gaps between them, and the stream that holds them.
    fn pack(
        directory: &Path,
        files: &[(Vec<u8>, usize)],
    ) -> (Vec<PackedFile>, Vec<u8>, impl Fn() -> Vec<Destination> + use<>) {
        let mut stream = Vec::new();
        let mut packed = Vec::new();
        for (number, (content, gap)) in files.iter().enumerate() {
            stream.extend(vec![0xEE; *gap]);
            packed.push(PackedFile {
                path: format!("file{number}").into(),
                size: content.len() as u64,
                crc32c: crc32c::crc32c(content),
                offset: stream.len() as u64,
                mode: 0o640,
                mtime: 1_700_000_000,
                part: None,
            });
            stream.extend(content);
        }
        let directory = directory.to_owned();
        let all = packed.clone();
        let destinations = move || {
            all.iter().map(|file| Destination { file: file.clone(), path: directory.join(&*file.path) }).collect()
        };
        (packed, stream, destinations)
    }

    fn boxed(files: Vec<Destination>) -> Destinations {
        Box::new(files.into_iter().map(Ok))
    }

    fn unpack(files: Vec<Destination>, chunks: &[&[u8]], length: usize) -> Result<u64, UnpackError> {
        unpack_beside(EarlySync::start(None).expect("a thread"), files, chunks, length)
    }

    fn unpack_beside(
        early_sync: EarlySync,
        files: Vec<Destination>,
        chunks: &[&[u8]],
        length: usize,
    ) -> Result<u64, UnpackError> {
        let mut unpacker = Unpacker::new(boxed(files), None, Arc::new(early_sync), Arc::default());
        let mut written = 0;
        for chunk in chunks {
            written += unpacker.push(chunk)?;
        }
        unpacker.finish(length as u64).map(|()| written)
    }

    #[test]
    fn what_an_earlier_run_left_under_a_files_name_is_not_written_over_but_made_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("server.key");
        walward_base::sys::durable::replace(&path, b"half of it", 0o600).expect("written");
        std::fs::set_permissions(&path, Permissions::from_mode(0o400)).expect("set");
        let left = File::open(&path).expect("there");
        create(&path).expect("made").write_all(b"whole").expect("written");
        assert_eq!(std::fs::read(&path).expect("there"), b"whole");
        assert_ne!(std::fs::metadata(&path).expect("there").ino(), left.metadata().expect("open").ino());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn files_are_cut_out_wherever_the_chunks_end(
            files in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..40), 0usize..30), 0..8),
            chunk in 1usize..50,
            tail in 0usize..20,
            damage in proptest::option::of(any::<proptest::sample::Index>()),
        ) {
            let directory = tempfile::tempdir().expect("a directory");
            let (packed, mut stream, destinations) = pack(directory.path(), &files);
            stream.extend(vec![0; tail]);
            let chunks: Vec<&[u8]> = stream.chunks(chunk).collect();
            let written = unpack(destinations(), &chunks, stream.len()).expect("sound");
            prop_assert_eq!(written, packed.iter().map(|file| file.size).sum::<u64>());
            for ((content, _), destination) in files.iter().zip(destinations()) {
                prop_assert_eq!(&std::fs::read(&destination.path).expect("written"), content);
                let metadata = std::fs::metadata(&destination.path).expect("there");
                prop_assert_eq!((metadata.mode() & 0o777, metadata.mtime()), (0o640, 1_700_000_000));
            }
            prop_assert!(are_intact(boxed(destinations())).expect("readable"));

            if !stream.is_empty() {
                let short: Vec<&[u8]> = stream[..stream.len() - 1].chunks(chunk).collect();
                prop_assert!(unpack(destinations(), &short, stream.len()).is_err());
                if let Some(index) = damage {
                    let at = index.index(stream.len());
                    let inside = packed.iter().any(|file| (file.offset..file.offset + file.size).contains(&(at as u64)));
                    stream[at] ^= 1;
                    let result = unpack(destinations(), &[&stream], stream.len());
                    prop_assert_eq!(result.is_err(), inside);
                }
            }
        }
    }

    #[test]
    fn a_large_file_is_not_written_any_more_when_one_before_it_could_not_be_synced() {
        let directory = tempfile::tempdir().expect("a directory");
        let (_, stream, destinations) = pack(directory.path(), &[(vec![7; 8 << 20], 0)]);
        let sound = unpack(destinations(), &[&stream], stream.len()).expect("sound");
        assert_eq!(sound, 8 << 20);
        let result = unpack_beside(EarlySync::failed(), destinations(), &[&stream], stream.len());
        assert!(matches!(result, Err(UnpackError::Local(_))), "{result:?}");
    }

    #[test]
    fn a_cut_or_changed_file_is_not_intact() {
        let directory = tempfile::tempdir().expect("a directory");
        let (_, stream, destinations) = pack(directory.path(), &[(vec![7; 5000], 512), (Vec::new(), 0)]);
        unpack(destinations(), &[&stream], stream.len()).expect("sound");
        let path = directory.path().join("file0");
        let file = File::options().write(true).open(&path).expect("there");
        file.set_len(4999).expect("cut");
        assert!(!are_intact(boxed(destinations())).expect("readable"));
        file.set_len(5000).expect("zeros at the end");
        assert!(!are_intact(boxed(destinations())).expect("readable"));
        std::fs::remove_file(&path).expect("removed");
        assert!(!are_intact(boxed(destinations())).expect("readable"));
    }

    #[test]
    fn a_link_in_a_files_place_is_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (_, stream, destinations) = pack(directory.path(), &[(vec![7; 10], 0)]);
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), directory.path().join("file0")).expect("a link");
        unpack(destinations(), &[&stream], 10).expect("the link goes");
        assert!(directory.path().join("file0").symlink_metadata().expect("there").is_file());
        assert!(!directory.path().join("elsewhere").exists());
    }
}
