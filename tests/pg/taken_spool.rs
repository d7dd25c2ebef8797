//! A spool that goes while the agent runs, and what another user puts in its place: none of it is used, and a recovery has every row.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Cluster, ClusterOptions, Daemon, Ended, Site, SiteOptions, eventually};

const STRANGER: u32 = 65534;

/// A site, a cluster restored from it that is not started yet, and what it has to hold.
fn site_with_restore() -> (Site, Cluster, String) {
    let cluster = ClusterOptions { segment_mib: 1, ..ClusterOptions::default() };
    let mut site = Site::start(SiteOptions { cluster, ..SiteOptions::default() });
    site.cluster.sql(&site.room, "create table t (id int)");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let mut last = String::new();
    for _ in 0..12 {
        site.cluster.sql(&site.room, "insert into t select generate_series(1, 200)");
        last = site.cluster.switch_wal(&site.room);
    }
    site.cluster.wait_archived(&site.room, &last);
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    site.destroy();
    let restored = site.restore("restored", &[]);
    (site, restored, expected)
}

/// An agent of root's in the place of the site's.
fn as_roots(site: &mut Site) -> Daemon {
    site.stop_agent();
    // Whom the agent serves is told by the owner of the cluster's data directory, which was destroyed.
    site.room.make_folder("main");
    site.room.as_made_by_the_system();
    chown(site.room.join("spool"), Some(0), Some(0)).unwrap();
    fs::set_permissions(site.room.join("spool"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::remove_dir(site.room.join("spool/main")).unwrap();
    let mut command = Command::new(site.room.program("walwardd"));
    command.arg("--config").arg(&site.config).current_dir("/");
    let agent = Daemon::start("walwardd", command, &site.room.join("root.log"), Signal::TERM);
    eventually("the agent is ready", Duration::from_secs(30), || {
        agent.log().contains("walwardd is ready").then_some(())
    });
    agent
}

/// The spool of the agent that runs.
fn spool(site: &Site) -> PathBuf {
    let folders = fs::read_dir(site.room.join("spool/main")).unwrap().map(|entry| entry.unwrap().path());
    let is_spool = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().parse::<u64>().is_ok();
    let mut spools: Vec<PathBuf> = folders.filter(is_spool).collect();
    assert_eq!(spools.len(), 1, "{spools:?}");
    spools.remove(0)
}

/// Removes the folder and makes it anew as another user, open to all.
fn take(spool: &Path) {
    fs::remove_dir_all(spool).unwrap();
    fs::create_dir(spool).unwrap();
    fs::set_permissions(spool, fs::Permissions::from_mode(0o777)).unwrap();
    chown(spool, Some(STRANGER), Some(STRANGER)).unwrap();
}

/// Recovers while a stranger has the spool; what the agent wrote to its log.
fn recover(site: &Site, restored: &mut Cluster, expected: &str, log: impl Fn() -> String) {
    let spool = spool(site);
    take(&spool);
    restored.start(&site.room);
    site.wait_promoted(restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
    let left: Vec<_> = fs::read_dir(&spool).unwrap().collect();
    assert!(left.is_empty(), "the agent uses what is a stranger's: {left:?}");
    assert_eq!(fs::metadata(&spool).unwrap().uid(), STRANGER);
    assert!(log().contains("the spool is gone, and cannot be made anew"), "{}", log());
    // The stranger goes, and there is a spool again.
    fs::remove_dir(&spool).unwrap();
    let segment = site.stored_segments().into_iter().max().unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
    let copy = site.room.make_folder("copies").join(&name);
    site.client(&["--cluster", "main", "fetch", &name, copy.to_str().unwrap()]).expect(0);
    assert!(spool.is_dir() && fs::metadata(&spool).unwrap().uid() != STRANGER, "it is not made anew");
}

#[test]
#[ignore = "needs root, to be somebody else; scripts/test.sh runs it as root"]
fn as_root_a_spool_that_a_stranger_made_anew_is_not_used_and_a_recovery_has_every_row() {
    let (site, mut restored, expected) = site_with_restore();
    site.room.make_folder("main");
    recover(&site, &mut restored, &expected, || site.agent.as_ref().unwrap().log());
}

#[test]
#[ignore = "runs the agent as root; scripts/test.sh runs it"]
fn as_root_a_spool_of_an_agent_of_roots_that_a_stranger_made_anew_is_not_used_either() {
    let (mut site, mut restored, expected) = site_with_restore();
    let agent = as_roots(&mut site);
    recover(&site, &mut restored, &expected, || agent.log());
}

/// Between the agent's answer and the client's look at the file: a stranger who has the folder puts WAL of his own under every name there.
#[test]
#[ignore = "needs root, to be somebody else; scripts/test.sh runs it as root"]
fn as_root_wal_that_a_stranger_puts_where_the_agent_said_that_a_file_is_is_never_placed() {
    const FORGED: &[u8] = b"forged";
    let (site, mut restored, expected) = site_with_restore();
    site.room.make_folder("main");
    let spool = spool(&site);
    // The stranger may change every name there, and the agent looks at the folder only.
    fs::set_permissions(&spool, fs::Permissions::from_mode(0o777)).unwrap();
    let stop = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let names = fs::read_dir(&spool).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
                for path in names.filter(|path| path.extension().is_some_and(|end| end != "theirs")) {
                    let theirs = path.with_extension("theirs");
                    let forged = fs::write(&theirs, FORGED).and_then(|()| {
                        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o666))?;
                        chown(&theirs, Some(STRANGER), Some(STRANGER))?;
                        fs::rename(&theirs, &path)
                    });
                    drop(forged);
                }
            }
        });
        let ended = restored.start_and_see(&site.room, Duration::from_mins(2));
        if ended == Ended::Serving {
            // It stops at the first file, unless its client was faster than the stranger.
            let stopped = || {
                let answer = restored.try_sql(&site.room, "select pg_is_in_recovery()");
                (answer.is_err() || answer.is_ok_and(|answer| answer == "f")).then_some(())
            };
            eventually("the recovery ends, or stops", Duration::from_mins(2), stopped);
        }
        stop.store(true, Ordering::Relaxed);
        ended
    });
    let log = restored.log_text();
    let is_refused =
        log.contains("who is neither root nor this user nor the agent's") || log.contains("it was replaced while");
    assert!(is_refused, "{ended:?}\n{log}");
    assert!(!log.contains("archive recovery complete"), "it promoted\n{log}");
    let pg_wal = fs::read_dir(restored.data.join("pg_wal")).unwrap().map(|entry| entry.unwrap().path());
    assert!(pg_wal.filter(|path| path.is_file()).all(|path| fs::read(path).unwrap() != FORGED));
    restored.wait_stopped_if_running();
    // The stranger has gone.
    for entry in fs::read_dir(&spool).unwrap() {
        // The agent removes what is left over, too.
        let _ = fs::remove_file(entry.unwrap().path());
    }
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
}
