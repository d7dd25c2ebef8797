//! Walward's role is no superuser: with the documented grants alone a cluster is archived, backed up and restored.

use walward_pg::session::grants::{create_role_statement, grant_statements};

use crate::support::{Site, SiteOptions, Version, on_every_version};

fn with_the_documented_grants(version: Version) {
    let major = version.major;
    let mut site = Site::prepare(SiteOptions { version, role: "walward", ..SiteOptions::default() });
    let (room, cluster) = (&site.room, &mut site.cluster);
    cluster.start(room);
    cluster.sql(room, &create_role_statement("walward"));
    for statement in grant_statements("walward", u16::try_from(major).unwrap()) {
        cluster.sql(room, &statement);
    }
    let rights =
        "select rolsuper or rolreplication or rolcreaterole or rolcreatedb from pg_roles where rolname = 'walward'";
    assert_eq!(cluster.sql(room, rights), "f");
    site.start_agent();

    site.cluster.sql(&site.room, "create table t as select generate_series(1, 1000) as id");
    site.walward(&["--cluster", "main", "check"]).expect(3).says("there is none yet");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    site.walward(&["--json", "--cluster", "main", "check"]).expect_healthy();
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    site.destroy();
    let mut restored = site.restore("restored", &[]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
}

on_every_version!(the_documented_grants_are_enough, super::with_the_documented_grants);

#[test]
fn a_role_without_the_grants_is_told_which_are_missing() {
    let mut site = Site::prepare(SiteOptions { role: "walward", ..SiteOptions::default() });
    site.cluster.start(&site.room);
    site.cluster.sql(&site.room, &create_role_statement("walward"));
    site.start_agent();
    let outcome = site.walward(&["--cluster", "main", "backup"]).expect(12);
    assert!(outcome.stderr.to_lowercase().contains("grant"), "{}", outcome.stderr);
}
