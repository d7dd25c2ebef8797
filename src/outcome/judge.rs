//! What an error means: its exit code, and what the reader can do.

use std::error::Error;

use super::Exit;
use crate::archive::PushError;
use crate::archive::aside::AsideError;
use crate::backup::BackupError;
use crate::catalogue::{CatalogueError, TimeError};
use crate::config::ConfigError;
use crate::restore::RestoreError;
use crate::setup::DirectoryError;
use walward_base::ErrorClass;
use walward_pg::session::SessionError;
use walward_repo::RepoError;
use walward_repo::keys::KeyError;
use walward_storage::StoreError;
use walward_wire::client::ClientError;

/// The exit code of `error` and a hint: of the first one in its chain of causes that means something.
pub fn judge(error: &(dyn Error + 'static)) -> (Exit, Option<&'static str>) {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(judged) = judge_one(error) {
            return judged;
        }
        cause = error.source();
    }
    (Exit::Failed, None)
}

/// What a class of failures means for the exit code.
pub fn exit_of(class: ErrorClass) -> Exit {
    match class {
        ErrorClass::NotFound => Exit::NotFound,
        ErrorClass::Transient => Exit::Unreachable,
        ErrorClass::Permanent => Exit::Failed,
        ErrorClass::Corrupt => Exit::Integrity,
        ErrorClass::Denied => Exit::Key,
        ErrorClass::Cancelled => Exit::Interrupted,
        ErrorClass::NoSpace => Exit::NoSpace,
    }
}

/// The code and hint of one error of the chain, when it is one that we know.
fn judge_one(error: &(dyn Error + 'static)) -> Option<(Exit, Option<&'static str>)> {
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        let hint = match error {
            ConfigError::Missing(_) => "run `walward setup` to write one, or name another file with --config",
            ConfigError::Unreadable { .. } => "run as root or as the user of the agent (usually postgres)",
            ConfigError::Invalid(_) => "docs/configuration.md describes every key",
        };
        return Some((Exit::Usage, Some(hint)));
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some((exit_of(error.class), store_hint(error)));
    }
    if let Some(error) = error.downcast_ref::<RepoError>() {
        let hint = if let RepoError::Store(error) = error { store_hint(error) } else { None };
        return Some((exit_of_repository(error), hint));
    }
    if let Some(error) = error.downcast_ref::<KeyError>() {
        return Some((exit_of_key(error), None));
    }
    if let Some(error) = error.downcast_ref::<SessionError>() {
        let hint = match error.class() {
            ErrorClass::Transient => Some("is PostgreSQL running, and is `connection` right for it?"),
            _ if error.is_turned_away() => Some(
                "no line of pg_hba.conf and pg_ident.conf lets this operating system user connect as that role: run this as the owner of the \
                 data directory or as root; `walward setup --apply` adds the lines that are missing",
            ),
            _ => None,
        };
        return Some((exit_of(error.class()), hint));
    }
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return Some((client_exit(error), None));
    }
    if let Some(error) = error.downcast_ref::<DirectoryError>() {
        return Some(match error {
            DirectoryError::Unreadable { .. } => {
                (Exit::Key, Some("run this as root, or as the owner of the data directory"))
            }
            DirectoryError::Unsupported { .. } => (Exit::Refused, None),
            DirectoryError::NotOne { .. } => (Exit::NotFound, None),
        });
    }
    if error.downcast_ref::<TimeError>().is_some() {
        return Some((Exit::Usage, None));
    }
    judge_work(error)
}

const AT_WORK: &str = "`walward lease list` says who is at work; `walward lease break` is for a holder that is gone";

/// As [`judge_one`], for the errors of the three verbs. What a repository or the server said decides where it is the cause.
fn judge_work(error: &(dyn Error + 'static)) -> Option<(Exit, Option<&'static str>)> {
    if let Some(error) = error.downcast_ref::<BackupError>() {
        return match error {
            BackupError::Locked { .. } => Some((Exit::Locked, Some(AT_WORK))),
            BackupError::LeaseLost { .. } => Some((Exit::Locked, None)),
            BackupError::Refused(_)
            | BackupError::Label(_)
            | BackupError::History { .. }
            | BackupError::OtherWal { .. } => Some((Exit::Refused, None)),
            BackupError::WalMissing { .. } => {
                Some((Exit::Refused, Some("`walward check` tries every step of archiving")))
            }
            BackupError::Hangs { .. } | BackupError::StillHangs { .. } | BackupError::NoThread => {
                Some((Exit::Unreachable, None))
            }
            BackupError::Cancelled => Some((Exit::Interrupted, None)),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<CatalogueError>() {
        return judge_catalogue(error);
    }
    if let Some(error) = error.downcast_ref::<RestoreError>() {
        return match error {
            RestoreError::Refused(_) if error.class() != ErrorClass::NotFound => Some((Exit::Refused, None)),
            RestoreError::Locked { .. } => Some((Exit::Locked, Some(AT_WORK))),
            RestoreError::Catalogue(error) => judge_catalogue(error),
            _ => Some((exit_of(error.class()), None)),
        };
    }
    if let Some(error) = error.downcast_ref::<AsideError>() {
        return match error {
            AsideError::Repository { .. } | AsideError::Server { .. } => None,
            AsideError::Taken { .. } => Some((
                Exit::Refused,
                Some("to have this life back, set the other one aside first, or do both in a copy of the repository"),
            )),
            AsideError::Hangs { .. } => Some((Exit::Unreachable, None)),
            AsideError::BadCopy { .. } | AsideError::Gone { .. } => Some((Exit::Integrity, None)),
        };
    }
    if let Some(error) = error.downcast_ref::<PushError>() {
        return match error {
            PushError::Rejected { .. } | PushError::Different { .. } | PushError::Beyond { .. } => {
                Some((Exit::Refused, None))
            }
            PushError::Repository { .. } => None,
            _ => Some((exit_of(error.class()), None)),
        };
    }
    None
}

/// What the repository said decides, where one was asked.
fn judge_catalogue(error: &CatalogueError) -> Option<(Exit, Option<&'static str>)> {
    match error {
        CatalogueError::Repository { .. } => None,
        CatalogueError::NoRepository => Some((Exit::NoRepository, None)),
        CatalogueError::Timelines { class, .. } => Some((exit_of(*class), None)),
    }
}

fn exit_of_repository(error: &RepoError) -> Exit {
    match error {
        RepoError::NoRepository { .. } | RepoError::Replaced { .. } => Exit::NoRepository,
        RepoError::AlreadyThere { .. }
        | RepoError::Remnants { .. }
        | RepoError::NotEncrypted { .. }
        | RepoError::Newer { .. }
        | RepoError::OnePlace { .. }
        | RepoError::OtherCluster { .. } => Exit::Refused,
        RepoError::KeyNeeded { .. } | RepoError::UnknownMasterKey { .. } => Exit::Key,
        RepoError::Contended { .. } => Exit::Locked,
        RepoError::ExistingUnreadable { .. } => Exit::Integrity,
        RepoError::Keys(error) => exit_of_key(error),
        RepoError::Unseen { source, .. } => exit_of_repository(source),
        other => exit_of(other.class()),
    }
}

fn exit_of_key(error: &KeyError) -> Exit {
    match error {
        KeyError::NoSuchSlot(_) => Exit::NotFound,
        KeyError::LastSlot(_) | KeyError::NoRoom(_) => Exit::Refused,
        other => exit_of(other.class()),
    }
}

fn client_exit(error: &ClientError) -> Exit {
    match error {
        ClientError::Connect(_, error) if error.kind() == std::io::ErrorKind::PermissionDenied => Exit::Key,
        ClientError::Connect(..) | ClientError::Gone | ClientError::Silence(_) => Exit::Unreachable,
        ClientError::Stranger(..) => Exit::Refused,
        ClientError::Talk(_) | ClientError::Protocol(_) => Exit::Failed,
    }
}

fn store_hint(error: &StoreError) -> Option<&'static str> {
    match error.class {
        ErrorClass::Transient => {
            Some("check the network, the endpoint and the proxy; `walward check` tries everything")
        }
        ErrorClass::Denied if error.is_on_a_disk() => Some(
            "this user may not do that on the disk: the repository's folder and all in it must belong to the agent's user, and the folders \
             above it must let that user through (`ls -ld` each; `namei -l` shows them all)",
        ),
        ErrorClass::Denied => Some("check the credentials and what they are allowed to do"),
        ErrorClass::NoSpace => Some("make room where the repository lies"),
        ErrorClass::Corrupt => Some("take it from another repository, and keep the damaged object for later"),
        ErrorClass::NotFound | ErrorClass::Permanent | ErrorClass::Cancelled => None,
    }
}
