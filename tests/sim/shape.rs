//! What a seed stands for: which machines there are, and what goes wrong with them.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::faults::mix;

/// Something that is broken on purpose, to see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The code as it is.
    None,
    /// An fsync of a folder does nothing.
    FoldersNotSynced,
    /// An fsync of a file does nothing.
    FilesNotSynced,
    /// A sync that failed is called again, and the second one is believed.
    SecondSyncTrusted,
    /// The store says "durable" first and writes later.
    AnswersEarly,
    /// The store writes over what is there.
    Overwrites,
    /// The store says "not found" when it cannot be reached.
    UnreachableIsAbsent,
    /// Nobody counts the memory of uploads.
    UnboundedMemory,
    /// Nobody counts the bytes of the spool.
    UnboundedSpool,
    /// A listing shows no WAL: the agent believes that every name is new.
    BlindListings,
    /// A copy that is tried out asks for a file, although its `archive_command` should be empty.
    CopyAsks,
    /// A server whose `archive_command` was taken away asks for a file all the same.
    AsksWithoutCommand,
    /// Where two repositories have one name, the content of one is shown for that of the other.
    NamesCompared,
    /// The primary goes on after a file that was refused, with an agent that remembers nothing.
    RefusedIsPassed,
    /// A recovery sees no history, and no timeline but the first.
    HistoriesHidden,
    /// No repository is brought what it missed.
    DebtsForgotten,
    /// An agent knows only of the repositories that are not away when it starts: having compared these it has compared all.
    OnlyThoseThere,
    /// A restore goes along the timeline with the highest number.
    HighestTimeline,
}

#[derive(Debug, Clone)]
pub struct Shape {
    /// Repositories in folders on disks of their own; otherwise in a cloud that never forgets.
    pub disks: bool,
    pub repositories: usize,
    /// The first repository is sealed.
    pub sealed: bool,
    /// The agent uploads ahead.
    pub look_ahead: bool,
    /// Another server believes that it is the primary.
    pub rival: bool,
    /// The primary's volume is rolled back, copies of it are tried out, and its `archive_command` is changed.
    pub lives_of_servers: bool,
    /// How many times the agent starts before everything heals.
    pub lives: u64,
    /// What PostgreSQL and its people do in each.
    pub actions: u32,
    /// One call to a store in so many fails; 0 is none.
    pub store_faults: u64,
    /// One step of a disk in so many fails; 0 is none.
    pub disk_faults: u64,
    /// Each life but the last ends at a step, or a call, of about this number; 0 is not at all.
    pub cut_within: u64,
    pub mutant: Mutant,
}

impl Shape {
    pub fn of(seed: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(mix(seed, &"shape"));
        let disks = random.random_ratio(2, 3);
        let pick = |random: &mut StdRng, of: &[u64]| of[random.random_range(0..of.len())];
        Self {
            disks,
            repositories: random.random_range(1..=2),
            sealed: random.random_ratio(1, 4),
            look_ahead: random.random(),
            rival: random.random_ratio(1, 3),
            lives: random.random_range(1..=3),
            actions: random.random_range(8..=16),
            store_faults: pick(random, &[0, 3, 6, 15]),
            disk_faults: if disks { pick(random, &[0, 15, 30, 60]) } else { 0 },
            cut_within: pick(random, &[0, 40, 120, 250]),
            lives_of_servers: random.random(),
            mutant: Mutant::None,
        }
    }
}
