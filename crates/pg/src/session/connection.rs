//! One connection to a server: how it is made, and how a statement runs on it within its time.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

use super::connect;
use super::error::SessionError;
use crate::Lsn;
use walward_base::sys;

/// How long a statement that only looks something up may take.
pub(super) const QUERY_TIME_MAX: Duration = Duration::from_secs(30);
/// How long asking the server to cancel a statement may take.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(5);

/// A connection to one server. Dropping it closes the connection.
#[derive(Debug)]
pub struct Session {
    pub(super) client: Client,
    driver: Driver,
    pub(super) version_num: u32,
    /// Who connects, and where, when that is another user than this process.
    login: Option<Login>,
}

/// A user of the operating system, and the server's socket.
#[derive(Debug, Clone)]
pub(super) struct Login {
    pub(super) uid: u32,
    pub(super) socket: PathBuf,
}

impl Login {
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        let Self { uid, socket } = self.clone();
        let stream = tokio::task::spawn_blocking(move || sys::identity::connect_as(uid, &socket)).await??;
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    }
}

/// The task that moves the connection's bytes; ends with the session.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// Connects within `deadline`. `conninfo` is a libpq connection string or URI; without a host it means the socket in
    /// `/var/run/postgresql`, without a database `postgres`. Password files and services are not read.
    ///
    /// # Errors
    /// When the string is wrong or asks for TLS, the server cannot be reached or refuses, or is not of version 13 to 18.
    pub async fn connect(conninfo: &str, deadline: Duration) -> Result<Self, SessionError> {
        let config = connect::config(conninfo, deadline)?;
        let connecting = async {
            let (client, connection) = config.connect(NoTls).await.map_err(SessionError::connect)?;
            Self::begin(client, connection, None).await
        };
        tokio::time::timeout(deadline, connecting).await.map_err(|_| SessionError::ConnectTimeout(deadline))?
    }

    /// Takes a connection that stands, and sets it up.
    pub(super) async fn begin(
        client: Client,
        connection: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
        login: Option<Login>,
    ) -> Result<Self, SessionError> {
        let driver = Driver(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "the connection to PostgreSQL ended");
            }
        }));
        let row = client
            .query_one("SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4", &[])
            .await
            .map_err(SessionError::connect)?;
        let number: i32 = row.try_get(0).map_err(SessionError::connect)?;
        let version_num = u32::try_from(number).unwrap_or(0);
        if !(130_000..190_000).contains(&version_num) {
            return Err(SessionError::Unsupported(version_num));
        }
        let session = Self { client, driver, version_num, login };
        session.client.batch_execute(&connect::settings(session.major())).await.map_err(SessionError::connect)?;
        Ok(session)
    }

    /// The server's major version, 13 to 18.
    pub fn major(&self) -> u16 {
        u16::try_from(self.version_num / 10_000).unwrap_or(u16::MAX)
    }

    /// Whether the connection is gone; a backup that was going on with it is too.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.driver.0.is_finished()
    }

    /// Runs a statement that gives one row.
    pub(super) async fn one(
        &self,
        what: &'static str,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
        deadline: Duration,
    ) -> Result<Row, SessionError> {
        self.within(what, deadline, self.client.query_one(statement, parameters)).await
    }

    /// Waits for an answer; cancels the statement on the server when it is late.
    pub(super) async fn within<T>(
        &self,
        what: &'static str,
        deadline: Duration,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, SessionError> {
        if let Ok(answer) = tokio::time::timeout(deadline, answer).await {
            return answer.map_err(|error| SessionError::statement(what, error));
        }
        // The answer to a cancellation is the statement's failure, which nobody waits for any more.
        self.cancel().await;
        Err(SessionError::Timeout { what, after: deadline })
    }

    /// Asks the server to end the statement that is under way; that fails then. Bounded, best effort: a statement that the server has not begun
    /// yet goes on.
    pub async fn cancel(&self) {
        let token = self.client.cancel_token();
        let ask = async {
            match &self.login {
                None => token.cancel_query(NoTls).await.map_err(|error| error.to_string()),
                Some(login) => {
                    let stream = login.connect().await.map_err(|error| error.to_string())?;
                    token.cancel_query_raw(stream, NoTls).await.map_err(|error| error.to_string())
                }
            }
        };
        let asked = tokio::time::timeout(CANCEL_TIME_MAX, ask).await;
        if let Err(error) = asked.unwrap_or_else(|_| Err("no answer".to_owned())) {
            tracing::debug!(error, "PostgreSQL was not asked to cancel a statement");
        }
    }
}

/// One column of a row.
pub(super) fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
    what: &'static str,
) -> Result<T, SessionError> {
    row.try_get(index).map_err(|error| SessionError::statement(what, error))
}

/// A column of a WAL position, as text.
pub(super) fn lsn(row: &Row, index: usize, what: &'static str) -> Result<Lsn, SessionError> {
    let text: String = column(row, index, what)?;
    text.parse().map_err(|_| SessionError::Answer { what, value: text })
}
