//! What changed between two positions of the server's WAL: from what was sealed with each archived segment, else from the segment itself, else from the
//! server's own pg_wal, which has what is not archived yet.

use std::ops::RangeInclusive;
use std::path::Path;

use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::why_full::WhyFull;
use crate::backup::error::BackupError;
use crate::backup::reading::Reading;
use crate::catalogue::{Way, seams_of_line};
use walward_base::sys::folder::Folder;
use walward_base::sys::ground::Steps;
use walward_base::{ErrorClass, describe};
use walward_pg::changes::{Chain, Changes, ChangesObserver, Continuation, Doubt, Entry, SegmentChanges};
use walward_pg::{LONG_HEADER_BYTES, Lineage, Lsn, SegmentName, SegmentSize, WalFileName, Walk};
use walward_repo::{RepoError, Repository, layout};

/// How many segments are asked for at once.
const READS_AT_ONCE: usize = 8;
/// How much of a record is kept at each end of a segment when it is read again: a transaction that drops some million relations.
const KEPT_AGAIN_MAX: usize = 64 << 20;
/// How much of a file of pg_wal is read at once.
const READ_BYTES: usize = 1 << 20;

/// A stretch of the server's WAL.
#[derive(Debug)]
pub struct Stretch<'a> {
    /// The server's past.
    pub way: &'a Way,
    /// Where it begins.
    pub from: Lsn,
    /// Where it ends.
    pub to: Lsn,
    /// The size of segments.
    pub size: SegmentSize,
}

impl Stretch<'_> {
    /// Up to where records must be known: none begins between a segment's start and the end of its first page header.
    fn until(&self) -> Lsn {
        let offset = self.to.offset_in_segment(self.size);
        if offset <= LONG_HEADER_BYTES as u64 { Lsn(self.to.0 - offset) } else { self.to }
    }

    fn numbers(&self) -> RangeInclusive<u64> {
        let last = Lsn(self.until().0.saturating_sub(1)).segment_number(self.size);
        self.from.segment_number(self.size)..=last
    }

    fn segments(&self) -> Vec<SegmentName> {
        self.numbers().filter_map(|number| self.way.segment(number, self.size)).collect()
    }
}

/// Where segments are read.
#[derive(Clone, Copy)]
struct Places<'a> {
    repositories: &'a [Repository],
    lineage: Lineage,
    size: SegmentSize,
    pg_wal: &'a Path,
    reading: &'a Reading,
    cancel: &'a CancellationToken,
}

/// What changed in `stretch`, or why that is not known.
///
/// # Errors
/// A data directory that hangs, or a cancellation.
pub async fn find(
    repositories: &[Repository],
    lineage: Lineage,
    stretch: &Stretch<'_>,
    (pg_wal, reading, cancel): (&Path, &Reading, &CancellationToken),
) -> Result<Result<Changes, WhyFull>, BackupError> {
    let places = Places { repositories, lineage, size: stretch.size, pg_wal, reading, cancel };
    let segments = stretch.segments();
    let mut chain = Chain::new();
    let mut before: Option<(SegmentName, SegmentChanges)> = None;
    let mut reads = stream::iter(segments.iter().copied())
        .map(|segment| async move { (segment, places.segment(segment).await) })
        .buffered(READS_AT_ONCE);
    while let Some((segment, read)) = reads.next().await {
        let read = match read? {
            Ok(read) => read,
            Err(why) => return Ok(Err(why)),
        };
        // A segment is added when the next one is known: it may have to be read again with that.
        let read = match &mut before {
            Some((name, earlier)) if is_cut_short(earlier, &read) => {
                match (places.again(*name).await?, places.again(segment).await?) {
                    (Ok(whole), Ok(read)) => {
                        *earlier = whole;
                        read
                    }
                    (Err(why), _) | (_, Err(why)) => return Ok(Err(why)),
                }
            }
            _ => read,
        };
        if let Some((_, earlier)) = before.replace((segment, read)) {
            chain.follow(&earlier);
        }
    }
    drop(reads);
    if let Some((_, last)) = before {
        chain.follow(&last);
    }
    if let Err(why) = is_known(&chain, stretch) {
        return Ok(Err(why));
    }
    let seams = seams_of_line(repositories, lineage, &segments).await;
    if let Some(seam) = seams.found.first() {
        return Ok(Err(WhyFull::Seam { segment: seam.segment }));
    }
    // Where it cannot be read what a segment continues, it may be of another life.
    if let Some(segment) = seams.unread.keys().next().copied() {
        return Ok(Err(WhyFull::UnreadWal { segment, why: seams.failure.unwrap_or_default() }));
    }
    let changes = chain.finish();
    Ok(doubt(&changes, stretch).map_or(Ok(changes), Err))
}

/// Whether what is kept of a record at the end of `earlier` and the beginning of `later` may be too little.
fn is_cut_short(earlier: &SegmentChanges, later: &SegmentChanges) -> bool {
    let Entry::Continuation(Continuation { remaining, bytes, .. }) = &later.entry else { return false };
    let matters = earlier.open.as_ref().is_some_and(|open| !open.bytes.is_empty());
    matters && (bytes.len() as u64) < u64::from(*remaining)
}

fn is_known(chain: &Chain, stretch: &Stretch<'_>) -> Result<(), WhyFull> {
    let (from, until) = (chain.from().unwrap_or(Lsn(u64::MAX)), chain.until().unwrap_or(Lsn(0)));
    if let Some(why) = doubt(chain.changes(), stretch) {
        return Err(why);
    }
    if from <= stretch.from && until >= stretch.until() { Ok(()) } else { Err(WhyFull::Short { from, until }) }
}

/// The first doubt that concerns the stretch.
fn doubt(changes: &Changes, stretch: &Stretch<'_>) -> Option<WhyFull> {
    let concerns = |doubt: Doubt, lsn: Lsn| {
        let is_past = doubt == Doubt::Minimal && changes.levels.came_back().is_some_and(|back| back <= stretch.from);
        lsn < stretch.until() && !is_past
    };
    let first = changes.doubts.iter().find(|(doubt, lsn)| concerns(**doubt, **lsn));
    first.map(|(doubt, lsn)| WhyFull::Doubt { doubt: *doubt, lsn: *lsn })
}

impl Places<'_> {
    /// What one segment changes.
    async fn segment(self, segment: SegmentName) -> Result<Result<SegmentChanges, WhyFull>, BackupError> {
        let key = layout::wal_file(self.lineage, WalFileName::Segment(segment));
        for repository in self.repositories {
            let sealed = match repository.read_summary(&key).await {
                Ok(summary) => summary.facts.and_then(|facts| facts.changes),
                // Whoever reads it again says what is wrong.
                Err(_) => continue,
            };
            if let Some(changes) = sealed.and_then(|sealed| sealed.decode().ok()) {
                return Ok(Ok(changes));
            }
        }
        self.again(segment).await
    }

    /// The same, from the segment itself: however much it is, and all that it leaves to the next one.
    async fn again(self, segment: SegmentName) -> Result<Result<SegmentChanges, WhyFull>, BackupError> {
        let observer = || ChangesObserver::keeping(KEPT_AGAIN_MAX);
        let key = layout::wal_file(self.lineage, WalFileName::Segment(segment));
        let mut failure = None;
        for repository in self.repositories {
            let read = async {
                let mut content = repository.read(&key).await?.content;
                let mut walk = Walk::new(segment, self.size, observer());
                while let Some(chunk) = content.next().await {
                    walk.feed(&chunk?);
                }
                Ok::<_, RepoError>(walk.finish())
            };
            match read.await {
                Ok((walked, observer)) => {
                    if let Some(changes) = observer.finish(&walked) {
                        return Ok(Ok(changes));
                    }
                }
                Err(error) if error.class() == ErrorClass::NotFound => {}
                Err(error) => {
                    failure.get_or_insert_with(|| describe(&error));
                }
            }
        }
        match self.walk_in_pg_wal(segment, observer()).await? {
            Some(changes) => Ok(Ok(changes)),
            None => Ok(Err(match failure {
                Some(why) => WhyFull::UnreadWal { segment, why },
                None => WhyFull::NoWal { segment },
            })),
        }
    }

    /// The same, from the server's own file. The server may be writing it; what is not there yet is in doubt.
    async fn walk_in_pg_wal(
        self,
        segment: SegmentName,
        observer: ChangesObserver,
    ) -> Result<Option<SegmentChanges>, BackupError> {
        let (pg_wal, size) = (self.pg_wal.to_owned(), self.size);
        let read = move |steps: &Steps| {
            let opened = steps.at(&pg_wal, || Folder::enter(&pg_wal)?.open(segment.to_string()));
            let mut file = opened.ok()?;
            let mut walk = Walk::new(segment, size, observer);
            let mut buffer = vec![0; READ_BYTES];
            loop {
                let length = steps.at(&pg_wal, || std::io::Read::read(&mut file, &mut buffer)).ok()?;
                if length == 0 {
                    break;
                }
                walk.feed(buffer.get(..length).unwrap_or_default());
            }
            let (walked, observer) = walk.finish();
            observer.finish(&walked)
        };
        self.reading.run(self.cancel, read).await
    }
}
