//! `cargo xtask setup`: everything that is needed to build and test, installed where it is missing.
mod apt;
mod mirror;
mod packaged;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pg_test::Install;
use pg_test::install::target_dir;

/// All that are supported, the oldest first.
pub const MAJORS: [u16; 4] = [15, 16, 17, 18];

/// Which Postgres is to be prepared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The distribution's own: nothing else has to be fetched.
    Distribution,
    Major(u16),
    All,
}

/// Does nothing, and fast, when all is there. The wanted versions, the oldest first.
pub fn run(wanted: Wanted) -> Result<Vec<Install>> {
    if let Wanted::Major(major) = wanted {
        ensure!(MAJORS.contains(&major), "Postgres {major} is not one of those supported: 15 to 18");
    }
    fs::create_dir_all(target_dir())?;
    // Two at a time would pull the directories away from under each other.
    let lock = fs::File::create(target_dir().join("setup.lock"))?;
    lock.lock().context("cannot lock the set-up")?;
    let packages = MAJORS.into_iter().filter_map(packaged::find).filter(|packaged| match wanted {
        Wanted::Distribution => false,
        Wanted::Major(major) => packaged.major == major,
        Wanted::All => true,
    });
    let packages: Vec<_> = packages.collect();
    apt::install_missing(&packages)?;
    let distribution = apt::newest_postgres()
        .context("no Postgres between 15 and 18 with its server headers was found after installing it")?;
    let mut installs = vec![mirror::prepare(&distribution)?];
    for packaged in packages.iter().filter(|packaged| packaged.major != distribution.major) {
        installs.push(packaged.prepare()?);
    }
    Install::save_all(&installs)?;
    write_pgrx_config(&Install::all()?)?;
    if let Wanted::Major(major) = wanted {
        installs.retain(|install| install.major == major);
        ensure!(!installs.is_empty(), "Postgres {major} is neither the distribution's nor in a package");
    }
    installs.sort_by_key(|install| install.major);
    Ok(installs)
}

/// pgrx's own state, kept apart from the user's `~/.pgrx`.
pub fn pgrx_home() -> PathBuf {
    target_dir().join("pgrx-home")
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

fn downloads() -> Result<PathBuf> {
    let dir = target_dir().join("downloads");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}
