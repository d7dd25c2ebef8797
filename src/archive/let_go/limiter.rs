//! `archive.queue_limit`: the one way to let WAL go rather than fill the disk. Off by default.
//!
//! When more WAL waits than the limit and the store is what keeps it from being archived, PostgreSQL is told to forget the oldest
//! file, and no more than brings the rest within the limit: what still waits is archived later without another gap. A wrong
//! key, a damaged object or another cluster's repository are not the store's doing: no time heals them, and whoever puts them
//! right needs the WAL. A timeline's history frees nothing, but PostgreSQL asks for it first: it is put off, and archived when the store
//! is back, from pg_wal, where PostgreSQL keeps it. Before PostgreSQL is told, the gap is noted durably in the agent's spool directory ([`Notes`]); a crash in between leaves a note of a
//! file that is asked for again. `settle.rs` brings the notes to the repositories.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::Notify;
use tracing::{error, warn};

use super::decision::{Facts, LetGoDecision, is_wal, judge};
use super::notes::Notes;
use crate::archive::push::error::PushError;
use crate::archive::push::pushed::Pushed;
use walward_base::Locked;
use walward_base::{ErrorClass, describe, format_bytes};
use walward_pg::{ControlFile, Lineage, SegmentSize, WalFileName, list_ready};
use walward_repo::gap::Gap;

/// One cluster's limit, and the gaps that it made.
#[derive(Debug)]
pub struct QueueLimit {
    limit: Option<u64>,
    pg_wal: PathBuf,
    host: String,
    pub(in crate::archive) notes: Notes,
    /// When the store failed last, and how; none when something was archived since.
    failed: Mutex<Option<(Instant, String)>>,
    /// Told when something was archived after a failure.
    pub(super) healed: Notify,
}

/// What waits, and whose it is.
struct Queue {
    lineage: Lineage,
    segment_size: SegmentSize,
    waiting: u64,
}

impl QueueLimit {
    /// `folder` keeps the notes; it is made when it is needed.
    pub fn new(limit: Option<u64>, pg_wal: &Path, folder: PathBuf, host: String) -> Self {
        Self {
            limit,
            pg_wal: pg_wal.to_path_buf(),
            host,
            notes: Notes::new(folder),
            failed: Mutex::default(),
            healed: Notify::new(),
        }
    }

    /// A file was archived, whether or not PostgreSQL has asked for it: the store works.
    pub fn worked(&self) {
        if self.failure().take().is_some() {
            self.healed.notify_one();
        }
    }

    /// The result of `attempt` to archive `name`, or, beyond the limit, that it was let go. `is_durable` answers whether this very file is
    /// in the repositories already: then it is not let go, and PostgreSQL is told so.
    pub async fn around(
        &self,
        name: WalFileName,
        is_durable: impl Fn() -> bool,
        attempt: impl Future<Output = Result<Pushed, Arc<PushError>>>,
    ) -> Result<Pushed, Arc<PushError>> {
        if self.limit.is_none() {
            return attempt.await;
        }
        if self.failure().is_some()
            && let Some(pushed) = self.let_go(name, &is_durable).await
        {
            return Ok(pushed);
        }
        let result = attempt.await;
        match &result {
            Ok(_) => self.worked(),
            Err(error) if error.is_the_stores() => *self.failure() = Some((Instant::now(), describe(error.as_ref()))),
            // A file that is refused wants a person, however much waits after it.
            Err(_) => return result,
        }
        match &result {
            Ok(_) => result,
            Err(_) => self.let_go(name, &is_durable).await.map_or(result, Ok),
        }
    }

    /// Lets `name` go, or puts it off, if that is the verdict; answers when it is noted, and only then.
    async fn let_go(&self, name: WalFileName, is_durable: impl Fn() -> bool) -> Option<Pushed> {
        let (at, reason) = self.failure().clone()?;
        let pg_wal = self.pg_wal.clone();
        let queue = match tokio::task::spawn_blocking(move || queue(&pg_wal)).await {
            Ok(Ok(queue)) => queue,
            Ok(Err(reason)) => {
                error!(reason, "cannot tell how much WAL waits, so that none is let go");
                return None;
            }
            Err(_) => return None,
        };
        let (failed, is_wal) = (Some(at.elapsed()), is_wal(name));
        let limit = self.limit?;
        let (how, why) = match judge(&Facts { limit: self.limit, waiting: queue.waiting, failed, is_wal }) {
            LetGoDecision::Keep(_) => return None,
            LetGoDecision::LetGo(why) => (Pushed::LetGo, why),
            LetGoDecision::PutOff(why) => (Pushed::PutOff, why),
        };
        if is_durable() {
            return Some(Pushed::Ahead);
        }
        let now = Timestamp::now();
        let gap = Gap {
            format: walward_repo::gap::FORMAT,
            lineage: queue.lineage,
            first: name,
            last: name,
            since: now,
            until: now,
            host: self.host.clone(),
            queue_limit: limit,
            waiting: queue.waiting,
            reason,
        };
        let (waiting, limit) = (format_bytes(queue.waiting), format_bytes(limit));
        match self.notes.add(gap, queue.segment_size).await {
            Ok(()) => {
                if how == Pushed::LetGo {
                    error!(
                        segment = %name, waiting, limit, why,
                        "WAL was let go: the archive has a gap, take a new backup as soon as the store is back"
                    );
                } else {
                    warn!(segment = %name, waiting, limit, why, "put off: it is archived as soon as the store is back");
                }
                Some(how)
            }
            Err(error) => {
                error!(segment = %name, error_class = %ErrorClass::of_io(&error), %error, "cannot note a gap, so that the file is kept");
                None
            }
        }
    }

    fn failure(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.failed.locked()
    }
}

/// Blocking.
fn queue(pg_wal: &Path) -> Result<Queue, String> {
    let data_directory = pg_wal.parent().unwrap_or(pg_wal);
    let control = ControlFile::read(data_directory).map_err(|error| describe(&error))?;
    let ready = list_ready(pg_wal).map_err(|error| describe(&error))?;
    let segments = ready.iter().filter(|name| is_wal(**name)).count();
    Ok(Queue {
        lineage: control.lineage(),
        segment_size: control.segment_size,
        waiting: control.segment_size.bytes().saturating_mul(segments as u64),
    })
}
