//! The throttle of a copy: how much may be read, and when, by the setting of the moment.

use crate::guc;
use crate::pg::worker;
use shardkeeper_core::rate_limiter::Pace;
use std::time::{Duration, Instant};

/// One for all sources of an operation, so that many small ones are no faster than one that is large.
pub struct Throttle {
    is_open: bool,
    begun: Instant,
    pace: Pace,
}

impl Throttle {
    pub fn new() -> Self {
        Self { is_open: false, begun: Instant::now(), pace: Pace::new(guc::copy_rate_limit(), Duration::ZERO) }
    }

    /// Without a limit: writers wait for the end of the copy.
    pub fn open() -> Self {
        Self { is_open: true, ..Self::new() }
    }

    /// So many bytes were read.
    pub fn passed(&mut self, bytes: usize) {
        self.pace.passed(bytes as u64);
    }

    /// How long to wait before more is read, in whole milliseconds, as the latch counts them. A setting that was changed
    /// counts at once: the signal for it ends a wait.
    pub fn rest(&mut self) -> Duration {
        worker::reload_if_asked();
        if self.is_open {
            return Duration::ZERO;
        }
        let rest = self.pace.wait(guc::copy_rate_limit(), self.begun.elapsed());
        Duration::from_millis(u64::try_from(rest.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}
