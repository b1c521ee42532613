//! cargo-pgrx: below `target/`, in the one version that fits the library, whatever the user has installed himself.
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use pg_test::install::target_dir;

use crate::run::{output, run};

const VERSION: &str = "0.18.1";

/// pgrx's own state, kept apart from the user's `~/.pgrx`.
pub fn pgrx_home() -> PathBuf {
    target_dir().join("pgrx-home")
}

fn program() -> PathBuf {
    target_dir().join("tools/bin/cargo-pgrx")
}

/// `cargo pgrx …` for this workspace.
pub fn cargo_pgrx() -> Command {
    let mut command = Command::new(program());
    command.arg("pgrx").env("PGRX_HOME", pgrx_home());
    command
}

pub fn install_cargo_pgrx() -> Result<()> {
    if is_there() {
        return Ok(());
    }
    println!("cargo-pgrx {VERSION} is missing: building it takes some minutes, once");
    let root = target_dir().join("tools");
    run(Command::new("cargo")
        .args(["install", "cargo-pgrx", "--version", &format!("={VERSION}"), "--locked", "--force", "--root"])
        .arg(&root)
        // The build directory is kept out of the workspace's, which may be locked by whoever started us.
        .env("CARGO_TARGET_DIR", root.join("build")))?;
    ensure!(is_there(), "cargo-pgrx {VERSION} was installed but does not answer");
    // 300 MB that nobody needs again.
    let _ = std::fs::remove_dir_all(root.join("build"));
    Ok(())
}

fn is_there() -> bool {
    program().is_file()
        && output(cargo_pgrx().arg("--version")).is_ok_and(|text| text.split_whitespace().any(|word| word == VERSION))
}
