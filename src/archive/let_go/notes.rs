//! What was let go, as it is written down in the agent's spool directory until every repository was told.
//!
//! A note is durable when it was added, and grows only by being replaced. A crash leaves half a file at most, under a name that nobody reads.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::error;

use super::decision::is_wal;
use walward_base::sys::durable;
use walward_base::trace;
use walward_pg::{SegmentSize, WalFileName};
use walward_repo::gap::Gap;

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
    /// The notes in `folder`, which is made when it is needed.
    pub fn new(folder: PathBuf) -> Self {
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
    pub async fn add(&self, gap: Gap, size: SegmentSize) -> std::io::Result<()> {
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
