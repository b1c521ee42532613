//! The temporary directory of a cluster, and the watchdog that empties it whatever happens to us.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::user;

pub struct Home {
    path: PathBuf,
    watchdog: Child,
}

impl Home {
    /// `in_memory` is a wish: it is faster where files are slow to create, and a test's servers are small.
    pub fn create(in_memory: bool) -> Result<Home> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let parent = parent(in_memory);
        let path = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("sk-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => break path,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot create {}", path.display()));
                }
            }
        };
        let watchdog = Command::new("sh")
            .args(["-c", include_str!("watchdog.sh"), "watchdog"])
            .arg(&path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for us, not for it.
            .process_group(0)
            .spawn()
            .context("cannot start the watchdog")?;
        let home = Home { path, watchdog };
        fs::set_permissions(&home.path, fs::Permissions::from_mode(0o700))?;
        user::give(&home.path)?;
        Ok(home)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends all that runs in it and removes it; returns when that is done.
    pub fn close(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.close();
    }
}

/// Short, because the path of a Unix socket ends at 107 bytes; and where the servers' user may go.
fn parent(in_memory: bool) -> PathBuf {
    if let Some(given) = std::env::var_os("SHARDKEEPER_TMP") {
        return PathBuf::from(given);
    }
    let memory = Path::new("/dev/shm");
    if in_memory && has_room(memory) { memory.to_owned() } else { PathBuf::from("/tmp") }
}

/// Containers often have 64 MB there.
fn has_room(memory: &Path) -> bool {
    const NEEDED: u64 = 4 << 30;
    let room = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    room >= NEEDED && available_memory() >= 2 * NEEDED
}

fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}
