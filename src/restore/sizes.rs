//! Sizes of shared memory that the server was given after the backup (`max_connections` and its like).
//!
//! A server that recovers and answers queries needs as much as the one that wrote the WAL, or it pauses at the record that says so, and
//! waits for ever (14 and later), or stops (13). The configuration in the backup is older than that record.

use futures::stream::{self, StreamExt, TryStreamExt};

use super::choose::Choice;
use super::configured::from_pack;
use super::contents::{CONTROL_FILE, Contents};
use super::error::RestoreError;
use super::settings::Setting;
use crate::catalogue::{Archive, Copy, WalNeed};
use walward_base::format_bytes;
use walward_pg::{Capacity, CommitTimes, ControlFile};

/// The most bytes of WAL that are read to look for it.
const WAL_BYTES_MAX: u64 = 256 << 20;
/// How many segments are read at once.
const READS_AT_ONCE: usize = 4;

/// What recovery needs more than the configuration in the backup may give it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raised {
    /// The settings, to be written.
    pub settings: Vec<Setting>,
    /// The same for people.
    pub warning: Option<String>,
    /// Why it was not looked for.
    pub unread: Option<String>,
}

/// Looks for sizes that were raised in `wal`, where that is little enough to be read. `contents` are those of the backup of `choice`.
pub async fn raised(
    archive: &Archive<'_>,
    choice: &Choice,
    wal: Option<&WalNeed>,
    contents: &Contents,
    copies: &[Copy],
) -> Result<Raised, RestoreError> {
    let (backup, size) = (&choice.backup, choice.backup.segment_bytes);
    let Some(wal) = wal else { return Ok(Raised::default()) };
    if let Some(unread) = too_much(wal.count.saturating_mul(size.bytes())) {
        return Ok(Raised { unread: Some(unread), ..Raised::default() });
    }
    let first = wal.first.number(size).unwrap_or(0);
    let names = (first..first.saturating_add(wal.count)).filter_map(|number| choice.way.segment(number, size));
    let found: Vec<Option<Capacity>> = stream::iter(names)
        .map(|name| async move {
            let walk = archive.walk(backup.lineage, name, || CommitTimes::new(name, size)).await?;
            Ok::<_, RestoreError>(walk.and_then(|walk| walk.capacity()))
        })
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let Some(needed) = found.into_iter().flatten().reduce(Capacity::max) else { return Ok(Raised::default()) };
    Ok(match of_backup(choice, contents, copies).await {
        Some(own) => compared(own, needed),
        None => Raised::default(),
    })
}

/// Why `wal_bytes` of WAL are not read for this, if they are too many.
fn too_much(wal_bytes: u64) -> Option<String> {
    (wal_bytes > WAL_BYTES_MAX).then(|| {
        format!(
            "whether the server was given more after the backup ({}): the WAL to replay is more than {}. If it was, recovery pauses (14 and \
             later) or stops (13), and the server's log names the setting: raise it in the restored configuration and start again",
            Capacity::NAMES.join(", "),
            format_bytes(WAL_BYTES_MAX)
        )
    })
}

/// What a server with the sizes of `own` lacks of `needed`.
fn compared(own: Capacity, needed: Capacity) -> Raised {
    let short: Vec<_> = own.short_of(needed).collect();
    let shown: Vec<String> = short.iter().map(|(name, was, now)| format!("{name} from {was} to {now}")).collect();
    Raised {
        settings: short.into_iter().map(|(name, _, now)| (name, now.to_string())).collect(),
        warning: (!shown.is_empty()).then(|| {
            format!(
                "the server was given more after the backup ({}), and recovery would pause for ever with less: postgresql.auto.conf gets \
                 these values for the recovery; raise them in the server's own configuration, too",
                shown.join(", ")
            )
        }),
        unread: None,
    }
}

/// The sizes in the backup's pg_control; none when it cannot be read, which the restore itself will say.
async fn of_backup(choice: &Choice, contents: &Contents, copies: &[Copy]) -> Option<Capacity> {
    let (pack, file) = contents.find(CONTROL_FILE)?;
    let bytes = from_pack(copies, &choice.backup.label, pack, &file).await.ok()?;
    ControlFile::parse(choice.backup.lineage.major, &bytes).ok().map(|control| control.capacity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_to_be_read_is_said() {
        assert_eq!(too_much(WAL_BYTES_MAX), None);
        let said = too_much(WAL_BYTES_MAX + 1).expect("said");
        assert!(said.contains("max_connections") && said.contains("256 MiB"), "{said}");
    }

    #[test]
    fn what_was_raised_is_written_and_said_and_what_was_lowered_is_not() {
        let sizes = |connections: u32, locks: u32| {
            let fields = [connections, 8, 10, 0, locks];
            Capacity::read(&fields.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>(), 0).expect("five fields")
        };
        let raised = compared(sizes(20, 128), sizes(50, 64));
        assert_eq!(raised.settings, [("max_connections", "50".to_owned())]);
        assert!(raised.warning.is_some_and(|warning| warning.contains("max_connections from 20 to 50")));
        assert_eq!(compared(sizes(50, 64), sizes(20, 64)), Raised::default());
    }
}
