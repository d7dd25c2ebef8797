//! The WAL that a backup needs: which segments, and waiting until they are in every repository.

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::BackupError;
use super::report::Progress;
use crate::pg::{Lineage, Lsn, SegmentName, SegmentSize, Timeline, WalFileName};
use crate::repo::{RepoError, Repository, layout};

/// How many segments are asked for at once.
const ASKED_AT_ONCE: usize = 16;
/// The first pause between two rounds of asking; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two rounds of asking.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The segments that a backup needs, all on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeededWal {
    /// What they belong to.
    pub lineage: Lineage,
    /// Their timeline.
    pub timeline: Timeline,
    /// Their size.
    pub segment_size: SegmentSize,
    first: u64,
    last: u64,
}

impl NeededWal {
    /// What recovery reads from `start` until it has reached `stop`, which is the position behind the last record needed: when it
    /// is the first of a segment, that segment is not needed (`XLByteToPrevSeg` in `do_pg_backup_stop`, xlog.c).
    pub fn new(lineage: Lineage, timeline: Timeline, segment_size: SegmentSize, start: Lsn, stop: Lsn) -> Self {
        let first = start.segment_number(segment_size);
        let last = Lsn(stop.0.saturating_sub(1)).segment_number(segment_size).max(first);
        Self { lineage, timeline, segment_size, first, last }
    }

    /// How many segments.
    pub fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    /// The first segment.
    pub fn first(&self) -> Option<SegmentName> {
        self.name(self.first)
    }

    /// The last segment.
    pub fn last(&self) -> Option<SegmentName> {
        self.name(self.last)
    }

    fn name(&self, number: u64) -> Option<SegmentName> {
        SegmentName::from_number(self.timeline, number, self.segment_size)
    }

    fn from(&self, number: u64) -> impl Iterator<Item = SegmentName> + use<> {
        let needed = *self;
        (number..=self.last).filter_map(move |number| needed.name(number))
    }

    /// Waits until all of it is in `repository`, `deadline` at most.
    pub async fn wait(
        &self,
        repository: &Repository,
        standby: bool,
        deadline: Duration,
        progress: &watch::Sender<Progress>,
        cancel: &CancellationToken,
    ) -> Result<(), BackupError> {
        let begun = Instant::now();
        let mut next = self.first;
        let mut pause = PAUSE;
        loop {
            let (there, missing) = self.present(repository, next).await;
            next += there;
            let Some(Missing { segment, error }) = missing else { return Ok(()) };
            if there > 0 {
                pause = PAUSE;
            }
            progress.send_modify(|progress| progress.waiting_for = Some(segment));
            let waited = begun.elapsed();
            let over = waited >= deadline;
            let name = || repository.name().to_owned();
            match error {
                // A store that is away for the moment is asked again.
                Some(source) if over || !source.class().is_worth_retrying() => {
                    let doing = format!("look for {segment} in");
                    return Err(BackupError::Repository { doing, repository: name(), source });
                }
                None if over => {
                    return Err(BackupError::WalMissing {
                        segment,
                        repository: name(),
                        waited,
                        standby,
                        archiver: None,
                    });
                }
                Some(_) | None => {}
            }
            tokio::select! {
                () = tokio::time::sleep(pause.min(deadline.saturating_sub(waited))) => {}
                () = cancel.cancelled() => return Err(BackupError::Cancelled),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// How many segments from `number` on are there without a gap, and the first that is not.
    async fn present(&self, repository: &Repository, number: u64) -> (u64, Option<Missing>) {
        let mut answers = futures::stream::iter(self.from(number))
            .map(|segment| async move {
                let key = layout::wal_file(self.lineage, WalFileName::Segment(segment));
                (segment, repository.exists(&key).await)
            })
            .buffered(ASKED_AT_ONCE);
        let mut there = 0;
        while let Some((segment, answer)) = answers.next().await {
            match answer {
                Ok(true) => there += 1,
                Ok(false) => return (there, Some(Missing { segment, error: None })),
                Err(error) => return (there, Some(Missing { segment, error: Some(error) })),
            }
        }
        (there, None)
    }
}

/// A segment that is not there, or of which the store does not say whether it is.
struct Missing {
    segment: SegmentName,
    error: Option<RepoError>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorClass;
    use crate::repo::Encryption;
    use crate::storage::Store;
    use crate::storage::fault::{Fault, Faulty, Plan};
    use crate::sys::cpu::CpuPool;
    use proptest::prelude::*;
    use std::sync::Arc;

    async fn repository(store: Arc<dyn Store>) -> Repository {
        let pool = CpuPool::new(1).unwrap();
        let now = jiff::Timestamp::UNIX_EPOCH;
        Repository::create("disk", store, "main", &Encryption::None, &[], pool, now).await.unwrap().0
    }

    async fn put(store: &dyn Store, wal: &NeededWal, number: u64) {
        let key = layout::wal_file(wal.lineage, WalFileName::Segment(wal.name(number).unwrap()));
        store.put_new(&key, b"x".to_vec().into()).await.unwrap();
    }

    fn watcher() -> watch::Sender<Progress> {
        watch::Sender::new(Progress::new(jiff::Timestamp::UNIX_EPOCH))
    }

    #[tokio::test]
    async fn it_waits_until_the_last_segment_is_there() {
        let store = crate::storage::memory();
        let repository = repository(Arc::clone(&store)).await;
        let wal = needed(0x200_0028, 0x1600_0001);
        let (progress, cancel) = (watcher(), CancellationToken::new());
        let waiting = wal.wait(&repository, false, Duration::from_mins(1), &progress, &cancel);
        let archiver = async {
            for number in 2..=0x16 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                put(&*store, &wal, number).await;
            }
        };
        let (waited, ()) = tokio::join!(waiting, archiver);
        waited.unwrap();
    }

    #[tokio::test]
    async fn a_gap_is_named_when_the_deadline_has_passed() {
        let store = crate::storage::memory();
        let repository = repository(Arc::clone(&store)).await;
        let wal = needed(0x200_0028, 0x500_0001);
        for number in [2, 3, 5] {
            put(&*store, &wal, number).await;
        }
        let progress = watcher();
        let waited =
            wal.wait(&repository, false, Duration::from_millis(300), &progress, &CancellationToken::new()).await;
        let gap = wal.name(4);
        assert!(matches!(waited, Err(BackupError::WalMissing { segment, .. }) if Some(segment) == gap));
        assert_eq!(progress.borrow().waiting_for, gap);
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_asked_again_and_named_in_the_end() {
        let store = crate::storage::memory();
        let repository = repository(Arc::clone(&store)).await;
        let wal = needed(0x200_0028, 0x200_0029);
        put(&*store, &wal, 2).await;
        let open = |store| Repository::open("disk", store, &Encryption::None, CpuPool::new(1).unwrap());
        drop(repository);
        let counted = Faulty::new(Arc::clone(&store), Plan::script(std::iter::repeat_n(None, 100)));
        open(Arc::clone(&counted) as Arc<dyn Store>).await.unwrap();
        let calls = 100 - counted.left();
        for (class, heals) in [(ErrorClass::Transient, true), (ErrorClass::Denied, false)] {
            let faults = std::iter::repeat_n(None, calls).chain(std::iter::repeat_n(Some(Fault::Before(class)), 3));
            let repository = open(Faulty::new(Arc::clone(&store), Plan::script(faults))).await.unwrap();
            let (progress, cancel) = (watcher(), CancellationToken::new());
            let waited = wal.wait(&repository, false, Duration::from_mins(1), &progress, &cancel).await;
            assert_eq!(waited.is_ok(), heals, "{waited:?}");
        }
    }

    fn needed(start: u64, stop: u64) -> NeededWal {
        let lineage = Lineage { major: 15, system_identifier: 7 };
        NeededWal::new(lineage, Timeline(1), SegmentSize::DEFAULT, Lsn(start), Lsn(stop))
    }

    #[test]
    fn a_stop_at_a_boundary_does_not_need_the_next_segment() {
        let wal = needed(0x200_0028, 0x300_0000);
        assert_eq!((wal.first(), wal.last()), (wal.name(2), wal.name(2)));
        assert_eq!(needed(0x200_0028, 0x300_0001).count(), 2);
    }

    proptest! {
        #[test]
        fn start_and_the_byte_before_stop_are_covered(start in 0u64..1 << 40, length in 1u64..1 << 32) {
            let wal = needed(start, start + length);
            let names: Vec<_> = [start, start + length - 1]
                .map(|position| wal.name(Lsn(position).segment_number(SegmentSize::DEFAULT)))
                .into();
            prop_assert_eq!(vec![wal.first(), wal.last()], names);
            prop_assert_eq!(wal.from(wal.first).take(5000).count() as u64, wal.count().min(5000));
        }
    }
}
