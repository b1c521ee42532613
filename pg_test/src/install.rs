//! Where the Postgres versions are that the extension is built for and tested on.
//!
//! `cargo xtask setup` writes `target/installs.json`; all that is run afterwards, by xtask or by hand, reads it.
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::user;

/// One private Postgres installation: ours to copy an extension into, with nothing of the system touched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Install {
    pub major: u16,
    pub bindir: PathBuf,
}

impl Install {
    /// All versions that `cargo xtask setup` has prepared, the oldest first.
    pub fn all() -> Result<Vec<Install>> {
        let path = index_path();
        let text =
            fs::read_to_string(&path).with_context(|| format!("no {}: run cargo xtask setup first", path.display()))?;
        let mut all: Vec<Install> =
            serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
        all.sort_by_key(|install| install.major);
        Ok(all)
    }

    /// The version that `SHARDKEEPER_PG` names; without it the oldest, as it has the fewest features to lean on.
    pub fn chosen() -> Result<Install> {
        match std::env::var("SHARDKEEPER_PG") {
            Ok(text) => {
                let major = text.parse().with_context(|| format!("SHARDKEEPER_PG is not a major version: {text:?}"))?;
                Install::of(major)
            }
            Err(_) => Install::all()?.into_iter().next().context("no Postgres is installed: run cargo xtask setup"),
        }
    }

    /// The version that `SHARDKEEPER_NODE_PG` names for nodes that need not be of a certain one.
    pub fn guest() -> Option<u16> {
        std::env::var("SHARDKEEPER_NODE_PG").ok()?.parse().ok()
    }

    pub fn of(major: u16) -> Result<Install> {
        let all = Install::all()?;
        let known: Vec<String> = all.iter().map(|install| install.major.to_string()).collect();
        all.into_iter()
            .find(|install| install.major == major)
            .with_context(|| format!("no Postgres {major} is prepared, only {}", known.join(", ")))
    }

    /// Notes that these are there, beside those that were noted before.
    pub fn save_all(prepared: &[Install]) -> Result<()> {
        let path = index_path();
        fs::create_dir_all(target_dir())?;
        let mut all = prepared.to_vec();
        let before = fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str::<Vec<Install>>(&text).ok());
        let others = before.into_iter().flatten().filter(|old| {
            old.program("postgres").is_file() && prepared.iter().all(|install| install.major != old.major)
        });
        all.extend(others);
        all.sort_by_key(|install| install.major);
        fs::write(&path, serde_json::to_string_pretty(&all)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Whether something can be built against it; a packaged server may have come without them.
    pub fn has_headers(&self) -> bool {
        self.config("includedir-server").is_ok_and(|dir| Path::new(&dir).join("postgres.h").is_file())
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    /// What `pg_config --<item>` says; the paths are those of this private copy.
    pub fn config(&self, item: &str) -> Result<String> {
        let output = Command::new(self.program("pg_config"))
            .arg(format!("--{item}"))
            .output()
            .with_context(|| format!("cannot run {}", self.program("pg_config").display()))?;
        ensure!(output.status.success(), "pg_config --{item} failed");
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Whether this server can speak TLS at all: the packaged 18 is built without it.
    pub fn has_tls(&self) -> Result<bool> {
        let configure = self.config("configure")?;
        Ok(configure.contains("openssl"))
    }

    pub fn extension_dir(&self) -> Result<PathBuf> {
        Ok(Path::new(&self.config("sharedir")?).join("extension"))
    }
}

/// The root of the workspace. What cargo says now goes before what it said when this was compiled: a checkout can be moved.
pub fn workspace() -> PathBuf {
    let now = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    now.iter()
        .filter_map(|package| package.parent())
        .find(|root| root.join("shardkeeper.control").is_file())
        .or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).parent())
        .unwrap_or(Path::new("."))
        .to_owned()
}

pub fn target_dir() -> PathBuf {
    workspace().join("target")
}

fn index_path() -> PathBuf {
    target_dir().join("installs.json")
}

/// A directory for what the servers must read, made if need be. It is below `target/`, except for root with a checkout
/// where others may not go (`/root`): the servers run as another user then, and could not get there.
pub fn server_readable(name: &str) -> Result<PathBuf> {
    let target = target_dir();
    fs::create_dir_all(&target)?;
    let parent =
        if user::server_user()?.is_none() || others_may_enter(&target)? { target } else { outside_of_the_checkout()? };
    let directory = parent.join(name);
    fs::create_dir_all(&directory)?;
    readable(&directory)?;
    Ok(directory)
}

fn outside_of_the_checkout() -> Result<PathBuf> {
    let directory = PathBuf::from("/var/tmp/shardkeeper-0");
    match fs::create_dir(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot create {}", directory.display()));
        }
        _ => {}
    }
    // Anybody may have made it before us.
    let meta = fs::symlink_metadata(&directory)?;
    ensure!(meta.is_dir() && meta.uid() == 0, "{} exists and is not root's directory", directory.display());
    readable(&directory)?;
    Ok(directory)
}

/// Whatever the umask is.
fn readable(directory: &Path) -> Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot open {} to others", directory.display()))
}

fn others_may_enter(path: &Path) -> Result<bool> {
    for dir in path.canonicalize()?.ancestors() {
        if fs::metadata(dir)?.mode() & 0o001 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}
