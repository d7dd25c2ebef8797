//! What gets into an archive, what does not, and what a dying agent leaves behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{Cluster, ClusterOptions, Site, SiteOptions, StoreKind, Version, eventually};

/// A site whose cluster has archived one segment; with that segment's name.
fn site_with_segment(options: SiteOptions) -> (Site, String) {
    let site = Site::start(options);
    site.cluster.sql(&site.room, "create table t as select generate_series(1, 1000) as id");
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    (site, segment)
}

/// A copy of `segment` under the name that it has, where the unprivileged user may read it.
fn copy_of(site: &Site, segment: &str) -> PathBuf {
    // PostgreSQL may have recycled the original: the archive is asked.
    let copy = site.room.make_folder("copies").join(segment);
    site.client(&["--cluster", "main", "fetch", segment, copy.to_str().unwrap()]).expect(0);
    copy
}

fn push(site: &Site, path: &Path) -> crate::support::Outcome {
    site.client(&["--cluster", "main", "push", path.to_str().unwrap()])
}

#[test]
fn the_same_segment_again_is_a_success_and_other_bytes_are_refused() {
    for store in [StoreKind::File, StoreKind::S3] {
        for encrypted in [true, false] {
            let (site, segment) = site_with_segment(SiteOptions { store, encrypted, ..SiteOptions::default() });
            let bytes = fs::read(copy_of(&site, &segment)).unwrap();
            let file = site.put_wal(&segment, &bytes);
            push(&site, &file).expect(0);

            let mut other = bytes.clone();
            other[60] ^= 1;
            let file = site.put_wal(&segment, &other);
            let refused = push(&site, &file).expect(1);
            assert!(refused.stderr.contains(&segment), "{}", refused.stderr);

            // What was archived first is still what is there.
            assert!(fs::read(copy_of(&site, &segment)).unwrap() == bytes, "the archive was changed");
        }
    }
}

#[test]
fn what_the_server_believes_archived_and_no_repository_holds_is_seen() {
    // What is uploaded ahead is archived whatever the command does afterwards.
    let cluster_settings = "archive.look_ahead = 0\n".to_owned();
    let (site, _) = site_with_segment(SiteOptions { encrypted: false, cluster_settings, ..SiteOptions::default() });
    let (room, cluster) = (&site.room, &site.cluster);
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    site.walward(&["--cluster", "main", "check"]).says("looked for and found");
    let command = |command: &str| {
        cluster.sql(room, &format!("alter system set archive_command = '{}'", command.replace('\'', "''")));
        cluster.sql(room, "select pg_reload_conf()");
        eventually("the command holds", Duration::from_mins(1), || {
            (cluster.sql(room, "show archive_command") == command).then_some(())
        });
    };
    let ours = site.archive_command();
    command(&format!("{} || true", ours.replace(site.socket.to_str().unwrap(), "/gone/walward.sock")));
    // The archiver hears of it a moment later than a session.
    std::thread::sleep(Duration::from_secs(1));
    let gone = cluster.switch_wal(room);
    cluster.wait_archived(room, &gone);
    let last = cluster.switch_wal(room);
    cluster.wait_archived(room, &last);
    let check = site.walward(&["--cluster", "main", "check"]).expect(1);
    check.clone().says("what follows `||` exits with 0").says("believes");
    assert!(check.stdout.contains(&last) || check.stdout.contains(&gone), "{}", check.stdout);

    // The command is right again, and the loss stays known.
    command(&ours);
    site.walward(&["--cluster", "main", "check"]).expect(1).says("believes");
    eventually("the agent has seen it", Duration::from_mins(2), || {
        let status = site.walward(&["--json", "status"]).json();
        (status["clusters"][0]["belief"]["lost_files"].as_u64() > Some(0)).then_some(())
    });
    site.walward(&["status"]).says("LOST");
}

/// A name says nothing: the archive may hold another life's segment under it.
#[test]
fn what_the_archive_holds_under_the_name_of_what_the_server_still_has_is_compared() {
    for encrypted in [true, false] {
        let (mut site, _) = site_with_segment(SiteOptions { encrypted, ..SiteOptions::default() });
        site.walward(&["--cluster", "main", "backup"]).expect(0);
        // Later than the backup's checkpoint, which recycles what came before it.
        let segment = site.cluster.switch_wal(&site.room);
        site.cluster.wait_archived(&site.room, &segment);
        site.walward(&["--cluster", "main", "check"]).says("of them by content");
        let file = site.cluster.wal(&segment);
        let mut bytes = fs::read(&file).unwrap();
        bytes[60] ^= 1;
        fs::write(&file, bytes).unwrap();
        let check = site.walward(&["--cluster", "main", "check"]).expect(1);
        check.says(&format!("holds something else under the name {segment}"));
        // The agent looks at a segment once.
        site.stop_agent();
        site.start_agent();
        eventually("the agent has seen it", Duration::from_mins(2), || {
            let belief = &site.walward(&["--json", "status"]).json()["clusters"][0]["belief"];
            (belief["different_files"] == 1 && belief["oldest_different"] == segment.as_str()).then_some(())
        });
        site.walward(&["status"]).says("DIFFERENT");
        assert!(site.agent.as_ref().unwrap().log().contains("holds something else under the name of this segment"));
    }
}

/// One look that fails is no proof that the difference is gone.
#[test]
fn a_difference_that_was_found_stays_reported_until_a_look_finds_the_same_content() {
    let settings = vec![("wal_keep_size".to_owned(), "1GB".to_owned())];
    let cluster = ClusterOptions { settings, ..ClusterOptions::default() };
    let (mut site, segment) = site_with_segment(SiteOptions { cluster, ..SiteOptions::default() });
    let file = site.cluster.wal(&segment);
    let own = fs::read(&file).unwrap();
    let mut other = own.clone();
    other[60] ^= 1;
    fs::write(&file, other).unwrap();
    // The agent looks at a segment once.
    site.stop_agent();
    site.start_agent();
    let belief = || site.walward(&["--json", "status"]).expect(0).json()["clusters"][0]["belief"].clone();
    let looked = |wanted: u64| {
        eventually(&format!("{wanted} different"), Duration::from_mins(3), || {
            (belief()["different_files"] == wanted).then_some(())
        });
    };
    looked(1);
    let object = site.stored_segments().into_iter().find(|path| path.ends_with(&segment)).unwrap();
    let close = |mode| fs::set_permissions(&object, fs::Permissions::from_mode(mode)).unwrap();
    let agent = site.agent.as_ref().unwrap();
    for _ in 0..2 {
        close(0);
        let from = agent.log().len();
        eventually("a look fails", Duration::from_mins(3), || {
            agent.log().get(from..).is_some_and(|log| log.contains("cannot be compared")).then_some(())
        });
        // Later than that look told what it found.
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(
            (belief()["different_files"].clone(), belief()["oldest_different"].clone()),
            (1.into(), segment.clone().into())
        );
        site.walward(&["status"]).expect(0).says("DIFFERENT");
        site.walward(&["check"]).expect(1).says(&segment);
        close(0o600);
    }
    fs::write(&file, own).unwrap();
    looked(0);
    site.walward(&["check"]).says("of them by content");
}

/// The client asks the default where nothing names a socket, and the check asks the same.
#[test]
fn a_socket_that_archive_command_would_ask_and_nobody_listens_on_is_seen() {
    let (site, _) = site_with_segment(SiteOptions::default());
    let client = site.room.program("walward-wal").display().to_string();
    let stale = site.room.join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    site.room.give_away(&stale);
    for (command, said) in [
        (format!("{client} push %p"), "there is no socket /run/walward/walward.sock, the default"),
        (format!("{client} --socket {} push %p", stale.display()), "nobody listens on"),
        (format!("{client} --socket /gone.sock push %p"), "there is no socket /gone.sock"),
    ] {
        site.cluster.sql(&site.room, &format!("alter system set archive_command = '{command}'"));
        site.cluster.sql(&site.room, "select pg_reload_conf()");
        eventually("the command holds", Duration::from_mins(1), || {
            (site.cluster.sql(&site.room, "show archive_command") == command).then_some(())
        });
        site.walward(&["--cluster", "main", "check"]).expect(1).says(said);
    }
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_refused() {
    let (site, segment) = site_with_segment(SiteOptions::default());
    let copy = copy_of(&site, &segment);
    let bytes = fs::read(&copy).unwrap();
    let next = format!("{}FF", &segment[..22]);
    let zeros = vec![0_u8; bytes.len()];
    let cases: Vec<(&str, &str, &[u8])> = vec![
        ("the pages of another segment", &next, &bytes),
        ("another timeline", "0000000700000000000000FE", &bytes),
        ("cut short", &next, &bytes[..bytes.len() / 2]),
        ("empty", &next, &[]),
        ("zeros", &next, &zeros),
        ("not WAL at all", &next, b"#!/bin/sh\nexit 0\n"),
        ("a name that PostgreSQL never makes", "000000010000000000000001.bak", &bytes),
        ("any file", "postgresql.conf", &bytes),
        ("a history that is none", "00000009.history", b"\xff\xfe not a history"),
    ];
    for (what, name, content) in cases {
        let file = site.put_wal(name, content);
        let outcome = push(&site, &file);
        assert_eq!(outcome.code, 1, "{what}: {}", outcome.stderr);
        assert!(outcome.stderr.len() > 20, "{what}: says too little: {:?}", outcome.stderr);
        let nowhere = site.room.join("nowhere");
        let fetched = site.client(&["--cluster", "main", "fetch", name, nowhere.to_str().unwrap()]);
        // What can be no name of WAL is no question whose answer is "absent".
        let is_name = name.parse::<walward_pg::WalFileName>().is_ok();
        assert_eq!(fetched.code, if is_name { 1 } else { 255 }, "{what}: {}", fetched.stderr);
        assert!(!nowhere.exists(), "{what}: it was archived");
    }
    push(&site, &site.cluster.wal("000000010000000000000099")).expect(1);
    // Nor anything from another place than pg_wal, whatever it is.
    push(&site, &copy).expect(1).says("pg_wal");
}

#[test]
fn another_clusters_wal_is_refused() {
    let (mut site, _) = site_with_segment(SiteOptions::default());
    let identifier = "Database system identifier";
    let first = site.cluster.control(&site.room, identifier);
    site.destroy();
    // Somebody ran initdb in the same place, and archiving goes on as configured.
    let mut other = Cluster::create(&site.room, "main", &Version::main(), &ClusterOptions::default());
    other.set("archive_mode", "on");
    other.set("archive_command", &site.archive_command());
    other.start(&site.room);
    other.switch_wal(&site.room);
    eventually("PostgreSQL counts a failure", Duration::from_mins(1), || {
        (other.sql(&site.room, "select failed_count > 0 from pg_stat_archiver") == "t").then_some(())
    });
    assert_eq!(other.sql(&site.room, "select archived_count from pg_stat_archiver"), "0");
    // The message names both clusters, in PostgreSQL's own log.
    other.assert_logged(&first);
    other.assert_logged(&other.control(&site.room, identifier));
}

#[test]
fn one_agent_serves_two_clusters() {
    let mut site = Site::prepare(SiteOptions::default());
    let mut second = Cluster::create(&site.room, "second", &Version::main(), &ClusterOptions::default());
    second.set("archive_mode", "on");
    second.set("archive_command", &site.archive_command());
    let more = format!(
        "\n[cluster.second]\ndata_directory = {:?}\nconnection = \"{}\"\nrepositories = [\"store\"]\n",
        second.data,
        second.connection("postgres")
    );
    site.write_config(&(site.config_text() + &more));
    site.set_up("second");
    site.cluster.start(&site.room);
    second.start(&site.room);
    site.start_agent();
    let segments: Vec<String> = [&site.cluster, &second]
        .into_iter()
        .map(|cluster| {
            let segment = cluster.switch_wal(&site.room);
            cluster.wait_archived(&site.room, &segment);
            segment
        })
        .collect();
    assert_eq!(segments[0], segments[1], "the same name, from two clusters");
    let folder = site.room.make_folder("fetched");
    let fetched = ["main", "second"].map(|name| {
        let file = folder.join(name);
        site.client(&["--cluster", name, "fetch", &segments[0], file.to_str().unwrap()]).expect(0);
        fs::read(file).unwrap()
    });
    assert!(fetched[0] != fetched[1], "one cluster's WAL was given to the other");
}

#[test]
fn a_killed_agent_loses_nothing() {
    let (mut site, _) = site_with_segment(SiteOptions::default());
    let mut segments = Vec::new();
    for round in 0..6_u64 {
        for _ in 0..4 {
            site.cluster.sql(&site.room, "insert into t select generate_series(1, 1000)");
            segments.push(site.cluster.switch_wal(&site.room));
        }
        std::thread::sleep(Duration::from_millis(37 * round));
        site.agent.take().unwrap().kill();
        site.start_agent();
    }
    let last = segments.last().unwrap();
    site.cluster.wait_archived(&site.room, last);
    for segment in &segments {
        let copy = copy_of(&site, segment);
        let original = site.cluster.wal(segment);
        if original.exists() {
            assert!(fs::read(&original).unwrap() == fs::read(&copy).unwrap(), "{segment} differs");
        }
    }
}

#[test]
fn a_stopped_agent_answers_nothing_wrong_and_the_archiver_goes_on_later() {
    let (mut site, _) = site_with_segment(SiteOptions::default());
    site.stop_agent();
    assert!(!site.socket.exists() || std::os::unix::net::UnixStream::connect(&site.socket).is_err());
    let segment = site.cluster.switch_wal(&site.room);
    eventually("PostgreSQL counts a failure", Duration::from_mins(1), || {
        (site.cluster.sql(&site.room, "select failed_count > 0 from pg_stat_archiver") == "t").then_some(())
    });
    site.start_agent();
    site.cluster.wait_archived(&site.room, &segment);
}

#[test]
fn a_store_that_hangs_fails_a_push_within_its_deadline_and_heals() {
    let (site, _) = site_with_segment(SiteOptions {
        store: StoreKind::S3,
        cluster_settings: "archive.deadline = \"3s\"\n".to_owned(),
        repository_settings: "limits.request_timeout = \"2s\"\nlimits.retry_deadline = \"2s\"\n".to_owned(),
        ..SiteOptions::default()
    });
    let s3 = site.s3.as_ref().unwrap();
    s3.freeze();
    let segment = site.cluster.switch_wal(&site.room);
    eventually("PostgreSQL counts a failure", Duration::from_mins(1), || {
        (site.cluster.sql(&site.room, "select failed_count > 0 from pg_stat_archiver") == "t").then_some(())
    });
    s3.thaw();
    site.cluster.wait_archived(&site.room, &segment);
    copy_of(&site, &segment);
}

#[test]
fn without_an_agent_the_command_line_does_the_same_work() {
    let mut site = Site::prepare(SiteOptions::default());
    let walward = site.room.program("walward");
    let command = format!("{} --config {} --cluster main wal", walward.display(), site.config.display());
    site.cluster.set("archive_command", &format!("{command} push %p"));
    site.cluster.start(&site.room);
    site.cluster.sql(&site.room, "create table t as select generate_series(1, 1000) as id");
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let file = site.room.make_folder("fetched").join(&segment);
    let fetch = |name: &str| site.walward(&["--cluster", "main", "wal", "fetch", name, file.to_str().unwrap()]);
    fetch(&segment).expect(0);
    assert!(fs::read(&file).unwrap() == fs::read(site.cluster.wal(&segment)).unwrap());
    fs::remove_file(&file).unwrap();
    fetch("0000000100000000000000FE").expect(1);
    fs::rename(site.repository_folder(), site.room.join("away")).unwrap();
    fetch(&segment).expect(255);
    assert!(!file.exists());
}
