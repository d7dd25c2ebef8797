//! What the archive tells of lines: the life of each, and where a transaction or a restore point is.
//!
//! Asked only where several lines can be meant, or where a target has no place of its own. Names and times of files come with
//! listings, first and last transactions with the summaries of segments; the segment in which two lines part is read, because its
//! summary tells of both.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;

use super::decide::{Sought, to_compare};
use super::lives::{BackupMoment, Life, Lives};
use crate::catalogue::backups::BackupFacts;
use crate::catalogue::error::CatalogueError;
use crate::catalogue::moments::{LastCommit, first_commit, last_commit};
use crate::catalogue::read::Archive;
use crate::catalogue::target::Target;
use crate::catalogue::way::Way;
use walward_pg::{CommitTimes, Lineage, Lsn, SegmentName, SegmentSize, Timeline, WalFileName};

/// The most bytes of WAL that are read to find a transaction or a restore point.
const SEARCH_BYTES_MAX: u64 = 4 << 30;
/// How many segments are read at once.
const SEARCHES_AT_ONCE: u64 = 4;

/// What is asked, and of which backups.
pub struct Evidence<'a> {
    /// Which is asked.
    pub archive: &'a Archive<'a>,
    /// Of the cluster.
    pub lineage: Lineage,
    /// Of its segments.
    pub size: SegmentSize,
    /// Those of the lineage that may be started from.
    pub backups: &'a [&'a BackupFacts],
}

/// The segments of each timeline, with their times of arrival.
type Files = BTreeMap<Timeline, BTreeMap<u64, Timestamp>>;

impl Evidence<'_> {
    /// The lines without those that another one goes on from, and the lives of what is left. Of those `without_backup` a line
    /// is one that has WAL: a history alone is no life.
    pub async fn lines(
        &self,
        mut ways: Vec<Way>,
        without_backup: Vec<Way>,
        warnings: &mut Vec<String>,
    ) -> Result<(Vec<Way>, Lives), CatalogueError> {
        if !ways.is_empty() {
            for way in without_backup {
                let (timeline, from) = (way.target(), way.target_begin().segment_number(self.size));
                if !self.archive.arrivals(self.lineage, timeline, from, self.size, warnings).await?.is_empty() {
                    ways.push(way);
                }
            }
            ways.sort_by_key(Way::target);
        }
        let mut left: BTreeMap<Timeline, u64> = BTreeMap::new();
        for span in ways.iter().flat_map(Way::spans) {
            if let Some(end) = span.end.filter(|_| ways.iter().any(|way| way.target() == span.timeline)) {
                let number = end.segment_number(self.size);
                let first = left.entry(span.timeline).or_insert(number);
                *first = number.min(*first);
            }
        }
        let mut after_forks = Files::new();
        for (timeline, from) in left {
            after_forks
                .insert(timeline, self.archive.arrivals(self.lineage, timeline, from, self.size, warnings).await?);
        }
        let lines = super::decide::that_differ(ways, |timeline, at| {
            let number = at.segment_number(self.size);
            let files = after_forks.get(&timeline);
            files.is_some_and(|files| files.range(number..).next().is_some())
                || self.backups.iter().any(|backup| backup.timeline == timeline && backup.stop_lsn > at)
        });
        let compared = self.compare(&lines, warnings).await?;
        Ok((lines, compared))
    }

    async fn compare(&self, lines: &[Way], warnings: &mut Vec<String>) -> Result<Lives, CatalogueError> {
        let wanted = to_compare(lines);
        let Some(from) = wanted.iter().map(|(_, at)| at.segment_number(self.size)).min() else {
            return Ok(Lives::new());
        };
        let files = self.files(lines, from, warnings).await?;
        let mut compared = Lives::new();
        for (way, at) in wanted {
            compared.insert((way.target(), at), self.life(way, at, &files).await?);
        }
        Ok(compared)
    }

    /// The segments from number `from` on, of every timeline on `lines`.
    async fn files(&self, lines: &[Way], from: u64, warnings: &mut Vec<String>) -> Result<Files, CatalogueError> {
        let spans = lines.iter().flat_map(Way::spans);
        let timelines: BTreeSet<Timeline> = spans
            .filter(|span| span.end.is_none_or(|end| end.segment_number(self.size) >= from))
            .map(|span| span.timeline)
            .collect();
        let mut files = Files::new();
        for timeline in timelines {
            files.insert(timeline, self.archive.arrivals(self.lineage, timeline, from, self.size, warnings).await?);
        }
        Ok(files)
    }

    /// What `way` has of its own after `at`.
    async fn life(&self, way: &Way, at: Lsn, files: &Files) -> Result<Life, CatalogueError> {
        let fork = at.segment_number(self.size);
        let own: BTreeMap<u64, (SegmentName, Timestamp)> = files
            .values()
            .flat_map(|files| files.range(fork..))
            .filter_map(|(number, _)| {
                let name = way.segment(*number, self.size)?;
                Some((*number, (name, *files.get(&name.timeline)?.get(number)?)))
            })
            .collect();
        // The timeline that begins where the lines part has a history, which arrives before its first segment.
        let begun = way.spans().iter().find(|span| span.begin == at && at > Lsn(0)).map(|span| span.timeline);
        let history = match begun {
            Some(timeline) => self.archive.origin(self.lineage, WalFileName::History(timeline)).await,
            None => None,
        };
        let first = own.values().next();
        let writer = match (&history, first) {
            (Some((writer, _)), _) => Some(writer.clone()),
            (None, Some((name, _))) => {
                self.archive.origin(self.lineage, WalFileName::Segment(*name)).await.map(|(writer, _)| writer)
            }
            (None, None) => None,
        };
        let mut backups: Vec<BackupMoment> = self
            .backups
            .iter()
            .filter(|backup| backup.stop_lsn > at && lies_on(way, backup))
            .map(|backup| BackupMoment { stopped: backup.stopped, label: backup.label.to_string() })
            .collect();
        backups.sort_by_key(|backup| backup.stopped);
        let end = own.keys().next_back().map_or(0, |last| last.saturating_add(1));
        Ok(Life {
            commits: self.commits(way, at, own.keys().next_back().copied()).await?,
            backups: backups.first().cloned().zip(backups.last().cloned()),
            born: history.map(|(_, born)| born).into_iter().chain(own.values().map(|(_, arrived)| *arrived)).min(),
            arrived: own.values().map(|(_, arrived)| *arrived).max(),
            end: Lsn(end.saturating_mul(self.size.bytes())),
            writer,
            lacks_backup: !self.backups.iter().any(|backup| lies_on(way, backup)),
        })
    }

    /// When the first and the last transaction ended on `way` after `at`, in segments up to number `last`.
    async fn commits(&self, way: &Way, at: Lsn, last: Option<u64>) -> Result<Option<(i64, i64)>, CatalogueError> {
        let Some(last) = last else { return Ok(None) };
        let fork = at.segment_number(self.size);
        let in_fork = match way.segment(fork, self.size) {
            Some(name) => {
                let walk = || CommitTimes::looking_for(name, self.size, at, None);
                self.archive.walk(self.lineage, name, walk).await?.and_then(CommitTimes::finish)
            }
            None => None,
        };
        let read = |number| async move {
            match way.segment(number, self.size) {
                Some(name) => self.archive.commit_times(self.lineage, name).await,
                None => Ok(None),
            }
        };
        let later = fork.saturating_add(1)..last.saturating_add(1);
        let first = match in_fork {
            Some((first, _)) => Some(first),
            None => first_commit(later.clone(), &read).await?,
        };
        let last = match last_commit(later, &read).await? {
            LastCommit::At(_, last) => Some(last),
            LastCommit::Never | LastCommit::NotFound => in_fork.map(|(_, last)| last),
        };
        Ok(first.zip(last.or(first)))
    }

    /// Looks for `target` on `lines`: after their newest backups and where they differ, then after older and older backups, as
    /// far as that many bytes of WAL go. What is found after a newer backup ends the search.
    pub async fn search(
        &self,
        lines: &[Way],
        target: &Target,
        warnings: &mut Vec<String>,
    ) -> Result<Sought, CatalogueError> {
        let on_lines = |backup: &BackupFacts| lines.iter().any(|way| lies_on(way, backup));
        let mut starts: Vec<u64> = self
            .backups
            .iter()
            .filter(|backup| on_lines(backup))
            .map(|backup| backup.start_lsn.segment_number(self.size))
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let Some(oldest) = starts.first().copied() else { return Ok(Sought { records: Vec::new(), whole: false }) };
        // Behind the fork each line may hold what was meant.
        if let Some(fork) = to_compare(lines).iter().map(|(_, at)| at.segment_number(self.size)).min() {
            starts.retain(|start| *start <= fork);
            if starts.is_empty() {
                starts.push(oldest);
            }
        }
        let files = self.files(lines, oldest, warnings).await?;
        let mut left = SEARCH_BYTES_MAX / self.size.bytes();
        let mut end = u64::MAX;
        for start in starts.into_iter().rev() {
            let numbers: BTreeSet<u64> =
                files.values().flat_map(|files| files.range(start..end)).map(|(number, _)| *number).collect();
            let names: BTreeSet<SegmentName> = numbers
                .iter()
                .flat_map(|number| lines.iter().filter_map(|way| way.segment(*number, self.size)))
                .filter(|name| {
                    let there = name.number(self.size).zip(files.get(&name.timeline));
                    there.is_some_and(|(number, files)| files.contains_key(&number))
                })
                .collect();
            match left.checked_sub(names.len() as u64) {
                Some(rest) => left = rest,
                None => return Ok(Sought { records: Vec::new(), whole: false }),
            }
            let records = self.records(names, lines, target).await?;
            if !records.is_empty() {
                return Ok(Sought { records, whole: true });
            }
            end = start;
        }
        Ok(Sought { records: Vec::new(), whole: true })
    }

    /// Where `target` is in `names`.
    async fn records(
        &self,
        names: BTreeSet<SegmentName>,
        lines: &[Way],
        target: &Target,
    ) -> Result<Vec<(Timeline, Lsn)>, CatalogueError> {
        let xid = match target {
            // The server compares 32 bits (recoveryStopsBefore, xlogrecovery.c).
            Target::Xid(xid) => u32::try_from(xid & u64::from(u32::MAX)).ok(),
            _ => None,
        };
        let found: Vec<Vec<(Timeline, Lsn)>> = stream::iter(names)
            .map(|name| async move {
                let walk = || CommitTimes::looking_for(name, self.size, Lsn(0), xid);
                let Some(walk) = self.archive.walk(self.lineage, name, walk).await? else { return Ok(Vec::new()) };
                let positions: Vec<Lsn> = match target {
                    Target::Name(wanted) => {
                        let points = walk.restore_points().iter().filter(|point| point.name == *wanted);
                        points.map(|point| point.lsn).collect()
                    }
                    _ => walk.ended().into_iter().collect(),
                };
                // A segment with a switch in it begins with a copy of the other timeline's records.
                let of = |position: Lsn| {
                    let way = lines
                        .iter()
                        .find(|way| way.segment(position.segment_number(self.size), self.size) == Some(name))?;
                    Some((way.timeline_at(position)?, position))
                };
                Ok::<_, CatalogueError>(positions.into_iter().filter_map(of).collect())
            })
            .buffered(usize::try_from(SEARCHES_AT_ONCE).unwrap_or(1))
            .try_collect()
            .await?;
        let records: BTreeSet<(Timeline, Lsn)> = found.into_iter().flatten().collect();
        Ok(records.into_iter().collect())
    }
}

fn lies_on(way: &Way, backup: &BackupFacts) -> bool {
    way.carries(backup.timeline, backup.start_lsn, backup.stop_lsn)
}
