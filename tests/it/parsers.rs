//! Every fuzz target, fed with files that are right and then broken by dice. `scripts/fuzz.sh` does it for as long as one likes,
//! guided by coverage; this needs no special build and runs every time.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The targets themselves, as `fuzz/` builds them.
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Inputs for each target, and the seed of the dice. New ones are looked for in the thorough run only, so that a change is not
/// held up by what it has nothing to do with.
fn rounds_and_seed() -> (usize, u64) {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let thorough = std::env::var_os("WALWARD_TEST_THOROUGH").is_some();
    let (rounds, seed) = if thorough { (100_000, now()) } else { (2_000, 1) };
    let said = std::env::var("WALWARD_TEST_SEED").ok();
    (rounds, said.map_or(seed, |text| text.parse().expect("WALWARD_TEST_SEED is a number")))
}

type Target = (&'static str, fn(&[u8]), &'static [&'static str]);

/// The targets, each with where files lie that are right for it.
const TARGETS: [Target; 15] = [
    ("backup_label", targets::backup_label, &[]),
    ("config", targets::config, &["config"]),
    ("gap_record", targets::gap_record, &["tests/fixtures/repo-v1/plain/main/gap"]),
    ("manifest", targets::manifest, &[]),
    ("names", targets::names, &[]),
    ("object", targets::object, &["tests/fixtures/repo-v1/plain/main/wal", "tests/fixtures/repo-v1/plain/main/backup"]),
    ("pg_control", targets::pg_control, &["tests/fixtures/pg"]),
    (
        "repository_files",
        targets::repository_files,
        &[
            "tests/fixtures/repo-v1/plain/main/cluster",
            "tests/fixtures/repo-v1/plain/main/lease",
            "tests/fixtures/repo-v1/sealed/main/keys",
        ],
    ),
    ("segment_facts", targets::segment_facts, &["tests/fixtures/repo-v1/facts"]),
    ("settings", targets::settings, &[]),
    ("timeline_history", targets::timeline_history, &[]),
    ("wal_name", targets::wal_name, &[]),
    ("wal_page", targets::wal_page, &["tests/fixtures/pg"]),
    ("wal_record", targets::wal_record, &["tests/fixtures/pg"]),
    ("wire_message", targets::wire_message, &[]),
];

/// What to begin with, too: enough to look like something to the parsers of text.
const WORDS: [&[u8]; 8] = [
    b"",
    b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-21 06:41:58 UTC\nLABEL: x\nSTART TIMELINE: 1\n",
    b"\x021\t0/3000000\tno recovery target specified\n",
    b"0000000A000000010000002B.00000028.backup",
    b"20261121T064158Z-full",
    b"archive_mode = on\narchive_command = 'walward-wal push %p' # '' comment\nrestore_command = ''''\n",
    b"WW\x01\x01\x0d\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00/data",
    b"{\"format\":1,\"label\":\"20261121T064158Z-full\"}\n{\"path\":\"PG_VERSION\",\"mode\":384,\"mtime\":1}\n",
];

/// Numbers that look random and can be had again (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % below.max(1) as u64).unwrap()
    }

    fn piece(&mut self, of: &[u8], length_max: usize) -> Vec<u8> {
        of.iter().skip(self.roll(of.len())).take(self.roll(length_max)).copied().collect()
    }

    /// `bytes` with a few things broken in it.
    fn break_some(&mut self, mut bytes: Vec<u8>, others: &[Vec<u8>]) -> Vec<u8> {
        for _ in 0..=self.roll(6) {
            let at = self.roll(bytes.len() + 1);
            match self.roll(8) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => bytes[at] ^= 1 << self.roll(8),
                2 if at < bytes.len() => bytes[at] = b"\x00\xff\x7f\x80\"\n'"[self.roll(7)],
                3 if at < bytes.len() => drop(bytes.remove(at)),
                4 => bytes.insert(at, u8::try_from(self.roll(256)).unwrap()),
                5 => {
                    // A length or a count that is far off.
                    let number = [u64::MAX, 1 << 63, 1 << 31, u64::from(u32::MAX), 0, 1][self.roll(6)].to_le_bytes();
                    bytes.iter_mut().skip(at).zip(number).take(1 << self.roll(4)).for_each(|(byte, new)| *byte = new);
                }
                6 => {
                    let piece = self.piece(&bytes, 64);
                    bytes.splice(at..at, piece);
                }
                _ => {
                    let other = self.roll(others.len());
                    let piece = self.piece(&others[other], 256);
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The files that are right for a target, cut to what a moment allows, and the words.
fn seeds(folders: &[&str]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for folder in folders {
        files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
    }
    assert_eq!(found.is_empty(), folders.is_empty(), "{folders:?}");
    found.sort();
    let mut seeds: Vec<Vec<u8>> = found.iter().map(|file| fs::read(file).unwrap()).collect();
    for seed in &mut seeds {
        seed.truncate(64 << 10);
    }
    seeds.extend(WORDS.map(<[u8]>::to_vec));
    seeds
}

#[test]
fn no_parser_panics_on_files_that_dice_have_broken() {
    let (rounds, seed) = rounds_and_seed();
    println!("WALWARD_TEST_SEED={seed}, {rounds} inputs for each of {} targets", TARGETS.len());
    for (name, target, folders) in TARGETS {
        let mut dice = Dice(seed);
        let seeds = seeds(folders);
        for round in 0..rounds {
            let begin = dice.roll(seeds.len());
            let input = match seeds.get(round) {
                Some(right) => right.clone(),
                None => dice.break_some(seeds[begin].clone(), &seeds),
            };
            if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
                let kept = std::env::temp_dir().join(format!("walward-{name}-{seed}-{round}"));
                fs::write(&kept, &input).unwrap();
                panic!("{name} panicked at round {round} of WALWARD_TEST_SEED={seed}; its input: {}", kept.display());
            }
        }
    }
}

#[test]
fn every_fuzz_target_is_fed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut built: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    built.sort();
    assert_eq!(built, TARGETS.map(|(name, ..)| name.to_owned()));
}
