//! Folders of a store in a folder that nothing is in. An empty one may be left from a sync that failed, or that was never made: it may
//! be gone after a power cut, and a second sync would say nothing of it. Made anew, it is not. One with a file in it is durable,
//! because its folder was made durable before the file was begun.
//!
//! Best effort, and no symbolic link is followed: the repository's owner may change the folders meanwhile.

use std::path::Path;

use walward_base::sys::folder::Folder;

/// Removes the empty folders on the way from below `root` to `folder`, with those in them. Where another writer puts something into
/// one meanwhile, that writer has made it durable. Blocking.
pub(super) fn remove_on_the_way(root: &Folder, folder: &Path) {
    let mut above = root.clone();
    for name in folder {
        let Ok(inner) = above.folder(name) else { return };
        if holds_a_file(&inner) {
            above = inner;
            continue;
        }
        remove_those_in(&inner);
        let _ = above.remove_folder(name);
        return;
    }
}

/// Whether anything but folders is in `folder`, or in those in it. What cannot be looked into counts as that.
fn holds_a_file(folder: &Folder) -> bool {
    let Ok(names) = folder.names() else { return true };
    !names.iter().all(|name| folder.folder(name).is_ok_and(|inner| !holds_a_file(&inner)))
}

/// Removes the folders in `folder`, as far as they are empty.
fn remove_those_in(folder: &Folder) {
    for name in folder.names().unwrap_or_default() {
        if let Ok(inner) = folder.folder(&name) {
            remove_those_in(&inner);
            let _ = folder.remove_folder(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn an_empty_folder_on_the_way_goes_and_one_with_a_file_stays() {
        let root = tempfile::tempdir().unwrap();
        let held = Folder::enter(root.path()).unwrap();
        let path = |path: &str| root.path().join(path);
        let remove = |path: &str| remove_on_the_way(&held, Path::new(path));
        for empty in ["wal/15-7/00000001/00000000", "wal/15-7/00000002", "elsewhere/empty", "wal/16-7"] {
            std::fs::create_dir_all(path(empty)).unwrap();
        }
        remove("wal/15-7/00000001/00000000");
        assert!(!path("wal").exists() && path("elsewhere/empty").exists());

        std::fs::create_dir_all(path("wal/15-7/00000001/00000000")).unwrap();
        std::fs::create_dir_all(path("wal/15-7/00000002/00000000")).unwrap();
        std::fs::File::create(path("wal/15-7/00000001/00000000/a")).unwrap();
        std::os::unix::fs::symlink(path("elsewhere"), path("wal/15-7/00000001/link")).unwrap();
        let inode = std::fs::metadata(path("wal/15-7")).unwrap().ino();
        remove("wal/15-7/00000002/00000000");
        remove("wal/15-7/00000001/00000000");
        remove("wal/15-7/00000001/link/empty");
        assert!(!path("wal/15-7/00000002").exists() && path("wal/15-7/00000001/00000000/a").exists());
        assert!(path("elsewhere/empty").exists());
        assert_eq!(std::fs::metadata(path("wal/15-7")).unwrap().ino(), inode);
        remove("none/a");
    }
}
