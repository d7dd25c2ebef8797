use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::CWD;

use super::*;
use crate::sys::durable;

const NOBODY: u32 = 65534;

/// A folder with `inside/deep/file` in it, and a folder `outside` beside it with a `file` of its own.
fn folders() -> (tempfile::TempDir, Folder) {
    let room = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(room.path().join("held/inside/deep")).unwrap();
    std::fs::create_dir_all(room.path().join("outside/deep")).unwrap();
    durable::create(&room.path().join("held/inside/deep/file"), b"mine", 0o600).unwrap();
    durable::create(&room.path().join("outside/file"), b"theirs", 0o600).unwrap();
    durable::create(&room.path().join("outside/deep/file"), b"theirs", 0o600).unwrap();
    let held = Folder::enter(&room.path().join("held")).unwrap();
    (room, held)
}

#[test]
fn what_lies_below_is_reached() {
    let (room, held) = folders();
    assert_eq!(held.read("inside/deep/file", 4).unwrap(), b"mine");
    assert_eq!(held.read("inside/deep/file", 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    let deep = held.folder("inside/deep").unwrap();
    assert_eq!(deep.path(), room.path().join("held/inside/deep"));
    assert_eq!(deep.names().unwrap(), ["file"]);
    assert_eq!((deep.look("file").unwrap().kind, deep.look("file").unwrap().bytes), (Kind::File, 4));
    assert_eq!(held.folder("").unwrap().names().unwrap(), ["inside"]);
    held.make_folder("inside/new", 0o700).unwrap();
    drop(held.create("inside/new/file", 0o600).unwrap());
    assert_eq!(held.create("inside/new/file", 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    held.remove_file("inside/new/file").unwrap();
    held.remove_folder("inside/new").unwrap();
    assert_eq!(held.look("inside/new").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn no_path_leads_out() {
    let (room, held) = folders();
    let outside = room.path().join("outside");
    for path in ["../outside/file", "inside/../../outside/file", outside.join("file").to_str().unwrap(), ".", ".."] {
        assert_eq!(held.open(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path}");
        assert!(held.create(path, 0o600).is_err() && held.remove_file(path).is_err(), "{path}");
    }
}

#[test]
fn no_link_is_followed_wherever_it_stands() {
    let (room, held) = folders();
    let outside = room.path().join("outside");
    symlink(&outside, room.path().join("held/folder")).unwrap();
    symlink(outside.join("file"), room.path().join("held/file")).unwrap();
    symlink(outside.join("new"), room.path().join("held/new")).unwrap();
    for path in ["folder/file", "folder/deep/file", "file"] {
        let error = held.open(path).unwrap_err();
        assert!(followed_no_link(&error) && error.to_string().contains("symbolic link"), "{path}: {error}");
        assert!(held.open_any(path).is_err() && held.open_to_write(path).is_err(), "{path}");
    }
    assert!(followed_no_link(&held.folder("folder").unwrap_err()));
    assert!(held.look("folder/file").is_err() && held.names().is_ok());
    assert_eq!(held.look("folder").unwrap().kind, Kind::Link);
    assert_eq!(held.create("new", 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert!(held.create("folder/new", 0o600).is_err() && held.make_folder("folder/new", 0o700).is_err());
    assert!(held.remove_file("folder/file").is_err() && held.remove_folder("folder/deep").is_err());
    assert!(durable::make_folders_in(&held, Path::new("folder/new"), 0o700).is_err());
    let mut file = durable::NewFile::begin_in(&held, OsStr::new("file"), 0o600).unwrap();
    file.write_all(b"new").unwrap();
    file.replace().unwrap();
    assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"theirs");
    assert_eq!(held.read("file", 10).unwrap(), b"new");
    let mut names: Vec<_> = std::fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["deep", "file"]);
}

#[test]
fn a_pipe_is_not_waited_for_and_is_no_file() {
    let (room, held) = folders();
    rustix::fs::mknodat(CWD, room.path().join("held/pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(held.open("pipe").is_err());
    assert_eq!(held.look("pipe").unwrap().kind, Kind::Other);
    assert_eq!(held.open("inside").unwrap_err().kind(), io::ErrorKind::IsADirectory);
}

/// Exchanges a folder and a link, as fast as it can, until it is told to stop.
fn swap(room: &Path, stop: &AtomicBool) {
    let (a, b) = (room.join("held/inside"), room.join("held/trap"));
    while !stop.load(Ordering::Relaxed) {
        renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
    }
}

#[test]
fn a_folder_that_is_swapped_for_a_link_meanwhile_leads_nowhere_else() {
    let (room, held) = folders();
    symlink(room.path().join("outside"), room.path().join("held/trap")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| swap(room.path(), &stop));
        let (mut read, mut refused) = (0, 0);
        for number in 0..20_000 {
            match held.read("inside/deep/file", 100) {
                Ok(content) => {
                    assert_eq!(content, b"mine");
                    read += 1;
                }
                Err(_) => refused += 1,
            }
            let name = format!("inside/{number}");
            if held.create(&name, 0o600).is_ok() {
                let _ = held.remove_file(&name);
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(read > 0 && refused > 0, "nothing was swapped in between: {read} read, {refused} refused");
    });
    let mut names: Vec<_> =
        std::fs::read_dir(room.path().join("outside")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["deep", "file"]);
}

#[test]
fn the_folder_of_the_last_file_is_kept_and_another_is_found() {
    let (_room, held) = folders();
    let mut nearby = Nearby::default();
    for (path, names) in [("inside/deep", "file"), ("inside/deep", "file"), ("inside", "deep"), ("", "inside")] {
        assert_eq!(nearby.folder(&held, Path::new(path)).unwrap().names().unwrap(), [names]);
    }
    assert!(nearby.folder(&held, Path::new("gone")).is_err());
}

#[test]
fn a_persons_own_links_lead_to_the_folder() {
    let (room, _) = folders();
    symlink("held/inside", room.path().join("relative")).unwrap();
    symlink(room.path().join("relative"), room.path().join("absolute")).unwrap();
    symlink("loop", room.path().join("loop")).unwrap();
    for path in ["relative/deep", "absolute/deep", "held/../absolute/./deep/../deep", "held/inside/deep/"] {
        assert_eq!(Folder::enter(&room.path().join(path)).unwrap().names().unwrap(), ["file"], "{path}");
    }
    // The same from a folder that is held open, past which a link may lead.
    let held = Folder::enter(&room.path().join("held")).unwrap();
    symlink("../outside", room.path().join("held/out")).unwrap();
    assert_eq!(held.follow("out/deep").unwrap().names().unwrap(), ["file"]);
    assert!(followed_no_link(&held.folder("out/deep").unwrap_err()));
    let kind = |path: &str| Folder::enter(&room.path().join(path)).unwrap_err().kind();
    assert_eq!(kind("gone/deep"), io::ErrorKind::NotFound);
    assert_eq!(kind("held/inside/deep/file"), io::ErrorKind::NotADirectory);
    assert!(Folder::enter(&room.path().join("loop")).is_err());
}

#[test]
#[ignore = "needs root, to be led by another user; scripts/test.sh runs it as root"]
fn as_root_another_users_link_leads_only_to_what_is_that_users() {
    let (room, _) = folders();
    let given = |name: &str| std::os::unix::fs::lchown(room.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
    let enter = |path: &str| Folder::enter(&room.path().join(path));
    symlink(room.path().join("outside"), room.path().join("own")).unwrap();
    symlink(room.path().join("outside"), room.path().join("link")).unwrap();
    given("link");
    assert!(enter("own").is_ok());
    let error = enter("link").unwrap_err();
    assert!(followed_no_link(&error) && error.to_string().contains("root does not follow it"), "{error}");
    assert!(enter("link/deep").is_err());
    given("outside/deep");
    // They may go there themselves.
    assert!(enter("link/deep").is_ok());
    given("outside");
    assert!(enter("link").is_ok());
    // Two users' links: neither may be led by the other.
    symlink(room.path().join("link"), room.path().join("second")).unwrap();
    std::os::unix::fs::lchown(room.path().join("second"), Some(NOBODY - 1), None).unwrap();
    assert!(enter("second").is_err());
    let error = durable::create(&room.path().join("second/new"), b"", 0o600).unwrap_err();
    assert!(followed_no_link(&error), "{error}");
    assert_eq!(std::fs::metadata(room.path().join("outside")).unwrap().uid(), NOBODY);
}

#[test]
fn a_persons_own_links_lead_to_the_file() {
    let (room, held) = folders();
    let place = |name: &str| room.path().join(name);
    symlink("held/inside", place("way")).unwrap();
    symlink("way/deep/file", place("one")).unwrap();
    symlink(place("one"), place("two")).unwrap();
    symlink("loop", place("loop")).unwrap();
    for path in ["held/inside/deep/file", "way/deep/file", "one", "two"] {
        let mut text = String::new();
        open_led(&place(path)).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "mine", "{path}");
    }
    rustix::fs::mknodat(CWD, place("held/pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    symlink("held/pipe", place("pipe")).unwrap();
    assert!(open_led(&place("loop")).is_err() && open_led(&place("pipe")).is_err());
    assert_eq!(open_led(&place("gone")).unwrap_err().kind(), io::ErrorKind::NotFound);
    drop(held);
}

#[test]
#[ignore = "needs root, to be led by another user; scripts/test.sh runs it as root"]
fn as_root_another_users_link_leads_only_to_a_file_that_is_that_users() {
    let (room, _) = folders();
    let place = |name: &str| room.path().join(name);
    symlink(place("outside/file"), place("own")).unwrap();
    symlink(place("own"), place("link")).unwrap();
    symlink("link", place("second")).unwrap();
    assert!(open_led(&place("link")).is_ok());
    std::os::unix::fs::lchown(place("link"), Some(NOBODY), None).unwrap();
    let error = open_led(&place("link")).unwrap_err();
    assert!(followed_no_link(&error) && error.to_string().contains("root does not follow it"), "{error}");
    std::os::unix::fs::chown(place("outside/file"), Some(NOBODY), None).unwrap();
    assert!(open_led(&place("link")).is_ok() && open_led(&place("second")).is_ok());
    std::os::unix::fs::lchown(place("second"), Some(NOBODY - 1), None).unwrap();
    assert!(open_led(&place("second")).is_err());
}

#[test]
#[ignore = "needs root, beside whom others are; scripts/test.sh runs it as root"]
fn as_root_what_root_keeps_lies_where_nobody_else_can_change_the_way() {
    let (room, _) = folders();
    let place = |name: &str| room.path().join(name);
    let enter = |path: &str| Folder::enter_own(&place(path));
    let set = |name: &str, mode: u32, uid: u32| {
        std::fs::set_permissions(place(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(place(name), Some(uid), Some(uid)).unwrap();
    };
    assert!(enter("held/inside/deep").is_ok());
    symlink(place("held"), place("link")).unwrap();
    assert!(enter("link/inside/deep").is_ok());
    for (mode, uid) in [(0o755, NOBODY), (0o757, 0), (0o700, NOBODY)] {
        set("held/inside", mode, uid);
        let error = enter("held/inside/deep").unwrap_err();
        assert!(error.to_string().contains("inside is another user's, or others may write to it"), "{error}");
        assert!(enter("held/inside").is_err() && enter("link/inside/deep").is_err());
    }
    // As /tmp is: what is root's in it stays root's, and anything else may come.
    set("held/inside", 0o1777, 0);
    assert!(enter("held/inside/deep").is_ok() && enter("held/inside").is_err());
    std::os::unix::fs::lchown(place("link"), Some(NOBODY), None).unwrap();
    assert!(enter("link/inside/deep").is_err());
    assert_eq!(enter("gone").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
#[ignore = "needs root, whom the kernel lets read everything; scripts/test.sh runs it as root"]
fn as_root_no_file_is_read_that_another_user_gave_a_second_name() {
    let (room, held) = folders();
    std::fs::hard_link(room.path().join("outside/file"), room.path().join("held/file")).unwrap();
    // Of one owner, as pg_upgrade --link makes them.
    assert!(held.open("file").is_ok());
    std::os::unix::fs::chown(room.path().join("held"), Some(NOBODY), Some(NOBODY)).unwrap();
    assert_eq!(held.open("file").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(room.path().join("outside/file"), open_to_all).unwrap();
    assert!(held.open("file").unwrap_err().to_string().contains("another name"));
}

/// What lies in a user's folder is under a name of the user's choice: root does not read for that user what only root may read, and what root makes
/// there is the user's from its first moment.
#[test]
#[ignore = "needs root, whom the kernel lets read everything; scripts/test.sh runs it as root"]
fn as_root_no_file_is_read_that_the_owner_of_the_tree_may_not_read_wherever_it_was_moved_to() {
    let (room, held) = folders();
    let place = |name: &str| room.path().join(name);
    let theirs = |name: &str| std::os::unix::fs::chown(place(name), Some(NOBODY), Some(NOBODY)).unwrap();
    let mode =
        |name: &str, mode| std::fs::set_permissions(place(name), std::os::unix::fs::PermissionsExt::from_mode(mode));
    // All of it is root's: root reads what it likes.
    assert!(held.open("inside/deep/file").is_ok());
    theirs("held");
    let held = Folder::enter(&place("held")).unwrap();
    let denied = |found: io::Result<File>| {
        let error = found.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("Move it to a folder that is not that user's"), "{error}");
    };
    renameat(CWD, place("outside/file"), CWD, place("held/file")).unwrap();
    denied(held.open("file"));
    denied(held.open_any("file"));
    denied(held.open_to_write("file"));
    denied(held.read("file", 100).map(|_| unreachable!()));
    assert!(durable::name_again(&held, OsStr::new("file")).is_err() && open_led(&place("held/file")).is_err());
    // In a folder of root's that only root may enter; and deeper, below one that all may.
    mode("held/inside", 0o700).unwrap();
    mode("held/inside/deep/file", 0o644).unwrap();
    denied(held.open("inside/deep/file"));
    assert_eq!(held.folder("inside").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    mode("held/inside", 0o755).unwrap();
    mode("held/inside/deep", 0o755).unwrap();
    assert!(held.open("inside/deep/file").is_ok());
    mode("held/inside/deep/file", 0o600).unwrap();
    denied(held.open("inside/deep/file"));
    denied(held.folder("inside/deep").unwrap().open("file"));
    // What they may read: their own, their group's, all people's.
    mode("held/file", 0o644).unwrap();
    assert!(held.open("file").is_ok());
    denied(held.open_to_write("file"));
    mode("held/file", 0o640).unwrap();
    denied(held.open("file"));
    std::os::unix::fs::chown(place("held/file"), Some(0), Some(NOBODY)).unwrap();
    assert!(held.open("file").is_ok());
    mode("held/file", 0o000).unwrap();
    theirs("held/file");
    assert!(held.open("file").is_ok());
}

#[test]
#[ignore = "needs root, beside whom others are; scripts/test.sh runs it as root"]
fn as_root_a_folder_is_given_only_where_nobody_else_can_put_another_in_its_place() {
    let (room, held) = folders();
    let place = |name: &str| room.path().join(name);
    let owner = |name: &str| std::fs::metadata(place(name)).map(|found| (found.uid(), found.mode() & 0o7777)).unwrap();
    // What is there stays whose it is, and is given to nobody.
    durable::create_dir_all_for(&place("held/inside/new/newer"), 0o701, Some((NOBODY, NOBODY))).unwrap();
    assert_eq!(owner("held/inside").0, 0);
    assert_eq!((owner("held/inside/new"), owner("held/inside/new/newer")), ((NOBODY, 0o701), (NOBODY, 0o701)));
    // Where others may rename, it is not given at all.
    for (name, mode, given) in [("open", 0o777, 0), ("sticky", 0o1777, NOBODY)] {
        std::fs::create_dir(place(name)).unwrap();
        std::fs::set_permissions(place(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        durable::create_dir_all_for(&place(name).join("new"), 0o700, Some((NOBODY, NOBODY))).unwrap();
        assert_eq!(owner(&format!("{name}/new")), (given, 0o700));
    }
    // In a user's folder it is that user's, swapped or not: the kernel lets it be made and changed by nobody else.
    std::os::unix::fs::chown(place("held"), Some(NOBODY - 1), Some(NOBODY - 1)).unwrap();
    durable::create_dir_all_for(&place("held/new/newer"), 0o705, Some((NOBODY, NOBODY))).unwrap();
    durable::make_folders_in(&held, Path::new("other/deeper"), 0o700).unwrap();
    for made in ["held/new", "held/new/newer", "held/other", "held/other/deeper"] {
        assert_eq!(owner(made).0, NOBODY - 1, "{made}");
    }
    let (stop, secret) = (AtomicBool::new(false), place("held/secret"));
    std::fs::create_dir(&secret).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    // Held open and not empty: the loop below may meet it under the other name, and must neither remove it nor lose it.
    durable::create(&secret.join("file"), b"root's", 0o600).unwrap();
    let roots = std::fs::File::open(&secret).unwrap();
    let made = place("held/made");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = RenameFlags::EXCHANGE;
                let _ = renameat_with(CWD, &made, CWD, &secret, flags);
            }
        });
        for _ in 0..300 {
            let _ = durable::create_dir_all_for(&made, 0o755, Some((NOBODY, NOBODY)));
            for path in [&made, &secret] {
                if std::fs::metadata(path).is_ok_and(|found| found.uid() != 0) {
                    let _ = std::fs::remove_dir(path);
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let kept = roots.metadata().unwrap();
    assert_eq!((kept.uid(), kept.mode() & 0o7777), (0, 0o700), "what was root's is root's, and closed");
}

#[test]
fn no_folder_on_another_device_is_entered_where_that_was_asked_for() {
    let (_room, held) = folders();
    let whole = held.clone().on_one_device().unwrap();
    assert_eq!(whole.read("inside/deep/file", 4).unwrap(), b"mine");
    // As if all that lies below had come from elsewhere.
    let strange = Folder { device: Some(u64::MAX), ..held };
    assert_eq!(strange.names().unwrap(), ["inside"]);
    let inside = || Folder { device: None, ..strange.clone() }.folder("inside").unwrap();
    let inside = Folder { device: strange.device, ..inside() };
    for error in [
        strange.folder("inside").map(drop).unwrap_err(),
        strange.open("inside/file").map(drop).unwrap_err(),
        strange.create("inside/new", 0o600).map(drop).unwrap_err(),
        strange.remove_file("inside/none").unwrap_err(),
        inside.folder("deep").map(drop).unwrap_err(),
        durable::make_folders_in(&strange, Path::new("inside/new"), 0o700).map(drop).unwrap_err(),
    ] {
        assert!(error.to_string().contains("on another file system"), "{error}");
    }
}
