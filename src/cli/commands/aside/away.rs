//! `wal set-aside`: plan, question, and the move, in all repositories step by step.

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{as_json, ask_agent, holder, known, sentence, tell_agent};
use crate::archive::aside::{Away, Job, Jobs, KeptServer, Refusal, cut, is_archived, may_go, two_lives};
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
use walward_repo::lease::Work;
use walward_repo::{Repository, layout};

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
        ask_whose(context, cluster, &repositories, from).await?;
    }
    jobs.begins_elsewhere(repositories.iter().map(Repository::name), from).map_err(refused)?;
    if jobs.is_empty() {
        let names: Vec<&str> = repositories.iter().map(Repository::name).collect();
        let text = format!("neither {from} nor anything that follows it is in {}", names.join(", "));
        return Err(Failure::new(Exit::NotFound, text).hint("`walward wal list` shows what is there"));
    }
    jobs.doubts(&cluster.data_directory, from).iter().for_each(|doubt| printer.warning(doubt));
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
    let work = with_lease(&repositories, (Work::SetAside, &holder), &cancel, work);
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

/// Reads what there is to do, and says what could not be read for it.
async fn jobs(
    cluster: &ClusterConfig,
    repositories: &[Repository],
    from: WalFileName,
    printer: &Printer,
) -> Result<Jobs, Failure> {
    let known = known(repositories, printer).await?;
    let asides = known.iter().map(|(repository, asides)| (repository.name(), &asides[..]));
    let id = cut(asides, from).map_err(refused)?.unwrap_or_else(|| AsideId::new(Timestamp::now()));
    let kept = KeptServer::look(&cluster.data_directory, cluster.backup.read_deadline).await?;
    let (jobs, warnings) = Jobs::read(&known, id, from, kept).await?;
    for warning in &warnings {
        printer.warning(warning);
    }
    Ok(jobs)
}

fn refused(refusal: Refusal) -> Failure {
    let hint = refusal.hint();
    Failure::new(Exit::Refused, refusal).hint(hint)
}

/// Refuses to set aside what this cluster's own server has archived, and to mix lives.
async fn ask_whose(
    context: &Context,
    cluster: &ClusterConfig,
    repositories: &[Repository],
    from: WalFileName,
) -> Result<(), Failure> {
    let agents_word = ask_agent(context, cluster, from, false)?;
    let archived = is_archived(&cluster.data_directory, from, cluster.backup.read_deadline).await?;
    let mark = archived.then(|| done_path(&cluster.data_directory.join("pg_wal"), from));
    let lives = two_lives(repositories, from).await?;
    may_go(from, agents_word, mark, lives).map_err(refused)
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
    if jobs.of_each != confirmed.of_each {
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
            Job::TakeUp(aside, rest) => moves.push((repository, Away::resume(repository, &aside, rest).await?)),
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
            Job::TakeUp(aside, _) => printer.line(&format!("  goes on with {}", sentence(&aside.begun)))?,
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
                let (objects, bytes) = (plan.objects().len(), format_bytes(plan.bytes()));
                printer.line(&format!(
                    "  {objects} object(s), {bytes}, to {}; so much room is needed until it is done",
                    layout::aside_root(&jobs.id)
                ))?;
            }
        }
        let stay = job.stays().len();
        if stay > 0 {
            printer.line(&format!("  {stay} file(s) stay: this server has them in pg_wal, with the same content"))?;
        }
    }
    Ok(())
}

fn planned(repository: &Repository, job: &Job) -> Value {
    let (objects, bytes, backups) = match job {
        Job::Done => (0, 0, Vec::new()),
        Job::TakeUp(Aside { begun, .. }, _) => (begun.objects, begun.bytes, begun.backups.clone()),
        Job::New(plan) => {
            let backups = plan.backups.iter().map(|(label, _)| label.clone()).collect();
            (plan.objects().len() as u64, plan.bytes(), backups)
        }
    };
    let timelines = if let Job::New(plan) = job { plan.timelines() } else { Vec::new() };
    json!({
        "repository": repository.name(),
        "resumes": matches!(job, Job::TakeUp(..)),
        "objects": objects,
        "stored_bytes": bytes,
        "timelines": timelines,
        "backups": backups,
        "stays": job.stays(),
        "doubtful": job.doubtful().collect::<Vec<_>>(),
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
