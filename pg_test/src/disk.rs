//! A disk that is really full: a small file system in memory, mounted below a cluster's directory.
//!
//! Mounting needs root, or `sudo` without a password. The watchdog unmounts what is left in the cluster's directory.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::user;

pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// A new directory with a file system of so many megabytes on it, the servers' user's. `None`, said loudly, where
    /// nobody may mount anything.
    pub fn mount(path: &Path, megabytes: u32) -> Result<Option<Disk>> {
        std::fs::create_dir(path).with_context(|| format!("cannot create {}", path.display()))?;
        let options = format!("size={megabytes}m,mode=0700,{}", owner()?);
        let mounted = privileged("mount")
            .args(["-t", "tmpfs", "-o", &options, "shardkeeper_test"])
            .arg(path)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!(
                "\n!!! SKIPPED: no disk can be made full here: mounting needs root, or sudo without a password !!!\n"
            );
            return Ok(None);
        }
        Ok(Some(Disk { path: path.to_owned() }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn resize(&self, megabytes: u32) -> Result<()> {
        let status = privileged("mount")
            .args(["-o", &format!("remount,size={megabytes}m")])
            .arg(&self.path)
            .status()
            .context("cannot run mount")?;
        ensure!(status.success(), "cannot resize {}", self.path.display());
        Ok(())
    }

    pub fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

fn owner() -> Result<String> {
    let user = user::server_user()?;
    let (uid, gid) = match user {
        Some(user) => (user.uid, user.gid),
        None => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    };
    Ok(format!("uid={uid},gid={gid}"))
}

fn privileged(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}
