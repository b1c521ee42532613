//! The processes of a server: the postmaster and all that it forked, also those that outlived it.
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::eventually;

/// A server's processes all stand in its data directory; a zombie stands nowhere.
pub fn standing_in(dir: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number: i32 = path.file_name()?.to_str()?.parse().ok()?;
            let cwd = fs::read_link(path.join("cwd")).ok()?;
            cwd.starts_with(dir).then(|| Pid::from_raw(number))?
        })
        .collect()
}

/// A process that has ended meanwhile is no error.
pub fn signal(pid: Pid, signal: Signal) -> Result<()> {
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot signal process {}", pid.as_raw_nonzero())),
    }
}

/// SIGKILL to everything in `dir`, again and again until nothing is left there: a dying postmaster may still fork.
pub fn kill_all(dir: &Path) -> Result<()> {
    eventually("killed processes end", Duration::from_secs(30), || {
        let left = standing_in(dir);
        for pid in &left {
            signal(*pid, Signal::KILL)?;
        }
        Ok(left.is_empty())
    })
}
