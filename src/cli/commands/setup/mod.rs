//! `setup`: finds clusters, writes the configuration, makes repositories and keys, changes the server where it is asked to, sees
//! a first segment arrive, and says what is left to do.
//!
//! Safe to run again: tables that exist are left as they are, a repository that exists is opened, settings that are right are
//! not set, and only what is missing is added. An archive_command that no segment comes through is taken back. A crash leaves a part of that done, and the next run does the rest. Another tool's
//! archive_command is changed only by `--archive-command`.

mod apply;
mod file;
mod folders;
mod initialise;
mod instructions;
mod login;
mod proof;
mod server;
mod site;
mod turn;
mod undo;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::arguments::{EncryptionChoice, Global, SetupArguments};
use crate::cli::ask::{ask, can_ask};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::printer::Printer;
use crate::config::{self, ClusterConfig, Config, ConfigError};
use crate::outcome::Exit;
use crate::setup::{self, HostCluster, Machine, same_folder};
use file::{NewCluster, NewEncryption, NewRepository, NewTables};

/// The role that the printed statements make.
const ROLE: &str = "walward";
/// The repository's name when none is given.
const REPOSITORY: &str = "main";

pub(in crate::cli) async fn run(
    global: &Global,
    arguments: &SetupArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let global = Global { no_input: global.no_input || arguments.non_interactive, ..global.clone() };
    let path = std::path::absolute(&global.config).context("cannot make the configuration's path absolute")?;
    let existing = match config::load(&path) {
        Ok(loaded) => Some(loaded.config),
        Err(ConfigError::Missing(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let new = decide(&global, arguments, existing.as_ref(), &path, printer)?;
    let wrote = !new.is_empty();
    let global = Global { config: path.clone(), ..global };
    let text = if wrote { Some(file::text_with(&path, &new)?) } else { None };
    let loaded = match &text {
        Some(text) => config::load_text(&path, text)?,
        None => config::load(&path)?,
    };
    let context = Context::of(&global, loaded)?;
    // Before anything is written: a connection that leads to another server does not get into the configuration.
    let mut clusters = Vec::new();
    for cluster in meant(&context, arguments)? {
        clusters.push((cluster, server::look(cluster, arguments, &instructions::of(&context, cluster).role).await?));
    }
    match &text {
        Some(_) if arguments.dry_run => {
            printer.note(&format!("would write to {}:\n\n{}", path.display(), file::shown(&new).trim_end()));
        }
        // What is missing yet is made below.
        Some(text) => {
            file::write(&path, text)?;
            printer.note(&format!("wrote {}", path.display()));
        }
        None => {}
    }
    let (mut answers, mut exit, mut changed) = (Vec::new(), Exit::Done, wrote);
    for (cluster, found) in clusters {
        let outcome = site::cluster(&context, cluster, found, arguments, printer).await?;
        changed |= outcome.changed;
        exit = match (exit, outcome.exit) {
            (Exit::Failed, _) | (_, Exit::Failed) => Exit::Failed,
            (Exit::Done, exit) | (exit, _) => exit,
        };
        if printer.is_json() {
            answers.push(outcome.json);
        } else {
            site::print(cluster, &outcome, printer)?;
        }
    }
    if printer.is_json() {
        let has_key = answers.iter().any(has_recovery_key);
        let answer = json!({ "config": path, "dry_run": arguments.dry_run, "changed": changed, "clusters": answers });
        printer.json_with_key("setup", answer, has_key)?;
    } else if arguments.dry_run {
        printer.note("nothing was changed: --dry-run");
    } else if !changed {
        printer.note("nothing had to be changed");
    }
    Ok(exit)
}

/// The clusters that this is about: what the arguments name, or all that are configured.
fn meant<'a>(context: &'a Context, arguments: &SetupArguments) -> Result<Vec<&'a ClusterConfig>, Failure> {
    let mut clusters: Vec<_> = match &context.global.cluster {
        Some(_) => vec![context.cluster()?],
        None => context.loaded.config.clusters.values().collect(),
    };
    if let Some(directory) = &arguments.data_directory {
        let named = clusters.first().map(|cluster| (cluster.name.clone(), cluster.data_directory.clone()));
        clusters.retain(|cluster| same_folder(&cluster.data_directory, directory));
        if let (Some((name, folder)), true) = (named, clusters.is_empty()) {
            let text =
                format!("cluster \"{name}\" is configured for {}, not {}", folder.display(), directory.display());
            return Err(Failure::new(Exit::Usage, text).hint("leave --cluster or --data-directory out"));
        }
    }
    let one = [("--connection", &arguments.connection), ("--admin-connection", &arguments.admin_connection)];
    if let (Some((option, _)), true) = (one.iter().find(|(_, given)| given.is_some()), clusters.len() > 1) {
        let names: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        let text = format!("{option} leads to one server, and this is about several clusters: {}", names.join(", "));
        return Err(Failure::new(Exit::Usage, text).hint("say which is meant with --cluster or --data-directory"));
    }
    Ok(clusters)
}

/// What is to be added to the configuration.
fn decide(
    global: &Global,
    arguments: &SetupArguments,
    existing: Option<&Config>,
    path: &Path,
    printer: &Printer,
) -> Result<NewTables, Failure> {
    let known: Vec<(String, PathBuf)> = existing
        .iter()
        .flat_map(|config| config.clusters.values())
        .map(|cluster| (cluster.name.clone(), cluster.data_directory.clone()))
        .collect();
    let mut found = clusters(global, arguments, &known, printer)?;
    // A cluster of that folder is there already: nothing is added, whatever the other arguments say.
    found.retain(|cluster| !known.iter().any(|(_, folder)| same_folder(folder, &cluster.data_directory)));
    // Only --cluster gives a name that is taken.
    if let Some((name, folder)) = known.iter().find(|(name, _)| found.iter().any(|found| found.name == *name)) {
        let text = format!("cluster \"{name}\" is configured for {}", folder.display());
        return Err(Failure::new(Exit::Usage, text).hint("give the other one a name of its own with --cluster"));
    }
    let repository_name = repository_name(global, existing);
    let repository_known = existing.is_some_and(|config| config.repositories.contains_key(&repository_name));
    let wants_repository = arguments.repository_url.is_some() || !found.is_empty();
    let repository = if wants_repository && !repository_known {
        Some(new_repository(global, arguments, &repository_name, path, printer)?)
    } else {
        None
    };
    let clusters = found
        .into_iter()
        .map(|cluster| NewCluster {
            connection: arguments.connection.clone().unwrap_or_else(|| cluster.connection(ROLE)),
            name: cluster.name,
            data_directory: cluster.data_directory,
            repository: repository_name.clone(),
        })
        .collect();
    let socket = arguments.socket.clone().filter(|_| existing.is_none());
    Ok(NewTables { socket, repository, clusters })
}

fn repository_name(global: &Global, existing: Option<&Config>) -> String {
    global.repository.clone().unwrap_or_else(|| {
        let first = existing.and_then(|config| config.repositories.keys().next());
        first.cloned().unwrap_or_else(|| REPOSITORY.to_owned())
    })
}

/// The clusters that the arguments mean, with good names.
fn clusters(
    global: &Global,
    arguments: &SetupArguments,
    known: &[(String, PathBuf)],
    printer: &Printer,
) -> Result<Vec<HostCluster>, Failure> {
    let mut found = match &arguments.data_directory {
        Some(directory) => {
            let directory = std::path::absolute(directory).context("cannot make --data-directory absolute")?;
            vec![setup::at(&directory, known)?]
        }
        // What is configured is initialised; other clusters are looked for only where nothing is configured yet, or all are wanted.
        None if !known.is_empty() && !arguments.all => Vec::new(),
        None => search(global, arguments, known, printer)?,
    };
    if let Some(name) = &global.cluster
        && let [one] = found.as_mut_slice()
    {
        one.name.clone_from(name);
    }
    Ok(found)
}

/// Looks for clusters; which of several is meant is a question.
fn search(
    global: &Global,
    arguments: &SetupArguments,
    known: &[(String, PathBuf)],
    printer: &Printer,
) -> Result<Vec<HostCluster>, Failure> {
    let search = Machine::this().search(known);
    let mut found = search.clusters;
    for reason in &search.left_out {
        printer.note(&format!("left out: {reason}"));
    }
    for cluster in &found {
        let folder = cluster.data_directory.display();
        printer.note(&format!("found cluster \"{}\": {folder}, of {}", cluster.name, cluster.owner_name()));
    }
    if found.is_empty() {
        let text = match search.left_out.as_slice() {
            [] => "no PostgreSQL cluster was found on this host".to_owned(),
            reasons => format!("no PostgreSQL cluster was found on this host that can be used: {}", reasons.join("; ")),
        };
        return Err(Failure::new(Exit::NotFound, text)
            .hint("run this as root or as the owner of the data directory, or name it with --data-directory"));
    }
    // Two names for one thing would be a guess.
    let one_is_wanted = global.cluster.is_some();
    if found.len() == 1 || (arguments.all && !one_is_wanted) {
        return Ok(found);
    }
    let names = || found.iter().map(|cluster| cluster.name.clone()).collect::<Vec<_>>().join(", ");
    if !can_ask(global) || one_is_wanted {
        let folders: Vec<String> = found.iter().map(|found| found.data_directory.display().to_string()).collect();
        let text = format!("there are several clusters on this host: {}", folders.join(", "));
        return Err(Failure::new(Exit::Usage, text)
            .hint("say which is meant with --data-directory, or take all of them with --all"));
    }
    // Clusters of two owners are no matter of course: each may read what the other's backups are encrypted with.
    let of_one_owner = found.iter().all(|cluster| Some(cluster.owner) == found.first().map(|first| first.owner));
    let answer = ask(printer, &format!("Which of them ({}, or all)?", names()), of_one_owner.then_some("all"))?;
    if answer != "all" {
        found.retain(|cluster| cluster.name == answer);
        if found.is_empty() {
            return Err(Failure::new(Exit::Usage, format!("there is no cluster {answer:?}")));
        }
    }
    Ok(found)
}

fn new_repository(
    global: &Global,
    arguments: &SetupArguments,
    name: &str,
    config: &Path,
    printer: &Printer,
) -> Result<NewRepository, Failure> {
    let url = match &arguments.repository_url {
        Some(url) => url.clone(),
        None if can_ask(global) => ask(
            printer,
            "Where shall WAL and backups go (file:///path, s3://bucket/prefix, gs://…, az://…)?",
            Some("file:///var/lib/walward"),
        )?,
        None => {
            return Err(Failure::new(Exit::Usage, "nothing says where WAL and backups go")
                .hint("say --repository-url file:///path or s3://bucket/prefix"));
        }
    };
    let beside = |extension: &str| config.with_file_name(format!("{name}.{extension}"));
    let secret_file = arguments.key_file.as_ref().map(std::path::absolute).transpose().context("--key-file")?;
    let encryption = match arguments.encryption.unwrap_or(EncryptionChoice::KeyFile) {
        EncryptionChoice::None => NewEncryption::None,
        EncryptionChoice::KeyFile => NewEncryption::KeyFile(secret_file.unwrap_or_else(|| beside("key"))),
        EncryptionChoice::PassphraseFile => {
            let file = secret_file.unwrap_or_else(|| beside("passphrase"));
            if !file.exists() {
                let text = format!("there is no passphrase file {}", file.display());
                return Err(Failure::new(Exit::Usage, text)
                    .hint("write the passphrase into it (mode 0600), or name another one with --key-file"));
            }
            NewEncryption::PassphraseFile(file)
        }
    };
    Ok(NewRepository {
        name: name.to_owned(),
        url,
        endpoint: arguments.endpoint.clone(),
        region: arguments.region.clone(),
        allow_http: arguments.allow_http,
        access_key_id: arguments.access_key_id.clone(),
        secret_access_key_file: arguments.secret_access_key_file.clone(),
        encryption,
    })
}

/// Whether the answer for a cluster shows a recovery key.
fn has_recovery_key(cluster: &Value) -> bool {
    let repositories = cluster["repositories"].as_array();
    repositories.is_some_and(|repositories| repositories.iter().any(|one| one["recovery_key"].is_string()))
}
