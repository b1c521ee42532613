//! Who the servers run as: Postgres refuses root, so root starts them as `postgres`; anybody else as himself.
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

const NAME: &str = "postgres";

#[derive(Clone, Copy, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// `None` means: as who we are.
pub fn server_user() -> Result<Option<User>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&NAME))
        .and_then(|fields| Some(User { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? }))
        .map(Some)
        .context("root needs the user \"postgres\" to run servers as: run cargo xtask setup")
}

/// A command that runs as the servers' user.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
    let mut command = Command::new(program);
    if let Some(user) = server_user()? {
        // With a uid and no groups given, std drops root's supplementary groups too.
        command.gid(user.gid).uid(user.uid);
    }
    Ok(command)
}

/// Gives `path` to the servers' user.
pub fn give(path: &Path) -> Result<()> {
    if let Some(user) = server_user()? {
        chown(path, Some(user.uid), Some(user.gid)).with_context(|| format!("cannot give {} away", path.display()))?;
    }
    Ok(())
}
