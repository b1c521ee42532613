//! When the work in hand will be done.

use std::time::Duration;

/// Nobody plans by an estimate beyond this; it means "not known".
const LONGEST: f64 = 10.0 * 366.0 * 86_400.0;

/// The time that is left, or `None` if nothing can be said: before the first result, or when nothing moves any more.
///
/// `recent` is the rate of the last moments, in the unit of `done` per second. The estimate is the mean of what the
/// whole time says and what the last moments say: the one alone is late to see a change, the other alone jumps.
/// `total` may be an estimate itself; with more done than that, nothing is left.
pub fn remaining(done: u64, total: u64, elapsed: Duration, recent: Option<f64>) -> Option<Duration> {
    if done >= total {
        return Some(Duration::ZERO);
    }
    let left = (total - done) as f64;
    let overall = left * elapsed.as_secs_f64() / done as f64;
    let seconds = match recent {
        Some(rate) if rate > 0.0 => (overall + left / rate) / 2.0,
        Some(_) => return None,
        None => overall,
    };
    // Without a result, the time so far tells nothing.
    (done > 0 && seconds <= LONGEST).then(|| Duration::from_secs_f64(seconds))
}
