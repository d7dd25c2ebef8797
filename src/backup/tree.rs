//! The files of a data directory as they were listed, held compactly: a cluster may have a million of them.

/// Directories and files, in the order in which they are copied: the files of a directory beside each other.
///
/// A file costs 24 bytes and its name.
#[derive(Debug, Default)]
pub struct Tree {
    directories: Vec<Directory>,
    files: Vec<FileRecord>,
    /// The names of all files, end to end.
    names: String,
}

/// A directory below the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Path relative to the data directory.
    pub path: Box<str>,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: i64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A file as it was listed; it may have changed or gone since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File<'a> {
    /// The directory that it lies in; empty for the data directory itself.
    pub directory: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Length in bytes.
    pub size: u64,
}

impl File<'_> {
    /// Path relative to the data directory.
    pub fn path(&self) -> String {
        if self.directory.is_empty() { self.name.to_owned() } else { format!("{}/{}", self.directory, self.name) }
    }

    /// The length of [`File::path`] in bytes.
    pub fn path_bytes(&self) -> usize {
        let slash = usize::from(!self.directory.is_empty());
        self.directory.len() + slash + self.name.len()
    }
}

#[derive(Debug)]
struct FileRecord {
    size: u64,
    /// Where the name begins in `names`; it ends where the next one begins.
    name: u32,
    /// Number of the directory, counted from 1; 0 is the data directory itself.
    directory: u32,
}

/// More names than the list can number (4 GiB of them, or four thousand million files).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are more files than a backup can hold")]
pub struct TooManyFiles;

impl Tree {
    /// Adds a directory.
    pub fn add_directory(&mut self, directory: Directory) -> Result<DirectoryNumber, TooManyFiles> {
        self.directories.push(directory);
        u32::try_from(self.directories.len()).map(DirectoryNumber).map_err(|_| TooManyFiles)
    }

    /// Adds a file.
    pub fn add_file(&mut self, directory: DirectoryNumber, name: &str, size: u64) -> Result<(), TooManyFiles> {
        let begin = u32::try_from(self.names.len()).map_err(|_| TooManyFiles)?;
        u32::try_from(self.files.len() + 1).map_err(|_| TooManyFiles)?;
        self.names.push_str(name);
        self.files.push(FileRecord { size, name: begin, directory: directory.0 });
        Ok(())
    }

    /// The directories, each after the one that it lies in.
    pub fn directories(&self) -> &[Directory] {
        &self.directories
    }

    /// File `number`, or `None` after the last.
    pub fn file(&self, number: u32) -> Option<File<'_>> {
        let at = usize::try_from(number).ok()?;
        let record = self.files.get(at)?;
        let begin = usize::try_from(record.name).ok()?;
        let end = self.files.get(at + 1).and_then(|next| usize::try_from(next.name).ok()).unwrap_or(self.names.len());
        let directory = match usize::try_from(record.directory).ok()?.checked_sub(1) {
            None => "",
            Some(index) => &self.directories.get(index)?.path,
        };
        Some(File { directory, name: self.names.get(begin..end)?, size: record.size })
    }

    /// Every file with its number.
    pub fn files(&self) -> impl Iterator<Item = (u32, File<'_>)> {
        (0u32..).map_while(|number| Some((number, self.file(number)?)))
    }

    /// How many files there are.
    pub fn file_count(&self) -> u64 {
        self.files.len() as u64
    }

    /// The length of all files as they were listed.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// Which directory of a [`Tree`]; [`DirectoryNumber::ROOT`] is the data directory itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryNumber(u32);

impl DirectoryNumber {
    /// The data directory.
    pub const ROOT: Self = Self(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_added_is_listed(folders in proptest::collection::vec(
            ("[a-z/]{1,20}", proptest::collection::vec(("[a-z0-9_.]{1,12}", any::<u32>()), 0..5)), 0..5,
        )) {
            let mut tree = Tree::default();
            let mut expected = Vec::new();
            tree.add_file(DirectoryNumber::ROOT, "PG_VERSION", 3).unwrap();
            expected.push(("PG_VERSION".to_owned(), 3));
            for (path, files) in &folders {
                let directory = Directory { path: path.as_str().into(), mode: 0o700, mtime: 0, uid: 0, gid: 0 };
                let number = tree.add_directory(directory).unwrap();
                for (name, size) in files {
                    tree.add_file(number, name, u64::from(*size)).unwrap();
                    expected.push((format!("{path}/{name}"), u64::from(*size)));
                }
            }
            let listed: Vec<_> = tree.files().map(|(_, file)| (file.path(), file.size)).collect();
            prop_assert_eq!(&listed, &expected);
            for (_, file) in tree.files() {
                prop_assert_eq!(file.path_bytes(), file.path().len());
            }
            prop_assert_eq!(tree.file_count(), expected.len() as u64);
        }
    }
}
