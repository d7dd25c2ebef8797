//! Brings one repository's WAL into another: whatever it lacks, however old. What was copied stays; a run that was cut goes on
//! where it stopped, because it looks at what is missing.

use std::collections::BTreeSet;

use futures::StreamExt;
use futures::stream;
use serde::Serialize;

use crate::base::{ErrorClass, describe};
use crate::pg::{Lineage, Timeline, WalFileName};
use crate::repo::transfer::{TransferError, copy_new};
use crate::repo::{PutNew, RepoError, Repository, gap, layout};
use crate::storage::{Listing, ObjectKey};

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
}

/// The files of every lineage that `from` has and `to` lacks, the histories of a lineage before its segments, these in order.
pub async fn missing_wal(from: &Repository, to: &Repository) -> Result<Vec<MissingFile>, TransferError> {
    let read = |source| TransferError::From { repository: from.name().to_owned(), source };
    let written = |source| TransferError::To { repository: to.name().to_owned(), source };
    let mut missing = Vec::new();
    for entry in &from.identity().lineages {
        let lineage = entry.lineage;
        let mut compare = |there: &Listing, here: &Listing| {
            let known: BTreeSet<&str> = here.objects.iter().map(|object| object.key.file_name()).collect();
            let lacking = there.objects.iter().filter(|object| !known.contains(object.key.file_name()));
            missing.extend(lacking.filter_map(|object| {
                let name = object.key.file_name().parse().ok()?;
                Some(MissingFile { lineage, name, stored_bytes: object.size })
            }));
        };
        let root = layout::wal_root(lineage);
        let there = list(from, &root).await.map_err(read)?;
        compare(&there, &list(to, &root).await.map_err(written)?);
        for timeline in words(&there).map(Timeline) {
            let logs = list(from, &layout::wal_timeline(lineage, timeline)).await.map_err(read)?;
            for log in words(&logs) {
                let folder = layout::wal_log(lineage, timeline, log);
                let (there, here) = futures::join!(list(from, &folder), list(to, &folder));
                compare(&there.map_err(read)?, &here.map_err(written)?);
            }
        }
    }
    Ok(missing)
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

/// The timelines or logs whose folders are listed.
fn words(listing: &Listing) -> impl Iterator<Item = u32> + '_ {
    listing.folders.iter().filter_map(|folder| layout::parse_word(folder))
}
