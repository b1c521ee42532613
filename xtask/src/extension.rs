//! Building the extension and installing it into our private Postgres.
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use pg_test::Install;
use pg_test::install::{target_dir, workspace};

use crate::run::run;
use crate::setup::{self, cargo_pgrx, pgrx_home};

/// Each version has its own build directory: switching between them must not build all again.
pub fn build_dir(install: &Install) -> PathBuf {
    target_dir().join(format!("pg{}", install.major))
}

pub fn features(install: &Install) -> [String; 3] {
    ["--no-default-features".into(), "--features".into(), format!("pg{}", install.major)]
}

/// `cargo xtask install [--pg N]`
pub fn command(args: &[String]) -> Result<()> {
    let wanted: Option<u16> = match args {
        [] => None,
        [option, value] if option == "--pg" => Some(value.parse().context("--pg needs a major version")?),
        _ => bail!("usage: cargo xtask install [--pg N]"),
    };
    for found in setup::run()? {
        if wanted.is_none_or(|major| major == found.major) {
            install(&found)?;
        }
    }
    Ok(())
}

pub fn install(install: &Install) -> Result<()> {
    run(cargo_pgrx()
        .args(["install", "--release", "--pg-config"])
        .arg(install.program("pg_config"))
        .args(features(install))
        .env("CARGO_TARGET_DIR", build_dir(install))
        .current_dir(workspace()))?;
    // A strict umask of root would hide the files from the servers' user.
    let extensions = install.extension_dir()?;
    run(Command::new("chmod")
        .arg("-R")
        .arg("a+rX")
        .arg(extensions.join("shardkeeper.control"))
        .args(written_scripts(&extensions)?)
        .arg(PathBuf::from(install.config("pkglibdir")?).join("shardkeeper.so")))
}

fn written_scripts(extensions: &std::path::Path) -> Result<Vec<PathBuf>> {
    let mut scripts = Vec::new();
    for entry in std::fs::read_dir(extensions)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("shardkeeper--")) {
            scripts.push(path);
        }
    }
    Ok(scripts)
}

/// cargo for this workspace, with pgrx's state where we keep it.
pub fn cargo(command: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.arg(command).current_dir(workspace()).env("PGRX_HOME", pgrx_home());
    cargo
}
