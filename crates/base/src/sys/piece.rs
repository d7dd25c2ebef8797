//! Pieces of files, read into memory that was not cleared before.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::Advice;

/// Bytes `at..at + length` of `file`. Blocking.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when the file ends before them.
pub fn read(file: &File, at: u64, length: usize) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(length);
    while piece.len() < length {
        let next = at + piece.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut piece), next) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // An allocator may give more than was asked for.
    piece.truncate(length);
    Ok(piece.into())
}

/// Says that bytes `at..at + length` will be read soon, so that a disk that has them to fetch begins with it. They need not exist.
pub fn will_read(file: &File, at: u64, length: u64) {
    // Without it they are only read later.
    let _ = rustix::fs::fadvise(file, at, NonZeroU64::new(length), Advice::WillNeed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_what_lies_there_or_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        crate::sys::durable::create(&path, b"0123456789", 0o600).expect("written");
        let file = File::open(path).expect("there");
        assert_eq!(read(&file, 3, 4).expect("there"), Bytes::from_static(b"3456"));
        assert_eq!(read(&file, 10, 0).expect("nothing"), Bytes::new());
        assert_eq!(read(&file, 7, 4).expect_err("too short").kind(), io::ErrorKind::UnexpectedEof);
    }
}
