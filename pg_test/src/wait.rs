//! Waiting for a condition instead of for a time.
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(20);
/// What has taken a while will not be missed by so much, and whoever asks takes time from those who work.
const LONG_PAUSE: Duration = Duration::from_millis(50);
const A_WHILE: Duration = Duration::from_secs(1);

/// Asks until the answer is yes. After `limit` it fails and says what it waited for; an error of the condition ends it at once.
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    loop {
        if condition()? {
            return Ok(());
        }
        if start.elapsed() > limit {
            bail!("not within {limit:?}: {what}");
        }
        std::thread::sleep(if start.elapsed() > A_WHILE { LONG_PAUSE } else { PAUSE });
    }
}
