//! Whether archiving works, by trying it: something is written, its segment ended, and waited for in a repository.

use std::time::{Duration, Instant};

use walward_base::describe;
use walward_pg::session::{Session, SessionError};
use walward_pg::{Lineage, SegmentName, WalFileName};
use walward_repo::{Repository, layout};

const PAUSE: Duration = Duration::from_millis(250);

/// Ends the current segment, and gives it. On an idle server there would be nothing to switch from, and a segment of long ago
/// would be waited for; so a restore point named `why` comes first.
pub(super) async fn switch(session: &Session, why: &str) -> Result<SegmentName, SessionError> {
    session.create_restore_point(why).await?;
    session.switch_wal().await
}

/// Waits until `segment` is in the repository; how long that took, or why it is not there.
pub(super) async fn wait(
    repository: &Repository,
    lineage: Lineage,
    segment: SegmentName,
    deadline: Duration,
) -> Result<Duration, String> {
    let key = layout::wal_file(lineage, WalFileName::Segment(segment));
    let began = Instant::now();
    loop {
        match repository.exists(&key).await {
            Ok(true) => return Ok(began.elapsed()),
            Ok(false) if began.elapsed() < deadline => tokio::time::sleep(PAUSE).await,
            Ok(false) => return Err(format!("{segment} has not arrived after {} s", deadline.as_secs())),
            Err(error) => return Err(describe(&error)),
        }
    }
}
