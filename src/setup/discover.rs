//! The PostgreSQL clusters of this host, and which of them may be offered.
//!
//! Whoever owns a cluster that is set up may read the repository's key. Any user can run a server or leave a file that looks like
//! one's, so that what only such things tell of counts when somebody trusted owns both them and the data directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::places::{self, Heard, Listens, Of, parse_pid_file, same_folder};
use walward_base::sys::folder::Folder;
use walward_base::sys::identity::{user_id, user_name};
use walward_pg::session::quote_conninfo;

/// A cluster on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostCluster {
    /// A name for it.
    pub(crate) name: String,
    pub(crate) data_directory: PathBuf,
    /// Whose that is.
    pub(crate) owner: Option<u32>,
    /// Where it listens, when it runs.
    listens: Option<Listens>,
}

impl HostCluster {
    /// Whose it is, for people.
    pub(crate) fn owner_name(&self) -> String {
        self.owner.map_or_else(|| "nobody known".to_owned(), name_of)
    }

    /// How to reach it as `role`.
    pub(crate) fn connection(&self, role: &str) -> String {
        let folder = self.listens.as_ref().and_then(|listens| listens.socket_folder.as_deref());
        let mut connection = format!("host={}", quote_conninfo(folder.unwrap_or("/var/run/postgresql")));
        if let Some(port) = self.listens.as_ref().map(|listens| listens.port).filter(|port| *port != 5432) {
            let _ = write!(connection, " port={port}");
        }
        let _ = write!(connection, " user={role} dbname=postgres");
        connection
    }
}

/// The versions that Walward knows.
const MAJORS: std::ops::RangeInclusive<u16> = 13..=18;

/// Why a folder is not set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// It cannot be looked into.
    #[error("cannot look into {}: {error}", .directory.display())]
    Unreadable { directory: PathBuf, error: String },
    /// PostgreSQL's version is too old or too new.
    #[error("{} is of PostgreSQL {major}; 13 to 18 are supported", .directory.display())]
    Unsupported { directory: PathBuf, major: u16 },
    /// It has no PG_VERSION.
    #[error("{} is no PostgreSQL data directory (it has no PG_VERSION)", .directory.display())]
    NotOne { directory: PathBuf },
}

/// The cluster in `directory`. `known` are the names and folders that are configured: a cluster of them keeps its name, and no other gets it.
pub(crate) fn at(directory: &Path, known: &[(String, PathBuf)]) -> Result<HostCluster, DirectoryError> {
    let directory_of = || directory.to_owned();
    match judge(directory) {
        Judged::Good => Ok(found(directory, known, &taken(known))),
        Judged::Unreadable(error) => {
            Err(DirectoryError::Unreadable { directory: directory_of(), error: error.to_string() })
        }
        Judged::Unsupported(major) => Err(DirectoryError::Unsupported { directory: directory_of(), major }),
        Judged::None => Err(DirectoryError::NotOne { directory: directory_of() }),
    }
}

/// What a search gave.
#[derive(Debug, Default)]
pub(crate) struct Search {
    pub(crate) clusters: Vec<HostCluster>,
    /// Why others were left out.
    pub(crate) left_out: Vec<String>,
}

/// Where clusters are looked for; the real machine, or a tree of a test's.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    root: PathBuf,
    pgdata: Option<PathBuf>,
    /// Who may have clusters that no administrator put where they are.
    trusted: BTreeSet<u32>,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        let caller = rustix::process::geteuid().as_raw();
        let trusted = [Some(0), Some(caller), user_id("postgres")].into_iter().flatten().collect();
        Self { root: PathBuf::from("/"), pgdata: std::env::var_os("PGDATA").map(PathBuf::from), trusted }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Every cluster that can be found; the same one once. `known` as for [`at`].
    pub(crate) fn search(&self, known: &[(String, PathBuf)]) -> Search {
        let mut heard = places::debian(&self.at("etc/postgresql"));
        heard.extend(places::running(&self.at("proc")));
        for folder in ["var/run/postgresql", "tmp"] {
            heard.extend(places::locked_sockets(&self.at(folder)));
        }
        heard.extend(places::red_hat(&self.at("var/lib/pgsql")));
        heard.extend(self.pgdata.clone().map(|folder| Heard { folder, of: Of::Administrator }));
        let heard: Vec<Heard> =
            heard.into_iter().map(|heard| Heard { folder: self.real(heard.folder), ..heard }).collect();

        let kept: BTreeSet<&PathBuf> =
            heard.iter().filter(|heard| heard.of == Of::Administrator).map(|heard| &heard.folder).collect();
        let mut trusted = self.trusted.clone();
        trusted.extend(kept.iter().filter_map(|folder| owner(folder)));
        trusted.extend(known.iter().filter_map(|(_, folder)| owner(folder)));
        let mut seen = BTreeSet::new();
        let mut doubts = BTreeMap::new();
        let mut names = taken(known);
        let mut search = Search::default();
        for Heard { folder: real, of } in heard.iter().cloned() {
            if let (Of::User(teller), false, Some(owner)) = (of, kept.contains(&real), owner(&real))
                && let Some(doubt) = doubt(teller, owner, &trusted)
            {
                doubts.entry(real).or_insert(doubt);
                continue;
            }
            if !seen.insert(real.clone()) {
                continue;
            }
            match judge(&real) {
                Judged::Good => {
                    let cluster = found(&real, known, &names);
                    names.insert(cluster.name.clone());
                    search.clusters.push(cluster);
                }
                Judged::Unsupported(major) => {
                    search
                        .left_out
                        .push(format!("{} is of PostgreSQL {major}; 13 to 18 are supported", real.display()));
                }
                Judged::Unreadable(error) => {
                    search.left_out.push(format!("cannot look into {}: {error}", real.display()));
                }
                Judged::None => {}
            }
        }
        for (folder, doubt) in doubts {
            if !seen.contains(&folder) && matches!(judge(&folder), Judged::Good) {
                search
                    .left_out
                    .push(format!("{}: {doubt}; if it is meant, name it with --data-directory", folder.display()));
            }
        }
        search
    }

    /// What a file names lies below the root of a test, too.
    fn real(&self, folder: PathBuf) -> PathBuf {
        let folder = match folder.strip_prefix("/") {
            Ok(inner) if !folder.starts_with(&self.root) => self.root.join(inner),
            _ => folder,
        };
        std::fs::canonicalize(&folder).unwrap_or(folder)
    }
}

fn owner(folder: &Path) -> Option<u32> {
    Some(Folder::enter(folder).and_then(|folder| folder.facts()).ok()?.uid)
}

fn name_of(user: u32) -> String {
    user_name(user).unwrap_or_else(|| format!("user {user}"))
}

/// Why the word of `teller` does not do for a folder of `owner`'s.
fn doubt(teller: u32, owner: u32, trusted: &BTreeSet<u32>) -> Option<String> {
    if teller != owner {
        return Some(format!("it belongs to {}, and only {} says that it is in use", name_of(owner), name_of(teller)));
    }
    (!trusted.contains(&owner)).then(|| format!("it belongs to {}, who has no cluster that is set up", name_of(owner)))
}

enum Judged {
    Good,
    Unsupported(u16),
    Unreadable(std::io::Error),
    None,
}

fn judge(directory: &Path) -> Judged {
    // Not read_major: an older version's pg_control cannot be read, and need not be.
    match places::read_of_anybody(&directory.join("PG_VERSION")) {
        Ok((text, _)) => match text.trim().split('.').next().unwrap_or_default().parse() {
            Ok(major) if MAJORS.contains(&major) => Judged::Good,
            Ok(major) => Judged::Unsupported(major),
            Err(_) => Judged::None,
        },
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Judged::Unreadable(error),
        Err(_) => Judged::None,
    }
}

fn taken(known: &[(String, PathBuf)]) -> BTreeSet<String> {
    known.iter().map(|(name, _)| name.clone()).collect()
}

fn found(directory: &Path, known: &[(String, PathBuf)], taken: &BTreeSet<String>) -> HostCluster {
    let configured = known.iter().find(|(_, folder)| same_folder(folder, directory)).map(|(name, _)| name.clone());
    HostCluster {
        name: configured.unwrap_or_else(|| name_for(directory, taken)),
        data_directory: directory.to_owned(),
        owner: owner(directory),
        listens: places::read_of_anybody(&directory.join("postmaster.pid"))
            .ok()
            .and_then(|(text, _)| parse_pid_file(&text)),
    }
}

/// The folder's own name where it says something and is free; with the folder above it (Debian's version) otherwise.
fn name_for(directory: &Path, taken: &BTreeSet<String>) -> String {
    let clean = |text: &str| {
        let text = text.to_lowercase();
        let good: String = text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
        good.trim_matches(['-', '_']).chars().take(40).collect::<String>()
    };
    let mut parts = directory.iter().rev().map(|part| clean(&part.to_string_lossy()));
    let (last, above) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    // Red Hat's folders are called "data".
    let short = if last.is_empty() || last == "data" || last == "pgdata" { "main".to_owned() } else { last.clone() };
    let long = format!("{above}-{short}").trim_matches('-').to_owned();
    let numbered = (2..).map(|number| format!("{short}-{number}"));
    [short.clone(), long].into_iter().chain(numbered).find(|name| !taken.contains(name)).unwrap_or(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A machine where nobody is trusted but whoever runs the test.
    fn machine(root: &Path, pgdata: Option<PathBuf>) -> Machine {
        let trusted = BTreeSet::from([rustix::process::geteuid().as_raw()]);
        Machine { root: root.to_owned(), pgdata, trusted }
    }

    /// A file of a machine that is a test's own, with the folders above it.
    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        walward_base::sys::durable::create(&path, text.as_bytes(), 0o600).unwrap();
    }

    #[test]
    fn every_cluster_of_a_machine_is_found_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(folder.path()).unwrap();
        // Debian's, running, with a socket of its own; one of an old version; one whose data is gone.
        put(&root, "etc/postgresql/15/main/postgresql.conf", "data_directory = '/var/lib/postgresql/15/main'\n");
        put(&root, "etc/postgresql/12/old/postgresql.conf", "data_directory = '/var/lib/postgresql/12/old'\n");
        put(&root, "etc/postgresql/14/gone/postgresql.conf", "data_directory = '/var/lib/postgresql/14/gone'\n");
        put(&root, "var/lib/postgresql/15/main/PG_VERSION", "15\n");
        put(&root, "var/lib/postgresql/15/main/postmaster.pid", "77\n/x\n1\n5433\n/var/run/postgresql\n");
        put(&root, "var/lib/postgresql/12/old/PG_VERSION", "12\n");
        std::fs::create_dir_all(root.join("proc/77")).unwrap();
        std::os::unix::fs::symlink(root.join("var/lib/postgresql/15/main"), root.join("proc/77/cwd")).unwrap();
        put(&root, "var/run/postgresql/.s.PGSQL.5433.lock", "77\n/var/lib/postgresql/15/main\n1\n5433\n");
        // Known by its socket only, which a crash left.
        put(&root, "tmp/.s.PGSQL.5499.lock", "78\n/srv/orders\n1\n5499\n/tmp\n");
        put(&root, "srv/orders/PG_VERSION", "17\n");
        // Red Hat's, and no data directory.
        put(&root, "var/lib/pgsql/16/data/PG_VERSION", "16\n");
        put(&root, "var/lib/pgsql/17/data/nothing", "");
        // Of the environment.
        put(&root, "home/me/pg/PG_VERSION", "18\n");

        let machine = machine(&root, Some("/home/me/pg".into()));

        let search = machine.search(&[]);
        let found: Vec<_> = search
            .clusters
            .iter()
            .map(|found| (found.name.as_str(), found.data_directory.strip_prefix(&root).unwrap().to_str().unwrap()))
            .collect();
        assert_eq!(
            found,
            [
                ("main", "var/lib/postgresql/15/main"),
                ("orders", "srv/orders"),
                ("16-main", "var/lib/pgsql/16/data"),
                ("pg", "home/me/pg"),
            ]
        );
        assert_eq!(
            search.clusters[0].connection("walward"),
            "host=/var/run/postgresql port=5433 user=walward dbname=postgres"
        );
        assert_eq!(search.left_out.len(), 1, "{:?}", search.left_out);
        assert!(search.left_out[0].contains("PostgreSQL 12"), "{:?}", search.left_out);
    }

    #[test]
    fn what_any_user_can_pretend_is_not_offered() {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(folder.path()).unwrap();
        put(&root, "tmp/.s.PGSQL.5499.lock", "78\n/home/mallory/pg\n1\n5499\n/tmp\n");
        put(&root, "home/mallory/pg/PG_VERSION", "17\n");
        put(&root, "home/mallory/running/PG_VERSION", "17\n");
        put(&root, "home/mallory/running/postmaster.pid", "77\n/x\n1\n5433\n/tmp\n");
        std::fs::create_dir_all(root.join("proc/77")).unwrap();
        std::os::unix::fs::symlink(root.join("home/mallory/running"), root.join("proc/77/cwd")).unwrap();
        // Nobody reads these; whoever did would wait for ever.
        let pipe = |path: &str| {
            let path = std::ffi::CString::new(root.join(path).to_str().unwrap()).unwrap();
            rustix::fs::mkfifoat(rustix::fs::CWD, path.as_c_str(), rustix::fs::Mode::from(0o600)).unwrap();
        };
        pipe("tmp/.s.PGSQL.5500.lock");
        put(&root, "tmp/.s.PGSQL.5501.lock", "78\n/home/mallory/piped\n1\n5501\n/tmp\n");
        std::fs::create_dir_all(root.join("home/mallory/piped")).unwrap();
        pipe("home/mallory/piped/PG_VERSION");
        let names = |search: &Search| search.clusters.iter().map(|found| found.name.clone()).collect::<Vec<_>>();

        let strict = Machine { trusted: BTreeSet::new(), ..machine(&root, None) };
        let search = strict.search(&[]);
        assert_eq!(names(&search), [""; 0]);
        assert_eq!(search.left_out.len(), 2, "{:?}", search.left_out);
        assert!(search.left_out.iter().all(|reason| reason.contains("--data-directory")), "{:?}", search.left_out);
        // Whoever has a cluster that an administrator keeps, or that is configured, is no stranger.
        let known = [("old".to_owned(), root.join("home/mallory"))];
        assert_eq!(names(&strict.search(&known)), ["running", "pg"]);
        put(&root, "etc/postgresql/15/main/postgresql.conf", "data_directory = '/var/lib/postgresql/15/main'\n");
        put(&root, "var/lib/postgresql/15/main/PG_VERSION", "15\n");
        assert_eq!(names(&strict.search(&[])), ["main", "running", "pg"]);
    }

    #[test]
    fn a_file_of_one_user_says_nothing_of_a_folder_of_anothers() {
        let trusted = BTreeSet::from([0, 60_007]);
        assert_eq!(doubt(60_007, 60_007, &trusted), None);
        assert!(doubt(60_008, 60_007, &trusted).unwrap().contains("user 60008"));
        assert!(doubt(0, 60_007, &trusted).is_some());
        assert!(doubt(60_008, 60_008, &trusted).is_some());
    }

    #[test]
    fn a_configured_name_is_given_to_no_other_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(folder.path()).unwrap();
        for version in ["15", "16"] {
            let data = format!("var/lib/postgresql/{version}/main");
            let text = format!("data_directory = '/{data}'\n");
            put(&root, &format!("etc/postgresql/{version}/main/postgresql.conf"), &text);
            put(&root, &format!("{data}/PG_VERSION"), version);
        }
        let machine = machine(&root, None);
        let of = |version: &str| root.join("var/lib/postgresql").join(version).join("main");
        let known = [("main".to_owned(), of("16"))];
        let search = machine.search(&known);
        let found: Vec<_> = search.clusters.iter().map(|found| (found.name.as_str(), &found.data_directory)).collect();
        assert_eq!(found, [("15-main", &of("15")), ("main", &of("16"))]);
        assert_eq!(at(&of("15"), &known).unwrap().name, "15-main");
        assert_eq!(at(&of("16"), &known).unwrap().name, "main");
    }

    #[test]
    fn a_folder_that_is_no_cluster_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(at(folder.path(), &[]).unwrap_err(), DirectoryError::NotOne { .. }));
        put(folder.path(), "PG_VERSION", "9.6\n");
        let failure = at(folder.path(), &[]).unwrap_err();
        assert!(matches!(failure, DirectoryError::Unsupported { major: 9, .. }));
        assert!(failure.to_string().contains("PostgreSQL 9;"), "{failure}");
        let nowhere = machine(folder.path(), None);
        assert!(nowhere.search(&[]).clusters.is_empty());
    }

    #[test]
    fn names_say_something_and_are_not_given_twice() {
        let mut taken = BTreeSet::new();
        for (directory, name) in [
            ("/var/lib/postgresql/15/main", "main"),
            ("/var/lib/postgresql/16/main", "16-main"),
            ("/var/lib/pgsql/data", "pgsql-main"),
            ("/srv/Orders DB", "orders-db"),
            ("/var/lib/pgsql/data", "main-2"),
        ] {
            let given = name_for(Path::new(directory), &taken);
            assert_eq!(given, name);
            taken.insert(given);
        }
    }

    #[test]
    fn a_connection_goes_where_the_server_listens() {
        let listens = parse_pid_file("123\n/data\n1700000000\n5433\n/tmp/s\nlocalhost\n  1 2\nready\n");
        let found = HostCluster { name: "main".into(), data_directory: "/data".into(), owner: None, listens };
        assert_eq!(found.connection("walward"), "host=/tmp/s port=5433 user=walward dbname=postgres");
        let found = HostCluster { listens: None, ..found };
        assert_eq!(found.connection("walward"), "host=/var/run/postgresql user=walward dbname=postgres");
    }

    proptest! {
        #[test]
        fn every_name_is_accepted_by_the_configuration(directory in "(/[^/\0]{1,30}){0,4}") {
            let name = name_for(Path::new(&directory), &BTreeSet::new());
            prop_assert!(crate::config::name_is_good(&name), "{name:?} for {directory:?}");
        }
    }
}
