//! Where `walward-wal` is. Cargo builds for a test the programs of its own package only, and the client has a package of
//! its own, so that nothing but the standard library can be in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The client, built in the folder and the profile of the other programs.
pub fn walward_wal() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_walward")).parent().expect("a folder");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--locked", "--offline", "--package", "walward-wire", "--bin", "walward-wal"]);
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let program = folder.join("walward-wal");
        assert!(program.is_file(), "cargo built {} elsewhere", program.display());
        program
    })
}
