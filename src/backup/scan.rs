//! Lists what a backup copies: the data directory and its tablespaces, less what PostgreSQL makes anew at its start.
//!
//! What `sendDir` (src/backend/backup/basebackup.c) does, with one difference: it leaves out every symbolic link but those of
//! tablespaces with a warning; here a link in a place where PostgreSQL keeps data is an error, because a backup without
//! that data would restore and be wrong.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use super::tree::{Directory, DirectoryNumber, TooManyFiles, Tree};
use super::warnings::Warnings;
use walward_base::sys::folder::{Facts, Folder, Kind};
use walward_base::sys::ground::Steps;
use walward_pg::{ClusterFolders, Inclusion, UnloggedRelations, inclusion, is_database_directory, place_inside};

/// The file that makes a directory a cluster. It is not listed: a backup takes it by itself, last.
pub const CONTROL_FILE: &str = "global/pg_control";

/// Where the links of the tablespaces are.
const TABLESPACES: &str = "pg_tblspc";

/// What an interrupted restore leaves at the root of its data directory. In a restored copy it would speak of another restore.
const RESTORE_JOURNAL: &str = "walward.restore.json";

/// What a backup copies.
#[derive(Debug)]
pub struct Scan {
    /// Directories and files.
    pub tree: Tree,
    /// Tablespaces that lie outside, by the links in pg_tblspc.
    pub tablespaces: Vec<TablespaceLink>,
    /// All of them, held open.
    pub folders: ClusterFolders,
}

/// A link in pg_tblspc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceLink {
    /// The link's name.
    pub oid: u32,
    /// Where it points.
    pub location: String,
}

/// Why the data directory could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A file or directory that must be read cannot be.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the machine said.
        #[source]
        source: io::Error,
    },
    /// A name that is not UTF-8.
    #[error("{} has a name that is not UTF-8; PostgreSQL makes no such file: move it out of the data directory", .0.display())]
    Name(PathBuf),
    /// A symbolic link where data should be.
    #[error(
        "{} is a symbolic link; a backup without what is behind it would be incomplete: \
         only the tablespaces in pg_tblspc and pg_wal may be links",
        .0.display()
    )]
    Link(PathBuf),
    /// See [`TooManyFiles`].
    #[error(transparent)]
    TooManyFiles(#[from] TooManyFiles),
}

/// What is to be left out, by version.
#[derive(Debug, Clone)]
pub struct Rules {
    /// PostgreSQL's major version.
    pub major: u16,
    /// The directory that this server's files lie in within a tablespace: `PG_15_202209061`.
    pub tablespace_version_directory: String,
}

/// Lists the data directory at `root`. Blocking; one `lstat` a file. Each call to a file system is one of `steps`; `on_files` hears now and
/// then how many files were found.
pub fn scan(
    root: &Path,
    rules: &Rules,
    warnings: &mut Warnings,
    steps: &Steps,
    on_files: &dyn Fn(u64),
) -> Result<Scan, ScanError> {
    let failed = |source| ScanError::Read { path: root.to_owned(), source };
    let held = steps.at(root, || Folder::enter(root)).map_err(failed)?;
    let links = steps.at(&root.join(TABLESPACES), || tablespace_links(&held))?;
    scan_with(&held, rules, links, warnings, steps, on_files)
}

/// Lists the data directory with those tablespaces alone that `links` names. One that is made meanwhile is newer than the
/// backup's start: the WAL makes it again, and half of it would be in the way.
fn scan_with(
    root: &Folder,
    rules: &Rules,
    mut links: Vec<TablespaceLink>,
    warnings: &mut Warnings,
    steps: &Steps,
    on_files: &dyn Fn(u64),
) -> Result<Scan, ScanError> {
    let mut tablespaces = BTreeMap::new();
    let mut inside = HashSet::new();
    for link in &links {
        // A tablespace inside the data directory (PostgreSQL warns about it, and allows it) is copied as a tablespace, once.
        if let Some(place) = place_inside(root.path(), Path::new(&link.location)) {
            warnings.add(format!(
                "tablespace {} lies in the data directory ({}): PostgreSQL advises against that, and a restore is refused unless \
                 --tablespace-map gives it another place",
                link.oid, link.location
            ));
            inside.insert(place);
        }
        let followed = steps.at(Path::new(&link.location), || follow(root, link));
        tablespaces.extend(followed?.map(|folder| (link.oid, folder)));
    }
    links.retain(|link| tablespaces.contains_key(&link.oid));
    let folders = ClusterFolders::new(root.clone(), tablespaces);
    let mut walk = Walk { folders: &folders, rules, inside, warnings, steps, on_files, tree: Tree::default() };
    walk.run()?;
    let tree = walk.tree;
    Ok(Scan { tree, tablespaces: links, folders })
}

/// The folder of a tablespace; `None` when it was dropped meanwhile.
///
/// Root follows a link to what is its owner's: the owner of the data directory could otherwise have root read anything for a backup.
fn follow(root: &Folder, link: &TablespaceLink) -> Result<Option<Folder>, ScanError> {
    let path = Path::new(TABLESPACES).join(link.oid.to_string());
    match root.follow(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && root.look(&path).is_err() => Ok(None),
        followed => followed.map(Some).map_err(|source| ScanError::Read { path: root.path().join(path), source }),
    }
}

/// The links in pg_tblspc, by number.
fn tablespace_links(root: &Folder) -> Result<Vec<TablespaceLink>, ScanError> {
    let failed = |path: PathBuf| move |source| ScanError::Read { path, source };
    let place = root.path().join(TABLESPACES);
    let folder = root.folder(TABLESPACES).map_err(failed(place.clone()))?;
    let mut links = Vec::new();
    for name in folder.names().map_err(failed(place.clone()))? {
        let Some(oid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let path = place.join(&name);
        match folder.read_link(&name) {
            Ok(location) => {
                let location = location.into_os_string().into_string().map_err(|_| ScanError::Name(path))?;
                links.push(TablespaceLink { oid, location });
            }
            // A directory: a tablespace in place (allow_in_place_tablespaces, for PostgreSQL's own tests); copied as it is.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(path)(error)),
        }
    }
    links.sort_unstable_by_key(|link| link.oid);
    Ok(links)
}

/// A directory that is still to be listed.
struct Pending {
    path: String,
    number: DirectoryNumber,
    /// When set, only this directory within it is looked at.
    only: Option<String>,
}

struct Walk<'a> {
    /// The data directory, and the tablespaces that are copied.
    folders: &'a ClusterFolders,
    rules: &'a Rules,
    /// Paths of tablespaces that lie inside the data directory.
    inside: HashSet<String>,
    warnings: &'a mut Warnings,
    steps: &'a Steps,
    on_files: &'a dyn Fn(u64),
    tree: Tree,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), ScanError> {
        let mut pending = vec![Pending { path: String::new(), number: DirectoryNumber::ROOT, only: None }];
        while let Some(directory) = pending.pop() {
            // The last one pushed is listed next: backwards, so that the order of names is kept.
            let at = pending.len();
            self.list(&directory, &mut pending)?;
            (self.on_files)(self.tree.file_count());
            if let Some(new) = pending.get_mut(at..) {
                new.reverse();
            }
        }
        Ok(())
    }

    /// Lists one directory: its files go into the tree, its directories too and then, to be listed, into `pending`.
    fn list(&mut self, directory: &Pending, pending: &mut Vec<Pending>) -> Result<(), ScanError> {
        let place = self.shown(&directory.path);
        let failed = |source| ScanError::Read { path: place.clone(), source };
        let (ground, below) = self.folders.place(&directory.path);
        let folder = match self.steps.at(&place, || ground.folder(below)) {
            // Dropped since it was seen (DROP DATABASE, DROP TABLESPACE): recovery drops it again.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.path.is_empty() => return Ok(()),
            other => other.map_err(failed)?,
        };
        let mut names = Vec::new();
        for name in self.steps.at(&place, || folder.names()).map_err(failed)? {
            let name = name.into_string().map_err(|name| ScanError::Name(place.join(name)))?;
            if directory.only.as_ref().is_none_or(|only| *only == name) {
                names.push(name);
            }
        }
        names.sort_unstable();
        let unlogged = if is_database_directory(&directory.path) {
            UnloggedRelations::find(names.iter().map(String::as_str))
        } else {
            UnloggedRelations::default()
        };
        for name in &names {
            let path = if directory.path.is_empty() { name.clone() } else { format!("{}/{name}", directory.path) };
            if self.steps.are_given_up() {
                return Err(failed(io::ErrorKind::Interrupted.into()));
            }
            let facts = match self.steps.at(&place.join(name), || folder.look(name)) {
                Ok(facts) => facts,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(ScanError::Read { path: self.shown(&path), source }),
            };
            match facts.kind {
                Kind::File => {
                    let kept = inclusion(&path, false) == Inclusion::Keep && path != RESTORE_JOURNAL;
                    if kept && path != CONTROL_FILE && !unlogged.excludes(name) {
                        self.tree.add_file(directory.number, name, facts.bytes)?;
                    }
                }
                Kind::Folder => self.directory(path, facts, pending)?,
                Kind::Link => self.link(path, pending)?,
                Kind::Other => self.warnings.add(format!("{path} is neither a file nor a directory: left out")),
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: String, facts: Facts, pending: &mut Vec<Pending>) -> Result<(), ScanError> {
        let kept = inclusion(&path, true);
        if kept == Inclusion::Skip || path == "lost+found" {
            return Ok(());
        }
        let number = self.add_directory(&path, facts)?;
        if path == "pg_wal" {
            self.add_directory("pg_wal/archive_status", facts)?;
            if self.rules.major >= 17 {
                self.add_directory("pg_wal/summaries", facts)?;
            }
        } else if kept == Inclusion::Keep && !self.inside.contains(&path) {
            pending.push(Pending { path, number, only: None });
        }
        Ok(())
    }

    /// A symbolic link: a tablespace, pg_wal or another directory that starts empty, or something that does not belong here.
    fn link(&mut self, path: String, pending: &mut Vec<Pending>) -> Result<(), ScanError> {
        if inclusion(&path, true) == Inclusion::EmptyDirectory {
            // Copied as a directory, as `convert_link_to_directory` does.
            let follow = || self.folders.root().follow(&path).and_then(|folder| folder.facts());
            let facts = self.steps.at(&self.shown(&path), follow);
            let facts = facts.map_err(|source| ScanError::Read { path: self.shown(&path), source })?;
            return self.directory(path, facts, pending);
        }
        let tablespace = path.strip_prefix("pg_tblspc/").and_then(|name| name.parse::<u32>().ok());
        if let Some(oid) = tablespace {
            let Some((_, folder)) = self.folders.tablespaces().find(|(known, _)| *known == oid) else { return Ok(()) };
            let facts = self.steps.at(folder.path(), || folder.facts());
            let facts = facts.map_err(|source| ScanError::Read { path: self.shown(&path), source })?;
            let number = self.add_directory(&path, facts)?;
            let only = Some(self.rules.tablespace_version_directory.clone());
            pending.push(Pending { path, number, only });
        } else if holds_data(&path) {
            return Err(ScanError::Link(self.shown(&path)));
        } else {
            self.warnings.add(format!("{path} is a symbolic link: left out, as pg_basebackup does"));
        }
        Ok(())
    }

    fn add_directory(&mut self, path: &str, facts: Facts) -> Result<DirectoryNumber, ScanError> {
        let Facts { mode, mtime, uid, gid, .. } = facts;
        Ok(self.tree.add_directory(Directory { path: path.into(), mode, mtime, uid, gid })?)
    }

    /// Where it lies, for messages.
    fn shown(&self, path: &str) -> PathBuf {
        self.folders.root().path().join(path)
    }
}

/// Whether PostgreSQL keeps data at `path` that a backup cannot do without. The rest of a data directory is configuration,
/// certificates, logs, and what extensions and people put there.
fn holds_data(path: &str) -> bool {
    const PLACES: [&str; 11] = [
        "PG_VERSION",
        "base",
        "global",
        "pg_commit_ts",
        "pg_logical",
        "pg_multixact",
        "pg_stat",
        "pg_tblspc",
        "pg_twophase",
        "pg_xact",
        "pg_wal",
    ];
    PLACES.contains(&path.split('/').next().unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn write(path: &Path, bytes: usize) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).and_then(|mut file| io::Write::write_all(&mut file, &vec![1; bytes])).unwrap();
    }

    /// A data directory, a tablespace beside it, pg_wal elsewhere.
    fn cluster() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        for file in [
            "PG_VERSION",
            "postmaster.pid",
            "global/pg_control",
            "global/1262",
            "base/5/1259",
            "base/5/16390",
            "base/5/16390_init",
            "base/5/t4_16400",
            "base/10/1259",
            "pg_stat_tmp/x",
            "walward.restore.json",
        ] {
            write(&data.join(file), 5);
        }
        std::fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        std::fs::create_dir_all(data.join("pg_twophase")).unwrap();
        write(&folder.path().join("wal/000000010000000000000001"), 9);
        symlink(folder.path().join("wal"), data.join("pg_wal")).unwrap();
        write(&folder.path().join("space/PG_15_202209061/5/16500"), 7);
        write(&folder.path().join("space/PG_13_202007201/5/16500"), 7);
        write(&folder.path().join("space/unrelated"), 7);
        symlink(folder.path().join("space"), data.join("pg_tblspc/16499")).unwrap();
        folder
    }

    fn list(folder: &tempfile::TempDir) -> Result<(Scan, Vec<String>), ScanError> {
        let rules = Rules { major: 15, tablespace_version_directory: "PG_15_202209061".to_owned() };
        let mut warnings = Warnings::default();
        let scan = scan(&folder.path().join("data"), &rules, &mut warnings, &Steps::default(), &|_| {})?;
        Ok((scan, warnings.into_lines()))
    }

    fn files(scan: &Scan) -> Vec<String> {
        scan.tree.files().map(|(_, file)| file.path()).collect()
    }

    #[test]
    fn a_cluster_is_listed_without_what_is_made_anew() {
        let folder = cluster();
        let (scan, warnings) = list(&folder).unwrap();
        let expected = [
            "PG_VERSION",
            "base/10/1259",
            "base/5/1259",
            "base/5/16390_init",
            "global/1262",
            "pg_tblspc/16499/PG_15_202209061/5/16500",
        ];
        assert_eq!(files(&scan), expected);
        let directories: Vec<_> = scan.tree.directories().iter().map(|directory| &*directory.path).collect();
        let expected = [
            "base",
            "global",
            "pg_stat_tmp",
            "pg_tblspc",
            "pg_tblspc/16499",
            "pg_twophase",
            "pg_wal",
            "pg_wal/archive_status",
            "base/10",
            "base/5",
            "pg_tblspc/16499/PG_15_202209061",
            "pg_tblspc/16499/PG_15_202209061/5",
        ];
        let mut sorted = directories.clone();
        sorted.sort_unstable();
        let mut expected_sorted = expected.to_vec();
        expected_sorted.sort_unstable();
        assert_eq!(sorted, expected_sorted);
        for (at, directory) in directories.iter().enumerate() {
            if let Some((parent, _)) = directory.rsplit_once('/') {
                assert!(directories[..at].contains(&parent), "{directory} comes before the directory that it lies in");
            }
        }
        assert_eq!(scan.tablespaces.len(), 1);
        assert_eq!(scan.tablespaces[0].oid, 16499);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_link_where_data_should_be_is_refused() {
        for (what, place) in [("base/5/1259", "base/5/1260"), ("base/5", "base/6"), ("global", "pg_xact")] {
            let folder = cluster();
            let data = folder.path().join("data");
            symlink(data.join(what), data.join(place)).unwrap();
            assert!(matches!(list(&folder), Err(ScanError::Link(path)) if path.ends_with(place)));
        }
    }

    #[test]
    fn other_links_and_special_files_are_left_out_and_named() {
        let folder = cluster();
        let data = folder.path().join("data");
        symlink("/etc/passwd", data.join("server.crt")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, data.join("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        let (scan, warnings) = list(&folder).unwrap();
        assert_eq!(scan.tree.file_count(), 6);
        assert!(
            warnings.len() == 2 && warnings[0].contains("pipe") && warnings[1].contains("server.crt"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_tablespace_inside_the_data_directory_is_copied_once() {
        let folder = cluster();
        let data = folder.path().join("data");
        write(&data.join("space/PG_15_202209061/5/16600"), 3);
        symlink(data.join("space"), data.join("pg_tblspc/16599")).unwrap();
        let (scan, warnings) = list(&folder).unwrap();
        assert!(
            warnings.len() == 1 && warnings[0].contains("16599") && warnings[0].contains("--tablespace-map"),
            "{warnings:?}"
        );
        let copies: Vec<_> = files(&scan).into_iter().filter(|path| path.ends_with("16600")).collect();
        assert_eq!(copies, ["pg_tblspc/16599/PG_15_202209061/5/16600"]);
    }

    #[test]
    fn a_tablespace_that_is_made_meanwhile_is_left_to_the_wal() {
        let folder = cluster();
        let data = folder.path().join("data");
        let held = Folder::enter(&data).unwrap();
        let links = tablespace_links(&held).unwrap();
        write(&folder.path().join("new/PG_15_202209061/5/16900"), 3);
        symlink(folder.path().join("new"), data.join("pg_tblspc/16800")).unwrap();
        let rules = Rules { major: 15, tablespace_version_directory: "PG_15_202209061".to_owned() };
        let scan = scan_with(&held, &rules, links, &mut Warnings::default(), &Steps::default(), &|_| {}).unwrap();
        assert!(files(&scan).contains(&"pg_tblspc/16499/PG_15_202209061/5/16500".to_owned()));
        assert!(scan.tree.directories().iter().all(|directory| !directory.path.contains("16800")));
        assert_eq!(scan.tablespaces.len(), 1);
    }

    #[test]
    #[ignore = "needs root, to be led by another user; scripts/test.sh runs it as root"]
    fn as_root_a_tablespaces_link_leads_to_its_owners_folder_or_nowhere() {
        const OWNER: u32 = 65534;
        let folder = cluster();
        let (link, space) = (folder.path().join("data/pg_tblspc/16499"), folder.path().join("space"));
        std::os::unix::fs::lchown(&link, Some(OWNER), Some(OWNER)).unwrap();
        let error = list(&folder).map(drop).unwrap_err();
        assert!(walward_base::describe(&error).contains("root does not follow it"), "{error}");
        std::os::unix::fs::chown(&space, Some(OWNER), Some(OWNER)).unwrap();
        assert_eq!(list(&folder).unwrap().0.tablespaces.len(), 1);
    }

    #[test]
    fn names_that_are_not_text_are_refused() {
        use std::os::unix::ffi::OsStrExt;
        let folder = cluster();
        let name = std::ffi::OsStr::from_bytes(b"base/\xff");
        write(&folder.path().join("data").join(name), 1);
        assert!(matches!(list(&folder), Err(ScanError::Name(_))));
    }

    #[test]
    fn a_tablespace_that_cannot_be_reached_is_an_error() {
        let folder = cluster();
        symlink("/nowhere", folder.path().join("data/pg_tblspc/16700")).unwrap();
        assert!(matches!(list(&folder), Err(ScanError::Read { .. })));
    }
}
