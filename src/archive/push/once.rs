//! One file by itself, for a process that ends after it: no archiver, nothing ahead, nothing remembered.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::PushError;
use super::in_order::{earlier_waits, stand_alone};
use super::patience::hope_for;
use super::policy::{Acknowledge, Answer, Verdict, judge};
use super::source::FileStamp;
use super::upload::{LEFTOVER_PATIENCE, Listeners, Origin, answer_of, send, why_unwritable};
use walward_base::Locked;
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
/// repositories answer at all. Answers also what failed.
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
    let collected = Mutex::new((vec![Answer::Waiting; repositories.len()], Vec::new(), None));
    let enough = CancellationToken::new();
    let report = |stamp: FileStamp, at: usize, result: Result<(), PushError>| {
        let mut collected = collected.locked();
        let (answers, failures, file) = &mut *collected;
        *file = Some(stamp);
        if let Some(answer) = answers.get_mut(at) {
            *answer = answer_of(&result);
        }
        failures.extend(result.err());
        if judge(answers, needed) == Verdict::Archived {
            enough.cancel();
        }
    };
    // One that still may take it has its time, whatever became of the others: what it takes now is not sent a second time.
    let hopeful = || {
        let collected = collected.locked();
        let waiting = collected.0.iter().zip(repositories).filter(|(answer, _)| **answer == Answer::Waiting);
        waiting.filter(|(_, lazy)| why_unwritable(lazy).is_none()).count()
    };
    let patience = async {
        enough.cancelled().await;
        tokio::time::sleep(LEFTOVER_PATIENCE).await;
    };
    tokio::select! {
        sent = send(repositories, &everybody, Origin::alone(pg_wal, name), writer, Listeners { sealed: &|_, _| {}, answered: &report }) => {
            sent?;
        }
        () = patience => {}
        _ = hope_for(std::future::pending::<()>(), Duration::MAX, repositories, hopeful, 1) => {}
        // Whether enough have it is judged below: one that does not answer is no reason to fail then.
        () = tokio::time::sleep(deadline) => {}
    }
    let (answers, mut failures, stamp) = collected.into_inner().unwrap_or_else(PoisonError::into_inner);
    match judge(&answers, needed) {
        Verdict::Archived => stamp.map(|stamp| (stamp, failures)).ok_or(PushError::Died(name)),
        Verdict::Refused => {
            let refused = failures.iter().position(|error| matches!(error, PushError::Different { .. }));
            Err(refused.map_or(PushError::Died(name), |at| failures.swap_remove(at)))
        }
        Verdict::Failed | Verdict::Wait => Err(failures.into_iter().next().unwrap_or_else(|| {
            let failing: Vec<_> = repositories.iter().filter_map(|lazy| why_unwritable(lazy)).collect();
            if repositories.len().saturating_sub(failing.len()) < needed {
                return PushError::Unanswered { name, failing };
            }
            let waiting = answers.iter().zip(repositories).filter(|(answer, _)| **answer == Answer::Waiting);
            let waiting = waiting.map(|(_, lazy)| lazy.name().to_owned()).collect();
            PushError::Deadline { name, after: deadline, waiting }
        })),
    }
}
