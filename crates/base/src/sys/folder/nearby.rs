//! The folder of the last file, kept open for the next: files come in the order of their folders.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Folder;

/// The folder that was asked for last, kept open.
#[derive(Debug, Default)]
pub struct Nearby {
    last: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    root: Folder,
    path: PathBuf,
    folder: Folder,
}

impl Nearby {
    /// The folder at `path` below `root`. One that was moved meanwhile is still the one that was opened. Blocking.
    pub fn folder(&mut self, root: &Folder, path: &Path) -> io::Result<&Folder> {
        let is_same = |kept: &Kept| Arc::ptr_eq(&kept.root.descriptor, &root.descriptor) && kept.path == path;
        let kept = match self.last.take().filter(is_same) {
            Some(kept) => kept,
            None => Kept { root: root.clone(), path: path.to_owned(), folder: root.folder(path)? },
        };
        Ok(&self.last.insert(kept).folder)
    }
}
