//! The versions of PostgreSQL that this run knows.

use std::path::{Path, PathBuf};
use std::process::Command;

/// One installed PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    pub bin: PathBuf,
}

impl Version {
    /// The main version of this run.
    pub fn main() -> Self {
        Self::all().swap_remove(0)
    }

    /// PostgreSQL `major`; panics when this run has none.
    pub fn of(major: u32) -> Self {
        let all = Self::all();
        all.iter()
            .find(|version| version.major == major)
            .unwrap_or_else(|| {
                panic!("there is no PostgreSQL {major} among {all:?}; run scripts/test.sh --all-versions")
            })
            .clone()
    }

    fn all() -> Vec<Self> {
        let bins: Vec<PathBuf> = match std::env::var_os("WALWARD_TEST_PG") {
            Some(list) => std::env::split_paths(&list).collect(),
            None => distribution(),
        };
        let versions: Vec<Self> = bins.into_iter().map(|bin| Self { major: major_of(&bin), bin }).collect();
        assert!(!versions.is_empty(), "there is no PostgreSQL under /usr/lib/postgresql; run scripts/test.sh");
        versions
    }

    /// A program of this version; of the main version when it has none of its own (some trees come without clients).
    pub fn program(&self, name: &str) -> PathBuf {
        let own = self.bin.join(name);
        if own.exists() { own } else { Self::main().bin.join(name) }
    }
}

/// The distribution's, the newest first.
fn distribution() -> Vec<PathBuf> {
    let mut bins: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("postgres").exists())
        .collect();
    bins.sort_by_key(|bin| std::cmp::Reverse(major_of(bin)));
    bins
}

fn major_of(bin: &Path) -> u32 {
    let program = bin.join("postgres");
    let output = Command::new(&program)
        .arg("--version")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}; run scripts/test.sh", program.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .find_map(|word| word.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .unwrap_or_else(|| panic!("{} says {text:?}", program.display()))
}

/// Makes a test of `$scenario(Version)` for the main version, and an ignored one for every other version.
macro_rules! on_every_version {
    ($name:ident, $scenario:path) => {
        mod $name {
            #[test]
            fn main_version() {
                $scenario($crate::support::Version::main());
            }
            $crate::support::on_every_version!(@other $scenario, pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18);
        }
    };
    (@other $scenario:path, $($test:ident $major:literal),+) => {
        $(
            #[test]
            #[ignore = "needs this version of PostgreSQL; scripts/test.sh runs it"]
            fn $test() {
                $scenario($crate::support::Version::of($major));
            }
        )+
    };
}
pub(crate) use on_every_version;
