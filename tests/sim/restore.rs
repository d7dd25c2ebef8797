//! A restore whose power goes at each step of the disk, or whose sync fails at each of them.
//!
//! Whatever is left: a directory with pg_control in it is a whole one, and any other is gone on with by the same request. What a
//! restore says it finished is on the disk, however many runs before it failed.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walward::catalogue::{Target, TargetTimeline};
use walward::restore::{Action, Archiving, HostDirectory, Progress, Refusal, RestoreError, RestoreRequest, plan, run};
use walward_base::sys::cpu::CpuPool;
use walward_pg::{Lineage, Lsn, SegmentSize, Timeline, WalFileName};
use walward_repo::format::{Kind, Spec};
use walward_repo::manifest::{BackupLabel, BackupType, Entry, EntryKind, Manifest, Pack};
use walward_repo::{Encryption, Repository, layout};

use crate::disk::{Decide, Disk, Lies, Loss, Verdict, scratch};
use crate::faults::of_disk;
use crate::machine::note;
use crate::seeds::{self, Broken};

const LINEAGE: Lineage = Lineage { major: 15, system_identifier: 7 };
const CONTROL_FILE: &str = "global/pg_control";

fn label() -> BackupLabel {
    "20261121T064158Z-full".parse().unwrap()
}

/// The files of each pack.
fn packs() -> Vec<Vec<(&'static str, Vec<u8>)>> {
    let large: Vec<u8> = (0..300_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    vec![
        vec![("PG_VERSION", b"15\n".to_vec()), ("base/5/1259", large), ("standby.signal", Vec::new())],
        vec![("base/5/7000", vec![7; 20_000]), ("base/5/empty", Vec::new())],
        vec![
            ("backup_label", b"START WAL LOCATION: 0/2000028\n".to_vec()),
            ("backup_manifest", b"{}".to_vec()),
            (CONTROL_FILE, vec![3; 8192]),
        ],
    ]
}

/// A tar stream, and where each file's bytes begin in it.
fn tar_stream(files: &[(&str, Vec<u8>)]) -> (Vec<u8>, Vec<u64>) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut offsets = Vec::new();
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        offsets.push(builder.get_ref().len() as u64 + 512);
        builder.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    (builder.into_inner().unwrap(), offsets)
}

fn once(content: Vec<u8>) -> BoxStream<'static, std::io::Result<Bytes>> {
    stream::iter([Ok(Bytes::from(content))]).boxed()
}

/// A backup that is put into a repository without a server.
pub struct Taken {
    pub label: BackupLabel,
    pub lineage: Lineage,
    pub segment_bytes: SegmentSize,
    pub timeline: Timeline,
    pub start: Lsn,
    pub stop: Lsn,
    pub stopped: Timestamp,
}

pub async fn put_backup(repository: &Repository, taken: Taken) {
    let spec = |kind| Spec { kind, level: 1, writer: "db1".to_owned() };
    let mut manifest = Manifest {
        format: 1,
        label: taken.label.to_string(),
        kind: BackupType::Full,
        lineage: taken.lineage,
        server_version: "15.18".to_owned(),
        segment_bytes: taken.segment_bytes,
        data_checksums: true,
        timeline: taken.timeline,
        start_lsn: taken.start,
        stop_lsn: taken.stop,
        started: taken.stopped,
        stopped: taken.stopped,
        from_standby: true,
        host: "db1".to_owned(),
        walward_version: "0.1.0".to_owned(),
        machine: None,
        data_directory: None,
        wal_directory: None,
        content_bytes: 0,
        stored_bytes: 0,
        packs: Vec::new(),
        tablespaces: Vec::new(),
        corrupt_pages: Vec::new(),
        depends_on: None,
    };
    let folder = |path: &str| Entry { path: path.to_owned(), mode: 0o700, mtime: 0, what: EntryKind::Directory };
    let mut entries: Vec<Entry> = ["base", "base/5", "global", "pg_wal"].map(folder).into();
    for (number, files) in (0..).zip(&packs()) {
        let (content, offsets) = tar_stream(files);
        let content_bytes = content.len() as u64;
        let key = layout::pack(&taken.label, number);
        let summary = repository.upload(&key, spec(Kind::Pack), once(content), content_bytes).await.unwrap();
        for ((path, content), offset) in files.iter().zip(offsets) {
            let (size, crc32c) = (content.len() as u64, crc32c::crc32c(content));
            let what = EntryKind::File { size, crc32c, pack: number, offset };
            entries.push(Entry { path: (*path).to_owned(), mode: 0o600, mtime: 1_700_000_000, what });
        }
        let stored_sha256 = walward_base::hex::encode(&summary.stored_digest);
        manifest.packs.push(Pack { number, content_bytes, stored_bytes: summary.stored_bytes, stored_sha256 });
    }
    let mut lines = serde_json::to_string(&manifest).unwrap() + "\n";
    for entry in &entries {
        lines += &(serde_json::to_string(entry).unwrap() + "\n");
    }
    let key = layout::manifest(&taken.label);
    repository.upload(&key, spec(Kind::Manifest), once(lines.into_bytes()), 0).await.unwrap();
}

/// A repository in memory with one backup, and the WAL that it needs.
async fn repository() -> Repository {
    let (store, pool) = (walward_storage::memory(), CpuPool::on_the_caller());
    let made = Repository::create("one", store, "main", &Encryption::None, &[], pool, Timestamp::UNIX_EPOCH).await;
    let mut repository = made.unwrap().0;
    repository.add_lineage(LINEAGE, SegmentSize::DEFAULT, Timestamp::UNIX_EPOCH).await.unwrap();
    let taken = Taken {
        label: label(),
        lineage: LINEAGE,
        segment_bytes: SegmentSize::DEFAULT,
        timeline: Timeline(1),
        start: Lsn(0x200_0028),
        stop: Lsn(0x200_0138),
        stopped: "2026-11-21T06:41:58Z".parse().unwrap(),
    };
    put_backup(&repository, taken).await;
    let segment = WalFileName::Segment("000000010000000000000002".parse().unwrap());
    let (key, spec) =
        (layout::wal_file(LINEAGE, segment), Spec { kind: Kind::Segment, level: 1, writer: "db1".to_owned() });
    repository.put_new(&key, spec, once(vec![2; 100]), || None).await.unwrap();
    repository
}

pub fn request() -> RestoreRequest {
    RestoreRequest {
        target: Target::Latest,
        exclusive: false,
        timeline: TargetTimeline::Latest,
        action: Action::Promote,
        standby: false,
        refuse_seams: true,
        backup: None,
        tablespace_map: Vec::new(),
        wal_directory: None,
        archive: Archiving::Preserve,
        use_partial: false,
        restore_command: "walward-wal fetch %f %p".to_owned(),
        end_command: "walward wal recovered || exit 1".to_owned(),
        original: HostDirectory { directory: "/original".into(), host: "elsewhere".to_owned(), machine: None },
        taken: Vec::new(),
        primary_conninfo: None,
    }
}

async fn restore(repository: &Repository, target: &Path) -> Result<(), RestoreError> {
    let plan = plan(std::slice::from_ref(repository), target, &request()).await?;
    run(plan, 2, watch::Sender::new(Progress::default()), CancellationToken::new()).await.map(|_| ())
}

/// That everything is in `target` that a server needs to recover, and nothing that leads it astray.
fn whole(target: &Path) -> Result<(), String> {
    for (path, content) in packs().into_iter().flatten().filter(|(path, _)| *path != "standby.signal") {
        match std::fs::read(target.join(path)) {
            Ok(bytes) if bytes == content => {}
            Ok(bytes) => return Err(format!("{path} has {} other bytes", bytes.len())),
            Err(error) => return Err(format!("{path}: {error}")),
        }
    }
    let settings = std::fs::read_to_string(target.join("postgresql.auto.conf")).unwrap_or_default();
    if !settings.contains("restore_command = 'walward-wal fetch %f %p'") {
        return Err(format!("the settings are {settings:?}"));
    }
    if !target.join("recovery.signal").exists() || target.join("standby.signal").exists() {
        return Err("the signal files are not those of a recovery".to_owned());
    }
    Ok(())
}

/// Restores, the power going at step `cut`, and goes on with what `loss` leaves. Whether the step was reached.
fn cut_at(cut: u64, loss: Loss, lies: Lies) -> Result<bool, Broken> {
    seeds::watched(cut, move |trace| {
        let folder = scratch();
        let clock = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let runtime = clock.unwrap();
        let target = |root: &Path| root.join("pgdata/main");
        let begin = |root: PathBuf, cut| {
            // A restore by root gives the files to the owner of the directory, and asks for a user otherwise.
            let disk = Disk::new(&root, lies, of_disk(0, 0, cut));
            disk.trace_to("target", trace);
            disk
        };
        let first = folder.path().join("first");
        std::fs::create_dir_all(target(&first)).unwrap();
        own(&target(&first));
        let disk = begin(first, Some(cut));
        let repository = runtime.block_on(repository());
        let outcome = runtime.block_on(restore(&repository, &target(disk.root())));
        let reached = disk.is_dead();
        note(trace, format!("the restore ended: {outcome:?}; {loss:?} of what was not synced is lost"));
        // Its last step, the journal's removal, may fail without making it less.
        let finished = outcome.is_ok();
        if let (Err(error), false) = (outcome, reached) {
            return Err(format!("it failed, although nothing is broken: {error:?}"));
        }
        let disk = if loss == Loss::Nothing {
            disk.go_on(of_disk(0, 0, None));
            disk
        } else {
            let second = folder.path().join("second");
            disk.cut().recover(loss, &second);
            begin(second, None)
        };
        let target = target(disk.root());
        if finished && !target.join(CONTROL_FILE).exists() {
            return Err("it succeeded, and after a power cut pg_control is not there".to_owned());
        }
        if target.join(CONTROL_FILE).exists() {
            whole(&target).map_err(|what| format!("it can be started, half restored: {what}"))?;
            return Ok(reached);
        }
        own(&target);
        match runtime.block_on(restore(&repository, &target)) {
            Ok(()) => {}
            Err(error) => return Err(format!("it cannot be gone on with: {error:?}")),
        }
        let third = folder.path().join("third");
        disk.cut().recover(Loss::All, &third);
        let target = third.join("pgdata/main");
        whole(&target).map_err(|what| format!("what was gone on with is not durable: {what}"))?;
        Ok(reached)
    })
}

/// root restores for another user only, with that user's rights; the folder says for whom, and all in it is that user's.
fn own(target: &Path) {
    if !rustix::process::geteuid().is_root() || !target.exists() {
        return;
    }
    std::os::unix::fs::lchown(target, Some(65534), Some(65534)).unwrap();
    if target.is_dir() && !target.is_symlink() {
        for entry in std::fs::read_dir(target).unwrap() {
            own(&entry.unwrap().path());
        }
    }
}

fn cut_everywhere(lies: Lies) -> Result<u64, Broken> {
    let losses = [Loss::All, Loss::Nothing, Loss::Some(1), Loss::Some(2), Loss::Some(3), Loss::Some(4)];
    seeds::everywhere(&losses, |cut, loss| cut_at(cut, loss, lies))
}

#[test]
fn a_power_cut_at_every_step_of_a_restore_leaves_a_whole_cluster_or_one_that_goes_on() {
    const NAME: &str = "a_power_cut_at_every_step_of_a_restore_leaves_a_whole_cluster_or_one_that_goes_on";
    let begun = Instant::now();
    let steps = seeds::expect(NAME, cut_everywhere(Lies::default()));
    eprintln!("{NAME}: {steps} steps, 6 losses each, in {} s", begun.elapsed().as_secs());
    assert!(steps > 25, "{steps}");
}

#[test]
fn a_restore_onto_a_disk_that_forgets_to_sync_is_caught() {
    let Err(Broken { what, .. }) = cut_everywhere(Lies { files: true, ..Lies::default() }) else {
        panic!("it was not noticed");
    };
    assert!(["half restored", "pg_control is not there", "not durable"].iter().any(|why| what.contains(why)), "{what}");
}

/// What the runs after one whose sync failed have to bear with.
#[derive(Debug, Clone, Copy)]
struct Afterwards {
    /// The step of the second run at which there is no room; a third one goes on.
    full_at: Option<u64>,
    /// The journal says what was written instead of what is durable.
    journal_lies: bool,
}

/// The step `at` fails with `kind`, if `fails` says that it is one to fail.
fn failing(at: u64, kind: io::ErrorKind, fails: fn(&str) -> bool, reached: &Arc<AtomicBool>) -> Decide {
    let reached = Arc::clone(reached);
    Box::new(move |seen| {
        reached.fetch_or(seen.number >= at, Ordering::SeqCst);
        if seen.number == at && fails(&seen.what) { Verdict::Before(kind) } else { Verdict::Go }
    })
}

/// Restores, a sync failing at step `at`, with what `loss` leaves if the power goes then; and again, until it is done. Whether the
/// step was reached.
fn sync_fails_at(at: u64, loss: Loss, lies: Lies, afterwards: Afterwards) -> Result<bool, Broken> {
    seeds::watched(at, move |trace| {
        let folder = scratch();
        let clock = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let runtime = clock.unwrap();
        let repository = runtime.block_on(repository());
        let target = |root: &Path| root.join("pgdata/main");
        let (reached, unused) = (Arc::default(), Arc::default());
        let is_sync = |what: &str| what.starts_with("fsync") || what == "syncfs";
        let first = folder.path().join("1");
        std::fs::create_dir_all(target(&first)).unwrap();
        own(&target(&first));
        let mut disk = Disk::new(&first, lies, failing(at, io::ErrorKind::Other, is_sync, &reached));
        disk.trace_to("target", trace);
        let mut runs = 0;
        loop {
            runs += 1;
            let outcome = runtime.block_on(restore(&repository, &target(disk.root())));
            note(trace, format!("run {runs} ended: {outcome:?}; {loss:?} of what was not synced is lost"));
            let error = match outcome {
                Ok(()) => break,
                Err(_) if target(disk.root()).join(CONTROL_FILE).exists() => break,
                Err(error) => error,
            };
            if runs > 3 {
                return Err(format!("it cannot be gone on with: {error:?}"));
            }
            let decide = match afterwards.full_at {
                Some(step) if runs == 1 => failing(step, io::ErrorKind::StorageFull, |_| true, &unused),
                _ => of_disk(0, 0, None),
            };
            if loss == Loss::Nothing {
                disk.go_on(decide);
            } else {
                let next = folder.path().join((runs + 1).to_string());
                disk.cut().recover(loss, &next);
                disk = Disk::new(&next, lies, decide);
                disk.trace_to("target", trace);
            }
            let target = target(disk.root());
            own(&target);
            let journal = target.join("walward.restore.json");
            if let (true, Ok(text)) = (afterwards.journal_lies, std::fs::read(&journal)) {
                let mut said: serde_json::Value = serde_json::from_slice(&text).unwrap();
                said["directories_done"] = true.into();
                said["packs_done"] = (0..packs().len()).map(|number| vec![0, number]).collect();
                std::fs::write(&journal, said.to_string()).unwrap();
            }
        }
        let left = folder.path().join("left");
        disk.cut().recover(Loss::All, &left);
        if target(&left).join(CONTROL_FILE).exists() || runs > 3 {
            whole(&target(&left))
                .map_err(|what| format!("run {runs} finished it, and it is not on the disk: {what}"))?;
        } else {
            return Err(format!("run {runs} finished it, and pg_control is not on the disk"));
        }
        Ok(reached.load(Ordering::SeqCst))
    })
}

fn syncs_fail_everywhere(lies: Lies, journal_lies: bool) -> Result<u64, Broken> {
    let losses = [Loss::Nothing, Loss::All, Loss::Some(1), Loss::Some(2)];
    let mut steps = 0;
    for full_at in [None, Some(2), Some(9), Some(14)] {
        let afterwards = Afterwards { full_at, journal_lies };
        steps = seeds::everywhere(&losses, |at, loss| sync_fails_at(at, loss, lies, afterwards))?;
    }
    Ok(steps)
}

#[test]
fn a_restore_that_is_finished_after_a_failed_sync_is_on_the_disk() {
    const NAME: &str = "a_restore_that_is_finished_after_a_failed_sync_is_on_the_disk";
    let begun = Instant::now();
    let steps = seeds::expect(NAME, syncs_fail_everywhere(Lies::default(), false));
    eprintln!("{NAME}: {steps} steps, 4 losses and 4 second runs each, in {} s", begun.elapsed().as_secs());
    assert!(steps > 25, "{steps}");
}

#[test]
fn a_journal_that_is_believed_after_a_failed_sync_is_caught() {
    let Err(Broken { what, .. }) = syncs_fail_everywhere(Lies::default(), true) else { panic!("it was not noticed") };
    assert!(what.contains("not on the disk"), "{what}");
}

#[test]
fn a_restore_that_believes_a_second_sync_is_caught() {
    let Err(Broken { what, .. }) = syncs_fail_everywhere(Lies { retried: true, ..Lies::default() }, false) else {
        panic!("it was not noticed");
    };
    assert!(what.contains("not on the disk"), "{what}");
}

/// Another restore ends, and its server runs, after this one has looked at the directory and before it has locked it.
#[test]
fn a_cluster_that_came_between_the_look_and_the_lock_is_not_written_over() {
    for unfinished in [false, true] {
        seeds::watched(0, move |trace| {
            let folder = scratch();
            let root = folder.path().join("disk");
            let target = root.join("pgdata/main");
            std::fs::create_dir_all(&target).unwrap();
            own(&target);
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            let repository = runtime.block_on(repository());
            let disk = Disk::new(&root, Lies::default(), of_disk(0, 0, None));
            disk.trace_to("target", trace);
            if unfinished {
                // Cut before the last pack.
                let full: Decide = Box::new(|seen| {
                    let last = seen.what.contains("walward.restore.json") && seen.number > 20;
                    if last { Verdict::Before(io::ErrorKind::StorageFull) } else { Verdict::Go }
                });
                disk.go_on(full);
                runtime.block_on(restore(&repository, &target)).expect_err("it is full");
                assert!(target.join("walward.restore.json").exists());
            }
            let (ends, mut first) = (target.clone(), true);
            disk.go_on(Box::new(move |_| {
                if std::mem::take(&mut first) {
                    let _ = std::fs::remove_file(ends.join("walward.restore.json"));
                    std::fs::create_dir_all(ends.join("global")).unwrap();
                    for (path, content) in [("PG_VERSION", "15"), (CONTROL_FILE, "of a running server")] {
                        std::fs::write(ends.join(path), content).unwrap();
                    }
                }
                Verdict::Go
            }));
            let before = std::fs::metadata(&target).unwrap().mode();
            match runtime.block_on(restore(&repository, &target)) {
                Err(RestoreError::Refused(Refusal::NotEmpty { .. })) => {}
                other => return Err(format!("unfinished: {unfinished}: {other:?}")),
            }
            let control = std::fs::read_to_string(target.join(CONTROL_FILE)).unwrap();
            let left = (
                control.as_str(),
                target.join("postgresql.auto.conf").exists(),
                target.join("recovery.signal").exists(),
            );
            if left != ("of a running server", false, false) || std::fs::metadata(&target).unwrap().mode() != before {
                return Err(format!("unfinished: {unfinished}: it was touched: {left:?}"));
            }
            Ok(())
        })
        .map_err(|broken| broken.what)
        .unwrap();
    }
}

#[test]
fn a_finished_restore_is_not_written_over() {
    seeds::watched(0, |_| {
        let folder = scratch();
        let target = folder.path().join("main");
        std::fs::create_dir(&target).unwrap();
        own(&target);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let repository = runtime.block_on(repository());
        runtime.block_on(restore(&repository, &target)).map_err(|error| format!("{error:?}"))?;
        match runtime.block_on(restore(&repository, &target)) {
            Err(RestoreError::Refused(Refusal::NotEmpty { .. } | Refusal::Finished { .. })) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
}

/// Restores into an empty directory in which another restore ends, with all that a server needs, at step `at`: before the first file of
/// this one, and so before it looked for the last time. Whether the step was reached.
fn overtaken_at(at: u64) -> Result<bool, Broken> {
    seeds::watched(at, move |trace| {
        let folder = scratch();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let root = folder.path().join("disk");
        let target = root.join("pgdata/main");
        std::fs::create_dir_all(&target).unwrap();
        own(&target);
        let (planted, place) = (Arc::new(AtomicBool::new(false)), target.clone());
        let (plants, mut begun) = (Arc::clone(&planted), false);
        let decide: Decide = Box::new(move |seen| {
            begun |= seen.what.starts_with("create");
            if seen.number == at && !begun {
                std::fs::create_dir(place.join("global")).unwrap();
                std::fs::write(place.join(CONTROL_FILE), b"another's").unwrap();
                own(&place);
                plants.store(true, Ordering::SeqCst);
            }
            Verdict::Go
        });
        let disk = Disk::new(&root, Lies::default(), decide);
        disk.trace_to("target", trace);
        let repository = runtime.block_on(repository());
        let outcome = runtime.block_on(restore(&repository, &target));
        if !planted.load(Ordering::SeqCst) {
            return outcome.map(|()| false).map_err(|error| format!("nobody was there: {error:?}"));
        }
        let names: Vec<_> = std::fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let is_whole = std::fs::read(target.join(CONTROL_FILE)).is_ok_and(|bytes| bytes == b"another's");
        match outcome {
            Err(RestoreError::Refused(Refusal::NotEmpty { .. })) if is_whole && names == ["global"] => Ok(true),
            outcome => Err(format!("another restore was there before, and it ended: {outcome:?}; {names:?} are there")),
        }
    })
}

#[test]
fn what_another_restore_finished_before_the_lock_was_held_is_left_as_it_is() {
    const NAME: &str = "what_another_restore_finished_before_the_lock_was_held_is_left_as_it_is";
    let mut steps = 0;
    while seeds::expect(NAME, overtaken_at(steps + 1)) {
        steps += 1;
    }
    assert!(steps > 2, "{steps}");
}
