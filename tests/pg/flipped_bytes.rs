//! One bit flipped at each of 1,000 places over all objects of a real repository: every flip is noticed, or changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use walward_base::sys::cpu::CpuPool;
use walward_repo::keys::KeySource;
use walward_repo::{Encryption, Repository};
use walward_storage::{ObjectKey, StoreOptions};

use crate::support::{ClusterOptions, Site, SiteOptions};

const FLIPS: usize = 1_000;
const CONTENT_BYTES_MAX: usize = 1 << 30;

/// Numbers that look random and can be had again (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// A repository as a reader sees it.
struct Reader {
    runtime: tokio::runtime::Runtime,
    options: StoreOptions,
    encryption: Encryption,
    pool: CpuPool,
    opened: Option<Repository>,
    /// Some segment, to see that opened keys are the right ones.
    sample: ObjectKey,
}

impl Reader {
    fn open(&self) -> Result<Repository, String> {
        let store = walward_storage::open(&self.options, "main").map_err(|error| error.to_string())?;
        self.runtime
            .block_on(Repository::open("store", store, &self.encryption, self.pool.clone()))
            .map_err(|error| error.to_string())
    }

    fn content(&self, repository: &Repository, key: &ObjectKey) -> Result<Vec<u8>, String> {
        let read = async {
            let object = repository.read(key).await?;
            let facts = format!("{:?} {}", object.kind, object.writer);
            let content = object.into_bytes(key, CONTENT_BYTES_MAX).await?;
            Ok::<_, walward_repo::RepoError>([facts.into_bytes(), content.to_vec()].concat())
        };
        self.runtime.block_on(read).map_err(|error| error.to_string())
    }

    /// What a reader learns from the object `key`: its content; of identity and keys, whether everything else opens.
    fn look(&self, key: &ObjectKey) -> Result<Vec<u8>, String> {
        match key.as_str().split('/').next() {
            Some("cluster" | "keys") => {
                let repository = self.open()?;
                let identity = serde_json::to_vec(repository.identity()).unwrap();
                Ok([identity, self.content(&repository, &self.sample)?].concat())
            }
            Some("wal" | "backup") => self.content(self.opened.as_ref().unwrap(), key),
            _ => panic!("what is {key}?"),
        }
    }
}

fn objects(folder: &Path, root: &Path, found: &mut Vec<(ObjectKey, PathBuf)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            objects(&path, root, found);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            // Who was at work: nothing of a backup depends on it.
            if !name.starts_with("lease/") {
                found.push((ObjectKey::new(name).unwrap(), path));
            }
        }
    }
}

fn every_flip_is_noticed_or_changes_nothing(encrypted: bool) {
    let seed = std::env::var("WALWARD_TEST_SEED").map_or_else(
        |_| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64,
        |text| text.parse().expect("WALWARD_TEST_SEED is a number"),
    );
    println!("WALWARD_TEST_SEED={seed}");

    let mut site = Site::start(SiteOptions {
        encrypted,
        cluster: ClusterOptions { segment_mib: 1, ..ClusterOptions::default() },
        ..SiteOptions::default()
    });
    site.cluster.sql(&site.room, "create table t as select generate_series(1, 20000) as id");
    site.walward(&["--cluster", "main", "backup"]).expect(0);
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    site.stop_agent();

    let root = site.repository_folder().join("main");
    let mut found = Vec::new();
    objects(&root, &root, &mut found);
    found.sort();
    let sample = found.iter().find(|(key, _)| key.file_name() == segment).expect("the last segment").0.clone();
    let mut reader = Reader {
        runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
        options: StoreOptions::new(format!("file://{}", site.repository_folder().display())),
        encryption: if encrypted { Encryption::Key(KeySource::KeyFile(site.key_file())) } else { Encryption::None },
        pool: CpuPool::new(2).unwrap(),
        opened: None,
        sample,
    };
    reader.opened = Some(reader.open().unwrap());
    let truth: BTreeMap<&ObjectKey, Vec<u8>> =
        found.iter().map(|(key, _)| (key, reader.look(key).unwrap_or_else(|error| panic!("{key}: {error}")))).collect();
    for folder in ["cluster/", "wal/", "backup/"] {
        assert!(truth.keys().any(|key| key.as_str().starts_with(folder)), "nothing in {folder}");
    }
    assert_eq!(encrypted, truth.keys().any(|key| key.as_str().starts_with("keys/")));

    let sizes: Vec<u64> = found.iter().map(|(_, path)| fs::metadata(path).unwrap().len()).collect();
    let total: u64 = sizes.iter().sum();
    let mut dice = Dice(seed);
    let (mut noticed, mut harmless) = (0, 0);
    for number in 0..FLIPS {
        // By turns any byte of the repository (most are in packs), any object, and the ends of any object.
        let (index, offset) = match number % 3 {
            0 => {
                let mut offset = dice.roll(total);
                let mut index = 0;
                while offset >= sizes[index] {
                    offset -= sizes[index];
                    index += 1;
                }
                (index, offset)
            }
            kind => {
                let index = dice.roll(found.len() as u64) as usize;
                let length = sizes[index];
                let offset = match kind {
                    1 => dice.roll(length),
                    _ if dice.roll(2) == 0 => dice.roll(length.min(256)),
                    _ => length - 1 - dice.roll(length.min(256)),
                };
                (index, offset)
            }
        };
        let bit = 1_u8 << dice.roll(8);
        let (key, path) = &found[index];
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ bit], offset).unwrap();
        match reader.look(key) {
            Err(_) => noticed += 1,
            Ok(content) => {
                assert!(
                    content == truth[key],
                    "{key}: bit {bit:#04x} at {offset} was not noticed and changes what is read"
                );
                harmless += 1;
            }
        }
        file.write_all_at(&byte, offset).unwrap();
    }
    println!("{noticed} noticed, {harmless} changed nothing, over {} objects of {total} bytes", found.len());
    assert!(noticed > FLIPS * 9 / 10, "only {noticed} of {FLIPS} were noticed");
    for (key, _) in &found {
        assert!(reader.look(key).unwrap() == truth[key], "{key} was not put back");
    }
}

#[test]
fn a_flipped_bit_is_noticed_in_an_encrypted_repository() {
    every_flip_is_noticed_or_changes_nothing(true);
}

#[test]
fn a_flipped_bit_is_noticed_in_a_plain_repository() {
    every_flip_is_noticed_or_changes_nothing(false);
}
