//! What the distribution provides: the compiler's surroundings, and its own Postgres with the server headers.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::packaged::Packaged;
use crate::run::{in_path, output, run, succeeds};

/// A Postgres of the distribution: `/usr/lib/postgresql/<major>`.
pub struct Distribution {
    pub major: u16,
    pub home: PathBuf,
}

/// What is needed to build, and to fetch `packaged` versions.
pub fn install_missing(packaged: &[&Packaged]) -> Result<()> {
    let missing = missing_packages(packaged);
    let without_postgres = newest_postgres().is_none();
    if missing.is_empty() && !without_postgres {
        return Ok(());
    }
    ensure!(
        in_path("apt-get").is_some(),
        "apt-get is not here, so install by hand: {} and Postgres 15 or newer with its server headers",
        missing.join(" ")
    );
    run(apt_get()?.arg("update"))?;
    let mut packages: Vec<String> = missing.iter().map(|name| (*name).to_owned()).collect();
    if without_postgres {
        let major = offered_major()?;
        // In one go: the headers can bring a newer server, which must not happen under a running one.
        packages.push(format!("postgresql-{major}"));
        packages.push(format!("postgresql-server-dev-{major}"));
    }
    run(apt_get()?.args(["install", "--yes", "--no-install-recommends"]).args(&packages))
}

fn missing_packages(packaged: &[&Packaged]) -> Vec<&'static str> {
    let mut missing = Vec::new();
    let mut need = |there: bool, package: &'static str| {
        if !there {
            missing.push(package);
        }
    };
    need(in_path("cc").is_some() && in_path("make").is_some(), "build-essential");
    need(in_path("clang").is_some(), "clang");
    need(has_libclang(), "libclang-dev");
    need(in_path("pkg-config").is_some(), "pkg-config");
    need(in_path("openssl").is_some(), "openssl");
    // Debian puts it where only root looks.
    need(Path::new("/usr/sbin/pgbouncer").exists(), "pgbouncer");
    if packaged.iter().any(|packaged| packaged.missing_clients().0) {
        need(in_path("python3").is_some(), "python3");
        need(succeeds(Command::new("python3").args(["-m", "pip", "--version"])), "python3-pip");
    }
    if packaged.iter().any(|packaged| packaged.missing_clients().1) {
        need(in_path("npm").is_some(), "npm");
    }
    missing
}

/// bindgen loads it at build time, by the name with or without a version.
fn has_libclang() -> bool {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let versions = children(Path::new("/usr/lib"))
        .filter(|dir| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("llvm-")))
        .map(|dir| dir.join("lib"));
    versions
        .chain([PathBuf::from("/usr/lib"), PathBuf::from(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH))])
        .flat_map(|dir| children(&dir).collect::<Vec<_>>())
        .any(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libclang.so")))
}

/// The newest that has both the server and its headers.
pub fn newest_postgres() -> Option<Distribution> {
    children(Path::new("/usr/lib/postgresql"))
        .filter_map(|home| {
            let major: u16 = home.file_name()?.to_str()?.parse().ok()?;
            let headers = PathBuf::from(format!("/usr/include/postgresql/{major}/server/postgres.h"));
            let complete =
                home.join("bin/postgres").is_file() && home.join("bin/pg_config").is_file() && headers.is_file();
            (complete && (15..=18).contains(&major)).then_some(Distribution { major, home })
        })
        .max_by_key(|found| found.major)
}

/// Which version the distribution's package `postgresql` stands for.
fn offered_major() -> Result<u16> {
    let text = output(Command::new("apt-cache").args(["depends", "postgresql"]))?;
    let major = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("postgresql-")?.parse().ok())
        .context("apt-cache does not say which version the package postgresql is")?;
    if !(15..=18).contains(&major) {
        bail!("this distribution has Postgres {major}; 15 to 18 are supported");
    }
    Ok(major)
}

fn apt_get() -> Result<Command> {
    let root = output(Command::new("id").arg("-u"))? == "0";
    let mut command = if root {
        Command::new("env")
    } else {
        ensure!(in_path("sudo").is_some(), "packages are missing, and installing them needs root or sudo");
        let mut sudo = Command::new("sudo");
        sudo.arg("env");
        sudo
    };
    command.arg("DEBIAN_FRONTEND=noninteractive").args(["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]);
    Ok(command)
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}
