//! What the repositories know that a plan depends on, taken together: a backup or a segment that one of them has is there.
//!
//! A repository that cannot be asked is left out with a warning; only when none can is the plan given up. "Not there" is
//! believed only of a repository that said so.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use futures::stream::{self, StreamExt};
use jiff::Timestamp;

use super::backups::{BackupFacts, missing_parent};
use super::error::CatalogueError;
use super::inventory::Inventory;
use super::target::TargetTimeline;
use super::way::{Histories, Way};
use walward_base::{ErrorClass, describe};
use walward_pg::changes::BlockSet;
use walward_pg::{CommitTimes, Lineage, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFileName};
use walward_repo::entries::Entries;
use walward_repo::gap::{self, Gap};
use walward_repo::manifest::{BackupLabel, Manifest, Pack};
use walward_repo::{RepoError, Repository, block_index, layout, stored};

/// How many small objects are read at once.
const READS_AT_ONCE: usize = 8;

/// The repositories of one cluster, with the backups in them.
#[derive(Debug)]
pub struct Archive<'a> {
    repositories: &'a [Repository],
    /// Manifests without their entries, and the repository that each is in.
    manifests: Vec<(usize, Manifest)>,
    /// Labels without a manifest, and the repository that each is in: begun and not finished, or being removed.
    unfinished: Vec<(usize, BackupLabel)>,
    /// Why the first manifest that may be whole could not be read.
    unread: Option<CatalogueError>,
    /// What could not be asked.
    pub warnings: Vec<String>,
}

/// A history that is listed and cannot be read.
#[derive(Debug)]
pub struct UnreadHistory {
    /// Whose.
    pub timeline: Timeline,
    /// What was said, for people.
    pub why: String,
    /// The failure's class.
    pub class: ErrorClass,
}

/// A backup in one repository.
#[derive(Debug, Clone)]
pub struct Copy {
    /// The repository.
    pub repository: Repository,
    /// The packs by their number, as this repository's manifest has them.
    pub packs: BTreeMap<u32, Pack>,
}

/// Everything about a backup.
#[derive(Debug)]
pub struct BackupContents {
    /// The head of its manifest.
    pub manifest: Manifest,
    /// The entries.
    pub entries: Entries,
    /// Which blocks it has of each entry that has some only, by the entry's number, in their order.
    pub blocks: Vec<(u32, BlockSet)>,
    /// The repositories that have it.
    pub copies: Vec<Copy>,
}

impl<'a> Archive<'a> {
    /// Without looking for backups: for those who only ask about WAL.
    pub fn of(repositories: &'a [Repository]) -> Self {
        Self { repositories, manifests: Vec::new(), unfinished: Vec::new(), unread: None, warnings: Vec::new() }
    }

    /// Lists the backups.
    pub async fn open(repositories: &'a [Repository]) -> Result<Self, CatalogueError> {
        let mut warnings = Vec::new();
        let (mut manifests, mut unfinished, mut unread) = (Vec::new(), Vec::new(), None);
        let lists = ask(repositories, "list the backups", &mut warnings, stored::labels).await?;
        for (index, labels) in lists {
            let Some(repository) = repositories.get(index) else { continue };
            let mut heads = stream::iter(labels)
                .map(|label| async move { (stored::head(repository, &label).await, label) })
                .buffered(READS_AT_ONCE);
            while let Some((head, label)) = heads.next().await {
                match head {
                    Ok(manifest) if manifest.label == label.as_str() => manifests.push((index, manifest)),
                    Ok(manifest) => warnings.push(format!(
                        "backup {label} in repository {} is left out: its manifest is that of {}",
                        repository.name(),
                        manifest.label
                    )),
                    Err(error) if error.class() == ErrorClass::NotFound => unfinished.push((index, label)),
                    Err(error) => {
                        warnings.push(format!(
                            "backup {label} in repository {} is left out: {}",
                            repository.name(),
                            describe(&error)
                        ));
                        if error.class() != ErrorClass::Corrupt {
                            let doing = format!("read backup {label}");
                            unread.get_or_insert_with(|| CatalogueError::of(repository, doing, error));
                        }
                    }
                }
            }
        }
        Ok(Self { repositories, manifests, unfinished, unread, warnings })
    }

    /// The lineage that the cluster has now: the last that any repository was told of.
    pub fn lineage(&self) -> Option<Lineage> {
        let told = self.repositories.iter().filter_map(|repository| repository.identity().lineages.last());
        let newest = told.max_by_key(|entry| entry.since).map(|entry| entry.lineage);
        newest.or_else(|| {
            self.manifests.iter().map(|(_, manifest)| manifest).max_by_key(|m| m.stopped).map(|m| m.lineage)
        })
    }

    /// The manifests without their entries, of every lineage and repository.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.manifests.iter().map(|(_, manifest)| manifest)
    }

    /// Labels without a manifest: begun and not finished, or being removed.
    pub fn unfinished(&self) -> impl Iterator<Item = (&'a Repository, &BackupLabel)> {
        self.unfinished.iter().filter_map(|(index, label)| Some((self.repositories.get(*index)?, label)))
    }

    /// Fails where a manifest that may be whole could not be read, for those who want all or nothing.
    ///
    /// # Errors
    /// The first failure.
    pub fn all_read(self) -> Result<Self, CatalogueError> {
        match self.unread {
            Some(failure) => Err(failure),
            None => Ok(self),
        }
    }

    /// The repositories.
    pub fn repositories(&self) -> &'a [Repository] {
        self.repositories
    }

    /// The backups, each once.
    pub fn facts(&self) -> Vec<BackupFacts> {
        let mut seen = BTreeSet::new();
        let known = self.manifests.iter().filter_map(|(_, manifest)| {
            let fact = BackupFacts::of(manifest)?;
            seen.insert(fact.label.clone()).then_some(fact)
        });
        known.collect()
    }

    /// Every timeline history of `lineage`.
    ///
    /// # Errors
    /// One that cannot be read, or a repository that cannot list them, is only a warning when `wanted` does not depend on it.
    /// The newest timeline does: an older one in its place would be another past.
    pub async fn histories(
        &self,
        lineage: Lineage,
        wanted: TargetTimeline,
        warnings: &mut Vec<String>,
    ) -> Result<Histories, CatalogueError> {
        let mut unlisted = Vec::new();
        let (histories, unread) = self.every_history(lineage, &mut unlisted).await?;
        warnings.extend(unread.iter().map(|unread| unread.why.clone()));
        let missed = match wanted {
            TargetTimeline::Latest => unread.into_iter().max_by_key(|unread| unread.timeline),
            TargetTimeline::Number(timeline) => unread.into_iter().find(|unread| unread.timeline == timeline),
            TargetTimeline::Current => None,
        };
        let depends_on_all = match wanted {
            TargetTimeline::Latest => true,
            TargetTimeline::Number(timeline) => timeline != Timeline(1) && !histories.contains_key(&timeline),
            TargetTimeline::Current => false,
        };
        let unlisted_first = unlisted.first().filter(|_| depends_on_all).cloned();
        let missed = missed.map(|unread| (unread.why, unread.class));
        if let Some((why, class)) = missed.or_else(|| unlisted_first.map(|why| (why, ErrorClass::Transient))) {
            return Err(CatalogueError::Timelines { why, class });
        }
        warnings.extend(unlisted);
        Ok(histories)
    }

    /// Every timeline history of `lineage` that any repository gives, and those that none does, with the last reason of each.
    pub async fn every_history(
        &self,
        lineage: Lineage,
        warnings: &mut Vec<String>,
    ) -> Result<(Histories, Vec<UnreadHistory>), CatalogueError> {
        let mut histories = Histories::new();
        let mut unread = BTreeMap::new();
        let question = |repository| stored::timelines(repository, lineage);
        for (index, timelines) in ask(self.repositories, "list the timelines", warnings, question).await? {
            let Some(repository) = self.repositories.get(index) else { continue };
            for timeline in timelines {
                if histories.contains_key(&timeline) {
                    continue;
                }
                let (why, class) = match stored::history(repository, lineage, timeline).await {
                    Ok(text) => match TimelineHistory::parse(timeline, &text) {
                        Ok(history) => {
                            histories.insert(timeline, history.parents);
                            continue;
                        }
                        Err(error) => (describe(&error), ErrorClass::Corrupt),
                    },
                    Err(error) => (describe(&error), error.class()),
                };
                let name = repository.name();
                let why = format!("cannot read the history of timeline {timeline} in repository {name}: {why}");
                unread.insert(timeline, UnreadHistory { timeline, why, class });
            }
        }
        unread.retain(|timeline, _| !histories.contains_key(timeline));
        Ok((histories, unread.into_values().collect()))
    }

    /// All WAL of `lineage` that any of the repositories has, and the records of what was let go.
    pub async fn whole_inventory(
        &self,
        lineage: Lineage,
        size: SegmentSize,
        warnings: &mut Vec<String>,
    ) -> Result<Inventory, CatalogueError> {
        let lists = ask(self.repositories, "list the WAL", warnings, |repository| async move {
            let mut files = Vec::new();
            for timeline in stored::wal_timelines(repository, lineage).await? {
                files.extend(stored::wal(repository, lineage, timeline, 0, size).await?);
            }
            Ok(files)
        });
        let mut inventory = Inventory::default();
        for (_, files) in lists.await? {
            inventory.add(files, size);
        }
        inventory.let_go = self.let_go(lineage, warnings).await?;
        Ok(inventory)
    }

    /// The records of WAL that was let go, of all repositories.
    async fn let_go(&self, lineage: Lineage, warnings: &mut Vec<String>) -> Result<Vec<Gap>, CatalogueError> {
        let question = |repository| gap::read_all(repository, lineage);
        let mut let_go = Vec::new();
        for (gaps, damaged) in ask(self.repositories, "read the records of gaps", warnings, question)
            .await?
            .into_iter()
            .map(|(_, found)| found)
        {
            let_go.extend(gaps);
            warnings.extend(damaged.iter().map(|error| describe(error)));
        }
        Ok(let_go)
    }

    /// Fails when there is WAL of a later timeline than `way` leads to, whose history nobody has: it may be the cluster's
    /// newest past, and nobody knows where it began.
    pub async fn check_newest(
        &self,
        backup: &BackupFacts,
        way: &Way,
        histories: &Histories,
        warnings: &mut Vec<String>,
    ) -> Result<(), CatalogueError> {
        let lineage = backup.lineage;
        let later = Timeline(way.target().0.saturating_add(1));
        let known = |timeline| histories.contains_key(&timeline);
        let segments = ask(self.repositories, "list the timelines", warnings, |repository| {
            stored::unexplained(repository, lineage, later, known)
        });
        for (index, segment) in segments.await? {
            if let (Some(segment), Some(repository)) = (segment, self.repositories.get(index)) {
                let timeline = segment.timeline;
                let why = format!(
                    "repository {} has WAL of timeline {timeline} ({segment}), and the history of that timeline is not in \
                     the archive (a backup of a server that is on it brings it)",
                    repository.name()
                );
                return Err(CatalogueError::Timelines { why, class: ErrorClass::Permanent });
            }
        }
        Ok(())
    }

    /// The segments on `way` from the first of `backup` on.
    pub async fn inventory(
        &self,
        backup: &BackupFacts,
        way: &Way,
        warnings: &mut Vec<String>,
    ) -> Result<Inventory, CatalogueError> {
        let size = backup.segment_bytes;
        let first = backup.start_lsn.segment_number(size);
        let needed: Vec<_> = way
            .spans()
            .iter()
            .filter(|span| span.end.is_none_or(|end| end.segment_number(size) >= first))
            .map(|span| (span.timeline, span.begin.segment_number(size).max(first)))
            .collect();
        let lineage = backup.lineage;
        let lists = ask(self.repositories, "list the WAL", warnings, |repository| {
            let needed = needed.clone();
            async move {
                let mut files = Vec::new();
                for (timeline, from) in needed {
                    files.extend(stored::wal(repository, lineage, timeline, from, size).await?);
                }
                Ok(files)
            }
        });
        let mut inventory = Inventory::default();
        for (_, files) in lists.await? {
            inventory.add(files, size);
        }
        // Without the records the refusal has no reason, and is the same.
        inventory.let_go = self.let_go(lineage, warnings).await.unwrap_or_default();
        Ok(inventory)
    }

    /// The first and last time that a transaction ended in a segment, or in its `.partial` where there is no more of it. A
    /// segment that is nowhere, or nowhere whole, has none.
    pub async fn commit_times(
        &self,
        lineage: Lineage,
        segment: SegmentName,
    ) -> Result<Option<(i64, i64)>, CatalogueError> {
        let mut failure = None;
        for name in [WalFileName::Segment(segment), WalFileName::Partial(segment)] {
            let key = layout::wal_file(lineage, name);
            for repository in self.repositories {
                match repository.read_summary(&key).await {
                    Ok(found) => return Ok(found.facts.and_then(|facts| facts.commit_times())),
                    Err(error) if matches!(error.class(), ErrorClass::NotFound | ErrorClass::Corrupt) => {}
                    Err(source) => {
                        failure.get_or_insert_with(|| {
                            CatalogueError::of(repository, format!("read the times in segment {segment}"), source)
                        });
                    }
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// The whole segments of `timeline` from number `from` on, each with the time at which it first arrived, by the stores'
    /// clocks.
    pub async fn arrivals(
        &self,
        lineage: Lineage,
        timeline: Timeline,
        from: u64,
        size: SegmentSize,
        warnings: &mut Vec<String>,
    ) -> Result<BTreeMap<u64, Timestamp>, CatalogueError> {
        let lists = ask(self.repositories, "list the WAL", warnings, |repository| {
            stored::wal_arrivals(repository, lineage, timeline, from, size)
        });
        let mut arrivals = BTreeMap::new();
        for (file, arrived) in lists.await?.into_iter().flat_map(|(_, files)| files) {
            let WalFileName::Segment(name) = file else { continue };
            if let Some(number) = name.number(size).filter(|number| *number >= from) {
                let first = arrivals.entry(number).or_insert(arrived);
                *first = arrived.min(*first);
            }
        }
        Ok(arrivals)
    }

    /// Which host wrote a file, and when it arrived; of the repository that had it first.
    pub async fn origin(&self, lineage: Lineage, name: WalFileName) -> Option<(String, Timestamp)> {
        let key = layout::wal_file(lineage, name);
        let mut origin: Option<(String, Timestamp)> = None;
        for repository in self.repositories {
            if let Ok(found) = repository.read_summary(&key).await
                && origin.as_ref().is_none_or(|(_, first)| found.modified < *first)
            {
                origin = Some((found.writer, found.modified));
            }
        }
        origin
    }

    /// Reads a segment's records through `walk`, from the first repository that gives it whole; `None` when none has it.
    pub async fn walk(
        &self,
        lineage: Lineage,
        segment: SegmentName,
        walk: impl Fn() -> CommitTimes,
    ) -> Result<Option<CommitTimes>, CatalogueError> {
        let key = layout::wal_file(lineage, WalFileName::Segment(segment));
        let mut failure = None;
        for repository in self.repositories {
            let read = async {
                let mut content = repository.read(&key).await?.content;
                let mut walk = walk();
                while let Some(chunk) = content.next().await {
                    walk.feed(&chunk?);
                }
                Ok::<_, RepoError>(walk)
            };
            match read.await {
                Ok(walk) => return Ok(Some(walk)),
                Err(error) if matches!(error.class(), ErrorClass::NotFound | ErrorClass::Corrupt) => {}
                Err(source) => {
                    failure.get_or_insert_with(|| {
                        CatalogueError::of(repository, format!("read the records of segment {segment}"), source)
                    });
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Everything about the backup of this label that `is_it`, from the first repository that can say it.
    ///
    /// # Errors
    /// None has it, or none can give all of it.
    pub async fn contents(
        &self,
        label: &BackupLabel,
        is_it: impl Fn(&Manifest) -> bool,
        warnings: &mut Vec<String>,
    ) -> Result<BackupContents, CatalogueError> {
        let is_it = |manifest: &Manifest| manifest.label == label.as_str() && is_it(manifest);
        let holders = self.manifests.iter().filter(|(_, manifest)| is_it(manifest));
        let holders: Vec<_> =
            holders.filter_map(|(index, manifest)| Some((self.repositories.get(*index)?, manifest))).collect();
        let mut failure = None;
        for (repository, _) in &holders {
            let read = async {
                let (manifest, entries) = stored::manifest(repository, label).await?;
                if !is_it(&manifest) {
                    let place = repository.shown(&layout::manifest(label));
                    return Err(RepoError::damaged_text(&place, "another backup has taken its place"));
                }
                let blocks = match &manifest.depends_on {
                    Some(depends_on) => block_index::read(repository, label, depends_on, &entries).await?,
                    None => Vec::new(),
                };
                Ok::<_, RepoError>((manifest, entries, blocks))
            };
            let (manifest, entries, blocks) = match read.await {
                Ok(whole) => whole,
                Err(error) => {
                    let doing = format!("read the manifest of backup {label}");
                    warnings.push(format!("cannot {doing} in repository {}: {}", repository.name(), describe(&error)));
                    failure = Some(CatalogueError::of(repository, doing, error));
                    continue;
                }
            };
            let facts = |manifest: &Manifest| {
                let lengths: Vec<(u32, u64)> =
                    manifest.packs.iter().map(|pack| (pack.number, pack.content_bytes)).collect();
                let parent =
                    manifest.depends_on.as_ref().map(|of| (of.label.clone(), of.timeline, of.start_lsn, of.started));
                (lengths, manifest.start_lsn, manifest.started, parent)
            };
            let mut copies = Vec::new();
            for (repository, other) in &holders {
                if facts(other) == facts(&manifest) {
                    let packs = other.packs.iter().map(|pack| (pack.number, pack.clone())).collect();
                    copies.push(Copy { repository: (*repository).clone(), packs });
                } else {
                    warnings.push(format!("repository {} has another backup under the same label", repository.name()));
                }
            }
            return Ok(BackupContents { manifest, entries, blocks, copies });
        }
        Err(failure.unwrap_or(CatalogueError::NoRepository))
    }

    /// The backups that cannot be restored, because one that they build on is in no repository: their labels, and its.
    pub fn broken(&self) -> BTreeMap<&str, &str> {
        let known: Vec<&Manifest> = self.manifests().collect();
        let missing = known.iter().filter_map(|backup| Some((backup.label.as_str(), missing_parent(&known, backup)?)));
        missing.collect()
    }
}

/// Asks every repository. What some of them cannot answer becomes a warning; what none can, an error.
async fn ask<'a, T, R>(
    repositories: &'a [Repository],
    doing: &str,
    warnings: &mut Vec<String>,
    question: impl Fn(&'a Repository) -> R,
) -> Result<Vec<(usize, T)>, CatalogueError>
where
    R: Future<Output = Result<T, RepoError>>,
{
    let mut answers = Vec::new();
    let mut failure = None;
    for (index, repository) in repositories.iter().enumerate() {
        match question(repository).await {
            Ok(answer) => answers.push((index, answer)),
            Err(error) => {
                warnings.push(format!("cannot {doing} in repository {}: {}", repository.name(), describe(&error)));
                failure.get_or_insert_with(|| CatalogueError::of(repository, doing, error));
            }
        }
    }
    if answers.is_empty() { Err(failure.unwrap_or(CatalogueError::NoRepository)) } else { Ok(answers) }
}
