//! File systems of one test's own, that fill up, refuse writing and go away. Needs root.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::room::{Room, eventually};

/// A small file system in memory, mounted on a folder of the room, and unmounted with the test.
#[derive(Debug)]
pub struct Tmpfs {
    folder: PathBuf,
    /// A second place where it is mounted, which keeps its content while it is away from the first.
    shelf: PathBuf,
}

impl Tmpfs {
    /// Mounts one of `mib` MiB on the folder `name`, which belongs to the unprivileged user.
    pub fn mount(room: &Room, name: &str, mib: u32) -> Self {
        let folder = room.make_folder(name);
        let shelf = room.make_folder(&format!("{name}.shelf"));
        run(&["mount", "-t", "tmpfs", "-o", &format!("size={mib}m,mode=700"), "walward-test"], &[&folder]);
        run(&["mount", "--bind"], &[&folder, &shelf]);
        room.make_folder(name);
        Self { folder, shelf }
    }

    /// Fills it to the last byte with one file, which is returned.
    pub fn fill(&self) -> PathBuf {
        let filler = self.shelf.join("filler");
        let mut file = fs::File::create(&filler).expect("a file that fills the disk");
        while file.write_all(&[0x55; 8 << 10]).is_ok() {}
        while file.write_all(&[0x55]).is_ok() {}
        filler
    }

    /// Whether it can be written to.
    pub fn set_read_only(&self, read_only: bool) {
        let options = if read_only { "remount,ro" } else { "remount,rw" };
        // It cannot become read-only while somebody writes.
        eventually("the file system changes its mode", Duration::from_secs(30), || {
            command(&["mount", "-o", options], &[&self.folder]).output().is_ok_and(|o| o.status.success()).then_some(())
        });
    }

    /// Unmounts it, its content kept for [`Self::bring_back`].
    pub fn take_away(&self) {
        run(&["umount", "--lazy"], &[&self.folder]);
    }

    pub fn bring_back(&self) {
        run(&["mount", "--bind"], &[&self.shelf, &self.folder]);
    }
}

/// A disk (ext4 in a file) whose writes can be held up in the kernel, where even a killed process waits for them. Needs root.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    image: PathBuf,
}

impl Disk {
    /// Mounts one of `mib` MiB on the folder `name`, which belongs to the unprivileged user.
    pub fn mount(room: &Room, name: &str, mib: u64) -> Self {
        let (folder, image) = (room.make_folder(name), room.join(format!("{name}.image")));
        fs::File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
        run(&["mkfs.ext4", "-q"], &[&image]);
        run(&["mount", "-o", "loop"], &[&image, &folder]);
        room.make_folder(name);
        Self { folder, image }
    }

    /// From now on nothing is written.
    pub fn freeze(&self) {
        run(&["fsfreeze", "--freeze"], &[&self.folder]);
    }

    /// What was held up goes on.
    pub fn thaw(&self) {
        run(&["fsfreeze", "--unfreeze"], &[&self.folder]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = command(&["fsfreeze", "--unfreeze"], &[&self.folder]).output();
        let _ = command(&["umount", "--lazy"], &[&self.folder]).output();
        let _ = fs::remove_file(&self.image);
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        for place in [&self.folder, &self.shelf] {
            let _ = command(&["umount", "--lazy"], &[place]).output();
        }
    }
}

fn command(words: &[&str], places: &[&Path]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(places).stdin(Stdio::null());
    command
}

fn run(words: &[&str], places: &[&Path]) {
    let output = command(words, places).output().unwrap_or_else(|error| panic!("cannot start {words:?}: {error}"));
    assert!(output.status.success(), "{words:?} {places:?}: {}", String::from_utf8_lossy(&output.stderr));
}
