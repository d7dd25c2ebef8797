//! What goes wrong when repositories are asked what they hold.

use walward_base::ErrorClass;
use walward_repo::{RepoError, Repository};

/// What could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// A repository failed.
    #[error("cannot {doing} in repository {repository}")]
    Repository {
        /// What was being done.
        doing: String,
        /// The repository's name.
        repository: String,
        /// What it said.
        #[source]
        source: RepoError,
    },
    /// The timelines are not all known, and the target depends on one that may be among the others.
    #[error(
        "the timeline to restore cannot be told, because a newer one may be there: {why}; try again when that can be read, \
         leave that repository out, or restore the backup's own timeline (\"current\") or one by its number"
    )]
    Timelines {
        /// What could not be read.
        why: String,
        /// The failure's class.
        class: ErrorClass,
    },
    /// No repository was given.
    #[error("there is no repository to restore from")]
    NoRepository,
}

impl CatalogueError {
    /// What decisions are taken on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Repository { source, .. } => source.class(),
            Self::Timelines { class, .. } => *class,
            Self::NoRepository => ErrorClass::Permanent,
        }
    }

    pub(super) fn of(repository: &Repository, doing: impl Into<String>, source: RepoError) -> Self {
        Self::Repository { doing: doing.into(), repository: repository.name().to_owned(), source }
    }
}
