//! A base backup whose power goes at each step of the repository's disk.
//!
//! Whatever is left: a backup that has a manifest is whole, and the next backup needs nobody's help.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use futures::TryStreamExt;
use jiff::Timestamp;
use walward_base::sys::cpu::CpuPool;
use walward_repo::manifest::BackupLabel;
use walward_repo::{Encryption, Repository, layout, stored};
use walward_storage::{Limits, StoreOptions};

use crate::disk::{Disk, Lies, Loss, scratch};
use crate::faults::of_disk;
use crate::machine::{CLUSTER, Trace, note};
use crate::postgres::Postgres;
use crate::seeds::{self, Broken};

/// Packs are small, so that there are some.
const PACK_BYTES: u64 = 64 << 10;

fn data_directory(folder: &Path) -> Postgres {
    let server = Postgres::new(folder, 1, 0);
    std::fs::create_dir_all(folder.join("base/5")).unwrap();
    for number in 0..12u32 {
        let content = number.to_le_bytes().repeat(usize::try_from(2_000 + 700 * number).unwrap());
        std::fs::write(folder.join(format!("base/5/{}", 16_384 + number)), content).unwrap();
    }
    server
}

fn options(disk: &Disk) -> StoreOptions {
    StoreOptions::new(format!("file://{}/repository", disk.root().display()))
}

async fn open(disk: &Disk) -> Repository {
    let store = walward_storage::with_layers(
        walward_storage::bare_folder(&disk.root().join("repository").join(CLUSTER)),
        Limits::default(),
    );
    Repository::open("one", store, &Encryption::None, CpuPool::on_the_caller()).await.unwrap()
}

/// That each backup with a manifest has all its packs, whole. Which there are.
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
        if entries.is_empty() || head.packs.len() < 3 {
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
        whole.push(label);
    }
    Ok(whole)
}

/// Takes a backup, the power going at step `cut`, and another one after it. Whether the step was reached.
fn cut_at(cut: u64, loss: Loss, lies: Lies) -> Result<bool, Broken> {
    seeds::watched(cut, move |trace| {
        let folder = scratch();
        let server = data_directory(&folder.path().join("data"));
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
            Repository::create("one", store, CLUSTER, &Encryption::None, &[], pool, Timestamp::UNIX_EPOCH)
                .await
                .unwrap();
        });
        empty.cut().recover(Loss::Nothing, &folder.path().join("first"));
        let first = begin("first", Some(cut), trace);
        let backup = |disk: &Arc<Disk>, hour: i64| {
            let started = Timestamp::from_second(1_795_000_000 + 3_600 * hour).unwrap();
            runtime.block_on(async {
                let repository = open(disk).await;
                walward::backup::rehearse(server.data(), &[repository], started, PACK_BYTES).await
            })
        };
        let outcome = backup(&first, 0);
        let reached = first.is_dead();
        note(trace, format!("the backup ended: {outcome:?}; {loss:?} of what was not synced is lost"));
        if outcome.is_ok() == reached || matches!(outcome, Err(walward::backup::BackupError::Scan(_))) {
            return Err(format!("with the power {} it ended: {outcome:?}", if reached { "off" } else { "on" }));
        }
        let second = if loss == Loss::Nothing {
            first.go_on(of_disk(0, 0, None));
            first
        } else {
            first.cut().recover(loss, &folder.path().join("second"));
            begin("second", None, trace)
        };
        let there = runtime.block_on(async { all_whole(&open(&second).await).await })?;
        let gone = |label: &BackupLabel| Err(format!("{label}, which was finished, is gone after a power cut"));
        if let Some(label) = outcome.iter().find(|label| !there.contains(label)) {
            return gone(label);
        }
        let next = backup(&second, 1).map_err(|error| format!("the next backup fails: {error:?}"))?;
        second.cut().recover(Loss::All, &folder.path().join("third"));
        let third = begin("third", None, trace);
        let there = runtime.block_on(async { all_whole(&open(&third).await).await })?;
        // One that was cut in its last step may be there or not.
        match outcome.iter().chain([&next]).find(|label| !there.contains(label)) {
            Some(label) => gone(label),
            None => Ok(reached),
        }
    })
}

fn cut_everywhere(lies: Lies) -> Result<u64, Broken> {
    let losses = [Loss::All, Loss::Nothing, Loss::Some(1), Loss::Some(2)];
    seeds::everywhere(&losses, |cut, loss| cut_at(cut, loss, lies))
}

#[test]
fn a_power_cut_at_every_step_of_a_backup_leaves_no_backup_or_a_whole_one() {
    const NAME: &str = "a_power_cut_at_every_step_of_a_backup_leaves_no_backup_or_a_whole_one";
    let begun = Instant::now();
    let steps = seeds::expect(NAME, cut_everywhere(Lies::default()));
    eprintln!("{NAME}: {steps} steps, 4 losses each, in {} s", begun.elapsed().as_secs());
    assert!(steps > 40, "{steps}");
}

#[test]
fn a_backup_onto_a_disk_that_forgets_to_sync_is_caught() {
    for lies in [Lies { files: true, ..Lies::default() }, Lies { folders: true, ..Lies::default() }] {
        let Err(Broken { what, .. }) = cut_everywhere(lies) else { panic!("{lies:?} was not noticed") };
        assert!(what.contains("-full"), "{what}");
    }
}
