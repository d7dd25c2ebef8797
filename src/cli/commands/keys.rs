//! `keys`: the slots through which secrets open an encrypted repository.
//!
//! The configuration has one secret for a repository, and every cluster has keys of its own in it. So a command is about all
//! clusters that the configuration gives the repository, unless `--cluster` names one; a slot is not removed while the secret that is
//! configured would then open less than it should.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::json;

use super::text::{moment, table};
use crate::cli::arguments::{Global, KeysCommand, SecretArguments};
use crate::cli::ask::confirm;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::owner::Owner;
use crate::cli::printer::{Printer, Tone};
use crate::config::{ClusterConfig, Config, RepositoryConfig};
use crate::outcome::Exit;
use walward_base::hex;
use walward_base::sys::durable::NewFile;
use walward_repo::keys::{KeyError, KeySource, OpenKeys, RecoveryKey, Secret, key_file_text};
use walward_repo::{Encryption, RepoError, Repository};
use walward_storage::ObjectKey;

/// What a command is about.
#[derive(Debug)]
struct About<'c> {
    repository: &'c RepositoryConfig,
    /// The clusters whose keys are meant.
    clusters: Vec<&'c ClusterConfig>,
    /// Those that the configuration gives the same repository, and that are not meant.
    others: Vec<&'c ClusterConfig>,
}

/// Which repository and which of its clusters. Pure.
fn about<'c>(config: &'c Config, global: &Global) -> Result<About<'c>, Failure> {
    let all = || config.clusters.values();
    let meant: Vec<&ClusterConfig> =
        all().filter(|cluster| global.cluster.as_ref().is_none_or(|name| *name == cluster.name)).collect();
    if meant.is_empty() {
        let what = global.cluster.as_ref().map_or_else(
            || "no cluster is configured".to_owned(),
            |name| format!("there is no cluster \"{name}\" in the configuration"),
        );
        return Err(Failure::new(Exit::NotFound, what).hint("run `walward setup`, or look at `walward config show`"));
    }
    let firsts: BTreeSet<&String> = meant.iter().filter_map(|cluster| cluster.repositories.first()).collect();
    let mut firsts = firsts.into_iter();
    let name = match (&global.repository, firsts.next(), firsts.next()) {
        (Some(name), ..) | (None, Some(name), None) => name,
        (None, None, _) => return Err(Failure::new(Exit::NotFound, "no cluster has a repository")),
        (None, Some(_), Some(_)) => {
            let names: Vec<&str> = config.repositories.keys().map(String::as_str).collect();
            return Err(Failure::new(Exit::Usage, "there are several repositories")
                .hint(format!("say --repository with one of: {}", names.join(", "))));
        }
    };
    let uses = |cluster: &&ClusterConfig| cluster.repositories.contains(name);
    let clusters: Vec<&ClusterConfig> = meant.iter().copied().filter(uses).collect();
    let Some(repository) = config.repositories.get(name).filter(|_| !clusters.is_empty()) else {
        let text = match &global.cluster {
            Some(cluster) => format!("cluster \"{cluster}\" has no repository \"{name}\""),
            None => format!("no cluster has a repository \"{name}\""),
        };
        return Err(Failure::new(Exit::NotFound, text));
    };
    let is_meant = |other: &&ClusterConfig| clusters.iter().any(|cluster| cluster.name == other.name);
    let others = all().filter(uses).filter(|other| !is_meant(other)).collect();
    Ok(About { repository, clusters, others })
}

/// The opened keys of one cluster in the repository.
struct Opened<'c> {
    cluster: &'c ClusterConfig,
    repository: Repository,
    keys: OpenKeys,
}

impl About<'_> {
    /// The secret that the configuration names.
    fn source(&self) -> Result<&KeySource, Failure> {
        match &self.repository.encryption {
            Encryption::Key(source) => Ok(source),
            Encryption::None => {
                let text = format!("repository \"{}\" is not encrypted", self.repository.name);
                Err(Failure::new(Exit::Refused, text).hint(
                    "objects that are stored cannot be encrypted later; make a new repository with `encryption` set",
                ))
            }
        }
    }

    /// The keys of all clusters that are meant; a failure names the one that does not open. Nothing is changed.
    async fn open(&self, context: &Context) -> Result<Vec<Opened<'_>>, Failure> {
        let source = self.source()?;
        let mut opened = Vec::new();
        for cluster in &self.clusters {
            let failed = |failure: Failure| self.failed(cluster, failure);
            let repository = context.open(cluster, self.repository).await.map_err(failed)?;
            let keys = repository.open_keys(source).await.map_err(|error| failed(error.into()))?;
            opened.push(Opened { cluster, repository, keys });
        }
        Ok(opened)
    }

    /// A failure that says which cluster's keys it is about, where there are several.
    fn failed(&self, cluster: &ClusterConfig, failure: Failure) -> Failure {
        if self.clusters.len() + self.others.len() < 2 {
            return failure;
        }
        let error = failure.error.context(format!("the keys of cluster \"{}\"", cluster.name));
        Failure { error, ..failure }
    }

    fn names(clusters: &[&ClusterConfig]) -> String {
        let names: Vec<String> = clusters.iter().map(|cluster| format!("\"{}\"", cluster.name)).collect();
        match names.as_slice() {
            [one] => format!("cluster {one}"),
            all => format!("clusters {}", all.join(", ")),
        }
    }

    /// Of the clusters that are not meant those that `source` does not open.
    async fn closed_to(&self, context: &Context, source: &KeySource) -> Result<Vec<&ClusterConfig>, Failure> {
        let configured = RepositoryConfig { encryption: Encryption::Key(source.clone()), ..self.repository.clone() };
        let mut closed = Vec::new();
        for cluster in &self.others {
            match context.open(cluster, &configured).await {
                Ok(_) => {}
                // One that is not made yet gets its keys by `setup`.
                Err(failure) if failure.exit == Exit::NoRepository => {}
                Err(failure) if is_wrong_secret(&failure) => closed.push(*cluster),
                Err(failure) => return Err(self.failed(cluster, failure)),
            }
        }
        Ok(closed)
    }
}

fn is_wrong_secret(failure: &Failure) -> bool {
    failure
        .error
        .chain()
        .any(|cause| matches!(cause.downcast_ref::<RepoError>(), Some(RepoError::Keys(KeyError::WrongSecret { .. }))))
}

pub(in crate::cli) async fn run(context: &Context, command: &KeysCommand, printer: &Printer) -> Result<Exit, Failure> {
    let about = about(&context.loaded.config, &context.global)?;
    let opened = about.open(context).await?;
    match command {
        KeysCommand::List => list(&about, &opened, printer).await,
        KeysCommand::Add { secret } => add(context, &about, opened, secret, printer).await,
        KeysCommand::Remove { id } => remove(context, &about, opened, *id, printer).await,
        KeysCommand::Rotate => rotate(&about, opened, printer).await,
    }
}

async fn list(about: &About<'_>, opened: &[Opened<'_>], printer: &Printer) -> Result<Exit, Failure> {
    let (mut rows, mut clusters, mut all_unused) = (Vec::new(), Vec::new(), Vec::new());
    for Opened { cluster, repository, keys } in opened {
        let slots = keys.slots();
        for slot in &slots {
            let shown =
                [cluster.name.clone(), slot.id.to_string(), slot.kind.as_str().to_owned(), moment(slot.created)];
            rows.push(shown.to_vec());
        }
        let foreign = repository.foreign_keys().await?;
        if !foreign.is_empty() {
            all_unused.push(unused(repository, &foreign));
        }
        let names: Vec<&str> = foreign.iter().map(ObjectKey::as_str).collect();
        clusters.push(json!({ "cluster": cluster.name, "slots": slots, "unused": names }));
    }
    for text in all_unused {
        printer.warning(&text);
    }
    if printer.is_json() {
        printer.json("keys-list", json!({ "repository": about.repository.name, "clusters": clusters }))?;
    } else {
        printer.raw(table(&["cluster", "slot", "opened by", "made"], rows).as_bytes())?;
    }
    Ok(Exit::Done)
}

/// What `keys add` gives a slot to.
enum New {
    Secret(KeySource),
    /// A recovery key of its own for each cluster.
    Recovery,
}

/// A slot that was added, or was there.
struct Added {
    cluster: String,
    slot: u32,
    recovery: Option<RecoveryKey>,
    was_there: bool,
}

async fn add(
    context: &Context,
    about: &About<'_>,
    opened: Vec<Opened<'_>>,
    secret: &SecretArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    // Before a key file is made, which would open nothing. One that is there may have its slot already.
    let is_new = secret.recovery || secret.key_file.as_ref().is_some_and(|file| !file.exists());
    for Opened { cluster, keys, .. } in opened.iter().filter(|_| is_new) {
        keys.room_for_one().map_err(|error| about.failed(cluster, error.into()))?;
    }
    let new = if secret.recovery {
        New::Recovery
    } else {
        let owner = opened.first().map(|opened| Owner::of(&opened.cluster.data_directory));
        New::Secret(source_of(secret, owner, printer)?)
    };
    let (mut added, mut failed) = (Vec::new(), None);
    for mut opened in opened {
        match add_one(&mut opened, &new).await {
            Ok(one) => added.push(one),
            Err(failure) => {
                failed = Some((opened.cluster, failure));
                break;
            }
        }
    }
    let (name, answer) = (&about.repository.name, added.iter().map(Added::as_json).collect::<Vec<_>>());
    if printer.is_json() && failed.is_none() {
        printer.json_with_key("keys-add", json!({ "repository": name, "added": answer }), secret.recovery)?;
    }
    for one in &added {
        if let Some(recovery) = one.recovery.as_ref().filter(|_| !printer.is_json() || failed.is_some()) {
            let (cluster, key) = (&one.cluster, printer.tone(&recovery.to_text(), Tone::Strong));
            printer.recovery_key(&format!(
                "Recovery key of cluster \"{cluster}\" in repository \"{name}\", shown this once:\n    {key}\n"
            ))?;
        } else if !printer.is_json() {
            let what = if one.was_there { "opens with it already, by" } else { "has a new" };
            printer.line(&format!("cluster \"{}\" {what} slot {}", one.cluster, one.slot))?;
        }
    }
    if let Some((cluster, failure)) = failed {
        let failure = about.failed(cluster, failure);
        let hint = failure.hint.clone().map(|hint| hint + "; ").unwrap_or_default();
        return Err(failure.hint(format!(
            "{hint}it is not known to have the slot; when that is mended, run the same command again: a slot that is there already is not made twice"
        )));
    }
    if let New::Secret(source) = new {
        let closed = about.closed_to(context, &source).await?;
        if !closed.is_empty() {
            let (have, lack) = (About::names(&about.clusters), About::names(&closed));
            printer.warning(&format!(
                "{have} can be opened with it, {lack} cannot; the configuration has one secret for repository \"{name}\", so before \
                 you change it there, run this again without --cluster"
            ));
            return Ok(Exit::Warnings);
        }
    }
    Ok(Exit::Done)
}

impl Added {
    fn as_json(&self) -> serde_json::Value {
        let recovery = self.recovery.as_ref().map(|key| key.to_text().to_string());
        json!({ "cluster": self.cluster, "slot": self.slot, "recovery_key": recovery, "was_there": self.was_there })
    }
}

async fn add_one(opened: &mut Opened<'_>, new: &New) -> Result<Added, Failure> {
    let cluster = opened.cluster.name.clone();
    let now = Timestamp::now();
    let (slot, recovery) = match new {
        New::Recovery => {
            let (slot, key) = opened.keys.add_recovery_slot(now).await?;
            (slot, Some(key))
        }
        New::Secret(source) => {
            if let Some(slot) = opened.keys.slot_of(Secret::read(source).await?).await? {
                return Ok(Added { cluster, slot, recovery: None, was_there: true });
            }
            (opened.keys.add_slot(Secret::read(source).await?, now).await?, None)
        }
    };
    opened.repository.store_keys(&mut opened.keys).await?;
    Ok(Added { cluster, slot, recovery, was_there: false })
}

async fn remove(
    context: &Context,
    about: &About<'_>,
    mut opened: Vec<Opened<'_>>,
    id: u32,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let name = &about.repository.name;
    let (Some(Opened { cluster, repository, keys }), true) = (opened.pop(), opened.is_empty()) else {
        let text = format!("repository \"{name}\" has several clusters, and each numbers its slots by itself");
        return Err(Failure::new(Exit::Usage, text)
            .hint(format!("say --cluster with one of the {}", About::names(&about.clusters))));
    };
    let mut keys = keys;
    keys.remove_slot(id)?;
    let source = about.source()?;
    if keys.slot_of(Secret::read(source).await?).await?.is_none() {
        let text = format!(
            "slot {id} is the one that the secret in the configuration opens; without it the agent is locked out"
        );
        return Err(Failure::new(Exit::Refused, text).hint(
            "name another secret in `encryption` first (`walward keys add`), reload the agent, then remove the slot",
        ));
    }
    let closed = about.closed_to(context, source).await?;
    if !closed.is_empty() {
        let text = format!(
            "the secret in the configuration does not open the keys of {} in repository \"{name}\"; nothing was removed",
            About::names(&closed)
        );
        return Err(Failure::new(Exit::Refused, text).hint(
            "put the secret back into the configuration that opens them, run `walward keys add` without --cluster, then change it again",
        ));
    }
    let question = format!(
        "remove slot {id} of cluster \"{}\"? Its secret will not open it in repository \"{name}\" any more",
        cluster.name
    );
    confirm(&context.global, printer, &question)?;
    repository.store_keys(&mut keys).await?;
    if printer.is_json() {
        printer.json("keys-remove", json!({ "repository": name, "cluster": cluster.name, "slot": id }))?;
    } else {
        printer.line(&format!("removed slot {id} of cluster \"{}\"", cluster.name))?;
    }
    Ok(Exit::Done)
}

async fn rotate(about: &About<'_>, opened: Vec<Opened<'_>>, printer: &Printer) -> Result<Exit, Failure> {
    let mut rotated = Vec::new();
    for Opened { cluster, repository, mut keys } in opened {
        keys.rotate(Timestamp::now());
        repository.store_keys(&mut keys).await.map_err(|error| about.failed(cluster, error.into()))?;
        let id = hex::encode(keys.keyring().active().id());
        if !printer.is_json() {
            printer.line(&format!(
                "new objects of cluster \"{}\" are sealed under master key {id} from now on",
                cluster.name
            ))?;
        }
        rotated.push(json!({ "cluster": cluster.name, "master_key": id }));
    }
    if printer.is_json() {
        printer.json("keys-rotate", json!({ "repository": about.repository.name, "rotated": rotated }))?;
    } else {
        printer.note("a running agent takes it up when it is reloaded: systemctl reload walward");
    }
    Ok(Exit::Done)
}

fn source_of(arguments: &SecretArguments, owner: Option<Owner>, printer: &Printer) -> Result<KeySource, Failure> {
    let absolute =
        |path: &Path| std::path::absolute(path).with_context(|| format!("cannot make {} absolute", path.display()));
    if let (Some(path), Some(owner)) = (&arguments.key_file, owner) {
        let path = absolute(path)?;
        if make_key_file(&path, owner)? {
            printer.note(&format!("made a new key file {}; keep a copy where this host's disk is not", path.display()));
        }
        return Ok(KeySource::KeyFile(path));
    }
    if let Some(path) = &arguments.passphrase_file {
        return Ok(KeySource::PassphraseFile(absolute(path)?));
    }
    let words: Vec<String> =
        arguments.command.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
    if words.is_empty() {
        return Err(Failure::new(Exit::Usage, "--command is empty"));
    }
    Ok(KeySource::Command(words))
}

/// What is said of key slots that are passed over.
pub(in crate::cli) fn unused(repository: &Repository, foreign: &[ObjectKey]) -> String {
    let names: Vec<String> = foreign.iter().map(|key| repository.shown(key)).collect();
    format!(
        "{} of another root key than the repository's, and opened by no secret of it: left by a setup that did not finish",
        match names.as_slice() {
            [one] => format!("{one} is"),
            all => format!("{} are", all.join(", ")),
        }
    )
}

/// Makes a key file unless it is there; whether it was made. Root's own may be read by the group of the agent's user, who needs it.
pub(in crate::cli) fn make_key_file(path: &Path, owner: Owner) -> Result<bool, Failure> {
    match make_secret(path, key_file_text().as_bytes(), owner.group()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => {
            Err(anyhow::Error::new(error).context(format!("cannot make the key file {}", path.display())).into())
        }
    }
}

fn make_secret(path: &Path, content: &[u8], group: Option<u32>) -> io::Result<()> {
    let mut file = NewFile::begin(path, if group.is_some() { 0o640 } else { 0o600 })?;
    file.give(None, group)?;
    file.write_all(content)?;
    file.place_new()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_secret_is_for_its_owner_and_of_roots_for_the_agents_group() {
        let folder = tempfile::tempdir().unwrap();
        let group = rustix::process::getegid().as_raw();
        for (name, group, mode) in [("own", None, 0o600), ("shared", Some(group), 0o640)] {
            let path = folder.path().join(name);
            make_secret(&path, b"secret", group).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, mode, "{name}");
            assert_eq!(make_secret(&path, b"other", group).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        }
    }
}
