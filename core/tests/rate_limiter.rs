//! The pace of a copy: never faster than allowed, never slower than needed, whatever the rate becomes meanwhile.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use shardkeeper_core::rate_limiter::Pace;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_rate_is_kept() {
    let mut pace = Pace::new(1000, Duration::ZERO);
    assert_eq!(pace.wait(1000, Duration::ZERO), Duration::ZERO);
    pace.passed(500);
    assert_eq!(pace.wait(1000, Duration::ZERO), SECOND / 2);
    // The work itself counts.
    assert_eq!(pace.wait(1000, SECOND / 4), SECOND / 4);
    assert_eq!(pace.wait(1000, SECOND / 2), Duration::ZERO);
}

#[test]
fn a_new_rate_counts_for_what_is_still_owed() {
    let mut pace = Pace::new(1000, Duration::ZERO);
    pace.passed(4000);
    assert_eq!(pace.wait(1000, SECOND), 3 * SECOND);
    assert_eq!(pace.wait(3000, SECOND), SECOND);
    assert_eq!(pace.wait(0, SECOND), Duration::ZERO, "no limit, no wait");
    pace.passed(1_000_000);
    assert_eq!(pace.wait(1000, SECOND), Duration::ZERO, "what passed without a limit is free");
    pace.passed(1000);
    assert_eq!(pace.wait(1000, SECOND), SECOND);
}

#[test]
fn time_that_was_lost_is_not_made_up_for() {
    let mut pace = Pace::new(1000, Duration::ZERO);
    assert_eq!(pace.wait(1000, 100 * SECOND), Duration::ZERO);
    pace.passed(1000);
    assert_eq!(pace.wait(1000, 100 * SECOND), SECOND);
}

#[test]
fn a_clock_that_goes_back_pays_nothing_twice() {
    let mut pace = Pace::new(1000, 5 * SECOND);
    pace.passed(1000);
    assert_eq!(pace.wait(1000, 3 * SECOND), SECOND);
    assert_eq!(pace.wait(1000, 5 * SECOND), SECOND);
    assert_eq!(pace.wait(1000, 6 * SECOND), Duration::ZERO);
}

proptest! {
    /// Chunks that each take some work, and a wait after each, as in a copy.
    #[test]
    fn a_flow_is_as_fast_as_allowed_and_no_faster(
        rate in 1u64..1 << 40, chunks in vec((0u64..1 << 20, 0u64..1 << 32), 1..50),
    ) {
        let mut now = Duration::ZERO;
        let mut pace = Pace::new(rate, now);
        let (mut bytes, mut work) = (0u64, Duration::ZERO);
        for (size, nanoseconds) in &chunks {
            let begun = now;
            pace.passed(*size);
            now += Duration::from_nanos(*nanoseconds);
            now += pace.wait(rate, now);
            prop_assert_eq!(pace.wait(rate, now), Duration::ZERO, "one wait is enough");
            prop_assert!(at_rate(*size, rate) <= now - begun, "faster than allowed");
            bytes += size;
            work += Duration::from_nanos(*nanoseconds);
        }
        let rounding = Duration::from_nanos(2 * chunks.len() as u64);
        prop_assert!(now <= at_rate(bytes, rate) + work + rounding, "slower than needed");
    }

    #[test]
    fn no_input_breaks_it(steps in vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..50)) {
        let mut pace = Pace::new(1, Duration::ZERO);
        for (bytes, rate, now) in steps {
            pace.passed(bytes);
            let wait = pace.wait(rate, Duration::from_nanos(now));
            prop_assert!(rate > 0 || wait.is_zero());
        }
    }
}

/// How long so many bytes take, rounded down.
fn at_rate(bytes: u64, rate: u64) -> Duration {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanoseconds).expect("within centuries"))
}
