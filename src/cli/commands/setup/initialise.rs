//! Makes what a cluster's repositories lack: the repository, its keys, the cluster's lineage.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;

use super::turn;
use crate::cli::ask::confirm;
use crate::cli::commands::keys::make_key_file;
use crate::cli::context::{Context, file_root, store};
use crate::cli::failure::Failure;
use crate::cli::owner::Owner;
use crate::cli::printer::{Printer, Tone};
use crate::config::{ClusterConfig, RepositoryConfig};
use crate::outcome::Exit;
use walward_base::sys::durable::{self, NewFile};
use walward_base::sys::identity::user_name;
use walward_pg::ControlFile;
use walward_repo::keys::{KeyError, KeySource, RecoveryKey};
use walward_repo::{Encryption, RepoError, Repository, place};

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
    let (mut prepared, mut others) = (Vec::new(), Vec::new());
    for configured in context.repositories_of(cluster)? {
        let opened = open_or_create(context, cluster, configured, owner, printer).await?;
        let Opened { mut repository, created, recovery, new_key } = opened;
        others.push(repository.clone());
        place::all_apart(&others).await?;
        let text = recovery.as_ref().map(|key| key.to_text().to_string());
        if let Some(text) = &text {
            // A store that does not keep two setups apart may have let another one win: then this key opens nothing.
            repository.confirm_alive().await?;
            if !printer.is_json() {
                show_recovery_key(&repository, &cluster.name, text, printer)?;
            }
        }
        let added = add_lineage(context, &mut repository, &control, printer).await?;
        if let Some(root) = file_root(configured, cluster) {
            can_write(&root, owner)?;
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
    create(context, cluster, configured, owner, printer).await
}

async fn create(
    context: &Context,
    cluster: &ClusterConfig,
    configured: &RepositoryConfig,
    owner: Owner,
    printer: &Printer,
) -> Result<Opened, Failure> {
    if file_root(configured, cluster).is_none_or(|root| root.exists()) {
        place::is_clear(&*store(cluster, configured)?).await?;
    }
    // Until it is known whether a key file that is made now opens anything, no other setup of this host relies on it.
    let mut turn = None;
    let mut new_key = None;
    if let Encryption::Key(KeySource::KeyFile(file)) = &configured.encryption {
        turn = Some(turn::take(file).await?);
        if make_key_file(file, owner)? {
            printer.note(&format!("made the key file {}", file.display()));
            new_key = Some(file.clone());
        }
    }
    walward_storage::create_root_for(&configured.store, &cluster.name, owner.ids())?;
    let place = store(cluster, configured)?;
    let (name, encryption) = (configured.name.as_str(), &configured.encryption);
    let pool = context.pool().clone();
    let made =
        Repository::create(name, place.clone(), &cluster.name, encryption, &[], pool.clone(), Timestamp::now()).await;
    let what = || format!("cannot make repository \"{name}\"");
    let (repository, recovery) = match made {
        Ok(made) => made,
        Err(RepoError::AlreadyThere { .. }) => {
            // Another setup was faster. Where both have the secret it is as good as our own.
            let opened = Repository::open(name, place, encryption, pool).await;
            let error = match opened {
                Ok(repository) => {
                    printer.note(&format!(
                        "repository \"{name}\" was made by another setup meanwhile: {}",
                        repository.url()
                    ));
                    return Ok(Opened { repository, created: false, recovery: None, new_key });
                }
                Err(error) => error,
            };
            let bring = matches!(error, RepoError::Keys(KeyError::WrongSecret { .. }));
            let opens_nothing = bring || matches!(error, RepoError::NotEncrypted { .. });
            let failure = Failure::from(anyhow::Error::new(error).context(format!(
                "another setup made repository \"{name}\" of cluster \"{}\" meanwhile, and it was left as it was",
                cluster.name
            )));
            return Err(match new_key.filter(|_| opens_nothing) {
                Some(file) => failure.hint(without_key(&file, durable::remove_file(&file), bring)),
                None => failure,
            });
        }
        Err(error) => return Err(anyhow::Error::new(error).context(what()).into()),
    };
    drop(turn);
    printer.note(&format!("made repository \"{name}\" for cluster \"{}\": {}", cluster.name, repository.url()));
    Ok(Opened { repository, created: true, recovery, new_key })
}

/// What to do when the key that was made here is not the repository's.
fn without_key(file: &Path, removed: io::Result<()>, bring: bool) -> String {
    let shown = file.display();
    let gone = match removed {
        Ok(()) => format!("the key file {shown} that was made here opens nothing and was removed"),
        Err(error) => format!("remove the key file {shown} that was made here: it opens nothing ({error})"),
    };
    if bring {
        format!("{gone}; bring the key from the host that made the repository to {shown}, then run this again")
    } else {
        gone
    }
}

/// Tries what the agent does: root could write where the agent's user does not even get through.
fn can_write(root: &Path, owner: Owner) -> Result<(), Failure> {
    let (Some((uid @ 1.., _)), folder) = (owner.ids(), root.to_owned()) else { return Ok(()) };
    let tried = owner.act(move || {
        let file = NewFile::begin(&folder.join(".walward-try"), 0o600)?;
        drop(file);
        Ok::<_, std::io::Error>(())
    });
    tried.and_then(|tried| tried).map_err(|error| {
        let user = user_name(uid).unwrap_or_else(|| uid.to_string());
        let what = format!("the agent's user {user} cannot write to the repository {}", root.display());
        let failure = Failure::from(anyhow::Error::new(error).context(what));
        Failure { exit: Exit::Refused, ..failure }.hint(format!(
            "the folders above it must let {user} through, and it must belong to {user}: `namei -l {}` shows them all. Mend that and \
             run this again; nothing on the server was changed",
            root.display()
        ))
    })
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

fn show_recovery_key(repository: &Repository, cluster: &str, text: &str, printer: &Printer) -> Result<(), Failure> {
    let (name, url, key) = (repository.name(), repository.url(), printer.tone(text, Tone::Strong));
    printer.recovery_key(&format!(
        "\nRecovery key of cluster \"{cluster}\" in repository \"{name}\", shown this once:\n    {key}\n    {url}\n\
         Print it with these names and keep it where this host's disk is not. It opens what this cluster has in this\n\
         repository, and nothing else, when the key is lost; without either, these backups are lost.\n\n"
    ))
}
