use std::io::Write;
use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::backup::with_lease;
use tokio_util::sync::CancellationToken;
use walward_base::sys::cpu::CpuPool;
use walward_pg::{Lineage, Lsn, SegmentSize, Timeline};
use walward_repo::Encryption;
use walward_repo::keys::KeySource;
use walward_repo::lease::Work;
use walward_repo::manifest::{BackupType, ChangesSource, Entry, EntryKind};
use walward_storage::fault::{Fault, Faulty, Plan};
use walward_storage::{Store, memory};

const PACKS: u32 = 5;

async fn repository(name: &str, store: Arc<dyn Store>, key: Option<&tempfile::NamedTempFile>) -> Repository {
    let encryption = key.map_or(Encryption::None, |key| Encryption::Key(KeySource::KeyFile(key.path().to_owned())));
    let pool = CpuPool::new(1).unwrap();
    let now = Timestamp::UNIX_EPOCH;
    match Repository::open(name, Arc::clone(&store), &encryption, pool.clone()).await {
        Ok(there) => there,
        Err(_) => Repository::create(name, store, "main", &encryption, &[], pool, now).await.unwrap().0,
    }
}

fn key() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(walward_repo::keys::key_file_text().as_bytes()).unwrap();
    file
}

fn label() -> BackupLabel {
    BackupLabel::new(Timestamp::UNIX_EPOCH, BackupType::Full)
}

fn content(number: u32) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(700_000 + usize::try_from(number).unwrap()).collect()
}

/// A backup of packs that hold whatever [`content`] says.
async fn make(repository: &Repository) -> Manifest {
    let mut packs = Vec::new();
    for number in 0..PACKS {
        let spec = Spec { kind: Kind::Pack, level: 1, writer: "db1".to_owned() };
        let content = stream::iter([Ok(content(number).into())]).boxed();
        let summary = repository.upload(&layout::pack(&label(), number), spec, content, 1).await.unwrap();
        packs.push(Pack {
            number,
            content_bytes: summary.content_bytes,
            stored_bytes: summary.stored_bytes,
            stored_sha256: hex::encode(&summary.stored_digest),
        });
    }
    let head = Manifest {
        format: 1,
        label: label().to_string(),
        kind: BackupType::Full,
        lineage: Lineage { major: 15, system_identifier: 7 },
        server_version: "15.18".to_owned(),
        segment_bytes: SegmentSize::DEFAULT,
        data_checksums: true,
        timeline: Timeline(1),
        start_lsn: Lsn(1),
        stop_lsn: Lsn(2),
        started: Timestamp::UNIX_EPOCH,
        stopped: Timestamp::UNIX_EPOCH,
        from_standby: false,
        host: "db1".to_owned(),
        walward_version: "0.1.0".to_owned(),
        machine: None,
        data_directory: None,
        wal_directory: None,
        content_bytes: 3,
        stored_bytes: packs.iter().map(|pack| pack.stored_bytes).sum(),
        packs,
        tablespaces: Vec::new(),
        corrupt_pages: Vec::new(),
        depends_on: None,
    };
    write_manifest(repository, &label(), 1, "db1", head.clone(), entries()).await.unwrap();
    head
}

fn entries() -> Entries {
    let what = |pack| EntryKind::File { size: 1, crc32c: 2, pack, offset: 3 };
    let mut entries = Entries::default();
    for number in 0..30_000 {
        let entry = Entry { path: format!("base/{number}"), mode: 0o600, mtime: 1, what: what(number % PACKS) };
        entries.push(&entry).unwrap();
    }
    entries
}

async fn copy(from: &Repository, to: &Repository) -> Result<CopiedBackup, BackupError> {
    copy_backup(from, to, &label(), (3, "db2"), |_| {}).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_the_same_in_another_repository_under_another_key() {
    let keys = [key(), key()];
    for (sealed_from, sealed_to) in [(None, Some(&keys[0])), (Some(&keys[0]), Some(&keys[1])), (Some(&keys[1]), None)] {
        let from = repository("from", memory(), sealed_from).await;
        let to = repository("to", memory(), sealed_to).await;
        assert_eq!(copyable(&from).await.unwrap(), []);
        let head = make(&from).await;
        assert_eq!(copyable(&from).await.unwrap(), [(label(), head.stored_bytes)]);
        assert!(matches!(copy(&from, &to).await.unwrap(), CopiedBackup::Copied { packs_reused: 0, .. }));
        let (there, files) = stored::manifest(&to, &label()).await.unwrap();
        assert_eq!(files, entries());
        assert!(is_the_same(&head, &there));
        for pack in &there.packs {
            let key = layout::pack(&label(), pack.number);
            let summary = to.read_summary(&key).await.unwrap().summary;
            assert_eq!(hex::encode(&summary.stored_digest), pack.stored_sha256);
            assert_eq!(summary.stored_bytes, pack.stored_bytes);
            let read = to.read(&key).await.unwrap().into_bytes(&key, usize::MAX).await.unwrap();
            assert!(read == content(pack.number));
        }
        assert_eq!(copy(&from, &to).await.unwrap(), CopiedBackup::There);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_cut_goes_on_and_is_no_backup_before() {
    let keys = [key(), key()];
    let from = repository("from", memory(), Some(&keys[0])).await;
    make(&from).await;
    let inner = memory();
    repository("to", Arc::clone(&inner), Some(&keys[1])).await;
    let faulty = Faulty::new(Arc::clone(&inner), Plan::script([]));
    let to = repository("to", Arc::clone(&faulty) as Arc<dyn Store>, Some(&keys[1])).await;
    // The manifest, a look at each of three packs and the writing of two of them; then nothing works.
    let dead = std::iter::repeat_n(Some(Fault::Before(ErrorClass::Denied)), 100);
    faulty.plan(Plan::script(std::iter::repeat_n(None, 7).chain(dead)));
    assert!(matches!(copy(&from, &to).await, Err(BackupError::Repository { repository, .. }) if repository == "to"));
    let whole = repository("to", inner, Some(&keys[1])).await;
    assert!(!whole.exists(&layout::manifest(&label())).await.unwrap(), "half a backup is none");
    let there = whole.store().list(Some(&layout::packs(&label()))).await.unwrap().objects.len();
    assert!(there > 0);
    // One of them is not what it should be.
    let key = layout::pack(&label(), 0);
    let spec = Spec { kind: Kind::Pack, level: 1, writer: "db1".to_owned() };
    let other = stream::iter([Ok(vec![9; 700_000].into())]).boxed();
    whole.upload(&key, spec, other, 1).await.unwrap();
    let CopiedBackup::Copied { packs_reused, .. } = copy(&from, &whole).await.unwrap() else { panic!("not copied") };
    assert_eq!(packs_reused, there - 1);
    let read = whole.read(&key).await.unwrap().into_bytes(&key, usize::MAX).await.unwrap();
    assert!(read == content(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_backup_of_the_label_and_a_damaged_one_are_told_and_left() {
    let from = repository("from", memory(), None).await;
    let to = repository("to", memory(), None).await;
    let head = make(&from).await;
    make(&to).await;
    write_manifest(&to, &label(), 1, "db1", Manifest { start_lsn: Lsn(77), ..head }, entries()).await.unwrap();
    assert_eq!(copy(&from, &to).await.unwrap(), CopiedBackup::Contradiction);
    // A pack that another one took the place of.
    let spec = Spec { kind: Kind::Pack, level: 1, writer: "db1".to_owned() };
    let other = stream::iter([Ok(vec![9; 700_000].into())]).boxed();
    from.upload(&layout::pack(&label(), 2), spec, other, 1).await.unwrap();
    let empty = repository("empty", memory(), None).await;
    assert!(matches!(copy(&from, &empty).await.unwrap(), CopiedBackup::Damaged { .. }));
    assert!(!empty.exists(&layout::manifest(&label())).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_comes_after_the_one_that_it_builds_on_with_its_block_index() {
    let keys = [key(), key()];
    let from = repository("from", memory(), Some(&keys[0])).await;
    let to = repository("to", memory(), Some(&keys[1])).await;
    let head = make(&from).await;
    let child = BackupLabel::new(Timestamp::UNIX_EPOCH + std::time::Duration::from_mins(1), BackupType::Incr);
    let spec = Spec { kind: Kind::BlockIndex, level: 1, writer: "db1".to_owned() };
    let content = stream::iter([Ok(vec![7; 100].into())]).boxed();
    let summary = from.upload(&layout::block_index(&child), spec, content, 1).await.unwrap();
    let index = StoredIndex {
        content_bytes: summary.content_bytes,
        stored_bytes: summary.stored_bytes,
        stored_sha256: hex::encode(&summary.stored_digest),
    };
    let depends_on = DependsOn {
        label: head.label.clone(),
        timeline: head.timeline,
        start_lsn: head.start_lsn,
        started: head.started,
        changes: ChangesSource::Wal,
        block_bytes: 8192,
        index,
    };
    let of_child = Manifest {
        label: child.to_string(),
        kind: BackupType::Incr,
        packs: Vec::new(),
        stored_bytes: 0,
        depends_on: Some(depends_on),
        ..head.clone()
    };
    write_manifest(&from, &child, 1, "db1", of_child.clone(), Entries::default()).await.unwrap();
    let copy_child = async || copy_backup(&from, &to, &child, (3, "db2"), |_| {}).await.unwrap();
    assert_eq!(copy_child().await, CopiedBackup::WithoutParent { parent: head.label.clone() });
    copy(&from, &to).await.unwrap();
    assert!(matches!(copy_child().await, CopiedBackup::Copied { .. }));
    assert_eq!(copy_child().await, CopiedBackup::There);
    let there = stored::head(&to, &child).await.unwrap();
    let key = layout::block_index(&child);
    let stored = to.read_summary(&key).await.unwrap().summary;
    assert_eq!(there.depends_on.unwrap().index.stored_sha256, hex::encode(&stored.stored_digest));
    let read = to.read(&key).await.unwrap().into_bytes(&key, usize::MAX).await.unwrap();
    assert_eq!(read.as_ref(), [7; 100]);
    // Another full backup has the parent's label there.
    let other = repository("other", memory(), None).await;
    write_manifest(&other, &label(), 1, "db1", Manifest { start_lsn: Lsn(77), ..head.clone() }, entries())
        .await
        .unwrap();
    let copied = copy_backup(&from, &other, &child, (3, "db2"), |_| {}).await.unwrap();
    assert_eq!(copied, CopiedBackup::WithoutParent { parent: head.label });
}

#[tokio::test]
async fn nobody_else_is_at_work_meanwhile() {
    let to = repository("to", memory(), None).await;
    let cancel = CancellationToken::new();
    let nested = with_lease(std::slice::from_ref(&to), (Work::Copy, "db1"), &cancel, async || {
        let second =
            with_lease(std::slice::from_ref(&to), (Work::Copy, "db2"), &cancel, async || Ok::<_, BackupError>(()))
                .await;
        assert!(matches!(second, Err(BackupError::Locked { .. })), "{second:?}");
        Ok::<_, BackupError>(7)
    });
    assert_eq!(nested.await.unwrap(), 7);
    with_lease(std::slice::from_ref(&to), (Work::Copy, "db2"), &cancel, async || Ok::<_, BackupError>(()))
        .await
        .unwrap();
}
