//! `wal push` and `wal fetch`: archives and fetches in this process, by the same code as the agent, for PostgreSQL to call.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::archive::{AtHole, Retrieved, Spot, Want, archive_now, find_seam, retrieve};
use crate::cli::arguments::{FetchArguments, OnErrorChoice, PushArguments};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::printer::Printer;
use crate::config::ClusterConfig;
use crate::outcome::Exit;
use walward_base::describe;
use walward_base::sys;
use walward_base::sys::folder::Folder;
use walward_pg::{ControlFile, Lineage, WalFileName};
use walward_repo::LazyRepository;
use walward_wire::OnError;
use walward_wire::asker::{self, Recovery, Wanted};

pub(in crate::cli) async fn push(
    context: &Context,
    arguments: &PushArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let path = absolute(&arguments.path)?;
    let name = file_name(&path.file_name().unwrap_or_default().to_string_lossy())?;
    let pg_wal = path.parent().unwrap_or(Path::new("/"));
    let data_directory = pg_wal.parent().unwrap_or(Path::new("/"));
    let cluster = context.cluster_in(data_directory).await?;
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

/// How long a standby is held up where there is no agent.
const STANDBY_DEADLINE: Duration = Duration::from_millis(1500);

/// "Absent" only when every repository said so; everything else is an error, and so 255. A standby is told 1 of what cannot be had at
/// once: it asks again.
pub(in crate::cli) async fn fetch(
    context: &Context,
    arguments: &FetchArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let given = match arguments.on_error {
        OnErrorChoice::Auto => None,
        OnErrorChoice::Abort => Some(OnError::Abort),
        OnErrorChoice::Retry => Some(OnError::Retry),
        OnErrorChoice::Target => Some(OnError::Target),
    };
    let destination = absolute(&arguments.destination)?;
    let data_directory = destination.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let wanted = Wanted::of(data_directory, &arguments.name);
    let on_error = asker::on_error(given, Recovery::of(data_directory), wanted);
    match fetch_one(context, arguments, &destination, on_error, printer).await {
        Err(failure) if on_error == OnError::Retry => {
            printer.warning(&failure.message());
            Ok(Exit::Absent)
        }
        other => other,
    }
}

async fn fetch_one(
    context: &Context,
    arguments: &FetchArguments,
    destination: &Path,
    on_error: OnError,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let name = file_name(&arguments.name)?;
    let pg_wal = destination.parent().unwrap_or(Path::new("/"));
    let data_directory = pg_wal.parent().unwrap_or(Path::new("/"));
    // Into any folder, when there is no doubt about the cluster: what is fetched is verified against it.
    let found = context.cluster_in(data_directory).await;
    let cluster = found.or_else(|unknown| context.cluster().map_err(|_| unknown))?;
    let repositories = repositories(context, cluster)?;
    let mut want = Want { lineage: lineage_in(data_directory)?, name, pg_wal: Some(pg_wal.to_path_buf()) };
    let placed_as = destination.file_name().unwrap_or_default();
    // So that it can be renamed. In another user's folder root writes with that user's rights, and what is made is for the server there.
    let spot = Spot::beside_for_oneself(destination)
        .with_context(|| format!("cannot look at the folder of {}", destination.display()))?;
    let (at_hole, deadline) = match on_error {
        OnError::Abort => (AtHole::Wait, cluster.fetch.deadline),
        OnError::Target => (AtHole::Tell, cluster.fetch.deadline),
        OnError::Retry => (AtHole::Tell, cluster.fetch.deadline.min(STANDBY_DEADLINE)),
    };
    let mut retrieved = retrieve(&repositories, &want, &spot, deadline, at_hole).await;
    if let (true, Ok(Retrieved::Absent), WalFileName::Segment(segment)) = (arguments.use_partial, &retrieved, name) {
        want.name = WalFileName::Partial(segment);
        retrieved = retrieve(&repositories, &want, &spot, deadline, at_hole).await;
        if let Ok(Retrieved::File { .. }) = retrieved {
            let partial = want.name;
            printer.warning(&format!("{segment} is absent: {partial} is placed instead, and recovery ends with it"));
        }
    }
    let whole = retrieved.and_then(|retrieved| {
        if let Some(seam) = find_seam(pg_wal, name, retrieved, cluster.fetch.refuse_seams)? {
            printer.warning(&seam.to_string());
        }
        Ok(retrieved)
    });
    let placed = match whole {
        // PostgreSQL syncs itself what it keeps.
        Ok(Retrieved::File { .. }) => spot
            .place(placed_as)
            .with_context(|| format!("cannot bring {} to {}", want.name, destination.display()))
            .map(|()| Exit::Done)
            .map_err(Failure::from),
        Ok(Retrieved::Absent) => Ok(Exit::Absent),
        Err(error) if at_hole == AtHole::Tell && error.is_hole() => {
            printer.warning(&error.to_string());
            Ok(Exit::Absent)
        }
        Err(error) => Err(error.into()),
    };
    // Gone when it was placed; worth nothing when it was not.
    let _ = spot.remove();
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
    match Folder::enter(data_directory).and_then(|folder| folder.look("global/pg_control")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.with_context(|| format!("cannot look for a pg_control in {}", data_directory.display()))?,
    };
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
