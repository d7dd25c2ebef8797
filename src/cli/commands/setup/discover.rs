//! The PostgreSQL clusters of this host: Debian's, running ones, and the one of `$PGDATA`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;
use crate::outcome::Exit;
use crate::pg::session::quote_conninfo;
use crate::pg::settings::setting;

/// A cluster on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// A name for it.
    pub(super) name: String,
    pub(super) data_directory: PathBuf,
    /// Where it listens, when it runs.
    listens: Option<Listens>,
}

/// From `postmaster.pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listens {
    pid: u32,
    port: u16,
    /// The first of its socket folders; none when it has no socket.
    socket_folder: Option<String>,
}

impl Found {
    /// How to reach it as `role`.
    pub(super) fn connection(&self, role: &str) -> String {
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

/// The cluster in `directory`. `known` are the names and folders that are configured: a cluster of them keeps its name, and no other gets it.
pub(super) fn at(directory: &Path, known: &[(String, PathBuf)]) -> Result<Found, Failure> {
    match judge(directory) {
        Judged::Good => Ok(found(directory, known, &taken(known))),
        Judged::Unreadable(error) => {
            let text = format!("cannot look into {}: {error}", directory.display());
            Err(Failure::new(Exit::Key, text).hint("run this as root, or as the owner of the data directory"))
        }
        Judged::Unsupported(major) => {
            let text = format!("{} is of PostgreSQL {major}; 13 to 18 are supported", directory.display());
            Err(Failure::new(Exit::Refused, text))
        }
        Judged::None => {
            let text = format!("{} is no PostgreSQL data directory (it has no PG_VERSION)", directory.display());
            Err(Failure::new(Exit::NotFound, text))
        }
    }
}

/// What a search gave.
#[derive(Debug, Default)]
pub(super) struct Search {
    pub(super) clusters: Vec<Found>,
    /// Why others were left out.
    pub(super) left_out: Vec<String>,
}

/// Where clusters are looked for; the real machine, or a tree of a test's.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    root: PathBuf,
    pgdata: Option<PathBuf>,
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        Self { root: PathBuf::from("/"), pgdata: std::env::var_os("PGDATA").map(PathBuf::from) }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Every cluster that can be found; the same one once. `known` as for [`at`].
    pub(super) fn search(&self, known: &[(String, PathBuf)]) -> Search {
        let mut directories = debian(&self.at("etc/postgresql"));
        directories.extend(running(&self.at("proc")));
        for folder in ["var/run/postgresql", "tmp"] {
            directories.extend(locked_sockets(&self.at(folder)));
        }
        directories.extend(red_hat(&self.at("var/lib/pgsql")));
        directories.extend(self.pgdata.clone());
        let mut seen = BTreeSet::new();
        let mut names = taken(known);
        let mut search = Search::default();
        for directory in directories {
            // What a file names lies below the root of a test, too.
            let directory = match directory.strip_prefix("/") {
                Ok(inner) if !directory.starts_with(&self.root) => self.root.join(inner),
                _ => directory,
            };
            let real = std::fs::canonicalize(&directory).unwrap_or(directory);
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
        search
    }
}

enum Judged {
    Good,
    Unsupported(u16),
    Unreadable(std::io::Error),
    None,
}

fn judge(directory: &Path) -> Judged {
    // Not read_major: an older version's pg_control cannot be read, and need not be.
    match std::fs::read_to_string(directory.join("PG_VERSION")) {
        Ok(text) => match text.trim().split('.').next().unwrap_or_default().parse() {
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

fn found(directory: &Path, known: &[(String, PathBuf)], taken: &BTreeSet<String>) -> Found {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let configured = known.iter().find(|(_, folder)| real(folder) == real(directory)).map(|(name, _)| name.clone());
    Found {
        name: configured.unwrap_or_else(|| name_for(directory, taken)),
        data_directory: directory.to_owned(),
        listens: std::fs::read_to_string(directory.join("postmaster.pid")).ok().and_then(|text| parse_pid_file(&text)),
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

/// `postgresql-common`: `/etc/postgresql/<version>/<name>/postgresql.conf` names the data directory.
fn debian(root: &Path) -> Vec<PathBuf> {
    let folders = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
        let mut entries: Vec<PathBuf> = entries.unwrap_or_default();
        entries.sort();
        entries
    };
    let configurations = folders(root).into_iter().flat_map(|version| folders(&version));
    configurations
        .filter_map(|folder| {
            let text = std::fs::read_to_string(folder.join("postgresql.conf")).ok()?;
            // Without the setting the data lies beside it.
            Some(setting(&text, "data_directory").map_or(folder, PathBuf::from))
        })
        .collect()
}

/// A postmaster works in its data directory, and its process id stands in the first line of postmaster.pid there.
fn running(proc: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(proc) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(directory) = std::fs::read_link(entry.path().join("cwd")) else { continue };
        let Ok(text) = std::fs::read_to_string(directory.join("postmaster.pid")) else { continue };
        if parse_pid_file(&text).is_some_and(|listens| listens.pid == pid) {
            found.push(directory);
        }
    }
    found.sort();
    found
}

/// A server keeps a lock file beside each of its sockets, whose second line is the data directory (`CreateLockFile`,
/// src/backend/utils/init/miscinit.c). It stays behind a crash, so that it says where to look, and no more.
fn locked_sockets(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(".s.PGSQL.") && name.ends_with(".lock")
        })
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .filter_map(|text| text.lines().nth(1).map(|line| PathBuf::from(line.trim())))
        .filter(|path| path.is_absolute())
        .collect();
    found.sort();
    found
}

/// Red Hat's and PGDG's packages: `/var/lib/pgsql/data`, `/var/lib/pgsql/<version>/data`.
fn red_hat(root: &Path) -> Vec<PathBuf> {
    let versions = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path().join("data"));
    let mut found: Vec<PathBuf> = versions.filter(|path| path.is_dir()).collect();
    found.sort();
    found.extend(Some(root.join("data")).filter(|path| path.is_dir()));
    found
}

/// `postmaster.pid`: process id, data directory, start time, port, first socket folder, … (src/include/utils/pidfile.h).
fn parse_pid_file(text: &str) -> Option<Listens> {
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    let port = lines.nth(2)?.trim().parse().ok()?;
    let socket_folder = lines.next().map(str::trim).filter(|folder| !folder.is_empty()).map(str::to_owned);
    Some(Listens { pid, port, socket_folder })
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
        assert_eq!(debian(root.path()), [PathBuf::from("/var/lib/postgresql/15/main")]);
    }

    /// A file of a machine that is a test's own, with the folders above it.
    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        crate::sys::durable::create(&path, text.as_bytes(), 0o600).unwrap();
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

        let machine = Machine { root: root.clone(), pgdata: Some("/home/me/pg".into()) };

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
    fn a_configured_name_is_given_to_no_other_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(folder.path()).unwrap();
        for version in ["15", "16"] {
            let data = format!("var/lib/postgresql/{version}/main");
            let text = format!("data_directory = '/{data}'\n");
            put(&root, &format!("etc/postgresql/{version}/main/postgresql.conf"), &text);
            put(&root, &format!("{data}/PG_VERSION"), version);
        }
        let machine = Machine { root: root.clone(), pgdata: None };
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
        assert_eq!(at(folder.path(), &[]).unwrap_err().exit, Exit::NotFound);
        put(folder.path(), "PG_VERSION", "9.6\n");
        let failure = at(folder.path(), &[]).unwrap_err();
        assert_eq!(failure.exit, Exit::Refused);
        assert!(failure.message().contains("PostgreSQL 9;"), "{}", failure.message());
        let nowhere = Machine { root: folder.path().to_owned(), pgdata: None };
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
        let found = Found { name: "main".into(), data_directory: "/data".into(), listens };
        assert_eq!(found.connection("walward"), "host=/tmp/s port=5433 user=walward dbname=postgres");
        let found = Found { listens: None, ..found };
        assert_eq!(found.connection("walward"), "host=/var/run/postgresql user=walward dbname=postgres");
    }

    proptest! {
        #[test]
        fn arbitrary_pid_files_never_panic(text: String) {
            parse_pid_file(&text);
        }

        #[test]
        fn every_name_is_accepted_by_the_configuration(directory in "(/[^/\0]{1,30}){0,4}") {
            let name = name_for(Path::new(&directory), &BTreeSet::new());
            prop_assert!(crate::config::name_is_good(&name), "{name:?} for {directory:?}");
        }
    }
}
