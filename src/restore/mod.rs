//! From a repository back to a data directory.
