//! A repository: reachable, ours, opened by our key, safe against overwriting, not full.

use std::path::PathBuf;
use std::sync::Arc;

use crate::check::{FILE_SYSTEM_DEADLINE, answered};
use crate::cli::commands::keys::unused;
use crate::cli::context::{Context, file_root};
use crate::config::{ClusterConfig, RepositoryConfig};
use walward_base::sys::disk;
use walward_base::{ErrorClass, describe, format_bytes};
use walward_pg::Lineage;
use walward_repo::{Repository, layout, place};
use walward_report::Findings;
use walward_storage::{Payload, Put, Store, StoreError};

/// Below this part of a file system's size its free space is a warning: one in so many.
const FREE_PART_MIN: u64 = 10;

pub(super) async fn check(
    context: &Context,
    cluster: &ClusterConfig,
    configured: &RepositoryConfig,
    lineage: Option<Lineage>,
    findings: &mut Findings,
) -> Option<Repository> {
    let name = format!("{}, {}", cluster.name, configured.name);
    let about = Some(name.as_str());
    let repository = match context.open(cluster, configured).await {
        Ok(repository) => repository,
        Err(failure) => {
            findings.failed("repository", about, failure.message(), failure.hint.as_deref());
            return None;
        }
    };
    let protection = if repository.identity().encrypted { "encrypted, the key opens it" } else { "not encrypted" };
    findings.ok("repository", about, format!("{}, {protection}", repository.url()));
    check_lineage(&repository, lineage, about, findings);
    check_keys(&repository, about, findings).await;
    match refuses_to_overwrite(repository.store()).await {
        Ok(true) => {
            let creates = repository.store().creates();
            if creates.is_unsafe() {
                findings.warning(
                    "writing",
                    about,
                    format!(
                        "the store {}; Walward looks before it writes and reads back after, which catches all but writers at the same moment",
                        creates.words()
                    ),
                    Some("let only one server archive each timeline to it, or use another store; `walward repo probe` tries more"),
                );
            } else {
                findings.ok("writing", about, "an object was written and read; a second of its name was refused");
            }
        }
        Ok(false) => findings.failed(
            "writing",
            about,
            "an object was overwritten although one of its name was there",
            Some("use another store; `walward repo probe` tries more"),
        ),
        Err(error) => findings.failed("writing", about, describe(&error), Some(advice(error.class))),
    }
    if let Some(root) = file_root(configured, cluster) {
        check_space(root, about, findings).await;
    }
    Some(repository)
}

/// What to do about a store that cannot be written to.
fn advice(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::NoSpace => {
            "make room where the repository lies; until then WAL stays in pg_wal, which needs room as well"
        }
        ErrorClass::Transient => "check the network, the endpoint and the proxy; WAL stays in pg_wal until it heals",
        ErrorClass::Denied
        | ErrorClass::NotFound
        | ErrorClass::Permanent
        | ErrorClass::Corrupt
        | ErrorClass::Cancelled => {
            "the repository must be writable, and the credentials must allow reading, writing, listing and deleting"
        }
    }
}

fn check_lineage(repository: &Repository, lineage: Option<Lineage>, about: Option<&str>, findings: &mut Findings) {
    let Some(lineage) = lineage else { return };
    let known = &repository.identity().lineages;
    if known.iter().any(|entry| entry.lineage == lineage) {
        findings.ok("identity", about, format!("holds {lineage}"));
    } else if known.is_empty() {
        findings.failed("identity", about, "was not told which cluster it is for", Some("run `walward setup`"));
    } else {
        let known: Vec<String> = known.iter().map(|entry| entry.lineage.to_string()).collect();
        findings.failed(
            "identity",
            about,
            format!("the server is {lineage}, the repository holds {}", known.join(", ")),
            Some("after pg_upgrade run `walward setup`; else this is another cluster's repository"),
        );
    }
}

/// Two repositories that are one place are one copy.
pub(super) async fn check_apart(cluster: &ClusterConfig, opened: &[Repository], findings: &mut Findings) {
    let about = Some(cluster.name.as_str());
    match place::all_apart(opened).await {
        Ok(()) => findings.ok("copies", about, format!("{} repositories in places of their own", opened.len())),
        Err(error) => findings.failed("copies", about, describe(&error), None),
    }
}

/// Key slots that no identity names say that a setup did not finish, or that two ran at once.
async fn check_keys(repository: &Repository, about: Option<&str>, findings: &mut Findings) {
    match repository.foreign_keys().await {
        Ok(foreign) if foreign.is_empty() => {}
        Ok(foreign) => findings.warning(
            "keys",
            about,
            unused(repository, &foreign),
            Some(
                "when no setup is running, remove them with the store's own tools: nothing was ever stored under them",
            ),
        ),
        Err(error) => findings.warning("keys", about, format!("cannot be listed: {}", describe(&error)), None),
    }
}

/// Writes a scratch object twice; whether the second was refused.
async fn refuses_to_overwrite(store: &Arc<dyn Store>) -> Result<bool, StoreError> {
    let key = layout::scratch();
    let first = store.put_new(&key, Payload::from(b"walward check".to_vec())).await;
    let second = match &first {
        Ok(_) => Some(store.put_new(&key, Payload::from(b"walward check again".to_vec())).await),
        Err(_) => None,
    };
    let read = store.get(&key).await;
    store.delete(&key).await?;
    first?;
    read?;
    Ok(matches!(second.transpose()?, Some(Put::Exists)))
}

async fn check_space(path: PathBuf, about: Option<&str>, findings: &mut Findings) {
    let shown = path.display().to_string();
    match answered(FILE_SYSTEM_DEADLINE, move || disk::space(&path)).await {
        None => {
            let text = format!("the file system of {shown} did not answer in {} s", FILE_SYSTEM_DEADLINE.as_secs());
            findings.failed(
                "space",
                about,
                text,
                Some("is what it is mounted from there? WAL stays in pg_wal meanwhile"),
            );
        }
        Some(Ok(space)) => {
            let text = format!("{} free of {}", format_bytes(space.free), format_bytes(space.total));
            if space.free < space.total / FREE_PART_MIN {
                findings.warning("space", about, text, Some("make room; when it is full, WAL stays in pg_wal"));
            } else {
                findings.ok("space", about, text);
            }
        }
        Some(Err(error)) => findings.warning("space", about, format!("cannot ask {shown}: {error}"), None),
    }
}
