//! Whether a segment that was fetched continues the one that the server has before it, and what is done where it does not.

use std::path::Path;
use std::time::Duration;

use super::one_file::{FetchError, Retrieved};
use crate::archive::push::chain;
use walward_base::sys::ground::Ground;
use walward_pg::{SegmentName, SegmentSize, WalFileName};
use walward_repo::facts::Link;

/// How long pg_wal may take to be compared with a segment, while a server waits for that: so long, and as long as a slow disk takes for the bytes.
const TIME_MAX: Duration = Duration::from_secs(1);
const SLOW_BYTES_PER_SECOND: u64 = 64 << 20;

/// How long a segment of `size` may take to be read and compared.
fn time_max(size: SegmentSize) -> Duration {
    TIME_MAX.saturating_add(Duration::from_secs(size.bytes() / SLOW_BYTES_PER_SECOND))
}

/// For a process that knows nothing of what the recovery was given before: compares what was fetched with what lies in `pg_wal`. Where a seam is not
/// refused, it is the error that should be told as a warning. Blocking; reads a segment.
///
/// # Errors
/// [`FetchError::Seam`], when `refuse`.
pub fn find_seam(
    pg_wal: &Path,
    name: WalFileName,
    retrieved: Retrieved,
    refuse: bool,
) -> Result<Option<FetchError>, FetchError> {
    let Retrieved::File { bytes, link: Some(link) } = retrieved else { return Ok(None) };
    told(name, SegmentSize::try_from(bytes).ok().and_then(|size| in_pg_wal(pg_wal, size, &link)), refuse)
}

/// What is made of a seam between `before` and `name`.
///
/// # Errors
/// [`FetchError::Seam`], when `refuse`.
pub(super) fn told(
    name: WalFileName,
    before: Option<SegmentName>,
    refuse: bool,
) -> Result<Option<FetchError>, FetchError> {
    let Some(before) = before else { return Ok(None) };
    let seam = FetchError::Seam { name, before };
    if refuse { Err(seam) } else { Ok(Some(seam)) }
}

/// As [`in_pg_wal`], where that answers in time.
pub(super) async fn in_pg_wal_in_time(pg_wal: &Path, size: SegmentSize, link: Link) -> Option<SegmentName> {
    let (ground, folder) = (Ground::of(pg_wal.parent().unwrap_or(pg_wal)), pg_wal.to_path_buf());
    let look = ground.look(move || in_pg_wal(&folder, size, &link));
    tokio::time::timeout(time_max(size), look).await.ok().flatten().flatten()
}

/// The segment in `pg_wal` that a fetched one should continue and does not: the server has another life's. Blocking; reads a segment.
fn in_pg_wal(pg_wal: &Path, size: SegmentSize, link: &Link) -> Option<SegmentName> {
    let before = link.predecessor?.name;
    let digest = chain::digest(pg_wal, before, size).ok()?;
    (link.continues(before, &digest) == Some(false)).then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_segment_may_take_longer_to_be_compared_and_a_usual_one_no_more_than_a_standby_waits() {
        let size = |mib: u64| SegmentSize::try_from(mib << 20).expect("a size");
        assert_eq!(time_max(size(16)), TIME_MAX);
        assert_eq!(time_max(size(1024)), Duration::from_secs(17));
    }
}
