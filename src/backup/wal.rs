//! The WAL that a backup needs: which segments, and waiting until they are in every repository.

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::BackupError;
use super::report::Progress;
use walward_pg::{Lineage, Lsn, SegmentName, SegmentSize, Timeline, WalFileName};
use walward_repo::{Repository, layout};

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
    /// What recovery reads from `start` until it has reached `stop`, which is the position after the last record needed: when it
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
            let (there, missing) = self.present(repository, next).await?;
            next += there;
            let Some(segment) = missing else { return Ok(()) };
            if there > 0 {
                pause = PAUSE;
            }
            progress.send_modify(|progress| progress.waiting_for = Some(segment.to_string()));
            let waited = begun.elapsed();
            if waited >= deadline {
                let repository = repository.name().to_owned();
                return Err(BackupError::WalMissing { segment, repository, waited, standby });
            }
            tokio::select! {
                () = tokio::time::sleep(pause.min(deadline.saturating_sub(waited))) => {}
                () = cancel.cancelled() => return Err(BackupError::Cancelled),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// How many segments from `number` on are there without a gap, and the first that is not.
    async fn present(&self, repository: &Repository, number: u64) -> Result<(u64, Option<SegmentName>), BackupError> {
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
                Ok(false) => return Ok((there, Some(segment))),
                // The store is away for the moment; asked again until the deadline.
                Err(error) if error.class().is_worth_retrying() => return Ok((there, Some(segment))),
                Err(source) => {
                    let (doing, repository) = (format!("look for {segment} in"), repository.name().to_owned());
                    return Err(BackupError::Repository { doing, repository, source });
                }
            }
        }
        Ok((there, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
