//! The settings of a recovery, which go when it has ended.
//!
//! What a restore writes into postgresql.auto.conf is meant for one recovery. Left there, a target or a timeline rules every standby
//! that is made from the restored primary: it stops or promotes itself where the first recovery did. So the restore notes in
//! `pg_wal/walward.recovery.json` which values it lent and what comes in their place, and [`settle`] takes them back: as
//! `recovery_end_command`, which the server runs once, after the signal files are gone and before it is in production
//! (`CleanupAfterArchiveRecovery`, xlog.c; 13 to 18), and again by the agent, in case the server crashed between the two or could not run
//! the command.
//!
//! The note lies in pg_wal because no backup takes what lies there, neither ours nor `pg_basebackup`, and `pg_verifybackup` does not
//! mind it. A value that was changed meanwhile is somebody's wish and stays. A crash leaves the note, and the next call goes on. Blocking.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::RestoreError;
use walward_base::sys::durable;
use walward_base::sys::folder::Folder;
use walward_pg::settings::{setting, setting_line, split_line};

/// What settings are lent in.
pub const AUTO_CONF: &str = "postgresql.auto.conf";
/// The note's name in the data directory.
pub const NOTE: &str = "pg_wal/walward.recovery.json";
/// The shape's version.
const FORMAT: u32 = 1;
/// Both files are far smaller.
const BYTES_MAX: u64 = 4 << 20;
/// How often the file is edited again, because ALTER SYSTEM wrote it at the same moment.
const EDITS_MAX: u32 = 5;
/// After that an ALTER SYSTEM that had read the file before it was edited has written it.
const EDIT_PAUSE: Duration = Duration::from_millis(100);

/// A setting of one recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    /// Its name.
    pub name: String,
    /// What it is while the recovery goes on.
    pub value: String,
    /// What it was before and is again; none: the line goes.
    pub after: Option<String>,
}

/// What a restore lent to one recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loan {
    format: u32,
    /// The settings.
    pub settings: Vec<Lent>,
}

/// What [`settle`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Nothing is lent.
    Nothing,
    /// A signal file is there: the recovery is still to come, or goes on.
    StillLent,
    /// These settings were taken back.
    TakenBack(Vec<String>),
}

impl Loan {
    /// Of these settings.
    pub fn new(settings: Vec<Lent>) -> Self {
        Self { format: FORMAT, settings }
    }

    /// Where it is noted in the data directory `root`.
    pub fn path(root: &Path) -> PathBuf {
        root.join(NOTE)
    }

    /// The one that is noted in the data directory `root`.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn read(root: &Path) -> Result<Option<Self>, RestoreError> {
        let path = Self::path(root);
        let Some((_, text)) = read_small(&path)? else { return Ok(None) };
        let wrong = |why: String| RestoreError::io("read", &path)(io::Error::new(io::ErrorKind::InvalidData, why));
        let loan: Self = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if loan.format != FORMAT {
            return Err(wrong(format!("its format is {}, this version reads {FORMAT}", loan.format)));
        }
        Ok(Some(loan))
    }

    /// The note's bytes.
    pub fn to_json(&self) -> io::Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(io::Error::from)
    }

    /// The content of postgresql.auto.conf without what was lent, and the names of that; none when nothing of it is left. Pure.
    pub fn taken_back(&self, content: &[u8]) -> Option<(Vec<u8>, Vec<String>)> {
        let mut kept = Vec::with_capacity(content.len());
        let mut back: Vec<&Lent> = Vec::new();
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            let text = String::from_utf8_lossy(line);
            let set = split_line(&text);
            let lent = set.and_then(|(name, value)| {
                self.settings.iter().find(|lent| lent.name.eq_ignore_ascii_case(name) && lent.value == value)
            });
            match lent {
                Some(lent) if !back.contains(&lent) => back.push(lent),
                Some(_) => {}
                None => kept.extend_from_slice(line),
            }
        }
        if back.is_empty() {
            return None;
        }
        if kept.last().is_some_and(|byte| *byte != b'\n') {
            kept.push(b'\n');
        }
        for lent in &back {
            if let Some(after) = &lent.after
                && setting(&String::from_utf8_lossy(&kept), &lent.name).is_none()
            {
                kept.extend_from_slice(setting_line(&lent.name, after).as_bytes());
            }
        }
        Some((kept, back.into_iter().map(|lent| lent.name.clone()).collect()))
    }
}

/// Takes back what a restore lent to the recovery of the data directory `root`, once that has ended: no signal file is there.
///
/// # Errors
/// When a file cannot be read or written; another call may do it.
pub fn settle(root: &Path) -> Result<Settled, RestoreError> {
    let Some(loan) = Loan::read(root)? else { return Ok(Settled::Nothing) };
    // pg_control comes last of all: without it the restore goes on.
    let is_there = |name: &str| {
        let path = root.join(name);
        match Folder::of(&path).and_then(|(folder, name)| folder.look(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|_| true).map_err(RestoreError::io("look at", &path)),
        }
    };
    if is_there("recovery.signal")? || is_there("standby.signal")? || !is_there("global/pg_control")? {
        return Ok(Settled::StillLent);
    }
    let path = root.join(AUTO_CONF);
    let mut names: Vec<String> = Vec::new();
    for _ in 0..EDITS_MAX {
        let Some((file, content)) = read_small(&path)? else { break };
        let Some((content, back)) = loan.taken_back(&content) else { break };
        let mode = file.metadata().map_err(RestoreError::io("look at", &path))?.mode() & 0o777;
        if durable::replace_seen(&path, &file, &content, mode).map_err(RestoreError::io("write", &path))? {
            names.extend(back.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>());
            std::thread::sleep(EDIT_PAUSE);
        }
    }
    let left = read_small(&path)?.and_then(|(_, content)| loan.taken_back(&content));
    // The note stays until nothing of it is left.
    if left.is_none() {
        let note = Loan::path(root);
        durable::remove_file(&note).map_err(RestoreError::io("remove", &note))?;
    }
    Ok(Settled::TakenBack(names))
}

/// A small regular file, open, with its content; none when it is not there.
pub fn read_small(path: &Path) -> Result<Option<(File, Vec<u8>)>, RestoreError> {
    let file = match Folder::of(path).and_then(|(folder, name)| folder.open(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(RestoreError::io("open", path))?,
    };
    let content = read_whole(&file).map_err(RestoreError::io("read", path))?;
    Ok(Some((file, content)))
}

fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    let metadata = file.metadata()?;
    if metadata.len() > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a small file"));
    }
    let mut content = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lent(name: &str, value: &str, after: Option<&str>) -> Lent {
        Lent { name: name.to_owned(), value: value.to_owned(), after: after.map(str::to_owned) }
    }

    fn loan() -> Loan {
        Loan::new(vec![
            lent("restore_command", "walward-wal --cluster 'main' fetch %f %p", Some("cp /a/%f %p")),
            lent("recovery_target_time", "2026-11-21 14:03:00+00", None),
            lent("recovery_end_command", "walward wal recovered || exit 1", None),
        ])
    }

    const LENT: &str = "# Do not edit this file manually!\nwork_mem = '64MB'\n\
        restore_command = 'walward-wal --cluster ''main'' fetch %f %p'\n\
        recovery_target_time = '2026-11-21 14:03:00+00'\nrecovery_end_command = 'walward wal recovered || exit 1'\n";

    #[test]
    fn what_was_lent_goes_and_what_was_there_before_comes_back() {
        let (text, names) = loan().taken_back(LENT.as_bytes()).expect("lent");
        let expected = "# Do not edit this file manually!\nwork_mem = '64MB'\nrestore_command = 'cp /a/%f %p'\n";
        assert_eq!(String::from_utf8(text.clone()).unwrap(), expected);
        assert_eq!(names, ["restore_command", "recovery_target_time", "recovery_end_command"]);
        assert_eq!(loan().taken_back(&text), None);
    }

    #[test]
    fn a_value_that_was_changed_meanwhile_stays() {
        let text = "restore_command = 'mine'\nsearch_path = 'x'\nrecovery_target_time = '2026-11-21 14:03:00+00'";
        let (text, names) = loan().taken_back(text.as_bytes()).expect("lent");
        assert_eq!(String::from_utf8(text).unwrap(), "restore_command = 'mine'\nsearch_path = 'x'\n");
        assert_eq!(names, ["recovery_target_time"]);
        let changed = loan().taken_back(b"restore_command = 'mine'\nsearch_path = 'caf\xe9'\n");
        assert_eq!(changed, None);
    }

    fn write(path: &Path, content: &[u8]) {
        durable::replace(path, content, 0o600).expect("written");
    }

    #[test]
    fn nothing_is_taken_back_while_the_recovery_is_to_come_and_all_of_it_once_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["pg_wal", "global"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let conf = root.join(AUTO_CONF);
        write(&conf, LENT.as_bytes());
        assert_eq!(settle(root).unwrap(), Settled::Nothing);
        write(&Loan::path(root), &loan().to_json().unwrap());
        assert_eq!(settle(root).unwrap(), Settled::StillLent, "the restore goes on: no pg_control");
        write(&root.join("global/pg_control"), b"");
        for signal in ["recovery.signal", "standby.signal"] {
            write(&root.join(signal), b"");
            assert_eq!(settle(root).unwrap(), Settled::StillLent, "{signal}");
            assert_eq!(std::fs::read(&conf).unwrap(), LENT.as_bytes());
            std::fs::remove_file(root.join(signal)).unwrap();
        }
        let Settled::TakenBack(names) = settle(root).unwrap() else { panic!("nothing taken back") };
        assert_eq!(names.len(), 3);
        assert!(!std::fs::read_to_string(&conf).unwrap().contains("recovery_"));
        assert_eq!(settle(root).unwrap(), Settled::Nothing);
    }

    #[test]
    fn a_note_that_is_a_link_or_no_note_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pg_wal")).unwrap();
        let note = Loan::path(folder.path());
        write(&note, b"{\"format\":2,\"settings\":[]}");
        assert!(settle(folder.path()).is_err());
        std::fs::remove_file(&note).unwrap();
        let other = folder.path().join("other");
        write(&other, &loan().to_json().unwrap());
        std::os::unix::fs::symlink(&other, &note).unwrap();
        assert!(settle(folder.path()).is_err());
    }

    proptest! {
        #[test]
        fn other_lines_stay_byte_by_byte(before: Vec<u8>, after: Vec<u8>) {
            let ours = b"\nrecovery_target_time = '2026-11-21 14:03:00+00'\n";
            let text = [before.as_slice(), ours, after.as_slice()].concat();
            let (kept, _) = loan().taken_back(&text).expect("lent");
            let mut expected = [before.as_slice(), b"\n", after.as_slice()].concat();
            if expected.last() != Some(&b'\n') {
                expected.push(b'\n');
            }
            prop_assert_eq!(kept, expected);
        }
    }
}
