//! Bringing a verified file to the name that PostgreSQL asked for.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Moves `source` to `destination` (same file system), or copies it there under a temporary name first.
///
/// PostgreSQL sees nothing or the whole file. Durability is not wanted here: what PostgreSQL keeps of a restored file it
/// syncs itself (`KeepFileRestoredFromArchive`, xlogarchive.c), and what it does not keep is fetched again after a crash.
/// `source` may still exist afterwards; whoever made it removes it.
// The one rename that must not be durable: see above.
#[allow(clippy::disallowed_methods)]
pub fn place(source: &Path, destination: &Path) -> io::Result<()> {
    // A folder would be renamed just as well, and PostgreSQL be told that its file is there.
    if !fs::symlink_metadata(source)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    match fs::rename(source, destination) {
        Ok(()) => return Ok(()),
        // Another file system, or the spool belongs to another user than the one who recovers.
        Err(error) if matches!(error.kind(), io::ErrorKind::CrossesDevices | io::ErrorKind::PermissionDenied) => {}
        Err(error) => return Err(error),
    }
    let temporary = temporary_name(destination);
    let copied = copy(source, &temporary).and_then(|()| fs::rename(&temporary, destination));
    if copied.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    copied
}

fn copy(source: &Path, temporary: &Path) -> io::Result<()> {
    let mut from = File::open(source)?;
    let expected = from.metadata()?.len();
    // What an interrupted try left is not written into: by now it may be a link to another file.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // As PostgreSQL makes its own.
    let mut to = File::options().write(true).create_new(true).mode(0o600).open(temporary)?;
    let copied = io::copy(&mut from, &mut to)?;
    if copied == expected { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn temporary_name(destination: &Path) -> PathBuf {
    let mut name: OsString = destination.as_os_str().to_owned();
    name.push(".walward-tmp");
    name.into()
}
