//! What a push comes to.

/// How a push succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It had been uploaded ahead.
    Ahead,
    /// It was uploaded now, or was on its way.
    Now,
    /// It is not archived: more WAL waited than `archive.queue_limit` allows. The gap is noted durably.
    LetGo,
    /// It is not archived yet: it stood before WAL that is to be let go. It is noted durably, and archived from pg_wal when the store is
    /// back.
    PutOff,
}
