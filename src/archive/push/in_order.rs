//! Before a file is archived on its own: does it come after one that has other content in a repository?
//!
//! PostgreSQL asks in order, and stops at a file that is refused. A person who pushes by hand does not, and may take a mark away.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::archiver::Archiver;
use super::error::PushError;
use super::policy::Acknowledge;
use super::source::FileVisit;
use super::there::{self, Log};
use super::upload::{Listeners, Origin, send};
use crate::archive::agree::Parting;
use crate::archive::follows::follows;
use crate::health::RepositoryStats;
use walward_base::Locked;
use walward_base::describe;
use walward_base::sys::ground::Ground;
use walward_pg::archive_status::archiver_order;
use walward_pg::{
    ControlFile, Lineage, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFileName, list_ready, segment_before,
};
use walward_repo::{LazyRepository, layout};

/// Folders of the archive that are listed for one file, at most.
const FOLDERS_MAX: usize = 16;
/// How long pg_wal may take to be looked at. One that needs longer has the file refused: without what the server has nothing is known of what leads
/// to it, and PostgreSQL asks again.
pub(super) const PG_WAL_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a repository may take to say whether it has a file.
const EXISTS_TIME_MAX: Duration = Duration::from_secs(20);

/// How a file stands with an archiver, before what follows it is moved out of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contest {
    /// The file is known to have two contents: it is where the archiver stopped.
    pub is_contested: bool,
    /// Its timeline is archived for the running server.
    pub is_archived: bool,
    /// The files that are known to have two contents.
    pub contested: Vec<WalFileName>,
}

impl Archiver {
    /// How `name` stands.
    pub fn contest(&self, name: WalFileName) -> Contest {
        let state = self.state();
        let refused = state.lead.contradicted().map(|(refused, _)| refused);
        let contested: BTreeSet<_> = refused.chain(state.parted.iter().map(|(.., parting)| parting.first)).collect();
        Contest {
            is_contested: contested.contains(&name),
            is_archived: state.lead.has_archived(name.timeline()),
            contested: contested.into_iter().collect(),
        }
    }

    /// Lets go of what is remembered of the archive, because a person has moved a life out of it or back. What PostgreSQL asks for next
    /// is compared anew, and nothing has to be started anew for that.
    pub fn forget(&self) {
        self.state().forget();
        self.stats().iter().for_each(RepositoryStats::settled);
        self.wake();
    }

    /// Whether anything is known to have two contents.
    pub(in crate::archive) fn is_contradicted(&self) -> bool {
        let state = self.state();
        !state.parted.is_empty() || state.lead.contradicted().next().is_some()
    }

    /// Where repositories part, in what leads to the file of `way` or in that itself.
    pub(super) fn parted_before(&self, way: &Way) -> Option<Parting> {
        let state = self.state();
        let of_lineage = state.parted.iter().filter(|(_, lineage, _)| *lineage == way.lineage);
        let mut partings = of_lineage.map(|(.., parting)| parting);
        partings.find(|parting| parting.first == way.name || way.leads_over(parting.first)).cloned()
    }

    /// Fails when `name` comes after a file of which a repository holds other content.
    pub(in crate::archive) async fn stand_alone(
        &self,
        name: WalFileName,
        earlier_waits: bool,
    ) -> Result<(), Arc<PushError>> {
        if self.is_contradicted() {
            let way = Way::read(self.pg_wal(), name).await?;
            if let Some(Parting { first, why }) = self.parted_before(&way) {
                return Err(Arc::new(PushError::Follows { name, earlier: first, why }));
            }
            let refused: Vec<_> = self.state().lead.contradicted().map(|(at, why)| (at, why.to_owned())).collect();
            for (earlier, why) in refused.into_iter().filter(|(earlier, _)| way.leads_over(*earlier)) {
                // It may have been put right: then nothing is in the way any more.
                if self.archive_again(earlier).await.is_err() {
                    return Err(Arc::new(PushError::Follows { name, earlier, why }));
                }
            }
        }
        if earlier_waits {
            let (repositories, options) = (self.repositories(), &self.0.options);
            stand_alone(repositories, options.acknowledge, self.pg_wal(), name, &options.writer).await?;
        }
        Ok(())
    }
}

/// Whether a file that PostgreSQL would ask for before `name` waits.
pub async fn earlier_waits(pg_wal: &Path, name: WalFileName) -> bool {
    let pg_wal = pg_wal.to_path_buf();
    tokio::task::spawn_blocking(move || FileVisit::look(&pg_wal, name)).await.is_ok_and(|found| found.earlier_waits)
}

/// Fails when one of the files that wait and that `name` comes after has other content in a repository. What a repository does not
/// have is not sent.
///
/// Two lives of a server differ from one moment on, so that the last file that both have tells.
pub async fn stand_alone(
    repositories: &[Arc<LazyRepository>],
    acknowledge: Acknowledge,
    pg_wal: &Path,
    name: WalFileName,
    writer: &str,
) -> Result<(), PushError> {
    let way = Way::read(pg_wal, name).await?;
    let mut listed: HashMap<Log, there::Names> = HashMap::new();
    for earlier in way.waiting.iter().rev().copied().filter(|earlier| way.leads_over(*earlier)) {
        if let Some(log) = there::log_of(earlier) {
            if !listed.contains_key(&log) {
                if listed.len() == FOLDERS_MAX {
                    break;
                }
                let names = there::names(repositories, acknowledge, way.lineage, log).await;
                let failed = |(repository, source)| PushError::Repository { name, repository, source };
                listed.insert(log, names.map_err(failed)?);
            }
            if listed.get(&log).is_none_or(|names| !names.contains_key(&earlier)) {
                continue;
            }
        }
        let holders = holders(repositories, way.lineage, earlier).await;
        if !holders.is_empty() {
            return compare(repositories, &holders, pg_wal, (name, earlier), writer).await;
        }
    }
    Ok(())
}

/// The repositories that have a file of this name. One that does not answer now is compared when it is written to.
async fn holders(repositories: &[Arc<LazyRepository>], lineage: Lineage, earlier: WalFileName) -> Vec<usize> {
    let key = layout::wal_file(lineage, earlier);
    let asked = join_all(repositories.iter().enumerate().map(async |(at, lazy)| {
        let has = async { lazy.with_lineage(lineage).await?.exists(&key).await };
        let has = tokio::time::timeout(EXISTS_TIME_MAX, has).await;
        matches!(has, Ok(Ok(true))).then_some(at)
    }));
    asked.await.into_iter().flatten().collect()
}

/// Sends `earlier` to its holders, which compares it.
async fn compare(
    repositories: &[Arc<LazyRepository>],
    holders: &[usize],
    pg_wal: &Path,
    (name, earlier): (WalFileName, WalFileName),
    writer: &str,
) -> Result<(), PushError> {
    let failure = Mutex::new(None);
    let answered = |_, _, result: Result<(), PushError>| {
        let mut failure = failure.locked();
        let is_worse = |known: &Option<PushError>| !matches!(known, Some(PushError::Different { .. }));
        if let (Err(error), true) = (result, is_worse(&failure)) {
            *failure = Some(error);
        }
    };
    let listeners = Listeners { sealed: &|_, _| {}, answered: &answered };
    send(repositories, holders, Origin::alone(pg_wal, earlier), writer, listeners).await?;
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(()),
        Some(error @ PushError::Different { .. }) => Err(PushError::Follows { name, earlier, why: describe(&error) }),
        Some(error) => Err(error),
    }
}

/// That pg_wal was not looked at within [`PG_WAL_TIME_MAX`].
pub(super) fn no_answer(pg_wal: &Path, name: WalFileName) -> PushError {
    PushError::NoAnswer { name, path: pg_wal.join("archive_status"), after: PG_WAL_TIME_MAX }
}

/// What leads to a file.
pub(super) struct Way {
    name: WalFileName,
    lineage: Lineage,
    size: SegmentSize,
    /// Of the file's timeline; none where it cannot be read.
    history: Option<TimelineHistory>,
    /// What waits, and PostgreSQL would ask for first, in its order.
    waiting: Vec<WalFileName>,
}

impl Way {
    pub(super) async fn read(pg_wal: &Path, name: WalFileName) -> Result<Self, PushError> {
        let ground = Ground::of(pg_wal.parent().unwrap_or(pg_wal));
        let (folder, pg_wal) = (pg_wal.to_path_buf(), pg_wal.to_path_buf());
        let read = move || {
            let data_directory = pg_wal.parent().unwrap_or(&pg_wal);
            let control = ControlFile::read(data_directory)
                .map_err(|source| PushError::Control { path: data_directory.to_path_buf(), source })?;
            let mut waiting = list_ready(&pg_wal)
                .map_err(|source| PushError::Read { path: pg_wal.join("archive_status"), source })?;
            waiting.retain(|file| archiver_order(file) < archiver_order(&name));
            let history = TimelineHistory::in_pg_wal(&pg_wal, name.timeline());
            Ok(Self { name, lineage: control.lineage(), size: control.segment_size, history, waiting })
        };
        match tokio::time::timeout(PG_WAL_TIME_MAX, ground.look(read)).await {
            Ok(looked) => looked.unwrap_or(Err(PushError::Stopping(name))),
            Err(_) => Err(no_answer(&folder, name)),
        }
    }

    pub(super) fn lineage(&self) -> Lineage {
        self.lineage
    }

    pub(super) fn size(&self) -> SegmentSize {
        self.size
    }

    /// The segment before the file, on the timeline that replay reads it from.
    pub(super) fn segment_before(&self) -> Option<SegmentName> {
        let (WalFileName::Segment(segment) | WalFileName::Partial(segment)) = self.name else { return None };
        segment_before(segment, self.size, self.history.as_ref())
    }

    /// The timelines that lead to the file's own and do not end before segment number `first`, and this one.
    pub(super) fn timelines(&self, first: u64) -> Vec<Timeline> {
        let parents = self.history.iter().flat_map(|history| &history.parents);
        let parents = parents.filter(|(_, end)| end.segment_number(self.size) >= first).map(|(parent, _)| *parent);
        parents.chain([self.name.timeline()]).collect()
    }

    /// Whether replay up to the file's timeline reads `segment`, wherever on that timeline it ends.
    pub(super) fn is_on_the_line(&self, segment: SegmentName) -> bool {
        let history = self.history.as_ref();
        let timeline = |number| history.map(|history| history.required_timeline_for_segment(number, self.size));
        segment
            .number(self.size)
            .is_some_and(|number| timeline(number).unwrap_or(self.name.timeline()) == segment.timeline)
    }

    pub(super) fn leads_over(&self, earlier: WalFileName) -> bool {
        follows(earlier, self.name, self.history.as_ref(), self.size)
    }
}
