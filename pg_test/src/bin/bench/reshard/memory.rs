//! How much memory the worker of an operation has for itself.
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use pg_test::Cluster;

/// Short against what a copy takes, long against what looking takes.
const PAUSE: Duration = Duration::from_millis(20);

/// The result of `work`, and the most that a worker had meanwhile, in MB. Memory that it shares with the server does not
/// count.
pub fn watched<T>(cluster: &Cluster, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch(cluster, &over));
        let result = work();
        over.store(true, Ordering::Relaxed);
        let most = watch.join().expect("no panic")?;
        Ok((result?, most))
    })
}

fn watch(cluster: &Cluster, over: &AtomicBool) -> Result<f64> {
    let mut client = cluster.coordinator.client()?;
    let find = client.prepare("SELECT pid FROM pg_stat_activity WHERE backend_type = 'shardkeeper operation'")?;
    let (mut most, mut pid) = (0.0_f64, None);
    while !over.load(Ordering::Relaxed) {
        match pid.and_then(private) {
            Some(now) => most = most.max(now),
            None => pid = client.query_opt(&find, &[])?.map(|row| row.get::<_, i32>(0)),
        }
        std::thread::sleep(PAUSE);
    }
    Ok(most)
}

/// `None` when the process is gone.
fn private(pid: i32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kilobytes / 1024.0)
}
