//! From nothing to a restored cluster with what `setup` writes and prints, and with nothing else.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;

use crate::support::{Agent, Cluster, ClusterOptions, Outcome, Room, Version, eventually};

#[test]
fn what_setup_writes_and_prints_is_all_that_a_cluster_needs() {
    let room = Room::new();
    let mut cluster = Cluster::create(&room, "main", &Version::main(), &ClusterOptions::default());
    let (config, socket) = (room.join("walward.toml"), room.make_folder("run").join("walward.sock"));
    let walward = |arguments: &[&str]| -> Outcome {
        let mut command: Command = room.command(room.program("walward"));
        Outcome::of(command.arg("--config").arg(&config).args(["--no-input", "--json"]).args(arguments))
    };
    let url = format!("file://{}", room.make_folder("repository").display());
    let connection = cluster.connection("walward");
    let data = cluster.data.to_str().unwrap().to_owned();
    let setup = [
        "setup",
        "--cluster",
        "main",
        "--data-directory",
        &data,
        "--connection",
        &connection,
        "--repository-url",
        &url,
        "--socket",
        socket.to_str().unwrap(),
    ];
    let answer = walward(&setup).expect(0).json();
    let lines = |what: &str| -> Vec<String> {
        let list = answer["clusters"][0][what].as_array().unwrap_or_else(|| panic!("{what} in {answer}"));
        list.iter().map(|line| line.as_str().unwrap().to_owned()).collect()
    };
    let recovery_key =
        answer["clusters"][0]["repositories"][0]["recovery_key"].as_str().expect("a recovery key").to_owned();

    let mut file = OpenOptions::new().append(true).open(cluster.data.join("postgresql.conf")).unwrap();
    for line in lines("postgresql_conf") {
        writeln!(file, "{line}").unwrap();
    }
    cluster.start(&room);
    for statement in lines("sql") {
        cluster.sql(&room, &statement);
    }
    // The default is a folder of the system.
    room.make_folder("conf.d");
    room.write("conf.d/spool.toml", format!("[agent]\nspool_directory = {:?}\n", room.make_folder("spool")));
    walward(&["config", "check"]).expect(0);
    let _agent = Agent::start(&room, &config, &socket, &room.join("walwardd.log"));

    // Again: nothing is changed, and the recovery key is not shown a second time.
    let written = std::fs::read(&config).unwrap();
    let again = walward(&setup).expect(0);
    assert!(!again.stdout.contains(&recovery_key) && !again.stderr.contains(&recovery_key));
    assert_eq!(std::fs::read(&config).unwrap(), written);

    cluster.sql(&room, "create table t as select generate_series(1, 1000) as id");
    walward(&["backup"]).expect(0);
    let segment = cluster.switch_wal(&room);
    cluster.wait_archived(&room, &segment);
    walward(&["check", "--switch-wal"]).expect_healthy();
    let info = walward(&["info"]).expect(0);
    assert!(info.json()["schema"].is_string(), "{}", info.stdout);
    walward(&["status"]).expect(0);
    for arguments in [&["repo", "info"][..], &["repo", "probe"], &["wal", "list"], &["wal", "gaps"], &["keys", "list"]]
    {
        let outcome = walward(arguments).expect(0);
        assert!(outcome.json()["schema"].is_string(), "{arguments:?}: {}", outcome.stdout);
    }

    let target = room.join("restored");
    let target_text = target.to_str().unwrap();
    walward(&["--yes", "restore", "--target-directory", target_text, "--archive-mode", "off"]).expect(0);
    let mut restored = Cluster::adopt(&room, "restored", &Version::main(), target.clone());
    restored.start(&room);
    eventually("the recovery ends", std::time::Duration::from_mins(1), || {
        (restored.sql(&room, "select pg_is_in_recovery()") == "f").then_some(())
    });
    assert_eq!(restored.fingerprint(&room, &["t"]), cluster.fingerprint(&room, &["t"]));
}
