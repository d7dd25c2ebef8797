//! Everything that one repository holds of a cluster's newest lineage: for those who show or judge an archive.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::backups::{BackupFacts, missing_parent};
use super::error::CatalogueError;
use super::holes::{Stretch, explains, holes, without_history};
use super::inventory::Inventory;
use super::lines::{Overview, overview};
use super::read::Archive;
use super::seams::{Seams, newest, seams};
use super::way::{Histories, Way};
use super::windows::{Carried, Window, carried, windows};
use walward_base::{ErrorClass, describe, format_bytes};
use walward_pg::{Lineage, SegmentSize, Timeline};
use walward_repo::Repository;
use walward_repo::aside::{self, Aside, Stage};
use walward_repo::gap::Gap;
use walward_repo::manifest::Manifest;
use walward_repo::remains::{self, Remains, Verdict};
use walward_storage::Unfinished;

/// The backups and the WAL of one lineage in one repository.
#[derive(Debug)]
pub struct Holdings {
    /// The newest lineage.
    pub lineage: Lineage,
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// Finished backups of every lineage, the oldest first.
    pub backups: Vec<Manifest>,
    /// The WAL.
    pub inventory: Inventory,
    /// Where each timeline comes from.
    pub histories: Histories,
    /// Timelines whose history is there and damaged.
    pub damaged_histories: BTreeSet<Timeline>,
    /// The timeline that the cluster is on, by `restore`'s own rule; none when that is not known.
    pub line: Option<Timeline>,
    /// What that rule says of other lines.
    pub other_lines: Vec<String>,
    /// Packs of backups that were begun and not finished, old enough to be spoken of.
    pub remains: Vec<Remains>,
    /// Files that were never finished.
    pub unfinished: Unfinished,
    /// What is set aside now, and what is on its way there or back.
    pub asides: Vec<Aside>,
    /// What could not be read and was left out.
    pub warnings: Vec<String>,
}

impl Holdings {
    /// Reads them; `None` when the repository was not told of any lineage yet.
    ///
    /// # Errors
    /// What cannot be read now. What is damaged is left out with a warning: it must not hide the rest.
    pub async fn read(repository: &Repository) -> Result<Option<Self>, CatalogueError> {
        let Some(entry) = repository.identity().lineages.last() else { return Ok(None) };
        let (lineage, segment_size) = (entry.lineage, entry.segment_bytes);
        let archive = Archive::open(std::slice::from_ref(repository)).await?.all_read()?;
        let mut warnings = archive.warnings.clone();
        let mut backups: Vec<Manifest> = archive.manifests().cloned().collect();
        backups.sort_by_key(|backup| backup.started);
        let (histories, unread) = archive.every_history(lineage, &mut warnings).await?;
        if let Some(unread) = unread.iter().find(|unread| unread.class != ErrorClass::Corrupt) {
            return Err(CatalogueError::Timelines { why: unread.why.clone(), class: unread.class });
        }
        let damaged_histories = unread.iter().map(|unread| unread.timeline).collect();
        warnings.extend(unread.into_iter().map(|unread| unread.why));
        let inventory = archive.whole_inventory(lineage, segment_size, &mut warnings).await?;
        let asides = aside::all(repository).await;
        let (mut asides, damaged) =
            asides.map_err(|error| CatalogueError::of(repository, "read what is set aside", error))?;
        asides.retain(|aside| aside.stage != Stage::Returned);
        warnings.extend(damaged.iter().map(|error| describe(error)));
        let overview = overview(&archive, lineage, segment_size, &histories).await.unwrap_or_else(|error| {
            warnings.push(format!("cannot tell which timeline the cluster is on: {}", describe(&error)));
            Overview::default()
        });
        let remains = remains_of(&archive).await?;
        let unfinished = repository.store().unfinished(remains::REMOVED_AGE_MIN, false).await.unwrap_or_else(|error| {
            warnings.push(format!("unfinished files were not looked for: {}", describe(&error)));
            Unfinished::default()
        });
        Ok(Some(Self {
            lineage,
            segment_size,
            backups,
            inventory,
            histories,
            damaged_histories,
            line: overview.current,
            other_lines: overview.remarks,
            remains,
            unfinished,
            asides,
            warnings,
        }))
    }

    /// What killed writers left behind, in words; none when they left nothing.
    pub fn left_behind(&self) -> Option<String> {
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
    pub fn set_aside(&self) -> Option<String> {
        let bytes = format_bytes(self.asides.iter().map(|aside| aside.begun.bytes).sum());
        match self.asides.len() {
            0 => None,
            1 => Some(format!("1 life of the cluster is set aside, {bytes}")),
            count => Some(format!("{count} lives of the cluster are set aside, {bytes}")),
        }
    }

    /// What is missing.
    pub fn holes(&self) -> Vec<Stretch> {
        holes(&self.inventory, &self.histories, self.segment_size)
    }

    /// The timelines that are known of, by their WAL or a damaged history, and whose beginning is not: holes before them are not seen.
    pub fn without_history(&self) -> BTreeSet<Timeline> {
        without_history(&self.inventory, &self.histories)
            .into_iter()
            .chain(self.damaged_histories.iter().copied())
            .collect()
    }

    /// Where the newest segments, `most` of them, do not continue one another in `repository`, whose holdings these are.
    pub async fn seams(&self, repository: &Repository, most: usize) -> Seams {
        let newest = newest(&self.inventory, self.segment_size, most);
        seams(std::slice::from_ref(repository), self.lineage, newest).await
    }

    /// The records that tell why `hole` is one.
    pub fn let_go_in(&self, hole: &Stretch) -> Vec<&Gap> {
        self.inventory.let_go.iter().filter(|gap| explains(gap, hole)).collect()
    }

    /// The timelines above `timeline` of which there is WAL or a history.
    pub fn timelines_above(&self, timeline: Timeline) -> BTreeSet<Timeline> {
        self.timelines().filter(|above| *above > timeline).collect()
    }

    fn timelines(&self) -> impl Iterator<Item = Timeline> {
        self.inventory.timelines.keys().chain(self.histories.keys()).copied()
    }

    /// How far recovery from `backup` goes; none for a backup of an earlier lineage, whose WAL is not read here.
    pub fn carried(&self, backup: &Manifest) -> Option<Carried> {
        let facts = BackupFacts::of(backup).filter(|facts| facts.lineage == self.lineage)?;
        let line = self.line.or_else(|| self.timelines().max()).unwrap_or(facts.timeline);
        let mut carried = carried(&facts, &Way::known_to(line, &self.histories), &self.histories, &self.inventory);
        carried.consistent &= self.missing_parent(backup).is_none();
        Some(carried)
    }

    /// The backup that `backup` builds on, or one before that, which is not there: nothing can be restored without it.
    pub fn missing_parent<'a>(&'a self, backup: &'a Manifest) -> Option<&'a str> {
        let known: Vec<&Manifest> = self.backups.iter().collect();
        missing_parent(&known, backup)
    }

    /// To which moments one can recover. Reads when transactions ended.
    ///
    /// # Errors
    /// What cannot be read.
    pub async fn windows(&self, repository: &Repository) -> Result<Vec<Window>, CatalogueError> {
        let archive = Archive::of(std::slice::from_ref(repository));
        let facts: Vec<(Carried, BackupFacts)> =
            self.backups.iter().filter_map(|backup| Some((self.carried(backup)?, BackupFacts::of(backup)?))).collect();
        let backups = facts.iter().map(|(carried, facts)| (carried.clone(), facts)).collect();
        windows(backups, |name| archive.commit_times(self.lineage, name)).await
    }
}

/// What killed backups left, old enough to be spoken of.
async fn remains_of(archive: &Archive<'_>) -> Result<Vec<Remains>, CatalogueError> {
    let now = Timestamp::now();
    let mut remains = Vec::new();
    for (repository, label) in archive.unfinished() {
        let found = remains::look_at(repository, label.clone()).await;
        let found = found
            .map_err(|error| CatalogueError::of(repository, format!("list the packs of backup {label}"), error))?;
        remains.extend(found.filter(|remains| remains.judge(now) != Verdict::MayBeAtWork));
    }
    Ok(remains)
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_base::sys::cpu::CpuPool;
    use walward_repo::{Encryption, layout};
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
        assert_eq!(Holdings::read(&repository).await.unwrap().unwrap().left_behind(), None);
        left(&pack(22), 2);
        let told = async || Holdings::read(&repository).await.unwrap().unwrap().left_behind().unwrap();
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
        let holdings = Holdings::read(&repository).await.unwrap().unwrap();
        assert_eq!(holdings.inventory.timelines[&Timeline(1)].segments.len(), 1);
        assert!(holdings.histories.is_empty());
        assert_eq!(holdings.without_history(), BTreeSet::from([Timeline(2)]), "nothing before it is called whole");
        assert!(holdings.warnings.iter().any(|warning| warning.contains("timeline 2")), "{:?}", holdings.warnings);
    }
}
