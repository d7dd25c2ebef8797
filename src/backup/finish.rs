//! The last pack and the manifest: what makes packs a backup.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::cleanup;
use super::copy::{self, Copied, CopyError};
use super::error::BackupError;
use super::member::{self, Attributes};
use super::packs::{PackDone, Target, Work, make_pack, upload};
use super::scan::CONTROL_FILE;
use super::stream::{PackStream, Stopped, pack_stream};
use walward_base::sys::folder::Folder;
use walward_base::sys::ground::Steps;
use walward_pg::{ControlError, ControlFile, ManifestWriter, WalRange, incremental_path};
use walward_repo::format::{Kind, Summary};
use walward_repo::layout;
use walward_repo::manifest::{Entry, EntryKind, Manifest, Pack, StoredIndex};

/// How often a torn pg_control is read again, and the pause before each.
const CONTROL_READS_MAX: u32 = 10;
const CONTROL_READ_PAUSE: Duration = Duration::from_millis(10);
/// PostgreSQL's has 8 KiB (PG_CONTROL_FILE_SIZE, src/include/catalog/pg_control.h).
const CONTROL_BYTES_MAX: u64 = 1 << 20;

/// About how long a file's line is in PostgreSQL's manifest and in ours: guesses that part sizes are chosen by.
const BACKUP_MANIFEST_LINE_BYTES: u64 = 160;
const MANIFEST_LINE_BYTES: u64 = 130;
/// The same of a file in the block index.
const INDEX_FILE_BYTES: u64 = 20;

/// pg_control as it will be restored.
#[derive(Debug, Clone)]
pub struct ControlCopy {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What they say.
    pub parsed: ControlFile,
    /// Mode, owner, time.
    pub attributes: Attributes,
}

/// Reads pg_control until its checksum matches: the server may be writing it. Blocking.
pub fn read_control(root: &Folder, major: u16) -> Result<ControlCopy, BackupError> {
    let path = root.path().join(CONTROL_FILE);
    let failed = |source| BackupError::Read { path: path.clone(), source };
    let mut reads = 1;
    loop {
        let file = root.open(CONTROL_FILE).map_err(failed)?;
        let attributes = copy::attributes(&file.metadata().map_err(failed)?);
        let mut bytes = Vec::new();
        file.take(CONTROL_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
        match ControlFile::parse(major, &bytes) {
            Ok(parsed) => return Ok(ControlCopy { bytes, parsed, attributes }),
            Err(ControlError::Checksum { .. } | ControlError::TooShort(_)) if reads < CONTROL_READS_MAX => {
                reads += 1;
                std::thread::sleep(CONTROL_READ_PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the last pack is made of.
#[derive(Debug)]
pub struct LastFiles {
    /// What pg_backup_stop answered; recovery begins from it.
    pub backup_label: String,
    /// The same, empty when there are no tablespaces.
    pub tablespace_map: String,
    /// pg_control, the last member.
    pub control: ControlCopy,
    /// Mode, owner and time of what is not a file of the server.
    pub attributes: Attributes,
    /// The WAL that the backup needs.
    pub wal: WalRange,
    /// What was copied before.
    pub packs: Vec<PackDone>,
}

/// A backup's last pack, and what it holds.
#[derive(Debug)]
pub struct LastPack {
    /// How it is stored in each repository.
    pub stored: Vec<Pack>,
    /// Its files.
    pub entries: Vec<Entry>,
    /// What was copied before.
    pub packs: Vec<PackDone>,
}

impl LastPack {
    /// All packs of the backup as they are stored in repository number `at`, in order.
    pub fn stored_in(&self, at: usize) -> Vec<Pack> {
        let packs = self.packs.iter().map(|pack| &pack.stored).chain([&self.stored]);
        packs.filter_map(|stored| stored.get(at).cloned()).collect()
    }

    /// How many files the backup has.
    pub fn file_count(&self) -> u64 {
        self.packs.iter().map(|pack| pack.files.len() as u64).sum::<u64>() + self.entries.len() as u64
    }

    /// How many bytes were read of the data directory.
    pub fn read_bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.read_bytes).sum()
    }

    /// The length of all of them as they are restored.
    pub fn content_bytes(&self) -> u64 {
        let copied = self.packs.iter().flat_map(|pack| &pack.files).map(|packed| packed.copied.size);
        let last = self.entries.iter().map(|entry| match entry.what {
            EntryKind::File { size, .. } | EntryKind::Blocks { size, .. } => size,
            EntryKind::Directory => 0,
        });
        copied.chain(last).sum()
    }
}

/// Makes the last pack: backup_label, tablespace_map, backup_manifest, and pg_control as its very last member, so that
/// whoever restores in order has no startable directory before everything is there.
pub async fn last_pack(
    work: &Arc<Work>,
    number: u32,
    files: LastFiles,
    cancel: &CancellationToken,
) -> Result<LastPack, BackupError> {
    let expected_bytes = (files.backup_label.len() + files.tablespace_map.len() + files.control.bytes.len()) as u64
        + work.tree.file_count() * BACKUP_MANIFEST_LINE_BYTES;
    let writer = {
        let work = Arc::clone(work);
        move |stream: &mut PackStream, _: &Steps| {
            let entries = write_last_files(&work, number, &files, stream)?;
            Ok((entries, files.packs))
        }
    };
    let (stored, (entries, packs)) = make_pack(work, number, expected_bytes, cancel, writer).await?;
    Ok(LastPack { stored, entries, packs })
}

fn write_last_files(
    work: &Work,
    number: u32,
    files: &LastFiles,
    stream: &mut PackStream,
) -> Result<Vec<Entry>, CopyError> {
    let mut entries = Vec::new();
    let mut put = |stream: &mut PackStream, path: &str, bytes: &[u8], attributes: Attributes| {
        let size = bytes.len() as u64;
        stream.write(&member::file_header(path, size, attributes))?;
        entries.push(entry(path, size, crc32c::crc32c(bytes), number, stream.position(), attributes));
        stream.write(bytes)?;
        stream.write(member::padding(size))
    };
    put(stream, "backup_label", files.backup_label.as_bytes(), files.attributes)?;
    if !files.tablespace_map.is_empty() {
        put(stream, "tablespace_map", files.tablespace_map.as_bytes(), files.attributes)?;
    }

    // Its length has to be known before its first byte: it is written twice, the first time to nowhere.
    let measured = backup_manifest(Measure::default(), work, files).map_err(|_| CopyError::Stopped)?;
    let path = "backup_manifest";
    stream.write(&member::file_header(path, measured.bytes, files.attributes))?;
    let offset = stream.position();
    backup_manifest(&mut *stream, work, files).map_err(|_| CopyError::Stopped)?;
    assert_eq!(stream.position() - offset, measured.bytes, "backup_manifest has the same length both times");
    stream.write(member::padding(measured.bytes))?;
    let manifest = entry(path, measured.bytes, measured.crc32c, number, offset, files.attributes);

    put(stream, CONTROL_FILE, &files.control.bytes, files.control.attributes)?;
    let before_control = entries.len().saturating_sub(1);
    entries.insert(before_control, manifest);
    Ok(entries)
}

fn entry(path: &str, size: u64, crc32c: u32, pack: u32, offset: u64, attributes: Attributes) -> Entry {
    Entry {
        path: path.to_owned(),
        mode: attributes.mode,
        mtime: attributes.mtime,
        what: EntryKind::File { size, crc32c, pack, offset },
    }
}

/// Writes PostgreSQL's own manifest. It has no line for tablespace_map, because Walward restores the links themselves, and none
/// for itself.
fn backup_manifest<W: Write>(output: W, work: &Work, files: &LastFiles) -> io::Result<W> {
    let mut writer = ManifestWriter::new(output, files.control.parsed.lineage())?;
    let block_bytes = work.since.as_ref().map_or(0, |since| since.block_bytes);
    for (path, copied) in copied_files(work, &files.packs) {
        let path = if copied.blocks.is_some() { incremental_path(&path) } else { path };
        writer.file(path.as_bytes(), copied.member_bytes(block_bytes), copied.mtime, Some(copied.crc32c))?;
    }
    for (path, bytes, attributes) in [
        ("backup_label", files.backup_label.as_bytes(), files.attributes),
        (CONTROL_FILE, &files.control.bytes, files.control.attributes),
    ] {
        writer.file(path.as_bytes(), bytes.len() as u64, attributes.mtime, Some(crc32c::crc32c(bytes)))?;
    }
    writer.finish(&[files.wal])
}

/// Every file in the packs before the last.
fn copied_files<'a>(work: &'a Work, packs: &'a [PackDone]) -> impl Iterator<Item = (String, &'a Copied)> + 'a {
    packs
        .iter()
        .flat_map(|pack| &pack.files)
        .filter_map(|packed| Some((work.tree.file(packed.file)?.path(), &packed.copied)))
}

/// Counts what is written to it.
#[derive(Debug, Default)]
struct Measure {
    bytes: u64,
    crc32c: u32,
}

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to every repository which blocks the packs hold: how that is stored in each.
pub async fn block_index(
    work: &Arc<Work>,
    last: &Arc<LastPack>,
    cancel: &CancellationToken,
) -> Result<Vec<StoredIndex>, BackupError> {
    let (mut stream, content) = pack_stream(cancel.clone());
    let (packs, expected_bytes) = (Arc::clone(last), INDEX_FILE_BYTES * work.tree.file_count());
    let writer = tokio::task::spawn_blocking(move || {
        let copied = packs.packs.iter().flat_map(|pack| &pack.files).filter_map(|packed| packed.copied.blocks.as_ref());
        for blocks in copied {
            stream.write(&blocks.encode())?;
        }
        stream.finish()
    });
    let key = layout::block_index(&work.label);
    let doing = "write which blocks are stored to".to_owned();
    let sent = upload(&work.targets, doing, &key, Kind::BlockIndex, content, expected_bytes, cancel);
    let (written, uploaded) = tokio::join!(writer, sent);
    let uploaded = uploaded?;
    written.map_err(|_| BackupError::Died)?.map_err(|Stopped| BackupError::Died)?;
    let stored = |summary: Summary| StoredIndex {
        content_bytes: summary.content_bytes,
        stored_bytes: summary.stored_bytes,
        stored_sha256: walward_base::hex::encode(&summary.stored_digest),
    };
    Ok(uploaded.into_iter().map(stored).collect())
}

/// Writes a backup's manifest to one repository: the backup exists from then on.
pub async fn manifest(
    work: &Arc<Work>,
    target: &Target,
    head: Manifest,
    last: &Arc<LastPack>,
    cancel: &CancellationToken,
) -> Result<Summary, BackupError> {
    cleanup::check_packs(&target.repository, &work.label, &head.packs).await?;
    let (mut stream, content) = pack_stream(cancel.clone());
    let expected_bytes = MANIFEST_LINE_BYTES * (work.tree.file_count() + work.tree.directories().len() as u64);
    let writer = {
        let (work, last) = (Arc::clone(work), Arc::clone(last));
        tokio::task::spawn_blocking(move || {
            write_manifest(&mut stream, &work, &head, &last)?;
            stream.finish().map_err(|Stopped| io::ErrorKind::BrokenPipe)?;
            Ok::<_, io::Error>(())
        })
    };
    let key = layout::manifest(&work.label);
    let doing = "write the manifest to".to_owned();
    let targets = std::slice::from_ref(target);
    let (written, uploaded) =
        tokio::join!(writer, upload(targets, doing, &key, Kind::Manifest, content, expected_bytes, cancel));
    let summary = uploaded?.pop().ok_or(BackupError::Died)?;
    // The upload saw the end, so that everything was written.
    written.map_err(|_| BackupError::Died)?.map_err(|_| BackupError::Died)?;
    Ok(summary)
}

fn write_manifest(output: &mut PackStream, work: &Work, head: &Manifest, last: &LastPack) -> io::Result<()> {
    let mut line = |value: Result<String, serde_json::Error>| {
        let mut text = value?;
        text.push('\n');
        output.write_all(text.as_bytes())
    };
    line(serde_json::to_string(head))?;
    for directory in work.tree.directories() {
        line(serde_json::to_string(&Entry {
            path: directory.path.to_string(),
            mode: directory.mode,
            mtime: directory.mtime,
            what: EntryKind::Directory,
        }))?;
    }
    for pack in &last.packs {
        for packed in &pack.files {
            let Some(file) = work.tree.file(packed.file) else { continue };
            let Copied { size, crc32c, offset, mode, mtime, ref blocks } = packed.copied;
            let what = match blocks {
                None => EntryKind::File { size, crc32c, pack: pack.number, offset },
                Some(blocks) => {
                    EntryKind::Blocks { size, crc32c, pack: pack.number, offset, blocks: copy::count(blocks) }
                }
            };
            line(serde_json::to_string(&Entry { path: file.path(), mode, mtime, what }))?;
        }
    }
    last.entries.iter().try_for_each(|entry| line(serde_json::to_string(entry)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::packs::PackedFile;
    use crate::backup::reading::Reading;
    use crate::backup::report::Progress;
    use crate::backup::tree::{Directory, DirectoryNumber, Tree};
    use futures::StreamExt;
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::atomic::AtomicUsize;
    use walward_pg::{ClusterFolders, Lsn, Timeline};
    use walward_repo::manifest::{BackupLabel, BackupType};

    const CONTROL: &[u8] = include_bytes!("../../tests/fixtures/pg/15/pg_control");
    const PLAIN: Attributes = Attributes { mode: 0o600, mtime: 1_700_000_000, uid: 26, gid: 26 };

    fn work() -> Work {
        let mut tree = Tree::default();
        let base = Directory { path: "base".into(), mode: 0o700, mtime: 5, uid: 26, gid: 26 };
        let base = tree.add_directory(base).unwrap();
        tree.add_file(DirectoryNumber::ROOT, "PG_VERSION", 3).unwrap();
        tree.add_file(base, "gone", 3).unwrap();
        tree.add_file(base, "x", 7).unwrap();
        Work {
            folders: ClusterFolders::new(Folder::enter(Path::new("/")).unwrap(), BTreeMap::new()),
            reading: Reading::new(Path::new("/"), std::time::Duration::from_mins(1)),
            tree,
            checks: None,
            since: None,
            pace: crate::backup::pace::Pace::default(),
            targets: Vec::new(),
            label: BackupLabel::new(jiff::Timestamp::UNIX_EPOCH, BackupType::Full),
            progress: Arc::new(tokio::sync::watch::Sender::new(Progress::new(jiff::Timestamp::UNIX_EPOCH))),
            manifests_begun: AtomicUsize::new(0),
        }
    }

    fn last_files() -> LastFiles {
        let copied = |size, offset| Copied { size, crc32c: 9, offset, mode: 0o600, mtime: 77, blocks: None };
        let file = |file, copied| PackedFile { file, copied };
        LastFiles {
            backup_label: "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n".to_owned(),
            tablespace_map: "16400 /space\n".to_owned(),
            control: ControlCopy {
                bytes: CONTROL.to_vec(),
                parsed: ControlFile::parse(15, CONTROL).unwrap(),
                attributes: PLAIN,
            },
            attributes: PLAIN,
            wal: WalRange { timeline: Timeline(1), start: Lsn(0x200_0028), end: Lsn(0x300_0000) },
            packs: vec![PackDone {
                number: 0,
                stored: Vec::new(),
                files: vec![file(0, copied(3, 512)), file(2, copied(7, 1536))],
                corrupt: crate::backup::copy::CorruptPages::default(),
                read_bytes: 10,
            }],
        }
    }

    async fn streamed<T: Send + 'static>(write: impl FnOnce(&mut PackStream) -> T + Send + 'static) -> (T, Vec<u8>) {
        let (mut stream, mut content) = pack_stream(CancellationToken::new());
        let writer = tokio::task::spawn_blocking(move || {
            let value = write(&mut stream);
            stream.finish().unwrap();
            value
        });
        let mut bytes = Vec::new();
        while let Some(piece) = content.next().await {
            bytes.extend(piece.unwrap());
        }
        (writer.await.unwrap(), bytes)
    }

    #[tokio::test]
    async fn pg_control_is_the_very_last_member_and_every_entry_says_where_its_bytes_are() {
        let (entries, mut bytes) =
            streamed(|stream| write_last_files(&work(), 1, &last_files(), stream).unwrap()).await;
        bytes.extend(member::END);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut members = Vec::new();
        for member in archive.entries().unwrap() {
            let mut member = member.unwrap();
            let mut content = Vec::new();
            member.read_to_end(&mut content).unwrap();
            members.push((member.path().unwrap().to_str().unwrap().to_owned(), member.raw_file_position(), content));
        }
        let names: Vec<_> = members.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["backup_label", "tablespace_map", "backup_manifest", "global/pg_control"]);
        assert_eq!(entries.len(), members.len());
        for (entry, (name, position, content)) in entries.iter().zip(&members) {
            let (size, crc32c) = (content.len() as u64, crc32c::crc32c(content));
            let what = EntryKind::File { size, crc32c, pack: 1, offset: *position };
            assert_eq!((&entry.path, &entry.what), (name, &what));
        }

        let manifest: serde_json::Value = serde_json::from_slice(&members[2].2).unwrap();
        let listed: Vec<_> =
            manifest["Files"].as_array().unwrap().iter().map(|file| file["Path"].as_str().unwrap()).collect();
        assert_eq!(listed, ["PG_VERSION", "base/x", "backup_label", "global/pg_control"]);
    }

    #[tokio::test]
    async fn the_manifest_lists_what_is_in_the_packs_and_nothing_else() {
        let files = last_files();
        let head = Manifest {
            format: 1,
            label: "19700101T000000Z-full".to_owned(),
            kind: BackupType::Full,
            lineage: files.control.parsed.lineage(),
            server_version: "15.18".to_owned(),
            segment_bytes: files.control.parsed.segment_size,
            data_checksums: true,
            timeline: Timeline(1),
            start_lsn: files.wal.start,
            stop_lsn: files.wal.end,
            started: jiff::Timestamp::UNIX_EPOCH,
            stopped: jiff::Timestamp::UNIX_EPOCH,
            from_standby: false,
            host: "db1".to_owned(),
            walward_version: "0.1.0".to_owned(),
            machine: None,
            data_directory: None,
            wal_directory: None,
            content_bytes: 0,
            stored_bytes: 0,
            packs: Vec::new(),
            tablespaces: Vec::new(),
            corrupt_pages: vec![("base/x".to_owned(), 3)],
            depends_on: None,
        };
        let what = EntryKind::File { size: 1, crc32c: 2, pack: 1, offset: 3 };
        let entries = vec![Entry { path: "backup_label".to_owned(), mode: 0o600, mtime: 1, what }];
        let last = LastPack { stored: Vec::new(), entries: entries.clone(), packs: files.packs };
        assert_eq!((last.file_count(), last.content_bytes()), (3, 11));
        let expected = head.clone();
        let ((), bytes) = streamed(move |stream| write_manifest(stream, &work(), &head, &last).unwrap()).await;
        let text = String::from_utf8(bytes).unwrap();
        let mut lines = text.lines();
        assert_eq!(serde_json::from_str::<Manifest>(lines.next().unwrap()).unwrap(), expected);
        let listed: Vec<Entry> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        let file = |path: &str, size, offset| Entry {
            path: path.to_owned(),
            mode: 0o600,
            mtime: 77,
            what: EntryKind::File { size, crc32c: 9, pack: 0, offset },
        };
        let directory = Entry { path: "base".to_owned(), mode: 0o700, mtime: 5, what: EntryKind::Directory };
        let expected = [directory, file("PG_VERSION", 3, 512), file("base/x", 7, 1536), entries[0].clone()];
        assert_eq!(listed, expected);
    }

    fn held(folder: &tempfile::TempDir) -> Folder {
        Folder::enter(folder.path()).unwrap()
    }

    #[test]
    fn pg_control_is_read_when_whole_and_refused_when_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CONTROL_FILE);
        std::fs::create_dir(folder.path().join("global")).unwrap();
        let write = |bytes: &[u8]| std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes)).unwrap();
        write(CONTROL);
        assert_eq!(read_control(&held(&folder), 15).unwrap().bytes, CONTROL);
        let mut damaged = CONTROL.to_vec();
        damaged[40] ^= 1;
        write(&damaged);
        assert!(matches!(read_control(&held(&folder), 15), Err(BackupError::Control(ControlError::Checksum { .. }))));
    }
}
