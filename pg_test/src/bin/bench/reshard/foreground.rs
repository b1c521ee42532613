//! What clients keep of their throughput while a leaf moves, with and without the throttle, and their longest pause.
use std::time::{Duration, Instant};

use anyhow::Result;
use pg_test::Cluster;
use postgres::Client;

use super::clients::Clients;
use super::{Clock, finish, middle, moved};
use crate::Report;

/// How often the pause is measured.
const ROUNDS: usize = 5;
const THROTTLED: usize = 3;
const PAUSES: usize = 9;
/// Each moves the leaf to the other node.
const _: () = assert!((ROUNDS + THROTTLED).is_multiple_of(2));
/// MB a second.
const RATE: u32 = 8;
/// What belongs to the switch after it: the first statements that meet the new partitions.
const AFTER: Duration = Duration::from_secs(1);

/// What one move did to the clients, beside an equally long time right after it.
struct Round {
    copied: Duration,
    caught_up: Duration,
    /// Statements a second while it copied and caught up, and in the quiet time.
    rate: [f64; 2],
    /// The longest statement at the switch, and during the whole operation: each with that of an equally long quiet time.
    switch: [f64; 2],
    whole: [f64; 2],
    /// Where the time went under the lock of the switch, in ms.
    laps: Vec<(String, f64)>,
}

/// `t_0` is on n1; `bytes` is the size of a copy of it. It is there again in the end.
pub fn run(report: &Report, cluster: &Cluster, clients: &Clients, bytes: u64) -> Result<()> {
    let mut client = cluster.coordinator.client()?;
    let clock = Clock::of(&mut client)?;
    let mut to = ["n2", "n1"].into_iter().cycle();
    let mut some = |count: usize| {
        let places = to.by_ref().take(count);
        places.map(|to| round(cluster, &mut client, &clock, clients, to)).collect::<Result<Vec<Round>>>()
    };
    let rounds = some(ROUNDS)?;
    let [during, before] = pair(&rounds, |round| round.rate);
    report.case("foreground updates by 4 clients while 1,000,000 rows move", during, "1/s", Some(before));
    tell_pause(report, &rounds);
    let [pause, quiet] = pair(&rounds, |round| round.whole);
    report.case("pause: longest statement during an operation", pause, "ms", Some(quiet));
    report.case("catch-up with 4 clients writing", median(&rounds, |round| round.caught_up.as_secs_f64()), "s", None);

    limit(cluster, &format!("{RATE}MB"))?;
    let rounds = some(THROTTLED)?;
    limit(cluster, "0")?;
    let [during, before] = pair(&rounds, |round| round.rate);
    report.case("foreground updates by 4 clients with the throttle", during, "1/s", Some(before));
    let megabytes = bytes as f64 / f64::from(1 << 20);
    let rate = median(&rounds, |round| megabytes / round.copied.as_secs_f64());
    report.case("copy with the throttle, against its limit", rate, "MB/s", Some(f64::from(RATE)));
    Ok(())
}

/// The pause at the switch alone.
pub fn pause(report: &Report, cluster: &Cluster, clients: &Clients) -> Result<()> {
    let mut client = cluster.coordinator.client()?;
    let clock = Clock::of(&mut client)?;
    let mut to = ["n2", "n1"].into_iter().cycle();
    // What is met for the first time is slower.
    round(cluster, &mut client, &clock, clients, to.next().unwrap_or("n2"))?;
    let rounds = to.take(PAUSES).map(|to| round(cluster, &mut client, &clock, clients, to));
    tell_pause(report, &rounds.collect::<Result<Vec<Round>>>()?);
    Ok(())
}

fn tell_pause(report: &Report, rounds: &[Round]) {
    let [pause, quiet] = pair(rounds, |round| round.switch);
    report.case("pause: longest statement during the switch", pause, "ms", Some(quiet));
    for (at, (what, _)) in rounds[0].laps.iter().enumerate() {
        let time = median(rounds, |round| round.laps.get(at).map_or(f64::NAN, |lap| lap.1));
        report.case(&format!("under the lock of the switch: {what}"), time, "ms", None);
    }
}

fn round(cluster: &Cluster, client: &mut Client, clock: &Clock, clients: &Clients, to: &str) -> Result<Round> {
    let called = Instant::now();
    let id = moved(client, "t_0", to)?;
    let switching = clock.entered(client, id, "switching")?;
    let switched = clock.entered(client, id, "switched")?;
    let end = switched + AFTER;
    let note: Option<String> = client
        .query_one(
            "SELECT max(note) FROM shardkeeper.operation_log WHERE operation = $1 AND state = 'switched'",
            &[&id],
        )?
        .get(0);
    let note = note.unwrap_or_default();
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    finish(cluster, client, id)?;
    let quiet = Instant::now();
    std::thread::sleep(end - called);
    let copying = clock.entered(client, id, "copying")?;
    let verifying = clock.entered(client, id, "verifying")?;
    Ok(Round {
        copied: clock.phase(client, id, "copying", "catching_up")?,
        caught_up: clock.phase(client, id, "catching_up", "verifying")?,
        rate: [clients.rate(copying, verifying), clients.rate(quiet, quiet + (end - called))],
        switch: [clients.longest(switching, end), clients.longest(quiet, quiet + (end - switching))],
        whole: [clients.longest(called, end), clients.longest(quiet, quiet + (end - called))],
        laps: laps(&note),
    })
}

/// `locked for 31.2 ms: read 2.0, fence 3.1`, as the log of the operation tells it.
fn laps(note: &str) -> Vec<(String, f64)> {
    let parts = note.trim_start_matches("locked for ").split([':', ',']).map(str::trim);
    parts
        .filter_map(|part| match part.strip_suffix(" ms") {
            Some(whole) => Some(("all of it".to_owned(), whole.parse().ok()?)),
            None => part.rsplit_once(' ').and_then(|(what, time)| Some((what.to_owned(), time.parse().ok()?))),
        })
        .collect()
}

fn median(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> f64 {
    middle(&mut rounds.iter().map(figure).collect::<Vec<f64>>())
}

fn pair(rounds: &[Round], figures: impl Fn(&Round) -> [f64; 2]) -> [f64; 2] {
    [0, 1].map(|which| median(rounds, |round| figures(round)[which]))
}

fn limit(cluster: &Cluster, value: &str) -> Result<()> {
    cluster.coordinator.configure(&[("shardkeeper.copy_rate_limit", value)])?;
    cluster.coordinator.reload()
}
