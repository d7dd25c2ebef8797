//! What one repository has: its backups, its timelines, its WAL. Reads and lists only; judging is for others.

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::entries::Entries;
use super::error::RepoError;
use super::format::FormatError;
use super::manifest::{BackupLabel, Entry, Manifest, ManifestLines};
use super::{OpenedObject, Repository, layout};
use walward_pg::{Lineage, SegmentName, SegmentSize, Timeline, WalFileName};

/// A history has a line of some 60 bytes for each promotion.
const HISTORY_BYTES_MAX: usize = 1 << 20;
/// How many folders are listed at once.
const LISTS_AT_ONCE: usize = 8;

/// The labels under which there is a folder. Not each of them is a finished backup.
pub async fn labels(repository: &Repository) -> Result<Vec<BackupLabel>, RepoError> {
    let listing = repository.store().list(Some(&layout::backups())).await?;
    Ok(listing.folders.iter().filter_map(|folder| folder.parse().ok()).collect())
}

/// A manifest without its entries: the first line is read and no more.
pub async fn head(repository: &Repository, label: &BackupLabel) -> Result<Manifest, RepoError> {
    Ok(ManifestReader::open(repository, label).await?.head)
}

/// A whole manifest, verified to its end.
pub async fn manifest(repository: &Repository, label: &BackupLabel) -> Result<(Manifest, Entries), RepoError> {
    let mut reader = ManifestReader::open(repository, label).await?;
    let mut entries = Entries::default();
    while let Some(entry) = reader.next().await? {
        entries.push(&entry).map_err(|error| RepoError::damaged_text(&reader.object, &error.to_string()))?;
    }
    Ok((reader.head, entries))
}

/// As [`manifest`], for who needs the entries one after the other.
pub async fn each_entry(
    repository: &Repository,
    label: &BackupLabel,
    mut take: impl FnMut(&Entry),
) -> Result<Manifest, RepoError> {
    let mut reader = ManifestReader::open(repository, label).await?;
    while let Some(entry) = reader.next().await? {
        take(&entry);
    }
    Ok(reader.head)
}

/// The timelines whose history is there.
pub async fn timelines(repository: &Repository, lineage: Lineage) -> Result<Vec<Timeline>, RepoError> {
    let listing = repository.store().list(Some(&layout::wal_root(lineage))).await?;
    let names = listing.objects.iter().filter_map(|object| object.key.file_name().parse().ok());
    Ok(names
        .filter_map(|name| match name {
            WalFileName::History(timeline) => Some(timeline),
            _ => None,
        })
        .collect())
}

/// The timelines that have a folder: of which there was WAL, at least the unfinished segment of one that was left.
pub async fn wal_timelines(repository: &Repository, lineage: Lineage) -> Result<Vec<Timeline>, RepoError> {
    let listing = repository.store().list(Some(&layout::wal_root(lineage))).await?;
    Ok(listing.folders.iter().filter_map(|folder| layout::parse_word(folder)).map(Timeline).collect())
}

/// A segment of the first timeline from `from` on that there is WAL of and that is not `known` by its history: WAL of a past whose
/// beginning nobody there knows.
pub async fn unexplained(
    repository: &Repository,
    lineage: Lineage,
    from: Timeline,
    known: impl Fn(Timeline) -> bool,
) -> Result<Option<SegmentName>, RepoError> {
    let mut timelines = wal_timelines(repository, lineage).await?;
    timelines.retain(|timeline| *timeline >= from && !known(*timeline));
    timelines.sort_unstable();
    for timeline in timelines {
        let logs = repository.store().list(Some(&layout::wal_timeline(lineage, timeline))).await?;
        let mut logs: Vec<u32> = logs.folders.iter().filter_map(|folder| layout::parse_word(folder)).collect();
        logs.sort_unstable();
        for log in logs {
            let listing = repository.store().list(Some(&layout::wal_log(lineage, timeline, log))).await?;
            let mut names = listing.objects.iter().filter_map(|object| object.key.file_name().parse().ok());
            if let Some(WalFileName::Segment(segment)) = names.find(|name| matches!(name, WalFileName::Segment(_))) {
                return Ok(Some(segment));
            }
        }
    }
    Ok(None)
}

/// The text of a timeline's history.
pub async fn history(repository: &Repository, lineage: Lineage, timeline: Timeline) -> Result<String, RepoError> {
    let key = layout::wal_file(lineage, WalFileName::History(timeline));
    let bytes = repository.read(&key).await?.into_bytes(&key, HISTORY_BYTES_MAX).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The files of `timeline` in the log of segment `from` and after it, by name.
pub async fn wal(
    repository: &Repository,
    lineage: Lineage,
    timeline: Timeline,
    from: u64,
    size: SegmentSize,
) -> Result<Vec<WalFileName>, RepoError> {
    let files = wal_arrivals(repository, lineage, timeline, from, size).await?;
    Ok(files.into_iter().map(|(name, _)| name).collect())
}

/// As [`wal`], each file with the time at which it was written, by the store's clock.
pub async fn wal_arrivals(
    repository: &Repository,
    lineage: Lineage,
    timeline: Timeline,
    from: u64,
    size: SegmentSize,
) -> Result<Vec<(WalFileName, Timestamp)>, RepoError> {
    let logs = repository.store().list(Some(&layout::wal_timeline(lineage, timeline))).await?;
    let logs = logs.folders.iter().filter_map(|folder| layout::parse_word(folder));
    let wanted: Vec<u32> = logs.filter(|log| u64::from(*log) >= from / size.segments_per_log()).collect();
    let listings: Vec<_> = stream::iter(wanted)
        .map(|log| async move { repository.store().list(Some(&layout::wal_log(lineage, timeline, log))).await })
        .buffered(LISTS_AT_ONCE)
        .try_collect()
        .await?;
    let objects = listings.iter().flat_map(|listing| &listing.objects);
    Ok(objects.filter_map(|object| Some((object.key.file_name().parse().ok()?, object.modified))).collect())
}

/// A manifest as it arrives.
struct ManifestReader {
    object: String,
    content: OpenedObject,
    lines: ManifestLines,
    head: Manifest,
}

impl ManifestReader {
    async fn open(repository: &Repository, label: &BackupLabel) -> Result<Self, RepoError> {
        let key = layout::manifest(label);
        let object = repository.shown(&key);
        let mut content = repository.read(&key).await?;
        let mut lines = ManifestLines::of(content.stored_bytes);
        let damaged = |error| RepoError::damaged(&object, error);
        let head = loop {
            if let Some(head) = lines.head(label).map_err(damaged)? {
                break head;
            }
            match content.content.next().await {
                Some(chunk) => lines.push(&chunk?).map_err(damaged)?,
                None => return Err(RepoError::damaged(&object, FormatError::Text("its first line is cut".to_owned()))),
            }
        };
        Ok(Self { object, content, lines, head })
    }

    /// The next entry; `None` when all were read and the object was verified.
    async fn next(&mut self) -> Result<Option<Entry>, RepoError> {
        loop {
            let damaged = |error| RepoError::damaged(&self.object, error);
            if let Some(entry) = self.lines.entry().map_err(damaged)? {
                return Ok(Some(entry));
            }
            match self.content.content.next().await {
                Some(chunk) => self.lines.push(&chunk?).map_err(damaged)?,
                None if self.lines.is_empty() => return Ok(None),
                None => return Err(damaged(FormatError::Text("its last line is cut".to_owned()))),
            }
        }
    }
}
