//! The proof that the archived WAL of a backup is its server's own: a name in the archive may hold what another server wrote.
//!
//! The server's pg_wal and the archive are compared at three positions: where recovery begins, at the checkpoint that it reads there, and
//! where the backup ends. The bytes before such a position hold a record's checksum, the transaction and the position of the record before it,
//! so that another life of the same cluster has other bytes there. Between these positions the archive is the same server's: where a
//! name holds other content, its file is refused, and nothing that comes after it is archived.

use std::os::unix::fs::FileExt;
use std::path::Path;

use futures::StreamExt;

use super::error::BackupError;
use walward_base::sys::folder::Folder;
use walward_pg::{Lineage, Lsn, SegmentName, SegmentSize, Timeline, WalFileName};
use walward_repo::{Repository, layout};

/// How much of the WAL before a position is compared: a page, PostgreSQL's default `wal_block_size`.
const SAMPLE_BYTES: u64 = 8192;
/// `SizeOfXLogRecord` (src/include/access/xlogrecord.h): a record's header, which has its checksum.
const RECORD_HEADER_BYTES: u64 = 24;

/// Some bytes of the server's own WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    segment: SegmentName,
    /// Where in the segment they begin.
    offset: u64,
    bytes: Vec<u8>,
}

impl Sample {
    /// The header of the record at `position`, and what comes before it in its segment. Blocking.
    pub fn of_record(pg_wal: &Path, timeline: Timeline, size: SegmentSize, position: Lsn) -> Result<Self, BackupError> {
        let start = position.0 - position.offset_in_segment(size);
        let end = position.0.saturating_add(RECORD_HEADER_BYTES).min(start.saturating_add(size.bytes()));
        Self::before(pg_wal, timeline, size, Lsn(end))
    }

    /// What comes before `position` in the segment of the byte before it. Blocking.
    pub fn before(pg_wal: &Path, timeline: Timeline, size: SegmentSize, position: Lsn) -> Result<Self, BackupError> {
        let last = Lsn(position.0.saturating_sub(1));
        let end = last.offset_in_segment(size) + 1;
        let offset = end.saturating_sub(SAMPLE_BYTES);
        let segment = SegmentName::from_number(timeline, last.segment_number(size), size);
        let segment = segment.ok_or_else(|| BackupError::Label(format!("a position {position}")))?;
        let path = pg_wal.join(segment.to_string());
        let mut bytes = vec![0; usize::try_from(end - offset).unwrap_or_default()];
        let opened = Folder::enter(pg_wal).and_then(|folder| folder.open(segment.to_string()));
        let read = opened.and_then(|file| file.read_exact_at(&mut bytes, offset));
        read.map_err(|source| BackupError::Read { path, source })?;
        Ok(Self { segment, offset, bytes })
    }

    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// Whether `piece`, which lies at `at` in the segment, has the same bytes as far as it has any of them.
    fn agrees(&self, at: u64, piece: &[u8]) -> bool {
        let from = self.offset.max(at);
        let to = self.end().min(at.saturating_add(piece.len() as u64));
        if from >= to {
            return true;
        }
        let part = |bytes: &[u8], start: u64| {
            let range = usize::try_from(from - start).ok()?..usize::try_from(to - start).ok()?;
            bytes.get(range).map(<[u8]>::to_vec)
        };
        part(&self.bytes, self.offset) == part(piece, at)
    }
}

/// Compares `samples` with what `repository` holds under their segments' names. Reads each segment once, as far as it must.
///
/// # Errors
/// [`BackupError::OtherWal`] when the archived WAL is another server's.
pub async fn prove(repository: &Repository, lineage: Lineage, samples: &[Sample]) -> Result<(), BackupError> {
    let mut segments: Vec<SegmentName> = samples.iter().map(|sample| sample.segment).collect();
    segments.sort_unstable();
    segments.dedup();
    for segment in segments {
        let failed = |source| BackupError::Repository {
            doing: format!("read {segment} in"),
            repository: repository.name().to_owned(),
            source,
        };
        let key = layout::wal_file(lineage, WalFileName::Segment(segment));
        let mut archived = repository.read(&key).await.map_err(failed)?;
        let ours: Vec<&Sample> = samples.iter().filter(|sample| sample.segment == segment).collect();
        let end = ours.iter().map(|sample| sample.end()).max().unwrap_or_default();
        let mut at = 0;
        while at < end {
            let piece = archived.content.next().await.transpose().map_err(failed)?;
            // An archived file that is shorter is not what the server wrote either.
            let agree = piece.as_ref().is_some_and(|piece| ours.iter().all(|sample| sample.agrees(at, piece)));
            if !agree {
                return Err(BackupError::OtherWal {
                    segment,
                    repository: repository.name().to_owned(),
                    writer: archived.writer,
                    modified: archived.modified,
                });
            }
            at += piece.map_or(0, |piece| piece.len() as u64);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use walward_base::sys::cpu::CpuPool;
    use walward_repo::Encryption;
    use walward_repo::format::{Kind, Spec};

    const LINEAGE: Lineage = Lineage { major: 15, system_identifier: 7 };
    const SIZE: u64 = 1 << 20;

    fn size() -> SegmentSize {
        SegmentSize::try_from(SIZE).unwrap()
    }

    fn segment(fill: u8) -> Vec<u8> {
        (0..SIZE).map(|at| fill.wrapping_add(u8::try_from(at % 251).unwrap())).collect()
    }

    async fn archive(content: &[u8]) -> Repository {
        let (pool, now) = (CpuPool::new(1).unwrap(), jiff::Timestamp::UNIX_EPOCH);
        let store = walward_storage::memory();
        let (repository, _) = Repository::create("a", store, "main", &Encryption::None, &[], pool, now).await.unwrap();
        let name = SegmentName::from_number(Timeline(1), 2, size()).unwrap();
        let spec = Spec { kind: Kind::Segment, level: 1, writer: "db2".to_owned() };
        let content = futures::stream::iter([Ok(Bytes::copy_from_slice(content))]).boxed();
        let key = layout::wal_file(LINEAGE, WalFileName::Segment(name));
        repository.put_new(&key, spec, content, || None).await.unwrap();
        repository
    }

    fn samples(content: &[u8]) -> Vec<Sample> {
        let folder = tempfile::tempdir().unwrap();
        let name = SegmentName::from_number(Timeline(1), 2, size()).unwrap();
        walward_base::sys::durable::create(&folder.path().join(name.to_string()), content, 0o600).unwrap();
        let at = |position| Lsn(2 * SIZE + position);
        vec![
            Sample::of_record(folder.path(), Timeline(1), size(), at(40)).unwrap(),
            Sample::before(folder.path(), Timeline(1), size(), at(700_000)).unwrap(),
            Sample::before(folder.path(), Timeline(1), size(), at(SIZE)).unwrap(),
        ]
    }

    #[tokio::test]
    async fn the_same_wal_is_the_servers_own_and_other_wal_at_any_of_the_positions_is_not() {
        let own = segment(3);
        let ours = samples(&own);
        prove(&archive(&own).await, LINEAGE, &ours).await.unwrap();
        for at in [40, 63, 699_999, 700_000 - SAMPLE_BYTES, SIZE - 1] {
            let mut other = own.clone();
            other[usize::try_from(at).unwrap()] ^= 1;
            match prove(&archive(&other).await, LINEAGE, &ours).await {
                Err(BackupError::OtherWal { writer, repository, .. }) => {
                    assert_eq!((writer.as_str(), repository.as_str()), ("db2", "a"));
                }
                other => panic!("{at}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_is_missing_or_shorter_is_no_proof() {
        let own = segment(3);
        let repository = archive(&own[..600_000]).await;
        assert!(matches!(prove(&repository, LINEAGE, &samples(&own)).await, Err(BackupError::OtherWal { .. })));
        let mut elsewhere = samples(&own);
        elsewhere.truncate(1);
        elsewhere[0].segment = SegmentName::from_number(Timeline(1), 3, size()).unwrap();
        assert!(matches!(prove(&repository, LINEAGE, &elsewhere).await, Err(BackupError::Repository { .. })));
    }

    #[test]
    fn a_record_at_the_end_of_its_segment_is_compared_as_far_as_the_segment_goes() {
        let folder = tempfile::tempdir().unwrap();
        let name = SegmentName::from_number(Timeline(1), 2, size()).unwrap();
        walward_base::sys::durable::create(&folder.path().join(name.to_string()), &segment(9), 0o600).unwrap();
        let sample = Sample::of_record(folder.path(), Timeline(1), size(), Lsn(3 * SIZE - 8)).unwrap();
        assert_eq!((sample.segment, sample.end()), (name, SIZE));
        let missing = Sample::before(folder.path(), Timeline(1), size(), Lsn(3 * SIZE + 8));
        assert!(matches!(missing, Err(BackupError::Read { .. })));
    }
}
