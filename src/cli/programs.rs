//! The programs of this installation.

use std::path::PathBuf;

/// `walward-wal` of this installation, or its bare name when it does not lie beside this program.
pub(super) fn client_program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("walward-wal"));
    beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("walward-wal"))
}

/// This program, or its bare name when it is not known where it lies.
pub(super) fn own_program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("walward"))
}
