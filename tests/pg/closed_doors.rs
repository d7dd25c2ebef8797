//! Who may not come in, and what nobody may see: with real users, a real agent and real secrets.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Gid, Signal, Uid};
use walward_wire::client::Conversation;
use walward_wire::{Reply, Request};

use crate::support::{Daemon, Outcome, Site, SiteOptions, StoreKind, eventually};

const NOBODY: u32 = 65534;
const S3_SECRET: &str = "walward-s3-secret-7Q2Z";
const PASSWORD: &str = "walward-pg-password-8R3Y";

/// Runs `walward`, and adds what can be seen of it to `seen`.
fn look(site: &Site, seen: &mut Vec<(String, String)>, arguments: &[&str]) {
    let mut command = site.walward_command(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // What any user of the host sees of the process, and what root does.
    for file in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{}/{file}", child.id())).unwrap_or_default();
        seen.push((format!("{file} of {arguments:?}"), String::from_utf8_lossy(&text).into_owned()));
    }
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    seen.push((format!("{arguments:?}"), String::from_utf8_lossy(&text).into_owned()));
}

#[test]
fn no_secret_shows_in_logs_errors_answers_or_processes() {
    let mut site = Site::prepare(SiteOptions { store: StoreKind::S3, ..SiteOptions::default() });
    let text = site.config_text().replace("\"debug\"", "\"trace\"");
    let text = text.replace("secret_access_key = \"test\"", &format!("secret_access_key = \"{S3_SECRET}\""));
    let text = text.replace("user=postgres", &format!("user=postgres password={PASSWORD}"));
    assert!(text.contains(S3_SECRET) && text.contains(PASSWORD) && text.contains("\"trace\""), "{text}");
    site.write_config(&text);
    let key = fs::read_to_string(site.key_file()).unwrap();
    let key = key.trim().rsplit(':').next().unwrap().to_owned();
    assert_eq!(key.len(), 64);
    site.cluster.start(&site.room);
    site.start_agent();
    let mut seen: Vec<(String, String)> = Vec::new();
    site.cluster.sql(&site.room, "create table t as select generate_series(1, 1000) as id");
    for arguments in [
        &["-vv", "--cluster", "main", "backup"][..],
        &["-vv", "--cluster", "main", "backup", "--no-agent"],
        &["config", "show"],
        &["--json", "config", "show"],
        &["config", "check"],
        &["-vv", "check"],
        &["-vv", "--json", "status"],
        &["-vv", "info"],
        &["-vv", "wal", "list"],
        &["-vv", "repo", "info"],
        &["-vv", "repo", "probe"],
        &["-vv", "keys", "list"],
        &["-vv", "keys", "rotate"],
        &["-vv", "--yes", "restore", "--target-directory", "copy", "--archive-mode", "off"],
    ] {
        look(&site, &mut seen, arguments);
    }
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let pid = site.walward(&["--json", "status"]).expect(0).json()["pid"].as_u64().unwrap();
    for file in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        seen.push((format!("{file} of the agent"), String::from_utf8_lossy(&text).into_owned()));
    }
    // Everything fails: the store and the server are gone, the configuration is wrong beside the secret.
    drop(site.s3.take());
    site.cluster.stop(crate::support::Stop::Fast);
    for arguments in [&["-vv", "check"][..], &["-vv", "--cluster", "main", "backup"], &["-vv", "info"]] {
        look(&site, &mut seen, arguments);
    }
    let wrong = [
        text.replace("secret_access_key =", "secret_acess_key ="),
        text.replace(&format!("\"{S3_SECRET}\""), &format!("[\"{S3_SECRET}\"]")),
        text.replace("password=", "pasword="),
        text.replace("connection =", "connection = 1 #"),
        text.replace(&format!("\"{S3_SECRET}\""), &format!("\"{S3_SECRET}")),
    ];
    for text in wrong {
        site.write_config(&text);
        look(&site, &mut seen, &["config", "check"]);
        look(&site, &mut seen, &["config", "show"]);
    }
    seen.push(("the agent's log".to_owned(), site.agent.as_ref().unwrap().log()));
    seen.push(("PostgreSQL's log".to_owned(), site.cluster.log_text()));
    let log = &seen[seen.len() - 2].1;
    assert!(log.contains("TRACE"), "the log says too little to prove anything");
    for (what, text) in &seen {
        for (name, secret) in [("S3 secret", S3_SECRET), ("password", PASSWORD), ("key", key.as_str())] {
            let at = text.to_lowercase().find(&secret.to_lowercase());
            let around = at.map(|at| text.get(at.saturating_sub(300)..at + 40).unwrap_or_default());
            assert_eq!(around, None, "the {name} shows in {what}");
        }
    }
}

#[test]
fn no_other_process_of_the_same_user_reads_the_agents_memory() {
    let site = Site::start(SiteOptions::default());
    let pid = site.walward(&["--json", "status"]).expect(0).json()["pid"].as_u64().unwrap();
    let read = |file: &str| site.room.command("cat").arg(format!("/proc/{pid}/{file}")).output().unwrap();
    assert!(read("cmdline").status.success(), "the search itself is broken");
    // "mem" shows nothing here: its beginning cannot be read by the process itself either.
    for file in ["environ", "maps"] {
        assert!(!read(file).status.success(), "{file} can be read");
    }
}

/// A site whose agent runs as root and whom everybody can reach, as far as the modes of files go.
fn site_with_root_agent() -> (Site, Daemon) {
    assert!(rustix::process::geteuid().is_root(), "run this as root");
    let mut site = Site::prepare(SiteOptions::default());
    site.cluster.start(&site.room);
    // Root's agent keeps its spool where only root can change the way to it.
    site.room.as_made_by_the_system();
    std::os::unix::fs::chown(site.room.join("spool"), Some(0), Some(0)).unwrap();
    fs::set_permissions(site.room.join("spool"), fs::Permissions::from_mode(0o711)).unwrap();
    let mut command = Command::new(site.room.program("walwardd"));
    command.arg("--config").arg(&site.config).current_dir("/");
    let agent = Daemon::start("walwardd", command, &site.room.join("walwardd.log"), Signal::TERM);
    eventually("the agent answers", Duration::from_secs(30), || UnixStream::connect(&site.socket).ok());
    for path in [site.room.path(), site.socket.parent().unwrap()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    (site, agent)
}

/// Does `work` on a thread that is user `nobody` to the kernel.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    as_nobody_of(NOBODY, work)
}

/// As [`as_nobody`], as a member of a group and of no other.
fn as_nobody_of<T: Send>(group: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (nobody, group) = (Uid::from_raw(NOBODY), Gid::from_raw(group));
            rustix::thread::set_thread_groups(&[]).expect("no other groups");
            rustix::thread::set_thread_res_gid(group, group, group).expect("another group");
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("another user");
            work()
        });
        thread.join().expect("a thread")
    })
}

fn status_of(socket: &Path) -> Reply {
    let request = Request::Admin("{\"op\":\"status\"}".to_owned());
    let mut conversation = Conversation::start_unasked(socket, &request, Duration::from_secs(30)).unwrap();
    conversation.next_reply().unwrap()
}

#[test]
#[ignore = "needs root, to be somebody else; scripts/test.sh runs it as root"]
fn as_root_strangers_keep_no_owner_out() {
    const CONNECTIONS: usize = 10_000;
    let (site, _agent) = site_with_root_agent();
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let is_served = || {
        let begun = Instant::now();
        site.client(&["--cluster", "main", "fetch", &segment, "pg_wal/RECOVERYXLOG"]).expect(0);
        assert!(begun.elapsed() < Duration::from_secs(30), "the owner waited for {:?}", begun.elapsed());
    };
    is_served();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).unwrap();
    let open_max = usize::try_from(limit.maximum.unwrap_or(u64::MAX)).unwrap_or(usize::MAX) / 2;
    let mut idle = std::collections::VecDeque::new();
    let at_once = open_max.min(CONNECTIONS / 4);
    for _ in 0..CONNECTIONS.div_ceil(at_once) {
        idle.drain(..idle.len().saturating_sub(open_max - at_once));
        idle.extend(as_nobody(|| (0..at_once).map(|_| UnixStream::connect(&site.socket).unwrap()).collect::<Vec<_>>()));
        is_served();
    }
    for _ in 0..5 {
        is_served();
    }
    let switched = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &switched);
    assert!(idle.len() > 100, "too few at the same time: {}", idle.len());
    // A stranger who says what he wants is told why not, besieged or not.
    site.room.as_made_by_the_system();
    let mut command = site.room.command(site.room.program("walward-wal"));
    command.arg("--socket").arg(&site.socket).args(["--cluster", "main", "fetch", &segment, "/tmp/walward-never"]);
    Outcome::of(command.uid(NOBODY).gid(NOBODY)).expect(255).says("user 65534 may not use cluster");
}

#[test]
#[ignore = "needs root, to be somebody else; scripts/test.sh runs it as root"]
fn as_root_a_stranger_learns_nothing_and_changes_nothing() {
    let (site, _agent) = site_with_root_agent();
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let Reply::Result { code: 0, json } = as_nobody(|| status_of(&site.socket)) else { panic!("no status") };
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status["clusters"].as_array().map(Vec::len), Some(0), "{json}");
    assert!(!json.contains("repository") && !json.contains(site.cluster.data.to_str().unwrap()), "{json}");
    let owner = site.walward(&["--json", "status"]).expect(0).json();
    assert_eq!(owner["clusters"].as_array().map(Vec::len), Some(1), "{owner}");

    site.room.as_made_by_the_system();
    let refused = |arguments: &[&str], code: i32| {
        let mut command = site.room.command(site.room.program("walward-wal"));
        command.arg("--socket").arg(&site.socket).args(arguments);
        let outcome = Outcome::of(command.uid(NOBODY).gid(NOBODY)).expect(code);
        assert!(outcome.stderr.contains("may not use cluster"), "{}", outcome.stderr);
    };
    let path = site.cluster.wal(&segment);
    refused(&["push", path.to_str().unwrap()], 1);
    refused(&["--cluster", "main", "push", path.to_str().unwrap()], 1);
    refused(&["--cluster", "main", "fetch", &segment, "/tmp/walward-never"], 255);
    let asked = as_nobody(|| {
        let json = "{\"op\":\"backup\",\"cluster\":\"main\",\"type\":\"full\",\"repository\":null}";
        let request = Request::Admin(json.to_owned());
        Conversation::start_unasked(&site.socket, &request, Duration::from_secs(30)).unwrap().next_reply().unwrap()
    });
    assert!(matches!(&asked, Reply::Done { code: 12, text } if text.contains("may not use")), "{asked:?}");
    // What the agent gave its owner is the owner's alone.
    let file = site.room.make_folder("mine").join(&segment);
    site.client(&["--cluster", "main", "fetch", &segment, file.to_str().unwrap()]).expect(0);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0);
}

#[test]
#[ignore = "needs root, to be somebody else; scripts/test.sh runs it as root"]
fn as_root_the_modes_of_socket_spool_and_files_keep_strangers_out() {
    assert!(rustix::process::geteuid().is_root(), "run this as root");
    let site = Site::start(SiteOptions::default());
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    // Folders open, as an administrator may leave them: what lies in them is closed.
    let (repository, spool) = (site.repository_folder(), site.room.join("spool"));
    for path in [site.room.path(), site.socket.parent().unwrap(), &repository, &spool] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(fs::metadata(&site.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let connected = as_nobody(|| UnixStream::connect(&site.socket).map(drop).map_err(|error| error.kind()));
    assert_eq!(connected, Err(std::io::ErrorKind::PermissionDenied));
    // Nor does it help to be in the owner's group.
    let group = fs::metadata(site.cluster.wal(&segment)).unwrap().gid();
    let denied = Err(std::io::ErrorKind::PermissionDenied);
    let (mut folders, mut closed) = (vec![repository.clone(), spool], 0);
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let look = || if path.is_dir() { fs::read_dir(&path).map(drop) } else { fs::read(&path).map(drop) };
            let seen = [NOBODY, group].map(|group| as_nobody_of(group, || look().map_err(|error| error.kind())));
            if path.is_dir() {
                if path.starts_with(&repository) {
                    closed += 1;
                    assert_eq!(seen, [denied, denied], "{}", path.display());
                }
                folders.push(path);
            } else {
                files += 1;
                assert_eq!(seen, [denied, denied], "{}", path.display());
            }
        }
    }
    assert!(files >= 3 && closed >= 3, "only {files} files and {closed} folders were looked at");
}
