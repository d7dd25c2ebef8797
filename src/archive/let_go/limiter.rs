//! `archive.queue_limit`: the one way to let WAL go rather than fill the disk. Off by default.
//!
//! When more WAL waits than the limit and the store is what keeps it from being archived, PostgreSQL is told to forget the oldest
//! file, and no more than brings the rest within the limit: what still waits is archived later without another gap. A wrong
//! key, a damaged object or another cluster's repository are not the store's doing: no time heals them, and whoever puts them
//! right needs the WAL. A timeline's history frees nothing, but PostgreSQL asks for it first: it is put off, and archived when the store
//! is back, from pg_wal, where PostgreSQL keeps it. Before PostgreSQL is told, the gap is noted durably in the agent's spool directory ([`Notes`]); a crash in between leaves a note of a
//! file that is asked for again. `settle.rs` brings the notes to the repositories.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Notify;
use tracing::{error, warn};

use crate::archive::push::archiver::Pushed;
use crate::archive::push::upload::PushError;
use walward_base::sys::durable;
use walward_base::{ErrorClass, describe, format_bytes, trace};
use walward_pg::{ControlFile, Lineage, SegmentSize, WalFileName, list_ready};
use walward_repo::gap::Gap;

/// How long a failure of the store is believed without trying again. Files that are let go meanwhile cost no deadline each:
/// PostgreSQL may write faster than deadlines pass.
const FAILURE_BELIEVED: Duration = Duration::from_mins(1);

/// What is known when a file could not be archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// `archive.queue_limit`, bytes; none when it is off.
    pub limit: Option<u64>,
    /// WAL that waits, bytes.
    pub waiting: u64,
    /// How long ago the store failed last, and nothing was archived since; none when it works, or was not tried.
    pub failed: Option<Duration>,
    /// It is WAL, which PostgreSQL removes when it was told to forget it. A timeline's or a backup's history is a few bytes.
    pub is_wal: bool,
}

/// What to do with a file that was not archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It waits, because of this.
    Keep(&'static str),
    /// PostgreSQL is told to forget it, because of this.
    LetGo(&'static str),
    /// PostgreSQL is told to go on, because of this, and the file is archived from where it lies when the store is back.
    PutOff(&'static str),
}

/// Decides. Pure.
pub fn judge(facts: &Facts) -> Verdict {
    let Some(limit) = facts.limit else { return Verdict::Keep("there is no queue_limit") };
    match facts.failed {
        None => Verdict::Keep("the store has not failed"),
        Some(since) if since > FAILURE_BELIEVED => Verdict::Keep("the store was not tried lately"),
        Some(_) if facts.waiting <= limit => Verdict::Keep("no more waits than queue_limit allows"),
        Some(_) if facts.is_wal => Verdict::LetGo("more waits than queue_limit allows, and the store fails"),
        Some(_) => Verdict::PutOff("it keeps WAL from being let go, of which more waits than queue_limit allows"),
    }
}

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
            // A file that is refused wants a person, however much waits behind it.
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
            Verdict::Keep(_) => return None,
            Verdict::LetGo(why) => (Pushed::LetGo, why),
            Verdict::PutOff(why) => (Pushed::PutOff, why),
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
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether letting it go frees anything.
fn is_wal(name: WalFileName) -> bool {
    matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_))
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

/// The gaps that some repository was not told of yet: one small file each, which survives everything that the disk does.
#[derive(Debug)]
pub struct Notes {
    folder: PathBuf,
    /// As they lie in the folder; none before it was read.
    known: tokio::sync::Mutex<Option<Vec<Gap>>>,
    files: AtomicU64,
    unreadable: AtomicU64,
}

impl Notes {
    fn new(folder: PathBuf) -> Self {
        let (files, unreadable) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { folder, known: tokio::sync::Mutex::default(), files, unreadable }
    }

    /// How many notes of WAL that was let go there are. None is known before the folder was read.
    pub fn count(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// How many of them cannot be read: of these gaps the repositories will not be told. One, when the folder cannot be.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// The notes.
    pub async fn all(&self) -> std::io::Result<Vec<Gap>> {
        let mut known = self.known.lock().await;
        Ok(self.read(&mut known).await?.clone())
    }

    /// Notes `gap`, which is of one file: as the end of a gap that it continues, or by itself. Durable when it returns.
    async fn add(&self, gap: Gap, size: SegmentSize) -> std::io::Result<()> {
        let mut known = self.known.lock().await;
        let notes = self.read(&mut known).await?;
        // Asked for again after a crash between the note and the answer.
        if notes.iter().any(|note| note.lineage == gap.lineage && note.covers(gap.first)) {
            return Ok(());
        }
        let continued = notes.iter().position(|note| continues(note, &gap, size));
        let note = match continued.and_then(|at| notes.get(at)) {
            Some(note) => Gap {
                last: gap.last,
                until: gap.until,
                waiting: gap.waiting.max(note.waiting),
                queue_limit: gap.queue_limit,
                ..note.clone()
            },
            None => gap,
        };
        let bytes = note.encode().map_err(std::io::Error::other)?;
        let (folder, path) = (self.folder.clone(), self.path(&note));
        blocking(move || {
            durable::create_dir_all_durable(&folder, 0o700)?;
            durable::replace(&path, &bytes, 0o600)
        })
        .await?;
        match continued.and_then(|at| notes.get_mut(at)) {
            Some(place) => *place = note,
            None => notes.push(note),
        }
        self.counted(notes);
        Ok(())
    }

    /// Forgets a note that every repository was told of, unless it has grown meanwhile.
    pub async fn settled(&self, gap: &Gap) -> std::io::Result<()> {
        let mut known = self.known.lock().await;
        let notes = self.read(&mut known).await?;
        let Some(at) = notes.iter().position(|note| note == gap) else { return Ok(()) };
        let path = self.path(gap);
        blocking(move || durable::remove_file(&path)).await?;
        notes.remove(at);
        self.counted(notes);
        Ok(())
    }

    fn counted(&self, notes: &[Gap]) {
        let gaps = notes.iter().filter(|note| is_wal(note.first)).count();
        self.files.store(gaps as u64, Ordering::Relaxed);
    }

    fn path(&self, gap: &Gap) -> PathBuf {
        self.folder.join(format!("{}-{}.json", gap.lineage, gap.first))
    }

    async fn read<'a>(&self, known: &'a mut Option<Vec<Gap>>) -> std::io::Result<&'a mut Vec<Gap>> {
        if known.is_none() {
            let folder = self.folder.clone();
            let read = blocking(move || read_folder(&folder)).await;
            self.unreadable.store(read.as_ref().map_or(1, |(_, unreadable)| *unreadable), Ordering::Relaxed);
            let (notes, _) = read?;
            self.counted(&notes);
            *known = Some(notes);
        }
        Ok(known.get_or_insert_default())
    }
}

/// Whether `next` is the segment behind the last of `note`.
fn continues(note: &Gap, next: &Gap, size: SegmentSize) -> bool {
    match (note.last, next.first) {
        (WalFileName::Segment(last), WalFileName::Segment(first)) => {
            note.lineage == next.lineage && last.next(size) == Some(first)
        }
        _ => false,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(trace::carried(work)).await.unwrap_or_else(|died| Err(std::io::Error::other(died)))
}

/// The notes, and how many cannot be read.
fn read_folder(folder: &Path) -> std::io::Result<(Vec<Gap>, u64)> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        other => other?,
    };
    let (mut notes, mut unreadable) = (Vec::new(), 0);
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if durable::is_temporary_name(name) {
            continue;
        }
        match Gap::decode(&std::fs::read(&path)?) {
            Ok(gap) => notes.push(gap),
            // It stays where it is, for a person.
            Err(error) => {
                unreadable += 1;
                error!(note = %path.display(), %error, "the note of a gap cannot be read and is left out");
            }
        }
    }
    notes.sort_by_key(|note| note.since);
    Ok((notes, unreadable))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 1 << 20;

    fn facts() -> impl Strategy<Value = Facts> {
        let failed = proptest::option::of((0u64..200).prop_map(Duration::from_secs));
        let facts = (proptest::option::of(0u64..100), 0u64..200, failed, any::<bool>());
        facts.prop_map(|(limit, waiting, failed, is_wal)| Facts {
            limit: limit.map(|limit| limit * SIZE),
            waiting: waiting * SIZE,
            failed,
            is_wal,
        })
    }

    proptest! {
        #[test]
        fn nothing_is_let_go_but_beyond_a_limit_while_the_store_fails(facts in facts()) {
            let verdict = judge(&facts);
            if !matches!(verdict, Verdict::Keep(_)) {
                prop_assert!(facts.limit.is_some_and(|limit| facts.waiting > limit));
                prop_assert!(facts.failed.is_some_and(|since| since <= FAILURE_BELIEVED));
                prop_assert_eq!(matches!(verdict, Verdict::LetGo(_)), facts.is_wal, "nothing else frees anything");
            }
        }

        /// More waiting, a lower limit or a younger failure never turn "let go" into "keep".
        #[test]
        fn the_verdict_is_monotone(facts in facts(), more in 0u64..50) {
            if let Verdict::LetGo(_) = judge(&facts) {
                let worse = Facts {
                    limit: facts.limit.map(|limit| limit.saturating_sub(more * SIZE)),
                    waiting: facts.waiting + more * SIZE,
                    failed: facts.failed.map(|since| since.saturating_sub(Duration::from_secs(more))),
                    is_wal: true,
                };
                prop_assert!(matches!(judge(&worse), Verdict::LetGo(_)));
            }
        }

        /// PostgreSQL's archiver over a store that comes and goes: the queue never stays beyond the limit while the store is
        /// away, what is let go is the oldest and no more than needed, and nothing is while the store works.
        #[test]
        fn a_queue_stays_within_its_limit_and_loses_no_more_than_that(
            limit in 0u64..20,
            steps in proptest::collection::vec((0u64..6, any::<bool>()), 1..200),
        ) {
            let (mut next, mut written) = (0u64, 0u64);
            let mut failed = false;
            for (arrive, works) in steps {
                written += arrive;
                let before = written - next;
                let mut gone = 0;
                loop {
                    let waiting = (written - next) * SIZE;
                    let known = failed.then_some(Duration::ZERO);
                    let verdict = judge(&Facts { limit: Some(limit * SIZE), waiting, failed: known, is_wal: true });
                    if next < written && matches!(verdict, Verdict::LetGo(_)) {
                        prop_assert!(!works || failed);
                        gone += 1;
                    } else if next < written && works {
                        failed = false;
                    } else {
                        failed |= next < written;
                        if next == written || written - next <= limit {
                            break;
                        }
                        continue;
                    }
                    next += 1;
                }
                prop_assert!(gone <= before.saturating_sub(limit));
                prop_assert!(works || written - next <= limit);
            }
        }
    }

    fn gap(name: &str) -> Gap {
        Gap {
            format: 1,
            lineage: Lineage { major: 15, system_identifier: 7 },
            first: name.parse().unwrap(),
            last: name.parse().unwrap(),
            since: "2026-11-21T06:41:58Z".parse().unwrap(),
            until: "2026-11-21T06:41:58Z".parse().unwrap(),
            host: "db1".to_owned(),
            queue_limit: 1,
            waiting: 2,
            reason: "gone".to_owned(),
        }
    }

    #[tokio::test]
    async fn notes_grow_are_kept_over_a_restart_and_settled_only_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes::new(folder.path().join("let-go"));
        assert_eq!(notes.all().await.unwrap(), []);
        for name in ["0000000100000000000000FE", "0000000100000000000000FF", "000000010000000100000000"] {
            notes.add(gap(name), SegmentSize::DEFAULT).await.unwrap();
        }
        notes.add(gap("00000002.history"), SegmentSize::DEFAULT).await.unwrap();
        notes.add(gap("000000010000000100000007"), SegmentSize::DEFAULT).await.unwrap();
        let ranges = |all: &[Gap]| all.iter().map(|gap| format!("{}-{}", gap.first, gap.last)).collect::<Vec<_>>();
        let mut wanted = ranges(&notes.all().await.unwrap());
        wanted.sort();
        assert_eq!(
            wanted,
            [
                "0000000100000000000000FE-000000010000000100000000",
                "000000010000000100000007-000000010000000100000007",
                "00000002.history-00000002.history"
            ]
        );
        // A crash leaves half a note at most, under a name that nobody reads.
        std::fs::copy(notes.path(&gap("00000002.history")), folder.path().join("let-go/.walward-1-0.tmp")).unwrap();
        let again = Notes::new(folder.path().join("let-go"));
        let mut found = ranges(&again.all().await.unwrap());
        found.sort();
        assert_eq!((found, again.count()), (wanted, 2), "a history is no gap yet");
        // Asked for again: nothing new.
        again.add(gap("0000000100000000000000FF"), SegmentSize::DEFAULT).await.unwrap();
        assert_eq!(again.count(), 2);

        let old =
            again.all().await.unwrap().into_iter().find(|gap| gap.covers("0000000100000000000000FE".parse().unwrap()));
        again.add(gap("000000010000000100000001"), SegmentSize::DEFAULT).await.unwrap();
        again.settled(&old.unwrap()).await.unwrap();
        assert_eq!(again.count(), 2, "it has grown since the repositories were told");
        for note in again.all().await.unwrap() {
            again.settled(&note).await.unwrap();
        }
        assert_eq!((again.count(), Notes::new(folder.path().join("let-go")).all().await.unwrap().len()), (0, 0));
    }

    #[tokio::test]
    async fn a_note_that_cannot_be_read_is_counted_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes::new(folder.path().to_path_buf());
        notes.add(gap("000000010000000000000001"), SegmentSize::DEFAULT).await.unwrap();
        let damaged = notes.path(&gap("000000010000000000000009"));
        durable::create(&damaged, b"{}\n", 0o600).unwrap();
        let again = Notes::new(folder.path().to_path_buf());
        assert_eq!(again.all().await.unwrap().len(), 1);
        assert_eq!((again.count(), again.unreadable()), (1, 1));
        assert!(damaged.exists());
        // Nor is a folder that cannot be read one without notes.
        let file = Notes::new(damaged);
        assert_eq!(file.all().await.unwrap_err().kind(), std::io::ErrorKind::NotADirectory);
        assert_eq!((file.count(), file.unreadable()), (0, 1));
        assert!(file.add(gap("000000010000000000000001"), SegmentSize::DEFAULT).await.is_err());
    }

    #[tokio::test]
    async fn the_same_name_of_another_lineage_is_another_gap() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes::new(folder.path().to_path_buf());
        let first = gap("000000010000000000000001");
        let second = Gap { lineage: Lineage { major: 16, system_identifier: 7 }, ..first.clone() };
        for gap in [&first, &second] {
            notes.add(gap.clone(), SegmentSize::DEFAULT).await.unwrap();
        }
        notes.settled(&first).await.unwrap();
        assert_eq!(Notes::new(folder.path().to_path_buf()).all().await.unwrap(), [second]);
    }
}
