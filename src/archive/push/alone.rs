//! Before a file goes where another server may have written: is what lies there what this server wrote?
//!
//! A repository that missed files may have been another server's meanwhile. While the others are away, what this server still has
//! of its line in pg_wal is held against it: two lives of a cluster differ from one moment on, so that the last file that lies there
//! tells. Where it lacks some, another may have gone on before the gap while this one went on after it: the last one before a gap is asked,
//! too. Where the server has that one no more nothing can be proven: the file goes there, the next one is looked at again, and all are
//! compared with the others when they are back (`comparison.rs`).
//!
//! A proof is as old as the look. Into a gap another server can write at any time (`gappy.rs`). So one that lacks some of what the server still
//! has is listed again now and then, and what came there that this agent did not write is held against pg_wal.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::archiver::Archiver;
use super::error::PushError;
use super::gappy::Gappy;
use super::in_order::{PG_WAL_TIME_MAX, Way, no_answer};
use crate::archive::agree::Seams;
use crate::archive::contents::{self, Contents, SEGMENTS_READ};
use crate::archive::debt::held::Held;
use crate::catalogue::{SEAMS_LOOKED_FOR, seams};
use walward_base::sys::ground::Ground;
use walward_base::{ErrorClass, describe};
use walward_pg::archive_status::done_segments;
use walward_pg::{ControlError, Lineage, SegmentName, SegmentSize, WalFileName};
use walward_repo::{LazyRepository, RepoError, Repository, stored};

/// How long a repository may take to be compared. One that needs longer does not get the file.
const LOOK_TIME_MAX: Duration = Duration::from_secs(10);
/// What is said of a repository that holds another server's files.
const UNPROVEN: &str = "which can be compared with no other now";
const LACKED_SOME: &str = "which lacked files";
/// What the server still has of the line that leads to a file.
struct Own {
    way: Way,
    done: BTreeSet<SegmentName>,
    /// The number of the first of them.
    first: u64,
}

impl Archiver {
    /// Compares those of `chosen` that missed files, or were the only ones that answered, until the last of what lies there is known to be
    /// this server's; and what has come since into those that lack some of what the server has. Those that cannot be compared now are
    /// answered: they get no file unseen.
    ///
    /// # Errors
    /// One of them holds other content than this server wrote, on the line that leads to `name`; or what the server has is not known in time.
    pub(super) async fn hold_against_own(
        &self,
        name: WalFileName,
        chosen: &[usize],
    ) -> Result<Vec<(usize, PushError)>, PushError> {
        let doubtful: Vec<usize> = {
            let (state, now) = (self.state(), Instant::now());
            let is_due = |at: &usize| state.gappy.get(at).is_some_and(|gappy| gappy.is_due(now));
            chosen.iter().filter(|at| state.unproven.contains(*at) || is_due(at)).copied().collect()
        };
        let mut silent = Vec::new();
        if doubtful.is_empty() {
            return Ok(silent);
        }
        let Some(own) = self.own(name).await? else { return Ok(silent) };
        for at in doubtful {
            let Some(lazy) = self.repositories().get(at) else { continue };
            let begun = Instant::now();
            let looked = self.look_at(at, lazy, &own).await;
            let failed = |why| PushError::NotCompared { name, repository: lazy.name().to_owned(), why };
            let (there, found) = match looked {
                Ok(looked) => looked,
                Err((class, why)) => {
                    lazy.standing().failed(class, Instant::now());
                    silent.push((at, failed(why)));
                    continue;
                }
            };
            if let Some((segment, repository)) = found.different.first() {
                let how = if self.state().unproven.contains(&at) { UNPROVEN } else { LACKED_SOME };
                let why = format!(
                    "repository {repository:?}, {how}, holds other content under the name {segment} than this server has in pg_wal"
                );
                return Err(PushError::Follows { name, earlier: WalFileName::Segment(*segment), why });
            }
            // What is damaged there proves nothing. What cannot be had now is asked for when PostgreSQL asks again.
            if let Some(why) = found.failure {
                silent.push((at, failed(why)));
                continue;
            }
            if is_proven(name, &there, &found, own.way.size()) {
                self.state().unproven.remove(&at);
            }
            self.seen(at, name, &own, (begun, &there));
        }
        Ok(silent)
    }

    /// The first segment on the line that leads to `name` that repository `at` holds with other content than this server has. None where all
    /// that could be compared is the same; it may be that nothing could.
    ///
    /// # Errors
    /// In words: the server or the repository does not let compare now.
    pub(in crate::archive) async fn first_of_another(
        &self,
        lineage: Lineage,
        name: WalFileName,
        at: usize,
    ) -> Result<Option<SegmentName>, String> {
        let own = match self.own(name).await {
            // The server's disk is gone: what it archived last is wanted elsewhere all the more.
            Err(PushError::Control { source: ControlError::Io { source, .. }, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                None
            }
            own => own.map_err(|error| describe(&error))?,
        };
        // Or it was upgraded.
        let own = own.filter(|own| own.way.lineage() == lineage);
        let (Some(own), Some(lazy)) = (own, self.repositories().get(at)) else { return Ok(None) };
        let begun = Instant::now();
        let (there, found) = self.look_at(at, lazy, &own).await.map_err(|(_, why)| why)?;
        match (found.different.first(), found.failure) {
            (Some((segment, _)), _) => Ok(Some(*segment)),
            (None, Some(why)) => Err(why),
            (None, None) => {
                self.seen(at, name, &own, (begun, &there));
                Ok(None)
            }
        }
    }

    /// Takes down what lay `there`, in repository `at`, when it was `listed`, because nothing of it speaks against the server.
    fn seen(&self, at: usize, name: WalFileName, own: &Own, (listed, there): (Instant, &BTreeSet<SegmentName>)) {
        let size = own.way.size();
        if !lacks_any(name, there, &own.done, size) {
            self.state().gappy.remove(&at);
            return;
        }
        let mut held = Held::default();
        for segment in there {
            held.add(at, own.way.lineage(), WalFileName::Segment(*segment), size);
        }
        self.state().gappy.insert(at, Gappy::seen(listed, held));
    }

    /// What the server still has of the line that leads to `name`; none where it has nothing.
    async fn own(&self, name: WalFileName) -> Result<Option<Own>, PushError> {
        let way = Way::read(self.pg_wal(), name).await?;
        let (ground, folder) = (Ground::of(self.data_directory()), self.pg_wal().to_path_buf());
        let list = async move { ground.look(move || done_segments(&folder)).await?.ok() };
        // What cannot be listed is not known either.
        let Some(Some(done)) = self.0.done.get(PG_WAL_TIME_MAX, list).await else {
            return Err(no_answer(self.pg_wal(), name));
        };
        let done: BTreeSet<SegmentName> = done.iter().copied().filter(|done| way.is_on_the_line(*done)).collect();
        let first = done.iter().filter_map(|segment| segment.number(way.size())).min();
        Ok(first.map(|first| Own { way, done, first }))
    }

    /// What repository `at` holds on the line, and what of it was compared; nothing where it holds nothing that was not seen.
    async fn look_at(
        &self,
        at: usize,
        lazy: &LazyRepository,
        own: &Own,
    ) -> Result<(BTreeSet<SegmentName>, Contents), (ErrorClass, String)> {
        let look = async {
            let repository = lazy.with_lineage(own.way.lineage()).await?;
            let there = line(&repository, &own.way, own.first).await?;
            let new = self.new_of(at, own, &there);
            if new.as_ref().is_some_and(BTreeSet::is_empty) {
                return Ok((there, Contents::default()));
            }
            let mut wanted = wanted(&there, &own.done);
            // However many gaps there are: what has come into one.
            wanted.extend(new.iter().flat_map(|new| common(new, &own.done).take(SEGMENTS_READ)));
            // A gap that another has filled is none by name: there a segment does not continue the one before it.
            let linked: BTreeSet<SegmentName> = common(&there, &own.done).take(SEAMS_LOOKED_FOR).copied().collect();
            let opened = [repository.clone()];
            let seams = Box::pin(seams(&opened, own.way.lineage(), linked.iter().copied())).await;
            wanted.extend(seams.found.iter().rev().take(SEGMENTS_READ).map(|seam| seam.before));
            // Nor is one where it cannot be read what a segment continues.
            wanted.extend(beside_unread(&linked, seams.unread.keys().rev().take(SEGMENTS_READ)));
            let compare = async |repository: Repository| {
                contents::compare_each(self.pg_wal(), own.way.lineage(), wanted.iter(), &[Some(repository)]).await
            };
            let mut found = compare(repository).await;
            if !found.unanswered.is_empty() {
                // It may be sealed under a master key that came after the repository was opened, which is opened anew for that.
                found = compare(lazy.get().await?).await;
            }
            let mut passing =
                seams.unread.values().rev().skip(SEGMENTS_READ).filter(|class| **class != ErrorClass::Corrupt);
            if passing.next().is_some() {
                found.failure = found.failure.or(seams.failure);
            }
            Ok::<_, RepoError>((there, found))
        };
        let late = |_| (ErrorClass::Transient, format!("no answer within {} s", LOOK_TIME_MAX.as_secs()));
        let looked = tokio::time::timeout(LOOK_TIME_MAX, look).await.map_err(late)?;
        looked.map_err(|error| (error.class(), describe(&error)))
    }

    /// What lies `there`, in repository `at`, beside what was compared before, and what this agent wrote there since. None where nothing is known.
    fn new_of(&self, at: usize, own: &Own, there: &BTreeSet<SegmentName>) -> Option<BTreeSet<SegmentName>> {
        let state = self.state();
        let is_own =
            |segment| state.own.1.get(&WalFileName::Segment(segment)).is_some_and(|places| places.contains(&at));
        let gappy = state.gappy.get(&at).filter(|_| !state.unproven.contains(&at))?;
        gappy.new_of((at, own.way.lineage()), there, own.way.size(), is_own)
    }
}

/// The segments from number `first` on that a repository holds on the line that leads to a file. All that the server still has is among
/// them: where the last is an earlier one, nothing can be proven.
pub(super) async fn line(repository: &Repository, way: &Way, first: u64) -> Result<BTreeSet<SegmentName>, RepoError> {
    let mut there = BTreeSet::new();
    for timeline in way.timelines(first) {
        let files = stored::wal(repository, way.lineage(), timeline, first, way.size()).await?;
        there.extend(files.into_iter().filter_map(|file| match file {
            WalFileName::Segment(segment) => Some(segment).filter(|segment| way.is_on_the_line(*segment)),
            _ => None,
        }));
    }
    Ok(there)
}

/// The segments that the server has `done` and that are `there`, the newest first. Pure.
fn common<'a>(
    there: &'a BTreeSet<SegmentName>,
    done: &'a BTreeSet<SegmentName>,
) -> impl Iterator<Item = &'a SegmentName> {
    done.iter().rev().filter(|segment| there.contains(*segment))
}

/// Which of the segments that the server has `done` are compared with those that are `there`: the newest, and what lies beside a gap. Pure.
fn wanted(there: &BTreeSet<SegmentName>, done: &BTreeSet<SegmentName>) -> BTreeSet<SegmentName> {
    let mut seams = Seams::default();
    for segment in done {
        seams.next(WalFileName::Segment(*segment), there.contains(segment));
    }
    let beside_gaps = seams.end();
    let is_beside = |segment: &&SegmentName| beside_gaps.contains(&WalFileName::Segment(**segment));
    let newest = common(there, done).take(SEGMENTS_READ);
    newest.chain(common(there, done).filter(is_beside).take(SEGMENTS_READ)).copied().collect()
}

/// What is compared where it is not known of the segments `unread` what they continue: these, and what lies before them. Pure.
fn beside_unread<'a>(
    linked: &BTreeSet<SegmentName>,
    unread: impl Iterator<Item = &'a SegmentName>,
) -> BTreeSet<SegmentName> {
    unread.flat_map(|segment| linked.range(..=*segment).rev().take(2)).copied().collect()
}

/// Whether a repository is this server's up to the segment `name`: the last that it holds `there` before that was compared, and nothing
/// differs. An earlier one proves nothing of the later ones; and what is no segment comes after segments that are not told by its name. Pure.
fn is_proven(name: WalFileName, there: &BTreeSet<SegmentName>, found: &Contents, size: SegmentSize) -> bool {
    let WalFileName::Segment(segment) = name else { return false };
    let last =
        there.iter().filter(|held| held.number(size) < segment.number(size)).max_by_key(|held| held.number(size));
    let was_compared = |last: &SegmentName| found.compared.iter().any(|(compared, _)| compared == last);
    found.different.is_empty() && last.is_some_and(was_compared)
}

/// Whether a repository lacks any segment that the server has `done` before `name`, or before the last that lies `there`, so that another can
/// write it there. Pure.
fn lacks_any(
    name: WalFileName,
    there: &BTreeSet<SegmentName>,
    done: &BTreeSet<SegmentName>,
    size: SegmentSize,
) -> bool {
    let until = match name {
        WalFileName::Segment(segment) | WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _) => {
            segment.number(size).max(there.iter().filter_map(|held| held.number(size)).max())
        }
        WalFileName::History(_) => None,
    };
    let is_before = |done: &SegmentName| until.is_none_or(|until| done.number(size).is_some_and(|it| it < until));
    done.iter().any(|segment| is_before(segment) && !there.contains(segment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_pg::Timeline;

    #[test]
    fn what_lies_before_a_gap_is_compared_however_much_came_after_it() {
        let segments = |numbers: &[u64]| -> BTreeSet<SegmentName> {
            let named = |number| SegmentName::from_number(Timeline(1), number, SegmentSize::DEFAULT);
            numbers.iter().map(|number| named(*number).expect("a segment")).collect()
        };
        let done = segments(&(1..=20).collect::<Vec<_>>());
        assert_eq!(wanted(&done, &done), segments(&[17, 18, 19, 20]));
        let there = segments(&[1, 2, 3, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]);
        assert_eq!(wanted(&there, &done), segments(&[3, 9, 17, 18, 19, 20]));
        assert_eq!(wanted(&segments(&[]), &done), segments(&[]));
    }

    #[test]
    fn a_repository_lacks_what_the_server_has_before_the_file_and_does_not_lie_there() {
        let size = SegmentSize::DEFAULT;
        let segments = |numbers: &[u64]| -> BTreeSet<SegmentName> {
            let named = |number| SegmentName::from_number(Timeline(1), number, size);
            numbers.iter().map(|number| named(*number).expect("a segment")).collect()
        };
        let six = "000000010000000000000006".parse().expect("a name");
        let done = segments(&[3, 4, 5, 6, 7]);
        assert!(!lacks_any(six, &segments(&[3, 4, 5]), &done, size), "what comes later is not before it");
        for there in [&[4, 5, 6, 7][..], &[3, 4, 6, 7], &[3, 5], &[]] {
            assert!(lacks_any(six, &segments(there), &done, size), "{there:?}");
        }
        let history = "00000002.history".parse().expect("a name");
        assert!(lacks_any(history, &segments(&[3, 4, 5, 6]), &done, size));
        let three = "000000010000000000000003".parse().expect("a name");
        assert!(lacks_any(three, &segments(&[4, 6]), &done, size), "5 is lacking before what lies there");
        assert!(!lacks_any(three, &segments(&[]), &done, size));
    }

    #[test]
    fn only_the_last_of_what_lies_there_proves_that_a_repository_is_this_servers() {
        let size = SegmentSize::DEFAULT;
        let segment = |number| SegmentName::from_number(Timeline(1), number, size).expect("a segment");
        let there = |numbers: &[u64]| numbers.iter().map(|number| segment(*number)).collect::<BTreeSet<_>>();
        let compared = |numbers: &[u64]| Contents {
            compared: numbers.iter().map(|number| (segment(*number), "two".to_owned())).collect(),
            ..Contents::default()
        };
        let six = WalFileName::Segment(segment(6));
        assert!(is_proven(six, &there(&[1, 2, 5]), &compared(&[5]), size));
        assert!(!is_proven(six, &there(&[1, 2, 5]), &compared(&[1, 2]), size), "5 may be another server's");
        assert!(!is_proven(six, &there(&[]), &compared(&[]), size), "nothing proves nothing");
        assert!(is_proven(six, &there(&[5, 7]), &compared(&[5]), size), "what comes later is compared by its own name");
        let differs = Contents { different: [(segment(4), "two".to_owned())].into(), ..compared(&[4, 5]) };
        assert!(!is_proven(six, &there(&[4, 5]), &differs, size));
        for other in ["000000010000000000000006.00000028.backup", "00000002.history"] {
            assert!(!is_proven(other.parse().expect("a name"), &there(&[5]), &compared(&[5]), size), "{other}");
        }
    }
}
