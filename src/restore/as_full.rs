//! What makes of the restored files of a backup that builds on another one those of a full backup, as `pg_combinebackup` does. Blocking.
//!
//! `backup_label` says of which backup it is the rest, and servers from 17 on do not start with that (`read_backup_label`, xlogrecovery.c); `backup_manifest`
//! lists the packs' members and not the files.

use std::io::{self, Write};

use super::contents::{Contents, Listed};
use super::directory::Owner;
use super::error::RestoreError;
use super::install::{read_if_there, rewrite};
use super::places::Places;
use super::sums::Sums;
use super::unpack::write_anew;
use walward_pg::{Lineage, ManifestWriter, WalRange};

const LABEL: &str = "backup_label";
const MANIFEST: &str = "backup_manifest";
/// Of the line that PostgreSQL 17 added (`build_backup_content`, xlogbackup.c), and the one after it.
const INCREMENTAL: &str = "INCREMENTAL FROM ";

/// Rewrites the two files in the data directory.
pub fn rewrite_lists(
    places: &Places,
    contents: &Contents,
    sums: &Sums,
    (lineage, range): (Lineage, WalRange),
    owner: Option<Owner>,
) -> Result<(), RestoreError> {
    let place = |name: &str| places.resolve(name).ok_or(RestoreError::Died);
    let label_path = place(LABEL)?;
    let label = without_parent(&read_if_there(&label_path)?);
    rewrite(&label_path, &label, owner)?;
    let path = place(MANIFEST)?;
    if contents.has(MANIFEST) {
        // Of a million files it is some 200 MB long.
        write_anew(&path, |output| list(output, (contents, sums), &label, lineage, range))?;
    }
    Ok(())
}

/// A label without the lines that make it that of a part.
fn without_parent(label: &[u8]) -> Vec<u8> {
    let lines = label.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(INCREMENTAL.as_bytes())).flatten().copied().collect()
}

fn list<W: Write>(
    output: W,
    (contents, sums): (&Contents, &Sums),
    label: &[u8],
    lineage: Lineage,
    range: WalRange,
) -> io::Result<W> {
    let mut writer = ManifestWriter::new(output, lineage)?;
    for Listed { file, path, size, mtime, crc32c } in contents.listed() {
        match path {
            MANIFEST => {}
            LABEL => writer.file(path.as_bytes(), label.len() as u64, mtime, Some(crc32c::crc32c(label)))?,
            _ => writer.file(path.as_bytes(), size, mtime, crc32c.or_else(|| sums.of(file, size)))?,
        }
    }
    writer.finish(&[range])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_says_no_more_what_it_builds_on() {
        let label = b"START WAL LOCATION: 0/2000028\nINCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n";
        assert_eq!(without_parent(label), b"START WAL LOCATION: 0/2000028\n");
        assert_eq!(without_parent(b"START TIMELINE: 1"), b"START TIMELINE: 1");
    }
}
