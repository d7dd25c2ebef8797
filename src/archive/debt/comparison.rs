//! Goes through what the repositories hold: what one has and another lacks (`owed.rs`), and whether what both have is the same
//! (`agree.rs`).
//!
//! Content is compared beside every run of files that one lacks, at the end of every timeline, and for the newest
//! [`NEWEST_COMPARED`] files of the newest one. What was found equal, or was written to all of them by this agent, is not compared
//! again by it.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use tokio::time::Instant;
use tracing::{error, warn};

use super::held::Held;
use super::owed::{Holding, owed};
use super::round::{Duties, Folder, Parted, Round, RoundOutcome};
use crate::archive::agree::{AGREED_MAX, Seams, before_its_timeline, begin, parting};
use crate::archive::push::archiver::Archiver;
use walward_base::{ErrorClass, describe};
use walward_pg::{Lineage, Timeline, WalFileName};
use walward_repo::transfer::TransferError;
use walward_repo::{Repository, layout};
use walward_storage::{Listing, ObjectKey};

/// How many files of the newest timeline are compared, seams or not: those that came while nobody looked.
const NEWEST_COMPARED: usize = 32;
/// What was found once and is not asked again.
#[derive(Debug, Default)]
pub struct Agreed {
    /// Files of which two repositories have the same content.
    files: BTreeSet<((usize, usize), Lineage, WalFileName)>,
    /// In which segment a timeline begins, and the repository whose history says so.
    begins: BTreeMap<(Lineage, Timeline), (u64, usize)>,
}

impl Agreed {
    fn add(&mut self, pair: (usize, usize), lineage: Lineage, name: WalFileName) {
        self.files.insert((pair, lineage, name));
        if self.files.len() > AGREED_MAX {
            self.files.pop_first();
        }
    }
}

/// The names of one timeline, as two repositories hold them.
#[derive(Default)]
struct Pair {
    seams: Seams,
    common: Vec<WalFileName>,
}

impl Round<'_> {
    /// Goes through all folders and counts; compares contents.
    pub(super) async fn compare(&mut self, agreed: &mut Agreed) -> RoundOutcome {
        let mut found = RoundOutcome::default();
        let identities = self.open.iter().flatten().flat_map(|repository| &repository.identity().lineages);
        let lineages: BTreeSet<Lineage> = identities.map(|entry| entry.lineage).collect();
        for lineage in lineages {
            let histories = Folder::Histories(lineage);
            let listings = self.list(&histories.key(), lineage).await;
            let timelines = folders(&listings);
            for (pair, common) in pairs(&self.holdings_of(&listings, lineage)) {
                self.agree(pair, (lineage, &common, &common), agreed, &mut found).await;
            }
            self.hold(&self.holdings_of(&listings, lineage), lineage, &mut found);
            let newest = timelines.last().copied();
            for timeline in timelines {
                let mut begins = self.begins(lineage, Timeline(timeline), agreed).await;
                let mut all: BTreeMap<(usize, usize), Pair> = BTreeMap::new();
                let logs = folders(&self.list(&layout::wal_timeline(lineage, Timeline(timeline)), lineage).await);
                for log in logs {
                    let folder = Folder::Log(lineage, Timeline(timeline), log);
                    let holdings = self.holdings(folder).await;
                    found.add(folder, &owed(&holdings));
                    self.hold(&holdings, lineage, &mut found);
                    if begins.is_some_and(|begins| self.one_before(&holdings, lineage, begins).is_some()) {
                        // What is remembered saves a request and accuses nobody: another history may be there by now.
                        agreed.begins.remove(&(lineage, Timeline(timeline)));
                        begins = self.begins(lineage, Timeline(timeline), agreed).await;
                        found.partings.extend(begins.and_then(|begins| self.one_before(&holdings, lineage, begins)));
                    }
                    walk(&holdings, &mut all);
                }
                for (pair, Pair { seams, common }) in all {
                    let mut wanted = seams.end();
                    if Some(timeline) == newest {
                        wanted.extend(common.iter().rev().take(NEWEST_COMPARED));
                    }
                    self.agree(pair, (lineage, &wanted, &common), agreed, &mut found).await;
                }
            }
            // Which of them are owed is known when the first segments are.
            found.add(histories, &owed(&self.holdings_of(&listings, lineage)));
        }
        found
    }

    /// Takes down what each of them holds.
    fn hold(&self, holdings: &[Option<Holding>], lineage: Lineage, found: &mut RoundOutcome) {
        for (at, (holding, repository)) in holdings.iter().zip(&self.open).enumerate() {
            let entry = repository.as_ref().and_then(|repository| repository.identity().find(lineage));
            if let (Some(holding), Some(entry)) = (holding, entry) {
                holding.files.keys().for_each(|name| found.held.add(at, lineage, *name, entry.segment_bytes));
            }
        }
    }

    /// The number of the segment in which a timeline begins, and the repository whose history says so.
    async fn begins(&mut self, lineage: Lineage, timeline: Timeline, agreed: &mut Agreed) -> Option<(u64, usize)> {
        let known =
            agreed.begins.get(&(lineage, timeline)).filter(|(_, at)| self.open.get(*at).is_some_and(Option::is_some));
        if let Some(known) = known {
            return Some(*known);
        }
        for at in 0..self.open.len() {
            let Some(Some(repository)) = self.open.get(at) else { continue };
            let Some(entry) = repository.identity().find(lineage) else { continue };
            match begin(repository, lineage, timeline, entry.segment_bytes).await {
                Ok(Some(begin)) => {
                    agreed.begins.insert((lineage, timeline), (begin, at));
                    return Some((begin, at));
                }
                Ok(None) => {}
                Err(error) => self.leave_out(at, &error),
            }
        }
        None
    }

    /// A repository that holds a segment of a timeline from before that begins.
    fn one_before(
        &self,
        holdings: &[Option<Holding>],
        lineage: Lineage,
        (begin, teller): (u64, usize),
    ) -> Option<Parted> {
        let told_by = self.open.get(teller)?.as_ref()?;
        let size = told_by.identity().find(lineage)?.segment_bytes;
        holdings.iter().zip(&self.open).enumerate().find_map(|(at, (holding, repository))| {
            let names = holding.as_ref()?.files.keys().copied();
            let parting = before_its_timeline(names, repository.as_ref()?, (begin, told_by), size)?;
            Some(((at.min(teller), at.max(teller)), lineage, parting))
        })
    }

    /// Compares `wanted`, of `common` names in order, at two repositories.
    async fn agree(
        &mut self,
        pair: (usize, usize),
        (lineage, wanted, common): (Lineage, &[WalFileName], &[WalFileName]),
        agreed: &mut Agreed,
        found: &mut RoundOutcome,
    ) {
        let (Some(Some(here)), Some(Some(there))) = (self.open.get(pair.0), self.open.get(pair.1)) else { return };
        let is_current = here.identity().current().is_some_and(|entry| entry.lineage == lineage);
        let known = |name: &WalFileName| {
            agreed.files.contains(&(pair, lineage, *name)) || is_current && self.archiver.is_everywhere(*name)
        };
        let mut wanted: Vec<_> = wanted.iter().copied().filter(|name| !known(name)).collect();
        wanted.sort_unstable_by(|a, b| b.cmp(a));
        wanted.dedup();
        for name in wanted {
            match parting((here, there), lineage, &[name], common).await {
                Ok(Some(parting)) => return found.partings.push((pair, lineage, parting)),
                Ok(None) => agreed.add(pair, lineage, name),
                // Damage to one object is that object's, and is told where it is read. Whether the two are of one life is not known.
                Err(error) if error.class() == ErrorClass::Corrupt => {
                    warn!(segment = %name, error_class = %error.class(), error = describe(&error), "cannot compare a file");
                    found.unproven.push((lineage, name));
                }
                Err(error) => {
                    let (at, error) = match error {
                        TransferError::From { source, .. } => (pair.0, source),
                        TransferError::To { source, .. } => (pair.1, source),
                    };
                    return self.leave_out(at, &error);
                }
            }
        }
    }

    /// What each of them holds in `folder`.
    pub(super) async fn holdings(&mut self, folder: Folder) -> Vec<Option<Holding>> {
        let listings = self.list(&folder.key(), folder.lineage()).await;
        let mut holdings = self.holdings_of(&listings, folder.lineage());
        for (holding, duties) in holdings.iter_mut().zip(&mut self.duties) {
            let Some(holding) = holding else { continue };
            let segments = holding.files.keys().filter_map(|name| match name {
                WalFileName::Segment(segment) => Some(*segment),
                _ => None,
            });
            if let (None, Some(first)) = (holding.first, segments.min()) {
                // Folders are gone through in their order.
                duties.first.insert(folder.lineage(), first);
                holding.first = Some(first);
            }
        }
        holdings
    }

    fn holdings_of(&self, listings: &[Option<Listing>], lineage: Lineage) -> Vec<Option<Holding>> {
        let holding = |((repository, duties), listing): ((&Option<Repository>, &Duties), &Option<Listing>)| {
            repository.as_ref()?;
            let objects = listing.as_ref()?.objects.iter();
            let files = objects.filter_map(|object| Some((object.key.file_name().parse().ok()?, object.modified)));
            let (since, first) = (*duties.told.get(&lineage)?, duties.first.get(&lineage).copied());
            Some(Holding { files: files.collect(), first, since })
        };
        self.open.iter().zip(&self.duties).zip(listings).map(holding).collect()
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
                    self.leave_out(at, &error.into());
                    None
                }
                None => None,
            });
        }
        listed
    }
}

impl Archiver {
    /// Takes the outcome of a comparison with those of the repositories that `with` says, which began when `known` was known of them: what was
    /// found meanwhile stays, because it may have listed the repositories before.
    pub(in crate::archive) fn compared(&self, with: &[bool], known: &[Parted], partings: &[Parted]) {
        let open = |at: usize| with.get(at).is_some_and(|open| *open);
        let mut state = self.state();
        let before = std::mem::take(&mut state.parted);
        let is_settled = |parted: &Parted| open(parted.0.0) && open(parted.0.1) && known.contains(parted);
        state.parted = before.iter().filter(|parted| !is_settled(parted)).cloned().collect();
        for found in partings {
            let (pair, lineage, parting) = found;
            if state.parted.contains(found) {
                continue;
            }
            let known = before.iter().any(|(p, l, known)| (p, l, known.first) == (pair, lineage, parting.first));
            if !known {
                error!(segment = %parting.first, error_class = %ErrorClass::Permanent, "repositories contradict each other: {}", parting.why);
                for stats in [pair.0, pair.1].into_iter().filter_map(|at| self.stats().get(at)) {
                    stats.contradicted(&parting.why);
                }
            }
            state.parted.push(found.clone());
        }
        for (at, stats) in self.stats().iter().enumerate() {
            let own = state.parted.iter().find(|((a, b), ..)| *a == at || *b == at);
            stats.differs(own.map(|(.., parting)| parting.first.to_string()));
            // One that was away is trusted with new files again. One that is away now may be the only one with this server's files: what
            // the others agree on may be another life's.
            if with.iter().all(|open| *open) {
                state.uncompared.remove(&at);
                state.unjudged.remove(&at);
                state.unproven.remove(&at);
            }
        }
    }

    /// Takes down which repositories lack a file that another one has, with all that they hold, when all were compared: what comes there until they
    /// lack it no more was compared with nothing.
    pub(super) fn lacking(&self, listed: Instant, lacking: Vec<(usize, Held)>) {
        let mut state = self.state();
        for (at, held) in lacking {
            state.gappy.entry(at).or_default().seen_first(listed, held);
        }
    }

    /// Whether repositories contradict each other, as far as is known.
    pub(super) fn is_parted(&self) -> bool {
        !self.state().parted.is_empty()
    }

    /// Whether this agent wrote the file to every repository, or found it there with the same content.
    fn is_everywhere(&self, name: WalFileName) -> bool {
        self.state().own.1.get(&name).is_some_and(|places| places.len() == self.repositories().len())
    }
}

/// For each two of them: the names that both hold, in order.
fn pairs(holdings: &[Option<Holding>]) -> Vec<((usize, usize), Vec<WalFileName>)> {
    let mut pairs = Vec::new();
    for (a, here) in holdings.iter().enumerate() {
        for (b, there) in holdings.iter().enumerate().skip(a + 1) {
            if let (Some(here), Some(there)) = (here, there) {
                let common = here.files.keys().filter(|name| there.files.contains_key(name)).copied().collect();
                pairs.push(((a, b), common));
            }
        }
    }
    pairs
}

/// Goes on with the segments of one more folder.
fn walk(holdings: &[Option<Holding>], all: &mut BTreeMap<(usize, usize), Pair>) {
    for (pair, common) in pairs(holdings) {
        let (Some(Some(here)), Some(Some(there))) = (holdings.get(pair.0), holdings.get(pair.1)) else { continue };
        let walked = all.entry(pair).or_default();
        let is_segment = |name: &&WalFileName| matches!(name, WalFileName::Segment(_));
        let names: BTreeSet<_> = here.files.keys().chain(there.files.keys()).filter(is_segment).collect();
        for name in names {
            walked.seams.next(*name, here.files.contains_key(name) && there.files.contains_key(name));
        }
        walked.common.extend(common.iter().filter(is_segment));
    }
}

/// The timelines or logs whose folders are in any of `listings`.
fn folders(listings: &[Option<Listing>]) -> BTreeSet<u32> {
    let folders = listings.iter().flatten().flat_map(|listing| &listing.folders);
    folders.filter_map(|folder| layout::parse_word(folder)).collect()
}
