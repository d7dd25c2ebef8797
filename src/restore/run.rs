//! Carries a plan out: packs in parallel, each streamed once and cut into files; then settings, pg_control, done.
//!
//! Cut anywhere, it can be run again: packs that are in the journal, because they were proven to be on the disk, and whose files are
//! intact, are not fetched again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::as_full;
use super::blocking::{blocking, blocking_as};
use super::configuration::Note;
use super::directory::Owner;
use super::early_sync::EarlySync;
use super::error::RestoreError;
use super::install::{self, Ending, Prepared};
use super::pack_id::PackId;
use super::plan::{RestorePlan, Work};
use super::proof::Proof;
use super::proving::Proving;
use super::readers::Readers;
use super::sums::Sums;
use super::unpack::{self, Destination, Destinations, UnpackError, Unpacker, are_intact};
use crate::catalogue::Copy;
use walward_base::Locked;
use walward_base::{ErrorClass, describe, hex};
use walward_repo::RepoError;
use walward_repo::format::{Chunk, Kind};
use walward_repo::layout;
use walward_repo::manifest::BackupLabel;

/// How often the list of repositories is gone through for one pack.
const ROUNDS: u32 = 3;
/// The pause before the second round; it doubles.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest wait for the next bytes of a pack.
const CHUNK_DEADLINE: Duration = Duration::from_mins(2);
/// Chunks (of at most 1 MiB) between the network and the disk, for each worker.
const QUEUE_CHUNKS_MAX: usize = 4;

/// How far a restore is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Bytes of files that are written (or were, by an earlier run).
    pub bytes_done: u64,
    /// The number of packs.
    pub packs_total: usize,
    /// Packs that are finished.
    pub packs_done: usize,
}

/// What is being done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Directories.
    #[default]
    Preparing,
    /// Files.
    Restoring,
    /// Settings, and waiting for the disk.
    Finishing,
    /// Done.
    Done,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RestoreReport {
    /// The backup's label.
    pub backup: String,
    /// The data directory.
    pub directory: PathBuf,
    /// The backups that it builds on and that were restored with it, the newest first.
    pub builds_on: Vec<String>,
    /// Files in it.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes that were fetched from repositories, as stored.
    pub downloaded_bytes: u64,
    /// Packs that an earlier run had finished.
    pub packs_reused: usize,
    /// How long it took.
    pub seconds: f64,
    /// What the configuration says that holds for the cluster that was backed up, and what became of it.
    pub configuration: Vec<Note>,
    /// The settings that keep a copy apart from its original: they stay until a person resets them.
    pub until_reset: Vec<&'static str>,
    /// What is worth knowing: packs that one repository could not give.
    pub warnings: Vec<String>,
}

/// Carries `plan` out with `workers` packs at once (at least one). On a cancellation or an error everything is left for
/// another run to go on with.
pub async fn run(
    plan: RestorePlan,
    workers: usize,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
) -> Result<RestoreReport, RestoreError> {
    let repositories = plan.work.repositories().into_iter();
    let readers = Readers::take(repositories, &progress.subscribe(), &cancel).await?;
    let done = carry_out(plan, workers, progress, cancel).await;
    readers.release().await;
    done
}

async fn carry_out(
    plan: RestorePlan,
    workers: usize,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
) -> Result<RestoreReport, RestoreError> {
    let began = Instant::now();
    let work = Arc::new(plan.work);
    progress.send_modify(|progress| {
        *progress = Progress {
            phase: Phase::Preparing,
            bytes_total: work.contents.bytes(),
            bytes_done: 0,
            packs_total: work.contents.packs().count(),
            packs_done: 0,
        };
    });
    let owner = {
        let work = Arc::clone(&work);
        blocking(move || install::make_for_owner(&work.places)).await?
    };
    // From here on all is done with the owner's rights.
    let Prepared { proof, locks } = {
        let (work, backup) = (Arc::clone(&work), plan.backup.clone());
        blocking_as(owner, move || install::prepare(work.lineage, &backup, &work.places, &work.contents)).await?
    };
    let restorer = Arc::new(Restorer {
        work: Arc::clone(&work),
        owner,
        sums: Arc::default(),
        early_sync: Arc::new(
            EarlySync::start(owner).map_err(RestoreError::io("start a thread to write", &plan.directory))?,
        ),
        written: proof.journal().packs_done.clone(),
        proof: Arc::new(Mutex::new(proof)),
        progress,
        begin_no_more: CancellationToken::new(),
        cancel: cancel.child_token(),
    });
    restorer.phase(Phase::Restoring);
    restorer.prepare().await?;

    let mut report = RestoreReport {
        backup: plan.backup,
        directory: plan.directory,
        builds_on: plan.builds_on,
        files: work.contents.files(),
        bytes: work.contents.bytes(),
        downloaded_bytes: 0,
        packs_reused: 0,
        seconds: 0.0,
        configuration: plan.configuration,
        until_reset: plan.until_reset,
        warnings: Vec::new(),
    };
    // The last pack of the backup itself holds the files that make a cluster of the others.
    let last = work.contents.last_pack().ok_or(RestoreError::Died)?;
    let others: Vec<PackId> = work.contents.packs().filter(|pack| *pack != last).collect();
    for group in [others.as_slice(), &[last]] {
        restorer.packs(group, workers, &mut report).await?;
    }
    if cancel.is_cancelled() {
        return Err(RestoreError::Cancelled);
    }
    restorer.phase(Phase::Finishing);
    let ending = Ending {
        changes: work.changes.clone(),
        settings: plan.settings,
        lending: work.lending.clone(),
        signal_file: plan.signal_file,
    };
    let (early_sync, proof) = (Arc::clone(&restorer.early_sync), Arc::clone(&restorer.proof));
    let sums = Arc::clone(&restorer.sums);
    let left_to_say = blocking_as(owner, move || {
        let Work { contents, places, lineage, wal_range, .. } = &*work;
        for file in contents.composed() {
            let path = install::working_path(places, &file.path).ok_or(RestoreError::Died)?;
            unpack::complete(&file, &path, &early_sync)?;
        }
        if work.is_part {
            as_full::rewrite_lists(places, contents, &sums, (*lineage, *wal_range), None)?;
        }
        early_sync.finish()?;
        let mut proof = proof.locked();
        install::finish(&work.places, ending, None, &mut proof)
    })
    .await?;
    report.warnings.extend(left_to_say);
    drop(locks);
    restorer.phase(Phase::Done);
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

struct Restorer {
    work: Arc<Work>,
    owner: Option<Owner>,
    early_sync: Arc<EarlySync>,
    /// Of the files that are put together.
    sums: Arc<Sums>,
    /// Packs that an earlier run wrote, and proved to be on the disk.
    written: BTreeSet<PackId>,
    proof: Arc<Mutex<Proof>>,
    progress: watch::Sender<Progress>,
    /// The restore will fail; packs that are on their way may arrive, for the next run.
    begin_no_more: CancellationToken,
    /// Nothing more is to be written.
    cancel: CancellationToken,
}

struct PackOutcome {
    downloaded_bytes: u64,
    reused: bool,
    warnings: Vec<String>,
}

/// Why a pack could not be had from one repository.
enum Failure {
    Fatal(RestoreError),
    Elsewhere(ErrorClass, String),
}

impl Restorer {
    fn phase(&self, phase: Phase) {
        self.progress.send_modify(|progress| progress.phase = phase);
    }

    /// Makes the files that are put together: from then on each pack writes its blocks into them.
    async fn prepare(&self) -> Result<(), RestoreError> {
        let work = Arc::clone(&self.work);
        let make = move || {
            work.contents.composed().try_for_each(|file| {
                let path = install::working_path(&work.places, &file.path).ok_or(RestoreError::Died)?;
                unpack::prepare(&file, &path)
            })
        };
        blocking_as(self.owner, make).await
    }

    /// Restores the packs `numbers`, `workers` at once, and proves them.
    async fn packs(
        self: &Arc<Self>,
        numbers: &[PackId],
        workers: usize,
        report: &mut RestoreReport,
    ) -> Result<(), RestoreError> {
        let mut packs = stream::iter(numbers.iter().copied())
            .map(|number| {
                let restorer = Arc::clone(self);
                async move { (number, restorer.pack(number).await) }
            })
            .buffer_unordered(workers.max(1));
        let mut proving = Proving::default();
        let mut failure = None;
        loop {
            let error = tokio::select! {
                next = packs.next() => match next {
                    Some((number, Ok(outcome))) => {
                        report.downloaded_bytes += outcome.downloaded_bytes;
                        report.packs_reused += usize::from(outcome.reused);
                        report.warnings.extend(outcome.warnings);
                        self.progress.send_modify(|progress| progress.packs_done += 1);
                        // Whether blocks that were put into a file are there could not be seen later.
                        if !outcome.reused && self.work.contents.has_whole_files_only(number) {
                            proving.finished.insert(number);
                        }
                        None
                    }
                    Some((_, Err(error))) => Some(error),
                    None => break,
                },
                proven = proving.running() => proven.err(),
            };
            match error {
                None => proving.start(&self.proof, self.owner),
                Some(error) => {
                    self.stop_after(&error);
                    failure.get_or_insert(error);
                }
            }
        }
        // What arrived is for the next run, should this one have failed.
        let proven = proving.finish(&self.proof, self.owner).await;
        failure.or(proven.err()).map_or(Ok(()), Err)
    }

    /// After an error nobody begins another pack. Those that are on their way are finished, unless it is the disk that failed;
    /// in either case they are waited for, so that nothing is written once the restore has ended.
    fn stop_after(&self, error: &RestoreError) {
        self.begin_no_more.cancel();
        if !matches!(error, RestoreError::Pack { .. }) {
            self.cancel.cancel();
        }
    }

    /// The files of a pack and where they go, each worked out when it is its turn: a pack may have some hundred thousand.
    fn destinations(&self, number: PackId) -> Destinations {
        let work = Arc::clone(&self.work);
        Box::new((0..).map_while(move |at| {
            let file = work.contents.file_of(number, at)?;
            let path = install::working_path(&work.places, &file.path).ok_or(RestoreError::Died);
            Some(path.map(|path| Destination { file, path }))
        }))
    }

    /// Restores a pack, from whichever repository can give it.
    async fn pack(&self, pack: PackId) -> Result<PackOutcome, RestoreError> {
        if self.cancel.is_cancelled() || self.begin_no_more.is_cancelled() {
            return Err(RestoreError::Cancelled);
        }
        if self.written.contains(&pack) {
            let files = self.destinations(pack);
            if blocking_as(self.owner, move || are_intact(files)).await? {
                let bytes: u64 = self.work.contents.files_of(pack).map(|file| file.size).sum();
                self.progress.send_modify(|progress| progress.bytes_done += bytes);
                return Ok(PackOutcome { downloaded_bytes: 0, reused: true, warnings: Vec::new() });
            }
            // From now on its files are not what was proven.
            let proof = Arc::clone(&self.proof);
            blocking_as(self.owner, move || proof.locked().withdraw(pack)).await?;
        }
        let source = usize::try_from(pack.level).ok().and_then(|level| self.work.sources.get(level));
        let source = source.ok_or(RestoreError::Died)?;
        let (label, number) = (&source.label, pack.number);
        let mut attempts = Vec::new();
        let mut class = ErrorClass::Permanent;
        for round in 0..ROUNDS {
            let mut worth_retrying = false;
            for copy in &source.copies {
                match self.pack_from(label, copy, pack).await {
                    Ok(downloaded_bytes) => {
                        let warnings = attempts
                            .into_iter()
                            .map(|attempt| {
                                format!("pack {number} of backup {label} was restored after a failure: {attempt}")
                            })
                            .collect();
                        return Ok(PackOutcome { downloaded_bytes, reused: false, warnings });
                    }
                    Err(Failure::Fatal(error)) => return Err(error),
                    Err(Failure::Elsewhere(of, what)) => {
                        tracing::warn!(repository = copy.repository.name(), backup = %label, pack = number, error_class = %of, "{what}");
                        attempts.push(format!("repository {}: {what}", copy.repository.name()));
                        class = of;
                        worth_retrying |= of.is_worth_retrying();
                    }
                }
            }
            if !worth_retrying || round + 1 == ROUNDS {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE * 2u32.pow(round)) => {}
                () = self.cancel.cancelled() => return Err(RestoreError::Cancelled),
            }
        }
        attempts.dedup();
        Err(RestoreError::Pack { label: label.to_string(), pack: number, attempts, class })
    }

    /// Restores a pack from one repository. Returns the number of bytes that were fetched.
    async fn pack_from(&self, label: &BackupLabel, copy: &Copy, pack: PackId) -> Result<u64, Failure> {
        let listed = copy
            .packs
            .get(&pack.number)
            .ok_or_else(|| Failure::Elsewhere(ErrorClass::Corrupt, "its manifest does not list the pack".to_owned()))?;
        let key = layout::pack(label, pack.number);
        let summary = self.within(copy.repository.read_summary(&key)).await?;
        let stored = hex::encode(&summary.summary.stored_digest);
        if summary.kind != Kind::Pack || stored != listed.stored_sha256 {
            let what = "the object is not the one that the manifest lists".to_owned();
            return Err(Failure::Elsewhere(ErrorClass::Corrupt, what));
        }
        let mut opened = self.within(copy.repository.read(&key)).await?;

        let (sender, receiver) = mpsc::channel(QUEUE_CHUNKS_MAX);
        // What is made by its owner need not be given away.
        let unpacker =
            Unpacker::new(self.destinations(pack), None, Arc::clone(&self.early_sync), Arc::clone(&self.sums));
        let (progress, length) = (self.progress.clone(), listed.content_bytes);
        let owner = self.owner;
        let work = move || write(unpacker, receiver, &progress, length);
        let writer = tokio::task::spawn_blocking(move || {
            let written =
                Owner::act(owner, work).map_err(RestoreError::io("act as the owner of", Path::new("the files")));
            written.unwrap_or_else(|error| Err(UnpackError::Local(error)))
        });
        let mut fetched = Ok(());
        loop {
            match self.within_chunk(opened.content.next()).await {
                Ok(Some(chunk)) => {
                    // Refused when the writer gave up; it will say why.
                    if sender.send(Message::Content(chunk)).await.is_err() {
                        break;
                    }
                }
                Ok(None) => {
                    let _ = sender.send(Message::End).await;
                    break;
                }
                Err(failure) => {
                    fetched = Err(failure);
                    break;
                }
            }
        }
        drop(sender);
        let written = writer.await.map_err(|_| Failure::Fatal(RestoreError::Died))?;
        match (fetched, written) {
            (Ok(()), Ok(())) => Ok(opened.stored_bytes),
            (_, Err(UnpackError::Local(error))) => Err(Failure::Fatal(error)),
            (Err(failure), _) => Err(failure),
            (Ok(()), Err(UnpackError::Content(what))) => Err(Failure::Elsewhere(ErrorClass::Corrupt, what)),
        }
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, RepoError>>) -> Result<T, Failure> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(Failure::Fatal(RestoreError::Cancelled)),
            answer = tokio::time::timeout(CHUNK_DEADLINE, call) => match answer {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(Failure::Elsewhere(error.class(), describe(&error))),
                Err(_) => {
                    let what = format!("nothing came for {} s", CHUNK_DEADLINE.as_secs());
                    Err(Failure::Elsewhere(ErrorClass::Transient, what))
                }
            },
        }
    }

    async fn within_chunk(
        &self,
        next: impl Future<Output = Option<Result<Chunk, RepoError>>>,
    ) -> Result<Option<Chunk>, Failure> {
        self.within(async { next.await.transpose() }).await
    }
}

/// What the network says to the disk. A channel that closes without an [`Message::End`] was cut.
enum Message {
    Content(Chunk),
    End,
}

fn write(
    mut unpacker: Unpacker,
    mut receiver: mpsc::Receiver<Message>,
    progress: &watch::Sender<Progress>,
    length: u64,
) -> Result<(), UnpackError> {
    let mut written = 0;
    let mut work = || {
        while let Some(message) = receiver.blocking_recv() {
            match message {
                Message::Content(chunk) => {
                    let bytes = unpacker.push(&chunk)?;
                    written += bytes;
                    progress.send_modify(|progress| progress.bytes_done += bytes);
                }
                Message::End => return Ok(true),
            }
        }
        Ok(false)
    };
    let ended = work();
    let result = match ended {
        Ok(true) => unpacker.finish(length),
        Ok(false) => Err(UnpackError::Content("it was cut off".to_owned())),
        Err(error) => Err(error),
    };
    if result.is_err() {
        progress.send_modify(|progress| progress.bytes_done -= written);
    }
    result
}
