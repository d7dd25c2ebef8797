//! One file by itself, for a process that ends after it: no archiver, nothing ahead, nothing remembered.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::delivery::Delivery;
use super::error::PushError;
use super::in_order::{earlier_waits, stand_alone};
use super::patience::hope_for;
use super::policy::{Acknowledge, CopyState, Decision};
use super::source::FileStamp;
use super::upload::{LEFTOVER_PATIENCE, Listeners, Origin, send, why_unwritable};
use walward_pg::WalFileName;
use walward_repo::LazyRepository;

/// Reads, judges, seals and writes `name` (which lies in `pg_wal`, whose parent is the data directory) into every one of
/// `repositories`. Returns when it is durable in all of them, with the file that it was.
pub async fn archive_file(
    repositories: &[Arc<LazyRepository>],
    pg_wal: &Path,
    name: WalFileName,
    writer: &str,
) -> Result<FileStamp, PushError> {
    archive_now(repositories, Acknowledge::All, pg_wal, name, writer, Duration::MAX).await.map(|(stamp, _)| stamp)
}

/// As [`archive_file`], where `acknowledge` says how many of the repositories are enough. The others have [`LEFTOVER_PATIENCE`]
/// more, within `deadline`, before this returns: it is for a process that ends after it. Ends before the deadline when too few of the
/// repositories answer at all. Answers also what failed, the most urgent first.
pub async fn archive_now(
    repositories: &[Arc<LazyRepository>],
    acknowledge: Acknowledge,
    pg_wal: &Path,
    name: WalFileName,
    writer: &str,
    deadline: Duration,
) -> Result<(FileStamp, Vec<PushError>), PushError> {
    if earlier_waits(pg_wal, name).await {
        Box::pin(stand_alone(repositories, acknowledge, pg_wal, name, writer)).await?;
    }
    let needed = acknowledge.needed(repositories.len());
    let everybody: Vec<usize> = (0..repositories.len()).collect();
    let (decide, _) = oneshot::channel();
    let delivery = Delivery::new(needed, 0, decide);
    delivery.begin(None, vec![CopyState::Waiting; repositories.len()]);
    let report = |stamp: FileStamp, at: usize, result: Result<(), PushError>| {
        if let Some(outcome) = delivery.answered(stamp, at, result) {
            delivery.decide(outcome);
        }
    };
    // One that still may take it has its time, whatever became of the others: what it takes now is not sent a second time.
    let hopeful = || {
        let waiting = delivery.waiting().into_iter().filter_map(|at| repositories.get(at));
        waiting.filter(|lazy| why_unwritable(lazy).is_none()).count()
    };
    let patience = async {
        delivery.until_decided().await;
        tokio::time::sleep(LEFTOVER_PATIENCE).await;
    };
    let listeners = Listeners { sealed: &|_, _| {}, answered: &report };
    // Large, and needed once.
    let sending = Box::pin(send(repositories, &everybody, Origin::alone(pg_wal, name), writer, listeners));
    tokio::select! {
        sent = sending => {
            sent?;
        }
        () = patience => {}
        _ = hope_for(std::future::pending::<()>(), Duration::MAX, repositories, hopeful, 1) => {}
        // Whether enough have it is judged below: one that does not answer is no reason to fail then.
        () = tokio::time::sleep(deadline) => {}
    }
    let waiting = delivery.waiting();
    // What another repository said after the decision counts as well: nothing here remembers it for the next file.
    let (verdict, stamp, mut failures) = delivery.end();
    if verdict == Decision::Archived {
        return stamp.map(|stamp| (stamp, failures)).ok_or(PushError::Died(name));
    }
    if !failures.is_empty() {
        return Err(failures.swap_remove(0));
    }
    let failing: Vec<_> = repositories.iter().filter_map(|lazy| why_unwritable(lazy)).collect();
    if repositories.len().saturating_sub(failing.len()) < needed {
        return Err(PushError::Unanswered { name, failing });
    }
    let waiting = waiting.into_iter().filter_map(|at| Some(repositories.get(at)?.name().to_owned())).collect();
    Err(PushError::Deadline { name, after: deadline, waiting })
}
