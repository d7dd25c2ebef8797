//! `archive.queue_limit`: WAL is let go rather than fill the disk, and nobody is left in the dark about it.

use std::fs;
use std::time::Duration;

use crate::support::{ClusterOptions, Site, SiteOptions, eventually};

const LIMIT_SEGMENTS: usize = 8;

/// A site with small segments, a limit of eight of them, a backup, and a repository that can be taken away.
fn site() -> Site {
    let site = Site::start(SiteOptions {
        cluster: ClusterOptions { segment_mib: 1, ..ClusterOptions::default() },
        cluster_settings: "archive.queue_limit = \"8MiB\"\narchive.deadline = \"2s\"\nfetch.deadline = \"2s\"\n"
            .to_owned(),
        repository_settings: "limits.retry_deadline = \"1s\"\n".to_owned(),
        ..SiteOptions::default()
    });
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    write(&site, 1, 3);
    site
}

/// Writes `segments` segments with a row in each; the name of the last.
fn write(site: &Site, first: usize, segments: usize) -> String {
    let mut last = String::new();
    for id in first..first + segments {
        site.cluster.sql(&site.room, &format!("insert into t values ({id})"));
        last = site.cluster.switch_wal(&site.room);
    }
    last
}

fn ready(site: &Site) -> usize {
    let folder = site.cluster.data.join("pg_wal/archive_status");
    fs::read_dir(folder).unwrap().filter(|entry| entry.as_ref().unwrap().path().extension().unwrap() == "ready").count()
}

fn facts(site: &Site) -> serde_json::Value {
    site.walward(&["--json", "status"]).expect(0).json()["clusters"][0].clone()
}

fn wait_let_go(site: &Site) {
    eventually("no more waits than the limit allows", Duration::from_mins(2), || {
        (ready(site) <= LIMIT_SEGMENTS).then_some(())
    });
}

#[test]
fn wal_is_let_go_beyond_the_limit_and_no_restore_leads_across_the_gap() {
    let mut site = site();
    let away = site.room.join("repository.away");
    let repository = site.repository_folder();
    eventually("the first segments are archived", Duration::from_mins(1), || (ready(&site) == 0).then_some(()));
    fs::rename(&repository, &away).unwrap();

    // The store is away for longer than the disk would last: killed and restarted meanwhile, the agent goes on.
    let first_lost = write(&site, 4, 1);
    write(&site, 5, 19);
    wait_let_go(&site);
    site.agent.take().unwrap().kill();
    site.start_agent();
    let last = write(&site, 24, 20);
    wait_let_go(&site);
    let status = facts(&site);
    assert!(status["archive"]["let_go_total"].as_u64() > Some(10), "{status}");
    assert!(status["unrecorded_gaps"].as_u64() > Some(0), "{status}");
    site.walward(&["status"]).expect(0).says("LET GO");
    site.walward(&["check"]).expect(1).says("WAL was let go");
    site.cluster.assert_logged("was LET GO, not archived");
    let agent = site.agent.as_ref().unwrap();
    assert!(agent.log().contains("WAL was let go"), "nothing in the agent's log");
    // PostgreSQL forgets what it was told to forget.
    for _ in 0..2 {
        site.cluster.sql(&site.room, "insert into t values (0)");
        site.cluster.sql(&site.room, "checkpoint");
    }
    assert!(!site.cluster.wal(&first_lost).exists(), "{first_lost} is still there");
    assert!(ready(&site) <= LIMIT_SEGMENTS + 1);

    // The store comes back: what waited is archived, the gap is recorded.
    fs::rename(&away, &repository).unwrap();
    site.cluster.wait_archived(&site.room, &last);
    eventually("the gap is recorded", Duration::from_mins(1), || {
        (facts(&site)["unrecorded_gaps"].as_u64() == Some(0)).then_some(())
    });
    let notes = site.room.join("spool/main/let-go");
    assert_eq!(fs::read_dir(notes).unwrap().count(), 0, "notes that were settled are left");
    let gaps = site.walward(&["--json", "wal", "gaps"]).expect(3).json()["repositories"][0].clone();
    assert_eq!(gaps["let_go"][0]["first"], first_lost.as_str(), "{gaps}");
    assert_eq!(gaps["gaps"][0]["first"], first_lost.as_str(), "{gaps}");
    site.walward(&["wal", "gaps"]).expect(3).says("was let go on");
    assert!(!site.walward(&["info"]).expect(0).stdout.contains("no gaps"));
    site.walward(&["check"]).expect(1).says("no backup began after it");

    // Nothing leads across: neither a plan nor a server that asks by itself.
    let refused = |arguments: &[&str]| {
        let mut all = vec!["restore", "--cluster", "main", "--yes", "--target-directory", "never"];
        all.extend(arguments);
        let outcome = site.walward(&all).expect(16).says("queue_limit").says(&first_lost);
        assert!(!site.room.join("never").exists());
        outcome
    };
    refused(&[]).says("take one now");
    let fetched = site.client(&["--cluster", "main", "fetch", &first_lost, "pg_wal/RECOVERYXLOG"]).expect(255);
    assert!(fetched.stderr.contains("let go"), "{}", fetched.stderr);

    // Before the gap and after a new backup all is well.
    let mut before = site.restore("before", &["--target-immediate"]);
    before.start(&site.room);
    site.wait_promoted(&before);
    drop(before);
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    write(&site, 50, 2);
    let last = write(&site, 52, 1);
    site.cluster.wait_archived(&site.room, &last);
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    let check = site.walward(&["--json", "check"]).json();
    let failed = check["checks"].as_array().unwrap().iter().find(|check| check["level"] == "failed");
    assert_eq!(failed, None, "a backup after the gap makes up for it");
    let labels = site.walward(&["--json", "info"]).expect(0).json();
    let labels: Vec<&str> =
        labels["repositories"][0]["backups"].as_array().unwrap().iter().map(|b| b["label"].as_str().unwrap()).collect();
    let [old, new] = labels[..] else { panic!("{labels:?}") };
    refused(&["--backup", old]).says(new);
    site.destroy();
    let mut restored = site.restore("restored", &[]);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
}

#[test]
fn what_was_let_go_and_still_lies_in_pg_wal_is_archived_after_all() {
    let site = site();
    let away = site.room.join("repository.away");
    let repository = site.repository_folder();
    fs::rename(&repository, &away).unwrap();
    write(&site, 4, 20);
    wait_let_go(&site);
    assert!(facts(&site)["archive"]["let_go_total"].as_u64() > Some(0));
    fs::rename(&away, &repository).unwrap();
    let last = write(&site, 24, 1);
    site.cluster.wait_archived(&site.room, &last);
    eventually("nothing is left to be told", Duration::from_mins(1), || {
        (facts(&site)["unrecorded_gaps"].as_u64() == Some(0)).then_some(())
    });
    site.walward(&["wal", "gaps"]).expect(0).says("no gaps");
    assert!(!repository.join("main/gap").exists(), "a gap was recorded that is none");
}

#[test]
fn without_a_limit_and_for_a_file_that_is_refused_nothing_is_let_go() {
    let site = Site::start(SiteOptions {
        cluster: ClusterOptions { segment_mib: 1, ..ClusterOptions::default() },
        cluster_settings: "archive.deadline = \"2s\"\narchive.queue_limit = \"1MiB\"\n".to_owned(),
        ..SiteOptions::default()
    });
    let mut segments = vec![site.cluster.switch_wal(&site.room)];
    site.cluster.wait_archived(&site.room, &segments[0]);
    // Somebody else has written the next name: a person must decide, and WAL waits however much there is.
    let copy = site.room.make_folder("copies").join(&segments[0]);
    site.client(&["--cluster", "main", "fetch", &segments[0], copy.to_str().unwrap()]).expect(0);
    let mut other = fs::read(copy).unwrap();
    other[60] ^= 1;
    fs::remove_file(site.cluster.wal(&segments[0])).ok();
    let file = site.put_wal(&segments[0], &other);
    for _ in 0..5 {
        site.client(&["--cluster", "main", "push", file.to_str().unwrap()]).expect(1).says("other content");
        segments.push(site.cluster.switch_wal(&site.room));
    }
    assert_eq!(facts(&site)["archive"]["let_go_total"], 0);

    // The store is away, and there is no limit.
    site.write_config(&site.config_text().replace("archive.queue_limit = \"1MiB\"\n", ""));
    let agent = site.agent.as_ref().unwrap();
    let mark = agent.log().len();
    agent.reload();
    agent.wait_logged(mark, "configuration reloaded");
    let away = site.room.join("repository.away");
    eventually("nothing waits", Duration::from_mins(1), || (ready(&site) == 0).then_some(()));
    fs::rename(site.repository_folder(), &away).unwrap();
    for _ in 0..6 {
        segments.push(site.cluster.switch_wal(&site.room));
    }
    eventually("PostgreSQL counts failures", Duration::from_mins(1), || {
        (site.cluster.sql(&site.room, "select failed_count > 2 from pg_stat_archiver") == "t").then_some(())
    });
    assert!(ready(&site) >= 6);
    assert_eq!(facts(&site)["archive"]["let_go_total"], 0);
}
