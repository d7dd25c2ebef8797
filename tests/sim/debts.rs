//! Debts of two and three repositories, over many seeds (`fleet.rs`).

use std::time::Duration;

use crate::fleet::{COPY, Fleet, PRIMARY, Setting, Tally};
use crate::seeds::{self, Broken};
use crate::shape::Mutant;

const SEEDS: u64 = 60;
const SEEDS_THOROUGH: u64 = 3_000;

fn run(seed: u64, setting: Setting) -> Result<Tally, Broken> {
    seeds::watched(seed, move |trace| {
        let mut fleet = Fleet::new(seed, setting, trace);
        fleet.run().map(|()| fleet.tally)
    })
}

#[test]
fn what_some_of_several_repositories_acknowledged_comes_to_all_and_never_as_a_mixture() {
    const NAME: &str = "what_some_of_several_repositories_acknowledged_comes_to_all_and_never_as_a_mixture";
    let begun = std::time::Instant::now();
    let seeds: Box<dyn Iterator<Item = u64> + Send> = match seeds::asked() {
        Some(seed) => Box::new(std::iter::once(seed)),
        None => Box::new(0..seeds::count(SEEDS, SEEDS_THOROUGH)),
    };
    let tallies = seeds::expect(NAME, seeds::all(seeds, |seed| run(seed, Setting::of(seed))));
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let happened = [
        sum(|tally| tally.acknowledged),
        sum(|tally| tally.failed),
        sum(|tally| tally.refused),
        sum(|tally| tally.paid),
        sum(|tally| tally.parted),
        sum(|tally| tally.waited),
    ];
    let seconds = begun.elapsed().as_secs();
    eprintln!(
        "{NAME}: {} seeds in {seconds} s: acknowledged, failed, refused, paid, parted, waited: {happened:?}",
        tallies.len()
    );
    // A simulation in which nothing happens proves nothing.
    assert!(tallies.len() < 50 || happened.iter().all(|count| *count > 0), "{happened:?}");
}

/// A copy writes so many files into the second repository while the primary writes two into the first; then its agent starts again.
fn starts_again(of_the_copy: u32) -> Result<(), Broken> {
    seeds::watched(0, move |trace| {
        let setting = Setting {
            repositories: 2,
            lives: 1,
            look_ahead: false,
            sealed: false,
            store_faults: 0,
            clock: 0,
            ..Setting::of(0)
        };
        let mut fleet = Fleet::new(0, setting.possible(), trace);
        fleet.alive(1, 0, async |fleet, agents| {
            fleet.copy_lives(agents).await;
            fleet.away.lock().unwrap().extend([(PRIMARY, "two"), (COPY, "one")]);
            (0..2).for_each(|_| _ = fleet.primary.finish_segment());
            (0..of_the_copy).for_each(|_| _ = fleet.copy.as_mut().unwrap().finish_segment());
            for who in [PRIMARY, COPY] {
                fleet.archive(agents, who).await?;
            }
            Ok(())
        })?;
        fleet.away.lock().unwrap().clear();
        fleet.alive(2, 0, async |fleet, agents| {
            let there = fleet.held("two");
            if (fleet.held("one").len(), there.len()) != (2, of_the_copy as usize) {
                return Err("the stage is not set".to_owned());
            }
            fleet.primary.finish_segment();
            fleet.archive(agents, PRIMARY).await?;
            tokio::time::sleep(Duration::from_mins(1)).await;
            if fleet.held("two") == there { Ok(()) } else { Err("the second repository was written to".to_owned()) }
        })?;
        fleet.heal()
    })
}

#[test]
fn an_agent_that_has_just_started_continues_no_other_life_in_a_repository_that_missed_files() {
    for of_the_copy in [1, 2] {
        let name = "an_agent_that_has_just_started_continues_no_other_life_in_a_repository_that_missed_files";
        seeds::expect(name, starts_again(of_the_copy));
    }
}

#[test]
fn a_debt_that_is_paid_by_names_alone_is_caught() {
    let outcome = seeds::all(0..SEEDS, |seed| {
        let setting = Setting {
            mutant: Mutant::NamesCompared,
            repositories: 2,
            sealed: false,
            copied: true,
            ..Setting::of(seed)
        };
        run(seed, setting.possible())
    });
    let Err(Broken { what, .. }) = outcome else { panic!("it was not noticed") };
    assert!(what.contains("of another life") || what.contains("nobody is told"), "{what}");
}

#[test]
fn a_debt_that_nobody_brings_is_caught() {
    let outcome = seeds::all(0..SEEDS, |seed| {
        let setting =
            Setting { mutant: Mutant::DebtsForgotten, copied: false, store_faults: 0, clock: 0, ..Setting::of(seed) };
        run(seed, setting)
    });
    let Err(Broken { what, .. }) = outcome else { panic!("it was not noticed") };
    assert!(what.contains("was never brought"), "{what}");
}

/// A copy archives into the first of three repositories, the primary into the third, which is away when its agent starts again.
fn a_third_is_away(mutant: Mutant) -> Result<(), Broken> {
    seeds::watched(0, move |trace| {
        let setting = Setting {
            repositories: 3,
            acknowledge: 1,
            lives: 0,
            look_ahead: false,
            sealed: false,
            store_faults: 0,
            clock: 0,
            mutant,
            ..Setting::of(0)
        };
        let mut fleet = Fleet::new(0, setting, trace);
        fleet.alive(1, 0, async |fleet, agents| {
            fleet.copy_lives(agents).await;
            fleet.away.lock().unwrap().extend([(PRIMARY, "one"), (PRIMARY, "two"), (COPY, "two"), (COPY, "three")]);
            for _ in 0..3 {
                fleet.primary.finish_segment();
                fleet.copy.as_mut().unwrap().finish_segment();
            }
            for who in [PRIMARY, COPY] {
                fleet.archive(agents, who).await?;
            }
            Ok(())
        })?;
        *fleet.away.lock().unwrap() = [(PRIMARY, "three"), (COPY, "two"), (COPY, "three")].into();
        fleet.alive(2, 0, async |fleet, agents| {
            tokio::time::sleep(Duration::from_mins(5)).await;
            fleet.judge()?;
            let counts = ["one", "two", "three"].map(|site| fleet.held(site).len());
            let waits = agents.primary.repository_facts().into_iter().any(|facts| facts.waits.is_some());
            match (counts, waits) {
                ([3, 0, 3], true) => Ok(()),
                _ => Err(format!("the repositories hold {counts:?} files, and it is said that some wait: {waits}")),
            }
        })?;
        fleet.heal()
    })
}

#[test]
fn no_agent_brings_another_lifes_files_while_the_only_repository_with_its_own_is_away() {
    let name = "no_agent_brings_another_lifes_files_while_the_only_repository_with_its_own_is_away";
    seeds::expect(name, a_third_is_away(Mutant::None));
}

#[test]
fn a_comparison_of_those_that_are_there_that_counts_as_one_of_all_is_caught() {
    let Err(Broken { what, .. }) = a_third_is_away(Mutant::OnlyThoseThere) else { panic!("it was not noticed") };
    assert!(what.contains("has archived otherwise"), "{what}");
    let mut seeds = 0..SEEDS;
    let is_met = seeds.any(|seed| {
        let mutant = Setting { mutant: Mutant::OnlyThoseThere, repositories: 3, copied: true, ..Setting::of(seed) };
        let setting = Setting { store_faults: 0, lives: 3, actions: 48, ..mutant };
        run(seed, setting).is_err_and(|broken| broken.what.contains("has archived otherwise"))
    });
    assert!(is_met, "no seed meets it");
}
