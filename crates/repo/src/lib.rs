//! What a repository is: the names of its objects, their format (FORMAT.md), its keys, its identity, its manifests and leases.
//! The only room that names an object or defines a stored shape.

pub mod aside;
mod aside_id;
pub mod block_index;
mod checked_json;
pub mod entries;
mod error;
pub mod facts;
pub mod format;
mod frame_reader;
pub mod gap;
mod generations;
#[cfg(test)]
mod golden;
pub mod identity;
pub mod keys;
pub mod layout;
mod lazy;
pub mod lease;
pub mod leases;
mod looks;
pub mod manifest;
pub mod place;
pub mod remains;
mod repository;
mod sealed;
pub mod several;
mod standing;
pub mod stored;
pub mod transfer;
#[cfg(test)]
mod two_setups;
mod work;

pub use error::RepoError;
pub use frame_reader::FrameReader;
pub use lazy::LazyRepository;
pub use repository::{Encryption, ObjectSummary, OpenedObject, PutNew, Repository};
pub use standing::Standing;
