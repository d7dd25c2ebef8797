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

/// The cluster in `directory`.
pub(super) fn at(directory: &Path) -> Result<Found, Failure> {
    if !is_data_directory(directory) {
        let text = format!("{} is no PostgreSQL data directory (it has no PG_VERSION)", directory.display());
        return Err(Failure::new(Exit::NotFound, text));
    }
    Ok(found(directory, &BTreeSet::new()))
}

/// Every cluster that can be found; the same one once.
pub(super) fn all() -> Vec<Found> {
    let mut directories = debian(Path::new("/etc/postgresql"));
    directories.extend(running(Path::new("/proc")));
    directories.extend(std::env::var_os("PGDATA").map(PathBuf::from));
    let mut seen = BTreeSet::new();
    let mut names = BTreeSet::new();
    let mut clusters = Vec::new();
    for directory in directories {
        let Ok(real) = std::fs::canonicalize(&directory) else { continue };
        if is_data_directory(&real) && seen.insert(real.clone()) {
            let cluster = found(&real, &names);
            names.insert(cluster.name.clone());
            clusters.push(cluster);
        }
    }
    clusters
}

fn is_data_directory(path: &Path) -> bool {
    path.join("PG_VERSION").is_file()
}

fn found(directory: &Path, taken: &BTreeSet<String>) -> Found {
    Found {
        name: name_for(directory, taken),
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
        .filter_map(|folder| std::fs::read_to_string(folder.join("postgresql.conf")).ok())
        .filter_map(|text| setting(&text, "data_directory"))
        .map(PathBuf::from)
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
