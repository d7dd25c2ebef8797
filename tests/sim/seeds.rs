//! Running many seeds, and showing the one that fails.

use std::env::var;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::disk::Loss;
use crate::machine::Trace;
use crate::shape::Shape;
use crate::world::{Tally, World};
use walward_base::Locked;

/// No seed computes for so long: one that does hangs.
const REAL_TIME_MAX: Duration = Duration::from_mins(3);
/// How many steps before a failure are shown, when not all are.
const STEPS_SHOWN: usize = 120;

/// A seed that does not hold.
#[derive(Debug)]
pub struct Broken {
    pub seed: u64,
    pub what: String,
    pub steps: Vec<String>,
}

/// The one seed that is asked for.
pub fn asked() -> Option<u64> {
    var("WALWARD_SIM_SEED").ok().map(|seed| seed.parse().expect("WALWARD_SIM_SEED is a number"))
}

/// How many seeds to run: `usual`, or `thorough` in a thorough run, or what is asked for.
pub fn count(usual: u64, thorough: u64) -> u64 {
    match var("WALWARD_SIM_SEEDS") {
        Ok(count) => count.parse().expect("WALWARD_SIM_SEEDS is a number"),
        Err(_) if is_thorough() => thorough,
        Err(_) => usual,
    }
}

pub fn is_thorough() -> bool {
    var("WALWARD_TEST_THOROUGH").is_ok_and(|value| !value.is_empty() && value != "0")
}

/// Runs one seed with its own threads and clock.
pub fn run(seed: u64, shape: Shape) -> Result<Tally, Broken> {
    watched(seed, move |trace| {
        let mut world = World::new(seed, shape, trace);
        world.run().map(|()| world.tally)
    })
}

/// Runs `work`, which writes its steps down; a panic and a hang are failures like any other.
pub fn watched<T: Send + 'static>(
    seed: u64,
    work: impl FnOnce(&Trace) -> Result<T, String> + Send + 'static,
) -> Result<T, Broken> {
    let trace = Trace::default();
    let (sender, receiver) = sync_channel(1);
    let thread = std::thread::spawn({
        let trace = Arc::clone(&trace);
        move || {
            let done = catch_unwind(AssertUnwindSafe(|| work(&trace)));
            let _ = sender.send(done.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Err(format!("a panic: {}", text.unwrap_or_default()))
            }));
        }
    });
    let done = match receiver.recv_timeout(REAL_TIME_MAX) {
        Ok(done) => {
            let _ = thread.join();
            done
        }
        // The thread is left behind: it cannot be ended.
        Err(RecvTimeoutError::Timeout) => Err(format!("it hangs: no end within {REAL_TIME_MAX:?}")),
        Err(RecvTimeoutError::Disconnected) => Err("its thread died".to_owned()),
    };
    let steps = std::mem::take(&mut *trace.locked());
    if asked() == Some(seed) {
        eprintln!("{}", steps.join("\n"));
    }
    done.map_err(|what| Broken { seed, what, steps })
}

/// Runs `run` for all of `seeds`, two at a time; stops at the first that fails.
pub fn all<T: Send>(
    seeds: impl Iterator<Item = u64> + Send,
    run: impl Fn(u64) -> Result<T, Broken> + Sync,
) -> Result<Vec<T>, Broken> {
    let seeds = Mutex::new(seeds);
    let done = Mutex::new(Vec::new());
    let broken: Mutex<Option<Broken>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = seeds.lock().unwrap().next();
                    let Some(seed) = next.filter(|_| broken.lock().unwrap().is_none()) else { return };
                    match run(seed) {
                        Ok(value) => done.lock().unwrap().push((seed, value)),
                        Err(error) => {
                            broken.lock().unwrap().get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(broken) = broken.into_inner().unwrap() {
        return Err(broken);
    }
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(seed, _)| *seed);
    Ok(done.into_iter().map(|(_, value)| value).collect())
}

/// Cuts the power at each step, with each of `losses`; how many steps there are. `cut_at` says whether its step was reached.
pub fn everywhere(losses: &[Loss], cut_at: impl Fn(u64, Loss) -> Result<bool, Broken> + Sync) -> Result<u64, Broken> {
    let mut begin = 1;
    loop {
        // Some at a time, because the last step is found by going beyond it.
        let cuts = begin..begin + 16;
        let reached =
            all(cuts.clone(), |cut| losses.iter().try_fold(false, |any, loss| Ok(cut_at(cut, *loss)? || any)))?;
        if let Some(beyond) = reached.iter().position(|reached| !reached) {
            return Ok(begin + beyond as u64 - 1);
        }
        begin = cuts.end;
    }
}

/// Fails with what is needed to see it again.
pub fn expect<T>(test: &str, outcome: Result<T, Broken>) -> T {
    match outcome {
        Ok(value) => value,
        Err(Broken { seed, what, steps }) => {
            let skipped = steps.len().saturating_sub(STEPS_SHOWN);
            let steps = steps[skipped..].join("\n");
            panic!(
                "seed {seed}: {what}\n\nits last steps:\n{steps}\n\nagain, with every step:\n\
                 WALWARD_SIM_SEED={seed} cargo test --test sim {test} -- --nocapture\n"
            );
        }
    }
}

/// A line about a whole run.
pub fn report(test: &str, tallies: &[Tally], begun: Instant) {
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    eprintln!(
        "{test}: {} seeds in {} s: {} acknowledged, {} pushes and {} fetches failed, {} refused, {} power cuts",
        tallies.len(),
        begun.elapsed().as_secs(),
        sum(|tally| tally.acknowledged),
        sum(|tally| tally.failed_pushes),
        sum(|tally| tally.failed_fetches),
        sum(|tally| tally.refused),
        sum(|tally| tally.cuts),
    );
}
