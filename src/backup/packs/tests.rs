use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use futures::TryStreamExt;

use super::*;
use crate::backup::cleanup;
use crate::backup::plan;
use crate::backup::tree::{Directory, DirectoryNumber};
use jiff::Timestamp;
use walward_base::ErrorClass;
use walward_base::sys::cpu::CpuPool;
use walward_base::sys::folder::Folder;
use walward_repo::Encryption;
use walward_repo::manifest::BackupType;
use walward_storage::Store;
use walward_storage::fault::{Fault, Faulty, Plan};

const FILES: u32 = 20;

async fn repository(name: &str, store: Arc<dyn Store>) -> Repository {
    let pool = CpuPool::new(1).unwrap();
    let made = Repository::create(name, store, "main", &Encryption::None, &[], pool, Timestamp::UNIX_EPOCH).await;
    made.unwrap().0
}

/// A repository at which the `number`th upload cannot begin.
async fn failing(number: usize) -> Repository {
    let inner = walward_storage::memory();
    repository("broken", Arc::clone(&inner)).await;
    let open = |store| Repository::open("broken", store, &Encryption::None, CpuPool::new(1).unwrap());
    let counted = Faulty::new(Arc::clone(&inner), Plan::script(std::iter::repeat_n(None, 1000)));
    open(Arc::clone(&counted) as Arc<dyn Store>).await.unwrap();
    let calls = 1000 - counted.left() + number - 1;
    let faults = std::iter::repeat_n(None, calls).chain([Some(Fault::Before(ErrorClass::Permanent))]);
    open(Faulty::new(inner, Plan::script(faults))).await.unwrap()
}

fn content(number: u32) -> Vec<u8> {
    let bytes = usize::try_from(number * 10_003).unwrap();
    number.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

/// Files `0` to `19` in `base`, each longer than the one before, and number 7 gone.
fn work(root: &Path, repositories: Vec<Repository>) -> (Arc<Work>, Vec<PackPlan>) {
    let mut tree = Tree::default();
    let base = Directory { path: "base".into(), mode: 0o700, mtime: 5, uid: 26, gid: 26 };
    let base = tree.add_directory(base).unwrap();
    std::fs::create_dir(root.join("base")).unwrap();
    for number in 0..FILES {
        let content = content(number);
        tree.add_file(base, &number.to_string(), content.len() as u64).unwrap();
        if number != 7 {
            let path = root.join("base").join(number.to_string());
            std::fs::File::create(path).and_then(|mut file| file.write_all(&content)).unwrap();
        }
    }
    assert_ne!(base, DirectoryNumber::ROOT);
    let members = tree.files().map(|(number, file)| (number, member::member_bytes(file.path_bytes(), file.size)));
    let plans = plan::packs(members, 150_000);
    let targets =
        repositories.into_iter().map(|repository| Target { repository, level: 1, writer: "db1".to_owned() }).collect();
    let work = Work {
        folders: ClusterFolders::new(Folder::enter(root).unwrap(), BTreeMap::new()),
        reading: Reading::new(root, Duration::from_millis(300)),
        tree,
        checks: None,
        since: None,
        pace: Pace::default(),
        targets,
        label: BackupLabel::new(Timestamp::UNIX_EPOCH, BackupType::Full),
        progress: Arc::new(watch::Sender::new(Progress::new(Timestamp::UNIX_EPOCH))),
        manifests_begun: AtomicUsize::new(0),
    };
    (Arc::new(work), plans)
}

async fn packs_in(repository: &Repository, label: &BackupLabel) -> usize {
    repository.store().list(Some(&layout::packs(label))).await.unwrap().objects.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_repository_gets_every_file_and_the_report_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let repositories =
        vec![repository("a", walward_storage::memory()).await, repository("b", walward_storage::memory()).await];
    let (work, plans) = work(folder.path(), repositories.clone());
    let count = plans.len();
    let done = copy_all(&work, plans, 3, &CancellationToken::new()).await.unwrap();
    assert!(done.len() == count && count > 3);
    assert_eq!(work.progress.borrow().files_done, u64::from(FILES));
    for (at, repository) in repositories.iter().enumerate() {
        let mut files = Vec::new();
        for (number, pack) in (0u32..).zip(&done) {
            assert_eq!((pack.number, pack.stored[at].number), (number, number));
            let key = layout::pack(&work.label, number);
            let opened = repository.read(&key).await.unwrap();
            let bytes = opened.content.try_collect::<Vec<_>>().await.unwrap().concat();
            assert_eq!(pack.stored[at].content_bytes, bytes.len() as u64);
            assert_eq!(pack.stored[at].stored_bytes, repository.store().head(&key).await.unwrap().size);
            for packed in &pack.files {
                let (begin, size) = (packed.copied.offset, packed.copied.size);
                let place = usize::try_from(begin).unwrap()..usize::try_from(begin + size).unwrap();
                assert_eq!(bytes[place], content(packed.file));
                assert_eq!(packed.copied.crc32c, crc32c::crc32c(&content(packed.file)));
                files.push(packed.file);
            }
            let mut archive = tar::Archive::new(bytes.as_slice());
            let mut members = 0;
            for member in archive.entries().unwrap() {
                let mut member = member.unwrap();
                member.read_to_end(&mut Vec::new()).unwrap();
                members += 1;
            }
            assert_eq!(members, pack.files.len() + usize::from(number == 0), "the directory is in the first pack");
        }
        files.sort_unstable();
        assert_eq!(files, (0..FILES).filter(|number| *number != 7).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_fails_ends_the_backup_by_its_name_and_the_packs_are_removed_everywhere() {
    for number in [1, 3] {
        let folder = tempfile::tempdir().unwrap();
        let repositories = vec![repository("whole", walward_storage::memory()).await, failing(number).await];
        let (work, plans) = work(folder.path(), repositories.clone());
        let error = copy_all(&work, plans, 2, &CancellationToken::new()).await.unwrap_err();
        assert!(matches!(&error, BackupError::Repository { repository, .. } if repository == "broken"), "{error:?}");
        cleanup::remove(&work).await;
        for repository in &repositories {
            assert_eq!(packs_in(repository, &work.label).await, 0);
        }
        assert!(!cleanup::is_taken(&repositories, &work.label).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_manifest_was_begun_nothing_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let repositories =
        vec![repository("a", walward_storage::memory()).await, repository("b", walward_storage::memory()).await];
    let (work, plans) = work(folder.path(), repositories.clone());
    let count = plans.len();
    copy_all(&work, plans, 2, &CancellationToken::new()).await.unwrap();
    work.manifests_begun.store(1, std::sync::atomic::Ordering::Relaxed);
    cleanup::remove(&work).await;
    assert_eq!(packs_in(&repositories[0], &work.label).await, count);
    assert_eq!(packs_in(&repositories[1], &work.label).await, 0);
    assert!(cleanup::is_taken(&repositories, &work.label).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_read_ends_the_backup_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (work, plans) = work(folder.path(), vec![repository("a", walward_storage::memory()).await]);
    let place = folder.path().join("base/11");
    std::fs::remove_file(&place).unwrap();
    std::fs::create_dir(&place).unwrap();
    let error = copy_all(&work, plans, 2, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(&error, BackupError::Copy(CopyError::Read { path, .. }) if *path == place), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_hangs_ends_the_backup_by_its_name_and_no_other_begins_until_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let repositories = vec![repository("a", walward_storage::memory()).await];
    let (work, _) = work(folder.path(), repositories.clone());
    let place = folder.path().join("base/11");
    let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
    let path = place.clone();
    let write = move |stream: &mut PackStream, steps: &Steps| {
        stream.write(&content(19))?;
        steps.at(&path, || held.recv().is_ok());
        Ok(())
    };
    let cancel = CancellationToken::new();
    let made = make_pack(&work, 0, 1 << 20, &cancel, write);
    let error = tokio::time::timeout(Duration::from_mins(1), made).await.unwrap().unwrap_err();
    assert!(matches!(&error, BackupError::Hangs { read } if read.path == place), "{error:?}");
    assert_eq!(packs_in(&repositories[0], &work.label).await, 0);
    let again = Reading::new(folder.path(), Duration::from_mins(3));
    let error = again.check().unwrap_err();
    assert!(matches!(&error, BackupError::StillHangs { read, .. } if read.path == place), "{error:?}");
    drop(release);
    while again.check().is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_backup_ends_while_a_file_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let (mut work, _) = work(folder.path(), vec![repository("a", walward_storage::memory()).await]);
    Arc::get_mut(&mut work).unwrap().reading = Reading::new(folder.path(), Duration::from_hours(24));
    let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
    let cancel = CancellationToken::new();
    let write = move |_: &mut PackStream, steps: &Steps| {
        steps.at(Path::new("hung"), || held.recv().is_ok());
        Ok(())
    };
    let made = make_pack(&work, 0, 1 << 20, &cancel, write);
    let later = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    };
    let both = async { tokio::join!(made, later).0 };
    let error = tokio::time::timeout(Duration::from_mins(1), Box::pin(both)).await.unwrap().unwrap_err();
    assert!(matches!(error, BackupError::Cancelled), "{error:?}");
    drop(release);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_backup_ends_and_leaves_no_pack() {
    let folder = tempfile::tempdir().unwrap();
    let repositories = vec![repository("a", walward_storage::memory()).await];
    let (work, plans) = work(folder.path(), repositories.clone());
    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = copy_all(&work, plans, 2, &cancel).await.unwrap_err();
    assert!(matches!(error, BackupError::Cancelled), "{error:?}");
    assert_eq!(packs_in(&repositories[0], &work.label).await, 0);
}
