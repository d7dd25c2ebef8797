//! Links the unwinder into the client, so that it needs no shared library but libc.
//!
//! `archive_command` starts `walward-wal` once a segment, and a third of such a start was the loader's search for
//! `libgcc_s.so.1` (benches/peers). rustc asks for that library by name; a linker script of the same name, found
//! first, hands the linker the archives that gcc ships for static linking instead. Where the C compiler has none of them, nothing
//! changes but the speed.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CC");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") != "linux" || variable("CARGO_CFG_TARGET_ENV") != "gnu" {
        return Ok(());
    }
    let compiler = match (variable("RUSTC_LINKER"), variable("CC")) {
        (linker, _) if !linker.is_empty() => linker,
        (_, compiler) if !compiler.is_empty() => compiler,
        _ => "cc".to_owned(),
    };
    if let (Some(unwinder), Some(runtime)) = (archive(&compiler, "libgcc_eh.a"), archive(&compiler, "libgcc.a")) {
        let folder = PathBuf::from(variable("OUT_DIR")).join("static-unwinder");
        std::fs::create_dir_all(&folder)?;
        let script = format!("GROUP ( \"{}\" \"{}\" )\n", unwinder.display(), runtime.display());
        #[allow(clippy::disallowed_methods, reason = "a file of the build needs no durability")]
        std::fs::write(folder.join("libgcc_s.so"), script)?;
        println!("cargo::rustc-link-arg-bin=walward-wal=-L{}", folder.display());
    }
    Ok(())
}

/// Where the compiler has its archive `name`. It answers with the bare name when it has none.
fn archive(compiler: &str, name: &str) -> Option<PathBuf> {
    let output = Command::new(compiler).arg(format!("-print-file-name={name}")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    (path.is_absolute() && Path::is_file(&path)).then_some(path)
}
