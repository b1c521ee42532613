//! `cargo xtask bench NAME`: measurements on a real cluster, each beside its baseline, as one JSON line per case.
mod chaos;
mod create;
mod load;
mod locate;
mod reshard;
mod start;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

/// One measurement: its name, what it measures, and how.
struct Bench {
    name: &'static str,
    about: &'static str,
    run: fn(&Report) -> Result<()>,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "create",
        about: "1,000 daily partitions over four nodes, against the bare statements sent by one client",
        run: create::run,
    },
    Bench {
        name: "load",
        about: "the flights by INSERT … SELECT into a hierarchy over five servers, against a plain table",
        run: load::run,
    },
    Bench {
        name: "locate",
        about: "shard_locate in one session, and how its cost grows with the leaves",
        run: locate::run,
    },
    Bench {
        name: "reshard",
        about: "a leaf with a million rows moved online under load, against a raw pipe and the clients by themselves",
        run: reshard::run,
    },
    Bench {
        name: "pause",
        about: "only the pause that clients see at the switch, and where the time goes under its lock",
        run: reshard::pause,
    },
    Bench {
        name: "modulus",
        about: "what a row costs when the modulus changes, with 1,000,000 rows (and 10,000,000 with --full) against 100,000",
        run: reshard::modulus::run,
    },
    Bench { name: "start", about: "from the commit of a call to the first step of its operation", run: start::run },
    Bench {
        name: "chaos",
        about: "everything at once, with servers killed and frozen at random, for --minutes N with --seed S: no row lost",
        run: chaos::run,
    },
    Bench {
        name: "harness",
        about: "how long a cluster of plain servers takes to start and to end, against one server",
        run: harness,
    },
];

fn main() -> ExitCode {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let full = wanted.iter().any(|word| word == "--full");
    wanted.retain(|word| word != "--full");
    let (minutes, seed) = match (number(&mut wanted, "--minutes"), number(&mut wanted, "--seed")) {
        (Ok(minutes), Ok(seed)) => (minutes, seed),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let is_chosen = |bench: &&Bench| {
        let by_all = bench.name != "chaos" && wanted.iter().any(|name| name == "all");
        by_all || wanted.iter().any(|name| name == bench.name)
    };
    let chosen: Vec<&Bench> = BENCHES.iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        eprintln!(
            "usage: cargo xtask bench NAME … [--full] [--pg N] [--minutes N] [--seed S], where NAME is all or one of"
        );
        for bench in BENCHES {
            eprintln!("  {:<12} {}", bench.name, bench.about);
        }
        return ExitCode::FAILURE;
    }
    for bench in chosen {
        if let Err(error) = (bench.run)(&Report { bench: bench.name, full, minutes, seed }) {
            eprintln!("error: {}: {error:#}", bench.name);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The number behind an option, both taken out of the words.
fn number(words: &mut Vec<String>, option: &str) -> Result<Option<u64>> {
    let Some(at) = words.iter().position(|word| word == option) else { return Ok(None) };
    words.remove(at);
    let value = (at < words.len()).then(|| words.remove(at));
    let value = value.with_context(|| format!("{option} needs a number"))?;
    value.parse().map(Some).with_context(|| format!("{option} is not a number: {value}"))
}

/// Where the numbers of one measurement go.
struct Report {
    bench: &'static str,
    /// Also what takes long.
    full: bool,
    minutes: Option<u64>,
    seed: Option<u64>,
}

impl Report {
    /// `ratio` is value to baseline: what to look at, since absolute figures belong to one machine.
    fn case(&self, case: &str, value: f64, unit: &str, baseline: Option<f64>) {
        let ratio = baseline.filter(|baseline| *baseline != 0.0).map(|baseline| round(value / baseline));
        let line = json!({
            "bench": self.bench, "case": case, "value": round(value), "unit": unit,
            "baseline": baseline.map(round), "ratio": ratio,
        });
        println!("{line}");
    }
}

/// Four significant digits: more would be noise.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = 3 - i32::try_from(value.abs().log10().floor() as i64).unwrap_or(0);
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let result = work()?;
    Ok((result, start.elapsed()))
}

/// The middle one of an odd number of times.
fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn harness(report: &Report) -> Result<()> {
    let start = |nodes| timed(|| pg_test::Cluster::with(pg_test::Options { nodes, ..pg_test::Options::plain() }));
    start(4)?;
    let (one, one_start) = start(0)?;
    let ((), one_end) = timed(|| end(one))?;
    let (five, five_start) = start(4)?;
    let ((), five_end) = timed(|| end(five))?;
    report.case("start 5 servers", five_start.as_secs_f64() * 1e3, "ms", Some(one_start.as_secs_f64() * 1e3));
    report.case("end 5 servers", five_end.as_secs_f64() * 1e3, "ms", Some(one_end.as_secs_f64() * 1e3));
    Ok(())
}

fn end(cluster: pg_test::Cluster) -> Result<()> {
    drop(cluster);
    Ok(())
}
