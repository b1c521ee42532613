//! How long to wait before the next try after an error that may pass.

use std::time::Duration;

/// Delays that double from `first` up to `most`, each shortened by up to a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failed try.
    pub first: Duration,
    /// The delay after many: no later one is longer.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), most: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The delay after the failed try number `attempt`, counted from 0.
    ///
    /// `seed` (the number of the operation, say) sets apart what failed together, so that it does not come back
    /// together. The same attempt and seed give the same delay.
    pub fn delay(self, attempt: u32, seed: u64) -> Duration {
        let factor = 2u32.saturating_pow(attempt);
        let full = self.first.saturating_mul(factor).min(self.most);
        // The upper 53 bits fill a double exactly: evenly from 0 to below 1.
        let part = (mix(seed ^ mix(u64::from(attempt))) >> 11) as f64 / (1u64 << 53) as f64;
        full - full.div_f64(2.0).mul_f64(part).min(full)
    }
}

/// The finalizer of splitmix64: each bit of the input changes half of the output's.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
