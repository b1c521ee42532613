//! Large matrices of cases: a plain run takes a few of them, others every day; `--full` takes all.
use std::time::{SystemTime, UNIX_EPOCH};

/// `count` of the cases, rotating with the day or with `SHARDKEEPER_ROTATION`; all with `SHARDKEEPER_FULL`.
/// The rotation is printed: with it in the environment a failure comes again.
pub fn take<T>(count: usize, cases: &[T]) -> Vec<&T> {
    if is_full() || count >= cases.len() {
        return cases.iter().collect();
    }
    let rotation = rotation();
    println!("{count} of {} cases, SHARDKEEPER_ROTATION={rotation}", cases.len());
    let start = usize::try_from(rotation).unwrap_or(0) % cases.len() * count % cases.len();
    cases.iter().cycle().skip(start).take(count).collect()
}

pub fn is_full() -> bool {
    std::env::var_os("SHARDKEEPER_FULL").is_some_and(|value| !value.is_empty() && value != "0")
}

pub fn rotation() -> u64 {
    let given = std::env::var("SHARDKEEPER_ROTATION").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |since| since.as_secs() / 86_400)
    })
}
