//! Waiting for what may be given up meanwhile.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::BackupError;
use super::server::Server;
use walward_pg::session::SessionError;

/// How long the server may take to end a statement that is cancelled.
const STATEMENT_END_TIME_MAX: Duration = Duration::from_secs(5);
/// How often it is asked to.
const CANCEL_INTERVAL: Duration = Duration::from_millis(500);

/// What `work` gives, or [`BackupError::Cancelled`] as soon as `cancel` is.
pub async fn unless_cancelled<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Result<T, BackupError> {
    cancel.run_until_cancelled(work).await.ok_or(BackupError::Cancelled)
}

/// What `statement` of `session` gives, or [`BackupError::Cancelled`]. A server that only lost its client goes on with a statement until that
/// ends, however long it takes (a checkpoint), and keeps the connection's place: so it is asked to end it, and gets a moment for that.
pub async fn unless_cancelled_there<S: Server, T>(
    cancel: &CancellationToken,
    session: &S,
    statement: impl Future<Output = Result<T, SessionError>>,
) -> Result<Result<T, SessionError>, BackupError> {
    tokio::pin!(statement);
    if let Some(answer) = cancel.run_until_cancelled(&mut statement).await {
        return Ok(answer);
    }
    let end = async {
        loop {
            session.cancel().await;
            // One that the server had not begun yet is cancelled the next time.
            if tokio::time::timeout(CANCEL_INTERVAL, &mut statement).await.is_ok() {
                break;
            }
        }
    };
    if tokio::time::timeout(STATEMENT_END_TIME_MAX, end).await.is_err() {
        tracing::warn!("PostgreSQL has not ended the statement that was cancelled; it ends by itself");
    }
    Err(BackupError::Cancelled)
}

/// A server that cannot be asked while `doing`.
pub fn server(doing: &'static str) -> impl Fn(SessionError) -> BackupError {
    move |source| BackupError::Server { doing, source }
}
