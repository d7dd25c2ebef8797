//! Bringing a verified file to the name that PostgreSQL asked for.
//!
//! The agent names the file, and by the time it is opened something else may have that name: a stranger who has the spool's folder puts WAL of
//! his own there. So the file is opened once, no link is followed, and it must be a regular one of a trusted owner; what is placed is that file and
//! no other.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::trust;

/// `O_NOFOLLOW` and `O_NONBLOCK` of Linux (`asm-generic/fcntl.h`, and those of the architectures that have others): this room is std only. Links
/// and pipes are refused beforehand; these hold where one takes the name at that very moment.
#[cfg(any(target_arch = "arm", target_arch = "aarch64", target_arch = "powerpc", target_arch = "powerpc64"))]
const NO_FOLLOW: i32 = 0o100_000;
#[cfg(not(any(target_arch = "arm", target_arch = "aarch64", target_arch = "powerpc", target_arch = "powerpc64")))]
const NO_FOLLOW: i32 = 0o400_000;
const NONBLOCK: i32 = 0o4_000;

/// Moves `source` to `destination` (same file system), or copies it there under a temporary name first. `agent`: the user whose files are the
/// agent's, beside root and who runs this.
///
/// PostgreSQL sees nothing or the whole file. Durability is not wanted here: what PostgreSQL keeps of a restored file it
/// syncs itself (`KeepFileRestoredFromArchive`, xlogarchive.c), and what it does not keep is fetched again after a crash.
/// `source` may still exist afterwards; whoever made it removes it.
///
/// # Errors
/// Also when `source` is a link, no regular file, or a stranger's, or has another name beside this: nothing is placed.
// The renames that must not be durable: see above.
#[allow(clippy::disallowed_methods)]
pub fn place(source: &Path, destination: &Path, agent: Option<u32>) -> io::Result<()> {
    let mut file = open_trusted(source, agent)?;
    let temporary = temporary_name(destination);
    let placed = bring(&mut file, source, &temporary).and_then(|()| fs::rename(&temporary, destination));
    if placed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    placed
}

/// Moves `file`, which was opened as `source`, to `temporary`, or copies it there.
#[allow(clippy::disallowed_methods)]
fn bring(file: &mut File, source: &Path, temporary: &Path) -> io::Result<()> {
    match fs::rename(source, temporary) {
        Ok(()) if is_same(&fs::symlink_metadata(temporary)?, &file.metadata()?) => Ok(()),
        Ok(()) => Err(refused("it was replaced while it was being moved".to_owned())),
        // Another file system, or the spool belongs to another user than the one who recovers.
        Err(error) if matches!(error.kind(), io::ErrorKind::CrossesDevices | io::ErrorKind::PermissionDenied) => {
            copy(file, temporary)
        }
        Err(error) => Err(error),
    }
}

/// The file, once it is sure whose it is.
fn open_trusted(source: &Path, agent: Option<u32>) -> io::Result<File> {
    // Before it is opened: opening a pipe or a device may do something.
    let named = fs::symlink_metadata(source)?;
    if !named.is_file() {
        return Err(refused("not a regular file".to_owned()));
    }
    let file = File::options().read(true).custom_flags(NO_FOLLOW | NONBLOCK).open(source)?;
    let found = file.metadata()?;
    let me = trust::myself().ok().map(|me| me.uid);
    match distrusted(&found, [Some(0), me, agent]) {
        None if is_same(&named, &found) => Ok(file),
        None => Err(refused("it was replaced while it was being opened".to_owned())),
        Some(why) => Err(refused(why)),
    }
}

/// Why a file is not one that one of `owners` made.
fn distrusted(found: &Metadata, owners: [Option<u32>; 3]) -> Option<String> {
    if !found.is_file() {
        Some("not a regular file".to_owned())
    } else if !owners.contains(&Some(found.uid())) {
        let uid = found.uid();
        Some(format!(
            "it is of user {uid}, who is neither root nor this user nor the agent's: the spool is not the agent's any more"
        ))
    } else if found.nlink() > 1 {
        // A stranger can give a trusted user's file a second name, and cannot make one.
        Some("it has other names beside this one, which nothing in the spool has".to_owned())
    } else {
        None
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn copy(from: &mut File, temporary: &Path) -> io::Result<()> {
    let expected = from.metadata()?.len();
    // What an interrupted try left is not written into: by now it may be a link to another file.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // As PostgreSQL makes its own.
    let mut to = File::options().write(true).create_new(true).mode(0o600).open(temporary)?;
    let copied = io::copy(from, &mut to)?;
    if copied == expected { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn temporary_name(destination: &Path) -> PathBuf {
    let mut name: OsString = destination.as_os_str().to_owned();
    name.push(".walward-tmp");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{chown, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    const STRANGER: u32 = 54_321;

    fn write(path: &Path, content: &[u8]) {
        File::create(path).and_then(|mut file| file.write_all(content)).expect("a file");
    }

    struct Spool {
        folder: tempfile::TempDir,
        source: PathBuf,
        destination: PathBuf,
    }

    fn spool() -> Spool {
        let folder = tempfile::tempdir().expect("a folder");
        let (source, destination) = (folder.path().join("segment.0"), folder.path().join("RECOVERYXLOG"));
        write(&source, b"wal");
        Spool { folder, source, destination }
    }

    fn is_refused(spool: &Spool, agent: Option<u32>, words: &str) {
        let error = place(&spool.source, &spool.destination, agent).expect_err("nothing is placed");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!spool.destination.exists() && !temporary_name(&spool.destination).exists());
    }

    #[test]
    fn what_is_ours_is_placed_and_leaves_nothing_behind() {
        let spool = spool();
        write(&temporary_name(&spool.destination), b"of an interrupted try");
        place(&spool.source, &spool.destination, None).expect("placed");
        assert_eq!(fs::read(&spool.destination).expect("there"), b"wal");
        assert_eq!(fs::read_dir(spool.folder.path()).expect("listed").count(), 1);
    }

    #[test]
    fn neither_a_link_nor_a_second_name_nor_what_is_no_file_is_placed() {
        let spool = spool();
        let aside = spool.folder.path().join("aside");
        fs::hard_link(&spool.source, &aside).expect("a second name");
        is_refused(&spool, None, "other names");
        fs::remove_file(&spool.source).expect("removed");
        symlink(&aside, &spool.source).expect("a link");
        is_refused(&spool, None, "not a regular file");
        assert_eq!(fs::read(&aside).expect("there"), b"wal");
        fs::remove_file(&spool.source).expect("removed");
        fs::create_dir(&spool.source).expect("a folder");
        is_refused(&spool, None, "not a regular file");
        fs::remove_dir(&spool.source).expect("removed");
        let _socket = UnixListener::bind(&spool.source).expect("listening");
        is_refused(&spool, None, "not a regular file");
    }

    /// The flags are the kernel's own numbers.
    #[test]
    fn a_link_that_takes_the_name_at_the_last_moment_is_not_followed() {
        let spool = spool();
        let link = spool.folder.path().join("link");
        symlink(&spool.source, &link).expect("a link");
        let opened = File::options().read(true).custom_flags(NO_FOLLOW | NONBLOCK).open(&link);
        assert!(opened.expect_err("not followed").to_string().contains("symbolic link"));
    }

    #[test]
    fn what_was_opened_is_placed_and_nothing_that_takes_its_name() {
        let spool = spool();
        let mut file = open_trusted(&spool.source, None).expect("ours");
        let forged = spool.folder.path().join("forged");
        write(&forged, b"forged");
        fs::remove_file(&spool.source).expect("removed");
        fs::hard_link(&forged, &spool.source).expect("in its place");
        let temporary = temporary_name(&spool.destination);
        let error = bring(&mut file, &spool.source, &temporary).expect_err("another file");
        assert!(error.to_string().contains("replaced"), "{error}");
    }

    #[test]
    #[ignore = "needs root"]
    fn as_root_a_strangers_file_is_refused_and_the_agents_is_placed() {
        let spool = spool();
        chown(&spool.source, Some(STRANGER), None).expect("a stranger's");
        is_refused(&spool, None, "is of user 54321");
        is_refused(&spool, Some(26), "is of user 54321");
        place(&spool.source, &spool.destination, Some(STRANGER)).expect("the agent's");
        assert_eq!(fs::read(&spool.destination).expect("there"), b"wal");
    }
}
