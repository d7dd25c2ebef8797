//! Members of a pack's tar stream: headers, long names, padding, the end. Pure.
//!
//! GNU tar's format, because it has no limit on names and sizes and every tar of the last decades reads it. A pack ends
//! with two zero blocks, so that `zstd -d pack | tar x` reads it by itself.

use tar::{EntryType, Header};

use walward_base::sys::folder::Facts;

/// tar's unit: headers are one block, content is padded to whole blocks.
pub const BLOCK: u64 = 512;

/// The end of an archive: two zero blocks.
pub const END: [u8; 1024] = [0; 1024];

/// Zeros to pad with.
const ZEROS: [u8; 512] = [0; 512];

/// Room for a name in a header; a longer one travels in a member of its own before it.
const NAME_BYTES: usize = 100;

/// What a header says of a file or directory beside its name and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, for example 0o600.
    pub mode: u32,
    /// Modification time, seconds since the Unix epoch. One before the epoch is written as the epoch.
    pub mtime: i64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl From<Facts> for Attributes {
    fn from(facts: Facts) -> Self {
        Self { mode: facts.mode, mtime: facts.mtime, uid: facts.uid, gid: facts.gid }
    }
}

/// The header of a regular file of `size` bytes: 512 bytes, or more when `path` is long.
pub fn file_header(path: &str, size: u64, attributes: Attributes) -> Vec<u8> {
    header(path.as_bytes(), EntryType::Regular, size, attributes)
}

/// The header of a directory, its only bytes.
pub fn directory_header(path: &str, attributes: Attributes) -> Vec<u8> {
    header(format!("{path}/").as_bytes(), EntryType::Directory, 0, attributes)
}

/// The zeros that follow `size` bytes of content.
pub fn padding(size: u64) -> &'static [u8] {
    let over = usize::try_from(size % BLOCK).unwrap_or(0);
    ZEROS.get(over..).filter(|_| over != 0).unwrap_or_default()
}

/// The length of a whole member: header, content, padding.
pub fn member_bytes(path_bytes: usize, size: u64) -> u64 {
    let long_name = if path_bytes > NAME_BYTES { BLOCK + round_up(path_bytes as u64 + 1) } else { 0 };
    long_name + BLOCK + round_up(size)
}

fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

fn header(name: &[u8], kind: EntryType, size: u64, attributes: Attributes) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    if name.len() > NAME_BYTES {
        let nul_terminated = name.len() as u64 + 1;
        let no_one = Attributes { mode: 0o644, mtime: 0, uid: 0, gid: 0 };
        bytes.extend_from_slice(block(b"././@LongLink", EntryType::GNULongName, nul_terminated, no_one).as_bytes());
        bytes.extend_from_slice(name);
        bytes.push(0);
        bytes.extend_from_slice(padding(nul_terminated));
    }
    bytes.extend_from_slice(block(name, kind, size, attributes).as_bytes());
    bytes
}

/// One header block; a name too long for it is cut.
fn block(name: &[u8], kind: EntryType, size: u64, attributes: Attributes) -> Header {
    let mut header = Header::new_gnu();
    for (to, from) in header.as_old_mut().name.iter_mut().zip(name) {
        *to = *from;
    }
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(attributes.mode);
    header.set_mtime(u64::try_from(attributes.mtime).unwrap_or(0));
    header.set_uid(u64::from(attributes.uid));
    header.set_gid(u64::from(attributes.gid));
    header.set_cksum();
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    const PLAIN: Attributes = Attributes { mode: 0o600, mtime: 1_700_000_000, uid: 26, gid: 26 };

    fn archive(members: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut stream = Vec::new();
        for (path, content) in members {
            stream.extend(file_header(path, content.len() as u64, PLAIN));
            stream.extend(content);
            stream.extend(padding(content.len() as u64));
        }
        stream.extend(END);
        stream
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            members in proptest::collection::vec(("[a-z]{1,80}(/[a-z]{1,80}){0,3}", proptest::collection::vec(any::<u8>(), 0..1500)), 0..6),
        ) {
            let stream = archive(&members);
            let mut reader = tar::Archive::new(stream.as_slice());
            let mut read = Vec::new();
            for entry in reader.entries().unwrap() {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                prop_assert_eq!(entry.header().mode().unwrap(), 0o600);
                prop_assert_eq!(entry.header().uid().unwrap(), 26);
                prop_assert_eq!(entry.header().mtime().unwrap(), 1_700_000_000);
                read.push((entry.path().unwrap().to_str().unwrap().to_owned(), content));
            }
            prop_assert_eq!(read, members);
        }

        #[test]
        fn the_length_of_a_member_is_known_before_it_is_made(path in "[a-z/]{1,300}", size in 0usize..2000) {
            let header = file_header(&path, size as u64, PLAIN).len();
            let member = header + size + padding(size as u64).len();
            prop_assert_eq!(member_bytes(path.len(), size as u64), member as u64);
        }
    }

    #[test]
    fn sizes_and_owners_beyond_octal_are_kept() {
        let big = Attributes { mode: 0o640, mtime: -5, uid: 4_000_000_000, gid: 3_000_000 };
        let bytes = file_header("base/1/1", 9 << 30, big);
        let header = Header::from_byte_slice(&bytes);
        assert_eq!(header.size().unwrap(), 9 << 30);
        assert_eq!(header.uid().unwrap(), 4_000_000_000);
        assert_eq!(header.gid().unwrap(), 3_000_000);
        assert_eq!(header.mtime().unwrap(), 0);
    }

    #[test]
    fn the_tar_program_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(140));
        let mut stream = directory_header("empty", Attributes { mode: 0o750, ..PLAIN });
        stream.extend(archive(&[("base/1/1259".to_owned(), vec![7; 8192]), (long.clone(), b"long".to_vec())]));
        let pack = folder.path().join("pack");
        std::fs::File::create(&pack).and_then(|mut file| std::io::Write::write_all(&mut file, &stream)).unwrap();
        let done = std::process::Command::new("tar")
            .arg("--no-same-owner")
            .arg("-xf")
            .arg(&pack)
            .arg("-C")
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
        assert_eq!(std::fs::read(folder.path().join("base/1/1259")).unwrap(), vec![7; 8192]);
        assert_eq!(std::fs::read(folder.path().join(long)).unwrap(), b"long");
        assert!(folder.path().join("empty").is_dir());
    }
}
