//! A data directory whose file system hangs: nothing waits for it for ever, and nobody else is held up.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Answers, Daemon, Hung, Outcome, Site, SiteOptions, eventually};

/// More than any of it takes; what hangs takes for ever.
const PATIENCE: Duration = Duration::from_secs(90);

fn site(read_deadline: &str) -> Site {
    let cluster_settings = format!("backup = {{ read_deadline = \"{read_deadline}\" }}\n");
    Site::start(SiteOptions { encrypted: false, cluster_settings, ..SiteOptions::default() })
}

/// A file in the data directory that PostgreSQL knows nothing of.
fn extra(site: &Site) -> PathBuf {
    let path = site.cluster.data.join("extra");
    std::fs::write(&path, [7; 8192]).unwrap();
    site.room.give_away(&path);
    path
}

fn leases(site: &Site) -> Vec<String> {
    let answer = site.walward(&["--json", "lease", "list"]).expect(0).json();
    answer["leases"].as_array().unwrap().iter().map(|lease| lease["state"].as_str().unwrap().to_owned()).collect()
}

/// Nobody but who asks is connected: a backup lasts as long as its session.
fn wait_left_backup_mode(site: &Site) {
    let others =
        "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";
    eventually("the server leaves backup mode", PATIENCE, || {
        (site.cluster.sql(&site.room, others) == "0").then_some(())
    });
}

fn backup(site: &Site, more: &[&str]) -> Outcome {
    site.walward(&[&["--cluster", "main", "backup"][..], more].concat())
}

/// A backup under way, and its log.
fn begin(site: &Site, more: &[&str]) -> Daemon {
    let command = site.walward_command(&[&["--cluster", "main", "backup"][..], more].concat());
    let begun = Daemon::start("walward", command, &site.room.join("backup.log"), Signal::TERM);
    eventually("the backup has the lease", PATIENCE, || leases(site).contains(&"held".to_owned()).then_some(()));
    begun
}

#[test]
#[ignore = "mounts a file system that hangs, as root; scripts/test.sh runs it"]
fn as_root_a_file_that_hangs_ends_the_backup_by_its_name_and_keeps_nobody_away() {
    let mut site = site("2 s");
    let path = extra(&site);
    // When the files are listed; when they are read.
    for answers in [Answers::Nothing, Answers::AllButContent] {
        let hung = Hung::mount(&path, answers);
        backup(&site, &[]).expect(13).says("main/extra").says("hangs").says("read_deadline");
        wait_left_backup_mode(&site);
        assert_eq!(leases(&site), ["released"]);
        // Neither hangs with it.
        backup(&site, &[]).expect(13).says("still hangs").says("main/extra");
        site.walward(&["status"]).expect(0).says("HANGS").says("main/extra");
        let status = site.walward(&["--json", "status"]).expect(0).json();
        let reads = status["clusters"][0]["hanging_reads"].as_array().unwrap();
        assert!(reads.len() == 1 && reads[0]["path"].as_str().unwrap().ends_with("main/extra"), "{status}");
        backup(&site, &["--no-agent"]).expect(13).says("main/extra");
        let segment = site.cluster.switch_wal(&site.room);
        site.cluster.wait_archived(&site.room, &segment);
        if answers == Answers::AllButContent {
            site.stop_agent();
            site.start_agent();
        }
        drop(hung);
        eventually("a backup can be taken again", PATIENCE, || (backup(&site, &[]).code == 0).then_some(()));
    }
}

#[test]
#[ignore = "mounts a file system that hangs, as root; scripts/test.sh runs it"]
fn as_root_a_backup_that_hangs_ends_when_it_is_told_to() {
    let mut site = site("30 min");
    let path = extra(&site);
    for answers in [Answers::Nothing, Answers::AllButContent] {
        let hung = Hung::mount(&path, answers);
        for by_agent in [false, true] {
            let mut begun = begin(&site, if by_agent { &[] } else { &["--no-agent"] });
            std::thread::sleep(Duration::from_secs(3));
            assert!(begun.ended().is_none(), "{}", begun.log());
            let told = Instant::now();
            if by_agent {
                site.stop_agent();
            } else {
                begun.signal(Signal::TERM);
            }
            let status = begun.wait(PATIENCE);
            assert!(told.elapsed() < Duration::from_secs(30), "{:?}", told.elapsed());
            assert_eq!(status.code(), Some(130), "{}", begun.log());
            wait_left_backup_mode(&site);
            assert!(!leases(&site).contains(&"held".to_owned()));
        }
        site.start_agent();
        drop(hung);
    }
}
