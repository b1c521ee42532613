//! How long after its call has committed an operation takes its first step.
use std::time::Duration;

use anyhow::{Context, Result};
use pg_test::Cluster;
use pg_test::movement::{ends, joined};
use postgres::Client;

use crate::{Report, median};

const CALLS: usize = 15;
/// What feels like at once.
const WANTED: f64 = 50.0;
const LIMIT: Duration = Duration::from_secs(60);

pub fn run(report: &Report) -> Result<()> {
    let cluster = joined(1)?;
    // As on a server of everyday.
    cluster.coordinator.configure(&[("shardkeeper.heal_interval", "10s")])?;
    cluster.coordinator.reload()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT shard_create_parent('t', 'hash', 'id', modulus => 1, nodes => '{local}');"
    )?;
    let mut waits = (0..CALLS).map(|turn| wait(&cluster, &mut client, turn)).collect::<Result<Vec<_>>>()?;
    report.case("call to first step", median(&mut waits).as_secs_f64() * 1e3, "ms", Some(WANTED));
    let longest = waits.last().copied().unwrap_or_default();
    report.case("call to first step, the longest", longest.as_secs_f64() * 1e3, "ms", Some(WANTED));
    Ok(())
}

fn wait(cluster: &Cluster, client: &mut Client, turn: usize) -> Result<Duration> {
    let to = if turn.is_multiple_of(2) { "n1" } else { "local" };
    let id: i64 = client.query_one(&format!("SELECT shard_move_partition('t_0', '{to}')"), &[])?.get(0);
    let committed: f64 = client.query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[])?.get(0);
    client.query_one("SELECT shard_wait($1, '1 min')", &[&id])?;
    let first = "SELECT extract(epoch FROM min(at))::float8 FROM shardkeeper.operation_log WHERE operation = $1 AND state = 'preparing'";
    let first: Option<f64> = client.query_one(first, &[&id])?.get(0);
    client.execute("SELECT shard_finish($1)", &[&id])?;
    ends(cluster, id, LIMIT)?;
    Ok(Duration::from_secs_f64((first.context("it never began")? - committed).max(0.0)))
}
