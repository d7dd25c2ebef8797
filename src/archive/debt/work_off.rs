//! Works off what the repositories owe each other. The truth is what they hold: it is compared when the agent starts, when
//! something was left owing, and now and then; nothing of it is written down anywhere.
//!
//! Before anything is brought, what the repositories both have is compared (`comparison.rs`): nothing that comes after a file with two
//! contents is brought anywhere. While one of them is away, only what is known to be this server's is brought (`known.rs`).
//!
//! Bounds: one timeline's names at a time, [`COPIES_AT_ONCE`] files, the memory that archiving leaves free. A repository that
//! fails rests longer and longer, and its debt waits.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::comparison::Agreed;
use super::held::Held;
use super::known::{Known, LastOfAll};
use super::owed::{Owed, owed};
use super::round::{Round, RoundOutcome, note};
use crate::archive::follows::is_withheld;
use crate::archive::push::archiver::Archiver;
use walward_base::ErrorClass;
use walward_pg::{Lineage, TimelineHistory, WalFileName};
use walward_repo::transfer::{TransferError, copy_new};
use walward_repo::{PutNew, layout, stored};

/// How often repositories that owe each other nothing are compared.
const COMPARE_INTERVAL: Duration = Duration::from_hours(1);
/// How soon a debt is looked at.
const DEBT_INTERVAL: Duration = Duration::from_secs(5);
/// How soon, where the last comparison led to nothing.
const DEBT_INTERVAL_MAX: Duration = Duration::from_mins(2);
/// Files that are copied at the same time.
const COPIES_AT_ONCE: usize = 2;
/// How often it is looked whether there is memory for a copy.
const ROOM_INTERVAL: Duration = Duration::from_millis(100);
/// How long one file may take to be copied. Stores have deadlines of their own; this is for one that trickles bytes.
const COPY_TIME_MAX: Duration = Duration::from_mins(10);

impl Archiver {
    /// Brings to every repository what it is owed, until `closing` is cancelled. Archiving goes first: it is asked for room, and
    /// given way.
    pub async fn work_off(&self, closing: CancellationToken) {
        // A single repository owes nobody anything.
        if self.repositories().len() < 2 {
            return;
        }
        let mut last = None::<Comparison>;
        let mut memory = Memory::default();
        let (mut pause, mut forgotten) = (DEBT_INTERVAL, 0);
        loop {
            let now = self.state().forgotten;
            if std::mem::replace(&mut forgotten, now) != now {
                (last, memory, pause) = (None, Memory::default(), DEBT_INTERVAL);
            }
            let owing = self.is_parted() || self.stats().iter().any(|stats| stats.facts().files > 0);
            let everywhere = self.stats().iter().all(|stats| stats.facts().compared.is_some());
            let due = last.as_ref().is_none_or(Comparison::is_old);
            if (due || owing || !everywhere) && self.somebody_can_be_paid(due) {
                let paid = || self.stats().iter().map(|stats| stats.facts().paid_total).sum::<u64>();
                let before = paid();
                let round = async {
                    let round = Round::open(self).await;
                    if round.is_worth_it(last.as_ref()) { round.run(&mut memory, &closing).await } else { None }
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
            due || facts.files > 0 || facts.differs.is_some() || facts.compared.is_none()
        })
    }
}

/// What rounds remember, until a person changes the archive.
#[derive(Default)]
pub(in crate::archive) struct Memory {
    agreed: Agreed,
    last: LastOfAll,
}

/// For each repository: how many files are not brought to it, and the first.
type Waiting = BTreeMap<usize, (u64, WalFileName)>;

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

impl Round<'_> {
    /// Whether a comparison can find what the last one did not: going through an archive is dear.
    fn is_worth_it(&self, last: Option<&Comparison>) -> bool {
        let with = self.with();
        if with.iter().filter(|open| **open).count() < 2 {
            return false;
        }
        let is_new = |last: &Comparison| with.iter().zip(&last.with).any(|(now, then)| *now && !*then);
        let owing = || self.archiver.stats().iter().zip(&with).any(|(stats, open)| *open && stats.facts().files > 0);
        last.is_none_or(|last| last.is_old() || is_new(last)) || owing() || self.archiver.is_parted()
    }

    async fn run(mut self, memory: &mut Memory, closing: &CancellationToken) -> Option<Comparison> {
        let at = Instant::now();
        let mut found = self.compare(&mut memory.agreed).await;
        let with = self.with();
        self.archiver.compared(&with, &self.known, &found.partings);
        // One that was left out, or failed on the way, may hold what the others lack.
        let all = with.iter().all(|open| *open);
        for (at, stats) in self.archiver.stats().iter().enumerate() {
            if with.get(at).is_some_and(|open| *open) {
                let (count, oldest) = found.counts.get(&at).cloned().unwrap_or_default();
                if all { stats.compared(count, oldest) } else { stats.compared_with_some(count, oldest) }
            }
        }
        if all {
            self.archiver.lacking(at, self.lacking(&found.held));
            memory.last = LastOfAll { held: std::mem::take(&mut found.held), unproven: found.unproven.clone() };
        } else {
            found.unproven.extend_from_slice(&memory.last.unproven);
        }
        let total: u64 = found.counts.values().map(|(count, _)| count).sum();
        let mut waiting = Waiting::new();
        if total > 0 {
            info!(files = total, "bringing repositories what they are owed");
            waiting = self.bring(found, &mut memory.last, all, closing).await;
        }
        // What came while all were compared is for the next comparison.
        let away = if all { Vec::new() } else { self.away(&with) };
        for (at, (stats, lazy)) in self.archiver.stats().iter().zip(self.archiver.repositories()).enumerate() {
            if with.get(at).is_none_or(|open| !open) {
                continue;
            }
            let why = waiting.get(&at).filter(|_| !away.is_empty()).map(|(count, first)| {
                let of = away.join(", ");
                format!("{count} of them, from {first} on, wait: nothing shows that they are this server's while repository {of} cannot be compared")
            });
            if let (Some(why), true) = (&why, stats.facts().waits.is_none()) {
                warn!(repository = lazy.name(), "files that it is owed are not brought to it: {why}");
            }
            stats.waits(why);
        }
        Some(Comparison { at, with })
    }

    /// Those that lack a segment of the server's own lineage that another one holds, and what they hold of it.
    fn lacking(&self, held: &Held) -> Vec<(usize, Held)> {
        let current = |at: usize| self.open.get(at)?.as_ref()?.identity().current().map(|entry| entry.lineage);
        let all = (0..self.open.len()).filter_map(|at| Some((at, current(at)?)));
        all.filter(|(at, lineage)| held.lacks_any(*at, *lineage))
            .map(|(at, lineage)| (at, held.segments_of(at, lineage)))
            .collect()
    }

    /// The names of those that take no part.
    fn away(&self, with: &[bool]) -> Vec<String> {
        let repositories = self.archiver.repositories().iter().zip(with);
        repositories.filter(|(_, open)| !**open).map(|(lazy, _)| format!("{:?}", lazy.name())).collect()
    }

    /// Brings what was found to be owed, where nothing speaks against it; what waits is answered.
    async fn bring(
        &mut self,
        found: RoundOutcome,
        last: &mut LastOfAll,
        all: bool,
        closing: &CancellationToken,
    ) -> Waiting {
        let mut waiting = Waiting::new();
        let parted = found.partings.iter().map(|(_, lineage, parting)| (*lineage, parting.first));
        let held_back: Vec<_> = parted.chain(found.unproven).collect();
        let mut known = Known::new(self.archiver, &found.held, last, all);
        for folder in found.folders {
            if closing.is_cancelled() {
                return waiting;
            }
            let lineage = folder.lineage();
            let holdings = self.holdings(folder).await;
            let mut payments = Vec::new();
            for Owed { name, from, to, .. } in owed(&holdings) {
                if self.comes_after(&held_back, lineage, name).await {
                    debug!(segment = %name, "not brought: it comes after a file with two contents, or after one that cannot be compared");
                    continue;
                }
                for to in to {
                    let sources = known.sources(self, lineage, name, &from, to).await;
                    if sources.is_empty() {
                        waiting.entry(to).or_insert((0, name)).0 += 1;
                    } else {
                        payments.push((name, sources, to));
                    }
                }
            }
            let this = &*self;
            let payments = stream::iter(payments)
                .map(async |(name, from, to)| this.pay(lineage, name, from, to).await.then_some((name, to)));
            let paid: Vec<_> = payments.buffer_unordered(COPIES_AT_ONCE).collect().await;
            for (name, to) in paid.into_iter().flatten() {
                known.brought(self, lineage, name, to);
            }
        }
        waiting
    }

    /// Whether `name` is one of `held_back`, or continues one.
    async fn comes_after(&self, held_back: &[(Lineage, WalFileName)], lineage: Lineage, name: WalFileName) -> bool {
        let mut firsts: Vec<WalFileName> =
            held_back.iter().filter(|(of, _)| *of == lineage).map(|(_, first)| *first).collect();
        let mut identities = self.open.iter().flatten().filter_map(|repository| repository.identity().current());
        if identities.any(|current| current.lineage == lineage) {
            // What the server was refused: all repositories may have the other life, which one of them lacks a part of.
            firsts.extend(self.archiver.state().lead.contradicted().map(|(refused, _)| refused));
        }
        // What was found since this comparison began, or of one that takes no part in it.
        let parted = self.archiver.state().parted.clone();
        firsts.extend(parted.iter().filter(|(_, of, _)| *of == lineage).map(|(.., parting)| parting.first));
        if firsts.is_empty() {
            return false;
        }
        let mut known = None;
        for repository in self.open.iter().flatten() {
            let Some(entry) = repository.identity().find(lineage) else { continue };
            let text = stored::history(repository, lineage, name.timeline()).await;
            let history = text.ok().and_then(|text| TimelineHistory::parse(name.timeline(), &text).ok());
            known = Some((history, entry.segment_bytes));
            if known.as_ref().is_some_and(|(history, _)| history.is_some()) {
                break;
            }
        }
        let Some((history, size)) = known else { return true };
        firsts.into_iter().any(|first| is_withheld(first, name, history.as_ref(), size))
    }

    /// Brings one file to one repository, from the first that can give it. Whether it is there.
    async fn pay(&self, lineage: Lineage, name: WalFileName, from: Vec<usize>, to: usize) -> bool {
        let (Some((lazy, stats)), Some(target)) = (self.side(to), self.awake(to)) else { return false };
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
                    return true;
                }
                Ok(Ok(PutNew::Different { writer, .. })) => {
                    let text = format!(
                        "repository {:?} holds other content under the name {name}, written by host {writer:?}, than repository {:?}",
                        lazy.name(),
                        origin.name()
                    );
                    error!(segment = %name, repository = lazy.name(), error_class = %ErrorClass::Permanent, "{text}");
                    stats.contradicted(&text);
                    return false;
                }
                Ok(Err(TransferError::From { source: error, .. })) => note(origin, origin_stats, &error),
                Ok(Err(TransferError::To { source: error, .. })) => {
                    note(lazy, stats, &error);
                    return false;
                }
                Err(_) => {
                    lazy.standing().failed(ErrorClass::Transient, Instant::now());
                    stats.failed(&format!("{name} was not copied within {} s", COPY_TIME_MAX.as_secs()));
                    return false;
                }
            }
        }
        false
    }
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
    pub(in crate::archive) async fn compare_once(&self) {
        self.compare_as(&mut Memory::default()).await;
    }

    /// The same, by an agent that remembers earlier ones.
    pub(in crate::archive) async fn compare_as(&self, memory: &mut Memory) {
        Round::open(self).await.run(memory, &CancellationToken::new()).await;
    }
}
