//! What goes wrong where: a function of the seed and of what is being done, not of the moment, so that it is the same again
//! whatever else happens beside it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::time::Duration;

use walward_base::ErrorClass;
use walward_storage::fault::{Call, Fault, Plan};

use crate::disk::{Decide, Seen, Verdict};

/// A number that depends on all of `seed` and `of`.
pub fn mix(seed: u64, of: &impl Hash) -> u64 {
    // Its keys are constants: the same number in every run of one build.
    let mut hasher = DefaultHasher::new();
    (seed, of).hash(&mut hasher);
    hasher.finish()
}

/// How many times each thing was done.
#[derive(Default)]
struct Counts(HashMap<(String, String), u64>);

impl Counts {
    fn next(&mut self, verb: &str, what: &str) -> u64 {
        let count = self.0.entry((verb.to_owned(), what.to_owned())).or_default();
        *count += 1;
        *count
    }
}

/// Faults of a store: one call in `one_in`, none when it is 0.
pub fn of_store(seed: u64, one_in: u64) -> Plan {
    let mut counts = Counts::default();
    Plan::By(Box::new(move |Call { verb, key }| {
        let number = mix(seed, &(verb, key, counts.next(verb, key)));
        (one_in > 0 && number.is_multiple_of(one_in)).then(|| a_fault(verb, number / one_in))
    }))
}

fn a_fault(verb: &str, number: u64) -> Fault {
    let reads = matches!(verb, "get" | "range");
    let amount = number / 16;
    match number % 16 {
        3 => Fault::Before(ErrorClass::Permanent),
        4 => Fault::Before(ErrorClass::Denied),
        5 if verb == "put" => Fault::Before(ErrorClass::NoSpace),
        5..=7 => Fault::After(ErrorClass::Transient),
        8 => Fault::After(ErrorClass::Permanent),
        9 => Fault::Hang,
        10 | 11 => Fault::Delay(Duration::from_millis(amount % 40_000)),
        12 | 13 if reads => Fault::Short(amount % (1 << 20)),
        14 | 15 if reads => Fault::Corrupt,
        12..=15 if verb == "list" => Fault::Stale,
        _ => Fault::Before(ErrorClass::Transient),
    }
}

/// Faults of a disk: one step in `one_in` fails, none when it is 0; and the power goes at step `cut`, if that is one.
pub fn of_disk(seed: u64, one_in: u64, cut: Option<u64>) -> Decide {
    let mut counts = Counts::default();
    Box::new(move |Seen { number, what }: &Seen| {
        if cut == Some(*number) {
            return Verdict::Cut;
        }
        let number = mix(seed, &(what, counts.next("", what)));
        // A folder whose name could not be synced is removed again. Where that fails as well, the next try finds the folder, and its own sync
        // succeeds and keeps nothing: what it puts there may be lost. A folder that others may use cannot be named anew, as a file is. So
        // these two faults in a row are not survived, and not made here.
        let is_undoing = what.starts_with("rmdir");
        if one_in == 0 || is_undoing || !number.is_multiple_of(one_in) {
            return Verdict::Go;
        }
        match number / one_in % 8 {
            0..=2 => Verdict::Before(io::ErrorKind::Other),
            3 => Verdict::Before(io::ErrorKind::StorageFull),
            4 => Verdict::Before(io::ErrorKind::ReadOnlyFilesystem),
            5 => Verdict::Before(io::ErrorKind::TimedOut),
            _ => Verdict::After(io::ErrorKind::Other),
        }
    })
}
