//! Where each file of a backup goes. Pure.
//!
//! Paths come from a manifest, and are checked again here: none leads out of the data directory or its tablespace.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::request::TablespaceSelector;
use walward_repo::manifest::Tablespace;

/// A tablespace and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedTablespace {
    /// The name of its link in pg_tblspc.
    pub oid: u32,
    /// Its name in SQL.
    pub name: String,
    /// Where it was.
    pub from: String,
    /// Where it goes.
    pub to: PathBuf,
}

/// Where files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    root: PathBuf,
    tablespaces: Vec<PlacedTablespace>,
    /// Where pg_wal goes, when it shall be a link.
    wal: Option<PathBuf>,
}

impl Places {
    /// Those of a restore into `root` (absolute) of a backup with `tablespaces`, of which `map` moves some; `wal` is for pg_wal.
    pub fn new(
        root: &Path,
        label: &str,
        tablespaces: &[Tablespace],
        map: &[(TablespaceSelector, PathBuf)],
        wal: Option<&Path>,
    ) -> Result<Self, Refusal> {
        let selects = |selector: &TablespaceSelector, tablespace: &Tablespace| match selector {
            TablespaceSelector::Oid(oid) => tablespace.oid == *oid,
            TablespaceSelector::Name(name) => tablespace.name == *name,
            TablespaceSelector::Location(location) => Path::new(&tablespace.location) == location,
        };
        for (selector, _) in map {
            if !tablespaces.iter().any(|tablespace| selects(selector, tablespace)) {
                let known: Vec<String> =
                    tablespaces.iter().map(|t| format!("{} (oid {}, {})", t.name, t.oid, t.location)).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Refusal::NoSuchTablespace {
                    label: label.to_owned(),
                    selector: selector.to_string(),
                    known,
                });
            }
        }
        let mut taken = HashSet::new();
        let mut placed = Vec::with_capacity(tablespaces.len());
        for tablespace in tablespaces {
            let mut mapped = map.iter().filter(|(selector, _)| selects(selector, tablespace)).map(|(_, to)| to);
            let first = mapped.next();
            if let Some((first, second)) = first.and_then(|first| Some((first, mapped.find(|to| *to != first)?))) {
                return Err(Refusal::MappedTwice {
                    name: tablespace.name.clone(),
                    first: first.clone(),
                    second: second.clone(),
                });
            }
            let to = first.map_or_else(|| PathBuf::from(&tablespace.location), PathBuf::clone);
            let refuse = |why| Refusal::TablespacePlace { name: tablespace.name.clone(), to: to.clone(), why };
            if let Some(why) = misplaced(&to, root) {
                return Err(refuse(why));
            }
            if !taken.insert(to.clone()) {
                return Err(refuse("another tablespace goes there"));
            }
            placed.push(PlacedTablespace {
                oid: tablespace.oid,
                name: tablespace.name.clone(),
                from: tablespace.location.clone(),
                to,
            });
        }
        if let Some(to) = wal {
            let taken = taken.contains(to).then_some("a tablespace goes there");
            if let Some(why) = misplaced(to, root).or(taken) {
                return Err(Refusal::WalPlace { to: to.to_owned(), why });
            }
        }
        Ok(Self { root: root.to_owned(), tablespaces: placed, wal: wal.map(Path::to_owned) })
    }

    /// Where pg_wal goes, when it is to be a link.
    pub fn wal(&self) -> Option<&Path> {
        self.wal.as_deref()
    }

    /// Every directory that is written to, and lies in no other one: tablespaces', pg_wal's, and the data directory last.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        self.tablespaces.iter().map(|tablespace| tablespace.to.as_path()).chain(self.wal()).chain([self.root()])
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The tablespaces.
    pub fn tablespaces(&self) -> &[PlacedTablespace] {
        &self.tablespaces
    }

    /// The tablespace that a path of the manifest lies in, and the path in it.
    pub fn tablespace_of<'a>(&self, path: &'a str) -> Option<(&PlacedTablespace, &'a str)> {
        let (oid, rest) = path.strip_prefix("pg_tblspc/").map(|path| path.split_once('/').unwrap_or((path, "")))?;
        let tablespace = self.tablespaces.iter().find(|tablespace| tablespace.oid.to_string() == oid)?;
        Some((tablespace, rest))
    }

    /// Where `path` goes; `None` for a path that leads out. The empty path is the data directory.
    pub fn resolve(&self, path: &str) -> Option<PathBuf> {
        if path.is_empty() || path == "." {
            return Some(self.root.clone());
        }
        let safe = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        if !path.split('/').all(safe) {
            return None;
        }
        let in_wal = path.strip_prefix("pg_wal").filter(|rest| rest.is_empty() || rest.starts_with('/'));
        if let (Some(wal), Some(rest)) = (&self.wal, in_wal) {
            return Some(if rest.is_empty() { wal.clone() } else { wal.join(rest.trim_start_matches('/')) });
        }
        Some(match self.tablespace_of(path) {
            Some((tablespace, "")) => tablespace.to.clone(),
            Some((tablespace, rest)) => tablespace.to.join(rest),
            None => self.root.join(path),
        })
    }
}

/// Why a part of the cluster cannot lie in `to`, beside a data directory in `root`.
fn misplaced(to: &Path, root: &Path) -> Option<&'static str> {
    let plain = to.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !to.is_absolute() || !plain || to.as_os_str().as_encoded_bytes().contains(&0) {
        return Some("give an absolute path without `..`");
    }
    if to == Path::new("/") || root.starts_with(to) {
        return Some("the data directory lies in it");
    }
    to.starts_with(root).then_some("it lies in the data directory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tablespace(oid: u32, name: &str, location: &str) -> Tablespace {
        Tablespace { oid, name: name.to_owned(), location: location.to_owned() }
    }

    fn places(map: &[(TablespaceSelector, PathBuf)]) -> Result<Places, Refusal> {
        let tablespaces = [tablespace(16384, "fast", "/nvme/fast"), tablespace(163, "slow", "/disk/slow")];
        Places::new(Path::new("/data/main"), "label", &tablespaces, map, None)
    }

    #[test]
    fn files_of_a_tablespace_go_to_its_place() {
        let places = places(&[(TablespaceSelector::Name("fast".to_owned()), "/new/fast".into())]).expect("valid");
        let resolve = |path| places.resolve(path).map(|path| path.display().to_string());
        assert_eq!(resolve("pg_tblspc/16384/PG_15_202209061/5/1").as_deref(), Some("/new/fast/PG_15_202209061/5/1"));
        assert_eq!(resolve("pg_tblspc/163/PG_15_202209061").as_deref(), Some("/disk/slow/PG_15_202209061"));
        assert_eq!(resolve("pg_tblspc/16384").as_deref(), Some("/new/fast"));
        // An in-place tablespace is a directory of the cluster.
        assert_eq!(resolve("pg_tblspc/999/x").as_deref(), Some("/data/main/pg_tblspc/999/x"));
        assert_eq!(resolve("").as_deref(), Some("/data/main"));
    }

    #[test]
    fn places_that_cannot_be_are_refused() {
        let to = |to: &str| places(&[(TablespaceSelector::Oid(163), to.into())]);
        for place in ["relative", "/a/../b", "/data/main/pg_tblspc/1", "/data", "/", "/nvme/fast"] {
            assert!(matches!(to(place), Err(Refusal::TablespacePlace { .. })), "{place}");
        }
        assert!(to("/data/main2").is_ok());
        assert!(matches!(
            places(&[(TablespaceSelector::Location("/none".into()), "/x".into())]),
            Err(Refusal::NoSuchTablespace { .. })
        ));
    }

    #[test]
    fn a_refused_place_names_the_option_that_gives_another() {
        let inside = [tablespace(7, "inner", "/data/main/inner")];
        let refused = Places::new(Path::new("/data/main"), "label", &inside, &[], None).expect_err("inside");
        assert!(refused.to_string().contains("--tablespace-map 'inner=/NEW/PLACE'"), "{refused}");
        let map = [(TablespaceSelector::Oid(7), PathBuf::from("/new/inner"))];
        assert!(Places::new(Path::new("/data/main"), "label", &inside, &map, None).is_ok());
    }

    #[test]
    fn wal_goes_where_it_is_told_and_nowhere_else() {
        let with = |wal: &str| Places::new(Path::new("/data/main"), "label", &[], &[], Some(Path::new(wal)));
        let places = with("/fast/wal").expect("valid");
        let resolve = |path| places.resolve(path).map(|path| path.display().to_string());
        assert_eq!(resolve("pg_wal").as_deref(), Some("/fast/wal"));
        assert_eq!(resolve("pg_wal/archive_status").as_deref(), Some("/fast/wal/archive_status"));
        assert_eq!(resolve("pg_wal2/x").as_deref(), Some("/data/main/pg_wal2/x"));
        for place in ["wal", "/a/../b", "/data/main/wal", "/data", "/"] {
            assert!(matches!(with(place), Err(Refusal::WalPlace { .. })), "{place}");
        }
    }

    #[test]
    fn a_tablespace_that_is_mapped_to_two_places_goes_to_neither() {
        let name = || TablespaceSelector::Name("fast".to_owned());
        let map = |first: TablespaceSelector, second: TablespaceSelector, to: &str| {
            places(&[(first, "/new/fast".into()), (second, to.into())])
        };
        for second in [name(), TablespaceSelector::Oid(16384), TablespaceSelector::Location("/nvme/fast".into())] {
            let error = map(name(), second.clone(), "/other/fast").expect_err("two places").to_string();
            assert!(error.contains("/new/fast") && error.contains("/other/fast"), "{error}");
            map(name(), second, "/new/fast").expect("the same place twice");
        }
        map(name(), TablespaceSelector::Oid(163), "/new/slow").expect("two tablespaces");
    }

    proptest! {
        #[test]
        fn no_path_leads_out(parts in proptest::collection::vec("[a-z0-9./\0]{0,4}|\\.\\.|pg_tblspc|16384", 0..6)) {
            let places = places(&[]).expect("valid");
            if let Some(path) = places.resolve(&parts.join("/")) {
                let roots = ["/data/main", "/nvme/fast", "/disk/slow"];
                prop_assert!(roots.iter().any(|root| path.starts_with(root)), "{}", path.display());
                prop_assert!(!path.components().any(|part| part == Component::ParentDir), "{}", path.display());
            }
        }
    }
}
