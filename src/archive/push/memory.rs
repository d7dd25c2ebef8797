//! The memory that one file on its way may take: as much as it could need, and less as soon as less is known to be enough.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::OwnedSemaphorePermit;
use walward_base::Locked;

/// Places in a semaphore that counts MiB.
pub struct Memory(Mutex<State>);

struct State {
    permit: OwnedSemaphorePermit,
    /// The file's length, bytes.
    file_bytes: u64,
    /// Repositories that it is not sealed for yet. Sealed it may be as long as the file, should it not compress.
    unsealed: usize,
    /// What is sealed, bytes.
    stored_bytes: u64,
}

impl Memory {
    /// The memory for `copies` of a file of `file_bytes` bytes.
    pub fn new(permit: OwnedSemaphorePermit, file_bytes: u64, copies: usize) -> Self {
        Self(Mutex::new(State { permit, file_bytes, unsealed: copies, stored_bytes: 0 }))
    }

    /// `copies` more are sealed, and have `stored_bytes` bytes together.
    pub fn sealed(&self, copies: usize, stored_bytes: u64) {
        let mut state = self.state();
        state.unsealed = state.unsealed.saturating_sub(copies);
        state.stored_bytes = state.stored_bytes.saturating_add(stored_bytes);
        state.keep_what_is_needed();
    }

    /// Of `copies` all but `waiting` have arrived: these are in memory no more. Which of the sealed ones is not known; each is
    /// taken for an equal part.
    pub fn arrived(&self, waiting: usize, copies: usize) {
        let mut state = self.state();
        let sealed = copies.saturating_sub(state.unsealed).max(1);
        let waiting_sealed = waiting.saturating_sub(state.unsealed).min(sealed);
        state.stored_bytes = (state.stored_bytes / sealed as u64).saturating_mul(waiting_sealed as u64);
        state.unsealed = state.unsealed.min(waiting);
        state.keep_what_is_needed();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.locked()
    }
}

impl State {
    fn keep_what_is_needed(&mut self) {
        let unsealed_bytes = self.file_bytes.saturating_mul(self.unsealed as u64);
        let bytes = unsealed_bytes.saturating_add(self.stored_bytes);
        let mib = usize::try_from(bytes.div_ceil(1 << 20)).unwrap_or(usize::MAX);
        drop(self.permit.split(self.permit.num_permits().saturating_sub(mib)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn room(memory: &Arc<Semaphore>, mib: u32, copies: usize) -> Memory {
        let permit = Arc::clone(memory).try_acquire_many_owned(mib).expect("free");
        Memory::new(permit, 16 * MIB, copies)
    }

    #[test]
    fn what_is_sealed_keeps_what_it_takes_and_what_is_not_keeps_what_it_might() {
        let memory = Arc::new(Semaphore::new(64));
        let room = room(&memory, 48, 3);
        room.sealed(2, 9 * MIB + 1);
        assert_eq!(memory.available_permits(), 64 - (10 + 16));
        room.sealed(1, 5 * MIB);
        assert_eq!(memory.available_permits(), 64 - 15);
        room.arrived(1, 3);
        assert_eq!(memory.available_permits(), 64 - 5);
        room.arrived(0, 3);
        assert_eq!(memory.available_permits(), 64);
    }

    #[test]
    fn a_copy_that_is_still_to_be_read_keeps_its_memory_when_the_others_have_arrived() {
        let memory = Arc::new(Semaphore::new(64));
        let room = room(&memory, 32, 2);
        room.sealed(1, 2 * MIB);
        room.arrived(1, 2);
        assert_eq!(memory.available_permits(), 64 - 16);
        room.sealed(1, 12 * MIB);
        assert_eq!(memory.available_permits(), 64 - 12);
    }

    #[test]
    fn what_was_larger_than_all_memory_never_takes_more_than_it_was_given() {
        let memory = Arc::new(Semaphore::new(8));
        let room = room(&memory, 8, 1);
        room.sealed(1, 17 * MIB);
        assert_eq!(memory.available_permits(), 0);
        drop(room);
        assert_eq!(memory.available_permits(), 8);
    }
}
