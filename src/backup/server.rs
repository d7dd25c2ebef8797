//! What a backup needs of the server whose files it copies. A session gives it; so does the simulation's model of a server.

use std::time::Duration;

use jiff::Timestamp;

use walward_pg::Lsn;
use walward_pg::session::{BackupStop, ServerFacts, Session, SessionError};

/// A server that is reached. Dropped, it ends a backup that it has begun by itself.
pub trait Server: Send + Sync {
    /// See [`Session::facts`].
    fn facts(&self) -> impl Future<Output = Result<ServerFacts, SessionError>> + Send;
    /// See [`Session::now`].
    fn now(&self) -> impl Future<Output = Result<Timestamp, SessionError>> + Send;
    /// See [`Session::in_recovery`].
    fn in_recovery(&self) -> impl Future<Output = Result<bool, SessionError>> + Send;
    /// See [`Session::is_closed`].
    fn is_closed(&self) -> bool;
    /// See [`Session::cancel`].
    fn cancel(&self) -> impl Future<Output = ()> + Send;
    /// See [`Session::backup_start`].
    fn backup_start(
        &self,
        label: &str,
        fast: bool,
        deadline: Duration,
    ) -> impl Future<Output = Result<Lsn, SessionError>> + Send;
    /// See [`Session::backup_stop`].
    fn backup_stop(&self, deadline: Duration) -> impl Future<Output = Result<BackupStop, SessionError>> + Send;
}

impl Server for Session {
    async fn facts(&self) -> Result<ServerFacts, SessionError> {
        Session::facts(self).await
    }

    async fn now(&self) -> Result<Timestamp, SessionError> {
        Session::now(self).await
    }

    async fn in_recovery(&self) -> Result<bool, SessionError> {
        Session::in_recovery(self).await
    }

    fn is_closed(&self) -> bool {
        Session::is_closed(self)
    }

    async fn cancel(&self) {
        Session::cancel(self).await;
    }

    async fn backup_start(&self, label: &str, fast: bool, deadline: Duration) -> Result<Lsn, SessionError> {
        Session::backup_start(self, label, fast, deadline).await
    }

    async fn backup_stop(&self, deadline: Duration) -> Result<BackupStop, SessionError> {
        Session::backup_stop(self, deadline).await
    }
}
