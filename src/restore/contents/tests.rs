use std::path::Path;

use super::*;
use walward_pg::{Lineage, Lsn, SegmentSize, Timeline};
use walward_repo::manifest::{BackupType, Entry, Pack, Tablespace};

pub fn manifest(packs: &[u64], tablespaces: Vec<Tablespace>) -> Manifest {
    let time = "2026-11-21T06:41:58Z".parse().expect("a time");
    let pack = |(number, content_bytes): (usize, &u64)| Pack {
        number: u32::try_from(number).expect("few"),
        content_bytes: *content_bytes,
        stored_bytes: 0,
        stored_sha256: String::new(),
    };
    Manifest {
        format: 1,
        label: "20261121T064158Z-full".to_owned(),
        kind: BackupType::Full,
        lineage: Lineage { major: 15, system_identifier: 7 },
        server_version: "15.18".to_owned(),
        segment_bytes: SegmentSize::DEFAULT,
        data_checksums: true,
        timeline: Timeline(1),
        start_lsn: Lsn(0x200_0028),
        stop_lsn: Lsn(0x200_0138),
        started: time,
        stopped: time,
        from_standby: false,
        host: "db1".to_owned(),
        walward_version: "0.1.0".to_owned(),
        machine: None,
        data_directory: None,
        wal_directory: None,
        content_bytes: 0,
        stored_bytes: 0,
        packs: packs.iter().enumerate().map(pack).collect(),
        tablespaces,
        corrupt_pages: Vec::new(),
        depends_on: None,
    }
}

pub fn file(path: &str, pack: u32, offset: u64, content: &[u8]) -> Entry {
    let what = EntryKind::File { size: content.len() as u64, crc32c: crc32c::crc32c(content), pack, offset };
    Entry { path: path.to_owned(), mode: 0o600, mtime: 1_700_000_000, what }
}

fn held(listed: impl IntoIterator<Item = Entry>) -> Entries {
    let mut entries = Entries::default();
    for entry in listed {
        entries.push(&entry).expect("few");
    }
    entries
}

fn needed() -> Vec<Entry> {
    vec![
        file("PG_VERSION", 0, 512, b"15\n"),
        file("backup_label", 1, 512, b"label"),
        file(CONTROL_FILE, 1, 1536, b"control"),
    ]
}

fn contents(more: Vec<Entry>) -> Result<Contents, RestoreError> {
    let tablespaces = vec![Tablespace { oid: 16384, name: "fast".to_owned(), location: "/fast".to_owned() }];
    let manifest = manifest(&[10_000, 10_000], tablespaces);
    let places = Places::new(Path::new("/data"), &manifest.label, &manifest.tablespaces, &[], None).expect("valid");
    Contents::new(&manifest, held(needed().into_iter().chain(more)), Vec::new(), &places)
}

#[test]
fn files_are_counted_where_they_go_and_their_directories_are_known() {
    let contents = contents(vec![
        file("pg_tblspc/16384/PG_15_202209061/5/1259", 0, 4096, &[7; 100]),
        file("tablespace_map", 1, 3000, b"16384 /fast\n"),
    ])
    .expect("sound");
    assert_eq!((contents.root_bytes, contents.bytes(), contents.files()), (15, 115, 4));
    assert_eq!(contents.tablespace_bytes, BTreeMap::from([(16384, 100)]));
    let directories: Vec<&str> = contents.directories.keys().map(String::as_str).collect();
    assert_eq!(
        directories,
        [
            "global",
            "pg_tblspc",
            "pg_tblspc/16384",
            "pg_tblspc/16384/PG_15_202209061",
            "pg_tblspc/16384/PG_15_202209061/5"
        ]
    );
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    for (more, reason) in [
        (file("../etc/passwd", 0, 4096, b"x"), "leads out"),
        (file("/etc/passwd", 0, 4096, b"x"), "leads out"),
        (file("base/1/1", 0, 513, b"x"), "overlaps"),
        (file("base/1/1", 0, 9_999, b"xx"), "ends after"),
        (file("base/1/1", 0, u64::MAX, b"xx"), "ends after"),
        (file("base/1/1", 2, 0, b"x"), "not listed"),
        (file("PG_VERSION", 0, 4096, b"x"), "twice"),
    ] {
        let error = contents(vec![more]).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_backup_without_its_label_is_refused() {
    let manifest = manifest(&[10_000, 10_000], Vec::new());
    let places = Places::new(Path::new("/data"), &manifest.label, &[], &[], None).expect("valid");
    let entries = held(needed().into_iter().filter(|entry| entry.path != "backup_label"));
    let error = Contents::new(&manifest, entries, Vec::new(), &places).expect_err("no label").to_string();
    assert!(error.contains("backup_label"), "{error}");
}
