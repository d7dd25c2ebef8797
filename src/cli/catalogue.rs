//! What one repository holds of a cluster's newest lineage: backups and WAL. Read here; judged in [`super::coverage`].

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use futures::StreamExt;
use futures::stream;
use jiff::Timestamp;

use super::coverage::{BackupSpan, Range, Reach, TimelineWal, explains, gaps, reach};
use super::failure::Failure;
use crate::restore;
use walward_base::{ErrorClass, describe, format_bytes};
use walward_pg::{Lineage, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFileName};
use walward_repo::aside::{self, Aside, Stage};
use walward_repo::gap::{self, Gap};
use walward_repo::manifest::Manifest;
use walward_repo::remains::{self, Remains, Verdict};
use walward_repo::{Repository, layout, stored};
use walward_storage::Unfinished;

/// How many small objects are read at once.
const READS_AT_ONCE: usize = 8;
/// In how many segments, from the last one back, a commit is looked for.
const SEGMENTS_LOOKED_INTO: u64 = 16;

/// The backups and the WAL of one lineage in one repository.
#[derive(Debug)]
pub(super) struct Catalogue {
    /// The newest lineage.
    pub(super) lineage: Lineage,
    pub(super) segment_size: SegmentSize,
    /// Finished backups of every lineage, the oldest first.
    pub(super) backups: Vec<Manifest>,
    /// Every timeline with its segments.
    pub(super) wal: BTreeMap<Timeline, TimelineWal>,
    /// Where each timeline comes from.
    pub(super) histories: BTreeMap<Timeline, TimelineHistory>,
    /// Records of WAL that was let go.
    pub(super) let_go: Vec<Gap>,
    /// The timeline that the cluster is on, by `restore`'s own rule; none when that is not known.
    pub(super) line: Option<Timeline>,
    /// What that rule says of other lines.
    pub(super) other_lines: Vec<String>,
    /// Packs of backups that were begun and not finished, old enough to be spoken of.
    pub(super) remains: Vec<Remains>,
    /// Files that were never finished.
    pub(super) unfinished: Unfinished,
    /// What is set aside now, and what is on its way there or back.
    pub(super) asides: Vec<Aside>,
    /// What could not be read and was left out.
    pub(super) warnings: Vec<String>,
}

/// Reads the catalogue; `None` when the repository was not told of any lineage yet.
pub(super) async fn read(repository: &Repository) -> Result<Option<Catalogue>, Failure> {
    let Some(entry) = repository.identity().lineages.last() else { return Ok(None) };
    let mut catalogue = Catalogue {
        lineage: entry.lineage,
        segment_size: entry.segment_bytes,
        backups: Vec::new(),
        wal: BTreeMap::new(),
        histories: BTreeMap::new(),
        let_go: Vec::new(),
        line: None,
        other_lines: Vec::new(),
        remains: Vec::new(),
        unfinished: Unfinished::default(),
        asides: Vec::new(),
        warnings: Vec::new(),
    };
    catalogue.read_backups(repository).await?;
    catalogue.read_wal(repository).await?;
    let records = gap::read_all(repository, catalogue.lineage).await.context("cannot read the records of gaps")?;
    catalogue.let_go = records.0;
    catalogue.warnings.extend(records.1.iter().map(|error| describe(error)));
    let (asides, damaged) = aside::all(repository).await.context("cannot read what is set aside")?;
    catalogue.asides = asides.into_iter().filter(|aside| aside.stage != Stage::Returned).collect();
    catalogue.warnings.extend(damaged.iter().map(|error| describe(error)));
    match restore::overview(repository, catalogue.lineage, catalogue.segment_size).await {
        Ok(overview) => (catalogue.line, catalogue.other_lines) = (overview.current, overview.remarks),
        Err(error) => {
            catalogue.warnings.push(format!("cannot tell which timeline the cluster is on: {}", describe(&error)));
        }
    }
    Ok(Some(catalogue))
}

impl Catalogue {
    async fn read_backups(&mut self, repository: &Repository) -> Result<(), Failure> {
        let labels = stored::labels(repository).await.context("cannot list the backups")?;
        let now = Timestamp::now();
        let mut heads = stream::iter(&labels)
            .map(|label| async move { (label, stored::head(repository, label).await) })
            .buffered(READS_AT_ONCE);
        while let Some((label, head)) = heads.next().await {
            match head {
                Ok(manifest) => self.backups.push(manifest),
                // Begun and not finished: no backup.
                Err(error) if error.class() == ErrorClass::NotFound => {
                    let found = remains::look_at(repository, label.clone()).await;
                    let found = found.with_context(|| format!("cannot list the packs of backup {label}"))?;
                    self.remains.extend(found.filter(|remains| remains.judge(now) != Verdict::MayBeAtWork));
                }
                // One damaged manifest must not hide the others.
                Err(error) if error.class() == ErrorClass::Corrupt => {
                    self.warnings.push(format!("backup {label} is left out: {}", describe(&error)));
                }
                Err(error) => {
                    return Err(anyhow::Error::new(error).context(format!("cannot read backup {label}")).into());
                }
            }
        }
        self.backups.sort_by_key(|backup| backup.started);
        match repository.store().unfinished(remains::REMOVED_AGE_MIN, false).await {
            Ok(unfinished) => self.unfinished = unfinished,
            Err(error) => self.warnings.push(format!("unfinished files were not looked for: {}", describe(&error))),
        }
        Ok(())
    }

    async fn read_wal(&mut self, repository: &Repository) -> Result<(), Failure> {
        for timeline in stored::wal_timelines(repository, self.lineage).await.context("cannot list the timelines")? {
            let files = stored::wal(repository, self.lineage, timeline, 0, self.segment_size).await;
            let files = files.with_context(|| format!("cannot list the WAL of timeline {timeline}"))?;
            self.wal.insert(timeline, TimelineWal::new(&files, self.segment_size));
        }
        for timeline in stored::timelines(repository, self.lineage).await.context("cannot list the timelines")? {
            let text = match stored::history(repository, self.lineage, timeline).await {
                Ok(text) => text,
                // What is known without it is worth more than nothing.
                Err(error) if error.class() == ErrorClass::Corrupt => {
                    self.warnings.push(format!("the history of timeline {timeline} is left out: {}", describe(&error)));
                    continue;
                }
                Err(error) => {
                    let text = format!("cannot read the history of timeline {timeline}");
                    return Err(anyhow::Error::new(error).context(text).into());
                }
            };
            match TimelineHistory::parse(timeline, &text) {
                Ok(history) => {
                    self.histories.insert(timeline, history);
                }
                Err(error) => self.warnings.push(error.to_string()),
            }
        }
        Ok(())
    }

    /// What killed writers left behind, in words; none when they left nothing.
    pub(super) fn left_behind(&self) -> Option<String> {
        let labels: Vec<&str> = self.remains.iter().map(|remains| remains.label.as_str()).collect();
        let bytes = self.remains.iter().map(Remains::bytes).sum();
        let backups = match labels[..] {
            [] => None,
            [one] => Some(format!("backup {one} was begun and not finished ({})", format_bytes(bytes))),
            [.., last] => {
                let (count, bytes) = (labels.len(), format_bytes(bytes));
                Some(format!("{count} backups were begun and not finished ({bytes}), the last of them {last}"))
            }
        };
        let Unfinished { files, bytes } = self.unfinished;
        let files = (files > 0).then(|| format!("{files} file(s) were never finished ({})", format_bytes(bytes)));
        let parts: Vec<String> = backups.into_iter().chain(files).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// What is set aside, in words; none when nothing is.
    pub(super) fn set_aside(&self) -> Option<String> {
        let bytes = format_bytes(self.asides.iter().map(|aside| aside.begun.bytes).sum());
        match self.asides.len() {
            0 => None,
            1 => Some(format!("1 life of the cluster is set aside, {bytes}")),
            count => Some(format!("{count} lives of the cluster are set aside, {bytes}")),
        }
    }

    /// Where `timeline` comes from; without a history file it is taken for a first one.
    pub(super) fn history(&self, timeline: Timeline) -> TimelineHistory {
        self.histories.get(&timeline).cloned().unwrap_or_else(|| TimelineHistory::root(timeline))
    }

    /// What is missing.
    pub(super) fn gaps(&self) -> Vec<Range> {
        gaps(&self.wal, &self.histories, &self.let_go, self.segment_size)
    }

    /// The records that tell why `range` is missing.
    pub(super) fn let_go_in(&self, range: &Range) -> Vec<&Gap> {
        self.let_go.iter().filter(|gap| explains(gap, range)).collect()
    }

    /// The timelines above `timeline` of which there is WAL or a history.
    pub(super) fn timelines_above(&self, timeline: Timeline) -> BTreeSet<Timeline> {
        self.wal.keys().chain(self.histories.keys()).copied().filter(|above| *above > timeline).collect()
    }

    /// How far recovery from `backup` goes; none for a backup of an earlier lineage, whose WAL is not read here.
    pub(super) fn reach(&self, backup: &Manifest) -> Option<Reach> {
        let own = (backup.lineage == self.lineage).then(|| self.history(backup.timeline))?;
        let newest =
            self.line.or_else(|| self.newest_timeline()).map_or_else(|| own.clone(), |newest| self.history(newest));
        let span = BackupSpan { timeline: backup.timeline, start: backup.start_lsn, stop: backup.stop_lsn };
        Some(reach(span, &newest, &own, &self.wal, self.segment_size))
    }

    /// The newest timeline that has WAL or a history.
    fn newest_timeline(&self) -> Option<Timeline> {
        let timelines: BTreeSet<Timeline> = self.wal.keys().chain(self.histories.keys()).copied().collect();
        timelines.last().copied()
    }

    /// When the last transaction ended in the segments of `way` before number `end` (exclusive) and from `first` on.
    pub(super) async fn last_commit(
        &self,
        repository: &Repository,
        way: &TimelineHistory,
        first: u64,
        end: u64,
    ) -> Result<Option<Timestamp>, Failure> {
        for number in (first..end).rev().take(usize::try_from(SEGMENTS_LOOKED_INTO).unwrap_or(usize::MAX)) {
            let timeline = way.required_timeline_for_segment(number, self.segment_size);
            let Some(name) = SegmentName::from_number(timeline, number, self.segment_size) else { continue };
            let key = layout::wal_file(self.lineage, WalFileName::Segment(name));
            let found = repository.read_summary(&key).await.with_context(|| format!("cannot read when {name} ends"))?;
            if let Some((_, last)) = found.summary.commit_times {
                return Ok(Timestamp::from_microsecond(last).ok());
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_base::sys::cpu::CpuPool;
    use walward_repo::Encryption;
    use walward_storage::{Payload, memory};

    #[tokio::test]
    async fn what_killed_backups_left_behind_is_told_once_it_is_old() {
        let (pool, now) = (CpuPool::new(1).unwrap(), Timestamp::UNIX_EPOCH);
        let root = tempfile::tempdir().unwrap();
        let store = walward_storage::bare_folder(root.path());
        let made = Repository::create("r", store, "main", &Encryption::None, &[], pool, now).await;
        let mut repository = made.unwrap().0;
        let lineage = Lineage { major: 15, system_identifier: 7 };
        repository.add_lineage(lineage, SegmentSize::DEFAULT, now).await.unwrap();
        let left = |path: &std::path::Path, hours: u64| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = std::fs::File::create(path).unwrap();
            file.set_len(1 << 20).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_hours(hours)).unwrap();
        };
        let pack = |day: u8| root.path().join(format!("backup/202611{day}T064158Z-full/pack/00000"));
        left(&pack(21), 0);
        assert_eq!(read(&repository).await.unwrap().unwrap().left_behind(), None);
        left(&pack(22), 2);
        let told = async || read(&repository).await.unwrap().unwrap().left_behind().unwrap();
        assert_eq!(told().await, "backup 20261122T064158Z-full was begun and not finished (1 MiB)");
        left(&pack(23), 30);
        left(&walward_base::sys::durable::temporary_path(&pack(23)), 30);
        assert_eq!(
            told().await,
            "2 backups were begun and not finished (2 MiB), the last of them 20261123T064158Z-full; \
             1 file(s) were never finished (1 MiB)"
        );
    }

    #[tokio::test]
    async fn a_damaged_history_hides_nothing_else() {
        let (pool, now) = (CpuPool::new(1).unwrap(), jiff::Timestamp::UNIX_EPOCH);
        let made = Repository::create("r", memory(), "main", &Encryption::None, &[], pool, now).await;
        let mut repository = made.unwrap().0;
        let lineage = Lineage { major: 15, system_identifier: 7 };
        repository.add_lineage(lineage, SegmentSize::DEFAULT, now).await.unwrap();
        for name in ["00000002.history", "000000010000000000000003"] {
            let key = layout::wal_file(lineage, name.parse().unwrap());
            repository.store().put_new(&key, Payload::from(b"damaged".to_vec())).await.unwrap();
        }
        let catalogue = read(&repository).await.unwrap().unwrap();
        assert_eq!(catalogue.wal[&Timeline(1)].segments.len(), 1);
        assert!(catalogue.histories.is_empty());
        assert!(catalogue.warnings.iter().any(|warning| warning.contains("timeline 2")), "{:?}", catalogue.warnings);
    }
}
