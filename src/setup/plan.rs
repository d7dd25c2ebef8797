//! What is to be changed on a server: a pure function of what was seen and what is wanted, each step with its reason.

use serde::Serialize;

use super::seen::Seen;
use walward_pg::archiving::{Archives, Tool, archives, beside};
use walward_pg::session::alter_system_statement;

/// What setup would have.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// `archive_command` with Walward alone.
    pub(crate) archive_command: String,
    /// `restore_command` of a standby.
    pub(crate) restore_command: String,
    /// What becomes of another tool.
    pub(crate) other: Takeover,
}

/// Something to be done on the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Step {
    /// A statement for a superuser.
    Grant { statement: String },
    /// Lines of pg_hba.conf and pg_ident.conf, so that the agent's user may be Walward's role.
    Login { because: String },
    /// ALTER SYSTEM.
    Set { name: &'static str, value: String, was: String, restart: bool, because: String },
}

impl Step {
    /// The statement, when it is one.
    pub(crate) fn statement(&self) -> Option<String> {
        match self {
            Self::Grant { statement } => Some(statement.clone()),
            Self::Login { .. } => None,
            Self::Set { name, value, .. } => Some(alter_system_statement(name, value)),
        }
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Grant { statement } => statement.clone(),
            Self::Login { because } => format!("let the agent's user log in as Walward's role ({because})"),
            Self::Set { name, value, was, because, .. } => format!("{name} = '{value}' (was '{was}'): {because}"),
        }
    }
}

/// What is to be done, and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Who gets the segments when the steps are done.
    pub(crate) archives: Archives,
    /// What a person should know besides.
    pub(crate) notes: Vec<String>,
    /// Settings that wait for a restart when the steps are done.
    pub(crate) restart: Vec<&'static str>,
}

impl Plan {
    /// Whether another tool archives alone, and stays.
    pub(crate) fn kept(&self) -> Option<Tool> {
        match self.archives {
            Archives::Other(tool) => Some(tool),
            Archives::Library => Some(Tool::Unknown),
            _ => None,
        }
    }

    /// Whether a step takes the WAL away from another tool, or gives Walward a say in what that gets.
    pub(crate) fn touches_archiving(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Set { name: "archive_command" | "archive_library", .. }))
    }
}

/// What becomes of another tool that archives a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takeover {
    /// It goes on alone; Walward archives nothing.
    Keep,
    /// Every segment goes to Walward, then to the other tool.
    Beside,
    /// Walward takes its place.
    Replace,
}

/// Decides. The text of an error says why what was asked for cannot be.
pub(crate) fn plan(seen: &Seen, wish: &Wish) -> Result<Plan, String> {
    let mut steps = Vec::new();
    let mut notes = Vec::new();
    if seen.in_recovery {
        notes.push("this server is a standby: its role and grants come from the primary; archive_mode = on archives here after a promotion, archive_mode = always before it, too".to_owned());
    } else {
        steps.extend(seen.missing_grants.iter().map(|statement| Step::Grant { statement: statement.clone() }));
        login(seen, &mut steps, &mut notes);
    }
    if let Some(slot) = seen.slots.iter().find(|slot| slot.to_lowercase().contains("barman")) {
        notes.push(format!(
            "somebody streams WAL by the replication slot {slot:?} (Barman): that goes on beside Walward; drop the slot when you leave Barman, or pg_wal fills up"
        ));
    }
    let after = who_archives(seen, wish, &mut steps, &mut notes)?;
    if after == Archives::Both(Tool::WalG) {
        notes.push(
            "PG_READY_RENAME of WAL-G must not be set while both archive: with it WAL-G keeps files from Walward"
                .to_owned(),
        );
    }
    let stays = matches!(after, Archives::Other(_) | Archives::Library);
    let needs_restart = |name, value: &str, because: &str| Step::Set {
        name,
        value: value.to_owned(),
        was: seen.setting(name).to_owned(),
        restart: true,
        because: because.to_owned(),
    };
    // Switching archiving on would start a command that somebody has switched off.
    if !stays && !["replica", "logical"].contains(&seen.setting("wal_level")) && !seen.is_pending("wal_level") {
        steps.push(needs_restart("wal_level", "replica", "nothing can be recovered from less"));
    }
    if !stays && seen.setting("archive_mode") == "off" && !seen.is_pending("archive_mode") {
        steps.push(needs_restart("archive_mode", "on", "nothing is archived without it"));
    }
    if seen.in_recovery && seen.setting("restore_command").is_empty() {
        steps.push(Step::Set {
            name: "restore_command",
            value: wish.restore_command.clone(),
            was: String::new(),
            // postgresql.conf(5) of 13: only at server start.
            restart: seen.major < 14,
            because: "a standby that has fallen behind takes WAL from the archive".to_owned(),
        });
    }
    let waiting = ["wal_level", "archive_mode", "restore_command"].into_iter().filter(|name| {
        seen.is_pending(name)
            || steps.iter().any(|step| matches!(step, Step::Set { name: set, restart: true, .. } if set == name))
    });
    Ok(Plan { restart: waiting.collect(), archives: after, steps, notes })
}

/// Sets who gets the segments, and says who that is then.
fn who_archives(seen: &Seen, wish: &Wish, steps: &mut Vec<Step>, notes: &mut Vec<String>) -> Result<Archives, String> {
    let (command, library) = (seen.setting("archive_command"), seen.setting("archive_library"));
    let before = archives(command, library);
    let set = |name, value: &str, because: String| Step::Set {
        name,
        value: value.to_owned(),
        was: seen.setting(name).to_owned(),
        restart: false,
        because,
    };
    Ok(match (before, wish.other) {
        (Archives::Nobody, _) => {
            let because = if command.is_empty() { "nobody archives" } else { "what stands there throws WAL away" };
            steps.push(set("archive_command", &wish.archive_command, because.to_owned()));
            Archives::Walward
        }
        (Archives::Lossy, _) => {
            let because = "what stands there may say that a segment is archived when it is not";
            steps.push(set("archive_command", &wish.archive_command, because.to_owned()));
            Archives::Walward
        }
        (Archives::Walward, _) => {
            if command != wish.archive_command {
                notes.push(format!("archive_command is Walward's already, and stays as it is: {command}"));
            }
            before
        }
        (Archives::Other(tool), Takeover::Beside) => {
            let Some(both) = beside(&wish.archive_command, command) else {
                return Err(format!(
                    "the archive_command cannot be joined with another one safely: {command}; put it into a script and set that as archive_command, or take its place with --archive-command replace"
                ));
            };
            steps.push(set(
                "archive_command",
                &both,
                format!("every segment goes to Walward, then to {}", tool.name()),
            ));
            Archives::Both(tool)
        }
        (Archives::Both(tool) | Archives::Other(tool), Takeover::Replace) => {
            let because = format!("{} gets no more WAL", tool.name());
            steps.push(set("archive_command", &wish.archive_command, because));
            Archives::Walward
        }
        (Archives::Library, Takeover::Replace) => {
            let because = format!("the library {library:?} stands before every archive_command");
            steps.push(set("archive_library", "", because));
            if command != wish.archive_command {
                steps.push(set("archive_command", &wish.archive_command, "Walward archives".to_owned()));
            }
            Archives::Walward
        }
        (Archives::Library, Takeover::Beside) => {
            return Err(format!(
                "archive_library = {library} archives, and PostgreSQL runs no archive_command beside a library; take its place with --archive-command replace"
            ));
        }
        (Archives::Other(_) | Archives::Library | Archives::Both(_), _) => before,
    })
}

/// A line for the agent's user, where that is what keeps the role out, and where nobody is made a superuser by it.
fn login(seen: &Seen, steps: &mut Vec<Step>, notes: &mut Vec<String>) {
    let Some(refusal) = &seen.login else { return };
    let because = refusal.because.clone();
    if refusal.by_rules && !seen.role_is_superuser {
        steps.push(Step::Login { because });
    } else if seen.role_is_superuser {
        notes.push(format!(
            "Walward's role cannot log in ({because}); it is a superuser, so that who may be it is for you to say: docs/grants.md"
        ));
    } else if !seen.missing_grants.iter().any(|statement| statement.starts_with("CREATE ROLE")) {
        notes.push(format!("Walward's role cannot log in, which no line of pg_hba.conf changes: {because}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::seen::Refusal;
    use super::*;
    use walward_pg::session::Setting;

    const OURS: &str = "/usr/bin/walward-wal push %p";

    fn seen(settings: &[(&str, &str)]) -> Seen {
        let mut all =
            vec![("archive_mode", "on"), ("wal_level", "replica"), ("archive_command", ""), ("archive_library", "")];
        all.extend(settings);
        let settings = all
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Setting { value: value.to_owned(), ..Setting::default() }));
        Seen { major: 15, settings: settings.collect(), ..Seen::default() }
    }

    fn wish(other: Takeover) -> Wish {
        Wish { archive_command: OURS.into(), restore_command: "walward-wal fetch %f %p".into(), other }
    }

    fn sets(plan: &Plan) -> Vec<(&str, &str)> {
        let mut found = Vec::new();
        for step in &plan.steps {
            if let Step::Set { name, value, .. } = step {
                found.push((*name, value.as_str()));
            }
        }
        found
    }

    #[test]
    fn a_fresh_server_gets_everything_and_a_finished_one_nothing() {
        let fresh = Seen {
            missing_grants: vec!["GRANT x".into()],
            ..seen(&[("archive_mode", "off"), ("wal_level", "minimal")])
        };
        let made = plan(&fresh, &wish(Takeover::Keep)).unwrap();
        assert_eq!(sets(&made), [("archive_command", OURS), ("wal_level", "replica"), ("archive_mode", "on")]);
        assert_eq!(made.restart, ["wal_level", "archive_mode"]);
        assert_eq!(made.steps[0], Step::Grant { statement: "GRANT x".into() });
        for other in [Takeover::Keep, Takeover::Beside, Takeover::Replace] {
            let made = plan(&seen(&[("archive_command", OURS)]), &wish(other)).unwrap();
            assert_eq!((made.steps, made.archives), (vec![], Archives::Walward));
        }
    }

    #[test]
    fn a_command_that_loses_wal_is_replaced_by_one_that_does_not() {
        for command in [format!("{OURS} || true"), format!("echo {OURS}"), "walward-wal push %f".to_owned()] {
            let made = plan(&seen(&[("archive_command", &command)]), &wish(Takeover::Keep)).unwrap();
            assert_eq!(sets(&made), [("archive_command", OURS)], "{command}");
            assert_eq!(made.archives, Archives::Walward);
        }
    }

    #[test]
    fn another_tool_is_never_touched_unless_that_was_said() {
        for (command, library) in [("pgbackrest archive-push %p", ""), ("/my/script %p", ""), (OURS, "basic_archive")] {
            // Not even archive_mode: that would start what somebody has switched off.
            let found = seen(&[("archive_command", command), ("archive_library", library), ("archive_mode", "off")]);
            let made = plan(&found, &wish(Takeover::Keep)).unwrap();
            assert_eq!(made.steps, []);
            assert!(made.kept().is_some());
        }
    }

    #[test]
    fn the_way_over_goes_from_the_other_tool_to_both_to_walward() {
        let old = "pgbackrest --stanza=main archive-push %p";
        let first = plan(&seen(&[("archive_command", old)]), &wish(Takeover::Beside)).unwrap();
        let both = format!("{OURS} && {{ {old}; }}");
        assert_eq!(sets(&first), [("archive_command", both.as_str())]);
        assert_eq!(first.archives, Archives::Both(Tool::PgBackRest));

        let between = seen(&[("archive_command", &both)]);
        assert_eq!(plan(&between, &wish(Takeover::Keep)).unwrap().steps, []);
        assert_eq!(plan(&between, &wish(Takeover::Beside)).unwrap().steps, []);
        let last = plan(&between, &wish(Takeover::Replace)).unwrap();
        assert_eq!(sets(&last), [("archive_command", OURS)]);

        let library = seen(&[("archive_library", "basic_archive")]);
        assert!(plan(&library, &wish(Takeover::Beside)).unwrap_err().contains("replace"));
        let last = plan(&library, &wish(Takeover::Replace)).unwrap();
        assert_eq!(sets(&last), [("archive_library", ""), ("archive_command", OURS)]);
        let comment = seen(&[("archive_command", "cp %p /x/%f # y")]);
        assert!(plan(&comment, &wish(Takeover::Beside)).is_err());
    }

    fn refused(by_rules: bool) -> Refusal {
        Refusal { because: "no".into(), by_rules }
    }

    #[test]
    fn a_line_of_pg_hba_is_written_only_where_it_helps_and_makes_no_superuser() {
        for (by_rules, role_is_superuser, planned, notes) in
            [(true, false, true, 0), (false, false, false, 1), (true, true, false, 1), (false, true, false, 1)]
        {
            let found =
                Seen { login: Some(refused(by_rules)), role_is_superuser, ..seen(&[("archive_command", OURS)]) };
            let made = plan(&found, &wish(Takeover::Keep)).unwrap();
            assert_eq!(made.steps.iter().any(|step| matches!(step, Step::Login { .. })), planned, "{found:?}");
            assert_eq!(made.notes.len(), notes, "{made:?}");
        }
        // The role is made first; it may log in then.
        let new = Seen { login: Some(refused(false)), missing_grants: vec!["CREATE ROLE x LOGIN".into()], ..seen(&[]) };
        assert_eq!(plan(&new, &wish(Takeover::Keep)).unwrap().notes, [""; 0]);
    }

    #[test]
    fn a_standby_gets_settings_and_no_grants() {
        let standby =
            Seen { in_recovery: true, missing_grants: vec!["GRANT x".into()], login: Some(refused(true)), ..seen(&[]) };
        let made = plan(&standby, &wish(Takeover::Keep)).unwrap();
        let names: Vec<&str> = sets(&made).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["archive_command", "restore_command"]);
        assert!(made.steps.iter().all(|step| matches!(step, Step::Set { restart: false, .. })));
        let old = plan(&Seen { major: 13, ..standby }, &wish(Takeover::Keep)).unwrap();
        assert_eq!(old.restart, ["restore_command"]);
    }

    #[test]
    fn what_waits_for_a_restart_is_said_and_not_set_again() {
        let mut waiting = seen(&[("archive_command", OURS), ("archive_mode", "off")]);
        waiting.settings.get_mut("archive_mode").unwrap().pending_restart = true;
        let made = plan(&waiting, &wish(Takeover::Keep)).unwrap();
        assert_eq!((made.steps, made.restart), (vec![], vec!["archive_mode"]));
    }

    #[test]
    fn a_slot_of_barman_is_noticed() {
        let streaming = Seen { slots: vec!["barman_main".into()], ..seen(&[]) };
        let made = plan(&streaming, &wish(Takeover::Keep)).unwrap();
        assert!(made.notes.iter().any(|note| note.contains("barman_main")));
    }
}
