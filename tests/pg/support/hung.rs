//! A file system that hangs for real: FUSE, with a server that answers less than it is asked. Needs root.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Nothing at all, as a mount whose server is gone.
    Nothing,
    /// What a file is, until it is opened; its content never.
    AllButContent,
}

/// The file system, mounted over a file or a folder. When it goes, what it did not answer fails, and what it lay over is there again.
#[derive(Debug)]
pub struct Hung {
    place: PathBuf,
    gone: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Hung {
    /// Mounts it over what lies at `place`.
    pub fn mount(place: &Path, answers: Answers) -> Self {
        let under = fs::metadata(place).expect("something to mount over");
        // O_NONBLOCK: the server looks now and then whether it is to go.
        let device = OpenOptions::new().read(true).write(true).custom_flags(0o4000).open("/dev/fuse");
        let device = device.expect("FUSE (/dev/fuse, as root)");
        let kind = under.mode() & 0o170_000;
        let options = format!("fd=0,rootmode={kind:o},user_id=0,group_id=0,allow_other");
        let mut mount = Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o", &options, "walward-test"]).arg(place);
        mount.stdin(Stdio::from(device.try_clone().expect("a descriptor")));
        let output = mount.output().expect("mount");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let gone = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&gone);
        let server = std::thread::spawn(move || serve(device, answers, &under, &told));
        Self { place: place.to_owned(), gone, server: Some(server) }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        let _ = Command::new("umount").arg("--lazy").arg(&self.place).output();
    }
}

/// What is not answered is left in the queue: a process that waits for what a server has taken cannot even be killed.
/// The numbers are those of <linux/fuse.h>.
fn serve(mut device: File, answers: Answers, under: &fs::Metadata, gone: &AtomicBool) {
    let mut request = vec![0; 1 << 20];
    let mut answering = answers == Answers::AllButContent;
    while !gone.load(Ordering::Relaxed) {
        if !answering || !device.read(&mut request).is_ok_and(|length| length >= 40) {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        let number = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().expect("four bytes"));
        let (error, body) = match number(4) {
            // FUSE_INIT
            26 => (0, words(&[7, 31, 1 << 17, 0, 0, 1 << 17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            // FUSE_GETATTR
            3 => (0, attributes(under)),
            // FUSE_OPEN: what comes next is a read.
            14 => {
                answering = false;
                // FOPEN_NOFLUSH: the end of a process does not wait for it.
                (0, words(&[0, 0, 32, 0]))
            }
            // FUSE_FORGET, FUSE_INTERRUPT: nobody waits for an answer.
            2 | 36 => continue,
            // ENOSYS
            _ => (-38, Vec::new()),
        };
        let mut reply = words(&[16 + u32::try_from(body.len()).expect("a length"), i32::cast_unsigned(error)]);
        reply.extend(&request[8..16]);
        reply.extend(body);
        let _ = device.write(&reply);
    }
}

/// `fuse_attr_out`: valid for no time, then a file of 8 KiB.
fn attributes(under: &fs::Metadata) -> Vec<u8> {
    let long = |value: u32| [value, 0];
    let mut all = vec![0; 4];
    all.extend([long(1), long(8192), long(16), long(0), long(0), long(0)].concat());
    all.extend([0, 0, 0, under.mode(), 1, under.uid(), under.gid(), 0, 4096, 0]);
    words(&all)
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
