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

/// Whether a run takes this long test on the version under test: a run of several versions, which sets `SHARDKEEPER_ALTERNATE`,
/// takes it on every other one, and on the rest when the rotation moves on.
pub fn is_turn(name: &str) -> bool {
    if is_full() || std::env::var_os("SHARDKEEPER_ALTERNATE").is_none() {
        return true;
    }
    let version = std::env::var("SHARDKEEPER_PG").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let number: u64 = name.bytes().map(u64::from).sum::<u64>() + rotation() + version;
    let turn = number.is_multiple_of(2);
    if !turn {
        println!("{name}: not today on this version; SHARDKEEPER_FULL=1 takes all");
    }
    turn
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
