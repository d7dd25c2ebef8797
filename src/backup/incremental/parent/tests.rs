use super::*;
use futures::{StreamExt, stream};
use walward_base::sys::cpu::CpuPool;
use walward_repo::format::{Kind, Spec};
use walward_repo::manifest::{ChangesSource, DependsOn, Pack, StoredIndex};
use walward_repo::{Encryption, layout};

const LINEAGE: Lineage = Lineage { major: 15, system_identifier: 7 };

fn begun() -> Begun {
    let segment_bytes = SegmentSize::DEFAULT;
    Begun { lineage: LINEAGE, timeline: Timeline(2), start: Lsn(0x900_0028), data_checksums: true, segment_bytes }
}

/// Timeline 2 left timeline 1 at 0/5000000.
fn way() -> Way {
    Way::known_to(Timeline(2), &Histories::from([(Timeline(2), vec![(Timeline(1), Lsn(0x500_0000))])]))
}

fn backup(label: &str, timeline: u32, start: u64, stop: u64) -> Manifest {
    let time = "2026-11-21T06:41:58Z".parse().unwrap();
    let label: BackupLabel = label.parse().unwrap();
    Manifest {
        format: 1,
        label: label.to_string(),
        kind: label.kind(),
        lineage: LINEAGE,
        server_version: "15.18".to_owned(),
        segment_bytes: SegmentSize::DEFAULT,
        data_checksums: true,
        timeline: Timeline(timeline),
        start_lsn: Lsn(start),
        stop_lsn: Lsn(stop),
        started: time,
        stopped: time,
        from_standby: false,
        host: "db1".to_owned(),
        machine: None,
        walward_version: "0.1.0".to_owned(),
        data_directory: None,
        wal_directory: None,
        content_bytes: 0,
        stored_bytes: 0,
        packs: Vec::new(),
        tablespaces: Vec::new(),
        corrupt_pages: Vec::new(),
        depends_on: None,
    }
}

fn on(parent: &Manifest, backup: Manifest) -> Manifest {
    let index = StoredIndex { content_bytes: 0, stored_bytes: 0, stored_sha256: String::new() };
    let depends_on = DependsOn {
        label: parent.label.clone(),
        timeline: parent.timeline,
        start_lsn: parent.start_lsn,
        started: parent.started,
        changes: ChangesSource::Wal,
        block_bytes: 8192,
        index,
    };
    Manifest { depends_on: Some(depends_on), ..backup }
}

async fn repository(backups: &[&Manifest]) -> Repository {
    let (pool, now) = (CpuPool::new(1).unwrap(), jiff::Timestamp::UNIX_EPOCH);
    let created = Repository::create("a", walward_storage::memory(), "main", &Encryption::None, &[], pool, now).await;
    let repository = created.unwrap().0;
    for backup in backups {
        let label: BackupLabel = backup.label.parse().unwrap();
        let spec = Spec { kind: Kind::Manifest, level: 1, writer: "db1".to_owned() };
        let line = serde_json::to_string(backup).unwrap() + "\n";
        let content = stream::iter([Ok(line.into_bytes().into())]).boxed();
        repository.upload(&layout::manifest(&label), spec, content, 1000).await.unwrap();
        if backup.depends_on.is_some() {
            repository.store().put_new(&layout::block_index(&label), vec![1].into()).await.unwrap();
        }
    }
    repository
}

async fn found(repositories: &[Repository], kind: BackupType) -> Result<String, WhyFull> {
    find(repositories, kind, &begun(), &way()).await.map(|parent| parent.label)
}

#[tokio::test]
async fn the_newest_of_the_type_that_is_in_every_repository_is_the_parent() {
    let full = backup("20261121T064158Z-full", 1, 0x200_0028, 0x200_0100);
    let incr = on(&full, backup("20261122T064158Z-incr", 2, 0x600_0028, 0x600_0100));
    let newest = on(&incr, backup("20261123T064158Z-incr", 2, 0x700_0028, 0x700_0100));
    let both = [repository(&[&full, &incr, &newest]).await, repository(&[&full, &incr]).await];
    assert_eq!(found(&both[..1], BackupType::Incr).await, Ok(newest.label.clone()));
    assert_eq!(found(&both, BackupType::Incr).await, Ok(incr.label.clone()));
    assert_eq!(found(&both, BackupType::Diff).await, Ok(full.label.clone()));
    let none = [repository(&[&full]).await, repository(&[]).await];
    assert_eq!(found(&none, BackupType::Diff).await, Err(WhyFull::NoParent { full: true }));
}

#[tokio::test]
async fn a_backup_whose_own_parent_is_gone_is_none_to_build_on() {
    let full = backup("20261121T064158Z-full", 1, 0x200_0028, 0x200_0100);
    let gone = backup("20261120T064158Z-full", 1, 0x100_0028, 0x100_0100);
    let lost = on(&gone, backup("20261122T064158Z-incr", 2, 0x600_0028, 0x600_0100));
    assert_eq!(found(&[repository(&[&full, &lost]).await], BackupType::Incr).await, Ok(full.label.clone()));
    match found(&[repository(&[&lost]).await], BackupType::Incr).await {
        Err(WhyFull::Unfit { label, why }) => {
            assert_eq!(label, lost.label);
            assert!(why.contains("20261120T064158Z-full"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_backup_that_lacks_an_object_or_whose_parent_is_another_of_its_label_is_none_to_build_on() {
    let full = backup("20261121T064158Z-full", 1, 0x200_0028, 0x200_0100);
    let incr = on(&full, backup("20261122T064158Z-incr", 2, 0x600_0028, 0x600_0100));
    let whole = repository(&[&full, &incr]).await;
    assert_eq!(found(std::slice::from_ref(&whole), BackupType::Incr).await, Ok(incr.label.clone()));
    whole.store().delete(&layout::block_index(&incr.label.parse().unwrap())).await.unwrap();
    assert_eq!(found(&[whole], BackupType::Incr).await, Ok(full.label.clone()));

    let later = Manifest { started: full.started + std::time::Duration::from_micros(1), ..full.clone() };
    let of_another = on(&later, backup("20261122T064158Z-incr", 2, 0x600_0028, 0x600_0100));
    assert_eq!(found(&[repository(&[&full, &of_another]).await], BackupType::Incr).await, Ok(full.label.clone()));

    let pack = Pack { number: 0, content_bytes: 1, stored_bytes: 1, stored_sha256: String::new() };
    let without_pack = Manifest { packs: vec![pack], ..full.clone() };
    let found = found(&[repository(&[&without_pack]).await], BackupType::Incr).await;
    assert!(matches!(&found, Err(WhyFull::Unfit { why, .. }) if why.contains("pack 0")), "{found:?}");
}

#[test]
fn a_backup_of_another_past_or_another_kind_of_cluster_does_not_fit() {
    let fine = || backup("20261121T064158Z-full", 1, 0x200_0028, 0x500_0000);
    assert_eq!(fits(&fine(), &begun(), &way()), Ok(()));
    let page = |file: usize| ("base/5/1".to_owned() + &file.to_string(), 7);
    for (parent, reason) in [
        (Manifest { stop_lsn: Lsn(0x500_0028), ..fine() }, "did not go through"),
        (Manifest { timeline: Timeline(3), ..fine() }, "did not go through"),
        (Manifest { timeline: Timeline(2), ..fine() }, "did not go through"),
        (backup("20261121T064158Z-full", 2, 0x800_0028, 0xA00_0000), "after this one's start"),
        (Manifest { lineage: Lineage { major: 15, system_identifier: 8 }, ..fine() }, "it is of"),
        (Manifest { data_checksums: false, ..fine() }, "checksums"),
        (Manifest { segment_bytes: SegmentSize::try_from(1 << 20).unwrap(), ..fine() }, "size"),
        (Manifest { corrupt_pages: vec![page(0); LISTED_PAGES_MAX], ..fine() }, "than are listed"),
        (Manifest { corrupt_pages: (0..CORRUPT_PAGES_MAX).map(page).collect(), ..fine() }, "than are listed"),
    ] {
        let why = fits(&parent, &begun(), &way()).expect_err(reason);
        assert!(why.contains(reason), "{why}");
    }
    let some = Manifest { corrupt_pages: (0..50).map(page).collect(), ..fine() };
    assert_eq!(fits(&some, &begun(), &way()), Ok(()));
}
