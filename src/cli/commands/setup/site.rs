//! One cluster: repositories and keys, then the server, then proof, then what is left.

use serde_json::{Value, json};

use super::apply::{self, Role};
use super::instructions::{self, Instructions};
use super::server::{self, Looked, Server};
use super::{folders, initialise, proof, undo};
use crate::cli::arguments::SetupArguments;
use crate::cli::ask::{ask, can_ask, confirm};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::owner::Owner;
use crate::cli::printer::Printer;
use crate::config::{ClusterConfig, DEFAULT_PATH, redact_connection};
use crate::outcome::Exit;
use crate::setup::{Agent, Applied, Left, Plan, SetupState, Takeover, Wish, left, plan};
use walward_base::sys::identity::is_root;
use walward_pg::archiving::{Archives, Tool, archives};
use walward_pg::shell::word;
use walward_repo::Repository;

/// How setup ended for one cluster.
pub(super) struct Outcome {
    pub(super) json: Value,
    pub(super) changed: bool,
    /// Whether all that was asked for was done.
    pub(super) exit: Exit,
    lines: Instructions,
    /// Whether there was a server to look at.
    seen: bool,
    /// Whether another tool goes on archiving: its command is not to be overwritten by hand either.
    kept: bool,
    /// What would be changed, where it was not asked for.
    proposed: Vec<String>,
    notes: Vec<String>,
    left: Vec<Left>,
}

pub(super) async fn cluster(
    context: &Context,
    cluster: &ClusterConfig,
    found: Looked,
    arguments: &SetupArguments,
    printer: &Printer,
) -> Result<Outcome, Failure> {
    let prepared = if arguments.dry_run {
        initialise::look(context, cluster, printer).await?
    } else {
        initialise::cluster(context, cluster, printer).await?
    };
    let lines = instructions::of(context, cluster);
    let repositories =
        if prepared.iter().any(|prepared| prepared.missing) { Vec::new() } else { context.open_all(cluster).await? };
    let has_backup = proof::has_backup(&repositories).await?;
    let (uid, user) = server::owner(cluster);
    let role = Role {
        name: &lines.role,
        database: &lines.database,
        user: &user,
        uid,
        owner: Owner::of(&cluster.data_directory),
    };

    let ground = Ground { lines: &lines, repositories: &repositories, role: &role, has_backup };
    let Served { decided, applied, arrived, agent, has_wal } =
        serve(context, cluster, &found, arguments, &ground, printer).await?;
    let warns =
        decided.as_ref().is_some_and(|(_, go)| *go && (!applied.left.is_empty() || matches!(arrived, Some(Err(_)))))
            || (found.is_err() && arguments.apply);
    let exit = match (&applied.undone, warns) {
        (Some(_), _) => Exit::Failed,
        (None, true) => Exit::Warnings,
        (None, false) => Exit::Done,
    };
    let unmade = if agent == Agent::Away { folders::make(context, role.owner, arguments.dry_run) } else { Vec::new() };
    let standing = SetupState {
        as_agent: as_agent(uid, &user, &walward(context, cluster)),
        walward: walward(context, cluster),
        config: &context.global.config,
        data_directory: &cluster.data_directory,
        admin: arguments
            .admin_connection
            .as_deref()
            .map(redact_connection)
            .or_else(|| server::admin_connection(cluster, &user)),
        agent,
        user: &user,
        unmade,
        new_keys: prepared.iter().filter_map(|prepared| prepared.new_key.clone()).collect(),
        server: decided.as_ref().map(|(plan, _)| (plan, applied.left.clone())),
        in_recovery: found.as_ref().is_ok_and(|server| server.seen.in_recovery),
        undone: applied.undone.as_ref(),
        arrived: arrived.as_ref().map(|arrived| arrived.as_ref().map(|_| ()).map_err(Clone::clone)),
        has_wal,
        has_backup,
    };
    let left = left(&standing);
    let proposed = applied.left.iter().map(|(step, _)| step.describe()).collect();
    let changed = prepared.iter().any(|prepared| prepared.changed) || !applied.done.is_empty();
    let mut notes = decided.as_ref().map_or_else(Vec::new, |(plan, _)| plan.notes.clone());
    if let Err(why) = &found {
        notes.push(format!("the server of cluster \"{}\" was not asked: {why}", cluster.name));
    }
    let json = json!({
        "cluster": cluster.name,
        "data_directory": cluster.data_directory,
        "repositories": prepared,
        "postgresql_conf": lines.settings,
        "sql": lines.statements,
        "server": found.as_ref().ok().map(|server| json!({
            "version": server.facts.server_version,
            "standby": server.seen.in_recovery,
        })),
        "archives": decided.as_ref().map(|(plan, _)| words(plan.archives)),
        "agent": agent,
        "steps": decided.as_ref().map(|(plan, _)| &plan.steps),
        "done": applied.done,
        "undone": applied.undone,
        "restart": decided.as_ref().map(|(plan, _)| &plan.restart),
        "first_segment": arrived.as_ref().and_then(|arrived| arrived.as_ref().ok()),
        "notes": notes,
        "left": left,
    });
    let kept = decided.as_ref().is_some_and(|(plan, _)| plan.kept().is_some());
    Ok(Outcome { json, changed, exit, seen: found.is_ok(), kept, lines, proposed, notes, left })
}

/// What setup works on beside the server.
struct Ground<'a> {
    lines: &'a Instructions,
    repositories: &'a [Repository],
    role: &'a Role<'a>,
    has_backup: bool,
}

/// What became of the server.
struct Served {
    /// What was to be done, and whether it was.
    decided: Option<(Plan, bool)>,
    applied: Applied,
    /// The first segment that came through, or why none did.
    arrived: Option<Result<proof::Arrival, String>>,
    agent: Agent,
    has_wal: bool,
}

/// Decides what the server needs, does it where that is wanted, and takes it back where no segment comes through.
async fn serve(
    context: &Context,
    cluster: &ClusterConfig,
    found: &Looked,
    arguments: &SetupArguments,
    ground: &Ground<'_>,
    printer: &Printer,
) -> Result<Served, Failure> {
    let (mut applied, mut decided, mut arrived) = (Applied::default(), None, None);
    let mut agent = proof::agent(context, cluster, false, printer).await;
    let mut has_wal = false;
    if let Ok(server) = found {
        let mut plan = decide(context, server, arguments, ground.lines, printer)?;
        has_wal = proof::has_wal(ground.repositories, server.facts.lineage()).await?;
        let go = !arguments.dry_run && wants(context, cluster, arguments, (server, &plan, agent), printer)?;
        if go {
            agent = proof::agent(context, cluster, true, printer).await;
            guard(context, server, &plan, (agent, ground.has_backup), printer)?;
            applied = apply::apply(server, cluster, &plan, ground.role, printer).await;
            arrived = prove(server, &plan, &applied, ground.repositories, (agent, has_wal), arguments, printer).await;
            has_wal |= matches!(arrived, Some(Ok(_)));
            if let (Some(Err(why)), true) = (&arrived, takes_over(server, &plan)) {
                let because = format!("no segment came through: {why}");
                undo::undo(server, &mut applied, &because, printer).await;
            }
            if applied.undone.is_some() {
                plan.archives = before(server);
            }
        } else {
            applied.left = plan.steps.iter().map(|step| (step.clone(), String::new())).collect();
        }
        decided = Some((plan, go));
    }
    Ok(Served { decided, applied, arrived, agent, has_wal })
}

/// For programs: who gets the segments.
fn words(archives: Archives) -> Value {
    let (who, tool): (&str, Option<Tool>) = match archives {
        Archives::Nobody => ("nobody", None),
        Archives::Walward => ("walward", None),
        Archives::Lossy => ("lossy", None),
        Archives::Both(tool) => ("both", Some(tool)),
        Archives::Other(tool) => ("other", Some(tool)),
        Archives::Library => ("library", None),
    };
    json!({ "who": who, "tool": tool })
}

/// The plan, when the person at the terminal has said what becomes of another tool.
fn decide(
    context: &Context,
    server: &Server,
    arguments: &SetupArguments,
    lines: &Instructions,
    printer: &Printer,
) -> Result<Plan, Failure> {
    let wish = |other| Wish {
        archive_command: lines.archive_command.clone(),
        restore_command: lines.restore_command.clone(),
        other,
    };
    let refused = |text: String| Failure::new(Exit::Refused, text);
    let chosen = arguments.archive_command.map(Takeover::from);
    let made = plan(&server.seen, &wish(chosen.unwrap_or(Takeover::Keep))).map_err(refused)?;
    let (Some(tool), None, true, false) = (made.kept(), chosen, can_ask(&context.global), arguments.dry_run) else {
        return Ok(made);
    };
    printer.note(&format!(
        "{} archives this server: {}",
        if tool == Tool::Unknown { "another tool" } else { tool.name() },
        server.seen.setting("archive_command")
    ));
    printer.note("keep: nothing is changed; beside: every segment goes to both; replace: Walward takes its place (docs/moving-over.md)");
    let other = match ask(printer, "keep, beside or replace?", Some("keep"))?.as_str() {
        "keep" => return Ok(made),
        "beside" => Takeover::Beside,
        "replace" => Takeover::Replace,
        answer => return Err(Failure::new(Exit::Usage, format!("{answer:?} is none of keep, beside, replace"))),
    };
    plan(&server.seen, &wish(other)).map_err(refused)
}

/// Whether the server may be changed.
fn wants(
    context: &Context,
    cluster: &ClusterConfig,
    arguments: &SetupArguments,
    (server, plan, agent): (&Server, &Plan, Agent),
    printer: &Printer,
) -> Result<bool, Failure> {
    if arguments.apply {
        return Ok(true);
    }
    if !can_ask(&context.global) || plan.steps.is_empty() {
        return Ok(false);
    }
    let say = without_agent(agent, plan.touches_archiving(), takes_over(server, plan))?;
    printer.note(&format!("On the server of cluster \"{}\":", cluster.name));
    for step in &plan.steps {
        printer.note(&format!("  {}", step.describe()));
    }
    if let Some(text) = say {
        printer.note(text);
    }
    let answer = ask(printer, "Shall this be done? [y/N]", None)?;
    Ok(["y", "yes"].contains(&answer.to_lowercase().as_str()))
}

/// Who gets the segments as the server was found.
fn before(server: &Server) -> Archives {
    archives(server.seen.setting("archive_command"), server.seen.setting("archive_library"))
}

/// Whether the plan touches what another tool gets.
fn takes_over(server: &Server, plan: &Plan) -> bool {
    matches!(before(server), Archives::Other(_) | Archives::Both(_) | Archives::Library) && plan.touches_archiving()
}

fn needs_agent() -> Failure {
    let text = "the agent does not serve this cluster yet, so that nothing would be archived, by the other tool either";
    Failure::new(Exit::Refused, text)
        .hint("start the agent first, then run this again; nothing on the server was changed")
}

/// What is to be known of an agent that is away before anybody is asked; an error when no answer would help. One that only has to
/// read its configuration is told to when the answer is yes.
fn without_agent(agent: Agent, touches_archiving: bool, takes_over: bool) -> Result<Option<&'static str>, Failure> {
    match agent {
        Agent::Away if takes_over => Err(needs_agent()),
        Agent::Away if touches_archiving => {
            Ok(Some("  The agent does not run yet: until it does, nothing is archived, and WAL stays in pg_wal."))
        }
        _ => Ok(None),
    }
}

/// What must hold before another tool's WAL is touched.
fn guard(
    context: &Context,
    server: &Server,
    plan: &Plan,
    (agent, has_backup): (Agent, bool),
    printer: &Printer,
) -> Result<(), Failure> {
    if !takes_over(server, plan) {
        return Ok(());
    }
    if agent != Agent::Serves {
        return Err(needs_agent());
    }
    if plan.archives == Archives::Walward && !has_backup {
        let question = "there is no finished backup of Walward's yet: until there is one, no tool by itself can restore to a moment after now. Take the other tool's place nevertheless?";
        confirm(&context.global, printer, question).map_err(|failure| {
            let text = "there is no finished backup of Walward's yet: until there is one, no tool by itself could restore to a moment after now";
            match failure.exit {
                Exit::Refused => Failure::new(Exit::Refused, text).hint(
                    "archive with both first (--archive-command beside), take a backup, then run this again; --yes does it nevertheless",
                ),
                _ => failure,
            }
        })?;
    }
    Ok(())
}

/// Sees a segment arrive, where something was changed or nothing ever arrived, and where it can.
async fn prove(
    server: &Server,
    plan: &Plan,
    applied: &Applied,
    repositories: &[Repository],
    (agent, has_wal): (Agent, bool),
    arguments: &SetupArguments,
    printer: &Printer,
) -> Option<Result<proof::Arrival, String>> {
    let ours = matches!(plan.archives, Archives::Walward | Archives::Both(_));
    let complete = applied.left.is_empty() && plan.restart.is_empty();
    let archives = ours && complete && agent == Agent::Serves && !server.seen.in_recovery;
    if !archives || (has_wal && applied.done.is_empty()) {
        return None;
    }
    let arrived = proof::first_segment(server, repositories, arguments.wait, printer).await;
    match &arrived {
        Ok(_) => printer.note("done: it is in every repository; archiving works"),
        Err(why) => printer.warning(&format!("no segment came through: {why}")),
    }
    Some(arrived)
}

/// `walward`, with what it needs to find this cluster.
fn walward(context: &Context, cluster: &ClusterConfig) -> String {
    let mut text = "walward".to_owned();
    if context.global.config != std::path::Path::new(DEFAULT_PATH) {
        text.push_str(" --config ");
        text.push_str(&word(&context.global.config.to_string_lossy()));
    }
    if context.loaded.config.clusters.len() > 1 {
        text.push_str(" --cluster ");
        text.push_str(&cluster.name);
    }
    text
}

/// A command for the agent's user. Root is nobody to the server, where the kernel says who is who.
fn as_agent(uid: Option<u32>, user: &str, command: &str) -> String {
    match uid {
        Some(uid) if uid != 0 && is_root() => format!("sudo -u {} {command}", word(user)),
        _ => command.to_owned(),
    }
}

/// For people: on standard output the lines that a server still needs, for whoever puts them where they belong; what stays as it
/// is and what is left on standard error.
pub(super) fn print(cluster: &ClusterConfig, outcome: &Outcome, printer: &Printer) -> Result<(), Failure> {
    if !outcome.seen || !outcome.proposed.is_empty() {
        instructions::print(cluster, &outcome.lines, !outcome.kept, printer)?;
    }
    for line in &outcome.proposed {
        printer.note(&format!("not done on the server of cluster \"{}\": {line}", cluster.name));
    }
    for note in &outcome.notes {
        printer.note(note);
    }
    if outcome.left.is_empty() {
        printer.note(&format!("cluster \"{}\": nothing is left to do", cluster.name));
        return Ok(());
    }
    printer.note(&format!("Left to do for cluster \"{}\":", cluster.name));
    for (number, left) in (1..).zip(&outcome.left) {
        printer.note(&format!("{number:>3}. {}", left.what));
        for command in &left.commands {
            printer.note(&format!("         {command}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_for_what_needs_the_agent_before_that_is_said() {
        assert_eq!(without_agent(Agent::Away, true, true).unwrap_err().exit, Exit::Refused);
        assert!(without_agent(Agent::Away, true, false).unwrap().is_some());
        assert!(without_agent(Agent::Away, false, false).unwrap().is_none());
        for agent in [Agent::Serves, Agent::Unaware] {
            assert!(without_agent(agent, true, true).unwrap().is_none());
        }
    }

    #[test]
    fn root_is_told_how_to_be_the_agents_user() {
        let told = as_agent(Some(12_345), "my user", "walward backup");
        assert_eq!(told, if is_root() { "sudo -u 'my user' walward backup" } else { "walward backup" });
        assert_eq!(as_agent(Some(0), "root", "walward backup"), "walward backup");
        assert_eq!(as_agent(None, "postgres", "walward backup"), "walward backup");
    }
}
