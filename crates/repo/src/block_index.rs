//! `backup/<label>/blocks`: which blocks of which files a differential or an incremental backup stores, so that a restore knows of every block of a
//! whole chain where its newest version is, and touches no pack for that. Its content is the set of block numbers (counted in the file) of each
//! entry that has blocks, in the order of the manifest, as [`BlockSet::encode`] writes them.

use super::entries::Entries;
use super::error::RepoError;
use super::format::{FormatError, Kind};
use super::manifest::{BackupLabel, DependsOn, EntryKind};
use super::{Repository, layout};
use walward_base::hex;
use walward_pg::changes::BlockSet;

/// The longest content that is read. A set has 16 KiB at most for each GiB of its file.
pub const INDEX_BYTES_MAX: usize = 256 << 20;
/// No file of which some blocks are stored is longer, in blocks: those of packages have 131,072. A set in memory takes more than stored, for each
/// stretch of 65,536 blocks.
pub const FILE_BLOCKS_MAX: u32 = 1 << 21;

/// The blocks of each entry of `entries` that has some, by the entry's number, in their order.
///
/// # Errors
/// Of class Corrupt also when the object is not the one that the manifest names, or does not fit it.
pub async fn read(
    repository: &Repository,
    label: &BackupLabel,
    depends_on: &DependsOn,
    entries: &Entries,
) -> Result<Vec<(u32, BlockSet)>, RepoError> {
    let key = layout::block_index(label);
    let damaged = |what: &str| RepoError::damaged_text(&repository.shown(&key), what);
    let summary = repository.read_summary(&key).await?;
    if summary.kind != Kind::BlockIndex || hex::encode(&summary.summary.stored_digest) != depends_on.index.stored_sha256
    {
        return Err(damaged("the object is not the one that the manifest names"));
    }
    let content = repository.read(&key).await?.into_bytes(&key, INDEX_BYTES_MAX).await?;
    decode(&content, entries, depends_on.block_bytes)
        .map_err(|error| RepoError::damaged(&repository.shown(&key), error))
}

fn decode(content: &[u8], entries: &Entries, block_bytes: u32) -> Result<Vec<(u32, BlockSet)>, FormatError> {
    let wrong = |what: String| FormatError::Text(what);
    let mut left = content;
    let mut index = Vec::new();
    for (number, entry) in entries.iter() {
        let EntryKind::Blocks { size, blocks, .. } = entry.what else { continue };
        let path = entry.path;
        let length = size / u64::from(block_bytes.max(1));
        if length > u64::from(FILE_BLOCKS_MAX) {
            return Err(wrong(format!("{path} has {length} blocks, and {FILE_BLOCKS_MAX} are the most")));
        }
        let set = BlockSet::decode_first(&mut left).map_err(|error| wrong(format!("{path}: {error}")))?;
        if set.count() != u64::from(blocks) {
            return Err(wrong(format!("it has {} blocks of {path}, and the manifest says {blocks}", set.count())));
        }
        let after = u32::try_from(length).ok().and_then(|length| set.iter(length..).next());
        if let Some(block) = after {
            return Err(wrong(format!("it has block {block} of {path}, which has {length}")));
        }
        index.push((number, set));
    }
    if left.is_empty() { Ok(index) } else { Err(wrong("it is longer than its manifest says".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Entry;

    fn entries(blocks: &[(u64, u32)]) -> Entries {
        let mut entries = Entries::default();
        let mut push = |path: String, what| entries.push(&Entry { path, mode: 0o600, mtime: 0, what }).expect("few");
        push("PG_VERSION".to_owned(), EntryKind::File { size: 3, crc32c: 0, pack: 0, offset: 512 });
        for (at, (length, blocks)) in blocks.iter().enumerate() {
            let what = EntryKind::Blocks { size: length * 8192, crc32c: 0, pack: 0, offset: 4096, blocks: *blocks };
            push(format!("base/5/{}", 16384 + at), what);
        }
        entries
    }

    fn set(blocks: &[u32]) -> BlockSet {
        blocks.iter().copied().collect()
    }

    #[test]
    fn each_file_with_blocks_has_its_set_in_the_manifests_order() {
        let sets = [set(&[0, 7, 9]), set(&[]), set(&(10..9000).collect::<Vec<_>>())];
        let content: Vec<u8> = sets.iter().flat_map(BlockSet::encode).collect();
        let entries = entries(&[(10, 3), (0, 0), (9000, 8990)]);
        let index = decode(&content, &entries, 8192).expect("sound");
        assert_eq!(index, [(1, sets[0].clone()), (2, sets[1].clone()), (3, sets[2].clone())]);
    }

    #[test]
    fn an_index_that_does_not_fit_its_manifest_is_refused() {
        let content = set(&[0, 7, 9]).encode();
        for (length, blocks, reason) in [(10, 4, "the manifest says 4"), (9, 3, "block 9"), (10, 3, "")] {
            let outcome = decode(&content, &entries(&[(length, blocks)]), 8192);
            match outcome {
                Ok(_) => assert_eq!(reason, ""),
                Err(error) => assert!(!reason.is_empty() && error.to_string().contains(reason), "{error}"),
            }
        }
        let long = [content.clone(), vec![0]].concat();
        assert!(decode(&long, &entries(&[(10, 3)]), 8192).is_err());
        assert!(decode(&content[..2], &entries(&[(10, 3)]), 8192).is_err());
    }
}
