//! The folders of a cluster, held open: its data directory and the tablespaces outside of it.
//!
//! A path of a cluster is one below the data directory. `pg_tblspc/16384/…` lies behind a symbolic link, which is not followed: the
//! tablespace's folder is held open besides, under its number.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use walward_base::sys::folder::{Folder, Nearby};

/// A data directory and the tablespaces outside of it. Clones share the descriptors.
#[derive(Debug, Clone)]
pub struct ClusterFolders {
    root: Folder,
    tablespaces: BTreeMap<u32, Folder>,
}

impl ClusterFolders {
    /// The data directory `root` with `tablespaces`, by the names of their links.
    pub fn new(root: Folder, tablespaces: BTreeMap<u32, Folder>) -> Self {
        Self { root, tablespaces }
    }

    /// The data directory.
    pub fn root(&self) -> &Folder {
        &self.root
    }

    /// The tablespaces that lie outside of it.
    pub fn tablespaces(&self) -> impl Iterator<Item = (u32, &Folder)> {
        self.tablespaces.iter().map(|(oid, folder)| (*oid, folder))
    }

    /// The folder that a path of the cluster lies in, and the path below that; the empty path is the folder itself.
    pub fn place<'a>(&self, path: &'a str) -> (&Folder, &'a str) {
        let inner = path.strip_prefix("pg_tblspc/").and_then(|below| {
            let (oid, rest) = below.split_once('/').unwrap_or((below, ""));
            // As the number is written, and not as `+1` or `01`.
            let folder = oid.parse().ok().and_then(|number: u32| Some((number, self.tablespaces.get(&number)?)));
            folder.filter(|(number, _)| number.to_string() == oid).map(|(_, folder)| (folder, rest))
        });
        inner.unwrap_or((&self.root, path))
    }
}

/// Where a tablespace at `location` lies in the data directory `root`, if it lies in it: PostgreSQL warns of that and allows it. A relative
/// location is that of a tablespace in place (allow_in_place_tablespaces), which is a part of the data directory. Blocking.
pub fn place_inside(root: &Path, location: &Path) -> Option<String> {
    let (root, location) =
        (root.canonicalize().ok()?, Some(location).filter(|path| path.is_absolute())?.canonicalize().ok()?);
    Some(location.strip_prefix(&root).ok()?.to_str()?.to_owned())
}

/// The folder of the cluster's last file, kept open for the next.
#[derive(Debug)]
pub struct NearbyFolders {
    folders: ClusterFolders,
    nearby: Nearby,
}

impl NearbyFolders {
    /// Those of a cluster.
    pub fn new(folders: ClusterFolders) -> Self {
        Self { folders, nearby: Nearby::default() }
    }

    /// Where the file at `path` lies, for messages.
    pub fn shown(&self, path: &str) -> PathBuf {
        self.folders.root.path().join(path)
    }

    /// The folder that the file at `path` lies in, and its name there. Blocking.
    ///
    /// # Errors
    /// When there is no such folder, or it is reached through a symbolic link.
    pub fn of<'a>(&mut self, path: &'a str) -> io::Result<(&Folder, &'a str)> {
        let (ground, below) = self.folders.place(path);
        let (folder, name) = below.rsplit_once('/').unwrap_or(("", below));
        Ok((self.nearby.folder(ground, Path::new(folder))?, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_behind_a_tablespaces_link_lies_in_the_tablespace() {
        let room = tempfile::tempdir().unwrap();
        for folder in ["data/base/5", "data/pg_tblspc/7/PG_15", "space/PG_15/5"] {
            std::fs::create_dir_all(room.path().join(folder)).unwrap();
        }
        let enter = |name: &str| Folder::enter(&room.path().join(name)).unwrap();
        let folders = ClusterFolders::new(enter("data"), BTreeMap::from([(16384, enter("space"))]));
        let place = |path: &str| {
            let (folder, below) = folders.place(path);
            (folder.path().file_name().unwrap().to_str().unwrap().to_owned(), below.to_owned())
        };
        let expected = |folder: &str, below: &str| (folder.to_owned(), below.to_owned());
        assert_eq!(place("pg_tblspc/16384/PG_15/5/1"), expected("space", "PG_15/5/1"));
        assert_eq!(place("pg_tblspc/16384"), expected("space", ""));
        // A tablespace in place is a folder of the cluster.
        for path in ["pg_tblspc/7/PG_15", "pg_tblspc/016384/x", "pg_tblspc", "base/5/1", ""] {
            assert_eq!(place(path), expected("data", path));
        }
        let mut nearby = NearbyFolders::new(folders);
        for (path, folder) in [
            ("base/5/1", "data/base/5"),
            ("base/5/2", "data/base/5"),
            ("pg_tblspc/16384/PG_15/5/1", "space/PG_15/5"),
            ("PG_VERSION", "data"),
        ] {
            assert_eq!(nearby.of(path).unwrap().0.path(), room.path().join(folder), "{path}");
        }
        assert!(nearby.of("base/6/1").is_err());
    }
}
