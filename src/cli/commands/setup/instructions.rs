//! What PostgreSQL needs to be told, printed for a person to do.

use std::path::Path;

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::printer::Printer;
use crate::cli::programs::client_program;
use crate::config::{ClusterConfig, DEFAULT_SOCKET};
use walward_pg::read_major;
use walward_pg::session::grants::{create_role_statement, grant_statements};
use walward_pg::settings::setting_line;
use walward_pg::shell::quote;

/// Lines for people to put where they belong.
#[derive(Debug)]
pub(super) struct Instructions {
    /// postgresql.conf
    pub(super) settings: Vec<String>,
    /// For a superuser, in the database of `connection`.
    pub(super) statements: Vec<String>,
    /// `archive_command` with Walward alone.
    pub(super) archive_command: String,
    /// `restore_command`, of a standby as of any other recovery.
    pub(super) restore_command: String,
    /// The role of `connection`.
    pub(super) role: String,
    pub(super) database: String,
}

pub(super) fn of(context: &Context, cluster: &ClusterConfig) -> Instructions {
    let socket = &context.loaded.config.agent.socket;
    let socket = if socket == Path::new(DEFAULT_SOCKET) {
        String::new()
    } else {
        format!(" --socket {}", quote(&socket.to_string_lossy()))
    };
    let client = format!("{}{socket}", quote(&client_program().to_string_lossy()));
    let command = format!("{client} push %p");
    let restore_command = format!("{client} fetch %f %p");
    let parsed = cluster.connection.parse::<tokio_postgres::Config>().ok();
    let role = parsed.as_ref().and_then(|config| config.get_user()).unwrap_or("walward").to_owned();
    let database = parsed.as_ref().and_then(|config| config.get_dbname()).unwrap_or("postgres").to_owned();
    let major = read_major(&cluster.data_directory).unwrap_or(18);
    let statements = std::iter::once(create_role_statement(&role)).chain(grant_statements(&role, major));
    Instructions {
        settings: vec![
            setting_line("wal_level", "replica"),
            setting_line("archive_mode", "on"),
            setting_line("archive_command", &command),
        ]
        .into_iter()
        .map(|line| line.trim_end().to_owned())
        .collect(),
        statements: statements.map(|statement| format!("{statement};")).collect(),
        archive_command: command,
        restore_command,
        role,
        database,
    }
}

/// The SQL, and the settings unless another tool has them.
pub(super) fn print(
    cluster: &ClusterConfig,
    lines: &Instructions,
    settings: bool,
    printer: &Printer,
) -> Result<(), Failure> {
    if settings {
        printer.line(&format!("# cluster {}: postgresql.conf (archive_mode needs a restart)", cluster.name))?;
        for line in &lines.settings {
            printer.line(line)?;
        }
    }
    // A superuser needs no grants.
    if lines.role != "postgres" {
        printer.line(&format!("-- cluster {}: SQL, as a superuser in database {}", cluster.name, lines.database))?;
        for statement in &lines.statements {
            printer.line(statement)?;
        }
        printer.note(&format!(
            "with peer authentication the agent's user needs a map: in pg_ident.conf \"walward postgres {0}\", in pg_hba.conf before the other lines \"local {1} {0} peer map=walward\"",
            lines.role, lines.database
        ));
    }
    Ok(())
}
