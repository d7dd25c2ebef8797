//! What a restore must lie apart from: data directories, tablespaces and repositories, whoever's, the spool, and its own parts from each
//! other. Links are followed, so that no name hides where a place lies. Blocking.
//!
//! What the configuration says of other clusters is compared as it is written: their file systems may hang. A place that lies in a data
//! directory, a tablespace or a repository is known by what the folders above it hold, whatever the name that leads there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::places::Places;
use super::refusal::Refusal;
use super::request::{Archiving, RestoreRequest, Taken, TakenBy};
use super::settings;
use walward_base::sys::folder::Folder;
use walward_base::sys::ground::Ground;
use walward_base::sys::within::resolved;

/// How long a file system may take to say where a folder of the configuration leads.
const DEADLINE: Duration = Duration::from_secs(5);

/// How one place lies to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lies {
    At,
    Inside,
    Around,
}

impl Lies {
    /// How `place` lies to `other`; none: apart. Both are resolved. Pure.
    fn to(place: &Path, other: &Path) -> Option<Self> {
        match (place.starts_with(other), other.starts_with(place)) {
            (true, true) => Some(Self::At),
            (true, false) => Some(Self::Inside),
            (false, true) => Some(Self::Around),
            (false, false) => None,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::At => "is",
            Self::Inside => "lies in",
            Self::Around => "holds",
        }
    }
}

/// A folder that is restored into.
struct Part {
    written: PathBuf,
    real: PathBuf,
    /// What gives it another place.
    option: String,
}

impl Part {
    fn new(written: &Path, option: String) -> Self {
        Self { written: written.to_owned(), real: resolved(written), option }
    }

    fn refuse(&self, lies: Lies, other: String) -> Refusal {
        Refusal::NotApart { place: self.written.clone(), how: lies.words(), other, option: self.option.clone() }
    }
}

/// The data directory, and the parts that go elsewhere.
fn parts(places: &Places) -> (Part, Vec<Part>) {
    let tablespace = |name: &str| format!("--tablespace-map '{name}=/NEW/PLACE'");
    let tablespaces = places.tablespaces().iter().map(|placed| Part::new(&placed.to, tablespace(&placed.name)));
    let wal = places.wal().map(|wal| Part::new(wal, "--waldir".to_owned()));
    (Part::new(places.root(), "--target-directory".to_owned()), tablespaces.chain(wal).collect())
}

/// Refuses places that the configuration gives to others, and what [`check_there`] refuses.
pub fn check(places: &Places, request: &RestoreRequest) -> Result<(), Refusal> {
    let (root, others) = parts(places);
    let is_said = request.archive != Archiving::ByPlace || !settings::is_lent(request);
    for taken in &request.taken {
        let (real, is_other) = (real(taken), matches!(taken.by, TakenBy::Cluster(_)));
        let shown = || match &taken.by {
            by if real == taken.path => format!("{}, {by}", real.display()),
            by => format!("{} ({}), {by}", taken.path.display(), real.display()),
        };
        match Lies::to(&root.real, &real) {
            None => {}
            Some(Lies::At) if taken.by == TakenBy::Own => {}
            // It is empty, or it would have been refused; whether the copy is to be that cluster is for a person to say.
            Some(Lies::At) if is_other && is_said => {}
            Some(Lies::At) if is_other => {
                return Err(Refusal::OtherCluster { place: root.written, other: taken.by.to_string() });
            }
            Some(lies) => return Err(root.refuse(lies, shown())),
        }
        if let Some((part, lies)) = others.iter().find_map(|part| Some((part, Lies::to(&part.real, &real)?))) {
            return Err(part.refuse(lies, shown()));
        }
    }
    check_there(places)
}

/// Refuses places that do not lie apart from each other, or lie in what is there by now.
pub fn check_there(places: &Places) -> Result<(), Refusal> {
    let (root, others) = parts(places);
    for (number, part) in others.iter().enumerate() {
        if let Some(lies) = Lies::to(&part.real, &root.real) {
            return Err(part.refuse(lies, format!("{}, which is restored into", root.written.display())));
        }
        // A tablespace in another one is strange, but PostgreSQL has it.
        if let Some(same) = others.iter().take(number).find(|other| other.real == part.real) {
            return Err(part.refuse(Lies::At, format!("{}, which another part goes to", same.written.display())));
        }
    }
    for part in std::iter::once(&root).chain(&others) {
        let is_ours = |folder: &Path| others.iter().any(|part| part.real == folder);
        let above = part.real.ancestors().skip(1).filter(|folder| !is_ours(folder));
        // The outermost: the folders of a data directory have marks of their own.
        if let Some((folder, what)) = above.filter_map(|folder| Some((folder, what_lies_in(folder)?))).last() {
            return Err(part.refuse(Lies::Inside, format!("{}, {what}", folder.display())));
        }
    }
    Ok(())
}

fn real(taken: &Taken) -> PathBuf {
    let looked = if taken.may_look { Ground::of(&taken.path).ask(&taken.path, DEADLINE, resolved) } else { None };
    looked.unwrap_or_else(|| taken.path.clone())
}

/// What `folder` is by what lies in it, if it is something that nothing else belongs into.
fn what_lies_in(folder: &Path) -> Option<&'static str> {
    let folder = Folder::enter(folder).ok()?;
    let has = |name: &str| folder.look(name).is_ok();
    if has("PG_VERSION") {
        return Some("a data directory of PostgreSQL");
    }
    if has("archive_status") {
        return Some("a pg_wal of PostgreSQL");
    }
    if has("cluster/00000001.json") {
        return Some("a cluster's folder in a repository");
    }
    let is_of_version = |name: &str| {
        let numbers = name.strip_prefix("PG_").and_then(|numbers| numbers.split_once('_'));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        numbers.is_some_and(|(major, catalogue)| is_number(major) && is_number(catalogue))
    };
    let names = folder.names().ok()?;
    names.iter().any(|name| name.to_str().is_some_and(is_of_version)).then_some("a tablespace of PostgreSQL")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::catalogue::Target;
    use crate::restore::TablespaceSelector;
    use crate::restore::choose::tests::request;
    use walward_repo::manifest::Tablespace;

    struct Room(tempfile::TempDir);

    impl Room {
        /// A cluster `main` with a pg_wal elsewhere, a tablespace, a repository and a spool, and a link to each.
        fn new() -> Self {
            let room = Self(tempfile::tempdir().unwrap());
            for path in
                ["main/pg_tblspc", "wal/archive_status", "space/PG_15_202209061", "repository/main/cluster", "spool"]
            {
                std::fs::create_dir_all(room.at(path)).unwrap();
            }
            std::fs::File::create(room.at("main/PG_VERSION")).unwrap();
            std::fs::File::create(room.at("repository/main/cluster/00000001.json")).unwrap();
            for folder in ["main", "wal", "space", "repository", "spool"] {
                symlink(room.at(folder), room.at(&format!("to-{folder}"))).unwrap();
            }
            room
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().canonicalize().unwrap().join(path)
        }

        fn taken(&self, path: &str, by: TakenBy) -> Taken {
            Taken { path: self.at(path), may_look: !matches!(by, TakenBy::Cluster(_)), by }
        }

        fn request(&self) -> RestoreRequest {
            let taken = vec![
                self.taken("to-main", TakenBy::Own),
                self.taken("other/data", TakenBy::Cluster("other".to_owned())),
                self.taken("to-repository", TakenBy::Repository("disk".to_owned())),
                self.taken("spool", TakenBy::Spool),
            ];
            RestoreRequest { taken, archive: Archiving::ByPlace, ..request(Target::Latest) }
        }

        /// What is said to the data in `root`, a tablespace in `space` and pg_wal in `wal`.
        fn check(&self, request: &RestoreRequest, root: &str, space: &str, wal: &str) -> Result<(), String> {
            let spaces =
                [Tablespace { oid: 7, name: "fast".to_owned(), location: self.at(space).display().to_string() }];
            let places = Places::new(
                &self.at(root),
                "label",
                &spaces,
                &[] as &[(TablespaceSelector, PathBuf)],
                Some(&self.at(wal)),
            );
            check(&places.expect("by their names they lie apart"), request).map_err(|refusal| refusal.to_string())
        }
    }

    #[test]
    fn no_part_of_a_restore_goes_into_what_is_anothers_whatever_name_leads_there() {
        let room = Room::new();
        let request = room.request();
        // Nobody said what lies there: the folders above tell.
        let bare = RestoreRequest { taken: Vec::new(), ..request.clone() };
        let marked = ["main", "wal", "space", "repository/main"];
        for (number, of) in ["main", "wal", "space", "repository/main", "repository", "spool"].into_iter().enumerate() {
            for place in [format!("{of}/new"), format!("to-{of}/new/deep")] {
                let told = |result: Result<(), String>| assert!(result.unwrap_err().contains("lies in"), "{place}");
                for request in [&request, &bare].into_iter().take(if number < marked.len() { 2 } else { 1 }) {
                    told(room.check(request, &place, "a", "b"));
                    told(room.check(request, "copy", &place, "b"));
                    told(room.check(request, "copy", "a", &place));
                }
            }
        }
        for (root, space, wal) in
            [("copy", "a", "b"), ("main", "a", "b"), ("to-main", "space", "wal"), ("copy", "a", "a/b")]
        {
            assert_eq!(room.check(&request, root, space, wal), Ok(()), "{root} {space} {wal}");
        }
    }

    #[test]
    fn nothing_that_is_anothers_comes_to_lie_in_a_restore() {
        let room = Room::new();
        let request = room.request();
        for (root, space, wal) in [("other", "a", "b"), ("copy", "other", "b"), ("copy", "a", "other")] {
            let told = room.check(&request, root, space, wal).unwrap_err();
            assert!(told.contains("other holds") && told.contains("cluster \"other\""), "{told}");
        }
        for place in ["main", "to-main", "repository", "to-repository", "spool", "to-spool", "other/data"] {
            assert!(room.check(&request, "copy", place, "b").unwrap_err().contains(" is "), "{place}");
            assert!(room.check(&request, "copy", "a", place).unwrap_err().contains(" is "), "{place}");
            if !place.ends_with("main") {
                assert!(room.check(&request, place, "a", "b").unwrap_err().contains(" is "), "{place}");
            }
        }
    }

    #[test]
    fn another_clusters_own_directory_is_restored_into_where_a_person_says_what_becomes_of_it() {
        let room = Room::new();
        let unsaid = room.request();
        assert!(room.check(&unsaid, "other/data", "a", "b").unwrap_err().contains("--archive-mode preserve"));
        for archive in [Archiving::Preserve, Archiving::Off] {
            assert_eq!(room.check(&RestoreRequest { archive, ..unsaid.clone() }, "other/data", "a", "b"), Ok(()));
        }
        assert_eq!(room.check(&RestoreRequest { standby: true, ..unsaid }, "other/data", "a", "b"), Ok(()));
    }

    #[test]
    fn no_link_leads_one_part_of_a_restore_into_another() {
        let room = Room::new();
        let request = room.request();
        symlink(room.at("copy"), room.at("to-copy")).unwrap();
        symlink(room.at("a"), room.at("to-a")).unwrap();
        for (space, wal) in [("to-copy/space", "b"), ("a", "to-copy/wal"), ("to-copy", "b"), ("a", "to-a")] {
            let told = room.check(&request, "copy", space, wal).unwrap_err();
            assert!(told.contains("restored into") || told.contains("another part"), "{told}");
        }
        // What an interrupted run left in one tablespace does not take another one that lies in it.
        std::fs::create_dir_all(room.at("a/PG_15_202209061")).unwrap();
        assert_eq!(room.check(&request, "copy", "a", "a/wal"), Ok(()));
    }
}
