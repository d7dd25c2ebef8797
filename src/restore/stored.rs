//! Reads what one repository has: its backups, its timelines, its WAL.

use futures::StreamExt;
use serde::de::DeserializeOwned;

use crate::pg::{Lineage, SegmentSize, Timeline, WalFileName};
use crate::repo::format::FormatError;
use crate::repo::manifest::{BackupLabel, Entry, Manifest};
use crate::repo::{RepoError, Repository, layout};

/// A history has a line of some 60 bytes for each promotion.
const HISTORY_BYTES_MAX: usize = 1 << 20;
/// The longest line of a manifest: the first one, with every pack and every corrupt page in it.
const LINE_BYTES_MAX: usize = 64 << 20;

/// The labels under which there is a folder. Not each of them is a finished backup.
pub async fn labels(repository: &Repository) -> Result<Vec<BackupLabel>, RepoError> {
    let listing = repository.store().list(Some(&layout::backups())).await?;
    Ok(listing.folders.iter().filter_map(|folder| folder.parse().ok()).collect())
}

/// A manifest without its entries: the first line is read and no more.
pub async fn head(repository: &Repository, label: &BackupLabel) -> Result<Manifest, RepoError> {
    let mut lines = Lines::open(repository, label).await?;
    lines.next().await?.ok_or_else(|| lines.damaged("it is empty"))
}

/// A whole manifest.
pub async fn manifest(repository: &Repository, label: &BackupLabel) -> Result<(Manifest, Vec<Entry>), RepoError> {
    let mut lines = Lines::open(repository, label).await?;
    let head: Manifest = lines.next().await?.ok_or_else(|| lines.damaged("it is empty"))?;
    let mut entries = Vec::new();
    while let Some(entry) = lines.next().await? {
        entries.push(entry);
    }
    Ok((head, entries))
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

/// The text of a timeline's history.
pub async fn history(repository: &Repository, lineage: Lineage, timeline: Timeline) -> Result<String, RepoError> {
    let key = layout::wal_file(lineage, WalFileName::History(timeline));
    let bytes = repository.read(&key).await?.into_bytes(&key, HISTORY_BYTES_MAX).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The files of `timeline` in the log of segment `from` and behind it.
pub async fn wal(
    repository: &Repository,
    lineage: Lineage,
    timeline: Timeline,
    from: u64,
    size: SegmentSize,
) -> Result<Vec<WalFileName>, RepoError> {
    let mut files = Vec::new();
    let logs = repository.store().list(Some(&layout::wal_timeline(lineage, timeline))).await?;
    for log in logs.folders.iter().filter_map(|folder| layout::parse_word(folder)) {
        if u64::from(log) < from / size.segments_per_log() {
            continue;
        }
        let listing = repository.store().list(Some(&layout::wal_log(lineage, timeline, log))).await?;
        files.extend(listing.objects.iter().filter_map(|object| object.key.file_name().parse::<WalFileName>().ok()));
    }
    Ok(files)
}

/// The lines of a manifest.
struct Lines<'a> {
    repository: &'a Repository,
    label: &'a BackupLabel,
    content: crate::repo::OpenedObject,
    /// What was read; `at` is where the next line begins.
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<'a> Lines<'a> {
    async fn open(repository: &'a Repository, label: &'a BackupLabel) -> Result<Self, RepoError> {
        let content = repository.read(&layout::manifest(label)).await?;
        Ok(Self { repository, label, content, buffer: Vec::new(), at: 0, ended: false })
    }

    fn damaged(&self, what: &str) -> RepoError {
        let object = self.repository.shown(&layout::manifest(self.label));
        RepoError::Damaged { object, source: FormatError::Text(what.to_owned()) }
    }

    /// The next line; `None` behind the last.
    async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, RepoError> {
        loop {
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            if let Some(length) = rest.iter().position(|byte| *byte == b'\n') {
                let line = rest.get(..length).unwrap_or_default();
                let value = serde_json::from_slice(line).map_err(|error| self.damaged(&error.to_string()))?;
                self.at += length + 1;
                return Ok(Some(value));
            }
            if self.ended {
                return if rest.is_empty() { Ok(None) } else { Err(self.damaged("its last line is cut")) };
            }
            if rest.len() > LINE_BYTES_MAX {
                return Err(self.damaged("it has a line without an end"));
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            match self.content.content.next().await {
                Some(chunk) => self.buffer.extend_from_slice(&chunk?),
                None => self.ended = true,
            }
        }
    }
}
