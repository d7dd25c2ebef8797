//! One WAL file out of the repositories: from the first that can give it, whole and verified; or a clear "absent".

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use super::known::Known;
use super::progress::Progress;
use super::spot::Spot;
use crate::archive::accept::{Rejection, SMALL_FILE_BYTES_MAX, accept};
use crate::catalogue;
use walward_base::ErrorClass;
use walward_pg::{Lineage, SegmentName, Timeline, WalFileName};
use walward_repo::facts::Link;
use walward_repo::identity::LineageEntry;
use walward_repo::{LazyRepository, OpenedObject, RepoError, Repository, gap, layout, stored};
use walward_storage::ObjectKey;

/// How long the file system that a file is written to may take for one step of it. More than a disk takes that is sound and busy.
const STEP_MAX: Duration = Duration::from_secs(10);
const STEP_MIN: Duration = Duration::from_millis(500);

/// What is wanted, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Want {
    /// Of the server that recovers; `None` when it is not known, then the newest of the repository.
    pub lineage: Option<Lineage>,
    /// The file.
    pub name: WalFileName,
    /// Where the server keeps its WAL, and with it the histories that it knows; `None` when no server asks.
    pub pg_wal: Option<PathBuf>,
}

impl Want {
    /// For no server in particular.
    pub fn new(lineage: Option<Lineage>, name: WalFileName) -> Self {
        Self { lineage, name, pg_wal: None }
    }
}

/// What became of a fetch that found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retrieved {
    /// The file is at the path, verified.
    File {
        /// Its length.
        bytes: u64,
        /// What it is, and what it continues.
        link: Option<Link>,
    },
    /// Every repository said that it has no such file, and proved to be the repository that it should be; and no segment
    /// after it is there.
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
    /// It is nowhere, and the archive goes on after it.
    #[error(
        "{name} is missing in the archive, and WAL goes on with {next} by what lies in repository {repository:?} or by a history in the server's pg_wal: a recovery that ended here would lose what lies after the hole; archive the file again if a server still has it in pg_wal, or restore to a target before it"
    )]
    Hole {
        /// The file.
        name: WalFileName,
        /// The first one after it: one that is there, or where a later timeline's history says that it began.
        next: SegmentName,
        /// Which knows of it.
        repository: String,
    },
    /// It is nowhere, and there is WAL of that timeline or of a later one.
    #[error(
        "{name} is missing in the archive, and repository {repository:?} has WAL of timeline {} ({next}): a recovery to the latest point would end before it and not know; archive the history again (pg_wal of a server on that timeline has it, and a backup of that server brings it)",
        .next.timeline
    )]
    HistoryLost {
        /// The history.
        name: WalFileName,
        /// A segment of the first timeline whose beginning the server does not know.
        next: SegmentName,
        /// Which has it.
        repository: String,
    },
    /// It is nowhere, and neither is what the same recovery was given last.
    #[error(
        "{name} is in no repository, and neither is {served}, which this recovery was given before: WAL was removed from the archive, and where it \
         ended is not known; bring it back (versions of the bucket, a copy, the disk that it was on), or restore to a target"
    )]
    ServedIsGone {
        /// The file.
        name: WalFileName,
        /// What was served last.
        served: WalFileName,
    },
    /// It does not continue what the same recovery was given before it.
    #[error(
        "{name} does not continue {before}, which this recovery was given before: another life of the cluster wrote it, \
         and replaying both would make a state that never was; recover to a target before it, or choose which life to keep \
         (`walward wal set-aside`); fetch.refuse_seams = false replays it all the same"
    )]
    Seam {
        /// The file.
        name: WalFileName,
        /// The one before it.
        before: SegmentName,
    },
    /// For a standby: it was not to be had within the time that a standby is held up.
    #[error("{name} cannot be had now ({why}); a standby goes on without it and asks again")]
    NotNow {
        /// The file.
        name: WalFileName,
        /// What stands in the way.
        why: String,
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
        "{name} was let go before it was archived (queue_limit; `walward wal gaps` tells when), so that repository {repository:?} lacks it: recovery cannot go on here, and what lies after needs a backup that began after it"
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
            Self::Repository { source, .. } => source.class().never_absent(),
            Self::Rejected { .. } => ErrorClass::Corrupt,
            Self::UnknownLineage { .. }
            | Self::NoLineage { .. }
            | Self::Hole { .. }
            | Self::HistoryLost { .. }
            | Self::LetGo { .. }
            | Self::ServedIsGone { .. }
            | Self::Seam { .. }
            | Self::NoRepository => ErrorClass::Permanent,
            Self::TooSlow { .. } | Self::NotNow { .. } => ErrorClass::Transient,
            Self::Write { source, .. } => ErrorClass::of_io(source).never_absent(),
            Self::Stopping(_) => ErrorClass::Cancelled,
        }
    }

    /// Whether it is about a file that is missing, and known to be, while the archive goes on: more than "cannot be found out".
    pub fn is_hole(&self) -> bool {
        matches!(self, Self::Hole { .. } | Self::HistoryLost { .. } | Self::LetGo { .. })
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
pub(super) enum RepositoryAnswer {
    File(u64, Option<Link>),
    /// It has no such file.
    Absent,
    /// It has no such file, and the archive goes on: see [`FetchError::is_hole`].
    Hole(FetchError),
}

/// Reads an object; when it is sealed under a master key that came after the repository was opened, the keys are read again.
async fn read(lazy: &LazyRepository, repository: &Repository, key: &ObjectKey) -> Result<OpenedObject, RepoError> {
    match repository.read(key).await {
        Err(RepoError::UnknownMasterKey { .. }) => lazy.reopen().await?.read(key).await,
        other => other,
    }
}

/// How long the file system of `spot` may take for one step, when all may take until `until`: what hangs there is told before the repository
/// is taken for what hangs.
fn step_limit(until: Option<Instant>) -> Duration {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    left.map_or(STEP_MAX, |left| (left / 2).clamp(STEP_MIN, STEP_MAX))
}

/// Asks one repository. Nothing that is small is tried again after `until`.
pub(super) async fn one(
    lazy: &LazyRepository,
    want: &Want,
    spot: &Spot,
    until: Option<Instant>,
    progress: &Progress,
) -> Result<RepositoryAnswer, FetchError> {
    let name = want.name;
    let failed = |source| FetchError::Repository { name, repository: lazy.name().to_owned(), source };
    let opening = async {
        let repository = match want.lineage {
            Some(lineage) => lazy.with_lineage(lineage).await,
            // Nobody says which: then the newest there is, not the newest there was.
            None => lazy.reopen().await,
        }
        .map_err(failed)?;
        let entry = entry(&repository, want.lineage, lazy.name())?;
        progress.expect(entry.segment_bytes.bytes());
        match read(lazy, &repository, &layout::wal_file(entry.lineage, name)).await {
            Ok(opened) => Ok(Ok((opened, entry))),
            Err(error) if error.class() == ErrorClass::NotFound => {
                let answer = match absent(&repository, lazy.name(), &entry, want).await {
                    // A history that another server wrote under a master key that came after the repository was opened.
                    Err(RepoError::UnknownMasterKey { .. }) => {
                        absent(&lazy.reopen().await.map_err(failed)?, lazy.name(), &entry, want).await
                    }
                    other => other,
                };
                answer.map(Err).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    };
    let opened = match until {
        Some(until) => walward_storage::patient_until(until, opening).await?,
        None => opening.await?,
    };
    let (opened, entry) = match opened {
        Ok(opened) => opened,
        Err(answer) => return Ok(answer),
    };
    let written = |source| FetchError::Write { path: spot.path().to_path_buf(), source };
    let mut file = progress.here(spot.make(step_limit(until))).await.map_err(written)?;
    let bytes_max = match name {
        WalFileName::Segment(_) | WalFileName::Partial(_) => entry.segment_bytes.bytes(),
        WalFileName::History(_) | WalFileName::BackupHistory(..) => SMALL_FILE_BYTES_MAX,
    };
    let (mut content, link) = (opened.content, opened.link);
    let mut head = Vec::new();
    let mut bytes = 0u64;
    while let Some(chunk) = content.next().await {
        let chunk = chunk.map_err(failed)?;
        progress.moved();
        if head.is_empty() {
            head = chunk.to_vec();
        }
        bytes += chunk.len() as u64;
        if bytes > bytes_max {
            let reason = Rejection::Length(bytes);
            return Err(FetchError::Rejected { name, repository: lazy.name().to_owned(), reason });
        }
        progress.here(file.write(chunk, step_limit(until))).await.map_err(written)?;
    }
    progress.here(file.end(step_limit(until))).await.map_err(written)?;
    let kind = accept(name, &head, bytes, entry.lineage);
    kind.map_err(|reason| FetchError::Rejected { name, repository: lazy.name().to_owned(), reason })?;
    Ok(RepositoryAnswer::File(bytes, link.get().copied()))
}

/// The lineage that is wanted, as the repository knows it.
fn entry(repository: &Repository, lineage: Option<Lineage>, name: &str) -> Result<LineageEntry, FetchError> {
    let identity = repository.identity();
    let repository = name.to_owned();
    match lineage {
        Some(lineage) => identity.find(lineage).cloned().ok_or(FetchError::UnknownLineage { lineage, repository }),
        None => identity.current().cloned().ok_or(FetchError::NoLineage { repository }),
    }
}

/// What a repository answers that has no such object.
async fn absent(
    repository: &Repository,
    repository_name: &str,
    entry: &LineageEntry,
    want: &Want,
) -> Result<RepositoryAnswer, RepoError> {
    let (name, lineage, size) = (want.name, entry.lineage, entry.segment_bytes);
    let in_repository = || repository_name.to_owned();
    // An unmounted disk and an emptied bucket have no such object either.
    repository.confirm_alive().await?;
    // "Absent" would end a recovery in the middle of the archive.
    let let_go = gap::list(repository, lineage).await?;
    if let_go.iter().any(|range| gap::covers(*range, name)) {
        return Ok(RepositoryAnswer::Hole(FetchError::LetGo { name, repository: in_repository() }));
    }
    let hole = match name {
        WalFileName::Segment(segment) => {
            let known = Known::of(want.pg_wal.as_deref()).await;
            let next = catalogue::goes_on(repository, lineage, segment, size, known.histories).await?;
            next.map(|next| FetchError::Hole { name, next, repository: in_repository() })
        }
        // There is none of the first timeline.
        WalFileName::History(timeline) if timeline > Timeline(1) => {
            // A server that is on that timeline or knows a later one does not look for its way by it: it only wants to keep it
            // (`restoreTimeLineHistoryFiles` and `writeTimeLineHistory`, timeline.c, 13 to 18).
            let next = if timeline <= Known::of(want.pg_wal.as_deref()).await.newest {
                None
            } else {
                stored::unexplained(repository, lineage, timeline, |_| false).await?
            };
            next.map(|next| FetchError::HistoryLost { name, next, repository: in_repository() })
        }
        WalFileName::History(_) | WalFileName::Partial(_) | WalFileName::BackupHistory(..) => None,
    };
    Ok(hole.map_or(RepositoryAnswer::Absent, RepositoryAnswer::Hole))
}
