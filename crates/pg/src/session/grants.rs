//! The rights that Walward's role needs, as SQL: no superuser, no replication.
//!
//! Rights on functions belong to one database: the statements are run, by a superuser, in the database that Walward
//! connects to.

/// Makes the role, able to log in and nothing else.
pub fn create_role_statement(role: &str) -> String {
    format!("CREATE ROLE {} LOGIN", quote_identifier(role))
}

/// One right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To be a member of this role.
    Role(&'static str),
    /// To call this function of pg_catalog.
    Function(&'static str),
}

/// All that a session needs on a server of `major`, 13 to 18.
pub fn rights(major: u16) -> Vec<Right> {
    let backup: [&str; 2] = if major >= 15 {
        ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"]
    } else {
        ["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"]
    };
    let functions = backup.into_iter().chain(["pg_switch_wal()", "pg_create_restore_point(text)"]);
    // data_directory is shown to members only.
    std::iter::once(Right::Role("pg_read_all_settings")).chain(functions.map(Right::Function)).collect()
}

/// The statement that gives `role` the right, without a semicolon.
pub fn grant_statement(role: &str, right: Right) -> String {
    let role = quote_identifier(role);
    match right {
        Right::Role(name) => format!("GRANT {name} TO {role}"),
        Right::Function(function) => format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role}"),
    }
}

/// The statements that give `role` all that a session needs on a server of `major`, 13 to 18; each without a semicolon.
pub fn grant_statements(role: &str, major: u16) -> Vec<String> {
    rights(major).into_iter().map(|right| grant_statement(role, right)).collect()
}

/// A name in SQL, quoted always.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_backup_functions_follow_the_version() {
        let old = grant_statements("walward", 14);
        assert!(old.contains(
            &"GRANT EXECUTE ON FUNCTION pg_catalog.pg_stop_backup(boolean, boolean) TO \"walward\"".to_owned()
        ));
        let new = grant_statements("walward", 15);
        assert!(
            new.contains(&"GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_stop(boolean) TO \"walward\"".to_owned())
        );
        assert_eq!(old.len(), 5);
        assert_eq!(new.len(), 5);
    }

    #[test]
    fn a_role_with_a_quote_in_its_name_stays_one_name() {
        assert_eq!(create_role_statement("a\"; DROP"), "CREATE ROLE \"a\"\"; DROP\" LOGIN");
    }
}
