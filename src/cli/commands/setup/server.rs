//! What setup finds out about the server: who archives its WAL, and what may be changed by whoever asks.

use std::fmt::Write as _;
use std::time::Duration;

use crate::cli::arguments::SetupArguments;
use crate::cli::failure::Failure;
use crate::cli::whose;
use crate::config::ClusterConfig;
use crate::outcome::Exit;
use crate::setup::{Refusal, Seen};
use walward_base::describe;
use walward_base::sys::folder::Folder;
use walward_base::sys::identity::user_name;
use walward_pg::session::{ServerFacts, Session, SessionError, quote_conninfo};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// A server that answered.
pub(super) struct Server {
    /// As an administrator where that is possible, else as Walward's role.
    pub(super) session: Session,
    pub(super) facts: ServerFacts,
    pub(super) seen: Seen,
}

/// Who owns the data directory: whom `peer` authentication knows, and as whom the agent runs.
pub(super) fn owner(cluster: &ClusterConfig) -> (Option<u32>, String) {
    let uid = Folder::enter(&cluster.data_directory).and_then(|folder| folder.facts()).ok().map(|facts| facts.uid);
    (uid, uid.and_then(user_name).unwrap_or_else(|| "postgres".to_owned()))
}

/// How an administrator reaches the server: as the owner of the data directory, who made the first superuser (initdb).
pub(super) fn admin_connection(cluster: &ClusterConfig, owner: &str) -> Option<String> {
    use tokio_postgres::config::Host;
    let config: tokio_postgres::Config = cluster.connection.parse().ok()?;
    let mut text = String::new();
    match config.get_hosts().first() {
        Some(Host::Unix(path)) => write!(text, "host={}", quote_conninfo(&path.to_string_lossy())).ok()?,
        Some(Host::Tcp(name)) => write!(text, "host={}", quote_conninfo(name)).ok()?,
        None => text.push_str("host=/var/run/postgresql"),
    }
    if let Some(port) = config.get_ports().first() {
        write!(text, " port={port}").ok()?;
    }
    let database = config.get_dbname().unwrap_or("postgres");
    write!(text, " user={} dbname={}", quote_conninfo(owner), quote_conninfo(database)).ok()?;
    Some(text)
}

fn is_socket(cluster: &ClusterConfig) -> bool {
    use tokio_postgres::config::Host;
    let config: Option<tokio_postgres::Config> = cluster.connection.parse().ok();
    config.is_some_and(|config| !matches!(config.get_hosts().first(), Some(Host::Tcp(_))))
}

/// A server, or why there is nothing to see.
pub(super) type Looked = Result<Server, String>;

/// Connects and looks. A server of another data directory than the cluster's is refused: nothing may be done there.
pub(super) async fn look(cluster: &ClusterConfig, arguments: &SetupArguments, role: &str) -> Result<Looked, Failure> {
    let (uid, owner) = owner(cluster);
    let admin = arguments.admin_connection.clone().or_else(|| admin_connection(cluster, &owner));
    let mut failed = None;
    for conninfo in admin.into_iter().chain([cluster.connection.clone()]) {
        match Session::connect_as(&conninfo, uid, CONNECT_DEADLINE).await {
            Ok(session) => {
                let facts = match session.facts().await {
                    Ok(facts) => facts,
                    Err(error) => return Ok(Err(describe(&error))),
                };
                belongs(cluster, &facts)?;
                let login = Session::connect_as(&cluster.connection, uid, CONNECT_DEADLINE).await;
                // Before it has its rights, the role may not know.
                if let Ok(login) = &login
                    && let Ok(facts) = login.facts().await
                {
                    belongs(cluster, &facts)?;
                }
                let seen = see(&session, &facts, cluster, role, login.err()).await;
                return Ok(seen.map(|seen| Server { session, facts, seen }).map_err(|error| describe(&error)));
            }
            Err(error) => {
                failed.get_or_insert(describe(&error));
            }
        }
    }
    Ok(Err(failed.unwrap_or_default()))
}

fn belongs(cluster: &ClusterConfig, facts: &ServerFacts) -> Result<(), Failure> {
    let Some(why) = tokio::task::block_in_place(|| whose::mismatch(&cluster.data_directory, facts)) else {
        return Ok(());
    };
    let text =
        format!("another server than that of cluster \"{}\" was reached; its data directory: {why}", cluster.name);
    Err(Failure::new(Exit::Refused, text).hint(
        "nothing was changed there; correct `data_directory` and `connection` in the configuration, or --data-directory, --connection and --admin-connection",
    ))
}

async fn see(
    session: &Session,
    facts: &ServerFacts,
    cluster: &ClusterConfig,
    role: &str,
    login: Option<SessionError>,
) -> Result<Seen, SessionError> {
    Ok(Seen {
        major: session.major(),
        in_recovery: facts.in_recovery,
        settings: session.archive_settings().await?,
        altered: session.altered_settings().await?,
        rights: session.rights().await?,
        missing_grants: session.missing_grants(role).await?,
        role_is_superuser: session.is_superuser(role).await?,
        // Over the network another way in is needed, which nobody but its administrator knows.
        login: login
            .filter(|_| is_socket(cluster))
            .map(|error| Refusal { because: describe(&error), by_rules: error.is_turned_away() }),
        slots: session.physical_slots().await?,
    })
}
