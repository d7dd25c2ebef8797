//! One comparison of the repositories: which of them take part, since when each is owed files, and what was found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::warn;

use super::held::Held;
use super::owed::Owed;
use crate::archive::agree::Parting;
use crate::archive::push::archiver::Archiver;
use crate::health::RepositoryStats;
use walward_base::{ErrorClass, describe};
use walward_pg::{Lineage, SegmentName, Timeline, WalFileName};
use walward_repo::{LazyRepository, RepoError, Repository, layout};
use walward_storage::ObjectKey;

/// Folders with debts that one comparison remembers; the next one finds the others.
const FOLDERS_MAX: usize = 1024;
/// How long one repository may take to open. Stores have deadlines of their own; this is for one that trickles bytes.
const OPEN_TIME_MAX: Duration = Duration::from_mins(2);

/// A folder of the archive that holds WAL files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Folder {
    /// Timeline histories.
    Histories(Lineage),
    /// One log of a timeline.
    Log(Lineage, Timeline, u32),
}

impl Folder {
    /// Whose it is.
    pub fn lineage(self) -> Lineage {
        match self {
            Self::Histories(lineage) | Self::Log(lineage, ..) => lineage,
        }
    }

    /// Its name in a repository.
    pub(super) fn key(self) -> ObjectKey {
        match self {
            Self::Histories(lineage) => layout::wal_root(lineage),
            Self::Log(lineage, timeline, log) => layout::wal_log(lineage, timeline, log),
        }
    }
}

/// One comparison of the repositories, and the payments that follow.
pub struct Round<'a> {
    pub(super) archiver: &'a Archiver,
    /// Those that could be opened, in their order.
    pub(super) open: Vec<Option<Repository>>,
    /// What each is owed.
    pub(super) duties: Vec<Duties>,
    /// The partings that were known when it began: it tells whether these still hold.
    pub(super) known: Vec<Parted>,
}

/// Two repositories that contradict each other, of which lineage, and where.
pub type Parted = ((usize, usize), Lineage, Parting);

/// What a repository is owed of each lineage.
#[derive(Debug, Clone, Default)]
pub struct Duties {
    /// When it was told of it.
    pub(super) told: BTreeMap<Lineage, Timestamp>,
    /// The first segment that it has, once it was seen.
    pub(super) first: BTreeMap<Lineage, SegmentName>,
}

/// What a comparison has found.
#[derive(Default)]
pub struct RoundOutcome {
    pub(super) folders: BTreeSet<Folder>,
    /// For each repository: how many files it is owed, and the oldest.
    pub(super) counts: BTreeMap<usize, (u64, Option<(String, Timestamp)>)>,
    /// Where two repositories part.
    pub(super) partings: Vec<Parted>,
    /// What could not be compared, because it is damaged: no debt brings what comes after it. New files go on.
    pub(super) unproven: Vec<(Lineage, WalFileName)>,
    /// What those that take part hold.
    pub(super) held: Held,
}

impl RoundOutcome {
    pub(super) fn add(&mut self, folder: Folder, owed: &[Owed]) {
        if !owed.is_empty() && self.folders.len() < FOLDERS_MAX {
            self.folders.insert(folder);
        }
        for debt in owed {
            for to in &debt.to {
                let (count, oldest) = self.counts.entry(*to).or_default();
                *count += 1;
                if oldest.as_ref().is_none_or(|(_, archived)| debt.archived < *archived) {
                    *oldest = Some((debt.name.to_string(), debt.archived));
                }
            }
        }
    }
}

impl<'a> Round<'a> {
    /// Opens every repository that does not rest anew: identity and keys as they are now, and a proof that it answers.
    pub(super) async fn open(archiver: &'a Archiver) -> Self {
        let now = Instant::now();
        let known = archiver.state().parted.clone();
        let open = join_all(archiver.repositories().iter().zip(archiver.stats()).map(async |(lazy, stats)| {
            if lazy.standing().is_resting(now) {
                return None;
            }
            let opened = async {
                let repository = lazy.reopen().await?;
                let told = repository.told().await?;
                Ok::<_, RepoError>((repository, told))
            };
            match tokio::time::timeout(OPEN_TIME_MAX, opened).await {
                Ok(Ok(opened)) => {
                    lazy.standing().answered();
                    Some(opened)
                }
                Ok(Err(error)) => {
                    note(lazy, stats, &error);
                    None
                }
                Err(_) => {
                    lazy.standing().failed(ErrorClass::Transient, Instant::now());
                    stats.failed(&format!("no answer within {} s", OPEN_TIME_MAX.as_secs()));
                    None
                }
            }
        }));
        let (open, told): (Vec<_>, Vec<_>) = open.await.into_iter().map(Option::unzip).unzip();
        let duties =
            |told: Option<Vec<_>>| Duties { told: told.into_iter().flatten().collect(), first: BTreeMap::new() };
        Self { archiver, open, duties: told.into_iter().map(duties).collect(), known }
    }

    /// Which of them are open.
    pub(super) fn with(&self) -> Vec<bool> {
        self.open.iter().map(Option::is_some).collect()
    }

    /// The repository of this number, and what is known of it.
    pub(super) fn side(&self, at: usize) -> Option<(&'a Arc<LazyRepository>, &'a RepositoryStats)> {
        Some((self.archiver.repositories().get(at)?, self.archiver.stats().get(at)?))
    }

    /// The open repository of this number, while it does not rest.
    pub(super) fn awake(&self, at: usize) -> Option<&Repository> {
        let (lazy, _) = self.side(at)?;
        self.open.get(at)?.as_ref().filter(|_| !lazy.standing().is_resting(Instant::now()))
    }

    /// One that fails is left out from then on.
    pub(super) fn leave_out(&mut self, at: usize, error: &RepoError) {
        if let Some((lazy, stats)) = self.side(at) {
            note(lazy, stats, error);
        }
        if let Some(open) = self.open.get_mut(at) {
            *open = None;
        }
    }
}

/// Takes down that a repository failed.
pub(super) fn note(lazy: &LazyRepository, stats: &RepositoryStats, error: &RepoError) {
    let text = describe(error);
    warn!(repository = lazy.name(), error_class = %error.class(), error = text, "cannot compare or copy");
    lazy.standing().failed(error.class(), Instant::now());
    stats.failed(&text);
}
