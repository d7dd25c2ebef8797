//! `repo info`, `ls`, `cat`, `probe`: a repository's own objects. `copy` is next door.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use futures::StreamExt;
use serde_json::json;

use super::text::{moment, table};
use crate::cli::arguments::RepoCommand;
use crate::cli::context::{Context, store};
use crate::cli::failure::Failure;
use crate::cli::printer::{Printer, Tone};
use crate::outcome::Exit;
use walward_base::{format_bytes, hex};
use walward_repo::{Repository, layout};
use walward_storage::{ObjectKey, Store, StoreOptions};

pub(in crate::cli) async fn run(context: &Context, command: &RepoCommand, printer: &Printer) -> Result<Exit, Failure> {
    let cluster = context.cluster()?;
    let configured = context.repository_of(cluster)?;
    match command {
        RepoCommand::Copy { from, to, only } => {
            Box::pin(super::repo_copy::run(context, cluster, (from, to), *only, printer)).await
        }
        // The store alone: it may be the reason why the repository cannot be opened.
        RepoCommand::Probe => {
            let store = store(cluster, configured)?;
            probe(&store, &configured.store, printer).await
        }
        RepoCommand::Ls { folder } => {
            let store = store(cluster, configured)?;
            let folder = folder.as_deref().map(|text| text.trim_matches('/')).filter(|text| !text.is_empty());
            let folder = folder.map(key).transpose()?;
            let listing = store.list(folder.as_ref()).await?;
            list(folder.as_ref(), &listing, printer)
        }
        RepoCommand::Info => info(&context.open(cluster, configured).await?, printer),
        RepoCommand::Cat { key: name } => {
            let repository = context.open(cluster, configured).await?;
            cat(&repository, &key(name.trim_matches('/'))?, printer).await
        }
    }
}

fn key(text: &str) -> Result<ObjectKey, Failure> {
    layout::given(text).map_err(|error| Failure::new(Exit::Usage, error).hint("`walward repo ls` lists the names"))
}

fn list(folder: Option<&ObjectKey>, listing: &walward_storage::Listing, printer: &Printer) -> Result<Exit, Failure> {
    if printer.is_json() {
        let objects: Vec<_> = listing
            .objects
            .iter()
            .map(|object| json!({ "key": object.key.as_str(), "bytes": object.size, "modified": object.modified }))
            .collect();
        let data = json!({ "folder": folder.map(ObjectKey::as_str), "folders": listing.folders, "objects": objects });
        printer.json("repo-ls", data)?;
        return Ok(Exit::Done);
    }
    let prefix = folder.map(|folder| format!("{folder}/")).unwrap_or_default();
    for name in &listing.folders {
        printer.line(&format!("{:>12}  {:>20}  {prefix}{name}/", "", ""))?;
    }
    for object in &listing.objects {
        printer.line(&format!("{:>12}  {:>20}  {}", format_bytes(object.size), moment(object.modified), object.key))?;
    }
    Ok(Exit::Done)
}

fn info(repository: &Repository, printer: &Printer) -> Result<Exit, Failure> {
    let identity = repository.identity();
    let keys: Vec<_> = repository
        .keyring()
        .map(|ring| ring.iter().map(|key| (hex::encode(key.id()), key.created())).collect())
        .unwrap_or_default();
    if printer.is_json() {
        let keys: Vec<_> = keys.iter().map(|(id, created)| json!({ "id": id, "created": created })).collect();
        printer.json(
            "repo-info",
            json!({
                "repository": repository.name(),
                "url": repository.url(),
                "identity": identity,
                "master_keys": keys,
            }),
        )?;
        return Ok(Exit::Done);
    }
    printer.line(&format!("repository   {}", printer.tone(repository.name(), Tone::Strong)))?;
    printer.line(&format!("url          {}", repository.url()))?;
    printer.line(&format!("cluster      {} ({})", identity.name, identity.cluster_id))?;
    printer.line(&format!("created      {}", moment(identity.created)))?;
    printer.line(&format!("format       {}", identity.format))?;
    printer.line(&format!("encrypted    {}", if identity.encrypted { "yes" } else { "no" }))?;
    for (id, created) in keys {
        printer.line(&format!("master key   {id}, made {}", moment(created)))?;
    }
    for entry in &identity.lineages {
        let segments = format_bytes(entry.segment_bytes.bytes());
        printer.line(&format!(
            "lineage      {}, segments of {segments}, since {}",
            entry.lineage,
            moment(entry.since)
        ))?;
    }
    Ok(Exit::Done)
}

async fn cat(repository: &Repository, key: &ObjectKey, printer: &Printer) -> Result<Exit, Failure> {
    if Path::new(key.file_name()).extension().is_some_and(|extension| extension == "json") {
        // Identities, key slots and leases are stored as they are; none of them holds an open secret.
        let mut body = repository.store().get(key).await?.body;
        while let Some(bytes) = body.next().await {
            printer.raw(&bytes?)?;
        }
        printer.raw(b"\n")?;
        return Ok(Exit::Done);
    }
    let mut object = repository.read(key).await.with_context(|| format!("cannot print {key}"))?;
    while let Some(chunk) = object.content.next().await {
        printer.raw(&chunk.with_context(|| format!("cannot print {key} to its end"))?)?;
    }
    Ok(Exit::Done)
}

async fn probe(store: &Arc<dyn Store>, options: &StoreOptions, printer: &Printer) -> Result<Exit, Failure> {
    let report = walward_storage::probe(store, options, &layout::scratch()).await;
    let exit = if report.ok { Exit::Done } else { Exit::Failed };
    if printer.is_json() {
        printer.json("repo-probe", &report)?;
        return Ok(exit);
    }
    printer.line(&report.url)?;
    let rows = report.checks.iter().map(|check| {
        let word = if check.ok { printer.tone("OK", Tone::Good) } else { printer.tone("FAILED", Tone::Bad) };
        vec![word, check.name.to_owned(), format!("{} ms", check.milliseconds), check.detail.clone()]
    });
    printer.raw(table(&["", "check", "took", "what was seen"], rows).as_bytes())?;
    Ok(exit)
}
