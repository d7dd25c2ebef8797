//! What `walward setup` asks and changes as an administrator: settings, the role, its rights. Nothing here runs unless a person
//! asked for it; each statement stands by itself and may be run again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio_postgres::NoTls;

use super::connect;
use super::connection::{Login, QUERY_TIME_MAX, Session, column};
use super::error::SessionError;
use super::grants::{self, Right};
use walward_base::sys;
use walward_base::sys::folder::Folder;

/// A setting as the configuration has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setting {
    /// What is in force, or would be if archive_mode were on (`archive_command` shows "(disabled)" otherwise).
    pub value: String,
    /// `default`, `configuration file`, `command line`, …
    pub source: String,
    /// A restart is needed for what the files say.
    pub pending_restart: bool,
}

/// What an administrator may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights {
    /// Make roles and give rights away.
    pub grants: bool,
    /// Change the settings of archiving with ALTER SYSTEM, and reload them.
    pub settings: bool,
}

/// The settings that archiving depends on. Those that a version does not have are missing.
const SETTINGS: &str = "SELECT name::text, coalesce(reset_val, '')::text, source::text, pending_restart \
    FROM pg_catalog.pg_settings \
    WHERE name IN ('archive_mode', 'archive_command', 'archive_library', 'wal_level', 'restore_command')";

/// The view is a function's, which has a right of its own.
const MAY_READ_FILES: &str = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_file_settings', 'SELECT') AND \
    pg_catalog.has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE')";

const ALTERED: &str = "SELECT name, coalesce(setting, '') FROM pg_catalog.pg_file_settings \
    WHERE sourcefile LIKE '%/postgresql.auto.conf' \
    AND name IN ('archive_mode', 'archive_command', 'archive_library', 'wal_level', 'restore_command') ORDER BY seqno";

const RIGHTS: &str = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";

/// 15 and later: `GRANT ALTER SYSTEM ON PARAMETER`.
const PARAMETER_RIGHTS: &str = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE') AND \
    pg_catalog.has_parameter_privilege('archive_mode', 'ALTER SYSTEM') AND \
    pg_catalog.has_parameter_privilege('archive_command', 'ALTER SYSTEM')";

impl Session {
    /// As [`Session::connect`]. Root, who is nobody to a server that asks the kernel who it is (`peer`), connects as the user whom the
    /// data directory belongs to and the agent runs as.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn connect_of(conninfo: &str, data_directory: &Path, deadline: Duration) -> Result<Self, SessionError> {
        let directory = data_directory.to_owned();
        let owner = move || Folder::enter(&directory).and_then(|folder| folder.facts()).ok().map(|facts| facts.uid);
        let owner = async {
            if !sys::identity::is_root() {
                return None;
            }
            tokio::task::spawn_blocking(owner).await.ok().flatten().filter(|uid| *uid != 0)
        };
        // A file system that hangs does not keep the server from being asked.
        let uid = tokio::time::timeout(deadline / 2, owner).await.unwrap_or_default();
        Self::connect_as(conninfo, uid, deadline).await
    }

    /// As [`Session::connect`], as the user `uid` of the operating system where the server asks the kernel who it is (`peer`)
    /// and this process is root.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn connect_as(conninfo: &str, uid: Option<u32>, deadline: Duration) -> Result<Self, SessionError> {
        let config = connect::config(conninfo, deadline)?;
        let socket = connect::socket(&config);
        let (Some(uid), Some(socket), true) = (uid, socket, sys::identity::is_root()) else {
            return Self::connect(conninfo, deadline).await;
        };
        let connecting = async {
            let login = Login { uid, socket };
            // The ordinary way says why in words that people know.
            let Ok(stream) = login.connect().await else { return Self::connect(conninfo, deadline).await };
            let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(SessionError::connect)?;
            Self::begin(client, connection, Some(login)).await
        };
        tokio::time::timeout(deadline, connecting).await.map_err(|_| SessionError::ConnectTimeout(deadline))?
    }

    /// The settings that archiving depends on, by name.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn archive_settings(&self) -> Result<BTreeMap<String, Setting>, SessionError> {
        let what = "read the settings of archiving";
        let rows = self.within(what, QUERY_TIME_MAX, self.client.query(SETTINGS, &[])).await?;
        rows.iter()
            .map(|row| {
                let (value, source, pending_restart) =
                    (column(row, 1, what)?, column(row, 2, what)?, column(row, 3, what)?);
                Ok((column(row, 0, what)?, Setting { value, source, pending_restart }))
            })
            .collect()
    }

    /// What ALTER SYSTEM has set of these settings; `None` when the role may not know.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn altered_settings(&self) -> Result<Option<BTreeMap<String, String>>, SessionError> {
        let what = "read what ALTER SYSTEM has set";
        if !column::<bool>(&self.one(what, MAY_READ_FILES, &[], QUERY_TIME_MAX).await?, 0, what)? {
            return Ok(None);
        }
        let rows = self.within(what, QUERY_TIME_MAX, self.client.query(ALTERED, &[])).await?;
        rows.iter().map(|row| Ok((column(row, 0, what)?, column(row, 1, what)?))).collect::<Result<_, _>>().map(Some)
    }

    /// What this session's role may do.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn rights(&self) -> Result<Rights, SessionError> {
        let what = "ask for the role's rights";
        let superuser: bool = column(&self.one(what, RIGHTS, &[], QUERY_TIME_MAX).await?, 0, what)?;
        let settings = if superuser || self.major() < 15 {
            superuser
        } else {
            column(&self.one(what, PARAMETER_RIGHTS, &[], QUERY_TIME_MAX).await?, 0, what)?
        };
        Ok(Rights { grants: superuser, settings })
    }

    /// Whether `role` is there and a superuser.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn is_superuser(&self, role: &str) -> Result<bool, SessionError> {
        let what = "ask whether Walward's role is a superuser";
        let statement = "SELECT coalesce((SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = $1), false)";
        column(&self.one(what, statement, &[&role], QUERY_TIME_MAX).await?, 0, what)
    }

    /// The statements that `role` still needs; none for a superuser.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn missing_grants(&self, role: &str) -> Result<Vec<String>, SessionError> {
        let what = "ask for the rights of Walward's role";
        let found = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = $1";
        let rows = self.within(what, QUERY_TIME_MAX, self.client.query(found, &[&role])).await?;
        let Some(row) = rows.first() else {
            let grants = grants::grant_statements(role, self.major());
            return Ok(std::iter::once(grants::create_role_statement(role)).chain(grants).collect());
        };
        if column(row, 0, what)? {
            return Ok(Vec::new());
        }
        let mut missing = Vec::new();
        for right in grants::rights(self.major()) {
            let (statement, name) = match right {
                Right::Role(name) => ("SELECT pg_catalog.pg_has_role($1::name, $2::name, 'MEMBER')", name.to_owned()),
                Right::Function(name) => (
                    "SELECT pg_catalog.has_function_privilege($1::name, $2::text, 'EXECUTE')",
                    format!("pg_catalog.{name}"),
                ),
            };
            if !column::<bool>(&self.one(what, statement, &[&role, &name], QUERY_TIME_MAX).await?, 0, what)? {
                missing.push(grants::grant_statement(role, right));
            }
        }
        Ok(missing)
    }

    /// Physical replication slots: who streams WAL keeps it in pg_wal by one.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn physical_slots(&self) -> Result<Vec<String>, SessionError> {
        let what = "list the replication slots";
        let statement =
            "SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical' ORDER BY 1";
        let rows = self.within(what, QUERY_TIME_MAX, self.client.query(statement, &[])).await?;
        rows.iter().map(|row| column(row, 0, what)).collect()
    }

    /// `pg_hba.conf` and `pg_ident.conf`.
    ///
    /// # Errors
    /// When the server does not answer, or the role may not know.
    pub async fn login_files(&self) -> Result<(String, String), SessionError> {
        let what = "ask where pg_hba.conf is";
        let statement = "SELECT current_setting('hba_file'), current_setting('ident_file')";
        let row = self.one(what, statement, &[], QUERY_TIME_MAX).await?;
        Ok((column(&row, 0, what)?, column(&row, 1, what)?))
    }

    /// Runs one statement that an administrator was shown.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn execute(&self, statement: &str) -> Result<(), SessionError> {
        let what = "change what setup wants";
        self.within(what, QUERY_TIME_MAX, self.client.batch_execute(statement)).await
    }
}

/// `ALTER SYSTEM SET`; a setting that is not plain text (`archive_mode`) takes a quoted value, too.
pub fn alter_system_statement(name: &str, value: &str) -> String {
    // Read with standard_conforming_strings, which every Session has on: a backslash is one.
    format!("ALTER SYSTEM SET {name} = '{}'", value.replace('\'', "''"))
}
