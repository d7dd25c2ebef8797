//! Takes a change of who archives back: a server is left with the archiver that it had or with one that was seen to work.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::server::Server;
use crate::cli::printer::Printer;
use crate::setup::{Applied, Step, Undone, is_archiving};
use walward_base::describe;
use walward_pg::session::{SessionError, alter_system_statement};

/// How long a reload may take until the settings are seen.
const RELOAD_DEADLINE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// What gives back what stood there before `done`. `altered` is what ALTER SYSTEM had set by then, when that is known: what came
/// from another place comes from there again.
fn statements(done: &[Step], altered: Option<&BTreeMap<String, String>>) -> Vec<String> {
    let back = |step: &Step| match (step, altered) {
        (Step::Set { name, was, .. }, None) => Some(alter_system_statement(name, was)),
        (Step::Set { name, .. }, Some(altered)) => Some(match altered.get(*name) {
            Some(value) => alter_system_statement(name, value),
            None => format!("ALTER SYSTEM RESET {name}"),
        }),
        _ => None,
    };
    done.iter().rev().filter(|step| is_archiving(step)).filter_map(back).collect()
}

/// Gives the server back what archived before, if anything of that was changed. The steps are not done then, but left.
pub(super) async fn undo(server: &Server, applied: &mut Applied, because: &str, printer: &Printer) {
    let statements = statements(&applied.done, server.seen.altered.as_ref());
    if statements.is_empty() {
        return;
    }
    let failed = match run(server, &statements).await {
        Ok(()) => wait(server, &applied.done).await,
        Err(error) => Some(describe(&error)),
    };
    let text = statements.join("; ");
    match &failed {
        None => printer.warning(&format!("{because}; what archived before is back: {text}")),
        Some(why) => printer.warning(&format!("{because}; what archived before is NOT back ({why}), so run: {text}")),
    }
    let (undone, done) = std::mem::take(&mut applied.done).into_iter().partition(is_archiving);
    applied.done = done;
    let undone: Vec<Step> = undone;
    applied.left.extend(undone.into_iter().map(|step| (step, because.to_owned())));
    applied.undone = Some(Undone { because: because.to_owned(), statements, failed });
}

async fn run(server: &Server, statements: &[String]) -> Result<(), SessionError> {
    for statement in statements {
        server.session.execute(statement).await?;
    }
    server.session.execute("SELECT pg_catalog.pg_reload_conf()").await
}

/// Why the server does not go by the old settings again.
async fn wait(server: &Server, done: &[Step]) -> Option<String> {
    let began = Instant::now();
    loop {
        let wrong = match server.session.archive_settings().await {
            Err(error) => Some(describe(&error)),
            Ok(settings) => done.iter().find_map(|step| match step {
                Step::Set { name, was, restart: false, .. } if is_archiving(step) => {
                    let now = settings.get(*name).map_or("", |setting| setting.value.as_str());
                    (now != was).then(|| format!("{name} is '{now}'"))
                }
                _ => None,
            }),
        };
        if wrong.is_none() || began.elapsed() > RELOAD_DEADLINE {
            return wrong;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &'static str, was: &str) -> Step {
        Step::Set { name, value: "new".into(), was: was.into(), restart: false, because: String::new() }
    }

    #[test]
    fn what_was_there_comes_back_from_where_it_came() {
        let done = [
            Step::Grant { statement: "GRANT x".into() },
            set("archive_library", "basic_archive"),
            set("archive_command", "it's"),
            set("wal_level", "minimal"),
        ];
        let altered = BTreeMap::from([("archive_command".to_owned(), "it's".to_owned())]);
        assert_eq!(
            statements(&done, Some(&altered)),
            ["ALTER SYSTEM SET archive_command = 'it''s'", "ALTER SYSTEM RESET archive_library"]
        );
        assert_eq!(
            statements(&done, None),
            ["ALTER SYSTEM SET archive_command = 'it''s'", "ALTER SYSTEM SET archive_library = 'basic_archive'"]
        );
    }
}
