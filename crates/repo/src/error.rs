//! What goes wrong at a repository.

use std::sync::Arc;

use super::format::FormatError;
use super::keys::KeyError;
use walward_base::sys::cpu::WorkerDied;
use walward_base::{ErrorClass, hex};
use walward_storage::StoreError;

/// What failed at a repository. Every variant has a class. Objects are named with the store's URL in front.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The secret could not be had, or opens nothing.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Nobody made a repository here.
    #[error(
        "there is no repository for this cluster at {url}; check the URL and that the disk is mounted, or make one with `walward setup`"
    )]
    NoRepository {
        /// The store's URL.
        url: String,
    },
    /// A repository was to be made where one lost its identity.
    #[error(
        "{url} holds WAL or backups and no identity: what was left of a repository, or was written while it was emptied. No new repository is made \
         beside it, whose keys would not open it; bring `cluster/` and `keys/` back from a copy, move the old objects away, or use another URL"
    )]
    Remnants {
        /// The store's URL.
        url: String,
    },
    /// A repository was to be made where one is.
    #[error("there is a repository for this cluster at {url} already (cluster id {cluster_id}); it was left as it was")]
    AlreadyThere {
        /// The store's URL.
        url: String,
        /// The random id of the one that is there.
        cluster_id: String,
    },
    /// Two repositories were to be brought together that are of different clusters.
    #[error("the repositories {from} and {to} are of different clusters, or went apart; nothing was copied")]
    OtherCluster {
        /// The first: its URL and its lineages.
        from: String,
        /// The second, likewise.
        to: String,
    },
    /// Two repositories of one cluster are one place under two names.
    #[error(
        "the repositories \"{first}\" and \"{second}\" are one place under two names, and what lies there once is one copy; correct the `url` of one of them, or take it out of `repositories`"
    )]
    OnePlace {
        /// The one that was opened first.
        first: String,
        /// The other.
        second: String,
    },
    /// Another repository lies where the opened one was.
    #[error(
        "the repository at {url} is not the one that was opened: its cluster id is {found}, it was {expected}; was the disk or the bucket replaced?"
    )]
    Replaced {
        /// The store's URL.
        url: String,
        /// What the identity says now.
        found: String,
        /// What it said.
        expected: String,
    },
    /// Whether the repository is still there could not be seen, by a look that was made for several at once.
    #[error("cannot see whether the repository at {url} is still there")]
    Unseen {
        /// The store's URL.
        url: String,
        /// Why.
        #[source]
        source: Arc<RepoError>,
    },
    /// A stored shape that this version does not know.
    #[error("{object} was written by a newer walward (format {version}); upgrade walward on this host")]
    Newer {
        /// The object.
        object: String,
        /// The version in it.
        version: u32,
    },
    /// The bytes are not what was written.
    #[error("{object} is damaged")]
    Damaged {
        /// The object.
        object: String,
        /// How it shows.
        #[source]
        source: FormatError,
    },
    /// A name is taken by an object that cannot be read, so that nobody can say whether the content is the same.
    #[error(
        "{object} exists already but cannot be verified, so it was left as it was; when it is damaged, move it away in the store and try again"
    )]
    ExistingUnreadable {
        /// The object.
        object: String,
        /// Why it cannot be verified.
        #[source]
        source: Box<RepoError>,
    },
    /// The repository's objects are sealed and the configuration has no key.
    #[error("the repository at {url} is encrypted, and the configuration names no key; set `encryption` for it")]
    KeyNeeded {
        /// The store's URL.
        url: String,
    },
    /// The configuration asks for encryption and the repository has none.
    #[error(
        "the repository at {url} is not encrypted, and the configuration asks for encryption; make a new repository, or set `encryption = \"none\"`"
    )]
    NotEncrypted {
        /// The store's URL.
        url: String,
    },
    /// An object whose protection is not the repository's.
    #[error("{object} is {}, unlike its repository; it was not written here", if *.encrypted { "encrypted" } else { "not encrypted" })]
    ForeignProtection {
        /// The object.
        object: String,
        /// What the object's header says.
        encrypted: bool,
    },
    /// An object sealed under a master key that is not in the ring.
    #[error("{object} is sealed under the master key {}, which this repository's keys do not hold", hex::encode(.id))]
    UnknownMasterKey {
        /// The object.
        object: String,
        /// The key's id.
        id: [u8; 16],
    },
    /// What was to be stored could not be read.
    #[error("cannot read what was to be stored as {object}")]
    Content {
        /// The object.
        object: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A thread died.
    #[error("cannot compute {object}")]
    Worker {
        /// The object.
        object: String,
        /// How.
        #[source]
        source: WorkerDied,
    },
    /// Somebody wrote the same generation first, several times.
    #[error("cannot write {object}: others write at the same time; try again")]
    Contended {
        /// The object.
        object: String,
    },
}

impl RepoError {
    /// What decisions are taken on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Store(error) => error.class,
            Self::Keys(error) => error.class(),
            // Not "not found": a repository that is gone must never look like a WAL file that is absent.
            Self::NoRepository { .. }
            | Self::Remnants { .. }
            | Self::AlreadyThere { .. }
            | Self::OtherCluster { .. }
            | Self::OnePlace { .. }
            | Self::Replaced { .. }
            | Self::Newer { .. }
            | Self::NotEncrypted { .. }
            | Self::Worker { .. } => ErrorClass::Permanent,
            Self::Damaged { .. } | Self::ForeignProtection { .. } => ErrorClass::Corrupt,
            // A transient failure to read what is there is worth a retry, anything else is as it is.
            Self::ExistingUnreadable { source, .. } => match source.class() {
                ErrorClass::NotFound => ErrorClass::Transient,
                class => class,
            },
            Self::Unseen { source, .. } => match source.class() {
                ErrorClass::NotFound => ErrorClass::Transient,
                class => class,
            },
            Self::KeyNeeded { .. } | Self::UnknownMasterKey { .. } => ErrorClass::Denied,
            Self::Content { source, .. } => ErrorClass::of_io(source).never_absent(),
            Self::Contended { .. } => ErrorClass::Transient,
        }
    }

    /// Whether it is the store that fails or is away, and nothing that a person has to put right at the repository: a wrong key,
    /// a damaged object, another cluster's repository.
    pub fn is_the_stores(&self) -> bool {
        match self {
            Self::Store(error) => match error.class {
                ErrorClass::Transient | ErrorClass::Permanent | ErrorClass::Denied | ErrorClass::NoSpace => true,
                ErrorClass::NotFound | ErrorClass::Corrupt | ErrorClass::Cancelled => false,
            },
            // What an unmounted disk leaves is an empty folder.
            Self::NoRepository { .. } => true,
            Self::ExistingUnreadable { source, .. } => source.is_the_stores(),
            Self::Unseen { source, .. } => source.is_the_stores(),
            Self::Keys(_)
            | Self::Remnants { .. }
            | Self::AlreadyThere { .. }
            | Self::OtherCluster { .. }
            | Self::OnePlace { .. }
            | Self::Replaced { .. }
            | Self::Newer { .. }
            | Self::Damaged { .. }
            | Self::KeyNeeded { .. }
            | Self::NotEncrypted { .. }
            | Self::ForeignProtection { .. }
            | Self::UnknownMasterKey { .. }
            | Self::Content { .. }
            | Self::Worker { .. }
            | Self::Contended { .. } => false,
        }
    }

    /// Whether the repository that was opened is there no more: none is, or another one.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NoRepository { .. } | Self::Replaced { .. })
    }

    /// What one look found, for another of those who waited for it.
    pub(super) fn again(url: &str, found: &Arc<Self>) -> Self {
        match &**found {
            Self::NoRepository { url } => Self::NoRepository { url: url.clone() },
            Self::Replaced { url, found, expected } => {
                Self::Replaced { url: url.clone(), found: found.clone(), expected: expected.clone() }
            }
            _ => Self::Unseen { url: url.to_owned(), source: Arc::clone(found) },
        }
    }

    /// Whether what is there was sealed under a master key that this repository's keys, as they were read, do not hold.
    pub fn is_newer_key(&self) -> bool {
        match self {
            Self::ExistingUnreadable { source, .. } => source.is_newer_key(),
            Self::UnknownMasterKey { .. } => true,
            _ => false,
        }
    }

    /// The error for `object` when its bytes are wrong.
    pub(crate) fn damaged(object: &str, source: FormatError) -> Self {
        match source {
            FormatError::Newer(version) => Self::Newer { object: object.to_owned(), version },
            source => Self::Damaged { object: object.to_owned(), source },
        }
    }

    /// The error for `object` when something else about it is wrong.
    pub fn damaged_text(object: &str, what: &str) -> Self {
        Self::damaged(object, FormatError::Text(what.to_owned()))
    }

    /// The error for `object` when a thread died over it.
    pub(crate) fn worker(object: &str, source: WorkerDied) -> Self {
        Self::Worker { object: object.to_owned(), source }
    }
}
