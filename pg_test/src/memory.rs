//! How much memory processes take: looked at all the time while something goes on, as the kernel keeps no maximum of what
//! counts. Pages that are shared with other processes of the server, its buffers above all, are not theirs.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::server::Server;

/// The most that was seen of the processes of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Most {
    /// `RssAnon`: what the process has for itself.
    pub own: u64,
    /// `VmHWM`: that and all shared pages that it has touched.
    pub with_shared: u64,
}

/// Looks at processes until it is stopped.
pub struct Watch {
    ended: Arc<AtomicBool>,
    most: Arc<Mutex<BTreeMap<String, Most>>>,
    thread: Option<JoinHandle<()>>,
}

const PAUSE: Duration = Duration::from_millis(20);

impl Watch {
    /// The processes of the servers that work for operations: the worker, and its sessions on the nodes.
    pub fn operations<'a>(servers: impl Iterator<Item = &'a Server>) -> Result<Watch> {
        let query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'shardkeeper operation%'";
        let mut clients = Vec::new();
        for server in servers {
            clients.push((server.name.clone(), server.client()?));
        }
        let (ended, most): (Arc<AtomicBool>, Arc<Mutex<BTreeMap<String, Most>>>) = Default::default();
        let (stop, found) = (Arc::clone(&ended), Arc::clone(&most));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for (name, client) in &mut clients {
                    let Ok(rows) = client.query(query, &[]) else { return };
                    let seen = rows.iter().filter_map(|row| of(row.get(0)));
                    let mut most = found.lock().unwrap_or_else(|e| e.into_inner());
                    let entry = most.entry(name.clone()).or_default();
                    for now in seen {
                        entry.own = entry.own.max(now.own);
                        entry.with_shared = entry.with_shared.max(now.with_shared);
                    }
                }
                std::thread::sleep(PAUSE);
            }
        });
        Ok(Watch { ended, most, thread: Some(thread) })
    }

    /// The most of one process, by the name of its server.
    pub fn stop(mut self) -> Result<BTreeMap<String, Most>> {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("the watch panicked"))?;
        }
        Ok(self.most.lock().unwrap_or_else(|e| e.into_inner()).clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// `None` when the process has ended.
fn of(pid: i32) -> Option<Most> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    };
    Some(Most { own: bytes("RssAnon:")?, with_shared: bytes("VmHWM:")? })
}
