//! Stores: a place that keeps named, immutable objects. A URL becomes a [`Store`]; retry, deadline and concurrency are
//! layers over that one trait.
//!
//! Nothing here knows what an object means. Names are [`ObjectKey`]s, made by `repo` and by nobody else.
//!
//! The layers that [`open`] puts over a store, from the outside: tries again what may heal, waits for one of the places,
//! ends each attempt within its time. What a crash leaves behind is said by [`file`] and [`object`].

#[cfg(test)]
mod answers;
mod bucket;
mod classify;
#[cfg(test)]
mod conformance;
mod create;
mod credentials;
mod deadline;
mod empty_folders;
mod error;
#[doc(hidden)]
pub mod fault;
mod file;
mod foreign;
mod heir;
mod http;
mod key;
#[cfg(test)]
mod liars;
mod limit;
mod memory;
mod object;
mod open;
mod options;
mod patience;
#[cfg(test)]
mod portals;
mod probe;
mod proof;
#[cfg(test)]
mod proxies;
mod retry;
#[cfg(test)]
mod server;
mod store;
mod upload;
mod uploads;

pub use bucket::Property;
pub use create::Creates;
pub use error::StoreError;
pub use key::{KeyError, ObjectKey};
pub use memory::memory;
#[doc(hidden)]
pub use open::{bare_folder, with_layers};
pub use open::{create_root, create_root_for, install_crypto_provider, open};
pub use options::{Credentials, KeyFiles, KeySource, Limits, ServerSideEncryption, StoreKeys, StoreOptions, folder_of};
pub use patience::{as_patient_as_here, patient_until};
pub use probe::{ProbeCheck, ProbeReport, probe};
pub use store::{Body, Listing, ObjectInfo, Payload, Put, Store, StoredObject, Unfinished, Upload};
pub use upload::PartLimits;
pub use uploads::{BegunUploads, begun_uploads};

use error::Cause;

/// What bounds the calls to one store; clones share the places.
#[derive(Debug, Clone)]
struct Calls {
    limits: Limits,
    places: limit::Places,
}

impl Calls {
    fn new(limits: Limits) -> Self {
        Self { places: limit::Places::new(&limits), limits }
    }

    /// As [`Calls::new`]; the places are those of this process at the store with this address.
    fn at(address: &str, limits: Limits) -> Self {
        Self { places: limit::Places::at(address, &limits), limits }
    }
}
