//! Locks that stay usable after a thread panicked while it held one.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Taking a lock, whatever became of who held it before. For data that is whole between any two of its changes: a panic elsewhere must
/// not stop every later use of it as well.
pub trait Locked<T: ?Sized> {
    /// Waits for the lock and takes it, poisoned or not.
    fn locked(&self) -> MutexGuard<'_, T>;
}

impl<T: ?Sized> Locked<T> for Mutex<T> {
    fn locked(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_taken_after_a_panic_under_it() {
        let mutex = Mutex::new(1);
        let panicked = std::thread::scope(|scope| {
            let holder = scope.spawn(|| {
                let mut held = mutex.locked();
                *held = 2;
                panic!("while it is held");
            });
            holder.join().is_err()
        });
        assert!(panicked && mutex.is_poisoned());
        assert_eq!(*mutex.locked(), 2);
    }
}
