//! Who may use a cluster's service, where the file system of its data directory may hang.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tracing::warn;

use super::peer::Peer;
use super::services::{Service, Services};
use super::throttle::Throttle;
use crate::outcome::Exit;

/// How long a file system may take to say what lies in it.
pub const FILE_SYSTEM_DEADLINE: Duration = Duration::from_secs(20);
/// As [`FILE_SYSTEM_DEADLINE`], where an answer is about all clusters: it tells of the others without that one.
pub const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// That somebody was refused.
static REFUSED: Throttle = Throttle::new();

/// The service, if this peer may use it; else an exit code of the command line and a text.
pub async fn permitted(
    cluster: &str,
    data_directory: &Path,
    peer: Peer,
    services: &Arc<Services>,
) -> Result<Arc<Service>, (Exit, String)> {
    let found = if let Some(found) = services.known(cluster, data_directory) {
        found
    } else {
        services.find(data_directory, FILE_SYSTEM_DEADLINE).await
    };
    let service = found.map_err(|text| (Exit::NotFound, text))?;
    if may_use(peer, &service, FILE_SYSTEM_DEADLINE).await.map_err(|text| (Exit::Unreachable, text))? {
        Ok(service)
    } else {
        if let Some(kept_back) = REFUSED.admit(Instant::now()) {
            let cluster = &service.config.name;
            warn!(uid = peer.uid, cluster, kept_back, "a user who may not use the cluster was refused");
        }
        Err((
            Exit::Key,
            format!(
                "user {} may not use cluster {:?}: only root, the agent's user and the owner of {} may",
                peer.uid,
                service.config.name,
                service.config.data_directory.display()
            ),
        ))
    }
}

/// Whether this peer may use the service.
///
/// # Errors
/// The file system of its data directory does not answer within `limit`.
pub async fn may_use(peer: Peer, service: &Service, limit: Duration) -> Result<bool, String> {
    if peer.is_trusted() {
        return Ok(true);
    }
    let directory = service.config.data_directory.clone();
    in_file_system(&service.looks, limit, move || peer.may_use(&directory)).await
}

/// Runs `work`, which blocks in file systems that may hang, off the runtime and within a deadline. One that hangs takes the
/// threads of `looks` with it, and no others.
pub async fn in_file_system<T: Send + 'static>(
    looks: &Arc<Semaphore>,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let looked = async {
        let place = Arc::clone(looks).acquire_owned().await;
        // The place is given back when the file system has answered, not when nobody waits for it any more.
        tokio::task::spawn_blocking(move || (work(), place)).await.map(|(found, _place)| found)
    };
    match tokio::time::timeout(limit, looked).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(_)) => Err("the agent could not look at the data directory; its log says why".to_owned()),
        Err(_) => Err(format!("the file system of a data directory did not answer in {} s", limit.as_secs())),
    }
}
