//! The disk itself: what is left of it, and what is told.

use std::collections::HashSet;

use walward_base::sys::durable;
use walward_base::sys::folder::Folder;

use super::*;

fn go() -> Decide {
    Box::new(|_| Verdict::Go)
}

/// The first step that begins with `what` fails.
fn fails_once(what: &'static str) -> Decide {
    let mut first = true;
    Box::new(move |seen| {
        let fails = seen.what.starts_with(what) && std::mem::take(&mut first);
        if fails { Verdict::Before(io::ErrorKind::Other) } else { Verdict::Go }
    })
}

/// A disk in `folder`, and what is left of it after a cut.
fn after(work: impl FnOnce(&Path), decide: Decide, loss: Loss) -> Vec<(String, Vec<u8>)> {
    let folder = scratch();
    let root = folder.path().join("disk");
    std::fs::create_dir(&root).unwrap();
    let disk = Disk::new(&root, Lies::default(), decide);
    work(&root);
    let left = folder.path().join("left");
    disk.cut().recover(loss, &left);
    assert!(durable::create(&root.join("late"), b"", 0o600).is_err(), "the power is off");
    let names = read_names(&left).unwrap();
    let files = names.iter().filter(|(_, entry)| !entry.folder);
    files.map(|(name, _)| (name.to_str().unwrap().to_owned(), std::fs::read(left.join(name)).unwrap())).collect()
}

fn file(name: &str, content: &[u8]) -> (String, Vec<u8>) {
    (name.to_owned(), content.to_vec())
}

#[test]
fn what_was_synced_is_left_and_what_was_not_is_not() {
    let write = |root: &Path| {
        durable::create(&root.join("kept"), b"kept", 0o600).unwrap();
        std::fs::write(root.join("lost"), b"lost").unwrap();
    };
    assert_eq!(after(write, go(), Loss::All), [file("kept", b"kept")]);
    assert_eq!(after(write, go(), Loss::Nothing), [file("kept", b"kept"), file("lost", b"lost")]);
}

#[test]
fn a_failed_sync_of_a_folder_is_told_once_to_whoever_had_named_something_there_before() {
    let folder = scratch();
    let root = folder.path().join("disk");
    std::fs::create_dir(&root).unwrap();
    let disk = Disk::new(&root, Lies::default(), fails_once("fsync folder"));
    std::fs::write(root.join("from"), b"x").unwrap();
    let (from, to) = (root.join("from"), root.join("to"));
    disk.step(Step::RenameNew(&from, &to), &mut || std::fs::rename(&from, &to)).unwrap();
    let sync = || disk.step(Step::SyncFolder(&root), &mut || Ok(()));
    std::thread::scope(|scope| scope.spawn(|| sync().expect_err("it fails")).join().unwrap());
    sync().expect_err("it failed since the name was given");
    sync().expect("told once");
}

#[test]
fn a_name_is_not_kept_by_an_fsync_of_its_file_nor_a_folder_by_its_own() {
    let unnamed: Decide = Box::new(|seen| {
        let names = seen.what.starts_with("fsync folder");
        if names { Verdict::Before(io::ErrorKind::Other) } else { Verdict::Go }
    });
    let write = |root: &Path| assert!(durable::create(&root.join("a"), b"x", 0o600).is_err());
    assert_eq!(after(write, unnamed, Loss::All), []);
    let folder = scratch();
    let root = folder.path().join("disk");
    std::fs::create_dir(&root).unwrap();
    let disk = Disk::new(&root, Lies::default(), go());
    std::fs::create_dir(root.join("in")).unwrap();
    durable::create(&root.join("in/a"), b"x", 0o600).unwrap();
    let left = folder.path().join("left");
    disk.cut().recover(Loss::All, &left);
    assert!(!left.join("in").exists());
}

#[test]
fn after_a_failed_fsync_a_second_one_keeps_nothing() {
    let write = |root: &Path| {
        std::fs::write(root.join("a"), b"x").unwrap();
        assert!(durable::sync_file(&root.join("a")).is_err());
        durable::sync_file(&root.join("a")).unwrap();
        durable::sync_directory(root).unwrap();
    };
    assert_eq!(after(write, fails_once("fsync a"), Loss::All), [file("a", b"")]);
}

#[test]
fn after_a_failed_sync_of_a_folder_only_a_name_that_is_given_anew_is_kept() {
    let write = |root: &Path| {
        assert!(durable::create(&root.join("a"), b"a", 0o600).is_err());
        durable::sync_directory(root).unwrap();
        durable::create(&root.join("b"), b"b", 0o600).unwrap();
        std::fs::copy(root.join("a"), root.join("c")).unwrap();
        durable::name_again(&Folder::enter(root).unwrap(), OsStr::new("c")).unwrap();
    };
    assert_eq!(after(write, fails_once("fsync folder"), Loss::All), [file("b", b"b"), file("c", b"a")]);
    let write = |root: &Path| {
        assert!(durable::create(&root.join("a"), b"a", 0o600).is_err());
        durable::name_again(&Folder::enter(root).unwrap(), OsStr::new("a")).unwrap();
    };
    assert_eq!(after(write, fails_once("fsync folder"), Loss::All), [file("a", b"a")]);
}

#[test]
fn a_failed_sync_of_a_file_system_is_told_once_to_each_descriptor_and_keeps_nothing_that_it_forgot() {
    let write = |root: &Path| {
        let watch = || durable::FileSystem::watch(Folder::enter(root).unwrap()).unwrap();
        let (one, other) = (watch(), watch());
        std::fs::write(root.join("a"), b"x").unwrap();
        assert!(one.sync().is_err());
        assert!(one.sync().is_ok() && watch().sync().is_ok());
        assert!(other.sync().is_err());
        assert!(other.sync().is_ok());
        std::fs::write(root.join("b"), b"y").unwrap();
        one.sync().unwrap();
    };
    assert_eq!(after(write, fails_once("syncfs"), Loss::All), [file("b", b"y")]);
}

#[test]
fn a_rename_is_whole_or_not_at_all() {
    for seed in 0..64 {
        let write = |root: &Path| {
            durable::create(&root.join("old"), b"x", 0o600).unwrap();
            std::fs::create_dir(root.join("in")).unwrap();
            durable::sync_directory(root).unwrap();
            let renamed = durable::rename(&root.join("old"), &root.join("new"));
            assert!(renamed.is_err());
        };
        let cut_at_the_end: Decide = Box::new(|seen| if seen.number == 8 { Verdict::Cut } else { Verdict::Go });
        let left = after(write, cut_at_the_end, Loss::Some(seed));
        assert!(!left.is_empty() && left.iter().all(|(_, bytes)| bytes == b"x"), "seed {seed}: {left:?}");
    }
}

#[test]
fn bytes_that_were_not_synced_come_back_in_every_way() {
    let mut lengths = HashSet::new();
    for seed in 0..64 {
        let write = |root: &Path| {
            std::fs::write(root.join("a"), vec![7; 100]).unwrap();
            durable::sync_directory(root).unwrap();
        };
        let left = after(write, go(), Loss::Some(seed));
        lengths.insert(left.first().map(|(_, bytes)| (bytes.len(), bytes.iter().all(|byte| *byte == 7))));
    }
    assert!(lengths.len() > 10, "{lengths:?}");
}
