//! `wal set-aside`: plan, question, and the move, in all repositories step by step.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{as_json, ask_agent, holder, known, sentence, tell_agent};
use crate::archive::aside::{AsidePlan, Away, Facts, KeptServer, is_archived, plan};
use crate::backup::with_lease;
use crate::cli::arguments::SetAsideArguments;
use crate::cli::ask::confirm;
use crate::cli::commands::text::table;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancelled_by_signals;
use crate::cli::meter::Meter;
use crate::cli::printer::{Printer, Tone};
use crate::config::ClusterConfig;
use crate::outcome::Exit;
use walward_base::format_bytes;
use walward_base::sys;
use walward_pg::WalFileName;
use walward_pg::archive_status::done_path;
use walward_repo::aside::{Aside, AsideId, Begun, FORMAT, Stage};
use walward_repo::transfer::{Compared, compare};
use walward_repo::{Repository, layout};

/// What is to be done in one repository.
enum Job {
    /// A move that was cut is taken up.
    TakeUp(Aside),
    /// It is done here already, by the command that was cut elsewhere.
    Done,
    /// A new move; without objects there is nothing to do.
    New(AsidePlan),
}

/// What is to be done, in the order of the repositories.
struct Jobs {
    id: AsideId,
    of_each: Vec<Job>,
    /// The server whose life is kept, where its data directory is on this host.
    kept: Option<KeptServer>,
}

pub(in crate::cli) async fn run(
    context: &Context,
    arguments: &SetAsideArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let cluster = context.cluster()?;
    let from: WalFileName = arguments.from.parse().map_err(|error| Failure::new(Exit::Usage, error))?;
    let repositories = context.open_all(cluster).await?;
    let jobs = jobs(cluster, &repositories, from, printer).await?;
    if jobs.is_new() {
        may_go(context, cluster, &repositories, from).await?;
        jobs.is_not_own(&repositories, from)?;
    }
    if jobs.is_empty() {
        let names: Vec<&str> = repositories.iter().map(Repository::name).collect();
        let text = format!("neither {from} nor anything that follows it is in {}", names.join(", "));
        return Err(Failure::new(Exit::NotFound, text).hint("`walward wal list` shows what is there"));
    }
    jobs.doubts(cluster, from).iter().for_each(|doubt| printer.warning(doubt));
    if arguments.dry_run || !printer.is_json() {
        show(&repositories, &jobs, (&cluster.name, from), arguments.dry_run, printer)?;
    }
    if arguments.dry_run {
        return Ok(Exit::Done);
    }
    let question = format!("move all of this out of the archive of cluster \"{}\"? Nothing is deleted", cluster.name);
    confirm(&context.global, printer, &question)?;
    let cancel = CancellationToken::new();
    let work = async || {
        carry_out(cluster, &repositories, jobs, (from, arguments.reason.as_deref().unwrap_or_default()), printer).await
    };
    let holder = holder("set-aside");
    let work = with_lease(&repositories, &holder, &cancel, work);
    let moved = Box::pin(cancelled_by_signals(cancel.clone(), work)).await.map_err(|failure| match failure.hint {
        None => failure.hint("the same command again goes on where this one stopped"),
        Some(_) => failure,
    })?;
    let mut exit = tell_agent(context, cluster, from, printer);
    for (repository, gone) in moved.iter().filter_map(|moved| Some((moved.repository, moved.gone.first()?))) {
        printer.warning(&format!(
            "repository \"{}\": {gone}, and perhaps others, vanished before it was copied: something else removes objects there",
            repository.name()
        ));
        exit = Exit::Warnings;
    }
    let told = print(&moved, &cluster.name, printer).map(|()| exit);
    Ok(printer.done(&format!("what follows {from} is set aside"), told))
}

/// Decides what there is to do: what was cut goes first, under its own name and with its own lists.
async fn jobs(
    cluster: &ClusterConfig,
    repositories: &[Repository],
    from: WalFileName,
    printer: &Printer,
) -> Result<Jobs, Failure> {
    let known = known(repositories, printer).await?;
    let mut cut = None;
    for (repository, asides) in &known {
        for aside in asides.iter().filter(|aside| matches!(aside.stage, Stage::Cut | Stage::Returning)) {
            let (id, other) = (&aside.begun.id, aside.begun.from);
            if aside.stage == Stage::Returning || other != from {
                let text = format!("{id} in repository \"{}\" was cut and is not finished", repository.name());
                let hint = match aside.stage {
                    Stage::Returning => format!("`walward wal restore-aside {id}` goes on with it"),
                    _ => format!("`walward wal set-aside --from {other}` goes on with it"),
                };
                return Err(Failure::new(Exit::Refused, text).hint(hint));
            }
            cut = Some(id.clone());
        }
    }
    let id = cut.unwrap_or_else(|| AsideId::new(Timestamp::now()));
    let kept = KeptServer::look(&cluster.data_directory, cluster.backup.read_deadline).await?;
    let mut jobs = Vec::new();
    for (repository, asides) in &known {
        let ours = asides.iter().find(|aside| aside.begun.id == id);
        jobs.push(match ours {
            Some(aside) if aside.stage == Stage::Cut => Job::TakeUp(aside.clone()),
            Some(_) => Job::Done,
            None => {
                let facts = Facts::read(repository, from, kept.as_ref()).await?;
                let warnings = facts.iter().flat_map(|facts| &facts.warnings);
                warnings.for_each(|warning| printer.warning(warning));
                Job::New(facts.map(|facts| plan(&facts, from)).unwrap_or_default())
            }
        });
    }
    Ok(Jobs { id, of_each: jobs, kept })
}

impl Jobs {
    /// Whether nothing of it was begun anywhere.
    fn is_new(&self) -> bool {
        self.of_each.iter().all(|job| matches!(job, Job::New(_)))
    }

    fn is_empty(&self) -> bool {
        self.of_each.iter().all(|job| matches!(job, Job::New(plan) if plan.is_empty()))
    }

    fn plans(&self) -> impl Iterator<Item = Option<&AsidePlan>> {
        self.of_each.iter().map(|job| match job {
            Job::New(plan) => Some(plan),
            Job::TakeUp(_) | Job::Done => None,
        })
    }

    /// Refuses where a repository has this server's own content under the name.
    fn is_not_own(&self, repositories: &[Repository], from: WalFileName) -> Result<(), Failure> {
        let plans = repositories.iter().zip(self.plans());
        let mut own = plans.filter(|(_, plan)| plan.is_some_and(|plan| plan.stays.contains(&from)));
        let Some((repository, _)) = own.next() else { return Ok(()) };
        let name = repository.name();
        let text = format!("repository \"{name}\" has {from} with the content that this server has in pg_wal");
        let hint = "name the first file that the server was refused; say with --repository where it is another life's";
        Err(Failure::new(Exit::Refused, text).hint(hint))
    }

    /// What is to be known before anything is moved: what may be the kept server's own and goes all the same.
    fn doubts(&self, cluster: &ClusterConfig, from: WalFileName) -> Vec<String> {
        let is_new = self.plans().flatten().next().is_some();
        let directory = cluster.data_directory.display();
        let mut doubts = match &self.kept {
            _ if !is_new => Vec::new(),
            None => vec![format!("no server's data directory is at {directory}: whatever follows {from} goes")],
            Some(kept) if kept.is_in_recovery() => vec![format!(
                "the server in {directory} is in recovery, so that what it has may be another's: whatever follows {from} goes"
            )],
            Some(_) => Vec::new(),
        };
        let doubtful: BTreeSet<_> = self.plans().flatten().flat_map(|plan| &plan.doubtful).collect();
        if let (Some(first), Some(last)) = (doubtful.first(), doubtful.last()) {
            let count = doubtful.len();
            let range = if count == 1 { first.to_string() } else { format!("{first} to {last}, {count} files") };
            doubts.push(format!(
                "this server has written {range}, too, and has it in pg_wal no more, so that nothing tells whose the archive's is: it goes; \
                 before {from} is archived anew `walward wal restore-aside {}` puts everything back, later in a copy of the repository",
                self.id
            ));
        }
        doubts
    }
}

/// Refuses to set aside what this cluster's own server has archived, and to mix lives.
async fn may_go(
    context: &Context,
    cluster: &ClusterConfig,
    repositories: &[Repository],
    from: WalFileName,
) -> Result<(), Failure> {
    if let Some(contest) = ask_agent(context, cluster, from, false)?
        && contest.is_archived
        && !contest.is_contested
    {
        let text = format!(
            "this cluster's agent archives timeline {} for the running server, and {from} is not a file that it refused",
            from.timeline()
        );
        let names: Vec<String> = contest.contested.iter().map(ToString::to_string).collect();
        let hint = match &names[..] {
            [] => "it refuses no file now; `walward check` and the server's log say when it does".to_owned(),
            names => format!("it refused {}", names.join(", ")),
        };
        return Err(Failure::new(Exit::Refused, text).hint(hint));
    }
    if is_archived(&cluster.data_directory, from, cluster.backup.read_deadline).await? {
        let mark = done_path(&cluster.data_directory.join("pg_wal"), from);
        let text = format!("this cluster's server has archived {from} itself ({} is there)", mark.display());
        let hint = "name the first file that the server was refused; if its mark was made by hand, rename it to .ready";
        return Err(Failure::new(Exit::Refused, text).hint(hint));
    }
    let Some(lineage) = repositories.first().and_then(|first| first.identity().current()).map(|entry| entry.lineage)
    else {
        return Ok(());
    };
    let key = layout::wal_file(lineage, from);
    for (at, here) in repositories.iter().enumerate() {
        for there in repositories.iter().skip(at + 1) {
            if let Compared::Different { here: first, there: second } = compare(here, there, &key).await? {
                let text = format!(
                    "the repositories hold two lives: {from} was written by {} in \"{}\", by {} in \"{}\"",
                    first.0,
                    here.name(),
                    second.0,
                    there.name()
                );
                let hint = "say with --repository in which of them it is the life that goes";
                return Err(Failure::new(Exit::Refused, text).hint(hint));
            }
        }
    }
    Ok(())
}

/// What was moved in one repository.
struct Moved<'a> {
    repository: &'a Repository,
    begun: Begun,
    gone: Vec<walward_storage::ObjectKey>,
}

async fn carry_out<'a>(
    cluster: &ClusterConfig,
    repositories: &'a [Repository],
    confirmed: Jobs,
    (from, reason): (WalFileName, &str),
    printer: &Printer,
) -> Result<Vec<Moved<'a>>, Failure> {
    // Somebody may have been at work before the lease was held.
    let jobs = jobs(cluster, repositories, from, printer).await?;
    if !jobs.plans().eq(confirmed.plans()) {
        let text = "what the repositories hold, or the server, has changed since the plan was made; nothing was moved";
        return Err(Failure::new(Exit::Refused, text).hint("see that no other server archives, and run it again"));
    }
    let id = if jobs.is_new() { confirmed.id } else { jobs.id.clone() };
    let host = sys::host::name();
    let user = sys::identity::user_name(rustix::process::geteuid().as_raw());
    let mut moves = Vec::new();
    for (repository, job) in repositories.iter().zip(jobs.of_each) {
        match job {
            Job::Done => {}
            Job::TakeUp(aside) => moves.push((repository, Away::resume(repository, &aside).await?)),
            Job::New(plan) if plan.is_empty() => {}
            Job::New(plan) => {
                let Some(lineage) = repository.identity().current().map(|entry| entry.lineage) else { continue };
                let begun = Begun {
                    format: FORMAT,
                    id: id.clone(),
                    lineage,
                    from,
                    begun: Timestamp::now(),
                    host: host.clone(),
                    user: user.clone(),
                    reason: reason.to_owned(),
                    lists: 0,
                    objects: 0,
                    bytes: 0,
                    backups: Vec::new(),
                };
                moves.push((repository, Away::begin(repository, begun, &plan).await?));
            }
        }
    }
    // Each step in all repositories before the next one in any: what one of them still has is brought to the others as a debt.
    for (repository, away) in &mut moves {
        let (bytes, name) = (away.begun().bytes, repository.name());
        let mut meter = (!printer.is_json()).then(|| Meter::new(printer, "wal-set-aside"));
        let mut count = 0;
        let copied = away.copy(|object_bytes| {
            count += object_bytes;
            if let Some(meter) = &mut meter {
                meter.show(count, bytes, &format!("copying in {name}"), ());
            }
        });
        copied.await?;
        meter.iter().for_each(Meter::finish);
    }
    for (_, away) in &mut moves {
        away.remove().await?;
    }
    let mut done = Vec::new();
    for (repository, mut away) in moves {
        let gone = away.finish(&host).await?;
        done.push(Moved { repository, begun: away.begun().clone(), gone });
    }
    Ok(done)
}

/// The plan, before it is asked about.
fn show(
    repositories: &[Repository],
    jobs: &Jobs,
    (cluster, from): (&str, WalFileName),
    dry_run: bool,
    printer: &Printer,
) -> Result<(), Failure> {
    if printer.is_json() {
        let each = repositories.iter().zip(&jobs.of_each).map(|(repository, job)| planned(repository, job));
        let plans: Vec<Value> = each.collect();
        let data = json!({ "cluster": cluster, "from": from, "dry_run": dry_run, "plan": plans, "set_aside": [] });
        return Ok(printer.json("wal-set-aside", data)?);
    }
    for (repository, job) in repositories.iter().zip(&jobs.of_each) {
        printer.line(&format!("{} {}", printer.tone(repository.name(), Tone::Strong), repository.url()))?;
        match job {
            Job::Done => printer.line("  done already")?,
            Job::TakeUp(aside) => printer.line(&format!("  goes on with {}", sentence(&aside.begun)))?,
            Job::New(plan) if plan.is_empty() => printer.line("  nothing to move")?,
            Job::New(plan) => {
                let rows = plan.timelines().into_iter().map(|count| {
                    let name = |segment: Option<_>| segment.map(|name: walward_pg::SegmentName| name.to_string());
                    vec![
                        format!("  {}", count.timeline),
                        name(count.first).unwrap_or_default(),
                        name(count.last).unwrap_or_default(),
                        count.files.to_string(),
                    ]
                });
                printer.raw(table(&["  timeline", "first", "last", "files"], rows).as_bytes())?;
                for (label, objects) in &plan.backups {
                    let bytes = objects.iter().map(|object| object.size).sum();
                    printer.line(&format!("  backup {label}, which needs some of it ({})", format_bytes(bytes)))?;
                }
                if !plan.stays.is_empty() {
                    let count = plan.stays.len();
                    printer.line(&format!(
                        "  {count} file(s) stay: this server has them in pg_wal, with the same content"
                    ))?;
                }
                let (objects, bytes) = (plan.objects().len(), format_bytes(plan.bytes()));
                printer.line(&format!(
                    "  {objects} object(s), {bytes}, to {}; so much room is needed until it is done",
                    layout::aside_root(&jobs.id)
                ))?;
            }
        }
    }
    Ok(())
}

fn planned(repository: &Repository, job: &Job) -> Value {
    let (objects, bytes, backups) = match job {
        Job::Done => (0, 0, Vec::new()),
        Job::TakeUp(Aside { begun, .. }) => (begun.objects, begun.bytes, begun.backups.clone()),
        Job::New(plan) => {
            let backups = plan.backups.iter().map(|(label, _)| label.clone()).collect();
            (plan.objects().len() as u64, plan.bytes(), backups)
        }
    };
    let empty = AsidePlan::default();
    let plan = if let Job::New(plan) = job { plan } else { &empty };
    json!({
        "repository": repository.name(),
        "resumes": matches!(job, Job::TakeUp(_)),
        "objects": objects,
        "stored_bytes": bytes,
        "timelines": plan.timelines(),
        "backups": backups,
        "stays": plan.stays,
        "doubtful": plan.doubtful,
    })
}

fn print(moved: &[Moved<'_>], cluster: &str, printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        let each = moved.iter().map(|moved| as_json(moved.repository, &moved.begun, Stage::Aside));
        let done: Vec<Value> = each.collect();
        let from = moved.first().map(|moved| moved.begun.from);
        let data = json!({ "cluster": cluster, "from": from, "dry_run": false, "plan": [], "set_aside": done });
        return Ok(printer.json("wal-set-aside", data)?);
    }
    for Moved { repository, begun, .. } in moved {
        printer.line(&format!("set aside in repository \"{}\": {}", repository.name(), sentence(begun)))?;
    }
    if let Some(first) = moved.first() {
        printer.note(&format!("`walward wal restore-aside {}` puts it back", first.begun.id));
    }
    Ok(())
}
