//! Root at work in folders of other users: nothing that they put there leads root elsewhere, and what root makes is of use to them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use notify::Watcher;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::Signal;

use crate::setup_apply::{Bare, cluster, left};
use crate::support::{Agent, Daemon, Outcome, Room, Site, SiteOptions, Stop, Version, eventually};

const MARK: &[u8] = b"for root alone";

fn as_root(room: &Room, config: &Path, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(room.program("walward"));
    Outcome::of(command.arg("--config").arg(config).arg("--no-input").args(arguments))
}

/// Makes a link of the owner of the data directory.
fn plant(site: &Site, to: &Path, at: &Path) {
    symlink(to, at).unwrap();
    let owner = fs::metadata(&site.cluster.data).unwrap();
    lchown(at, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// Exchanges two names as fast as that goes while `work` is done: what was looked at is something else when it is used.
fn while_swapped<T>(a: &Path, b: &Path, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Not there for a moment, when somebody makes it anew.
                let _ = renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
            }
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        done
    })
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

/// Whether any backup in a plain repository holds the bytes.
fn is_backed_up(site: &Site, bytes: &[u8]) -> bool {
    let packs =
        files_in(&site.repository_folder()).into_iter().filter(|path| path.to_string_lossy().contains("/pack/"));
    packs
        .map(|path| zstd::stream::decode_all(fs::File::open(path).unwrap()).unwrap())
        .any(|content| content.windows(bytes.len()).any(|window| window == bytes))
}

#[test]
#[ignore = "backs up as root; scripts/test.sh runs it"]
fn as_root_a_backup_holds_nothing_that_the_owner_of_the_data_led_root_to() {
    const FILES: usize = 1_500;
    let site = Site::start(SiteOptions { encrypted: false, ..SiteOptions::default() });
    let secret = tempfile::tempdir().unwrap();
    let backup = || {
        let mut command = Command::new(site.room.program("walward"));
        command.arg("--config").arg(&site.config).args(["--no-input", "--cluster", "main", "backup", "--no-agent"]);
        command.output().unwrap()
    };
    // A tablespace that was never made.
    let catalogue = site.cluster.sql(&site.room, "select catalog_version_no from pg_control_system()");
    let version = site.cluster.sql(&site.room, "select current_setting('server_version_num')::int / 10000");
    let space = secret.path().join(format!("space/PG_{version}_{catalogue}/5"));
    fs::create_dir_all(&space).unwrap();
    fs::write(space.join("16384"), MARK).unwrap();
    let link = site.cluster.data.join("pg_tblspc/99999");
    plant(&site, &secret.path().join("space"), &link);
    let output = backup();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("root does not follow it"), "{said}");
    assert!(!is_backed_up(&site, MARK));
    fs::remove_file(&link).unwrap();

    // A folder that is one when it is listed, and a link when its files are copied.
    let (own, trap, theirs) =
        (site.cluster.data.join("extra"), site.cluster.data.join("trap"), secret.path().join("extra"));
    for (folder, content) in [(&own, &b"the owner's own"[..]), (&theirs, MARK)] {
        fs::create_dir(folder).unwrap();
        for number in 0..FILES {
            fs::write(folder.join(number.to_string()), content).unwrap();
        }
    }
    for path in std::iter::once(own.clone()).chain(files_in(&own)) {
        site.room.give_away(&path);
    }
    plant(&site, &theirs, &trap);
    while_swapped(&own, &trap, || (0..4).for_each(|_| drop(backup())));
    assert!(!is_backed_up(&site, MARK));
    if !own.is_dir() || own.is_symlink() {
        renameat_with(CWD, &own, CWD, &trap, RenameFlags::EXCHANGE).unwrap();
    }
    assert!(matches!(backup().status.code(), Some(0 | 3)));
    assert!(is_backed_up(&site, b"the owner's own") && !is_backed_up(&site, MARK));
}

#[test]
#[ignore = "restores as root; scripts/test.sh runs it"]
fn as_root_a_restore_into_another_users_tree_follows_none_of_its_links() {
    let mut site = Site::start(SiteOptions::default());
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    site.cluster.stop(Stop::Fast);
    let pack = files_in(&site.repository_folder()).into_iter().find(|path| path.ends_with("pack/00000")).unwrap();
    let aside = site.room.join("pack");
    let secret = tempfile::tempdir().unwrap();
    let theirs = secret.path().join("base");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(theirs.join("1259"), MARK).unwrap();
    let target = site.room.make_folder("restored");
    let restore = || {
        let mut command = Command::new(site.room.program("walward"));
        command.arg("--config").arg(&site.config).args(["--no-input", "--yes", "--cluster", "main", "restore"]);
        command.args(["--archive-mode", "off", "--target-directory"]).arg(&target).output().unwrap()
    };
    // One that ended early: its journal lets the next one into a directory that is not empty.
    fs::rename(&pack, &aside).unwrap();
    assert_eq!(restore().status.code(), Some(14));
    fs::rename(&aside, &pack).unwrap();
    let (base, trap) = (target.join("base"), target.join("trap"));
    let untouched = |when: &str| {
        let facts = fs::metadata(&theirs).unwrap();
        assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o7777), (0, 0, 0o750), "{when}");
        let names: Vec<_> = fs::read_dir(&theirs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["1259"], "{when}");
        assert_eq!(fs::read(theirs.join("1259")).unwrap(), MARK, "{when}");
    };
    fs::rename(&base, target.join("aside")).unwrap();
    plant(&site, &theirs, &base);
    let output = restore();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(12), "{said}");
    untouched("with a link in a folder's place");
    fs::remove_file(&base).unwrap();
    fs::rename(target.join("aside"), &base).unwrap();

    plant(&site, &theirs, &trap);
    while_swapped(&base, &trap, || (0..4).for_each(|_| drop(restore())));
    untouched("with a folder that is swapped for a link");
}

/// A folder of root's with a file in it, and what must be true of both whatever happens.
fn for_root_alone() -> (tempfile::TempDir, impl Fn(&str)) {
    let secret = tempfile::tempdir().unwrap();
    fs::write(secret.path().join("file"), MARK).unwrap();
    fs::set_permissions(secret.path().join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let place = secret.path().to_owned();
    let untouched = move |when: &str| {
        let names: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"], "{when}");
        assert_eq!(fs::read(place.join("file")).unwrap(), MARK, "{when}");
        let facts = fs::metadata(place.join("file")).unwrap();
        assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o7777), (0, 0, 0o600), "{when}");
    };
    (secret, untouched)
}

/// A file that only root may read, under a name that the owner of its folder chose: who owns a folder may move what lies in it.
fn moved_there(at: &Path) -> impl Fn(&str) + use<> {
    // Root's, whoever had one of that name.
    let _ = fs::remove_file(at);
    fs::write(at, MARK).unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o600)).unwrap();
    let at = at.to_owned();
    move |when: &str| {
        let facts = fs::metadata(&at).unwrap();
        assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o7777), (0, 0, 0o600), "{when}");
        assert_eq!(fs::read(&at).unwrap(), MARK, "{when}");
    }
}

#[test]
#[ignore = "needs root; scripts/test.sh runs it"]
fn as_root_a_restore_puts_pg_wal_where_root_has_to_make_the_folder() {
    let site = Site::start(SiteOptions::default());
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let disks = tempfile::tempdir().unwrap();
    fs::set_permissions(disks.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (number, is_there) in [false, true].into_iter().enumerate() {
        let (data, wal) =
            (disks.path().join(format!("{number}/data")), disks.path().join(format!("{number}/disk/wal")));
        if is_there {
            fs::create_dir_all(&wal).unwrap();
        }
        let places = ["--target-directory", data.to_str().unwrap(), "--waldir", wal.to_str().unwrap()];
        let arguments = [&["--yes", "--cluster", "main", "restore", "--archive-mode", "off"][..], &places].concat();
        as_root(&site.room, &site.config, &arguments).expect(0);
        let [data, wal] = [&data, &wal].map(|place| fs::metadata(place).unwrap());
        assert_eq!((wal.uid(), wal.gid(), wal.mode() & 0o7777), (data.uid(), data.gid(), 0o700));
        assert_ne!(data.uid(), 0);
    }
}

#[test]
#[ignore = "runs walward as root; scripts/test.sh runs it"]
fn as_root_setup_gives_nothing_away_that_the_owner_moved_into_the_repository() {
    let mut bare = Bare::new(&Version::main(), &[]);
    bare.url = format!("file://{}", bare.room.join("backup").display());
    let setup = |bare: &Bare| {
        let arguments = bare.setup_arguments(&[]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        as_root(&bare.room, &bare.config, &arguments).expect(0)
    };
    setup(&bare);
    let repository = bare.room.join("backup/main");
    let owner = fs::metadata(&bare.cluster.data).unwrap().uid();
    for path in std::iter::once(repository.clone()).chain(files_in(&repository)) {
        assert_eq!(fs::metadata(&path).unwrap().uid(), owner, "{}", path.display());
    }
    let file = moved_there(&repository.join("x"));
    let folder = repository.join("folder");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let inner = moved_there(&folder.join("x"));
    setup(&bare);
    file("in the repository");
    inner("in a folder of it");
    let facts = fs::metadata(&folder).unwrap();
    assert_eq!((facts.uid(), facts.mode() & 0o7777), (0, 0o700));
}

#[test]
#[ignore = "backs up as root; scripts/test.sh runs it"]
fn as_root_a_backup_is_refused_rather_than_read_what_only_root_may_read() {
    let mut site = Site::start(SiteOptions { encrypted: false, ..SiteOptions::default() });
    let backup = |site: &Site, more: &[&str]| {
        let arguments = [&["--cluster", "main", "backup"], more].concat();
        as_root(&site.room, &site.config, &arguments)
    };
    let place = site.cluster.data.join("base/moved");
    let untouched = moved_there(&place);
    let refused = |found: Outcome| {
        found.expect(1).says("base/moved").says("Move it to a folder that is not that user's");
    };
    refused(backup(&site, &["--no-agent"]));
    site.stop_agent();
    site.room.as_made_by_the_system();
    chown(site.room.join("spool"), Some(0), Some(0)).unwrap();
    let _ = fs::remove_dir_all(site.room.join("spool/main"));
    let mut command = Command::new(site.room.program("walwardd"));
    command.arg("--config").arg(&site.config).current_dir("/");
    let agent = Daemon::start("walwardd", command, &site.room.join("root.log"), Signal::TERM);
    eventually("the agent is ready", Duration::from_secs(30), || {
        agent.log().contains("walwardd is ready").then_some(())
    });
    // Who owns the data asks the agent of root's.
    refused(site.walward(&["--cluster", "main", "backup"]));
    untouched("in the data directory");
    assert!(!is_backed_up(&site, MARK));
    // What the owner may read is in it.
    fs::set_permissions(&place, fs::Permissions::from_mode(0o644)).unwrap();
    backup(&site, &["--no-agent"]).expect(0);
    assert!(is_backed_up(&site, MARK));
}

#[test]
#[ignore = "fetches as root; scripts/test.sh runs it"]
fn as_root_what_the_owner_moves_to_where_root_fetches_is_not_given_away() {
    let site = Site::start(SiteOptions::default());
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let pg_wal = site.cluster.data.join("pg_wal");
    let wanted = pg_wal.join("RECOVERYXLOG");
    let unverified = pg_wal.join("RECOVERYXLOG.walward-unverified");
    let mut exchanged = 0;
    for _ in 0..8 {
        let _ = fs::remove_file(&wanted);
        let secret = site.cluster.data.join("secret");
        drop(moved_there(&secret));
        let stop = AtomicBool::new(false);
        exchanged += std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if renameat_with(CWD, &secret, CWD, &unverified, RenameFlags::EXCHANGE).is_ok() {
                        return 1;
                    }
                }
                0
            });
            let destination = wanted.to_str().unwrap();
            as_root(&site.room, &site.config, &["--cluster", "main", "wal", "fetch", &segment, destination]);
            stop.store(true, Ordering::Relaxed);
            swapper.join().unwrap()
        });
        for path in [&secret, &unverified, &wanted] {
            if fs::read(path).is_ok_and(|content| content == MARK) {
                let facts = fs::metadata(path).unwrap();
                assert_eq!((facts.uid(), facts.mode() & 0o7777), (0, 0o600), "{}", path.display());
            }
        }
    }
    assert!(exchanged > 0, "the moment was never met");
}

#[test]
#[ignore = "fetches as root; scripts/test.sh runs it"]
fn as_root_a_file_that_root_fetches_goes_where_no_link_of_the_owner_leads_and_is_the_owners() {
    let site = Site::start(SiteOptions::default());
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    let (secret, untouched) = for_root_alone();
    let pg_wal = site.cluster.data.join("pg_wal");
    let (wanted, trap) = (pg_wal.join("RECOVERYXLOG"), site.cluster.data.join("trap"));
    let fetch = |destination: &Path| {
        as_root(
            &site.room,
            &site.config,
            &["--cluster", "main", "wal", "fetch", &segment, destination.to_str().unwrap()],
        )
    };
    for name in ["RECOVERYXLOG", "RECOVERYXLOG.walward-unverified"] {
        plant(&site, &secret.path().join("file"), &pg_wal.join(name));
    }
    fetch(&wanted).expect(0);
    untouched("with links in the place of the file and of its first name");
    let (facts, owner) = (fs::symlink_metadata(&wanted).unwrap(), fs::metadata(&pg_wal).unwrap());
    assert!(facts.is_file() && facts.uid() == owner.uid() && facts.gid() == owner.gid());
    assert_eq!(facts.mode() & 0o077, 0);
    // A second name of a file of root's is not written into either.
    fs::remove_file(&wanted).unwrap();
    fs::hard_link(secret.path().join("file"), pg_wal.join("RECOVERYXLOG.walward-unverified")).unwrap();
    fetch(&wanted).expect(0);
    fs::remove_file(&wanted).unwrap();
    untouched("with a second name of a file of root's");

    plant(&site, secret.path(), &trap);
    let led = fetch(&trap.join("RECOVERYXLOG"));
    assert_eq!(led.code, 255, "{}", led.stderr);
    assert!(led.stderr.contains("is a symbolic link of user"), "{}", led.stderr);
    untouched("with a link in the folder's place");
    let inner = site.room.make_folder("main/inner");
    while_swapped(&inner, &trap, || (0..4).for_each(|_| drop(fetch(&inner.join("RECOVERYXLOG")))));
    untouched("with a folder that is swapped for a link");

    // The small client has no means to go there safely, and says so.
    let mut client = Command::new(site.room.program("walward-wal"));
    client.arg("--socket").arg(&site.socket).args(["--cluster", "main", "fetch", &segment]).arg(&wanted);
    Outcome::of(&mut client).expect(255).says("is not root's alone");
    assert!(fs::symlink_metadata(&wanted).is_err());
    client = Command::new(site.room.program("walward-wal"));
    let own = tempfile::tempdir().unwrap();
    client.arg("--socket").arg(&site.socket).args(["--cluster", "main", "fetch", &segment]).arg(own.path().join("x"));
    site.room.as_made_by_the_system();
    Outcome::of(&mut client).expect(0);
}

/// With a spool that takes nothing: the agent writes into the owner's folder.
#[test]
#[ignore = "mounts a file system and runs the agent as root; scripts/test.sh runs it"]
fn as_root_an_agent_of_roots_that_writes_beside_a_destination_follows_no_link_of_the_owner() {
    let mut site = Site::start(SiteOptions {
        // Smaller than a segment.
        file_systems: vec![("spool", 8)],
        cluster_settings: "archive.look_ahead = 0\nfetch.deadline = \"3s\"\n".to_owned(),
        ..SiteOptions::default()
    });
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    site.stop_agent();
    site.room.as_made_by_the_system();
    chown(site.room.join("spool"), Some(0), Some(0)).unwrap();
    fs::remove_dir(site.room.join("spool/main")).unwrap();
    let mut command = Command::new(site.room.program("walwardd"));
    command.arg("--config").arg(&site.config).current_dir("/");
    let agent = Daemon::start("walwardd", command, &site.room.join("root.log"), Signal::TERM);
    eventually("the agent is ready", Duration::from_secs(30), || {
        agent.log().contains("walwardd is ready").then_some(())
    });
    let fetch = |path: &Path| site.client(&["--cluster", "main", "fetch", &segment, path.to_str().unwrap()]);
    let (secret, untouched) = for_root_alone();
    let (pg_wal, trap) = (site.cluster.data.join("pg_wal"), site.cluster.data.join("trap"));
    let wanted = pg_wal.join("RECOVERYXLOG");
    for name in ["RECOVERYXLOG", "RECOVERYXLOG.walward-unverified"] {
        plant(&site, &secret.path().join("file"), &pg_wal.join(name));
    }
    fetch(&wanted).expect(0);
    assert!(agent.log().contains("the spool cannot take the file"), "{}", agent.log());
    untouched("with links in the place of the file and of its first name");
    let (facts, owner) = (fs::symlink_metadata(&wanted).unwrap(), fs::metadata(&pg_wal).unwrap());
    assert!(facts.is_file() && facts.uid() == owner.uid() && facts.gid() == owner.gid());
    assert_eq!(facts.mode() & 0o7777, 0o600);
    assert!(fs::read(&wanted).unwrap() == fs::read(pg_wal.join(&segment)).unwrap(), "another content");
    // What is root's and lies under the name, as a second name or moved there by who owns the folder, is not written into either.
    let unverified = pg_wal.join("RECOVERYXLOG.walward-unverified");
    fs::hard_link(secret.path().join("file"), &unverified).unwrap();
    fetch(&wanted).expect(0);
    untouched("with a second name of a file of root's");

    plant(&site, secret.path(), &trap);
    assert_eq!(fetch(&trap.join("RECOVERYXLOG")).code, 255);
    untouched("with a link in the folder's place");
    let inner = site.room.make_folder("main/inner");
    while_swapped(&inner, &trap, || (0..6).for_each(|_| drop(fetch(&inner.join("RECOVERYXLOG")))));
    untouched("with a folder that is swapped for a link");
}

#[test]
#[ignore = "runs the agent as root; scripts/test.sh runs it"]
fn as_root_an_agent_of_roots_keeps_nothing_where_another_user_may_lead_it() {
    let site = Site::prepare(SiteOptions::default());
    let (_secret, untouched) = for_root_alone();
    let agent = || Command::new(site.room.program("walwardd")).arg("--config").arg(&site.config).output().unwrap();
    // Spools that are left over have numbers for names, as the folders of databases have.
    let base = site.cluster.data.join("base");
    let databases = || fs::read_dir(&base).unwrap().count();
    let before = databases();
    assert!(before > 0);
    plant(&site, &base, &site.room.join("spool/main"));
    let output = agent();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("root keeps nothing there"), "{said}");
    assert_eq!(databases(), before, "an old spool is removed where it lies, and a database is none");
    untouched("with a link in the place of the spool");
}

#[test]
#[ignore = "runs the agent as root; scripts/test.sh runs it"]
fn as_root_what_takes_the_sockets_place_does_not_get_its_mode() {
    let mut site = Site::prepare(SiteOptions::default());
    site.cluster.start(&site.room);
    site.room.as_made_by_the_system();
    chown(site.room.join("spool"), Some(0), Some(0)).unwrap();
    let (secret, untouched) = for_root_alone();
    let trap = site.room.join("run/trap");
    plant(&site, &secret.path().join("file"), &trap);
    // A log for each: the next must not look ready by the last one's words.
    let started = AtomicU32::new(0);
    let start = || {
        let mut command = Command::new(site.room.program("walwardd"));
        command.arg("--config").arg(&site.config).current_dir("/");
        let log = site.room.join(format!("walwardd.{}.log", started.fetch_add(1, Ordering::Relaxed)));
        Daemon::start("walwardd", command, &log, Signal::TERM)
    };
    while_swapped(&site.socket, &trap, || {
        for _ in 0..8 {
            let mut agent = start();
            eventually("the agent has its socket, or has ended", Duration::from_secs(30), || {
                (agent.ended().is_some() || agent.log().contains("walwardd is ready")).then_some(())
            });
        }
    });
    untouched("with a link in the place of the socket");
    let _ = fs::remove_file(&site.socket);
    // Whatever moment a swap would need: after it was made nothing is changed by its name.
    let (sender, events) = std::sync::mpsc::channel();
    let mut watcher = notify::recommended_watcher(sender).unwrap();
    watcher.watch(site.socket.parent().unwrap(), notify::RecursiveMode::NonRecursive).unwrap();
    let agent = start();
    eventually("the agent is ready", Duration::from_secs(30), || {
        agent.log().contains("walwardd is ready").then_some(())
    });
    let last = site.room.write("run/last", "");
    let mut seen = Vec::new();
    while !seen.iter().any(|event: &notify::Event| event.paths.contains(&last)) {
        seen.push(events.recv_timeout(Duration::from_secs(30)).unwrap().unwrap());
    }
    seen.retain(|event| event.paths.contains(&site.socket));
    let is_made = |event: &notify::Event| matches!(event.kind, notify::EventKind::Create(_));
    let is_changed =
        |event: &notify::Event| matches!(event.kind, notify::EventKind::Modify(notify::event::ModifyKind::Metadata(_)));
    assert!(seen.iter().any(is_made) && !seen.iter().any(is_changed), "{seen:?}");
    assert_eq!(fs::metadata(&site.socket).unwrap().mode() & 0o7777, 0o666);
}

/// The first five minutes: nothing is there but PostgreSQL, and root types what the documents say.
#[test]
#[ignore = "runs walward as root; scripts/test.sh runs it"]
fn as_root_setup_makes_every_folder_for_the_agent_and_root_may_type_every_command() {
    let settings = [("archive_mode", "on"), ("wal_level", "replica")];
    let mut bare = Bare::new(&Version::main(), &settings);
    // As /backup, /run and /var/spool are: root's.
    let rooms = bare.room.join("root");
    fs::create_dir(&rooms).unwrap();
    // Nor does root believe a socket below another user's folder in /tmp.
    std::os::unix::fs::chown(bare.room.path(), Some(0), Some(0)).unwrap();
    bare.url = format!("file://{}", rooms.join("backup/pg").display());
    bare.socket = rooms.join("run/walward/walward.sock");
    let spool = rooms.join("spool/walward");
    bare.room.write("conf.d/spool.toml", format!("[agent]\nspool_directory = {spool:?}\n"));
    let config = bare.config.clone();
    let setup = |bare: &Bare, more: &[&str]| {
        let arguments = bare.setup_arguments(more);
        let arguments: Vec<&str> = std::iter::once("--json").chain(arguments.iter().map(String::as_str)).collect();
        as_root(&bare.room, &config, &arguments)
    };
    let first = setup(&bare, &["--apply"]).expect(0).json();
    let owner = fs::metadata(&bare.cluster.data).unwrap();
    let belongs = |path: &Path| {
        let found = fs::symlink_metadata(path).unwrap();
        assert_eq!((found.uid(), found.gid()), (owner.uid(), owner.gid()), "{}", path.display());
    };
    for folder in ["backup", "backup/pg", "backup/pg/main", "spool/walward", "run/walward"] {
        belongs(&rooms.join(folder));
    }
    // As the user that the agent has to run as, with the command that is left to do.
    let command = format!("walwardd --config {}", config.display());
    assert!(left(&first).contains(&format!("sudo -u postgres {command}")), "{}", left(&first));
    bare.agent = Some(Agent::start(&bare.room, &config, &bare.socket, &bare.room.join("walwardd.log")));
    let second = setup(&bare, &["--apply"]).expect(0).json();
    assert!(cluster(&second)["first_segment"].is_object(), "{second:#}");

    let root = |arguments: &[&str]| as_root(&bare.room, &config, arguments);
    root(&["backup", "--no-agent"]).expect(0);
    root(&["backup"]).expect(0);
    root(&["--json", "check", "--switch-wal"]).expect_healthy();
    let added = bare.room.join("added.key");
    root(&["keys", "add", "--key-file", added.to_str().unwrap()]).expect(0);
    for arguments in
        [&["status"][..], &["info"], &["keys", "list"], &["keys", "rotate"], &["repo", "info"], &["wal", "gaps"]]
    {
        root(arguments).expect(0);
    }
    for path in files_in(&rooms.join("backup")) {
        belongs(&path);
    }
    // What root wrote is of use to the agent.
    bare.walward(&["backup", "--no-agent"]).expect(0);
}

/// A folder that is there already and closed to the agent's user: root could write to it, and nothing would be archived.
#[test]
#[ignore = "runs walward as root; scripts/test.sh runs it"]
fn as_root_setup_refuses_a_repository_that_the_agent_cannot_reach() {
    let mut bare = Bare::new(&Version::main(), &[]);
    let closed = bare.room.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&closed, Some(0), Some(0)).unwrap();
    bare.url = format!("file://{}", closed.join("pg").display());
    let arguments = bare.setup_arguments(&["--apply"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let refused = as_root(&bare.room, &bare.config, &arguments).expect(16);
    refused.says("cannot write to the repository").says("namei -l");
    assert_eq!(bare.show("archive_mode"), "off");
    assert!(!fs::read_to_string(bare.cluster.data.join("postgresql.auto.conf")).unwrap().contains("archive"));
}

/// An ordinary user whom the server's rules turn away is told so, and not to look at credentials.
#[test]
#[ignore = "needs a server that asks the kernel who somebody is; scripts/test.sh runs it as root"]
fn as_root_a_user_whom_the_server_turns_away_is_told_what_to_do() {
    let bare = Bare::new(&Version::main(), &[]);
    bare.setup(&["--apply"]).expect(0);
    bare.room.write("main/pg_hba.conf", "local all walward peer map=nobody\nlocal all all peer\n");
    bare.cluster.sql(&bare.room, "select pg_reload_conf()");
    let said = bare.walward(&["check"]);
    assert!(said.stdout.contains("pg_hba.conf") && said.stdout.contains("pg_ident.conf"), "{}", said.stdout);
    assert!(!said.stdout.contains("is PostgreSQL running"), "{}", said.stdout);
}
