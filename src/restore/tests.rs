//! Plans and restores of hand-made backups in repositories in memory.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::choose::tests::request as request_for;
use super::contents::tests as made;
use super::*;
use crate::catalogue::{CatalogueError, Target, TargetTimeline};
use walward_base::hex;
use walward_base::sys::cpu::CpuPool;
use walward_base::sys::durable;
use walward_pg::{SegmentSize, Timeline, WalFileName};
use walward_repo::facts::Facts;
use walward_repo::format::{Kind, Spec};
use walward_repo::manifest::{BackupLabel, Entry, EntryKind, Manifest, Tablespace};
use walward_repo::{Encryption, Repository, layout};
use walward_storage::{ObjectKey, Payload, Store};

mod chains;

const LABEL: &str = "20261121T064158Z-full";

struct Fixture {
    directory: tempfile::TempDir,
    repositories: Vec<Repository>,
    files: Vec<(&'static str, Vec<u8>)>,
}

fn label() -> BackupLabel {
    LABEL.parse().expect("a label")
}

fn spec(kind: Kind) -> Spec {
    Spec { kind, level: 1, writer: "db1".to_owned() }
}

fn once(content: Vec<u8>) -> stream::BoxStream<'static, std::io::Result<Bytes>> {
    stream::iter([Ok(Bytes::from(content))]).boxed()
}

/// The files of each pack.
fn packs() -> Vec<Vec<(&'static str, Vec<u8>)>> {
    let large: Vec<u8> = (0..3_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    vec![
        vec![
            ("PG_VERSION", b"15\n".to_vec()),
            ("base/5/1259", large),
            ("postgresql.auto.conf", b"work_mem = '8MB'\nrestore_command = 'old'\n".to_vec()),
            ("standby.signal", Vec::new()),
        ],
        vec![("pg_tblspc/16384/PG_15_202209061/5/7000", vec![7; 20_000]), ("base/5/empty", Vec::new())],
        vec![
            ("backup_label", b"START WAL LOCATION: 0/2000028\n".to_vec()),
            ("tablespace_map", b"16384 /fast\n".to_vec()),
            ("backup_manifest", b"{}".to_vec()),
            ("global/pg_control", vec![3; 8192]),
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
        builder.append_data(&mut header, path, content.as_slice()).expect("appended");
    }
    (builder.into_inner().expect("finished"), offsets)
}

async fn repository(name: &str, encrypted: Option<&std::path::Path>) -> Repository {
    let pool = CpuPool::new(1).expect("a thread");
    let encryption = encrypted
        .map_or(Encryption::None, |file| Encryption::Key(walward_repo::keys::KeySource::KeyFile(file.to_owned())));
    let now = Timestamp::from_second(1_700_000_000).expect("in range");
    let created = Repository::create(name, walward_storage::memory(), "main", &encryption, &[], pool, now).await;
    let mut repository = created.expect("a repository").0;
    let manifest = made::manifest(&[], Vec::new());
    repository.add_lineage(manifest.lineage, SegmentSize::DEFAULT, now).await.expect("added");
    repository
}

/// A backup whose WAL begins in segment 2, and segments 2 to 4, the n-th of which ends with a commit `n` minutes after it.
async fn fill(repository: &Repository, directory: &std::path::Path) {
    let fast =
        Tablespace { oid: 16384, name: "fast".to_owned(), location: directory.join("fast").display().to_string() };
    let mut manifest = made::manifest(&[], vec![fast]);
    let mut entries: Vec<Entry> = ["base", "base/5", "global", "pg_wal", "pg_wal/archive_status"]
        .into_iter()
        .map(|path| Entry { path: path.to_owned(), mode: 0o700, mtime: 0, what: EntryKind::Directory })
        .collect();
    for (number, files) in packs().iter().enumerate() {
        let number = u32::try_from(number).expect("few");
        let (content, offsets) = tar_stream(files);
        let content_bytes = content.len() as u64;
        let key = layout::pack(&label(), number);
        let summary = repository.upload(&key, spec(Kind::Pack), once(content), content_bytes).await.expect("uploaded");
        for ((path, content), offset) in files.iter().zip(offsets) {
            entries.push(made::file(path, number, offset, content));
        }
        manifest.packs.push(walward_repo::manifest::Pack {
            number,
            content_bytes,
            stored_bytes: summary.stored_bytes,
            stored_sha256: hex::encode(&summary.stored_digest),
        });
    }
    put_manifest(repository, &manifest, &entries).await;
    for segment in 2..=4u8 {
        let name = format!("00000001000000000000000{segment}").parse().expect("a name");
        let key = layout::wal_file(manifest.lineage, WalFileName::Segment(name));
        let time = manifest.stopped.as_microsecond() + i64::from(segment) * 60_000_000;
        repository
            .put_new(&key, spec(Kind::Segment), once(vec![segment; 100]), || Some(Facts::of_times(time, time)))
            .await
            .expect("put");
    }
}

async fn put_manifest(repository: &Repository, manifest: &Manifest, entries: &[Entry]) {
    let mut lines = serde_json::to_string(manifest).expect("JSON") + "\n";
    for entry in entries {
        lines += &(serde_json::to_string(entry).expect("JSON") + "\n");
    }
    let key = layout::manifest(&label());
    repository.upload(&key, spec(Kind::Manifest), once(lines.into_bytes()), 0).await.expect("uploaded");
}

impl Fixture {
    async fn new(names: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut repositories = Vec::new();
        for name in names {
            let repository = repository(name, None).await;
            fill(&repository, directory.path()).await;
            repositories.push(repository);
        }
        let fixture = Self { directory, repositories, files: packs().into_iter().flatten().collect() };
        // root gives files to the directory's owner; somebody who is surely there and is not root.
        std::fs::create_dir(fixture.target()).expect("made");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(fixture.target(), Some(65534), Some(65534)).expect("chown");
        }
        fixture
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("main")
    }

    async fn plan(&self, target: Target) -> Result<RestorePlan, RestoreError> {
        plan(&self.repositories, &self.target(), &request_for(target)).await
    }

    async fn restore(&self) -> Result<RestoreReport, RestoreError> {
        execute(self.plan(Target::Latest).await?).await
    }

    /// That everything is there as it was, but what restoring changes.
    fn check(&self) {
        let target = self.target();
        let owner = std::fs::metadata(&target).expect("there").uid();
        for (path, content) in &self.files {
            let there = target.join(path);
            if matches!(*path, "tablespace_map" | "postgresql.auto.conf" | "standby.signal") {
                continue;
            }
            assert!(std::fs::read(&there).expect(path) == *content, "{path} differs");
            let metadata = std::fs::metadata(&there).expect("there");
            assert_eq!(
                (metadata.mode() & 0o777, metadata.mtime(), metadata.uid()),
                (0o600, 1_700_000_000, owner),
                "{path}"
            );
        }
        for gone in ["tablespace_map", "standby.signal", "walward.restore.json", "global/pg_control.walward"] {
            assert!(!target.join(gone).exists(), "{gone}");
        }
        assert!(target.join("recovery.signal").exists() && target.join("pg_wal/archive_status").is_dir());
        let link = std::fs::read_link(target.join("pg_tblspc/16384")).expect("a link");
        assert_eq!(link, self.directory.path().join("fast"));
        let settings = std::fs::read_to_string(target.join("postgresql.auto.conf")).expect("there");
        assert_eq!(
            settings,
            "work_mem = '8MB'\nrestore_command = 'walward-wal fetch %f %p'\nrecovery_target = ''\n\
             recovery_target_lsn = ''\nrecovery_target_name = ''\nrecovery_target_time = ''\nrecovery_target_xid = ''\n\
             recovery_target_timeline = '1'\n\
         recovery_end_command = 'walward wal recovered || exit 1'\n"
        );
        assert_eq!(std::fs::metadata(&target).expect("there").permissions().mode() & 0o777, 0o700);
    }

    fn store(&self, repository: usize) -> &Arc<dyn Store> {
        self.repositories[repository].store()
    }

    async fn replace(&self, repository: usize, key: &ObjectKey, content: Vec<u8>) {
        self.store(repository).delete(key).await.expect("deleted");
        self.store(repository).put_new(key, Payload::from(content)).await.expect("put");
    }

    async fn stored(&self, repository: usize, key: &ObjectKey) -> Vec<u8> {
        let size = self.store(repository).head(key).await.expect("there").size;
        self.store(repository).get_range(key, 0..size).await.expect("read").to_vec()
    }
}

async fn execute(plan: RestorePlan) -> Result<RestoreReport, RestoreError> {
    let (sender, receiver) = watch::channel(Progress::default());
    let report = run(plan, 2, sender, CancellationToken::new()).await?;
    let progress = receiver.borrow().clone();
    assert_eq!(progress.phase, Phase::Done);
    assert_eq!((progress.bytes_done, progress.packs_done), (progress.bytes_total, progress.packs_total));
    Ok(report)
}

#[tokio::test]
async fn a_backup_is_restored_with_its_tablespaces_and_settings() {
    let fixture = Fixture::new(&["one"]).await;
    let plan = fixture.plan(Target::Latest).await.expect("a plan");
    assert_eq!(plan.backup, LABEL);
    assert_eq!(
        plan.wal.as_ref().map(|wal| (wal.first.to_string(), wal.count)),
        Some(("000000010000000000000002".to_owned(), 3))
    );
    let report = execute(plan).await.expect("restored");
    assert_eq!(report.warnings, Vec::<String>::new());
    fixture.check();
    let error = fixture.plan(Target::Latest).await.expect_err("not empty any more");
    assert!(matches!(error, RestoreError::Refused(Refusal::NotEmpty { .. })), "{error}");
}

#[tokio::test]
async fn a_tablespace_goes_where_it_is_mapped_and_never_into_a_directory_in_use() {
    let fixture = Fixture::new(&["one"]).await;
    let taken = fixture.directory.path().join("fast");
    std::fs::create_dir_all(taken.join("PG_15_202209061")).expect("made");
    let error = fixture.plan(Target::Latest).await.expect_err("taken");
    assert!(matches!(error, RestoreError::Refused(Refusal::TablespaceTaken { .. })), "{error}");

    let place = fixture.directory.path().join("new/fast");
    let map = vec![(TablespaceSelector::Location(taken), place.clone())];
    let request = RestoreRequest { tablespace_map: map, ..request_for(Target::Latest) };
    let plan = plan(&fixture.repositories, &fixture.target(), &request).await.expect("a plan");
    execute(plan).await.expect("restored");
    assert_eq!(std::fs::read(place.join("PG_15_202209061/5/7000")).expect("there"), vec![7; 20_000]);
    assert_eq!(std::fs::read_link(fixture.target().join("pg_tblspc/16384")).expect("a link"), place);
}

#[tokio::test]
async fn a_restore_that_was_cut_goes_on_where_it_stopped() {
    let fixture = Fixture::new(&["one"]).await;
    let key = layout::pack(&label(), 1);
    let pack = fixture.stored(0, &key).await;
    fixture.store(0).delete(&key).await.expect("deleted");
    let error = fixture.restore().await.expect_err("a pack is missing");
    assert!(matches!(error, RestoreError::Pack { pack: 1, .. }), "{error}");
    assert!(!fixture.target().join("global/pg_control").exists());
    // What a kill in the middle of a write leaves behind is no part of the cluster.
    let left = durable::temporary_path(&fixture.target().join("walward.restore.json"));
    std::fs::File::create(&left).expect("made");
    let owner = std::fs::metadata(fixture.target()).expect("there");
    std::os::unix::fs::chown(&left, Some(owner.uid()), Some(owner.gid())).expect("given");

    fixture.replace(0, &key, pack).await;
    let plan = fixture.plan(Target::Latest).await.expect("a plan");
    assert!(plan.resumes);
    assert_eq!(execute(plan).await.expect("restored").packs_reused, 1);
    fixture.check();
    assert!(!left.exists());
}

#[tokio::test]
async fn of_two_restores_into_one_directory_or_tablespace_the_second_is_refused_and_touches_nothing() {
    let fixture = Fixture::new(&["one"]).await;
    let fast = fixture.directory.path().join("fast");
    std::fs::create_dir(&fast).expect("made");
    let lock = |path: &std::path::Path| {
        let held = std::fs::File::open(path).expect("a directory");
        rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("free");
        held
    };
    for busy in [fixture.target(), fast.clone()] {
        let plan = fixture.plan(Target::Latest).await.expect("a plan");
        let held = lock(&busy);
        let error = execute(plan).await.expect_err("busy");
        assert!(matches!(&error, RestoreError::Refused(Refusal::Busy(path)) if *path == busy), "{error}");
        drop(held);
        assert_eq!(std::fs::read_dir(fixture.target()).expect("there").count(), 0);
    }
    // Planned while both were empty; the other one has a data directory of its own, and the same place for its tablespace.
    let plans = [fixture.plan(Target::Latest).await, fixture.plan(Target::Latest).await];
    let elsewhere = fixture.directory.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("made");
    if rustix::process::geteuid().is_root() {
        // Of the same user as the other's.
        std::os::unix::fs::chown(&elsewhere, Some(65534), Some(65534)).expect("chown");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(fixture.directory.path(), open).expect("set");
    }
    let other = plan(&fixture.repositories, &elsewhere, &request_for(Target::Latest)).await.expect("a plan");
    let [first, second] = plans.map(|plan| plan.expect("a plan"));
    execute(first).await.expect("restored");
    let error = execute(second).await.expect_err("it is there");
    assert!(matches!(error, RestoreError::Refused(Refusal::NotEmpty { .. })), "{error}");
    let error = execute(other).await.expect_err("its tablespace is there");
    assert!(matches!(error, RestoreError::Refused(Refusal::TablespaceTaken { .. })), "{error}");
    assert_eq!(std::fs::read_dir(elsewhere).expect("there").count(), 0);
    fixture.check();
}

#[tokio::test]
async fn a_target_that_came_to_lie_in_a_data_directory_since_the_plan_is_refused() {
    let fixture = Fixture::new(&["one"]).await;
    let plan = fixture.plan(Target::Latest).await.expect("a plan");
    std::fs::File::create(fixture.directory.path().join("PG_VERSION")).expect("made");
    let error = execute(plan).await.expect_err("it lies in one");
    assert!(matches!(error, RestoreError::Refused(Refusal::NotApart { .. })), "{error}");
    assert!(!fixture.target().join("walward.restore.json").exists());
}

#[tokio::test]
async fn a_pg_control_that_is_not_the_restores_own_is_left_as_it_is() {
    let fixture = Fixture::new(&["one"]).await;
    let plan = fixture.plan(Target::Latest).await.expect("a plan");
    let (work, backup) = (plan.work, plan.backup);
    let mut prepared =
        install::prepare(work.lineage, &backup, &work.places, &work.contents).expect("an empty directory");
    let place = |name: &str| fixture.target().join("global").join(name);
    durable::create(&place("pg_control.walward"), b"ours", 0o644).expect("made");
    durable::create(&place("pg_control"), b"of a running server", 0o600).expect("made");
    let ending = install::Ending {
        changes: std::collections::BTreeMap::new(),
        settings: Vec::new(),
        lending: None,
        signal_file: "recovery.signal",
    };
    let ended = install::finish(&work.places, ending, None, &mut prepared.proof);
    let error = ended.expect_err("another one is there");
    assert!(matches!(error, RestoreError::Refused(Refusal::Overtaken(_))), "{error}");
    assert_eq!(std::fs::read(place("pg_control")).expect("there"), b"of a running server");
}

#[tokio::test]
async fn a_restore_that_lends_nothing_takes_the_note_of_an_earlier_run_away() {
    let fixture = Fixture::new(&["one"]).await;
    let plan = fixture.plan(Target::Latest).await.expect("a plan");
    let (work, backup) = (plan.work, plan.backup);
    let mut prepared =
        install::prepare(work.lineage, &backup, &work.places, &work.contents).expect("an empty directory");
    durable::create(&fixture.target().join("global/pg_control.walward"), b"ours", 0o644).expect("made");
    let note = fixture.target().join(super::loan::NOTE);
    durable::create_dir_all_durable(note.parent().expect("a folder"), 0o700).expect("made");
    durable::create(&note, b"{}", 0o600).expect("made");
    let ending = install::Ending {
        changes: std::collections::BTreeMap::new(),
        settings: Vec::new(),
        lending: None,
        signal_file: "standby.signal",
    };
    install::finish(&work.places, ending, None, &mut prepared.proof).expect("finished");
    assert!(!note.exists(), "the settings of the standby would be taken back");
}

#[tokio::test]
async fn what_is_foreign_in_the_directory_of_an_unfinished_restore_is_mentioned() {
    let fixture = Fixture::new(&["one"]).await;
    let key = layout::pack(&label(), 1);
    let pack = fixture.stored(0, &key).await;
    fixture.store(0).delete(&key).await.expect("deleted");
    fixture.restore().await.expect_err("a pack is missing");
    fixture.replace(0, &key, pack).await;
    let foreign = |plan: &RestorePlan| -> Vec<String> {
        plan.warnings.iter().filter(|warning| warning.contains("not of this backup")).cloned().collect()
    };
    assert_eq!(foreign(&fixture.plan(Target::Latest).await.expect("a plan")), Vec::<String>::new());
    for path in ["pg_wal/000000010000000000000009", "pg_hba.conf", "pg_tblspc/16384/notes", "base/77/1"] {
        let path = fixture.target().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        durable::create(&path, b"x", 0o600).expect("made");
    }
    let plan = fixture.plan(Target::Latest).await.expect("a plan");
    let [warning] = &*foreign(&plan) else { panic!("{:?}", plan.warnings) };
    assert!(warning.contains("holds 4 names that are not of this backup"), "{warning}");
    execute(plan).await.expect("restored");
    fixture.check();
    assert!(fixture.target().join("pg_hba.conf").exists());
}

#[tokio::test]
async fn a_finished_pack_whose_files_did_not_survive_is_fetched_again() {
    let fixture = Fixture::new(&["one"]).await;
    let key = layout::pack(&label(), 1);
    let pack = fixture.stored(0, &key).await;
    fixture.store(0).delete(&key).await.expect("deleted");
    fixture.restore().await.expect_err("a pack is missing");
    let file = std::fs::File::options().write(true).open(fixture.target().join("base/5/1259")).expect("there");
    file.set_len(4096).expect("cut");
    fixture.replace(0, &key, pack).await;
    assert_eq!(fixture.restore().await.expect("restored").packs_reused, 0);
    fixture.check();
}

#[tokio::test]
async fn what_is_damaged_or_missing_in_one_repository_comes_from_the_next() {
    let fixture = Fixture::new(&["one", "two"]).await;
    let first = layout::pack(&label(), 0);
    let mut damaged = fixture.stored(0, &first).await;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fixture.replace(0, &first, damaged).await;
    fixture.store(0).delete(&layout::pack(&label(), 1)).await.expect("deleted");
    // A WAL segment that only one of them has is there, too.
    let manifest = made::manifest(&[], Vec::new());
    let segment: WalFileName = "000000010000000000000003".parse().expect("a name");
    fixture.store(1).delete(&layout::wal_file(manifest.lineage, segment)).await.expect("deleted");

    let report = fixture.restore().await.expect("restored");
    assert_eq!(report.warnings.len(), 2, "{:?}", report.warnings);
    assert!(report.warnings.iter().all(|warning| warning.contains("repository one")), "{:?}", report.warnings);
    fixture.check();
}

#[tokio::test]
async fn another_pack_in_a_packs_place_is_noticed() {
    let fixture = Fixture::new(&["one"]).await;
    let key = layout::pack(&label(), 0);
    fixture.store(0).delete(&key).await.expect("deleted");
    let (content, _) = tar_stream(&[("PG_VERSION", b"99\n".to_vec())]);
    fixture.repositories[0].upload(&key, spec(Kind::Pack), once(content), 0).await.expect("uploaded");
    let error = fixture.restore().await.expect_err("not the one in the manifest");
    assert_eq!(error.class(), walward_base::ErrorClass::Corrupt, "{error}");
    assert!(!fixture.target().join("global/pg_control").exists());
}

#[tokio::test]
async fn targets_are_held_against_what_is_in_the_archive() {
    let fixture = Fixture::new(&["one"]).await;
    let stopped = made::manifest(&[], Vec::new()).stopped;
    let minutes = |minutes: i64| {
        Target::Time(Timestamp::from_microsecond(stopped.as_microsecond() + minutes * 60_000_000).expect("in range"))
    };
    let plan = fixture.plan(minutes(3)).await.expect("a plan");
    assert_eq!(plan.wal.expect("some").last.to_string(), "000000010000000000000004");
    for (target, reason) in [(minutes(4), "lies after the end"), (minutes(-1), "the earliest that can be restored")] {
        let error = fixture.plan(target).await.expect_err(reason);
        assert!(error.to_string().contains(reason), "{error}");
    }
    let lineage = made::manifest(&[], Vec::new()).lineage;
    let third: WalFileName = "000000010000000000000003".parse().expect("a name");
    fixture.store(0).delete(&layout::wal_file(lineage, third)).await.expect("deleted");
    let error = fixture.plan(Target::Latest).await.expect_err("a hole");
    assert!(matches!(error, RestoreError::Refused(Refusal::Hole { .. })), "{error}");
    assert!(fixture.plan(Target::Immediate).await.is_ok());
}

#[tokio::test]
async fn an_older_timeline_never_stands_in_for_one_whose_history_cannot_be_read() {
    let fixture = Fixture::new(&["one", "two"]).await;
    let lineage = made::manifest(&[], Vec::new()).lineage;
    let key = layout::wal_file(lineage, WalFileName::History(Timeline(2)));
    fixture.store(0).put_new(&key, Payload::from(b"damaged".to_vec())).await.expect("put");
    let on = async |timeline| {
        plan(&fixture.repositories, &fixture.target(), &RestoreRequest { timeline, ..request_for(Target::Latest) })
            .await
    };
    for timeline in [TargetTimeline::Latest, TargetTimeline::Number(Timeline(2))] {
        let error = on(timeline).await.expect_err("not known");
        assert!(matches!(error, RestoreError::Catalogue(CatalogueError::Timelines { .. })), "{error}");
    }
    for timeline in [TargetTimeline::Current, TargetTimeline::Number(Timeline(1))] {
        let plan = on(timeline).await.expect("a plan");
        assert!(plan.warnings.iter().any(|warning| warning.contains("history of timeline 2")), "{:?}", plan.warnings);
    }
    let history = b"1\t0/4000000\tno recovery target specified\n".to_vec();
    fixture.repositories[1].put_new(&key, spec(Kind::History), once(history), || None).await.expect("put");
    let plan = on(TargetTimeline::Number(Timeline(2))).await;
    assert!(!matches!(plan, Err(RestoreError::Catalogue(CatalogueError::Timelines { .. }))), "{plan:?}");
}

#[tokio::test]
async fn an_older_timeline_never_stands_in_for_one_whose_history_was_not_archived() {
    let fixture = Fixture::new(&["one", "two"]).await;
    let lineage = made::manifest(&[], Vec::new()).lineage;
    let put = async |name: &str| {
        let key = layout::wal_file(lineage, name.parse().expect("a name"));
        fixture.store(1).put_new(&key, Payload::from(b"some".to_vec())).await.expect("put");
    };
    let on = async |timeline| {
        plan(&fixture.repositories, &fixture.target(), &RestoreRequest { timeline, ..request_for(Target::Latest) })
            .await
    };
    // A server that was promoted and stopped before it had filled a segment has nothing to lose.
    put("000000020000000000000005.partial").await;
    on(TargetTimeline::Latest).await.expect("a plan");
    put("000000020000000000000005").await;
    let error = on(TargetTimeline::Latest).await.map(drop).expect_err("where timeline 2 began is not known");
    assert!(
        matches!(&error, RestoreError::Catalogue(CatalogueError::Timelines { why, .. }) if why.contains("timeline 2")),
        "{error}"
    );
    for timeline in [TargetTimeline::Current, TargetTimeline::Number(Timeline(1))] {
        on(timeline).await.expect("a plan");
    }
    let standby = RestoreRequest { standby: true, ..request_for(Target::Latest) };
    let plan = plan(&fixture.repositories, &fixture.target(), &standby).await.expect("a plan");
    assert!(plan.warnings.iter().any(|warning| warning.contains("timeline 2")), "{:?}", plan.warnings);
    let history = layout::wal_file(lineage, WalFileName::History(Timeline(2)));
    let text = b"1\t0/5000000\tno recovery target specified\n".to_vec();
    fixture.repositories[0].put_new(&history, spec(Kind::History), once(text), || None).await.expect("put");
    assert_eq!(on(TargetTimeline::Latest).await.expect("a plan").timelines, [Timeline(1), Timeline(2)]);
}

#[tokio::test]
async fn a_sealed_backup_is_restored() {
    use std::io::Write;
    let mut key = tempfile::NamedTempFile::new().expect("a file");
    key.write_all(walward_repo::keys::key_file_text().as_bytes()).expect("written");
    let mut fixture = Fixture::new(&[]).await;
    let repository = repository("sealed", Some(key.path())).await;
    fill(&repository, fixture.directory.path()).await;
    fixture.repositories.push(repository);
    fixture.restore().await.expect("restored");
    fixture.check();
}

#[tokio::test]
async fn a_cancelled_restore_can_go_on() {
    let fixture = Fixture::new(&["one"]).await;
    let plan = fixture.plan(Target::Latest).await.expect("a plan");
    let cancel = CancellationToken::new();
    cancel.cancel();
    let (sender, _receiver) = watch::channel(Progress::default());
    let error = run(plan, 2, sender, cancel).await.expect_err("cancelled");
    assert!(matches!(error, RestoreError::Cancelled));
    fixture.restore().await.expect("restored");
    fixture.check();
}
