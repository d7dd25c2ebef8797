//! The simulation itself: what is broken on purpose is noticed, within the seeds of a normal run.

use crate::lives::roll_back;
use crate::seeds::{self, Broken};
use crate::shape::{Mutant, Shape};
use crate::wal::{SEEDS, cut_everywhere};

/// What the seeds say to a mutant.
fn caught(mutant: Mutant, suits: impl Fn(&mut Shape) + Sync) -> String {
    let outcome = seeds::all(0..SEEDS, |seed| {
        let mut shape = Shape { mutant, ..Shape::of(seed) };
        suits(&mut shape);
        seeds::run(seed, shape)
    });
    let Err(Broken { what, .. }) = outcome else { panic!("{mutant:?} was not noticed in {SEEDS} seeds") };
    what
}

fn on_disks(shape: &mut Shape) {
    shape.disks = true;
}

#[test]
fn a_disk_that_forgets_to_sync_folders_is_caught() {
    let what = caught(Mutant::FoldersNotSynced, on_disks);
    assert!(what.contains("acknowledged") || what.contains("set"), "{what}");
    assert!(cut_everywhere(Mutant::FoldersNotSynced).is_err());
}

#[test]
fn a_disk_that_forgets_to_sync_files_is_caught() {
    let what = caught(Mutant::FilesNotSynced, on_disks);
    assert!(what.contains("acknowledged") || what.contains("set"), "{what}");
    assert!(cut_everywhere(Mutant::FilesNotSynced).is_err());
}

#[test]
fn a_sync_that_is_believed_the_second_time_is_caught() {
    let what = caught(Mutant::SecondSyncTrusted, |shape| {
        shape.disks = true;
        shape.disk_faults = 15;
    });
    assert!(what.contains("acknowledged") || what.contains("set"), "{what}");
}

#[test]
fn a_store_that_acknowledges_before_it_is_durable_is_caught() {
    let what = caught(Mutant::AnswersEarly, |_| {});
    assert!(what.contains("was acknowledged"), "{what}");
}

#[test]
fn a_store_that_overwrites_is_caught() {
    let what = caught(Mutant::Overwrites, |shape| shape.rival = true);
    // Other bytes are there; or none, where the write that would have replaced them failed.
    let is_missing = what.contains("is missing in the archive") || what.contains("does not have it");
    assert!(what.contains("bytes") || is_missing, "{what}");
}

#[test]
fn a_store_that_calls_unreachable_absent_is_caught() {
    let what = caught(Mutant::UnreachableIsAbsent, |_| {});
    assert!(what.contains("says that it is absent"), "{what}");
}

#[test]
fn memory_without_a_bound_is_caught() {
    let what = caught(Mutant::UnboundedMemory, |shape| shape.look_ahead = true);
    assert!(what.contains("bytes were on their way"), "{what}");
}

#[test]
fn a_spool_without_a_bound_is_caught() {
    let what = caught(Mutant::UnboundedSpool, |_| {});
    assert!(what.contains("the spool holds"), "{what}");
}

fn with_lives(shape: &mut Shape) {
    (shape.lives_of_servers, shape.look_ahead, shape.rival) = (true, true, false);
    (shape.store_faults, shape.disk_faults, shape.cut_within, shape.lives, shape.actions) = (0, 0, 0, 3, 40);
}

#[test]
fn an_agent_that_does_not_see_what_is_there_is_caught() {
    let Err(Broken { what, .. }) = roll_back(Mutant::BlindListings) else { panic!("it was not noticed") };
    assert!(what.contains("which is another server's there"), "{what}");
}

#[test]
fn a_copy_that_asks_is_caught_by_what_it_did_not_ask_for() {
    let what = caught(Mutant::CopyAsks, with_lives);
    assert!(what.contains("trial archived") && what.contains("nobody asked for"), "{what}");
}

#[test]
fn a_server_that_asks_without_a_command_is_caught() {
    let what = caught(Mutant::AsksWithoutCommand, with_lives);
    assert!(what.contains("nobody asked for"), "{what}");
}

#[test]
fn a_file_that_comes_after_a_refused_one_is_caught() {
    let what = caught(Mutant::RefusedIsPassed, with_lives);
    assert!(what.contains("which is another server's there"), "{what}");
}

#[test]
fn a_history_that_is_absent_while_its_timeline_has_wal_is_caught() {
    let what = caught(Mutant::HistoriesHidden, |_| {});
    assert!(what.contains("says that it is absent"), "{what}");
}
