//! What is known to be on the disk, and so may be believed by a later run. Blocking.
//!
//! A pack's files are written through the page cache. What was written shows at once to every reader, also when the disk never took
//! it; and Linux reports a failed write-back once, then calls the pages clean, so that the next sync succeeds. Therefore a pack is
//! noted in the journal only after a sync of the file systems through descriptors that were opened before its first write, and that
//! succeeded; and after one that failed nothing is noted any more. The next run writes anew what is not noted: it removes each file
//! first, so that names and content are both new to the disk.
//!
//! Packs are proven while others are being written: a sync takes all that are finished by then, and one runs at a time.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::error::RestoreError;
use super::journal::Journal;
use super::pack_id::PackId;
use walward_base::sys::durable::FileSystem;

/// The journal, and what it may say.
#[derive(Debug)]
pub struct Proof {
    root: PathBuf,
    journal: Journal,
    file_systems: Vec<FileSystem>,
    /// A sync failed: nothing that was written in this run can be proven.
    failed: bool,
}

impl Proof {
    /// For the restore into `root` that goes on with `journal`. `file_systems` are all that are written to, and nothing was.
    pub fn new(root: PathBuf, journal: Journal, file_systems: Vec<FileSystem>) -> Self {
        Self { root, journal, file_systems, failed: false }
    }

    /// What a later run may believe.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Makes everything durable that was written so far.
    ///
    /// # Errors
    /// Something may not be, now or for good.
    pub fn sync(&mut self) -> Result<(), RestoreError> {
        if self.failed {
            return Err(RestoreError::Unproven(self.root.clone()));
        }
        let outcome = self.file_systems.iter().try_for_each(|file_system| {
            file_system.sync().map_err(RestoreError::io("sync the file system of", file_system.path()))
        });
        self.failed = outcome.is_err();
        outcome
    }

    /// Notes that the directories are made.
    pub fn directories(&mut self) -> Result<(), RestoreError> {
        self.sync()?;
        self.journal.directories_done = true;
        self.journal.write(&self.root)
    }

    /// Notes `packs`, all of whose files were written before this call.
    pub fn packs(&mut self, packs: &BTreeSet<PackId>) -> Result<(), RestoreError> {
        self.sync()?;
        self.journal.packs_done.extend(packs);
        self.journal.write(&self.root)
    }

    /// Takes the note of a pack back, which is to be written anew.
    pub fn withdraw(&mut self, pack: PackId) -> Result<(), RestoreError> {
        if self.journal.packs_done.remove(&pack) { self.journal.write(&self.root) } else { Ok(()) }
    }
}
