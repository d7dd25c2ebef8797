//! Before an agent's first file, and the first of each life of its server: do the repositories hold what comes before it?
//!
//! Where fewer repositories than there are have to acknowledge, one may have missed files, and another server may have written to it
//! meanwhile. An agent that has just started remembers nothing of that, and one whose server was down was told nothing: another may have been
//! the primary. So the file before the first one is looked for in each, and what comes before that by name: one
//! that lacks any of it where another has it, or does not say so in time, gets new files when it was compared with the others; and
//! where two hold different ones, nothing is archived after it. Where the newest files of one do not continue what lies before them, that is
//! compared, too: another life's may have come before this one's there. One that missed files may have got another server's in their place, and this
//! one's after them: the file before the first one proves nothing there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::alone::line;
use super::archiver::Archiver;
use super::error::PushError;
use super::gappy::Gappy;
use super::in_order::Way;
use super::state::Looked;
use crate::archive::agree::{Parting, parting};
use crate::catalogue::{SEAMS_LOOKED_FOR, seams};
use walward_pg::{Lineage, SegmentName, ServerLife, WalFileName};
use walward_repo::{LazyRepository, RepoError, Repository, layout};

/// How long one repository may take to say whether it has the file, and two to be compared.
const LOOK_TIME_MAX: Duration = Duration::from_secs(5);

impl Archiver {
    /// Looks once in each `life` of the server, as long as the agent lives.
    ///
    /// # Errors
    /// Two repositories hold different files before `name`.
    pub(in crate::archive) async fn first_look(
        &self,
        name: WalFileName,
        life: Option<ServerLife>,
    ) -> Result<(), PushError> {
        let looked = Looked::For(life);
        if self.needed() == self.repositories().len() || self.state().looked == looked {
            return Ok(());
        }
        let way = Way::read(self.pg_wal(), name).await?;
        // Nothing comes before a history, and before the first segment of all.
        let Some(before) = way.segment_before() else { return Ok(()) };
        let name_before = WalFileName::Segment(before);
        let answers = join_all(self.repositories().iter().map(|lazy| Self::look(lazy, &way, before))).await;
        let found: Vec<(usize, &Seen)> =
            answers.iter().enumerate().filter_map(|(at, seen)| Some((at, seen.as_ref().ok()?))).collect();
        let holders: Vec<(usize, &Repository)> = found
            .iter()
            .filter(|(_, seen)| seen.names.contains(&before))
            .map(|(at, seen)| (*at, &seen.repository))
            .collect();
        let mut unproven = Vec::new();
        if let [(_, first), others @ ..] = holders.as_slice() {
            // Where another life's files lie before its own, they are linked to other ones than stand there.
            let mut wanted = vec![name_before];
            for (at, _) in &holders {
                let Some((_, seen)) = found.iter().find(|(number, _)| number == at) else { continue };
                match tokio::time::timeout(LOOK_TIME_MAX, seams_of(seen, way.lineage())).await {
                    Ok(Some(seams)) => wanted.extend(seams),
                    Ok(None) | Err(_) => unproven.push(*at),
                }
            }
            wanted.sort_unstable();
            wanted.dedup();
            for (at, other) in others {
                let compared = parting((first, other), way.lineage(), &wanted, &[]);
                match tokio::time::timeout(LOOK_TIME_MAX, compared).await {
                    Ok(Ok(Some(parting))) => {
                        return Err(PushError::Follows { name, earlier: parting.first, why: parting.why });
                    }
                    Ok(Ok(None)) => {}
                    // What cannot be compared now is compared with all the rest.
                    Ok(Err(_)) | Err(_) => unproven.push(*at),
                }
            }
        }
        // Where nobody has it and all say so, nothing was archived yet.
        let is_first = holders.is_empty() && answers.iter().all(Result::is_ok);
        let mut state = self.state();
        state.looked = looked;
        // What was seen for another life of the server says nothing for this one.
        state.gappy.values_mut().for_each(|gappy| *gappy = Gappy::default());
        let all: BTreeSet<SegmentName> = found.iter().flat_map(|(_, seen)| &seen.names).copied().collect();
        if !is_first {
            let lacks_any = |seen: &Seen| !all.is_subset(&seen.names);
            for (at, _) in found.iter().filter(|(_, seen)| lacks_any(seen)) {
                state.gappy.entry(*at).or_default();
            }
        }
        let lacking = answers.iter().enumerate().filter(|(_, answer)| match answer {
            Ok(seen) => !is_first && (!seen.names.contains(&before) || has_gap(&seen.names, &all)),
            Err(NoAnswer) => true,
        });
        let uncompared: Vec<usize> = lacking.map(|(at, _)| at).collect();
        // A name alone proves nothing of a single holder; and several that agree may all be another server's while one does not answer.
        if holders.len() == 1 || answers.iter().any(Result::is_err) {
            state.unproven.extend(holders.iter().map(|(at, _)| *at));
        }
        state.unproven.extend(uncompared.iter().chain(&unproven));
        state.uncompared.extend(uncompared);
        state.unjudged.extend(unproven);
        Ok(())
    }

    /// Refuses `name` when a comparison has found meanwhile that what comes before it has two contents: its caller looked earlier. To
    /// be called last before it is decided who gets the file.
    ///
    /// # Errors
    /// [`PushError::Follows`].
    pub(super) async fn last_look(&self, name: WalFileName) -> Result<(), PushError> {
        if self.state().parted.is_empty() {
            return Ok(());
        }
        let way = Way::read(self.pg_wal(), name).await?;
        match self.parted_before(&way) {
            Some(Parting { first, why }) => Err(PushError::Follows { name, earlier: first, why }),
            None => Ok(()),
        }
    }

    /// The repository, open, and what it has on the line up to `before`: in the log of that, and the log before.
    async fn look(lazy: &Arc<LazyRepository>, way: &Way, before: SegmentName) -> Result<Seen, NoAnswer> {
        if lazy.standing().is_resting(Instant::now()) {
            return Err(NoAnswer);
        }
        let last = before.number(way.size()).ok_or(NoAnswer)?;
        let first = last.saturating_sub(way.size().segments_per_log());
        let key = layout::wal_file(way.lineage(), WalFileName::Segment(before));
        let asked = async {
            let repository = lazy.with_lineage(way.lineage()).await?;
            let mut names = line(&repository, way, first).await?;
            names.retain(|name| name.number(way.size()).is_some_and(|number| number < last));
            // A list may be an old one.
            if repository.exists(&key).await? {
                names.insert(before);
            }
            Ok::<_, RepoError>(Seen { repository, names })
        };
        match tokio::time::timeout(LOOK_TIME_MAX, asked).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(_)) | Err(_) => Err(NoAnswer),
        }
    }
}

/// What a repository was seen to have.
struct Seen {
    repository: Repository,
    names: BTreeSet<SegmentName>,
}

/// The repository could not be asked, or not in time.
struct NoAnswer;

/// Of the newest segments on the line, those that the next one should continue and does not. `None` when not all could be read.
async fn seams_of(seen: &Seen, lineage: Lineage) -> Option<Vec<WalFileName>> {
    let newest: Vec<SegmentName> = seen.names.iter().rev().take(SEAMS_LOOKED_FOR).copied().collect();
    let opened = [seen.repository.clone()];
    let seams = Box::pin(seams(&opened, lineage, newest)).await;
    seams.unread.is_empty().then(|| seams.found.iter().map(|seam| WalFileName::Segment(seam.before)).collect())
}

/// Whether a repository that has `names` lacks any of `all` after its own first. What came before that, it was perhaps not there for. Pure.
fn has_gap(names: &BTreeSet<SegmentName>, all: &BTreeSet<SegmentName>) -> bool {
    names.first().is_some_and(|first| all.range(first..).any(|name| !names.contains(name)))
}
