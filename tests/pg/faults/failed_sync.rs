//! A disk that takes writes and cannot keep them: the page cache says yes, the sync no, and the next sync yes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{SiteOptions, options};
use crate::support::{Outcome, Room, Site, StoreKind};

/// An ext4 file system without a journal on a loop device, whose file lies sparse on a small file system in memory: when that is full,
/// write-back fails, and what is written meanwhile is in the page cache alone.
struct Thin {
    shelf: PathBuf,
    mounted: PathBuf,
    device: String,
}

impl Thin {
    fn new(room: &Room, mib: u32) -> Self {
        let (shelf, mounted) = (room.make_folder("thin.shelf"), room.make_folder("thin"));
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "walward-test", path(&shelf)]);
        let image = shelf.join("image");
        fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", "-m", "0", path(&image)]);
        let device = run("losetup", &["--find", "--show", path(&image)]).trim().to_owned();
        let thin = Self { shelf, mounted, device };
        thin.mount();
        room.give_away(&thin.mounted);
        thin
    }

    fn mount(&self) {
        run("mount", &["-o", "errors=continue", &self.device, path(&self.mounted)]);
    }

    /// Leaves room for `mib` MiB more.
    fn fill_but(&self, mib: u64) {
        let free = rustix::fs::statvfs(&self.shelf).unwrap();
        let bytes = (free.f_bavail * free.f_frsize).saturating_sub(mib << 20);
        fs::write(self.shelf.join("filler"), vec![0x55; usize::try_from(bytes).unwrap()]).unwrap();
    }

    fn make_room(&self) {
        fs::remove_file(self.shelf.join("filler")).unwrap();
    }

    /// What is read from now on comes from the disk.
    fn forget_the_cache(&self) {
        run("umount", &[path(&self.mounted)]);
        self.mount();
    }
}

impl Drop for Thin {
    fn drop(&mut self) {
        let commands = [
            ("umount", vec!["--lazy", path(&self.mounted)]),
            ("losetup", vec!["--detach", &self.device]),
            ("umount", vec!["--lazy", path(&self.shelf)]),
        ];
        for (program, arguments) in commands {
            let _ = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A cluster with a backup in several packs, so that some may be proven to be on the disk and others not.
fn site() -> Site {
    let usual = options(StoreKind::File);
    let cluster_settings = usual.cluster_settings.clone() + "backup.pack_bytes = \"4MiB\"\n";
    let site = Site::start(SiteOptions { cluster_settings, ..usual });
    let rows = "create table t as select i, md5(i::text) || md5((-i)::text) a from generate_series(1, 300000) i";
    site.cluster.sql(&site.room, rows);
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    site
}

/// The first run ends with an error of the sync, and leaves files that look right; the second has no room; the third succeeds. And,
/// with the same backup, a restore by root.
#[test]
#[ignore = "mounts file systems: run as root"]
fn as_root_a_restore_that_succeeds_after_a_failed_sync_is_on_the_disk_and_its_owner_gets_to_it() {
    let site = site();
    let thin = Thin::new(&site.room, 160);
    let target = thin.mounted.join("restored");
    let restore = || {
        let arguments = ["--cluster", "main", "restore", "--yes", "--archive-mode", "off", "--target-directory"];
        site.walward(&[&arguments[..], &[path(&target)]].concat())
    };
    thin.fill_but(12);
    // The kernel says that the disk is full, or, of what it had to drop, that it could not be written.
    let cannot_sync = || assert!([1, 17].contains(&restore().says("cannot sync").code));
    cannot_sync();
    assert!(!target.join("global/pg_control").exists());
    cannot_sync();
    thin.make_room();
    restore().expect(0);
    thin.forget_the_cache();
    site.verify_backup(&target);

    // Root's umask, which closes what root makes, does not close the way to what is restored for postgres.
    let target = site.room.join("not/there/yet/restored");
    let words = ["--cluster", "main", "restore", "--yes", "--archive-mode", "off", "--target-directory", path(&target)];
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(site.room.program("walward"));
    command.arg("--config").arg(&site.config).arg("--no-input").args(words).stdin(Stdio::null());
    Outcome::of(&mut command).expect(0);
    site.verify_backup(&target);
}
