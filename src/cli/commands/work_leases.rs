//! `lease`: who is at work in the cluster's repositories, and a way to end a lease whose holder is gone.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text::{moment, table};
use crate::cli::arguments::LeaseCommand;
use crate::cli::ask::confirm;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::printer::Printer;
use crate::outcome::Exit;
use walward_base::format_duration;
use walward_base::sys;
use walward_repo::Repository;
use walward_repo::lease::{self, Holder, LeaseError, LeaseState, Seen, Work};

pub(in crate::cli) async fn run(context: &Context, command: LeaseCommand, printer: &Printer) -> Result<Exit, Failure> {
    let repositories = context.open_all(context.cluster()?).await?;
    let mut leases = Vec::new();
    for repository in &repositories {
        for work in Work::ALL {
            leases.extend(lease::look(repository, work).await?.into_iter().map(|seen| (repository, seen)));
        }
    }
    match command {
        LeaseCommand::List => list(&leases, printer),
        LeaseCommand::Break => break_them(context, &leases, printer).await,
    }
}

fn list(leases: &[(&Repository, Seen)], printer: &Printer) -> Result<Exit, Failure> {
    if printer.is_json() {
        let leases: Vec<_> = leases.iter().map(|(repository, seen)| described(repository, seen)).collect();
        printer.json("lease-list", json!({ "leases": leases }))?;
        return Ok(Exit::Done);
    }
    if leases.is_empty() {
        printer.line("no lease was ever taken")?;
        return Ok(Exit::Done);
    }
    let rows = leases.iter().map(|(repository, seen)| {
        let work = seen.work.as_str().to_owned();
        vec![repository.name().to_owned(), work, words(seen.standing), moment(seen.written), seen.holder.clone()]
    });
    printer.raw(table(&["repository", "work", "lease", "written", "holder"], rows).as_bytes())?;
    Ok(Exit::Done)
}

async fn break_them(context: &Context, leases: &[(&Repository, Seen)], printer: &Printer) -> Result<Exit, Failure> {
    let mut broken = Vec::new();
    for (repository, seen) in leases.iter().filter(|(_, seen)| seen.standing != LeaseState::Released) {
        let question = format!(
            "take the lease on {} in repository \"{}\" away from {} ({})? If it still works, two are at work until it notices",
            seen.work.as_str(),
            repository.name(),
            seen.holder,
            words(seen.standing)
        );
        confirm(&context.global, printer, &question)?;
        let by = Holder::this(&sys::host::name());
        let by = Holder { name: format!("walward lease break on {}", by.name), ..by };
        let done = lease::break_it(repository, seen, &by, Timestamp::now()).await;
        let done = done.map_err(|error| match error {
            LeaseError::Repo(error) => Failure::from(error),
            other => Failure::new(Exit::Locked, other),
        });
        if done? {
            broken.push((*repository, seen));
        }
    }
    if printer.is_json() {
        let broken: Vec<_> = broken.iter().map(|(repository, seen)| described(repository, seen)).collect();
        printer.json("lease-break", json!({ "broken": broken }))?;
        return Ok(Exit::Done);
    }
    for (repository, seen) in &broken {
        let work = seen.work.as_str();
        printer.line(&format!("the lease on {work} in repository \"{}\" is free", repository.name()))?;
    }
    if broken.is_empty() {
        printer.line("no lease is held")?;
    }
    Ok(Exit::Done)
}

fn words(standing: LeaseState) -> String {
    match standing {
        LeaseState::Held(left) => format!("held, {} left unless it is renewed", format_duration(left)),
        LeaseState::Released => "free".to_owned(),
        LeaseState::RanOut => "ran out".to_owned(),
        LeaseState::HolderGone => "its process has ended".to_owned(),
    }
}

/// A lease as JSON.
fn described(repository: &Repository, seen: &Seen) -> Value {
    let (state, left) = match seen.standing {
        LeaseState::Held(left) => ("held", Some(left.as_secs())),
        LeaseState::Released => ("released", None),
        LeaseState::RanOut => ("ran_out", None),
        LeaseState::HolderGone => ("holder_gone", None),
    };
    json!({
        "repository": repository.name(),
        "work": seen.work,
        "state": state,
        "holder": seen.holder,
        "written": seen.written,
        "seconds_left": left,
    })
}
