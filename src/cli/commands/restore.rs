//! `restore`: a plan, a question, the work.

use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalogue::{Target, TargetTimeline, parse_time};
use crate::cli::arguments::{ActionChoice, ArchiveModeChoice, RestoreArguments};
use crate::cli::ask::confirm;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancelled_by_signals;
use crate::cli::meter::Meter;
use crate::cli::printer::{Printer, Tone};
use crate::cli::programs::{client_program, own_program};
use crate::config::{ClusterConfig, Config, DEFAULT_SOCKET};
use crate::outcome::Exit;
use crate::restore::{
    self, Action, Archiving, Fate, HostDirectory, Note, Phase, Progress, RestorePlan, RestoreReport, RestoreRequest,
    TablespaceSelector, Taken, TakenBy,
};
use walward_base::sys;
use walward_base::{format_bytes, format_duration};
use walward_pg::shell::quote;
use walward_pg::{Lsn, Timeline};
use walward_repo::Repository;

pub(in crate::cli) async fn run(
    context: &Context,
    arguments: &RestoreArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let cluster = context.cluster()?;
    let original = HostDirectory {
        directory: cluster.data_directory.clone(),
        host: sys::host::name(),
        machine: sys::host::machine(),
    };
    let mut request = request(arguments, original)?;
    request.refuse_seams = cluster.fetch.refuse_seams;
    request.restore_command = restore_command(context, &cluster.name, arguments, &request.target);
    let directory = arguments.target_directory.as_ref().unwrap_or(&cluster.data_directory);
    let (repositories, left_out) = context.open_enough(cluster).await?;
    request.taken = taken(&context.loaded.config, cluster, &repositories)?;
    let mut plan = restore::plan(&repositories, directory, &request).await?;
    plan.warnings.splice(0..0, left_out);
    plan.warnings.extend(without_agent(context, arguments, &plan).await);
    for warning in &plan.warnings {
        printer.warning(warning);
    }
    if arguments.dry_run {
        if printer.is_json() {
            printer.json("restore-plan", &plan)?;
        } else {
            printer.line(&describe(&plan))?;
        }
        return Ok(Exit::Done);
    }
    printer.note(&describe(&plan));
    if !context.global.yes && crate::cli::ask::can_ask(&context.global) {
        confirm(&context.global, printer, &format!("restore into {}?", plan.directory.display()))?;
    }
    let planned_warnings = !plan.warnings.is_empty();
    let report = carry_out(plan, cluster.restore.workers, printer).await?;
    let exit = if planned_warnings || !report.warnings.is_empty() { Exit::Warnings } else { Exit::Done };
    let what = format!("backup {} is restored into {}", report.backup, report.directory.display());
    Ok(printer.done(&what, print(&report, arguments, printer).map(|()| exit)))
}

async fn carry_out(plan: RestorePlan, workers: usize, printer: &Printer) -> Result<RestoreReport, Failure> {
    let cancel = CancellationToken::new();
    let (progress, mut watching) = watch::channel(Progress::default());
    let mut meter = Meter::new(printer, "restore");
    let work = cancelled_by_signals(cancel.clone(), restore::run(plan, workers, progress, cancel));
    tokio::pin!(work);
    let ended = loop {
        tokio::select! {
            ended = &mut work => break ended,
            Ok(()) = watching.changed() => {
                let progress = watching.borrow_and_update().clone();
                let message = match progress.phase {
                    Phase::Preparing => "preparing",
                    Phase::Restoring => "restoring",
                    Phase::Finishing => "waiting for the disk",
                    Phase::Done => "done",
                };
                meter.show(progress.bytes_done, progress.bytes_total, message, &progress);
            }
        }
    };
    meter.finish();
    ended
}

/// The request that the arguments spell.
fn request(arguments: &RestoreArguments, original: HostDirectory) -> Result<RestoreRequest, Failure> {
    let usage = |text: String| Failure::new(Exit::Usage, text);
    let target = if let Some(text) = &arguments.time {
        Target::Time(parse_time(text)?)
    } else if let Some(text) = &arguments.lsn {
        Target::Lsn(text.parse::<Lsn>().map_err(|error| usage(error.to_string()))?)
    } else if let Some(xid) = arguments.xid {
        Target::Xid(xid)
    } else if let Some(name) = &arguments.name {
        Target::Name(name.clone())
    } else if arguments.immediate {
        Target::Immediate
    } else {
        Target::Latest
    };
    if arguments.exclusive && !matches!(target, Target::Time(_) | Target::Lsn(_) | Target::Xid(_)) {
        return Err(usage("--exclusive goes with --target-time, --target-lsn or --target-xid".to_owned()));
    }
    let backup = match &arguments.backup {
        Some(text) => Some(text.parse().map_err(|error: walward_repo::manifest::LabelError| usage(error.to_string()))?),
        None => None,
    };
    Ok(RestoreRequest {
        target,
        exclusive: arguments.exclusive,
        timeline: timeline(&arguments.timeline)?,
        action: match arguments.action {
            Some(ActionChoice::Pause) => Action::Pause,
            Some(ActionChoice::Shutdown) => Action::Shutdown,
            // A standby that promoted itself at its target would be none.
            None if arguments.standby => Action::Pause,
            Some(ActionChoice::Promote) | None => Action::Promote,
        },
        standby: arguments.standby,
        refuse_seams: true,
        backup,
        tablespace_map: arguments.tablespace_map.iter().map(|text| mapping(text)).collect::<Result<_, _>>()?,
        wal_directory: arguments.wal_directory.as_deref().map(absolute).transpose()?,
        archive: match arguments.archive_mode {
            None => Archiving::ByPlace,
            Some(ArchiveModeChoice::Preserve) => Archiving::Preserve,
            Some(ArchiveModeChoice::Off) => Archiving::Off,
        },
        restore_command: String::new(),
        end_command: end_command(),
        original,
        taken: Vec::new(),
        use_partial: arguments.use_partial,
        primary_conninfo: arguments.primary_conninfo.clone(),
    })
}

/// What the configuration gives to the cluster itself, to others, to the repositories and the agent. Of `opened` it is known that their file
/// systems answer.
fn taken(config: &Config, own: &ClusterConfig, opened: &[Repository]) -> Result<Vec<Taken>, Failure> {
    let mut taken = Vec::new();
    for cluster in config.clusters.values() {
        let is_own = cluster.name == own.name;
        let by = if is_own { TakenBy::Own } else { TakenBy::Cluster(cluster.name.clone()) };
        taken.push(Taken { path: absolute(&cluster.data_directory)?, by, may_look: is_own });
    }
    for repository in config.repositories.values() {
        let Some(folder) = repository.store.folder() else { continue };
        let may_look = opened.iter().any(|opened| opened.name() == repository.name);
        taken.push(Taken { path: absolute(&folder)?, by: TakenBy::Repository(repository.name.clone()), may_look });
    }
    taken.push(Taken { path: absolute(&config.agent.spool_directory)?, by: TakenBy::Spool, may_look: true });
    Ok(taken)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", path.display())))
}

fn timeline(text: &str) -> Result<TargetTimeline, Failure> {
    match text {
        "latest" => Ok(TargetTimeline::Latest),
        "current" => Ok(TargetTimeline::Current),
        number => match number.parse() {
            Ok(number) if number > 0 => Ok(TargetTimeline::Number(Timeline(number))),
            _ => {
                let text = format!("{number:?} is not a timeline; say latest, current or a number (decimal)");
                Err(Failure::new(Exit::Usage, text))
            }
        },
    }
}

/// `OLD=NEW`: by oid (digits), by location (a path), else by name.
fn mapping(text: &str) -> Result<(TablespaceSelector, PathBuf), Failure> {
    let usage = |why: &str| {
        Failure::new(Exit::Usage, format!("--tablespace-map {text:?}: {why}"))
            .hint("write OLD=NEW, where OLD is an oid, a name or the old location, and NEW an absolute path")
    };
    let (old, new) = text.split_once('=').ok_or_else(|| usage("there is no \"=\""))?;
    let old = old.strip_prefix("oid:").unwrap_or(old);
    if old.is_empty() {
        return Err(usage("there is nothing before \"=\""));
    }
    let new = PathBuf::from(new);
    if !new.is_absolute() {
        return Err(usage("the new place is not an absolute path"));
    }
    let selector = match old.parse() {
        Ok(oid) => TablespaceSelector::Oid(oid),
        Err(_) if Path::new(old).is_absolute() => TablespaceSelector::Location(PathBuf::from(old)),
        Err(_) => TablespaceSelector::Name(old.to_owned()),
    };
    Ok((selector, new))
}

/// What is wrong with a copy that archives and that no agent knows: its archive_command would fail, and pg_wal fill the disk.
async fn without_agent(context: &Context, arguments: &RestoreArguments, plan: &RestorePlan) -> Option<String> {
    let asked = arguments.archive_mode == Some(ArchiveModeChoice::Preserve);
    // Where a file system does not answer, the warning is the safe side.
    let is_known = asked && matches!(context.whose(&plan.directory).await, Ok(Some(_)));
    (asked && !is_known).then(|| {
        format!(
            "no cluster of the configuration has the data directory {}: unless it is moved to one that is, or gets a [cluster.NAME] and a \
             repository of its own, its archive_command fails and pg_wal grows",
            plan.directory.display()
        )
    })
}

/// What PostgreSQL shall run: the client of this installation, told which agent and which cluster.
fn restore_command(context: &Context, cluster: &str, arguments: &RestoreArguments, target: &Target) -> String {
    if let Some(command) = &arguments.restore_command {
        return command.clone();
    }
    let socket = context.socket();
    let socket = if socket == Path::new(DEFAULT_SOCKET) {
        String::new()
    } else {
        format!(" --socket {}", quote(&socket.to_string_lossy()))
    };
    // The client sees by itself whether a standby asks. A recovery with a target may end only there ("recovery ended before configured
    // recovery target was reached", xlogrecovery.c), and must not be stopped by a hole after its target, which the server meets
    // when it reads ahead (since 15).
    let on_error = if arguments.standby || *target == Target::Latest { "" } else { " --on-error=target" };
    let partial = if arguments.use_partial { " --use-partial" } else { "" };
    format!("{}{socket} --cluster {cluster} fetch{on_error}{partial} %f %p", quote(&client_program().to_string_lossy()))
}

/// What the server shall run once the recovery has ended. An exit code above 125 would stop it there
/// (`ExecuteRecoveryCommand`, xlogarchive.c): a program that is not found exits with 127.
fn end_command() -> String {
    format!("{} wal recovered || exit 1", quote(&own_program().to_string_lossy()))
}

fn describe(plan: &RestorePlan) -> String {
    let mut lines =
        vec![format!("backup        {} ({})", plan.backup, plan.reason), format!("target        {}", plan.target)];
    if let Some((parent, more)) = plan.builds_on.split_first() {
        let more = if more.is_empty() { String::new() } else { format!(", and {} before it", more.len()) };
        lines.push(format!("builds on     {parent}{more}"));
    }
    if let Some(until) = &plan.quiet_until {
        lines.push(format!(
            "              no transaction ended between the target and {until}: recovery stops at a record of then"
        ));
    }
    let timelines: Vec<String> = plan.timelines.iter().map(ToString::to_string).collect();
    lines.push(format!("timeline      {}", timelines.join(" -> ")));
    if let Some(wal) = &plan.wal {
        lines.push(format!("WAL           {} to {} ({} segments)", wal.first, wal.last, wal.count));
    }
    let places: Vec<String> =
        plan.repositories.iter().zip(&plan.urls).map(|(name, url)| format!("{name} ({url})")).collect();
    lines.push(format!("from          {}", places.join(", ")));
    let resumes = if plan.resumes { " (goes on with an unfinished restore)" } else { "" };
    lines.push(format!("into          {}{resumes}", plan.directory.display()));
    for tablespace in &plan.tablespaces {
        lines.push(format!("tablespace    {} into {}", tablespace.name, tablespace.to.display()));
    }
    if let Some(to) = &plan.wal_directory {
        lines.push(format!("pg_wal        into {}", to.display()));
    }
    if !plan.archives {
        lines.push("archiving     off (archive_mode = off): --archive-mode preserve keeps it on".to_owned());
    }
    if plan.until_reset.contains(&"max_logical_replication_workers") {
        lines.push(
            "subscriptions not followed (max_logical_replication_workers = 0), so that the original gets their changes"
                .to_owned(),
        );
    }
    lines.extend(plan.configuration.iter().map(|note| format!("setting       {}", noted(note))));
    lines.extend(plan.unexamined.iter().map(|text| format!("not examined  {text}")));
    lines.push(format!(
        "to do         fetch {}, write {} files, {}",
        format_bytes(plan.download_bytes),
        plan.files,
        format_bytes(plan.write_bytes)
    ));
    for space in &plan.space {
        lines.push(format!(
            "space         {} needed and {} free on the file system of {}",
            format_bytes(space.needed_bytes),
            format_bytes(space.free_bytes),
            space.path.display()
        ));
    }
    lines.join("\n")
}

fn noted(note: &Note) -> String {
    let Note { file, name, value, fate, why } = note;
    format!("{file}: {name} = '{value}' is {}: {why}", fate.words())
}

fn print(report: &RestoreReport, arguments: &RestoreArguments, printer: &Printer) -> Result<(), Failure> {
    for warning in &report.warnings {
        printer.warning(warning);
    }
    if printer.is_json() {
        printer.json_line("restore", json!({ "event": "result", "restore": report }))?;
        return Ok(());
    }
    let seconds = std::time::Duration::try_from_secs_f64(report.seconds).unwrap_or_default();
    printer.line(&format!(
        "{} backup {} into {}: {} files, {} in {}",
        printer.tone("restored", Tone::Good),
        report.backup,
        report.directory.display(),
        report.files,
        format_bytes(report.bytes),
        format_duration(seconds)
    ))?;
    if report.packs_reused > 0 {
        printer.line(&format!("{} pack(s) were there from an earlier run", report.packs_reused))?;
    }
    for note in report.configuration.iter().filter(|note| note.fate != Fate::Kept) {
        printer.note(&noted(note));
    }
    if !report.until_reset.is_empty() {
        let names = report.until_reset.join(", ");
        printer.note(&format!("set until you say otherwise, by ALTER SYSTEM RESET of each and a restart: {names}"));
    }
    printer.note(if arguments.standby {
        "start PostgreSQL: it follows the archive as a standby"
    } else {
        "start PostgreSQL: it fetches its WAL through the agent and recovers to the target"
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::{Arguments, Command};
    use clap::Parser;

    fn parse(line: &[&str]) -> Result<RestoreRequest, Failure> {
        let words = ["walward", "restore"].into_iter().chain(line.iter().copied());
        let Command::Restore(arguments) = Arguments::try_parse_from(words)?.command else { panic!("no restore") };
        request(&arguments, HostDirectory { directory: "/data".into(), host: "db1".to_owned(), machine: None })
    }

    #[test]
    fn targets_are_read_as_typed() {
        assert_eq!(parse(&[]).unwrap().target, Target::Latest);
        assert_eq!(parse(&["--target-immediate"]).unwrap().target, Target::Immediate);
        assert_eq!(parse(&["--target-lsn", "16/B374D848"]).unwrap().target, Target::Lsn(Lsn(0x16_B374_D848)));
        assert_eq!(parse(&["--name", "before"]).unwrap().target, Target::Name("before".into()));
        assert!(matches!(parse(&["--time", "2026-11-21 14:03:00+00"]).unwrap().target, Target::Time(_)));
        assert_eq!(parse(&["--timeline", "3"]).unwrap().timeline, TargetTimeline::Number(Timeline(3)));
    }

    #[test]
    fn what_cannot_be_meant_is_usage() {
        for line in [
            &["--target-time", "2026-11-21 14:03:00"][..],
            &["--target-time", "yesterday"],
            &["--target-lsn", "x"],
            &["--timeline", "0"],
            &["--backup", "x"],
            &["--exclusive"],
            &["--tablespace-map", "x"],
            &["--tablespace-map", "x=relative"],
        ] {
            assert_eq!(parse(line).unwrap_err().exit, Exit::Usage, "{line:?}");
        }
        let zone = parse(&["--target-time", "2026-11-21 14:03:00"]).unwrap_err().message();
        assert!(zone.contains("time zone") && zone.contains("2026-11-21 14:03:00+00"), "{zone}");
        assert!(Arguments::try_parse_from(["walward", "restore", "--target-xid", "1", "--target-immediate"]).is_err());
    }

    #[test]
    fn tablespaces_are_named_in_three_ways() {
        let selector = |text| mapping(text).unwrap().0;
        assert_eq!(selector("16385=/new"), TablespaceSelector::Oid(16385));
        assert_eq!(selector("oid:16385=/new"), TablespaceSelector::Oid(16385));
        assert_eq!(selector("fast=/new"), TablespaceSelector::Name("fast".into()));
        assert_eq!(selector("/old=/new"), TablespaceSelector::Location("/old".into()));
    }
}
