//! One WAL file out of the repositories: from the first that can give it, whole and verified; or a clear "absent".

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tracing::warn;

use super::accept::{Rejection, SMALL_FILE_BYTES_MAX, accept};
use crate::base::{ErrorClass, describe};
use crate::pg::{Lineage, SegmentName, SegmentSize, TimelineHistory, WalFileName};
use crate::repo::{LazyRepository, OpenedObject, RepoError, Repository, gap, layout, stored};
use crate::storage::ObjectKey;

/// The first pause between rounds over the repositories; doubled each time up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long one repository may take for one file, besides the time that its bytes take at [`BYTES_PER_SECOND_MIN`].
const PATIENCE: Duration = Duration::from_mins(2);
/// A store slower than this is of no use to a recovery.
const BYTES_PER_SECOND_MIN: u64 = 256 << 10;

/// What became of a fetch that found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retrieved {
    /// The file is at the path, verified.
    File {
        /// Its length.
        bytes: u64,
    },
    /// Every repository said that it has no such file, and proved to be the repository that it should be; and no segment
    /// behind it is there.
    Absent,
}

/// Why it could not be found out, or the file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A repository could not be asked, or what it gave was not usable.
    #[error("cannot fetch {name} from repository {repository:?}")]
    Repository {
        /// The file.
        name: WalFileName,
        /// The repository's name.
        repository: String,
        /// Why.
        #[source]
        source: RepoError,
    },
    /// What came out is not what the name says.
    #[error("repository {repository:?} gave a file that is not {name}: {reason}")]
    Rejected {
        /// The file.
        name: WalFileName,
        /// The repository's name.
        repository: String,
        /// Why.
        reason: Rejection,
    },
    /// The repository belongs to another cluster.
    #[error(
        "the data directory belongs to {lineage}, which repository {repository:?} does not hold: this is another cluster's repository, or `walward setup` was not run after pg_upgrade"
    )]
    UnknownLineage {
        /// Lineage of the data directory.
        lineage: Lineage,
        /// The repository's name.
        repository: String,
    },
    /// The repository was made, and nothing was archived or backed up to it yet.
    #[error("repository {repository:?} does not know which cluster it is for yet: `walward setup` was not finished")]
    NoLineage {
        /// The repository's name.
        repository: String,
    },
    /// It is nowhere, and the archive goes on behind it.
    #[error(
        "{name} is missing in the archive, and WAL goes on with {next} by what lies in repository {repository:?}: a recovery that ended here would lose what lies behind the hole; archive the file again if a server still has it in pg_wal, or restore to a target before it"
    )]
    Hole {
        /// The file.
        name: WalFileName,
        /// The first one behind it: one that is there, or where a later timeline's history says that it began.
        next: SegmentName,
        /// Which knows of it.
        repository: String,
    },
    /// It took longer than any store should.
    #[error("repository {repository:?} did not give {name} within {} s", .after.as_secs())]
    TooSlow {
        /// The file.
        name: WalFileName,
        /// The repository's name.
        repository: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// It is missing, and known to be: the end of the archive is elsewhere.
    #[error(
        "{name} was let go before it was archived (queue_limit; `walward wal gaps` tells when), so that repository {repository:?} lacks it: recovery cannot go on here, and what lies behind needs a backup that began behind it"
    )]
    LetGo {
        /// The file.
        name: WalFileName,
        /// The repository's name.
        repository: String,
    },
    /// The file could not be written here.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No repository is configured for the cluster.
    #[error("the cluster has no repository")]
    NoRepository,
    /// The agent is stopping.
    #[error("the fetch of {0} was given up because the agent is stopping")]
    Stopping(WalFileName),
}

impl FetchError {
    /// What metrics are taken on. Never [`ErrorClass::NotFound`].
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Repository { source, .. } => match source.class() {
                ErrorClass::NotFound => ErrorClass::Permanent,
                class => class,
            },
            Self::Rejected { .. } => ErrorClass::Corrupt,
            Self::UnknownLineage { .. }
            | Self::NoLineage { .. }
            | Self::Hole { .. }
            | Self::LetGo { .. }
            | Self::NoRepository => ErrorClass::Permanent,
            Self::TooSlow { .. } => ErrorClass::Transient,
            Self::Write { source, .. } => match ErrorClass::of_io(source) {
                ErrorClass::NotFound => ErrorClass::Permanent,
                class => class,
            },
            Self::Stopping(_) => ErrorClass::Cancelled,
        }
    }
}

/// What to do about a segment that is missing while later ones are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtHole {
    /// Ask again until the deadline: several are uploaded at once, and it may be on its way.
    Wait,
    /// Say so at once.
    Tell,
}

/// What one repository answered.
enum Answer {
    File(u64),
    /// It has no such file; of a segment, the first one behind it on its timeline or on one that left that later, if there is one.
    Absent(Option<SegmentName>),
    /// It has no such file, and a record that it was let go.
    LetGo,
}

/// What a repository could not give although it was asked before the one that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The class of its failure.
    pub class: ErrorClass,
    /// What failed, in one line.
    pub text: String,
}

/// As [`retrieve_noting`], for whoever does not ask what failed on the way.
pub async fn retrieve(
    repositories: &[Arc<LazyRepository>],
    lineage: Option<Lineage>,
    name: WalFileName,
    path: &Path,
    deadline: Duration,
    at_hole: AtHole,
) -> Result<Retrieved, FetchError> {
    retrieve_noting(repositories, lineage, name, path, (deadline, at_hole), &mut Vec::new()).await
}

/// Brings `name` to `path` (a temporary name: it may be left unfinished there on an error), trying every repository in
/// order, again and again until the deadline after the first failure (a hole is one, with [`AtHole::Wait`]). `lineage`: of the
/// server that recovers; `None` when it is not known, then the newest of the repository. A repository that failed lately is
/// asked after the others; `passed_over` takes what failed before the file was there.
pub async fn retrieve_noting(
    repositories: &[Arc<LazyRepository>],
    lineage: Option<Lineage>,
    name: WalFileName,
    path: &Path,
    (deadline, at_hole): (Duration, AtHole),
    passed_over: &mut Vec<PassedOver>,
) -> Result<Retrieved, FetchError> {
    let begun = Instant::now();
    let mut pause = PAUSE_FIRST;
    loop {
        let (mut failure, mut hole) = (None, None);
        if repositories.is_empty() {
            return Err(FetchError::NoRepository);
        }
        let now = Instant::now();
        let mut in_order: Vec<&Arc<LazyRepository>> = repositories.iter().collect();
        in_order.sort_by_key(|lazy| lazy.standing().is_resting(now));
        for repository in in_order {
            let answer = in_time(repository, lineage, name, path).await;
            match &answer {
                Ok(_) => repository.standing().answered(),
                Err(error @ (FetchError::Repository { .. } | FetchError::TooSlow { .. })) => {
                    repository.standing().failed(error.class(), Instant::now());
                }
                Err(_) => {}
            }
            match answer {
                Ok(Answer::File(bytes)) => return Ok(Retrieved::File { bytes }),
                Ok(Answer::Absent(None)) => {}
                // Not the end of the archive. It may be on its way: several are uploaded at once.
                Ok(Answer::Absent(Some(next))) => {
                    hole.get_or_insert(FetchError::Hole { name, next, repository: repository.name().to_owned() });
                }
                Ok(Answer::LetGo) => {
                    hole = Some(FetchError::LetGo { name, repository: repository.name().to_owned() });
                }
                Err(error) => {
                    let text = describe(&error);
                    warn!(segment = %name, repository = repository.name(), error_class = %error.class(), error = text, "cannot fetch");
                    passed_over.push(PassedOver { class: error.class(), text });
                    failure.get_or_insert(error);
                }
            }
        }
        // One repository that could not be asked makes "absent" a guess, whatever the others say.
        // And what was let go does not come by itself.
        let is_lost = matches!(hole, Some(FetchError::LetGo { .. }));
        let told = failure.is_none() && (is_lost || at_hole == AtHole::Tell);
        let Some(error) = failure.or(hole) else { return Ok(Retrieved::Absent) };
        if told || begun.elapsed() + pause > deadline {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

/// As [`one`], bounded in time: a store that drips holds nobody for ever.
async fn in_time(
    lazy: &LazyRepository,
    lineage: Option<Lineage>,
    name: WalFileName,
    path: &Path,
) -> Result<Answer, FetchError> {
    let segment_bytes = lazy.get().await.map_or(0, |repository| {
        let sizes = repository.identity().lineages.iter().map(|entry| entry.segment_bytes.bytes());
        sizes.max().unwrap_or(0)
    });
    let after = PATIENCE + Duration::from_secs(segment_bytes / BYTES_PER_SECOND_MIN);
    let timely = tokio::time::timeout(after, one(lazy, lineage, name, path)).await;
    timely.unwrap_or_else(|_| Err(FetchError::TooSlow { name, repository: lazy.name().to_owned(), after }))
}

/// Reads an object; when it is sealed under a master key that came after the repository was opened, the keys are read again.
async fn read(lazy: &LazyRepository, repository: &Repository, key: &ObjectKey) -> Result<OpenedObject, RepoError> {
    match repository.read(key).await {
        Err(RepoError::UnknownMasterKey { .. }) => lazy.reopen().await?.read(key).await,
        other => other,
    }
}

/// A new file that only this process's user can read. What an earlier try left under the name is removed, not written into.
async fn create(path: &Path) -> io::Result<tokio::fs::File> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await
}

/// The first segment behind `segment` on its timeline.
async fn next_behind(
    repository: &Repository,
    lineage: Lineage,
    segment: SegmentName,
    size: SegmentSize,
) -> Result<Option<SegmentName>, RepoError> {
    let Some(number) = segment.number(size) else { return Ok(None) };
    let files = stored::wal(repository, lineage, segment.timeline, number, size).await?;
    let segments = files.into_iter().filter_map(|file| match file {
        WalFileName::Segment(found) => Some((found.number(size)?, found)),
        WalFileName::Partial(_) | WalFileName::History(_) | WalFileName::BackupHistory(..) => None,
    });
    Ok(segments.filter(|(found, _)| *found > number).min_by_key(|(found, _)| *found).map(|(_, name)| name))
}

/// Where the archive goes on although the timeline of `segment` has nothing behind it: a later timeline left it behind the end of
/// this segment, so that it was written, and is missing. What a standby was sent before its primary died is archived by nobody
/// when it is promoted (`XLogArchiveForceDone` in walreceiver.c, 13 to 18).
async fn left_behind(
    repository: &Repository,
    lineage: Lineage,
    segment: SegmentName,
    size: SegmentSize,
) -> Result<Option<SegmentName>, RepoError> {
    let Some(number) = segment.number(size) else { return Ok(None) };
    for timeline in stored::timelines(repository, lineage).await? {
        if timeline <= segment.timeline {
            continue;
        }
        let text = match stored::history(repository, lineage, timeline).await {
            Ok(text) => text,
            // It tells nothing, and whoever wants that timeline meets it by itself.
            Err(error) if error.class() == ErrorClass::Corrupt => continue,
            Err(error) => return Err(error),
        };
        let Ok(history) = TimelineHistory::parse(timeline, &text) else { continue };
        let switch = history.switch_of(segment.timeline).map(|switch| switch.segment_number(size));
        if let Some(switch) = switch.filter(|switch| *switch > number) {
            return Ok(SegmentName::from_number(history.required_timeline_for_segment(switch, size), switch, size));
        }
    }
    Ok(None)
}

async fn one(
    lazy: &LazyRepository,
    lineage: Option<Lineage>,
    name: WalFileName,
    path: &Path,
) -> Result<Answer, FetchError> {
    let failed = |source| FetchError::Repository { name, repository: lazy.name().to_owned(), source };
    let repository = match lineage {
        Some(lineage) => lazy.with_lineage(lineage).await,
        // Nobody says which: then the newest there is, not the newest there was.
        None => lazy.reopen().await,
    }
    .map_err(failed)?;
    let known = &repository.identity().lineages;
    let lineage = match lineage {
        Some(lineage) if known.iter().any(|entry| entry.lineage == lineage) => lineage,
        Some(lineage) => return Err(FetchError::UnknownLineage { lineage, repository: lazy.name().to_owned() }),
        None => match known.last() {
            Some(entry) => entry.lineage,
            None => return Err(FetchError::NoLineage { repository: lazy.name().to_owned() }),
        },
    };
    let entry = known.iter().find(|entry| entry.lineage == lineage);
    let segment_bytes = entry.map_or(0, |entry| entry.segment_bytes.bytes());
    let key = layout::wal_file(lineage, name);
    let opened = match read(lazy, &repository, &key).await {
        Ok(opened) => opened,
        Err(error) if error.class() == ErrorClass::NotFound => {
            // An unmounted disk and an emptied bucket have no such object either.
            repository.confirm_alive().await.map_err(failed)?;
            // "Absent" would end a recovery in the middle of the archive.
            let let_go = gap::list(&repository, lineage).await.map_err(failed)?;
            if let_go.iter().any(|range| gap::covers(*range, name)) {
                return Ok(Answer::LetGo);
            }
            let behind = match (name, entry) {
                (WalFileName::Segment(segment), Some(entry)) => {
                    let size = entry.segment_bytes;
                    match next_behind(&repository, lineage, segment, size).await.map_err(failed)? {
                        None => left_behind(&repository, lineage, segment, size).await.map_err(failed)?,
                        found => found,
                    }
                }
                _ => None,
            };
            return Ok(Answer::Absent(behind));
        }
        Err(error) => return Err(failed(error)),
    };
    let written = |source| FetchError::Write { path: path.to_path_buf(), source };
    let mut file = create(path).await.map_err(written)?;
    let bytes_max = match name {
        WalFileName::Segment(_) | WalFileName::Partial(_) => segment_bytes,
        WalFileName::History(_) | WalFileName::BackupHistory(..) => SMALL_FILE_BYTES_MAX,
    };
    let mut content = opened.content;
    let mut head = Vec::new();
    let mut bytes = 0u64;
    while let Some(chunk) = content.next().await {
        let chunk = chunk.map_err(failed)?;
        if head.is_empty() {
            head = chunk.to_vec();
        }
        bytes += chunk.len() as u64;
        if bytes > bytes_max {
            let reason = Rejection::Length(bytes);
            return Err(FetchError::Rejected { name, repository: lazy.name().to_owned(), reason });
        }
        file.write_all(&chunk).await.map_err(written)?;
    }
    file.flush().await.map_err(written)?;
    let kind = accept(name, &head, bytes, lineage);
    kind.map_err(|reason| FetchError::Rejected { name, repository: lazy.name().to_owned(), reason })?;
    Ok(Answer::File(bytes))
}
