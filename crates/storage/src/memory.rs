//! A store in memory, for tests.

use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;

use super::calls::Calls;
use super::client::ObjectStoreBacked;
use super::{Creates, Limits, Store};

/// A new, empty store that is gone with its last handle. It behaves as the cloud's do, conditional creation included.
pub fn memory() -> Arc<dyn Store> {
    let client = Box::new(InMemory::new());
    let calls = Calls::new(Limits::default());
    Arc::new(ObjectStoreBacked::known(client, "memory:".to_owned(), Path::default(), calls, Creates::Once))
}
