//! Where the time of a switch goes while others wait for it: told in the log of the operation.

use std::fmt;
use std::time::{Duration, Instant};

/// From the moment at which the lock of the parent was had.
pub struct Laps {
    start: Instant,
    last: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Laps {
    pub fn begin() -> Self {
        let now = Instant::now();
        Self { start: now, last: now, laps: Vec::new() }
    }

    /// What was done since the last one.
    pub fn lap(&mut self, what: &'static str) {
        let now = Instant::now();
        self.laps.push((what, now - self.last));
        self.last = now;
    }
}

/// `locked for 31.2 ms: read 2.0, fence 3.1, …`, the commit not counted.
impl fmt::Display for Laps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        write!(f, "locked for {:.1} ms", milliseconds(self.last - self.start))?;
        for (at, (what, time)) in self.laps.iter().enumerate() {
            let before = if at == 0 { ": " } else { ", " };
            write!(f, "{before}{what} {:.1}", milliseconds(*time))?;
        }
        Ok(())
    }
}
