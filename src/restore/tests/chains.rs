//! Restores of backups that build on each other, made by hand.

use super::*;
use walward_pg::changes::BlockSet;
use walward_pg::{Lsn, incremental_header, incremental_path};
use walward_repo::manifest::{BackupType, ChangesSource, DependsOn, Pack, StoredIndex};

const BLOCK: u32 = 8192;
const TABLE: &str = "base/5/16384";
const OTHER: &str = "base/5/16385";

/// A file in a backup: all of it, or some blocks of what it then was.
#[derive(Debug, Clone)]
enum Held {
    Whole(Vec<u8>),
    Some(Vec<u8>, Vec<u32>),
}

/// Blocks, each filled with a byte.
fn blocks(values: &[u8]) -> Vec<u8> {
    values.iter().flat_map(|value| vec![*value; BLOCK as usize]).collect()
}

fn chain_label(level: u8) -> BackupLabel {
    format!("2026112{level}T064158Z-{}", if level == 1 { "full" } else { "incr" }).parse().expect("a label")
}

/// What a backup of a chain of a cluster in its own place is made of.
#[derive(Debug, Clone)]
struct Backup {
    level: u8,
    files: Vec<(&'static str, Held)>,
}

impl Backup {
    fn new(level: u8, files: Vec<(&'static str, Held)>) -> Self {
        Self { level, files }
    }

    fn manifest(&self) -> Manifest {
        let level = u64::from(self.level);
        let (start_lsn, stop_lsn) = (Lsn(0x100_0028 + level * 0x1000), Lsn(0x100_0138 + level * 0x1000));
        let kind = chain_label(self.level).kind();
        let label = chain_label(self.level).to_string();
        Manifest { label, kind, start_lsn, stop_lsn, ..made::manifest(&[], Vec::new()) }
    }

    /// Puts it into a repository. `change` has the last word on its manifest.
    async fn put(&self, repository: &Repository, change: impl Fn(&mut Manifest, &mut Vec<Entry>)) {
        let label = chain_label(self.level);
        let mut manifest = self.manifest();
        let text = format!("START WAL LOCATION: {}\nINCREMENTAL FROM LSN: 0/1000028\n", manifest.start_lsn);
        let label_file = ("backup_label", Held::Whole(text.into_bytes()));
        let needed = [
            ("PG_VERSION", Held::Whole(b"15\n".to_vec())),
            label_file,
            ("backup_manifest", Held::Whole(b"{}".to_vec())),
            ("global/pg_control", Held::Whole(vec![3; 8192])),
        ];
        let (mut members, mut sets) = (Vec::new(), Vec::new());
        for (path, held) in self.files.iter().cloned().chain(needed) {
            let (name, content, some) = match held {
                Held::Whole(content) => (path.to_owned(), content, None),
                Held::Some(all, numbers) => {
                    let length = u32::try_from(all.len()).expect("small") / BLOCK;
                    let mut content = incremental_header(&numbers, length, BLOCK);
                    for number in &numbers {
                        let at = (number * BLOCK) as usize;
                        content.extend_from_slice(&all[at..at + BLOCK as usize]);
                    }
                    (incremental_path(path), content, Some((all.len() as u64, numbers)))
                }
            };
            members.push((path, name, content, some));
        }
        let named: Vec<(&str, Vec<u8>)> =
            members.iter().map(|(_, name, content, _)| (name.as_str(), content.clone())).collect();
        let (content, offsets) = tar_stream(&named);
        let content_bytes = content.len() as u64;
        let key = layout::pack(&label, 0);
        let summary = repository.upload(&key, spec(Kind::Pack), once(content), content_bytes).await.expect("uploaded");
        manifest.packs = vec![Pack {
            number: 0,
            content_bytes,
            stored_bytes: summary.stored_bytes,
            stored_sha256: hex::encode(&summary.stored_digest),
        }];
        let mut entries = Vec::new();
        for ((path, _, content, some), offset) in members.iter().zip(offsets) {
            let mut entry = made::file(path, 0, offset, content);
            if let (Some((size, numbers)), EntryKind::File { crc32c, .. }) = (some, entry.what) {
                let count = u32::try_from(numbers.len()).expect("few");
                entry.what = EntryKind::Blocks { size: *size, crc32c, pack: 0, offset, blocks: count };
                sets.extend(numbers.iter().copied().collect::<BlockSet>().encode());
            }
            entries.push(entry);
        }
        if manifest.kind != BackupType::Full {
            let key = layout::block_index(&label);
            let summary = repository.upload(&key, spec(Kind::BlockIndex), once(sets), 1).await.expect("uploaded");
            let parent = Self::new(self.level - 1, Vec::new()).manifest();
            manifest.depends_on = Some(DependsOn {
                label: parent.label,
                timeline: parent.timeline,
                start_lsn: parent.start_lsn,
                started: parent.started,
                changes: ChangesSource::Wal,
                block_bytes: BLOCK,
                index: StoredIndex {
                    content_bytes: summary.content_bytes,
                    stored_bytes: summary.stored_bytes,
                    stored_sha256: hex::encode(&summary.stored_digest),
                },
            });
        }
        change(&mut manifest, &mut entries);
        let mut lines = serde_json::to_string(&manifest).expect("JSON") + "\n";
        for entry in entries {
            lines += &(serde_json::to_string(&entry).expect("JSON") + "\n");
        }
        let key = layout::manifest(&label);
        repository.upload(&key, spec(Kind::Manifest), once(lines.into_bytes()), 0).await.expect("uploaded");
    }
}

/// Three backups; TABLE is cut and grows again, OTHER never changes, a third table comes and is one block of the second backup.
fn chain() -> [Backup; 3] {
    let other = blocks(&[50, 51, 52]);
    let (second, third) = (blocks(&[1, 12, 3]), blocks(&[1, 12, 3, 24, 25]));
    [
        Backup::new(1, vec![(TABLE, Held::Whole(blocks(&[1, 2, 3, 4, 5]))), (OTHER, Held::Whole(other.clone()))]),
        Backup::new(
            2,
            vec![
                (TABLE, Held::Some(second, vec![1])),
                (OTHER, Held::Some(other.clone(), vec![])),
                ("base/5/16390", Held::Whole(blocks(&[70, 71]))),
            ],
        ),
        Backup::new(
            3,
            vec![
                (TABLE, Held::Some(third, vec![3, 4])),
                (OTHER, Held::Some(other, vec![])),
                ("base/5/16390", Held::Some(blocks(&[70, 81]), vec![1])),
                ("base/5/16391", Held::Some(Vec::new(), vec![])),
            ],
        ),
    ]
}

async fn site(names: &[&str]) -> Fixture {
    let directory = tempfile::tempdir().expect("a directory");
    let mut repositories = Vec::new();
    for name in names {
        let repository = repository(name, None).await;
        for number in 1..=3u8 {
            let name = format!("00000001000000000000000{number}").parse().expect("a name");
            let key = layout::wal_file(made::manifest(&[], Vec::new()).lineage, WalFileName::Segment(name));
            let facts = || Some(Facts::of_times(1_700_000_000_000_000, 1_700_000_000_000_000));
            repository.put_new(&key, spec(Kind::Segment), once(vec![number; 100]), facts).await.expect("put");
        }
        repositories.push(repository);
    }
    let fixture = Fixture { directory, repositories, files: Vec::new() };
    std::fs::create_dir(fixture.target()).expect("made");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(fixture.target(), Some(65534), Some(65534)).expect("chown");
    }
    fixture
}

async fn put_all(repository: &Repository) {
    for backup in chain() {
        backup.put(repository, |_, _| {}).await;
    }
}

fn restored(fixture: &Fixture, path: &str) -> Vec<u8> {
    std::fs::read(fixture.target().join(path)).expect(path)
}

fn is_whole(fixture: &Fixture) {
    assert!(restored(fixture, TABLE) == blocks(&[1, 12, 3, 24, 25]));
    assert!(restored(fixture, OTHER) == blocks(&[50, 51, 52]));
    assert!(restored(fixture, "base/5/16390") == blocks(&[70, 81]));
    assert_eq!(restored(fixture, "base/5/16391"), b"");
    assert_eq!(restored(fixture, "backup_label"), b"START WAL LOCATION: 0/1003028\n");
    let owner = std::fs::metadata(fixture.target()).expect("there").uid();
    for path in [TABLE, OTHER, "base/5/16391"] {
        let metadata = std::fs::metadata(fixture.target().join(path)).expect("there");
        assert_eq!(
            (metadata.mode() & 0o777, metadata.mtime(), metadata.uid()),
            (0o600, 1_700_000_000, owner),
            "{path}"
        );
    }
    let list: serde_json::Value = serde_json::from_slice(&restored(fixture, "backup_manifest")).expect("JSON");
    for file in list["Files"].as_array().expect("a list") {
        let path = file["Path"].as_str().expect("a path");
        if path == "global/pg_control" {
            continue;
        }
        let content = restored(fixture, path);
        assert_eq!(file["Size"], content.len() as u64, "{path}");
        assert_eq!(file["Checksum"], hex::encode(&crc32c::crc32c(&content).to_le_bytes()), "{path}");
    }
    assert_eq!(list["Files"].as_array().map(Vec::len), Some(7));
}

#[tokio::test]
async fn each_block_is_restored_from_the_newest_backup_that_has_it() {
    let fixture = site(&["first"]).await;
    put_all(&fixture.repositories[0]).await;
    let report = fixture.restore().await.expect("restored");
    assert_eq!(report.backup, chain_label(3).to_string());
    assert_eq!(report.builds_on, [chain_label(2).to_string(), chain_label(1).to_string()]);
    is_whole(&fixture);
}

#[tokio::test]
async fn a_damaged_ancestor_comes_from_another_repository() {
    for damaged in ["pack", "index", "manifest"] {
        let fixture = site(&["first", "second"]).await;
        for repository in &fixture.repositories {
            put_all(repository).await;
        }
        let key = match damaged {
            "pack" => layout::pack(&chain_label(1), 0),
            "index" => layout::block_index(&chain_label(2)),
            _ => layout::manifest(&chain_label(2)),
        };
        let mut content = fixture.stored(0, &key).await;
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fixture.replace(0, &key, content).await;
        let restored = fixture.restore().await.unwrap_or_else(|error| panic!("{damaged}: {error}"));
        assert!(!restored.warnings.is_empty() || damaged != "pack");
        is_whole(&fixture);
    }
}

#[tokio::test]
async fn a_restore_of_a_chain_that_was_cut_goes_on_and_puts_its_files_together_anew() {
    let fixture = site(&["first"]).await;
    put_all(&fixture.repositories[0]).await;
    let key = layout::pack(&chain_label(1), 0);
    let sound = fixture.stored(0, &key).await;
    let mut damaged = sound.clone();
    let at = damaged.len() - 100;
    damaged[at] ^= 1;
    fixture.replace(0, &key, damaged).await;
    let plan = fixture.plan(Target::Latest).await.expect("planned");
    let error = execute(plan).await.expect_err("damaged").to_string();
    assert!(error.contains(chain_label(1).as_str()), "{error}");
    assert!(fixture.target().join("walward.restore.json").exists());
    fixture.replace(0, &key, sound).await;
    let plan = fixture.plan(Target::Latest).await.expect("planned");
    assert!(plan.resumes);
    execute(plan).await.expect("goes on");
    is_whole(&fixture);
}

#[tokio::test]
async fn a_chain_that_lacks_a_backup_or_is_not_what_it_says_is_refused_before_anything_is_written() {
    type Change = fn(u8, &mut Manifest, &mut Vec<Entry>);
    let cases: [(&str, Change); 7] = [
        ("builds on \"nonsense\"", |level, manifest, _| {
            if level == 3
                && let Some(depends_on) = &mut manifest.depends_on
            {
                depends_on.label = "nonsense".to_owned();
            }
        }),
        ("is in no repository", |level, manifest, _| {
            if level == 3
                && let Some(depends_on) = &mut manifest.depends_on
            {
                depends_on.label = chain_label(9).to_string();
            }
        }),
        // Another backup has its label.
        ("is in no repository", |level, manifest, _| {
            if level == 1 {
                manifest.started += std::time::Duration::from_micros(1);
            }
        }),
        // In a circle.
        ("is not what it builds on", |level, manifest, _| {
            if level == 2
                && let Some(depends_on) = &mut manifest.depends_on
            {
                let itself = Backup::new(3, Vec::new()).manifest();
                (depends_on.label, depends_on.start_lsn) = (itself.label, itself.start_lsn);
            }
        }),
        ("it does not have \"base/5/16385\"", |level, _, entries| {
            if level == 1 {
                entries.retain(|entry| entry.path != OTHER);
            }
        }),
        ("it has is not said", |level, manifest, _| {
            if level == 2 {
                manifest.depends_on = None;
            }
        }),
        ("the manifest says", |level, _, entries| {
            for entry in entries.iter_mut().filter(|entry| level == 2 && entry.path == TABLE) {
                if let EntryKind::Blocks { blocks, .. } = &mut entry.what {
                    *blocks += 1;
                }
            }
        }),
    ];
    for (reason, change) in cases {
        let fixture = site(&["first"]).await;
        for backup in chain() {
            backup.put(&fixture.repositories[0], |manifest, entries| change(backup.level, manifest, entries)).await;
        }
        let request = RestoreRequest { backup: Some(chain_label(3)), ..request_for(Target::Latest) };
        let error = plan(&fixture.repositories, &fixture.target(), &request).await.expect_err(reason);
        let said = walward_base::describe(&error);
        assert!(said.contains(reason), "{reason}: {said}");
        assert_eq!(std::fs::read_dir(fixture.target()).expect("there").count(), 0);
    }
}

#[tokio::test]
async fn without_a_word_the_newest_backup_is_taken_whose_chain_is_whole() {
    let fixture = site(&["first"]).await;
    for backup in chain() {
        // Two clones took a backup in the same second, and this one's is the other's.
        let change = |manifest: &mut Manifest, _: &mut Vec<Entry>| {
            if let Some(depends_on) = manifest.depends_on.as_mut().filter(|_| backup.level == 3) {
                depends_on.started += std::time::Duration::from_micros(1);
            }
        };
        backup.put(&fixture.repositories[0], change).await;
    }
    let plan = fixture.plan(Target::Latest).await.expect("planned");
    assert_eq!((plan.backup.as_str(), plan.builds_on.len()), (chain_label(2).as_str(), 1));
    let left_out = format!("{} is left out: {}", chain_label(3), chain_label(2));
    assert!(plan.warnings.iter().any(|warning| warning.contains(&left_out)), "{:?}", plan.warnings);
}
