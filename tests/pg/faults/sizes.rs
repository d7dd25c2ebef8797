//! Every size of a segment, with the agent's memory kept small.

use super::{assert_archived, drain, options};
use crate::support::{ClusterOptions, Site, SiteOptions, StoreKind};

fn archived_and_recovered(segment_mib: u32, segments: u32) {
    let mut site = Site::start(SiteOptions {
        cluster: ClusterOptions {
            segment_mib,
            settings: vec![
                ("max_wal_size".to_owned(), format!("{}MB", (segment_mib * 3).max(256))),
                ("min_wal_size".to_owned(), format!("{}MB", segment_mib * 2)),
                ("wal_keep_size".to_owned(), "100GB".to_owned()),
                ("wal_init_zero".to_owned(), "off".to_owned()),
            ],
        },
        // Time for a gigabyte, by a program that was not built for speed.
        cluster_settings: "archive.deadline = \"5 min\"\nfetch.deadline = \"5 min\"\n".to_owned(),
        ..options(StoreKind::File)
    });
    let (room, cluster) = (&site.room, &site.cluster);
    cluster.sql(room, "create table t as select generate_series(1, 1000) as id");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    for _ in 0..segments {
        cluster.sql(room, "insert into t select generate_series(1, 30000)");
        let segment = cluster.switch_wal(room);
        cluster.wait_archived(room, &segment);
    }
    drain(&site, cluster, std::time::Duration::from_mins(5));
    let resident = site.walward(&["--json", "status"]).expect(0).json();
    let resident = resident["resident_bytes"].as_u64().expect("a number");
    // The bound of the memory for WAL, and the program itself.
    assert!(resident < 200 << 20, "{} MiB resident with segments of {segment_mib} MiB", resident >> 20);
    assert_archived(&site, cluster);
    let expected = cluster.fingerprint(room, &["t"]);
    site.destroy();
    let mut restored = site.restore("restored", &[]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected, "{segment_mib} MiB");
}

#[test]
fn segments_of_1_mib_are_archived_and_recovered() {
    archived_and_recovered(1, 12);
}

#[test]
fn segments_of_16_mib_are_archived_and_recovered() {
    archived_and_recovered(16, 3);
}

#[test]
fn segments_of_64_mib_are_archived_and_recovered() {
    archived_and_recovered(64, 2);
}

#[test]
#[ignore = "thorough: takes gigabytes of disk; scripts/test.sh --thorough runs it"]
fn thorough_segments_of_1024_mib_are_archived_and_recovered() {
    archived_and_recovered(1024, 1);
}
