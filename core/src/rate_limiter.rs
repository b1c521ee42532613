//! The pace of something that flows: how long to wait so that no more than so many bytes a second pass.

use std::time::Duration;

const NANOSECONDS: u128 = 1_000_000_000;

/// What passed is a debt that time pays off, at the rate of the moment. Time in which nothing was owed is not kept: a
/// flow that was held up does not run faster afterwards.
///
/// Times are told as the time since some beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes a second; 0 stands for no limit.
    rate: u64,
    /// In bytes, times a second in nanoseconds: so nothing is lost by rounding.
    debt: u128,
    /// Until when the debt is reckoned.
    at: Duration,
}

impl Pace {
    /// Of a flow that owes nothing at `now`. `rate` is in bytes a second; 0 stands for no limit.
    pub const fn new(rate: u64, now: Duration) -> Self {
        Self { rate, debt: 0, at: now }
    }

    /// So many bytes have passed.
    pub const fn passed(&mut self, bytes: u64) {
        self.debt = self.debt.saturating_add(bytes as u128 * NANOSECONDS);
    }

    /// How long to wait before more may pass. From now on the rate is this one; what passed while there was no limit is
    /// free.
    pub fn wait(&mut self, rate: u64, now: Duration) -> Duration {
        let elapsed = now.saturating_sub(self.at).as_nanos();
        self.debt = match self.rate {
            0 => 0,
            before => self.debt.saturating_sub(elapsed.saturating_mul(u128::from(before))),
        };
        self.rate = rate;
        self.at = self.at.max(now);
        match rate {
            0 => Duration::ZERO,
            _ => nanoseconds(self.debt.div_ceil(u128::from(rate))),
        }
    }
}

fn nanoseconds(count: u128) -> Duration {
    let seconds = u64::try_from(count / NANOSECONDS).unwrap_or(u64::MAX);
    Duration::new(seconds, (count % NANOSECONDS) as u32)
}
