//! What must lie apart: the repositories of a cluster from each other, and all of them from the data that they protect.
//!
//! Said here as far as paths and URLs tell. Whether two names that differ lead to one place is known when both are open
//! ([`walward_repo::place`]).
//!
//! Paths are looked up only for the clusters that [`Looks`] names, each in a bounded time and on a thread of its ground: where a file system
//! hangs that thread stays in the kernel, and may keep the process from ending.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::scope::Scope;
use super::values::RepositoryConfig;
use walward_base::sys::ground::Ground;
use walward_base::sys::within::resolved;
use walward_repo::Encryption;
use walward_repo::keys::KeySource;
use walward_storage::StoreOptions;

/// How long the file systems may take, all together: the agent reads its configuration while others wait for it.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a question may take when that is over: several clusters may lie on file systems that hang, and others do not.
const DEADLINE_AFTER_ANOTHER: Duration = Duration::from_millis(500);

/// The clusters whose folders a reader of the configuration may look into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looks {
    /// All of them: for who checks the configuration, or works for all.
    All,
    /// The one that a command is about: what it names, or the only one.
    One(Option<String>),
    /// None.
    Nowhere,
}

/// What is known of the clusters' data directories while a configuration is read.
#[derive(Debug)]
pub(super) struct Apart {
    looks: Looks,
    clusters: usize,
    until: Instant,
    directories: Vec<Directory>,
}

/// A data directory, as it is written and where that leads as far as it was looked.
#[derive(Debug)]
struct Directory {
    cluster: String,
    written: PathBuf,
    real: PathBuf,
}

impl Apart {
    /// For a configuration of so many clusters.
    pub(super) fn new(looks: Looks, clusters: usize) -> Self {
        Self { looks, clusters, until: Instant::now() + DEADLINE, directories: Vec::new() }
    }

    fn looks_at(&self, cluster: &str) -> bool {
        match &self.looks {
            Looks::All => true,
            Looks::One(Some(name)) => name == cluster,
            Looks::One(None) => self.clusters == 1,
            Looks::Nowhere => false,
        }
    }

    /// What `look` says about `path`; none when its file system does not answer. Blocking, for a while at most.
    fn ask<T: Send + 'static>(&self, path: &Path, look: impl FnOnce(&Path) -> T + Send + 'static) -> Option<T> {
        let limit = self.until.saturating_duration_since(Instant::now()).max(DEADLINE_AFTER_ANOTHER);
        Ground::of(path).ask(path, limit, look)
    }

    /// Whether both are one place for `cluster`, as far as it shows. Blocking, for a while at most.
    pub(super) fn is_one_place(&self, cluster: &str, a: &StoreOptions, b: &StoreOptions) -> bool {
        match (a.folder(), b.folder()) {
            (Some(a), Some(b)) if a == b => true,
            (Some(a), Some(b)) if self.looks_at(cluster) => {
                let a = self.ask(&a, resolved);
                a.is_some() && a == self.ask(&b, resolved)
            }
            (None, None) => prefix(&a.url) == prefix(&b.url) && endpoint(a) == endpoint(b),
            _ => false,
        }
    }

    /// Notes the data directory of `cluster`, and answers which other one has it already, links followed. Blocking, for a while at most.
    pub(super) fn taken(&mut self, cluster: &str, directory: &Path) -> Option<String> {
        let real = if self.looks_at(cluster) { self.ask(directory, resolved) } else { None };
        let new = Directory {
            cluster: cluster.to_owned(),
            written: directory.to_owned(),
            real: real.unwrap_or_else(|| directory.to_owned()),
        };
        let taken = self.directories.iter().find(|other| other.written == new.written || other.real == new.real);
        let taken = taken.map(|other| other.cluster.clone());
        self.directories.push(new);
        taken
    }

    /// Reports what lies in the data directory or a tablespace of `cluster`. Blocking, for a while at most.
    pub(super) fn check(
        &self,
        cluster: &str,
        data_directory: &Path,
        repositories: &[&RepositoryConfig],
        spool: &Path,
        scope: &mut Scope<'_>,
    ) {
        if !self.looks_at(cluster) {
            return;
        }
        let mut paths = vec![(What::Spool, spool.to_owned())];
        for repository in repositories {
            paths.extend(repository.store.folder().map(|folder| (What::Repository(repository.name.clone()), folder)));
            if let Encryption::Key(KeySource::KeyFile(file) | KeySource::PassphraseFile(file)) = &repository.encryption
            {
                paths.push((What::Secret(repository.name.clone()), file.clone()));
            }
        }
        let mut unanswered = |path: &Path| {
            let text = format!(
                "no answer about {} within {} s: whether what must lie apart from the data lies in it is not known",
                path.display(),
                DEADLINE.as_secs()
            );
            scope.warn("data_directory", text);
        };
        let Some(outer) = self.ask(data_directory, outer) else { return unanswered(data_directory) };
        let mut found = Vec::new();
        for (what, path) in paths {
            match self.ask(&path, resolved) {
                Some(real) => found.extend(inside(&outer, (what, path, real))),
                None => unanswered(&path),
            }
        }
        for found in found {
            found.report(scope);
        }
    }
}

/// Scheme, bucket and the parts of the prefix.
fn prefix(url: &str) -> Option<(String, String, Vec<String>)> {
    let url = url::Url::parse(url).ok()?;
    let parts = url.path_segments()?.filter(|part| !part.is_empty()).map(str::to_owned).collect();
    Some((url.scheme().to_owned(), url.host_str()?.to_owned(), parts))
}

fn endpoint(options: &StoreOptions) -> Option<String> {
    let endpoint = options.endpoint.as_deref()?;
    Some(url::Url::parse(endpoint).map_or(endpoint.to_owned(), |url| url.as_str().trim_end_matches('/').to_owned()))
}

/// Something that lies where it must not, and where that is.
#[derive(Debug, PartialEq)]
struct Inside {
    what: What,
    path: PathBuf,
    outer: PathBuf,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Repository(String),
    Secret(String),
    Spool,
}

impl Inside {
    fn report(self, scope: &mut Scope<'_>) {
        let Self { what, path, outer } = self;
        let (path, outer) = (path.display(), outer.display());
        match what {
            What::Repository(name) => scope.problem(
                "repositories",
                format!(
                    "\"{name}\" ({path}) lies in {outer}, which it is to protect: every backup would hold the earlier ones, and one \
                     mishap would take both; give it a folder elsewhere"
                ),
            ),
            What::Secret(name) => scope.warn(
                "repositories",
                format!(
                    "the secret of \"{name}\" ({path}) lies in {outer}, and would be lost with it; keep it elsewhere, and a copy on another host"
                ),
            ),
            What::Spool => scope.problem(
                "data_directory",
                format!("agent.spool_directory ({path}) lies in {outer}, and would be in every backup; set it to a folder elsewhere"),
            ),
        }
    }
}

/// The data directory, its tablespaces, and where pg_wal leads. Blocking.
fn outer(data_directory: &Path) -> Vec<PathBuf> {
    let mut outer = vec![data_directory.to_owned(), data_directory.join("pg_wal")];
    // Whose directory cannot be read has a check of its own when a backup is taken.
    let links = std::fs::read_dir(data_directory.join("pg_tblspc"));
    outer.extend(links.into_iter().flatten().flatten().map(|link| link.path()));
    outer.iter().map(|path| resolved(path)).collect()
}

/// Whether the path, which leads to `real`, lies in one of `outer`. Pure.
fn inside(outer: &[PathBuf], (what, path, real): (What, PathBuf, PathBuf)) -> Option<Inside> {
    let outer = outer.iter().find(|outer| real.starts_with(outer))?.clone();
    Some(Inside { what, path, outer })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn another_spelling_or_a_link_is_no_second_copy() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        symlink("real", folder.path().join("link")).unwrap();
        let file = |path: &str| StoreOptions::new(format!("file://{}/{path}", folder.path().display()));
        let apart = Apart::new(Looks::All, 1);
        let is_one_place = |a: &StoreOptions, b: &StoreOptions| apart.is_one_place("main", a, b);
        let s3 = |url: &str, endpoint: Option<&str>| StoreOptions {
            endpoint: endpoint.map(str::to_owned),
            ..StoreOptions::new(url)
        };
        for other in ["real", "real/", "./real", "x/../real", "link", "link//", "real/sub/.."] {
            assert!(is_one_place(&file("real"), &file(other)), "{other}");
        }
        for other in ["real2", "link/sub", ""] {
            assert!(!is_one_place(&file("real"), &file(other)), "{other}");
        }
        let one = s3("s3://acme/pg", Some("https://s3.example.org"));
        for (url, endpoint) in [
            ("s3://acme/pg/", "https://s3.example.org/"),
            ("s3://acme//pg", "https://S3.example.org:443"),
            ("s3://acme/./pg", "https://s3.example.org"),
        ] {
            assert!(is_one_place(&one, &s3(url, Some(endpoint))), "{url} {endpoint}");
        }
        for (url, endpoint) in [
            ("s3://acme/pg2", "https://s3.example.org"),
            ("gs://acme/pg", "https://s3.example.org"),
            ("s3://acme/pg", "https://s3.example.org:9000"),
        ] {
            assert!(!is_one_place(&one, &s3(url, Some(endpoint))), "{url} {endpoint}");
        }
    }

    #[test]
    fn what_lies_in_the_data_or_a_tablespace_is_found_whatever_leads_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["data/pg_tblspc", "space/deep", "wal", "outside"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        symlink(at("space"), at("data/pg_tblspc/16400")).unwrap();
        symlink(at("wal"), at("data/pg_wal")).unwrap();
        symlink(at("data"), at("link")).unwrap();
        symlink(at("space/deep"), at("outside/link")).unwrap();
        let outer = outer(&at("data"));
        let is_inside = |path: &str| inside(&outer, (What::Spool, at(path), resolved(&at(path)))).is_some();
        for path in [
            "data",
            "data/backups",
            "link/backups",
            "space",
            "space/new",
            "outside/link/new",
            "wal/backups",
            "./data/x",
        ] {
            assert!(is_inside(path), "{path}");
        }
        for path in ["outside", "data2", "", "space2/x"] {
            assert!(!is_inside(path), "{path}");
        }
    }

    #[test]
    fn only_the_folders_of_the_clusters_that_a_command_is_about_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let (data, link) = (folder.path().join("data"), folder.path().join("link"));
        std::fs::create_dir(&data).unwrap();
        symlink(&data, &link).unwrap();
        let one = |name: &str| Looks::One(Some(name.to_owned()));
        let looks = [Looks::All, Looks::One(None), one("first"), one("second"), Looks::Nowhere];
        for (looks, seen) in looks.into_iter().zip([true, false, false, true, false]) {
            let mut apart = Apart::new(looks.clone(), 2);
            assert_eq!(apart.taken("first", &data), None);
            // What tells is the second one's link.
            assert_eq!(apart.taken("second", &link).is_some(), seen, "{looks:?}");
            assert_eq!(apart.taken("third", &data), Some("first".to_owned()), "{looks:?}");
            let file = |path: &Path| StoreOptions::new(format!("file://{}", path.display()));
            assert_eq!(apart.is_one_place("second", &file(&data), &file(&link)), seen, "{looks:?}");
        }
        assert!(Apart::new(Looks::One(None), 1).looks_at("main"));
    }

    #[test]
    fn a_file_system_that_hangs_does_not_hold_the_configuration() {
        let mut apart = Apart::new(Looks::All, 2);
        apart.until = Instant::now();
        let hung = Path::new("/config/hung");
        let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
        assert_eq!(apart.ask(hung, move |_| held.recv().is_ok()), None);
        // Nor is it asked again, when the configuration is read again.
        assert_eq!(Apart::new(Looks::All, 2).ask(hung, |_| true), None);
        assert_eq!(apart.taken("hung", hung), None);
        drop(release);
        assert_eq!(apart.taken("other", hung), Some("hung".to_owned()));
    }
}
