//! What a command is about: the configuration, a cluster, its repositories.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;

use super::arguments::Global;
use super::failure::Failure;
use super::printer::Printer;
use crate::config::{self, ClusterConfig, Loaded, Looks, RepositoryConfig};
use crate::outcome::Exit;
use walward_base::sys::cpu::CpuPool;
use walward_base::sys::whose::{Whose, whose};
use walward_repo::{RepoError, Repository, place};
use walward_storage::Store;

/// How long file systems may take to say whose folder a path leads to.
const FILE_SYSTEM_DEADLINE: Duration = Duration::from_secs(5);

/// A file system did not say whose a data directory is.
#[derive(Debug)]
pub(super) struct NoAnswer;

/// The configuration and what it leads to.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) global: Global,
    pub(super) loaded: Loaded,
    pool: CpuPool,
}

impl Context {
    /// Reads the configuration and says what is unwise about it.
    pub(super) fn load(global: &Global, looks: Looks, printer: &Printer) -> Result<Self, Failure> {
        let context = Self::load_quietly(global, looks)?;
        for warning in &context.loaded.warnings {
            printer.warning(&warning.to_string());
        }
        Ok(context)
    }

    /// As [`Context::load`], without a word about what is unwise.
    pub(super) fn load_quietly(global: &Global, looks: Looks) -> Result<Self, Failure> {
        Self::of(global, config::load_for(&global.config, looks)?)
    }

    /// What a configuration leads to that may not be written yet.
    pub(super) fn of(global: &Global, loaded: Loaded) -> Result<Self, Failure> {
        let pool = CpuPool::new(loaded.config.agent.cpu_threads).context("cannot start the threads that compute")?;
        Ok(Self { global: global.clone(), loaded, pool })
    }

    /// The cluster that `--cluster` names, or the only one.
    pub(super) fn cluster(&self) -> Result<&ClusterConfig, Failure> {
        let clusters = &self.loaded.config.clusters;
        let names = || clusters.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        match &self.global.cluster {
            Some(name) => clusters.get(name).ok_or_else(|| {
                let failure =
                    Failure::new(Exit::NotFound, format!("there is no cluster \"{name}\" in the configuration"));
                failure.hint(if clusters.is_empty() {
                    "run `walward setup`".to_owned()
                } else {
                    format!("there are: {}", names())
                })
            }),
            None => match clusters.values().collect::<Vec<_>>().as_slice() {
                [one] => Ok(one),
                [] => Err(Failure::new(Exit::NotFound, "no cluster is configured").hint("run `walward setup`")),
                _ => Err(Failure::new(Exit::Usage, "there are several clusters")
                    .hint(format!("say --cluster with one of: {}", names()))),
            },
        }
    }

    /// The cluster that `--cluster` names, or whose data directory this is; for what PostgreSQL starts.
    pub(super) async fn cluster_in(&self, data_directory: &Path) -> Result<&ClusterConfig, Failure> {
        if self.global.cluster.is_some() {
            return self.cluster();
        }
        let (found, text) = match self.whose(data_directory).await {
            Ok(Some(cluster)) => return Ok(cluster),
            Ok(None) => (Exit::NotFound, "no cluster in the configuration has the data directory"),
            Err(NoAnswer) => {
                (Exit::Unreachable, "the file system of a data directory does not answer, and no other is")
            }
        };
        let failure = Failure::new(found, format!("{text} {}", data_directory.display()));
        Err(failure.hint("name the cluster with --cluster"))
    }

    /// The cluster with this data directory, links followed.
    pub(super) async fn whose(&self, data_directory: &Path) -> Result<Option<&ClusterConfig>, NoAnswer> {
        let clusters = self.loaded.config.clusters.values();
        let folders: Vec<_> = clusters.map(|cluster| (cluster, cluster.data_directory.as_path())).collect();
        match whose(data_directory, &folders, FILE_SYSTEM_DEADLINE).await {
            Whose::Of(cluster) => Ok(Some(cluster)),
            Whose::Nobodys => Ok(None),
            Whose::NoAnswer => Err(NoAnswer),
        }
    }

    /// Where the agent listens.
    pub(super) fn socket(&self) -> PathBuf {
        let given = std::env::var_os("WALWARD_SOCKET").filter(|value| !value.is_empty());
        given.map_or_else(|| self.loaded.config.agent.socket.clone(), PathBuf::from)
    }

    /// Opens all that [`Context::repositories_of`] names; two that are one place are refused.
    pub(super) async fn open_all(&self, cluster: &ClusterConfig) -> Result<Vec<Repository>, Failure> {
        let mut opened = Vec::new();
        for repository in self.repositories_of(cluster)? {
            opened.push(self.open_one_of(cluster, repository).await?);
        }
        place::all_apart(&opened).await?;
        Ok(opened)
    }

    /// As [`Context::open_all`], for a command that can do with fewer. What cannot be opened is left out, with a line for each, where
    /// the others hold every file that PostgreSQL was told is archived; where they may not, that is for a person to decide.
    pub(super) async fn open_enough(&self, cluster: &ClusterConfig) -> Result<(Vec<Repository>, Vec<String>), Failure> {
        let configured = self.repositories_of(cluster)?;
        let opening = join_all(configured.iter().map(|repository| self.open_one_of(cluster, repository)));
        let opened = opening.await;
        let failed = opened.iter().filter(|opened| opened.is_err()).count();
        let suffices = cluster.acknowledge.is_met_without(failed, configured.len());
        let (mut repositories, mut left_out) = (Vec::new(), Vec::new());
        for (opened, configured) in opened.into_iter().zip(&configured) {
            match opened {
                Ok(repository) => repositories.push(repository),
                Err(failure) if !suffices => return Err(failure),
                Err(failure) => left_out.push(format!(
                    "repository \"{}\" is left out: {}. The others have all WAL that was acknowledged, but a backup that only this \
                     one holds is not considered. Before the server is started, take it out of `repositories` and reload the agent, or bring \
                     it back: a recovery asks every repository before it ends",
                    configured.name,
                    failure.message()
                )),
            }
        }
        Ok((repositories, left_out))
    }

    /// As [`Context::open`], for a command that goes through several: a failure says how to go on with the others.
    pub(super) async fn open_one_of(
        &self,
        cluster: &ClusterConfig,
        repository: &RepositoryConfig,
    ) -> Result<Repository, Failure> {
        let opened = self.open(cluster, repository).await;
        opened.map_err(|failure| {
            if self.global.repository.is_some() {
                return failure;
            }
            without(failure, &repository.name, &cluster.repositories)
        })
    }

    /// The repositories that a command reads: the one that `--repository` names, or all of the cluster's in their order.
    pub(super) fn repositories_of(&self, cluster: &ClusterConfig) -> Result<Vec<&RepositoryConfig>, Failure> {
        if let Some(name) = &self.global.repository {
            if !cluster.repositories.contains(name) {
                let text = format!("cluster \"{}\" has no repository \"{name}\"", cluster.name);
                return Err(
                    Failure::new(Exit::NotFound, text).hint(format!("it has: {}", cluster.repositories.join(", ")))
                );
            }
            return Ok(self.loaded.config.repositories.get(name).into_iter().collect());
        }
        Ok(cluster.repositories.iter().filter_map(|name| self.loaded.config.repositories.get(name)).collect())
    }

    /// The first of [`Context::repositories_of`].
    pub(super) fn repository_of(&self, cluster: &ClusterConfig) -> Result<&RepositoryConfig, Failure> {
        let first = self.repositories_of(cluster)?.into_iter().next();
        first.ok_or_else(|| Failure::new(Exit::NotFound, format!("cluster \"{}\" has no repository", cluster.name)))
    }

    /// Opens a cluster's repository.
    pub(super) async fn open(
        &self,
        cluster: &ClusterConfig,
        repository: &RepositoryConfig,
    ) -> Result<Repository, Failure> {
        let store = store(cluster, repository)?;
        let opened = Repository::open(&repository.name, store, &repository.encryption, self.pool.clone()).await;
        opened.map_err(|error| {
            let stored = matches!(error, RepoError::Store(_));
            let what = format!("cannot open repository \"{}\"", repository.name);
            let failure = Failure::from(anyhow::Error::new(error).context(what));
            // The folder of a file store is a part of the repository.
            match file_root(repository, cluster) {
                Some(root) if stored && !root.exists() => Failure { exit: Exit::NoRepository, ..failure },
                _ => failure,
            }
        })
    }

    /// The threads that compute.
    pub(super) fn pool(&self) -> &CpuPool {
        &self.pool
    }
}

/// The store of a cluster's folder in a repository. Nothing is read yet.
pub(super) fn store(cluster: &ClusterConfig, repository: &RepositoryConfig) -> Result<Arc<dyn Store>, Failure> {
    Ok(walward_storage::open(&repository.store, &cluster.name)?)
}

/// The cluster's folder of a repository on a file system.
pub(super) fn file_root(repository: &RepositoryConfig, cluster: &ClusterConfig) -> Option<PathBuf> {
    Some(repository.store.folder()?.join(&cluster.name))
}

/// Adds to the hint how to go on without the repository `name`, when there are others.
fn without(failure: Failure, name: &str, all: &[String]) -> Failure {
    let others: Vec<&str> = all.iter().map(String::as_str).filter(|other| *other != name).collect();
    if others.is_empty() {
        return failure;
    }
    let advice = format!("to go on without it, name another one with --repository: {}", others.join(", "));
    let hint = match &failure.hint {
        Some(hint) => format!("{hint}; {advice}"),
        None => advice,
    };
    failure.hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_that_does_not_open_is_not_the_end() {
        let failure = || Failure::new(Exit::Failed, "cannot open");
        let names = ["disk".to_owned(), "s3".to_owned()];
        let hint = without(failure(), "disk", &names).hint.unwrap();
        assert_eq!(hint, "to go on without it, name another one with --repository: s3");
        let hint = without(failure().hint("look"), "s3", &names).hint.unwrap();
        assert_eq!(hint, "look; to go on without it, name another one with --repository: disk");
        assert_eq!(without(failure(), "disk", &names[..1]).hint, None);
    }
}
