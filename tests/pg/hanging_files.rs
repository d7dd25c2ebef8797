//! A data directory whose file system hangs: nothing waits for it for ever, and nobody else is held up.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::{
    Answers, Cluster, ClusterOptions, Daemon, Disk, Hung, Outcome, Site, SiteOptions, Stop, Version, eventually,
    free_port,
};

/// More than any of it takes; what hangs takes for ever.
const PATIENCE: Duration = Duration::from_secs(90);
/// Clusters whose data directories lie on one file system that hangs.
const HUNG_CLUSTERS: usize = 8;
/// Pushes that wait for each of them, and as many fetches.
const CLIENTS: usize = 4;
/// Reloads of the configuration meanwhile.
const RELOADS: usize = 12;
/// What one such cluster may keep of the agent's threads, however often the configuration is read again: those that look on behalf of
/// requests, and those that look by themselves.
const THREADS_OF_A_CLUSTER: usize = 4 + 8;
/// What the spool of a cluster may keep of them.
const SPOOL_THREADS_OF_A_CLUSTER: usize = 8;
/// All other threads of the agent: the runtime's, those that compute, those that wait for sound disks, and those that asked for a path when
/// the configuration was read.
const OTHER_THREADS: usize = 80;
/// What the agent may hold in memory.
const RESIDENT_BYTES_MAX: u64 = 256 << 20;

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

#[test]
#[ignore = "mounts a file system that hangs, as root; scripts/test.sh runs it"]
fn as_root_a_data_directory_that_hangs_ends_setting_aside_and_nothing_is_moved() {
    let mut site = site("2 s");
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    site.stop_agent();
    // The server has its files open already, below the mount.
    let hung = Hung::mount(&site.cluster.data, Answers::Nothing);
    let aside = ["--yes", "--cluster", "main", "wal", "set-aside", "--from", &segment];
    site.walward(&aside).expect(13).says("did not answer").says("read_deadline");
    drop(hung);
    site.walward(&["wal", "list-aside"]).expect(0);
    site.walward(&["--json", "wal", "list"]).expect(0).says(&segment);
    // What stood in the way was the file system: by now it is seen that the server itself archived the file.
    site.walward(&aside).expect(16).says("has archived");
}

/// The spool is one file system for all clusters of an agent: nothing but what would lie in it waits for it.
#[test]
#[ignore = "mounts a file system that hangs, as root; scripts/test.sh runs it"]
fn as_root_a_spool_that_hangs_holds_neither_archiving_nor_a_recovery_nor_a_command() {
    let cluster = ClusterOptions { segment_mib: 1, ..ClusterOptions::default() };
    let mut site = Site::start(SiteOptions { cluster, ..SiteOptions::default() });
    let mut second = Cluster::create(&site.room, "second", &Version::main(), &ClusterOptions::default());
    second.set("archive_mode", "on");
    second.set("archive_command", &site.archive_command());
    let (data, connection) = (&second.data, second.connection("postgres"));
    let more = format!(
        "\n[cluster.second]\ndata_directory = {data:?}\nconnection = \"{connection}\"\nrepositories = [\"store\"]\n"
    );
    site.write_config(&(site.config_text() + &more));
    site.set_up("second");
    second.start(&site.room);
    let reload = |site: &Site| {
        let agent = site.agent.as_ref().unwrap();
        let mark = agent.log().len();
        agent.reload();
        agent.wait_logged(mark, "configuration reloaded");
        agent.log()[mark..].to_owned()
    };
    reload(&site);
    let archives = |site: &Site| {
        for cluster in [&site.cluster, &second] {
            let segment = cluster.switch_wal(&site.room);
            cluster.wait_archived(&site.room, &segment);
        }
    };
    archives(&site);
    site.cluster.sql(&site.room, "create table t (id int)");
    backup(&site, &[]).expect(0);
    for _ in 0..12 {
        site.cluster.sql(&site.room, "insert into t select generate_series(1, 200)");
        let segment = site.cluster.switch_wal(&site.room);
        site.cluster.wait_archived(&site.room, &segment);
    }
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    let recovers = |site: &Site, name: &str| {
        let mut restored = site.restore(name, &[]);
        restored.start(&site.room);
        site.wait_promoted(&restored);
        assert_eq!(restored.fingerprint(&site.room, &["t"]), expected, "{name}");
        restored.stop(Stop::Fast);
    };
    let spool = site.room.join("spool");
    let status = |site: &Site| {
        let asked = Instant::now();
        let status = site.walward(&["status"]).expect(0);
        assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
        status
    };
    let fetches = |site: &Site| {
        let segment = second.archive_status("done").into_iter().filter(|name| name.len() == 24).max().unwrap();
        let place = second.data.join("pg_wal/RECOVERYXLOG");
        site.client(&["--cluster", "second", "fetch", &segment, place.to_str().unwrap()]).expect(0);
        assert!(std::fs::read(&place).unwrap() == std::fs::read(second.wal(&segment)).unwrap());
        std::fs::remove_file(place).unwrap();
    };
    // While the agent runs.
    let hung = Hung::mount(&spool, Answers::Nothing);
    recovers(&site, "while-it-hangs");
    status(&site).says("HANGS").says("the file system of the spool");
    archives(&site);
    fetches(&site);
    let (_, _, before) = agent_facts(&site);
    for _ in 0..RELOADS {
        let log = reload(&site);
        assert!(log.contains("the file system of the spool does not answer"), "{log}");
    }
    archives(&site);
    fetches(&site);
    recovers(&site, "after-reloads");
    // Those that are idle for ten seconds go by themselves.
    eventually("the agent keeps few threads", PATIENCE, || {
        std::thread::sleep(Duration::from_secs(12));
        let (_, _, after) = agent_facts(&site);
        println!("{before} threads, {after} after {RELOADS} reloads");
        (after <= before + SPOOL_THREADS_OF_A_CLUSTER).then_some(())
    });
    let told = Instant::now();
    site.stop_agent();
    assert!(told.elapsed() < Duration::from_secs(30), "{:?}", told.elapsed());
    // From before the agent is started.
    site.start_agent();
    archives(&site);
    recovers(&site, "started-with-it");
    status(&site).says("HANGS").says("the file system of the spool");
    drop(hung);
    eventually("the spool is used again", PATIENCE, || (!status(&site).stdout.contains("HANGS")).then_some(()));
    recovers(&site, "in-the-end");
    assert!(std::fs::read_dir(spool.join("main")).unwrap().count() > 0, "there is no spool");
    let told = Instant::now();
    site.stop_agent();
    assert!(told.elapsed() < Duration::from_secs(30), "{:?}", told.elapsed());
}

/// What was made in the spool is there; what is to be written or removed hangs, and what is read does not.
#[test]
#[ignore = "mounts a disk, as root; scripts/test.sh runs it"]
fn as_root_a_spool_whose_writes_begin_to_hang_holds_no_recovery_and_blames_no_repository() {
    let cluster = ClusterOptions { segment_mib: 1, ..ClusterOptions::default() };
    let mut site = Site::start(SiteOptions { cluster, ..SiteOptions::default() });
    site.cluster.sql(&site.room, "create table t (id int)");
    backup(&site, &[]).expect(0);
    for _ in 0..12 {
        site.cluster.sql(&site.room, "insert into t select generate_series(1, 200)");
        let segment = site.cluster.switch_wal(&site.room);
        site.cluster.wait_archived(&site.room, &segment);
    }
    let expected = site.cluster.fingerprint(&site.room, &["t"]);
    site.stop_agent();
    // What it holds up goes on before the agent is waited for.
    let disk = Disk::mount(&site.room, "spool", 64);
    site.start_agent();
    let mut restored = site.restore("restored", &[]);
    let first = site.cluster.archive_status("done").into_iter().find(|name| name.len() == 24).unwrap();
    let place = site.cluster.data.join("pg_wal/RECOVERYXLOG");
    let fetch = |code| site.client(&["fetch", &first, place.to_str().unwrap()]).expect(code);
    fetch(0);
    disk.freeze();
    // By now files that were fetched ahead lie there, and the next one cannot be written.
    fetch(0);
    restored.start(&site.room);
    site.wait_promoted(&restored);
    assert_eq!(restored.fingerprint(&site.room, &["t"]), expected);
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let status = site.walward(&["status"]).expect(0).says("HANGS").says("the file system of the spool");
    assert!(!status.stdout.contains("FAILING") && !status.stdout.contains("unreachable"), "{}", status.stdout);
    let fetch_facts = &site.walward(&["--json", "status"]).expect(0).json()["clusters"][0]["fetch"];
    assert_eq!(fetch_facts["fallback_total"], 0, "a trouble of this host is charged to a repository: {fetch_facts}");
    disk.thaw();
    eventually("the spool is used again", PATIENCE, || {
        (!site.walward(&["status"]).expect(0).stdout.contains("HANGS")).then_some(())
    });
    fetch(0);
    site.stop_agent();
    assert!(std::fs::read_dir(site.room.join("spool/main")).unwrap().count() <= 1);
}

/// Programs that hang, each in a process group of its own. They are killed by id, and nothing waits for them for ever.
#[derive(Default)]
struct Clients(Vec<Child>);

impl Clients {
    fn start(&mut self, mut command: Command) {
        let command = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        self.0.push(command.spawn().expect("a client"));
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        for client in &self.0 {
            let group = i32::try_from(client.id()).ok().and_then(Pid::from_raw).expect("a process id");
            let _ = kill_process_group(group, Signal::KILL);
        }
        let begun = Instant::now();
        for client in &mut self.0 {
            while matches!(client.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// What `/metrics` answers.
fn metrics(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The agent as `status` tells of it, and its number of threads.
fn agent_facts(site: &Site) -> (serde_json::Value, Duration, usize) {
    let asked = Instant::now();
    let status = site.walward(&["--json", "status"]).expect(0).json();
    let took = asked.elapsed();
    let threads = std::fs::read_dir(format!("/proc/{}/task", status["pid"])).expect("the agent runs").count();
    (status, took, threads)
}

#[test]
#[ignore = "mounts a file system that hangs, as root; scripts/test.sh runs it"]
fn as_root_many_clusters_on_a_file_system_that_hangs_hold_neither_another_up_nor_a_command() {
    let mut site = site("2 s");
    let folder = site.room.make_folder("disk");
    let port = free_port();
    let mut text =
        site.config_text().replacen("[agent]\n", &format!("[agent]\nmetrics_listen = \"127.0.0.1:{port}\"\n"), 1);
    let link = site.room.join("main-by-another-name");
    std::os::unix::fs::symlink(&site.cluster.data, &link).unwrap();
    let names: Vec<String> = (0..HUNG_CLUSTERS).map(|number| format!("hung{number}")).collect();
    for name in &names {
        site.room.make_folder(&format!("disk/{name}"));
        let directory = folder.join(name);
        write!(
            text,
            "\n[cluster.{name}]\ndata_directory = {directory:?}\nconnection = \"host=/nowhere\"\nrepositories = [\"store\"]\n"
        )
        .unwrap();
    }
    site.stop_agent();
    site.write_config(&text);
    // From before the agent is started. From here on nothing of the test's own touches what lies below `folder`.
    let hung = Hung::mount(&folder, Answers::Nothing);
    site.start_agent();
    let mut clients = Clients::default();
    for name in names.iter().cycle().take(HUNG_CLUSTERS * CLIENTS) {
        let segment = "000000010000000000000001";
        let path = folder.join(name).join("pg_wal").join(segment);
        for verb in [vec!["push"], vec!["fetch", segment]] {
            let mut command = site.room.command(site.room.program("walward-wal"));
            command.arg("--socket").arg(&site.socket).args(["--cluster", name]).args(verb).arg(&path);
            clients.start(command);
        }
    }
    let mut most = 0;
    for number in 1..=RELOADS {
        let log_bytes = site.agent.as_ref().unwrap().log().len();
        site.agent.as_ref().unwrap().reload();
        site.agent.as_ref().unwrap().wait_logged(log_bytes, "configuration reloaded");
        // Every look of the new configuration is under way.
        let (_, took, threads) = agent_facts(&site);
        assert!(took < Duration::from_mins(1), "status took {took:?}");
        most = most.max(threads);
        if number % 8 == 0 {
            println!("after {number} reloads: status in {took:?}, {threads} threads");
            let segment = site.cluster.switch_wal(&site.room);
            site.cluster.wait_archived(&site.room, &segment);
            let place = site.cluster.data.join("pg_wal/RECOVERYXLOG");
            site.client(&["fetch", &segment, place.to_str().unwrap()]).expect(0);
            std::fs::remove_file(place).unwrap();
            let scraped = metrics(port);
            assert!(
                scraped.starts_with("HTTP/1.1 200") && scraped.contains("hung7") && scraped.contains("main"),
                "{scraped}"
            );
        }
    }
    // Also where the path does not say at once whose it is: by the agent, and without one.
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let by_link = link.join("pg_wal").join(&segment);
    site.client(&["push", by_link.to_str().unwrap()]).expect(0);
    site.walward(&["wal", "push", by_link.to_str().unwrap()]).expect(0);
    for command in [&["info"][..], &["wal", "list"], &["backup", "--no-agent"], &["restore", "--dry-run"]] {
        let directory = site.room.join("restored");
        let more: &[&str] =
            if command[0] == "restore" { &["--target-directory", directory.to_str().unwrap()] } else { &[] };
        site.walward(&[&["--cluster", "main"][..], command, more].concat()).expect(0);
    }
    let checked = site.walward(&["--json", "--cluster", "main", "check"]).json();
    assert!(checked["checks"].is_array() && !checked.to_string().contains("hung"), "{checked}");
    backup(&site, &[]).expect(0);
    let (status, took, threads) = agent_facts(&site);
    let clusters = status["clusters"].as_array().unwrap();
    assert_eq!(clusters.len(), 1 + HUNG_CLUSTERS, "{status}");
    let bound = OTHER_THREADS + THREADS_OF_A_CLUSTER * HUNG_CLUSTERS;
    println!("after a backup: status in {took:?}, {threads} threads, never more than {most} (bound {bound})");
    assert!(most.max(threads) <= bound, "{} threads", most.max(threads));
    assert!(status["resident_bytes"].as_u64().is_some_and(|bytes| bytes <= RESIDENT_BYTES_MAX), "{status}");
    // A lookup of the same name by a process that lives on keeps the agent's in the kernel.
    drop(clients);
    let told = Instant::now();
    site.stop_agent();
    println!("ended by SIGTERM in {:?}", told.elapsed());
    assert!(told.elapsed() < Duration::from_secs(30), "{:?}", told.elapsed());
    // What looks at all of them ends as well, where no other process is in the way.
    site.walward(&["config", "check"]).expect(0).says("no answer").says("hung7");
    drop(hung);
}
