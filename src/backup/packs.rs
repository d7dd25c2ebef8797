//! Makes packs: a thread reads, one upload seals and writes for all repositories, several packs at once.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::copy::{self, Copied, Copier, CopyError, CorruptPages, How};
use super::error::BackupError;
use super::incremental::Since;
use super::member::{self, Attributes};
use super::pace::Pace;
use super::pages::PageChecks;
use super::plan::PackPlan;
use super::reading::Reading;
use super::report::Progress;
use super::stream::{PackStream, pack_stream};
use super::tree::{File, Tree};
use walward_base::sys::ground::Steps;
use walward_pg::{ClusterFolders, incremental_bytes};
use walward_repo::format::{Kind, Summary};
use walward_repo::manifest::{BackupLabel, Pack};
use walward_repo::several::{self, SealTarget};
use walward_repo::{Repository, layout};
use walward_storage::ObjectKey;

/// How long a cancelled upload may take to remove what it has sent.
const ABORT_GRACE: Duration = Duration::from_secs(10);

/// Where a backup goes: the repositories, and how their objects are made.
#[derive(Debug, Clone)]
pub struct Target {
    /// The repository.
    pub repository: Repository,
    /// zstd's level.
    pub level: i32,
    /// The host's name.
    pub writer: String,
}

/// What every pack of a backup needs.
pub struct Work {
    /// The data directory and its tablespaces.
    pub folders: ClusterFolders,
    /// How they are read.
    pub reading: Reading,
    /// What is copied.
    pub tree: Tree,
    /// How pages are checked.
    pub checks: Option<PageChecks>,
    /// What changed since the parent; none of a full backup.
    pub since: Option<Since>,
    /// How fast files are read.
    pub pace: Pace,
    /// Where it goes.
    pub targets: Vec<Target>,
    /// The backup's name.
    pub label: BackupLabel,
    /// Who wants to know how far it is.
    pub progress: Arc<watch::Sender<Progress>>,
    /// To how many of the targets, from the first, a manifest was begun to be written.
    pub manifests_begun: AtomicUsize,
}

impl Work {
    /// How long the tar member of a file will be, by what was listed.
    pub fn member_bytes(&self, file: &File<'_>) -> u64 {
        let some = self.since.as_ref().and_then(|since| {
            let blocks = since.blocks(&file.path(), file.size)?;
            Some(incremental_bytes(copy::count(&blocks), since.block_bytes))
        });
        member::member_bytes(file.path_bytes(), some.unwrap_or(file.size))
    }
}

/// A file in a pack.
#[derive(Debug, Clone)]
pub struct PackedFile {
    /// Its number in the tree.
    pub file: u32,
    /// What was copied.
    pub copied: Copied,
}

/// A pack that is in every repository.
#[derive(Debug)]
pub struct PackDone {
    /// Its number.
    pub number: u32,
    /// How it is stored in each repository.
    pub stored: Vec<Pack>,
    /// What it holds.
    pub files: Vec<PackedFile>,
    /// What is wrong with that.
    pub corrupt: CorruptPages,
    /// How many bytes were read of the files.
    pub read_bytes: u64,
}

/// Makes all packs, `workers` at a time; the first one begins with all directories. Returns them in the order of their
/// numbers. After a failure nothing is running any more.
pub async fn copy_all(
    work: &Arc<Work>,
    plans: Vec<PackPlan>,
    workers: usize,
    cancel: &CancellationToken,
) -> Result<Vec<PackDone>, BackupError> {
    let mut waiting = (0u32..).zip(plans);
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    let mut failure = None;
    let stop = cancel.child_token();
    loop {
        while failure.is_none()
            && running.len() < workers.max(1)
            && let Some((number, plan)) = waiting.next()
        {
            running.spawn(copy_pack(Arc::clone(work), number, plan, stop.clone()).in_current_span());
        }
        match running.join_next().await {
            None => break,
            Some(Ok(Ok(pack))) => done.push(pack),
            Some(Ok(Err(error))) => {
                stop.cancel();
                failure.get_or_insert(error);
            }
            Some(Err(_)) => {
                stop.cancel();
                failure.get_or_insert(BackupError::Died);
            }
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    done.sort_unstable_by_key(|pack| pack.number);
    Ok(done)
}

async fn copy_pack(
    work: Arc<Work>,
    number: u32,
    plan: PackPlan,
    cancel: CancellationToken,
) -> Result<PackDone, BackupError> {
    let expected_bytes = plan.bytes + member::END.len() as u64;
    let reader = {
        let (work, cancel) = (Arc::clone(&work), cancel.clone());
        move |stream: &mut PackStream, steps: &Steps| read_files(&work, number, &plan, stream, &cancel, steps)
    };
    let (stored, Read { files, corrupt, bytes }) = make_pack(&work, number, expected_bytes, &cancel, reader).await?;
    Ok(PackDone { number, stored, files, corrupt, read_bytes: bytes })
}

/// What was read for a pack.
struct Read {
    files: Vec<PackedFile>,
    corrupt: CorruptPages,
    bytes: u64,
}

/// The reading side of one pack. Blocking.
fn read_files(
    work: &Work,
    number: u32,
    plan: &PackPlan,
    stream: &mut PackStream,
    cancel: &CancellationToken,
    steps: &Steps,
) -> Result<Read, CopyError> {
    if number == 0 {
        for directory in work.tree.directories() {
            let attributes =
                Attributes { mode: directory.mode, mtime: directory.mtime, uid: directory.uid, gid: directory.gid };
            stream.write(&member::directory_header(&directory.path, attributes))?;
        }
    }
    let how = How { checks: work.checks.as_ref(), since: work.since.as_ref(), pace: &work.pace };
    let mut copier = Copier::new(&work.folders, how, cancel, steps);
    let mut files = Vec::with_capacity(plan.files.len());
    for &number in &plan.files {
        let Some(file) = work.tree.file(number) else { continue };
        let on_bytes = |bytes| work.progress.send_modify(|progress| progress.content_bytes_done += bytes);
        if let Some(copied) = copier.copy(&file.path(), stream, on_bytes)? {
            files.push(PackedFile { file: number, copied });
        }
        work.progress.send_modify(|progress| progress.files_done += 1);
    }
    let bytes = copier.read_bytes();
    Ok(Read { files, corrupt: copier.into_corrupt_pages(), bytes })
}

/// Makes pack `number` of what `write` writes (the end of the archive is added) and uploads it to every repository.
pub async fn make_pack<T: Send + 'static>(
    work: &Work,
    number: u32,
    expected_bytes: u64,
    cancel: &CancellationToken,
    write: impl FnOnce(&mut PackStream, &Steps) -> Result<T, CopyError> + Send + 'static,
) -> Result<(Vec<Pack>, T), BackupError> {
    let ended = cancel.child_token();
    let (mut stream, content) = pack_stream(ended.clone());
    let read = work.reading.run(cancel, move |steps| {
        let value = write(&mut stream, steps)?;
        stream.write(&member::END)?;
        stream.finish()?;
        Ok(value)
    });
    // A thread that hangs keeps its end of the queue: the upload must be told.
    let reader = async {
        let read: Result<Result<T, CopyError>, BackupError> = read.await;
        if read.is_err() {
            ended.cancel();
        }
        read
    };
    let key = layout::pack(&work.label, number);
    let what = format!("write pack {number} to");
    // An upload that fails drops its end of the queue, which stops the reader.
    let upload = upload(&work.targets, what, &key, Kind::Pack, content, expected_bytes, &ended);
    let (read, uploaded) = tokio::join!(reader, upload);
    let (value, summaries) = match (read?, uploaded) {
        (Ok(value), Ok(summaries)) => (value, summaries),
        // The upload hears of it before the reader does.
        (Err(CopyError::Stopped), Err(_)) if cancel.is_cancelled() => return Err(BackupError::Cancelled),
        (Err(CopyError::Cancelled), _) => return Err(BackupError::Cancelled),
        (Ok(_) | Err(CopyError::Stopped), Err(error)) => return Err(error),
        // An upload that ended well although its reader stopped has not seen the end of the stream: a defect.
        (Err(CopyError::Stopped), Ok(_)) => return Err(BackupError::Died),
        (Err(error), _) => return Err(error.into()),
    };
    if let Some(first) = summaries.first() {
        work.progress.send_modify(|progress| progress.stored_bytes += first.stored_bytes);
    }
    let stored = summaries
        .into_iter()
        .map(|summary| Pack {
            number,
            content_bytes: summary.content_bytes,
            stored_bytes: summary.stored_bytes,
            stored_sha256: walward_base::hex::encode(&summary.stored_digest),
        })
        .collect();
    Ok((stored, value))
}

/// Uploads one object to all of `targets`, compressed once for those of one level. When cancelled, the upload has a short time
/// to remove what it has sent.
pub async fn upload(
    targets: &[Target],
    doing: String,
    key: &ObjectKey,
    kind: Kind,
    content: BoxStream<'static, std::io::Result<Bytes>>,
    expected_bytes: u64,
    cancel: &CancellationToken,
) -> Result<Vec<Summary>, BackupError> {
    let writer = targets.first().map_or("", |target| target.writer.as_str());
    let seal: Vec<_> =
        targets.iter().map(|target| SealTarget { repository: &target.repository, level: target.level }).collect();
    let too_long = async {
        cancel.cancelled().await;
        tokio::time::sleep(ABORT_GRACE).await;
    };
    tokio::select! {
        uploaded = several::upload(&seal, key, kind, writer, content, expected_bytes) => uploaded.map_err(|(at, source)| {
            let repository = targets.get(at).map(|target| target.repository.name().to_owned()).unwrap_or_default();
            BackupError::Repository { doing, repository, source }
        }),
        () = too_long => Err(BackupError::Cancelled),
    }
}

#[cfg(test)]
mod tests;
