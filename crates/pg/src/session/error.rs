//! Why something asked of a server did not happen.

use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use walward_base::ErrorClass;

/// What went wrong between Walward and a server.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection string cannot be read.
    #[error("the connection string is wrong; it looks like \"host=/var/run/postgresql user=walward dbname=postgres\"")]
    Conninfo(#[source] tokio_postgres::Error),
    /// The connection string asks for TLS.
    #[error(
        "the connection string asks for TLS, which is not supported; use the server's Unix socket, or sslmode=prefer"
    )]
    TlsAsked,
    /// No connection.
    #[error("cannot connect to PostgreSQL")]
    Connect(#[source] tokio_postgres::Error),
    /// The server answered, and refused the connection.
    #[error("PostgreSQL refused the connection")]
    Refused(#[source] Box<DbError>),
    /// No connection in time.
    #[error("PostgreSQL did not answer within {} s", .0.as_secs_f64())]
    ConnectTimeout(Duration),
    /// A version that this program does not know.
    #[error("PostgreSQL {} is not supported; 13 to 18 are", .0 / 10_000)]
    Unsupported(u32),
    /// The role lacks a right.
    #[error("the role may not {what}; run the GRANT statements for Walward's role in the database it connects to")]
    Denied {
        /// What was tried.
        what: &'static str,
        /// The server's words.
        #[source]
        source: Box<DbError>,
    },
    /// The server refused.
    #[error("PostgreSQL would not {what}")]
    Statement {
        /// What was tried.
        what: &'static str,
        /// The server's words.
        #[source]
        source: Box<DbError>,
    },
    /// The connection broke, or the answer could not be read.
    #[error("the connection failed while trying to {what}")]
    Broken {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// No answer in time; the statement was cancelled.
    #[error("PostgreSQL took longer than {} s to {what}", .after.as_secs_f64())]
    Timeout {
        /// What was tried.
        what: &'static str,
        /// The time it had.
        after: Duration,
    },
    /// An answer that makes no sense.
    #[error("PostgreSQL's answer to the attempt to {what} is {value:?}, which makes no sense")]
    Answer {
        /// What was tried.
        what: &'static str,
        /// The answer.
        value: String,
    },
}

impl SessionError {
    pub(super) fn connect(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refusal) => Self::Refused(Box::new(refusal.clone())),
            None => Self::Connect(error),
        }
    }

    pub(super) fn statement(what: &'static str, error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(source) if *source.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
                Self::Denied { what, source: Box::new(source.clone()) }
            }
            Some(source) => Self::Statement { what, source: Box::new(source.clone()) },
            None => Self::Broken { what, source: error },
        }
    }

    /// Whether the rules of pg_hba.conf and pg_ident.conf turned the role away: SQLSTATE 28000. A wrong password is 28P01. A role
    /// that is not there or may not log in has the same code, and no rule lets it in (`InitializeSessionUserId`,
    /// src/backend/utils/init/miscinit.c).
    pub fn is_turned_away(&self) -> bool {
        matches!(self, Self::Refused(refusal) if by_rules(refusal.code(), refusal.routine()))
    }

    /// What the failure means for the caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Conninfo(_) | Self::TlsAsked | Self::Unsupported(_) | Self::Answer { .. } => ErrorClass::Permanent,
            Self::Connect(_) | Self::ConnectTimeout(_) | Self::Broken { .. } | Self::Timeout { .. } => {
                ErrorClass::Transient
            }
            Self::Denied { .. } => ErrorClass::Denied,
            Self::Refused(source) | Self::Statement { source, .. } => class_of(source.code()),
        }
    }
}

/// By the class of the SQLSTATE: connection (08), rollback (40), resources (53), operator intervention (57: starting up,
/// shutting down), authorization (28).
fn class_of(code: &SqlState) -> ErrorClass {
    match code.code().get(..2) {
        Some("08" | "40" | "53" | "57") => ErrorClass::Transient,
        Some("28") => ErrorClass::Denied,
        _ if *code == SqlState::INSUFFICIENT_PRIVILEGE => ErrorClass::Denied,
        _ => ErrorClass::Permanent,
    }
}

fn by_rules(code: &SqlState, routine: Option<&str>) -> bool {
    *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION && routine != Some("InitializeSessionUserId")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_rule_is_a_rule() {
        let turned_away = SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
        assert!(by_rules(&turned_away, Some("auth_failed")) && by_rules(&turned_away, Some("ClientAuthentication")));
        assert!(!by_rules(&turned_away, Some("InitializeSessionUserId")));
        assert!(!by_rules(&SqlState::INVALID_PASSWORD, Some("auth_failed")));
    }

    #[test]
    fn a_server_that_is_starting_is_worth_another_try_and_a_wrong_password_is_not() {
        assert_eq!(class_of(&SqlState::CANNOT_CONNECT_NOW), ErrorClass::Transient);
        assert_eq!(class_of(&SqlState::TOO_MANY_CONNECTIONS), ErrorClass::Transient);
        assert_eq!(class_of(&SqlState::INVALID_PASSWORD), ErrorClass::Denied);
        assert_eq!(class_of(&SqlState::INSUFFICIENT_PRIVILEGE), ErrorClass::Denied);
        assert_eq!(class_of(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), ErrorClass::Permanent);
    }
}
