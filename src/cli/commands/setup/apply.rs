//! Carries a plan out on the server. Every step stands by itself; what fails is left for a person, with the reason.

use std::time::{Duration, Instant};

use super::login;
use super::plan::{Plan, Step};
use super::server::{Seen, Server};
use crate::base::describe;
use crate::cli::owner::Owner;
use crate::cli::printer::Printer;
use crate::config::ClusterConfig;
use crate::pg::session::Session;

/// How long a reload may take until the settings are seen.
const RELOAD_DEADLINE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The role, its database and its user of the operating system.
pub(super) struct Role<'a> {
    pub(super) name: &'a str,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
    pub(super) uid: Option<u32>,
    pub(super) owner: Owner,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) done: Vec<Step>,
    /// With the reason why not.
    pub(super) left: Vec<(Step, String)>,
}

/// Whether the session may do a step.
pub(super) fn is_allowed(seen: &Seen, step: &Step) -> bool {
    match step {
        Step::Grant { .. } | Step::Login { .. } => seen.rights.grants,
        Step::Set { .. } => seen.rights.settings,
    }
}

pub(super) async fn apply(
    server: &Server,
    cluster: &ClusterConfig,
    plan: &Plan,
    role: &Role<'_>,
    printer: &Printer,
) -> Applied {
    let mut applied = Applied::default();
    let mut reload = false;
    let mut changes = Vec::new();
    for step in &plan.steps {
        let outcome = if is_allowed(&server.seen, step) {
            one(server, step, role, &mut changes).await
        } else {
            Err("it needs a superuser".to_owned())
        };
        match outcome {
            Ok(()) => {
                printer.note(&format!("done: {}", step.describe()));
                reload |= !matches!(step, Step::Grant { .. });
                applied.done.push(step.clone());
            }
            Err(why) => applied.left.push((step.clone(), why)),
        }
    }
    if reload {
        read_again(server, printer).await;
    }
    confirm(server, cluster, role, &mut applied).await;
    let is_login = |step: &Step| matches!(step, Step::Login { .. });
    if !changes.is_empty() && !applied.done.iter().any(is_login) {
        // What does not help does not stay.
        match tokio::task::block_in_place(|| login::restore(role.owner, changes)) {
            Ok(()) => printer.note("pg_hba.conf and pg_ident.conf are as they were: the new lines did not help"),
            Err(failure) => printer.warning(&format!("a line that does not help stays: {}", failure.message())),
        }
        read_again(server, printer).await;
    }
    applied
}

async fn read_again(server: &Server, printer: &Printer) {
    if let Err(error) = server.session.execute("SELECT pg_catalog.pg_reload_conf()").await {
        printer.warning(&format!("the server was not told to read its configuration again: {}", describe(&error)));
    }
}

async fn one(server: &Server, step: &Step, role: &Role<'_>, changes: &mut Vec<login::Change>) -> Result<(), String> {
    if let Some(statement) = step.statement() {
        return server.session.execute(&statement).await.map_err(|error| describe(&error));
    }
    let (hba, ident) = server.session.login_files().await.map_err(|error| describe(&error))?;
    if ![role.name, role.database, role.user].into_iter().all(login::is_plain) {
        return Err("the names need quotes in pg_hba.conf: write the lines by hand".to_owned());
    }
    let lines = login::Lines {
        hba: (hba.into(), login::hba_line(role.name, role.database)),
        ident: (ident.into(), login::ident_line(role.user, role.name)),
    };
    let added = tokio::task::block_in_place(|| login::add(role.owner, lines));
    changes.extend(added.map_err(|failure| failure.message())?);
    Ok(())
}

/// What was done and does not hold is moved to what is left: a setting that a command line overrules, say.
async fn confirm(server: &Server, cluster: &ClusterConfig, role: &Role<'_>, applied: &mut Applied) {
    let began = Instant::now();
    loop {
        let mut wrong = Vec::new();
        let settings = server.session.archive_settings().await.unwrap_or_default();
        for step in &applied.done {
            match step {
                Step::Set { name, value, restart: false, .. } => {
                    let found = settings.get(*name);
                    if found.is_some_and(|found| found.value != *value) {
                        let source = found.map_or("", |found| found.source.as_str());
                        wrong.push((step.clone(), format!("it is set elsewhere, too ({source}), and that counts")));
                    }
                }
                Step::Login { .. } => {
                    let login = Session::connect_as(&cluster.connection, role.uid, CONNECT_DEADLINE).await;
                    if let Err(error) = login {
                        wrong.push((step.clone(), describe(&error)));
                    }
                }
                Step::Grant { .. } | Step::Set { .. } => {}
            }
        }
        if wrong.is_empty() || began.elapsed() > RELOAD_DEADLINE {
            applied.done.retain(|step| !wrong.iter().any(|(other, _)| other == step));
            applied.left.extend(wrong);
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
