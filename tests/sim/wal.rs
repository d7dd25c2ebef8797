//! WAL in and WAL out, whatever breaks.

use std::time::Instant;

use crate::disk::Loss;
use crate::machine::Weather;
use crate::seeds::{self, Broken};
use crate::shape::{Mutant, Shape};
use crate::world::{Tally, World};

/// Seeds of a normal run.
pub const SEEDS: u64 = 200;
const SEEDS_THOROUGH: u64 = 10_000;

#[test]
fn whatever_breaks_nothing_that_was_acknowledged_is_lost() {
    const NAME: &str = "whatever_breaks_nothing_that_was_acknowledged_is_lost";
    let begun = Instant::now();
    // One seed again, as often as is asked for: its threads may interleave otherwise.
    let seeds: Box<dyn Iterator<Item = u64> + Send> = match seeds::asked() {
        Some(seed) => Box::new(std::iter::repeat_n(seed, seeds::count(1, 1) as usize)),
        None => Box::new(0..seeds::count(SEEDS, SEEDS_THOROUGH)),
    };
    let tallies = seeds::expect(NAME, seeds::all(seeds, |seed| seeds::run(seed, Shape::of(seed))));
    seeds::report(NAME, &tallies, begun);
    // A simulation in which nothing happens proves nothing.
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let happened =
        [sum(|tally| tally.acknowledged), sum(|tally| tally.failed_pushes), sum(|tally| tally.failed_fetches)];
    let rare = [sum(|tally| tally.refused), sum(|tally| tally.cuts)];
    assert!(
        tallies.len() < 100 || happened.iter().chain(&rare).all(|count| *count > tallies.len() as u64 / 20),
        "{happened:?} {rare:?}"
    );
}

/// One repository on one disk, one file after the other: the same steps each time.
pub fn plain(sealed: bool, mutant: Mutant) -> Shape {
    Shape {
        disks: true,
        repositories: 1,
        sealed,
        look_ahead: false,
        rival: false,
        lives_of_servers: false,
        lives: 1,
        actions: 0,
        store_faults: 0,
        disk_faults: 0,
        cut_within: 0,
        mutant,
    }
}

/// Archives a few files of every kind, the power going at step `cut`; then everything heals. Whether the step was reached.
fn cut_at(cut: u64, loss: Loss, mutant: Mutant) -> Result<bool, Broken> {
    seeds::watched(cut, move |trace| {
        // Keys are made before the identity: setup has more to do.
        let sealed = matches!(loss, Loss::Nothing | Loss::Some(2));
        let mut world = World::new(cut, plain(sealed, mutant), trace);
        let weather = Weather { life: 1, store_faults: 0, disk_faults: 0, cut: Some(cut) };
        world.alive(weather, Loss::Nothing, async |world, agent| {
            world.primary.finish_segment();
            world.primary.finish_segment();
            world.primary.promote();
            world.primary.finish_segment();
            world.see_ready();
            for _ in 0..8 {
                world.archive(agent, 10).await?;
            }
            Ok(())
        })?;
        let reached = world.sites[0].disk().is_some_and(|disk| disk.is_dead());
        // The next start archives what waits, and more; then the power goes again.
        world.alive(Weather::fair(2), loss, async |world, agent| {
            world.primary.finish_segment();
            world.see_ready();
            world.catch_up(agent).await
        })?;
        world.heal(Loss::All)?;
        Ok(reached)
    })
}

/// Cuts the power at each step; how many there are.
pub fn cut_everywhere(mutant: Mutant) -> Result<u64, Broken> {
    let losses = [Loss::All, Loss::Nothing, Loss::Some(1), Loss::Some(2)];
    seeds::everywhere(&losses, |cut, loss| cut_at(cut, loss, mutant))
}

#[test]
fn a_power_cut_at_every_step_of_the_disk_loses_nothing_and_needs_nobody() {
    const NAME: &str = "a_power_cut_at_every_step_of_the_disk_loses_nothing_and_needs_nobody";
    let begun = Instant::now();
    let steps = seeds::expect(NAME, cut_everywhere(Mutant::None));
    eprintln!("{NAME}: {steps} steps, 4 losses each, in {} s", begun.elapsed().as_secs());
    assert!(steps > 40, "{steps}");
}
