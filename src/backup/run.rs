//! One backup from beginning to end. Each step is decided or done elsewhere; here is their order, and what happens when one fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::begin::{Begun, begin};
use super::cleanup;
use super::copy::CorruptPages;
use super::error::BackupError;
use super::finish::{self, ControlCopy, LastFiles, LastPack};
use super::history;
use super::incremental::WhyFull;
use super::leases::{self, pulse};
use super::member::Attributes;
use super::own_wal::{self, Sample};
use super::packs::{self, PackDone};
use super::plan;
use super::preflight::{self, Refusal};
use super::reading::Reading;
use super::report::{BackupOptions, BackupReport, Phase, Progress};
use super::scan::{CONTROL_FILE, TablespaceLink};
use super::server::Server;
use super::waits::{server, unless_cancelled, unless_cancelled_there};
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
use walward_repo::manifest::{CORRUPT_PAGES_MAX, ChangesSource, DependsOn, Manifest, StoredIndex, Tablespace};
use walward_storage::folder_of;

/// How long connecting may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);
/// How long ending the backup may take.
const STOP_TIME_MAX: Duration = Duration::from_mins(10);
/// How often the session is looked at: whether the connection is still there.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often the server is asked whether it is still what it was.
const ASK_INTERVAL: Duration = Duration::from_secs(15);

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
        let Self { session, facts, tablespaces, parent, started, start, mut samples, .. } = self;
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
            kind: work.label.kind(),
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
        let (read_bytes, last) = (last.read_bytes(), Arc::new(last));
        let indexes = match &work.since {
            Some(_) => finish::block_index(&work, &last, stop).await?,
            None => Vec::new(),
        };
        let mut stored_bytes = Vec::new();
        for (at, target) in work.targets.iter().enumerate() {
            let packs = last.stored_in(at);
            let depends_on = depends_on(&work, parent.as_ref().ok(), indexes.get(at));
            let stored_bytes_of_packs = packs.iter().map(|pack| pack.stored_bytes).sum();
            let head = Manifest { stored_bytes: stored_bytes_of_packs, packs, depends_on, ..head.clone() };
            stored_bytes.push(head.stored_bytes);
            work.manifests_begun.store(at + 1, Ordering::Relaxed);
            finish::manifest(&work, target, head, &last, stop).await?;
        }
        Ok(BackupReport {
            label: head.label,
            kind: head.kind,
            why_full: parent.as_ref().err().filter(|why| **why != WhyFull::Asked).map(ToString::to_string),
            parent: parent.ok().map(|parent| parent.label),
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
            read_bytes,
            stored_bytes: stored_bytes.first().copied().unwrap_or(0),
            corrupt_pages: corrupt.listed,
            corrupt_page_count: corrupt.count,
            warnings: Vec::new(),
        })
    }

    /// Copies everything but the last pack, as long as the server stays what it was.
    async fn copy(&self, options: &BackupOptions, stop: &CancellationToken) -> Result<Vec<PackDone>, BackupError> {
        let members = self.work.tree.files().map(|(number, file)| (number, self.work.member_bytes(&file)));
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
            backup_label: with_parent(stopped.label_file.clone(), self.parent.as_ref().ok()),
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

/// What the manifest says of the parent, when there is one.
fn depends_on(work: &packs::Work, parent: Option<&Manifest>, index: Option<&StoredIndex>) -> Option<DependsOn> {
    let (parent, since, index) = (parent?, work.since.as_ref()?, index?);
    Some(DependsOn {
        label: parent.label.clone(),
        timeline: parent.timeline,
        start_lsn: parent.start_lsn,
        started: parent.started,
        changes: ChangesSource::Wal,
        block_bytes: since.block_bytes,
        index: index.clone(),
    })
}

/// The server's label, and what PostgreSQL 17 adds to that of an incremental backup (`build_backup_content`, xlogbackup.c): servers from 17 on
/// do not start with it, and a restore leaves it out.
fn with_parent(label: String, parent: Option<&Manifest>) -> String {
    let Some(Manifest { start_lsn, timeline, .. }) = parent else { return label };
    let end = if label.ends_with('\n') { "" } else { "\n" };
    format!("{label}{end}INCREMENTAL FROM LSN: {start_lsn}\nINCREMENTAL FROM TLI: {timeline}\n")
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
