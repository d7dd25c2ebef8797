//! The beginning of a backup: what the server, the data directory and the repositories say before anything is copied.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cleanup;
use super::error::BackupError;
use super::incremental::{self, Basis, Since, Sizes, Wanted, WhyFull};
use super::own_wal::Sample;
use super::pace::Pace;
use super::packs::{self, Target};
use super::pages::PageChecks;
use super::preflight;
use super::reading::Reading;
use super::report::{BackupOptions, Phase, Progress};
use super::scan::{self, CONTROL_FILE, Rules, Scan, TablespaceLink};
use super::server::Server;
use super::waits::{server, unless_cancelled, unless_cancelled_there};
use super::warnings::Warnings;
use walward_base::sys::ground::Steps;
use walward_base::trace;
use walward_pg::session::ServerFacts;
use walward_pg::{ControlFile, Lsn};
use walward_repo::Repository;
use walward_repo::manifest::{BackupLabel, BackupType, ENTRIES_MAX, Manifest};

/// How long a checkpoint that is asked for at once may take: much dirty memory on a slow disk.
const FAST_CHECKPOINT_TIME_MAX: Duration = Duration::from_hours(2);
/// How long a spread checkpoint may take: `checkpoint_timeout` is a day at most.
const SPREAD_CHECKPOINT_TIME_MAX: Duration = Duration::from_hours(26);
/// zstd's level where none is configured.
const LEVEL: i32 = 3;

/// A backup that the server has begun.
pub struct Begun<S> {
    /// The way to it.
    pub session: S,
    /// What it says of itself.
    pub facts: ServerFacts,
    /// What is copied, and where to.
    pub work: Arc<packs::Work>,
    /// The tablespaces that were found.
    pub tablespaces: Vec<TablespaceLink>,
    /// What it builds on, or why it is a full one.
    pub parent: Result<Manifest, WhyFull>,
    /// When it began, by the server's clock.
    pub started: Timestamp,
    /// Where it begins.
    pub start: Lsn,
    /// Where recovery begins in the server's WAL.
    pub samples: Vec<Sample>,
}

/// Removes what earlier backups left, starts the backup on the server, lists the files, and finds out what changed since an earlier backup.
///
/// # Errors
/// As [`super::run`].
pub async fn begin<S: Server>(
    repositories: &[Repository],
    options: &BackupOptions,
    reading: Reading,
    (session, facts): (S, ServerFacts),
    progress: &Arc<watch::Sender<Progress>>,
    warnings: &mut Warnings,
    stop: &CancellationToken,
) -> Result<Begun<S>, BackupError> {
    let name = async {
        cleanup::remove_remains(repositories).await;
        let started = session.now().await.map_err(server("ask for the server's time"))?;
        Ok::<_, BackupError>((started, free_time(repositories, started).await?))
    };
    let (started, named) = unless_cancelled(stop, name).await??;
    progress.send_modify(|progress| progress.phase = Phase::Checkpoint);
    tracing::info!("starting a backup, waiting for the server's checkpoint");
    let deadline = if options.fast_checkpoint { FAST_CHECKPOINT_TIME_MAX } else { SPREAD_CHECKPOINT_TIME_MAX };
    // Which type it will be is not known yet.
    let called = BackupLabel::new(named, BackupType::Full);
    let starting = session.backup_start(called.as_str(), options.fast_checkpoint, deadline);
    let start = unless_cancelled_there(stop, &session, starting).await?.map_err(server("start the backup"))?;

    let listed = list(options, &reading, &facts, start, progress, warnings, stop).await?;
    let Listed { control, samples, scan } = listed;
    preflight::check_begun(facts.in_recovery, start, &options.data_directory, &control)?;
    let basis = {
        let begun = incremental::Begun {
            lineage: facts.lineage(),
            timeline: control.timeline,
            start,
            data_checksums: control.data_checksums(),
            segment_bytes: facts.wal_segment_bytes,
        };
        let sizes = Sizes { block_bytes: control.block_size, segment_blocks: control.relation_segment_blocks };
        progress.send_modify(|progress| progress.phase = Phase::Comparing);
        let pg_wal = options.data_directory.join("pg_wal");
        let finding = incremental::basis(repositories, options.wanted, &begun, sizes, (&pg_wal, &reading, stop));
        Box::pin(unless_cancelled(stop, finding)).await??
    };
    let (parent, kind, since) = told(basis, options.wanted, warnings);
    let label = BackupLabel::new(named, kind);
    trace::name_backup(label.as_str());
    tracing::info!(parent = parent.as_ref().map_or("", |parent| parent.label.as_str()), "copying the files");

    progress.send_modify(|progress| {
        progress.phase = Phase::Copying;
        progress.label = Some(label.to_string());
        progress.files_total = scan.tree.file_count();
        progress.content_bytes_total = scan.tree.bytes();
    });
    let checks = control.data_checksums().then_some(PageChecks {
        page_bytes: usize::try_from(control.block_size).unwrap_or(usize::MAX),
        segment_blocks: control.relation_segment_blocks,
        start,
    });
    let targets = repositories
        .iter()
        .enumerate()
        .map(|(at, repository)| Target {
            repository: repository.clone(),
            level: options.levels.get(at).copied().unwrap_or(LEVEL),
            writer: options.host.clone(),
        })
        .collect();
    let work = packs::Work {
        folders: scan.folders,
        reading,
        tree: scan.tree,
        checks,
        since,
        pace: Pace::new(options.read_limit),
        targets,
        label,
        progress: Arc::clone(progress),
        manifests_begun: AtomicUsize::new(0),
    };
    Ok(Begun { session, facts, work: Arc::new(work), tablespaces: scan.tablespaces, parent, started, start, samples })
}

/// What was found in the data directory.
struct Listed {
    control: ControlFile,
    samples: Vec<Sample>,
    scan: Scan,
}

/// Lists the files, and reads where recovery begins in the server's WAL.
async fn list(
    options: &BackupOptions,
    reading: &Reading,
    facts: &ServerFacts,
    start: Lsn,
    progress: &Arc<watch::Sender<Progress>>,
    warnings: &mut Warnings,
    stop: &CancellationToken,
) -> Result<Listed, BackupError> {
    progress.send_modify(|progress| progress.phase = Phase::Listing);
    let root = options.data_directory.clone();
    let (mut scan_warnings, major) = (std::mem::take(warnings), facts.major());
    let listed = Arc::clone(progress);
    let list = move |steps: &Steps| {
        let control = steps.at(&root.join(CONTROL_FILE), || ControlFile::read(&root))?;
        let pg_wal = root.join("pg_wal");
        let samples = [start, control.checkpoint].into_iter().map(|position| {
            steps.at(&pg_wal, || Sample::of_record(&pg_wal, control.timeline, control.segment_size, position))
        });
        let samples = samples.collect::<Result<Vec<_>, _>>()?;
        let rules = Rules { major, tablespace_version_directory: format!("PG_{major}_{}", control.catalog_version) };
        let on_files = |files| listed.send_modify(|progress| progress.files_total = files);
        let scan = scan::scan(&root, &rules, &mut scan_warnings, steps, &on_files)?;
        Ok::<_, BackupError>((Listed { control, samples, scan }, scan_warnings))
    };
    let (listed, scan_warnings) = unless_cancelled(stop, reading.run(stop, list)).await???;
    *warnings = scan_warnings;
    let files = listed.scan.tree.file_count() + listed.scan.tree.directories().len() as u64;
    // Some more come at the end: the label and its like.
    if files + 16 > ENTRIES_MAX as u64 {
        return Err(BackupError::TooManyFiles { files });
    }
    Ok(listed)
}

/// Says what the backup builds on, or why it is a full one.
fn told(
    basis: Result<Basis, WhyFull>,
    wanted: Wanted,
    warnings: &mut Warnings,
) -> (Result<Manifest, WhyFull>, BackupType, Option<Since>) {
    match basis {
        Ok(Basis { parent, kind, since, custom_managers }) => {
            if !custom_managers.is_empty() {
                warnings.add(format!(
                    "extensions wrote WAL of their own since backup {} (resource managers {}): what they change without naming blocks is \
                     not in this backup; take a full one if one of them has files of its own",
                    parent.label,
                    custom_managers.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
                ));
            }
            (Ok(parent), kind, Some(since))
        }
        Err(why) => {
            if matches!(wanted, Wanted::Diff | Wanted::Incr) {
                warnings.add(format!("this is a full backup instead of {}: {why}", wanted.as_str()));
            } else if wanted == Wanted::Auto {
                tracing::info!("a full backup: {why}");
            }
            (Err(why), BackupType::Full, None)
        }
    }
}

/// A second after which no backup, and no remains of one, are named in any repository: the start, or some seconds after it. What was taken later has the
/// later label.
async fn free_time(repositories: &[Repository], started: Timestamp) -> Result<Timestamp, BackupError> {
    let kinds = || [BackupType::Full, BackupType::Diff, BackupType::Incr];
    let mut time = started;
    'seconds: loop {
        for kind in kinds() {
            if cleanup::is_taken(repositories, &BackupLabel::new(time, kind)).await? {
                time += Duration::from_secs(1);
                continue 'seconds;
            }
        }
        return Ok(time);
    }
}
