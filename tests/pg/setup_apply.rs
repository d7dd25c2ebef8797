//! `walward setup --apply` on real servers: from a fresh one to a restore, beside another tool, without rights, on a standby.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Agent, Cluster, ClusterOptions, Outcome, Room, Stop, Version, eventually, on_every_version};

/// A server without any archiving, and where setup shall put things.
pub struct Bare {
    pub agent: Option<Agent>,
    pub cluster: Cluster,
    pub config: PathBuf,
    pub socket: PathBuf,
    pub url: String,
    pub room: Room,
}

impl Bare {
    pub fn new(version: &Version, settings: &[(&str, &str)]) -> Self {
        let room = Room::new();
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut cluster =
            Cluster::create(&room, "main", version, &ClusterOptions { settings, ..ClusterOptions::default() });
        // As Debian has it: nobody is who he says, but who the kernel says he is.
        if rustix::process::geteuid().is_root() {
            room.write("main/pg_hba.conf", "local all all peer\nlocal replication all peer\n");
        }
        cluster.start(&room);
        room.make_folder("conf.d");
        room.write("conf.d/spool.toml", format!("[agent]\nspool_directory = {:?}\n", room.make_folder("spool")));
        let url = format!("file://{}", room.make_folder("repository").display());
        let (config, socket) = (room.join("walward.toml"), room.make_folder("run").join("walward.sock"));
        Self { agent: None, cluster, config, socket, url, room }
    }

    pub fn walward(&self, arguments: &[&str]) -> Outcome {
        let mut command: Command = self.room.command(self.room.program("walward"));
        Outcome::of(command.arg("--config").arg(&self.config).args(["--no-input", "--json"]).args(arguments))
    }

    pub fn setup_arguments(&self, more: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> = [
            "setup",
            "--cluster",
            "main",
            "--data-directory",
            self.cluster.data.to_str().unwrap(),
            "--connection",
            &self.cluster.connection("walward"),
            "--repository-url",
            &self.url,
            "--socket",
            self.socket.to_str().unwrap(),
        ]
        .map(str::to_owned)
        .to_vec();
        if !rustix::process::geteuid().is_root() {
            arguments.extend(["--admin-connection".to_owned(), self.cluster.connection("postgres")]);
        }
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        arguments
    }

    pub fn setup(&self, more: &[&str]) -> Outcome {
        let arguments = self.setup_arguments(more);
        self.walward(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn start_agent(&mut self) {
        self.agent = Some(Agent::start(&self.room, &self.config, &self.socket, &self.room.join("walwardd.log")));
    }

    fn restart(&mut self) {
        self.cluster.stop(Stop::Fast);
        self.cluster.start(&self.room);
    }

    pub fn show(&self, setting: &str) -> String {
        self.cluster.sql(&self.room, &format!("show {setting}"))
    }
}

/// The one cluster of an answer.
pub fn cluster(answer: &Value) -> &Value {
    assert_eq!(answer["schema"], "walward.setup/1");
    &answer["clusters"][0]
}

/// What is left to do, as one text.
pub fn left(answer: &Value) -> String {
    cluster(answer)["left"].to_string()
}

fn from_nothing(version: Version) {
    let mut bare = Bare::new(&version, &[("wal_level", "minimal"), ("max_wal_senders", "0")]);
    let dry = bare.setup(&["--dry-run"]).expect(0).json();
    assert_eq!((dry["changed"].as_bool(), dry["dry_run"].as_bool()), (Some(true), Some(true)));
    assert!(!bare.config.exists() && std::fs::read_dir(bare.room.join("repository")).unwrap().next().is_none());
    assert_eq!(bare.show("archive_mode"), "off");

    let first = bare.setup(&["--apply"]).expect(0).json();
    assert_eq!(cluster(&first)["restart"], serde_json::json!(["wal_level", "archive_mode"]), "{first:#}");
    let text = left(&first);
    for wanted in ["walwardd --config", "restart", "keep a copy of", "walward --config", "backup"] {
        assert!(text.contains(wanted), "{wanted:?} is not left to do: {text}");
    }
    bare.start_agent();
    bare.restart();
    let second = bare.setup(&["--apply"]).expect(0).json();
    let segment = cluster(&second)["first_segment"]["segment"].as_str().unwrap_or_else(|| panic!("{second:#}"));
    assert_eq!(segment.len(), 24);
    // Everything stands: nothing is changed, nothing is even switched.
    let before = std::fs::read(&bare.config).unwrap();
    let hba = std::fs::read(bare.cluster.data.join("pg_hba.conf")).unwrap();
    let third = bare.setup(&["--apply"]).expect(0).json();
    assert_eq!(third["changed"], false, "{third:#}");
    assert_eq!(cluster(&third)["steps"], serde_json::json!([]), "{third:#}");
    assert_eq!(cluster(&third)["first_segment"], Value::Null, "{third:#}");
    assert_eq!(std::fs::read(&bare.config).unwrap(), before);
    assert_eq!(std::fs::read(bare.cluster.data.join("pg_hba.conf")).unwrap(), hba);

    bare.cluster.sql(&bare.room, "create table t as select generate_series(1, 1000) as id");
    bare.walward(&["backup"]).expect(0);
    bare.walward(&["check", "--switch-wal"]).expect_healthy();
    let last = bare.setup(&["--apply"]).expect(0).json();
    assert_eq!(cluster(&last)["left"], serde_json::json!([]), "{last:#}");
    let target = bare.room.join("restored");
    let restore = ["--yes", "restore", "--archive-mode", "off", "--target-directory", target.to_str().unwrap()];
    bare.walward(&restore).expect(0);
    let mut restored = Cluster::adopt(&bare.room, "restored", &version, target.clone());
    restored.start(&bare.room);
    eventually("the recovery ends", Duration::from_mins(1), || {
        (restored.sql(&bare.room, "select pg_is_in_recovery()") == "f").then_some(())
    });
    assert_eq!(restored.fingerprint(&bare.room, &["t"]), bare.cluster.fingerprint(&bare.room, &["t"]));
}

on_every_version!(setup_brings_a_fresh_server_to_a_restore, super::from_nothing);

#[test]
fn another_tool_is_kept_joined_and_replaced_only_as_it_is_said() {
    let mut bare = Bare::new(&Version::main(), &[("archive_mode", "on")]);
    let theirs = bare.room.make_folder("theirs");
    // As the PostgreSQL manual has it: a file that is there is refused.
    let script = format!("#!/bin/sh\ntest ! -e {0}/$2 && cp \"$1\" {0}/$2\n", theirs.display());
    let program = bare.room.write_with_mode("pgbackrest", script, 0o700);
    let old = format!("{} %p %f", program.display());
    bare.cluster.sql(&bare.room, &format!("alter system set archive_command = '{old}'"));
    bare.cluster.sql(&bare.room, "select pg_reload_conf()");
    let has = |bare: &Bare, segment: &str| -> (bool, bool) {
        let ours = bare.walward(&["wal", "list", "-v"]).expect(0).stdout;
        (ours.contains(segment), theirs.join(segment).exists())
    };

    let kept = bare.setup(&["--apply"]).expect(0).json();
    assert_eq!(cluster(&kept)["archives"], serde_json::json!({ "who": "other", "tool": "pgbackrest" }), "{kept:#}");
    assert!(left(&kept).contains("--archive-command beside") && left(&kept).contains("pgBackRest"), "{kept:#}");
    assert_eq!(bare.show("archive_command"), old);

    // Nobody would answer: it would stop the other tool, too.
    bare.setup(&["--apply", "--archive-command", "beside"]).expect(16).says("start the agent");
    assert_eq!(bare.show("archive_command"), old);
    bare.start_agent();
    bare.setup(&["--apply", "--archive-command", "replace"]).expect(16).says("backup");
    assert_eq!(bare.show("archive_command"), old);

    let both = bare.setup(&["--apply", "--archive-command", "beside"]).expect(0).json();
    let segment = cluster(&both)["first_segment"]["segment"].as_str().unwrap_or_else(|| panic!("{both:#}"));
    assert!(bare.show("archive_command").ends_with(&format!("&& {{ {old}; }}")));
    bare.cluster.wait_archived(&bare.room, segment);
    assert_eq!(has(&bare, segment), (true, true));
    // The agent goes away: neither gets what the other lacks, and both get it in the end.
    bare.agent.take().unwrap().stop();
    let missed = bare.cluster.switch_wal(&bare.room);
    eventually("archiving fails", Duration::from_mins(1), || {
        (bare.cluster.sql(&bare.room, "select failed_count > 0 from pg_stat_archiver") == "t").then_some(())
    });
    assert!(!theirs.join(&missed).exists());
    bare.start_agent();
    bare.cluster.switch_wal(&bare.room);
    bare.cluster.wait_archived(&bare.room, &missed);
    assert_eq!(has(&bare, &missed), (true, true));

    bare.walward(&["backup"]).expect(0);
    let over = bare.setup(&["--apply", "--archive-command", "replace"]).expect(0).json();
    assert_eq!(cluster(&over)["archives"]["who"], "walward", "{over:#}");
    let segment = bare.cluster.switch_wal(&bare.room);
    bare.cluster.wait_archived(&bare.room, &segment);
    assert_eq!(has(&bare, &segment), (true, false));
    assert_eq!(cluster(&bare.setup(&["--apply"]).expect(0).json())["left"], serde_json::json!([]));
}

#[test]
fn without_rights_setup_says_what_a_superuser_has_to_type() {
    let bare = Bare::new(&Version::main(), &[("archive_mode", "on")]);
    bare.room.write("main/pg_hba.conf", "local all all trust\n");
    bare.cluster.sql(&bare.room, "select pg_reload_conf()");
    bare.cluster.sql(&bare.room, "create role somebody login");
    bare.cluster.sql(&bare.room, "grant pg_read_all_settings to somebody");
    let nobody = bare.cluster.connection("somebody");
    let outcome = bare.setup(&["--apply", "--admin-connection", &nobody]).expect(3).json();
    assert_eq!(cluster(&outcome)["done"], serde_json::json!([]), "{outcome:#}");
    let left = left(&outcome);
    for wanted in
        ["psql -X", "CREATE ROLE", "GRANT EXECUTE", "ALTER SYSTEM SET archive_command", "pg_reload_conf", "superuser"]
    {
        assert!(left.contains(wanted), "{wanted:?} is not in {left}");
    }
    // What is printed is what a shell runs.
    let commands: Vec<&str> = cluster(&outcome)["left"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|left| left["commands"].as_array().unwrap())
        .map(|command| command.as_str().unwrap())
        .filter(|command| command.starts_with("psql"))
        .collect();
    assert!(!commands.is_empty());
    for command in commands {
        let command = command.replace(&nobody, &bare.cluster.connection("postgres"));
        let psql = bare.cluster.version.program("psql");
        let path = format!("{}:/usr/bin:/bin", psql.parent().unwrap().display());
        bare.room.run(bare.room.command("/bin/sh").args(["-ec", &command]).env("PATH", path));
    }
    assert!(bare.show("archive_command").contains("walward-wal"));
    let after = bare.setup(&[]).expect(0).json();
    assert_eq!(cluster(&after)["steps"], serde_json::json!([]), "{after:#}");
}

#[test]
fn a_standby_is_set_up_without_writing_to_it() {
    let mut bare = Bare::new(&Version::main(), &[("archive_mode", "on")]);
    bare.room.write("main/pg_hba.conf", "local all all trust\nlocal replication all trust\n");
    bare.cluster.sql(&bare.room, "select pg_reload_conf()");
    bare.setup(&["--apply"]).expect(0);
    bare.start_agent();
    let data = bare.room.join("standby");
    let mut copy = bare.room.command(bare.cluster.version.program("pg_basebackup"));
    let sockets = bare.cluster.sockets.display().to_string();
    copy.args(["-D", data.to_str().unwrap(), "-R", "-X", "stream", "-c", "fast", "-U", "postgres", "-h", &sockets]);
    bare.room.run(&mut copy);
    let mut standby = Cluster::adopt(&bare.room, "standby", &bare.cluster.version, data.clone());
    // It is a copy of a server that is set up; as if it were not.
    bare.room.write(
        "standby/postgresql.auto.conf",
        std::fs::read_to_string(data.join("postgresql.auto.conf"))
            .unwrap()
            .lines()
            .filter(|line| !line.starts_with("archive_command"))
            .collect::<Vec<_>>()
            .join("\n")
            + "\n",
    );
    standby.start(&bare.room);
    let config = bare.room.make_folder("second").join("walward.toml");
    let text = std::fs::read_to_string(&bare.config).unwrap();
    let text = text
        .replace(&format!("{:?}", bare.cluster.data), &format!("{data:?}"))
        .replace(&sockets, &standby.sockets.display().to_string());
    bare.room.write("second/walward.toml", text);
    let mut command = bare.room.command(bare.room.program("walward"));
    command.arg("--config").arg(&config).args(["--no-input", "--json", "setup", "--apply"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--admin-connection", &standby.connection("postgres")]);
    }
    let answer = Outcome::of(&mut command).expect(0).json();
    assert_eq!(cluster(&answer)["server"]["standby"], true, "{answer:#}");
    assert_eq!(cluster(&answer)["first_segment"], Value::Null);
    assert!(cluster(&answer)["notes"].to_string().contains("standby"), "{answer:#}");
    assert!(standby.sql(&bare.room, "show archive_command").contains("walward-wal"));
    assert!(standby.sql(&bare.room, "show restore_command").contains("fetch %f %p"));
}

/// Root writes the files, and is the owner of the data directory for the server.
#[test]
#[ignore = "runs setup as root; scripts/test.sh runs it"]
fn as_root_setup_needs_no_password_where_the_owner_needs_none() {
    let bare = Bare::new(&Version::main(), &[("archive_mode", "on")]);
    let arguments = bare.setup_arguments(&["--apply"]);
    let mut command = Command::new(bare.room.program("walward"));
    command.arg("--config").arg(&bare.config).args(["--no-input", "--json"]).args(arguments);
    let answer = Outcome::of(&mut command).expect(0).json();
    let done = cluster(&answer)["done"].to_string();
    for wanted in ["CREATE ROLE", "login", "archive_command"] {
        assert!(done.contains(wanted), "{wanted:?} is not in {done}");
    }
    for name in ["pg_hba.conf", "pg_ident.conf"] {
        let file = std::fs::metadata(bare.cluster.data.join(name)).unwrap();
        assert_eq!(file.uid(), std::fs::metadata(&bare.cluster.data).unwrap().uid(), "{name}");
    }
    let login = bare
        .room
        .command(bare.cluster.version.program("psql"))
        .args(["-XAtc", "select current_user", "-d"])
        .arg(bare.cluster.connection("walward"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&login.stdout).trim(), "walward", "{}", String::from_utf8_lossy(&login.stderr));
    let config = std::fs::metadata(&bare.config).unwrap();
    assert_eq!((config.uid(), config.mode() & 0o7777), (0, 0o640));
}

/// The way over of docs/moving-over.md with the real tool (`WALWARD_TEST_PGBACKREST`, or the one on the path).
#[test]
#[ignore = "thorough: needs pgbackrest, which scripts/test.sh --thorough installs"]
fn thorough_pgbackrest_goes_on_beside_walward_until_it_is_replaced() {
    let mut bare = Bare::new(&Version::main(), &[("archive_mode", "on")]);
    let program = std::env::var("WALWARD_TEST_PGBACKREST").unwrap_or_else(|_| "pgbackrest".to_owned());
    let folder = |name: &str| bare.room.make_folder(&format!("pgbackrest/{name}")).display().to_string();
    bare.room.make_folder("pgbackrest");
    let text = format!(
        "[global]\nrepo1-path={}\nlock-path={}\nspool-path={}\nlog-level-file=off\nlog-level-console=warn\nstart-fast=y\n\n\
         [main]\npg1-path={}\npg1-socket-path={}\npg1-user=postgres\n",
        folder("repo"),
        folder("lock"),
        folder("spool"),
        bare.cluster.data.display(),
        bare.cluster.sockets.display(),
    );
    let config = bare.room.write("pgbackrest.conf", text);
    // The folder's name is the program's own: the command names it as people do.
    let named = bare.room.make_folder("programs").join("pgbackrest");
    bare.room.write_with_mode("programs/pgbackrest", format!("#!/bin/sh\nexec {program} \"$@\"\n"), 0o700);
    let pgbackrest = |bare: &Bare, words: &[&str]| -> Outcome {
        let mut command = bare.room.command(&named);
        Outcome::of(command.arg(format!("--config={}", config.display())).arg("--stanza=main").args(words))
    };
    let old = format!("{} --config={} --stanza=main archive-push %p", named.display(), config.display());
    bare.cluster.sql(&bare.room, &format!("alter system set archive_command = '{old}'"));
    bare.cluster.sql(&bare.room, "select pg_reload_conf()");
    pgbackrest(&bare, &["stanza-create"]).expect(0);
    pgbackrest(&bare, &["--type=full", "backup"]).expect(0);

    let kept = bare.setup(&["--apply"]).expect(0).json();
    assert_eq!(cluster(&kept)["archives"]["tool"], "pgbackrest", "{kept:#}");
    bare.start_agent();
    let both = bare.setup(&["--apply", "--archive-command", "beside"]).expect(0).json();
    assert!(cluster(&both)["first_segment"].is_object(), "{both:#}");
    // Its own check ends a segment and waits for it in its own archive; its backup waits for its WAL.
    pgbackrest(&bare, &["check"]).expect(0);
    pgbackrest(&bare, &["--type=full", "backup"]).expect(0);
    bare.walward(&["backup"]).expect(0);
    bare.walward(&["check", "--switch-wal"]).expect_healthy();
    bare.walward(&["wal", "gaps"]).expect(0);

    bare.setup(&["--apply", "--archive-command", "replace"]).expect(0);
    bare.walward(&["check", "--switch-wal"]).expect_healthy();
    pgbackrest(&bare, &["check"]).expect(68).says("must contain pgbackrest");
    // What it has it still restores.
    let target = bare.room.make_folder("old").display().to_string();
    pgbackrest(&bare, &[&format!("--pg1-path={target}"), "--type=immediate", "--target-action=promote", "restore"])
        .expect(0);
    let mut restored = Cluster::adopt(&bare.room, "old", &bare.cluster.version, bare.room.join("old"));
    restored.set("archive_mode", "off");
    restored.start(&bare.room);
}
