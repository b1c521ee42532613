//! Moving data: the speed of the copy against a raw pipe and its memory; and while clients write, what they keep of their
//! throughput, the longest pause at the switch, and whether the worker keeps up with them.
mod catch_up;
mod clients;
mod copy;
mod foreground;
mod memory;
pub mod modulus;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::movement::ends;
use pg_test::{Cluster, Options};
use postgres::Client;

use crate::Report;

const ROWS: i64 = 1_000_000;
const FEW: i64 = ROWS / 10;
/// The worker may have no more for itself, in MB.
const MEMORY: f64 = 100.0;
const LIMIT: Duration = Duration::from_secs(600);

pub fn run(report: &Report) -> Result<()> {
    let cluster = servers()?;
    let bytes = copy::run(report, &cluster)?;
    clients::at_work(&cluster, ROWS, |clients| {
        foreground::run(report, &cluster, clients, bytes)?;
        catch_up::run(report, &cluster, clients)
    })
}

/// The pause at the switch alone, for those who shorten it.
pub fn pause(report: &Report) -> Result<()> {
    let cluster = servers()?;
    copy::fill(&cluster, "t", FEW)?;
    clients::at_work(&cluster, FEW, |clients| foreground::pause(report, &cluster, clients))
}

fn servers() -> Result<Cluster> {
    let logical = vec![("wal_level", "logical"), ("max_worker_processes", "16"), ("max_wal_size", "4GB")];
    let cluster = Cluster::with(Options {
        nodes: 2,
        coordinator_settings: logical.clone(),
        node_settings: logical,
        ..Options::default()
    })?;
    for node in cluster.nodes() {
        node.run("ALTER ROLE app REPLICATION; GRANT CREATE ON DATABASE app TO app")?;
    }
    cluster.add_nodes()?;
    Ok(cluster)
}

/// Moves a leaf and returns when it is switched.
fn moved(client: &mut Client, leaf: &str, to: &str) -> Result<i64> {
    switched(client, &format!("SELECT shard_move_partition('{leaf}', '{to}')"))
}

/// Begins an operation and returns when it is switched.
fn switched(client: &mut Client, call: &str) -> Result<i64> {
    let id: i64 = client.query_one(call, &[]).with_context(|| call.to_owned())?.get(0);
    let state = client.query_one("SELECT shard_wait($1, '10 min')", &[&id]).map(|row| row.get::<_, String>(0));
    let state = state.map_err(|error| match error.as_db_error() {
        Some(told) => anyhow::anyhow!("{told}; {}", told.detail().unwrap_or_default()),
        None => error.into(),
    })?;
    ensure!(state == "switched", "{call}: {state}");
    Ok(id)
}

/// Returns when nothing of the operation is left.
fn finish(cluster: &Cluster, client: &mut Client, id: i64) -> Result<()> {
    client.execute("SELECT shard_finish($1)", &[&id])?;
    ends(cluster, id, LIMIT)
}

/// When operations entered their states, by the clock of the clients: all of it is one machine.
struct Clock {
    instant: Instant,
    seconds: f64,
}

impl Clock {
    fn of(client: &mut Client) -> Result<Clock> {
        let before = Instant::now();
        let seconds: f64 = client.query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[])?.get(0);
        Ok(Clock { instant: before + before.elapsed() / 2, seconds })
    }

    /// When the operation entered the state for the last time.
    fn entered(&self, client: &mut Client, id: i64, state: &str) -> Result<Instant> {
        let sql = "SELECT extract(epoch FROM max(at))::float8 FROM shardkeeper.operation_log
                   WHERE operation = $1 AND state = $2";
        let seconds: Option<f64> = client.query_one(sql, &[&id, &state])?.get(0);
        let seconds = seconds.with_context(|| format!("operation {id} was never {state}"))?;
        Ok(self.instant + Duration::from_secs_f64((seconds - self.seconds).max(0.0)))
    }

    /// How long an operation was between entering two states.
    fn phase(&self, client: &mut Client, id: i64, from: &str, to: &str) -> Result<Duration> {
        Ok(self.entered(client, id, to)? - self.entered(client, id, from)?)
    }
}

/// The middle one of an odd number of figures.
fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
