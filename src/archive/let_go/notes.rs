//! What was let go, as it is written down in the agent's spool directory until every repository was told.
//!
//! A note is durable when it was added, and grows only by being replaced. A crash leaves half a file at most, under a name that nobody reads.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::error;

use super::decision::is_wal;
use walward_base::Locked;
use walward_base::sys::durable;
use walward_base::sys::ground::{Ground, NotDone};
use walward_base::trace;
use walward_pg::{SegmentSize, WalFileName};
use walward_repo::gap::Gap;

/// How long the file system may take to keep or to read a note. PostgreSQL waits meanwhile, and keeps the file when it does not answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The gaps that some repository was not told of yet: one small file each, which survives everything that the disk does.
#[derive(Debug)]
pub struct Notes {
    kept: Arc<Kept>,
    /// Whose threads work there: the file system of the spool may hang.
    ground: Arc<Ground>,
}

#[derive(Debug)]
struct Kept {
    folder: PathBuf,
    /// As they lie in the folder; none before it was read. Held by the thread that reads and writes there, also when nobody waits for that any
    /// more: so nothing older is ever written later.
    known: Mutex<Option<Vec<Gap>>>,
    files: AtomicU64,
    unreadable: AtomicU64,
}

impl Notes {
    /// The notes in `folder`, which is made when it is needed.
    pub fn new(folder: PathBuf) -> Self {
        let ground = Ground::of(folder.parent().unwrap_or(&folder));
        let (files, unreadable) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { kept: Arc::new(Kept { folder, known: Mutex::default(), files, unreadable }), ground }
    }

    /// How many notes of WAL that was let go there are. None is known before the folder was read.
    pub fn count(&self) -> u64 {
        self.kept.files.load(Ordering::Relaxed)
    }

    /// How many of them cannot be read: of these gaps the repositories will not be told. One, when the folder cannot be.
    pub fn unreadable(&self) -> u64 {
        self.kept.unreadable.load(Ordering::Relaxed)
    }

    /// The notes.
    pub async fn all(&self) -> io::Result<Vec<Gap>> {
        self.within(ANSWERS_WITHIN, |_, notes| Ok(notes.clone())).await
    }

    /// Notes `gap`, which is of one file: as the end of a gap that it continues, or by itself. Durable when it returns.
    pub async fn add(&self, gap: Gap, size: SegmentSize) -> io::Result<()> {
        self.within(ANSWERS_WITHIN, move |kept, notes| kept.add(notes, gap, size)).await
    }

    /// Forgets a note that every repository was told of, unless it has grown meanwhile.
    pub async fn settled(&self, gap: &Gap) -> io::Result<()> {
        let gap = gap.clone();
        self.within(ANSWERS_WITHIN, move |kept, notes| kept.settled(notes, &gap)).await
    }

    /// Does `work` with the notes, if the file system answers within `limit`. What is not answered then may still be done.
    async fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(&Kept, &mut Vec<Gap>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let no_answer = || {
            let folder = self.kept.folder.display();
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("the file system of {folder} does not answer")))
        };
        if self.ground.hangs().is_some() {
            return no_answer();
        }
        let kept = Arc::clone(&self.kept);
        let work = trace::carried(move || {
            let mut known = kept.known.locked();
            work(&kept, kept.read(&mut known)?)
        });
        let done = self.ground.look_at(&self.kept.folder, limit, move |_| work()).await;
        done.unwrap_or_else(|error| match error {
            NotDone::Died => Err(io::Error::other("the thread that had the notes died")),
            NotDone::Hangs(_) | NotDone::NoThread | NotDone::Cancelled => no_answer(),
        })
    }
}

/// All of it is blocking.
impl Kept {
    fn add(&self, notes: &mut Vec<Gap>, gap: Gap, size: SegmentSize) -> io::Result<()> {
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
        let bytes = note.encode().map_err(io::Error::other)?;
        durable::create_dir_all_durable(&self.folder, 0o700)?;
        durable::replace(&self.path(&note), &bytes, 0o600)?;
        match continued.and_then(|at| notes.get_mut(at)) {
            Some(place) => *place = note,
            None => notes.push(note),
        }
        self.counted(notes);
        Ok(())
    }

    fn settled(&self, notes: &mut Vec<Gap>, gap: &Gap) -> io::Result<()> {
        let Some(at) = notes.iter().position(|note| note == gap) else { return Ok(()) };
        durable::remove_file(&self.path(gap))?;
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

    fn read<'a>(&self, known: &'a mut Option<Vec<Gap>>) -> io::Result<&'a mut Vec<Gap>> {
        if known.is_none() {
            let read = read_folder(&self.folder);
            self.unreadable.store(read.as_ref().map_or(1, |(_, unreadable)| *unreadable), Ordering::Relaxed);
            let (notes, _) = read?;
            self.counted(&notes);
            *known = Some(notes);
        }
        Ok(known.get_or_insert_default())
    }
}

/// Whether `next` is the segment after the last of `note`.
fn continues(note: &Gap, next: &Gap, size: SegmentSize) -> bool {
    match (note.last, next.first) {
        (WalFileName::Segment(last), WalFileName::Segment(first)) => {
            note.lineage == next.lineage && last.next(size) == Some(first)
        }
        _ => false,
    }
}

/// The notes, and how many cannot be read.
fn read_folder(folder: &Path) -> io::Result<(Vec<Gap>, u64)> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
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
    use super::*;
    use walward_pg::Lineage;

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
        std::fs::copy(notes.kept.path(&gap("00000002.history")), folder.path().join("let-go/.walward-1-0.tmp"))
            .unwrap();
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
        let damaged = notes.kept.path(&gap("000000010000000000000009"));
        durable::create(&damaged, b"{}\n", 0o600).unwrap();
        let again = Notes::new(folder.path().to_path_buf());
        assert_eq!(again.all().await.unwrap().len(), 1);
        assert_eq!((again.count(), again.unreadable()), (1, 1));
        assert!(damaged.exists());
        // Nor is a folder that cannot be read one without notes.
        let file = Notes::new(damaged);
        assert_eq!(file.all().await.unwrap_err().kind(), io::ErrorKind::NotADirectory);
        assert_eq!((file.count(), file.unreadable()), (0, 1));
        assert!(file.add(gap("000000010000000000000001"), SegmentSize::DEFAULT).await.is_err());
    }

    #[tokio::test]
    async fn a_note_that_hangs_is_told_in_time_and_nothing_older_is_written_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Arc::new(Notes::new(folder.path().join("let-go")));
        let limit = Duration::from_millis(200);
        let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
        let first = gap("000000010000000000000001");
        let hung = first.clone();
        let slow = notes.within(limit, move |kept, notes| {
            let _ = held.recv();
            kept.add(notes, hung, SegmentSize::DEFAULT)
        });
        assert_eq!(slow.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // What comes next waits for it, and is told as well.
        let next = notes.within(limit, |_, notes| Ok(notes.len()));
        assert_eq!(next.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(release);
        while notes.ground.hangs().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // It grows what was noted at last.
        notes.add(gap("000000010000000000000002"), SegmentSize::DEFAULT).await.unwrap();
        let all = notes.all().await.unwrap();
        assert!(all.len() == 1 && all[0].covers(first.first), "{all:?}");
        assert_eq!(Notes::new(folder.path().join("let-go")).all().await.unwrap(), all);
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
