//! Bounds that belong to the process and not to the object that is made last: what has one name is one thing, for as long as
//! anybody holds it. A configuration that is read again makes new objects while the old ones end; both are bound together.

use crate::Locked;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

/// Things by name.
#[derive(Debug)]
pub struct Shared<T>(Mutex<BTreeMap<String, Weak<T>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Shared<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The thing of this name, made when there is none.
    pub fn get(&self, name: String, make: impl FnOnce() -> T) -> Arc<T> {
        let mut known = self.0.locked();
        if let Some(found) = known.get(&name).and_then(Weak::upgrade) {
            return found;
        }
        known.retain(|_, thing| thing.strong_count() > 0);
        let thing = Arc::new(make());
        known.insert(name, Arc::downgrade(&thing));
        thing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_one_name_is_one_thing_while_it_is_held_and_is_forgotten_later() {
        static THINGS: Shared<u32> = Shared::new();
        let first = THINGS.get("a".to_owned(), || 1);
        assert_eq!((*THINGS.get("a".to_owned(), || 2), *THINGS.get("b".to_owned(), || 3)), (1, 3));
        drop(first);
        assert_eq!(*THINGS.get("a".to_owned(), || 4), 4);
        assert_eq!(THINGS.0.lock().unwrap().len(), 1);
    }
}
