//! The agent as a process: reload, sockets from systemd, who may talk to it.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Cluster, ClusterOptions, Daemon, Outcome, Site, SiteOptions, Version, eventually};

#[test]
fn an_agent_that_runs_an_older_configuration_is_noticed() {
    let site = Site::start(SiteOptions { encrypted: false, ..SiteOptions::default() });
    let backup = site.walward(&["--cluster", "main", "backup"]).expect(0);
    backup.says(&format!("file://{}", site.repository_folder().display()));
    let moved = site.room.make_folder("moved");
    let old = site.repository_folder();
    site.write_config(&site.config_text().replace(old.to_str().unwrap(), moved.to_str().unwrap()));
    site.set_up("main");
    let refused = site.walward(&["--cluster", "main", "backup"]).expect(16);
    refused.says("reload").says(old.to_str().unwrap());
    site.walward(&["--cluster", "main", "check"]).expect(1).says("the agent runs another configuration");
    site.agent.as_ref().unwrap().reload();
    eventually("the agent has read it", Duration::from_mins(1), || {
        let check = site.walward(&["--cluster", "main", "check"]);
        (!check.stdout.contains("another configuration")).then_some(())
    });
    let backup = site.walward(&["--cluster", "main", "backup"]).expect(0);
    backup.says(moved.to_str().unwrap());
    // Only what is not shown is another: the role's password.
    let with = |password: &str| {
        let text = site.config_text().replace(old.to_str().unwrap(), moved.to_str().unwrap());
        site.write_config(&text.replace("user=postgres", &format!("user=postgres password={password}")));
    };
    with("one");
    site.agent.as_ref().unwrap().reload();
    let is_noticed = || site.walward(&["--cluster", "main", "check"]).stdout.contains("another configuration");
    eventually("the agent has read it", Duration::from_mins(1), || (!is_noticed()).then_some(()));
    with("two");
    assert!(is_noticed());
    site.walward(&["--cluster", "main", "backup"]).expect(16).says("reload");
    site.agent.as_ref().unwrap().reload();
    eventually("the agent has read it", Duration::from_mins(1), || (!is_noticed()).then_some(()));
}

#[test]
fn a_reload_takes_a_new_cluster_and_keeps_the_old_settings_when_the_file_is_wrong() {
    let mut site = Site::prepare(SiteOptions::default());
    site.cluster.start(&site.room);
    site.start_agent();
    let mut second = Cluster::create(&site.room, "second", &Version::main(), &ClusterOptions::default());
    second.set("archive_mode", "on");
    second.set("archive_command", &site.archive_command());
    second.start(&site.room);

    let agent = site.agent.as_ref().unwrap();
    let mark = agent.log().len();
    site.write_config("[cluster.main]\nnonsense = 1\n");
    agent.reload();
    agent.wait_logged(mark, "nonsense");
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);

    let more = format!(
        "\n[cluster.second]\ndata_directory = {:?}\nconnection = \"{}\"\nrepositories = [\"store\"]\n",
        second.data,
        second.connection("postgres")
    );
    site.write_config(&(site.config_text() + &more));
    site.set_up("second");
    agent.reload();
    for cluster in [&second, &site.cluster] {
        let segment = cluster.switch_wal(&site.room);
        cluster.wait_archived(&site.room, &segment);
    }
}

#[test]
fn a_socket_from_systemd_is_served_and_outlives_the_agent() {
    let mut site = Site::prepare(SiteOptions::default());
    let listener = UnixListener::bind(&site.socket).unwrap();
    std::fs::set_permissions(&site.socket, std::fs::Permissions::from_mode(0o600)).unwrap();
    site.room.give_away(&site.socket);
    let start = || {
        let mut command = site.room.command("sh");
        // systemd hands it over as descriptor 3.
        command.args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" --config \"$1\""]);
        command.arg(site.room.program("walwardd")).arg(&site.config);
        command.stdin(OwnedFd::from(listener.try_clone().unwrap()));
        Daemon::start("walwardd", command, &site.room.join("walwardd.log"), Signal::TERM)
    };
    site.cluster.start(&site.room);
    let mut agent = start();
    let first = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &first);

    agent.signal(Signal::TERM);
    assert!(agent.wait(Duration::from_secs(30)).success());
    assert!(site.socket.exists(), "the agent removed a socket that is systemd's");
    // A request while nobody is there waits in the socket's queue and is answered by the next agent.
    let waiting = std::thread::scope(|scope| {
        let request = scope.spawn(|| site.client(&["--cluster", "main", "fetch", &first, "pg_wal/RECOVERYXLOG"]));
        std::thread::sleep(Duration::from_millis(800));
        let agent = start();
        let outcome = request.join().unwrap();
        drop(agent);
        outcome
    });
    waiting.expect(0);
}

#[test]
fn a_second_agent_on_the_same_socket_is_refused_and_a_stale_socket_is_not() {
    let mut site = Site::prepare(SiteOptions::default());
    site.cluster.start(&site.room);
    site.start_agent();
    let mut command = site.room.command(site.room.program("walwardd"));
    let second = Outcome::of(command.arg("--config").arg(&site.config));
    assert!(second.code > 0, "a second agent ran beside the first");
    assert!(second.stderr.contains("walward.sock"), "{}", second.stderr);
    // The first is unharmed; killed, it leaves its socket behind, and the next starts all the same.
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    site.agent.take().unwrap().kill();
    assert!(site.socket.exists());
    site.start_agent();
}

#[test]
fn the_agent_ends_promptly_while_work_is_under_way() {
    let mut site = Site::prepare(SiteOptions::default());
    site.cluster.start(&site.room);
    site.start_agent();
    for _ in 0..8 {
        site.cluster.switch_wal(&site.room);
    }
    site.stop_agent();
    assert!(site.agent.is_none());
    site.start_agent();
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
}

#[test]
#[ignore = "needs root, to be somebody else; scripts/test.sh runs it as root"]
fn as_root_a_stranger_on_the_host_is_refused() {
    const NOBODY: u32 = 65534;
    assert!(rustix::process::geteuid().is_root(), "run this as root");
    let mut site = Site::prepare(SiteOptions::default());
    site.cluster.start(&site.room);
    site.start_agent();
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    // Even where the modes of folder and socket would let him in.
    for path in [site.room.path(), site.socket.parent().unwrap()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(&site.socket, std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = site.room.command(site.room.program("walward-wal"));
    command.arg("--socket").arg(&site.socket).args(["--cluster", "main", "fetch", &segment, "/tmp/walward-never"]);
    command.uid(NOBODY).gid(NOBODY);
    // What lies in /tmp and belongs to another, the client of a stranger would not even believe.
    Outcome::of(&mut command).expect(255).says("is not believed");
    site.room.as_made_by_the_system();
    Outcome::of(&mut command).expect(255).says("user 65534 may not use cluster");
}

#[test]
#[ignore = "needs root; scripts/test.sh runs it as root"]
fn as_root_what_root_does_at_a_repository_locks_nobody_out() {
    assert!(rustix::process::geteuid().is_root(), "run this as root");
    let mut site = Site::start(SiteOptions::default());
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let as_root = |site: &Site, arguments: &[&str]| {
        Outcome::of(site.walward_command(arguments).uid(0).gid(0)).expect(0);
    };
    as_root(&site, &["keys", "rotate"]);
    let disk = site.room.make_folder("disk");
    let text = site.config_text().replace("repositories = [\"store\"]", "repositories = [\"store\", \"disk\"]");
    site.write_config(&format!(
        "{text}\n[repository.disk]\nurl = \"file://{}\"\nencryption = \"none\"\n",
        disk.display()
    ));
    site.set_up("main");
    // The folder of this log is made by root, and the agent writes into it next.
    as_root(&site, &["repo", "copy", "store", "disk"]);
    site.stop_agent();
    site.start_agent();
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    site.walward(&["backup"]).expect(0);
}
