//! Makes what a cluster's repositories lack: the repository, its keys, the cluster's lineage.

use std::path::PathBuf;

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::ask::confirm;
use crate::cli::commands::keys::make_key_file;
use crate::cli::context::{Context, file_root, store};
use crate::cli::failure::Failure;
use crate::cli::owner::Owner;
use crate::cli::printer::{Printer, Tone};
use crate::config::{ClusterConfig, RepositoryConfig};
use crate::outcome::Exit;
use crate::pg::ControlFile;
use crate::repo::keys::{KeySource, RecoveryKey};
use crate::repo::{Encryption, RepoError, Repository};
use crate::storage;

/// What became of one repository.
#[derive(Debug, Serialize)]
pub(super) struct Prepared {
    repository: String,
    url: String,
    /// Whether it was made now.
    created: bool,
    /// Whether anything about it was made or added now.
    pub(super) changed: bool,
    /// Whether it is not there (a dry run makes none).
    pub(super) missing: bool,
    /// The key file, if that was made now.
    pub(super) new_key: Option<PathBuf>,
    /// The recovery key of a repository that was made now: shown this once.
    recovery_key: Option<String>,
}

/// A repository that is there, and what of it was made now.
struct Opened {
    repository: Repository,
    created: bool,
    recovery: Option<RecoveryKey>,
    new_key: Option<PathBuf>,
}

/// What [`cluster`] would find; makes nothing.
pub(super) async fn look(
    context: &Context,
    cluster: &ClusterConfig,
    printer: &Printer,
) -> Result<Vec<Prepared>, Failure> {
    let mut prepared = Vec::new();
    for configured in context.repositories_of(cluster)? {
        let missing = match context.open(cluster, configured).await {
            Ok(_) => false,
            Err(failure) if failure.exit == Exit::NoRepository => true,
            Err(failure) => return Err(failure),
        };
        let (name, url) = (&configured.name, &configured.store.url);
        let what = if missing { "would make" } else { "would leave as it is" };
        printer.note(&format!("{what}: repository \"{name}\" of cluster \"{}\" at {url}", cluster.name));
        prepared.push(Prepared {
            repository: name.clone(),
            url: url.clone(),
            created: false,
            changed: false,
            missing,
            new_key: None,
            recovery_key: None,
        });
    }
    Ok(prepared)
}

pub(super) async fn cluster(
    context: &Context,
    cluster: &ClusterConfig,
    printer: &Printer,
) -> Result<Vec<Prepared>, Failure> {
    let control = ControlFile::read(&cluster.data_directory)
        .with_context(|| format!("cannot tell which cluster lies in {}", cluster.data_directory.display()))?;
    let owner = Owner::of(&cluster.data_directory);
    owner.let_read(&context.global.config);
    let mut prepared = Vec::new();
    for configured in context.repositories_of(cluster)? {
        let opened = open_or_create(context, cluster, configured, owner, printer).await?;
        let Opened { mut repository, created, recovery, new_key } = opened;
        let added = add_lineage(context, &mut repository, &control, printer).await?;
        if let Some(root) = file_root(configured, cluster) {
            owner.give(&root);
        }
        let text = recovery.as_ref().map(|key| key.to_text().to_string());
        if let (Some(text), false) = (&text, printer.is_json()) {
            show_recovery_key(&repository, text, printer)?;
        }
        prepared.push(Prepared {
            repository: repository.name().to_owned(),
            url: repository.url().to_owned(),
            created,
            changed: created || added,
            missing: false,
            new_key,
            recovery_key: text,
        });
    }
    Ok(prepared)
}

async fn open_or_create(
    context: &Context,
    cluster: &ClusterConfig,
    configured: &RepositoryConfig,
    owner: Owner,
    printer: &Printer,
) -> Result<Opened, Failure> {
    let place = store(cluster, configured)?;
    let opened = Repository::open(&configured.name, place, &configured.encryption, context.pool().clone()).await;
    match opened {
        Ok(repository) => {
            printer.note(&format!("repository \"{}\" is there: {}", repository.name(), repository.url()));
            return Ok(Opened { repository, created: false, recovery: None, new_key: None });
        }
        Err(RepoError::NoRepository { .. }) => {}
        // The folder of a file store is a part of the repository.
        Err(RepoError::Store(_)) if file_root(configured, cluster).is_some_and(|root| !root.exists()) => {}
        Err(error) => {
            let what = format!("cannot open repository \"{}\"", configured.name);
            let failure = Failure::from(anyhow::Error::new(error).context(what));
            return Err(match &configured.encryption {
                Encryption::Key(KeySource::KeyFile(file)) if !file.exists() => failure.hint(format!(
                    "the repository is there and its key is not: bring {} from the host that made it",
                    file.display()
                )),
                _ => failure,
            });
        }
    }
    let mut new_key = None;
    if let Encryption::Key(KeySource::KeyFile(file)) = &configured.encryption
        && make_key_file(file, owner)?
    {
        printer.note(&format!("made the key file {}", file.display()));
        new_key = Some(file.clone());
    }
    storage::create_root(&configured.store, &cluster.name)?;
    let place = store(cluster, configured)?;
    let made = Repository::create(
        &configured.name,
        place,
        &cluster.name,
        &configured.encryption,
        &[],
        context.pool().clone(),
        Timestamp::now(),
    )
    .await;
    let (repository, recovery) = made.with_context(|| format!("cannot make repository \"{}\"", configured.name))?;
    printer.note(&format!(
        "made repository \"{}\" for cluster \"{}\": {}",
        configured.name,
        cluster.name,
        repository.url()
    ));
    Ok(Opened { repository, created: true, recovery, new_key })
}

/// Whether it was added. The first lineage is a matter of course; another one is a person's decision, because a foreign cluster looks the same.
async fn add_lineage(
    context: &Context,
    repository: &mut Repository,
    control: &ControlFile,
    printer: &Printer,
) -> Result<bool, Failure> {
    let lineage = control.lineage();
    let known = &repository.identity().lineages;
    if known.iter().any(|entry| entry.lineage == lineage) {
        return Ok(false);
    }
    if !known.is_empty() {
        let held: Vec<String> = known.iter().map(|entry| entry.lineage.to_string()).collect();
        let question = format!(
            "repository \"{}\" holds {}, and the data directory is {lineage}: add it (right after pg_upgrade or a new initdb of this cluster, wrong for another cluster)?",
            repository.name(),
            held.join(", ")
        );
        confirm(&context.global, printer, &question).map_err(|failure| match failure.exit {
            Exit::Refused => Failure::new(
                Exit::Refused,
                format!("repository \"{}\" holds {}, not {lineage}", repository.name(), held.join(", ")),
            )
            .hint("after pg_upgrade of this cluster: run it again with --yes; for another cluster: give it a name of its own"),
            _ => failure,
        })?;
    }
    repository.add_lineage(lineage, control.segment_size, Timestamp::now()).await?;
    printer.note(&format!("repository \"{}\" takes the WAL and the backups of {lineage}", repository.name()));
    Ok(true)
}

fn show_recovery_key(repository: &Repository, text: &str, printer: &Printer) -> Result<(), Failure> {
    printer.line("")?;
    printer.line(&format!("Recovery key of repository \"{}\", shown this once:", repository.name()))?;
    printer.line(&format!("    {}", printer.tone(text, Tone::Strong)))?;
    printer
        .line("Print it and keep it where this host's disk is not. It opens the repository when the key is lost;")?;
    printer.line("without either, the backups are lost.")?;
    printer.line("")?;
    Ok(())
}
