//! What is left for a person, as exact commands in their order: a pure function of how things stand.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::applied::{Undone, is_archiving};
use super::plan::{Plan, Step};
use walward_pg::archiving::{Archives, Tool};
use walward_pg::shell::word;

/// A folder that is missing, and the mode that it is made with.
pub(crate) type Unmade = (PathBuf, u32);

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Left {
    pub(crate) what: String,
    pub(crate) commands: Vec<String>,
}

/// Whether the agent serves the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Agent {
    /// Nobody listens.
    Away,
    /// It has not read the configuration since.
    Unaware,
    Serves,
}

/// How things stand when setup has done what it may.
#[derive(Debug)]
pub(crate) struct SetupState<'a> {
    /// `walward`, with what it needs to find the configuration and the cluster.
    pub(crate) walward: String,
    /// The same for whoever runs the agent, who can read what it reads and log in as it does.
    pub(crate) as_agent: String,
    pub(crate) config: &'a Path,
    pub(crate) data_directory: &'a Path,
    /// How an administrator connects.
    pub(crate) admin: Option<String>,
    pub(crate) agent: Agent,
    /// The user who runs the agent.
    pub(crate) user: &'a str,
    /// Folders that the agent needs, and neither has nor can make.
    pub(crate) unmade: Vec<Unmade>,
    /// Key files that were made now.
    pub(crate) new_keys: Vec<PathBuf>,
    /// The plan, and what of it was not done; none when there is no server.
    pub(crate) server: Option<(&'a Plan, Vec<(Step, String)>)>,
    pub(crate) in_recovery: bool,
    /// That archiving was changed, and is again as it was.
    pub(crate) undone: Option<&'a Undone>,
    /// Whether a segment came through, where that was tried; the text says why not.
    pub(crate) arrived: Option<Result<(), String>>,
    /// Whether every repository holds WAL of this cluster.
    pub(crate) has_wal: bool,
    /// Whether every repository holds a finished backup.
    pub(crate) has_backup: bool,
}

impl SetupState<'_> {
    fn psql(&self, statements: impl IntoIterator<Item = String>) -> String {
        let connection = self.admin.as_deref().unwrap_or("host=/var/run/postgresql user=postgres dbname=postgres");
        let mut text = format!("psql -X {}", word(connection));
        for statement in statements {
            text.push_str(" \\\n    -c ");
            text.push_str(&word(&statement));
        }
        text
    }
}

/// What is left, in order.
pub(crate) fn left(standing: &SetupState<'_>) -> Vec<Left> {
    let mut all = Vec::new();
    let mut add = |what: String, commands: Vec<String>| all.push(Left { what, commands });
    for key in &standing.new_keys {
        let copy = format!("scp {} SOMEWHERE-ELSE:", word(&key.to_string_lossy()));
        add(
            format!(
                "keep a copy of {} where this host's disk is not, beside the recovery key: without either, the backups cannot be read",
                key.display()
            ),
            vec![copy],
        );
    }
    match standing.agent {
        Agent::Serves => {}
        Agent::Away => {
            if !standing.unmade.is_empty() {
                let what = format!("make the agent's folders, as root: {} cannot", standing.user);
                add(what, standing.unmade.iter().map(|folder| make_folder(folder, standing.user)).collect());
            }
            add("start the agent".to_owned(), vec![start_agent(standing)]);
        }
        Agent::Unaware => {
            add("let the agent read the configuration".to_owned(), vec!["systemctl reload walward".to_owned()]);
        }
    }
    let Some((plan, undone)) = &standing.server else {
        add(
            "start PostgreSQL, give it the lines above, and run this again: it does the rest".to_owned(),
            vec![format!("{} setup --apply", standing.walward)],
        );
        return all;
    };
    if let Some(taken_back) = standing.undone {
        after_an_attempt(standing, taken_back, &mut all);
    }
    on_the_server(standing, plan, undone, &mut all);
    for_archiving(standing, plan, undone, &mut all);
    all
}

/// Archiving was to be changed and is as it was, or would be by the statements.
fn after_an_attempt(standing: &SetupState<'_>, undone: &Undone, all: &mut Vec<Left>) {
    if let Some(why) = &undone.failed {
        let reload = std::iter::once("SELECT pg_reload_conf()".to_owned());
        let what = format!("give the server back what archived before, as a superuser ({why})");
        all.push(Left { what, commands: vec![standing.psql(undone.statements.iter().cloned().chain(reload))] });
    }
    let what = format!(
        "find out why archiving could not be changed: {}; PostgreSQL's log and this say more. What archived before goes on",
        undone.because
    );
    all.push(Left { what, commands: vec![format!("{} status", standing.as_agent)] });
}

fn on_the_server(standing: &SetupState<'_>, plan: &Plan, undone: &[(Step, String)], all: &mut Vec<Left>) {
    // What did not work is not to be done by hand.
    let undone: Vec<(Step, String)> =
        undone.iter().filter(|(step, _)| standing.undone.is_none() || !is_archiving(step)).cloned().collect();
    let mut because: Vec<&str> = undone.iter().map(|(_, why)| why.as_str()).filter(|why| !why.is_empty()).collect();
    because.dedup();
    let why = if because.is_empty() { String::new() } else { format!(" ({})", because.join("; ")) };
    let grants = undone.iter().filter(|(step, _)| matches!(step, Step::Grant { .. }));
    let grants: Vec<String> = grants.filter_map(|(step, _)| step.statement()).collect();
    let settings: Vec<String> = undone
        .iter()
        .filter(|(step, _)| matches!(step, Step::Set { .. }))
        .filter_map(|(step, _)| step.statement())
        .collect();
    if why.is_empty() && !undone.is_empty() {
        let what = "let Walward change the server as it is printed above".to_owned();
        all.push(Left { what, commands: vec![format!("{} setup --apply", standing.walward)] });
    } else {
        if !grants.is_empty() {
            let what = format!("give Walward's role its rights, as a superuser{why}");
            all.push(Left { what, commands: vec![standing.psql(grants)] });
        }
        if undone.iter().any(|(step, _)| matches!(step, Step::Login { .. })) {
            let what = format!(
                "let the agent's user log in as Walward's role{why}: docs/grants.md has the lines for pg_hba.conf and pg_ident.conf"
            );
            all.push(Left { what, commands: Vec::new() });
        }
        if !settings.is_empty() {
            let reload = std::iter::once("SELECT pg_reload_conf()".to_owned());
            let what = format!("change the settings, as a superuser{why}");
            all.push(Left { what, commands: vec![standing.psql(settings.into_iter().chain(reload))] });
        }
    }
    if !plan.restart.is_empty() {
        let what = format!("restart PostgreSQL, for {}", plan.restart.join(" and "));
        let again = format!("{} setup --apply", standing.walward);
        all.push(Left { what, commands: vec![restart(standing.data_directory), again] });
    }
}

fn for_archiving(standing: &SetupState<'_>, plan: &Plan, undone: &[(Step, String)], all: &mut Vec<Left>) {
    let mut add = |what: String, commands: Vec<String>| all.push(Left { what, commands });
    let (walward, as_agent) = (&standing.walward, &standing.as_agent);
    if let Some(tool) = plan.kept() {
        let choice = if plan.archives == Archives::Library { "replace" } else { "beside" };
        add(
            format!(
                "{} archives this server and goes on doing so. To move over without a gap (docs/moving-over.md), begin with",
                if tool == Tool::Unknown { "another tool" } else { tool.name() }
            ),
            vec![format!("{walward} setup --archive-command {choice} --apply")],
        );
        return;
    }
    if standing.in_recovery {
        return;
    }
    match &standing.arrived {
        _ if standing.undone.is_some() => {}
        Some(Err(why)) => add(
            format!("find out why no segment came through: {why}; PostgreSQL's log and these say more"),
            vec![format!("{as_agent} status"), format!("{as_agent} check --switch-wal")],
        ),
        None if !standing.has_wal && undone.is_empty() && plan.restart.is_empty() => {
            add("see a first segment arrive".to_owned(), vec![format!("{as_agent} check --switch-wal")]);
        }
        _ => {}
    }
    if !standing.has_backup {
        add("take the first backup: before it nothing can be restored".to_owned(), vec![format!("{as_agent} backup")]);
    }
    if let Archives::Both(tool) = plan.archives {
        add(
            format!(
                "{} and Walward both get every segment. When Walward's backups cover what you want to be able to restore, take the other one out",
                tool.name()
            ),
            vec![format!("{walward} setup --archive-command replace --apply")],
        );
    }
}

fn start_agent(standing: &SetupState<'_>) -> String {
    if standing.config == Path::new(crate::config::DEFAULT_PATH) {
        return "systemctl enable --now walward.socket walward.service".to_owned();
    }
    // As the user whom `walward` is to be run as, for the same reasons.
    let as_user = standing.as_agent.strip_suffix(standing.walward.as_str()).unwrap_or_default();
    format!("{as_user}walwardd --config {}", word(&standing.config.to_string_lossy()))
}

/// As the packages make it.
fn make_folder((folder, mode): &Unmade, user: &str) -> String {
    let user = word(user);
    format!("sudo install -d -o {user} -g \"$(id -gn {user})\" -m {mode:04o} {}", word(&folder.to_string_lossy()))
}

/// Debian's clusters are units; elsewhere the data directory is all that is known.
fn restart(data_directory: &Path) -> String {
    let below = data_directory.strip_prefix("/var/lib/postgresql").ok();
    let parts: Vec<String> = below.into_iter().flatten().map(|part| part.to_string_lossy().into_owned()).collect();
    match parts.as_slice() {
        [version, name] => format!("systemctl restart postgresql@{version}-{name}"),
        _ => format!("pg_ctl restart -D {}", word(&data_directory.to_string_lossy())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(archives: Archives) -> Plan {
        Plan { steps: Vec::new(), archives, notes: Vec::new(), restart: Vec::new() }
    }

    fn standing(plan: &Plan, undone: Vec<(Step, String)>) -> SetupState<'_> {
        SetupState {
            walward: "walward".into(),
            as_agent: "sudo -u postgres walward".into(),
            config: Path::new(crate::config::DEFAULT_PATH),
            data_directory: Path::new("/var/lib/postgresql/15/main"),
            admin: Some("host=/s user=postgres dbname=postgres".into()),
            agent: Agent::Serves,
            user: "postgres",
            unmade: Vec::new(),
            new_keys: Vec::new(),
            server: Some((plan, undone)),
            in_recovery: false,
            undone: None,
            arrived: None,
            has_wal: true,
            has_backup: true,
        }
    }

    fn commands(all: &[Left]) -> Vec<&str> {
        all.iter().flat_map(|left| &left.commands).map(String::as_str).collect()
    }

    #[test]
    fn when_everything_stands_nothing_is_left() {
        assert_eq!(left(&standing(&plan(Archives::Walward), Vec::new())), []);
    }

    #[test]
    fn the_order_is_the_one_to_type_them_in() {
        let plan = Plan { restart: vec!["archive_mode"], ..plan(Archives::Walward) };
        let standing = SetupState {
            agent: Agent::Away,
            new_keys: vec!["/etc/walward/main.key".into()],
            has_wal: false,
            has_backup: false,
            ..standing(&plan, vec![(Step::Grant { statement: "GRANT it's".into() }, "it needs a superuser".into())])
        };
        assert_eq!(
            commands(&left(&standing)),
            [
                "scp /etc/walward/main.key SOMEWHERE-ELSE:",
                "systemctl enable --now walward.socket walward.service",
                "psql -X 'host=/s user=postgres dbname=postgres' \\\n    -c 'GRANT it'\\''s'",
                "systemctl restart postgresql@15-main",
                "walward setup --apply",
                "sudo -u postgres walward backup",
            ]
        );
    }

    #[test]
    fn an_agent_without_a_package_is_started_as_its_user_and_in_folders_that_are_there() {
        let plan = plan(Archives::Walward);
        let standing = SetupState {
            agent: Agent::Away,
            config: Path::new("/opt/w.toml"),
            unmade: vec![("/var/spool/walward".into(), 0o700), ("/run/walward".into(), 0o755)],
            ..standing(&plan, Vec::new())
        };
        assert_eq!(
            commands(&left(&standing)),
            [
                "sudo install -d -o postgres -g \"$(id -gn postgres)\" -m 0700 /var/spool/walward",
                "sudo install -d -o postgres -g \"$(id -gn postgres)\" -m 0755 /run/walward",
                "sudo -u postgres walwardd --config /opt/w.toml",
            ]
        );
    }

    #[test]
    fn what_did_not_work_is_not_to_be_done_by_hand() {
        let failed = Step::Set {
            name: "archive_command",
            value: "new".into(),
            was: "old".into(),
            restart: false,
            because: String::new(),
        };
        let (plan, why) = (plan(Archives::Other(Tool::WalG)), "no segment came through".to_owned());
        let undone = Undone {
            because: why.clone(),
            statements: vec!["ALTER SYSTEM RESET archive_command".into()],
            failed: None,
        };
        let standing =
            |undone| SetupState { undone: Some(undone), ..standing(&plan, vec![(failed.clone(), why.clone())]) };
        let again = "walward setup --archive-command beside --apply";
        assert_eq!(commands(&left(&standing(&undone))), ["sudo -u postgres walward status", again]);
        let not_back = Undone { failed: Some("gone".into()), ..undone.clone() };
        let all = left(&standing(&not_back));
        assert!(commands(&all)[0].contains("RESET archive_command") && commands(&all)[0].contains("reload"), "{all:?}");
        assert_eq!(commands(&all)[1..], ["sudo -u postgres walward status", again]);
    }

    #[test]
    fn another_tool_is_left_in_place_and_the_next_step_is_named() {
        let all = left(&standing(&plan(Archives::Other(Tool::PgBackRest)), Vec::new()));
        assert!(all[0].what.contains("pgBackRest"), "{all:?}");
        assert_eq!(commands(&all), ["walward setup --archive-command beside --apply"]);
        let all = left(&standing(&plan(Archives::Library), Vec::new()));
        assert_eq!(commands(&all), ["walward setup --archive-command replace --apply"]);
        let all = left(&standing(&plan(Archives::Both(Tool::Barman)), Vec::new()));
        assert_eq!(commands(&all), ["walward setup --archive-command replace --apply"]);
    }
}
