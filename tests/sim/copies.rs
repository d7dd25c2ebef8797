//! `repo copy` between repositories that hold different lives of a server, whose first run may be cut off at any call.
//!
//! What must hold: nothing that was there is changed; what comes is what the first repository has; nothing comes after a file of
//! another life than its own, and that is told; and where there is one life alone, everything comes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use walward::archive::{archive_file, copy_wal, missing_wal};
use walward_base::{ErrorClass, describe};
use walward_pg::WalFileName;
use walward_storage::fault::{Fault, Plan};

use crate::disk::scratch;
use crate::faults::mix;
use crate::machine::{SetUp, Site, Trace, note};
use crate::postgres::Postgres;
use crate::seeds::{self, Broken};
use crate::shape::{Mutant, Shape};
use crate::wal::plain;

const SEEDS: u64 = 60;
const SEEDS_THOROUGH: u64 = 3_000;

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    copied: u64,
    withheld: u64,
    contradictions: u64,
    cut: u64,
}

type Contents = BTreeMap<WalFileName, u64>;

/// These files of a server go into `site`, in their order.
async fn archive(server: &Postgres, site: &Site, names: &[WalFileName]) -> Result<(), String> {
    let repositories = [site.lazy(site.store(), Plan::By(Box::new(|_| None)))];
    for name in names {
        let done = archive_file(&repositories, &server.pg_wal(), *name, "host").await;
        done.map_err(|error| format!("{name}: {}", describe(&error)))?;
    }
    Ok(())
}

/// A server writes some segments, and is promoted now and then.
fn live(server: &mut Postgres, random: &mut StdRng, segments: u64) {
    for _ in 0..segments {
        server.finish_segment();
        if random.random_ratio(1, 6) {
            server.promote();
        }
    }
    for name in server.ready() {
        server.done(name);
    }
}

/// The files that a server has, in the order in which PostgreSQL archives them.
fn files(server: &Postgres) -> Vec<WalFileName> {
    let mut names: Vec<WalFileName> = server.own.lock().unwrap().keys().copied().collect();
    names.sort_by_key(walward_pg::archive_status::archiver_order);
    names
}

/// Whether `name` lies before all that `ours` has of its timeline, and of its history: it is of one that was promoted earlier.
fn is_before_its_timeline(name: WalFileName, ours: &Contents) -> bool {
    let timeline = name.timeline();
    let WalFileName::Segment(_) = name else { return false };
    let is_segment = |other: &&WalFileName| matches!(other, WalFileName::Segment(_)) && other.timeline() == timeline;
    ours.contains_key(&WalFileName::History(timeline))
        && ours.keys().find(is_segment).is_some_and(|first| name < *first)
}

fn comes_after(earlier: &WalFileName, later: &WalFileName) -> bool {
    match (earlier, later) {
        (WalFileName::Segment(earlier), WalFileName::Segment(later)) => {
            earlier.timeline == later.timeline && earlier < later
        }
        (WalFileName::History(timeline), WalFileName::Segment(later)) => *timeline == later.timeline,
        _ => false,
    }
}

async fn copied(seed: u64, folder: &Path, trace: &Trace) -> Result<Tally, String> {
    let random = &mut StdRng::seed_from_u64(mix(seed, &"copies"));
    let mut tally = Tally::default();
    let shape = Shape { disks: false, ..plain(false, Mutant::None) };
    let site = |name| Site::new(name, &shape, seed, (folder, trace), None);
    let (mut from, mut to) = (site("from"), site("to"));
    let mut first = Postgres::new(&folder.join("first"), 1, seed);
    live(&mut first, random, random.clone().random_range(0..8));
    let shared = files(&first);
    let mut second = first.copy(&folder.join("second"), 2);
    live(&mut first, random, random.clone().random_range(1..8));
    live(&mut second, random, random.clone().random_range(1..8));
    for site in [&mut from, &mut to] {
        if let Err(SetUp::Failed(why) | SetUp::Gone(why)) = site.set_up(first.lineage).await {
            return Err(why);
        }
    }
    archive(&first, &from, &files(&first)).await?;
    // The second repository begins later, ends earlier, or goes on with the other life.
    let whose = if random.random() { &second } else { &first };
    let theirs = files(whose);
    let begin = random.random_range(0..=theirs.len() / 2);
    let end = random.random_range(begin..=theirs.len());
    archive(whose, &to, &theirs[begin..end]).await?;
    note(trace, format!("{} shared files; the second repository has {:?}", shared.len(), &theirs[begin..end]));

    let lineage = first.lineage;
    let read = async |site: &Site| site.contents(lineage).await.map_err(|error| describe(&error));
    let (ours, before): (Contents, Contents) = (read(&from).await?, read(&to).await?);
    // No replay reads a partial segment, and what two servers have after the end of one says nothing of their lives: it is not compared.
    let is_replayed = |name: &WalFileName| !matches!(name, WalFileName::Partial(_));
    let mut replayed = before.iter().filter(|(name, _)| is_replayed(name));
    let differs = replayed.any(|(name, print)| {
        ours.get(name).is_some_and(|other| other != print) || is_before_its_timeline(*name, &ours)
    });
    let cut_at = random.random_range(1..120u64);
    for run in 0..2 {
        let mut calls = 0;
        let cut = Plan::By(Box::new(move |call| {
            calls += 1;
            (run == 0 && calls > cut_at && call.verb != "list").then_some(Fault::Before(ErrorClass::Denied))
        }));
        let told = |error: &(dyn std::error::Error + 'static)| format!("run {run}: {}", describe(error));
        let source = from.open().await.map_err(|error| told(&error))?;
        let target = to.lazy(to.store(), cut).get().await.map_err(|error| told(&error));
        let done = async {
            let target = target?;
            let missing = missing_wal(&source, &target).await.map_err(|error| told(&error))?;
            let done = copy_wal(&source, &target, 1, &missing.files, |_| {}).await.map_err(|error| told(&error))?;
            Ok::<_, String>((missing, done))
        };
        match done.await {
            Err(why) if run == 0 => {
                tally.cut += 1;
                note(trace, why);
            }
            Err(why) => return Err(why),
            Ok((missing, done)) => {
                tally.copied += done.copied;
                tally.withheld += missing.withheld;
                tally.contradictions += missing.contradictions.len() as u64;
                if missing.contradictions.is_empty() == differs {
                    return Err(format!("two contents: {differs}, and it is said: {:?}", missing.contradictions));
                }
            }
        }
        judge(&ours, &before, &read(&to).await?, &[&first, &second])?;
    }
    let after = read(&to).await?;
    let is_one_life = before.iter().all(|(name, print)| first.own.lock().unwrap().get(name) == Some(print));
    match ours.keys().find(|name| !after.contains_key(name)) {
        Some(lacking) if is_one_life => Err(format!("{lacking} was not copied")),
        _ => Ok(tally),
    }
}

fn judge(ours: &Contents, before: &Contents, after: &Contents, lives: &[&Postgres]) -> Result<(), String> {
    if let Some((name, _)) = before.iter().find(|(name, print)| after.get(name) != Some(print)) {
        return Err(format!("{name} was there, and is not as it was"));
    }
    let is_of_one_life = |one: (&WalFileName, &u64), other: (&WalFileName, &u64)| {
        lives.iter().any(|life| {
            let own = life.own.lock().unwrap();
            own.get(one.0) == Some(one.1) && own.get(other.0) == Some(other.1)
        })
    };
    for new in after.iter().filter(|(name, _)| !before.contains_key(name)) {
        if ours.get(new.0) != Some(new.1) {
            return Err(format!("{} came, and is not what the first repository has", new.0));
        }
        let earlier = after.iter().filter(|(earlier, _)| comes_after(earlier, new.0));
        if let Some((earlier, _)) = earlier.into_iter().find(|earlier| !is_of_one_life(*earlier, new)) {
            return Err(format!("{} was copied after {earlier}, which is of another life there", new.0));
        }
    }
    Ok(())
}

fn run(seed: u64) -> Result<Tally, Broken> {
    seeds::watched(seed, move |trace| {
        let folder = scratch();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(copied(seed, folder.path(), trace))
    })
}

#[test]
fn a_copy_brings_everything_of_one_life_and_mixes_no_two() {
    const NAME: &str = "a_copy_brings_everything_of_one_life_and_mixes_no_two";
    let begun = Instant::now();
    let seeds: Box<dyn Iterator<Item = u64> + Send> = match seeds::asked() {
        Some(seed) => Box::new(std::iter::once(seed)),
        None => Box::new(0..seeds::count(SEEDS, SEEDS_THOROUGH)),
    };
    let tallies = seeds::expect(NAME, seeds::all(seeds, run));
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let happened = [
        sum(|tally| tally.copied),
        sum(|tally| tally.withheld),
        sum(|tally| tally.contradictions),
        sum(|tally| tally.cut),
    ];
    let seconds = begun.elapsed().as_secs();
    eprintln!("{NAME}: {} seeds in {seconds} s: copied, withheld, contradictions, cut: {happened:?}", tallies.len());
    assert!(tallies.len() < 50 || happened.iter().all(|count| *count > 3), "{happened:?}");
}
