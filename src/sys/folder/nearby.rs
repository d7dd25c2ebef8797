//! The folder of the last file, kept open for the next: files come in the order of their folders.

use std::io;
use std::path::{Path, PathBuf};

use super::Folder;

/// Folders below one, of which the last is kept open.
#[derive(Debug)]
pub struct Nearby {
    root: Folder,
    last: Option<(PathBuf, Folder)>,
}

impl Nearby {
    /// Those below `root`.
    pub fn new(root: Folder) -> Self {
        Self { root, last: None }
    }

    /// The folder at `path`; the empty path is the root. One that was moved meanwhile is still the one that was opened. Blocking.
    pub fn folder(&mut self, path: &Path) -> io::Result<&Folder> {
        if path.as_os_str().is_empty() {
            return Ok(&self.root);
        }
        let kept = self.last.take().filter(|(known, _)| known == path);
        let found = match kept {
            Some(kept) => kept,
            None => (path.to_owned(), self.root.folder(path)?),
        };
        Ok(&self.last.insert(found).1)
    }
}
