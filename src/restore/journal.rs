//! `walward.restore.json` in the target directory: what is being restored there, and which packs are done.
//!
//! It is the first file in the directory and the last to go. A pack is in it only once its files were proven to be on the disk
//! ([`super::proof`]): the run that goes on reads them again and compares their checksums, but what it reads may come from memory, and
//! shows what was written, not what is durable. What is not in it is made anew, however right it looks.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::RestoreError;
use super::pack_id::PackId;
use super::places::{PlacedTablespace, Places};
use super::refusal::Refusal;
use walward_base::sys::durable;
use walward_base::sys::folder::{Folder, Kind};
use walward_pg::Lineage;

/// The file's name.
pub const NAME: &str = "walward.restore.json";
/// The shape's version.
const FORMAT: u32 = 2;
/// A journal of the largest backup (100,000 packs) is far below this.
const BYTES_MAX: u64 = 4 << 20;

/// An unfinished restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Version of this shape.
    format: u32,
    /// What the backup was taken from.
    pub lineage: Lineage,
    /// The backup.
    pub backup: String,
    /// Where the tablespaces go.
    pub tablespaces: Vec<PlacedTablespace>,
    /// Where pg_wal goes, when it is to be a link.
    pub wal_directory: Option<PathBuf>,
    /// Whether the directories are durable.
    pub directories_done: bool,
    /// The packs whose files are all durable.
    pub packs_done: BTreeSet<PackId>,
}

impl Journal {
    /// That of a restore that begins.
    pub fn new(lineage: Lineage, backup: &str, places: &Places) -> Self {
        Self {
            format: FORMAT,
            lineage,
            backup: backup.to_owned(),
            tablespaces: places.tablespaces().to_vec(),
            wal_directory: places.wal().map(Path::to_owned),
            directories_done: false,
            packs_done: BTreeSet::new(),
        }
    }

    /// Why a restore of the same backup to `places` would not be this one.
    pub fn differs(&self, places: &Places) -> Option<&'static str> {
        if self.tablespaces != places.tablespaces() {
            Some("with its tablespaces in other places")
        } else if self.wal_directory.as_deref() != places.wal() {
            Some("with its pg_wal in another place (--waldir)")
        } else {
            None
        }
    }

    /// Where it lies in `directory`.
    pub fn path(directory: &Path) -> PathBuf {
        directory.join(NAME)
    }

    /// The one in `directory`, if there is one. Blocking.
    pub fn read(directory: &Folder) -> Result<Option<Self>, RestoreError> {
        let path = Self::path(directory.path());
        let unreadable = |why: String| Refusal::Journal { journal: path.clone(), why };
        match directory.look(NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RestoreError::io("read", &path)(error)),
            Ok(facts) if facts.kind != Kind::File || facts.bytes > BYTES_MAX => {
                return Err(unreadable("it is not a small regular file".to_owned()).into());
            }
            Ok(_) => {}
        }
        let text = directory.read(NAME, BYTES_MAX).map_err(RestoreError::io("read", &path))?;
        let journal: Self = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        if journal.format != FORMAT {
            return Err(unreadable(format!("its format is {}, this version reads {FORMAT}", journal.format)).into());
        }
        Ok(Some(journal))
    }

    /// Writes it, durably. Blocking.
    pub fn write(&self, directory: &Path) -> Result<(), RestoreError> {
        let path = Self::path(directory);
        let text = serde_json::to_vec(self).map_err(io::Error::from).map_err(RestoreError::io("write", &path))?;
        durable::replace(&path, &text, 0o600).map_err(RestoreError::io("write", &path))
    }

    /// Removes it: the restore is finished. Blocking.
    pub fn remove(directory: &Path) -> Result<(), RestoreError> {
        let path = Self::path(directory);
        durable::remove_file(&path).map_err(RestoreError::io("remove", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(directory: &Path) -> Result<Option<Journal>, RestoreError> {
        Journal::read(&Folder::enter(directory).expect("a folder"))
    }

    fn places(wal: Option<&str>) -> Places {
        Places::new(Path::new("/srv/main"), "a backup", &[], &[], wal.map(Path::new)).expect("places")
    }

    fn begun(wal: Option<&str>) -> Journal {
        Journal::new(Lineage { major: 15, system_identifier: 7 }, "20261121T064158Z-full", &places(wal))
    }

    #[test]
    fn a_restore_with_its_wal_in_another_place_is_another_restore() {
        assert_eq!(begun(Some("/wal/main")).differs(&places(Some("/wal/main"))), None);
        assert_eq!(begun(None).differs(&places(None)), None);
        for (before, now) in
            [(None, Some("/wal/main")), (Some("/wal/main"), None), (Some("/wal/main"), Some("/wal/other"))]
        {
            assert!(begun(before).differs(&places(now)).is_some_and(|how| how.contains("--waldir")));
        }
    }

    #[test]
    fn written_and_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(read(directory.path()).expect("readable"), None);
        let mut journal = begun(None);
        journal.packs_done.insert(PackId { level: 1, number: 7 });
        journal.write(directory.path()).expect("written");
        assert_eq!(read(directory.path()).expect("readable"), Some(journal));
        Journal::remove(directory.path()).expect("removed");
        assert_eq!(read(directory.path()).expect("readable"), None);
    }

    #[test]
    fn what_is_not_a_journal_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        for text in [
            "",
            "{}",
            "{\"format\":1,\"lineage\":\"15-7\",\"backup\":\"\",\"tablespaces\":[],\"directories_done\":true,\"packs_done\":[]}",
        ] {
            durable::replace(&Journal::path(directory.path()), text.as_bytes(), 0o600).expect("written");
            let error = read(directory.path()).expect_err(text);
            assert!(matches!(error, RestoreError::Refused(Refusal::Journal { .. })), "{error}");
        }
    }
}
