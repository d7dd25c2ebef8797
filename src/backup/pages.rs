//! Which files hold pages with checksums, and what to think of a page.

use walward_pg::{Lsn, PageState, RelationFile, page_lsn, verify_page};

/// How the pages of a cluster are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageChecks {
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Pages in a whole file of a relation.
    pub segment_blocks: u32,
    /// Where the backup began.
    pub start: Lsn,
}

impl PageChecks {
    /// The number in its relation of the first page of the file at `path`, or `None` when the file holds no such pages.
    pub fn first_block(&self, path: &str) -> Option<u32> {
        RelationFile::parse(path)?.first_block(self.segment_blocks)
    }

    /// Whether a page can be restored as it was read: its checksum matches, or it was never used, or it was changed since the
    /// backup began. Then recovery writes it anew from its full image in the WAL, and that it may be torn does not matter
    /// (`sendFile`, src/backend/backup/basebackup.c).
    pub fn is_fine(&self, page: &[u8], block: u32) -> bool {
        match verify_page(page, block) {
            PageState::New | PageState::Ok => true,
            PageState::Mismatch { .. } => page_lsn(page).is_some_and(|changed| changed >= self.start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: &[u8] = include_bytes!("../../tests/fixtures/pg/15/relation");

    #[test]
    fn only_a_page_that_recovery_will_not_write_can_be_corrupt() {
        let mut page = PAGES[..8192].to_vec();
        let changed = page_lsn(&page).unwrap();
        let checks = |start| PageChecks { page_bytes: 8192, segment_blocks: 131_072, start };
        assert!(checks(Lsn(changed.0 + 1)).is_fine(&page, 0));
        page[4000] ^= 1;
        assert!(!checks(Lsn(changed.0 + 1)).is_fine(&page, 0));
        assert!(checks(changed).is_fine(&page, 0));
    }

    #[test]
    fn pages_are_numbered_over_the_files_of_a_relation() {
        let checks = PageChecks { page_bytes: 8192, segment_blocks: 131_072, start: Lsn(0) };
        assert_eq!(checks.first_block("base/5/16384.2"), Some(262_144));
        assert_eq!(checks.first_block("pg_xact/0000"), None);
    }
}
