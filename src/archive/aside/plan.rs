//! Which objects of a repository belong to a life that is set aside. Pure, over [`Facts`] that one reader has read.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{AsideError, KeptServer, failed};
use crate::archive::follows::follows;
use walward_base::{ErrorClass, describe};
use walward_pg::{Lineage, Lsn, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFileName};
use walward_repo::aside::Kept;
use walward_repo::manifest::{BackupLabel, Manifest};
use walward_repo::{RepoError, Repository, layout, stored};
use walward_storage::ObjectInfo;

/// How many folders are listed, and small objects read, at once.
const READS_AT_ONCE: usize = 8;

/// What a repository holds of one lineage, as far as it can belong to the life.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Whose WAL.
    pub lineage: Lineage,
    /// Size of its segments.
    pub size: SegmentSize,
    /// Where timelines come from, where that can be read.
    pub histories: BTreeMap<Timeline, TimelineHistory>,
    /// Every WAL file of the timelines in question.
    pub wal: Vec<(WalFileName, ObjectInfo)>,
    /// Every finished backup of the lineage whose manifest can be read, with all objects in its folder.
    pub backups: Vec<(Manifest, Vec<ObjectInfo>)>,
    /// What the kept server has in its pg_wal with the same content, of the files that are the life's by their names.
    pub own: BTreeSet<WalFileName>,
    /// What the kept server has written under such a name, and has no more.
    pub recycled: BTreeSet<WalFileName>,
    /// What could not be read, and so was left out or taken for the life's.
    pub warnings: Vec<String>,
}

/// What is moved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AsidePlan {
    /// WAL, the newest first, `from` last.
    pub wal: Vec<(WalFileName, ObjectInfo)>,
    /// Backups that need any of it, the newest first, each with its objects, the manifest first.
    pub backups: Vec<(String, Vec<ObjectInfo>)>,
    /// What would go by its name and stays, because the kept server has it with the same content.
    pub stays: BTreeSet<WalFileName>,
    /// What goes and may be the kept server's own: it has written such a file, and has it no more.
    pub doubtful: BTreeSet<WalFileName>,
}

/// What is moved of one timeline, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimelineCount {
    /// The timeline.
    pub timeline: Timeline,
    /// How many files.
    pub files: usize,
    /// The first of its segments.
    pub first: Option<SegmentName>,
    /// The last.
    pub last: Option<SegmentName>,
}

/// Decides what is moved when the life is set aside that the file `from` belongs to: that file, all that follows it (`follows.rs`, the rule
/// by which the archiver refuses), and the backups that need any of that. What the kept server has with the same content is its own, and
/// stays; where `from` is, no other life begins there, and nothing is moved.
pub fn plan(facts: &Facts, from: WalFileName) -> AsidePlan {
    if facts.own.contains(&from) {
        return AsidePlan { stays: BTreeSet::from([from]), ..AsidePlan::default() };
    }
    let goes = |name: WalFileName| facts.belongs(from, name) && !facts.own.contains(&name);
    let mut wal: Vec<_> = facts.wal.iter().filter(|(name, _)| goes(*name)).cloned().collect();
    // A history goes after the WAL of its timeline, which nobody could explain without it; `from` after everything.
    let order = |name: &WalFileName| {
        let is_history = matches!(name, WalFileName::History(_));
        (*name == from, std::cmp::Reverse(name.timeline()), is_history, std::cmp::Reverse(*name))
    };
    wal.sort_by_key(|(name, _)| order(name));
    // Where any segment that a backup needs belongs to the life, its last one does. If that is the server's own, those before it count.
    let needs = |backup: &Manifest| {
        let last = Lsn(backup.stop_lsn.0.saturating_sub(1)).max(backup.start_lsn).segment_number(facts.size);
        let numbers = (backup.start_lsn.segment_number(facts.size)..=last).rev();
        let segments = numbers.map_while(|number| SegmentName::from_number(backup.timeline, number, facts.size));
        let mut needed = segments.map(WalFileName::Segment);
        let touched = needed.find(|name| !facts.own.contains(name)).is_some_and(|name| facts.belongs(from, name));
        backup.lineage == facts.lineage && (touched || goes(WalFileName::History(backup.timeline)))
    };
    let mut backups: Vec<_> = facts.backups.iter().filter(|(backup, _)| needs(backup)).collect();
    backups.sort_by_key(|(backup, _)| std::cmp::Reverse(backup.started));
    let backups = backups.into_iter().map(|(backup, objects)| {
        let mut objects = objects.clone();
        // `hold` or whatever else lies beside it is a part of the backup, and none without the manifest.
        objects.sort_by_key(|object| (object.key.file_name() != "manifest", object.key.clone()));
        (backup.label.clone(), objects)
    });
    let backups = backups.collect();
    let stays = facts.own.iter().copied().filter(|name| facts.belongs(from, *name)).collect();
    let doubtful = wal.iter().map(|(name, _)| *name).filter(|name| facts.recycled.contains(name)).collect();
    AsidePlan { wal, backups, stays, doubtful }
}

/// The record of a backup that begins in the segment `from`, and so needs it.
fn begins_in(from: WalFileName, name: WalFileName) -> bool {
    matches!((from, name), (WalFileName::Segment(segment), WalFileName::BackupHistory(start, _)) if start == segment)
}

impl AsidePlan {
    /// Whether there is nothing to move.
    pub fn is_empty(&self) -> bool {
        self.wal.is_empty() && self.backups.is_empty()
    }

    /// The objects, in the order in which they leave the archive.
    pub fn objects(&self) -> Vec<Kept> {
        let backups = self.backups.iter().flat_map(|(_, objects)| objects);
        backups.chain(self.wal.iter().map(|(_, object)| object)).map(Kept::of).collect()
    }

    /// Their bytes as stored.
    pub fn bytes(&self) -> u64 {
        let backups = self.backups.iter().flat_map(|(_, objects)| objects);
        backups.chain(self.wal.iter().map(|(_, object)| object)).map(|object| object.size).sum()
    }

    /// What is moved of each timeline, the lowest first.
    pub fn timelines(&self) -> Vec<TimelineCount> {
        let mut counts: BTreeMap<Timeline, TimelineCount> = BTreeMap::new();
        for (name, _) in &self.wal {
            let timeline = name.timeline();
            let count = counts.entry(timeline).or_insert(TimelineCount { timeline, files: 0, first: None, last: None });
            count.files += 1;
            if let WalFileName::Segment(segment) = name {
                count.first = count.first.map_or(Some(*segment), |first| Some(first.min(*segment)));
                count.last = count.last.max(Some(*segment));
            }
        }
        counts.into_values().collect()
    }
}

impl Facts {
    /// Whether `name` is of the life that `from` belongs to, by its name.
    fn belongs(&self, from: WalFileName, name: WalFileName) -> bool {
        let history = self.histories.get(&name.timeline());
        name == from || begins_in(from, name) || follows(from, name, history, self.size)
    }

    /// Reads what `repository` holds of its newest lineage on the timeline of `from` and on later ones, its backups, and which of it is
    /// `kept`'s own; `None` where it was told of no lineage yet.
    pub async fn read(
        repository: &Repository,
        from: WalFileName,
        kept: Option<&KeptServer>,
    ) -> Result<Option<Self>, AsideError> {
        let failed = failed(repository, "read what is to be set aside");
        let Some(mut facts) = Self::read_archive(repository, from).await.map_err(failed)? else { return Ok(None) };
        if let Some(kept) = kept.filter(|kept| kept.is_witness(facts.lineage)) {
            let names = facts.wal.iter().map(|(name, _)| *name);
            let names: Vec<WalFileName> = names.filter(|name| facts.belongs(from, *name)).collect();
            facts.own = kept.own(repository, names.iter().copied(), &mut facts.warnings).await?;
            facts.recycled = names.into_iter().filter(|name| kept.has_recycled(*name)).collect();
        }
        Ok(Some(facts))
    }

    async fn read_archive(repository: &Repository, from: WalFileName) -> Result<Option<Self>, RepoError> {
        let Some(entry) = repository.identity().current() else { return Ok(None) };
        let (lineage, size) = (entry.lineage, entry.segment_bytes);
        let mut facts = Self {
            lineage,
            size,
            histories: BTreeMap::new(),
            wal: Vec::new(),
            backups: Vec::new(),
            own: BTreeSet::new(),
            recycled: BTreeSet::new(),
            warnings: Vec::new(),
        };
        facts.read_wal(repository, from.timeline()).await?;
        facts.read_histories(repository).await?;
        facts.read_backups(repository).await?;
        Ok(Some(facts))
    }

    /// Nothing that comes later lies on an earlier timeline.
    async fn read_wal(&mut self, repository: &Repository, first: Timeline) -> Result<(), RepoError> {
        let store = repository.store();
        let root = store.list(Some(&layout::wal_root(self.lineage))).await?;
        self.take(&root.objects, first);
        let timelines = root.folders.iter().filter_map(|folder| layout::parse_word(folder)).map(Timeline);
        for timeline in timelines.filter(|timeline| *timeline >= first) {
            let logs = store.list(Some(&layout::wal_timeline(self.lineage, timeline))).await?.folders;
            let logs: Vec<u32> = logs.iter().filter_map(|folder| layout::parse_word(folder)).collect();
            let lineage = self.lineage;
            let listings: Vec<_> = stream::iter(logs)
                .map(async |log| store.list(Some(&layout::wal_log(lineage, timeline, log))).await)
                .buffered(READS_AT_ONCE)
                .try_collect()
                .await?;
            for listing in listings {
                self.take(&listing.objects, first);
            }
        }
        Ok(())
    }

    fn take(&mut self, objects: &[ObjectInfo], first: Timeline) {
        let named = objects.iter().filter_map(|object| Some((object.key.file_name().parse().ok()?, object)));
        let named = named.filter(|(name, _): &(WalFileName, _)| name.timeline() >= first);
        // A file in a folder that is not its own is none of the archive's.
        let own = named.filter(|(name, object)| layout::wal_file(self.lineage, *name) == object.key);
        self.wal.extend(own.map(|(name, object)| (name, object.clone())));
    }

    async fn read_histories(&mut self, repository: &Repository) -> Result<(), RepoError> {
        for timeline in stored::timelines(repository, self.lineage).await? {
            let parsed = match stored::history(repository, self.lineage, timeline).await {
                Ok(text) => TimelineHistory::parse(timeline, &text).map_err(|error| describe(&error)),
                Err(error) if error.class() == ErrorClass::Corrupt => Err(describe(&error)),
                Err(error) if error.class() == ErrorClass::NotFound => continue,
                Err(error) => return Err(error),
            };
            match parsed {
                Ok(history) => drop(self.histories.insert(timeline, history)),
                Err(why) => self.warnings.push(format!(
                    "the history of timeline {timeline} cannot be read, so that it is taken to come after every earlier file: {why}"
                )),
            }
        }
        Ok(())
    }

    async fn read_backups(&mut self, repository: &Repository) -> Result<(), RepoError> {
        let labels = stored::labels(repository).await?;
        let found: Vec<_> = stream::iter(labels)
            .map(async |label| {
                let head = stored::head(repository, &label).await;
                let objects = match &head {
                    Ok(_) => backup_objects(repository, &label).await?,
                    Err(_) => Vec::new(),
                };
                Ok::<_, RepoError>((label, head, objects))
            })
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        for (label, head, objects) in found {
            match head {
                Ok(head) => self.backups.push((head, objects)),
                // Begun and not finished: no backup.
                Err(error) if error.class() == ErrorClass::NotFound => {}
                Err(error) if error.class() == ErrorClass::Corrupt => {
                    self.warnings.push(format!("backup {label} stays where it is, unreadable: {}", describe(&error)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// All objects in a backup's folder.
async fn backup_objects(repository: &Repository, label: &BackupLabel) -> Result<Vec<ObjectInfo>, RepoError> {
    let (mut folders, mut objects) = (vec![layout::backup_root(label)], Vec::new());
    while let Some(folder) = folders.pop() {
        let listing = repository.store().list(Some(&folder)).await?;
        folders.extend(listing.folders.iter().filter_map(|name| folder.join(name).ok()));
        objects.extend(listing.objects);
    }
    Ok(objects)
}
