//! Works off what the repositories owe each other. The truth is what they hold: it is compared when the agent starts, when
//! something was left owing, and now and then; nothing of it is written down anywhere.
//!
//! Bounds: one folder's names at a time, [`COPIES_AT_ONCE`] files, the memory that archiving leaves free. A repository that
//! fails rests longer and longer, and its debt waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::archiver::Archiver;
use super::owed::{Holding, Owed, owed};
use crate::base::{ErrorClass, describe};
use crate::health::RepositoryStats;
use crate::pg::{Lineage, Timeline, WalFileName};
use crate::repo::transfer::{TransferError, copy_new};
use crate::repo::{LazyRepository, PutNew, RepoError, Repository, layout};
use crate::storage::{Listing, ObjectKey};

/// How often repositories that owe each other nothing are compared.
const COMPARE_INTERVAL: Duration = Duration::from_hours(1);
/// How soon a debt is looked at.
const DEBT_INTERVAL: Duration = Duration::from_secs(5);
/// How soon, where the last comparison led to nothing.
const DEBT_INTERVAL_MAX: Duration = Duration::from_mins(2);
/// Files that are copied at the same time.
const COPIES_AT_ONCE: usize = 2;
/// Folders with debts that one comparison remembers; the next one finds the others.
const FOLDERS_MAX: usize = 1024;
/// How often it is looked whether there is memory for a copy.
const ROOM_INTERVAL: Duration = Duration::from_millis(100);
/// How long one repository may take to open, and one file to be copied. Stores have deadlines of their own; this is for what drips.
const OPEN_TIME_MAX: Duration = Duration::from_mins(2);
const COPY_TIME_MAX: Duration = Duration::from_mins(10);

/// A folder of the archive that holds WAL files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Folder {
    /// Timeline histories.
    Histories(Lineage),
    /// One log of a timeline.
    Log(Lineage, Timeline, u32),
}

impl Folder {
    fn lineage(self) -> Lineage {
        match self {
            Self::Histories(lineage) | Self::Log(lineage, ..) => lineage,
        }
    }

    fn key(self) -> ObjectKey {
        match self {
            Self::Histories(lineage) => layout::wal_root(lineage),
            Self::Log(lineage, timeline, log) => layout::wal_log(lineage, timeline, log),
        }
    }
}

impl Archiver {
    /// Brings to every repository what it is owed, until `closing` is cancelled. Archiving goes first: it is asked for room, and
    /// given way.
    pub async fn work_off(&self, closing: CancellationToken) {
        // A single repository owes nobody anything.
        if self.repositories().len() < 2 {
            return;
        }
        let mut last = None::<Comparison>;
        let mut pause = DEBT_INTERVAL;
        loop {
            let owing = self.stats().iter().any(|stats| stats.facts().files > 0);
            let everywhere = self.stats().iter().all(|stats| stats.facts().compared.is_some());
            let due = last.as_ref().is_none_or(Comparison::is_old);
            if (due || owing || !everywhere) && self.somebody_can_be_paid(due) {
                let paid = || self.stats().iter().map(|stats| stats.facts().paid_total).sum::<u64>();
                let before = paid();
                let round = async {
                    let round = Round::open(self).await;
                    if round.is_worth_it(last.as_ref()) { round.run(&closing).await } else { None }
                };
                tokio::select! {
                    compared = round => last = compared.or(last),
                    () = closing.cancelled() => return,
                }
                // A debt that cannot be paid is not worth going through the archive again and again.
                pause = if paid() > before { DEBT_INTERVAL } else { pause.saturating_mul(2).min(DEBT_INTERVAL_MAX) };
            }
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether a comparison can do any good now: one repository that does not rest is owed something, or was not compared, or
    /// it is `due` for all of them.
    fn somebody_can_be_paid(&self, due: bool) -> bool {
        let now = Instant::now();
        let mut awake =
            self.repositories().iter().zip(self.stats()).filter(|(lazy, _)| !lazy.standing().is_resting(now));
        awake.any(|(_, stats)| {
            let facts = stats.facts();
            due || facts.files > 0 || facts.compared.is_none()
        })
    }
}

/// When repositories were compared, and which of them.
struct Comparison {
    at: Instant,
    with: Vec<bool>,
}

impl Comparison {
    fn is_old(&self) -> bool {
        self.at.elapsed() >= COMPARE_INTERVAL
    }
}

/// One comparison of the repositories, and the payments that follow.
struct Round<'a> {
    archiver: &'a Archiver,
    /// Those that could be opened, in their order.
    open: Vec<Option<Repository>>,
}

/// What a comparison has found.
#[derive(Default)]
struct Found {
    folders: BTreeSet<Folder>,
    /// For each repository: how many files it is owed, and the oldest.
    counts: BTreeMap<usize, (u64, Option<(String, Timestamp)>)>,
}

impl Found {
    fn add(&mut self, folder: Folder, owed: &[Owed]) {
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
    async fn open(archiver: &'a Archiver) -> Self {
        let now = Instant::now();
        let open = join_all(archiver.repositories().iter().zip(archiver.stats()).map(async |(lazy, stats)| {
            if lazy.standing().is_resting(now) {
                return None;
            }
            match tokio::time::timeout(OPEN_TIME_MAX, lazy.reopen()).await {
                Ok(Ok(repository)) => {
                    lazy.standing().answered();
                    Some(repository)
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
        Self { archiver, open: open.await }
    }

    fn with(&self) -> Vec<bool> {
        self.open.iter().map(Option::is_some).collect()
    }

    /// Whether a comparison can find what the last one did not: going through an archive is dear.
    fn is_worth_it(&self, last: Option<&Comparison>) -> bool {
        let with = self.with();
        if with.iter().filter(|open| **open).count() < 2 {
            return false;
        }
        let is_new = |last: &Comparison| with.iter().zip(&last.with).any(|(now, then)| *now && !*then);
        let owing = || self.archiver.stats().iter().zip(&with).any(|(stats, open)| *open && stats.facts().files > 0);
        last.is_none_or(|last| last.is_old() || is_new(last)) || owing()
    }

    async fn run(mut self, closing: &CancellationToken) -> Option<Comparison> {
        let at = Instant::now();
        let found = self.compare().await;
        let with = self.with();
        // One that was left out, or failed on the way, may hold what the others lack.
        let all = with.iter().all(|open| *open);
        for (at, stats) in self.archiver.stats().iter().enumerate() {
            if with.get(at).is_some_and(|open| *open) {
                let (count, oldest) = found.counts.get(&at).cloned().unwrap_or_default();
                if all { stats.compared(count, oldest) } else { stats.compared_with_some(count, oldest) }
            }
        }
        let comparison = Some(Comparison { at, with });
        let total: u64 = found.counts.values().map(|(count, _)| count).sum();
        if total == 0 {
            return comparison;
        }
        info!(files = total, "bringing repositories what they are owed");
        for folder in found.folders {
            if closing.is_cancelled() {
                return comparison;
            }
            let holdings = self.holdings(folder).await;
            let payments = owed(&holdings).into_iter().flat_map(|debt| {
                let Owed { name, from, to, .. } = debt;
                to.into_iter().map(move |to| (name, from.clone(), to)).collect::<Vec<_>>()
            });
            stream::iter(payments)
                .for_each_concurrent(COPIES_AT_ONCE, |(name, from, to)| self.pay(folder.lineage(), name, from, to))
                .await;
        }
        comparison
    }

    /// Goes through all folders and counts.
    async fn compare(&mut self) -> Found {
        let mut found = Found::default();
        let identities = self.open.iter().flatten().flat_map(|repository| &repository.identity().lineages);
        let lineages: BTreeSet<Lineage> = identities.map(|entry| entry.lineage).collect();
        for lineage in lineages {
            let histories = Folder::Histories(lineage);
            let listings = self.list(&histories.key(), lineage).await;
            let timelines = folders(&listings);
            found.add(histories, &owed(&self.holdings_of(listings, lineage)));
            for timeline in timelines.into_iter().map(Timeline) {
                let logs = folders(&self.list(&layout::wal_timeline(lineage, timeline), lineage).await);
                for log in logs {
                    let folder = Folder::Log(lineage, timeline, log);
                    found.add(folder, &owed(&self.holdings(folder).await));
                }
            }
        }
        found
    }

    async fn holdings(&mut self, folder: Folder) -> Vec<Option<Holding>> {
        let listings = self.list(&folder.key(), folder.lineage()).await;
        self.holdings_of(listings, folder.lineage())
    }

    fn holdings_of(&self, listings: Vec<Option<Listing>>, lineage: Lineage) -> Vec<Option<Holding>> {
        let holding = |(repository, listing): (&Option<Repository>, Option<Listing>)| {
            let since = repository.as_ref()?.identity().find(lineage)?.since;
            let objects = listing?.objects.into_iter();
            let files = objects.filter_map(|object| Some((object.key.file_name().parse().ok()?, object.modified)));
            Some(Holding { files: files.collect(), since })
        };
        self.open.iter().zip(listings).map(holding).collect()
    }

    /// Lists a folder in every repository that knows the lineage. One that fails is left out from then on.
    async fn list(&mut self, folder: &ObjectKey, lineage: Lineage) -> Vec<Option<Listing>> {
        let listings = join_all(self.open.iter().map(async |repository| {
            let repository = repository.as_ref()?;
            repository.identity().find(lineage)?;
            Some(repository.store().list(Some(folder)).await)
        }));
        let mut listed = Vec::new();
        for (at, listing) in listings.await.into_iter().enumerate() {
            listed.push(match listing {
                Some(Ok(listing)) => Some(listing),
                Some(Err(error)) => {
                    if let Some((lazy, stats)) = self.side(at) {
                        note(lazy, stats, &error.into());
                    }
                    if let Some(open) = self.open.get_mut(at) {
                        *open = None;
                    }
                    None
                }
                None => None,
            });
        }
        listed
    }

    fn side(&self, at: usize) -> Option<(&'a Arc<LazyRepository>, &'a RepositoryStats)> {
        Some((self.archiver.repositories().get(at)?, self.archiver.stats().get(at)?))
    }

    fn awake(&self, at: usize) -> Option<&Repository> {
        let (lazy, _) = self.side(at)?;
        self.open.get(at)?.as_ref().filter(|_| !lazy.standing().is_resting(Instant::now()))
    }

    /// Brings one file to one repository, from the first that can give it.
    async fn pay(&self, lineage: Lineage, name: WalFileName, from: Vec<usize>, to: usize) {
        let (Some((lazy, stats)), Some(target)) = (self.side(to), self.awake(to)) else { return };
        let bytes = target.identity().find(lineage).map_or(0, |entry| entry.segment_bytes.bytes());
        let key = layout::wal_file(lineage, name);
        let _room = self.archiver.room(bytes).await;
        for at in from {
            let (Some((origin, origin_stats)), Some(source)) = (self.side(at), self.awake(at)) else { continue };
            let copy = tokio::time::timeout(COPY_TIME_MAX, copy_new(source, target, lazy.wal_level(), &key)).await;
            match copy {
                Ok(Ok(PutNew::Created(_) | PutNew::Same)) => {
                    lazy.standing().answered();
                    stats.paid();
                    debug!(segment = %name, from = origin.name(), repository = lazy.name(), "paid");
                    return;
                }
                Ok(Ok(PutNew::Different { writer, .. })) => {
                    let text = format!(
                        "repository {:?} holds other content under the name {name}, written by host {writer:?}, than repository {:?}",
                        lazy.name(),
                        origin.name()
                    );
                    error!(segment = %name, repository = lazy.name(), error_class = %ErrorClass::Permanent, "{text}");
                    stats.contradicted(&text);
                    return;
                }
                Ok(Err(TransferError::From { source: error, .. })) => note(origin, origin_stats, &error),
                Ok(Err(TransferError::To { source: error, .. })) => {
                    note(lazy, stats, &error);
                    return;
                }
                Err(_) => {
                    lazy.standing().failed(ErrorClass::Transient, Instant::now());
                    stats.failed(&format!("{name} was not copied within {} s", COPY_TIME_MAX.as_secs()));
                    return;
                }
            }
        }
    }
}

/// The timelines or logs whose folders are in any of `listings`.
fn folders(listings: &[Option<Listing>]) -> BTreeSet<u32> {
    let folders = listings.iter().flatten().flat_map(|listing| &listing.folders);
    folders.filter_map(|folder| layout::parse_word(folder)).collect()
}

fn note(lazy: &LazyRepository, stats: &RepositoryStats, error: &RepoError) {
    let text = describe(error);
    warn!(repository = lazy.name(), error_class = %error.class(), error = text, "cannot compare or copy");
    lazy.standing().failed(error.class(), Instant::now());
    stats.failed(&text);
}

impl Archiver {
    /// Memory for one copy of a file of `bytes`: only what archiving leaves.
    async fn room(&self, bytes: u64) -> Option<tokio::sync::OwnedSemaphorePermit> {
        loop {
            match self.try_room(bytes) {
                Ok(permit) => return Some(permit),
                Err(tokio::sync::TryAcquireError::Closed) => return None,
                Err(tokio::sync::TryAcquireError::NoPermits) => tokio::time::sleep(ROOM_INTERVAL).await,
            }
        }
    }
}

#[cfg(test)]
impl Archiver {
    /// One comparison of the repositories that do not rest, and what follows from it.
    pub(super) async fn compare_once(&self) {
        Round::open(self).await.run(&CancellationToken::new()).await;
    }
}
