//! Where clusters are heard of: Debian's and Red Hat's places, running servers, the lock files of sockets.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use walward_base::sys::folder::{Facts, Folder, open_led};
use walward_base::sys::ground::Ground;
use walward_base::sys::within::resolved;
use walward_pg::settings::setting;

/// What is read of a file that may be anybody's; those of PostgreSQL are far smaller.
const SMALL_BYTES_MAX: u64 = 64 * 1024;

/// How long a file system may take to say where a path leads.
const FILE_SYSTEM_DEADLINE: Duration = Duration::from_secs(5);

/// Whether both paths lead to one folder; one whose file system does not answer counts as it is written. Blocking, for a while at most.
pub(crate) fn same_folder(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| {
        let real = Ground::of(path).ask(path, FILE_SYSTEM_DEADLINE, resolved);
        real.unwrap_or_else(|| path.to_owned())
    };
    one == other || real(one) == real(other)
}

/// A folder that may be a data directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Heard {
    pub(crate) folder: PathBuf,
    pub(crate) of: Of,
}

/// Whose word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
    /// It stands where only an administrator, or whoever runs this, puts things.
    Administrator,
    /// Any user could say so; this one does.
    User(u32),
}

fn kept(folder: PathBuf) -> Heard {
    Heard { folder, of: Of::Administrator }
}

/// From `postmaster.pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listens {
    pub(crate) pid: u32,
    pub(crate) port: u16,
    /// The first of its socket folders; none when it has no socket.
    pub(crate) socket_folder: Option<String>,
}

/// `postgresql-common`: `/etc/postgresql/<version>/<name>/postgresql.conf` names the data directory.
pub(crate) fn debian(root: &Path) -> Vec<Heard> {
    let folders = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
        let mut entries: Vec<PathBuf> = entries.unwrap_or_default();
        entries.sort();
        entries
    };
    let configurations = folders(root).into_iter().flat_map(|version| folders(&version));
    configurations
        .filter_map(|folder| {
            let file = open_led(&folder.join("postgresql.conf")).ok()?;
            let mut text = String::new();
            file.take(SMALL_BYTES_MAX).read_to_string(&mut text).ok()?;
            // Without the setting the data lies beside it.
            Some(kept(setting(&text, "data_directory").map_or(folder, PathBuf::from)))
        })
        .collect()
}

/// A postmaster works in its data directory, and its process id stands in the first line of postmaster.pid there.
pub(crate) fn running(proc: &Path) -> Vec<Heard> {
    let Ok(entries) = std::fs::read_dir(proc) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(directory) = std::fs::read_link(entry.path().join("cwd")) else { continue };
        let Ok((text, _)) = read_of_anybody(&directory.join("postmaster.pid")) else { continue };
        let Ok(process) = entry.metadata() else { continue };
        if parse_pid_file(&text).is_some_and(|listens| listens.pid == pid) {
            found.push(Heard { folder: directory, of: Of::User(process.uid()) });
        }
    }
    found.sort();
    found
}

/// A server keeps a lock file beside each of its sockets, whose second line is the data directory (`CreateLockFile`,
/// src/backend/utils/init/miscinit.c). It stays after a crash, so that it says where to look, and no more.
pub(crate) fn locked_sockets(folder: &Path) -> Vec<Heard> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<Heard> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(".s.PGSQL.") && name.ends_with(".lock")
        })
        .filter_map(|entry| read_of_anybody(&entry.path()).ok())
        .filter_map(|(text, user)| {
            let folder = PathBuf::from(text.lines().nth(1)?.trim());
            folder.is_absolute().then_some(Heard { folder, of: Of::User(user) })
        })
        .collect();
    found.sort();
    found
}

/// Red Hat's and PGDG's packages: `/var/lib/pgsql/data`, `/var/lib/pgsql/<version>/data`.
pub(crate) fn red_hat(root: &Path) -> Vec<Heard> {
    let versions = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path().join("data"));
    let mut found: Vec<PathBuf> = versions.filter(|path| path.is_dir()).collect();
    found.sort();
    found.extend(Some(root.join("data")).filter(|path| path.is_dir()));
    found.into_iter().map(kept).collect()
}

/// `postmaster.pid`: process id, data directory, start time, port, first socket folder, … (src/include/utils/pidfile.h).
pub(crate) fn parse_pid_file(text: &str) -> Option<Listens> {
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    let port = lines.nth(2)?.trim().parse().ok()?;
    let socket_folder = lines.next().map(str::trim).filter(|folder| !folder.is_empty()).map(str::to_owned);
    Some(Listens { pid, port, socket_folder })
}

/// A small file that may be anybody's, and whose it is: not through a link, and without waiting for the writer of a pipe.
pub(crate) fn read_of_anybody(path: &Path) -> io::Result<(String, u32)> {
    let (folder, name) = Folder::of(path)?;
    let file = folder.open(name)?;
    let user = Facts::of(&file)?.uid;
    let mut text = String::new();
    file.take(SMALL_BYTES_MAX).read_to_string(&mut text)?;
    Ok((text, user))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn debian_clusters_are_found_by_their_configuration() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("15/main");
        std::fs::create_dir_all(&folder).unwrap();
        let text = "# x\ndata_directory = '/var/lib/postgresql/15/main'   # use data in another directory\n";
        std::fs::File::create(folder.join("postgresql.conf"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .unwrap();
        assert_eq!(debian(root.path()), [kept("/var/lib/postgresql/15/main".into())]);
    }

    proptest! {
        #[test]
        fn arbitrary_pid_files_never_panic(text: String) {
            parse_pid_file(&text);
        }
    }
}
