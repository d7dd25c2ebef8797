//! The directories and files of a manifest, held compactly: a cluster may have a million of them.

use super::manifest::{Entry, EntryKind};

/// Entries in the order of their manifest. Each takes 48 bytes and its path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries {
    records: Vec<Record>,
    /// The paths of all, end to end.
    paths: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    what: EntryKind,
    mtime: i64,
    mode: u32,
    /// Where the path ends in `paths`; it begins where the one before it ends.
    end: u32,
}

/// Their paths take more than 4 GiB, or there are more than four thousand million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it lists more paths than can be held")]
pub struct TooManyEntries;

impl Entries {
    /// Adds one at the end.
    pub fn push<P: AsRef<str>>(&mut self, entry: &Entry<P>) -> Result<(), TooManyEntries> {
        let Entry { path, mode, mtime, what } = entry;
        let end = self.paths.len() + path.as_ref().len();
        let end = u32::try_from(end).map_err(|_| TooManyEntries)?;
        u32::try_from(self.records.len() + 1).map_err(|_| TooManyEntries)?;
        self.paths.push_str(path.as_ref());
        self.records.push(Record { what: *what, mtime: *mtime, mode: *mode, end });
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Entry `number`, counted from 0, or `None` after the last.
    pub fn get(&self, number: u32) -> Option<Entry<&str>> {
        let at = usize::try_from(number).ok()?;
        let Record { what, mtime, mode, end } = *self.records.get(at)?;
        let begin = at.checked_sub(1).and_then(|before| self.records.get(before)).map_or(0, |before| before.end);
        let path = self.paths.get(usize::try_from(begin).ok()?..usize::try_from(end).ok()?)?;
        Some(Entry { path, mode, mtime, what })
    }

    /// Every entry with its number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Entry<&str>)> {
        (0u32..).map_while(|number| Some((number, self.get(number)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_entry_takes_no_more_than_48_bytes_beside_its_path() {
        let mut entries = Entries::default();
        let what = EntryKind::File { size: 1, crc32c: 2, pack: 3, offset: 4 };
        for number in 100_000..101_000 {
            let path = format!("base/16384/{number}");
            entries.push(&Entry { path, mode: 0o600, mtime: 5, what }).expect("few");
        }
        let bytes = size_of_val(entries.records.as_slice()) + entries.paths.len();
        assert!(bytes <= 1000 * (48 + "base/16384/100000".len()), "{bytes} bytes");
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let file = any::<(u64, u32, u32, u64)>().prop_map(|(size, crc32c, pack, offset)| EntryKind::File {
            size,
            crc32c,
            pack,
            offset,
        });
        let blocks = any::<(u64, u32, u32, u64, u32)>()
            .prop_map(|(size, crc32c, pack, offset, blocks)| EntryKind::Blocks { size, crc32c, pack, offset, blocks });
        let what = prop_oneof![Just(EntryKind::Directory), file, blocks];
        let parts = ("[a-zé/]{0,12}", any::<u32>(), any::<i64>(), what);
        parts.prop_map(|(path, mode, mtime, what)| Entry { path, mode, mtime, what })
    }

    proptest! {
        #[test]
        fn what_was_added_is_listed(added in proptest::collection::vec(entry(), 0..20)) {
            let mut entries = Entries::default();
            for entry in &added {
                entries.push(entry).expect("few");
            }
            prop_assert_eq!(entries.len(), added.len());
            let listed: Vec<Entry> = entries
                .iter()
                .map(|(_, Entry { path, mode, mtime, what })| Entry { path: path.to_owned(), mode, mtime, what })
                .collect();
            prop_assert_eq!(listed, added);
        }
    }
}
