//! From a connection string to a configuration, and what a fresh session is set to.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::error::SessionError;

/// Where Debian and the PGDG packages put the socket; libpq's default there.
const DEFAULT_HOST: &str = "/var/run/postgresql";
const DEFAULT_DATABASE: &str = "postgres";
/// A dead peer is noticed after this long without a byte, also in the hours of a backup.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);

pub(super) fn config(conninfo: &str, deadline: Duration) -> Result<Config, SessionError> {
    let mut config: Config = conninfo.parse().map_err(SessionError::Conninfo)?;
    if config.get_ssl_mode() == SslMode::Require {
        return Err(SessionError::TlsAsked);
    }
    config.ssl_mode(SslMode::Disable);
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host_path(DEFAULT_HOST);
    }
    if config.get_dbname().is_none() {
        config.dbname(DEFAULT_DATABASE);
    }
    if config.get_application_name().is_none() {
        config.application_name("walward");
    }
    if !conninfo.contains("keepalives_idle") {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    config.connect_timeout(deadline);
    Ok(config)
}

/// The server's Unix socket, when that is where the connection goes.
pub(super) fn socket(config: &Config) -> Option<PathBuf> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts().first()? {
        Host::Unix(folder) => Some(folder.join(format!(".s.PGSQL.{port}"))),
        Host::Tcp(_) => None,
    }
}

/// What keeps the server's own limits from ending a session that waits for hours while files are copied, and other
/// schemas' functions from being called, and a backslash in a statement a backslash.
pub(super) fn settings(major: u16) -> String {
    let mut settings = "SET search_path = pg_catalog; SET statement_timeout = 0; SET lock_timeout = '30s'; \
        SET idle_in_transaction_session_timeout = 0; SET standard_conforming_strings = on;"
        .to_owned();
    if major >= 14 {
        settings.push_str(" SET idle_session_timeout = 0;");
    }
    if major >= 17 {
        settings.push_str(" SET transaction_timeout = 0;");
    }
    settings
}

/// A value for a connection string (`host=…`), quoted where it must be.
pub fn quote_conninfo(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | ':' | ',');
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    #[test]
    fn what_a_connection_string_leaves_out_is_filled_in() {
        let config = config("user=walward", DEADLINE).expect("a configuration");
        assert_eq!(config.get_hosts(), [Host::Unix(DEFAULT_HOST.into())]);
        assert_eq!(config.get_dbname(), Some("postgres"));
        assert_eq!(config.get_application_name(), Some("walward"));
        assert_eq!(config.get_keepalives_idle(), KEEPALIVE_IDLE);
    }

    #[test]
    fn the_socket_is_the_one_that_libpq_would_take() {
        let of = |conninfo| socket(&config(conninfo, DEADLINE).expect("a configuration"));
        assert_eq!(of("user=x"), Some("/var/run/postgresql/.s.PGSQL.5432".into()));
        assert_eq!(of("host=/tmp/s port=5499 user=x"), Some("/tmp/s/.s.PGSQL.5499".into()));
        assert_eq!(of("host=localhost user=x"), None);
    }

    #[test]
    fn what_it_says_is_kept() {
        let config = config("host=/tmp/s port=5433 dbname=x keepalives_idle=5 application_name=me", DEADLINE);
        let config = config.expect("a configuration");
        assert_eq!((config.get_dbname(), config.get_application_name()), (Some("x"), Some("me")));
        assert_eq!(config.get_keepalives_idle(), Duration::from_secs(5));
        assert_eq!(config.get_ports(), [5433]);
    }

    #[test]
    fn encryption_that_cannot_be_had_is_refused_instead_of_left_out() {
        assert!(matches!(config("host=h sslmode=require", DEADLINE), Err(SessionError::TlsAsked)));
        assert!(config("host=h sslmode=verify-full", DEADLINE).is_err());
        assert!(config("host=h sslmode=prefer", DEADLINE).is_ok());
        assert!(config("nonsense", DEADLINE).is_err());
    }

    proptest! {
        #[test]
        fn a_quoted_value_is_read_back(value in "[^\0]*") {
            let config = config(&format!("application_name={} user=u", quote_conninfo(&value)), DEADLINE);
            let config = config.expect("a configuration");
            prop_assert_eq!(config.get_application_name(), Some(value.as_str()));
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = config(&text, DEADLINE);
        }
    }
}
