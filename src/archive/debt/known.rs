//! What may be brought: files that are known to be this server's, to where they continue what is.
//!
//! Where all repositories are compared, one of them has this server's files, and what is another's shows as a contradiction. While one is away,
//! it may be the only one with this server's: what the others hold, and agree on, may all be another life's. So until it is back a
//! file is brought only where one of these says that it is this server's:
//!
//! - this agent wrote it there in this life of the server, or found it there with the same content;
//! - it was there when all were compared last, and that repository has missed nothing since;
//! - the server still has it in pg_wal, with the same content.
//!
//! The same is asked of the last file that the receiving repository has before it. And another server may have written before that meanwhile, into
//! a gap: so what the repository holds is held against what the server still has (`push/alone.rs`). What cannot be shown waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::debug;

use super::held::Held;
use super::round::Round;
use crate::archive::contents;
use crate::archive::follows::follows;
use crate::archive::push::archiver::Archiver;
use walward_pg::{Lineage, Timeline, TimelineHistory, WalFileName};
use walward_repo::{Repository, stored};

/// How long one file of pg_wal may take to be compared. One that takes longer is asked for in the next round.
const LOOK_TIME_MAX: Duration = Duration::from_secs(10);

/// What is remembered of the last comparison of all repositories.
#[derive(Debug, Default)]
pub struct LastOfAll {
    /// What they held, and what was brought since.
    pub held: Held,
    /// What could not be compared then.
    pub unproven: Vec<(Lineage, WalFileName)>,
}

/// What one round goes by, and has found out.
pub struct Known<'a> {
    pub archiver: &'a Archiver,
    /// What the repositories that take part hold.
    pub held: &'a Held,
    pub last: &'a mut LastOfAll,
    /// All take part: `last` is of this round.
    pub all: bool,
    /// Where a file was found that the server has otherwise: two lives differ from one moment on, so that what comes later is not compared.
    foreign: BTreeSet<(usize, Lineage, Timeline)>,
    /// What was found to be the same as in pg_wal.
    same: BTreeSet<(usize, Lineage, WalFileName)>,
    /// The first file that a repository holds otherwise than the server, on the line to a timeline; or that it cannot be compared now.
    others: BTreeMap<(usize, Timeline), Result<Option<WalFileName>, ()>>,
    /// pg_wal did not answer in time.
    hangs: bool,
    histories: BTreeMap<(Lineage, Timeline), Option<TimelineHistory>>,
}

impl<'a> Known<'a> {
    pub fn new(archiver: &'a Archiver, held: &'a Held, last: &'a mut LastOfAll, all: bool) -> Self {
        let (foreign, same) = (BTreeSet::new(), BTreeSet::new());
        let (others, histories) = (BTreeMap::new(), BTreeMap::new());
        Self { archiver, held, last, all, foreign, same, others, hangs: false, histories }
    }

    /// Which of `from` may give `name` to repository `to`; none: it waits.
    pub async fn sources(
        &mut self,
        round: &Round<'_>,
        lineage: Lineage,
        name: WalFileName,
        from: &[usize],
        to: usize,
    ) -> Vec<usize> {
        let mut sources = Vec::new();
        for at in from {
            if self.is_own(round, lineage, name, *at).await {
                sources.push(*at);
            }
        }
        if !sources.is_empty() && !self.all && !self.continues_own(round, lineage, name, to).await {
            sources.clear();
        }
        sources
    }

    /// `name` was brought to repository `to`.
    pub fn brought(&mut self, round: &Round<'_>, lineage: Lineage, name: WalFileName, to: usize) {
        let Some(entry) = round.open.get(to).and_then(Option::as_ref).and_then(|it| it.identity().find(lineage)) else {
            return;
        };
        self.last.held.add(to, lineage, name, entry.segment_bytes);
        let mut state = self.archiver.state();
        let (life, is_ours) = (state.own.0, is_current(round, lineage));
        if is_ours && state.own.1.contains_key(&name) {
            state.holds(life, name, to);
        }
    }

    /// Whether what repository `at` has under `name` is known to be this server's.
    async fn is_own(&mut self, round: &Round<'_>, lineage: Lineage, name: WalFileName, at: usize) -> bool {
        let Some(repository) = round.open.get(at).and_then(Option::as_ref) else { return false };
        let Some(entry) = repository.identity().find(lineage) else { return false };
        let was_compared = self.last.held.has(at, lineage, name, entry.segment_bytes);
        let is_ours = is_current(round, lineage);
        let is_known = {
            let state = self.archiver.state();
            let written = state.own.1.get(&name).filter(|_| is_ours);
            let has_missed = state.uncompared.contains(&at) || state.unproven.contains(&at);
            match written {
                Some(places) if places.contains(&at) => true,
                // It was written since then, and elsewhere.
                Some(_) if !self.all => false,
                _ => was_compared && (self.all || !has_missed),
            }
        };
        is_known || !self.all && is_ours && self.is_in_pg_wal(repository, lineage, name, at).await
    }

    /// Whether the server still has the very same file.
    async fn is_in_pg_wal(&mut self, repository: &Repository, lineage: Lineage, name: WalFileName, at: usize) -> bool {
        let timeline = (at, lineage, name.timeline());
        if self.same.contains(&(at, lineage, name)) {
            return true;
        }
        if self.foreign.contains(&timeline) || self.hangs {
            return false;
        }
        let look = contents::of_the_server(self.archiver.pg_wal(), lineage, name, repository);
        let looked = tokio::time::timeout(LOOK_TIME_MAX, look).await;
        self.hangs = looked.is_err();
        match looked.ok().flatten() {
            Some((true, life)) => {
                self.same.insert((at, lineage, name));
                let mut state = self.archiver.state();
                if state.own.0 == life {
                    state.holds(life, name, at);
                }
                true
            }
            Some((false, _)) => {
                self.foreign.insert(timeline);
                false
            }
            None => false,
        }
    }

    /// Whether the last that repository `to` has before `name` is this server's, so that it may go there.
    async fn continues_own(&mut self, round: &Round<'_>, lineage: Lineage, name: WalFileName, to: usize) -> bool {
        let Some(target) = round.open.get(to).and_then(Option::as_ref) else { return false };
        let Some(size) = target.identity().find(lineage).map(|entry| entry.segment_bytes) else { return false };
        let begin = WalFileName::History(name.timeline());
        if self.held.has(to, lineage, begin, size) && !self.is_own(round, lineage, begin, to).await {
            return false;
        }
        let history = self.history(round, lineage, name.timeline()).await;
        let Some(before) = self.held.last_before((to, lineage), name, history.as_ref(), size) else { return true };
        if !self.is_own(round, lineage, WalFileName::Segment(before), to).await {
            return false;
        }
        if !is_current(round, lineage) {
            return true;
        }
        match self.first_of_another(lineage, name, to).await {
            Ok(first) => first.is_none_or(|first| !follows(first, name, history.as_ref(), size)),
            Err(()) => false,
        }
    }

    /// The first file on the line to `name` that repository `to` holds otherwise than the server.
    async fn first_of_another(
        &mut self,
        lineage: Lineage,
        name: WalFileName,
        to: usize,
    ) -> Result<Option<WalFileName>, ()> {
        let line = (to, name.timeline());
        if let Some(known) = self.others.get(&line) {
            return *known;
        }
        let looked = self.archiver.first_of_another(lineage, name, to).await;
        let found = looked.map(|first| first.map(WalFileName::Segment)).map_err(|why| {
            debug!(segment = %name, "what lies before a file that is owed cannot be compared now: {why}");
        });
        self.others.insert(line, found);
        found
    }

    /// The history of a timeline, where it is known to be this server's.
    async fn history(&mut self, round: &Round<'_>, lineage: Lineage, timeline: Timeline) -> Option<TimelineHistory> {
        if let Some(known) = self.histories.get(&(lineage, timeline)) {
            return known.clone();
        }
        let mut found = None;
        for (at, repository) in round.open.iter().enumerate() {
            let Some(repository) = repository else { continue };
            if found.is_none() && self.is_own(round, lineage, WalFileName::History(timeline), at).await {
                let text = stored::history(repository, lineage, timeline).await.ok();
                found = text.and_then(|text| TimelineHistory::parse(timeline, &text).ok());
            }
        }
        self.histories.insert((lineage, timeline), found.clone());
        found
    }
}

/// Whether `lineage` is that of the server that runs.
fn is_current(round: &Round<'_>, lineage: Lineage) -> bool {
    let mut identities = round.open.iter().flatten().filter_map(|repository| repository.identity().current());
    identities.any(|current| current.lineage == lineage)
}
