//! Carries a plan out on the server. What fails is left for a person, with the reason. Most steps stand by themselves; those that say
//! who archives hold together or not at all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::login;
use super::server::Server;
use super::undo::undo;
use crate::cli::owner::Owner;
use crate::cli::printer::Printer;
use crate::config::ClusterConfig;
use crate::setup::{Applied, Plan, Seen, Step, is_archiving};
use walward_base::describe;
use walward_pg::session::{Session, Setting};

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
    let mut stopped = None;
    for step in &plan.steps {
        if let Some(why) = &stopped {
            applied.left.push((step.clone(), format!("not tried: {why}")));
            continue;
        }
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
            Err(why) => {
                // What follows it would leave the server with half of what was meant.
                if is_archiving(step) && is_allowed(&server.seen, step) {
                    stopped = Some(format!("{}: {why}", step.describe()));
                }
                applied.left.push((step.clone(), why));
            }
        }
    }
    if reload {
        read_again(server, printer).await;
    }
    if let Some(why) = stopped {
        undo(server, &mut applied, &format!("cannot set {why}"), printer).await;
    }
    let wrong = confirm(server, cluster, role, &applied.done).await;
    if let Some((step, why)) = wrong.iter().find(|(step, _)| is_archiving(step)) {
        undo(server, &mut applied, &format!("{} does not hold: {why}", step.describe()), printer).await;
    }
    applied.done.retain(|step| !wrong.iter().any(|(other, _)| other == step));
    applied.left.extend(
        wrong.into_iter().filter(|(step, _)| !applied.left.iter().any(|(other, _)| other == step)).collect::<Vec<_>>(),
    );
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

/// What was done and does not hold, with the reason: a setting that a command line overrules, say, or one that cannot be read back.
async fn confirm(server: &Server, cluster: &ClusterConfig, role: &Role<'_>, done: &[Step]) -> Vec<(Step, String)> {
    let began = Instant::now();
    loop {
        let mut wrong = Vec::new();
        let settings = server.session.archive_settings().await.map_err(|error| describe(&error));
        for step in done {
            match step {
                Step::Set { name, value, restart: false, .. } => {
                    if let Err(why) = holds(settings.as_ref(), name, value) {
                        wrong.push((step.clone(), why));
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
            return wrong;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn holds(settings: Result<&BTreeMap<String, Setting>, &String>, name: &str, value: &str) -> Result<(), String> {
    match settings.map(|settings| settings.get(name)) {
        Err(error) => Err(format!("it could not be read back: {error}")),
        Ok(None) => Err("the server does not know it".to_owned()),
        Ok(Some(found)) if found.value == value => Ok(()),
        Ok(Some(found)) => Err(format!("it is set elsewhere, too ({}), and that counts", found.source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_holds_when_it_was_read_back_and_not_before() {
        let found = Setting { value: "x".into(), source: "command line".into(), ..Setting::default() };
        let settings = BTreeMap::from([("archive_command".to_owned(), found)]);
        assert_eq!(holds(Ok(&settings), "archive_command", "x"), Ok(()));
        assert!(holds(Ok(&settings), "archive_command", "y").unwrap_err().contains("command line"));
        assert!(holds(Ok(&settings), "archive_library", "").is_err());
        assert!(holds(Err(&"gone".to_owned()), "archive_command", "x").unwrap_err().contains("gone"));
    }
}
