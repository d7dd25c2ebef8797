//! Which line of a cluster a restore goes along: over archives of a primary that is promoted, recovered to earlier moments and
//! backed up, and of trials of it that archive beside it.
//!
//! What must hold: what a restore without a timeline replays, through the fetcher and as PostgreSQL asks for it, is what the primary
//! held, as far as it is archived, and never anything of another life; or the restore is refused. It is not refused once
//! the primary has taken a backup and archived a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use walward::archive::{Asker, FetchOptions, Fetched, Fetcher, Spool, Want, archive_file};
use walward::catalogue::{Target, TargetTimeline};
use walward::health::FetchStats;
use walward::restore::{RestoreError, RestorePlan, RestoreRequest, plan};
use walward_pg::{Lineage, Lsn, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFileName, synthetic};
use walward_repo::manifest::{BackupLabel, BackupType};
use walward_repo::{LazyRepository, Repository};
use walward_storage::fault::Plan;

use crate::disk::scratch;
use crate::faults::mix;
use crate::machine::{CLUSTER, FETCH_DEADLINE, SPOOL_SEGMENTS, SetUp, Site, Trace, note};
use crate::postgres::{FIRST, Postgres, SEGMENT_BYTES, segment, size};
use crate::restore::{Taken, put_backup, request};
use crate::seeds::{self, Broken};
use crate::shape::{Mutant, Shape};
use crate::wal::plain;

const SEEDS: u64 = 40;
const SEEDS_THOROUGH: u64 = 1_000;
/// The first record of a segment, after the long header, and what each of our records takes.
const HEADER_BYTES: u64 = 40;
const RECORD_BYTES: u64 = 40;
/// Records of one segment, all in its first page.
const RECORDS_MAX: u64 = 200;
/// Microseconds from the Unix epoch to PostgreSQL's.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A record of the WAL: the end of a transaction, unless it has no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    at: Lsn,
    time: Option<i64>,
}

/// A server: the primary, or a trial.
#[derive(Debug, Clone)]
struct Server {
    name: &'static str,
    timeline: u32,
    parents: Vec<(u32, Lsn)>,
    /// Everything that it holds, and has replayed.
    past: Vec<Record>,
    next: Lsn,
}

impl Server {
    fn add(&mut self, time: Option<i64>) {
        self.past.push(Record { at: self.next, time });
        self.next = Lsn(self.next.0 + RECORD_BYTES);
    }

    fn number(&self) -> u64 {
        self.next.0 / SEGMENT_BYTES
    }

    fn is_full(&self) -> bool {
        (self.next.0 % SEGMENT_BYTES - HEADER_BYTES) / RECORD_BYTES >= RECORDS_MAX
    }

    /// It goes on from `at`, which is on `timeline` of `parents`, on a timeline of its own.
    fn branch(&self, name: &'static str, at: Lsn, new: u32) -> Self {
        let on: Vec<(u32, Lsn)> = self.parents.iter().copied().filter(|(_, end)| *end < at).collect();
        let parent = self.parents.get(on.len()).map_or(self.timeline, |(timeline, _)| *timeline);
        let past = self.past.iter().copied().filter(|record| record.at < at).collect();
        let parents = [on, vec![(parent, at)]].concat();
        Self { name, timeline: new, parents, past, next: at }
    }

    fn history(&self) -> String {
        let lines = self.parents.iter().map(|(timeline, switch)| format!("{timeline}\t{switch}\tby the model\n"));
        lines.collect::<Vec<_>>().concat()
    }

    /// Segment `number` as it is on the server's own timeline: what it inherited of it, and its own.
    fn segment(&self, number: u64, lineage: Lineage) -> Vec<u8> {
        let start = number * SEGMENT_BYTES;
        let size = SegmentSize::try_from(SEGMENT_BYTES).unwrap();
        let name = SegmentName::from_number(Timeline(self.timeline), number, size).unwrap();
        let mut bytes = Vec::from(synthetic::first_page_header(name, size, lineage));
        let befores = std::iter::once(0).chain(self.past.iter().map(|record| record.at.0));
        let mine = self.past.iter().zip(befores).filter(|(record, _)| record.at.0 / SEGMENT_BYTES == number);
        for (record, before) in mine {
            assert_eq!(bytes.len() as u64, record.at.0 - start, "records follow each other");
            bytes.extend(34u32.to_le_bytes());
            bytes.extend(7u32.to_le_bytes());
            bytes.extend(before.to_le_bytes());
            // A commit, or nothing at all (XLOG_NOOP).
            bytes.extend(if record.time.is_some() { [0, 1] } else { [0x20, 0] });
            bytes.extend([0; 6]);
            bytes.extend([255, 8]);
            bytes.extend((record.time.unwrap_or(POSTGRES_EPOCH) - POSTGRES_EPOCH).to_le_bytes());
            bytes.extend([0; 6]);
        }
        bytes.resize(SEGMENT_BYTES as usize, 0);
        bytes
    }
}

/// The records of a segment as replay meets them.
fn records(bytes: &[u8]) -> Vec<Record> {
    let start = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    let mut records = Vec::new();
    let mut at = HEADER_BYTES as usize;
    while bytes[at] == 34 {
        let time = i64::from_le_bytes(bytes[at + 26..at + 34].try_into().unwrap()) + POSTGRES_EPOCH;
        records.push(Record { at: Lsn(start + at as u64), time: (bytes[at + 17] == 1).then_some(time) });
        at += RECORD_BYTES as usize;
    }
    records
}

/// When transactions ended.
fn commits(records: &[Record]) -> Vec<i64> {
    records.iter().filter_map(|record| record.time).collect()
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    restored: u64,
    refused: u64,
    recoveries: u64,
    trials: u64,
}

struct World {
    mutant: Mutant,
    folder: TempDir,
    data: Postgres,
    repository: Repository,
    lazies: Vec<Arc<LazyRepository>>,
    primary: Server,
    /// What became of each timeline.
    lines: BTreeMap<u32, Server>,
    /// What each backup brings, without WAL.
    brought: BTreeMap<String, Vec<Record>>,
    timelines: u32,
    backups: i64,
    clock: i64,
    /// When archived transactions ended.
    archived: BTreeSet<i64>,
    /// What the primary held at each moment.
    truth: Vec<(i64, Vec<i64>)>,
    tally: Tally,
    random: StdRng,
    trace: Trace,
}

/// How a recovery ended.
enum Ended {
    /// On this timeline, with this replayed.
    Done(u32, Vec<Record>),
    Stopped(String),
}

impl World {
    async fn new(seed: u64, mutant: Mutant, trace: &Trace) -> Self {
        let folder = scratch();
        let shape = Shape { disks: false, ..plain(false, Mutant::None) };
        let mut site = Site::new("one", &shape, seed, (folder.path(), trace), None);
        let data = Postgres::new(&folder.path().join("data"), 1, seed);
        if let Err(SetUp::Failed(why) | SetUp::Gone(why)) = site.set_up(data.lineage).await {
            panic!("{why}");
        }
        let repository = site.open().await.unwrap();
        let lazies = vec![site.lazy(site.store(), Plan::By(Box::new(|_| None)))];
        let primary = Server {
            name: "primary",
            timeline: 1,
            parents: Vec::new(),
            past: Vec::new(),
            next: Lsn(FIRST * SEGMENT_BYTES + HEADER_BYTES),
        };
        Self {
            mutant,
            folder,
            data,
            repository,
            lazies,
            primary,
            lines: BTreeMap::new(),
            brought: BTreeMap::new(),
            timelines: 1,
            backups: 0,
            clock: 0,
            archived: BTreeSet::new(),
            truth: Vec::new(),
            tally: Tally::default(),
            random: StdRng::seed_from_u64(mix(seed, &"lines")),
            trace: Arc::clone(trace),
        }
    }

    fn say(&self, line: String) {
        note(&self.trace, line);
    }

    /// The time: that of the machine, because stores use it, too; never the same twice.
    fn now(&mut self) -> i64 {
        loop {
            let now = Timestamp::now().as_microsecond();
            if now > self.clock {
                self.clock = now;
                return now;
            }
        }
    }

    /// This is what the primary holds now.
    fn is_primary(&mut self, primary: Server) {
        self.lines.insert(primary.timeline, primary.clone());
        self.primary = primary;
        let now = self.now();
        self.truth.push((now, commits(&self.primary.past)));
    }

    async fn archive(&self, server: &Server, name: WalFileName, bytes: &[u8]) -> Result<(), String> {
        std::fs::write(self.data.path(name), bytes).unwrap();
        let done = archive_file(&self.lazies, &self.data.pg_wal(), name, server.name).await;
        std::fs::remove_file(self.data.path(name)).unwrap();
        done.map(drop).map_err(|error| walward_base::describe(&error))
    }

    /// The segment that is being written ends, and is archived.
    async fn finish(&mut self, server: &mut Server) -> Result<(), String> {
        let number = server.number();
        let bytes = server.segment(number, self.data.lineage);
        self.archive(server, WalFileName::Segment(segment(server.timeline, number)), &bytes).await?;
        self.archived.extend(commits(&records(&bytes)));
        server.next = Lsn((number + 1) * SEGMENT_BYTES + HEADER_BYTES);
        self.say(format!("{} archived segment {number} of timeline {}", server.name, server.timeline));
        Ok(())
    }

    async fn commit(&mut self, server: &mut Server) -> Result<(), String> {
        if server.is_full() {
            self.finish(server).await?;
        }
        let now = self.now();
        server.add(Some(now));
        Ok(())
    }

    async fn back_up(&mut self, server: &mut Server) -> Result<(), String> {
        if server.is_full() {
            self.finish(server).await?;
        }
        let (start, before) = (server.next, server.past.clone());
        server.add(None);
        let stop = server.next;
        self.finish(server).await?;
        self.backups += 1;
        let moment = Timestamp::from_second(1_700_000_000 + 60 * self.backups).unwrap();
        let taken = Taken {
            label: BackupLabel::new(moment, BackupType::Full),
            lineage: self.data.lineage,
            segment_bytes: size(),
            timeline: Timeline(server.timeline),
            start,
            stop,
            stopped: Timestamp::from_microsecond(self.now()).unwrap(),
        };
        self.say(format!(
            "backup {} of the {} on timeline {}, {start} to {stop}",
            taken.label, server.name, server.timeline
        ));
        self.brought.insert(taken.label.to_string(), before);
        put_backup(&self.repository, taken).await;
        Ok(())
    }

    /// A new timeline from `at` on, whose history is archived at once.
    async fn branch(&mut self, from: &Server, name: &'static str, at: Lsn) -> Result<Server, String> {
        self.timelines += 1;
        let server = from.branch(name, at, self.timelines);
        self.say(format!("the {name} goes on from {at} on timeline {}, after {:?}", server.timeline, server.parents));
        let history = WalFileName::History(Timeline(server.timeline));
        self.archive(&server, history, server.history().as_bytes()).await?;
        Ok(server)
    }

    /// `back` records before the end of the primary, and not before its newest backup: a line that no backup leads to cannot be
    /// restored.
    fn earlier(&self, back: u64) -> Lsn {
        let past = &self.primary.past;
        let backed_up = past.iter().rposition(|record| record.time.is_none()).map_or(0, |at| at + 1);
        let at = past.len().saturating_sub(back as usize).max(backed_up);
        past.get(at).map_or(self.primary.next, |record| record.at)
    }

    async fn act(&mut self) -> Result<(), String> {
        let mut primary = self.primary.clone();
        match self.random.random_range(0..100) {
            0..40 => {
                for _ in 0..self.random.random_range(1..4) {
                    self.commit(&mut primary).await?;
                    self.is_primary(primary.clone());
                }
            }
            40..58 => self.finish(&mut primary).await?,
            58..68 => self.back_up(&mut primary).await?,
            68..78 => {
                // A standby takes over, which lacks some of the last transactions.
                let back = self.random.random_range(0..4);
                primary = self.branch(&self.primary.clone(), "primary", self.earlier(back)).await?;
            }
            78..86 => {
                // A trial on another host, which archives, and perhaps is backed up; then the primary goes on.
                self.tally.trials += 1;
                let back = self.random.random_range(0..8);
                let mut trial = self.branch(&primary, "trial", self.earlier(back)).await?;
                for _ in 0..self.random.random_range(0..5) {
                    self.commit(&mut trial).await?;
                }
                match self.random.random_range(0..4) {
                    0 | 1 => self.back_up(&mut trial).await?,
                    2 => self.finish(&mut trial).await?,
                    _ => {}
                }
                self.lines.insert(trial.timeline, trial);
                // A cluster of which nothing is archived after a trial began cannot be told from one that went on as the trial.
                self.commit(&mut primary).await?;
                self.finish(&mut primary).await?;
            }
            _ => {
                if let Some(recovered) = self.recover_to_a_moment().await? {
                    primary = recovered;
                }
            }
        }
        self.is_primary(primary);
        Ok(())
    }

    fn a_moment(&mut self) -> i64 {
        let (at, further) = (self.random.random_range(0..self.truth.len()), self.random.random_range(0..3));
        let begin = self.truth[at].0;
        let end = self.truth.get(at + 1).map_or(begin + 2, |(time, _)| *time);
        begin + (end - begin) * further / 3
    }

    /// What the primary held at a moment, as far as it is archived.
    fn held_at(&self, time: i64) -> Vec<i64> {
        let held = self.truth.iter().rev().find(|(noted, _)| *noted <= time).map(|(_, held)| held.clone());
        // What ended between two notes is noted by the second.
        let next = self.truth.iter().find(|(noted, _)| *noted > time).map(|(_, held)| held.clone());
        let mut held = held.unwrap_or_default();
        if let Some(next) = next.filter(|next| next.len() > held.len() && next.starts_with(&held)) {
            held.extend(next[held.len()..].iter().filter(|ended| **ended <= time));
        }
        held.retain(|ended| self.archived.contains(ended));
        held
    }

    async fn plan(&self, target: &Target) -> Result<RestorePlan, RestoreError> {
        let timeline = match self.mutant {
            Mutant::HighestTimeline => TargetTimeline::Number(Timeline(self.timelines)),
            _ => TargetTimeline::Latest,
        };
        let request = RestoreRequest { target: target.clone(), timeline, ..request() };
        let target = self.folder.path().join("restored");
        plan(std::slice::from_ref(&self.repository), &target, &request).await
    }

    /// The cluster is recovered to a moment, by a plan if there is one, and goes on from there as the primary.
    async fn recover_to_a_moment(&mut self) -> Result<Option<Server>, String> {
        let time = self.a_moment();
        let Some((goal, held)) = self.judged(&Target::Time(Timestamp::from_microsecond(time).unwrap())).await? else {
            return Ok(None);
        };
        let Some(last) = held.last() else { return Ok(None) };
        // Where the next record would be.
        let at = Lsn(last.at.0 + RECORD_BYTES);
        self.tally.recoveries += 1;
        let server = self.branch(&self.lines[&goal].clone(), "primary", at).await?;
        Ok(Some(Server { past: held, ..server }))
    }

    /// Plans, recovers, and compares with the truth; none when it is refused.
    async fn judged(&mut self, target: &Target) -> Result<Option<(u32, Vec<Record>)>, String> {
        let expected = if let Target::Time(time) = target {
            self.held_at(time.as_microsecond())
        } else {
            let held = commits(&self.primary.past).into_iter();
            held.filter(|ended| self.archived.contains(ended)).collect()
        };
        let plan = match self.plan(target).await {
            Ok(plan) => plan,
            Err(RestoreError::Refused(refusal)) => {
                self.tally.refused += 1;
                self.say(format!("{target} is refused: {refusal}"));
                return Ok(None);
            }
            Err(error) => return Err(format!("{target}: {error:?}")),
        };
        let settings: BTreeMap<&str, &str> =
            plan.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.say(format!(
            "{target}: {} on timelines {:?}, recovery_target_timeline {:?}",
            plan.backup, plan.timelines, settings["recovery_target_timeline"]
        ));
        match self.recover(&plan, target, &settings).await? {
            Ended::Stopped(why) => Err(format!("a restore to {target} that was planned stops: {why}")),
            Ended::Done(goal, replayed) => {
                let all = [self.brought[&plan.backup].clone(), replayed].concat();
                if commits(&all) != expected {
                    let shown = |times: &[i64]| times.iter().map(|time| time % 100_000_000).collect::<Vec<_>>();
                    return Err(format!(
                        "a restore to {target} ends with other transactions than the primary's: {:?} instead of {:?}",
                        shown(&commits(&all)),
                        shown(&expected)
                    ));
                }
                self.tally.restored += 1;
                Ok(Some((goal, all)))
            }
        }
    }

    /// PostgreSQL's recovery by the settings of `plan` (`validateRecoveryParameters`, `XLogFileReadAnyTLI`, xlogrecovery.c).
    async fn recover(
        &self,
        plan: &RestorePlan,
        target: &Target,
        settings: &BTreeMap<&str, &str>,
    ) -> Result<Ended, String> {
        let spool = Spool::open(&self.folder.path().join("spool"), SPOOL_SEGMENTS * SEGMENT_BYTES);
        let fetcher = Fetcher::new(
            CLUSTER,
            self.lazies.clone(),
            FetchOptions { deadline: FETCH_DEADLINE, refuse_seams: true, workers: 3 },
            spool.map_err(|error| format!("the agent does not start: {error}"))?,
            Arc::new(FetchStats::default()),
            CancellationToken::new(),
        );
        let fetch = async |name: WalFileName| -> Result<Option<Vec<u8>>, String> {
            match fetcher.fetch(Want::new(Some(self.data.lineage), name), Asker::OneShot, None).await {
                Ok(Fetched::File(place)) => {
                    let destination = self.folder.path().join("RECOVERYXLOG");
                    walward_wire::place(place.path(), &destination, None).map_err(|error| error.to_string())?;
                    Ok(Some(std::fs::read(&destination).unwrap()))
                }
                Ok(Fetched::Absent) => Ok(None),
                Err(error) => Err(walward_base::describe(&error)),
            }
        };
        let label: BackupLabel = plan.backup.parse().unwrap();
        let (manifest, _) = walward_repo::stored::manifest(&self.repository, &label).await.unwrap();
        let mut goal = manifest.timeline;
        match settings["recovery_target_timeline"] {
            "latest" => loop {
                match fetch(WalFileName::History(Timeline(goal.0 + 1))).await {
                    Ok(Some(_)) => goal = Timeline(goal.0 + 1),
                    Ok(None) => break,
                    Err(why) => return Ok(Ended::Stopped(why)),
                }
            },
            "current" => {}
            number => goal = Timeline(number.parse().unwrap()),
        }
        let history = match fetch(WalFileName::History(goal)).await {
            Ok(Some(text)) => TimelineHistory::parse(goal, &String::from_utf8_lossy(&text)).unwrap(),
            Ok(None) => TimelineHistory::root(goal),
            Err(why) => return Ok(Ended::Stopped(why)),
        };
        let timelines: Vec<(u32, u64)> = std::iter::once(goal)
            .chain(history.parents.iter().rev().map(|(timeline, _)| *timeline))
            .map(|timeline| (timeline.0, history.begin_of(timeline).map_or(0, |begin| begin.0 / SEGMENT_BYTES)))
            .collect();
        let until = settings.get("recovery_target_lsn").and_then(|lsn| lsn.parse::<Lsn>().ok());
        let time = match target {
            Target::Time(time) if until.is_none() => Some(time.as_microsecond()),
            _ => None,
        };
        let (mut number, mut current) = (manifest.start_lsn.0 / SEGMENT_BYTES, 0);
        let mut replayed = Vec::new();
        loop {
            let mut found = None;
            for (timeline, begin) in &timelines {
                if *timeline < current || number < *begin {
                    continue;
                }
                match fetch(WalFileName::Segment(segment(*timeline, number))).await {
                    Ok(Some(bytes)) => {
                        found = Some((*timeline, bytes));
                        break;
                    }
                    Ok(None) => {}
                    Err(why) => return Ok(Ended::Stopped(why)),
                }
            }
            let Some((timeline, bytes)) = found else { break };
            for record in records(&bytes).into_iter().filter(|record| record.at >= manifest.start_lsn) {
                let is_later = time.is_some_and(|time| record.time.is_some_and(|ended| ended > time));
                if is_later || until.is_some_and(|until| record.at > until) {
                    return Ok(Ended::Done(goal.0, replayed));
                }
                replayed.push(record);
            }
            (current, number) = (timeline, number + 1);
        }
        Ok(if time.is_some() {
            Ended::Stopped("recovery ended before configured recovery target was reached".to_owned())
        } else {
            Ended::Done(goal.0, replayed)
        })
    }

    async fn run(&mut self) -> Result<(), String> {
        // From which everything can be restored.
        let mut primary = self.primary.clone();
        self.commit(&mut primary).await?;
        self.commit(&mut primary).await?;
        self.back_up(&mut primary).await?;
        self.is_primary(primary);
        for _ in 0..self.random.random_range(6..20) {
            Box::pin(self.act()).await?;
            if self.random.random_ratio(1, 3) {
                self.judged(&Target::Latest).await?;
            }
            if self.random.random_ratio(1, 3) {
                let time = self.a_moment();
                self.judged(&Target::Time(Timestamp::from_microsecond(time).unwrap())).await?;
            }
        }
        let mut primary = self.primary.clone();
        self.back_up(&mut primary).await?;
        self.commit(&mut primary).await?;
        self.finish(&mut primary).await?;
        self.is_primary(primary);
        match self.judged(&Target::Latest).await? {
            Some(_) => Ok(()),
            None => Err("a cluster with a backup and an archived transaction since is not restored".to_owned()),
        }
    }
}

fn run(seed: u64, mutant: Mutant) -> Result<Tally, Broken> {
    seeds::watched(seed, move |trace| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(seed, mutant, trace).await;
            world.run().await.map(|()| world.tally)
        })
    })
}

#[test]
fn a_restore_goes_where_the_primary_is_or_asks() {
    const NAME: &str = "a_restore_goes_where_the_primary_is_or_asks";
    let begun = Instant::now();
    let seeds: Box<dyn Iterator<Item = u64> + Send> = match seeds::asked() {
        Some(seed) => Box::new(std::iter::once(seed)),
        None => Box::new(0..seeds::count(SEEDS, SEEDS_THOROUGH)),
    };
    let tallies = seeds::expect(NAME, seeds::all(seeds, |seed| run(seed, Mutant::None)));
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let happened = [
        sum(|tally| tally.restored),
        sum(|tally| tally.refused),
        sum(|tally| tally.recoveries),
        sum(|tally| tally.trials),
    ];
    let seconds = begun.elapsed().as_secs();
    eprintln!("{NAME}: {} seeds in {seconds} s: restored, refused, recoveries, trials: {happened:?}", tallies.len());
    assert!(tallies.len() < 20 || happened.iter().all(|count| *count > tallies.len() as u64 / 4), "{happened:?}");
}

#[test]
fn a_restore_along_the_highest_timeline_is_caught() {
    let Err(Broken { what, .. }) = seeds::all(0..SEEDS, |seed| run(seed, Mutant::HighestTimeline)) else {
        panic!("it was not noticed");
    };
    assert!(what.contains("other transactions than the primary's") || what.contains("is not restored"), "{what}");
}
