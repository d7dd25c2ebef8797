//! Who owns a data directory, and what root does for them: the agent runs as the owner, and what only root could use would be of
//! no use.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use walward_base::sys::folder::Folder;
use walward_base::sys::identity;

/// A file that has another name may be anybody's.
fn is_nowhere_else(file: impl AsFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|facts| facts.st_nlink == 1)
}

/// Who owns the data directory: the agent runs as them. `None` unless this is root, who alone can do something about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner(Option<(u32, u32)>);

impl Owner {
    pub(super) fn of(data_directory: &Path) -> Self {
        if !identity::is_root() {
            return Self(None);
        }
        let found = Folder::enter(data_directory).and_then(|folder| folder.facts()).ok();
        Self(found.map(|found| (found.uid, found.gid)))
    }

    /// User and group, for what root makes.
    pub(super) fn ids(self) -> Option<(u32, u32)> {
        self.0
    }

    /// The group that may read what is root's own.
    pub(super) fn group(self) -> Option<u32> {
        self.0.map(|(_, gid)| gid)
    }

    /// Does `work` in files that the owner may change at any moment: with the owner's rights and no other, so that no link of
    /// theirs leads root anywhere. What is made is theirs from the beginning. Blocking.
    ///
    /// # Errors
    /// When this is root and the owner is not known, or is root: PostgreSQL runs as nobody like that, so that the folder is not what it
    /// seems to be.
    pub(super) fn act<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        match self.0 {
            Some((0, _)) => Err(io::Error::other("the data directory is root's, and no server's")),
            Some((uid, gid)) => identity::as_user(uid, gid, work),
            None if identity::is_root() => Err(io::Error::other("whose the data directory is cannot be told")),
            None => Ok(work()),
        }
    }

    /// Run by root, the agent's group may read the file. It stays root's own: who may write the configuration names commands
    /// that root runs. Only where nobody else has a say on the way: elsewhere another file may have the name by now.
    pub(super) fn let_read(self, path: &Path) {
        let Some((_, gid)) = self.0 else { return };
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
        if let Ok(file) = Folder::enter_own(folder).and_then(|folder| folder.open(name))
            && is_nowhere_else(&file)
        {
            let _ = std::os::unix::fs::fchown(&file, None, Some(gid));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use walward_base::sys::durable;

    #[test]
    fn the_agent_may_read_what_root_owns_and_not_write_it() {
        let folder = tempfile::tempdir().unwrap();
        let (own, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let agent = Owner(Some((own + 1, group)));
        let config = folder.path().join("walward.toml");
        durable::create(&config, b"", 0o640).unwrap();
        agent.let_read(&config);
        let facts = std::fs::metadata(&config).unwrap();
        assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o7777), (own, group, 0o640));
    }

    #[test]
    fn nothing_is_done_as_root_for_whoever_calls_a_folder_of_roots_a_data_directory() {
        assert!(Owner(Some((0, 0))).act(|| ()).is_err());
        assert_eq!(Owner(None).act(|| ()).is_err(), identity::is_root());
    }
}
