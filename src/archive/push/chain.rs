//! What this server's segments are, so that each is stored with the digest of the one before it (crates/repo/FORMAT.md, "Facts"): where two
//! lives of a cluster were archived under one another's names, a segment does not continue the one that lies before it, and that shows.
//!
//! Of a segment that was read in the same life of the server the digest is remembered. Of another one it is made from the file, as long as that
//! lies in pg_wal: complete, because a later one is archived. Else it is not known, and nothing is said.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::source::WalFile;
use walward_base::Locked;
use walward_pg::{SegmentName, SegmentSize, ServerLife, TimelineHistory, WalFileName, segment_before};
use walward_repo::facts::Predecessor;
use walward_repo::format::ContentDigest;

/// So many digests are remembered, of the newest segments.
const DIGESTS_MAX: usize = 1024;
/// How long the segment before is waited for while it is being read, before it is read once more.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is remembered of one server, in its newest life. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Chain(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    links: Mutex<Links>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Links {
    life: Option<ServerLife>,
    digests: BTreeMap<SegmentName, [u8; 32]>,
    /// Segments that are being read, and how often.
    reading: BTreeMap<SegmentName, usize>,
}

/// As one file sees it, of the life in which it is archived. Without a life nothing is remembered.
#[derive(Debug, Clone, Default)]
pub struct ChainOfLife {
    chain: Chain,
    life: Option<ServerLife>,
}

/// A segment that is being read. Dropped, nobody waits for it any more.
#[derive(Debug)]
pub struct Reading {
    of: ChainOfLife,
    segment: Option<SegmentName>,
}

impl Chain {
    /// For files of `life`: what is remembered of an earlier one goes.
    pub fn of(&self, life: Option<ServerLife>) -> ChainOfLife {
        let mut links = self.0.links.locked();
        if life.is_some() && links.life != life {
            *links = Links { life, ..Links::default() };
        }
        ChainOfLife { chain: self.clone(), life }
    }
}

impl ChainOfLife {
    /// The file `name` is being read.
    pub fn reading(&self, name: WalFileName) -> Reading {
        let segment = match name {
            WalFileName::Segment(segment) => Some(segment),
            WalFileName::Partial(_) | WalFileName::History(_) | WalFileName::BackupHistory(..) => None,
        };
        let reading = Reading { of: self.clone(), segment };
        reading.change(|links, segment| *links.reading.entry(segment).or_default() += 1);
        reading
    }

    /// What comes right before `segment` in this server's WAL. Blocking; takes the reading of a segment at worst.
    pub fn before(&self, pg_wal: &Path, segment: SegmentName, size: SegmentSize) -> Option<Predecessor> {
        let name = segment_before(segment, size, TimelineHistory::in_pg_wal(pg_wal, segment.timeline).as_ref())?;
        let digest = self.remembered(name).or_else(|| digest(pg_wal, name, size).ok())?;
        Some(Predecessor { name, digest })
    }

    fn remembered(&self, segment: SegmentName) -> Option<[u8; 32]> {
        let until = Instant::now() + PATIENCE;
        let mut links = self.chain.0.links.locked();
        while self.life.is_some() && links.life == self.life {
            if let Some(digest) = links.digests.get(&segment) {
                return Some(*digest);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !links.reading.contains_key(&segment) {
                return None;
            }
            links = self.chain.0.changed.wait_timeout(links, left).ok()?.0;
        }
        None
    }
}

impl Reading {
    /// It was read, and this is its digest.
    pub fn done(&self, digest: [u8; 32]) {
        self.change(|links, segment| {
            links.digests.insert(segment, digest);
            if links.digests.len() > DIGESTS_MAX {
                links.digests.pop_first();
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Links, SegmentName)) {
        let Some(segment) = self.segment else { return };
        let mut links = self.of.chain.0.links.locked();
        if self.of.life.is_some() && links.life == self.of.life {
            change(&mut links, segment);
            self.of.chain.0.changed.notify_all();
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.change(|links, segment| {
            if let Some(times) = links.reading.get_mut(&segment).filter(|times| **times > 1) {
                *times -= 1;
            } else {
                links.reading.remove(&segment);
            }
        });
    }
}

/// The digest of a whole segment in pg_wal. Blocking.
///
/// # Errors
/// It is not there, or changes meanwhile, or its records do not reach its end: a standby has not received the rest, or not all can be read.
pub fn digest(pg_wal: &Path, segment: SegmentName, size: SegmentSize) -> io::Result<[u8; 32]> {
    let file = WalFile::open(pg_wal, WalFileName::Segment(segment))?;
    if file.bytes() != size.bytes() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut digest = ContentDigest::new();
    let walked = file.read_through(|chunk| digest.take(&chunk))?;
    if walked.is_none_or(|walked| walked.unknown.is_some()) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(digest.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    use walward_pg::{Lineage, synthetic};

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn segment(text: &str) -> SegmentName {
        text.parse().expect("a name")
    }

    fn server(folder: &Path, started: u32) -> Option<ServerLife> {
        let text = format!("77\n/data\n{started}\n5432\n");
        walward_base::sys::durable::replace(&folder.join("postmaster.pid"), text.as_bytes(), 0o600).expect("written");
        ServerLife::read(folder).expect("read")
    }

    #[test]
    fn the_one_before_is_what_was_read_in_this_life_or_what_lies_in_pg_wal() {
        let folder = tempfile::tempdir().expect("a folder");
        let pg_wal = folder.path().join("pg_wal");
        std::fs::create_dir(&pg_wal).expect("made");
        let (one, two) = (segment("000000010000000000000001"), segment("000000010000000000000002"));
        let chain = Chain::default();
        let first = chain.of(server(folder.path(), 1));
        assert_eq!(first.before(&pg_wal, two, SIZE), None, "nothing is known");
        let reading = first.reading(WalFileName::Segment(one));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| first.before(&pg_wal, two, SIZE));
            reading.done([7; 32]);
            assert_eq!(waits.join().expect("ended"), Some(Predecessor { name: one, digest: [7; 32] }));
        });
        // Nobody waits for what is not being read any more.
        drop(reading);
        assert_eq!(first.before(&pg_wal, two, SIZE).map(|before| before.digest), Some([7; 32]));
        // Another life begins with what lies in pg_wal, and what an old one still reads is not its own.
        let second = chain.of(server(folder.path(), 2));
        first.reading(WalFileName::Segment(one)).done([8; 32]);
        assert_eq!(second.before(&pg_wal, two, SIZE), None);
        assert_eq!(chain.of(None).before(&pg_wal, two, SIZE), None);
        let fill = vec![3; usize::try_from(SIZE.bytes()).expect("small")];
        let lineage = Lineage { major: 15, system_identifier: 7 };
        let content = synthetic::segment(one, SIZE, lineage, fill);
        let path = pg_wal.join(one.to_string());
        walward_base::sys::durable::replace(&path, &content, 0o600).expect("written");
        let mut digest = ContentDigest::new();
        digest.take(&content);
        let expected = Some(Predecessor { name: one, digest: digest.finish() });
        assert_eq!(second.before(&pg_wal, two, SIZE), expected);
        assert_eq!(chain.of(None).before(&pg_wal, two, SIZE), expected);
        walward_base::sys::durable::replace(&path, &content[..99], 0o600).expect("written");
        assert_eq!(second.before(&pg_wal, two, SIZE), None, "half of one is none");
        // What a standby has received of it, in a file that was another segment.
        let (mut received, middle) = (content, usize::try_from(SIZE.bytes() / 2).expect("small"));
        received[middle..].fill(3);
        walward_base::sys::durable::replace(&path, &received, 0o600).expect("written");
        assert_eq!(second.before(&pg_wal, two, SIZE), None, "nor what does not reach its end");
    }

    #[test]
    fn before_a_timelines_first_segment_comes_its_parents() {
        let folder = tempfile::tempdir().expect("a folder");
        let chain = Chain::default();
        let life = chain.of(server(folder.path(), 1));
        let put = |name: &str, byte| life.reading(WalFileName::Segment(segment(name))).done([byte; 32]);
        put("000000010000000000000004", 1);
        put("000000010000000000000005", 9);
        put("000000020000000000000005", 2);
        let history = folder.path().join("00000002.history");
        walward_base::sys::durable::replace(&history, b"1\t0/5800000\tx\n", 0o600).expect("written");
        let before = |name: &str| life.before(folder.path(), segment(name), SIZE).map(|before| before.digest);
        assert_eq!(before("000000020000000000000005"), Some([1; 32]));
        assert_eq!(before("000000020000000000000006"), Some([2; 32]));
        assert_eq!(before("000000020000000000000007"), None);
    }
}
