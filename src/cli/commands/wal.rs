//! `wal push` and `wal fetch`: archives and fetches in this process, by the same code as the agent, for PostgreSQL to call.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use crate::archive::{AtHole, FetchError, Retrieved, archive_now, retrieve};
use crate::base::describe;
use crate::cli::arguments::{FetchArguments, OnErrorChoice, PushArguments};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::printer::Printer;
use crate::config::ClusterConfig;
use crate::outcome::Exit;
use crate::pg::{ControlFile, Lineage, WalFileName};
use crate::repo::LazyRepository;
use crate::sys;
use crate::wire::place;

pub(in crate::cli) async fn push(
    context: &Context,
    arguments: &PushArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let path = absolute(&arguments.path)?;
    let name = file_name(&path.file_name().unwrap_or_default().to_string_lossy())?;
    let pg_wal = path.parent().unwrap_or(Path::new("/"));
    let data_directory = pg_wal.parent().unwrap_or(Path::new("/"));
    let cluster = context.cluster_in(data_directory)?;
    let repositories = repositories(context, cluster)?;
    let host = sys::host::name();
    let deadline = cluster.archive.deadline;
    let (_, missed) = archive_now(&repositories, cluster.acknowledge, pg_wal, name, &host, deadline).await?;
    for error in missed {
        // PostgreSQL logs it; the file is archived all the same.
        printer.warning(&describe(&error));
    }
    Ok(Exit::Done)
}

/// "Absent" only when every repository said so; everything else is an error, and so 255.
pub(in crate::cli) async fn fetch(
    context: &Context,
    arguments: &FetchArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let name = file_name(&arguments.name)?;
    let destination = absolute(&arguments.destination)?;
    let data_directory = destination.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    // Into any folder, when there is no doubt about the cluster: what is fetched is verified against it.
    let cluster = context.cluster_in(data_directory).or_else(|unknown| context.cluster().map_err(|_| unknown))?;
    let repositories = repositories(context, cluster)?;
    let lineage = lineage_in(data_directory)?;
    // Beside the destination, so that it can be renamed; always the same name, so that a crash leaves one at most.
    let mut temporary = destination.clone().into_os_string();
    temporary.push(".walward-unverified");
    let temporary = PathBuf::from(temporary);
    let at_hole = match arguments.on_error {
        OnErrorChoice::Abort => AtHole::Wait,
        OnErrorChoice::Target => AtHole::Tell,
    };
    let mut name = name;
    let mut retrieved = retrieve(&repositories, lineage, name, &temporary, cluster.fetch.deadline, at_hole).await;
    if let (true, Ok(Retrieved::Absent), WalFileName::Segment(segment)) = (arguments.use_partial, &retrieved, name) {
        name = WalFileName::Partial(segment);
        retrieved = retrieve(&repositories, lineage, name, &temporary, cluster.fetch.deadline, at_hole).await;
        if let Ok(Retrieved::File { .. }) = retrieved {
            printer.warning(&format!("{segment} is absent: {name} is placed instead, and recovery ends with it"));
        }
    }
    let placed = match retrieved {
        Ok(Retrieved::File { .. }) => place(&temporary, &destination)
            .with_context(|| format!("cannot bring {name} to {}", destination.display()))
            .map(|()| Exit::Done)
            .map_err(Failure::from),
        Ok(Retrieved::Absent) => Ok(Exit::Absent),
        Err(error @ (FetchError::Hole { .. } | FetchError::LetGo { .. })) if at_hole == AtHole::Tell => {
            printer.warning(&error.to_string());
            Ok(Exit::Absent)
        }
        Err(error) => Err(error.into()),
    };
    // Gone when it was placed; worth nothing when it was not.
    let _ = std::fs::remove_file(&temporary);
    placed
}

fn repositories(context: &Context, cluster: &ClusterConfig) -> Result<Vec<Arc<LazyRepository>>, Failure> {
    let configured = context.repositories_of(cluster)?.into_iter();
    let repositories: Vec<_> = configured
        .map(|repository| {
            LazyRepository::new(
                &repository.name,
                &cluster.name,
                repository.store.clone(),
                repository.encryption.clone(),
                repository.wal_level,
                context.pool().clone(),
            )
        })
        .collect();
    LazyRepository::apart(&repositories);
    Ok(repositories)
}

/// The lineage of the server that recovers in `data_directory`; none when the file is fetched to some other place.
fn lineage_in(data_directory: &Path) -> Result<Option<Lineage>, Failure> {
    // Only a clear "there is none" may leave the lineage open.
    let control = data_directory.join("global/pg_control");
    if !control.try_exists().with_context(|| format!("cannot look at {}", control.display()))? {
        return Ok(None);
    }
    let control = ControlFile::read(data_directory)
        .with_context(|| format!("cannot tell which cluster {} belongs to", data_directory.display()))?;
    Ok(Some(control.lineage()))
}

fn file_name(text: &str) -> Result<WalFileName, Failure> {
    text.parse().map_err(|error: <WalFileName as std::str::FromStr>::Err| Failure::new(Exit::Usage, error))
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    Ok(std::path::absolute(path).with_context(|| format!("cannot make {} absolute", path.display()))?)
}
