//! The history of the timeline that a backup ran on, put beside its WAL.
//!
//! The server archives a history once, when the timeline begins. Where archiving began later, it is in the data directory
//! alone, and without it recovery knows neither the timeline by its number nor the way to it from an older one.

use std::io;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::try_join_all;
use futures::stream;
use tokio_util::sync::CancellationToken;

use super::error::BackupError;
use super::packs::Target;
use super::reading::Reading;
use walward_base::sys::folder::Folder;
use walward_base::sys::ground::Steps;
use walward_pg::{Lineage, Timeline, TimelineHistory, WalFileName};
use walward_repo::format::{Kind, Spec};
use walward_repo::{PutNew, layout};

/// Some thousand promotions.
const BYTES_MAX: u64 = 1 << 20;

/// Puts the history of `timeline` into each repository that does not hold it. Timeline 1 has none, and a server need not have
/// kept that of another.
///
/// # Errors
/// [`BackupError::History`] when a repository holds another history of this timeline.
pub async fn store(
    (root, reading, cancel): (&Folder, &Reading, &CancellationToken),
    lineage: Lineage,
    timeline: Timeline,
    targets: &[Target],
) -> Result<(), BackupError> {
    if timeline == Timeline(1) {
        return Ok(());
    }
    let name = WalFileName::History(timeline);
    let path = root.path().join("pg_wal").join(name.to_string());
    let (held, place) = (root.clone(), path.clone());
    // pg_wal may be a link.
    let read = move |steps: &Steps| steps.at(&place, || held.follow("pg_wal")?.read(name.to_string(), BYTES_MAX));
    let content = match reading.run(cancel, read).await? {
        Ok(content) => Bytes::from(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(BackupError::Read { path, source }),
    };
    TimelineHistory::parse(timeline, &String::from_utf8_lossy(&content))
        .map_err(|error| BackupError::Read { path, source: io::Error::new(io::ErrorKind::InvalidData, error) })?;
    let key = layout::wal_file(lineage, name);
    try_join_all(targets.iter().map(async |target| {
        let spec = Spec { kind: Kind::History, level: target.level, writer: target.writer.clone() };
        let once = stream::iter([Ok(content.clone())]).boxed();
        let repository = target.repository.name().to_owned();
        match target.repository.put_new(&key, spec, once, || None).await {
            Ok(PutNew::Created(_) | PutNew::Same) => Ok(()),
            Ok(PutNew::Different { writer, .. }) => Err(BackupError::History { timeline, repository, writer }),
            Err(source) => {
                let doing = format!("write the history of timeline {timeline} to");
                Err(BackupError::Repository { doing, repository, source })
            }
        }
    }))
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_base::sys::cpu::CpuPool;
    use walward_repo::{Encryption, Repository, stored};

    const LINEAGE: Lineage = Lineage { major: 15, system_identifier: 7 };

    async fn target() -> Target {
        let (pool, now) = (CpuPool::new(1).unwrap(), jiff::Timestamp::UNIX_EPOCH);
        let store = walward_storage::memory();
        let created = Repository::create("a", store, "main", &Encryption::None, &[], pool, now).await;
        Target { repository: created.unwrap().0, level: 1, writer: "db1".to_owned() }
    }

    #[tokio::test]
    async fn the_history_of_the_backups_timeline_is_beside_its_wal() {
        let folder = tempfile::tempdir().unwrap();
        let targets = [target().await, target().await];
        let held = Folder::enter(folder.path()).unwrap();
        let reading = Reading::new(folder.path(), std::time::Duration::from_mins(1));
        let from = (&held, &reading, &CancellationToken::new());
        let put = async |timeline| store(from, LINEAGE, Timeline(timeline), &targets).await;
        // Neither has to be there.
        put(1).await.unwrap();
        put(2).await.unwrap();
        let path = folder.path().join("pg_wal/00000002.history");
        std::fs::create_dir(folder.path().join("pg_wal")).unwrap();
        let text = "1\t0/5000000\tno recovery target specified\n";
        walward_base::sys::durable::replace(&path, text.as_ref(), 0o600).unwrap();
        for _ in 0..2 {
            put(2).await.unwrap();
            for target in &targets {
                assert_eq!(stored::history(&target.repository, LINEAGE, Timeline(2)).await.unwrap(), text);
            }
        }
        walward_base::sys::durable::replace(&path, "1\t0/6000000\tno recovery target specified\n".as_bytes(), 0o600)
            .unwrap();
        assert!(matches!(put(2).await, Err(BackupError::History { .. })));
        walward_base::sys::durable::replace(&path, "damaged".as_bytes(), 0o600).unwrap();
        assert!(matches!(put(2).await, Err(BackupError::Read { .. })));
    }
}
