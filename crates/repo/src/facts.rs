//! What is known of a WAL segment besides its bytes: computed from its records as they went by, and sealed in its own object (FORMAT.md, "Facts").
//! It can always be computed again: the WAL is the truth.

use bytes::Bytes;

use super::format::{Fields, FormatError};
use walward_pg::changes::{Doubt, STORED_BYTES_MAX, SegmentChanges, StoredError};
use walward_pg::{COMMITS_MAX, CommitIndex, Commits, Lsn, Mark, RestorePoint, SegmentName, Timeline, Unknown, Walked};

/// The longest content of a facts frame.
pub const FACTS_BYTES_MAX: usize = 1 << 20;

/// What each section holds. Stored; the numbers never change.
const WALK: u16 = 1;
const COMMIT_INDEX: u16 = 2;
const PREDECESSOR: u16 = 3;
const CHANGES: u16 = 4;

/// The longest section of changes. One that would be longer is left out: what a segment changes can be computed again.
pub const CHANGES_BYTES_MAX: usize = STORED_BYTES_MAX;

/// More restore points are not kept, and none has a longer name.
const RESTORE_POINTS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 255;

/// The segment before, as the writer knew it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predecessor {
    /// Its name; of a timeline's first segment that of the parent timeline's segment before.
    pub name: SegmentName,
    /// The digest of its content.
    pub digest: [u8; 32],
}

/// What a segment is, and what it continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The digest of its content.
    pub digest: [u8; 32],
    /// The segment that it follows; none where its writer did not know.
    pub predecessor: Option<Predecessor>,
}

impl Link {
    /// Whether it continues the segment `before`, whose content has `digest`; none where it does not speak of that segment.
    pub fn continues(&self, before: SegmentName, digest: &[u8; 32]) -> Option<bool> {
        let predecessor = self.predecessor.filter(|predecessor| predecessor.name == before)?;
        Some(predecessor.digest == *digest)
    }
}

/// What is known of a segment. What is absent is unknown, never "nothing".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// How far its records were walked through; all other facts about records end there.
    pub walk: Option<Walked>,
    /// When its transactions ended, its restore points.
    pub commits: Option<CommitIndex>,
    /// The segment that it follows.
    pub predecessor: Option<Predecessor>,
    /// What it changes of the cluster's relations.
    pub changes: Option<StoredChanges>,
}

/// What a segment changes, as it is stored: most readers of facts do not ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChanges(Bytes);

impl StoredChanges {
    /// Those of a segment; none when they would take more than [`CHANGES_BYTES_MAX`], also when they were let go for that
    /// ([`Doubt::TooMuch`]). The segment has to be read again then by what needs them: a stored doubt would stay for ever.
    pub fn of(changes: &SegmentChanges) -> Option<Self> {
        if changes.changes.doubts.contains_key(&Doubt::TooMuch) {
            return None;
        }
        let stored = changes.encode();
        (stored.len() <= CHANGES_BYTES_MAX).then(|| Self(stored.into()))
    }

    /// What they say.
    ///
    /// # Errors
    /// What no version writes that is known here.
    pub fn decode(&self) -> Result<SegmentChanges, StoredError> {
        SegmentChanges::decode(&self.0)
    }
}

impl Facts {
    /// As they are stored.
    pub fn encode(&self) -> Bytes {
        let mut facts = Vec::new();
        let mut section = |kind: u16, content: &[u8]| {
            facts.extend_from_slice(&kind.to_le_bytes());
            facts.extend_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
            facts.extend_from_slice(content);
        };
        if let Some(walk) = &self.walk {
            section(WALK, &encode_walk(walk));
        }
        if let Some(commits) = &self.commits {
            section(COMMIT_INDEX, &encode_commits(commits));
        }
        if let Some(Predecessor { name, digest }) = &self.predecessor {
            let mut content = Vec::with_capacity(44);
            for word in [name.timeline.0, name.log, name.segment] {
                content.extend_from_slice(&word.to_le_bytes());
            }
            content.extend_from_slice(digest);
            section(PREDECESSOR, &content);
        }
        if let Some(StoredChanges(changes)) = &self.changes {
            section(CHANGES, changes);
        }
        facts.into()
    }

    /// Reads them. Sections that are not known are passed over: a later version wrote them.
    ///
    /// # Errors
    /// What is not what [`Facts::encode`] writes.
    pub fn decode(stored: &[u8]) -> Result<Self, FormatError> {
        if stored.len() > FACTS_BYTES_MAX {
            return Err(FormatError::Facts("they are too long"));
        }
        let mut fields = Fields(stored);
        let (mut facts, mut before) = (Self::default(), 0);
        while !fields.0.is_empty() {
            let kind = fields.u16().ok_or(CUT)?;
            let length = fields.u32().and_then(|length| usize::try_from(length).ok()).ok_or(CUT)?;
            let content = fields.bytes(length).ok_or(CUT)?;
            if kind <= before {
                return Err(FormatError::Facts("their sections are not in order"));
            }
            before = kind;
            let mut fields = Fields(content);
            match kind {
                WALK => facts.walk = Some(decode_walk(&mut fields)?),
                COMMIT_INDEX => facts.commits = Some(decode_commits(&mut fields)?),
                PREDECESSOR => facts.predecessor = Some(decode_predecessor(&mut fields).ok_or(CUT)?),
                CHANGES => {
                    facts.changes = Some(StoredChanges(Bytes::copy_from_slice(content)));
                    continue;
                }
                _ => continue,
            }
            if !fields.0.is_empty() {
                return Err(FormatError::Facts("a section is too long"));
            }
        }
        Ok(facts)
    }

    /// The facts of a segment in which two transactions ended, for tests.
    #[doc(hidden)]
    pub fn of_times(first: i64, last: i64) -> Self {
        let commits =
            [(1, first), (2, last)].map(|(at, time)| Commits { lsn: Lsn(at), first: time, last: time, count: 1 });
        let commits = CommitIndex::stored(commits.to_vec(), Vec::new(), false, None, None);
        Self { commits: Some(commits), ..Self::default() }
    }

    /// The earliest and the latest time at which a transaction ended in the segment, microseconds since the Unix epoch; none when none
    /// did, or when it is not known.
    pub fn commit_times(&self) -> Option<(i64, i64)> {
        self.commits.as_ref().and_then(CommitIndex::times)
    }
}

const CUT: FormatError = FormatError::Facts("a section is cut short");

/// | offset | bytes | field |
/// |-------:|------:|-------|
/// |      0 |     1 | 0, or why the walk stopped |
/// |      1 |     8 | from which position on nothing is known, else 0 |
/// |      9 |     8 | position of the first record that begins in the segment, 0 when none does |
/// |     17 |     8 | the predecessor that it names |
/// |     25 |     8 | position of the last record that begins in the segment, else 0 |
fn encode_walk(walk: &Walked) -> Vec<u8> {
    let mut content = Vec::with_capacity(33);
    content.push(walk.unknown.map_or(0, |(_, why)| why as u8));
    let (first, previous) = walk.first.unwrap_or((Lsn(0), Lsn(0)));
    let unknown = walk.unknown.map_or(Lsn(0), |(from, _)| from);
    for lsn in [unknown, first, previous, walk.last.unwrap_or(Lsn(0))] {
        content.extend_from_slice(&lsn.0.to_le_bytes());
    }
    content
}

fn decode_walk(fields: &mut Fields<'_>) -> Result<Walked, FormatError> {
    let lsn = |fields: &mut Fields<'_>| fields.u64().map(Lsn).ok_or(CUT);
    let why = fields.u8().ok_or(CUT)?;
    let (from, first, previous, last) = (lsn(fields)?, lsn(fields)?, lsn(fields)?, lsn(fields)?);
    let unknown = match Unknown::from_stored(why) {
        Some(why) => Some((from, why)),
        None if why == 0 && from == Lsn(0) => None,
        None => return Err(FormatError::Facts("the walk ended for no known reason")),
    };
    // The first record of all begins after a page header.
    let first = (first != Lsn(0)).then_some((first, previous));
    let last = (last != Lsn(0)).then_some(last);
    if first.is_some() != last.is_some() || first.is_none() && previous != Lsn(0) {
        return Err(FormatError::Facts("the walk contradicts itself"));
    }
    Ok(Walked { unknown, first, last })
}

/// | bytes | field |
/// |------:|-------|
/// |     4 | the highest transaction, 0 when no record names one |
/// |     1 | bit 0: a moment follows; bit 1: restore points were left out |
/// |     8 | the moment's time, else 0 |
/// |     8 | the moment's position, else 0 |
/// |     2 | number of entries, below 512; each: u64 position of the last record, i64 earliest and i64 latest time, u32 count |
/// |     2 | number of restore points, at most 64; each: i64 time, u64 position, u8 length of the name, the name |
fn encode_commits(index: &CommitIndex) -> Vec<u8> {
    let mut content = index.highest_xid.unwrap_or(0).to_le_bytes().to_vec();
    content.push(u8::from(index.mark.is_some()) | u8::from(index.restore_points_left_out) << 1);
    let mark = index.mark.unwrap_or(Mark { time: 0, lsn: Lsn(0) });
    content.extend_from_slice(&mark.time.to_le_bytes());
    content.extend_from_slice(&mark.lsn.0.to_le_bytes());
    content.extend_from_slice(&u16::try_from(index.commits.len()).unwrap_or(u16::MAX).to_le_bytes());
    for commits in &index.commits {
        content.extend_from_slice(&commits.lsn.0.to_le_bytes());
        content.extend_from_slice(&commits.first.to_le_bytes());
        content.extend_from_slice(&commits.last.to_le_bytes());
        content.extend_from_slice(&commits.count.to_le_bytes());
    }
    content.extend_from_slice(&u16::try_from(index.restore_points.len()).unwrap_or(u16::MAX).to_le_bytes());
    for point in &index.restore_points {
        let mut end = point.name.len().min(NAME_BYTES_MAX);
        while !point.name.is_char_boundary(end) {
            end -= 1;
        }
        let name = point.name.as_bytes().get(..end).unwrap_or_default();
        content.extend_from_slice(&point.time.to_le_bytes());
        content.extend_from_slice(&point.lsn.0.to_le_bytes());
        content.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        content.extend_from_slice(name);
    }
    content
}

fn decode_commits(fields: &mut Fields<'_>) -> Result<CommitIndex, FormatError> {
    const WRONG: FormatError = FormatError::Facts("the commit index contradicts itself");
    let highest_xid = Some(fields.u32().ok_or(CUT)?).filter(|xid| *xid != 0);
    let flags = fields.u8().ok_or(CUT)?;
    let (time, lsn) = (fields.i64().ok_or(CUT)?, Lsn(fields.u64().ok_or(CUT)?));
    let mark = (flags & 1 != 0).then_some(Mark { time, lsn });
    if flags > 3 || mark.is_none() && (time, lsn) != (0, Lsn(0)) {
        return Err(WRONG);
    }
    let count = usize::from(fields.u16().ok_or(CUT)?);
    if count >= COMMITS_MAX {
        return Err(FormatError::Facts("the commit index has too many entries"));
    }
    let mut commits: Vec<Commits> = Vec::with_capacity(count);
    for _ in 0..count {
        let lsn = Lsn(fields.u64().ok_or(CUT)?);
        let (first, last) = (fields.i64().ok_or(CUT)?, fields.i64().ok_or(CUT)?);
        let count = fields.u32().ok_or(CUT)?;
        let is_next = commits.last().is_none_or(|before| before.lsn < lsn);
        if !is_next || first > last || count == 0 {
            return Err(WRONG);
        }
        commits.push(Commits { lsn, first, last, count });
    }
    let count = usize::from(fields.u16().ok_or(CUT)?);
    if count > RESTORE_POINTS_MAX {
        return Err(FormatError::Facts("there are too many restore points"));
    }
    let mut restore_points = Vec::with_capacity(count);
    for _ in 0..count {
        let (time, lsn) = (fields.i64().ok_or(CUT)?, Lsn(fields.u64().ok_or(CUT)?));
        let length = usize::from(fields.u8().ok_or(CUT)?);
        let name = std::str::from_utf8(fields.bytes(length).ok_or(CUT)?).map_err(|_| WRONG)?;
        restore_points.push(RestorePoint { name: name.to_owned(), time, lsn });
    }
    Ok(CommitIndex::stored(commits, restore_points, flags & 2 != 0, mark, highest_xid))
}

fn decode_predecessor(fields: &mut Fields<'_>) -> Option<Predecessor> {
    let (timeline, log, segment) = (Timeline(fields.u32()?), fields.u32()?, fields.u32()?);
    Some(Predecessor { name: SegmentName { timeline, log, segment }, digest: fields.array()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use walward_pg::SegmentSize;
    use walward_pg::changes::{self, BlockSet, RelationChanges, RelationName};

    use super::*;

    fn walks() -> impl Strategy<Value = Walked> {
        let unknown = proptest::option::of((any::<u64>(), 1u8..=6));
        (unknown, proptest::option::of((1u64.., any::<u64>(), 1u64..))).prop_map(|(unknown, records)| Walked {
            unknown: unknown.map(|(lsn, why)| (Lsn(lsn), Unknown::from_stored(why).expect("a reason"))),
            first: records.map(|(first, previous, _)| (Lsn(first), Lsn(previous))),
            last: records.map(|(.., last)| Lsn(last)),
        })
    }

    fn indexes() -> impl Strategy<Value = CommitIndex> {
        let commits = proptest::collection::vec((1u64..1000, any::<(i64, i64)>(), 1u32..), 0..COMMITS_MAX);
        let points = proptest::collection::vec(("[a-zé ]{0,63}", any::<i64>(), any::<u64>()), 0..=64);
        let mark = proptest::option::of(any::<(i64, u64)>());
        (commits, points, any::<bool>(), mark, proptest::option::of(1u32..)).prop_map(
            |(commits, points, left_out, mark, xid)| {
                let mut at = 0;
                let commits = commits.into_iter().map(|(step, (one, other), count)| {
                    at += step;
                    Commits { lsn: Lsn(at), first: one.min(other), last: one.max(other), count }
                });
                let points = points.into_iter().map(|(name, time, lsn)| RestorePoint { name, time, lsn: Lsn(lsn) });
                let mark = mark.map(|(time, lsn)| Mark { time, lsn: Lsn(lsn) });
                CommitIndex::stored(commits.collect(), points.collect(), left_out, mark, xid)
            },
        )
    }

    #[test]
    fn more_changes_than_are_stored_are_left_out_and_never_stored_as_a_doubt() {
        let size = SegmentSize::DEFAULT;
        let mut segment = SegmentChanges {
            major: 15,
            start: Lsn(size.bytes()),
            size,
            entry: changes::Entry::Record,
            first: None,
            last: None,
            open: None,
            changes: changes::Changes::default(),
        };
        let few = StoredChanges::of(&segment).expect("stored");
        assert_eq!(few.decode().as_ref(), Ok(&segment));
        let mut let_go = segment.clone();
        let_go.changes.doubts.insert(Doubt::TooMuch, segment.start);
        assert_eq!(StoredChanges::of(&let_go), None);
        let relations = (0..100_000).map(|relation| RelationName { tablespace: 1663, database: 5, relation });
        let block: BlockSet = [7].into_iter().collect();
        segment.changes.relations =
            relations.map(|name| (name, RelationChanges { blocks: block.clone(), limit: None })).collect();
        assert!(segment.encode().len() > CHANGES_BYTES_MAX);
        assert_eq!(StoredChanges::of(&segment), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            walk in proptest::option::of(walks()),
            commits in proptest::option::of(indexes()),
            predecessor in proptest::option::of(any::<(u32, u32, u32, [u8; 32])>()),
            changes: Option<Vec<u8>>,
            later: Option<Vec<u8>>,
        ) {
            let predecessor = predecessor.map(|(timeline, log, segment, digest)| Predecessor {
                name: SegmentName { timeline: Timeline(timeline), log, segment },
                digest,
            });
            // They are understood by who asks for them, and by nobody else.
            let changes = changes.map(|changes| StoredChanges(changes.into()));
            let facts = Facts { walk, commits, predecessor, changes };
            let mut stored = facts.encode().to_vec();
            prop_assert!(stored.len() < 64 << 10);
            // What a later version adds.
            if let Some(later) = later {
                stored.extend_from_slice(&9u16.to_le_bytes());
                stored.extend_from_slice(&u32::try_from(later.len()).expect("short").to_le_bytes());
                stored.extend_from_slice(&later);
            }
            prop_assert_eq!(Facts::decode(&stored), Ok(facts));
            for end in 0..stored.len().min(80) {
                let cut = Facts::decode(&stored[..end]);
                prop_assert!(cut.is_err() || cut.is_ok_and(|cut| cut.encode().len() == end));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, kind in 0u16..6, framed: bool) {
            let mut stored = Vec::new();
            if framed {
                stored.extend_from_slice(&kind.to_le_bytes());
                stored.extend_from_slice(&u32::try_from(bytes.len()).expect("short").to_le_bytes());
            }
            stored.extend(bytes);
            if let Ok(facts) = Facts::decode(&stored) {
                prop_assert_eq!(Facts::decode(&facts.encode()), Ok(facts));
            }
        }
    }
}
