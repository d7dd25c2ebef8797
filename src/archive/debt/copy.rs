//! Brings one repository's WAL into another: whatever it lacks, however old. What was copied stays; a run that was cut goes on
//! where it stopped, because it looks at what is missing.
//!
//! What both have is compared where something is missing beside it, and at the end of every timeline (`agree.rs`). Where the two
//! part, nothing is copied that comes after it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::StreamExt;
use futures::stream;
use serde::Serialize;

use crate::archive::agree::{Parting, Seams, before_its_timeline, begin, parting};
use crate::archive::follows::is_withheld;
use walward_base::{ErrorClass, describe};
use walward_pg::{Lineage, Timeline, TimelineHistory, WalFileName};
use walward_repo::identity::LineageEntry;
use walward_repo::transfer::{TransferError, copy_new};
use walward_repo::{PutNew, RepoError, Repository, gap, layout, stored};
use walward_storage::{Listing, ObjectKey};

/// Bytes of WAL in memory at once, and files at most.
const BYTES_AT_ONCE: u64 = 64 << 20;
const FILES_AT_ONCE: u64 = 4;

/// A file that one repository has and the other lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingFile {
    /// Of which lineage.
    pub lineage: Lineage,
    /// The file.
    pub name: WalFileName,
    /// Its length as stored where it is.
    pub stored_bytes: u64,
}

/// What a copy of WAL did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CopiedWal {
    /// Files that were copied.
    pub copied: u64,
    /// Files that could not be read where they are; each with the reason.
    pub damaged: Vec<String>,
    /// Files whose names are taken by other content.
    pub contradictions: Vec<String>,
    /// Files that were not copied because they come after one of these.
    pub withheld: u64,
}

/// What a copy of WAL is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// The files that the second repository lacks, and that fit to what it has.
    pub files: Vec<MissingFile>,
    /// Files with two contents, in words.
    pub contradictions: Vec<String>,
    /// How many files are not in `files` because they come after these.
    pub withheld: u64,
}

/// The files of every lineage that `from` has and `to` lacks, the histories of a lineage before its segments, these in order.
pub async fn missing_wal(from: &Repository, to: &Repository) -> Result<Missing, TransferError> {
    let mut all = Missing::default();
    for entry in &from.identity().lineages {
        let (files, partings) = look(from, to, entry).await?;
        all.contradictions.extend(partings.iter().map(|parting| parting.why.clone()));
        let mut histories: HashMap<Timeline, Option<TimelineHistory>> = HashMap::new();
        for file in files {
            let timeline = file.name.timeline();
            if !partings.is_empty() && !histories.contains_key(&timeline) {
                let text = stored::history(from, entry.lineage, timeline).await.ok();
                histories.insert(timeline, text.and_then(|text| TimelineHistory::parse(timeline, &text).ok()));
            }
            let history = histories.get(&timeline).and_then(Option::as_ref);
            if partings.iter().any(|parting| is_withheld(parting.first, file.name, history, entry.segment_bytes)) {
                all.withheld += 1;
            } else {
                all.files.push(file);
            }
        }
    }
    Ok(all)
}

/// What `to` lacks of one lineage, and where the two part.
async fn look(
    from: &Repository,
    to: &Repository,
    entry: &LineageEntry,
) -> Result<(Vec<MissingFile>, Vec<Parting>), TransferError> {
    let (lineage, size) = (entry.lineage, entry.segment_bytes);
    let read = |source| TransferError::From { repository: from.name().to_owned(), source };
    let written = |source| TransferError::To { repository: to.name().to_owned(), source };
    let (mut missing, mut partings) = (Vec::new(), Vec::new());
    let root = layout::wal_root(lineage);
    let there = list(from, &root).await.map_err(read)?;
    let histories = compare(&there, &list(to, &root).await.map_err(written)?, lineage, &mut missing);
    let common: Vec<WalFileName> = histories.into_iter().filter(|(_, both)| *both).map(|(name, _)| name).collect();
    partings.extend(parting((from, to), lineage, &common, &common).await?);
    for timeline in words(&there).map(Timeline) {
        let (mut seams, mut common) = (Seams::default(), Vec::new());
        let begins = match begin(from, lineage, timeline, size).await.map_err(read)? {
            Some(begin) => Some((begin, from)),
            None => begin(to, lineage, timeline, size).await.map_err(written)?.map(|begin| (begin, to)),
        };
        let folder = layout::wal_timeline(lineage, timeline);
        let (there, here) = (list(from, &folder).await.map_err(read)?, list(to, &folder).await.map_err(written)?);
        // Logs that the second alone has matter only where nothing of this timeline should be.
        let logs: BTreeSet<u32> = words(&there).collect();
        let is_early = |log: &u32| begins.is_some_and(|(begin, _)| u64::from(*log) <= begin / size.segments_per_log());
        let all: BTreeSet<u32> = words(&here).filter(is_early).chain(logs).collect();
        for log in all {
            let folder = layout::wal_log(lineage, timeline, log);
            let (there, here) = futures::join!(list(from, &folder), list(to, &folder));
            let (there, here) = (there.map_err(read)?, here.map_err(written)?);
            for (listing, holder) in [(&there, from), (&here, to)] {
                partings.extend(begins.and_then(|begins| before_its_timeline(names(listing), holder, begins, size)));
            }
            for (name, both) in compare(&there, &here, lineage, &mut missing) {
                if matches!(name, WalFileName::Segment(_)) {
                    seams.next(name, both);
                    common.extend(both.then_some(name));
                }
            }
        }
        partings.extend(parting((from, to), lineage, &seams.end(), &common).await?);
    }
    Ok((missing, partings))
}

/// The files of `there`, in order, and whether `here` has them as well; what it lacks is added to `missing`.
fn compare(
    there: &Listing,
    here: &Listing,
    lineage: Lineage,
    missing: &mut Vec<MissingFile>,
) -> BTreeMap<WalFileName, bool> {
    let known: BTreeSet<&str> = here.objects.iter().map(|object| object.key.file_name()).collect();
    let mut all = BTreeMap::new();
    for object in &there.objects {
        let Ok(name) = object.key.file_name().parse() else { continue };
        let both = known.contains(object.key.file_name());
        all.insert(name, both);
        if !both {
            missing.push(MissingFile { lineage, name, stored_bytes: object.size });
        }
    }
    all
}

/// Copies `missing`, several at once. `on_file` hears of each that was dealt with. A file that is damaged at its origin, or whose
/// name is taken by other content, is noted and left; any other failure ends the copy.
pub async fn copy_wal(
    from: &Repository,
    to: &Repository,
    level: i32,
    missing: &[MissingFile],
    mut on_file: impl FnMut(&MissingFile),
) -> Result<CopiedWal, TransferError> {
    let largest = from.identity().lineages.iter().map(|entry| entry.segment_bytes.bytes()).max().unwrap_or(1);
    let at_once = (BYTES_AT_ONCE / largest.max(1)).clamp(1, FILES_AT_ONCE);
    let mut copies = stream::iter(missing)
        .map(|file| async move {
            let key = layout::wal_file(file.lineage, file.name);
            (file, copy_new(from, to, level, &key).await)
        })
        .buffer_unordered(usize::try_from(at_once).unwrap_or(1));
    let mut done = CopiedWal::default();
    while let Some((file, copied)) = copies.next().await {
        match copied {
            Ok(PutNew::Created(_) | PutNew::Same) => done.copied += 1,
            Ok(PutNew::Different { writer, modified }) => done.contradictions.push(format!(
                "{}: repository {:?} holds other content, written by host {writer:?} at {modified}",
                file.name,
                to.name()
            )),
            Err(error @ TransferError::From { .. }) if error.class() == ErrorClass::Corrupt => {
                done.damaged.push(format!("{}: {}", file.name, describe(&error)));
            }
            Err(error) => return Err(error),
        }
        on_file(file);
    }
    Ok(done)
}

/// Copies the records of WAL that was let go: without them whoever reads the second repository alone would take a gap for the
/// archive's end. Answers how many there are, and what is wrong with those that cannot be read.
pub async fn copy_gaps(from: &Repository, to: &Repository) -> Result<(u64, Vec<String>), TransferError> {
    let (mut copied, mut damaged) = (0, Vec::new());
    for entry in &from.identity().lineages {
        let found = gap::read_all(from, entry.lineage).await;
        let (gaps, unreadable) =
            found.map_err(|source| TransferError::From { repository: from.name().to_owned(), source })?;
        damaged.extend(unreadable.iter().map(|error| describe(error)));
        for record in &gaps {
            let put = gap::record(to, record).await;
            put.map_err(|source| TransferError::To { repository: to.name().to_owned(), source })?;
            copied += 1;
        }
    }
    Ok((copied, damaged))
}

async fn list(repository: &Repository, folder: &ObjectKey) -> Result<Listing, RepoError> {
    Ok(repository.store().list(Some(folder)).await?)
}

/// The files that are listed.
fn names(listing: &Listing) -> impl Iterator<Item = WalFileName> + '_ {
    listing.objects.iter().filter_map(|object| object.key.file_name().parse().ok())
}

/// The timelines or logs whose folders are listed.
fn words(listing: &Listing) -> impl Iterator<Item = u32> + '_ {
    listing.folders.iter().filter_map(|folder| layout::parse_word(folder))
}
