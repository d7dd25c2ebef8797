//! `wal set-aside`, `list-aside` and `restore-aside`: the way out where two lives of a cluster met under one name.

mod away;
mod back;
mod list;

pub(in crate::cli) use away::run as set_aside;
pub(in crate::cli) use back::run as restore_aside;
pub(in crate::cli) use list::run as list_aside;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::text::moment;
use crate::archive::Contest;
use crate::cli::agent::{self, Asked};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::printer::Printer;
use crate::config::ClusterConfig;
use crate::outcome::Exit;
use walward_base::format_bytes;
use walward_base::sys;
use walward_pg::WalFileName;
use walward_repo::aside::{self, Aside, Begun, Stage};
use walward_repo::{RepoError, Repository};

/// Who holds the leases meanwhile, for those who want them.
fn holder(verb: &str) -> String {
    format!("walward wal {verb} on {}", sys::host::name())
}

/// What was set aside in each repository. A record that cannot be read is said.
async fn known<'a>(
    repositories: &'a [Repository],
    printer: &Printer,
) -> Result<Vec<(&'a Repository, Vec<Aside>)>, RepoError> {
    let mut all = Vec::new();
    for repository in repositories {
        let (asides, damaged) = aside::all(repository).await?;
        for error in &damaged {
            printer.warning(&walward_base::describe(error));
        }
        all.push((repository, asides));
    }
    Ok(all)
}

/// Asks this host's agent how `from` stands; none where no agent runs. `done`: it lets go of what it remembers of the archive.
fn ask_agent(
    context: &Context,
    cluster: &ClusterConfig,
    from: WalFileName,
    done: bool,
) -> Result<Option<Contest>, Failure> {
    let request = json!({ "op": "set_aside", "cluster": cluster.name, "from": from, "done": done });
    let asked = tokio::task::block_in_place(|| agent::ask(&context.socket(), &request, |_| Ok(())))?;
    Ok(match asked {
        Asked::NoAgent(_) => None,
        Asked::Answered(answer) => Some(serde_json::from_value(answer.json).context("cannot read the agent's answer")?),
    })
}

/// Tells the agent that the archive was changed by hand. What it remembers otherwise only makes it refuse longer.
fn tell_agent(context: &Context, cluster: &ClusterConfig, from: WalFileName, printer: &Printer) -> Exit {
    match ask_agent(context, cluster, from, true) {
        Ok(_) => Exit::Done,
        Err(failure) => {
            let why = failure.message();
            printer.warning(&format!("the agent was not told, and may refuse the file until it is restarted: {why}"));
            Exit::Warnings
        }
    }
}

fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::Cut => "cut: run `walward wal set-aside` with the same file again",
        Stage::Aside => "set aside",
        Stage::Returning => "cut on its way back: run `walward wal restore-aside` again",
        Stage::Returned => "put back",
    }
}

/// What was set aside, in one line.
fn sentence(begun: &Begun) -> String {
    let backups = match &begun.backups[..] {
        [] => String::new(),
        all => format!(", with backup {}", all.join(", ")),
    };
    let user = begun.user.as_ref().map(|user| format!("{user} on ")).unwrap_or_default();
    format!(
        "{} of {} from {} on{backups}: {} object(s), {}, by {user}{} at {}",
        begun.id,
        begun.lineage,
        begun.from,
        begun.objects,
        format_bytes(begun.bytes),
        begun.host,
        moment(begun.begun)
    )
}

/// One that was set aside, as JSON.
fn as_json(repository: &Repository, begun: &Begun, stage: Stage) -> Value {
    json!({
        "repository": repository.name(),
        "id": begun.id,
        "state": stage,
        "lineage": begun.lineage,
        "from": begun.from,
        "begun": begun.begun,
        "host": begun.host,
        "user": begun.user,
        "reason": begun.reason,
        "objects": begun.objects,
        "stored_bytes": begun.bytes,
        "backups": begun.backups,
    })
}
