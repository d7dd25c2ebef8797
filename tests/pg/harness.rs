//! The harness itself: what the other tests take for granted.

use crate::support::{Cluster, ClusterOptions, Room, S3, Stop, Version, on_every_version};

fn starts_and_crashes(version: Version) {
    let room = Room::new();
    let mut cluster = Cluster::create(&room, "main", &version, &ClusterOptions::default());
    cluster.start(&room);
    cluster.sql(&room, "create table t as select generate_series(1, 1000) as id");
    let before = cluster.fingerprint(&room, &["t"]);
    for how in [Stop::Immediate, Stop::Kill, Stop::Fast] {
        cluster.stop(how);
        assert!(!cluster.runs());
        cluster.start(&room);
        assert_eq!(cluster.fingerprint(&room, &["t"]), before);
    }
    cluster.sql(&room, "update t set id = id + 1");
    assert_ne!(cluster.fingerprint(&room, &["t"]), before);
}

on_every_version!(a_cluster_starts_crashes_and_comes_back_with_its_rows, super::starts_and_crashes);

#[test]
fn the_s3_server_keeps_a_bucket() {
    let room = Room::new();
    let s3 = S3::start(&room);
    assert!(s3.settings("x").contains(&s3.endpoint()));
}
