//! What the agent logs: every line about a cluster says which, in JSON and in the journal.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Daemon, Site, SiteOptions, eventually};

/// A line's fields, by the names of docs/logging.md.
type Line = BTreeMap<String, String>;

/// What may be said without a cluster: parts of the program that serve all of them.
const OF_THE_AGENT: &[&str] = &["walward::daemon::run", "walward::daemon::server", "walward::daemon::metrics"];

fn site(settings: &str) -> Site {
    let site = Site::prepare(SiteOptions::default());
    let text = site.config_text().replace("log.level = \"debug\"", &format!("log = {{ {settings} }}"));
    site.write_config(&text);
    site
}

/// Archives, fails, recovers, backs up and fetches; returns the segment that failed first and the backup's label.
fn live(site: &Site, lines: impl Fn() -> Vec<Line>) -> (String, String) {
    let room = &site.room;
    let segment = site.cluster.switch_wal(room);
    site.cluster.wait_archived(room, &segment);
    let (repository, away) = (site.repository_folder().join("main"), site.room.join("away"));
    std::fs::rename(&repository, &away).unwrap();
    let segment = site.cluster.switch_wal(room);
    eventually("the agent says that it cannot archive", Duration::from_mins(1), || {
        lines().iter().any(|line| line["message"] == "cannot archive").then_some(())
    });
    let nowhere = site.room.join("nowhere");
    site.client(&["--cluster", "main", "fetch", "--on-error=retry", &segment, nowhere.to_str().unwrap()]).expect(1);
    std::fs::rename(&away, &repository).unwrap();
    // After three failures PostgreSQL rests for a minute, unless another segment is ready.
    site.cluster.switch_wal(room);
    site.cluster.wait_archived(room, &segment);
    let backup = site.walward(&["--cluster", "main", "--json", "backup"]).expect(0);
    let label = backup.stdout.split('"').find(|word| word.ends_with("-full")).expect("a label").to_owned();
    (segment, label)
}

fn check(lines: &[Line], segment: &str, label: &str) {
    let ours = |line: &&Line| line.get("target").is_some_and(|target| target.starts_with("walward::"));
    for line in lines.iter().filter(ours) {
        let of_the_agent = OF_THE_AGENT.contains(&line["target"].as_str());
        assert_eq!(line.get("cluster").map(String::as_str), (!of_the_agent).then_some("main"), "{line:?}");
    }
    let said = |message: &str| -> Vec<&Line> {
        let found: Vec<_> = lines.iter().filter(|line| line["message"].contains(message)).collect();
        assert!(!found.is_empty(), "no line says {message:?}: {lines:#?}");
        found
    };
    for line in said("cannot archive") {
        assert_eq!((line["repository"].as_str(), line["segment"].as_str()), ("store", segment), "{line:?}");
        assert!(!line["error_class"].is_empty() && !line["error"].is_empty(), "{line:?}");
    }
    assert_eq!(said("cannot fetch")[0]["repository"], "store");
    assert_eq!(said("archiving works again")[0]["segment"], segment);
    said("starting a backup");
    assert_eq!(said("copying the files")[0]["backup"], label);
    said("walwardd is ready");
}

#[test]
fn every_line_about_a_cluster_says_which() {
    let mut site = site("format = \"json\", level = \"debug\"");
    site.cluster.start(&site.room);
    site.start_agent();
    let lines = || -> Vec<Line> {
        let log = site.agent.as_ref().unwrap().log();
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let line = |line: &str| -> Line {
            let object: serde_json::Map<_, _> = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            object.iter().map(|(name, value)| (name.clone(), text(value))).collect()
        };
        whole.lines().map(line).collect()
    };
    let (segment, label) = live(&site, lines);
    check(&lines(), &segment, &label);
}

/// The journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): `NAME=value`, or `NAME`, a length and that many bytes.
fn parse(mut datagram: &[u8]) -> Line {
    let mut line = Line::new();
    while let Some(end) = datagram.iter().position(|byte| *byte == b'\n') {
        let (head, rest) = (std::str::from_utf8(&datagram[..end]).unwrap(), &datagram[end + 1..]);
        let (name, value) = if let Some((name, value)) = head.split_once('=') {
            datagram = rest;
            (name, value.as_bytes())
        } else {
            let length = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
            datagram = &rest[8 + length + 1..];
            (head, &rest[8..8 + length])
        };
        let name = name.strip_prefix("WALWARD_").unwrap_or(name).to_lowercase();
        let before = line.insert(name.clone(), String::from_utf8_lossy(value).into_owned());
        // The journal would keep both, and show two where there is one. Only what a span is called comes once for each.
        assert!(before.is_none() || name.starts_with("span_"), "{name} twice in {line:?}");
    }
    line
}

/// A journal of the test's own lies where the agent looks for it: in a mount namespace, so that the machine's is not touched.
#[test]
#[ignore = "mounts a folder, which needs root; scripts/test.sh runs it"]
fn as_root_the_journal_gets_the_fields() {
    let mut site = site("level = \"debug\"");
    let folder = site.room.make_folder("journal");
    let journal = UnixDatagram::bind(folder.join("socket")).unwrap();
    std::fs::set_permissions(folder.join("socket"), std::fs::Permissions::from_mode(0o777)).unwrap();
    journal.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let (kept, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let reader = std::thread::spawn({
        let (kept, over) = (Arc::clone(&kept), Arc::clone(&over));
        move || {
            let mut datagram = vec![0; 1 << 18];
            // What was sent before the end lies in the socket still.
            loop {
                match journal.recv(&mut datagram) {
                    Ok(0) | Err(_) if over.load(Ordering::Relaxed) => break,
                    Ok(0) | Err(_) => {}
                    Ok(length) => kept.lock().unwrap().push(parse(&datagram[..length])),
                }
            }
        }
    });
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec"]).arg(
        "mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/journal; mount --bind \"$1\" /run/systemd/journal
         JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec setpriv --reuid=postgres --regid=postgres --init-groups \"$2\" --config \"$3\"",
    );
    command.arg("sh").arg(&folder).arg(site.room.program("walwardd")).arg(&site.config);
    let mut agent = Daemon::start("walwardd", command, &site.room.join("walwardd.log"), Signal::TERM);
    eventually("the agent answers", Duration::from_secs(30), || {
        assert!(agent.ended().is_none(), "walwardd ended\n{}", agent.log());
        UnixStream::connect(&site.socket).ok()
    });
    site.cluster.start(&site.room);
    let lines = || kept.lock().unwrap().clone();
    let (segment, label) = live(&site, lines);
    over.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    let lines = lines();
    check(&lines, &segment, &label);
    let priority =
        |message: &str| lines.iter().find(|line| line["message"].contains(message)).unwrap()["priority"].clone();
    assert_eq!((priority("cannot archive").as_str(), priority("walwardd is ready").as_str()), ("4", "5"));
    assert_eq!(lines[0]["syslog_identifier"], "walwardd");
    assert_eq!(agent.log(), "", "under systemd standard error has nothing to say");
}
