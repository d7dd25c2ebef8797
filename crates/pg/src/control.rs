//! `global/pg_control`: what a cluster is and where its last checkpoint lies (`ControlFileData`,
//! src/include/catalog/pg_control.h). Offsets on 64-bit little-endian machines, for 13 to 18:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | system identifier |
//! | 8 | 4 | version of this format: 1300 from 13 to 16, 1700 for 17, 1800 for 18 |
//! | 12 | 4 | catalog version |
//! | 16 | 4 | state |
//! | 24 | 8 | time of the last write, Unix seconds |
//! | 32 | 8 | position of the last checkpoint |
//! | 40 | 88 | copy of that checkpoint: redo position, timeline (at 48), …, time (at 104) |
//! | 136 | 8 | minimum recovery end, its timeline at 144 |
//! | 152 | 8 | start of the backup that is being recovered from |
//! | 172 | 4 | wal_level |
//! | 180 | 4 each | the five sizes of [`Capacity`] |
//! | 216 | 4 each | block size, blocks a relation segment, WAL block size, WAL segment size |
//! | 252 | 4 | version of data checksums, 0 for none |
//! | 288 | 4 | CRC-32C of all bytes before; at 292 in 18, which has one more byte in front |

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::Lineage;
use super::bytes::{i64_at, u32_at, u64_at};
use super::capacity::Capacity;
use super::lsn::{Lsn, SegmentSize, SegmentSizeError, Timeline};
use walward_base::sys::folder::Folder;

/// How often a torn read is repeated, as PostgreSQL's own tools do (`get_controlfile`, src/common/controldata_utils.c).
const READS_MAX: u32 = 10;
/// The pause between two reads.
const READ_PAUSE: Duration = Duration::from_millis(10);
/// The file is 8 KiB in every version; more is not read.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What the server (or a crash) left the cluster in (`DBState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Just made, never started.
    StartingUp,
    /// Cleanly shut down.
    ShutDown,
    /// A standby, cleanly shut down.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// Recovering from a crash.
    InCrashRecovery,
    /// Recovering from an archive, or a running standby.
    InArchiveRecovery,
    /// Running, or crashed while running.
    InProduction,
}

/// What Walward needs to know of `pg_control`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The major version, from the caller (the file `PG_VERSION`); the format agreed with it.
    pub major: u16,
    /// Made by initdb from time and process id; never changes.
    pub system_identifier: u64,
    /// Version of pg_control's format.
    pub control_version: u32,
    /// Version of the system catalogs.
    pub catalog_version: u32,
    /// What the cluster is doing.
    pub state: ClusterState,
    /// When the file was last written, Unix seconds.
    pub time: i64,
    /// Where the last checkpoint's record is.
    pub checkpoint: Lsn,
    /// Where recovery from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: Timeline,
    /// When that checkpoint was, Unix seconds.
    pub checkpoint_time: i64,
    /// A recovery must reach this before the cluster is consistent; 0/0 when it is not in recovery.
    pub min_recovery_point: Lsn,
    /// The timeline of `min_recovery_point`, 0 for none.
    pub min_recovery_timeline: Timeline,
    /// Where the backup began that is being recovered from; 0/0 for none.
    pub backup_start: Lsn,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
    /// How much shared memory its WAL takes to be replayed.
    pub capacity: Capacity,
    /// Bytes of a data page.
    pub block_size: u32,
    /// Pages in a file of a relation.
    pub relation_segment_blocks: u32,
    /// Bytes of a WAL page.
    pub wal_block_size: u32,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// Version of data page checksums, 0 when they are off.
    pub checksum_version: u32,
}

/// Why `pg_control` could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A file could not be opened or read.
    #[error("cannot read {path}; is the data directory right, and may this user read it?")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `PG_VERSION` holds no version.
    #[error("{path} says {text:?}, which is not a PostgreSQL version")]
    VersionFile {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// A version that this program does not know.
    #[error("PostgreSQL {0} is not supported; 13 to 18 are")]
    Unsupported(u16),
    /// The bytes are not a control file of that version.
    #[error("pg_control has format {found}, but PostgreSQL {major} writes {expected}")]
    Format {
        /// The major version.
        major: u16,
        /// What it writes.
        expected: u32,
        /// What was found.
        found: u32,
    },
    /// The file ends too early.
    #[error("pg_control has only {0} bytes")]
    TooShort(usize),
    /// The checksum does not match: torn while being written, or damaged.
    #[error(
        "the checksum of pg_control does not match (stored {stored:08x}, computed {computed:08x}); the file is damaged"
    )]
    Checksum {
        /// What the file says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A state that no version knows.
    #[error("pg_control holds cluster state {0}, which is impossible")]
    State(u32),
    /// A segment size that no cluster can have.
    #[error("pg_control holds an impossible size")]
    SegmentSize(#[from] SegmentSizeError),
}

impl ControlFile {
    /// Reads `PG_VERSION` and `global/pg_control` of a data directory; blocks, up to 100 ms longer when the server writes
    /// the file at that moment.
    ///
    /// # Errors
    /// When a file cannot be read, the version is not supported, or the checksum still does not match at the tenth reading.
    pub fn read(data_directory: &Path) -> Result<Self, ControlError> {
        let major = read_major(data_directory)?;
        let mut reads = 1;
        loop {
            let bytes = read_bounded(data_directory, "global/pg_control")?;
            match Self::parse(major, &bytes) {
                Err(ControlError::Checksum { .. } | ControlError::TooShort(_)) if reads < READS_MAX => {
                    reads += 1;
                    thread::sleep(READ_PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Reads the content of `pg_control` as PostgreSQL `major` writes it. The checksum is verified before anything is
    /// believed but the format's version.
    ///
    /// # Errors
    /// As for [`ControlFile::read`].
    pub fn parse(major: u16, bytes: &[u8]) -> Result<Self, ControlError> {
        let (expected, crc_offset) = match major {
            13..=16 => (1300, 288),
            17 => (1700, 288),
            18 => (1800, 292),
            _ => return Err(ControlError::Unsupported(major)),
        };
        let short = || ControlError::TooShort(bytes.len());
        let u32 = |offset| u32_at(bytes, offset).ok_or_else(short);
        let u64 = |offset| u64_at(bytes, offset).ok_or_else(short);
        let i64 = |offset| i64_at(bytes, offset).ok_or_else(short);

        let stored = u32(crc_offset)?;
        let control_version = u32(8)?;
        if control_version != expected {
            return Err(ControlError::Format { major, expected, found: control_version });
        }
        let computed = crc32c::crc32c(bytes.get(..crc_offset).ok_or_else(short)?);
        if stored != computed {
            return Err(ControlError::Checksum { stored, computed });
        }
        Ok(Self {
            major,
            system_identifier: u64(0)?,
            control_version,
            catalog_version: u32(12)?,
            state: state(u32(16)?)?,
            time: i64(24)?,
            checkpoint: Lsn(u64(32)?),
            redo: Lsn(u64(40)?),
            timeline: Timeline(u32(48)?),
            checkpoint_time: i64(104)?,
            min_recovery_point: Lsn(u64(136)?),
            min_recovery_timeline: Timeline(u32(144)?),
            backup_start: Lsn(u64(152)?),
            wal_level: u32(172)?,
            capacity: Capacity::read(bytes, 180).ok_or_else(short)?,
            block_size: u32(216)?,
            relation_segment_blocks: u32(220)?,
            wal_block_size: u32(224)?,
            segment_size: SegmentSize::try_from(u64::from(u32(228)?))?,
            checksum_version: u32(252)?,
        })
    }

    /// What the cluster's WAL and backups belong to.
    pub fn lineage(&self) -> Lineage {
        Lineage { major: self.major, system_identifier: self.system_identifier }
    }

    /// Whether data pages carry checksums.
    pub fn data_checksums(&self) -> bool {
        self.checksum_version != 0
    }
}

/// The major version in a data directory's `PG_VERSION`.
///
/// # Errors
/// When the file cannot be read or holds no version.
pub fn read_major(data_directory: &Path) -> Result<u16, ControlError> {
    let path = data_directory.join("PG_VERSION");
    let bytes = read_bounded(data_directory, "PG_VERSION")?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    text.parse().map_err(|_| ControlError::VersionFile { path, text: text.chars().take(40).collect() })
}

/// At most so much of the file as either can have. A pipe in its place does not hold the reader.
fn read_bounded(data_directory: &Path, name: &str) -> Result<Vec<u8>, ControlError> {
    use io::Read;
    let read = || {
        let mut bytes = Vec::new();
        Folder::enter(data_directory)?.open(name)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| ControlError::Io { path: data_directory.join(name), source })
}

fn state(number: u32) -> Result<ClusterState, ControlError> {
    Ok(match number {
        0 => ClusterState::StartingUp,
        1 => ClusterState::ShutDown,
        2 => ClusterState::ShutDownInRecovery,
        3 => ClusterState::ShuttingDown,
        4 => ClusterState::InCrashRecovery,
        5 => ClusterState::InArchiveRecovery,
        6 => ClusterState::InProduction,
        _ => return Err(ControlError::State(number)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Major version, file, system identifier, catalog version, checkpoint, redo.
    type Fixture = (u16, &'static [u8], u64, u32, u64, u64);

    const FIXTURES: [Fixture; 4] = [
        (
            13,
            include_bytes!("../../../tests/fixtures/pg/13/pg_control"),
            7_710_564_807_989_087_171,
            202_007_201,
            0x3AA_3500,
            0x3AA_34C8,
        ),
        (
            15,
            include_bytes!("../../../tests/fixtures/pg/15/pg_control"),
            7_710_564_813_305_965_574,
            202_209_061,
            0x39D_F730,
            0x39D_F6F8,
        ),
        (
            17,
            include_bytes!("../../../tests/fixtures/pg/17/pg_control"),
            7_710_564_818_740_853_828,
            202_406_281,
            0x39D_14D8,
            0x39D_1480,
        ),
        (
            18,
            include_bytes!("../../../tests/fixtures/pg/18/pg_control"),
            7_710_564_824_105_819_266,
            202_506_291,
            0x3A0_5120,
            0x3A0_50C8,
        ),
    ];

    #[test]
    fn real_files_say_what_pg_controldata_says() {
        for (major, bytes, identifier, catalog, checkpoint, redo) in FIXTURES {
            let control = ControlFile::parse(major, bytes).expect("a control file");
            assert_eq!(control.lineage(), Lineage { major, system_identifier: identifier });
            assert_eq!(control.catalog_version, catalog);
            assert_eq!((control.checkpoint, control.redo), (Lsn(checkpoint), Lsn(redo)));
            assert_eq!(control.state, ClusterState::InProduction);
            assert_eq!(control.timeline, Timeline(1));
            assert_eq!((control.min_recovery_point, control.min_recovery_timeline), (Lsn(0), Timeline(0)));
            assert_eq!((control.block_size, control.wal_block_size), (8192, 8192));
            assert_eq!(control.relation_segment_blocks, 131_072);
            assert_eq!(control.segment_size, SegmentSize::DEFAULT);
            assert_eq!(control.wal_level, 1);
            assert!(control.data_checksums());
            assert!((1_795_255_000..1_795_256_000).contains(&control.checkpoint_time), "{}", control.checkpoint_time);
        }
    }

    #[test]
    fn a_flipped_byte_and_another_version_are_noticed() {
        for (major, bytes, ..) in FIXTURES {
            for offset in [0, 20, 60, 255, 287] {
                let mut damaged = bytes.to_vec();
                damaged[offset] ^= 1;
                assert!(matches!(ControlFile::parse(major, &damaged), Err(ControlError::Checksum { .. })), "{offset}");
            }
            let other = if major == 18 { 17 } else { 18 };
            assert!(matches!(ControlFile::parse(other, bytes), Err(ControlError::Format { .. })));
            assert!(matches!(ControlFile::parse(12, bytes), Err(ControlError::Unsupported(12))));
            assert!(matches!(ControlFile::parse(major, &bytes[..200]), Err(ControlError::TooShort(200))));
        }
    }

    #[test]
    fn a_data_directory_is_read_and_a_damaged_one_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("global")).expect("a directory");
        let put = |name: &str, bytes: &[u8]| {
            let mut file = std::fs::File::create(directory.path().join(name)).expect("a file");
            io::Write::write_all(&mut file, bytes).expect("written");
        };
        assert!(matches!(ControlFile::read(directory.path()), Err(ControlError::Io { .. })));
        put("PG_VERSION", b"17\n");
        put("global/pg_control", FIXTURES[2].1);
        assert_eq!(ControlFile::read(directory.path()).expect("a control file").major, 17);
        put("global/pg_control", &[0; 8192]);
        assert!(ControlFile::read(directory.path()).is_err());
        put("PG_VERSION", b"seventeen\n");
        assert!(matches!(ControlFile::read(directory.path()), Err(ControlError::VersionFile { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), major: u16) {
            let _ = ControlFile::parse(major, &bytes);
            for major in [13, 18] {
                let _ = ControlFile::parse(major, &bytes);
            }
        }

        #[test]
        fn arbitrary_content_under_a_right_checksum_never_panics(
            mut bytes in prop::collection::vec(any::<u8>(), 300..301),
        ) {
            for (major, version, crc) in [(15, 1300u32, 288), (17, 1700, 288), (18, 1800, 292)] {
                bytes[8..12].copy_from_slice(&version.to_le_bytes());
                let checksum = crc32c::crc32c(&bytes[..crc]);
                bytes[crc..crc + 4].copy_from_slice(&checksum.to_le_bytes());
                let _ = ControlFile::parse(major, &bytes);
            }
        }
    }
}
