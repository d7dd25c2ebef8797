//! What runs in the agent for longer than a request, and who decides about it.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Site, SiteOptions, eventually};

const PATIENCE: Duration = Duration::from_mins(1);

fn jobs(site: &Site) -> Vec<Value> {
    let answer = site.walward(&["--json", "jobs", "list"]).expect(0);
    let answer: Value = serde_json::from_str(&answer.stdout).expect("JSON");
    answer["jobs"].as_array().expect("jobs").clone()
}

/// A server whose WAL is archived only when the test says so: a backup waits for its own.
fn held_up() -> Site {
    let site = Site::start(SiteOptions::default());
    archives(&site, "false");
    site
}

fn archives(site: &Site, command: &str) {
    let quoted = command.replace('\'', "''");
    site.cluster.sql(&site.room, &format!("ALTER SYSTEM SET archive_command = '{quoted}'"));
    site.cluster.sql(&site.room, "SELECT pg_reload_conf()");
}

/// `walward backup`, when it has come so far that it waits for WAL, and the name of its job.
fn begun(site: &Site) -> (Child, String) {
    let mut command = site.walward_command(&["--cluster", "main", "backup"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    let job = eventually("the backup waits for its WAL", PATIENCE, || {
        let jobs = jobs(site);
        let job =
            jobs.last().filter(|job| job["state"] == "running" && job["progress"]["phase"] == "waiting_for_wal")?;
        Some(job["id"].as_str().expect("a name").to_owned())
    });
    (child, job)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("signalled");
}

#[test]
fn a_backup_goes_on_when_its_client_is_gone_and_when_the_configuration_is_read_anew() {
    let site = held_up();
    let (mut child, job) = begun(&site);
    signal(&child, Signal::KILL);
    child.wait().expect("ended");
    site.agent.as_ref().expect("an agent").reload();
    site.walward(&["--cluster", "main", "backup"]).expect(11).says(&format!("walward jobs watch {job}"));
    assert_eq!(jobs(&site).len(), 1, "what was refused is no job");
    site.walward(&["status"]).expect(0).says("is running").says(&job);
    archives(&site, &site.archive_command());
    let watched = site.walward(&["--json", "jobs", "watch", &job]).expect(0);
    let result: Value = serde_json::from_str(watched.stdout.lines().last().expect("a line")).expect("JSON");
    let label = result["backup"]["label"].as_str().expect("a label");
    site.walward(&["--cluster", "main", "info"]).expect(0).says(label);
    let ended = jobs(&site).pop().expect("remembered");
    assert_eq!((&ended["state"], &ended["code"]), (&Value::from("done"), &Value::from(0)), "{ended}");
    // Who comes late is told the same.
    site.walward(&["jobs", "watch", &job]).expect(0).says(label);
    site.walward(&["jobs", "watch", "backup-99"]).expect(14).says("walward jobs list");
    // Another agent has no job of that name, whatever it begins.
    let mut site = site;
    site.stop_agent();
    site.start_agent();
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let next = jobs(&site).pop().expect("remembered");
    assert_ne!(next["id"].as_str(), Some(job.as_str()));
}

#[test]
fn a_backup_that_is_cancelled_ends_in_order_however_that_is_said() {
    let site = held_up();
    let free = || {
        let answer = site.walward(&["--json", "--cluster", "main", "lease", "list"]).expect(0);
        assert!(answer.stdout.contains("\"released\"") && !answer.stdout.contains("\"held\""), "{}", answer.stdout);
    };
    let state =
        |job: &str| jobs(&site).into_iter().find(|found| found["id"] == job).expect("remembered")["state"].clone();
    // By Ctrl-C at the client.
    let (mut child, job) = begun(&site);
    signal(&child, Signal::INT);
    let ended = child.wait().expect("ended");
    assert_eq!((ended.code(), ended.signal()), (Some(130), None));
    assert_eq!(state(&job), "cancelled");
    free();
    // By a command, of one that nobody watches.
    let told = site.walward(&["--json", "--cluster", "main", "backup", "--detach"]).expect(0);
    let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
    let job = told["job"].as_str().expect("a name").to_owned();
    site.walward(&["jobs", "cancel", &job]).expect(0).says(&job);
    site.walward(&["jobs", "watch", &job]).expect(130);
    assert_eq!(state(&job), "cancelled");
    free();
    site.walward(&["status"]).expect(0).says("cancelled");
    // The place is free again.
    archives(&site, &site.archive_command());
    site.walward(&["--cluster", "main", "backup"]).expect(0);
}

#[test]
fn a_backup_that_is_cancelled_in_its_checkpoint_leaves_nothing_at_work_on_the_server() {
    let mut site = Site::start(SiteOptions {
        cluster_settings: "backup.fast_checkpoint = false\n".to_owned(),
        ..SiteOptions::default()
    });
    // A checkpoint that is spread over an hour.
    for statement in [
        "ALTER SYSTEM SET checkpoint_timeout = '1h'",
        "SELECT pg_reload_conf()",
        "CREATE TABLE pages AS SELECT n, repeat('x', 500) AS text FROM generate_series(1, 20000) AS n",
        "CHECKPOINT",
        "UPDATE pages SET n = n + 1",
    ] {
        site.cluster.sql(&site.room, statement);
    }
    let waiting = |site: &Site| -> u32 {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
            AND query ~ 'pg_(backup_start|start_backup)'";
        site.cluster.sql(&site.room, count).trim().parse().expect("a number")
    };
    let begun = |site: &Site| {
        eventually("the backup waits for its checkpoint", PATIENCE, || (waiting(site) == 1).then_some(()));
    };
    let nothing_left = |site: &Site, how: &str| {
        eventually(how, PATIENCE, || (waiting(site) == 0).then_some(()));
    };
    let detach = |site: &Site| -> String {
        let told = site.walward(&["--json", "--cluster", "main", "backup", "--detach"]).expect(0);
        let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
        begun(site);
        told["job"].as_str().expect("a name").to_owned()
    };
    // By a command.
    let job = detach(&site);
    site.walward(&["jobs", "cancel", &job]).expect(0);
    site.walward(&["jobs", "watch", &job]).expect(130);
    nothing_left(&site, "after jobs cancel");
    // Without the agent: as the agent's user, and as root, who connects as that user.
    let arguments = ["--cluster", "main", "backup", "--no-agent"];
    let mut as_root = std::process::Command::new(site.room.program("walward"));
    as_root.arg("--config").arg(&site.config).arg("--no-input").args(arguments);
    for mut command in [site.walward_command(&arguments), as_root] {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        begun(&site);
        signal(&child, Signal::INT);
        assert_eq!(child.wait().expect("ended").code(), Some(130));
        nothing_left(&site, "after Ctrl-C");
    }
    // With the agent's end.
    detach(&site);
    site.agent.take().expect("an agent").stop();
    nothing_left(&site, "after the agent's end");
}
