//! Building the extension and installing it into our private Postgres.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use pg_test::Install;
use pg_test::install::{target_dir, workspace};

use crate::build::build;
use crate::run::output;
use crate::setup::{self, Wanted, pgrx_home};

/// The version of the extension, which is that of all packages here.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How the extension is built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quickly, and with checks of overflows: what tests and the demo run.
    Cluster,
    /// What users install and what is measured.
    Release,
}

impl Profile {
    /// As cargo calls it, which is also its directory below `target/`.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Cluster => "cluster",
            Profile::Release => "release",
        }
    }
}

/// `cargo xtask install [--pg N]`
pub fn command(args: &[String]) -> Result<()> {
    let wanted = match args {
        [] => Wanted::All,
        [option, value] if option == "--pg" => Wanted::Major(value.parse().context("--pg needs a major version")?),
        _ => bail!("usage: cargo xtask install [--pg N]"),
    };
    for found in setup::run(wanted)? {
        install(&found, Profile::Cluster)?;
    }
    Ok(())
}

/// Builds the extension for this Postgres and copies it there.
pub fn install(install: &Install, profile: Profile) -> Result<()> {
    let library = built(install, profile)?;
    let control = workspace().join("shardkeeper.control");
    let writer = target_dir().join(profile.name()).join("install_script");
    let script = output(Command::new(writer).arg(&library).arg(&control).arg(VERSION))?;
    let extensions = install.extension_dir()?;
    let place = PathBuf::from(install.config("pkglibdir")?).join("shardkeeper.so");
    // A running server has the old file mapped, and keeps it.
    let _ = fs::remove_file(&place);
    fs::copy(&library, &place).with_context(|| format!("cannot copy the extension to {}", place.display()))?;
    readable(&place)?;
    let control = fs::read_to_string(&control)?.replace("@CARGO_VERSION@", VERSION);
    write(&extensions.join("shardkeeper.control"), &control)?;
    write(&extensions.join(format!("shardkeeper--{VERSION}.sql")), &script)?;
    for name in upgrade_scripts()? {
        write(&extensions.join(&name), &fs::read_to_string(workspace().join("sql").join(&name))?)?;
    }
    Ok(())
}

/// `shardkeeper--<from>--<to>.sql`, by what the source has: an installation may keep old ones.
pub fn upgrade_scripts() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(workspace().join("sql"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("shardkeeper--") && name.matches("--").count() == 2 {
            names.push(name);
        }
    }
    Ok(names)
}

fn built(install: &Install, profile: Profile) -> Result<PathBuf> {
    let directory = target_dir().join(profile.name());
    let library = directory.join("libshardkeeper.so");
    // The builds for all versions are side by side, only the last step writes the same file for each: cargo would take
    // that of another version for its own.
    if built_for(profile).is_some_and(|last| last != install.major) {
        let _ = fs::remove_file(directory.join("deps/libshardkeeper.so"));
    }
    fs::create_dir_all(&directory)?;
    fs::write(stamp(profile), install.major.to_string())?;
    let packages = ["--package", "shardkeeper", "--package", "install_script"];
    let mut command = cargo("build");
    command.args(packages).args(["--profile", profile.name()]).for_version(install);
    build(&format!("building the extension for Postgres {}", install.major), "shardkeeper", &mut command)?;
    Ok(library)
}

/// Which Postgres the extension was last built against.
pub fn built_for(profile: Profile) -> Option<u16> {
    fs::read_to_string(stamp(profile)).ok()?.parse().ok()
}

fn stamp(profile: Profile) -> PathBuf {
    target_dir().join(profile.name()).join("shardkeeper.version")
}

/// A strict umask of root would hide the files from the servers' user.
fn readable(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot open {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    // It may be a link into the system's directory.
    let _ = fs::remove_file(path);
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    readable(path)
}

/// cargo for this workspace, with pgrx's state where we keep it.
pub fn cargo(command: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.arg(command).current_dir(workspace()).env("PGRX_HOME", pgrx_home());
    cargo
}

pub trait ForVersion {
    /// With the extension built against this Postgres.
    fn for_version(&mut self, install: &Install) -> &mut Command;
}

impl ForVersion for Command {
    fn for_version(&mut self, install: &Install) -> &mut Command {
        if !install.has_headers() {
            // pgrx brings along what it would read from them, for its own documentation.
            let wrapper = workspace().join("xtask/bundled-bindings.sh");
            self.env("DOCS_RS", "1").env("RUSTC_WRAPPER", wrapper);
        }
        self.args(["--no-default-features", "--features", &format!("shardkeeper/pg{}", install.major)])
    }
}
