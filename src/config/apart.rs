//! What must lie apart: the repositories of a cluster from each other, and all of them from the data that they protect.
//!
//! Said here as far as paths and URLs tell. Whether two names that differ lead to one place is known when both are open
//! ([`walward_repo::place`]).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::scope::Scope;
use super::values::RepositoryConfig;
use walward_base::sys::within::{lies_within, resolved};
use walward_repo::Encryption;
use walward_repo::keys::KeySource;
use walward_storage::StoreOptions;

/// How long the file systems may take: the agent reads its configuration while others wait for it.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long another question may take while one has not been answered: several clusters may lie on one file system that hangs.
const DEADLINE_AFTER_ANOTHER: Duration = Duration::from_millis(500);
/// Questions of this process that may be unanswered, each of which has a thread.
const UNANSWERED_MAX: usize = 32;

/// Whether both lead to one place, as far as it shows. Blocking.
pub(super) fn is_one_place(a: &StoreOptions, b: &StoreOptions) -> bool {
    match (a.folder(), b.folder()) {
        (Some(a), Some(b)) => a == b || within(DEADLINE, move || resolved(&a) == resolved(&b)) == Some(true),
        (None, None) => prefix(&a.url) == prefix(&b.url) && endpoint(a) == endpoint(b),
        _ => false,
    }
}

/// Which of `taken`, names and folders, is `folder`, links followed. Blocking, for a while at most; then as they are written.
pub(super) fn whose_folder(folder: &Path, taken: Vec<(String, PathBuf)>) -> Option<String> {
    let written = taken.iter().find(|(_, path)| path == folder).map(|(name, _)| name.clone());
    let folder = folder.to_owned();
    let real = move || {
        let folder = resolved(&folder);
        taken.into_iter().find(|(_, path)| resolved(path) == folder).map(|(name, _)| name)
    };
    written.or_else(|| within(DEADLINE, real).flatten())
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

/// Reports what lies in the data directory or a tablespace of the cluster. Blocking, for a while at most.
pub(super) fn check(data_directory: &Path, repositories: &[&RepositoryConfig], spool: &Path, scope: &mut Scope<'_>) {
    let mut paths = vec![(What::Spool, spool.to_owned())];
    for repository in repositories {
        paths.extend(repository.store.folder().map(|folder| (What::Repository(repository.name.clone()), folder)));
        if let Encryption::Key(KeySource::KeyFile(file) | KeySource::PassphraseFile(file)) = &repository.encryption {
            paths.push((What::Secret(repository.name.clone()), file.clone()));
        }
    }
    let directory = data_directory.to_owned();
    let Some(found) = within(DEADLINE, move || inside(&directory, paths)) else {
        let text = format!(
            "no answer about {} within {} s: whether a repository lies in it is not known",
            data_directory.display(),
            DEADLINE.as_secs()
        );
        scope.warn("data_directory", text);
        return;
    };
    for Inside { what, path, outer } in found {
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

/// What of `paths` lies in the data directory, in a tablespace, or where pg_wal leads. Blocking.
fn inside(data_directory: &Path, paths: Vec<(What, PathBuf)>) -> Vec<Inside> {
    let mut outer = vec![data_directory.to_owned(), data_directory.join("pg_wal")];
    // Whose directory cannot be read has a check of its own when a backup is taken.
    let links = std::fs::read_dir(data_directory.join("pg_tblspc"));
    outer.extend(links.into_iter().flatten().flatten().map(|link| link.path()));
    let mut found = Vec::new();
    for (what, path) in paths {
        if let Some(outer) = outer.iter().find(|outer| lies_within(&path, outer)) {
            found.push(Inside { what, path, outer: resolved(outer) });
        }
    }
    found
}

/// What `work` answers; none when that takes longer than `deadline`. The thread stays as long as its file system hangs.
fn within<T: Send + 'static>(deadline: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    static UNANSWERED: AtomicUsize = AtomicUsize::new(0);
    let deadline = match UNANSWERED.fetch_add(1, Ordering::Relaxed) {
        0 => deadline,
        UNANSWERED_MAX.. => {
            UNANSWERED.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        _ => deadline.min(DEADLINE_AFTER_ANOTHER),
    };
    let (tell, told) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let answer = work();
        UNANSWERED.fetch_sub(1, Ordering::Relaxed);
        tell.send(answer)
    });
    told.recv_timeout(deadline).ok()
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
        let is_inside = |path: &str| !inside(&at("data"), vec![(What::Spool, at(path))]).is_empty();
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
    fn a_file_system_that_hangs_does_not_hold_the_configuration() {
        let (release, held) = mpsc::sync_channel::<()>(1);
        assert_eq!(within(Duration::from_millis(20), move || held.recv().is_ok()), None);
        drop(release);
        assert_eq!(within(DEADLINE, || 7), Some(7));
    }
}
