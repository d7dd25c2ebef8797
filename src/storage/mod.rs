//! Stores: a place that keeps named, immutable objects. A URL becomes a [`Store`]; retry, deadline, concurrency and fault
//! injection are layers over that one trait.
//!
//! Nothing here knows what an object means. Names are [`ObjectKey`]s, made by `repo` and by nobody else.

mod error;
mod key;
mod store;

pub use error::StoreError;
pub use key::{KeyError, ObjectKey};
pub use store::{Body, Listing, ObjectInfo, Payload, Put, Store, StoredObject, Upload};
