//! `cargo xtask setup`: everything that is needed to build and test, installed where it is missing.
mod apt;
mod mirror;
mod pg18;
mod tools;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use pg_test::Install;
use pg_test::install::target_dir;

pub use tools::{cargo_pgrx, pgrx_home};

/// Does nothing, and fast, when all is there.
pub fn run() -> Result<Vec<Install>> {
    fs::create_dir_all(target_dir())?;
    // Two at a time would pull the directories away from under each other.
    let lock = fs::File::create(target_dir().join("setup.lock"))?;
    lock.lock().context("cannot lock the set-up")?;
    apt::install_missing()?;
    tools::install_cargo_pgrx()?;
    let distribution = apt::newest_postgres()
        .context("no Postgres between 15 and 18 with its server headers was found after installing it")?;
    let mut installs = vec![mirror::prepare(&distribution)?];
    if distribution.major != pg18::MAJOR {
        installs.push(pg18::prepare()?);
    }
    Install::save_all(&installs)?;
    write_pgrx_config(&installs)?;
    Ok(installs)
}

/// pgrx reads from there which `pg_config` belongs to which feature.
fn write_pgrx_config(installs: &[Install]) -> Result<()> {
    let mut text = String::from("[configs]\n");
    for install in installs {
        let path = install.program("pg_config");
        text.push_str(&format!("pg{} = \"{}\"\n", install.major, path.display()));
    }
    fs::create_dir_all(pgrx_home())?;
    write_if_changed(&pgrx_home().join("config.toml"), &text)
}

/// An unchanged file keeps its time, or cargo would build everything again.
fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn downloads() -> Result<std::path::PathBuf> {
    let dir = target_dir().join("downloads");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}
