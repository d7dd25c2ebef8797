//! Stores: a place that keeps named, immutable objects. A URL becomes a [`Store`]; retry, deadline and concurrency are
//! layers over that one trait.
//!
//! Nothing here knows what an object means. Names are [`ObjectKey`]s, made by `repo` and by nobody else.
//!
//! The layers that [`open`] puts over a store, from the outside: tries again what may heal, waits for one of the places,
//! ends each attempt within its time. What a crash leaves behind is said by [`file`] and [`object`].
//!
//! | file | what it does |
//! |---|---|
//! | `key`, `error`, `creates`, `store` | names, errors, and the trait with what it speaks of |
//! | `options`, `credentials` | what is configured, and the keys that a request is signed with |
//! | `patience`, `backoff`, `time_limit`, `places` | one call: until when, how often, how long, how many at once |
//! | `calls`, `part_size` | the calls that a long write is made of; how large its parts are |
//! | `retry`, `limit`, `deadline`, `fault` | the layers over a store |
//! | `xml`, `foreign`, `proof`, `http`, `classify` | what an answer says, whose it is, what it proves, what a failure means |
//! | `client`, `create`, `upload`, `object` | a store over `object_store`: its steps, creating, uploads in parts, the whole |
//! | `empty_folders`, `disk`, `file` | a store in a folder: its steps on the disk, the whole |
//! | `memory`, `open`, `probe` | which store it is; how it behaves |
//! | `bucket`, `uploads` | what people are told of a bucket |

#[cfg(test)]
mod answers;
mod backoff;
mod bucket;
mod calls;
mod classify;
mod client;
#[cfg(test)]
mod conformance;
mod create;
mod creates;
mod credentials;
mod deadline;
mod disk;
mod empty_folders;
mod error;
#[doc(hidden)]
pub mod fault;
mod file;
mod foreign;
mod http;
mod key;
#[cfg(test)]
mod liars;
mod limit;
mod memory;
mod object;
mod open;
mod options;
mod part_size;
mod patience;
mod places;
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
mod time_limit;
mod upload;
mod uploads;
mod xml;

pub use bucket::Property;
pub use creates::Creates;
pub use error::StoreError;
pub use key::{KeyError, ObjectKey};
pub use memory::memory;
#[doc(hidden)]
pub use open::{bare_folder, with_layers};
pub use open::{create_root, create_root_for, install_crypto_provider, open};
pub use options::{Credentials, KeyFiles, KeySource, Limits, ServerSideEncryption, StoreKeys, StoreOptions, folder_of};
pub use part_size::PartLimits;
pub use patience::{as_patient_as_here, patient_until};
pub use probe::{ProbeCheck, ProbeReport, probe};
pub use store::{Body, Listing, ObjectInfo, Payload, Put, Store, StoredObject, Unfinished, Upload};
pub use uploads::{BegunUploads, begun_uploads};
