//! `pg_wal/archive_status`: which WAL files PostgreSQL wants archived (`.ready`) and which it believes to be (`.done`).

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::lsn::Timeline;
use super::wal_name::{SegmentName, WalFileName};
use walward_base::sys::folder::Folder;

const DIRECTORY: &str = "archive_status";

/// The files that wait to be archived, in the order in which PostgreSQL's archiver takes them: timeline histories first,
/// then by name (`ready_file_comparator`, src/backend/postmaster/pgarch.c).
///
/// One pass over the directory and 32 bytes a file, so that a hundred thousand cost little. Names that are not WAL are
/// ignored.
///
/// # Errors
/// When the directory cannot be read.
pub fn list_ready(pg_wal: &Path) -> io::Result<Vec<WalFileName>> {
    let mut ready = Vec::new();
    Folder::enter(pg_wal)?.folder(DIRECTORY)?.each_name(|name| {
        let name = name.to_str().and_then(|name| name.strip_suffix(".ready"));
        ready.extend(name.and_then(|name| name.parse::<WalFileName>().ok()));
    })?;
    ready.sort_unstable_by_key(archiver_order);
    Ok(ready)
}

/// The segments of `timeline` that PostgreSQL believes to be archived, and when each was finished.
///
/// # Errors
/// When the directory cannot be read.
pub fn list_done(pg_wal: &Path, timeline: Timeline) -> io::Result<Vec<(SegmentName, SystemTime)>> {
    let folder = Folder::enter(pg_wal)?.folder(DIRECTORY)?;
    let mut segments = Vec::new();
    folder.each_name(|name| {
        let file = name.to_str().and_then(|name| name.strip_suffix(".done")?.parse::<WalFileName>().ok());
        if let Some(WalFileName::Segment(segment)) = file
            && segment.timeline == timeline
        {
            segments.push(segment);
        }
    })?;
    // Without those that were removed meanwhile, with their segments.
    let finished = |segment: SegmentName| Some((segment, folder.look(format!("{segment}.done")).ok()?.modified()));
    Ok(segments.into_iter().filter_map(finished).collect())
}

/// The segments of all timelines that PostgreSQL believes to be archived, by the names of their marks alone. Blocking.
///
/// # Errors
/// When the directory cannot be read.
pub fn done_segments(pg_wal: &Path) -> io::Result<BTreeSet<SegmentName>> {
    let mut segments = BTreeSet::new();
    Folder::enter(pg_wal)?.folder(DIRECTORY)?.each_name(|name| {
        let file = name.to_str().and_then(|name| name.strip_suffix(".done")?.parse::<WalFileName>().ok());
        if let Some(WalFileName::Segment(segment)) = file {
            segments.insert(segment);
        }
    })?;
    Ok(segments)
}

/// Whether `file` is marked as archived; `false` also where that cannot be seen. Blocking.
pub fn is_done(pg_wal: &Path, file: WalFileName) -> bool {
    let folder = Folder::enter(pg_wal).and_then(|folder| folder.folder(DIRECTORY));
    folder.and_then(|folder| folder.look(format!("{file}.done"))).is_ok()
}

/// A key that sorts as the archiver does.
pub fn archiver_order(file: &WalFileName) -> impl Ord + use<> {
    // The names' own order: the segment, then ".…backup", then ".partial".
    let key = |name: SegmentName, kind: u8, offset: u32| (name.timeline.0, name.log, name.segment, kind, offset);
    match *file {
        WalFileName::History(timeline) => (0, (timeline.0, 0, 0, 0, 0)),
        WalFileName::Segment(name) => (1, key(name, 0, 0)),
        WalFileName::BackupHistory(name, offset) => (1, key(name, 1, offset)),
        WalFileName::Partial(name) => (1, key(name, 2, 0)),
    }
}

/// Since when the mark lies there that asks for `file` to be archived. Blocking.
///
/// # Errors
/// When there is none, or it cannot be looked at.
pub fn ready_since(pg_wal: &Path, file: WalFileName) -> io::Result<SystemTime> {
    Ok(Folder::enter(pg_wal)?.look(Path::new(DIRECTORY).join(format!("{file}.ready")))?.modified())
}

/// Where the mark lies that asks for `file` to be archived.
pub fn ready_path(pg_wal: &Path, file: WalFileName) -> PathBuf {
    pg_wal.join(DIRECTORY).join(format!("{file}.ready"))
}

/// Where the mark lies that says that `file` was archived.
pub fn done_path(pg_wal: &Path, file: WalFileName) -> PathBuf {
    pg_wal.join(DIRECTORY).join(format!("{file}.done"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waiting_files_come_in_the_order_of_the_archiver() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(list_ready(directory.path()).is_err());
        std::fs::create_dir(directory.path().join(DIRECTORY)).expect("a directory");
        let sorted = [
            "00000002.history",
            "0000000A.history",
            "000000010000000000000003",
            "000000010000000000000003.00000028.backup",
            "000000010000000000000003.partial",
            "000000010000000000000004",
            "000000020000000000000003",
        ];
        for name in sorted.iter().rev() {
            let file = name.parse().expect("a name");
            std::fs::File::create(ready_path(directory.path(), file)).expect("a file");
        }
        let done = done_path(directory.path(), "000000010000000000000002".parse().expect("a name"));
        std::fs::File::create(done).expect("a file");
        std::fs::File::create(directory.path().join(DIRECTORY).join("notes.ready")).expect("a file");
        let ready: Vec<_> = list_ready(directory.path()).expect("a list").iter().map(ToString::to_string).collect();
        assert_eq!(ready, sorted);
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_names(a: (u32, u32, u32, u32), b: (u32, u32, u32, u32), kinds: (u8, u8)) {
            let file = |(timeline, log, segment, offset): (u32, u32, u32, u32), kind: u8| {
                let name = SegmentName { timeline: crate::Timeline(timeline % 3 + 1), log: log % 2, segment: segment % 3 };
                match kind % 3 {
                    0 => WalFileName::Segment(name),
                    1 => WalFileName::BackupHistory(name, offset),
                    _ => WalFileName::Partial(name),
                }
            };
            let (a, b) = (file(a, kinds.0), file(b, kinds.1));
            prop_assert_eq!(archiver_order(&a).cmp(&archiver_order(&b)), a.to_string().cmp(&b.to_string()));
        }
    }
}
