//! A backup of a directory under which no server runs: listing, packs, last pack, manifests and cleaning up as in [`super::run`],
//! without a session, a lease and WAL to wait for. For tests that cut the power between two steps.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::BackupError;
use super::finish::{self, LastFiles};
use super::packs::{self, Target, Work};
use super::reading::Reading;
use super::report::Progress;
use super::scan::{self, Rules};
use super::warnings::Warnings;
use super::{cleanup, member, plan};
use walward_base::sys::ground::Steps;
use walward_pg::{Lsn, SegmentSize, Timeline, WalRange};
use walward_repo::Repository;
use walward_repo::manifest::{BackupLabel, BackupType, Manifest};

/// How long one read may go unanswered.
const READ_DEADLINE: Duration = Duration::from_mins(3);

/// Copies the data directory `root`, whose server is stopped, into every repository in packs of about `pack_bytes`.
pub async fn rehearse(
    root: &Path,
    repositories: &[Repository],
    started: Timestamp,
    pack_bytes: u64,
) -> Result<BackupLabel, BackupError> {
    let label = BackupLabel::new(started, BackupType::Full);
    let major = walward_pg::read_major(root)?;
    let rules = Rules { major, tablespace_version_directory: String::new() };
    let scan = scan::scan(root, &rules, &mut Warnings::default(), &Steps::default(), &|_| {})?;
    let target =
        |repository: &Repository| Target { repository: repository.clone(), level: 1, writer: "rehearsal".to_owned() };
    let work = Arc::new(Work {
        folders: scan.folders,
        reading: Reading::new(root, READ_DEADLINE),
        tree: scan.tree,
        checks: None,
        targets: repositories.iter().map(target).collect(),
        label: label.clone(),
        progress: Arc::new(watch::Sender::new(Progress::new(started))),
        manifests_begun: AtomicUsize::new(0),
    });
    let copied = copy_and_finish(&work, major, started, pack_bytes).await;
    if copied.is_err() {
        cleanup::remove(&work).await;
    }
    copied.map(|()| label)
}

async fn copy_and_finish(work: &Arc<Work>, major: u16, started: Timestamp, pack_bytes: u64) -> Result<(), BackupError> {
    let stop = CancellationToken::new();
    let members = work.tree.files().map(|(number, file)| (number, member::member_bytes(file.path_bytes(), file.size)));
    let packs = packs::copy_all(work, plan::packs(members, pack_bytes), 2, &stop).await?;
    let root = work.folders.root();
    let control = finish::read_control(root, major)?;
    let facts = root.facts().map_err(|source| BackupError::Read { path: root.path().to_owned(), source })?;
    let (timeline, start, end) = (Timeline(1), Lsn(0x200_0028), Lsn(0x200_0138));
    let lineage = control.parsed.lineage();
    let files = LastFiles {
        backup_label: format!("START WAL LOCATION: {start}\n"),
        tablespace_map: String::new(),
        control,
        attributes: facts.into(),
        wal: WalRange { timeline, start, end },
        packs,
    };
    let number = u32::try_from(files.packs.len()).map_err(|_| BackupError::Died)?;
    let last = Arc::new(finish::last_pack(work, number, files, &stop).await?);
    for (at, target) in work.targets.iter().enumerate() {
        let packs = last.stored_in(at);
        let head = Manifest {
            format: 1,
            label: work.label.to_string(),
            kind: BackupType::Full,
            lineage,
            server_version: major.to_string(),
            segment_bytes: SegmentSize::DEFAULT,
            data_checksums: false,
            timeline,
            start_lsn: start,
            stop_lsn: end,
            started,
            stopped: started,
            from_standby: false,
            host: target.writer.clone(),
            walward_version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: None,
            data_directory: None,
            wal_directory: None,
            content_bytes: last.content_bytes(),
            stored_bytes: packs.iter().map(|pack| pack.stored_bytes).sum(),
            packs,
            tablespaces: Vec::new(),
            corrupt_pages: Vec::new(),
        };
        work.manifests_begun.store(at + 1, Ordering::Relaxed);
        finish::manifest(work, target, head, &last, &stop).await?;
    }
    Ok(())
}
