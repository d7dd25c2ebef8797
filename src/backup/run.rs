//! One backup from beginning to end. Each step is decided or done elsewhere; here is their order, and what happens when one fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::try_join_all;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::cleanup;
use super::copy::CorruptPages;
use super::error::BackupError;
use super::finish::{self, ControlCopy, LastFiles, LastPack};
use super::history;
use super::leases::{self, pulse};
use super::member::{self, Attributes};
use super::own_wal::{self, Sample};
use super::packs::{self, PackDone, Target};
use super::pages::PageChecks;
use super::plan;
use super::preflight::{self, Refusal};
use super::reading::Reading;
use super::report::{BackupOptions, BackupReport, Phase, Progress};
use super::scan::{self, CONTROL_FILE, Rules, TablespaceLink};
use super::server::Server;
use super::wal::NeededWal;
use super::warnings::Warnings;
use walward_base::sys::ground::Steps;
use walward_base::sys::{self, folder::Folder};
use walward_base::trace;
use walward_pg::session::{BackupStop, ServerFacts, Session, SessionError};
use walward_pg::{BackupLabelFile, ControlFile, Lsn, Timeline, WalRange};
use walward_repo::Repository;
use walward_repo::lease::Work;
use walward_repo::leases::{Leases, Terms};
use walward_repo::manifest::{BackupLabel, BackupType, CORRUPT_PAGES_MAX, ENTRIES_MAX, Manifest, Tablespace};
use walward_storage::folder_of;

/// How long connecting may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a checkpoint that is asked for at once may take: much dirty memory on a slow disk.
const FAST_CHECKPOINT_TIME_MAX: Duration = Duration::from_hours(2);
/// How long a spread checkpoint may take: `checkpoint_timeout` is a day at most.
const SPREAD_CHECKPOINT_TIME_MAX: Duration = Duration::from_hours(26);
/// How long ending the backup may take.
const STOP_TIME_MAX: Duration = Duration::from_mins(10);
/// How long the server may take to end a statement that is cancelled.
const STATEMENT_END_TIME_MAX: Duration = Duration::from_secs(5);
/// How often the session is looked at: whether the connection is still there.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often the server is asked whether it is still what it was.
const ASK_INTERVAL: Duration = Duration::from_secs(15);
/// zstd's level where none is configured.
const LEVEL: i32 = 3;

/// Takes a full backup of one cluster into every one of `repositories`: one pass over the files, the same label everywhere.
///
/// On any failure, and when `cancel` is cancelled, there is no backup where its manifest was not written: the server ends its
/// side by itself, uploads are given up, packs already there are removed as far as the store lets us, leases are released.
///
/// # Errors
/// See [`BackupError`]; nothing is retried here beyond what the layers below retry.
pub async fn run(
    repositories: &[Repository],
    options: BackupOptions,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
) -> Result<BackupReport, BackupError> {
    let (connection, directory) = (options.connection.clone(), options.data_directory.clone());
    let session = async move { Session::connect_of(&connection, &directory, CONNECT_TIME_MAX).await };
    let reading = Reading::new(&options.data_directory, options.read_deadline);
    run_on(session, reading, repositories, options, progress, cancel).await
}

/// As [`run`], of the server that `session` reaches, by `reading` its files.
///
/// # Errors
/// As [`run`].
pub async fn run_on<S: Server>(
    session: impl Future<Output = Result<S, SessionError>>,
    reading: Reading,
    repositories: &[Repository],
    options: BackupOptions,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
) -> Result<BackupReport, BackupError> {
    Box::pin(take(session, reading, repositories, options, progress, cancel)).instrument(trace::of_backup()).await
}

async fn take<S: Server>(
    session: impl Future<Output = Result<S, SessionError>>,
    reading: Reading,
    repositories: &[Repository],
    options: BackupOptions,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
) -> Result<BackupReport, BackupError> {
    let clock = Instant::now();
    reading.check()?;
    let pulse = pulse(progress.subscribe());
    let progress = Arc::new(progress);
    let (session, facts) = unless_cancelled(&cancel, connect(session, &options, &reading, repositories)).await??;
    let terms = Terms::of(options.read_deadline);
    let leases = Leases::take(repositories, (Work::Backup, &options.host), terms, pulse, &cancel).await?;
    let stop = leases.stop().clone();
    let mut warnings = Warnings::default();
    let begun = begin(repositories, &options, reading, (session, facts), &progress, &mut warnings, &stop).await;
    let taken = match begun {
        Ok(backup) => backup.take(&options, &stop).await,
        Err(error) => Err(error),
    };
    // That the lease was lost shows as a cancellation everywhere else.
    let taken = taken.map_err(|error| match error {
        BackupError::Hangs { .. } => error,
        error => leases::lost(&leases).unwrap_or(error),
    });
    leases.release().await;
    let mut report = taken?;
    report.warnings = warnings.into_lines();
    report.seconds = clock.elapsed().as_secs_f64();
    Ok(report)
}

/// What `work` gives, or [`BackupError::Cancelled`] as soon as `cancel` is.
async fn unless_cancelled<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Result<T, BackupError> {
    cancel.run_until_cancelled(work).await.ok_or(BackupError::Cancelled)
}

/// What `statement` of `session` gives, or [`BackupError::Cancelled`]. A server that only lost its client goes on with a statement until that
/// ends, however long it takes (a checkpoint), and keeps the connection's place: so it is asked to end it, and gets a moment for that.
async fn unless_cancelled_there<S: Server, T>(
    cancel: &CancellationToken,
    session: &S,
    statement: impl Future<Output = Result<T, SessionError>>,
) -> Result<Result<T, SessionError>, BackupError> {
    tokio::pin!(statement);
    if let Some(answer) = cancel.run_until_cancelled(&mut statement).await {
        return Ok(answer);
    }
    let end = async {
        loop {
            session.cancel().await;
            // One that the server had not begun yet is cancelled the next time.
            if tokio::time::timeout(LOOK_INTERVAL, &mut statement).await.is_ok() {
                break;
            }
        }
    };
    if tokio::time::timeout(STATEMENT_END_TIME_MAX, end).await.is_err() {
        tracing::warn!("PostgreSQL has not ended the statement that was cancelled; it ends by itself");
    }
    Err(BackupError::Cancelled)
}

fn server(doing: &'static str) -> impl Fn(SessionError) -> BackupError {
    move |source| BackupError::Server { doing, source }
}

/// Connects, and checks that server, data directory and repositories belong together.
async fn connect<S: Server>(
    session: impl Future<Output = Result<S, SessionError>>,
    options: &BackupOptions,
    reading: &Reading,
    repositories: &[Repository],
) -> Result<(S, ServerFacts), BackupError> {
    // Whoever drops it has given it up.
    let dropped = CancellationToken::new();
    let session = session.await.map_err(server("reach the server"))?;
    let facts = session.facts().await.map_err(server("read the server's settings"))?;
    let directory = options.data_directory.clone();
    let read = move |steps: &Steps| steps.at(&directory.join(CONTROL_FILE), || ControlFile::read(&directory));
    let control = reading.run(&dropped, read).await??;
    let identities = repositories.iter().map(|repository| (repository.name(), repository.identity()));
    preflight::check(&facts, &options.data_directory, &control, identities)?;
    let directory = options.data_directory.clone();
    let tablespaces: Vec<_> = facts.tablespaces.iter().map(|space| PathBuf::from(&space.location)).collect();
    let folder = |repository: &Repository| Some((repository.name().to_owned(), folder_of(repository.url())?));
    let folders: Vec<_> = repositories.iter().filter_map(folder).collect();
    let check = move |steps: &Steps| {
        let spaces = tablespaces.iter().map(PathBuf::as_path);
        steps.at(&directory, || preflight::check_apart(&directory, spaces, &folders))
    };
    reading.run(&dropped, check).await??;
    Ok((session, facts))
}

/// A backup that the server has begun.
struct Begun<S> {
    session: S,
    facts: ServerFacts,
    work: Arc<packs::Work>,
    tablespaces: Vec<TablespaceLink>,
    started: Timestamp,
    start: Lsn,
    /// Where recovery begins in the server's WAL.
    samples: Vec<Sample>,
}

/// Removes what earlier backups left, starts the backup on the server and lists the files.
async fn begin<S: Server>(
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
        Ok::<_, BackupError>((started, free_label(repositories, started).await?))
    };
    let (started, label) = unless_cancelled(stop, name).await??;
    progress.send_modify(|progress| {
        progress.phase = Phase::Checkpoint;
        progress.label = Some(label.to_string());
    });
    trace::name_backup(label.as_str());
    tracing::info!("starting a backup, waiting for the server's checkpoint");
    let deadline = if options.fast_checkpoint { FAST_CHECKPOINT_TIME_MAX } else { SPREAD_CHECKPOINT_TIME_MAX };
    let starting = session.backup_start(label.as_str(), options.fast_checkpoint, deadline);
    let start = unless_cancelled_there(stop, &session, starting).await?.map_err(server("start the backup"))?;

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
        Ok::<_, BackupError>((control, samples, scan, scan_warnings))
    };
    let (control, samples, scan, scan_warnings) = unless_cancelled(stop, reading.run(stop, list)).await???;
    *warnings = scan_warnings;
    let files = scan.tree.file_count() + scan.tree.directories().len() as u64;
    // Some more come at the end: the label and its like.
    if files + 16 > ENTRIES_MAX as u64 {
        return Err(BackupError::TooManyFiles { files });
    }
    preflight::check_begun(facts.in_recovery, start, &options.data_directory, &control)?;

    progress.send_modify(|progress| {
        progress.phase = Phase::Copying;
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
        targets,
        label,
        progress: Arc::clone(progress),
        manifests_begun: AtomicUsize::new(0),
    };
    Ok(Begun { session, facts, work: Arc::new(work), tablespaces: scan.tablespaces, started, start, samples })
}

/// A label that no backup and no remains of one have in any repository: the start, or some seconds after it.
async fn free_label(repositories: &[Repository], started: Timestamp) -> Result<BackupLabel, BackupError> {
    let mut time = started;
    loop {
        let label = BackupLabel::new(time, BackupType::Full);
        if !cleanup::is_taken(repositories, &label).await? {
            return Ok(label);
        }
        time += Duration::from_secs(1);
    }
}

/// The WAL without which a backup is none.
struct Needs<'a> {
    wal: &'a NeededWal,
    timeline: Timeline,
    samples: &'a [Sample],
}

impl Needs<'_> {
    /// Stores the timeline's history and waits until every repository has the segments, and these are this server's.
    async fn arrive(
        &self,
        work: &packs::Work,
        facts: &ServerFacts,
        options: &BackupOptions,
        stop: &CancellationToken,
    ) -> Result<(), BackupError> {
        work.progress.send_modify(|progress| progress.phase = Phase::WaitingForWal);
        let files = (work.folders.root(), &work.reading, stop);
        let stored = history::store(files, facts.lineage(), self.timeline, &work.targets);
        unless_cancelled(stop, stored).await??;
        try_join_all(work.targets.iter().map(async |target| {
            let (repository, deadline) = (&target.repository, options.archive_deadline);
            let waited = self.wal.wait(repository, facts.in_recovery, deadline, &work.progress, stop).await;
            // Where another server took a name first, this server's file is refused, and what comes after it never arrives.
            let proven = unless_cancelled(stop, own_wal::prove(repository, facts.lineage(), self.samples)).await?;
            match (waited, proven) {
                (_, Err(error @ BackupError::OtherWal { .. })) => Err(error),
                (waited, proven) => waited.and(proven),
            }
        }))
        .await
        .map(drop)
    }
}

/// Where pg_wal leads, when it is a link.
async fn wal_directory(work: &packs::Work, stop: &CancellationToken) -> Result<Option<String>, BackupError> {
    let root = work.folders.root().clone();
    let read = move |steps: &Steps| steps.at(&root.path().join("pg_wal"), || root.read_link("pg_wal"));
    let link = work.reading.run(stop, read).await?;
    Ok(link.ok().and_then(|to| to.to_str().map(str::to_owned)))
}

impl<S: Server> Begun<S> {
    /// Copies, ends the backup on the server, waits for its WAL and writes the manifests. Removes what it has written when
    /// that fails.
    async fn take(self, options: &BackupOptions, stop: &CancellationToken) -> Result<BackupReport, BackupError> {
        let work = Arc::clone(&self.work);
        let taken = self.copy_and_finish(options, stop).await;
        if taken.is_err() {
            cleanup::remove(&work).await;
        }
        taken
    }

    async fn copy_and_finish(
        self,
        options: &BackupOptions,
        stop: &CancellationToken,
    ) -> Result<BackupReport, BackupError> {
        let work = Arc::clone(&self.work);
        let packs = self.copy(options, stop).await?;
        let corrupt = corrupt_pages(&packs);
        let Stopped { label: label_file, stop: stopped, last, sample } = self.stop(packs, stop).await?;
        let Self { session, facts, tablespaces, started, start, mut samples, .. } = self;
        drop(session);

        let wal =
            NeededWal::new(facts.lineage(), label_file.timeline, facts.wal_segment_bytes, start, stopped.stop_lsn);
        let (Some(first_segment), Some(last_segment)) = (wal.first(), wal.last()) else {
            return Err(BackupError::Label(stopped.label_file));
        };
        samples.extend(sample);
        let needs = Needs { wal: &wal, timeline: label_file.timeline, samples: &samples };
        needs.arrive(&work, &facts, options, stop).await?;

        work.progress.send_modify(|progress| {
            progress.phase = Phase::Finishing;
            progress.waiting_for = None;
        });
        let head = Manifest {
            format: 1,
            label: work.label.to_string(),
            kind: BackupType::Full,
            lineage: facts.lineage(),
            server_version: facts.server_version.clone(),
            segment_bytes: facts.wal_segment_bytes,
            data_checksums: work.checks.is_some(),
            timeline: label_file.timeline,
            start_lsn: start,
            stop_lsn: stopped.stop_lsn,
            started,
            stopped: stopped.time,
            from_standby: facts.in_recovery,
            host: options.host.clone(),
            machine: sys::host::machine(),
            walward_version: env!("CARGO_PKG_VERSION").to_owned(),
            data_directory: options.data_directory.to_str().map(str::to_owned),
            wal_directory: wal_directory(&work, stop).await?,
            content_bytes: last.content_bytes(),
            stored_bytes: 0,
            packs: Vec::new(),
            tablespaces: named(tablespaces, &facts),
            corrupt_pages: corrupt.listed.clone(),
            depends_on: None,
        };
        let last = Arc::new(last);
        let mut stored_bytes = Vec::new();
        for (at, target) in work.targets.iter().enumerate() {
            let packs = last.stored_in(at);
            let head =
                Manifest { stored_bytes: packs.iter().map(|pack| pack.stored_bytes).sum(), packs, ..head.clone() };
            stored_bytes.push(head.stored_bytes);
            work.manifests_begun.store(at + 1, Ordering::Relaxed);
            finish::manifest(&work, target, head, &last, stop).await?;
        }
        Ok(BackupReport {
            label: head.label,
            repositories: work.targets.iter().map(|target| target.repository.name().to_owned()).collect(),
            urls: work.targets.iter().map(|target| target.repository.url().to_owned()).collect(),
            lineage: head.lineage,
            server_version: head.server_version,
            from_standby: head.from_standby,
            timeline: head.timeline,
            start_lsn: start,
            stop_lsn: head.stop_lsn,
            first_segment,
            last_segment,
            wal_segments: wal.count(),
            started,
            stopped: head.stopped,
            seconds: 0.0,
            files: last.file_count(),
            content_bytes: head.content_bytes,
            stored_bytes: stored_bytes.first().copied().unwrap_or(0),
            corrupt_pages: corrupt.listed,
            corrupt_page_count: corrupt.count,
            warnings: Vec::new(),
        })
    }

    /// Copies everything but the last pack, as long as the server stays what it was.
    async fn copy(&self, options: &BackupOptions, stop: &CancellationToken) -> Result<Vec<PackDone>, BackupError> {
        let members =
            self.work.tree.files().map(|(number, file)| (number, member::member_bytes(file.path_bytes(), file.size)));
        let plans = plan::packs(members, options.pack_bytes.max(1));
        let copying_stop = stop.child_token();
        let copying = packs::copy_all(&self.work, plans, options.workers, &copying_stop);
        tokio::pin!(copying);
        tokio::select! {
            packs = &mut copying => packs,
            error = self.watch_server() => {
                copying_stop.cancel();
                let _ = copying.await;
                Err(error)
            }
        }
    }

    /// Ends only with an error: the session broke, so that the server has ended the backup, or the standby was promoted.
    async fn watch_server(&self) -> BackupError {
        let mut asked = Instant::now();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            if !self.session.is_closed() && asked.elapsed() < ASK_INTERVAL {
                continue;
            }
            asked = Instant::now();
            match self.session.in_recovery().await {
                Ok(false) if self.facts.in_recovery => return Refusal::Promoted.into(),
                Err(error) if self.session.is_closed() => return server("keep the backup's session")(error),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Reads pg_control, ends the backup on the server, makes the last pack.
    async fn stop(&self, packs: Vec<PackDone>, stop: &CancellationToken) -> Result<Stopped, BackupError> {
        self.work.progress.send_modify(|progress| progress.phase = Phase::Stopping);
        let (root, major) = (self.work.folders.root().clone(), self.facts.major());
        let read = move |steps: &Steps| steps.at(&root.path().join(CONTROL_FILE), || read_last(&root, major));
        let (control, directory) = self.work.reading.run(stop, read).await??;
        let stopping = self.session.backup_stop(STOP_TIME_MAX);
        let stopped = unless_cancelled_there(stop, &self.session, stopping).await?.map_err(server("end the backup"))?;
        let label = BackupLabelFile::parse(&stopped.label_file)?;
        if label.start_lsn != self.start {
            return Err(BackupError::Label(stopped.label_file));
        }
        preflight::check_ended(self.facts.in_recovery, label.timeline, &control.parsed)?;
        let sample = self.sample_of_end(label.timeline, stopped.stop_lsn, stop).await?;
        let files = LastFiles {
            backup_label: stopped.label_file.clone(),
            tablespace_map: stopped.map_file.clone(),
            control,
            // Readable by the group when the data directory is (initdb --allow-group-access).
            attributes: Attributes {
                mode: 0o600 | (directory.mode & 0o040),
                mtime: stopped.time.as_second(),
                ..directory
            },
            wal: WalRange { timeline: label.timeline, start: self.start, end: stopped.stop_lsn },
            packs,
        };
        let number = u32::try_from(files.packs.len()).map_err(|_| BackupError::Died)?;
        let last = finish::last_pack(&self.work, number, files, stop).await?;
        Ok(Stopped { label, stop: stopped, last, sample })
    }

    /// The server's WAL before the end of the backup. A server that has archived and recycled the segment by now has proved its place in the
    /// archive's order, and the samples of the beginning stand.
    async fn sample_of_end(
        &self,
        timeline: Timeline,
        end: Lsn,
        stop: &CancellationToken,
    ) -> Result<Option<Sample>, BackupError> {
        let (pg_wal, size) = (self.work.folders.root().path().join("pg_wal"), self.facts.wal_segment_bytes);
        let read = move |steps: &Steps| steps.at(&pg_wal, || Sample::before(&pg_wal, timeline, size, end));
        match self.work.reading.run(stop, read).await? {
            Err(BackupError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }
}

/// A backup that the server has ended.
struct Stopped {
    label: BackupLabelFile,
    stop: BackupStop,
    last: LastPack,
    /// Where the backup ends in the server's WAL.
    sample: Option<Sample>,
}

/// pg_control, and the data directory's owner and mode. Blocking.
fn read_last(root: &Folder, major: u16) -> Result<(ControlCopy, Attributes), BackupError> {
    let facts = root.facts().map_err(|source| BackupError::Read { path: root.path().to_owned(), source })?;
    Ok((finish::read_control(root, major)?, facts.into()))
}

/// All corrupt pages, listed as far as they are.
fn corrupt_pages(packs: &[PackDone]) -> CorruptPages {
    CorruptPages {
        listed: packs.iter().flat_map(|pack| &pack.corrupt.listed).take(CORRUPT_PAGES_MAX).cloned().collect(),
        count: packs.iter().map(|pack| pack.corrupt.count).sum(),
    }
}

/// The tablespaces with the names that the server has for them; one that is newer than that list is named by its number.
fn named(links: Vec<TablespaceLink>, facts: &ServerFacts) -> Vec<Tablespace> {
    let name = |oid: u32| {
        let known = facts.tablespaces.iter().find(|tablespace| tablespace.oid == oid);
        known.map_or_else(|| oid.to_string(), |tablespace| tablespace.name.clone())
    };
    links.into_iter().map(|TablespaceLink { oid, location }| Tablespace { oid, name: name(oid), location }).collect()
}
