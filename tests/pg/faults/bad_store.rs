//! A store that misbehaves for a while and heals, seen by archiving and by recovery.

use std::time::{Duration, Instant};

use super::{assert_archived, assert_archived_in, drain, failures, options, status, wait_failed, write_segments};
use crate::support::{Cluster, Ended, Mode, Site, StoreKind, eventually};

fn site() -> Site {
    let site = Site::start(super::SiteOptions { proxied: true, ..options(StoreKind::S3) });
    site.cluster.sql(&site.room, "create table t (id int)");
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    site
}

/// Archiving under each of `modes`, which all fail every request; `words` are what `status` and `check` must say then.
fn archive_through(modes: &[(Mode, &[&str])]) {
    let site = site();
    let proxy = site.proxy.as_ref().unwrap();
    for (mode, words) in modes {
        let before = failures(&site);
        proxy.set(*mode);
        write_segments(&site, 3);
        wait_failed(&site, before);
        // The agent answers whatever the store does, and in time: push and fetch have deadlines of 3 and 4 s.
        let begun = Instant::now();
        let waiting = site.cluster.wal(&site.cluster.archive_status("ready")[0]);
        site.client(&["push", waiting.to_str().unwrap()]).expect(1);
        assert!(begun.elapsed() < Duration::from_secs(15), "{mode:?}: push took {:?}", begun.elapsed());
        let (begun, nowhere) = (Instant::now(), site.room.join("nowhere"));
        let name = "0000000100000000000000FE";
        site.client(&["--cluster", "main", "fetch", name, nowhere.to_str().unwrap()]).expect(255);
        assert!(!nowhere.exists(), "{mode:?}: a file was placed");
        assert!(begun.elapsed() < Duration::from_secs(20), "{mode:?}: fetch took {:?}", begun.elapsed());
        let begun = Instant::now();
        let mut said = status(&site).says("repository  store").says("failing");
        for word in *words {
            said = said.says(word);
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "{mode:?}: status took {:?}", begun.elapsed());
        let mut checked = site.walward(&["check"]).expect(1).says("repository (main, store)").says("->");
        for word in *words {
            checked = checked.says(word);
        }
        assert!(begun.elapsed() < Duration::from_secs(45), "{mode:?}: check took {:?}", begun.elapsed());
        proxy.set(Mode::Pass);
        drain(&site, &site.cluster, Duration::from_secs(45));
    }
    site.walward(&["check"]).expect(3).says("there is none yet");
    assert_archived(&site, &site.cluster);
}

#[test]
fn a_store_that_refuses_for_a_while_loses_nothing_and_the_backlog_drains() {
    archive_through(&[
        (Mode::Answer(503, "SlowDown"), &["503", "SlowDown"]),
        (Mode::Answer(429, "TooManyRequests"), &["429"]),
        (Mode::Answer(500, "InternalError"), &["500"]),
    ]);
}

#[test]
fn a_login_page_that_answers_every_request_with_success_archives_nothing() {
    let site = site();
    let proxy = site.proxy.as_ref().unwrap();
    let archived = || site.cluster.sql(&site.room, "select archived_count from pg_stat_archiver");
    let (before, failed) = (archived(), failures(&site));
    proxy.set(Mode::Portal);
    write_segments(&site, 3);
    wait_failed(&site, failed);
    // Long enough for PostgreSQL to have asked for each of them.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(archived(), before);
    status(&site).says("failing").says("Guest network").says("check endpoint");
    site.walward(&["check"]).expect(1).says("Guest network").says("from portal");
    // Neither an empty archive nor the end of one.
    let nowhere = site.room.join("nowhere");
    site.client(&["--cluster", "main", "fetch", "0000000100000000000000FE", nowhere.to_str().unwrap()]).expect(255);
    for command in [&["info"][..], &["wal", "list"], &["wal", "gaps"]] {
        let said = site.walward(command).expect(13);
        assert!(!said.stdout.contains("no gaps"), "{command:?}: {said:?}");
        said.says("check endpoint");
    }
    proxy.set(Mode::Pass);
    drain(&site, &site.cluster, Duration::from_secs(45));
    assert_archived(&site, &site.cluster);
}

#[test]
fn something_else_that_answers_for_the_store_is_not_believed() {
    archive_through(&[
        // A portal that wants a login and says 200 to everything; a wrong address; an emptied bucket.
        (Mode::Answer(200, "OK"), &["cannot"]),
        (Mode::Answer(404, "NotFound"), &["404"]),
        (Mode::Answer(404, "NoSuchKey"), &["NoSuchKey"]),
        (Mode::Answer(404, "NoSuchBucket"), &["NoSuchBucket"]),
    ]);
}

#[test]
fn many_reloads_while_the_store_hangs_take_no_more_than_two_configurations() {
    const RELOADS: usize = 200;
    let site = site();
    let (proxy, agent) = (site.proxy.as_ref().unwrap(), site.agent.as_ref().unwrap());
    proxy.set(Mode::BlackHole);
    write_segments(&site, 12);
    eventually("uploads hang", Duration::from_secs(20), || (proxy.held() >= 1).then_some(()));
    let spools = site.room.join("spool").join("main");
    let pid = site.walward(&["--json", "status"]).json()["pid"].as_u64().expect("a number");
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    // Descriptors, threads, spools.
    let now =
        || [count(&format!("/proc/{pid}/fd")), count(&format!("/proc/{pid}/task")), count(spools.to_str().unwrap())];
    let (mut most, mut early, mut late) = (0, [0; 3], [0; 3]);
    for number in 1..=RELOADS {
        agent.reload();
        eventually("a reload", Duration::from_secs(20), || {
            (agent.log().matches("configuration reloaded").count() >= number).then_some(())
        });
        // The new configuration finds the waiting files, and hangs, too.
        std::thread::sleep(Duration::from_millis(150));
        most = most.max(proxy.held());
        let seen = if number <= RELOADS / 10 { &mut early } else { &mut late };
        for (most, now) in seen.iter_mut().zip(now()) {
            *most = now.max(*most);
        }
    }
    println!("descriptors, threads, spools: at most {early:?} in the first tenth of {RELOADS} reloads, {late:?} later");
    for (early, late) in early.into_iter().zip(late) {
        assert!(late <= early + 20, "they grow with the reloads: {early} and {late}");
    }
    assert!(late[2] <= 20, "{} spools", late[2]);
    // As many as one store has places, for the calls, and the listing of its identity by a person.
    assert!(most <= 20, "{most} connections hang");
    eventually("the spools go that are no configuration's any more", Duration::from_secs(30), || {
        (std::fs::read_dir(&spools).unwrap().count() <= 2).then_some(())
    });
    let resident = site.walward(&["--json", "status"]).json()["resident_bytes"].as_u64().expect("a number");
    assert!(resident < 200 << 20, "{} MiB resident", resident >> 20);
    proxy.set(Mode::Pass);
    drain(&site, &site.cluster, Duration::from_mins(1));
    assert_archived(&site, &site.cluster);
}

#[test]
fn credentials_that_expire_are_said_and_nothing_is_lost() {
    archive_through(&[
        (Mode::Answer(403, "ExpiredToken"), &["ExpiredToken", "credentials"]),
        (Mode::Answer(403, "AccessDenied"), &["AccessDenied", "credentials"]),
        (Mode::Answer(400, "ExpiredToken"), &["ExpiredToken", "credentials"]),
    ]);
}

#[test]
fn connections_that_break_or_hang_for_a_while_lose_nothing_and_the_backlog_drains() {
    archive_through(&[
        (Mode::Reset, &["cannot"]),
        (Mode::ResetHalfWay, &["cannot"]),
        (Mode::LoseAnswer, &["cannot"]),
        (Mode::BlackHole, &["no answer"]),
    ]);
}

#[test]
fn answers_that_are_cut_damaged_slow_or_sometimes_missing_lose_nothing() {
    let site = site();
    let proxy = site.proxy.as_ref().unwrap();
    for mode in [Mode::Truncate, Mode::Flip, Mode::Slow(256 << 10), Mode::EveryThirdReset] {
        let met = proxy.faults();
        proxy.set(mode);
        write_segments(&site, 6);
        // These need not fail a push; they must not make one succeed wrongly, nor hold it up when they are over.
        std::thread::sleep(Duration::from_secs(4));
        if mode == Mode::EveryThirdReset {
            // Tried again, and nobody notices.
            drain(&site, &site.cluster, Duration::from_secs(45));
        }
        assert!(proxy.faults() > met, "{mode:?} was not met");
        proxy.set(Mode::Pass);
        drain(&site, &site.cluster, Duration::from_secs(45));
    }
    assert_archived(&site, &site.cluster);
}

#[test]
fn with_two_repositories_nothing_is_acknowledged_that_only_one_has() {
    let mut site = Site::prepare(super::SiteOptions { proxied: true, ..options(StoreKind::S3) });
    let second = format!(
        "[repository.second]\nurl = \"file://{}\"\nencryption = \"none\"\n\n[cluster.main]",
        site.repository_folder().display()
    );
    let text = site.config_text().replace("[cluster.main]", &second).replace("[\"store\"]", "[\"store\", \"second\"]");
    site.write_config(&text);
    site.set_up("main");
    site.cluster.start(&site.room);
    site.start_agent();
    site.cluster.sql(&site.room, "create table t (id int)");
    let proxy = site.proxy.as_ref().unwrap();
    for mode in [Mode::Answer(503, "SlowDown"), Mode::BlackHole] {
        let first = write_segments(&site, 1);
        site.cluster.wait_archived(&site.room, &first);
        let before = failures(&site);
        proxy.set(mode);
        let last = write_segments(&site, 3);
        wait_failed(&site, before);
        assert!(!site.cluster.archive_status("done").contains(&last), "acknowledged while one repository fails");
        // One that fails is named; the other is not.
        let said = status(&site).says("repository  second");
        let line =
            |name: &str| said.stdout.lines().find(|line| line.contains(&format!("repository  {name} "))).unwrap();
        assert!(line("store").contains("cannot") && line("second").ends_with("reachable"), "{}", said.stdout);
        proxy.set(Mode::Pass);
        drain(&site, &site.cluster, Duration::from_secs(45));
    }
    assert_archived_in(&site, &site.cluster, "store");
    assert_archived_in(&site, &site.cluster, "second");
}

/// A site with a backup and 40 segments after it, the original stopped; the restored cluster, not started, and its rows.
fn site_with_restore() -> (Site, Cluster, String) {
    let mut site = site();
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let last = write_segments(&site, 40);
    site.cluster.wait_archived(&site.room, &last);
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    assert_archived(&site, &site.cluster);
    site.destroy();
    let restored = site.restore("restored", &[]);
    (site, restored, expected)
}

#[test]
fn a_recovery_through_a_store_that_fails_stops_and_goes_on_when_it_heals() {
    let (site, mut restored, expected) = site_with_restore();
    let proxy = site.proxy.as_ref().unwrap();
    for mode in [
        Mode::Answer(503, "SlowDown"),
        Mode::Answer(403, "ExpiredToken"),
        // A proxy on the way that answers for the store.
        Mode::Answer(404, "NotFound"),
        // An emptied bucket.
        Mode::Answer(404, "NoSuchKey"),
        Mode::Reset,
        Mode::BlackHole,
        Mode::Truncate,
        Mode::Flip,
    ] {
        let logged = restored.log_text().len();
        proxy.set(mode);
        let begun = Instant::now();
        if restored.start_and_see(&site.room, Duration::from_mins(1)) == Ended::Serving {
            restored.wait_stopped(Duration::from_mins(1));
        }
        assert!(begun.elapsed() < Duration::from_mins(1), "{mode:?}: stopped after {:?}", begun.elapsed());
        let log = restored.log_text()[logged..].to_owned();
        assert!(log.contains("FATAL"), "{mode:?}: no FATAL\n{log}");
        assert!(!log.contains("archive recovery complete"), "{mode:?}: it promoted\n{log}");
        proxy.set(Mode::Pass);
        restored.wait_stopped_if_running();
    }
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
}

#[test]
fn a_recovery_through_a_store_that_is_unreliable_or_slow_gets_every_row() {
    let (site, mut restored, expected) = site_with_restore();
    let proxy = site.proxy.as_ref().unwrap();
    let met = proxy.faults();
    proxy.set(Mode::EveryThirdReset);
    restored.spawn(&site.room);
    std::thread::sleep(Duration::from_secs(2));
    proxy.set(Mode::Slow(2 << 20));
    site.wait_promoted(&restored);
    assert!(proxy.faults() > met + 20, "the faults were not met");
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
}
