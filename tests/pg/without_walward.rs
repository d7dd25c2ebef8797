//! No lock-in: an unencrypted repository is restored by a script that knows only sh, zstd, tar, cp, find and sed.

use std::fs;
use std::path::Path;

use crate::support::{Cluster, Site, SiteOptions, Version, on_every_version};

fn restored_by_script(version: Version) {
    let mut site = Site::start(SiteOptions { version, encrypted: false, ..SiteOptions::default() });
    let place = site.room.make_folder("place");
    site.cluster.sql(&site.room, &format!("create tablespace away location '{}'", place.display()));
    site.cluster
        .sql(&site.room, "create table t as select n as id, repeat('x', 500) as pad from generate_series(1, 20000) n");
    site.cluster
        .sql(&site.room, "create table there tablespace away as select n as id from generate_series(1, 20000) n");
    let backup = |kind: &str| {
        let taken = site.walward(&["--cluster", "main", "--json", "backup", "--type", kind]).expect(0);
        taken.json_lines().pop().unwrap()["backup"]["label"].as_str().unwrap().to_owned()
    };
    let full = backup("full");
    site.cluster.sql(
        &site.room,
        "delete from t where id > 15000; create table more as select n as id from generate_series(1, 5000) n",
    );
    site.cluster.sql(&site.room, "vacuum t");
    backup("incr");
    site.cluster.sql(
        &site.room,
        "insert into t select n, repeat('y', 500) from generate_series(20001, 22000) n; update there set id = 0 where id = 7; drop table more",
    );
    let last = backup("incr");
    site.cluster.sql(&site.room, "insert into t values (0, 'after the backup'); delete from there where id % 2 = 0");
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let expected = site.cluster.fingerprint(&site.room, &["t", "there"]);
    let oid = site.cluster.sql(&site.room, "select oid from pg_tablespace where spcname = 'away'");

    // Nothing of Walward is left but the repository.
    site.stop_agent();
    site.destroy();
    fs::remove_dir_all(&place).unwrap();
    fs::remove_file(&site.config).unwrap();
    let repository = site.repository_folder().join("main");
    let script = site.room.write_with_mode(
        "restore.sh",
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/restore-without-walward.sh")).unwrap(),
        0o700,
    );
    // A full backup, and one that is put together with those that it builds on.
    for (name, label) in [("full", full), ("chain", last)] {
        let (target, elsewhere) = (site.room.join(name), site.room.join(format!("{name}-elsewhere")));
        let mut command = site.room.command(&script);
        // No program of Walward on the path, nor beside the script.
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").arg(&repository).arg(&label).arg(&target);
        site.room.run(command.arg(format!("{oid}={}", elsewhere.display())));
        let beside = fs::read_dir(site.room.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left = beside.filter(|left| left.to_string_lossy().starts_with(&format!("{name}."))).count();
        assert_eq!(left, 0, "nothing is left beside the target");

        let mut restored = Cluster::adopt(&site.room, name, &site.cluster.version, target);
        restored.set("archive_mode", "off");
        restored.start(&site.room);
        site.wait_promoted(&restored);
        assert_eq!(restored.fingerprint(&site.room, &["t", "there"]), expected, "{name}");
        site.amcheck(&restored);
    }
}

on_every_version!(a_plain_repository_is_restored_without_walward, super::restored_by_script);
