//! A file that is on its way to its name.
#![allow(clippy::disallowed_methods)]

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::super::folder::Folder;
use super::super::steps::{Step, take};
use super::sync::sync_folder;
use super::temporary::temporary_path;

/// A file on its way: written under a temporary name beside its target, removed unless it is placed. Blocking throughout.
///
/// Its folder is held open: what it is named in is what it was begun in. After an error of any method the file is given up.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    folder: Folder,
    /// `None` once it has its final name.
    temporary: Option<OsString>,
    target: OsString,
    mode: u32,
}

impl NewFile {
    /// Begins the file that shall be `target`. Its folder must exist.
    ///
    /// `mode` is taken as it is, whatever the umask; until it is placed only its owner can read the file.
    pub fn begin(target: &Path, mode: u32) -> io::Result<Self> {
        let (folder, name) = Folder::of(target)?;
        Self::begin_in(&folder, name, mode)
    }

    /// As [`NewFile::begin`], in a folder that is held open.
    pub fn begin_in(folder: &Folder, target: &OsStr, mode: u32) -> io::Result<Self> {
        let temporary = temporary_path(Path::new(target)).into_os_string();
        let mut file = None;
        take(Step::Create(&folder.path().join(&temporary)), || {
            let opened = folder.create(&temporary, 0o600)?;
            // Where it fails nobody else gets one either.
            let _ = flock(&opened, FlockOperation::NonBlockingLockExclusive);
            file = Some(opened);
            Ok(())
        })?;
        let Some(file) = file else { return Err(io::Error::other("the file was not made")) };
        Ok(Self { file, folder: folder.clone(), temporary: Some(temporary), target: target.to_owned(), mode })
    }

    /// Where it lies at the moment.
    fn place(&self) -> PathBuf {
        self.folder.path().join(self.temporary.as_ref().unwrap_or(&self.target))
    }

    /// Appends `bytes`.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let place = self.place();
        let file = &mut self.file;
        take(Step::Write(&place, bytes.len()), || file.write_all(bytes))
    }

    /// Makes it another user's or group's while it has no name that anybody knows: under its own it is never somebody else's. Only
    /// root may give it to a user.
    pub fn give(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        fchown(&self.file, uid, gid)
    }

    /// Makes it look like the file that `metadata` is of. What belongs to another user stays ours where only root may give it.
    pub(super) fn resemble(&self, metadata: &Metadata) -> io::Result<()> {
        let own = self.file.metadata()?;
        if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
            let _ = self.give(Some(metadata.uid()), Some(metadata.gid()));
        }
        self.file.set_modified(metadata.modified()?)
    }

    /// Makes it durable under its name; fails with [`io::ErrorKind::AlreadyExists`] when that is taken. After another error the name
    /// may be there, and not durable ([`super::name_again`]).
    pub fn place_new(self) -> io::Result<()> {
        self.name(|folder, from, to| {
            let (place, target) = (folder.path().join(from), folder.path().join(to));
            take(Step::RenameNew(&place, &target), || folder.rename_new(from, to))
        })
    }

    /// Makes it durable under its name, in place of what was there, if anything.
    pub fn replace(self) -> io::Result<()> {
        self.name(|folder, from, to| {
            let (place, target) = (folder.path().join(from), folder.path().join(to));
            take(Step::Rename(&place, &target), || folder.rename(from, to))
        })
    }

    /// As [`NewFile::replace`], but fails with [`io::ErrorKind::AlreadyExists`], and changes nothing, when another file than `seen` has
    /// the name by now.
    pub fn replace_seen(self, seen: &File) -> io::Result<()> {
        self.name(|folder, from, to| {
            let (place, target) = (folder.path().join(from), folder.path().join(to));
            take(Step::Rename(&place, &target), || folder.rename_over(from, to, seen))
        })
    }

    fn name(mut self, name: impl FnOnce(&Folder, &OsStr, &OsStr) -> io::Result<()>) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(self.mode))?;
        if let Some(temporary) = &self.temporary {
            take(Step::SyncFile(&self.place()), || self.file.sync_all())?;
            name(&self.folder, temporary, &self.target)?;
        }
        self.temporary = None;
        sync_folder(&self.folder)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = self.folder.remove_file(temporary);
        }
    }
}
