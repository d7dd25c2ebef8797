//! Does one piece of the work in `works` a number of times, and nothing else, so that another program can count what that takes:
//! `instructions.sh`.
//!
//!     instructions                  the names of the work
//!     instructions NAME ROUNDS      gets ready for it, and does it so many times

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout
)]

mod works;

/// Work of a sixteenth is as telling, and under a counter everything takes fifty times as long.
fn size(work: &works::Work) -> usize {
    match work.unit {
        works::Unit::Bytes if work.size > works::MIB => work.size / 16,
        works::Unit::Elements if work.size > 10_000 => work.size / 100,
        _ => work.size,
    }
}

fn main() {
    // Cargo says what it is started for.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench" && word != "--test").collect();
    let [name, rounds] = &words[..] else {
        for work in works::ALL {
            println!("{}", work.name);
        }
        return;
    };
    let work = works::ALL.into_iter().find(|work| work.name == name).unwrap();
    let mut once = (work.prepare)(size(&work));
    for _ in 0..rounds.parse().unwrap() {
        once();
    }
}
