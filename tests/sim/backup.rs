//! A base backup, a full one or one that builds on another, and the archiving of its WAL, whose power goes at each step of the repository's disk.
//!
//! Whatever is left: a backup that has a manifest is whole, and so is what it builds on, and the next backup needs nobody's help.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walward::archive::archive_file;
use walward::backup::{BackupError, BackupOptions, Progress, Reading, Server, Wanted, run_on};
use walward_base::Locked;
use walward_base::sys::cpu::CpuPool;
use walward_pg::session::{BackupStop, ServerFacts, SessionError};
use walward_pg::{Lsn, Timeline, WalFileName};
use walward_repo::manifest::{BackupLabel, BackupType};
use walward_repo::{Encryption, LazyRepository, Repository, block_index, layout, remains, stored};
use walward_storage::{Limits, Store, StoreOptions};

use crate::disk::{Disk, Lies, Loss, scratch};
use crate::faults::of_disk;
use crate::machine::{CLUSTER, Trace, note};
use crate::postgres::{Postgres, SEGMENT_BYTES, segment, size};
use crate::seeds::{self, Broken};

/// Packs are small, so that there are some.
const PACK_BYTES: u64 = 64 << 10;
/// How long after the first backup the second one is taken: the first one's lease has run out, and what it left is old.
const BETWEEN: Duration = Duration::from_hours(48);

/// A server that runs, under which a backup is taken. The clock is the server's.
struct Running<'a> {
    server: &'a Mutex<Postgres>,
    now: Timestamp,
}

impl Running<'_> {
    /// Where the checkpoint of the backup lies in the segment that is being written, and how much WAL comes after its beginning.
    const START: u64 = 0x28;
    const CHECKPOINT: u64 = 0x60;
    const STOP: u64 = 0x138;

    /// Segment `number`, written and left to the archiver, and the position `offset` in it.
    fn write_to(&self, offset: u64) -> Lsn {
        let mut server = self.server.locked();
        server.finish_segment();
        Lsn((server.next - 1) * SEGMENT_BYTES + offset)
    }
}

impl Server for Running<'_> {
    async fn facts(&self) -> Result<ServerFacts, SessionError> {
        let server = self.server.locked();
        Ok(ServerFacts {
            version_num: u32::from(server.lineage.major) * 10_000,
            server_version: server.lineage.major.to_string(),
            system_identifier: server.lineage.system_identifier,
            data_directory: server.data().display().to_string(),
            wal_segment_bytes: size(),
            block_size: 8192,
            data_checksums: false,
            in_recovery: false,
            timeline: Timeline(server.timeline),
            wal_level: "replica".to_owned(),
            archive_mode: "on".to_owned(),
            archive_command: "walward-wal push %p".to_owned(),
            archive_library: String::new(),
            archive_timeout: 0,
            restore_command: String::new(),
            summarize_wal: false,
            full_page_writes: true,
            tablespaces: Vec::new(),
            now: self.now,
        })
    }

    async fn now(&self) -> Result<Timestamp, SessionError> {
        Ok(self.now)
    }

    async fn in_recovery(&self) -> Result<bool, SessionError> {
        Ok(false)
    }

    fn is_closed(&self) -> bool {
        false
    }

    async fn cancel(&self) {}

    async fn backup_start(&self, _label: &str, _fast: bool, _deadline: Duration) -> Result<Lsn, SessionError> {
        let start = self.write_to(Self::START);
        let checkpoint = Lsn(start.0 - Self::START + Self::CHECKPOINT);
        self.server.locked().note_checkpoint(checkpoint, start);
        Ok(start)
    }

    async fn backup_stop(&self, _deadline: Duration) -> Result<BackupStop, SessionError> {
        let stop_lsn = self.write_to(Self::STOP);
        let (timeline, number) = (self.server.locked().timeline, stop_lsn.0 / SEGMENT_BYTES - 1);
        let start = Lsn(number * SEGMENT_BYTES + Self::START);
        let checkpoint = Lsn(number * SEGMENT_BYTES + Self::CHECKPOINT);
        let label_file = format!(
            "START WAL LOCATION: {start} (file {})\nCHECKPOINT LOCATION: {checkpoint}\nBACKUP METHOD: streamed\n\
             BACKUP FROM: primary\nSTART TIME: {}\nLABEL: model\nSTART TIMELINE: {timeline}\n",
            segment(timeline, number),
            self.now
        );
        Ok(BackupStop { stop_lsn, time: self.now, label_file, map_file: String::new() })
    }
}

fn data_directory(folder: &Path) -> Postgres {
    let mut server = Postgres::new(folder, 1, 0);
    server.names_blocks = true;
    std::fs::create_dir_all(folder.join("base/5")).unwrap();
    for number in 0..12u32 {
        let content = number.to_le_bytes().repeat(usize::try_from(2_048 * (1 + number / 3)).unwrap());
        std::fs::write(folder.join(format!("base/5/{}", 16_384 + number)), content).unwrap();
    }
    server
}

fn options(disk: &Disk) -> StoreOptions {
    StoreOptions::new(format!("file://{}/repository", disk.root().display()))
}

fn store(disk: &Disk) -> Arc<dyn Store> {
    let folder = walward_storage::bare_folder(&disk.root().join("repository").join(CLUSTER));
    walward_storage::with_layers(folder, Limits::default())
}

async fn open(disk: &Disk) -> Repository {
    Repository::open("one", store(disk), &Encryption::None, CpuPool::on_the_caller()).await.unwrap()
}

/// Takes a backup of `server`, whose WAL is archived meanwhile, at `now`.
async fn back_up(
    server: &Mutex<Postgres>,
    disk: &Disk,
    now: Timestamp,
    wanted: Wanted,
) -> Result<BackupLabel, BackupError> {
    let data = server.locked().data().to_owned();
    let options = BackupOptions {
        wanted,
        connection: String::new(),
        data_directory: data.clone(),
        workers: 2,
        fast_checkpoint: true,
        archive_deadline: Duration::from_secs(30),
        read_deadline: Duration::from_mins(3),
        read_limit: None,
        pack_bytes: PACK_BYTES,
        levels: vec![1],
        host: "host".to_owned(),
    };
    let archiving = async {
        let repositories = [LazyRepository::at("one", store(disk), Encryption::None, 1, CpuPool::on_the_caller())];
        loop {
            let ready = server.locked().ready();
            for name in ready {
                match archive_file(&repositories, &data.join("pg_wal"), name, "host").await {
                    Ok(_) => server.locked().done(name),
                    Err(_) => break,
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let repositories = [open(disk).await];
    let (progress, _) = watch::channel(Progress::new(now));
    let session = async { Ok(Running { server, now }) };
    let reading = Reading::on_the_runtime(&data);
    let report = tokio::select! {
        report = run_on(session, reading, &repositories, options, progress, CancellationToken::new()) => report?,
        () = archiving => unreachable!("it goes on"),
    };
    Ok(report.label.parse().unwrap())
}

/// Makes everything below `folder` older by [`BETWEEN`].
fn age(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path);
        } else {
            std::fs::File::open(path).unwrap().set_modified(SystemTime::now() - BETWEEN).unwrap();
        }
    }
}

/// That each backup with a manifest has all its packs and its WAL, whole. Which there are.
async fn all_whole(repository: &Repository) -> Result<Vec<BackupLabel>, String> {
    let told = |what: &dyn std::fmt::Display, error: &walward_repo::RepoError| {
        format!("{what}: {}", walward_base::describe(error))
    };
    let mut whole = Vec::new();
    for label in stored::labels(repository).await.map_err(|error| told(&"the backups", &error))? {
        let there = repository.exists(&layout::manifest(&label)).await.map_err(|error| told(&label, &error))?;
        if !there {
            continue;
        }
        let (head, entries) = stored::manifest(repository, &label).await.map_err(|error| told(&label, &error))?;
        let packs_min = if head.depends_on.is_none() { 3 } else { 2 };
        if entries.is_empty() || head.packs.len() < packs_min {
            return Err(format!("{label} has {} entries in {} packs", entries.len(), head.packs.len()));
        }
        for pack in &head.packs {
            let key = layout::pack(&label, pack.number);
            let opened = repository.read(&key).await.map_err(|error| told(&key, &error))?;
            let content = opened.content.try_fold(0, async |bytes, chunk| Ok(bytes + chunk.len() as u64)).await;
            let bytes = content.map_err(|error| told(&key, &error))?;
            if bytes != pack.content_bytes {
                return Err(format!("{key} has {bytes} bytes of {}", pack.content_bytes));
            }
        }
        if let Some(depends_on) = &head.depends_on {
            let index = block_index::read(repository, &label, depends_on, &entries).await;
            let index = index.map_err(|error| told(&format!("the block index of {label}"), &error))?;
            if index.iter().all(|(_, blocks)| blocks.is_empty()) {
                return Err(format!("{label} has no block of a file"));
            }
            let parent = depends_on.label.parse().map_err(|_| format!("{label} builds on {}", depends_on.label))?;
            let found = repository.exists(&layout::manifest(&parent)).await;
            if !found.map_err(|error| told(&parent, &error))? {
                return Err(format!("{label} builds on {parent}, which is not there"));
            }
        }
        let last = Lsn(head.stop_lsn.0 - 1).segment_number(head.segment_bytes);
        for number in head.start_lsn.segment_number(head.segment_bytes)..=last {
            let name = WalFileName::Segment(segment(head.timeline.0, number));
            let opened = repository.read(&layout::wal_file(head.lineage, name)).await;
            let read = async { opened?.content.try_for_each(async |_| Ok(())).await };
            read.await.map_err(|error| told(&format!("the WAL of {label}, {name}"), &error))?;
        }
        whole.push(label);
    }
    Ok(whole)
}

/// Takes a backup, the power going at step `cut`, and another one after it; a full one before both, when they are to build on another. Whether the step
/// was reached.
fn cut_at(cut: u64, loss: Loss, lies: Lies, wanted: Wanted) -> Result<bool, Broken> {
    seeds::watched(cut, move |trace| {
        let folder = scratch();
        let server = data_directory(&folder.path().join("data"));
        let lineage = server.lineage;
        let server = Mutex::new(server);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let begin = |name: &str, cut, trace: &Trace| {
            let disk = Disk::new(&folder.path().join(name), lies, of_disk(0, 0, cut));
            disk.trace_to("repository", trace);
            disk
        };
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        let empty = begin("empty", None, trace);
        runtime.block_on(async {
            walward_storage::create_root(&options(&empty), CLUSTER).unwrap();
            let store = walward_storage::bare_folder(&empty.root().join("repository").join(CLUSTER));
            let pool = CpuPool::on_the_caller();
            let now = Timestamp::UNIX_EPOCH;
            let made = Repository::create("one", store, CLUSTER, &Encryption::None, &[], pool, now).await;
            made.unwrap().0.add_lineage(lineage, size(), now).await.unwrap();
        });
        let backup = |disk: &Arc<Disk>, after: Duration, wanted: Wanted| {
            let now = Timestamp::from_second(1_795_000_000).unwrap() + SignedDuration::try_from(after).unwrap();
            runtime.block_on(back_up(&server, disk, now, wanted))
        };
        let base = (wanted != Wanted::Full)
            .then(|| {
                backup(&empty, Duration::ZERO, Wanted::Full)
                    .map_err(|error| format!("the full backup fails: {error:?}"))
            })
            .transpose()?;
        empty.cut().recover(Loss::Nothing, &folder.path().join("first"));
        let first = begin("first", Some(cut), trace);
        let outcome = backup(&first, Duration::from_hours(1), wanted);
        let reached = first.is_dead();
        note(trace, format!("the backup ended: {outcome:?}; {loss:?} of what was not synced is lost"));
        // Once the manifest is written, only the lease is to be given back, and it runs out by itself.
        let was_done = || trace.locked().iter().any(|line| line.contains("Cut") && line.contains("lease/backup"));
        if (outcome.is_ok() && reached && !was_done()) || (outcome.is_err() && !reached) {
            return Err(format!("with the power {} it ended: {outcome:?}", if reached { "off" } else { "on" }));
        }
        if matches!(outcome, Err(BackupError::Scan(_))) {
            return Err(format!("the power is the repository's alone: {outcome:?}"));
        }
        let second = if loss == Loss::Nothing {
            first.go_on(of_disk(0, 0, None));
            first
        } else {
            first.cut().recover(loss, &folder.path().join("second"));
            begin("second", None, trace)
        };
        let kind = wanted.builds_on().or(Some(BackupType::Full));
        let there = runtime.block_on(async { all_whole(&open(&second).await).await })?;
        let gone = |label: &BackupLabel| Err(format!("{label}, which was finished, is gone after a power cut"));
        if let Some(label) = outcome.iter().chain(&base).find(|label| !there.contains(label)) {
            return gone(label);
        }
        age(&second.root().join("repository"));
        let next = backup(&second, BETWEEN, wanted).map_err(|error| format!("the next backup fails: {error:?}"))?;
        if let Some(full) = outcome.iter().chain([&next]).find(|label| Some(label.kind()) != kind) {
            return Err(format!("{full} is of another type than {wanted:?}"));
        }
        let left = runtime.block_on(async { remains::find(&open(&second).await).await });
        if !matches!(&left, Ok(left) if left.is_empty()) {
            return Err(format!("the next backup has left what the one before it left: {left:?}"));
        }
        second.cut().recover(Loss::All, &folder.path().join("third"));
        let third = begin("third", None, trace);
        let there = runtime.block_on(async { all_whole(&open(&third).await).await })?;
        // One that was cut in its last step may be there or not.
        match outcome.iter().chain(&base).chain([&next]).find(|label| !there.contains(label)) {
            Some(label) => gone(label),
            None => Ok(reached),
        }
    })
}

fn cut_everywhere(lies: Lies, wanted: Wanted) -> Result<u64, Broken> {
    // What a full backup shows of losses in between an incremental one shows no better, and it takes a full one first.
    let losses: &[Loss] = match wanted {
        Wanted::Full => &[Loss::All, Loss::Nothing, Loss::Some(1), Loss::Some(2)],
        _ => &[Loss::All, Loss::Nothing],
    };
    seeds::everywhere(losses, |cut, loss| cut_at(cut, loss, lies, wanted))
}

#[test]
fn a_power_cut_at_every_step_of_a_backup_leaves_no_backup_or_a_whole_one() {
    const NAME: &str = "a_power_cut_at_every_step_of_a_backup_leaves_no_backup_or_a_whole_one";
    let begun = Instant::now();
    let steps = seeds::expect(NAME, cut_everywhere(Lies::default(), Wanted::Full));
    eprintln!("{NAME}: {steps} steps, 4 losses each, in {} s", begun.elapsed().as_secs());
    assert!(steps > 100, "{steps}");
}

#[test]
fn a_power_cut_at_every_step_of_an_incremental_backup_leaves_none_or_a_whole_one_and_its_parent() {
    const NAME: &str = "a_power_cut_at_every_step_of_an_incremental_backup_leaves_none_or_a_whole_one_and_its_parent";
    let begun = Instant::now();
    let steps = seeds::expect(NAME, cut_everywhere(Lies::default(), Wanted::Incr));
    eprintln!("{NAME}: {steps} steps, 2 losses each, in {} s", begun.elapsed().as_secs());
    assert!(steps > 60, "{steps}");
}

#[test]
fn a_backup_onto_a_disk_that_forgets_to_sync_is_caught() {
    for lies in [Lies { files: true, ..Lies::default() }, Lies { folders: true, ..Lies::default() }] {
        assert!(cut_everywhere(lies, Wanted::Full).is_err(), "{lies:?} was not noticed");
        // With every other power cut left out, the backup that was finished is what is missed.
        let Err(Broken { what, .. }) = cut_at(u64::MAX, Loss::All, lies, Wanted::Full) else {
            panic!("{lies:?} was not noticed")
        };
        assert!(what.contains("-full"), "{what}");
    }
}
