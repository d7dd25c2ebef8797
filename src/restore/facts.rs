//! What the repositories know that a plan depends on, taken together: a backup or a segment that one of them has is there.
//!
//! A repository that cannot be asked is left out with a warning; only when none can is the plan given up. "Not there" is
//! believed only of a repository that said so.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use futures::stream::{self, StreamExt};
use jiff::Timestamp;

use super::choose::{BackupFacts, Choice};
use super::error::RestoreError;
use super::request::TargetTimeline;
use super::timelines::Histories;
use super::wal::Inventory;
use walward_base::ErrorClass;
use walward_pg::{CommitTimes, Lineage, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFileName};
use walward_repo::manifest::{BackupLabel, Entry, Manifest, Pack};
use walward_repo::{RepoError, Repository, layout, stored};

/// How many small objects are read at once.
const READS_AT_ONCE: usize = 8;

/// The repositories of one cluster, with the backups in them.
#[derive(Debug)]
pub struct Archive<'a> {
    repositories: &'a [Repository],
    /// Manifests without their entries, and the repository that each is in.
    manifests: Vec<(usize, Manifest)>,
    /// What could not be asked.
    pub warnings: Vec<String>,
}

/// A backup in one repository.
#[derive(Debug, Clone)]
pub struct Copy {
    /// The repository.
    pub repository: Repository,
    /// The packs by their number, as this repository's manifest has them.
    pub packs: BTreeMap<u32, Pack>,
}

impl<'a> Archive<'a> {
    /// Lists the backups.
    pub async fn open(repositories: &'a [Repository]) -> Result<Self, RestoreError> {
        let mut warnings = Vec::new();
        let mut manifests = Vec::new();
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
                    // Begun and not finished, or being removed.
                    Err(error) if error.class() == ErrorClass::NotFound => {}
                    Err(error) => warnings.push(format!(
                        "backup {label} in repository {} is left out: {}",
                        repository.name(),
                        chain(&error)
                    )),
                }
            }
        }
        Ok(Self { repositories, manifests, warnings })
    }

    /// The lineage that the cluster has now: the last that any repository was told of.
    pub fn lineage(&self) -> Option<Lineage> {
        let told = self.repositories.iter().filter_map(|repository| repository.identity().lineages.last());
        let newest = told.max_by_key(|entry| entry.since).map(|entry| entry.lineage);
        newest.or_else(|| {
            self.manifests.iter().map(|(_, manifest)| manifest).max_by_key(|m| m.stopped).map(|m| m.lineage)
        })
    }

    /// The backups, each once.
    pub fn facts(&self) -> Vec<BackupFacts> {
        let mut seen = BTreeSet::new();
        let known = self.manifests.iter().filter_map(|(_, manifest)| {
            let label: BackupLabel = manifest.label.parse().ok()?;
            let fact = BackupFacts {
                label,
                lineage: manifest.lineage,
                timeline: manifest.timeline,
                start_lsn: manifest.start_lsn,
                stop_lsn: manifest.stop_lsn,
                stopped: manifest.stopped,
                segment_bytes: manifest.segment_bytes,
            };
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
    ) -> Result<Histories, RestoreError> {
        let mut histories = Histories::new();
        let mut failures = BTreeMap::new();
        let mut unlisted = Vec::new();
        let question = |repository| stored::timelines(repository, lineage);
        let lists = ask(self.repositories, "list the timelines", &mut unlisted, question).await?;
        for (index, timelines) in lists {
            let Some(repository) = self.repositories.get(index) else { continue };
            for timeline in timelines {
                if histories.contains_key(&timeline) {
                    continue;
                }
                let mut leave_out = |why: String, class| {
                    let why = format!(
                        "cannot read the history of timeline {timeline} in repository {}: {why}",
                        repository.name()
                    );
                    warnings.push(why.clone());
                    failures.insert(timeline, (why, class));
                };
                match stored::history(repository, lineage, timeline).await {
                    Ok(text) => match TimelineHistory::parse(timeline, &text) {
                        Ok(history) => {
                            histories.insert(timeline, history.parents);
                        }
                        Err(error) => leave_out(chain(&error), ErrorClass::Corrupt),
                    },
                    Err(error) => leave_out(chain(&error), error.class()),
                }
            }
        }
        failures.retain(|timeline, _| !histories.contains_key(timeline));
        let missed = match wanted {
            TargetTimeline::Latest => failures.pop_last().map(|(_, failure)| failure),
            TargetTimeline::Number(timeline) => failures.remove(&timeline),
            TargetTimeline::Current => None,
        };
        let depends_on_all = match wanted {
            TargetTimeline::Latest => true,
            TargetTimeline::Number(timeline) => timeline != Timeline(1) && !histories.contains_key(&timeline),
            TargetTimeline::Current => false,
        };
        let unlisted_first = unlisted.first().filter(|_| depends_on_all).cloned();
        if let Some((why, class)) = missed.or_else(|| unlisted_first.map(|why| (why, ErrorClass::Transient))) {
            return Err(RestoreError::Timelines { why, class });
        }
        warnings.extend(unlisted);
        Ok(histories)
    }

    /// Fails when there is WAL of a later timeline than `choice` leads to, whose history nobody has: it may be the cluster's
    /// newest past, and nobody knows where it began.
    pub async fn check_newest(
        &self,
        choice: &Choice,
        histories: &Histories,
        warnings: &mut Vec<String>,
    ) -> Result<(), RestoreError> {
        let lineage = choice.backup.lineage;
        let later = Timeline(choice.way.target().0.saturating_add(1));
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
                return Err(RestoreError::Timelines { why, class: ErrorClass::Permanent });
            }
        }
        Ok(())
    }

    /// The segments on the way of `choice` from its backup's first on.
    pub async fn inventory(&self, choice: &Choice, warnings: &mut Vec<String>) -> Result<Inventory, RestoreError> {
        let size = choice.backup.segment_bytes;
        let first = choice.backup.start_lsn.segment_number(size);
        let needed: Vec<_> = choice
            .way
            .spans()
            .iter()
            .filter(|span| span.end.is_none_or(|end| end.segment_number(size) >= first))
            .map(|span| (span.timeline, span.begin.segment_number(size).max(first)))
            .collect();
        let lineage = choice.backup.lineage;
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
        for file in lists.await?.into_iter().flat_map(|(_, files)| files) {
            let (name, set) = match file {
                WalFileName::Segment(name) => (name, &mut inventory.segments),
                WalFileName::Partial(name) => (name, &mut inventory.partial),
                WalFileName::History(_) | WalFileName::BackupHistory(..) => continue,
            };
            set.extend(name.number(size).map(|number| (name.timeline, number)));
        }
        // Without the records the refusal has no reason, and is the same.
        let records = ask(self.repositories, "read the records of gaps", warnings, |repository| {
            walward_repo::gap::read_all(repository, lineage)
        });
        if let Ok(records) = records.await {
            for (gaps, damaged) in records.into_iter().map(|(_, found)| found) {
                inventory.let_go.extend(gaps);
                warnings.extend(damaged.iter().map(|error| chain(error)));
            }
        }
        Ok(inventory)
    }

    /// The first and last time that a transaction ended in a segment, or in its `.partial` where there is no more of it. A
    /// segment that is nowhere, or nowhere whole, has none.
    pub async fn commit_times(
        &self,
        lineage: Lineage,
        segment: SegmentName,
    ) -> Result<Option<(i64, i64)>, RestoreError> {
        let mut failure = None;
        for name in [WalFileName::Segment(segment), WalFileName::Partial(segment)] {
            let key = layout::wal_file(lineage, name);
            for repository in self.repositories {
                match repository.read_summary(&key).await {
                    Ok(found) => return Ok(found.summary.commit_times),
                    Err(error) if matches!(error.class(), ErrorClass::NotFound | ErrorClass::Corrupt) => {}
                    Err(source) => {
                        failure.get_or_insert_with(|| {
                            failed(repository, format!("read the times in segment {segment}"), source)
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
    ) -> Result<BTreeMap<u64, Timestamp>, RestoreError> {
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
    ) -> Result<Option<CommitTimes>, RestoreError> {
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
                        failed(repository, format!("read the records of segment {segment}"), source)
                    });
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Everything about a backup: its manifest with its entries, and the repositories that have it.
    pub async fn contents(
        &self,
        label: &BackupLabel,
        warnings: &mut Vec<String>,
    ) -> Result<(Manifest, Vec<Entry>, Vec<Copy>), RestoreError> {
        let holders = self.manifests.iter().filter(|(_, manifest)| manifest.label == label.as_str());
        let holders: Vec<_> =
            holders.filter_map(|(index, manifest)| Some((self.repositories.get(*index)?, manifest))).collect();
        let mut failure = None;
        for (repository, _) in &holders {
            let (manifest, entries) = match stored::manifest(repository, label).await {
                Ok(whole) => whole,
                Err(error) => {
                    let doing = format!("read the manifest of backup {label}");
                    warnings.push(format!("cannot {doing} in repository {}: {}", repository.name(), chain(&error)));
                    failure = Some(failed(repository, doing, error));
                    continue;
                }
            };
            let lengths = |manifest: &Manifest| -> Vec<(u32, u64)> {
                manifest.packs.iter().map(|pack| (pack.number, pack.content_bytes)).collect()
            };
            let mut copies = Vec::new();
            for (repository, other) in &holders {
                if lengths(other) == lengths(&manifest) && other.start_lsn == manifest.start_lsn {
                    let packs = other.packs.iter().map(|pack| (pack.number, pack.clone())).collect();
                    copies.push(Copy { repository: (*repository).clone(), packs });
                } else {
                    warnings.push(format!("repository {} has another backup under the same label", repository.name()));
                }
            }
            return Ok((manifest, entries, copies));
        }
        Err(failure.unwrap_or(RestoreError::NoRepository))
    }
}

/// Asks every repository. What some of them cannot answer becomes a warning; what none can, an error.
async fn ask<'a, T, R>(
    repositories: &'a [Repository],
    doing: &str,
    warnings: &mut Vec<String>,
    question: impl Fn(&'a Repository) -> R,
) -> Result<Vec<(usize, T)>, RestoreError>
where
    R: Future<Output = Result<T, RepoError>>,
{
    let mut answers = Vec::new();
    let mut failure = None;
    for (index, repository) in repositories.iter().enumerate() {
        match question(repository).await {
            Ok(answer) => answers.push((index, answer)),
            Err(error) => {
                warnings.push(format!("cannot {doing} in repository {}: {}", repository.name(), chain(&error)));
                failure.get_or_insert_with(|| failed(repository, doing.to_owned(), error));
            }
        }
    }
    if answers.is_empty() { Err(failure.unwrap_or(RestoreError::NoRepository)) } else { Ok(answers) }
}

fn failed(repository: &Repository, doing: String, source: RepoError) -> RestoreError {
    RestoreError::Repository { doing, repository: repository.name().to_owned(), source }
}

/// An error with its causes, in one line: for warnings, which have no chain of their own.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
