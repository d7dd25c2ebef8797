//! Compares what the server believes archived with what the repositories hold.
//!
//! A command that says "archived" when it was not (`… || true`), an answer that proved nothing, a repository that lost what it had: the
//! server marks the segment `.done` and forgets it, and nothing else keeps a record that could contradict. So the marks that remain
//! in `archive_status` are held against the names in the repositories, now and then by the agent and once by `walward check`.
//!
//! Names are compared, and by the agent the content of one segment at a time that the server still has (`contents.rs`): each once, the newest
//! first, and none while WAL waits to be archived. Only segments of the server's own timeline count: marks of an older one may come from a
//! restore or from streaming (`KeepFileRestoredFromArchive`, xlogarchive.c; `XLogWalRcvClose`, walreceiver.c).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::contents;
use super::push::policy::Acknowledge;
use crate::health::{BeliefFacts, BeliefStats};
use walward_base::sys::ground::Ground;
use walward_pg::archive_status::list_done;
use walward_pg::{ClusterState, ControlFile, Lineage, SegmentName, SegmentSize, WalFileName};
use walward_repo::gap::{self, Gap};
use walward_repo::{LazyRepository, RepoError, Repository, stored};

/// How often the agent looks. A loss shows after two looks.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long one repository may take to be opened and listed.
const LIST_TIME_MAX: Duration = Duration::from_mins(1);

/// What a server believes archived: segments, and when each was finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Believed {
    /// Whose segments they are.
    pub lineage: Lineage,
    /// Their size.
    pub segment_bytes: SegmentSize,
    /// All on one timeline.
    pub segments: Vec<(SegmentName, SystemTime)>,
}

impl Believed {
    /// What the marks of a data directory say; none while its server is no primary. Blocking.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(data_directory: &Path) -> std::io::Result<Option<Self>> {
        let control = ControlFile::read(data_directory).map_err(std::io::Error::other)?;
        if control.state != ClusterState::InProduction {
            return Ok(None);
        }
        let segments = list_done(&data_directory.join("pg_wal"), control.timeline)?;
        Ok(Some(Self { lineage: control.lineage(), segment_bytes: control.segment_size, segments }))
    }
}

/// What one repository holds of a timeline.
#[derive(Debug, Clone)]
struct Holding {
    segments: BTreeSet<SegmentName>,
    /// When the repository was told of the cluster: what was finished before may never have been sent to it.
    since: SystemTime,
    let_go: Vec<Gap>,
}

impl Holding {
    /// Whether it should have `segment`: it has an earlier one of the timeline, or the segment is younger than the repository.
    fn should_have(&self, segment: SegmentName, finished: SystemTime, was_asked: bool) -> bool {
        let follows = self.segments.first().is_some_and(|first| *first < segment);
        follows || (was_asked && finished > self.since)
    }
}

/// How it stands with one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SegmentState {
    /// As many repositories hold it as must, or it was let go and that is on record.
    Held,
    /// Fewer hold it, whatever those say that were not heard.
    Lost,
    /// A repository that was not heard may hold it.
    Unknown,
}

/// Judges one segment. `needed` repositories must hold it; none: one that was not heard. Pure.
fn judge(
    (segment, finished): (SegmentName, SystemTime),
    holdings: &[Option<Holding>],
    needed: usize,
    was_asked: bool,
) -> SegmentState {
    let known = || holdings.iter().flatten();
    let let_go = known().any(|held| held.let_go.iter().any(|gap| gap.covers(WalFileName::Segment(segment))));
    let holds = known().filter(|held| held.segments.contains(&segment)).count();
    if let_go || holds >= needed {
        return SegmentState::Held;
    }
    let excused = |held: &&Option<Holding>| {
        held.as_ref()
            .is_none_or(|held| !held.segments.contains(&segment) && !held.should_have(segment, finished, was_asked))
    };
    if holds + holdings.iter().filter(excused).count() < needed { SegmentState::Lost } else { SegmentState::Unknown }
}

/// What a comparison found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Segments that fewer repositories hold than must.
    pub lost: BTreeSet<SegmentName>,
    /// Segments that are where they should be.
    pub held: BTreeSet<SegmentName>,
}

/// Compares `believed` with `repositories`; one that is `None` could not be opened. `was_asked`: Walward is what archives this server,
/// as far as is known, so that a repository without any segment lacks all that came after it was made.
pub async fn compare(
    believed: &Believed,
    repositories: &[Option<Repository>],
    acknowledge: Acknowledge,
    was_asked: bool,
) -> Compared {
    let Some((first, _)) = believed.segments.iter().min_by_key(|(segment, _)| *segment) else {
        return Compared::default();
    };
    let holdings = join_all(repositories.iter().map(async |repository| {
        let repository = repository.as_ref()?;
        match timeout(LIST_TIME_MAX, holding(repository, believed, *first)).await {
            Ok(Ok(holding)) => holding,
            Ok(Err(error)) => {
                debug!(repository = repository.name(), %error, "cannot be compared with the server");
                None
            }
            Err(_) => None,
        }
    }));
    let holdings = holdings.await;
    let needed = acknowledge.needed(repositories.len());
    let mut compared = Compared::default();
    for segment in &believed.segments {
        match judge(*segment, &holdings, needed, was_asked) {
            SegmentState::Held => drop(compared.held.insert(segment.0)),
            SegmentState::Lost => drop(compared.lost.insert(segment.0)),
            SegmentState::Unknown => {}
        }
    }
    compared
}

async fn holding(
    repository: &Repository,
    believed: &Believed,
    first: SegmentName,
) -> Result<Option<Holding>, RepoError> {
    let Some(entry) = repository.identity().find(believed.lineage) else { return Ok(None) };
    // From the log before on, so that what came before the first is there too.
    let before = first.number(believed.segment_bytes).unwrap_or(0).saturating_sub(1);
    let listed = stored::wal(repository, believed.lineage, first.timeline, before, believed.segment_bytes).await?;
    let segments = listed.into_iter().filter_map(|file| match file {
        WalFileName::Segment(segment) => Some(segment),
        _ => None,
    });
    let (let_go, _) = gap::read_all(repository, believed.lineage).await?;
    Ok(Some(Holding { segments: segments.collect(), since: entry.since.into(), let_go }))
}

/// What was compared by content.
#[derive(Debug, Default)]
struct Read {
    looked_at: BTreeSet<SegmentName>,
    /// Of these, what could not be compared with every repository that may hold it.
    unanswered: BTreeSet<SegmentName>,
    /// What was looked at again last.
    again: Option<SegmentName>,
    /// With the repository that holds something else.
    different: BTreeSet<(SegmentName, String)>,
}

impl Read {
    /// Forgets what is not in `held` any more.
    fn retain(&mut self, held: &BTreeSet<SegmentName>) {
        self.looked_at.retain(|segment| held.contains(segment));
        self.unanswered.retain(|segment| held.contains(segment));
        self.different.retain(|(segment, _)| held.contains(segment));
    }

    /// The segment to look at: the newest that was not; when all were, in turn those that could not be compared, and those that were found
    /// to be different, which may have been set right.
    fn next(&self, held: &BTreeSet<SegmentName>) -> Option<SegmentName> {
        let fresh = held.iter().rev().find(|segment| !self.looked_at.contains(segment));
        fresh.copied().or_else(|| {
            let again: BTreeSet<SegmentName> =
                self.different.iter().map(|(segment, _)| *segment).chain(self.unanswered.iter().copied()).collect();
            let later = again.iter().find(|segment| self.again.is_none_or(|last| **segment > last));
            later.or(again.first()).copied()
        })
    }

    /// `found` is what a look at `segment` found; none: it did not come to its end. What a repository did not answer says nothing.
    fn found(&mut self, segment: SegmentName, found: Option<contents::Contents>) {
        if !self.looked_at.insert(segment) {
            self.again = Some(segment);
        }
        self.unanswered.remove(&segment);
        let Some(found) = found else {
            self.unanswered.insert(segment);
            return;
        };
        self.different.retain(|known| !found.compared.contains(known));
        self.different.extend(found.different);
        self.unanswered.extend(found.unanswered);
    }
}

/// Compares now and then until `closing` is cancelled; `was_asked` says whether a push has come since the agent started, and `is_busy` whether
/// WAL waits to be archived.
pub async fn watch(
    data_directory: PathBuf,
    repositories: Vec<Arc<LazyRepository>>,
    acknowledge: Acknowledge,
    was_asked: impl Fn() -> bool,
    is_busy: impl Fn() -> bool,
    stats: Arc<BeliefStats>,
    closing: CancellationToken,
) {
    let (mut held, mut suspects, mut said) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut read, mut told, pg_wal) = (Read::default(), BTreeSet::new(), data_directory.join("pg_wal"));
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let directory = data_directory.clone();
        let ground = Ground::of(&data_directory);
        let marks = ground.look(move || Believed::read(&directory));
        let look = async {
            let Some(Ok(Some(mut believed))) = marks.await else { return };
            let marked: BTreeSet<SegmentName> = believed.segments.iter().map(|(segment, _)| *segment).collect();
            held.retain(|segment| marked.contains(segment));
            read.retain(&held);
            believed.segments.retain(|(segment, _)| !held.contains(segment));
            let opened = join_all(repositories.iter().map(async |lazy| {
                if (believed.segments.is_empty() && read.next(&held).is_none())
                    || lazy.standing().is_resting(Instant::now())
                {
                    return None;
                }
                timeout(LIST_TIME_MAX, lazy.get()).await.ok()?.ok()
            }));
            let opened = opened.await;
            let compared = compare(&believed, &opened, acknowledge, was_asked()).await;
            held.extend(compared.held);
            // Seen twice: a mark may be older than this server, and what it stands for still on its way from another.
            let lost: BTreeSet<SegmentName> = compared.lost.intersection(&suspects).copied().collect();
            suspects = compared.lost;
            for segment in lost.difference(&said) {
                error!(%segment, "the server believes that this segment is archived, and too few repositories hold it: take a backup, and see that archive_command exits with 0 only when the push does (walward check)");
            }
            if let Some(segment) = read.next(&held).filter(|_| !is_busy() && opened.iter().all(Option::is_some)) {
                let one = BTreeSet::from([segment]);
                let reading = contents::compare(&pg_wal, believed.lineage, &one, &opened);
                read.found(segment, timeout(LIST_TIME_MAX, reading).await.ok());
            }
            for (segment, repository) in &read.different {
                if told.insert((*segment, repository.clone())) {
                    error!(%segment, repository, "the repository holds something else under the name of this segment than the server has: another server wrote it, or this one was set back (walward check)");
                }
            }
            stats.compared(BeliefFacts {
                compared: None,
                lost_files: lost.len() as u64,
                oldest_lost: lost.first().map(ToString::to_string),
                different_files: read.different.len() as u64,
                oldest_different: read.different.first().map(|(segment, _)| segment.to_string()),
            });
            said.extend(lost);
        };
        tokio::select! {
            () = closing.cancelled() => return,
            () = look => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(number: u32) -> SegmentName {
        SegmentName { timeline: walward_pg::Timeline(1), log: 0, segment: number }
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    /// A repository that was made at second 100 and holds these.
    fn holding(numbers: &[u32]) -> Holding {
        let segments = numbers.iter().map(|number| segment(*number)).collect();
        Holding { segments, since: at(100), let_go: Vec::new() }
    }

    #[test]
    fn a_segment_that_too_few_repositories_hold_is_lost() {
        let judged =
            |number, holdings: &[Option<Holding>], needed| judge((segment(number), at(50)), holdings, needed, true);
        assert_eq!(judged(5, &[Some(holding(&[4, 5]))], 1), SegmentState::Held);
        assert_eq!(judged(5, &[Some(holding(&[4, 6]))], 1), SegmentState::Lost);
        // Owed, and not lost.
        assert_eq!(judged(5, &[Some(holding(&[4])), Some(holding(&[5]))], 1), SegmentState::Held);
        assert_eq!(judged(5, &[Some(holding(&[4])), Some(holding(&[5]))], 2), SegmentState::Lost);
        // One that is away may have it.
        assert_eq!(judged(5, &[Some(holding(&[4])), None], 1), SegmentState::Unknown);
        assert_eq!(judged(5, &[Some(holding(&[4])), None], 2), SegmentState::Lost);
    }

    #[test]
    fn what_was_finished_before_walward_archived_is_not_missed() {
        let judged = |second, was_asked| judge((segment(5), at(second)), &[Some(holding(&[]))], 1, was_asked);
        assert_eq!(judged(50, true), SegmentState::Unknown, "before the repository was made");
        assert_eq!(judged(150, true), SegmentState::Lost);
        assert_eq!(judged(150, false), SegmentState::Unknown, "another tool archives");
        assert_eq!(judge((segment(5), at(50)), &[Some(holding(&[6, 7]))], 1, true), SegmentState::Unknown);
    }

    #[test]
    fn each_segment_is_compared_by_content_once_the_newest_first_and_a_different_one_again() {
        let held: BTreeSet<SegmentName> = [1, 2, 3].map(segment).into();
        let of = |number, repository: &str| BTreeSet::from([(segment(number), repository.to_owned())]);
        let equal = |number| contents::Contents { compared: of(number, "store"), ..contents::Contents::default() };
        let differs = |number| contents::Contents { different: of(number, "store"), ..equal(number) };
        let mut read = Read::default();
        for (number, found) in [(3, equal(3)), (2, differs(2)), (1, equal(1))] {
            assert_eq!(read.next(&held), Some(segment(number)));
            read.found(segment(number), Some(found));
        }
        assert_eq!(read.next(&held), Some(segment(2)));
        let another = contents::Contents { compared: of(2, "another"), ..contents::Contents::default() };
        for nothing in [None, Some(contents::Contents::default()), Some(another)] {
            read.found(segment(2), nothing);
            assert_eq!(read.different.len(), 1, "what its repository does not answer takes nothing back");
        }
        read.found(segment(2), Some(equal(2)));
        assert_eq!((read.next(&held), read.different.len()), (None, 0));
        read.found(segment(3), Some(differs(3)));
        read.retain(&[1, 2].map(segment).into());
        assert_eq!(read.different.len(), 0, "the server has it no more");
    }

    #[test]
    fn what_could_not_be_compared_is_looked_at_again_in_turn_with_what_differs() {
        let held: BTreeSet<SegmentName> = [1, 2].map(segment).into();
        let of = |number| BTreeSet::from([(segment(number), "store".to_owned())]);
        let broken = contents::Contents { unanswered: [segment(1)].into(), ..contents::Contents::default() };
        let mut read = Read::default();
        read.found(segment(2), Some(contents::Contents { compared: of(2), different: of(2), ..broken.clone() }));
        read.found(segment(1), None);
        assert_eq!(read.next(&held), Some(segment(1)));
        read.found(segment(1), Some(broken.clone()));
        assert_eq!(read.next(&held), Some(segment(2)));
        read.found(segment(2), Some(contents::Contents { compared: of(2), ..contents::Contents::default() }));
        assert_eq!(read.next(&held), Some(segment(1)), "one transient error is not the last word");
        read.found(segment(1), Some(contents::Contents { compared: of(1), ..contents::Contents::default() }));
        assert_eq!(read.next(&held), None);
    }

    #[test]
    fn what_was_let_go_is_told_of_elsewhere() {
        let mut one = holding(&[4, 6]);
        let name = WalFileName::Segment(segment(5));
        one.let_go.push(Gap {
            format: 1,
            lineage: Lineage { major: 15, system_identifier: 7 },
            first: name,
            last: name,
            since: jiff::Timestamp::UNIX_EPOCH,
            until: jiff::Timestamp::UNIX_EPOCH,
            host: "db1".to_owned(),
            queue_limit: 1,
            waiting: 2,
            reason: String::new(),
        });
        assert_eq!(judge((segment(5), at(150)), &[Some(one)], 1, true), SegmentState::Held);
    }
}
